/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a tensor cache share.
 *
 *   tensor_cache.c          create, destroy; get and release where a lock is needed; eviction
 *   tensor_cache_front.c    get and release where none is: what a thread keeps for itself
 *   tensor_cache_shapes.c   the table of shapes, and the records of tensors
 *   tensor_cache_stats.c    pre-warm lists, figures, check
 *
 *   fronts, one a thread     shapes, found by hash               records, one array a pool,
 *   32 ways by hash                                              by the index in a handle
 *   [ 8x512, 3 handles ] ──▶ [ (attention, F32, 1x8x512) ] ◀──── [ lent      of shape 7 ]
 *   [ empty            ]     [   newest ▶ .. ◀ .. ▶ oldest ] ──▶ [ kept      of shape 7 ]
 *                            [ ...                       ]       [ in a front, ...      ]
 *
 * A record says what became of a tensor: lent, kept in a front, or kept here, then linked into its
 * shape's list by the time of its release. The list gives the newest, whose bytes are most likely
 * in a cache of the processor, and loses the oldest. Least recently used of all is the oldest of
 * the oldest: a look at each shape, which only who evicts has to take.
 *
 * Locks: `registry` < `lock` < a pool's lock; the budget's list of clients < `lock`; growing <
 * the budget's. No tensor is made under `lock`, for that may climb the budget's ladder, which comes
 * back for what is kept here. */
#ifndef CN_POOL_TENSOR_CACHE_IMPL_H
#define CN_POOL_TENSOR_CACHE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include <cenote/tensor_cache.h>

#include "base/compiler.h"
#include "pool/budget.h"

#define CN_FRONTS_MAX 8u
#define CN_WAYS       32u
#define CN_WAY_DEPTH  4u
#define CN_INDEX_SIZE (2u * CENOTE_TENSOR_CACHE_SHAPES_MAX)

/* Indices are + 1 everywhere here, so that zeroed memory says none. */

enum cn_record_state { CN_RECORD_NONE, CN_RECORD_LENT, CN_RECORD_FRONT, CN_RECORD_KEPT };

/* A line each: two threads write to theirs at every get and release. */
struct CN_ALIGNED(CN_CACHE_LINE_BYTES) cn_record {
    _Atomic cenote_tensor tensor; /* relaxed: a stranger's handle may look here at any time */
    _Atomic uint8_t state;        /* the same; enum cn_record_state */
    uint8_t way;                  /* the same for all fronts */
    uint16_t shape;               /* 0: a shape that is not known; `lock` to write */
    uint32_t older, newer;        /* lock; while kept */
    uint64_t tick;                /* lock; when it was released */
};

struct cn_shape {
    cenote_tensor_spec spec;
    uint64_t hash;
    uint64_t size_bytes;
    uint16_t pool, number;   /* 0: not in use; its place in the table + 1 */
    uint32_t newest, oldest; /* records of the pool; lock, and what follows */
    uint32_t kept_count;     /* here, not in fronts */
    uint32_t tensor_count;   /* lent, in fronts, kept */
    uint32_t way_count;      /* ways of fronts that are for this shape */
    uint64_t hit_count;      /* those in fronts not, until the way is for another shape */
    uint64_t miss_count;
    uint64_t tick; /* of the last get that came here */
};

/* A thread's tensors of one shape. The thread's; key and shape change under `lock` only. */
struct cn_way {
    cenote_tensor_spec spec;
    uint32_t pool;
    uint32_t shape;
    uint64_t size_bytes;
    _Atomic uint32_t kept_count; /* relaxed: others only look */
    _Atomic uint64_t hit_count;
    cenote_tensor kept[CN_WAY_DEPTH];
};

struct CN_ALIGNED(CN_CACHE_LINE_BYTES) cn_front {
    uint64_t kept_bytes; /* the thread's */
    uint32_t epoch;
    bool taken; /* lock */
    struct cn_way ways[CN_WAYS];
};

struct cn_cached_pool {
    struct cn_budget_client client; /* first: give gets back from it */
    cenote_tensor_cache *cache;
    cenote_pool *pool;
    cenote_class class_id;
    struct cn_arena *arena;        /* of the records */
    struct cn_record *records;     /* never moves */
    _Atomic uint32_t record_count; /* written under `growing`; release */
};

/* What shapes did before they were forgotten, and evictions, by class. */
struct cn_class_counts {
    uint64_t hit_count, miss_count;
    uint64_t evicted_count, evicted_bytes;
};

struct cenote_tensor_cache {
    struct cn_arena *arena;                /* holds this struct too */
    uint64_t id;                           /* never another cache's, and never 0 */
    struct cenote_tensor_cache *next_live; /* registry */
    uint32_t pool_count;
    struct cn_cached_pool pools[CENOTE_TENSOR_CACHE_POOLS_MAX];
    uint64_t limit_bytes;
    uint64_t front_bytes_max;
    _Atomic uint32_t epoch;  /* relaxed; more: fronts shall be given up */
    pthread_mutex_t growing; /* of the records */

    CN_ALIGNED(CN_CACHE_LINE_BYTES) pthread_mutex_t lock;
    uint32_t front_count; /* lock, and what follows: taken ones */
    uint64_t kept_bytes;  /* here, not in fronts */
    uint64_t tick;
    uint32_t shape_count;
    uint16_t index[CN_INDEX_SIZE]; /* open addressing by hash */
    struct cn_class_counts counts[CENOTE_CLASS_COUNT];
    struct cn_shape shapes[CENOTE_TENSOR_CACHE_SHAPES_MAX];
    struct cn_front fronts[CN_FRONTS_MAX];
};

