/* SPDX-License-Identifier: Apache-2.0 */
/* What comes after the greedy orders: attempts in turn, each short, so that whoever pays for steps
 * can stop soon.
 *
 *   1. the skyline at the least height that is possible: instances that can be filled exactly
 *   2. the skyline at a height between that and the best, nearer to the best after every failure
 *   3. first fit in the best order, but for an item at the peak that goes earlier, many times
 *
 * The skyline knows much about instances of some hundred buffers with little slack, and nothing
 * about twenty thousand with a peak in one place; the third is the other way round. Attempts
 * restart with another shuffle and take 1, 1, 2, 1, 1, 2, 4, ... times the base of steps (Luby,
 * Sinclair and Zuckerman, 1993): a search like this is either soon done or caught in a bad
 * beginning.
 *
 * `order` always gives `best` when its items are put down one by one at the lowest offset: for a
 * layout from the skyline it is that of offsets, by which no item comes to lie higher than it was.
 */
#include <string.h>

#include "alloc/layout.h"

/* Of an attempt, unless a single way through all items takes more. */
#define STEPS_MAX (UINT64_C(1) << 17)

/* ---- numbers ---- */

/* splitmix64 */
static uint64_t next_random(cenote_layout *layout)
{
    uint64_t x = layout->state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint32_t random_below(cenote_layout *layout, uint32_t count)
{
    return (uint32_t)((next_random(layout) >> 32) * count >> 32);
}

/* The n-th of 1, 1, 2, 1, 1, 2, 4, ...; n from 1. */
static uint64_t luby(uint64_t n)
{
    uint64_t length = 1;
    while (length < n)
        length = 2 * length + 1;
    while (length > n) {
        length /= 2;
        if (n > length)
            n -= length;
    }
    return (length + 1) / 2;
}

/* ---- orders ---- */

/* The fit's offsets become the best. */
static void keep(cenote_layout *layout, uint64_t peak)
{
    if (peak < layout->report.peak_bytes)
        layout->report.improvement_count++;
    layout->report.peak_bytes = peak;
    memcpy(layout->best, layout->fit.offsets, layout->item_count * sizeof *layout->best);
}

/* Makes the order of given offsets and keeps what it gives. */
static void keep_by_offset(cenote_layout *layout, const uint64_t *offsets)
{
    for (uint32_t i = 0; i < layout->item_count; i++)
        layout->keys[i] = (struct cn_layout_key){offsets[i], i};
    cn_layout_sort(layout->keys, layout->item_count);
    keep(layout, cn_layout_by_keys(layout));
}

/* order[from] goes to @p to, <= from; what is between goes on by one. */
static void move_earlier(uint32_t *order, uint32_t from, uint32_t to)
{
    uint32_t item = order[from];
    memmove(order + to + 1, order + to, (from - to) * sizeof *order);
    order[to] = item;
}

static void move_back(uint32_t *order, uint32_t from, uint32_t to)
{
    uint32_t item = order[to];
    memmove(order + to, order + to + 1, (from - to) * sizeof *order);
    order[from] = item;
}

/* A place in the order: three times of four that of an item which reaches the peak. */
static uint32_t pick_item(cenote_layout *layout)
{
    uint32_t at = random_below(layout, layout->item_count);
    if (random_below(layout, 4) == 0)
        return at;
    for (;;) {
        uint32_t item = layout->order[at];
        if (layout->best[item] + layout->items[item].size == layout->report.peak_bytes)
            return at;
        at = at + 1 < layout->item_count ? at + 1 : 0;
    }
}

/* A place before @p at, if possible of an item that lives at the same time. */
static uint32_t pick_place(cenote_layout *layout, uint32_t at)
{
    const struct cn_layout_item *item = &layout->items[layout->order[at]];
    uint32_t place = at;
    for (int i = 0; i < 16 && at > 0; i++) {
        place = random_below(layout, at);
        const struct cn_layout_item *other = &layout->items[layout->order[place]];
        if (other->lower < item->upper && item->lower < other->upper)
            break;
    }
    return place;
}

/* First fit in the order from place @p from on; before it all is where it was. @return the peak, or
 * more than the best when it was given up. */
static uint64_t refit(cenote_layout *layout, uint32_t from)
{
    uint64_t peak = 0;
    cn_layout_fit_reset(layout);
    for (uint32_t i = 0; i < layout->item_count; i++) {
        uint32_t item = layout->order[i];
        uint64_t top = layout->best[item] + layout->items[item].size;
        if (i < from)
            cn_layout_fit_put(layout, item, layout->best[item]);
        else
            top = cn_layout_fit_place(layout, item);
        cn_layout_count_step(layout);
        if (top > peak)
            peak = top;
        if (peak > layout->report.peak_bytes)
            break;
    }
    return peak;
}

static void try_orders(cenote_layout *layout, uint64_t step_max)
{
    uint64_t end = layout->report.step_count + step_max;
    while (layout->report.step_count < end &&
           layout->report.peak_bytes > layout->report.least_bytes) {
        uint32_t from = pick_item(layout), to = pick_place(layout, from);
        move_earlier(layout->order, from, to);
        uint64_t peak = refit(layout, to);
        if (peak <= layout->report.peak_bytes)
            keep(layout, peak);
        else
            move_back(layout->order, from, to);
    }
}

/* ---- attempts ---- */

static void try_skyline(cenote_layout *layout, uint64_t height, uint64_t round, uint64_t step_max)
{
    enum cn_skyline_end end = cn_layout_skyline(layout, height, round, step_max);
    if (end == CN_SKYLINE_FOUND) {
        keep_by_offset(layout, layout->fit.offsets);
        layout->failures = 0;
    } else {
        layout->failures++;
    }
}

static void attempt(cenote_layout *layout)
{
    const cenote_layout_report *report = &layout->report;
    uint64_t round = layout->attempt / 3, base = 1000 + 2 * (uint64_t)layout->item_count;
    uint64_t factor = luby(round + 1), most = STEPS_MAX / base;
    uint64_t steps = base * (factor < most ? factor : most > 0 ? most : 1);
    uint64_t gap = report->peak_bytes - 1 - report->least_bytes;
    switch (layout->attempt++ % 3) {
    case 0:
        try_skyline(layout, report->least_bytes, round, steps);
        break;
    case 1:
        try_skyline(layout, report->peak_bytes - 1 - (gap >> (1 + layout->failures % 16)), round,
                    steps);
        break;
    default:
        try_orders(layout, steps);
        break;
    }
}

void cn_layout_search_init(cenote_layout *layout)
{
    layout->state = layout->item_count;
    if (layout->item_count > 0)
        keep_by_offset(layout, layout->best);
    layout->looks = 0;
}

bool cenote_layout_improve(cenote_layout *layout, uint64_t step_count)
{
    const cenote_layout_report *report = &layout->report;
    if (step_count > UINT64_MAX - layout->step_target)
        step_count = UINT64_MAX - layout->step_target;
    layout->step_target += step_count;
    while (report->step_count < layout->step_target && report->peak_bytes > report->least_bytes)
        attempt(layout);
    return report->peak_bytes > report->least_bytes;
}
