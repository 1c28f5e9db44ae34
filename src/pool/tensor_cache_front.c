/* SPDX-License-Identifier: Apache-2.0 */
/* What a thread keeps for itself: get and release without a lock.
 *
 *   cache->id % 8 ──▶ [ id, front ] of the thread     hash % 32 ──▶ [ its key, 4 handles ]
 *
 * A front is memory of the cache that one thread at a time has taken. Its ways are direct-mapped: a
 * shape that finds another one in its way takes the way over, and what was kept there goes to the
 * lists. Only the thread itself moves tensors in or out, with plain loads and stores; counts are
 * relaxed atomics so that others may read them. Whoever needs memory raises the cache's epoch, and
 * the thread, which compares it at each call, gives all of its front up.
 *
 * A slot names its cache by an id that no other cache ever has, so what it says of one that is gone
 * is never followed. When a thread ends it looks up which of its caches still are, in the registry.
 */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "pool/tensor_cache_impl.h"
#include "pool/tensor_table.h"

#define SLOTS 8u

struct slot {
    uint64_t cache_id;
    struct cn_front *front; /* NULL: all were taken */
};

static _Thread_local struct slot slots[SLOTS];

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static cenote_tensor_cache *live_caches; /* registry_lock, and what follows */
static uint64_t last_id;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* its value: the thread's slots; only for what is done when it ends */
static bool has_key;

/* ---- ways; locked, by the front's thread ---- */

static uint32_t kept_in(const struct cn_way *way)
{
    return atomic_load_explicit(&way->kept_count, memory_order_relaxed);
}

/* Moves what the way keeps to its shape's list, and its hits to the shape. @return bytes */
static uint64_t way_flush(cenote_tensor_cache *cache, struct cn_front *front, struct cn_way *way)
{
    uint32_t kept = kept_in(way);
    if (way->shape == 0)
        return 0;
    struct cn_shape *shape = &cache->shapes[way->shape - 1];
    struct cn_cached_pool *part = &cache->pools[way->pool - 1];
    for (uint32_t i = 0; i < kept; i++) /* the newest last */
        cn_cache_keep(cache, shape, &part->records[(uint32_t)way->kept[i]]);
    shape->hit_count += atomic_load_explicit(&way->hit_count, memory_order_relaxed);
    atomic_store_explicit(&way->hit_count, 0, memory_order_relaxed);
    atomic_store_explicit(&way->kept_count, 0, memory_order_relaxed);
    front->kept_bytes -= kept * way->size_bytes;
    return kept * way->size_bytes;
}

static void way_give_up(cenote_tensor_cache *cache, struct cn_front *front, struct cn_way *way)
{
    (void)way_flush(cache, front, way);
    if (way->shape != 0)
        cache->shapes[way->shape - 1].way_count--;
    way->shape = 0;
}

void cn_front_assign(cenote_tensor_cache *cache, struct cn_front *front, struct cn_shape *shape)
{
    struct cn_way *way = &front->ways[cn_way_of(shape->hash)];
    if (way->shape == shape->number || shape->size_bytes > cache->front_bytes_max)
        return;
    way_give_up(cache, front, way);
    way->spec = shape->spec;
    way->pool = shape->pool;
    way->shape = shape->number;
    way->size_bytes = shape->size_bytes;
    shape->way_count++;
}

uint64_t cn_front_flush(cenote_tensor_cache *cache, struct cn_front *front)
{
    uint64_t bytes = 0;
    for (uint32_t w = 0; w < CN_WAYS; w++)
        bytes += way_flush(cache, front, &front->ways[w]);
    front->epoch = atomic_load_explicit(&cache->epoch, memory_order_relaxed);
    return bytes;
}

/* ---- whose is what ---- */

struct cn_front *cn_front_mine(const cenote_tensor_cache *cache)
{
    const struct slot *slot = &slots[cache->id % SLOTS];
    return slot->cache_id == cache->id ? slot->front : NULL;
}

/* registry_lock held. */
static cenote_tensor_cache *live_cache(uint64_t id)
{
    cenote_tensor_cache *cache = live_caches;
    while (cache != NULL && cache->id != id)
        cache = cache->next_live;
    return cache;
}

