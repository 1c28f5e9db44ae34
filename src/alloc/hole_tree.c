/* SPDX-License-Identifier: Apache-2.0 */
/* A binary tree over leaves of 256 granules. Every node says three things of the granules below
 * it, and a parent's follow from its two children's:
 *
 *   granules   ..XX....XXX.........XXXX....XX.....      (X: used, .: free)
 *              <>         longest = 9           <--->
 *             head = 2                         tail = 5
 *
 *   head    = left is all free ? left.head + right.head : left.head
 *   tail    = right is all free ? right.tail + left.tail : right.tail
 *   longest = max(left.longest, right.longest, left.tail + right.head)
 *
 * To find the lowest run of n: go left when left.longest >= n; it lies across the middle when
 * left.tail + right.head >= n; else go right. There is no searching in vain, however many holes are
 * too small. Memory: 24 bytes for each 16 MiB in granules of 64 KiB, 48 where the number of leaves
 * is just above a power of two.
 *
 * The Go runtime's page allocator keeps the same three numbers in a tree with eight branches
 * (Knyszek and Clements, "Scaling the Go page allocator", 2019). */
#include <assert.h>

#include "alloc/hole_tree.h"
#include "base/bits.h"

#define LEAF_WORDS    4u
#define LEAF_GRANULES (LEAF_WORDS * CN_WORD_BITS)

static uint64_t leaf_count_of(uint64_t granule_count)
{
    uint64_t leaves = 1;
    while (leaves * LEAF_GRANULES < granule_count)
        leaves *= 2;
    return leaves;
}

size_t cn_hole_tree_bytes(uint64_t granule_count)
{
    return (size_t)(2 * leaf_count_of(granule_count) * sizeof(struct cn_hole));
}

/* ---- what a node says ---- */

