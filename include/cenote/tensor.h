/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Tensors: counted handles on blocks of a pool that may move.
 *
 *      create ──▶ handle ──pin──▶ address, stays ──unpin──▶ may move ──release──▶ the handle is
 * dead
 *
 *  A raw block (cenote_pool_alloc()) stays where it is until it is freed, so a pool that has come
 * to pieces stays in pieces. A tensor's address is only good between pin and unpin; outside of that
 * the pool may move the block to close holes, and a tensor that can be made again may be dropped. A
 * handle is an index and a generation: once released it never becomes valid again, and every later
 * use is CENOTE_E_INVAL naming the handle, whatever was created since.
 *
 *  Handles belong to their pool. Those of a pool of another class are always refused; those of
 *  another pool of the same class cannot be told from its own.
 *
 *  Threads: every function from any thread. pin, unpin and retain are one atomic operation each and
 *  take no lock, unless the tensor is on the move just then: pin waits until it is there. */
#ifndef CENOTE_TENSOR_H
#define CENOTE_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/dtype.h>
#include <cenote/pool.h>
#include <cenote/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Generation << 32 | index. 0 is no tensor. */
typedef uint64_t cenote_tensor;
#define CENOTE_TENSOR_NONE UINT64_C(0)

#define CENOTE_TENSOR_REFERENCES_MAX 16383u
#define CENOTE_TENSOR_PINS_MAX       32767u
/** Tensors that a pool may have at one time. */
#define CENOTE_TENSORS_MAX (UINT32_C(1) << 20)

/** Tells that @p tensor was dropped: its block is gone, its handle stays until it is released.
 *  Called with the pool locked: it may set a flag, and call no function of the pool or budget. */
typedef void (*cenote_tensor_dropped_fn)(void *context, cenote_tensor tensor);

typedef struct cenote_tensor_options {
    uint32_t version; /**< CENOTE_TENSOR_OPTIONS_VERSION */
    cenote_dtype dtype;
    uint32_t rank;                     /**< 0..CENOTE_RANK_MAX; 0 is a scalar */
    uint64_t shape[CENOTE_RANK_MAX];   /**< elements of each dimension, > 0 */
    uint64_t strides[CENOTE_RANK_MAX]; /**< elements between neighbours; all 0: row-major, dense */
    cenote_tensor_dropped_fn dropped;  /**< not NULL: rebuildable, may be dropped while unpinned */
    void *dropped_context;
    uint64_t rebuild_bytes; /**< what building it again is worth, in bytes of memory copied:
                                 compaction drops it rather than copy more than that;
                                 0: it is never dropped to save a copy */
} cenote_tensor_options;
#define CENOTE_TENSOR_OPTIONS_VERSION 1u
#define CENOTE_TENSOR_OPTIONS_INIT                                                                 \
    {                                                                                              \
        CENOTE_TENSOR_OPTIONS_VERSION, CENOTE_DTYPE_F32, 0, {0}, {0}, NULL, NULL, 0                \
    }

/** Gives a tensor with undefined content from @p pool: one reference, no pin.
 *  @param out_tensor  set on success only; give back with cenote_tensor_release()
 *  Errors: CENOTE_E_VERSION; CENOTE_E_INVAL (dtype, rank, a dimension of 0, more than 2^64 bytes);
 *  CENOTE_E_BUDGET and CENOTE_E_NOMEM as cenote_pool_alloc(), and for the table of handles;
 *  CENOTE_E_NOMEM for more than CENOTE_TENSORS_MAX.
 *  Cost: that of cenote_pool_alloc(), and a lock. */
CENOTE_MUST_CHECK CENOTE_API cenote_status
cenote_tensor_create(cenote_pool *pool, const cenote_tensor_options *options,
                     cenote_tensor *out_tensor, cenote_error *err);

/** One reference more.
 *  Errors: CENOTE_E_INVAL (no live tensor of the pool; CENOTE_TENSOR_REFERENCES_MAX). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_tensor_retain(cenote_pool *pool,
                                                                cenote_tensor tensor,
                                                                cenote_error *err);

/** One reference less; with the last one the block is freed and the handle is dead.
 *  Errors: CENOTE_E_INVAL (no live tensor of the pool; the last reference while it is pinned). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_tensor_release(cenote_pool *pool,
                                                                 cenote_tensor tensor,
                                                                 cenote_error *err);

/** Keeps the tensor where it is until unpinned as many times.
 *  @param out_data  the address of its first element, aligned as cenote_pool_alloc() does
 *  Errors: CENOTE_E_INVAL (no live tensor of the pool; CENOTE_TENSOR_PINS_MAX), CENOTE_E_NOTFOUND
 *  (it was dropped: release it and build another). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_tensor_pin(cenote_pool *pool,
                                                             cenote_tensor tensor, void **out_data,
                                                             cenote_error *err);

/** Errors: CENOTE_E_INVAL (no live tensor of the pool; it is not pinned). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_tensor_unpin(cenote_pool *pool,
                                                               cenote_tensor tensor,
                                                               cenote_error *err);

typedef struct cenote_tensor_state {
    cenote_class class_id;
    cenote_dtype dtype;
    uint32_t rank;
    uint32_t references;
    uint32_t pins;
    bool rebuildable;
    bool dropped;
    uint64_t shape[CENOTE_RANK_MAX];   /**< 0 above rank */
    uint64_t strides[CENOTE_RANK_MAX]; /**< 0 above rank */
    uint64_t size_bytes;               /**< from the first element to the end of the last */
} cenote_tensor_state;

