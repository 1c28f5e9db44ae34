/* SPDX-License-Identifier: Apache-2.0 */
/* A typed pool: page runs over a reservation, joined to the system and the budget.
 *
 *   reservation, twice the quota   | block | idle | block |      | block | ............... |
 *                                     committed and charged   PROT_NONE     never touched
 *   metadata (own arena)           [pool | bitmaps | slack of each block]
 *
 * The reservation is twice the quota because address space is free and fragmentation is not: a
 * request within the quota finds a run even when the holes between live blocks are too short.
 *
 * What is charged is a function of the committed granules C and of the 2 MiB chunks T that they
 * touch, and of nothing else, so it can be checked at any moment:
 *
 *   charge = C * 64 KiB + max(C * 128, (T - 1) * 4 KiB)
 *
 * A page table page of 4 KiB serves 2 MiB: 128 bytes for each granule as long as blocks lie side
 * by side, which first fit sees to, and one page for each touched chunk when trimming has left
 * holes. (The first of them is in CN_RANGE_CHARGE_BYTES.) A huge page keeps such a page in reserve,
 * so it costs the same.
 *
 * Free blocks stay committed ("idle"): the first touch of memory costs far more than finding it.
 * The budget asks for idle memory when it needs it, and gets it from the high end. */
#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "alloc/page_runs.h"
#include "base/checked.h"
#include "base/poison.h"
#include "pool/budget.h"

#define GRANULE_BYTES    ((uint64_t)CENOTE_GRANULE_BYTES)
#define CHUNK_BYTES      (GRANULE_BYTES * CN_CHUNK_GRANULES)
#define TABLE_PAGE_BYTES 4096u
/* Without a quota and a limit: what to reserve, and to keep metadata for. */
#define QUOTA_BYTES_DEFAULT_MAX (UINT64_C(256) << 30)
/* More than the address space of any process today. */
#define QUOTA_BYTES_MAX (UINT64_C(1) << 47)
/* Above this, twice the quota would be more metadata than fragmentation is worth. */
#define DOUBLED_BYTES_MAX (UINT64_C(128) << 30)

struct cenote_pool {
    struct cn_budget_client client; /* first: trim gets back from it to the pool */
    cenote_budget *budget;
    struct cn_os *os;
    struct cn_arena *arena; /* holds this struct too */
    char *base;
    uint64_t reserve_bytes;
    cenote_class class_id;
    uint64_t quota_granules;

    pthread_mutex_t lock;
    struct cn_page_runs runs; /* lock, and what follows */
    uint16_t *slack_bytes;    /* by a block's first granule: whole granules less what was asked */
    uint64_t charged_bytes;
    uint64_t requested_bytes;
    uint64_t used_peak_granules;
    uint64_t committed_peak_granules;
    uint64_t alloc_count;
};

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

/* ---- what things cost ---- */

static uint64_t charge_of(uint64_t committed_granules, uint64_t touched_chunks)
{
    uint64_t dense = committed_granules * (CN_GRANULE_CHARGE_BYTES - GRANULE_BYTES);
    uint64_t sparse = touched_chunks > 0 ? (touched_chunks - 1) * TABLE_PAGE_BYTES : 0;
    return committed_granules * GRANULE_BYTES + (dense > sparse ? dense : sparse);
}

uint64_t cenote_pool_charge_bytes(uint64_t size_bytes)
{
    uint64_t granules = size_bytes / GRANULE_BYTES + (size_bytes % GRANULE_BYTES != 0);
    uint64_t charge;
    return cn_checked_mul(granules, CN_GRANULE_CHARGE_BYTES, &charge) ? charge : UINT64_MAX;
}

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

/* ---- giving idle memory back ---- */

/* Brings the charge in line with what is committed. @return bytes uncharged. Pool locked. */
static uint64_t settle(cenote_pool *pool)
{
    uint64_t charge = charge_of(pool->runs.committed_count, pool->runs.chunk_count);
    assert(charge <= pool->charged_bytes);
    uint64_t back = pool->charged_bytes - charge;
    pool->charged_bytes = charge;
    if (back > 0)
        cenote_budget_uncharge(pool->budget, back);
    return back;
}

