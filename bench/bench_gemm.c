/* SPDX-License-Identifier: Apache-2.0 */
/* Prefill's products against the best fp32 sgemm that OpenBLAS has for this machine.
 *
 *     bench_gemm [threads]...        default: 1 2
 *
 * Ours: bf16 weights in panels of 1 MiB, one qwen_gemm() each, widening and packing included.
 * OpenBLAS: the same weights as floats, widened before the clock starts, the whole matrix in one
 * call. Debian's build knows few CPUs, so its core type is forced: each one is tried in a process
 * of its own (OpenBLAS looks only when it is loaded) and the fastest is the peer. Its threads are
 * told to sleep at once after a call, for else they spin through our turn.
 *
 * Where libxsmm was found, its JIT kernels run on the same packed operands as our tiles, and their
 * sums are compared with ours bit by bit. */
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef BENCH_XSMM
#include <libxsmm.h>
#endif

#include "dense_bench.h"
#include "gemm_impl.h"

#define PANEL_BYTES  (UINT64_C(1) << 20)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct {
    uint64_t k, n;
} matrices[] = {{2048, 6144}, {1024, 4096}, {6144, 2048}};
static const uint64_t heights[] = {64, 256, 1024};

/* ---- OpenBLAS ---- */

typedef void (*sgemm_fn)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                         const float *a, int a_stride, const float *b, int b_stride, float beta,
                         float *c, int c_stride);

static sgemm_fn sgemm_load(const char *core_type, unsigned threads)
{
    setenv("OPENBLAS_CORETYPE", core_type, 1);
    setenv("OPENBLAS_THREAD_TIMEOUT", "4", 1);
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return NULL;
    sgemm_fn sgemm = NULL;
    void (*set_threads)(int) = NULL;
    *(void **)&sgemm = dlsym(library, "cblas_sgemm");
    *(void **)&set_threads = dlsym(library, "openblas_set_num_threads");
    if (sgemm == NULL || set_threads == NULL)
        return NULL;
    set_threads((int)threads);
    return sgemm;
}

/* c[m][n] = a[m][k] * w[n][k]^T */
static double sgemm_seconds(sgemm_fn sgemm, uint64_t m, uint64_t n, uint64_t k, const float *a,
                            const float *w, float *c)
{
    enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
    double begin = bench_now();
    sgemm(ROW_MAJOR, NO_TRANS, TRANS, (int)m, (int)n, (int)k, 1.0f, a, (int)k, w, (int)k, 0.0f, c,
          (int)n);
    return bench_now() - begin;
}

/* In a child: the best of some products of a middling shape, written to @p to. */
static void try_core_type(const char *core_type, unsigned threads, int to)
{
    const uint64_t m = 256, n = 1024, k = 1024;
    sgemm_fn sgemm = sgemm_load(core_type, threads);
    float *operands = calloc(m * k + n * k + m * n, sizeof *operands);
    if (sgemm == NULL || operands == NULL)
        _exit(1);
    double best = 1e9;
    for (unsigned i = 0; i < 20; i++) {
        double seconds =
            sgemm_seconds(sgemm, m, n, k, operands, operands + m * k, operands + m * k + n * k);
        if (seconds < best)
            best = seconds;
    }
    _exit(write(to, &best, sizeof best) == (ssize_t)sizeof best ? 0 : 1);
}

static const char *best_core_type(unsigned threads)
{
    static const char *const core_types[] = {"SKYLAKEX", "COOPERLAKE", "SAPPHIRERAPIDS", "ZEN",
                                             "HASWELL"};
    const char *best = NULL;
    double best_seconds = 1e9;
    for (size_t i = 0; i < COUNT(core_types); i++) {
        int ends[2];
        if (pipe(ends) != 0)
            return NULL;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            try_core_type(core_types[i], threads, ends[1]);
        close(ends[1]);
        double seconds = 0;
        bool told = read(ends[0], &seconds, sizeof seconds) == (ssize_t)sizeof seconds;
        close(ends[0]);
        waitpid(child, NULL, 0);
        if (told && seconds < best_seconds) {
            best_seconds = seconds;
            best = core_types[i];
        }
    }
    return best;
}

