/* SPDX-License-Identifier: Apache-2.0 */
/* The slow paths of thread caches: misses, overflows, beginnings and ends.
 *
 * A cache belongs to one thread and one pool and lies in the pool's book-keeping. Two lists know
 * it, its thread's and its pool's:
 *
 *   thread A   cache(pool 1) -> cache(pool 2)            registry lock
 *   thread B   cache(pool 1)
 *   pool 1     cache of A -> cache of B                  the pool's lock
 *   all pools  that have had a cache                     registry lock
 *
 * A thread that ends gives all its caches back, and the last one empties the pool's depot; a pool
 * that ends takes its caches out of the threads' lists and leaves their slots as they are, for no
 * pool will have its number again. The registry lock is taken before a pool's, and after the
 * budget's list of clients. */
#include "pool/thread_cache.h"

#include <pthread.h>
#include <string.h>

#include "base/poison.h"
#include "pool/budget_impl.h"

/* What a bin grows by, and a batch from the slabs has, at most, unless that is less than a block.
 */
#define BATCH_BYTES 65536u
/* What a cache may hold, however large the budget. */
#define CACHE_BYTES_MAX (UINT64_C(16) << 20)

_Thread_local struct cn_thread_cache_slot cn_thread_cache_slots[CN_THREAD_CACHE_SLOTS]
    __attribute__((tls_model("initial-exec")));

/* A number of no pool, and in no slot. */
#define NO_POOL UINT64_MAX

static _Thread_local struct cn_thread_cache *thread_caches;

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static cenote_pool *pools; /* that have had a cache; registry */
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;
static pthread_key_t exit_key;
static bool exit_key_made;

static char **first_of(struct cn_thread_cache *cache, uint32_t size_class)
{
    return cache->blocks[size_class] + 1;
}

static uint32_t count_of(const struct cn_thread_cache *cache, uint32_t size_class)
{
    return (uint32_t)cn_thread_cache_count(cache, size_class);
}

static void count_set(struct cn_thread_cache *cache, uint32_t size_class, uint32_t count)
{
    atomic_store_explicit(&cache->bins[size_class].top, first_of(cache, size_class) + count,
                          memory_order_relaxed);
}

static uint32_t capacity_of(struct cn_thread_cache *cache, uint32_t size_class)
{
    return (uint32_t)(cache->bins[size_class].end - first_of(cache, size_class));
}

static void capacity_set(struct cn_thread_cache *cache, uint32_t size_class, uint32_t capacity)
{
    cache->bins[size_class].end = first_of(cache, size_class) + capacity;
}

static uint32_t id_of(const cenote_pool *pool, const char *block)
{
    return (uint32_t)((uint64_t)(block - pool->base) >> CN_CLASS_UNIT_SHIFT);
}

static char *block_of(const cenote_pool *pool, uint32_t id)
{
    return pool->base + ((uint64_t)id << CN_CLASS_UNIT_SHIFT);
}

/* ---- giving back ---- */

/* Blocks that lie in no bin. Pool locked. */
static void give_to_slabs(cenote_pool *pool, const uint32_t *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        bool given = cn_small_give(pool, ids[i]);
        assert(given && "cenote_pool_free: not a block of this pool, or freed twice");
        (void)given;
    }
}

