/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at a pool: its figures, and whether they are true. */
#include <string.h>

#include "pool/debug.h"
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

void cenote_pool_stats_get(const cenote_pool *pool, cenote_pool_stats *out_stats)
{
    pthread_mutex_lock(lock_of(pool));
    const struct cn_pool_counts *counts = &pool->counts;
    const struct cn_page_runs *runs = &pool->runs;
    *out_stats = (cenote_pool_stats){
        .class_id = pool->class_id,
        .priority = pool->client.priority,
        .quota_bytes = pool->quota_granules * GRANULE_BYTES,
        .requested_bytes = counts->requested_bytes,
        .requested_peak_bytes = counts->requested_peak_bytes,
        .requested_total_bytes = counts->requested_total_bytes,
        .used_bytes = runs->used_count * GRANULE_BYTES,
        .used_peak_bytes = counts->used_peak_granules * GRANULE_BYTES,
        .used_total_bytes = counts->used_total_granules * GRANULE_BYTES,
        .committed_bytes = runs->committed_count * GRANULE_BYTES,
        .committed_peak_bytes = counts->committed_peak_granules * GRANULE_BYTES,
        .committed_total_bytes = counts->committed_total_granules * GRANULE_BYTES,
        .block_count = runs->block_count,
        .alloc_count = counts->hit_count + counts->miss_count[CENOTE_MISS_COMMIT] +
                       counts->miss_count[CENOTE_MISS_RECLAIM],
        .hit_count = counts->hit_count,
        .largest_hole_bytes = cn_page_runs_largest_hole(runs) * GRANULE_BYTES,
        .internal_fragmentation =
            share_missing(counts->requested_bytes, runs->used_count * GRANULE_BYTES),
        .external_fragmentation = share_missing(runs->used_count, cn_page_runs_top(runs)),
    };
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
        broken = cn_tensors_check(pool);
    if (broken == NULL && pool->debug != NULL)
        broken = cn_debug_check(pool);
    pthread_mutex_unlock(lock_of(pool));
    return broken;
}
