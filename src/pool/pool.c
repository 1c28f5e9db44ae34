/* SPDX-License-Identifier: Apache-2.0 */
/* A typed pool: page runs over a reservation, joined to the system and the budget.
 *
 *   reservation, twice the quota   | block | idle | block |      | block | ............... |
 *                                     committed and charged   PROT_NONE     never touched
 *   metadata (own arena)           [pool | bitmaps | slack of each block]
 *   of small blocks (small.h)      [depot | caches of threads | pages, slabs]    if there are any
 *
 * The reservation is twice the quota because address space is free and fragmentation is not: a
 * request within the quota finds a run even when the holes between live blocks are too short.
 *
 * Here: what follows from a quota, and a pool's beginning and end. pool_impl.h says what is where
 * else. */
#include <inttypes.h>
#include <string.h>

#include "base/lock.h"
#include "base/poison.h"
#include "pool/class_policy.h"
#include "pool/debug.h"
#include "pool/tensor_table.h"
#include "pool/thread_cache.h"
#include "pool/watch.h"

/* Without a quota and a limit: what to reserve, and to keep metadata for. */
#define QUOTA_BYTES_DEFAULT_MAX (UINT64_C(256) << 30)
/* More than the address space of any process today. */
#define QUOTA_BYTES_MAX (UINT64_C(1) << 47)
/* Above this, twice the quota would be more metadata than fragmentation is worth. */
#define DOUBLED_BYTES_MAX (UINT64_C(128) << 30)

const char *cenote_class_text(cenote_class class_id)
{
    static const char *const texts[] = {
#define CLASS_TEXT(name, text) text,
        CENOTE_CLASS_TABLE(CLASS_TEXT)
#undef CLASS_TEXT
    };
    return (unsigned)class_id < CENOTE_CLASS_COUNT ? texts[class_id] : "unknown class";
}

cenote_budget *cn_pool_budget(const cenote_pool *pool)
{
    return pool->budget;
}

/* ---- sizes ---- */

/* Sizes that follow from a quota. */
struct geometry {
    uint64_t quota_granules;
    uint64_t reserve_bytes;
    uint64_t granule_count;
    uint64_t metadata_bytes;
};

static bool geometry_of(uint64_t quota_bytes, struct geometry *out_geometry)
{
    if (quota_bytes == 0 || quota_bytes > QUOTA_BYTES_MAX)
        return false;
    struct geometry g;
    g.quota_granules = (quota_bytes + GRANULE_BYTES - 1) / GRANULE_BYTES;
    uint64_t reserve = quota_bytes <= DOUBLED_BYTES_MAX ? 2 * quota_bytes : quota_bytes;
    g.reserve_bytes = (reserve + CHUNK_BYTES - 1) / CHUNK_BYTES * CHUNK_BYTES;
    g.granule_count = g.reserve_bytes / GRANULE_BYTES;
    g.metadata_bytes = sizeof(struct cenote_pool) + cn_page_runs_metadata_bytes(g.granule_count) +
                       g.granule_count * sizeof(uint16_t);
    *out_geometry = g;
    return true;
}

/* Page tables of the range that no granule pays for: one page maps 1 GiB of last-level tables. */
static uint64_t range_charge_of(const struct geometry *g)
{
    return CN_RANGE_CHARGE_BYTES + (g->reserve_bytes >> 30) * TABLE_PAGE_BYTES;
}

uint64_t cenote_pool_overhead_bytes(uint64_t quota_bytes)
{
    struct geometry g = {0};
    if (!geometry_of(quota_bytes, &g))
        return UINT64_MAX;
    return cn_arena_charge_bytes(g.metadata_bytes) + range_charge_of(&g);
}

/* ---- create, destroy ---- */

static cenote_status quota_of(cenote_budget *budget, const cenote_pool_options *options,
                              struct geometry *out_geometry, cenote_error *err)
{
    if (options->version != CENOTE_POOL_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "pool options: version %u, not %u",
                                options->version, CENOTE_POOL_OPTIONS_VERSION);
    if ((unsigned)options->class_id >= CENOTE_CLASS_COUNT)
        return cenote_error_set(err, CENOTE_E_INVAL, "pool: class %u of %u",
                                (unsigned)options->class_id, (unsigned)CENOTE_CLASS_COUNT);
    cenote_budget_stats stats;
    cenote_budget_stats_get(budget, &stats);
    uint64_t quota = options->quota_bytes;
    if (quota == 0)
        quota = stats.limit_bytes < QUOTA_BYTES_DEFAULT_MAX ? stats.limit_bytes
                                                            : QUOTA_BYTES_DEFAULT_MAX;
    if (!geometry_of(quota, out_geometry))
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "pool %s: a quota of %" PRIu64 " bytes is above %" PRIu64,
                                cenote_class_text(options->class_id), quota, QUOTA_BYTES_MAX);
    return CENOTE_OK;
}

/* Of the process so far. */
static _Atomic uint32_t pool_count;