/* Decommits a run that is in no block. Widened to whole chunks where that is possible, so that
 * their page tables go too. Pool locked. */
static void decommit(cenote_pool *pool, struct cn_run run)
{
    cn_page_runs_decommit(&pool->runs, run);
    struct cn_run whole = cn_page_runs_widen(&pool->runs, run);
    char *address = pool->base + whole.first * GRANULE_BYTES;
    cn_poison_forget(address, whole.count * GRANULE_BYTES);
    pool->os->ops->memory_decommit(pool->os, address, whole.count * GRANULE_BYTES);
}

/* Gives back idle memory from the high end until @p want_bytes are uncharged. Pool locked. */
static uint64_t trim_locked(cenote_pool *pool, uint64_t want_bytes)
{
    uint64_t back = 0, below = pool->runs.granule_count;
    struct cn_run idle;
    while (back < want_bytes && cn_page_runs_idle(&pool->runs, below, &idle)) {
        /* No more of a long run than is wanted, but no part of a chunk. */
        uint64_t end = idle.first + idle.count;
        uint64_t want_granules = (want_bytes - back) / GRANULE_BYTES + 1;
        if (want_granules < idle.count) {
            uint64_t cut = (end - want_granules) / CN_CHUNK_GRANULES * CN_CHUNK_GRANULES;
            if (cut > idle.first)
                idle = (struct cn_run){cut, end - cut};
        }
        below = idle.first;
        decommit(pool, idle);
        back += settle(pool);
    }
    return back;
}

static uint64_t trim_client(struct cn_budget_client *client, uint64_t want_bytes)
{
    cenote_pool *pool = (cenote_pool *)client;
    pthread_mutex_lock(&pool->lock);
    uint64_t back = trim_locked(pool, want_bytes);
    pthread_mutex_unlock(&pool->lock);
    return back;
}