/* ---- whole products ---- */

typedef struct operands {
    uint64_t m, k, n;
    float *a, *c;
    uint16_t *w;
    float *w_wide;
} operands;

static void operands_open(operands *o, bench_rig *rig, uint64_t m, uint64_t k, uint64_t n)
{
    uint64_t state = 1;
    *o = (operands){.m = m, .k = k, .n = n};
    o->a = bench_alloc(rig, m * k * sizeof *o->a);
    o->c = bench_alloc(rig, m * n * sizeof *o->c);
    o->w = bench_alloc(rig, n * k * sizeof *o->w);
    o->w_wide = bench_alloc(rig, n * k * sizeof *o->w_wide);
    for (uint64_t i = 0; i < m * k; i++)
        o->a[i] = bench_random(&state);
    for (uint64_t i = 0; i < n * k; i++)
        o->w[i] = bench_bf16(bench_random(&state));
    qwen_widen(CENOTE_DTYPE_BF16, o->w, n * k, o->w_wide);
}

static void operands_close(operands *o, bench_rig *rig)
{
    cenote_pool_free(rig->pool, o->w_wide);
    cenote_pool_free(rig->pool, o->w);
    cenote_pool_free(rig->pool, o->c);
    cenote_pool_free(rig->pool, o->a);
}

static double gemm_seconds(qwen_kernels *kernels, const operands *o)
{
    uint64_t panel_rows = PANEL_BYTES / (o->k * 2) / 16 * 16;
    double begin = bench_now();
    for (uint64_t j = 0; j < o->n; j += panel_rows) {
        qwen_product product = {.a = o->a,
                                .a_stride = o->k,
                                .m = o->m,
                                .k = o->k,
                                .w = o->w + j * o->k,
                                .w_dtype = CENOTE_DTYPE_BF16,
                                .n = o->n - j < panel_rows ? o->n - j : panel_rows,
                                .c = o->c + j,
                                .c_stride = o->n};
        qwen_gemm(kernels, &product);
    }
    return bench_now() - begin;
}

static void run_shape(bench_rig *rig, sgemm_fn sgemm, uint64_t m, uint64_t k, uint64_t n,
                      unsigned repetitions)
{
    operands o;
    operands_open(&o, rig, m, k, n);
    double giga_flop = 2e-9 * (double)m * (double)k * (double)n;
    bench_series peer = {0}, ours[BENCH_ISA_COUNT] = {0};
    for (unsigned r = 0; r < repetitions; r++) {
        for (unsigned i = 0; i < BENCH_ISA_COUNT; i++)
            if (rig->kernels[i] != NULL)
                bench_add(&ours[i], giga_flop / gemm_seconds(rig->kernels[i], &o));
        if (sgemm != NULL)
            bench_add(&peer, giga_flop / sgemm_seconds(sgemm, m, n, k, o.a, o.w_wide, o.c));
    }
    printf("  k %4u n %4u m %4u: OpenBLAS %6.1f GF/s", (unsigned)k, (unsigned)n, (unsigned)m,
           bench_quantile(&peer, 0.5));
    for (unsigned i = 0; i < BENCH_ISA_COUNT; i++) {
        bench_series ratio = bench_ratio(&ours[i], &peer);
        printf("   %s %6.1f", qwen_isa_text(bench_isas[i]), bench_quantile(&ours[i], 0.5));
        if (ratio.count > 0)
            bench_print(" = %.2f (%.2f .. %.2f)", &ratio);
    }
    printf("\n");
    fflush(stdout);
    operands_close(&o, rig);
}

static void run(unsigned threads, const char *core_type, unsigned repetitions)
{
    bench_rig rig;
    bench_rig_open(&rig, threads, 6144);
    sgemm_fn sgemm = core_type != NULL ? sgemm_load(core_type, threads) : NULL;
    printf("%u thread%s, %u repetitions, OpenBLAS as %s\n", threads, threads == 1 ? "" : "s",
           repetitions, sgemm != NULL ? core_type : "(skipped: no libopenblas.so.0)");
    for (size_t i = 0; i < COUNT(matrices); i++)
        for (size_t j = 0; j < COUNT(heights); j++)
            run_shape(&rig, sgemm, heights[j], matrices[i].k, matrices[i].n, repetitions);
    bench_rig_close(&rig);
}

