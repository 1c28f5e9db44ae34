/* SPDX-License-Identifier: Apache-2.0 */
/* A stack of free blocks for each class, thread and pool, in front of the pool's lock.
 *
 *   thread's slots   [ pool 17 | cache ][ - ][ pool 3 | cache ] ..      by the pool's number
 *                                \
 *   cache            bins[class]:  top, end | blocks, the last freed on top
 *                                    |   ^
 *   miss: a batch  <-----------------+   +----------------->  full: the older half
 *                  the pool's depot (depot.h), locked for a copy
 *                        the pool: slabs and granules, locked
 *
 * A hit is a comparison, a load and a store of the thread's own memory: no lock, no atomic
 * read-modify-write, no fence. Blocks that another thread freed lie in that thread's bins, go to
 * the depot half a bin at a time, and come back with the next batch: so no block has an owner that
 * would have to be asked.
 *
 * What caches may hold is bought: a bin's capacity is paid for out of half a per cent of the
 * budget's limit, for all threads and pools together, when the bin runs over and before it is
 * larger (the other half is for depots). Who finds nothing left takes from its own other bins. So
 * the bytes in caches are bounded by the sum of capacities, and the fast path compares pointers
 * alone.
 *
 * When anybody needs room, the asking thread gives up all its caches and all depots first, and the
 * other threads theirs at their next miss. */
#ifndef CN_POOL_THREAD_CACHE_H
#define CN_POOL_THREAD_CACHE_H

#include <assert.h>
#include <stdatomic.h>

#include "base/compiler.h"
#include "pool/small.h"
#include "pool/watch.h"

#define CN_BIN_BLOCKS_MAX     24u
#define CN_THREAD_CACHE_SLOTS 32u
#define CN_THREAD_CACHE_BINS  (CN_CLASS_INSIDE + 1) /* those of 0 and INSIDE have no capacity */

/* All that a hit looks at, in half a cache line. Atomic members are written by the owner alone, and
 * read by others for statistics. */
struct cn_bin {
    _Atomic(char **) top;                          /* where the next block goes */
    char **end;                                    /* where it must not go any more */
    _Atomic uint64_t alloc_count, requested_bytes; /* ever */
};

struct cn_thread_cache {
    CN_ALIGNED(CN_CACHE_LINES_APART) struct cn_bin bins[CN_THREAD_CACHE_BINS];
    /* Of each bin. The first is NULL: what lies on top of an empty bin. */
    char *blocks[CN_THREAD_CACHE_BINS][1 + CN_BIN_BLOCKS_MAX];
    cenote_pool *pool;
    struct cn_depot *depot;               /* the pool's */
    struct cn_thread_cache *thread_next;  /* of this thread; registry */
    struct cn_thread_cache *pool_next;    /* of this pool; the pool's lock */
    struct cn_thread_cache **thread_head; /* where the thread's list begins */
    uint64_t bought_bytes;                /* capacities, and what is spare */
    uint64_t spare_bytes;                 /* in no bin's capacity */
    uint64_t epoch;                       /* the budget's, when it was last heeded */
    uint32_t hand;                        /* the bin to look at next for capacity */
    uint64_t seen[CN_THREAD_CACHE_BINS];  /* the bins' alloc_count when the hand was there */
};

struct cn_thread_cache_slot {
    uint64_t pool_id; /* 0: none */
    struct cn_thread_cache *cache;
};

extern _Thread_local struct cn_thread_cache_slot cn_thread_cache_slots[CN_THREAD_CACHE_SLOTS]
    __attribute__((tls_model("initial-exec")));

static inline void cn_add_relaxed(_Atomic uint64_t *sum, uint64_t value)
{
    atomic_store_explicit(sum, atomic_load_explicit(sum, memory_order_relaxed) + value,
                          memory_order_relaxed);
}

/* The slot that @p pool shares with others, if its cache is not there. */
static inline struct cn_thread_cache_slot *cn_thread_cache_slot_of(const cenote_pool *pool)
{
    return (struct cn_thread_cache_slot *)((char *)cn_thread_cache_slots + pool->slot_at);
}

