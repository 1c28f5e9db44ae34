/* SPDX-License-Identifier: Apache-2.0 */
/* Pre-warm lists, figures and the check of a tensor cache. */
#include <inttypes.h>

#include "base/checked.h"
#include "pool/tensor_cache_impl.h"
#include "pool/tensor_table.h"

/* ---- before the first step ---- */

void cenote_tensor_prewarm_common(
    cenote_dtype dtype, cenote_tensor_prewarm out_list[CENOTE_TENSOR_PREWARM_COMMON_COUNT])
{
    static const struct {
        cenote_class class_id;
        uint32_t rank;
        uint64_t shape[4];
    } common[CENOTE_TENSOR_PREWARM_COMMON_COUNT] = {
        {CENOTE_CLASS_ATTENTION, 3, {1, 512, 4096}},
        {CENOTE_CLASS_ATTENTION, 3, {1, 512, 512}},
        {CENOTE_CLASS_ATTENTION, 4, {1, 8, 512, 512}},
        {CENOTE_CLASS_ACTIVATIONS, 3, {1, 512, 11008}},
        {CENOTE_CLASS_ACTIVATIONS, 3, {1, 11008, 4096}},
        {CENOTE_CLASS_IMAGE_FEATURES, 3, {1, 576, 4096}},
        {CENOTE_CLASS_IMAGE_FEATURES, 4, {1, 3, 224, 224}},
    };
    for (size_t i = 0; i < CENOTE_TENSOR_PREWARM_COMMON_COUNT; i++) {
        out_list[i] = (cenote_tensor_prewarm){
            .class_id = common[i].class_id,
            .count = 1,
            .spec = {.dtype = dtype, .rank = common[i].rank},
        };
        for (uint32_t d = 0; d < common[i].rank; d++)
            out_list[i].spec.shape[d] = common[i].shape[d];
    }
}

/* Number of the first pool of a class; 0: none. */
static uint32_t pool_of_class(const cenote_tensor_cache *cache, cenote_class class_id)
{
    for (uint32_t p = 0; p < cache->pool_count; p++)
        if (cache->pools[p].class_id == class_id)
            return p + 1;
    return 0;
}

static cenote_status check_list(const cenote_tensor_cache *cache, const cenote_tensor_prewarm *list,
                                size_t list_count, cenote_error *err)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < list_count; i++) {
        uint64_t bytes;
        if (pool_of_class(cache, list[i].class_id) == 0)
            return cenote_error_set(err, CENOTE_E_NOTFOUND,
                                    "tensor cache: it has no pool of class %s",
                                    cenote_class_text(list[i].class_id));
        cenote_status status = cn_spec_bytes(&list[i].spec, &bytes, err);
        if (status != CENOTE_OK)
            return status;
        if (!cn_checked_mul(bytes, list[i].count, &bytes) || !cn_checked_add(sum, bytes, &sum))
            sum = UINT64_MAX;
    }
    uint64_t limit = cache->limit_bytes - CN_FRONTS_MAX * cache->front_bytes_max;
    if (sum > limit)
        return cenote_error_set(err, CENOTE_E_BUDGET,
                                "tensor cache: a list of %" PRIu64 " bytes; %" PRIu64
                                " of the cap of %" PRIu64 " are not for threads' own",
                                sum, limit, cache->limit_bytes);
    return CENOTE_OK;
}

#define PAGE_BYTES 4096u

static cenote_status touch(cenote_pool *pool, cenote_tensor tensor, uint64_t size_bytes,
                           cenote_error *err)
{
    void *data;
    cenote_status status = cenote_tensor_pin(pool, tensor, &data, err);
    if (status != CENOTE_OK)
        return status;
    for (uint64_t at = 0; at < size_bytes; at += PAGE_BYTES)
        ((volatile char *)data)[at] = 0;
    return cenote_tensor_unpin(pool, tensor, err);
}

