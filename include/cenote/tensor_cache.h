/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  A cache of free tensors, reused by exact pool, dtype and shape.
 *
 *      get ──▶ kept one of that shape? ──yes──▶ handle ──▶ ... ──▶ release ──▶ kept
 *                      └──no──▶ cenote_tensor_create()              least recently released go
 *                                                                   first when the cap is reached
 *
 *  A model asks for the same shapes in every step. A tensor that was released here stays a live
 *  tensor of its pool, block and all, and is handed out again without looking for memory. What is
 *  kept, free, is at most a cap, and can be given up at any time: before a pool of the budget
 *  refuses anything, kept tensors go back to their pools (cenote/pool.h).
 *
 *  One cache serves several pools, and the pool is part of the key. A pool stands for its class and
 *  for the device that its memory is on, so tensors of two devices never mix.
 *
 *  Threads: every function but create and destroy from any thread. Each of the first 8 threads
 *  keeps up to 4 tensors of 32 shapes for itself, 1/32 of the cap at most; getting and releasing
 *  those takes no lock and no atomic read-modify-write. It gives them up when it ends, and at its
 *  next call after somebody needed memory or trimmed. */
#ifndef CENOTE_TENSOR_CACHE_H
#define CENOTE_TENSOR_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include <cenote/dtype.h>
#include <cenote/pool.h>
#include <cenote/status.h>
#include <cenote/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CENOTE_TENSOR_CACHE_POOLS_MAX 16u
/** Shapes that a cache knows at one time. Of one more, the one that was not asked for for longest
 *  and of which nothing is lent is forgotten; if there is none, the new one is not kept. */
#define CENOTE_TENSOR_CACHE_SHAPES_MAX 512u

/** What a tensor is asked for by. Dense and row-major. */
typedef struct cenote_tensor_spec {
    cenote_dtype dtype;
    uint32_t rank;                   /**< 0..CENOTE_RANK_MAX; 0 is a scalar */
    uint64_t shape[CENOTE_RANK_MAX]; /**< elements of each dimension, > 0; above rank ignored */
} cenote_tensor_spec;

typedef struct cenote_tensor_cache cenote_tensor_cache;

typedef struct cenote_tensor_cache_options {
    uint32_t version;          /**< CENOTE_TENSOR_CACHE_OPTIONS_VERSION */
    uint32_t pool_count;       /**< 1..CENOTE_TENSOR_CACHE_POOLS_MAX */
    cenote_pool *const *pools; /**< of one budget, no pool twice; read during create only */
    uint64_t limit_bytes;      /**< the most that free tensors may hold together, as asked for */
} cenote_tensor_cache_options;
#define CENOTE_TENSOR_CACHE_OPTIONS_VERSION 1u
#define CENOTE_TENSOR_CACHE_OPTIONS_INIT                                                           \
    {                                                                                              \
        CENOTE_TENSOR_CACHE_OPTIONS_VERSION, 0, NULL, 0                                            \
    }

/** Ownership: the caller's; the pools must outlive it. Its book-keeping is charged to their budget.
 *  Errors: CENOTE_E_VERSION, CENOTE_E_INVAL (the pools, a cap of 0), CENOTE_E_BUDGET,
 *  CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_tensor_cache_create(
    const cenote_tensor_cache_options *options, cenote_tensor_cache **out_cache, cenote_error *err);

/** Frees what is kept. No other thread may be using it. NULL is fine.
 *  @return tensors that are still lent: they live on, their caller's, until
 *          cenote_tensor_release() */
CENOTE_API size_t cenote_tensor_cache_destroy(cenote_tensor_cache *cache);

/** Lends a tensor with undefined content: one reference, no pin.
 *  @param pool        one of the cache's
 *  @param out_tensor  set on success only; give back with cenote_tensor_cache_release(), or keep it
 *                     and end it with cenote_tensor_release()
 *  Errors: CENOTE_E_INVAL (a strange pool; the spec), and those of cenote_tensor_create().
 *  Cost: a kept one: no system call, and see above; else cenote_tensor_create(). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_tensor_cache_get(cenote_tensor_cache *cache,
                                                                   cenote_pool *pool,
                                                                   const cenote_tensor_spec *spec,
                                                                   cenote_tensor *out_tensor,
                                                                   cenote_error *err);

/** Takes back what get lent, from any thread. The handle must not be used any more: it will be
 *  somebody else's. (In pools with a debug level it is dead from here on.)
 *  Errors: CENOTE_E_INVAL (not lent by this cache, given back before, or dead; pinned, or
 * referenced more than once): nothing has changed then. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_tensor_cache_release(cenote_tensor_cache *cache,
                                                                       cenote_pool *pool,
                                                                       cenote_tensor tensor,
                                                                       cenote_error *err);

/** Frees kept tensors, least recently released first, until they hold at most @p keep_bytes. Other
 *  threads' own follow at their next call. @return bytes freed, which the pools have now */