/* The metadata arena with an empty pool in it. */
static cenote_status pool_place(cenote_budget *budget, const cenote_pool_options *options,
                                const struct geometry *g, cenote_pool **out_pool, cenote_error *err)
{
    struct cn_arena *arena;
    cenote_status status = cn_arena_create(budget, g->metadata_bytes, &arena, err);
    if (status != CENOTE_OK)
        return status;
    cenote_error detail;
    char *metadata = cn_arena_alloc(arena, g->metadata_bytes, 64, &detail);
    if (metadata == NULL) {
        cn_arena_destroy(arena);
        return cenote_error_set(err, detail.status, "%s", detail.message);
    }
    cenote_pool *pool = (cenote_pool *)metadata;
    pool->client = (struct cn_budget_client){
        .step = CENOTE_RECLAIM_IDLE,
        .priority = options->priority != 0 ? options->priority
                                           : cn_class_policy(options->class_id)->priority,
        .pool = pool,
        .give = cn_pool_give_chunks,
        .lend = cn_pool_lend,
        .idle_bytes = cn_pool_idle_bytes,
        .give_parts = cn_pool_give_parts,
        .report = cn_pool_report_client,
    };
    pool->budget = budget;
    pool->os = cn_budget_os(budget);
    pool->arena = arena;
    pool->reserve_bytes = g->reserve_bytes;
    pool->class_id = options->class_id;
    pool->number = atomic_fetch_add(&pool_count, 1);
    const struct cn_class_policy *policy = cn_class_policy(options->class_id);
    pool->whole_chunks = policy->whole_chunks && !options->exact_runs;
    pool->small_blocks =
        policy->small_blocks && !options->exact_runs && g->granule_count <= CN_SLAB_GRANULES_MAX;
    pool->id = (uint64_t)pool->number + 1;
    pool->unwatched_id = UINT64_MAX; /* until it has a cache */
    pool->slot_at = pool->id % CN_THREAD_CACHE_SLOTS * sizeof(struct cn_thread_cache_slot);
    pool->quota_granules = g->quota_granules;
    cn_lock_init(&pool->lock);
    pthread_mutex_init(&pool->tensors_lock, NULL);
    pool->compact_above = CENOTE_COMPACT_ABOVE_DEFAULT;
    char *bitmaps = metadata + sizeof *pool;
    cn_page_runs_init(&pool->runs, g->granule_count, bitmaps);
    pool->slack_bytes = (uint16_t *)(bitmaps + cn_page_runs_metadata_bytes(g->granule_count));
    *out_pool = pool;
    return CENOTE_OK;
}

cenote_status cenote_pool_create(cenote_budget *budget, const cenote_pool_options *options,
                                 cenote_pool **out_pool, cenote_error *err)
{
    struct geometry g = {0};
    cenote_pool *pool;
    cenote_status status = quota_of(budget, options, &g, err);
    if (status != CENOTE_OK)
        return status;
    const char *name = cenote_class_text(options->class_id);
    status = cenote_budget_charge(budget, range_charge_of(&g), name, err);
    if (status != CENOTE_OK)
        return status;
    status = pool_place(budget, options, &g, &pool, err);
    if (status != CENOTE_OK)
        goto out_uncharge;
    void *base;
    int error = pool->os->ops->memory_reserve(pool->os, g.reserve_bytes, &base);
    if (error != 0) {
        status =
            cenote_error_set(err, CENOTE_E_NOMEM, "pool %s: reservation of %" PRIu64 " bytes: %s",
                             name, g.reserve_bytes, strerror(-error));
        goto out_arena;
    }
    pool->base = base;
    status = cn_debug_open(pool, options->debug_level, err);
    if (status != CENOTE_OK)
        goto out_release;
    cn_budget_register(budget, &pool->client);
    *out_pool = pool;
    return CENOTE_OK;

out_release:
    pool->os->ops->memory_release(pool->os, pool->base, g.reserve_bytes);
out_arena:
    pthread_mutex_destroy(&pool->tensors_lock);
    pthread_mutex_destroy(&pool->lock);
    cn_arena_destroy(pool->arena);
out_uncharge:
    cenote_budget_uncharge(budget, range_charge_of(&g));
    return status;
}

/* Blocks may be live: their marks go with them. */
static void forget_poison(cenote_pool *pool)
{
    struct cn_run bare, rest = {0, pool->runs.granule_count};
    while (rest.count > 0) {
        if (!cn_page_runs_uncommitted(&pool->runs, rest, &bare))
            bare = (struct cn_run){rest.first + rest.count, 0};
        cn_poison_forget(pool->base + rest.first * GRANULE_BYTES,
                         (bare.first - rest.first) * GRANULE_BYTES);
        uint64_t end = rest.first + rest.count;
        rest.first = bare.first + bare.count;
        rest.count = end - rest.first;
    }
}

size_t cenote_pool_destroy(cenote_pool *pool)
{
    if (pool == NULL)
        return 0;
    cn_watch_tell(pool, CENOTE_TRACE_DESTROY, NULL, 0, 0);
    cenote_budget *budget = pool->budget;
    cn_tensors_destroy(pool);
    if (pool->debug != NULL)
        cn_debug_close(pool);
    cn_budget_unregister(budget, &pool->client);
    cn_thread_cache_forget_pool(pool); /* from here on nobody else knows it */
    size_t live = (size_t)cn_pool_live_count(pool);
    cn_small_close(pool);
    uint64_t charge = pool->charged_bytes +
                      range_charge_of(&(struct geometry){.reserve_bytes = pool->reserve_bytes});
    forget_poison(pool);
    pool->os->ops->memory_release(pool->os, pool->base, pool->reserve_bytes);
    pthread_mutex_destroy(&pool->tensors_lock);
    pthread_mutex_destroy(&pool->lock);
    cn_arena_destroy(pool->arena); /* the pool is gone with it */
    cenote_budget_uncharge(budget, charge);
    cn_budget_lower_mark(budget);
    return live;
}

uint64_t cenote_pool_offset(const cenote_pool *pool, const void *data)
{
    return (uint64_t)((uintptr_t)data - (uintptr_t)pool->base);
}