static struct cn_front *take(cenote_tensor_cache *cache)
{
    struct cn_front *front = NULL;
    pthread_mutex_lock(&cache->lock);
    for (uint32_t i = 0; i < CN_FRONTS_MAX && front == NULL; i++)
        if (!cache->fronts[i].taken)
            front = &cache->fronts[i];
    if (front != NULL) {
        front->taken = true;
        front->epoch = atomic_load_explicit(&cache->epoch, memory_order_relaxed);
        cache->front_count++;
        cn_cache_fit(cache); /* its share of the cap */
    }
    pthread_mutex_unlock(&cache->lock);
    return front;
}

static void leave(cenote_tensor_cache *cache, struct cn_front *front)
{
    pthread_mutex_lock(&cache->lock);
    for (uint32_t w = 0; w < CN_WAYS; w++)
        way_give_up(cache, front, &front->ways[w]);
    front->taken = false;
    cache->front_count--;
    cn_cache_fit(cache);
    pthread_mutex_unlock(&cache->lock);
}

static void thread_ends(void *value)
{
    struct slot *mine = value;
    pthread_mutex_lock(&registry_lock);
    for (unsigned i = 0; i < SLOTS; i++) {
        cenote_tensor_cache *cache = live_cache(mine[i].cache_id);
        if (cache != NULL && mine[i].front != NULL)
            leave(cache, mine[i].front);
        mine[i] = (struct slot){0};
    }
    pthread_mutex_unlock(&registry_lock);
}

static void make_key(void)
{
    has_key = pthread_key_create(&key, thread_ends) == 0;
}

struct cn_front *cn_front_claim(cenote_tensor_cache *cache)
{
    struct slot *slot = &slots[cache->id % SLOTS];
    if (slot->cache_id == cache->id)
        return slot->front;
    (void)pthread_once(&key_once, make_key);
    if (!has_key || pthread_setspecific(key, slots) != 0)
        return NULL; /* nobody would tell when the thread ends */
    pthread_mutex_lock(&registry_lock);
    struct cn_front *front = NULL;
    if (live_cache(slot->cache_id) == NULL) { /* else another cache has the slot */
        front = take(cache);
        *slot = (struct slot){cache->id, front};
    }
    pthread_mutex_unlock(&registry_lock);
    return front;
}

void cn_fronts_register(cenote_tensor_cache *cache)
{
    pthread_mutex_lock(&registry_lock);
    cache->id = ++last_id;
    cache->next_live = live_caches;
    live_caches = cache;
    pthread_mutex_unlock(&registry_lock);
}

void cn_fronts_unregister(cenote_tensor_cache *cache)
{
    pthread_mutex_lock(&registry_lock);
    cenote_tensor_cache **link = &live_caches;
    while (*link != cache)
        link = &(*link)->next_live;
    *link = cache->next_live;
    pthread_mutex_unlock(&registry_lock);
}

/* ---- get, release ---- */

/* Number of the pool; 0: it is none of the cache's. */
static inline uint32_t number_of(const cenote_tensor_cache *cache, const cenote_pool *pool)
{
    for (uint32_t p = 0; p < cache->pool_count; p++)
        if (cache->pools[p].pool == pool)
            return p + 1;
    return 0;
}

static cenote_status refuse_pool(cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_INVAL, "tensor cache: the pool is none of its pools");
}

/* The way that keeps one, if there is nothing else to do. */
static inline struct cn_way *way_with_one(const cenote_tensor_cache *cache, struct cn_front *front,
                                          uint32_t pool, const cenote_tensor_spec *spec,
                                          uint64_t hash)
{
    if (CN_UNLIKELY(front == NULL || cn_front_is_behind(cache, front)))
        return NULL;
    struct cn_way *way = &front->ways[cn_way_of(hash)];
    bool hit = kept_in(way) > 0 && way->pool == pool && cn_spec_equal(&way->spec, spec);
    return CN_LIKELY(hit) ? way : NULL;
}

