/* SPDX-License-Identifier: Apache-2.0 */
/* What a request goes through that no cache could serve:
 *
 *   class below 512 KiB:  a slab with room, or free pages        cn_slabs_take()
 *                         else granules of the pool are lent     cn_pool_obtain(), cn_slabs_lend()
 *   up to 1 MiB:          a run of the pool's granules           cn_pool_obtain()
 *
 * A granule that is lent is a block of its own to the pool's page runs, so that each can come back
 * by itself. All of it stays one pool: large and small blocks lie in one range and share its idle
 * memory, its quota and its charge. */
#include "pool/small.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "pool/thread_cache.h"

#define GRANULE_UNITS (1u << (16 - CN_CLASS_UNIT_SHIFT))
static_assert(sizeof(struct cn_small) <= CN_BOOK_PIECE_BYTES, "it is in the first piece");

/* The arrays grow by this much at least, so that looks behind their end are rare. */
#define COVER_GRANULES 64u

/* ---- the book-keeping's memory ---- */

static bool piece_committed(const struct cn_small *small, uint64_t piece)
{
    return small->committed[piece / 64] >> (piece % 64) & 1;
}

/* Charges and commits one piece of the reservation at @p base, if it fits as things are. */
static cenote_status piece_commit(cenote_pool *pool, char *base, uint64_t piece, cenote_error *err)
{
    if (!cn_budget_try_charge(pool->budget, CN_GRANULE_CHARGE_BYTES))
        return CENOTE_E_BUDGET;
    int error = pool->os->ops->memory_commit(pool->os, base + piece * CN_BOOK_PIECE_BYTES,
                                             CN_BOOK_PIECE_BYTES, false);
    if (error == 0)
        return CENOTE_OK;
    cenote_budget_uncharge(pool->budget, CN_GRANULE_CHARGE_BYTES);
    return cenote_error_set(err, CENOTE_E_NOMEM, "pool %s: commit of %u bytes of metadata: %s",
                            cenote_class_text(pool->class_id), CN_BOOK_PIECE_BYTES,
                            strerror(-error));
}

cenote_status cn_small_cover(cenote_pool *pool, uint64_t from, uint64_t to, cenote_error *err)
{
    struct cn_small *small = pool->small;
    assert(to <= small->at.reserve_bytes);
    for (uint64_t i = from / CN_BOOK_PIECE_BYTES; i * CN_BOOK_PIECE_BYTES < to; i++) {
        if (piece_committed(small, i))
            continue;
        cenote_status status = piece_commit(pool, (char *)small, i, err);
        if (status != CENOTE_OK)
            return status;
        small->committed[i / 64] |= UINT64_C(1) << (i % 64);
        small->charged_bytes += CN_GRANULE_CHARGE_BYTES;
    }
    return CENOTE_OK;
}

/* Makes the three arrays that say where blocks are reach over granules below @p end. */
static cenote_status cover_arrays(cenote_pool *pool, uint64_t end, cenote_error *err)
{
    struct cn_small *small = pool->small;
    uint64_t words = cn_round_up(end, CN_SLAB_WORD_GRANULES) / CN_SLAB_WORD_GRANULES;
    const struct {
        uint64_t at, bytes;
    } arrays[] = {
        {small->at.free_pages_at, words * sizeof(uint64_t)},
        {small->at.reach_at, cn_round_up(words, 8)},
        {small->at.classes_at, end * CN_SLAB_CLASSES_BYTES},
    };
    for (unsigned i = 0; i < CN_ARRAY_COUNT(arrays); i++) {
        cenote_status status =
            cn_small_cover(pool, arrays[i].at, arrays[i].at + arrays[i].bytes, err);
        if (status != CENOTE_OK)
            return status;
    }
    small->slabs.covered_granules = end;
    atomic_store_explicit(&pool->covered_bytes, end * GRANULE_BYTES, memory_order_release);
    return CENOTE_OK;
}

/* Makes the arrays reach over @p run; the largest, which is for lent granules, by its part alone.
 */
