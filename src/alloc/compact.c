/* SPDX-License-Identifier: Apache-2.0 */
/* Two ways of bringing page runs together, and where a block goes to.
 *
 *   down      |AAA|..|BBB|....|CC|.|DD|          a block from the high end into the lowest hole
 * that |AAA|DD|BBB|CC|.......|            takes it: what is above gets free
 *
 *   window    |AAAAA|..|B|..|CCCC|...|           a hole of 6: emptying [5, 11) moves one granule,
 *             |AAAAA|......|CCCC|B|..|           any other six more
 *
 * Down is for a pool that should get smaller: few large moves, each of which shortens the span.
 * Sliding everything to the low end would leave no hole at all, but moves all that lies above the
 * first one. The window is for a request that fits nowhere: the measure is what has to be moved,
 * and the best window is found by looking at all of them that begin where a block ends: any other
 * one can be shifted down to such a place without a further block in it.
 *
 * A block with whole chunks keeps its offset in a chunk if it can: then its huge pages and page
 * tables move as such, which costs a tenth of moving them page by page. */
#include "alloc/compact.h"
#include "base/bits.h"

static uint64_t end_of(struct cn_run run)
{
    return run.first + run.count;
}

/* The lowest free run at or above @p from, cut off at @p end; count 0: there is none. */
static struct cn_run next_hole(const struct cn_page_runs *runs, uint64_t from, uint64_t end)
{
    uint64_t first = cn_bits_find(runs->used, false, from, end);
    return (struct cn_run){first, cn_bits_find(runs->used, true, first, end) - first};
}

/* ---- places ---- */

/* The lowest place in [from, end) for @p block; @p same_offset: in its chunk. */
static bool place_between(const struct cn_page_runs *runs, struct cn_run block, bool same_offset,
                          uint64_t from, uint64_t end, uint64_t *out_to)
{
    struct cn_run hole = {from, 0};
    for (hole = next_hole(runs, from, end); hole.count > 0;
         hole = next_hole(runs, end_of(hole), end)) {
        uint64_t skip = same_offset ? (block.first - hole.first) % CN_CHUNK_GRANULES : 0;
        if (hole.count < block.count || hole.count - block.count < skip)
            continue;
        *out_to = hole.first + skip;
        return true;
    }
    return false;
}

static bool holds_chunks(struct cn_run block)
{
    return block.count >= 2 * CN_CHUNK_GRANULES - 1;
}

/* ---- down ---- */

bool cn_compact_down(const struct cn_compact *compact, uint64_t below, struct cn_move *out_move)
{
    const struct cn_page_runs *runs = compact->runs;
    uint64_t longest = cn_page_runs_largest_hole(runs);
    for (uint64_t above, end = below; (above = cn_bits_above_last(runs->first, end)) > 0;) {
        struct cn_run block = {0, 0};
        cn_page_runs_block(runs, above - 1, &block);
        end = block.first;
        if (block.count > longest || !place_between(runs, block, false, 0, end, &out_move->to) ||
            !compact->movable(compact->context, block))
            continue;
        out_move->block = block;
        if (holds_chunks(block))
            (void)place_between(runs, block, true, out_move->to, end, &out_move->to);
        return true;
    }
    return false;
}

/* ---- window ---- */

/* The block that has a part in [from, end), the lowest. */
static bool block_in(const struct cn_page_runs *runs, uint64_t from, uint64_t end,
                     struct cn_run *out_block)
{
    uint64_t used = cn_bits_find(runs->used, true, from, end);
    return used < end &&
           cn_page_runs_block(runs, cn_bits_above_last(runs->first, used + 1) - 1, out_block);
}

/* Where the planned move ends whose place overlaps this one; 0: there is none. */
static uint64_t promised_to(const struct cn_compact_plan *plan, uint32_t move_count,
                            struct cn_run place)
{
    for (uint32_t i = 0; i < move_count; i++) {
        uint64_t end = plan->moves[i].to + plan->moves[i].block.count;
        if (plan->moves[i].to < end_of(place) && place.first < end)
            return end;
    }
    return 0;
}

