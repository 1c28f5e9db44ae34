/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors of known shapes, kept for the next time; drawn in tensor_cache_impl.h.
 *
 * Built on handles, not on raw blocks: a kept tensor is an unpinned live tensor of its pool, so
 * compaction may move it, and to hand it out again is to hand out its number. The generation stays
 * the same while the cache has it, which is what makes a hit cost no atomic operation; the records
 * take over what generations are for, and refuse to take a tensor back twice. (With a debug level
 * the handle is renewed at each release.)
 *
 * What is kept is soft: for each pool the cache is a client of the budget (reclaim.c) that frees
 * its least recently released tensors when somebody would be refused otherwise. */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "pool/pool_impl.h"
#include "pool/tensor_cache_impl.h"

#define FRONT_SHARE 32u /* of the cap, for each front: a quarter for all */

/* ---- lists; locked ---- */

static struct cn_cached_pool *part_of(cenote_tensor_cache *cache, uint32_t pool)
{
    return &cache->pools[pool - 1];
}

void cn_cache_keep(cenote_tensor_cache *cache, struct cn_shape *shape, struct cn_record *record)
{
    struct cn_record *records = part_of(cache, shape->pool)->records;
    uint32_t number = (uint32_t)(record - records) + 1;
    record->older = shape->newest;
    record->newer = 0;
    record->tick = ++cache->tick;
    if (shape->newest != 0)
        records[shape->newest - 1].newer = number;
    else
        shape->oldest = number;
    shape->newest = number;
    shape->kept_count++;
    cache->kept_bytes += shape->size_bytes;
    atomic_store_explicit(&record->state, CN_RECORD_KEPT, memory_order_relaxed);
}

static void unlink_record(cenote_tensor_cache *cache, struct cn_shape *shape,
                          struct cn_record *record)
{
    struct cn_record *records = part_of(cache, shape->pool)->records;
    *(record->older != 0 ? &records[record->older - 1].newer : &shape->oldest) = record->newer;
    *(record->newer != 0 ? &records[record->newer - 1].older : &shape->newest) = record->older;
    shape->kept_count--;
    cache->kept_bytes -= shape->size_bytes;
}

/* The tensor goes back to its pool. It can only fail for one that somebody uses after he gave it
 * back; then it is his. */
static void record_free(struct cn_cached_pool *part, struct cn_record *record)
{
    cenote_tensor tensor = atomic_load_explicit(&record->tensor, memory_order_relaxed);
    atomic_store_explicit(&record->tensor, CENOTE_TENSOR_NONE, memory_order_relaxed);
    atomic_store_explicit(&record->state, CN_RECORD_NONE, memory_order_relaxed);
    cenote_status status = cenote_tensor_release(part->pool, tensor, NULL);
    assert(status == CENOTE_OK && "a tensor was used after it was given back to its cache");
    (void)status;
}

void cn_cache_evict(cenote_tensor_cache *cache, struct cn_shape *shape)
{
    struct cn_cached_pool *part = part_of(cache, shape->pool);
    struct cn_class_counts *counts = &cache->counts[part->class_id];
    struct cn_record *record = &part->records[shape->oldest - 1];
    unlink_record(cache, shape, record);
    record_free(part, record);
    shape->tensor_count--;
    counts->evicted_count++;
    counts->evicted_bytes += shape->size_bytes;
}

/* The shape with the least recently released tensor of a pool, or (0) of all; NULL: none is kept.
 */
static struct cn_shape *oldest_shape(cenote_tensor_cache *cache, uint32_t pool)
{
    struct cn_shape *found = NULL;
    uint64_t tick = UINT64_MAX;
    for (uint32_t i = 0; i < CENOTE_TENSOR_CACHE_SHAPES_MAX; i++) {
        struct cn_shape *shape = &cache->shapes[i];
        if (shape->kept_count == 0 || (pool != 0 && shape->pool != pool))
            continue;
        const struct cn_record *oldest = &part_of(cache, shape->pool)->records[shape->oldest - 1];
        if (oldest->tick < tick) {
            tick = oldest->tick;
            found = shape;
        }
    }
    return found;
}

static uint64_t evict_down_to(cenote_tensor_cache *cache, uint64_t keep_bytes)
{
    uint64_t before = cache->kept_bytes;
    while (cache->kept_bytes > keep_bytes)
        cn_cache_evict(cache, oldest_shape(cache, 0));
    return before - cache->kept_bytes;
}

