/* SPDX-License-Identifier: Apache-2.0 */
/* A stack of block numbers for each class, as magazines in a depot (Bonwick and Adams, "Magazines
 * and Vmem", 2001) but for the size of what is exchanged: a shelf gives as many blocks as a bin
 * wants, and takes as many as fit.
 *
 *   shelf    ids    [ 17 40 41 8 | 93 12 ]        put and got at the right end
 *                     <- low: 4 ->                never fewer since the hand was here: of those,
 *                                                 half go when the hand comes by, from the left
 *
 * The low-water mark says of each block whether anybody wanted it for a round, and costs a
 * comparison for each batch (Ghemawat and Menage, "TCMalloc", 2007, scavenges by it). */
#include "pool/depot.h"

#include <string.h>

#include "base/lock.h"

/* What one depot may hold, however large the budget; bought by so much at a time. */
#define DEPOT_BYTES_MAX (UINT64_C(16) << 20)
#define LOT_BYTES       UINT64_C(262144)

void cn_depot_init(struct cn_depot *depot)
{
    cn_lock_init(&depot->lock);
}

static bool buy(struct cn_depot *depot, cenote_budget *budget, uint64_t bytes)
{
    if (depot->bought_bytes + bytes > DEPOT_BYTES_MAX ||
        !cn_budget_cache_take(budget, CN_CACHE_DEPOTS, bytes))
        return false;
    depot->bought_bytes += bytes;
    return true;
}

/* How many blocks of those there is, or can be bought, room for. */
static uint32_t affordable(struct cn_depot *depot, cenote_budget *budget, uint64_t block_bytes,
                           uint32_t count)
{
    uint64_t wanted = depot->bytes + count * block_bytes;
    if (wanted <= depot->bought_bytes)
        return count;
    uint64_t more = wanted - depot->bought_bytes;
    if ((more < LOT_BYTES && buy(depot, budget, LOT_BYTES)) || buy(depot, budget, more))
        return count;
    return (uint32_t)((depot->bought_bytes - depot->bytes) / block_bytes);
}

/* Takes the @p count oldest blocks off a shelf. */
static void take_oldest(struct cn_depot *depot, uint32_t size_class, uint32_t count,
                        uint32_t *out_ids)
{
    struct cn_shelf *shelf = &depot->shelves[size_class];
    uint32_t *ids = shelf->ids;
    memcpy(out_ids, ids, count * sizeof *ids);
    shelf->count = (uint16_t)(shelf->count - count);
    memmove(ids, ids + count, shelf->count * sizeof *ids);
    depot->bytes -= count * cn_class_bytes(size_class);
}

/* The hand goes on to the next shelf. @return how many blocks nobody seems to want. */
static uint32_t take_stale(struct cn_depot *depot, uint32_t *out_ids)
{
    depot->hand = depot->hand % CN_DEPOT_CLASS_LAST + 1;
    struct cn_shelf *shelf = &depot->shelves[depot->hand];
    uint32_t stale = (shelf->low + 1u) / 2;
    stale = stale < CN_DEPOT_STALE_MAX ? stale : CN_DEPOT_STALE_MAX;
    take_oldest(depot, depot->hand, stale, out_ids);
    shelf->low = shelf->count;
    return stale;
}

uint32_t cn_depot_put(struct cn_depot *depot, cenote_budget *budget, uint32_t size_class,
                      const uint32_t *ids, uint32_t count, uint32_t *out_left)
{
    if (size_class > CN_DEPOT_CLASS_LAST) {
        memcpy(out_left, ids, count * sizeof *ids);
        return count;
    }
    struct cn_shelf *shelf = &depot->shelves[size_class];
    pthread_mutex_lock(&depot->lock);
    uint32_t room = CN_SHELF_BLOCKS_MAX - shelf->count;
    uint64_t block_bytes = cn_class_bytes(size_class);
    uint32_t kept = affordable(depot, budget, block_bytes, count < room ? count : room);
    uint32_t left = count - kept;
    memcpy(shelf->ids + shelf->count, ids + left, kept * sizeof *ids);
    shelf->count = (uint16_t)(shelf->count + kept);
    depot->bytes += kept * block_bytes;
    memcpy(out_left, ids, left * sizeof *ids);
    if (left > 0)
        left += take_stale(depot, out_left + left);
    pthread_mutex_unlock(&depot->lock);
    return left;
}

uint32_t cn_depot_get(struct cn_depot *depot, uint32_t size_class, uint32_t count,
                      uint32_t *out_ids)
{
    if (size_class > CN_DEPOT_CLASS_LAST)
        return 0;
    struct cn_shelf *shelf = &depot->shelves[size_class];
    pthread_mutex_lock(&depot->lock);
    uint32_t got = count < shelf->count ? count : shelf->count;
    const uint32_t *end = shelf->ids + shelf->count;
    for (uint32_t i = 0; i < got; i++)
        out_ids[i] = *--end;
    shelf->count = (uint16_t)(shelf->count - got);
    shelf->low = shelf->low < shelf->count ? shelf->low : shelf->count;
    depot->bytes -= got * cn_class_bytes(size_class);
    pthread_mutex_unlock(&depot->lock);
    return got;
}

void cn_depot_counts(struct cn_depot *depot, uint16_t out_counts[CN_CLASS_LAST + 1])
{
    pthread_mutex_lock(&depot->lock);
    for (uint32_t c = 0; c <= CN_CLASS_LAST; c++)
        out_counts[c] = c <= CN_DEPOT_CLASS_LAST ? depot->shelves[c].count : 0;
    pthread_mutex_unlock(&depot->lock);
}

uint64_t cn_depot_bytes(struct cn_depot *depot)
{
    pthread_mutex_lock(&depot->lock);
    uint64_t bytes = depot->bytes;
    pthread_mutex_unlock(&depot->lock);
    return bytes;
}

void cn_depot_sell(struct cn_depot *depot, cenote_budget *budget)
{
    pthread_mutex_lock(&depot->lock);
    cn_budget_cache_give(budget, CN_CACHE_DEPOTS, depot->bought_bytes - depot->bytes);
    depot->bought_bytes = depot->bytes;
    pthread_mutex_unlock(&depot->lock);
}

const char *cn_depot_check(struct cn_depot *depot)
{
    uint64_t bytes = 0;
    bool low_true = true;
    pthread_mutex_lock(&depot->lock);
    for (uint32_t c = 1; c <= CN_DEPOT_CLASS_LAST; c++) {
        bytes += depot->shelves[c].count * cn_class_bytes(c);
        low_true &= depot->shelves[c].low <= depot->shelves[c].count;
    }
    bool counted = bytes == depot->bytes, paid = bytes <= depot->bought_bytes;
    pthread_mutex_unlock(&depot->lock);
    if (!low_true)
        return "a shelf's low-water mark is above what lies there";
    if (!counted)
        return "bytes in the depot miscounted";
    return paid ? NULL : "the depot holds more than it has bought";
}
