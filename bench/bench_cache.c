/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cache [PROFILE...]: what the sizes of the caches are good for, one thread.
 *
 * 1. The same product with the same register tile, as the matrices lie and in the blocks that
 *    cenote_gemm_blocks_get() gives (tests/support/blocked_product.h).
 * 2. The runner's GEMM in the blocks of this machine and of each PROFILE, AVX2 and AVX-512; the
 * bits are compared.
 * 3. Walking down a column of rows that lie 4 KiB apart, and padded by cenote_row_stride_bytes().
 * 4. cenote_copy_nontemporal() beside memcpy.
 *
 * All figures are of the thread's own processor time, interleaved, with medians and quartiles. */
#include <inttypes.h>

#include "blocked_product.h"
#include "dense_bench.h"

#define REPETITIONS 9u
#define MIB         (UINT64_C(1) << 20)

static double thread_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static float *filled(bench_rig *rig, uint64_t floats)
{
    uint64_t state = floats;
    float *data = bench_alloc(rig, floats * sizeof *data);
    for (uint64_t i = 0; i < floats; i++)
        data[i] = bench_random(&state);
    return data;
}

/* ---- a product in two layouts ---- */

static void run_layouts(bench_rig *rig, const cenote_hardware *hardware, uint64_t side)
{
    plain_product p = {.m = 256, .n = side, .k = side};
    float *a = filled(rig, p.m * p.k), *b = filled(rig, p.k * p.n);
    float *c[2] = {filled(rig, p.m * p.n), filled(rig, p.m * p.n)};
    float *scratch = bench_alloc(rig, product_scratch_floats(&p, hardware) * sizeof *scratch);
    p.a = a;
    p.b = b;
    bench_series naive = {0}, blocked = {0};
    for (unsigned r = 0; r < bench_repetitions(REPETITIONS); r++) {
        double begin = thread_now();
        p.c = c[0];
        product_naive(&p);
        double middle = thread_now();
        p.c = c[1];
        product_blocked(&p, hardware, scratch);
        bench_add(&naive, middle - begin);
        bench_add(&blocked, thread_now() - middle);
    }
    bench_series ratio = bench_ratio(&blocked, &naive);
    printf("  256 x %" PRIu64 " x %" PRIu64 ": blocked over naive time", side, side);
    bench_print(" %.2f (%.2f .. %.2f)", &ratio);
    printf("   bits %s\n", memcmp(c[0], c[1], p.m * p.n * sizeof **c) == 0 ? "equal" : "differ");
    void *const blocks[] = {a, b, c[0], c[1], scratch};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        cenote_pool_free(rig->pool, blocks[i]);
}

/* ---- the runner's kernel in several machines' blocks ---- */

#define MACHINES_MAX 8u

static double gemm_seconds(qwen_kernels *kernels, const qwen_product *product)
{
    double begin = thread_now();
    qwen_gemm(kernels, product);
    return thread_now() - begin;
}

/* rigs[0] is this machine's. */
static void run_kernel(bench_rig *rigs, const char *const *names, unsigned count, uint64_t m,
                       uint64_t k)
{
    const uint64_t n = MIB / (2 * k) / 16 * 16; /* a panel */
    float *a = filled(rigs, m * k);
    float *c = bench_alloc(rigs, m * n * sizeof *c), *same = bench_alloc(rigs, m * n * sizeof *c);
    uint16_t *w = bench_alloc(rigs, n * k * sizeof *w);
    uint64_t state = 7;
    for (uint64_t i = 0; i < n * k; i++)
        w[i] = bench_bf16(bench_random(&state));
    qwen_product product = {.a = a,
                            .a_stride = k,
                            .m = m,
                            .k = k,
                            .w = w,
                            .w_dtype = CENOTE_DTYPE_BF16,
                            .n = n,
                            .c = c,
                            .c_stride = n};
    for (unsigned isa = 0; isa < BENCH_ISA_COUNT; isa++) {
        bench_series figures[MACHINES_MAX] = {0};
        bool equal = true;
        for (unsigned r = 0; r < bench_repetitions(REPETITIONS); r++)
            for (unsigned i = 0; i < count; i++) {
                if (rigs[i].kernels[isa] == NULL)
                    continue;
                bench_add(&figures[i], 2e-9 * (double)(m * k * n) /
                                           gemm_seconds(rigs[i].kernels[isa], &product));
                if (i == 0)
                    memcpy(same, c, m * n * sizeof *c);
                equal = equal && memcmp(same, c, m * n * sizeof *c) == 0;
            }
        for (unsigned i = 0; i < count; i++) {
            bench_series ratio = bench_ratio(&figures[i], &figures[0]);
            if (ratio.count == 0)
                continue;
            printf("  %-8s m %4" PRIu64 " k %4" PRIu64 " %-24s %6.1f GF/s, over this machine's",
                   qwen_isa_text(bench_isas[isa]), m, k, names[i],
                   bench_quantile(&figures[i], 0.5));
            bench_print(" %.2f (%.2f .. %.2f)", &ratio);
            printf("   bits %s\n", equal ? "equal" : "differ");
        }
    }
    cenote_pool_free(rigs->pool, w);
    cenote_pool_free(rigs->pool, same);
    cenote_pool_free(rigs->pool, c);
    cenote_pool_free(rigs->pool, a);
}

