/* SPDX-License-Identifier: Apache-2.0 */
/* What of a pool is committed, what that costs, and when it goes back.
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
 * Free memory stays committed ("idle"): the first touch of memory costs far more than finding it.
 * Five things are done for that, and against holding too much:
 *
 *   whole chunks   A block of a pool whose charge no plan must know beforehand commits all of the
 *                  chunks that it touches, as huge pages, if quota and budget have room as it is.
 *                  What lies beyond the block is idle, and made resident at once, so that what is
 *                  committed is what is resident as soon as the blocks are written.
 *   pressure       Who needs memory takes idle chunks, from the high end, of all pools; and only
 *                  when these do not do takes what is idle beside blocks, which breaks huge pages.
 *   peaks          Before pools hold more in all than ever before, idle chunks serve (lend.c).
 *   decay          For each 64 chunks that a pool hands out it looks at one (page_commit.c); one
 *                  that nobody used for a whole round goes. So a chunk goes when at least 64 times
 *                  what the pool holds was handed out without it, and having it back costs at most
 *                  one chunk's first touch for 64 chunks' use.
 *   trim           All idle memory, at the caller's wish. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/poison.h"
#include "pool/compact.h"
#include "pool/debug.h"
#include "pool/thread_cache.h"
#include "pool/watch.h"

/* Decay looks at one chunk when so much was handed out. */
#define TICK_GRANULES (64 * (uint64_t)CN_CHUNK_GRANULES)

/* ---- what things cost ---- */

uint64_t cn_pool_charge_of(uint64_t committed_granules, uint64_t touched_chunks)
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

/* ---- giving idle memory back ---- */

uint64_t cn_pool_settle(cenote_pool *pool)
{
    uint64_t charge = cn_pool_charge_of(pool->runs.committed_count, pool->runs.chunk_count);
    assert(charge <= pool->charged_bytes);
    uint64_t back = pool->charged_bytes - charge;
    pool->charged_bytes = charge;
    if (back > 0)
        cenote_budget_uncharge(pool->budget, back);
    return back;
}

void cn_pool_decommit(cenote_pool *pool, struct cn_run run)
{
    cn_page_runs_decommit(&pool->runs, run);
    struct cn_run whole = cn_page_runs_widen(&pool->runs, run);
    char *address = pool->base + whole.first * GRANULE_BYTES;
    cn_poison_forget(address, whole.count * GRANULE_BYTES);
    pool->os->ops->memory_decommit(pool->os, address, whole.count * GRANULE_BYTES);
}

/* Gives back whole chunks from the high end until @p want_bytes are uncharged. Pool locked. */
static uint64_t trim_chunks(cenote_pool *pool, uint64_t want_bytes)
{
    uint64_t back = 0, below = pool->runs.granule_count;
    struct cn_run idle;
    while (back < want_bytes && cn_page_runs_idle_chunks(&pool->runs, below, &idle)) {
        uint64_t want_granules = ((want_bytes - back) / CHUNK_BYTES + 1) * CN_CHUNK_GRANULES;
        if (want_granules < idle.count) {
            idle.first += idle.count - want_granules;
            idle.count = want_granules;
        }
        below = idle.first;
        cn_pool_decommit(pool, idle);
        back += cn_pool_settle(pool);
    }
    return back;
}

/* The same with what is idle beside blocks. */
static uint64_t trim_parts(cenote_pool *pool, uint64_t want_bytes)
{
    uint64_t back = 0, below = pool->runs.granule_count;
    struct cn_run idle;
    if (pool->runs.committed_count == pool->runs.used_count)
        return 0;
    while (back < want_bytes && cn_page_runs_idle(&pool->runs, below, &idle)) {
        below = idle.first;
        cn_pool_decommit(pool, idle);
        back += cn_pool_settle(pool);
    }
    return back;
}

static uint64_t trim_locked(cenote_pool *pool, uint64_t want_bytes)
{
    uint64_t back = trim_chunks(pool, want_bytes);
    return back < want_bytes ? back + trim_parts(pool, want_bytes - back) : back;
}

