/* SPDX-License-Identifier: Apache-2.0 */
/* How near decoding comes to the speed at which the same threads can merely read the weights.
 *
 *     bench_gemv [threads]...        default: 1 2
 *
 * bf16 weights of 384 MiB, far more than a cache, in panels of 1 MiB, one qwen_gemv() each, against
 * plain reads of the same bytes: vector loads on a few sums, each thread its own half, once as the
 * hardware prefetches and once with a software prefetch a page ahead, as the kernels do. All
 * variants take turns; the ratio of a repetition is against the plain read in it, and a second one
 * against whichever read was faster.
 *
 * Then the same weights in 12 bits, and several vectors in one pass. All rates are bytes of bf16 a
 * second, whatever was read for them. */
#include <math.h>

#include "dense_bench.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PANEL_BYTES  (UINT64_C(1) << 20)
#define WEIGHT_BYTES (384 * PANEL_BYTES)

/* ---- plain reads ---- */

typedef uint64_t (*read_fn)(const unsigned char *from, uint64_t size_bytes);

typedef struct read_job {
    const unsigned char *from;
    read_fn read;
    uint64_t sums[CENOTE_TEAM_SIZE_MAX * 8]; /* a cache line each */
} read_job;

#if defined(__x86_64__)
#define READ_AVX2(name, PREFETCH)                                                                  \
    __attribute__((target("avx2"))) static uint64_t name(const unsigned char *from,                \
                                                         uint64_t size_bytes)                      \
    {                                                                                              \
        __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), \
                           _mm256_setzero_si256()};                                                \
        for (uint64_t i = 0; i < size_bytes; i += 128) {                                           \
            PREFETCH(from + i + 4096);                                                             \
            PREFETCH(from + i + 4160);                                                             \
            for (unsigned j = 0; j < 4; j++)                                                       \
                sums[j] = _mm256_add_epi64(                                                        \
                    sums[j], _mm256_load_si256((const __m256i *)(const void *)(from + i) + j));    \
        }                                                                                          \
        __m256i sum = _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]),                         \
                                       _mm256_add_epi64(sums[2], sums[3]));                        \
        return (uint64_t)(_mm256_extract_epi64(sum, 0) + _mm256_extract_epi64(sum, 1) +            \
                          _mm256_extract_epi64(sum, 2) + _mm256_extract_epi64(sum, 3));            \
    }
#define PREFETCH_NOT(address) ((void)0)
#define PREFETCH(address)     _mm_prefetch((const char *)(address), _MM_HINT_T0)
READ_AVX2(read_plain, PREFETCH_NOT)
READ_AVX2(read_ahead, PREFETCH)
#else
static uint64_t read_plain(const unsigned char *from, uint64_t size_bytes)
{
    const uint64_t *words = (const void *)from;
    uint64_t sums[4] = {0};
    for (uint64_t i = 0; i < size_bytes / 8; i += 4)
        for (unsigned j = 0; j < 4; j++)
            sums[j] += words[i + j];
    return sums[0] + sums[1] + sums[2] + sums[3];
}
#define read_ahead read_plain
#endif

static void read_share(void *argument, unsigned rank, unsigned size)
{
    read_job *job = argument;
    unsigned long first, count;
    cenote_team_share(WEIGHT_BYTES, 4096, rank, size, &first, &count);
    job->sums[rank * 8] = job->read(job->from + first, count);
}

static double read_speed(bench_rig *rig, const unsigned char *from, read_fn read)
{
    static read_job job;
    static volatile uint64_t sink;
    job.from = from;
    job.read = read;
    double begin = bench_now();
    cenote_team_run(rig->team, read_share, &job);
    double seconds = bench_now() - begin;
    sink = job.sums[0];
    (void)sink;
    return (double)WEIGHT_BYTES / seconds;
}

/* ---- products ---- */

#define K_COUNT 2u
static const uint64_t lengths[K_COUNT] = {2048, 6144};

/* The weights as rows of one length, panel by panel, as the runner cuts them. */
typedef struct weights {
    const unsigned char *plain;
    unsigned char *packed; /* [panels][room_bytes] */
    uint64_t k, panel_rows, panels, room_bytes;
} weights;

static weights weights_of(bench_rig *rig, const unsigned char *plain, uint64_t k)
{
    uint64_t panel_rows = PANEL_BYTES / (k * 2) / 16 * 16;
    weights w = {.plain = plain,
                 .k = k,
                 .panel_rows = panel_rows,
                 .panels = WEIGHT_BYTES / (k * 2) / panel_rows,
                 .room_bytes = cenote_bf12_bytes_max(panel_rows, k)};
    w.packed = bench_alloc(rig, w.panels * w.room_bytes);
    for (uint64_t i = 0; i < w.panels; i++) {
        cenote_error err = {CENOTE_OK, "a panel of normal weights did not fit 12 bits"};
        uint64_t bytes;
        bench_require(cenote_bf12_encode(plain + i * panel_rows * k * 2, panel_rows, k,
                                         w.packed + i * w.room_bytes, &bytes),
                      &err);
    }
    return w;
}

typedef struct variant {
    const char *name;
    cenote_encoding encoding;
    uint64_t m;
} variant;
#define VARIANTS 5u
static const variant variants[VARIANTS] = {
    {"gemv", CENOTE_ENCODING_PLAIN, 1},       {"12 bits", CENOTE_ENCODING_BF12, 1},
    {"12 bits m=4", CENOTE_ENCODING_BF12, 4}, {"12 bits m=8", CENOTE_ENCODING_BF12, 8},
    {"gemv m=8", CENOTE_ENCODING_PLAIN, 8},
};

