/* SPDX-License-Identifier: Apache-2.0 */
/* Branch and bound for a given height, from the floor upwards.
 *
 * Each section has a *floor*, below which it is settled, and a *rest*, the bytes that are still to
 * come in it. Together they may not exceed the height: what is missing is the waste that the
 * section can still afford. In a layout in which everything has sunk as low as it can, each item
 * rests on the highest floor of its life. So look at the leftmost of the lowest sections, `lower`,
 * whose level reaches as far as `run`:
 *
 *        ##           ####
 *        ##     ##########    what comes next on `lower` rests at this level, and then begins at
 *        ##.....##########    `lower` and ends by `run`, for it cannot reach into a wall;
 *      ####.....##########    or it rests higher, and the floor of `lower` may be raised at once:
 *          |    |             to the lower wall, or to the lowest top of an item that can still
 *        lower  run           rest in the run to the right
 *
 * That is all there is to decide, again and again, until no section has a rest. A raise that leaves
 * room below for an item is no better than the item there. In a section without any slack nothing
 * can be raised, which is why layouts that fill the height to the last byte are found soonest.
 *
 * The idea of building from the lowest offset, with the slack of sections as the bound and
 * dominated choices left out, is that of MiniMalloc (Moffitt, ASPLOS 2023); of following the lowest
 * segment of a skyline, of packing in strips (Burke, Kendall and Whitwell, 2004). */
#include <string.h>

#include "alloc/layout.h"
#include "base/checked.h"

#define NOWHERE UINT32_MAX
#define RAISED  UINT32_MAX

struct skyline {
    cenote_layout *layout;
    uint64_t height;
    uint64_t next_height; /* the least that something was given up for */
    uint32_t depth;
};

/* ---- floors ---- */

/* Floors are the leaves of a tree of minima; a section that wants nothing any more has UINT64_MAX.
 * Past the first and the last it is the same. */
static uint64_t floor_of(const cenote_layout *layout, uint32_t section)
{
    /* Before 0 it wraps to a section that is none. */
    return section < layout->section_count ? layout->floor[layout->floor_leaves + section]
                                           : UINT64_MAX;
}

/* Recomputes the inner nodes over [lower, upper). */
static void mend(cenote_layout *layout, uint32_t lower, uint32_t upper)
{
    uint64_t *floor = layout->floor;
    uint32_t first = layout->floor_leaves + lower, last = layout->floor_leaves + upper - 1;
    while ((first /= 2) > 0) {
        last /= 2;
        for (uint32_t node = first; node <= last; node++)
            floor[node] =
                floor[2 * node] < floor[2 * node + 1] ? floor[2 * node] : floor[2 * node + 1];
    }
}

static void reset(cenote_layout *layout)
{
    memset(layout->floor, 0xff, 2 * (size_t)layout->floor_leaves * sizeof *layout->floor);
    memcpy(layout->rest, layout->load, layout->section_count * sizeof *layout->rest);
    memset(layout->fit.offsets, 0xff, layout->item_count * sizeof *layout->fit.offsets);
    for (uint32_t s = 0; s < layout->section_count; s++)
        if (layout->rest[s] > 0)
            layout->floor[layout->floor_leaves + s] = 0;
    mend(layout, 0, layout->section_count);
}

/* The leftmost of the lowest sections; NOWHERE: all is placed. */
static uint32_t lowest(const cenote_layout *layout)
{
    uint32_t node = 1;
    if (layout->floor[node] == UINT64_MAX)
        return NOWHERE;
    while (node < layout->floor_leaves)
        node = 2 * node + (layout->floor[2 * node + 1] < layout->floor[2 * node]);
    return node - layout->floor_leaves;
}

/* ---- what can be chosen ---- */

/* An item rests at the level of a run when it is not placed yet and ends within. Placed items have
 * an offset; the others UINT64_MAX. */
static bool fits_run(const cenote_layout *layout, uint32_t item, uint32_t run)
{
    return layout->fit.offsets[item] == UINT64_MAX && layout->items[item].upper <= run;
}

