/* SPDX-License-Identifier: Apache-2.0 */
/* Which blocks to move where, so that page runs come together. A pure planner: it marks nothing and
 * moves nothing; it says one move at a time, and whoever carries it out changes the runs and asks
 * again. So a compaction can be stopped after any move and gone on with at any time, whatever was
 * allocated or freed in between.
 *
 * Threads: none; the caller locks. */
#ifndef CN_ALLOC_COMPACT_H
#define CN_ALLOC_COMPACT_H

#include "alloc/page_runs.h"

/* May the block move? Asked for each block that the planner considers, often more than once. */
typedef bool (*cn_movable_fn)(void *context, struct cn_run block);

struct cn_compact {
    const struct cn_page_runs *runs;
    bool committed;      /* windows without an uncommitted granule only */
    uint64_t cost_below; /* and that cost less than so many granules */
    cn_movable_fn movable;
    void *context;
};

/* The block's new place begins at granule @p to, is free, and does not overlap the old one. */
struct cn_move {
    struct cn_run block;
    uint64_t to;
};

/* Down: the highest movable block below granule @p below that has a place further down. Go on below
 * that block, and again from the top until a whole round finds nothing: each move lowers a block,
 * so there is an end. False: there is none. */
bool cn_compact_down(const struct cn_compact *compact, uint64_t below, struct cn_move *out_move);

#define CN_COMPACT_MOVES_MAX 64u

/* How to empty a window: moves that can be made in this order, the largest block first. */
struct cn_compact_plan {
    struct cn_run window;
    uint64_t cost; /* granules of the blocks that move */
    uint32_t move_count;
    struct cn_move moves[CN_COMPACT_MOVES_MAX];
};

/* The window of @p count granules that costs the least to empty: all blocks that lie in it, be it
 * with a part, are movable, at most CN_COMPACT_MOVES_MAX, and find places outside of it. False:
 * there is none.  Cost: O(blocks x blocks in a window x holes), most of it cut short by a better
 * one. */
bool cn_compact_window(const struct cn_compact *compact, uint64_t count,
                       struct cn_compact_plan *out_plan);

/* The longest hole that moving blocks could make, at most: no longer than the way between two that
 * may not move, nor than all that is free. O(blocks). */
uint64_t cn_compact_longest(const struct cn_compact *compact);

#endif
