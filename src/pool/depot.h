/* SPDX-License-Identifier: Apache-2.0 */
/* Free blocks of a pool on their way from one thread's bins to another's.
 *
 *   bins of thread A   full: the older half  --->  shelf[class]: block numbers, the last one on top
 *   bins of thread B   empty: a batch        <---
 *
 * Moving blocks costs a copy of their numbers under a lock that is held for that alone. What the
 * depot has no room for goes to the slabs, and what the depot has not goes from there: those change
 * bitmaps and trees, under the pool's lock. So threads that pass blocks on, or whose bins are too
 * small for what comes and goes, seldom meet at the pool.
 *
 * What it holds is bought as capacities of bins are (thread_cache.h): half of the hundredth of the
 * budget is for depots. When it is full a clock's hand goes over the shelves, and what lay on one
 * for a whole round without being wanted goes to the slabs by halves: a class that is no longer
 * used is forgotten.
 *
 * Threads: any; the lock is taken last of all, also under a pool's. Cost: O(blocks moved). */
#ifndef CN_POOL_DEPOT_H
#define CN_POOL_DEPOT_H

#include <pthread.h>
#include <stdint.h>

#include "alloc/size_class.h"
#include "base/compiler.h"
#include "pool/budget.h"

#define CN_SHELF_BLOCKS_MAX 127u
/* Larger blocks are runs of granules, which the pool finds as quickly: they would take the room of
 * many of those for which granules have to be lent. They pass by. */
#define CN_DEPOT_CLASS_LAST (CN_CLASS_RUN_FIRST - 1)
/* Blocks of another class that a put may have left over, beside its own. */
#define CN_DEPOT_STALE_MAX 16u

/* A few blocks lie in one cache line with their number: that is what threads hand each other. */
struct cn_shelf {
    CN_ALIGNED(CN_CACHE_LINE_BYTES) uint16_t count;
    uint16_t low; /* the least since the hand was here */
    uint32_t ids[CN_SHELF_BLOCKS_MAX];
};

struct cn_depot {
    CN_ALIGNED(CN_CACHE_LINE_BYTES) pthread_mutex_t lock;
    uint64_t bytes; /* lock, as what follows */
    uint64_t bought_bytes;
    uint32_t hand;
    struct cn_shelf shelves[CN_DEPOT_CLASS_LAST + 1];
};

/* Takes zeroed memory. */
void cn_depot_init(struct cn_depot *depot);

/* Puts blocks, the one that was freed last at the end, of which it keeps the last. @return how many
 * are the caller's again, in @p out_left, which has room for count + CN_DEPOT_STALE_MAX; they may
 * be others. */
uint32_t cn_depot_put(struct cn_depot *depot, cenote_budget *budget, uint32_t size_class,
                      const uint32_t *ids, uint32_t count, uint32_t *out_left);

/* Gets up to @p count blocks, the last one that was put first. @return how many there were. */
uint32_t cn_depot_get(struct cn_depot *depot, uint32_t size_class, uint32_t count,
                      uint32_t *out_ids);

/* How many blocks of each class there are. */
void cn_depot_counts(struct cn_depot *depot, uint16_t out_counts[CN_CLASS_LAST + 1]);

/* What all of them take. */
uint64_t cn_depot_bytes(struct cn_depot *depot);

/* Sells what it could hold beyond what it does. */
void cn_depot_sell(struct cn_depot *depot, cenote_budget *budget);

/* NULL, or the first broken invariant in words. */
const char *cn_depot_check(struct cn_depot *depot);

#endif