/* The same to the depot, and what that has no room for to the slabs. Nothing is locked. */
static void put_away(struct cn_thread_cache *cache, uint32_t size_class, const uint32_t *ids,
                     uint32_t count)
{
    cenote_pool *pool = cache->pool;
    uint32_t left[CN_BIN_BLOCKS_MAX + CN_DEPOT_STALE_MAX];
    count = cn_depot_put(cache->depot, pool->budget, size_class, ids, count, left);
    if (count == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    give_to_slabs(pool, left, count);
    pthread_mutex_unlock(&pool->lock);
}

/* Takes the oldest @p count blocks out of a bin. */
static void take_oldest(struct cn_thread_cache *cache, uint32_t size_class, uint32_t count,
                        uint32_t *out_ids)
{
    uint32_t left = count_of(cache, size_class) - count;
    char **blocks = first_of(cache, size_class);
    for (uint32_t i = 0; i < count; i++)
        out_ids[i] = id_of(cache->pool, blocks[i]);
    memmove(blocks, blocks + count, left * sizeof blocks[0]);
    count_set(cache, size_class, left);
}

/* Makes room in a bin. Nothing is locked. */
static void spill(struct cn_thread_cache *cache, uint32_t size_class, uint32_t count)
{
    uint32_t ids[CN_BIN_BLOCKS_MAX];
    take_oldest(cache, size_class, count, ids);
    put_away(cache, size_class, ids, count);
}

/* ---- capacity ---- */

/* Pays for a bin's capacity: with what other bins left over, else out of the budget. */
static bool pay(struct cn_thread_cache *cache, uint64_t bytes)
{
    if (bytes > cache->spare_bytes) {
        uint64_t more = bytes - cache->spare_bytes;
        if (cache->bought_bytes + more > CACHE_BYTES_MAX ||
            !cn_budget_cache_take(cache->pool->budget, CN_CACHE_THREADS, more))
            return false;
        cache->bought_bytes += more;
        cache->spare_bytes += more;
    }
    cache->spare_bytes -= bytes;
    return true;
}

/* Looks at the next bin, as the hand of a clock: one that was not used since the last time, or
 * holds larger blocks, loses half its capacity. So small blocks, of which a byte saves most, are
 * not crowded out by large ones, and a class that was given up is forgotten. One bin each time:
 * bins that all want more would do nothing but take from each other. */
static void take_from_another(struct cn_thread_cache *cache, uint32_t size_class)
{
    uint32_t c = cache->hand = cache->hand % CN_CLASS_LAST + 1;
    uint64_t used = atomic_load_explicit(&cache->bins[c].alloc_count, memory_order_relaxed);
    bool idle = used == cache->seen[c];
    uint32_t capacity = capacity_of(cache, c), keep = capacity / 2;
    cache->seen[c] = used;
    if (c == size_class || capacity == 0 || !(idle || c > size_class))
        return;
    if (count_of(cache, c) > keep)
        spill(cache, c, count_of(cache, c) - keep);
    capacity_set(cache, c, keep);
    cache->spare_bytes += (capacity - keep) * cn_class_bytes(c);
}

/* Doubles a bin's capacity, within a batch's bytes; from 0 to 1 always. */
static bool grow(struct cn_thread_cache *cache, uint32_t size_class)
{
    uint64_t block_bytes = cn_class_bytes(size_class), step = BATCH_BYTES / block_bytes;
    uint32_t capacity = capacity_of(cache, size_class);
    step = step < capacity ? step : capacity;
    step = step > 0 ? step : 1;
    step = step < CN_BIN_BLOCKS_MAX - capacity ? step : CN_BIN_BLOCKS_MAX - capacity;
    if (step == 0)
        return false;
    uint64_t bytes = step * block_bytes;
    if (!pay(cache, bytes)) {
        take_from_another(cache, size_class);
        if (!pay(cache, bytes))
            return false;
    }
    capacity_set(cache, size_class, capacity + (uint32_t)step);
    return true;
}

/* ---- giving up ---- */

/* Empties a cache and sells all its capacity. Pool locked. @return bytes. */
static uint64_t empty(struct cn_thread_cache *cache)
{
    uint64_t bytes = 0;
    for (uint32_t c = 1; c <= CN_CLASS_LAST; c++) {
        uint32_t ids[CN_BIN_BLOCKS_MAX], count = count_of(cache, c);
        take_oldest(cache, c, count, ids);
        give_to_slabs(cache->pool, ids, count);
        bytes += count * cn_class_bytes(c);
        capacity_set(cache, c, 0);
    }
    cn_budget_cache_give(cache->pool->budget, CN_CACHE_THREADS, cache->bought_bytes);
    cache->bought_bytes = cache->spare_bytes = 0;
    return bytes;
}

static uint64_t empty_locking(struct cn_thread_cache *cache)
{
    pthread_mutex_lock(&cache->pool->lock);
    uint64_t bytes = empty(cache);
    pthread_mutex_unlock(&cache->pool->lock);
    return bytes;
}

/* The same for a pool's depot, which is everybody's. Pool locked. */
static uint64_t empty_depot(cenote_pool *pool)
{
    struct cn_depot *depot = &pool->small->depot;
    uint64_t bytes = cn_depot_bytes(depot);
    for (uint32_t c = 1; bytes > 0 && c <= CN_CLASS_LAST; c++) {
        uint32_t ids[CN_SHELF_BLOCKS_MAX];
        give_to_slabs(pool, ids, cn_depot_get(depot, c, CN_SHELF_BLOCKS_MAX, ids));
    }
    cn_depot_sell(depot, pool->budget);
    return bytes;
}

static uint64_t empty_depot_locking(cenote_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    uint64_t bytes = empty_depot(pool);
    pthread_mutex_unlock(&pool->lock);
    return bytes;
}

/* Somebody needed room since the last miss. */
static void heed(struct cn_thread_cache *cache)
{
    uint64_t epoch = cn_budget_cache_epoch(cache->pool->budget);
    if (CN_LIKELY(cache->epoch == epoch))
        return;
    cache->epoch = epoch;
    (void)empty_locking(cache);
}

/* This thread's cache of a pool, in its slot or not. Registry locked. */
static struct cn_thread_cache *cache_in_list(const cenote_pool *pool)
{
    struct cn_thread_cache *cache = thread_caches;
    while (cache != NULL && cache->pool != pool)
        cache = cache->thread_next;
    return cache;
}

uint64_t cn_thread_cache_give_up(cenote_pool *pool)
{
    uint64_t bytes = 0;
    pthread_mutex_lock(&registry);
    struct cn_thread_cache *cache = cache_in_list(pool);
    pthread_mutex_unlock(&registry);
    if (cache != NULL)
        bytes = empty_locking(cache);
    pthread_mutex_lock(&pool->lock);
    if (pool->small != NULL)
        bytes += empty_depot(pool);
    pthread_mutex_unlock(&pool->lock);
    return bytes;
}

uint64_t cn_thread_cache_give_up_all(cenote_budget *budget)
{
    uint64_t bytes = 0;
    cn_budget_cache_call(budget);
    pthread_mutex_lock(&registry);
    for (struct cn_thread_cache *cache = thread_caches; cache != NULL; cache = cache->thread_next) {
        if (cache->pool->budget != budget)
            continue;
        cache->epoch = cn_budget_cache_epoch(budget);
        bytes += empty_locking(cache);
    }
    for (cenote_pool *pool = pools; pool != NULL; pool = pool->small->next_pool)
        if (pool->budget == budget)
            bytes += empty_depot_locking(pool);
    pthread_mutex_unlock(&registry);
    return bytes;
}

/* ---- beginnings and ends ---- */

/* Takes a cache out of its pool's list; what it counted stays. Pool locked. */
static void retire(struct cn_thread_cache *cache)
{
    struct cn_small *small = cache->pool->small;
    struct cn_thread_cache **link = &small->caches;
    while (*link != cache)
        link = &(*link)->pool_next;
    *link = cache->pool_next;
    for (uint32_t c = 1; c <= CN_CLASS_LAST; c++) {
        small->counts[c].alloc_count += atomic_exchange(&cache->bins[c].alloc_count, 0);
        small->counts[c].requested_bytes += atomic_exchange(&cache->bins[c].requested_bytes, 0);
    }
    cache->pool_next = small->spare_caches;
    small->spare_caches = cache;
    if (small->caches == NULL)
        (void)empty_depot(cache->pool);
}

/* A thread ends. Other destructors of the thread may run after this one and free blocks: then the
 * thread gets caches again, and this runs again. */
static void thread_ends(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&registry);
    while (thread_caches != NULL) {
        struct cn_thread_cache *cache = thread_caches;
        cenote_pool *pool = cache->pool;
        thread_caches = cache->thread_next;
        pthread_mutex_lock(&pool->lock);
        (void)empty(cache);
        retire(cache);
        pthread_mutex_unlock(&pool->lock);
    }
    memset(cn_thread_cache_slots, 0, sizeof cn_thread_cache_slots);
    pthread_mutex_unlock(&registry);
}

