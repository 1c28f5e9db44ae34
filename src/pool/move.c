/* SPDX-License-Identifier: Apache-2.0 */
/* Two ways to move a block.
 *
 *            block               to                   by page tables
 *   before   |pages AAAAA|.......|idle BBBBBBBBBBBBB|  1. what is idle at `to` is put aside if it
 *                                                        lies alike in its chunks, else goes back
 *                                                     2. the kernel moves the pages
 *   after    |idle BBBBBB|.......|pages AAAAAAAAAAAA|  3. what was put aside comes here, else the
 *                                                        place and its tables go back
 *
 *   before   |pages AAAAA|.......|idle|not committed|  by bytes
 *   after    |idle AAAAAA|.......|pages AAAAAAAAAAAA|  `to` is committed, the old place is idle
 *
 * Remapping takes no memory but page tables: what is charged meanwhile is what was committed, with
 * the chunks of both places touched, and one granule in reserve. The reserve is for the way back,
 * and for the tables of a place beside the pool where idle memory waits.
 * Where the kernel stops half way, what has arrived is copied back granule by granule, from its
 * end: each one commits beside what is committed already, so it takes no new mapping, which is what
 * the kernel may have run out of. Should even that be refused, the bytes are lost, and that is
 * said; it is the only way a tensor can be lost. */
#include <string.h>

#include "base/poison.h"
#include "pool/debug.h"
#include "pool/move.h"
#include "pool/small.h"

static char *address_of(const cenote_pool *pool, uint64_t granule)
{
    return pool->base + granule * GRANULE_BYTES;
}

static uint64_t asked_bytes(const cenote_pool *pool, struct cn_run block)
{
    return block.count * GRANULE_BYTES - pool->slack_bytes[block.first];
}

/* Raises the charge to @p charge_bytes unless it is higher. */
static bool charge_up_to(cenote_pool *pool, uint64_t charge_bytes)
{
    if (charge_bytes <= pool->charged_bytes)
        return true;
    if (!cn_budget_try_charge(pool->budget, charge_bytes - pool->charged_bytes))
        return false;
    pool->charged_bytes = charge_bytes;
    return true;
}

/* The block's books go to @p place. */
static void rewrite(cenote_pool *pool, struct cn_run block, struct cn_run place)
{
    uint16_t slack_bytes = pool->slack_bytes[block.first];
    cn_page_runs_free(&pool->runs, block);
    cn_page_runs_take(&pool->runs, place);
    pool->slack_bytes[place.first] = slack_bytes;
    cn_small_moved(pool, block, place.first);
    if (pool->debug != NULL)
        cn_debug_moved(pool, block.first * GRANULE_BYTES, place.first * GRANULE_BYTES);
}

/* Brings @p count granules from @p place back to the beginning of @p block, which is not committed
 * there any more. */
static bool copy_back(cenote_pool *pool, struct cn_run block, struct cn_run place, uint64_t count)
{
    const struct cn_os_ops *ops = pool->os->ops;
    for (uint64_t g = count; g-- > 0;) {
        char *home = address_of(pool, block.first + g), *away = address_of(pool, place.first + g);
        if (ops->memory_commit(pool->os, home, GRANULE_BYTES, false) != 0)
            return false;
        memcpy(home, away, GRANULE_BYTES);
        ops->memory_decommit(pool->os, away, GRANULE_BYTES);
    }
    return true;
}

/* After the kernel moved @p count granules and not the rest. */
static enum cn_move_result give_up(cenote_pool *pool, struct cn_run block, uint64_t size_bytes,
                                   struct cn_run place, uint64_t count)
{
    if (copy_back(pool, block, place, count)) {
        cn_poison_open(address_of(pool, block.first), size_bytes, block.count * GRANULE_BYTES);
        return CN_MOVE_STAYS;
    }
    pool->os->ops->memory_decommit(pool->os, address_of(pool, place.first),
                                   place.count * GRANULE_BYTES);
    if (!cn_small_lost(pool, block.first))
        pool->counts.requested_bytes -= asked_bytes(pool, block);
    cn_page_runs_free(&pool->runs, block);
    cn_pool_decommit(pool, block);
    if (pool->debug != NULL)
        cn_debug_lost(pool, block.first * GRANULE_BYTES);
    return CN_MOVE_LOST;
}

/* Idle memory that waits outside of the pool while a block takes its place. */
struct aside {
    void *base; /* NULL: nothing waits */
    char *pages;
    uint64_t reserve_bytes;
};

/* Takes the memory of @p place out of the pool: aside if all of it is idle and lies as @p block
 * does in its chunk, so that page tables can move as a whole; else it goes back. */