/* Of equal items only the first that is free is tried. */
static bool is_twin(const cenote_layout *layout, uint32_t item)
{
    if (item == 0 || layout->fit.offsets[item - 1] != UINT64_MAX)
        return false;
    const struct cn_layout_item *a = &layout->items[item - 1], *b = &layout->items[item];
    return a->lower == b->lower && a->upper == b->upper && a->size == b->size &&
           a->align == b->align;
}

/* 1 to 64, of seed and item alone (splitmix64's last steps). */
static float chance(uint64_t seed, uint32_t item)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + item;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return 1.0f + (float)(x >> 58);
}

/* 32 bits by which the items that begin together are tried. */
static uint32_t rank_of(const cenote_layout *layout, uint64_t seed, uint32_t index)
{
    const struct cn_layout_item *item = &layout->items[index];
    float weight = chance(seed, index);
    uint32_t bits;
    if (seed == 0)
        return index;
    if (seed % 2 == 1)
        weight *= (float)item->size;
    if (seed / 2 % 2 == 1)
        weight *= (float)(item->upper - item->lower);
    memcpy(&bits, &weight, sizeof bits); /* of floats above 0 the bits ascend as they do */
    return ~bits;
}

/* In which order the items of each section are tried: the longest lives first, as they come; with a
 * seed a shuffle that favours the large, the long, both or none. */
static void order_choices(cenote_layout *layout, uint64_t seed)
{
    for (uint32_t i = 0; i < layout->item_count; i++)
        layout->keys[i] = (struct cn_layout_key){
            (uint64_t)layout->items[i].lower << 32 | rank_of(layout, seed, i), i};
    cn_layout_sort(layout->keys, layout->item_count);
    for (uint32_t i = 0; i < layout->item_count; i++)
        layout->choices[i] = (uint32_t)layout->keys[i].value;
}

/* The next item to try at the move's place, or NOWHERE. */
static uint32_t next_item(const struct skyline *sky, struct cn_layout_move *move)
{
    cenote_layout *layout = sky->layout;
    uint32_t count = layout->first[move->lower + 1] - layout->first[move->lower];
    while (move->choice < count) {
        uint32_t item = layout->choices[layout->first[move->lower] + move->choice++];
        layout->looks++;
        if (fits_run(layout, item, move->run) && !is_twin(layout, item))
            return item;
    }
    move->choice++;
    return NOWHERE;
}

/* ---- placing and raising ---- */

/* Would the height do with the floor of [lower, upper) at @p floor, and @p size of its rest placed?
 */
static bool is_affordable(struct skyline *sky, const struct cn_layout_move *move, uint64_t floor,
                          uint64_t size)
{
    uint64_t rest = 0;
    sky->layout->looks += move->upper - move->lower;
    for (uint32_t s = move->lower; s < move->upper; s++)
        if (sky->layout->rest[s] > rest)
            rest = sky->layout->rest[s];
    uint64_t height = floor + rest - size;
    if (height > sky->height && height < sky->next_height)
        sky->next_height = height;
    return height <= sky->height;
}

static void lift(const struct skyline *sky, const struct cn_layout_move *move, uint64_t floor,
                 uint64_t size)
{
    cenote_layout *layout = sky->layout;
    for (uint32_t s = move->lower; s < move->upper; s++) {
        layout->rest[s] -= size;
        layout->floor[layout->floor_leaves + s] = layout->rest[s] > 0 ? floor : UINT64_MAX;
    }
    mend(layout, move->lower, move->upper);
}

static void undo(const struct skyline *sky, const struct cn_layout_move *move)
{
    uint64_t size = 0;
    if (move->item != RAISED) {
        size = sky->layout->items[move->item].size;
        sky->layout->fit.offsets[move->item] = UINT64_MAX;
    }
    lift(sky, move, move->level, 0 - size); /* modulo 2^64 it comes back */
}

static bool place(struct skyline *sky, struct cn_layout_move *move, uint32_t index)
{
    const struct cn_layout_item *item = &sky->layout->items[index];
    uint64_t offset = cn_round_up(move->level, item->align);
    move->item = index;
    move->upper = item->upper;
    if (!is_affordable(sky, move, offset + item->size, item->size))
        return false;
    sky->layout->fit.offsets[index] = offset;
    lift(sky, move, offset + item->size, item->size);
    return true;
}

/* The least top of the items that can rest in the run to the right; *begin is where the first of
 * them begins, or run. */
