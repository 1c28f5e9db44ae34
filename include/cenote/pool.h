/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  One budget, and typed pools that draw on it.
 *
 *  A budget is the number of bytes that the whole process may hold: VmHWM + VmPTE. What the
 *  process holds already (code, libraries, stacks, its heap) is charged when the budget is made;
 *  pools charge what they commit, page tables included, before they commit it. When a charge does
 *  not fit, what can be given up goes first, in the order of CENOTE_RECLAIM_TABLE: a charge is
 *  refused only when all of that would not be enough.
 *
 *  A pool is the memory of one class: runs of 64 KiB granules, of any length, address-ordered
 *  first fit over a reservation that costs nothing until it is committed. Its book-keeping lies
 *  outside the managed range. Memory that was freed stays committed, for its first touch was dear,
 *  until somebody needs it or the pool has handed out 64 times what it holds without it. Before
 *  pools hold more in all than ever before, such idle memory is moved to where it is wanted, from
 *  pool to pool, by page tables.
 *
 *  Threads: a budget may be used from any thread. A pool may be used from any thread; each call
 *  takes the pool's lock, but for small blocks that the thread has at hand. */
#ifndef CENOTE_POOL_H
#define CENOTE_POOL_H

#include <stddef.h>
#include <stdint.h>

#include <cenote/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CENOTE_GRANULE_BYTES 65536u

/** What a tensor is for; name of the class in reports. */
#define CENOTE_CLASS_TABLE(X)                                                                      \
    X(CENOTE_CLASS_PARAMETERS, "parameters")                                                       \
    X(CENOTE_CLASS_KV_CACHE, "kv_cache")                                                           \
    X(CENOTE_CLASS_IMAGE_FEATURES, "image_features")                                               \
    X(CENOTE_CLASS_TEXT_EMBEDDINGS, "text_embeddings")                                             \
    X(CENOTE_CLASS_ATTENTION, "attention")                                                         \
    X(CENOTE_CLASS_ACTIVATIONS, "activations")                                                     \
    X(CENOTE_CLASS_GRADIENTS, "gradients")                                                         \
    X(CENOTE_CLASS_GENERAL, "general")

typedef enum cenote_class {
#define CENOTE_CLASS_ENUM(name, text) name,
    CENOTE_CLASS_TABLE(CENOTE_CLASS_ENUM)
#undef CENOTE_CLASS_ENUM
        CENOTE_CLASS_COUNT
} cenote_class;

CENOTE_API const char *cenote_class_text(cenote_class class_id);

/* ---- budget ---- */

typedef struct cenote_budget cenote_budget;

/** The system behind a budget; NULL means this machine. Tests put a fake one here. */
struct cn_os;

typedef struct cenote_budget_options {
    uint32_t version;       /**< CENOTE_BUDGET_OPTIONS_VERSION */
    uint64_t limit_bytes;   /**< the promise; must be > 0 */
    uint64_t process_bytes; /**< what the process itself may come to hold outside of pools; charged
                                at once; 0 means what it holds now */
    struct cn_os *os;       /**< NULL: this machine */
} cenote_budget_options;
#define CENOTE_BUDGET_OPTIONS_VERSION 1u
#define CENOTE_BUDGET_OPTIONS_INIT                                                                 \
    {                                                                                              \
        CENOTE_BUDGET_OPTIONS_VERSION, 0, 0, NULL                                                  \
    }

/** Errors: CENOTE_E_BUDGET when process_bytes alone exceeds the limit. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_budget_create(
    const cenote_budget_options *options, cenote_budget **out_budget, cenote_error *err);

/** Moves the limit. Free memory that pools hold is given back when that is needed.
 *  Errors: CENOTE_E_BUDGET when more than @p limit_bytes is charged; the old limit stays. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_budget_limit_set(cenote_budget *budget,
                                                                   uint64_t limit_bytes,
                                                                   cenote_error *err);

/** All pools and weights of the budget must be gone. NULL is fine. */
CENOTE_API void cenote_budget_destroy(cenote_budget *budget);