static uint64_t lists_limit(const cenote_tensor_cache *cache)
{
    return cache->limit_bytes - cache->front_count * cache->front_bytes_max;
}

void cn_cache_fit(cenote_tensor_cache *cache)
{
    (void)evict_down_to(cache, lists_limit(cache));
}

/* ---- get, release ---- */

/* Locks. @return the calling thread's front, up to date; NULL: it has none. */
static struct cn_front *lock_and_settle(cenote_tensor_cache *cache)
{
    struct cn_front *front = cn_front_claim(cache);
    pthread_mutex_lock(&cache->lock);
    if (front != NULL && cn_front_is_behind(cache, front)) {
        (void)cn_front_flush(cache, front);
        cn_cache_fit(cache);
    }
    return front;
}

cenote_status cn_cache_get_shared(cenote_tensor_cache *cache, uint32_t pool,
                                  const cenote_tensor_spec *spec, uint64_t hash,
                                  cenote_tensor *out_tensor, cenote_error *err)
{
    struct cn_front *front = lock_and_settle(cache);
    struct cn_shape *shape = cn_shapes_find(cache, pool, spec, hash);
    struct cn_record *record = NULL;
    if (shape != NULL && shape->kept_count > 0) {
        record = &part_of(cache, pool)->records[shape->newest - 1];
        unlink_record(cache, shape, record);
        atomic_store_explicit(&record->state, CN_RECORD_LENT, memory_order_relaxed);
        shape->hit_count++;
        shape->tick = ++cache->tick;
        if (front != NULL)
            cn_front_assign(cache, front, shape);
    }
    pthread_mutex_unlock(&cache->lock);
    if (record == NULL)
        return cn_cache_make(cache, pool, spec, hash, 1, out_tensor, err);
    *out_tensor = atomic_load_explicit(&record->tensor, memory_order_relaxed);
    return CENOTE_OK;
}

/* A tensor and its record; what the calling thread keeps to itself is no reason to fail. */
static cenote_status create(cenote_tensor_cache *cache, uint32_t pool,
                            const cenote_tensor_options *options, cenote_tensor *out_tensor,
                            struct cn_record **out_record, cenote_error *err)
{
    struct cn_cached_pool *part = part_of(cache, pool);
    cenote_status status = cenote_tensor_create(part->pool, options, out_tensor, err);
    struct cn_front *front = cn_front_mine(cache);
    if (status == CENOTE_E_BUDGET && front != NULL) {
        pthread_mutex_lock(&cache->lock);
        uint64_t flushed = cn_front_flush(cache, front);
        cn_cache_fit(cache);
        pthread_mutex_unlock(&cache->lock);
        if (flushed > 0)
            status = cenote_tensor_create(part->pool, options, out_tensor, err);
    }
    if (status != CENOTE_OK)
        return status;
    status = cn_records_cover(part, *out_tensor, out_record, err);
    if (status != CENOTE_OK)
        (void)!cenote_tensor_release(part->pool, *out_tensor, NULL);
    return status;
}

/* A new tensor's record. Locked. */
static void record_lend(cenote_tensor_cache *cache, struct cn_record *record, cenote_tensor tensor,
                        struct cn_shape *shape)
{
    if (record->shape != 0 && /* its last tensor ended behind the cache's back */
        atomic_load_explicit(&record->state, memory_order_relaxed) == CN_RECORD_LENT)
        cache->shapes[record->shape - 1].tensor_count--;
    record->shape = 0;
    if (shape != NULL) {
        shape->tensor_count++;
        record->shape = shape->number;
        record->way = (uint8_t)cn_way_of(shape->hash);
    }
    atomic_store_explicit(&record->tensor, tensor, memory_order_relaxed);
    atomic_store_explicit(&record->state, CN_RECORD_LENT, memory_order_relaxed);
}

