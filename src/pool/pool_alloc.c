/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks handed out and taken back: from this thread's cache if it can be, else a block of a class
 * by the slow way (thread_cache.c), else whole granules, found by first fit. */
#include <assert.h>

#include "base/poison.h"
#include "pool/debug.h"
#include "pool/thread_cache.h"
#include "pool/watch.h"

static void raise(uint64_t *peak, uint64_t value)
{
    if (value > *peak)
        *peak = value;
}

void cn_pool_raise_peaks(cenote_pool *pool)
{
    struct cn_pool_counts *counts = &pool->counts;
    uint64_t small_bytes = pool->small != NULL ? pool->small->slabs.taken_bytes : 0;
    raise(&counts->requested_peak_bytes, counts->requested_bytes + small_bytes);
    raise(&counts->used_peak_granules, pool->runs.used_count);
    raise(&counts->committed_peak_granules, pool->runs.committed_count);
}

/* ---- runs of whole granules ---- */

static void count_block(cenote_pool *pool, struct cn_run run, uint64_t size_bytes)
{
    struct cn_pool_counts *counts = &pool->counts;
    pool->slack_bytes[run.first] = (uint16_t)(run.count * GRANULE_BYTES - size_bytes);
    counts->requested_bytes += size_bytes;
    counts->requested_total_bytes += size_bytes;
    counts->used_total_granules += run.count;
    cn_pool_raise_peaks(pool);
}

static cenote_status run_alloc(cenote_pool *pool, uint64_t size_bytes, void **out_data,
                               cenote_error *err)
{
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
    if (!cn_small_lost(pool, run.first))
        pool->counts.requested_bytes -= run.count * GRANULE_BYTES - pool->slack_bytes[run.first];
    cn_page_runs_free(&pool->runs, run);
}

static void run_free(cenote_pool *pool, uint64_t offset)
{
    struct cn_run run = {0, 0};
    pthread_mutex_lock(&pool->lock);
    bool found = offset % GRANULE_BYTES == 0 &&
                 cn_page_runs_block(&pool->runs, offset / GRANULE_BYTES, &run) &&
                 !cn_small_owns(pool, run.first);
    assert(found && "cenote_pool_free: not a block of this pool");
    if (found)
        cn_pool_free_run(pool, run);
    pthread_mutex_unlock(&pool->lock);
}

/* ---- without a debug level ---- */

static cenote_status class_alloc(cenote_pool *pool, uint64_t size_bytes, void **out_data,
                                 cenote_error *err)
{
    cenote_status status = cn_thread_cache_alloc(pool, size_bytes, out_data, err);
    if (status == CENOTE_OK)
        cn_poison_give(*out_data, size_bytes, cn_class_bytes(cn_size_class(size_bytes)));
    return status;
}

cenote_status cn_pool_block_alloc(cenote_pool *pool, uint64_t size_bytes, void **out_data,
                                  cenote_error *err)
{
    if (size_bytes == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "pool %s: a block of 0 bytes",
                                cenote_class_text(pool->class_id));
    return pool->small_blocks && size_bytes <= CN_CLASS_BYTES_MAX
               ? class_alloc(pool, size_bytes, out_data, err)
               : run_alloc(pool, size_bytes, out_data, err);
}

/* Hides a block of a class, whatever is done with it next. */
static inline void take_from_sight(const cenote_pool *pool, void *data, uint64_t offset)
{
    uint32_t size_class = CN_POISON ? cn_class_at(pool, offset) : 0;
    if (size_class > 0 && size_class <= CN_CLASS_LAST)
        cn_poison_take(data, cn_class_bytes(size_class));
}

void cn_pool_block_free(cenote_pool *pool, void *data)
{
    uint64_t offset = cenote_pool_offset(pool, data);
    take_from_sight(pool, data, offset);
    if (!cn_thread_cache_free(pool, offset))
        run_free(pool, offset);
}

/* ---- alloc, free ---- */

static CN_NOINLINE cenote_status alloc_slowly(cenote_pool *pool, uint64_t size_bytes,
                                              void **out_data, cenote_error *err)
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

CN_LINE_ALIGNED cenote_status cenote_pool_alloc(cenote_pool *pool, uint64_t size_bytes,
                                                void **out_data, cenote_error *err)
{
    if (CN_UNLIKELY(!cn_thread_cache_pop(pool, size_bytes, out_data)))
        return alloc_slowly(pool, size_bytes, out_data, err);
    cn_poison_give(*out_data, size_bytes, cn_class_bytes(cn_size_class(size_bytes)));
    return CENOTE_OK;
}

static CN_NOINLINE void free_slowly(cenote_pool *pool, void *data)
{
    cn_watch_tell(pool, CENOTE_TRACE_FREE, data, 0, 0);
    if (pool->debug != NULL)
        cn_debug_free(pool, data);
    else
        cn_pool_block_free(pool, data);
}

CN_LINE_ALIGNED void cenote_pool_free(cenote_pool *pool, void *data)
{
    if (CN_POISON && data != NULL && pool->debug == NULL)
        take_from_sight(pool, data, cenote_pool_offset(pool, data));
    /* NULL is in no class: the push fails. */
    if (CN_UNLIKELY(!cn_thread_cache_push(pool, data)) && data != NULL)
        free_slowly(pool, data);
}

void cn_pool_free_now(cenote_pool *pool, void *data)
{
    uint64_t offset = cenote_pool_offset(pool, data);
    if (pool->debug != NULL || cn_class_at(pool, offset) == 0) {
        cenote_pool_free(pool, data); /* there is no cache in the way */
        return;
    }
    cn_watch_tell(pool, CENOTE_TRACE_FREE, data, 0, 0);
    take_from_sight(pool, data, offset);
    pthread_mutex_lock(&pool->lock);
    bool given = cn_small_give(pool, (uint32_t)(offset >> CN_CLASS_UNIT_SHIFT));
    pthread_mutex_unlock(&pool->lock);
    assert(given);
    (void)given;
}