/** Charges bytes that the caller is about to hold outside of pools (a decoder's working memory).
 *  @param what  what for, in err; not NULL
 *  Errors: CENOTE_E_BUDGET, naming the request, what is left and the limit. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_budget_charge(cenote_budget *budget,
                                                                uint64_t size_bytes,
                                                                const char *what,
                                                                cenote_error *err);
/** Gives back what cenote_budget_charge() took; at most that. */
CENOTE_API void cenote_budget_uncharge(cenote_budget *budget, uint64_t size_bytes);

/** The ladder: what is given up, in this order, before a charge or a block is refused. */
#define CENOTE_RECLAIM_TABLE(X)                                                                    \
    X(CENOTE_RECLAIM_OWN_IDLE, "own idle memory")                                                  \
    X(CENOTE_RECLAIM_IDLE, "idle memory of other pools")                                           \
    X(CENOTE_RECLAIM_CACHE, "cached tensors")                                                      \
    X(CENOTE_RECLAIM_REBUILDABLE, "rebuildable tensors")                                           \
    X(CENOTE_RECLAIM_COMPACTION, "compaction")

typedef enum cenote_reclaim_step {
#define CENOTE_RECLAIM_ENUM(name, text) name,
    CENOTE_RECLAIM_TABLE(CENOTE_RECLAIM_ENUM)
#undef CENOTE_RECLAIM_ENUM
        CENOTE_RECLAIM_COUNT
} cenote_reclaim_step;

CENOTE_API const char *cenote_reclaim_step_text(cenote_reclaim_step step);

/** One rung of the ladder since the budget was made. */
typedef struct cenote_reclaim_stats {
    uint64_t asked_count; /**< times that a pool, cache, ... was asked */
    uint64_t gave_count;  /**< times that it gave something */
    uint64_t given_bytes; /**< idle memory: uncharged, or moved to where it was wanted; the others:
                               became idle memory, or a hole */
} cenote_reclaim_stats;

typedef struct cenote_budget_stats {
    uint64_t limit_bytes;
    uint64_t charged_bytes; /**< now, process_bytes included */
    uint64_t charged_peak_bytes;
    uint64_t refused_count; /**< charges that did not fit */
    cenote_reclaim_stats reclaim[CENOTE_RECLAIM_COUNT];
} cenote_budget_stats;
/** All of one moment. Cost: a lock. */
CENOTE_API void cenote_budget_stats_get(const cenote_budget *budget,
                                        cenote_budget_stats *out_stats);

/** What one pool holds of the budget, and what of it could be given up. */
typedef struct cenote_budget_holder {
    cenote_class class_id;
    uint32_t priority;
    uint64_t quota_bytes;
    uint64_t charged_bytes; /**< page tables included, the pool's book-keeping not */
    uint64_t live_bytes;    /**< in blocks */
    uint64_t idle_bytes;    /**< committed, in no block */
    /** Of live_bytes, at most so much: small ones are rounded up to what they may leave idle, so
     * that the sum may be above live_bytes. */
    uint64_t cached_bytes;      /**< free tensors of tensor caches, and quarantine */
    uint64_t rebuildable_bytes; /**< tensors that may be dropped */
    uint64_t largest_hole_bytes;
    uint64_t compacted_hole_bytes; /**< the largest hole that compaction could make */
} cenote_budget_holder;

/** Who holds the wall: a row for each pool of @p budget, largest charge first.
 *  @param out_holders  the first @p holder_max of them; may be NULL when that is 0
 *  @return the number of pools
 *  Threads: any; each row is true at its moment.  Cost: O(pools x granules). */
CENOTE_API size_t cenote_budget_explain(cenote_budget *budget, cenote_budget_holder *out_holders,
                                        size_t holder_max);

/** What a block of @p size_bytes costs: whole granules plus their page tables. A plan that adds
 *  these up has an upper bound of what the blocks need while they live, small ones and their
 *  book-keeping excepted; and for pools of parameters and kv_cache, or with exact_runs, that is the
 *  charge to the byte. The other classes commit, where quota and budget have room, 2 MiB at a time
 *  and are charged for that; what is beyond the blocks is idle memory and given back as soon as
 *  anybody needs it. */
CENOTE_API uint64_t cenote_pool_charge_bytes(uint64_t size_bytes);

/* ---- pools ---- */

typedef struct cenote_pool cenote_pool;

