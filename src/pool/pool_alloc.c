/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks: whole granules, found by first fit, handed out and taken back. */
#include <assert.h>

#include "base/poison.h"
#include "pool/debug.h"
#include "pool/watch.h"

static void raise(uint64_t *peak, uint64_t value)
{
    if (value > *peak)
        *peak = value;
}

static void count_block(cenote_pool *pool, struct cn_run run, uint64_t size_bytes)
{
    struct cn_pool_counts *counts = &pool->counts;
    pool->slack_bytes[run.first] = (uint16_t)(run.count * GRANULE_BYTES - size_bytes);
    counts->requested_bytes += size_bytes;
    counts->requested_total_bytes += size_bytes;
    counts->used_total_granules += run.count;
    raise(&counts->requested_peak_bytes, counts->requested_bytes);
    raise(&counts->used_peak_granules, pool->runs.used_count);
    raise(&counts->committed_peak_granules, pool->runs.committed_count);
}

cenote_status cn_pool_block_alloc(cenote_pool *pool, uint64_t size_bytes, void **out_data,
                                  cenote_error *err)
{
    if (size_bytes == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "pool %s: a block of 0 bytes",
                                cenote_class_text(pool->class_id));
    uint64_t granules = size_bytes / GRANULE_BYTES + (size_bytes % GRANULE_BYTES != 0);
    struct cn_run run;
    pthread_mutex_lock(&pool->lock);
    cenote_status status = cn_pool_obtain(pool, size_bytes, granules, &run, err);
    if (status == CENOTE_OK) {
        cn_page_runs_take(&pool->runs, run);
        count_block(pool, run, size_bytes);
    }
    pthread_mutex_unlock(&pool->lock);
    if (status != CENOTE_OK)
        return status;
    *out_data = pool->base + run.first * GRANULE_BYTES;
    cn_poison_give(*out_data, size_bytes, run.count * GRANULE_BYTES);
    return CENOTE_OK;
}

void cn_pool_free_run(cenote_pool *pool, struct cn_run run)
{
    cn_poison_take(pool->base + run.first * GRANULE_BYTES, run.count * GRANULE_BYTES);
    pool->counts.requested_bytes -= run.count * GRANULE_BYTES - pool->slack_bytes[run.first];
    cn_page_runs_free(&pool->runs, run);
}

void cn_pool_block_free(cenote_pool *pool, void *data)
{
    uint64_t offset = (uint64_t)((uintptr_t)data - (uintptr_t)pool->base);
    struct cn_run run = {0, 0};
    pthread_mutex_lock(&pool->lock);
    bool found = offset % GRANULE_BYTES == 0 &&
                 cn_page_runs_block(&pool->runs, offset / GRANULE_BYTES, &run);
    assert(found && "cenote_pool_free: not a block of this pool");
    if (found)
        cn_pool_free_run(pool, run);
    pthread_mutex_unlock(&pool->lock);
}

cenote_status cenote_pool_alloc(cenote_pool *pool, uint64_t size_bytes, void **out_data,
                                cenote_error *err)
{
    cenote_status status = pool->debug != NULL
                               ? cn_debug_alloc(pool, size_bytes, out_data, err)
                               : cn_pool_block_alloc(pool, size_bytes, out_data, err);
    if (status == CENOTE_OK)
        cn_watch_tell(pool, CENOTE_TRACE_ALLOC, *out_data, size_bytes, 0);
    else if (size_bytes > 0)
        cn_watch_tell(pool, CENOTE_TRACE_REFUSED, NULL, size_bytes, 0);
    return status;
}

void cenote_pool_free(cenote_pool *pool, void *data)
{
    if (data == NULL)
        return;
    cn_watch_tell(pool, CENOTE_TRACE_FREE, data, 0, 0);
    if (pool->debug != NULL)
        cn_debug_free(pool, data);
    else
        cn_pool_block_free(pool, data);
}