/* Multilinear: a product for each dimension, which do not wait for each other. */
static inline uint64_t cn_spec_hash(uint32_t pool, const cenote_tensor_spec *spec)
{
    static const uint64_t odd[CENOTE_RANK_MAX] = {
        UINT64_C(0x9e3779b97f4a7c15), UINT64_C(0xbf58476d1ce4e5b9), UINT64_C(0x94d049bb133111eb),
        UINT64_C(0xd6e8feb86659fd93), UINT64_C(0xa0761d6478bd642f), UINT64_C(0xe7037ed1a0b428db),
        UINT64_C(0x8ebc6af09c88c6e3), UINT64_C(0x589965cc75374cc3),
    };
    uint64_t hash = ((uint64_t)pool << 16 | (uint64_t)spec->dtype << 8 | spec->rank) * odd[7];
    for (uint32_t d = 0; d < spec->rank; d++)
        hash += (spec->shape[d] + d) * odd[d];
    return hash ^ hash >> 29;
}

static inline bool cn_spec_equal(const cenote_tensor_spec *a, const cenote_tensor_spec *b)
{
    if (a->dtype != b->dtype || a->rank != b->rank)
        return false;
    for (uint32_t d = 0; d < a->rank; d++)
        if (a->shape[d] != b->shape[d])
            return false;
    return true;
}

static inline uint32_t cn_way_of(uint64_t hash)
{
    return (uint32_t)(hash >> 32) % CN_WAYS;
}

static inline bool cn_front_is_behind(const cenote_tensor_cache *cache,
                                      const struct cn_front *front)
{
    return front->epoch != atomic_load_explicit(&cache->epoch, memory_order_relaxed);
}

/* ---- tensor_cache_shapes.c ---- */

/* Errors: CENOTE_E_INVAL (dtype, rank, a dimension of 0, more than 2^64 bytes). */
CENOTE_MUST_CHECK cenote_status cn_spec_bytes(const cenote_tensor_spec *spec, uint64_t *out_bytes,
                                              cenote_error *err);

/* The shape; NULL when it is not known. Locked. */
struct cn_shape *cn_shapes_find(cenote_tensor_cache *cache, uint32_t pool,
                                const cenote_tensor_spec *spec, uint64_t hash);
/* One that is not known yet; forgets another for it when the table is full. NULL: all are in use.
 * Locked. */
struct cn_shape *cn_shapes_add(cenote_tensor_cache *cache, uint32_t pool,
                               const cenote_tensor_spec *spec, uint64_t hash, uint64_t size_bytes);
/* Free tensors of a shape, those in fronts included. Locked. */
uint32_t cn_shape_kept(const cenote_tensor_cache *cache, const struct cn_shape *shape);
/* Its hits, those counted in fronts included. Locked. */
uint64_t cn_shape_hits(const cenote_tensor_cache *cache, const struct cn_shape *shape);

/* The record of @p tensor, grown to if need be. No lock may be held. */
CENOTE_MUST_CHECK cenote_status cn_records_cover(struct cn_cached_pool *part, cenote_tensor tensor,
                                                 struct cn_record **out_record, cenote_error *err);

/* ---- tensor_cache.c ---- */

/* Where the front cannot answer. No lock may be held. */
CENOTE_MUST_CHECK cenote_status cn_cache_get_shared(cenote_tensor_cache *cache, uint32_t pool,
                                                    const cenote_tensor_spec *spec, uint64_t hash,
                                                    cenote_tensor *out_tensor, cenote_error *err);
void cn_cache_release_shared(cenote_tensor_cache *cache, uint32_t pool, struct cn_record *record);

/* A new tensor, lent. @p misses: 1 for a get, 0 for who makes it ahead. No lock may be held. */
CENOTE_MUST_CHECK cenote_status cn_cache_make(cenote_tensor_cache *cache, uint32_t pool,
                                              const cenote_tensor_spec *spec, uint64_t hash,
                                              uint32_t misses, cenote_tensor *out_tensor,
                                              cenote_error *err);

/* Links a tensor that nobody has into its shape's list. Locked; cn_cache_fit() comes after. */
void cn_cache_keep(cenote_tensor_cache *cache, struct cn_shape *shape, struct cn_record *record);
/* Frees the oldest of a shape's list. Locked. */
void cn_cache_evict(cenote_tensor_cache *cache, struct cn_shape *shape);
/* Frees the least recently released until what is kept here is within what fronts leave of the
 * cap. Locked. */
void cn_cache_fit(cenote_tensor_cache *cache);

/* ---- tensor_cache_front.c ---- */

/* Makes the way of @p shape its own, if its tensors are small enough. Locked; the front's thread.
 */
void cn_front_assign(cenote_tensor_cache *cache, struct cn_front *front, struct cn_shape *shape);
/* Moves all that the front keeps to the lists. @return bytes. Locked; the front's thread. */
uint64_t cn_front_flush(cenote_tensor_cache *cache, struct cn_front *front);
/* The calling thread's, if it has one. */
struct cn_front *cn_front_mine(const cenote_tensor_cache *cache);
/* The same; takes one if it can. No lock may be held. */
struct cn_front *cn_front_claim(cenote_tensor_cache *cache);
/* Threads that end look there. */
void cn_fronts_register(cenote_tensor_cache *cache);
void cn_fronts_unregister(cenote_tensor_cache *cache);

#endif