CENOTE_API uint64_t cenote_tensor_cache_trim(cenote_tensor_cache *cache, uint64_t keep_bytes);

/* ---- before the first step ---- */

/** A shape that will be asked for. */
typedef struct cenote_tensor_prewarm {
    cenote_class class_id; /**< of the cache's pools, the first of this class */
    uint32_t count;        /**< free tensors of it that there shall be, at least */
    cenote_tensor_spec spec;
} cenote_tensor_prewarm;

/** Makes tensors, touches their pages, and keeps them: the first step of a model then neither looks
 *  for memory nor faults it in. A loaded model has a list of its own: cenote_weights_prewarm().
 *  Errors: CENOTE_E_NOTFOUND (no pool of a class), CENOTE_E_INVAL (a spec), CENOTE_E_BUDGET (all of
 *  the list is more than three quarters of the cap, the rest of which is for threads' own): nothing
 *  has happened then; or those of cenote_tensor_create(),
 *  and what was made before is kept. */
CENOTE_MUST_CHECK CENOTE_API cenote_status
cenote_tensor_cache_prewarm(cenote_tensor_cache *cache, const cenote_tensor_prewarm *list,
                            size_t list_count, cenote_error *err);

/** Shapes of vision-language models of 7 B parameters, one tensor each, of the classes attention,
 *  activations (the feed-forward network) and image_features: (1,512,4096) (1,512,512)
 *  (1,8,512,512), (1,512,11008) (1,11008,4096), (1,576,4096) (1,3,224,224). */
#define CENOTE_TENSOR_PREWARM_COMMON_COUNT 7u
CENOTE_API void
cenote_tensor_prewarm_common(cenote_dtype dtype,
                             cenote_tensor_prewarm out_list[CENOTE_TENSOR_PREWARM_COMMON_COUNT]);

/* ---- looking ---- */

typedef struct cenote_tensor_cache_stats {
    uint64_t limit_bytes;
    uint64_t kept_count; /**< free tensors, threads' own included */
    uint64_t kept_bytes; /**< theirs, as asked for */
    uint64_t lent_count;
    uint64_t hit_count;
    uint64_t miss_count; /**< gets for which a tensor was made, or refused */
    uint64_t evicted_count;
    uint64_t evicted_bytes;
    uint64_t shape_count;
    uint64_t metadata_bytes; /**< charged for the cache itself; of all classes */
    double hit_rate;         /**< hits of all gets; 0 before the first */
} cenote_tensor_cache_stats;

/** @param class_id  of pools of this class; CENOTE_CLASS_COUNT: of all. Each figure is true at its
 *                   moment. Cost: O(shapes). */
CENOTE_API void cenote_tensor_cache_stats_get(cenote_tensor_cache *cache, cenote_class class_id,
                                              cenote_tensor_cache_stats *out_stats);

/** One shape that the cache knows. */
typedef struct cenote_tensor_cache_shape {
    cenote_class class_id;
    uint32_t kept_count; /**< free tensors, threads' own included */
    uint32_t lent_count;
    cenote_tensor_spec spec;
    uint64_t size_bytes; /**< of one tensor */
    uint64_t hit_count;  /**< since it is known */
    uint64_t miss_count;
} cenote_tensor_cache_shape;

/** @param out_shapes  the first @p shape_max of them, in no order; may be NULL when that is 0
 *  @return the number of shapes */
CENOTE_API size_t cenote_tensor_cache_shapes(cenote_tensor_cache *cache,
                                             cenote_tensor_cache_shape *out_shapes,
                                             size_t shape_max);

/** @return NULL, or the first broken invariant in words. No other thread may be using the cache. */
CENOTE_API const char *cenote_tensor_cache_check(cenote_tensor_cache *cache);

#ifdef __cplusplus
}
#endif
#endif