static cenote_status cover_run(cenote_pool *pool, struct cn_run run, bool to_lend,
                               cenote_error *err)
{
    struct cn_small *small = pool->small;
    uint64_t end = cn_round_up(run.first + run.count, COVER_GRANULES);
    cenote_status status = CENOTE_OK;
    if (to_lend) {
        uint64_t at = small->at.pages_at + run.first * CN_SLAB_PAGES_BYTES;
        status = cn_small_cover(pool, at, at + run.count * CN_SLAB_PAGES_BYTES, err);
    }
    if (end > pool->runs.granule_count)
        end = pool->runs.granule_count;
    return status == CENOTE_OK && end > small->slabs.covered_granules ? cover_arrays(pool, end, err)
                                                                      : status;
}

/* Where everything lies; the arrays for all granules of the pool. */
static struct cn_small_layout layout_of(const cenote_pool *pool)
{
    struct cn_small_layout at = {0};
    uint64_t granules = pool->runs.granule_count;
    at.caches_at = cn_round_up(sizeof(struct cn_small), CN_CACHE_LINES_APART);
    at.free_pages_at =
        at.caches_at + (uint64_t)CN_THREAD_CACHES_MAX * sizeof(struct cn_thread_cache);
    at.reach_at = at.free_pages_at + cn_round_up(granules * CN_SLAB_FREE_PAGES_BYTES, 64);
    at.classes_at = at.reach_at + cn_round_up(granules / CN_SLAB_WORD_GRANULES, 64);
    at.pages_at = at.classes_at + cn_round_up(granules * CN_SLAB_CLASSES_BYTES, 64);
    at.reserve_bytes =
        cn_round_up(at.pages_at + granules * CN_SLAB_PAGES_BYTES, CN_BOOK_PIECE_BYTES);
    assert(at.reserve_bytes / CN_BOOK_PIECE_BYTES <= CN_BOOK_PIECES_MAX);
    return at;
}

/* One try. @return CENOTE_E_BUDGET when it does not fit as things are. */
static cenote_status try_open(cenote_pool *pool, cenote_error *err)
{
    struct cn_small_layout at = layout_of(pool);
    uint64_t range_charge = CN_RANGE_CHARGE_BYTES + (at.reserve_bytes >> 30) * TABLE_PAGE_BYTES;
    void *base;
    if (!cn_budget_try_charge(pool->budget, range_charge))
        return CENOTE_E_BUDGET;
    int error = pool->os->ops->memory_reserve(pool->os, at.reserve_bytes, &base);
    if (error != 0) {
        cenote_budget_uncharge(pool->budget, range_charge);
        return cenote_error_set(
            err, CENOTE_E_NOMEM, "pool %s: reservation of %" PRIu64 " bytes of metadata: %s",
            cenote_class_text(pool->class_id), at.reserve_bytes, strerror(-error));
    }
    cenote_status status = piece_commit(pool, base, 0, err);
    if (status != CENOTE_OK) {
        pool->os->ops->memory_release(pool->os, base, at.reserve_bytes);
        cenote_budget_uncharge(pool->budget, range_charge);
        return status;
    }
    struct cn_small *small = base;
    small->at = at;
    small->committed[0] = 1;
    small->charged_bytes = range_charge + CN_GRANULE_CHARGE_BYTES;
    cn_slabs_init(&small->slabs, (uint8_t *)base + at.classes_at,
                  (uint64_t *)((char *)base + at.free_pages_at), (uint8_t *)base + at.reach_at,
                  (struct cn_slab_page *)((char *)base + at.pages_at));
    cn_depot_init(&small->depot);
    pool->classes = small->slabs.classes;
    pool->small = small;
    return CENOTE_OK;
}

/* The book-keeping does not fit: others are asked. Pool locked; the lock is let go meanwhile. */
static cenote_status make_room(cenote_pool *pool, uint64_t size_bytes, cenote_error *err)
{
    pthread_mutex_unlock(&pool->lock);
    cenote_status status = CENOTE_OK;
    if (!cn_budget_make_room(pool->budget, pool, 0, size_bytes))
        status = cn_budget_refuse(pool->budget, size_bytes, "metadata of small blocks", NULL, err);
    pthread_mutex_lock(&pool->lock);
    return status;
}

cenote_status cn_small_open(cenote_pool *pool, cenote_error *err)
{
    cenote_status status = CENOTE_OK;
    while (status == CENOTE_OK && pool->small == NULL) {
        status = try_open(pool, err);
        if (status == CENOTE_E_BUDGET)
            status = make_room(pool, CN_RANGE_CHARGE_BYTES + CN_GRANULE_CHARGE_BYTES, err);
    }
    return status;
}

