/* SPDX-License-Identifier: Apache-2.0 */
/* Compaction: asks the planner (alloc/compact.h) for one move after the other, sees whether the
 * tensor may and should move, and has it moved (move.h).
 *
 *   who asks                                                planner
 *   cenote_pool_compact()                                   down, until nothing moves any more
 *   a fragmented pool, before it commits memory for a run   window in what is committed
 *   the budget's ladder, for a run without a hole           window anywhere
 *
 * A move is made with the pool locked and the tensor's *moving* bit set, so whoever pins it then
 * waits: for that move, or for those that empty a window. What may not move (pinned, vetoed, raw)
 * is an obstacle that the planner works around; what was kept once is not asked for again in the
 * same pass.
 *
 * Dropping follows the same rules. A hand goes round over the slots, and takes what is rebuildable,
 * unpinned, and was not pinned since the hand came by last (Corbato's clock). */
#include <inttypes.h>

#include "alloc/compact.h"
#include "pool/compact.h"
#include "pool/debug.h"
#include "pool/move.h"
#include "pool/watch.h"

/* One call, over several moves. */
struct pass {
    cenote_pool *pool;
    struct cn_tensors *tensors;
    cenote_compact_options options;
    cenote_compact_result result;
    uint32_t number; /* in kept_by */
    bool stopped;
};

static struct pass pass_begin(cenote_pool *pool, const cenote_compact_options *options)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_relaxed);
    struct pass pass = {.pool = pool, .tensors = tensors, .number = ++tensors->pass};
    if (options != NULL)
        pass.options = *options;
    return pass;
}

static void pass_end(const struct pass *pass)
{
    pass->tensors->moved_bytes += pass->result.moved_bytes;
    pass->tensors->remapped_bytes += pass->result.remapped_bytes;
}

/* ---- one tensor; the pool is locked ---- */

static struct cn_tensor_slot *slot_of(const struct cn_tensors *tensors, struct cn_run block)
{
    uint32_t owner = tensors->owners[block.first];
    return owner == 0 ? NULL : &tensors->slots[owner - 1];
}

static bool is_movable(void *context, struct cn_run block)
{
    const struct pass *pass = context;
    struct cn_tensor_slot *slot = slot_of(pass->tensors, block);
    if (slot == NULL || slot->kept_by == pass->number)
        return false;
    uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
    return (state & CN_STATE_REFERENCES) != 0 && (state & CN_STATE_PINS) == 0;
}

static struct cn_compact planner(struct pass *pass, bool committed, uint64_t cost_below)
{
    return (struct cn_compact){
        .runs = &pass->pool->runs,
        .committed = committed,
        .cost_below = cost_below,
        .movable = is_movable,
        .context = pass,
    };
}

/* Sets *moving*, and *dropped* with it when asked to; only unpinned live tensors. */
static bool hold(struct cn_tensor_slot *slot)
{
    uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
    do {
        if ((state & CN_STATE_REFERENCES) == 0 || (state & (CN_STATE_PINS | CN_STATE_DROPPED)) != 0)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&slot->state, &state, state | CN_STATE_MOVING,
                                                    memory_order_acquire, memory_order_relaxed));
    return true;
}

static void let_go(struct cn_tensor_slot *slot)
{
    atomic_fetch_and_explicit(&slot->state, ~CN_STATE_MOVING, memory_order_release);
}

static cenote_tensor handle_of(const struct cn_tensors *tensors, struct cn_tensor_slot *slot)
{
    uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
    return (state & ~(CN_STATE_GENERATION - 1)) | (uint64_t)(slot - tensors->slots);
}

/* The block of a held tensor is gone, or about to go; its owner's entry is not. */
static void mark_dropped(struct cn_tensors *tensors, struct cn_tensor_slot *slot)
{
    slot->data = NULL;
    tensors->live_bytes -= slot->size_bytes;
    tensors->dropped_count++;
    tensors->dropped_bytes += slot->size_bytes;
    atomic_fetch_or_explicit(&slot->state, CN_STATE_DROPPED, memory_order_relaxed);
    if (slot->dropped != NULL)
        slot->dropped(slot->dropped_context, handle_of(tensors, slot));
    let_go(slot);
}

/* Drops a held tensor whose block is a run of its own. @return the block's bytes */
static uint64_t drop_run(cenote_pool *pool, struct cn_tensors *tensors, struct cn_tensor_slot *slot,
                         struct cn_run run)
{
    cn_watch_tell(pool, CENOTE_TRACE_FREE, slot->data, 0, 0);
    tensors->owners[run.first] = 0;
    mark_dropped(tensors, slot);
    cn_pool_free_run(pool, run);
    if (pool->debug != NULL)
        cn_debug_lost(pool, run.first * GRANULE_BYTES);
    return run.count * GRANULE_BYTES;
}

