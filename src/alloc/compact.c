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

/* The same outside of @p window. */
static bool place_outside(const struct cn_page_runs *runs, struct cn_run block, bool same_offset,
                          struct cn_run window, uint64_t *out_to)
{
    return place_between(runs, block, same_offset, 0, window.first, out_to) ||
           place_between(runs, block, same_offset, end_of(window), runs->granule_count, out_to);
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

/* What emptying the window moves; UINT64_MAX when it cannot be emptied or costs @p best or more. */
static uint64_t cost_of(const struct cn_compact *compact, struct cn_run window, uint64_t best)
{
    const struct cn_page_runs *runs = compact->runs;
    uint64_t cost = 0, to, from = window.first;
    struct cn_run block;
    while (block_in(runs, from, end_of(window), &block)) {
        cost += block.count;
        from = end_of(block);
        if (cost >= best || !compact->movable(compact->context, block) ||
            !place_outside(runs, block, false, window, &to))
            return UINT64_MAX;
        if (from >= end_of(window))
            break;
    }
    return cost;
}

bool cn_compact_window(const struct cn_compact *compact, uint64_t count, struct cn_run *out_window)
{
    const struct cn_page_runs *runs = compact->runs;
    uint64_t best = UINT64_MAX, end = runs->granule_count;
    struct cn_run block = {0, 0}; /* at first the beginning of the range, at last its end */
    while (block.first < end) {
        uint64_t from = end_of(block);
        if (from >= end || !block_in(runs, from, end, &block))
            block = (struct cn_run){end, 0};
        struct cn_run windows[] = {{from, count}, {block.first - count, count}};
        for (unsigned i = 0; i < 2; i++) {
            bool fits = i == 0 ? from <= end && count <= end - from : count <= block.first;
            uint64_t cost = fits ? cost_of(compact, windows[i], best) : UINT64_MAX;
            if (cost < best) {
                best = cost;
                *out_window = windows[i];
            }
        }
    }
    return best != UINT64_MAX;
}

bool cn_compact_out(const struct cn_compact *compact, struct cn_run window,
                    struct cn_move *out_move)
{
    const struct cn_page_runs *runs = compact->runs;
    struct cn_run block, largest = {0, 0};
    for (uint64_t from = window.first;
         from < end_of(window) && block_in(runs, from, end_of(window), &block);
         from = end_of(block))
        if (block.count > largest.count)
            largest = block;
    out_move->block = largest;
    if (largest.count == 0 || !compact->movable(compact->context, largest))
        return false;
    return (holds_chunks(largest) && place_outside(runs, largest, true, window, &out_move->to)) ||
           place_outside(runs, largest, false, window, &out_move->to);
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
