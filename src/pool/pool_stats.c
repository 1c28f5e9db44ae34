/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at a pool: its figures, and whether they are true. */
#include <string.h>

#include "pool/debug.h"
#include "pool/small.h"
#include "pool/tensor_table.h"

static pthread_mutex_t *lock_of(const cenote_pool *pool)
{
    return (pthread_mutex_t *)(uintptr_t)&pool->lock; /* no part of what const promises */
}

const char *cenote_miss_text(cenote_miss miss)
{
    static const char *const texts[] = {
#define MISS_TEXT(name, text) text,
        CENOTE_MISS_TABLE(MISS_TEXT)
#undef MISS_TEXT
    };
    return (unsigned)miss < CENOTE_MISS_COUNT ? texts[miss] : "unknown miss";
}

static double share_missing(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0.0 : 1.0 - (double)part / (double)whole;
}

/* Blocks of the page runs that belong to nobody: granules of small blocks, and blocks of a class,
 * which a thread may have in its cache. */
static uint64_t runs_of_classes(const cenote_pool *pool)
{
    if (pool->small == NULL)
        return 0;
    uint64_t count = pool->small->slabs.lent_granules;
    for (uint32_t c = CN_CLASS_RUN_FIRST; c <= CN_CLASS_LAST; c++)
        count += pool->small->slabs.taken[c];
    return count;
}

uint64_t cn_pool_live_count(const cenote_pool *pool)
{
    return pool->runs.block_count - runs_of_classes(pool) + cn_small_sums(pool).live_count;
}

void cenote_pool_stats_get(const cenote_pool *pool, cenote_pool_stats *out_stats)
{
    pthread_mutex_lock(lock_of(pool));
    const struct cn_pool_counts *counts = &pool->counts;
    const struct cn_page_runs *runs = &pool->runs;
    const struct cn_small_sums small = cn_small_sums(pool);
    uint64_t obtained = pool->small != NULL ? pool->small->obtained_count : 0;
    uint64_t of_runs = counts->used_total_granules;
    of_runs -= pool->small != NULL ? pool->small->obtained_granules : 0;
    uint64_t used_total = of_runs * GRANULE_BYTES + small.used_total_bytes;
    uint64_t requested = counts->requested_bytes + small.live_requested_bytes;
    *out_stats = (cenote_pool_stats){
        .class_id = pool->class_id,
        .priority = pool->client.priority,
        .quota_bytes = pool->quota_granules * GRANULE_BYTES,
        .requested_bytes = requested,
        .requested_peak_bytes = counts->requested_peak_bytes,
        .requested_total_bytes = counts->requested_total_bytes + small.requested_total_bytes,
        .used_bytes = runs->used_count * GRANULE_BYTES,
        .used_peak_bytes = counts->used_peak_granules * GRANULE_BYTES,
        .used_total_bytes = used_total,
        .committed_bytes = runs->committed_count * GRANULE_BYTES,
        .committed_peak_bytes = counts->committed_peak_granules * GRANULE_BYTES,
        .committed_total_bytes = counts->committed_total_granules * GRANULE_BYTES,
        .block_count = cn_pool_live_count(pool),
        .alloc_count = counts->hit_count + (small.alloc_count - obtained) +
                       counts->miss_count[CENOTE_MISS_COMMIT] +
                       counts->miss_count[CENOTE_MISS_RECLAIM],
        .hit_count = counts->hit_count + (small.alloc_count - obtained),
        .largest_hole_bytes = cn_page_runs_largest_hole(runs) * GRANULE_BYTES,
        .internal_fragmentation = share_missing(requested, runs->used_count * GRANULE_BYTES),
        .external_fragmentation = share_missing(runs->used_count, cn_page_runs_top(runs)),
    };
    out_stats->thread_cached_bytes = small.cached_bytes;
    out_stats->small_metadata_bytes = pool->small != NULL ? pool->small->charged_bytes : 0;
    memcpy(out_stats->miss_count, counts->miss_count, sizeof counts->miss_count);
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
        if (!cn_small_owns(pool, i))
            requested += block.count * GRANULE_BYTES - pool->slack_bytes[i];
        i += block.count - 1;
    }
    return requested == pool->counts.requested_bytes ? NULL : "requested bytes miscounted";
}

const char *cenote_pool_check(const cenote_pool *pool)
{
    pthread_mutex_lock(lock_of(pool));
    const char *broken = cn_page_runs_check(&pool->runs);
    if (broken == NULL)
        broken = check_blocks(pool);
    if (broken == NULL && pool->runs.committed_count > pool->quota_granules)
        broken = "more than the quota is committed";
    if (broken == NULL && pool->charged_bytes !=
                              cn_pool_charge_of(pool->runs.committed_count, pool->runs.chunk_count))
        broken = "the charge does not match what is committed";
    if (broken == NULL)
        broken = cn_small_check(pool);
    if (broken == NULL)
        broken = cn_tensors_check(pool);
    if (broken == NULL && pool->debug != NULL)
        broken = cn_debug_check(pool);
    pthread_mutex_unlock(lock_of(pool));
    return broken;
}