/* Any held one: a small block is freed the usual way, with the lock let go. */
static uint64_t drop(cenote_pool *pool, struct cn_tensors *tensors, struct cn_tensor_slot *slot)
{
    struct cn_run run;
    if (cn_tensor_run(pool, slot, &run))
        return drop_run(pool, tensors, slot, run);
    char *data = slot->data;
    uint64_t size_bytes = slot->size_bytes;
    mark_dropped(tensors, slot);
    pthread_mutex_unlock(&pool->lock);
    cn_pool_free_now(pool, data);
    pthread_mutex_lock(&pool->lock);
    return size_bytes;
}

/* ---- one move; the pool is locked ---- */

/* By page tables where that pays, else by bytes unless it is cheaper to build the tensor again. */
static bool move_or_drop(struct pass *pass, struct cn_tensor_slot *slot, const struct cn_move *move)
{
    cenote_pool *pool = pass->pool;
    enum cn_move_result moved = CN_MOVE_STAYS;
    if (move->block.count >= CN_REMAP_GRANULES_MIN)
        moved = cn_pool_move_remap(pool, move->block, slot->size_bytes, move->to);
    if (moved == CN_MOVE_STAYS && slot->dropped != NULL && slot->rebuild_bytes != 0 &&
        slot->rebuild_bytes < slot->size_bytes) {
        pass->result.dropped_bytes += slot->size_bytes;
        drop_run(pool, pass->tensors, slot, move->block);
        return true;
    }
    if (moved == CN_MOVE_STAYS)
        moved = cn_pool_move_copy(pool, move->block, slot->size_bytes, move->to);
    if (moved == CN_MOVE_STAYS) {
        let_go(slot);
        return false;
    }
    uint32_t *owners = pass->tensors->owners;
    uint32_t owner = owners[move->block.first];
    owners[move->block.first] = 0;
    cn_watch_tell(pool, CENOTE_TRACE_FREE, slot->data, 0, 0);
    if (moved == CN_MOVE_LOST) {
        pass->result.dropped_bytes += slot->size_bytes;
        mark_dropped(pass->tensors, slot);
        return true;
    }
    owners[move->to] = owner;
    slot->data = pool->base + move->to * GRANULE_BYTES;
    cn_watch_tell(pool, CENOTE_TRACE_ALLOC, slot->data, slot->size_bytes, 0);
    let_go(slot);
    pass->result.moves++;
    pass->result.moved_bytes += slot->size_bytes;
    pass->result.remapped_bytes += moved == CN_MOVE_REMAPPED ? slot->size_bytes : 0;
    return true;
}

/* What limits and veto say, after so much was moved or is going to be. */
static cenote_compact_answer ask(const struct pass *pass, struct cn_tensor_slot *slot,
                                 uint64_t moves, uint64_t moved_bytes)
{
    const cenote_compact_options *options = &pass->options;
    if (options->max_moves != 0 && moves >= options->max_moves)
        return CENOTE_COMPACT_STOP;
    if (options->max_bytes != 0 && slot->size_bytes > options->max_bytes)
        return CENOTE_COMPACT_KEEP; /* no call would ever get beyond it */
    if (options->max_bytes != 0 && slot->size_bytes > options->max_bytes - moved_bytes)
        return CENOTE_COMPACT_STOP;
    return options->veto == NULL ? CENOTE_COMPACT_MOVE
                                 : options->veto(options->veto_context,
                                                 handle_of(pass->tensors, slot), slot->size_bytes);
}

/* @return true when the block is not there any more */
static bool carry_out(struct pass *pass, const struct cn_move *move)
{
    struct cn_tensor_slot *slot = slot_of(pass->tensors, move->block);
    cenote_compact_answer answer = ask(pass, slot, pass->result.moves, pass->result.moved_bytes);
    pass->stopped = answer == CENOTE_COMPACT_STOP;
    if (pass->stopped)
        return false;
    if (answer == CENOTE_COMPACT_MOVE && hold(slot) && move_or_drop(pass, slot, move))
        return true;
    slot->kept_by = pass->number;
    return false;
}

/* ---- down ---- */

/* Where a pass is. A round ends at the low end; one that moved nothing was the last. */
struct round {
    uint64_t below;
    bool moved;
};

/* One move. Pool locked. @return false when there is no more to do, or the pass was stopped */
static bool step_down(struct pass *pass, struct round *round)
{
    const struct cn_compact compact = planner(pass, false, UINT64_MAX);
    struct cn_move move;
    if (!cn_compact_down(&compact, round->below, &move)) {
        bool again = round->moved;
        pass->result.done = !again;
        *round = (struct round){pass->pool->runs.granule_count, false};
        return again;
    }
    round->below = move.block.first;
    if (carry_out(pass, &move))
        round->moved = true;
    return !pass->stopped;
}