static void make_exit_key(void)
{
    exit_key_made = pthread_key_create(&exit_key, thread_ends) == 0;
}

/* Lets the fast paths see the pool, unless somebody watches. Registry locked. */
static void show(cenote_pool *pool)
{
    bool watched = atomic_load_explicit(&cn_watch, memory_order_relaxed) != NULL;
    atomic_store_explicit(&pool->unwatched_id, watched ? NO_POOL : pool->id, memory_order_relaxed);
}

void cn_thread_cache_watch(cn_watch_fn watch)
{
    pthread_mutex_lock(&registry);
    atomic_store_explicit(&cn_watch, watch, memory_order_release);
    for (cenote_pool *pool = pools; pool != NULL; pool = pool->small->next_pool)
        show(pool);
    pthread_mutex_unlock(&registry);
}

/* A cache that nobody uses, or a new one. Registry and pool locked. */
static struct cn_thread_cache *place(cenote_pool *pool)
{
    struct cn_small *small = pool->small;
    struct cn_thread_cache *cache = small->spare_caches;
    if (cache != NULL) {
        small->spare_caches = cache->pool_next;
        return cache;
    }
    uint64_t at = small->at.caches_at + small->cache_count * sizeof *cache;
    if (small->cache_count == CN_THREAD_CACHES_MAX ||
        cn_small_cover(pool, at, at + sizeof *cache, NULL) != CENOTE_OK)
        return NULL;
    if (small->cache_count++ == 0) {
        small->next_pool = pools;
        pools = pool;
        show(pool);
    }
    cache = (struct cn_thread_cache *)((char *)small + at);
    for (uint32_t c = 1; c <= CN_CLASS_LAST; c++) {
        count_set(cache, c, 0);
        capacity_set(cache, c, 0);
    }
    return cache;
}