/* The lowest place in [from, end) that no earlier move takes. */
static bool place_apart(const struct cn_page_runs *runs, struct cn_compact_plan *plan,
                        uint32_t index, bool same_offset, uint64_t from, uint64_t end)
{
    struct cn_move *move = &plan->moves[index];
    while (from < end && place_between(runs, move->block, same_offset, from, end, &move->to)) {
        from = promised_to(plan, index, (struct cn_run){move->to, move->block.count});
        if (from == 0)
            return true;
    }
    return false;
}

static bool place_outside(const struct cn_compact *compact, struct cn_compact_plan *plan,
                          uint32_t index, bool same_offset)
{
    const struct cn_page_runs *runs = compact->runs;
    return place_apart(runs, plan, index, same_offset, 0, plan->window.first) ||
           place_apart(runs, plan, index, same_offset, end_of(plan->window), runs->granule_count);
}

/* Enters a block by size, largest first. */
static void enter(struct cn_compact_plan *plan, struct cn_run block)
{
    uint32_t i = plan->move_count++;
    for (; i > 0 && plan->moves[i - 1].block.count < block.count; i--)
        plan->moves[i] = plan->moves[i - 1];
    plan->moves[i].block = block;
    plan->cost += block.count;
}

/* Plans for one window. False: it cannot be emptied, or costs @p best or more. */
static bool plan_window(const struct cn_compact *compact, struct cn_run window, uint64_t best,
                        struct cn_compact_plan *plan)
{
    struct cn_run block, bare;
    if (compact->committed && cn_page_runs_uncommitted(compact->runs, window, &bare))
        return false;
    plan->window = window;
    plan->cost = 0;
    plan->move_count = 0;
    for (uint64_t from = window.first;
         from < end_of(window) && block_in(compact->runs, from, end_of(window), &block);
         from = end_of(block)) {
        if (plan->move_count == CN_COMPACT_MOVES_MAX || block.count >= best - plan->cost ||
            !compact->movable(compact->context, block))
            return false;
        enter(plan, block);
    }
    for (uint32_t i = 0; i < plan->move_count; i++)
        if (!(holds_chunks(plan->moves[i].block) && place_outside(compact, plan, i, true)) &&
            !place_outside(compact, plan, i, false))
            return false;
    return plan->cost < best;
}

bool cn_compact_window(const struct cn_compact *compact, uint64_t count,
                       struct cn_compact_plan *out_plan)
{
    uint64_t best = compact->cost_below, end = compact->runs->granule_count;
    struct cn_run block = {0, 0}; /* at first the beginning of the range, at last its end */
    struct cn_compact_plan plan;
    while (block.first < end && best > 0) {
        uint64_t from = end_of(block);
        if (from >= end || !block_in(compact->runs, from, end, &block))
            block = (struct cn_run){end, 0};
        struct cn_run windows[] = {{from, count}, {block.first - count, count}};
        for (unsigned i = 0; i < 2; i++) {
            bool fits = i == 0 ? from <= end && count <= end - from : count <= block.first;
            if (!fits || !plan_window(compact, windows[i], best, &plan))
                continue;
            best = plan.cost;
            *out_plan = plan;
        }
    }
    return best < compact->cost_below;
}

uint64_t cn_compact_longest(const struct cn_compact *compact)
{
    const struct cn_page_runs *runs = compact->runs;
    uint64_t longest = 0, open = 0, from = 0; /* open: where the last obstacle ended */
    struct cn_run block;
    while (from < runs->granule_count && block_in(runs, from, runs->granule_count, &block)) {
        from = end_of(block);
        if (compact->movable(compact->context, block))
            continue;
        if (block.first - open > longest)
            longest = block.first - open;
        open = from;
    }
    if (runs->granule_count - open > longest)
        longest = runs->granule_count - open;
    uint64_t free_count = runs->granule_count - runs->used_count;
    return longest < free_count ? longest : free_count;
}