static cenote_status warm(cenote_tensor_cache *cache, const cenote_tensor_prewarm *item,
                          cenote_error *err)
{
    uint32_t number = pool_of_class(cache, item->class_id);
    struct cn_cached_pool *part = &cache->pools[number - 1];
    uint64_t hash = cn_spec_hash(number, &item->spec);
    pthread_mutex_lock(&cache->lock);
    struct cn_shape *shape = cn_shapes_find(cache, number, &item->spec, hash);
    uint32_t kept = shape != NULL ? shape->kept_count : 0;
    pthread_mutex_unlock(&cache->lock);
    for (; kept < item->count; kept++) {
        uint64_t size_bytes;
        cenote_tensor tensor;
        cenote_status status = cn_spec_bytes(&item->spec, &size_bytes, err);
        if (status == CENOTE_OK)
            status = cn_cache_make(cache, number, &item->spec, hash, 0, &tensor, err);
        if (status != CENOTE_OK)
            return status;
        status = touch(part->pool, tensor, size_bytes, err);
        cn_cache_release_shared(cache, number, &part->records[(uint32_t)tensor]);
        if (status != CENOTE_OK)
            return status;
    }
    return CENOTE_OK;
}

cenote_status cenote_tensor_cache_prewarm(cenote_tensor_cache *cache,
                                          const cenote_tensor_prewarm *list, size_t list_count,
                                          cenote_error *err)
{
    cenote_status status = check_list(cache, list, list_count, err);
    for (size_t i = 0; i < list_count && status == CENOTE_OK; i++)
        status = warm(cache, &list[i], err);
    return status;
}

/* ---- figures ---- */

static uint64_t metadata_bytes(const cenote_tensor_cache *cache)
{
    uint64_t bytes = cn_arena_charged_bytes(cache->arena);
    for (uint32_t p = 0; p < cache->pool_count; p++)
        bytes += cn_arena_charged_bytes(cache->pools[p].arena);
    return bytes;
}

void cenote_tensor_cache_stats_get(cenote_tensor_cache *cache, cenote_class class_id,
                                   cenote_tensor_cache_stats *out_stats)
{
    cenote_tensor_cache_stats stats = {.limit_bytes = cache->limit_bytes};
    bool all = class_id == CENOTE_CLASS_COUNT;
    pthread_mutex_lock(&cache->growing); /* arenas grow under it */
    stats.metadata_bytes = metadata_bytes(cache);
    pthread_mutex_unlock(&cache->growing);
    pthread_mutex_lock(&cache->lock);
    for (unsigned c = 0; c < CENOTE_CLASS_COUNT; c++) {
        if (!all && c != (unsigned)class_id)
            continue;
        stats.hit_count += cache->counts[c].hit_count;
        stats.miss_count += cache->counts[c].miss_count;
        stats.evicted_count += cache->counts[c].evicted_count;
        stats.evicted_bytes += cache->counts[c].evicted_bytes;
    }
    for (uint32_t i = 0; i < CENOTE_TENSOR_CACHE_SHAPES_MAX; i++) {
        const struct cn_shape *shape = &cache->shapes[i];
        if (shape->pool == 0 || !(all || cache->pools[shape->pool - 1].class_id == class_id))
            continue;
        uint32_t kept = cn_shape_kept(cache, shape);
        stats.shape_count++;
        stats.kept_count += kept;
        stats.kept_bytes += kept * shape->size_bytes;
        stats.lent_count += shape->tensor_count - kept;
        stats.hit_count += cn_shape_hits(cache, shape);
        stats.miss_count += shape->miss_count;
    }
    pthread_mutex_unlock(&cache->lock);
    if (stats.hit_count > 0)
        stats.hit_rate = (double)stats.hit_count / (double)(stats.hit_count + stats.miss_count);
    *out_stats = stats;
}

size_t cenote_tensor_cache_shapes(cenote_tensor_cache *cache, cenote_tensor_cache_shape *out_shapes,
                                  size_t shape_max)
{
    size_t count = 0;
    pthread_mutex_lock(&cache->lock);
    for (uint32_t i = 0; i < CENOTE_TENSOR_CACHE_SHAPES_MAX; i++) {
        const struct cn_shape *shape = &cache->shapes[i];
        if (shape->pool == 0)
            continue;
        uint32_t kept = cn_shape_kept(cache, shape);
        if (count < shape_max)
            out_shapes[count] = (cenote_tensor_cache_shape){
                .class_id = cache->pools[shape->pool - 1].class_id,
                .kept_count = kept,
                .lent_count = shape->tensor_count - kept,
                .spec = shape->spec,
                .size_bytes = shape->size_bytes,
                .hit_count = cn_shape_hits(cache, shape),
                .miss_count = shape->miss_count,
            };
        count++;
    }
    pthread_mutex_unlock(&cache->lock);
    return count;
}