typedef struct cenote_pool_options {
    uint32_t version; /**< CENOTE_POOL_OPTIONS_VERSION */
    cenote_class class_id;
    uint64_t quota_bytes; /**< the most that this pool may hold; 0 means the budget's limit when
                               the pool is made (256 GiB at most) */
    uint32_t priority;    /**< when somebody needs room, what can be given up of the pool with the
                               lowest one goes first; 0 means the class's: general 10, gradients 20,
                               image_features 30, text_embeddings 40, attention 50, activations 60,
                               kv_cache 70, parameters 80 */
    uint32_t debug_level; /**< 0 to 3 (cenote/debug.h); 0 means what CENOTE_DEBUG says */
    uint32_t exact_runs;  /**< 1: no small blocks and no caches whatever the class, so that each
                             block is charged as cenote_pool_charge_bytes() says */
} cenote_pool_options;
#define CENOTE_POOL_OPTIONS_VERSION 2u
#define CENOTE_POOL_OPTIONS_INIT                                                                   \
    {                                                                                              \
        CENOTE_POOL_OPTIONS_VERSION, CENOTE_CLASS_GENERAL, 0, 0, 0, 0                              \
    }

/** What cenote_pool_create() charges for the pool itself (book-keeping and page tables) with this
 *  quota (> 0), to the byte; UINT64_MAX for a quota that no machine has. */
CENOTE_API uint64_t cenote_pool_overhead_bytes(uint64_t quota_bytes);

/** Reserves addresses for twice the quota (above 128 GiB: for the quota), commits nothing of
 *  them, and charges the pool's book-keeping.
 *  Ownership: the caller's, until cenote_pool_destroy(); the budget must outlive it.
 *  Errors: CENOTE_E_VERSION; CENOTE_E_INVAL (class, debug level, a quota above 128 TiB,
 *  CENOTE_DEBUG); CENOTE_E_BUDGET (the book-keeping); CENOTE_E_NOMEM (the system).
 *  Threads: any.  Cost: some system calls. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_pool_create(cenote_budget *budget,
                                                              const cenote_pool_options *options,
                                                              cenote_pool **out_pool,
                                                              cenote_error *err);

/** Gives everything back. Other threads may live on that have used the pool, and must not use it
 *  now. @return the number of blocks that were still allocated. NULL is fine. */
CENOTE_API size_t cenote_pool_destroy(cenote_pool *pool);

/** Gives @p size_bytes (> 0) from @p pool with undefined content (debug builds poison it; ASan
 *  builds also poison what follows @p size_bytes).
 *
 *  In whole granules, aligned to 64 KiB; but in pools of image_features, text_embeddings and
 *  general what is up to 1 MiB is rounded to one of eight sizes for each doubling, 256 B at least,
 *  and aligned to any power of two up to 64 KiB that divides @p size_bytes, 64 B at least. Freed
 *  ones stay at hand for the thread that freed them; all threads' together are 1 % of the budget
 *  at most.
 *  @param out_data  set on success only; release with cenote_pool_free()
 *  Ownership: the caller's until freed; the pool must outlive it.
 *  Errors: CENOTE_E_INVAL (0 bytes), CENOTE_E_BUDGET (quota or budget, and the largest hole, in
 *  err), CENOTE_E_NOMEM (the system refused a commit). Nothing stays charged on failure.
 *  Threads: any.  Cost: a few nanoseconds, without a lock, for a block that the thread has at hand;
 *  else O(log range); system calls only for memory not yet committed. */
CENOTE_MUST_CHECK CENOTE_API CENOTE_NO_PLT cenote_status cenote_pool_alloc(cenote_pool *pool,
                                                                           uint64_t size_bytes,
                                                                           void **out_data,
                                                                           cenote_error *err);

/** Frees a block; it stays committed and charged until the budget needs it, it decays or the pool
 *  is trimmed. NULL is fine; a pointer that is no block of the pool is a bug and asserts,
 *  for small blocks perhaps only when they go back to the pool (cenote/debug.h: at once).
 *  Threads: any, whoever allocated it. A thread that ends gives back what it has at hand. */
CENOTE_API CENOTE_NO_PLT void cenote_pool_free(cenote_pool *pool, void *data);