cenote_status cenote_tensor_cache_get(cenote_tensor_cache *cache, cenote_pool *pool,
                                      const cenote_tensor_spec *spec, cenote_tensor *out_tensor,
                                      cenote_error *err)
{
    uint32_t number = number_of(cache, pool);
    if (CN_UNLIKELY(number == 0))
        return refuse_pool(err);
    if (CN_UNLIKELY(spec->rank > CENOTE_RANK_MAX))
        return cn_spec_bytes(spec, &(uint64_t){0}, err);
    uint64_t hash = cn_spec_hash(number, spec);
    struct cn_front *front = cn_front_mine(cache);
    struct cn_way *way = way_with_one(cache, front, number, spec, hash);
    if (CN_UNLIKELY(way == NULL))
        return cn_cache_get_shared(cache, number, spec, hash, out_tensor, err);
    uint32_t kept = kept_in(way) - 1;
    cenote_tensor tensor = way->kept[kept];
    struct cn_record *record = &cache->pools[number - 1].records[(uint32_t)tensor];
    atomic_store_explicit(&way->kept_count, kept, memory_order_relaxed);
    atomic_store_explicit(&way->hit_count,
                          atomic_load_explicit(&way->hit_count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    front->kept_bytes -= way->size_bytes;
    atomic_store_explicit(&record->state, CN_RECORD_LENT, memory_order_relaxed);
    *out_tensor = tensor;
    return CENOTE_OK;
}

/* The record of a tensor that is lent and that nobody holds otherwise; NULL with err set. */
static inline struct cn_record *lent_record(const cenote_tensor_cache *cache, uint32_t number,
                                            cenote_tensor tensor, cenote_error *err)
{
    const struct cn_cached_pool *part = &cache->pools[number - 1];
    uint32_t index = (uint32_t)tensor;
    struct cn_record *record = NULL;
    if (CN_LIKELY(index < atomic_load_explicit(&part->record_count, memory_order_acquire)))
        record = &part->records[index];
    if (CN_UNLIKELY(record == NULL ||
                    atomic_load_explicit(&record->tensor, memory_order_relaxed) != tensor ||
                    atomic_load_explicit(&record->state, memory_order_relaxed) != CN_RECORD_LENT)) {
        (void)cenote_error_set(err, CENOTE_E_INVAL,
                               "tensor cache: tensor 0x%016" PRIx64 " of pool %s is not lent",
                               tensor, cenote_class_text(part->class_id));
        return NULL;
    }
    if (CN_UNLIKELY(!cn_tensor_is_idle(part->pool, tensor))) {
        (void)cenote_error_set(err, CENOTE_E_INVAL,
                               "tensor cache: tensor 0x%016" PRIx64
                               " of pool %s is pinned, referenced more than once or dead",
                               tensor, cenote_class_text(part->class_id));
        return NULL;
    }
    return record;
}

cenote_status cenote_tensor_cache_release(cenote_tensor_cache *cache, cenote_pool *pool,
                                          cenote_tensor tensor, cenote_error *err)
{
    uint32_t number = number_of(cache, pool);
    if (CN_UNLIKELY(number == 0))
        return refuse_pool(err);
    struct cn_record *record = lent_record(cache, number, tensor, err);
    if (CN_UNLIKELY(record == NULL))
        return CENOTE_E_INVAL;
    if (CN_UNLIKELY(pool->debug != NULL)) { /* so that who uses it any longer is told */
        tensor = cn_tensor_renew(pool, tensor);
        atomic_store_explicit(&record->tensor, tensor, memory_order_relaxed);
    }
    struct cn_front *front = cn_front_mine(cache);
    if (CN_LIKELY(front != NULL && record->shape != 0 && !cn_front_is_behind(cache, front))) {
        struct cn_way *way = &front->ways[record->way];
        uint32_t kept = kept_in(way);
        if (CN_LIKELY(way->shape == record->shape && kept < CN_WAY_DEPTH &&
                      way->size_bytes <= cache->front_bytes_max - front->kept_bytes)) {
            way->kept[kept] = tensor;
            front->kept_bytes += way->size_bytes;
            atomic_store_explicit(&record->state, CN_RECORD_FRONT, memory_order_relaxed);
            atomic_store_explicit(&way->kept_count, kept + 1, memory_order_relaxed);
            return CENOTE_OK;
        }
    }
    cn_cache_release_shared(cache, number, record);
    return CENOTE_OK;
}