static uint64_t least_top(const cenote_layout *layout, const struct cn_layout_move *move,
                          uint32_t *begin)
{
    uint64_t least = UINT64_MAX;
    *begin = move->run;
    for (uint32_t i = layout->first[move->lower + 1]; i < layout->first[move->run]; i++)
        if (fits_run(layout, i, move->run)) {
            if (least == UINT64_MAX)
                *begin = layout->items[i].lower;
            if (move->level + layout->items[i].size < least)
                least = move->level + layout->items[i].size;
        }
    return least;
}

/* Would an item that begins at the move's place fit below @p floor in what is raised? */
static bool is_dominated(const cenote_layout *layout, const struct cn_layout_move *move,
                         uint64_t floor)
{
    for (uint32_t i = layout->first[move->lower]; i < layout->first[move->lower + 1]; i++) {
        const struct cn_layout_item *item = &layout->items[i];
        if (fits_run(layout, i, move->upper) &&
            cn_round_up(move->level, item->align) + item->size <= floor)
            return true;
    }
    return false;
}

static bool raise_floor(struct skyline *sky, struct cn_layout_move *move)
{
    cenote_layout *layout = sky->layout;
    layout->looks += layout->first[move->run] - layout->first[move->lower];
    uint64_t floor = least_top(layout, move, &move->upper);
    uint64_t left = floor_of(layout, move->lower - 1), right = floor_of(layout, move->run);
    if (left < floor)
        floor = left;
    if (right < floor)
        floor = right;
    move->item = RAISED;
    if (floor == UINT64_MAX || is_dominated(layout, move, floor) ||
        !is_affordable(sky, move, floor, 0))
        return false;
    lift(sky, move, floor, 0);
    return true;
}

/* ---- the search ---- */

/* @return false when all is placed. */
static bool descend(struct skyline *sky)
{
    cenote_layout *layout = sky->layout;
    struct cn_layout_move *move = &layout->moves[sky->depth];
    uint32_t at = lowest(layout);
    if (at == NOWHERE)
        return false;
    *move = (struct cn_layout_move){.level = floor_of(layout, at), .lower = at, .run = at + 1};
    while (floor_of(layout, move->run) == move->level)
        move->run++;
    sky->depth++;
    return true;
}

/* The next choice of the deepest move. */
static bool advance(struct skyline *sky)
{
    cenote_layout *layout = sky->layout;
    struct cn_layout_move *move = &layout->moves[sky->depth - 1];
    uint32_t count = layout->first[move->lower + 1] - layout->first[move->lower];
    while (move->choice <= count) {
        uint32_t item = next_item(sky, move);
        if (item != NOWHERE ? place(sky, move, item) : raise_floor(sky, move))
            return true;
    }
    return false;
}

/* Goes on until all is placed, nothing is left to try, or the steps or the stack run out. */
static enum cn_skyline_end search(struct skyline *sky, uint64_t step_max)
{
    const cenote_layout_report *report = &sky->layout->report;
    uint64_t depth_max = cn_layout_move_count(sky->layout->item_count);
    uint64_t end = report->step_count + step_max;
    while (report->step_count < end) {
        bool advanced = advance(sky);
        cn_layout_count_step(sky->layout);
        if (advanced) {
            if (sky->depth == depth_max)
                return CN_SKYLINE_GIVEN_UP;
            if (!descend(sky))
                return CN_SKYLINE_FOUND;
        } else {
            if (--sky->depth == 0)
                return CN_SKYLINE_NONE;
            undo(sky, &sky->layout->moves[sky->depth - 1]);
        }
    }
    return CN_SKYLINE_GIVEN_UP;
}

enum cn_skyline_end cn_layout_skyline(cenote_layout *layout, uint64_t height, uint64_t seed,
                                      uint64_t step_max)
{
    struct skyline sky = {.layout = layout, .height = height, .next_height = UINT64_MAX};
    reset(layout);
    order_choices(layout, seed);
    if (!descend(&sky))
        return CN_SKYLINE_FOUND;
    enum cn_skyline_end end = search(&sky, step_max);
    if (end == CN_SKYLINE_NONE && sky.next_height > layout->report.least_bytes)
        layout->report.least_bytes = sky.next_height;
    return end;
}