/* ---- strides and copies ---- */

/* Down a column of zeros; each address waits for the value before. */
static double column_seconds(const uint32_t *zeros, uint64_t stride_bytes)
{
    const unsigned rows = 64, turns = 5000;
    const char *data = (const char *)zeros;
    uint32_t offset = 0;
    double begin = thread_now();
    for (unsigned turn = 0; turn < turns; turn++)
        for (unsigned i = 0; i < rows; i++)
            offset = *(const volatile uint32_t *)(data + i * stride_bytes + offset);
    return thread_now() - begin;
}

static void run_strides(bench_rig *rig)
{
    void *data = bench_alloc(rig, MIB);
    memset(data, 0, MIB);
    uint64_t padded = cenote_row_stride_bytes(4096, 64);
    bench_series ratio = {0};
    for (unsigned r = 0; r < bench_repetitions(REPETITIONS); r++) {
        double plain_s = column_seconds(data, 4096);
        bench_add(&ratio, column_seconds(data, padded) / plain_s);
    }
    printf("  64 rows of 4096 bytes, stride %" PRIu64 " over 4096", padded);
    bench_print(" %.2f (%.2f .. %.2f)\n", &ratio);
    cenote_pool_free(rig->pool, data);
}

typedef void *(*copy_fn)(void *to, const void *from, size_t size_bytes);

static void *copy_past(void *to, const void *from, size_t size_bytes)
{
    cenote_copy_nontemporal(to, from, size_bytes);
    return to;
}

static void run_copies(bench_rig *rig, uint64_t size_bytes)
{
    const copy_fn copies[2] = {memcpy, copy_past};
    unsigned char *from = bench_alloc(rig, size_bytes), *to = bench_alloc(rig, size_bytes);
    memset(from, 1, size_bytes);
    memset(to, 2, size_bytes);
    bench_series copy[2] = {0};
    for (unsigned r = 0; r < bench_repetitions(REPETITIONS); r++)
        for (unsigned i = 0; i < 2; i++) {
            double begin = thread_now();
            copies[i](to, from, size_bytes);
            bench_add(&copy[i], thread_now() - begin);
        }
    bench_series ratio = bench_ratio(&copy[1], &copy[0]);
    printf("  %5" PRIu64 " KiB, non-temporal over memcpy", size_bytes >> 10);
    bench_print(" %.2f (%.2f .. %.2f)\n", &ratio);
    cenote_pool_free(rig->pool, to);
    cenote_pool_free(rig->pool, from);
}

int main(int argc, char **argv)
{
    if ((unsigned)argc > MACHINES_MAX) {
        fprintf(stderr, "at most %u profiles\n", MACHINES_MAX - 1);
        return 2;
    }
    cenote_error err;
    cenote_hardware hardware;
    bench_rig rigs[MACHINES_MAX];
    const char *names[MACHINES_MAX] = {"this machine"};
    bench_require(cenote_hardware_get(&hardware, &err), &err);
    for (int i = 0; i < argc; i++) {
        if (i > 0) {
            names[i] = argv[i];
            setenv("CENOTE_HARDWARE", argv[i], 1);
        }
        bench_rig_open(&rigs[i], 1, 6144);
    }
    printf("a product in two layouts\n");
    for (uint64_t side = 512; side <= 4096; side *= 2)
        run_layouts(rigs, &hardware, side);
    printf("the runner's GEMM, a panel of 1 MiB of bf16\n");
    for (unsigned i = 0; i < 4; i++)
        run_kernel(rigs, names, (unsigned)argc, i % 2 == 0 ? 64 : 1024, i < 2 ? 2048 : 6144);
    printf("strides and copies\n");
    run_strides(rigs);
    for (uint64_t size_bytes = MIB / 8; size_bytes <= 64 * MIB; size_bytes *= 8)
        run_copies(rigs, size_bytes);
    for (int i = 0; i < argc; i++)
        bench_rig_close(&rigs[i]);
    return 0;
}