cenote_status cenote_pool_compact(cenote_pool *pool, const cenote_compact_options *options,
                                  cenote_compact_result *out_result, cenote_error *err)
{
    if (options != NULL && options->version != CENOTE_COMPACT_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "compact options: version %u, not %u",
                                options->version, CENOTE_COMPACT_OPTIONS_VERSION);
    cenote_compact_result result = {.done = true};
    if (atomic_load_explicit(&pool->tensors, memory_order_acquire) != NULL) {
        struct round round = {pool->runs.granule_count, false};
        pthread_mutex_lock(&pool->lock);
        struct pass pass = pass_begin(pool, options);
        while (step_down(&pass, &round)) {
            pthread_mutex_unlock(&pool->lock);
            pthread_mutex_lock(&pool->lock);
        }
        pass_end(&pass);
        pthread_mutex_unlock(&pool->lock);
        result = pass.result;
    }
    if (out_result != NULL)
        *out_result = result;
    return CENOTE_OK;
}

/* ---- a hole ---- */

/* Holds all blocks of the plan, or none: asked before the first of them moves. Pool locked. */
static bool hold_all(struct pass *pass, const struct cn_compact_plan *plan)
{
    uint64_t moves = pass->result.moves, moved_bytes = pass->result.moved_bytes;
    for (uint32_t i = 0; i < plan->move_count; i++) {
        struct cn_tensor_slot *slot = slot_of(pass->tensors, plan->moves[i].block);
        cenote_compact_answer answer = ask(pass, slot, moves, moved_bytes);
        if (answer == CENOTE_COMPACT_MOVE && hold(slot)) {
            moves++;
            moved_bytes += slot->size_bytes;
            continue;
        }
        pass->stopped = answer == CENOTE_COMPACT_STOP;
        slot->kept_by = pass->number;
        while (i-- > 0)
            let_go(slot_of(pass->tensors, plan->moves[i].block));
        return false;
    }
    return true;
}

/* Empties the window that costs the least, less than @p cost_below granules, with @p committed of
 * those that are committed; what turns out to stay is worked around. Pool locked. */
static bool make_hole(struct pass *pass, uint64_t granules, bool committed, uint64_t cost_below,
                      struct cn_run *out_hole)
{
    const struct cn_compact compact = planner(pass, committed, cost_below);
    struct cn_compact_plan plan;
    while (!pass->stopped && cn_compact_window(&compact, granules, &plan)) {
        if (!hold_all(pass, &plan))
            continue;
        bool empty = true;
        for (uint32_t i = 0; i < plan.move_count; i++) {
            struct cn_tensor_slot *slot = slot_of(pass->tensors, plan.moves[i].block);
            if (!move_or_drop(pass, slot, &plan.moves[i])) {
                slot->kept_by = pass->number;
                empty = false;
            }
        }
        if (empty) {
            *out_hole = plan.window;
            return true;
        }
    }
    return false;
}

/* ---- of itself ---- */

cenote_status cenote_pool_compact_above(cenote_pool *pool, uint32_t above_percent,
                                        const cenote_compact_options *options, cenote_error *err)
{
    if (options != NULL && options->version != CENOTE_COMPACT_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "compact options: version %u, not %u",
                                options->version, CENOTE_COMPACT_OPTIONS_VERSION);
    if (above_percent > 100)
        return cenote_error_set(err, CENOTE_E_INVAL, "pool %s: compaction above %u percent",
                                cenote_class_text(pool->class_id), above_percent);
    pthread_mutex_lock(&pool->lock);
    pool->compact_above = above_percent;
    pool->compact_options =
        options != NULL ? *options : (cenote_compact_options)CENOTE_COMPACT_OPTIONS_INIT;
    pthread_mutex_unlock(&pool->lock);
    return CENOTE_OK;
}

static bool is_fragmented(const cenote_pool *pool)
{
    uint64_t top = cn_page_runs_top(&pool->runs);
    return (top - pool->runs.used_count) * 100 > top * pool->compact_above;
}

bool cn_pool_compact_self(cenote_pool *pool, struct cn_run *run)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_acquire);
    const struct cn_page_runs *runs = &pool->runs;
    if (tensors == NULL || pool->compact_above >= 100 ||
        runs->committed_count - runs->used_count < run->count ||
        pool->counts.used_total_granules < tensors->compact_at || !is_fragmented(pool))
        return false;
    uint64_t committed, chunks;
    cn_page_runs_preview(runs, *run, &committed, &chunks);
    struct pass pass = pass_begin(pool, &pool->compact_options);
    bool made = make_hole(&pass, run->count, true, committed - runs->committed_count, run);
    /* Not again before as much was allocated as is live: a pool that pinned blocks keep in pieces
     * would be looked through at every allocation. */
    if (!made)
        tensors->compact_at = pool->counts.used_total_granules + runs->used_count;
    tensors->compact_count += made && pass.result.moves > 0;
    pass_end(&pass);
    return made;
}