/* Registry locked. NULL when there is no memory for one: the thread does without. */
static struct cn_thread_cache *cache_make(cenote_pool *pool)
{
    (void)pthread_once(&exit_once, make_exit_key);
    if (!exit_key_made || pthread_setspecific(exit_key, &thread_caches) != 0)
        return NULL;
    pthread_mutex_lock(&pool->lock);
    struct cn_thread_cache *cache = pool->small != NULL ? place(pool) : NULL;
    if (cache != NULL) {
        cache->pool = pool;
        cache->depot = &pool->small->depot;
        cache->epoch = cn_budget_cache_epoch(pool->budget);
        cache->thread_head = &thread_caches;
        cache->thread_next = thread_caches;
        thread_caches = cache;
        cache->pool_next = pool->small->caches;
        pool->small->caches = cache;
    }
    pthread_mutex_unlock(&pool->lock);
    return cache;
}

/* This thread's cache of @p pool, made when there is none. Nothing is locked. With a debug level
 * there are none, for each block that comes and goes is to be seen. */
static struct cn_thread_cache *cache_of(cenote_pool *pool)
{
    struct cn_thread_cache_slot *slot = cn_thread_cache_slot_of(pool);
    if (pool->debug != NULL)
        return NULL;
    if (CN_UNLIKELY(slot->pool_id != pool->id)) {
        pthread_mutex_lock(&registry);
        struct cn_thread_cache *cache = cache_in_list(pool);
        if (cache == NULL)
            cache = cache_make(pool);
        pthread_mutex_unlock(&registry);
        if (cache == NULL)
            return NULL;
        *slot = (struct cn_thread_cache_slot){pool->id, cache};
    }
    heed(slot->cache);
    return slot->cache;
}

void cn_thread_cache_forget_pool(cenote_pool *pool)
{
    if (pool->small == NULL)
        return;
    pthread_mutex_lock(&registry);
    for (struct cn_thread_cache *i = pool->small->caches; i != NULL; i = i->pool_next) {
        struct cn_thread_cache **link = i->thread_head;
        while (*link != i)
            link = &(*link)->thread_next;
        *link = i->thread_next;
        cn_budget_cache_give(pool->budget, CN_CACHE_THREADS, i->bought_bytes);
    }
    cenote_pool **link = &pools;
    while (*link != NULL && *link != pool)
        link = &(*link)->small->next_pool;
    if (*link != NULL)
        *link = pool->small->next_pool;
    pthread_mutex_unlock(&registry);
}

/* ---- misses ---- */