uint64_t cenote_pool_trim(cenote_pool *pool)
{
    return trim_client(&pool->client, UINT64_MAX);
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

/* The metadata arena with an empty pool in it. */
static cenote_status pool_place(cenote_budget *budget, cenote_class class_id,
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
    pool->client.trim = trim_client;
    pool->budget = budget;
    pool->os = cn_budget_os(budget);
    pool->arena = arena;
    pool->reserve_bytes = g->reserve_bytes;
    pool->class_id = class_id;
    pool->quota_granules = g->quota_granules;
    pthread_mutex_init(&pool->lock, NULL);
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
    status = pool_place(budget, options->class_id, &g, &pool, err);
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
    cn_budget_register(budget, &pool->client);
    *out_pool = pool;
    return CENOTE_OK;

out_arena:
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
    cenote_budget *budget = pool->budget;
    cn_budget_unregister(budget, &pool->client);
    size_t live = (size_t)pool->runs.block_count;
    uint64_t charge = pool->charged_bytes +
                      range_charge_of(&(struct geometry){.reserve_bytes = pool->reserve_bytes});
    forget_poison(pool);
    pool->os->ops->memory_release(pool->os, pool->base, pool->reserve_bytes);
    pthread_mutex_destroy(&pool->lock);
    cn_arena_destroy(pool->arena); /* the pool is gone with it */
    cenote_budget_uncharge(budget, charge);
    return live;
}

/* ---- alloc, free ---- */

static cenote_status refuse_quota(const cenote_pool *pool, uint64_t size_bytes, cenote_error *err)
{
    return cenote_error_set(
        err, CENOTE_E_BUDGET,
        "pool %s: %" PRIu64 " bytes do not fit, %" PRIu64 " are used of the quota of %" PRIu64
        " and the largest hole is %" PRIu64,
        cenote_class_text(pool->class_id), size_bytes, pool->runs.used_count * GRANULE_BYTES,
        pool->quota_granules * GRANULE_BYTES,
        cn_page_runs_largest_hole(&pool->runs) * GRANULE_BYTES);
}

static cenote_status refuse_budget(const cenote_pool *pool, uint64_t size_bytes, uint64_t charge,
                                   cenote_error *err)
{
    char what[96], detail[160];
    snprintf(what, sizeof what, "pool %s: a block of %" PRIu64 " bytes",
             cenote_class_text(pool->class_id), size_bytes);
    snprintf(detail, sizeof detail,
             " (the pool has %" PRIu64 " bytes committed, its largest hole is %" PRIu64 ")",
             pool->runs.committed_count * GRANULE_BYTES,
             cn_page_runs_largest_hole(&pool->runs) * GRANULE_BYTES);
    return cn_budget_refuse(pool->budget, charge, what, detail, err);
}

/* Finds a run and charges what of it is not committed yet. Pool locked; the lock is let go while
 * the budget makes room, after which everything may have changed and is looked at afresh. */
static cenote_status find_and_charge(cenote_pool *pool, uint64_t size_bytes, uint64_t granules,
                                     struct cn_run *out_run, cenote_error *err)
{
    for (;;) {
        if (granules > pool->quota_granules - pool->runs.used_count ||
            !cn_page_runs_find(&pool->runs, granules, out_run))
            return refuse_quota(pool, size_bytes, err);
        uint64_t committed, chunks;
        cn_page_runs_preview(&pool->runs, *out_run, &committed, &chunks);
        if (committed > pool->quota_granules) {
            /* Idle memory counts against the quota too. */
            trim_locked(pool, (committed - pool->quota_granules) * GRANULE_BYTES);
            continue;
        }
        uint64_t charge = charge_of(committed, chunks) - pool->charged_bytes;
        if (cn_budget_try_charge(pool->budget, charge)) {
            pool->charged_bytes += charge;
            return CENOTE_OK;
        }
        pthread_mutex_unlock(&pool->lock);
        uint64_t back = cn_budget_make_room(pool->budget, charge);
        pthread_mutex_lock(&pool->lock);
        if (back == 0)
            return refuse_budget(pool, size_bytes, charge, err);
    }
}

/* Commits what of a charged run is not committed. Pool locked. On failure the whole run is given
 * back, what was idle in it before too: it is free memory on a machine that has none. */
static cenote_status commit(cenote_pool *pool, struct cn_run run, cenote_error *err)
{
    bool huge = run.count >= CN_CHUNK_GRANULES;
    struct cn_run part;
    while (cn_page_runs_uncommitted(&pool->runs, run, &part)) {
        int error = pool->os->ops->memory_commit(pool->os, pool->base + part.first * GRANULE_BYTES,
                                                 part.count * GRANULE_BYTES, huge);
        if (error != 0) {
            decommit(pool, run);
            settle(pool);
            return cenote_error_set(err, CENOTE_E_NOMEM, "pool %s: commit of %" PRIu64 " bytes: %s",
                                    cenote_class_text(pool->class_id), part.count * GRANULE_BYTES,
                                    strerror(-error));
        }
        cn_page_runs_commit(&pool->runs, part);
    }
    return CENOTE_OK;
}

static void count_block(cenote_pool *pool, struct cn_run run, uint64_t size_bytes)
{
    pool->slack_bytes[run.first] = (uint16_t)(run.count * GRANULE_BYTES - size_bytes);
    pool->requested_bytes += size_bytes;
    pool->alloc_count++;
    if (pool->runs.used_count > pool->used_peak_granules)
        pool->used_peak_granules = pool->runs.used_count;
    if (pool->runs.committed_count > pool->committed_peak_granules)
        pool->committed_peak_granules = pool->runs.committed_count;
}

cenote_status cenote_pool_alloc(cenote_pool *pool, uint64_t size_bytes, void **out_data,
                                cenote_error *err)
{
    if (size_bytes == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "pool %s: a block of 0 bytes",
                                cenote_class_text(pool->class_id));
    uint64_t granules = size_bytes / GRANULE_BYTES + (size_bytes % GRANULE_BYTES != 0);
    struct cn_run run;
    pthread_mutex_lock(&pool->lock);
    cenote_status status = find_and_charge(pool, size_bytes, granules, &run, err);
    if (status == CENOTE_OK)
        status = commit(pool, run, err);
    if (status == CENOTE_OK) {
        cn_page_runs_take(&pool->runs, run);
        count_block(pool, run, size_bytes);
    }
    pthread_mutex_unlock(&pool->lock);
    if (status != CENOTE_OK)
        return status;
    char *data = pool->base + run.first * GRANULE_BYTES;
    cn_poison_give(data, size_bytes, run.count * GRANULE_BYTES);
    *out_data = data;
    return CENOTE_OK;
}

void cenote_pool_free(cenote_pool *pool, void *data)
{
    if (data == NULL)
        return;
    uint64_t offset = (uint64_t)((uintptr_t)data - (uintptr_t)pool->base);
    struct cn_run run = {0, 0};
    pthread_mutex_lock(&pool->lock);
    bool found = offset % GRANULE_BYTES == 0 &&
                 cn_page_runs_block(&pool->runs, offset / GRANULE_BYTES, &run);
    assert(found && "cenote_pool_free: not a block of this pool");
    if (found) {
        cn_poison_take(data, run.count * GRANULE_BYTES);
        pool->requested_bytes -= run.count * GRANULE_BYTES - pool->slack_bytes[run.first];
        cn_page_runs_free(&pool->runs, run);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* ---- looking ---- */

static pthread_mutex_t *lock_of(const cenote_pool *pool)
{
    return (pthread_mutex_t *)(uintptr_t)&pool->lock; /* no part of what const promises */
}

void cenote_pool_stats_get(const cenote_pool *pool, cenote_pool_stats *out_stats)
{
    pthread_mutex_lock(lock_of(pool));
    *out_stats = (cenote_pool_stats){
        .class_id = pool->class_id,
        .quota_bytes = pool->quota_granules * GRANULE_BYTES,
        .requested_bytes = pool->requested_bytes,
        .used_bytes = pool->runs.used_count * GRANULE_BYTES,
        .used_peak_bytes = pool->used_peak_granules * GRANULE_BYTES,
        .committed_bytes = pool->runs.committed_count * GRANULE_BYTES,
        .committed_peak_bytes = pool->committed_peak_granules * GRANULE_BYTES,
        .block_count = pool->runs.block_count,
        .alloc_count = pool->alloc_count,
        .largest_hole_bytes = cn_page_runs_largest_hole(&pool->runs) * GRANULE_BYTES,
    };
    pthread_mutex_unlock(lock_of(pool));
}

/* Every block lies in committed memory, and what was asked for adds up. */
static const char *check_blocks(const cenote_pool *pool)
{
    uint64_t requested = 0;
    struct cn_run block, bare;
    for (uint64_t i = 0; i < pool->runs.granule_count; i++) {
        if (!cn_page_runs_block(&pool->runs, i, &block))
            continue;
        if (cn_page_runs_uncommitted(&pool->runs, block, &bare))
            return "a block is not committed";
        requested += block.count * GRANULE_BYTES - pool->slack_bytes[i];
        i += block.count - 1;
    }
    return requested == pool->requested_bytes ? NULL : "requested bytes miscounted";
}

const char *cenote_pool_check(const cenote_pool *pool)
{
    pthread_mutex_lock(lock_of(pool));
    const char *broken = cn_page_runs_check(&pool->runs);
    if (broken == NULL)
        broken = check_blocks(pool);
    if (broken == NULL && pool->runs.committed_count > pool->quota_granules)
        broken = "more than the quota is committed";
    if (broken == NULL &&
        pool->charged_bytes != charge_of(pool->runs.committed_count, pool->runs.chunk_count))
        broken = "the charge does not match what is committed";
    pthread_mutex_unlock(lock_of(pool));
    return broken;
}
