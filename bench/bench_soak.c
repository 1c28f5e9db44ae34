/* SPDX-License-Identifier: Apache-2.0 */
/* Does a pool grow under churn that does not?
 *
 *     bench_soak [operations]                      default: 20000000; `make soak` asks for 10^9
 *
 * 512 slots of a pool of class general; a random one is freed, or filled with a size of 256 B to
 * 4 MiB, each factor of two as likely. In ten equal parts: what the pool has committed and what is
 * live, in the mean, looked at every 4096 operations. Exit code 1 when the last five parts hold
 * more than 1.01 times what the first five did, for each live byte. Nothing is touched. */
#include <inttypes.h>

#include <cenote/pool.h>

#include "bench.h"

#define SLOTS    512u
#define PARTS    10u
#define LOOK     4096u
#define GROWTH   1.01
#define BUDGET   (UINT64_C(4) << 30)
#define MIB      1048576.0
#define SEED     UINT64_C(88172645463325252)
#define CLASSES  14u /* factors of two from 256 B to 4 MiB */
#define SIZE_MIN UINT64_C(256)

typedef struct soak_part {
    double committed_bytes, live_bytes; /* sums over looks */
    uint64_t looks;
} soak_part;

static uint64_t random_u64(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void turn(cenote_pool *pool, void **slots, uint64_t *state)
{
    uint64_t bits = random_u64(state), power = SIZE_MIN << (bits >> 16) % CLASSES;
    void **slot = &slots[bits % SLOTS];
    cenote_error err;
    if (*slot != NULL) {
        cenote_pool_free(pool, *slot);
        *slot = NULL;
    } else {
        bench_require(cenote_pool_alloc(pool, power + (bits >> 24) % power, slot, &err), &err);
    }
}

static soak_part run_part(cenote_pool *pool, void **slots, uint64_t *state, uint64_t operations)
{
    soak_part part = {0};
    for (uint64_t i = 0; i < operations; i++) {
        turn(pool, slots, state);
        if (i % LOOK != 0)
            continue;
        cenote_pool_stats stats;
        cenote_pool_stats_get(pool, &stats);
        part.committed_bytes += (double)stats.committed_bytes;
        part.live_bytes += (double)stats.requested_bytes;
        part.looks++;
    }
    return part;
}

int main(int argc, char **argv)
{
    static void *slots[SLOTS];
    uint64_t operations = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000000, state = SEED;
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    cenote_budget *budget;
    cenote_pool *pool;
    cenote_error err;
    options.limit_bytes = BUDGET;
    bench_require(cenote_budget_create(&options, &budget, &err), &err);
    bench_require(cenote_pool_create(budget, &pool_options, &pool, &err), &err);
    (void)run_part(pool, slots, &state, operations / PARTS / 10); /* fills the slots */
    double halves[2] = {0}, begin = bench_now();
    for (unsigned p = 0; p < PARTS; p++) {
        soak_part part = run_part(pool, slots, &state, operations / PARTS);
        double ratio = part.committed_bytes / part.live_bytes;
        halves[p / (PARTS / 2)] += ratio / (PARTS / 2);
        printf("%12" PRIu64 " operations: %7.1f MiB committed, %7.1f live, %.4f times\n",
               operations / PARTS * (p + 1), part.committed_bytes / (double)part.looks / MIB,
               part.live_bytes / (double)part.looks / MIB, ratio);
        fflush(stdout);
    }
    double growth = halves[1] / halves[0];
    printf("%.1f ns for each; the second half holds %.4f times the first\n",
           (bench_now() - begin) * 1e9 / (double)operations, growth);
    for (unsigned i = 0; i < SLOTS; i++)
        cenote_pool_free(pool, slots[i]);
    cenote_pool_destroy(pool);
    cenote_budget_destroy(budget);
    return growth <= GROWTH ? 0 : 1;
}