/** Errors: CENOTE_E_INVAL (no live tensor of the pool). Cost: the pool's lock. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_tensor_state_get(cenote_pool *pool,
                                                                   cenote_tensor tensor,
                                                                   cenote_tensor_state *out_state,
                                                                   cenote_error *err);

/** What handles cost. It is charged to the budget beside what cenote_pool_overhead_bytes() says,
 *  from the first tensor on, and stays charged until the pool is destroyed. */
typedef struct cenote_tensor_stats {
    uint64_t live_count;    /**< tensors, dropped ones included */
    uint64_t live_bytes;    /**< their blocks, as asked for */
    uint64_t dropped_count; /**< since the pool was made */
    uint64_t dropped_bytes;
    uint64_t table_bytes;   /**< charged for the table of handles */
    uint64_t compact_count; /**< times that the pool compacted itself */
    uint64_t moved_bytes;   /**< by all compactions, as in cenote_compact_result */
    uint64_t remapped_bytes;
} cenote_tensor_stats;
/** All 0 before the first tensor. Cost: the pool's lock. */
CENOTE_API void cenote_tensor_stats_get(const cenote_pool *pool, cenote_tensor_stats *out_stats);

/* ---- compaction ---- */

/** What shall become of a tensor that compaction would move. */
typedef enum cenote_compact_answer {
    CENOTE_COMPACT_MOVE = 0,
    CENOTE_COMPACT_KEEP, /**< it stays where it is, as far as this call goes */
    CENOTE_COMPACT_STOP, /**< and the call ends here */
} cenote_compact_answer;

/** Called before each move, with the pool locked: it may call no function of the pool or budget. */
typedef cenote_compact_answer (*cenote_compact_veto_fn)(void *context, cenote_tensor tensor,
                                                        uint64_t size_bytes);

typedef struct cenote_compact_options {
    uint32_t version;            /**< CENOTE_COMPACT_OPTIONS_VERSION */
    uint64_t max_bytes;          /**< of the blocks moved in one call; 0: no limit */
    uint64_t max_moves;          /**< 0: no limit */
    cenote_compact_veto_fn veto; /**< NULL: everything may move */
    void *veto_context;
} cenote_compact_options;
#define CENOTE_COMPACT_OPTIONS_VERSION 1u
#define CENOTE_COMPACT_OPTIONS_INIT                                                                \
    {                                                                                              \
        CENOTE_COMPACT_OPTIONS_VERSION, 0, 0, NULL, NULL                                           \
    }

typedef struct cenote_compact_result {
    uint64_t moves;          /**< blocks that have another address now */
    uint64_t moved_bytes;    /**< their size, as asked for */
    uint64_t remapped_bytes; /**< of that: by page tables, without touching a byte */
    uint64_t dropped_bytes;  /**< of tensors that were dropped instead of copied */
    bool done;               /**< nothing is left that could move further down */
} cenote_compact_result;

/** Moves unpinned tensors from the high end of the pool into holes further down, the highest first,
 *  by page tables where the system can, so that what lies above becomes free: idle memory that
 *  cenote_pool_trim() gives back, or that is given back at once where page tables moved. A call
 * that ended early is gone on with by the next one. Blocks of cenote_pool_alloc(), small ones, and
 *  pinned tensors stay.
 *  @param options     NULL: all that can move
 *  @param out_result  may be NULL
 *  Errors: CENOTE_E_VERSION. A move that the system or the budget has no room for is not made; that
 *  is no error.
 *  Threads: any, beside every other function; the pool is locked for one move at a time.
 *  Cost: a scan for each move; 64 MiB move by page tables in less than a hundredth of the time that
 *  a copy takes. */
CENOTE_MUST_CHECK CENOTE_API cenote_status
cenote_pool_compact(cenote_pool *pool, const cenote_compact_options *options,
                    cenote_compact_result *out_result, cenote_error *err);

#define CENOTE_COMPACT_ABOVE_DEFAULT 30u

/** When a pool compacts itself, and how: always for a request that finds no hole, and before it
 *  commits memory while more than @p above_percent of the range up to its last block is free
 *  (external_fragmentation of its statistics). Then it moves the fewest bytes that make a hole for
 *  the request.
 *  @param above_percent  0..100; at first CENOTE_COMPACT_ABOVE_DEFAULT; 100: only for requests that
 *                        find no hole
 *  @param options        limits and veto of each such pass; copied; NULL: none. All that is to move
 *                        is asked for before the first of it does
 *  Errors: CENOTE_E_VERSION, CENOTE_E_INVAL (above 100). */
CENOTE_MUST_CHECK CENOTE_API cenote_status
cenote_pool_compact_above(cenote_pool *pool, uint32_t above_percent,
                          const cenote_compact_options *options, cenote_error *err);

#ifdef __cplusplus
}
#endif
#endif
