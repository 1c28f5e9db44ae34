/* SPDX-License-Identifier: Apache-2.0 */
/* Attention against the machine's own multiplication rate: qwen_attend and qwen_gemm take turns in
 * one run, on the same threads, and the figure is the ratio of their floating-point rates (4 N K
 * head_dim for attention, the keys that a causal query does not see left out). For decoding the
 * peer is a plain read of the same cache by the same threads, and the figure the ratio of bytes a
 * second.
 *
 *     bench_attention [threads] [isa]          defaults: the CPUs, auto */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels.h"

#define ROUNDS    11
#define GEMM_SIZE 1024u

typedef struct shape {
    const char *name;
    uint64_t queries;
    uint64_t first_position;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_dim;
    cenote_dtype kv_dtype;
    bool causal;
} shape;

static const shape shapes[] = {
    {"vision 256", 256, 0, 16, 16, 64, CENOTE_DTYPE_F32, false},
    {"vision 1024", 1024, 0, 16, 16, 64, CENOTE_DTYPE_F32, false},
    {"vision 4096", 4096, 0, 16, 16, 64, CENOTE_DTYPE_F32, false},
    {"vision 1024, head 72", 1024, 0, 16, 16, 72, CENOTE_DTYPE_F32, false},
    {"prefill 256", 256, 0, 16, 8, 128, CENOTE_DTYPE_F32, true},
    {"prefill 1024", 1024, 0, 16, 8, 128, CENOTE_DTYPE_F32, true},
    {"prefill 1024, bf16", 1024, 0, 32, 8, 128, CENOTE_DTYPE_BF16, true},
    {"decode at 256", 1, 255, 16, 8, 128, CENOTE_DTYPE_F32, true},
    {"decode at 4096", 1, 4095, 16, 8, 128, CENOTE_DTYPE_F32, true},
    {"decode at 4096, bf16", 1, 4095, 16, 8, 128, CENOTE_DTYPE_BF16, true},
    {"decode at 4096, bf16, 32 heads", 1, 4095, 32, 8, 128, CENOTE_DTYPE_BF16, true},
};

static void die(const char *what)
{
    fprintf(stderr, "bench_attention: %s\n", what);
    exit(1);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void *floats(size_t count)
{
    float *x = aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    if (x == NULL)
        die("out of memory");
    uint32_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)state * 0x1p-31f;
    }
    return x;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double gemm_seconds(qwen_kernels *kernels, uint64_t m)
{
    static float *a, *w, *c;
    static uint64_t rows;
    if (m > rows) {
        free(a);
        free(c);
        a = floats(m * GEMM_SIZE);
        c = floats(m * GEMM_SIZE);
        rows = m;
    }
    if (w == NULL)
        w = floats((size_t)GEMM_SIZE * GEMM_SIZE);
    const qwen_product product = {.a = a,
                                  .a_stride = GEMM_SIZE,
                                  .m = m,
                                  .k = GEMM_SIZE,
                                  .w = w,
                                  .w_dtype = CENOTE_DTYPE_F32,
                                  .n = GEMM_SIZE,
                                  .c = c,
                                  .c_stride = GEMM_SIZE};
    double start = seconds();
    qwen_gemm(kernels, &product);
    return seconds() - start;
}

typedef struct reading {
    const uint64_t *words;
    size_t count;
    atomic_ullong sum; /* keeps the loads alive */
} reading;

static void read_rank(void *argument, unsigned rank, unsigned size)
{
    reading *r = argument;
    unsigned long first, count;
    cenote_team_share(r->count, 512, rank, size, &first, &count);
    uint64_t sums[8] = {0};
    for (size_t i = first; i + 8 <= first + count; i += 8)
        for (size_t j = 0; j < 8; j++)
            sums[j] += r->words[i + j];
    for (size_t j = 0; j < 8; j++)
        atomic_fetch_add(&r->sum, sums[j]);
}

static double read_seconds(cenote_team *team, const void *data, size_t size_bytes)
{
    reading r = {.words = data, .count = size_bytes / 8};
    double start = seconds();
    cenote_team_run(team, read_rank, &r);
    return seconds() - start;
}