void cn_small_close(cenote_pool *pool)
{
    struct cn_small *small = pool->small;
    if (small == NULL)
        return;
    uint64_t charge = small->charged_bytes;
    pool->os->ops->memory_release(pool->os, small, small->at.reserve_bytes);
    cenote_budget_uncharge(pool->budget, charge);
}

/* ---- taking ---- */

/* Granules that the arrays reach over. Pool locked; the lock is let go while others make room. When
 * the arrays do not fit, the run is left as idle memory, which may be what makes way for them. */
static cenote_status obtain(cenote_pool *pool, uint64_t size_bytes, uint64_t granules,
                            struct cn_run *out_run, cenote_error *err)
{
    bool to_lend = cn_size_class(size_bytes) < CN_CLASS_RUN_FIRST;
    for (;;) {
        cenote_status status = cn_pool_obtain(pool, size_bytes, granules, out_run, err);
        if (status != CENOTE_OK)
            return status;
        pool->small->obtained_count++;
        pool->small->obtained_granules += granules;
        pool->counts.used_total_granules += granules;
        status = cover_run(pool, *out_run, to_lend, err);
        if (status != CENOTE_E_BUDGET)
            return status;
        while (status == CENOTE_E_BUDGET) {
            status = make_room(pool, CN_GRANULE_CHARGE_BYTES, err);
            if (status != CENOTE_OK)
                return status;
            status = cover_run(pool, *out_run, to_lend, err);
        }
        if (status != CENOTE_OK)
            return status;
    }
}

static cenote_status take_run(cenote_pool *pool, uint64_t size_bytes, uint32_t *out_id,
                              cenote_error *err)
{
    struct cn_run run;
    uint64_t granules = cn_class_bytes(cn_size_class(size_bytes)) / GRANULE_BYTES;
    cenote_status status = obtain(pool, size_bytes, granules, &run, err);
    if (status != CENOTE_OK)
        return status;
    cn_page_runs_take(&pool->runs, run);
    pool->slack_bytes[run.first] = 0;
    cn_slabs_enter_run(&pool->small->slabs, run.first, cn_size_class(size_bytes));
    *out_id = (uint32_t)(run.first * GRANULE_UNITS);
    return CENOTE_OK;
}

/* Blocks out of more granules. */
static cenote_status lend(cenote_pool *pool, uint64_t size_bytes, uint32_t count, uint32_t *out_ids,
                          uint32_t *out_count, cenote_error *err)
{
    struct cn_slabs *slabs = &pool->small->slabs;
    uint32_t size_class = cn_size_class(size_bytes);
    struct cn_run run;
    cenote_status status =
        obtain(pool, size_bytes, cn_slabs_granules_for(slabs, size_class), &run, err);
    if (status != CENOTE_OK)
        return status;
    /* Others may have given blocks back while the lock was let go. */
    *out_count = cn_slabs_take(slabs, size_class, count, out_ids);
    if (*out_count > 0)
        return CENOTE_OK;
    run = cn_slabs_lend(slabs, size_class, run, count, out_ids, out_count);
    cn_page_runs_take_each(&pool->runs, run);
    memset(pool->slack_bytes + run.first, 0, run.count * sizeof *pool->slack_bytes);
    return CENOTE_OK;
}

cenote_status cn_small_take(cenote_pool *pool, uint64_t size_bytes, uint32_t count,
                            uint32_t *out_ids, uint32_t *out_count, cenote_error *err)
{
    uint32_t size_class = cn_size_class(size_bytes);
    cenote_status status = CENOTE_OK;
    if (size_class >= CN_CLASS_RUN_FIRST) {
        status = take_run(pool, size_bytes, out_ids, err);
        *out_count = 1;
    } else {
        *out_count = cn_slabs_take(&pool->small->slabs, size_class, count, out_ids);
        if (*out_count == 0)
            status = lend(pool, size_bytes, count, out_ids, out_count, err);
    }
    cn_pool_raise_peaks(pool);
    return status;
}

/* ---- giving back ---- */