/* ---- libxsmm's kernels and our tiles ---- */

#ifdef BENCH_XSMM
#define SUMS_STRIDE 128u

typedef struct tile_case {
    unsigned strips, rows;
    const qwen_gemm_ops *ops;
    libxsmm_smmfunction kernel;
    float *a, *own_packed, *xsmm_packed, *own_sums, *xsmm_sums;
} tile_case;

static void run_own(const tile_case *t)
{
    for (unsigned i = 0; i < t->rows; i += t->ops->tile_rows)
        for (unsigned s = 0; s < t->strips; s += t->ops->tile_strips) {
            unsigned rows = t->rows - i < t->ops->tile_rows ? t->rows - i : t->ops->tile_rows;
            unsigned strips =
                t->strips - s < t->ops->tile_strips ? t->strips - s : t->ops->tile_strips;
            qwen_gemm_tile tile = {
                .rows = rows,
                .strips = strips,
                .depth = QWEN_GEMM_DEPTH_MAX,
                .a = t->a + i * QWEN_GEMM_A_STRIDE,
                .packed = t->own_packed + s * QWEN_GEMM_DEPTH_MAX * QWEN_GEMM_STRIP,
                .strip_stride = QWEN_GEMM_DEPTH_MAX * QWEN_GEMM_STRIP,
                .sums = t->own_sums + i * SUMS_STRIDE + s * QWEN_GEMM_STRIP,
                .sums_stride = SUMS_STRIDE,
            };
            t->ops->tile(&tile);
        }
}

static void fill_tile(tile_case *t)
{
    unsigned width = t->strips * QWEN_GEMM_STRIP;
    uint64_t state = 1;
    for (unsigned i = 0; i < t->rows * QWEN_GEMM_A_STRIDE; i++)
        t->a[i] = bench_random(&state);
    for (unsigned k = 0; k < QWEN_GEMM_DEPTH_MAX; k++)
        for (unsigned j = 0; j < width; j++) {
            unsigned strip = j / QWEN_GEMM_STRIP;
            float value = bench_random(&state);
            t->xsmm_packed[k * width + j] = value;
            t->own_packed[(strip * QWEN_GEMM_DEPTH_MAX + k) * QWEN_GEMM_STRIP +
                          j % QWEN_GEMM_STRIP] = value;
        }
    memset(t->own_sums, 0, t->rows * SUMS_STRIDE * sizeof(float));
    memset(t->xsmm_sums, 0, t->rows * SUMS_STRIDE * sizeof(float));
}

static bool same_sums(const tile_case *t)
{
    for (unsigned i = 0; i < t->rows; i++)
        if (memcmp(t->own_sums + i * SUMS_STRIDE, t->xsmm_sums + i * SUMS_STRIDE,
                   t->strips * QWEN_GEMM_STRIP * sizeof(float)) != 0)
            return false;
    return true;
}