static double gemv_speed(qwen_kernels *kernels, const weights *w, const variant *v, const float *x,
                         float *y)
{
    bool packed = v->encoding == CENOTE_ENCODING_BF12;
    uint64_t panel_bytes = packed ? w->room_bytes : w->panel_rows * w->k * 2;
    double begin = bench_now();
    for (uint64_t i = 0; i < w->panels; i++) {
        qwen_product product = {.a = x,
                                .a_stride = w->k,
                                .m = v->m,
                                .k = w->k,
                                .w = (packed ? w->packed : w->plain) + i * panel_bytes,
                                .w_dtype = CENOTE_DTYPE_BF16,
                                .w_encoding = v->encoding,
                                .n = w->panel_rows,
                                .c = y,
                                .c_stride = w->panel_rows};
        qwen_gemv(kernels, &product, 1);
    }
    return (double)(w->panels * w->panel_rows * w->k * 2) / (bench_now() - begin);
}

static void report(const char *name, const bench_series *speed, const bench_series *plain,
                   const bench_series *best)
{
    bench_series giga = {0};
    for (unsigned i = 0; i < speed->count; i++)
        bench_add(&giga, speed->values[i] * 1e-9);
    bench_series to_plain = bench_ratio(speed, plain), to_best = bench_ratio(speed, best);
    printf("  %-26s", name);
    bench_print(" %6.2f GB/s (%6.2f .. %6.2f)", &giga);
    bench_print("   of plain %.3f (%.3f .. %.3f)", &to_plain);
    bench_print("   of best %.3f (%.3f .. %.3f)\n", &to_best);
}

/* Normally distributed, so that they fit 12 bits. */
static void fill(unsigned char *w)
{
    static uint16_t normal[1 << 16];
    uint64_t state = 1;
    for (size_t i = 0; i < sizeof normal / sizeof *normal; i++) {
        float radius = sqrtf(-2.0f * logf(0.5f - 0.4999999f * bench_random(&state)));
        normal[i] = bench_bf16(0.02f * radius * cosf(3.1415927f * bench_random(&state)));
    }
    for (uint64_t i = 0; i < WEIGHT_BYTES; i += 4096)
        memcpy(w + i, normal + (i / 4096 * 2749 & 0xf7ff), 4096);
}

static void run(unsigned threads, unsigned repetitions)
{
    bench_rig rig;
    bench_rig_open(&rig, threads, lengths[K_COUNT - 1]);
    unsigned char *w = bench_alloc(&rig, WEIGHT_BYTES);
    fill(w);
    weights shaped[K_COUNT];
    for (unsigned j = 0; j < K_COUNT; j++)
        shaped[j] = weights_of(&rig, w, lengths[j]);
    uint64_t state = 1, x_count = lengths[K_COUNT - 1] * QWEN_GEMV_M_MAX;
    float *x = bench_alloc(&rig, x_count * sizeof *x);
    float *y = bench_alloc(&rig, shaped[0].panel_rows * QWEN_GEMV_M_MAX * sizeof *y);
    for (uint64_t i = 0; i < x_count; i++)
        x[i] = bench_random(&state);

    static bench_series speeds[BENCH_ISA_COUNT][K_COUNT][VARIANTS];
    bench_series plain = {0}, ahead = {0}, best = {0};
    memset(speeds, 0, sizeof speeds);
    for (unsigned r = 0; r < repetitions; r++) {
        bench_add(&plain, read_speed(&rig, w, read_plain));
        bench_add(&ahead, read_speed(&rig, w, read_ahead));
        double fast = plain.values[r] > ahead.values[r] ? plain.values[r] : ahead.values[r];
        bench_add(&best, fast);
        for (unsigned i = 0; i < BENCH_ISA_COUNT; i++)
            for (unsigned j = 0; rig.kernels[i] != NULL && j < K_COUNT; j++)
                for (unsigned v = 0; v < VARIANTS; v++)
                    bench_add(&speeds[i][j][v],
                              gemv_speed(rig.kernels[i], &shaped[j], &variants[v], x, y));
    }
    printf("%u thread%s, %u repetitions\n", threads, threads == 1 ? "" : "s", repetitions);
    report("read, plain", &plain, &plain, &best);
    report("read, prefetched", &ahead, &plain, &best);
    for (unsigned i = 0; i < BENCH_ISA_COUNT; i++)
        for (unsigned j = 0; rig.kernels[i] != NULL && j < K_COUNT; j++)
            for (unsigned v = 0; v < VARIANTS; v++) {
                char name[48];
                snprintf(name, sizeof name, "%s %s k=%u", variants[v].name,
                         qwen_isa_text(bench_isas[i]), (unsigned)lengths[j]);
                report(name, &speeds[i][j][v], &plain, &best);
            }
    cenote_pool_free(rig.pool, y);
    cenote_pool_free(rig.pool, x);
    for (unsigned j = 0; j < K_COUNT; j++)
        cenote_pool_free(rig.pool, shaped[j].packed);
    cenote_pool_free(rig.pool, w);
    bench_rig_close(&rig);
}

int main(int argc, char **argv)
{
    unsigned repetitions = bench_repetitions(15);
    if (argc < 2) {
        run(1, repetitions);
        run(2, repetitions);
    }
    for (int i = 1; i < argc; i++) {
        unsigned long threads = strtoul(argv[i], NULL, 10);
        if (threads == 0 || threads > CENOTE_TEAM_SIZE_MAX) {
            fprintf(stderr, "%s: not a number of threads\n", argv[i]);
            return 2;
        }
        run((unsigned)threads, repetitions);
    }
    return 0;
}