/* ---- the ladder ---- */

static uint64_t compactor_give(struct cn_budget_client *client, uint64_t want_bytes)
{
    cenote_pool *pool = client->pool;
    uint64_t granules = want_bytes / GRANULE_BYTES + (want_bytes % GRANULE_BYTES != 0);
    pthread_mutex_lock(&pool->lock);
    bool made = false;
    if (cn_page_runs_largest_hole(&pool->runs) < granules) {
        struct pass pass = pass_begin(pool, &pool->compact_options);
        struct cn_run hole;
        made = make_hole(&pass, granules, false, UINT64_MAX, &hole);
        pass.tensors->compact_count += made;
        pass_end(&pass);
    }
    pthread_mutex_unlock(&pool->lock);
    return made ? want_bytes : 0;
}

uint64_t cn_compact_hole(cenote_pool *pool)
{
    if (atomic_load_explicit(&pool->tensors, memory_order_relaxed) == NULL)
        return cn_page_runs_largest_hole(&pool->runs);
    struct pass pass = pass_begin(pool, NULL);
    const struct cn_compact compact = planner(&pass, false, UINT64_MAX);
    return cn_compact_longest(&compact);
}

static void compactor_report(struct cn_budget_client *client, cenote_budget_holder *holder)
{
    cenote_pool *pool = client->pool;
    pthread_mutex_lock(&pool->lock);
    holder->compacted_hole_bytes = cn_compact_hole(pool) * GRANULE_BYTES;
    pthread_mutex_unlock(&pool->lock);
}

static bool is_droppable(struct cn_tensor_slot *slot)
{
    uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
    return (state & CN_STATE_REFERENCES) != 0 &&
           (state & (CN_STATE_PINS | CN_STATE_DROPPED)) == 0 && slot->dropped != NULL;
}

/* Two rounds at most: the first may only take marks away. */
static uint64_t dropper_give(struct cn_budget_client *client, uint64_t want_bytes)
{
    cenote_pool *pool = client->pool;
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_acquire);
    uint64_t freed_bytes = 0;
    pthread_mutex_lock(&pool->lock);
    uint32_t count = atomic_load_explicit(&tensors->slot_count, memory_order_acquire);
    for (uint32_t seen = 0; seen < 2 * count && freed_bytes < want_bytes; seen++) {
        struct cn_tensor_slot *slot = &tensors->slots[tensors->drop_hand];
        tensors->drop_hand = (tensors->drop_hand + 1) % count;
        if (!is_droppable(slot))
            continue;
        uint64_t before =
            atomic_fetch_and_explicit(&slot->state, ~CN_STATE_USED, memory_order_relaxed);
        if ((before & CN_STATE_USED) == 0 && hold(slot))
            freed_bytes += drop(pool, tensors, slot);
    }
    pthread_mutex_unlock(&pool->lock);
    return freed_bytes;
}

static void dropper_report(struct cn_budget_client *client, cenote_budget_holder *holder)
{
    cenote_pool *pool = client->pool;
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_acquire);
    struct cn_run run;
    pthread_mutex_lock(&pool->lock);
    uint32_t count = atomic_load_explicit(&tensors->slot_count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++)
        if (is_droppable(&tensors->slots[i]))
            holder->rebuildable_bytes +=
                cn_tensor_run(pool, &tensors->slots[i], &run)
                    ? run.count * GRANULE_BYTES
                    : cn_pool_soft_bytes(pool, tensors->slots[i].size_bytes);
    pthread_mutex_unlock(&pool->lock);
}

void cn_compact_join(cenote_pool *pool)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_acquire);
    tensors->dropper = (struct cn_budget_client){
        .step = CENOTE_RECLAIM_REBUILDABLE,
        .priority = pool->client.priority,
        .pool = pool,
        .give = dropper_give,
        .report = dropper_report,
    };
    tensors->compactor = (struct cn_budget_client){
        .step = CENOTE_RECLAIM_COMPACTION,
        .priority = pool->client.priority,
        .pool = pool,
        .give = compactor_give,
        .report = compactor_report,
    };
    cn_budget_register(pool->budget, &tensors->dropper);
    cn_budget_register(pool->budget, &tensors->compactor);
}

void cn_compact_leave(cenote_pool *pool)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_acquire);
    cn_budget_unregister(pool->budget, &tensors->dropper);
    cn_budget_unregister(pool->budget, &tensors->compactor);
}