cenote_status cn_cache_make(cenote_tensor_cache *cache, uint32_t pool,
                            const cenote_tensor_spec *spec, uint64_t hash, uint32_t misses,
                            cenote_tensor *out_tensor, cenote_error *err)
{
    uint64_t size_bytes;
    cenote_status status = cn_spec_bytes(spec, &size_bytes, err);
    if (status != CENOTE_OK)
        return status;
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    options.dtype = spec->dtype;
    options.rank = spec->rank;
    memcpy(options.shape, spec->shape, spec->rank * sizeof spec->shape[0]);
    cenote_tensor tensor;
    struct cn_record *record;
    status = create(cache, pool, &options, &tensor, &record, err);

    struct cn_front *front = lock_and_settle(cache);
    struct cn_shape *shape = cn_shapes_find(cache, pool, spec, hash);
    if (shape == NULL && status == CENOTE_OK)
        shape = cn_shapes_add(cache, pool, spec, hash, size_bytes);
    if (shape == NULL) {
        cache->counts[part_of(cache, pool)->class_id].miss_count += misses;
    } else {
        shape->miss_count += misses;
        shape->tick = ++cache->tick;
    }
    if (status == CENOTE_OK) {
        if (shape != NULL && front != NULL)
            cn_front_assign(cache, front, shape);
        record_lend(cache, record, tensor, shape);
        *out_tensor = tensor;
    }
    pthread_mutex_unlock(&cache->lock);
    return status;
}

void cn_cache_release_shared(cenote_tensor_cache *cache, uint32_t pool, struct cn_record *record)
{
    struct cn_front *front = lock_and_settle(cache);
    struct cn_shape *shape = record->shape != 0 ? &cache->shapes[record->shape - 1] : NULL;
    if (shape != NULL && shape->size_bytes <= lists_limit(cache)) {
        if (front != NULL)
            cn_front_assign(cache, front, shape);
        cn_cache_keep(cache, shape, record);
        cn_cache_fit(cache);
    } else {
        if (shape != NULL)
            shape->tensor_count--;
        record_free(part_of(cache, pool), record);
    }
    pthread_mutex_unlock(&cache->lock);
}

/* ---- giving up ---- */

/* Locked. All threads but this one give up their fronts at their next call. */
static void raise_epoch(cenote_tensor_cache *cache)
{
    struct cn_front *front = cn_front_mine(cache);
    atomic_fetch_add_explicit(&cache->epoch, 1, memory_order_relaxed);
    if (front != NULL)
        (void)cn_front_flush(cache, front);
}

static uint64_t give(struct cn_budget_client *client, uint64_t want_bytes)
{
    struct cn_cached_pool *part = (struct cn_cached_pool *)client;
    cenote_tensor_cache *cache = part->cache;
    uint32_t pool = (uint32_t)(part - cache->pools) + 1;
    uint64_t given = 0;
    struct cn_shape *shape;
    pthread_mutex_lock(&cache->lock);
    raise_epoch(cache);
    while (given < want_bytes && (shape = oldest_shape(cache, pool)) != NULL) {
        given += cn_pool_soft_bytes(part->pool, shape->size_bytes);
        cn_cache_evict(cache, shape);
    }
    cn_cache_fit(cache);
    pthread_mutex_unlock(&cache->lock);
    return given;
}

static void report(struct cn_budget_client *client, cenote_budget_holder *holder)
{
    struct cn_cached_pool *part = (struct cn_cached_pool *)client;
    cenote_tensor_cache *cache = part->cache;
    uint32_t pool = (uint32_t)(part - cache->pools) + 1;
    pthread_mutex_lock(&cache->lock);
    for (uint32_t i = 0; i < CENOTE_TENSOR_CACHE_SHAPES_MAX; i++) {
        const struct cn_shape *shape = &cache->shapes[i];
        if (shape->pool == pool)
            holder->cached_bytes +=
                cn_shape_kept(cache, shape) * cn_pool_soft_bytes(part->pool, shape->size_bytes);
    }
    pthread_mutex_unlock(&cache->lock);
}

uint64_t cenote_tensor_cache_trim(cenote_tensor_cache *cache, uint64_t keep_bytes)
{
    pthread_mutex_lock(&cache->lock);
    raise_epoch(cache);
    uint64_t freed = evict_down_to(cache, keep_bytes);
    cn_cache_fit(cache);
    pthread_mutex_unlock(&cache->lock);
    return freed;
}

/* ---- create, destroy ---- */