bool cn_small_give(cenote_pool *pool, uint32_t id)
{
    struct cn_slabs *slabs = &pool->small->slabs;
    uint32_t size_class = cn_class_at(pool, (uint64_t)id << CN_CLASS_UNIT_SHIFT);
    if (size_class == 0 || size_class > CN_CLASS_LAST)
        return false;
    if (size_class < CN_CLASS_RUN_FIRST) {
        if (!cn_slabs_holds(slabs, id))
            return false;
        struct cn_run back = cn_slabs_give(slabs, id);
        if (back.count > 0)
            cn_page_runs_free_each(&pool->runs, back);
        return true;
    }
    struct cn_run block;
    if (id % GRANULE_UNITS != 0 || !cn_page_runs_block(&pool->runs, id / GRANULE_UNITS, &block))
        return false;
    cn_slabs_remove_run(slabs, block.first);
    cn_page_runs_free(&pool->runs, block);
    return true;
}

/* ---- looking ---- */

bool cn_small_shares(const cenote_pool *pool, uint64_t granule)
{
    return pool->small != NULL && cn_slabs_lent(&pool->small->slabs, granule);
}

bool cn_small_owns(const cenote_pool *pool, uint64_t granule)
{
    return cn_small_shares(pool, granule) || cn_class_at(pool, granule * GRANULE_BYTES) != 0;
}

bool cn_small_lost(cenote_pool *pool, uint64_t granule)
{
    if (cn_class_at(pool, granule * GRANULE_BYTES) == 0)
        return false;
    cn_slabs_remove_run(&pool->small->slabs, granule);
    return true;
}

void cn_small_moved(cenote_pool *pool, struct cn_run from, uint64_t to_granule)
{
    uint32_t size_class = cn_class_at(pool, from.first * GRANULE_BYTES);
    if (!cn_small_lost(pool, from.first))
        return;
    if (to_granule < pool->small->slabs.covered_granules)
        cn_slabs_enter_run(&pool->small->slabs, to_granule, size_class);
    else
        pool->counts.requested_bytes += from.count * GRANULE_BYTES;
}

struct cn_small_sums cn_small_sums(const cenote_pool *pool)
{
    struct cn_small_sums sums = {0};
    struct cn_small *small = pool->small;
    uint16_t in_depot[CN_CLASS_LAST + 1];
    if (small != NULL)
        cn_depot_counts(&small->depot, in_depot);
    for (uint32_t c = 1; small != NULL && c <= CN_CLASS_LAST; c++) {
        struct cn_class_counts counts = small->counts[c];
        uint64_t cached = in_depot[c], taken = small->slabs.taken[c],
                 block_bytes = cn_class_bytes(c);
        for (const struct cn_thread_cache *i = small->caches; i != NULL; i = i->pool_next) {
            cached += cn_thread_cache_count(i, c);
            counts.alloc_count +=
                atomic_load_explicit(&i->bins[c].alloc_count, memory_order_relaxed);
            counts.requested_bytes +=
                atomic_load_explicit(&i->bins[c].requested_bytes, memory_order_relaxed);
        }
        /* Their owners go on meanwhile, so what is cached may be counted twice or not at all. */
        uint64_t live = taken > cached ? taken - cached : 0;
        sums.live_count += live;
        sums.live_bytes += live * block_bytes;
        sums.cached_bytes += cached * block_bytes;
        sums.alloc_count += counts.alloc_count;
        sums.requested_total_bytes += counts.requested_bytes;
        sums.used_total_bytes += counts.alloc_count * block_bytes;
        if (counts.alloc_count > 0)
            sums.live_requested_bytes += (uint64_t)((double)live * (double)counts.requested_bytes /
                                                    (double)counts.alloc_count);
    }
    return sums;
}

const char *cn_small_check(const cenote_pool *pool)
{
    const struct cn_small *small = pool->small;
    if (small == NULL)
        return NULL;
    uint64_t lent = 0;
    struct cn_run block;
    for (uint64_t i = 0; i < small->slabs.covered_granules; i++) {
        if (!cn_slabs_lent(&small->slabs, i))
            continue;
        if (!cn_page_runs_block(&pool->runs, i, &block) || block.count != 1)
            return "a granule of small blocks is free, or part of a run";
        lent++;
    }
    if (lent != small->slabs.lent_granules)
        return "granules of small blocks miscounted";
    const char *broken = cn_slabs_check(&small->slabs);
    return broken != NULL ? broken : cn_depot_check(&pool->small->depot);
}