/* ---- check; locked ---- */

static const char *check_list_of(const cenote_tensor_cache *cache, const struct cn_shape *shape,
                                 uint16_t number)
{
    const struct cn_cached_pool *part = &cache->pools[shape->pool - 1];
    uint32_t count = 0, newer = 0;
    for (uint32_t r = shape->newest; r != 0; r = part->records[r - 1].older) {
        const struct cn_record *record = &part->records[r - 1];
        if (++count > shape->kept_count)
            return "a shape's list is longer than its count";
        if (record->state != CN_RECORD_KEPT || record->shape != number)
            return "a record in a list is not kept, or of another shape";
        if (record->newer != newer)
            return "a shape's list is torn";
        if (newer != 0 && part->records[newer - 1].tick <= record->tick)
            return "a shape's list is not in the order of release";
        if (!cn_tensor_is_idle(part->pool, record->tensor))
            return "a kept tensor is dead or in use";
        newer = r;
    }
    if (shape->oldest != newer)
        return "a shape's list does not end at its oldest";
    return count == shape->kept_count ? NULL : "a shape's list is shorter than its count";
}

static const char *check_front(const cenote_tensor_cache *cache, const struct cn_front *front)
{
    uint64_t bytes = 0;
    for (uint32_t w = 0; w < CN_WAYS; w++) {
        const struct cn_way *way = &front->ways[w];
        if (way->kept_count > 0 && (way->shape == 0 || !front->taken))
            return "a way keeps tensors of no shape, or for nobody";
        if (way->kept_count > CN_WAY_DEPTH)
            return "a way keeps more than it can";
        bytes += way->kept_count * way->size_bytes;
        for (uint32_t i = 0; i < way->kept_count; i++) {
            const struct cn_cached_pool *part = &cache->pools[way->pool - 1];
            const struct cn_record *record = &part->records[(uint32_t)way->kept[i]];
            if (record->tensor != way->kept[i] || record->state != CN_RECORD_FRONT ||
                record->shape != way->shape)
                return "a front's tensor has another record";
            if (!cn_tensor_is_idle(part->pool, way->kept[i]))
                return "a front's tensor is dead or in use";
        }
    }
    if (bytes != front->kept_bytes)
        return "a front's bytes are miscounted";
    return bytes <= cache->front_bytes_max ? NULL : "a front keeps more than its share";
}

static const char *check_shapes(cenote_tensor_cache *cache)
{
    uint64_t bytes = 0;
    uint32_t count = 0, ways = 0, way_refs = 0;
    for (uint32_t i = 0; i < CENOTE_TENSOR_CACHE_SHAPES_MAX; i++) {
        struct cn_shape *shape = &cache->shapes[i];
        if (shape->pool == 0)
            continue;
        const char *broken = check_list_of(cache, shape, (uint16_t)(i + 1));
        if (broken != NULL)
            return broken;
        if (cn_shapes_find(cache, shape->pool, &shape->spec, shape->hash) != shape)
            return "a shape is not found, or twice in the table";
        if (cn_shape_kept(cache, shape) > shape->tensor_count)
            return "a shape keeps more tensors than it has";
        count++;
        bytes += shape->kept_count * shape->size_bytes;
        way_refs += shape->way_count;
    }
    for (uint32_t f = 0; f < CN_FRONTS_MAX; f++)
        for (uint32_t w = 0; w < CN_WAYS; w++)
            ways += cache->fronts[f].ways[w].shape != 0;
    if (count != cache->shape_count || ways != way_refs)
        return "shapes or ways miscounted";
    return bytes == cache->kept_bytes ? NULL : "kept bytes miscounted";
}

const char *cenote_tensor_cache_check(cenote_tensor_cache *cache)
{
    uint32_t taken = 0;
    pthread_mutex_lock(&cache->lock);
    const char *broken = check_shapes(cache);
    for (uint32_t f = 0; f < CN_FRONTS_MAX && broken == NULL; f++) {
        taken += cache->fronts[f].taken;
        broken = check_front(cache, &cache->fronts[f]);
    }
    if (broken == NULL && taken != cache->front_count)
        broken = "fronts miscounted";
    if (broken == NULL && cache->kept_bytes + taken * cache->front_bytes_max > cache->limit_bytes)
        broken = "more than the cap is kept";
    pthread_mutex_unlock(&cache->lock);
    return broken;
}
