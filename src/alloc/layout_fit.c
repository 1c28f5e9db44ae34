/* SPDX-License-Identifier: Apache-2.0 */
/* First fit: the lowest offset at which an item touches none of those placed that live when it
 * does.
 *
 * Items are sorted by their lower end, so those that begin before this one ends are a prefix of the
 * array; a tree over it holds the latest upper end of those placed, and leads to the ones in the
 * prefix that end after this one begins:
 *
 *            9            items      0      1      2      3
 *        7       9        lives    [0,7)  [0,2)  [1,9)  [4,6)
 *      7   2   9   -      placed     x      x      x
 *
 * The neighbours go into a heap, for they are wanted by ascending offset and only until a gap is
 * found. Where there are more than the heap is worth, all that is placed is walked by offset.
 * Either way a gap that is too low for the item is passed once. */
#include <assert.h>
#include <string.h>

#include "alloc/layout.h"
#include "base/checked.h"

/* ---- the tree ---- */

static void tree_set(struct cn_layout_fit *fit, uint32_t item, uint32_t upper)
{
    uint32_t node = fit->leaf_count + item;
    fit->upper_max[node] = upper;
    while ((node /= 2) > 0 && fit->upper_max[node] < upper)
        fit->upper_max[node] = upper;
}

/* The neighbours of @p item among the leaves below @p node, into keys. @return false when there are
 * more than @p most. */
static bool collect(cenote_layout *layout, const struct cn_layout_item *item, uint32_t node,
                    uint32_t begin, uint32_t width, uint32_t most, uint32_t *count)
{
    const struct cn_layout_fit *fit = &layout->fit;
    if (begin >= layout->first[item->upper] || fit->upper_max[node] <= item->lower)
        return true;
    if (width > 1) {
        uint32_t half = width / 2;
        return collect(layout, item, 2 * node, begin, half, most, count) &&
               collect(layout, item, 2 * node + 1, begin + half, half, most, count);
    }
    if (*count == most)
        return false;
    uint64_t offset = fit->offsets[begin];
    layout->keys[(*count)++] = (struct cn_layout_key){offset, offset + layout->items[begin].size};
    return true;
}

/* ---- gaps ---- */

struct gap {
    uint64_t at, size, align;
};

/* Moves on past a block. @return false when the item fits below it. */
static bool gap_pass(struct gap *gap, uint64_t offset, uint64_t top)
{
    if (offset >= gap->at + gap->size)
        return false;
    if (top > gap->at)
        gap->at = cn_round_up(top, gap->align);
    return true;
}

static void pass_heap(struct gap *gap, struct cn_layout_key *keys, uint32_t count)
{
    for (uint32_t i = count / 2; i > 0; i--)
        cn_layout_heap_down(keys, count, i - 1);
    while (count > 0 && gap_pass(gap, keys[0].key, keys[0].value)) {
        keys[0] = keys[--count];
        cn_layout_heap_down(keys, count, 0);
    }
}

static void pass_all(struct gap *gap, cenote_layout *layout, const struct cn_layout_item *item)
{
    const struct cn_layout_fit *fit = &layout->fit;
    layout->looks += fit->placed;
    for (uint32_t i = 0; i < fit->placed; i++) {
        uint32_t index = fit->by_offset[i];
        const struct cn_layout_item *other = &layout->items[index];
        if (other->lower < item->upper && item->lower < other->upper &&
            !gap_pass(gap, fit->offsets[index], fit->offsets[index] + other->size))
            return;
    }
}

/* ---- for the others ---- */

void cn_layout_fit_reset(cenote_layout *layout)
{
    struct cn_layout_fit *fit = &layout->fit;
    memset(fit->upper_max, 0, 2 * (size_t)fit->leaf_count * sizeof *fit->upper_max);
    fit->placed = 0;
}

void cn_layout_fit_put(cenote_layout *layout, uint32_t item, uint64_t offset)
{
    struct cn_layout_fit *fit = &layout->fit;
    uint32_t low = 0, high = fit->placed;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (fit->offsets[fit->by_offset[middle]] <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    memmove(fit->by_offset + low + 1, fit->by_offset + low,
            (fit->placed - low) * sizeof *fit->by_offset);
    fit->by_offset[low] = item;
    fit->placed++;
    fit->offsets[item] = offset;
    tree_set(fit, item, layout->items[item].upper);
}

/* A neighbour costs some ten times as much in the heap as in the walk. */
static uint32_t heap_most(const struct cn_layout_fit *fit)
{
    return 64 + fit->placed / 8;
}

uint64_t cn_layout_fit_place(cenote_layout *layout, uint32_t index)
{
    struct cn_layout_fit *fit = &layout->fit;
    const struct cn_layout_item *item = &layout->items[index];
    struct gap gap = {0, item->size, item->align};
    uint32_t count = 0;
    if (collect(layout, item, 1, 0, fit->leaf_count, heap_most(fit), &count))
        pass_heap(&gap, layout->keys, count);
    else
        pass_all(&gap, layout, item);
    cn_layout_fit_put(layout, index, gap.at);
    return gap.at + item->size;
}

bool cn_layout_fit_clashes(const cenote_layout *layout, uint32_t index, uint64_t offset)
{
    const struct cn_layout_fit *fit = &layout->fit;
    const struct cn_layout_item *item = &layout->items[index];
    for (uint32_t i = 0; i < fit->placed; i++) {
        uint32_t other_index = fit->by_offset[i];
        const struct cn_layout_item *other = &layout->items[other_index];
        uint64_t begin = fit->offsets[other_index];
        if (begin >= offset + item->size)
            break;
        if (begin + other->size > offset && other->lower < item->upper &&
            item->lower < other->upper)
            return true;
    }
    return false;
}