uint64_t cn_pool_give_chunks(struct cn_budget_client *client, uint64_t want_bytes)
{
    cenote_pool *pool = (cenote_pool *)client;
    pthread_mutex_lock(&pool->lock);
    uint64_t back = trim_chunks(pool, want_bytes);
    pthread_mutex_unlock(&pool->lock);
    return back;
}

uint64_t cn_pool_give_parts(struct cn_budget_client *client, uint64_t want_bytes)
{
    cenote_pool *pool = (cenote_pool *)client;
    pthread_mutex_lock(&pool->lock);
    uint64_t back = trim_locked(pool, want_bytes);
    pthread_mutex_unlock(&pool->lock);
    return back;
}

/* Pool locked. */
static void decay(cenote_pool *pool)
{
    struct cn_run chunk;
    for (; pool->tick_granules >= TICK_GRANULES; pool->tick_granules -= TICK_GRANULES) {
        if (!cn_page_runs_decay(&pool->runs, &chunk))
            continue;
        cn_pool_decommit(pool, chunk);
        (void)cn_pool_settle(pool);
    }
}

uint64_t cn_pool_idle_bytes(struct cn_budget_client *client)
{
    cenote_pool *pool = (cenote_pool *)client;
    pthread_mutex_lock(&pool->lock);
    uint64_t idle_granules = pool->runs.committed_count - pool->runs.used_count;
    pthread_mutex_unlock(&pool->lock);
    return idle_granules * GRANULE_BYTES;
}

void cn_pool_report_client(struct cn_budget_client *client, cenote_budget_holder *holder)
{
    cenote_pool *pool = (cenote_pool *)client;
    pthread_mutex_lock(&pool->lock);
    uint64_t hole = cn_page_runs_largest_hole(&pool->runs) * GRANULE_BYTES;
    *holder = (cenote_budget_holder){
        .class_id = pool->class_id,
        .priority = client->priority,
        .quota_bytes = pool->quota_granules * GRANULE_BYTES,
        .charged_bytes = pool->charged_bytes,
        .live_bytes = pool->runs.used_count * GRANULE_BYTES,
        .idle_bytes = (pool->runs.committed_count - pool->runs.used_count) * GRANULE_BYTES,
        .largest_hole_bytes = hole,
        .compacted_hole_bytes = hole,
    };
    pthread_mutex_unlock(&pool->lock);
}

uint64_t cenote_pool_trim(cenote_pool *pool)
{
    cn_watch_tell(pool, CENOTE_TRACE_TRIM, NULL, 0, 0);
    if (pool->debug != NULL)
        (void)cn_debug_flush(pool);
    (void)cn_thread_cache_give_up(pool);
    return cn_pool_give_parts(&pool->client, UINT64_MAX);
}

/* ---- getting more ---- */

/* "the largest hole is X", and what compaction would make of it. Pool locked. */
#define HOLE_TEXT_BYTES 112
static const char *hole_text(cenote_pool *pool, char text[HOLE_TEXT_BYTES])
{
    uint64_t hole = cn_page_runs_largest_hole(&pool->runs), compacted = cn_compact_hole(pool);
    int length =
        snprintf(text, HOLE_TEXT_BYTES, "the largest hole is %" PRIu64, hole * GRANULE_BYTES);
    if (compacted > hole)
        snprintf(text + length, HOLE_TEXT_BYTES - (size_t)length,
                 ", compaction could make one of %" PRIu64, compacted * GRANULE_BYTES);
    return text;
}

static cenote_status refuse_quota(cenote_pool *pool, uint64_t size_bytes, cenote_error *err)
{
    char hole[HOLE_TEXT_BYTES];
    return cenote_error_set(err, CENOTE_E_BUDGET,
                            "pool %s: %" PRIu64 " bytes do not fit, %" PRIu64
                            " are used of the quota of %" PRIu64 " and %s",
                            cenote_class_text(pool->class_id), size_bytes,
                            pool->runs.used_count * GRANULE_BYTES,
                            pool->quota_granules * GRANULE_BYTES, hole_text(pool, hole));
}