/* Has this thread a cache of the pool in @p slot, and nobody watches the pool? */
static inline bool cn_thread_cache_is_in(const struct cn_thread_cache_slot *slot,
                                         const cenote_pool *pool)
{
    return slot->pool_id == atomic_load_explicit(&pool->unwatched_id, memory_order_relaxed);
}

/* Blocks in a bin. */
static inline uint64_t cn_thread_cache_count(const struct cn_thread_cache *cache,
                                             uint32_t size_class)
{
    char **top = atomic_load_explicit(&cache->bins[size_class].top, memory_order_relaxed);
    return (uint64_t)(top - (cache->blocks[size_class] + 1));
}

/* The fast path of alloc: the block that was freed last. */
static inline bool cn_thread_cache_pop(const cenote_pool *pool, uint64_t size_bytes,
                                       void **out_data)
{
    const struct cn_thread_cache_slot *slot = cn_thread_cache_slot_of(pool);
    if (CN_UNLIKELY(!cn_thread_cache_is_in(slot, pool) || size_bytes - 1 >= CN_CLASS_BYTES_MAX))
        return false;
    struct cn_bin *bin = slot->cache->bins + cn_size_class(size_bytes);
    char **top = atomic_load_explicit(&bin->top, memory_order_relaxed);
    char *data = top[-1];
    if (CN_UNLIKELY(data == NULL))
        return false;
    *out_data = data;
    atomic_store_explicit(&bin->top, top - 1, memory_order_relaxed);
    cn_add_relaxed(&bin->alloc_count, 1);
    cn_add_relaxed(&bin->requested_bytes, size_bytes);
    return true;
}

/* The class of a block that begins at @p offset; 0 when it has none, or nobody knows. */
static inline uint32_t cn_class_at(const cenote_pool *pool, uint64_t offset)
{
    if (CN_UNLIKELY(offset >= atomic_load_explicit(&pool->covered_bytes, memory_order_acquire)))
        return 0;
    return pool->classes[offset >> CN_SLAB_PAGE_SHIFT];
}

/* The fast path of free. */
static inline bool cn_thread_cache_push(const cenote_pool *pool, void *data)
{
    const struct cn_thread_cache_slot *slot = cn_thread_cache_slot_of(pool);
    uint64_t offset = (uint64_t)((uintptr_t)data - (uintptr_t)pool->base);
    if (CN_UNLIKELY(!cn_thread_cache_is_in(slot, pool)))
        return false;
    struct cn_bin *bin = slot->cache->bins + cn_class_at(pool, offset);
    char **top = atomic_load_explicit(&bin->top, memory_order_relaxed);
    if (CN_UNLIKELY(top >= bin->end))
        return false;
    *top = data;
    atomic_store_explicit(&bin->top, top + 1, memory_order_relaxed);
    return true;
}

/* The slow paths: as alloc and free of a block of at most CN_CLASS_BYTES_MAX; the pool is not
 * locked. The second is false when the block has no class. */
CENOTE_MUST_CHECK cenote_status cn_thread_cache_alloc(cenote_pool *pool, uint64_t size_bytes,
                                                      void **out_data, cenote_error *err);
bool cn_thread_cache_free(cenote_pool *pool, uint64_t offset);

/* Gives up what this thread caches, and depots: of one pool, or of all pools of a budget. @return
 * bytes, which are idle memory or free pages now. No pool may be locked. */
uint64_t cn_thread_cache_give_up(cenote_pool *pool);
uint64_t cn_thread_cache_give_up_all(cenote_budget *budget);

/* The pool goes: no thread knows its caches any more. Nobody may use it meanwhile. */
void cn_thread_cache_forget_pool(cenote_pool *pool);

/* From now on all operations of all pools go the slow way, where the watcher is told; or they do
 * not any more. */
void cn_thread_cache_watch(cn_watch_fn watch);

#endif
