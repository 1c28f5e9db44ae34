/* SPDX-License-Identifier: Apache-2.0 */
/* The buddy allocator on one core, beside malloc: nanoseconds of an allocation and its free.
 *
 *     bench_buddy [repetitions [operations [empty|in-use|churn]]]       default: 31, 200000, all
 *
 * A range of 1 GiB in leaves of 256 B. *pair*: one size over and over, in an empty range
 * (everything is split and merged again, the worst case) and beside 512 live blocks. *churn*: 512
 * slots; a random one is freed, or filled with a size of 256 B to 4 MiB, each factor of two as
 * likely. No block is ever touched, which malloc's own book-keeping does. Repetitions of ours and
 * malloc's take turns; what is printed is the median (quarter .. three quarters), the ratio's of
 * repetitions. */
#include <stdbool.h>

#include <cenote/buddy.h>

#include "dense_bench.h"

#define SLOTS       512u
#define RANGE_BYTES (UINT64_C(1) << 30)
#define LEAF_BYTES  256u

enum { OURS, MALLOC, PEERS };

struct block {
    uint64_t address, size_bytes; /* 0: the slot is empty */
};

typedef struct buddy_bench {
    cenote_buddy *buddy;
    unsigned operations;
    struct block slots[PEERS][SLOTS];
} buddy_bench;

static uint64_t random_u64(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t random_size(uint64_t *state)
{
    uint64_t bits = random_u64(state), power = UINT64_C(256) << (bits >> 8) % 14;
    return power + (bits >> 16) % power;
}

/* ---- the peers behind the same two functions ---- */

static __attribute__((noinline)) uint64_t take(buddy_bench *bench, unsigned peer, uint64_t size)
{
    uint64_t address = 0;
    if (peer == MALLOC)
        return (uint64_t)(uintptr_t)malloc(size);
    cenote_error err;
    bench_require(cenote_buddy_alloc(bench->buddy, size, 0, &address, &err), &err);
    return address;
}

static __attribute__((noinline)) void give(buddy_bench *bench, unsigned peer, uint64_t address,
                                           uint64_t size)
{
    cenote_error err;
    if (peer == MALLOC)
        free((void *)(uintptr_t)address);
    else
        bench_require(
            cenote_buddy_free(bench->buddy, address, size, CENOTE_BUDDY_GENERATION_ANY, &err),
            &err);
}

/* ---- workloads: nanoseconds of one allocation and one free ---- */

static double pair(buddy_bench *bench, unsigned peer, uint64_t size)
{
    double begin = bench_now();
    for (unsigned i = 0; i < bench->operations; i++)
        give(bench, peer, take(bench, peer, size), size);
    return (bench_now() - begin) * 1e9 / bench->operations;
}

static void turn(buddy_bench *bench, unsigned peer, uint64_t *state)
{
    struct block *slot = &bench->slots[peer][random_u64(state) % SLOTS];
    if (slot->size_bytes != 0) {
        give(bench, peer, slot->address, slot->size_bytes);
        slot->size_bytes = 0;
    } else {
        slot->size_bytes = random_size(state);
        slot->address = take(bench, peer, slot->size_bytes);
    }
}

static double churn(buddy_bench *bench, unsigned peer, uint64_t seed)
{
    uint64_t state = seed;
    double begin = bench_now();
    for (unsigned i = 0; i < 2 * bench->operations; i++)
        turn(bench, peer, &state);
    return (bench_now() - begin) * 1e9 / bench->operations;
}

static void fill(buddy_bench *bench)
{
    for (unsigned peer = 0; peer < PEERS; peer++) {
        uint64_t state = 5;
        for (unsigned i = 0; i < 4 * SLOTS; i++)
            turn(bench, peer, &state);
    }
}

static void empty(buddy_bench *bench)
{
    for (unsigned peer = 0; peer < PEERS; peer++)
        for (unsigned i = 0; i < SLOTS; i++) {
            struct block *slot = &bench->slots[peer][i];
            if (slot->size_bytes != 0)
                give(bench, peer, slot->address, slot->size_bytes);
            slot->size_bytes = 0;
        }
}

/* ---- the table ---- */

static void print(const char *text, const bench_series series[PEERS])
{
    bench_series ratio = bench_ratio(&series[OURS], &series[MALLOC]);
    printf("  %-22s", text);
    bench_print(" %7.1f (%.1f .. %.1f)", &series[OURS]);
    bench_print("   malloc %7.1f (%.1f .. %.1f)", &series[MALLOC]);
    bench_print("   ratio %5.2f (%.2f .. %.2f)\n", &ratio);
}

static void run_pairs(buddy_bench *bench, const char *where, unsigned repetitions)
{
    static const unsigned sizes_kib[] = {0, 4, 64, 1024}; /* 0: one leaf */
    for (unsigned i = 0; i < sizeof sizes_kib / sizeof sizes_kib[0]; i++) {
        uint64_t size = sizes_kib[i] == 0 ? LEAF_BYTES : sizes_kib[i] * UINT64_C(1024);
        bench_series series[PEERS] = {0};
        for (unsigned r = 0; r < repetitions; r++)
            for (unsigned peer = 0; peer < PEERS; peer++)
                bench_add(&series[peer], pair(bench, peer, size));
        char text[64];
        snprintf(text, sizeof text, "pair, %s, %llu B", where, (unsigned long long)size);
        print(text, series);
    }
}

static void run_churn(buddy_bench *bench, unsigned repetitions)
{
    bench_series series[PEERS] = {0};
    for (unsigned r = 0; r < repetitions; r++)
        for (unsigned peer = 0; peer < PEERS; peer++)
            bench_add(&series[peer], churn(bench, peer, r + 1));
    print("churn", series);
    cenote_buddy_stats stats;
    cenote_buddy_stats_get(bench->buddy, &stats);
    printf("  after it: %.1f MiB asked for, %.1f used (internal %.3f), external %.3f, peak %.1f\n",
           (double)stats.requested_bytes / 1048576, (double)stats.used_bytes / 1048576,
           stats.internal_fragmentation, stats.external_fragmentation,
           (double)stats.used_peak_bytes / 1048576);
}

static bool wanted(const char *only, const char *workload)
{
    return only == NULL || strcmp(only, workload) == 0;
}

int main(int argc, char **argv)
{
    unsigned repetitions = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : bench_repetitions(31);
    const char *only = argc > 3 ? argv[3] : NULL;
    static buddy_bench bench;
    bench.operations = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 200000;
    cenote_buddy_options options = CENOTE_BUDDY_OPTIONS_INIT;
    options.start = UINT64_C(1) << 40;
    options.size_bytes = RANGE_BYTES;
    options.leaf_bytes = LEAF_BYTES;
    uint64_t bytes = cenote_buddy_metadata_bytes(&options);
    void *metadata = aligned_alloc(64, (bytes + 63) / 64 * 64);
    cenote_error err;
    bench_require(cenote_buddy_init(&options, metadata, bytes, &bench.buddy, &err), &err);
    printf("ns of an allocation and its free; metadata %llu bytes, %.4f %% of the range\n",
           (unsigned long long)bytes, 100.0 * (double)bytes / (double)RANGE_BYTES);
    if (wanted(only, "empty"))
        run_pairs(&bench, "empty", repetitions);
    fill(&bench);
    if (wanted(only, "in-use"))
        run_pairs(&bench, "in use", repetitions);
    if (wanted(only, "churn"))
        run_churn(&bench, repetitions);
    empty(&bench);
    free(metadata);
    return 0;
}