/** Where a block lies in the pool: its address less that of the pool's range, which no machine and
 *  no run changes. @p data must be a block of the pool.  Threads: any.  Cost: O(1). */
CENOTE_API uint64_t cenote_pool_offset(const cenote_pool *pool, const void *data);

/** Decommits all free memory of the pool and uncharges it, but for what other threads have at hand:
 *  that follows when they next find nothing there. @return the bytes given back. */
CENOTE_API uint64_t cenote_pool_trim(cenote_pool *pool);

/** Moves the quota. Idle memory above a lower one is given back, and free tensors that caches keep
 *  in the pool make way.
 *  @param quota_bytes  from 1 to twice the quota that the pool was made with (above 128 GiB: that
 *                      one), which is what its book-keeping covers
 *  Errors: CENOTE_E_INVAL; CENOTE_E_BUDGET when more is in use; the old quota stays.
 *  Threads: any. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_pool_quota_set(cenote_pool *pool,
                                                                 uint64_t quota_bytes,
                                                                 cenote_error *err);

/** Why an allocation was not served from memory that the pool had committed already. */
#define CENOTE_MISS_TABLE(X)                                                                       \
    X(CENOTE_MISS_COMMIT, "memory was committed")                                                  \
    X(CENOTE_MISS_RECLAIM, "others gave something up, then memory was committed")                  \
    X(CENOTE_MISS_QUOTA, "refused: the quota")                                                     \
    X(CENOTE_MISS_HOLE, "refused: no hole is long enough")                                         \
    X(CENOTE_MISS_BUDGET, "refused: the budget")                                                   \
    X(CENOTE_MISS_SYSTEM, "refused: the system gave no memory")

typedef enum cenote_miss {
#define CENOTE_MISS_ENUM(name, text) name,
    CENOTE_MISS_TABLE(CENOTE_MISS_ENUM)
#undef CENOTE_MISS_ENUM
        CENOTE_MISS_COUNT
} cenote_miss;

CENOTE_API const char *cenote_miss_text(cenote_miss miss);

/** "total" is since create, of all that was ever allocated or committed. */
typedef struct cenote_pool_stats {
    cenote_class class_id;
    uint32_t priority;
    uint64_t quota_bytes;
    uint64_t requested_bytes;      /**< live, as asked for; small ones by the mean of their class */
    uint64_t requested_peak_bytes; /**< small ones, and those at hand, as rounded */
    uint64_t requested_total_bytes;
    uint64_t used_bytes; /**< live or at hand for a thread, in whole granules */
    uint64_t used_peak_bytes;
    uint64_t used_total_bytes;
    uint64_t committed_bytes; /**< resident: this as soon as the blocks are written (Linux 5.14) */
    uint64_t committed_peak_bytes;
    uint64_t
        committed_total_bytes; /**< anew; what was idle in another pool or place is not in it */
    uint64_t block_count;      /**< live blocks */
    uint64_t alloc_count;      /**< since create: hits and the misses that were served */
    uint64_t hit_count;        /**< served from memory that was committed */
    uint64_t miss_count[CENOTE_MISS_COUNT];
    uint64_t largest_hole_bytes;   /**< longest free run, committed or not */
    double internal_fragmentation; /**< of used_bytes, what nobody asked for; 0 when empty */
    double external_fragmentation; /**< of the range up to the last block, what is in none */
    uint64_t thread_cached_bytes;  /**< of used_bytes, at hand for threads: in no block */
    uint64_t small_metadata_bytes; /**< charged for the book-keeping of small blocks */
} cenote_pool_stats;
/** True of one moment, but for what other threads do with blocks at hand meanwhile. With debug
 *  levels 2 and 3 the zone behind a block counts as asked for, and a freed block as live until it
 *  leaves quarantine (cenote/debug.h).
 *  Cost: the pool's lock, O(granules) at worst for external_fragmentation. */
CENOTE_API void cenote_pool_stats_get(const cenote_pool *pool, cenote_pool_stats *out_stats);

/** @return NULL, or the first broken invariant in words. Cost: O(granules). */
CENOTE_API const char *cenote_pool_check(const cenote_pool *pool);

#ifdef __cplusplus
}
#endif
#endif