static uint32_t longer(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static bool same(struct cn_hole a, struct cn_hole b)
{
    return a.head == b.head && a.tail == b.tail && a.longest == b.longest;
}

/* The free bits of a word; nothing is free beyond the range. */
static uint64_t free_bits(const struct cn_hole_tree *tree, uint64_t word)
{
    uint64_t first = word * CN_WORD_BITS;
    if (first >= tree->granule_count)
        return 0;
    uint64_t left = tree->granule_count - first;
    return ~tree->used[word] &
           (left >= CN_WORD_BITS ? UINT64_MAX : UINT64_MAX >> (CN_WORD_BITS - left));
}

static struct cn_hole leaf_hole(const struct cn_hole_tree *tree, uint64_t leaf)
{
    struct cn_hole hole = {0, 0, 0};
    uint32_t run = 0; /* free granules just below the word */
    bool only_free = true;
    for (uint64_t w = leaf * LEAF_WORDS; w < (leaf + 1) * LEAF_WORDS; w++) {
        uint64_t bits = free_bits(tree, w);
        if (bits == UINT64_MAX) {
            run += CN_WORD_BITS;
            continue;
        }
        run += (uint32_t)__builtin_ctzll(~bits);
        if (only_free)
            hole.head = run;
        only_free = false;
        hole.longest = longer(hole.longest, run);
        hole.longest = longer(hole.longest, cn_bits_longest(bits));
        run = bits == 0 ? 0 : (uint32_t)__builtin_clzll(~bits);
    }
    if (only_free)
        hole.head = run;
    hole.tail = run;
    hole.longest = longer(hole.longest, run);
    return hole;
}

/* @p length: the granules below each of the two. */
static struct cn_hole join(const struct cn_hole pair[2], uint64_t length)
{
    struct cn_hole left = pair[0], right = pair[1];
    return (struct cn_hole){
        .head = left.head == length ? left.head + right.head : left.head,
        .tail = right.tail == length ? right.tail + left.tail : right.tail,
        .longest = longer(longer(left.longest, right.longest), left.tail + right.head),
    };
}

/* ---- keeping it true ---- */

void cn_hole_tree_update(struct cn_hole_tree *tree, uint64_t from, uint64_t end)
{
    uint64_t low = from / LEAF_GRANULES, high = (end - 1) / LEAF_GRANULES;
    for (uint64_t leaf = low; leaf <= high; leaf++)
        tree->nodes[tree->leaf_count + leaf] = leaf_hole(tree, leaf);
    low += tree->leaf_count;
    high += tree->leaf_count;
    for (uint64_t length = LEAF_GRANULES; low > 1; length *= 2) {
        low /= 2;
        high /= 2;
        bool changed = false;
        for (uint64_t i = low; i <= high; i++) {
            struct cn_hole hole = join(&tree->nodes[2 * i], length);
            changed |= !same(hole, tree->nodes[i]);
            tree->nodes[i] = hole;
        }
        if (!changed)
            return;
    }
}

void cn_hole_tree_init(struct cn_hole_tree *tree, uint64_t granule_count, const uint64_t *used,
                       void *metadata)
{
    assert(granule_count > 0 && granule_count <= UINT32_MAX);
    *tree = (struct cn_hole_tree){
        .used = used,
        .granule_count = granule_count,
        .leaf_count = leaf_count_of(granule_count),
        .nodes = metadata,
    };
    for (uint64_t leaf = 0; leaf < tree->leaf_count; leaf++)
        tree->nodes[tree->leaf_count + leaf] = leaf_hole(tree, leaf);
    uint64_t length = LEAF_GRANULES;
    for (uint64_t level = tree->leaf_count / 2; level > 0; level /= 2, length *= 2)
        for (uint64_t i = level; i < 2 * level; i++)
            tree->nodes[i] = join(&tree->nodes[2 * i], length);
}

bool cn_hole_tree_true(const struct cn_hole_tree *tree)
{
    for (uint64_t leaf = 0; leaf < tree->leaf_count; leaf++)
        if (!same(tree->nodes[tree->leaf_count + leaf], leaf_hole(tree, leaf)))
            return false;
    uint64_t length = LEAF_GRANULES;
    for (uint64_t level = tree->leaf_count / 2; level > 0; level /= 2, length *= 2)
        for (uint64_t i = level; i < 2 * level; i++)
            if (!same(tree->nodes[i], join(&tree->nodes[2 * i], length)))
                return false;
    return true;
}

/* ---- finding ---- */

/* The same within a leaf that has such a run, word by word. */
static uint64_t find_in_leaf(const struct cn_hole_tree *tree, uint64_t leaf, uint64_t count)
{
    uint64_t run = 0; /* free granules just below the word */
    for (uint64_t w = leaf * LEAF_WORDS;; w++) {
        assert(w < (leaf + 1) * LEAF_WORDS);
        uint64_t bits = free_bits(tree, w);
        uint64_t head = bits == UINT64_MAX ? CN_WORD_BITS : (uint64_t)__builtin_ctzll(~bits);
        if (run + head >= count)
            return w * CN_WORD_BITS - run;
        uint64_t inside = cn_bits_runs(bits, count);
        if (inside != 0)
            return w * CN_WORD_BITS + (uint64_t)__builtin_ctzll(inside);
        run = head == CN_WORD_BITS ? run + head : (uint64_t)__builtin_clzll(~bits);
    }
}

bool cn_hole_tree_find(const struct cn_hole_tree *tree, uint64_t count, uint64_t *out_first)
{
    if (tree->nodes[1].longest < count)
        return false;
    uint64_t i = 1, first = 0;
    for (uint64_t length = tree->leaf_count * LEAF_GRANULES / 2; i < tree->leaf_count;
         length /= 2) {
        i *= 2;
        if (tree->nodes[i].longest >= count)
            continue;
        if (tree->nodes[i].tail + (uint64_t)tree->nodes[i + 1].head >= count) {
            *out_first = first + length - tree->nodes[i].tail;
            return true;
        }
        i++;
        first += length;
    }
    *out_first = find_in_leaf(tree, i - tree->leaf_count, count);
    return true;
}