static void run_tile(bench_rig *rig, const qwen_gemm_ops *ops, unsigned strips, unsigned rows,
                     unsigned repetitions)
{
    int width = (int)(strips * QWEN_GEMM_STRIP), a_stride = QWEN_GEMM_A_STRIDE;
    int sums_stride = SUMS_STRIDE, flags = LIBXSMM_PREFETCH_NONE;
    float one = 1.0f;
    tile_case t = {.strips = strips, .rows = rows, .ops = ops};
    t.kernel = libxsmm_smmdispatch(width, (int)rows, QWEN_GEMM_DEPTH_MAX, &width, &a_stride,
                                   &sums_stride, &one, &one, NULL, &flags);
    if (t.kernel == NULL) {
        printf("    %3d columns %2u rows: libxsmm has no kernel\n", width, rows);
        return;
    }
    float *block = bench_alloc(rig, 1 << 20);
    t.a = block;
    t.own_packed = block + 16384;
    t.xsmm_packed = block + 65536;
    t.own_sums = block + 131072;
    t.xsmm_sums = block + 196608;
    fill_tile(&t);
    run_own(&t);
    t.kernel(t.xsmm_packed, t.a, t.xsmm_sums);
    bool same = same_sums(&t);

    bench_series own = {0}, xsmm = {0};
    unsigned turns = 20000000 / (strips * QWEN_GEMM_STRIP * rows * QWEN_GEMM_DEPTH_MAX) + 1;
    double giga_flop = 2e-9 * turns * strips * QWEN_GEMM_STRIP * rows * QWEN_GEMM_DEPTH_MAX;
    for (unsigned r = 0; r < repetitions; r++) {
        double begin = bench_now();
        for (unsigned i = 0; i < turns; i++)
            run_own(&t);
        double middle = bench_now();
        for (unsigned i = 0; i < turns; i++)
            t.kernel(t.xsmm_packed, t.a, t.xsmm_sums);
        bench_add(&own, giga_flop / (middle - begin));
        bench_add(&xsmm, giga_flop / (bench_now() - middle));
    }
    bench_series ratio = bench_ratio(&xsmm, &own);
    printf("    %3d columns %2u rows: libxsmm %6.1f GF/s own %6.1f", width, rows,
           bench_quantile(&xsmm, 0.5), bench_quantile(&own, 0.5));
    bench_print("   libxsmm/own %.2f (%.2f .. %.2f)", &ratio);
    printf("   bits %s\n", same ? "equal" : "differ");
    cenote_pool_free(rig->pool, block);
}

static long resident_kib(void)
{
    long kib = 0;
    char line[128];
    FILE *status = fopen("/proc/self/status", "r");
    while (status != NULL && fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    if (status != NULL)
        fclose(status);
    return kib;
}

static void run_tiles(unsigned repetitions)
{
    static const struct {
        qwen_isa isa;
        const char *target;
        const qwen_gemm_ops *ops;
    } sets[] = {{QWEN_ISA_AVX2, "hsw", &qwen_gemm_avx2},
                {QWEN_ISA_AVX512, "skx", &qwen_gemm_avx512}};
    static const unsigned shapes[][2] = {{1, 6},  {1, 12}, {2, 6}, {2, 12},
                                         {4, 12}, {8, 12}, {8, 48}};
    long before_kib = resident_kib();
    libxsmm_init();
    printf("libxsmm's kernels and our tiles, 256 deep, one thread; libxsmm_init() took %ld KiB\n",
           resident_kib() - before_kib);
    libxsmm_finalize();
    bench_rig rig;
    bench_rig_open(&rig, 1, 256);
    for (size_t i = 0; i < COUNT(sets); i++) {
        if (rig.kernels[i] == NULL)
            continue;
        libxsmm_init(); /* again: it keeps the kernels of the last target */
        libxsmm_set_target_arch(sets[i].target);
        printf("  %s, libxsmm as %s\n", qwen_isa_text(sets[i].isa), sets[i].target);
        for (size_t j = 0; j < COUNT(shapes); j++)
            run_tile(&rig, sets[i].ops, shapes[j][0], shapes[j][1], repetitions);
        libxsmm_finalize();
    }
    bench_rig_close(&rig);
}
#else
static void run_tiles(unsigned repetitions)
{
    (void)repetitions;
    printf("skipped: libxsmm was not found when this was built\n");
}
#endif

int main(int argc, char **argv)
{
    unsigned repetitions = bench_repetitions(11);
    unsigned threads[16] = {1, 2};
    unsigned count = 2;
    for (int i = 1; i < argc && i <= (int)COUNT(threads); i++) {
        threads[i - 1] = (unsigned)strtoul(argv[i], NULL, 10);
        count = (unsigned)i;
        if (threads[i - 1] == 0 || threads[i - 1] > CENOTE_TEAM_SIZE_MAX) {
            fprintf(stderr, "%s: not a number of threads\n", argv[i]);
            return 2;
        }
    }
    const char *core_type = best_core_type(threads[0]);
    for (unsigned i = 0; i < count; i++)
        run(threads[i], core_type, repetitions);
    run_tiles(repetitions);
    return 0;
}
