/* SPDX-License-Identifier: Apache-2.0 */
/* Page runs on one core: nanoseconds of a find and take, and of a free, in a large range that is
 * half full of small holes.
 *
 *     bench_runs [repetitions [operations [gib [small|large|churn]]]]    default: 11, 20000, 64,
 * all
 *
 * Granules of 64 KiB. The range is filled with blocks of 1 to 8 granules, then every second one is
 * freed, but for the last sixteenth of the range, which is free as a whole. *small* asks for 1 to 8
 * granules, which is found near the low end; *large* for 16 to 64 (1 to 4 MiB), which no hole but
 * the last one has. What is asked for is given back at once. *churn* is another range, of 512
 * slots: a random one is freed, or filled with 1 to 127 granules, each factor of two as likely.
 * Nothing is touched: only the book-keeping is timed. */
#include "alloc/page_runs.h"
#include "dense_bench.h"

#define SLOTS 512u

typedef struct runs_bench {
    struct cn_page_runs runs;
    void *metadata;
    uint64_t random_state;
    unsigned operations;
} runs_bench;

static uint64_t random_below(runs_bench *bench, uint64_t bound)
{
    bench->random_state ^= bench->random_state << 13;
    bench->random_state ^= bench->random_state >> 7;
    bench->random_state ^= bench->random_state << 17;
    return bench->random_state % bound;
}

static struct cn_run take(runs_bench *bench, uint64_t count)
{
    struct cn_run run;
    if (!cn_page_runs_find(&bench->runs, count, &run)) {
        fputs("no hole\n", stderr);
        exit(1);
    }
    cn_page_runs_take(&bench->runs, run);
    return run;
}

static void give(runs_bench *bench, uint64_t first)
{
    struct cn_run block;
    if (cn_page_runs_block(&bench->runs, first, &block))
        cn_page_runs_free(&bench->runs, block);
}

/* Everything is free. */
static bool open_range(runs_bench *bench, uint64_t granule_count)
{
    bench->metadata = calloc(1, cn_page_runs_metadata_bytes(granule_count));
    bench->random_state = 9;
    if (bench->metadata != NULL)
        cn_page_runs_init(&bench->runs, granule_count, bench->metadata);
    return bench->metadata != NULL;
}

static void half_fill(runs_bench *bench, uint64_t granule_count)
{
    uint64_t full = granule_count / 16 * 15, end = 0;
    while (end + 8 <= full) {
        struct cn_run run = take(bench, 1 + random_below(bench, 8));
        end = run.first + run.count;
    }
    bool odd = false;
    struct cn_run block;
    for (uint64_t i = 0; i < end; i += block.count) {
        if (!cn_page_runs_block(&bench->runs, i, &block))
            block.count = 1;
        else if ((odd = !odd))
            give(bench, i);
    }
}

static double pairs(runs_bench *bench, uint64_t least, uint64_t most)
{
    double begin = bench_now();
    for (unsigned i = 0; i < bench->operations; i++)
        give(bench, take(bench, least + random_below(bench, most - least + 1)).first);
    return (bench_now() - begin) * 1e9 / bench->operations;
}

static double churn(runs_bench *bench)
{
    static uint64_t slots[SLOTS]; /* a block's first granule + 1; 0: none */
    double begin = bench_now();
    for (unsigned i = 0; i < bench->operations; i++) {
        uint64_t *slot = &slots[random_below(bench, SLOTS)];
        uint64_t power = UINT64_C(1) << random_below(bench, 7);
        if (*slot > 0) {
            give(bench, *slot - 1);
            *slot = 0;
        } else {
            *slot = take(bench, power + random_below(bench, power)).first + 1;
        }
    }
    return (bench_now() - begin) * 1e9 / bench->operations;
}

enum { SMALL, LARGE, CHURN, WORKLOADS };

static const char *const names[WORKLOADS] = {"small", "large", "churn"};
static const char *const texts[WORKLOADS] = {
    "ns of alloc + free, small %8.1f (%.1f .. %.1f)\n",
    "ns of alloc + free, large %8.1f (%.1f .. %.1f)\n",
    "ns of either, churn       %8.1f (%.1f .. %.1f)\n",
};

static double run(unsigned workload, runs_bench *half_full, runs_bench *empty)
{
    switch (workload) {
    case SMALL:
        return pairs(half_full, 1, 8);
    case LARGE:
        return pairs(half_full, 16, 64);
    default:
        return churn(empty);
    }
}

int main(int argc, char **argv)
{
    static runs_bench half_full, empty;
    static bench_series series[WORKLOADS];
    unsigned repetitions = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : bench_repetitions(11);
    half_full.operations = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 20000;
    empty.operations = half_full.operations;
    uint64_t gib = argc > 3 ? strtoul(argv[3], NULL, 10) : 64, granule_count = gib << 14;
    const char *only = argc > 4 ? argv[4] : NULL;
    size_t bytes = cn_page_runs_metadata_bytes(granule_count);
    if (!open_range(&half_full, granule_count) || !open_range(&empty, granule_count))
        return 1;
    half_fill(&half_full, granule_count);
    const struct cn_page_runs *runs = &half_full.runs;
    printf("%llu GiB, %.0f %% used in %llu blocks; metadata %zu bytes, %.5f %% of the range\n",
           (unsigned long long)gib, 100.0 * (double)runs->used_count / (double)granule_count,
           (unsigned long long)runs->block_count, bytes,
           100.0 * (double)bytes / ((double)granule_count * 65536));
    for (unsigned r = 0; r < repetitions; r++)
        for (unsigned w = 0; w < WORKLOADS; w++)
            if (only == NULL || strcmp(only, names[w]) == 0)
                bench_add(&series[w], run(w, &half_full, &empty));
    for (unsigned w = 0; w < WORKLOADS; w++)
        if (only == NULL || strcmp(only, names[w]) == 0)
            bench_print(texts[w], &series[w]);
    free(half_full.metadata);
    free(empty.metadata);
    return 0;
}