static void clear_place(cenote_pool *pool, struct cn_run block, struct cn_run place,
                        struct aside *out_aside)
{
    const struct cn_os_ops *ops = pool->os->ops;
    char *data = address_of(pool, place.first);
    uint64_t size_bytes = place.count * GRANULE_BYTES;
    struct aside aside = {.reserve_bytes = size_bytes + CHUNK_BYTES};
    struct cn_run bare;
    bool idle = !cn_page_runs_uncommitted(&pool->runs, place, &bare);
    *out_aside = (struct aside){0};
    if (!idle && bare.count == place.count)
        return;
    if (idle && (place.first - block.first) % CN_CHUNK_GRANULES == 0 &&
        ops->memory_reserve(pool->os, aside.reserve_bytes, &aside.base) == 0) {
        uint64_t offset = ((uintptr_t)data - (uintptr_t)aside.base) % CHUNK_BYTES;
        aside.pages = (char *)aside.base + offset;
        if (ops->memory_remap(pool->os, data, aside.pages, size_bytes) == (int64_t)size_bytes) {
            cn_poison_forget(data, size_bytes);
            cn_page_runs_decommit(&pool->runs, place);
            *out_aside = aside;
            return;
        }
        ops->memory_release(pool->os, aside.base, aside.reserve_bytes);
    }
    cn_pool_decommit(pool, place);
}

/* Gives the block's old place what was put aside; without that it goes back, with its tables. */
static void fill_place(cenote_pool *pool, struct cn_run block, const struct aside *aside)
{
    const struct cn_os_ops *ops = pool->os->ops;
    char *from = address_of(pool, block.first);
    int64_t size_bytes = (int64_t)(block.count * GRANULE_BYTES);
    if (aside->base != NULL &&
        ops->memory_remap(pool->os, aside->pages, from, (size_t)size_bytes) == size_bytes)
        cn_poison_take(from, (uint64_t)size_bytes);
    else
        cn_pool_decommit(pool, block);
}

enum cn_move_result cn_pool_move_remap(cenote_pool *pool, struct cn_run block, uint64_t size_bytes,
                                       uint64_t to)
{
    struct cn_page_runs *runs = &pool->runs;
    struct cn_run place = {to, block.count};
    struct aside aside;
    uint64_t committed, touched;
    cn_page_runs_preview(runs, place, &committed, &touched);
    if (!charge_up_to(pool, cn_pool_charge_of(runs->committed_count + 1, touched)))
        return CN_MOVE_STAYS;
    clear_place(pool, block, place, &aside);
    char *from = address_of(pool, block.first), *data = address_of(pool, to);
    uint64_t whole_bytes = block.count * GRANULE_BYTES;
    cn_poison_forget(from, whole_bytes); /* copy_back() reads all of it */
    int64_t moved_bytes = pool->os->ops->memory_remap(pool->os, from, data, whole_bytes);
    enum cn_move_result result = CN_MOVE_REMAPPED;
    if (moved_bytes == (int64_t)whole_bytes) {
        cn_poison_open(data, size_bytes, whole_bytes);
        rewrite(pool, block, place);
        cn_page_runs_commit(runs, place);
        fill_place(pool, block, &aside);
    } else {
        uint64_t count = moved_bytes > 0 ? (uint64_t)moved_bytes / GRANULE_BYTES : 0;
        result = give_up(pool, block, size_bytes, place, count);
    }
    if (aside.base != NULL)
        pool->os->ops->memory_release(pool->os, aside.base, aside.reserve_bytes);
    cn_pool_settle(pool);
    return result;
}

enum cn_move_result cn_pool_move_copy(cenote_pool *pool, struct cn_run block, uint64_t size_bytes,
                                      uint64_t to)
{
    struct cn_run place = {to, block.count};
    uint64_t committed, touched, whole_bytes = block.count * GRANULE_BYTES;
    cn_page_runs_preview(&pool->runs, place, &committed, &touched);
    if (committed > pool->quota_granules ||
        !charge_up_to(pool, cn_pool_charge_of(committed, touched)) ||
        cn_pool_commit(pool, place, NULL) != CENOTE_OK)
        return CN_MOVE_STAYS;
    char *from = address_of(pool, block.first), *data = address_of(pool, to);
    cn_poison_forget(from, whole_bytes); /* behind what was asked for may lie a zone */
    cn_poison_forget(data, whole_bytes);
    memcpy(data, from, whole_bytes);
    cn_poison_open(data, size_bytes, whole_bytes);
    cn_poison_take(from, whole_bytes);
    rewrite(pool, block, place);
    if (pool->runs.committed_count > pool->counts.committed_peak_granules)
        pool->counts.committed_peak_granules = pool->runs.committed_count;
    return CN_MOVE_COPIED;
}