/* Lets go of the lock meanwhile: who holds what is part of the answer. */
static cenote_status refuse_budget(cenote_pool *pool, uint64_t size_bytes, uint64_t charge,
                                   cenote_error *err)
{
    char what[96], detail[192], hole[HOLE_TEXT_BYTES];
    snprintf(what, sizeof what, "pool %s: a block of %" PRIu64 " bytes",
             cenote_class_text(pool->class_id), size_bytes);
    snprintf(detail, sizeof detail, " (the pool has %" PRIu64 " bytes committed, %s)",
             pool->runs.committed_count * GRANULE_BYTES, hole_text(pool, hole));
    pthread_mutex_unlock(&pool->lock);
    cenote_status status = cn_budget_refuse(pool->budget, charge, what, detail, err);
    pthread_mutex_lock(&pool->lock);
    return status;
}

/* A run that was found, and the span that is charged so that it can be committed: the run itself,
 * or all of its chunks. */
struct find {
    struct cn_run run, span;
};

/* What committing the rest of @p span would charge; *out_committed: what is committed then. */
static uint64_t charge_for(const cenote_pool *pool, struct cn_run span, uint64_t *out_committed)
{
    uint64_t chunks;
    cn_page_runs_preview(&pool->runs, span, out_committed, &chunks);
    return cn_pool_charge_of(*out_committed, chunks) - pool->charged_bytes;
}

/* Charges it; *out_charge is that also when it does not fit. */
static bool charge_span(cenote_pool *pool, struct cn_run span, uint64_t *out_charge)
{
    uint64_t committed;
    *out_charge = charge_for(pool, span, &committed);
    if (committed > pool->quota_granules || !cn_budget_try_charge(pool->budget, *out_charge))
        return false;
    pool->charged_bytes += *out_charge;
    return true;
}

/* Charges for what of @p run is not committed: in whole chunks if the pool does so and there is
 * room, else as it is. @return as look() */
static cenote_miss charge_found(cenote_pool *pool, struct cn_run run, struct cn_run *out_span,
                                uint64_t *out_charge)
{
    uint64_t committed;
    *out_span = pool->whole_chunks ? cn_page_runs_whole_chunks(&pool->runs, run) : run;
    *out_charge = charge_for(pool, *out_span, &committed);
    if (cn_budget_is_peak(pool->budget, *out_charge))
        return CENOTE_MISS_RECLAIM;
    if (pool->whole_chunks && charge_span(pool, *out_span, out_charge))
        return CENOTE_MISS_COMMIT;
    *out_span = run;
    /* Idle memory counts against the quota too. */
    while (charge_for(pool, run, &committed), committed > pool->quota_granules) {
        uint64_t above_bytes = (committed - pool->quota_granules) * GRANULE_BYTES;
        if (cn_pool_lend_self(pool, run, above_bytes) == 0)
            trim_locked(pool, above_bytes);
    }
    return charge_span(pool, run, out_charge) ? CENOTE_MISS_COMMIT : CENOTE_MISS_BUDGET;
}

/* One look: finds a run and charges what of it is not committed yet. Pool locked.
 * @return CENOTE_MISS_COUNT: all of it was; CENOTE_MISS_COMMIT: it is charged now;
 * CENOTE_MISS_RECLAIM: idle memory should serve it; else what is in the way, and by how much */
static cenote_miss look(cenote_pool *pool, uint64_t granules, struct find *out_find,
                        uint64_t *out_short_bytes)
{
    struct cn_page_runs *runs = &pool->runs;
    struct cn_run run, bare;
    uint64_t left = pool->quota_granules - runs->used_count;
    if (granules > left) {
        if (!cn_checked_mul(granules - left, GRANULE_BYTES, out_short_bytes))
            *out_short_bytes = UINT64_MAX;
        return CENOTE_MISS_QUOTA;
    }
    if (!cn_page_runs_find(runs, granules, &run)) {
        *out_short_bytes = granules * GRANULE_BYTES;
        return CENOTE_MISS_HOLE;
    }
    bool commits = cn_page_runs_uncommitted(runs, run, &bare);
    if (commits && cn_pool_compact_self(pool, &run))
        commits = cn_page_runs_uncommitted(runs, run, &bare);
    *out_find = (struct find){run, run};
    if (!commits)
        return CENOTE_MISS_COUNT;
    return charge_found(pool, run, &out_find->span, out_short_bytes);
}

