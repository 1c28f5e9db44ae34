/* SPDX-License-Identifier: Apache-2.0 */
/* The table of shapes and the records of tensors; drawn in tensor_cache_impl.h.
 *
 * Shapes are found by open addressing over an index of twice their number. Forgetting one is rare,
 * so it makes the index anew instead of keeping tombstones. Records lie in one arena a pool, which
 * hands out bytes side by side: record i belongs to the tensor whose handle has index i. */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "pool/tensor_cache_impl.h"

#define GROW_RECORDS 512u

cenote_status cn_spec_bytes(const cenote_tensor_spec *spec, uint64_t *out_bytes, cenote_error *err)
{
    if ((unsigned)spec->dtype >= CENOTE_DTYPE_COUNT)
        return cenote_error_set(err, CENOTE_E_INVAL, "tensor cache: dtype %u of %u",
                                (unsigned)spec->dtype, (unsigned)CENOTE_DTYPE_COUNT);
    if (spec->rank > CENOTE_RANK_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "tensor cache: %u dimensions, %u are the limit", spec->rank,
                                CENOTE_RANK_MAX);
    uint64_t bytes = cenote_dtype_bytes(spec->dtype);
    for (uint32_t d = 0; d < spec->rank; d++) {
        if (spec->shape[d] == 0)
            return cenote_error_set(err, CENOTE_E_INVAL, "tensor cache: dimension %u is 0", d);
        if (!cn_checked_mul(bytes, spec->shape[d], &bytes))
            return cenote_error_set(
                err, CENOTE_E_INVAL,
                "tensor cache: more than 2^64 bytes with dimension %u of %" PRIu64, d,
                spec->shape[d]);
    }
    *out_bytes = bytes;
    return CENOTE_OK;
}

/* ---- shapes ---- */

struct cn_shape *cn_shapes_find(cenote_tensor_cache *cache, uint32_t pool,
                                const cenote_tensor_spec *spec, uint64_t hash)
{
    for (uint64_t at = hash;; at++) {
        uint16_t number = cache->index[at % CN_INDEX_SIZE];
        if (number == 0)
            return NULL;
        struct cn_shape *shape = &cache->shapes[number - 1];
        if (shape->hash == hash && shape->pool == pool && cn_spec_equal(&shape->spec, spec))
            return shape;
    }
}

uint32_t cn_shape_kept(const cenote_tensor_cache *cache, const struct cn_shape *shape)
{
    uint32_t kept = shape->kept_count;
    for (uint32_t f = 0; f < CN_FRONTS_MAX; f++) {
        const struct cn_way *way = &cache->fronts[f].ways[cn_way_of(shape->hash)];
        if (way->shape == shape->number)
            kept += atomic_load_explicit(&way->kept_count, memory_order_relaxed);
    }
    return kept;
}

uint64_t cn_shape_hits(const cenote_tensor_cache *cache, const struct cn_shape *shape)
{
    uint64_t hits = shape->hit_count;
    for (uint32_t f = 0; f < CN_FRONTS_MAX; f++) {
        const struct cn_way *way = &cache->fronts[f].ways[cn_way_of(shape->hash)];
        if (way->shape == shape->number)
            hits += atomic_load_explicit(&way->hit_count, memory_order_relaxed);
    }
    return hits;
}

static void index_put(cenote_tensor_cache *cache, const struct cn_shape *shape)
{
    uint64_t at = shape->hash;
    while (cache->index[at % CN_INDEX_SIZE] != 0)
        at++;
    cache->index[at % CN_INDEX_SIZE] = shape->number;
}

/* The shape that was asked for longest ago and has no tensor and no way; NULL: there is none. */
static struct cn_shape *forgettable(cenote_tensor_cache *cache)
{
    struct cn_shape *found = NULL;
    for (uint32_t i = 0; i < CENOTE_TENSOR_CACHE_SHAPES_MAX; i++) {
        struct cn_shape *shape = &cache->shapes[i];
        if (shape->tensor_count == shape->kept_count && shape->way_count == 0 &&
            (found == NULL || shape->tick < found->tick))
            found = shape;
    }
    return found;
}

static void forget(cenote_tensor_cache *cache, struct cn_shape *shape)
{
    struct cn_class_counts *counts = &cache->counts[cache->pools[shape->pool - 1].class_id];
    while (shape->kept_count > 0)
        cn_cache_evict(cache, shape);
    counts->hit_count += shape->hit_count;
    counts->miss_count += shape->miss_count;
    memset(shape, 0, sizeof *shape);
    cache->shape_count--;
    memset(cache->index, 0, sizeof cache->index);
    for (uint32_t i = 0; i < CENOTE_TENSOR_CACHE_SHAPES_MAX; i++)
        if (cache->shapes[i].pool != 0)
            index_put(cache, &cache->shapes[i]);
}

struct cn_shape *cn_shapes_add(cenote_tensor_cache *cache, uint32_t pool,
                               const cenote_tensor_spec *spec, uint64_t hash, uint64_t size_bytes)
{
    struct cn_shape *shape = cache->shapes;
    if (cache->shape_count == CENOTE_TENSOR_CACHE_SHAPES_MAX) {
        shape = forgettable(cache);
        if (shape == NULL)
            return NULL;
        forget(cache, shape);
    }
    while (shape->pool != 0)
        shape++;
    *shape = (struct cn_shape){
        .spec = *spec,
        .hash = hash,
        .size_bytes = size_bytes,
        .pool = (uint16_t)pool,
        .number = (uint16_t)(shape - cache->shapes + 1),
    };
    cache->shape_count++;
    index_put(cache, shape);
    return shape;
}

/* ---- records ---- */

static cenote_status grow(struct cn_cached_pool *part, uint32_t count, cenote_error *err)
{
    cenote_error detail;
    struct cn_record *more =
        cn_arena_alloc(part->arena, GROW_RECORDS * sizeof *more, CN_CACHE_LINE_BYTES, &detail);
    if (more == NULL)
        return cenote_error_set(err, detail.status, "%s", detail.message);
    if (part->records == NULL)
        part->records = more;
    assert(more == part->records + count);
    atomic_store_explicit(&part->record_count, count + GROW_RECORDS, memory_order_release);
    return CENOTE_OK;
}

cenote_status cn_records_cover(struct cn_cached_pool *part, cenote_tensor tensor,
                               struct cn_record **out_record, cenote_error *err)
{
    uint32_t index = (uint32_t)tensor;
    cenote_status status = CENOTE_OK;
    if (index >= atomic_load_explicit(&part->record_count, memory_order_acquire)) {
        pthread_mutex_lock(&part->cache->growing);
        uint32_t count = atomic_load_explicit(&part->record_count, memory_order_relaxed);
        for (; index >= count && status == CENOTE_OK; count += GROW_RECORDS)
            status = grow(part, count, err);
        pthread_mutex_unlock(&part->cache->growing);
    }
    if (status == CENOTE_OK)
        *out_record = &part->records[index];
    return status;
}