static cenote_status check_options(const cenote_tensor_cache_options *options, cenote_error *err)
{
    if (options->version != CENOTE_TENSOR_CACHE_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "tensor cache options: version %u, not %u",
                                options->version, CENOTE_TENSOR_CACHE_OPTIONS_VERSION);
    if (options->pool_count == 0 || options->pool_count > CENOTE_TENSOR_CACHE_POOLS_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "tensor cache: %u pools, not 1 to %u",
                                options->pool_count, CENOTE_TENSOR_CACHE_POOLS_MAX);
    if (options->limit_bytes == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "tensor cache: a cap of 0 bytes");
    for (uint32_t p = 0; p < options->pool_count; p++) {
        if (options->pools[p]->budget != options->pools[0]->budget)
            return cenote_error_set(err, CENOTE_E_INVAL,
                                    "tensor cache: pools of different budgets");
        for (uint32_t q = 0; q < p; q++)
            if (options->pools[p] == options->pools[q])
                return cenote_error_set(err, CENOTE_E_INVAL, "tensor cache: a pool twice");
    }
    return CENOTE_OK;
}

static cenote_status part_open(cenote_tensor_cache *cache, uint32_t p, cenote_pool *pool,
                               cenote_error *err)
{
    struct cn_cached_pool *part = &cache->pools[p];
    *part = (struct cn_cached_pool){
        .client = {.step = CENOTE_RECLAIM_CACHE,
                   .priority = pool->client.priority,
                   .pool = pool,
                   .give = give,
                   .report = report},
        .cache = cache,
        .pool = pool,
        .class_id = pool->class_id,
    };
    return cn_arena_create(pool->budget, CENOTE_TENSORS_MAX * sizeof(struct cn_record),
                           &part->arena, err);
}

static void free_parts(cenote_tensor_cache *cache)
{
    for (uint32_t p = 0; p < cache->pool_count; p++)
        cn_arena_destroy(cache->pools[p].arena);
    pthread_mutex_destroy(&cache->lock);
    pthread_mutex_destroy(&cache->growing);
    cn_arena_destroy(cache->arena); /* the cache is gone with it */
}

cenote_status cenote_tensor_cache_create(const cenote_tensor_cache_options *options,
                                         cenote_tensor_cache **out_cache, cenote_error *err)
{
    cenote_status status = check_options(options, err);
    if (status != CENOTE_OK)
        return status;
    cenote_budget *budget = options->pools[0]->budget;
    struct cn_arena *arena;
    status = cn_arena_create(budget, sizeof(cenote_tensor_cache), &arena, err);
    if (status != CENOTE_OK)
        return status;
    cenote_error detail;
    cenote_tensor_cache *cache = cn_arena_alloc(arena, sizeof *cache, CN_CACHE_LINE_BYTES, &detail);
    if (cache == NULL) {
        cn_arena_destroy(arena);
        return cenote_error_set(err, detail.status, "%s", detail.message);
    }
    cache->arena = arena;
    cache->limit_bytes = options->limit_bytes;
    cache->front_bytes_max = options->limit_bytes / FRONT_SHARE;
    pthread_mutex_init(&cache->lock, NULL);
    pthread_mutex_init(&cache->growing, NULL);
    for (uint32_t p = 0; p < options->pool_count && status == CENOTE_OK; p++) {
        status = part_open(cache, p, options->pools[p], err);
        cache->pool_count += status == CENOTE_OK;
    }
    if (status != CENOTE_OK) {
        free_parts(cache);
        return status;
    }
    cn_fronts_register(cache);
    for (uint32_t p = 0; p < cache->pool_count; p++)
        cn_budget_register(budget, &cache->pools[p].client);
    *out_cache = cache;
    return CENOTE_OK;
}

/* Frees what nobody has. @return the others */
static size_t empty(struct cn_cached_pool *part)
{
    size_t lent = 0;
    uint32_t count = atomic_load_explicit(&part->record_count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++) {
        switch (atomic_load_explicit(&part->records[i].state, memory_order_relaxed)) {
        case CN_RECORD_LENT:
            lent++;
            break;
        case CN_RECORD_FRONT:
        case CN_RECORD_KEPT:
            record_free(part, &part->records[i]);
            break;
        default:
            break;
        }
    }
    return lent;
}

size_t cenote_tensor_cache_destroy(cenote_tensor_cache *cache)
{
    if (cache == NULL)
        return 0;
    size_t lent = 0;
    cn_fronts_unregister(cache);
    for (uint32_t p = 0; p < cache->pool_count; p++)
        cn_budget_unregister(cache->pools[p].pool->budget, &cache->pools[p].client);
    for (uint32_t p = 0; p < cache->pool_count; p++)
        lent += empty(&cache->pools[p]);
    free_parts(cache);
    return lent;
}