/* Asks others for what is in the way. The pool is not locked. @return false: in vain */
static bool ask_others(cenote_pool *pool, cenote_miss miss, uint64_t granules, uint64_t short_bytes)
{
    switch (miss) {
    case CENOTE_MISS_QUOTA:
        return cn_budget_make_quota(pool->budget, pool, short_bytes);
    case CENOTE_MISS_HOLE:
        return cn_budget_make_hole(pool->budget, pool, short_bytes);
    case CENOTE_MISS_BUDGET:
        return cn_budget_make_room(pool->budget, pool, granules, short_bytes);
    default:
        return cn_budget_avoid_peak(pool->budget, pool, granules, short_bytes);
    }
}

/* Looks until a run is found and charged or nobody gives way any more. Pool locked; the lock is let
 * go while others are asked, after which everything may have changed. */
static cenote_status find_and_charge(cenote_pool *pool, uint64_t size_bytes, uint64_t granules,
                                     struct find *out_find, cenote_miss *out_miss,
                                     cenote_error *err)
{
    for (bool helped, any = false;; any |= helped) {
        uint64_t short_bytes = 0;
        *out_miss = look(pool, granules, out_find, &short_bytes);
        if (*out_miss == CENOTE_MISS_COUNT || *out_miss == CENOTE_MISS_COMMIT) {
            if (any)
                *out_miss = CENOTE_MISS_RECLAIM;
            return CENOTE_OK;
        }
        pthread_mutex_unlock(&pool->lock);
        helped = ask_others(pool, *out_miss, granules, short_bytes);
        pthread_mutex_lock(&pool->lock);
        if (helped || *out_miss == CENOTE_MISS_RECLAIM)
            continue;
        return *out_miss == CENOTE_MISS_BUDGET ? refuse_budget(pool, size_bytes, short_bytes, err)
                                               : refuse_quota(pool, size_bytes, err);
    }
}

/* ---- committing ---- */

static void populate(cenote_pool *pool, uint64_t first, uint64_t end)
{
    if (first < end)
        pool->os->ops->memory_populate(pool->os, pool->base + first * GRANULE_BYTES,
                                       (end - first) * GRANULE_BYTES);
}

/* Commits what of @p span is not, and makes resident what of that is not the block's. Pool locked.
 * @return 0, or an errno and what was not committed in *out_part */
static int commit_span(cenote_pool *pool, struct cn_run span, struct cn_run block,
                       struct cn_run *out_part)
{
    uint64_t block_end = block.first + block.count;
    bool huge = span.count >= CN_CHUNK_GRANULES;
    while (cn_page_runs_uncommitted(&pool->runs, span, out_part)) {
        uint64_t first = out_part->first, end = first + out_part->count;
        int error = pool->os->ops->memory_commit(pool->os, pool->base + first * GRANULE_BYTES,
                                                 out_part->count * GRANULE_BYTES, huge);
        if (error != 0)
            return error;
        cn_page_runs_commit(&pool->runs, *out_part);
        populate(pool, first, end < block.first ? end : block.first);
        populate(pool, first > block_end ? first : block_end, end);
    }
    return 0;
}

cenote_status cn_pool_commit(cenote_pool *pool, struct cn_run run, cenote_error *err)
{
    struct cn_run part;
    int error = commit_span(pool, run, run, &part);
    if (error == 0)
        return CENOTE_OK;
    cn_pool_decommit(pool, run);
    (void)cn_pool_settle(pool);
    return cenote_error_set(err, CENOTE_E_NOMEM, "pool %s: commit of %" PRIu64 " bytes: %s",
                            cenote_class_text(pool->class_id), part.count * GRANULE_BYTES,
                            strerror(-error));
}