/* A paged cache of one layer: [keys | values][kv head][16][head_dim] a block. */
static void run(qwen_kernels *kernels, cenote_team *team, const shape *s)
{
    size_t element = s->kv_dtype == CENOTE_DTYPE_F32 ? 4 : 2;
    uint64_t key_count = s->first_position + s->queries;
    uint64_t blocks = (key_count + 15) / 16;
    size_t part = (size_t)s->kv_heads * 16 * s->head_dim;
    size_t row = (size_t)s->heads * s->head_dim;
    float *q = floats(s->queries * row);
    float *out = floats(s->queries * row);
    unsigned char *cache = floats(blocks * 2 * part);
    if (element == 2) /* half of each float is a bf16 number of the same size */
        for (size_t i = 0; i < blocks * 2 * part; i++)
            memcpy(cache + i * 2, cache + i * 4 + 2, 2);
    const void **keys = calloc(blocks * 2, sizeof *keys);
    if (keys == NULL)
        die("out of memory");
    const void **values = keys + blocks;
    for (uint64_t b = 0; b < blocks; b++) {
        keys[b] = cache + b * 2 * part * element;
        values[b] = cache + (b * 2 + 1) * part * element;
    }
    const qwen_attention attention = {
        .q = q,
        .q_stride = row,
        .out = out,
        .out_stride = row,
        .query_count = s->queries,
        .head_count = s->heads,
        .kv_head_count = s->kv_heads,
        .head_dim = s->head_dim,
        .keys = keys,
        .values = values,
        .head_stride = (size_t)16 * s->head_dim,
        .row_stride = s->head_dim,
        .kv_dtype = s->kv_dtype,
        .key_count = key_count,
        .causal = s->causal,
        .first_position = s->first_position,
        .scale = 0.125f,
    };
    bool decode = s->queries == 1;
    size_t cache_bytes = blocks * 2 * part * element;
    double pairs =
        s->causal ? (double)s->queries * ((double)s->first_position + ((double)s->queries + 1) / 2)
                  : (double)s->queries * (double)key_count;
    double work = decode ? (double)cache_bytes : 4.0 * pairs * (double)row;
    double peer_work =
        decode ? (double)cache_bytes : 2.0 * (double)s->queries * GEMM_SIZE * GEMM_SIZE;
    double time[ROUNDS], ratio[ROUNDS];
    for (int i = -1; i < ROUNDS; i++) {
        double peer =
            decode ? read_seconds(team, cache, cache_bytes) : gemm_seconds(kernels, s->queries);
        double start = seconds();
        qwen_attend(kernels, &attention);
        double spent = seconds() - start;
        if (i < 0)
            continue;
        time[i] = spent;
        ratio[i] = work / spent / (peer_work / peer);
    }
    qsort(time, ROUNDS, sizeof *time, compare);
    qsort(ratio, ROUNDS, sizeof *ratio, compare);
    double median = time[ROUNDS / 2];
    printf("%-31s %9.3f ms %7.1f %s %6.2f of %s [%.2f, %.2f]\n", s->name, median * 1e3,
           work / median * 1e-9, decode ? "GB/s   " : "GFLOP/s", ratio[ROUNDS / 2],
           decode ? "read" : "gemm", ratio[0], ratio[ROUNDS - 1]);
    free(q);
    free(out);
    free(cache);
    free(keys);
}

static qwen_isa isa_of(const char *text)
{
    for (qwen_isa isa = QWEN_ISA_AUTO; isa <= QWEN_ISA_AVX512; isa++)
        if (strcmp(text, qwen_isa_text(isa)) == 0)
            return isa;
    die("the second argument is auto, portable, avx2 or avx512");
    return QWEN_ISA_AUTO;
}

int main(int argc, char **argv)
{
    unsigned threads = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    qwen_isa isa = argc > 2 ? isa_of(argv[2]) : QWEN_ISA_AUTO;
    cenote_error err = {0};
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    budget_options.limit_bytes = (uint64_t)1 << 30;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    cenote_budget *budget;
    cenote_pool *pool;
    cenote_team *team;
    qwen_kernels *kernels;
    if (cenote_budget_create(&budget_options, &budget, &err) != CENOTE_OK ||
        cenote_pool_create(budget, &pool_options, &pool, &err) != CENOTE_OK ||
        cenote_team_create(threads, &team, &err) != CENOTE_OK ||
        qwen_kernels_create(isa, team, pool, GEMM_SIZE, &kernels, &err) != CENOTE_OK)
        die(err.message);
    printf("%u threads, %s; median of %d [least, most]\n", cenote_team_size(team),
           qwen_isa_text(qwen_kernels_isa(kernels)), ROUNDS);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        run(kernels, team, &shapes[i]);
    qwen_kernels_destroy(kernels);
    cenote_team_destroy(team);
    cenote_pool_destroy(pool);
    cenote_budget_destroy(budget);
    return 0;
}
