/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at a pool: its figures, and whether they are true. */
#include "pool/pool_impl.h"
#include "pool/tensor_table.h"

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
    if (broken == NULL && pool->charged_bytes !=
                              cn_pool_charge_of(pool->runs.committed_count, pool->runs.chunk_count))
        broken = "the charge does not match what is committed";
    if (broken == NULL)
        broken = cn_tensors_check(pool);
    pthread_mutex_unlock(lock_of(pool));
    return broken;
}