/* The usual case: a run is there, and all of it committed. */
static bool obtain_idle(cenote_pool *pool, uint64_t granules, struct cn_run *out_run)
{
    const struct cn_page_runs *runs = &pool->runs;
    struct cn_run run;
    if (granules > pool->quota_granules - runs->used_count ||
        !cn_page_runs_find(runs, granules, &run) || !cn_page_runs_committed(runs, run))
        return false;
    *out_run = run;
    return true;
}

/* All others: what is not there is charged and committed. */
static CN_NOINLINE cenote_status obtain_more(cenote_pool *pool, uint64_t size_bytes,
                                             uint64_t granules, struct cn_run *out_run,
                                             cenote_miss *out_miss, cenote_error *err)
{
    struct find find;
    struct cn_run part;
    cenote_status status = find_and_charge(pool, size_bytes, granules, &find, out_miss, err);
    if (status != CENOTE_OK)
        return status;
    uint64_t before = pool->runs.committed_count;
    /* Where the machine refuses the whole chunks it may still have the block. */
    if (find.span.count > find.run.count)
        (void)commit_span(pool, find.span, find.run, &part);
    status = cn_pool_commit(pool, find.run, err);
    (void)cn_pool_settle(pool);
    if (status != CENOTE_OK)
        *out_miss = CENOTE_MISS_SYSTEM;
    else
        pool->counts.committed_total_granules += pool->runs.committed_count - before;
    *out_run = find.run;
    return status;
}

cenote_status cn_pool_obtain(cenote_pool *pool, uint64_t size_bytes, uint64_t granules,
                             struct cn_run *out_run, cenote_error *err)
{
    cenote_miss miss = CENOTE_MISS_COUNT;
    cenote_status status = CENOTE_OK;
    decay(pool);
    if (CN_UNLIKELY(!obtain_idle(pool, granules, out_run)))
        status = obtain_more(pool, size_bytes, granules, out_run, &miss, err);
    if (CN_LIKELY(miss == CENOTE_MISS_COUNT))
        pool->counts.hit_count++;
    else
        pool->counts.miss_count[miss]++;
    if (status == CENOTE_OK)
        pool->tick_granules += granules;
    return status;
}

/* ---- the quota ---- */

cenote_status cenote_pool_quota_set(cenote_pool *pool, uint64_t quota_bytes, cenote_error *err)
{
    uint64_t granules = quota_bytes / GRANULE_BYTES + (quota_bytes % GRANULE_BYTES != 0);
    if (granules == 0 || granules > pool->runs.granule_count)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "pool %s: a quota of %" PRIu64 " bytes is not from 1 to %" PRIu64,
                                cenote_class_text(pool->class_id), quota_bytes,
                                pool->runs.granule_count * GRANULE_BYTES);
    pthread_mutex_lock(&pool->lock);
    bool fits, helped = true;
    while (!(fits = pool->runs.used_count <= granules) && helped) {
        uint64_t above = (pool->runs.used_count - granules) * GRANULE_BYTES;
        pthread_mutex_unlock(&pool->lock);
        helped = cn_budget_make_quota(pool->budget, pool, above);
        pthread_mutex_lock(&pool->lock);
    }
    uint64_t used = pool->runs.used_count;
    if (fits) {
        pool->quota_granules = granules;
        if (pool->runs.committed_count > granules)
            trim_locked(pool, (pool->runs.committed_count - granules) * GRANULE_BYTES);
    }
    pthread_mutex_unlock(&pool->lock);
    if (fits)
        return CENOTE_OK;
    return cenote_error_set(err, CENOTE_E_BUDGET,
                            "pool %s: %" PRIu64 " bytes are in use, more than a quota of %" PRIu64,
                            cenote_class_text(pool->class_id), used * GRANULE_BYTES, quota_bytes);
}
