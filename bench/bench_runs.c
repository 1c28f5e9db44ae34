/* SPDX-License-Identifier: Apache-2.0 */
/* Page runs on one core: nanoseconds of a find and take, and of a free, in a large range that is
 * half full of small holes.
 *
 *     bench_runs [repetitions [operations [gib]]]       default: 11, 20000, 64
 *
 * Granules of 64 KiB. The range is filled with blocks of 1 to 8 granules, then every second one is
 * freed, but for the last sixteenth of the range, which is free as a whole. *small* asks for 1 to 8
 * granules, which is found near the low end; *large* for 16 to 64 (1 to 4 MiB), which no hole but
 * the last one has. What is asked for is given back at once. Nothing is touched: only the
 * book-keeping is timed. */
#include "alloc/page_runs.h"
#include "dense_bench.h"

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

int main(int argc, char **argv)
{
    static runs_bench bench;
    unsigned repetitions = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : bench_repetitions(11);
    bench.operations = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 20000;
    uint64_t gib = argc > 3 ? strtoul(argv[3], NULL, 10) : 64;
    uint64_t granule_count = gib << 14;
    size_t bytes = cn_page_runs_metadata_bytes(granule_count);
    bench.metadata = calloc(1, bytes);
    bench.random_state = 9;
    if (bench.metadata == NULL)
        return 1;
    cn_page_runs_init(&bench.runs, granule_count, bench.metadata);
    half_fill(&bench, granule_count);
    printf("%llu GiB, %.0f %% used in %llu blocks; metadata %zu bytes, %.5f %% of the range\n",
           (unsigned long long)gib, 100.0 * (double)bench.runs.used_count / (double)granule_count,
           (unsigned long long)bench.runs.block_count, bytes,
           100.0 * (double)bytes / ((double)granule_count * 65536));
    bench_series small = {0}, large = {0};
    for (unsigned r = 0; r < repetitions; r++) {
        bench_add(&small, pairs(&bench, 1, 8));
        bench_add(&large, pairs(&bench, 16, 64));
    }
    bench_print("ns of alloc + free, small %8.1f (%.1f .. %.1f)\n", &small);
    bench_print("ns of alloc + free, large %8.1f (%.1f .. %.1f)\n", &large);
    free(bench.metadata);
    return 0;
}