/* Pool not locked. */
static cenote_status take_from_slabs(cenote_pool *pool, uint64_t size_bytes, uint32_t count,
                                     uint32_t *out_ids, uint32_t *out_count, cenote_error *err)
{
    pthread_mutex_lock(&pool->lock);
    cenote_status status = cn_small_take(pool, size_bytes, count, out_ids, out_count, err);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

/* Puts what a batch brought beyond the first block into the bin, the lowest on top; what it has no
 * room for goes back. */
static void fill(struct cn_thread_cache *cache, uint32_t size_class, const uint32_t *ids,
                 uint32_t count)
{
    uint32_t have = count_of(cache, size_class), room = capacity_of(cache, size_class) - have;
    uint32_t kept = count < room ? count : room;
    char **top = first_of(cache, size_class) + have;
    for (uint32_t i = kept; i-- > 0;)
        *top++ = block_of(cache->pool, ids[i]);
    count_set(cache, size_class, have + kept);
    if (kept < count)
        put_away(cache, size_class, ids + kept, count - kept);
}

/* A batch is the block that is asked for and half of what the bin may hold: of the depot, else of
 * the slabs, a batch's bytes at most. Nothing is locked. */
static cenote_status take_batch(struct cn_thread_cache *cache, uint64_t size_bytes,
                                uint32_t *out_ids, uint32_t *out_count, cenote_error *err)
{
    uint32_t size_class = cn_size_class(size_bytes);
    uint64_t block_bytes = cn_class_bytes(size_class);
    bool small = block_bytes <= BATCH_BYTES / 2;
    if (small)
        (void)grow(cache, size_class);
    uint64_t half = capacity_of(cache, size_class) / 2,
             most = small ? BATCH_BYTES / block_bytes : 0;
    *out_count = cn_depot_get(cache->depot, size_class, 1 + (uint32_t)half, out_ids);
    if (*out_count > 0)
        return CENOTE_OK;
    return take_from_slabs(cache->pool, size_bytes, 1 + (uint32_t)(half < most ? half : most),
                           out_ids, out_count, err);
}

static void count_alloc(cenote_pool *pool, struct cn_thread_cache *cache, uint64_t size_bytes)
{
    uint32_t size_class = cn_size_class(size_bytes);
    if (cache != NULL) {
        cn_add_relaxed(&cache->bins[size_class].alloc_count, 1);
        cn_add_relaxed(&cache->bins[size_class].requested_bytes, size_bytes);
        return;
    }
    struct cn_class_counts *counts = &pool->small->counts[size_class];
    pthread_mutex_lock(&pool->lock);
    counts->alloc_count++;
    counts->requested_bytes += size_bytes;
    pthread_mutex_unlock(&pool->lock);
}

static cenote_status open_books(cenote_pool *pool, cenote_error *err)
{
    pthread_mutex_lock(&pool->lock);
    cenote_status status = cn_small_open(pool, err);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

cenote_status cn_thread_cache_alloc(cenote_pool *pool, uint64_t size_bytes, void **out_data,
                                    cenote_error *err)
{
    cenote_status status = CENOTE_OK;
    if (cn_thread_cache_slot_of(pool)->pool_id != pool->id)
        status = open_books(pool, err);
    if (status != CENOTE_OK)
        return status;
    struct cn_thread_cache *cache = cache_of(pool);
    uint32_t size_class = cn_size_class(size_bytes);
    /* Another pool's cache may have been in its slot until now, or somebody watches. */
    if (cache != NULL && count_of(cache, size_class) > 0) {
        uint32_t left = count_of(cache, size_class) - 1;
        *out_data = first_of(cache, size_class)[left];
        count_set(cache, size_class, left);
        count_alloc(pool, cache, size_bytes);
        return CENOTE_OK;
    }
    uint32_t ids[1 + CN_BIN_BLOCKS_MAX], count = 0;
    status = cache != NULL ? take_batch(cache, size_bytes, ids, &count, err)
                           : take_from_slabs(pool, size_bytes, 1, ids, &count, err);
    if (status != CENOTE_OK)
        return status;
    *out_data = block_of(pool, ids[0]);
    count_alloc(pool, cache, size_bytes);
    if (count > 1)
        fill(cache, size_class, ids + 1, count - 1);
    return CENOTE_OK;
}

static void free_without_cache(cenote_pool *pool, uint32_t id)
{
    pthread_mutex_lock(&pool->lock);
    give_to_slabs(pool, &id, 1);
    pthread_mutex_unlock(&pool->lock);
}

bool cn_thread_cache_free(cenote_pool *pool, uint64_t offset)
{
    uint32_t c = cn_class_at(pool, offset);
    char *data = pool->base + offset;
    if (c == 0)
        return false;
    assert(c <= CN_CLASS_LAST && offset % 64 == 0 && "cenote_pool_free: not a block of this pool");
    struct cn_thread_cache *cache = cache_of(pool);
    uint32_t id = id_of(pool, data);
    if (cache == NULL) {
        free_without_cache(pool, id);
        return true;
    }
    for (uint32_t i = 0; i < count_of(cache, c); i++)
        assert(first_of(cache, c)[i] != data && "cenote_pool_free: a block that is free");
    uint32_t capacity = capacity_of(cache, c);
    if (count_of(cache, c) == capacity && !grow(cache, c) && capacity > 0)
        spill(cache, c, (capacity + 1) / 2);
    uint32_t count = count_of(cache, c);
    if (count == capacity_of(cache, c)) {
        put_away(cache, c, &id, 1);
        return true;
    }
    first_of(cache, c)[count] = data;
    count_set(cache, c, count + 1);
    return true;
}
