/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of a size class in a pool: where slabs (alloc/slab.h) meet granules, the budget and the
 * system. In pools whose class has small blocks, blocks of up to 1 MiB come from here.
 *
 * The book-keeping is a reservation of its own, in which only what is needed is committed, and
 * charged before that:
 *
 *   | struct cn_small, depot | caches of threads | free pages, reach | classes of pages | slabs, by
 * page |
 *
 * Threads: the pool is locked for all but cn_small_open(). */
#ifndef CN_POOL_SMALL_H
#define CN_POOL_SMALL_H

#include "alloc/slab.h"
#include "pool/depot.h"
#include "pool/pool_impl.h"

struct cn_thread_cache;

/* Threads that can have a cache in one pool at a time; the others go without. */
#define CN_THREAD_CACHES_MAX 256u
/* Of the book-keeping that is committed at a time, and how much of it there can be. */
#define CN_BOOK_PIECE_BYTES CENOTE_GRANULE_BYTES
#define CN_BOOK_PIECES_MAX  9216u

struct cn_class_counts {
    uint64_t alloc_count, requested_bytes; /* ever */
};

/* Where what follows struct cn_small lies in the reservation. */
struct cn_small_layout {
    uint64_t caches_at, free_pages_at, reach_at, classes_at, pages_at;
    uint64_t reserve_bytes;
};

struct cn_small {
    struct cn_slabs slabs;
    struct cn_small_layout at;
    uint64_t charged_bytes;
    uint64_t committed[CN_BOOK_PIECES_MAX / 64]; /* a bit for each piece */
    cenote_pool *next_pool;         /* that has had a cache; the registry's (thread_cache.c) */
    struct cn_thread_cache *caches; /* of threads that live */
    struct cn_thread_cache *spare_caches;
    uint32_t cache_count;                             /* ever made */
    uint64_t obtained_granules;                       /* ever; they are in the pool's total */
    uint64_t obtained_count;                          /* blocks that took granules of the pool */
    struct cn_class_counts counts[CN_CLASS_LAST + 1]; /* of no cache that lives */
    struct cn_depot depot;
};

/* Figures of all classes. Blocks in caches are free to whoever asks, and used to the pool. */
struct cn_small_sums {
    uint64_t live_count, live_bytes, live_requested_bytes;
    uint64_t alloc_count, requested_total_bytes, used_total_bytes;
    uint64_t cached_bytes;
};

/* Makes a pool's book-keeping. Pool locked; the lock is let go while the budget makes room. */
CENOTE_MUST_CHECK cenote_status cn_small_open(cenote_pool *pool, cenote_error *err);
/* With the pool. */
void cn_small_close(cenote_pool *pool);

/* Commits and charges [from, to) of the book-keeping, if it fits as things are; CENOTE_E_BUDGET,
 * without a word in @p err, when it does not. */
CENOTE_MUST_CHECK cenote_status cn_small_cover(cenote_pool *pool, uint64_t from, uint64_t to,
                                               cenote_error *err);

/* Takes up to @p count blocks, one at least. The lock is let go while the budget makes room. */
CENOTE_MUST_CHECK cenote_status cn_small_take(cenote_pool *pool, uint64_t size_bytes,
                                              uint32_t count, uint32_t *out_ids,
                                              uint32_t *out_count, cenote_error *err);

/* Gives a block back; false when @p id is none. */
bool cn_small_give(cenote_pool *pool, uint32_t id);

/* Does the granule that a block of pool->runs begins at belong to small blocks, or to one that a
 * cache may hold? */
bool cn_small_owns(const cenote_pool *pool, uint64_t granule);
/* Is it one that many blocks share? */
bool cn_small_shares(const cenote_pool *pool, uint64_t granule);
/* A block of whole granules was moved. When the arrays do not reach over its new place, it has no
 * class any more. */
void cn_small_moved(cenote_pool *pool, struct cn_run from, uint64_t to_granule);
/* One is freed, or was lost; false when it had no class. */
bool cn_small_lost(cenote_pool *pool, uint64_t granule);

struct cn_small_sums cn_small_sums(const cenote_pool *pool);
const char *cn_small_check(const cenote_pool *pool);

#endif
