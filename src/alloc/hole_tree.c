/* SPDX-License-Identifier: Apache-2.0 */
/* A tournament of words. A word of the bitmap enters with its *reach*, the longest hole that begins
 * in it, and of two the longer one goes up:
 *
 *   root                      12
 *                       12          2
 *   reach             3    12     0    2
 *   word              0     1     2     3            (X: used, .: free; words of 8 granules)
 *               XX..XXX. ..XX.XX. ........ ...XXX..
 *                      <-->     <------------>
 *   tags               3  3    12           12
 *
 * A hole counts where it begins, with all of its length, wherever it ends. So the lowest hole of n
 * begins in the lowest word whose reach is n or more: one comparison a level, none of them in vain,
 * however many holes are too small.
 *
 * Boundary tags at both ends (Knuth, "The Art of Computer Programming", 2.5) say how long a hole
 * is that has more than one word; an edge between two words is crossed by one hole at most, so two
 * tags a word are enough, and they lie beside the bitmap. With them whoever frees knows both
 * neighbours at once, however long they are.
 *
 * The root is as high as the words in which a hole has ever begun, for those above have a reach of
 * 0: what was never used costs no level, and no page of the nodes' memory.
 *
 * Which way is up or down is as good as random, and a branch that is guessed wrong costs as much as
 * twenty instructions: so most of what could be branches are sums and choices.
 *
 * Memory: 16 to 20 bytes for each 64 granules. */
#include <assert.h>

#include "alloc/hole_tree.h"
#include "base/bits.h"
#include "base/compiler.h"

static uint64_t leaf_count_of(uint64_t granule_count)
{
    uint64_t leaves = 1;
    while (leaves < cn_bits_words(granule_count))
        leaves *= 2;
    return leaves;
}

/* Inner nodes and words; the last word has an opponent too. */
static uint64_t node_count_of(uint64_t granule_count)
{
    return (leaf_count_of(granule_count) + cn_bits_words(granule_count) + 1) / 2 * 2;
}

size_t cn_hole_tree_bytes(uint64_t granule_count)
{
    return (size_t)(node_count_of(granule_count) * sizeof(uint32_t) +
                    cn_bits_words(granule_count) * sizeof(struct cn_hole_tags));
}

/* ---- what the bitmap and the tags say ---- */

/* A word of the bitmap in which all that is beyond the range is taken. */
static uint64_t used_bits(const struct cn_hole_tree *tree, uint64_t word)
{
    return tree->used[word] | (word == tree->last_word ? tree->beyond : 0);
}

/* The length of the hole that begins at @p at; 0: there is none. */
static uint64_t hole_above(const struct cn_hole_tree *tree, uint64_t at)
{
    if (at == tree->granule_count)
        return 0;
    uint64_t word = at / CN_WORD_BITS, used = used_bits(tree, word) >> at % CN_WORD_BITS;
    return used != 0 ? (uint64_t)__builtin_ctzll(used) : tree->tags[word].begins;
}

/* The length of the hole that ends at @p at. */
static uint64_t hole_below(const struct cn_hole_tree *tree, uint64_t at)
{
    if (at == 0)
        return 0;
    uint64_t word = (at - 1) / CN_WORD_BITS, used = tree->used[word] << -at % CN_WORD_BITS;
    return used != 0 ? (uint64_t)__builtin_clzll(used) : tree->tags[word].ends;
}

/* Tags the hole [from, end). */
static void tag(struct cn_hole_tree *tree, uint64_t from, uint64_t end)
{
    uint64_t first = from / CN_WORD_BITS, last = (end - 1) / CN_WORD_BITS;
    if (end >= (first + 1) * CN_WORD_BITS)
        tree->tags[first].begins = (uint32_t)(end - from);
    if (from <= last * CN_WORD_BITS)
        tree->tags[last].ends = (uint32_t)(end - from);
}

static uint32_t longer(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* The longest hole that begins in a word. */
static uint32_t reach_of(const struct cn_hole_tree *tree, uint64_t word)
{
    uint64_t free = ~used_bits(tree, word), first_word = word == 0;
    uint64_t begins_here = first_word | tree->used[word - !first_word] >> (CN_WORD_BITS - 1);
    free &= (free + 1) | -begins_here; /* less what is a lower word's */
    uint32_t last = free >> (CN_WORD_BITS - 1) != 0 ? tree->tags[word].begins : 0;
    return longer(cn_bits_longest(free), last);
}

/* ---- keeping it true ---- */

static bool outside(const struct cn_hole_tree *tree, uint64_t word)
{
    return word * tree->root >= tree->leaf_count;
}

static void reach_set(struct cn_hole_tree *tree, uint64_t word, uint32_t reach)
{
    uint32_t *nodes = tree->nodes;
    while (CN_UNLIKELY(outside(tree, word))) {
        nodes[tree->root / 2] = nodes[tree->root];
        tree->root /= 2;
    }
    for (uint64_t i = tree->leaf_count + word; i > tree->root; i /= 2) {
        nodes[i] = reach;
        reach = longer(reach, nodes[i ^ 1]);
    }
    nodes[tree->root] = reach;
}

void cn_hole_tree_init(struct cn_hole_tree *tree, uint64_t granule_count, uint64_t *used,
                       void *metadata)
{
    assert(granule_count > 0 && granule_count <= UINT32_MAX);
    uint64_t in_last = granule_count % CN_WORD_BITS;
    uint32_t *nodes = metadata;
    *tree = (struct cn_hole_tree){
        .used = used,
        .granule_count = granule_count,
        .last_word = cn_bits_words(granule_count) - 1,
        .beyond = in_last > 0 ? UINT64_MAX << in_last : 0,
        .leaf_count = leaf_count_of(granule_count),
        .root = leaf_count_of(granule_count),
        .nodes = nodes,
        .tags = (struct cn_hole_tags *)(nodes + node_count_of(granule_count)),
    };
    tag(tree, 0, granule_count);
    reach_set(tree, 0, (uint32_t)granule_count);
}

void cn_hole_tree_take(struct cn_hole_tree *tree, uint64_t from, uint64_t end)
{
    uint64_t first = cn_bits_above_last(tree->used, from);
    uint64_t hole_end = first + hole_above(tree, first);
    uint64_t low = first / CN_WORD_BITS, high = end / CN_WORD_BITS;
    assert(from < end && end <= hole_end);
    cn_bits_set(tree->used, from, end);
    if (CN_UNLIKELY(first < from))
        tag(tree, first, from);
    if (end < hole_end) {
        tag(tree, end, hole_end);
        if (high != low)
            reach_set(tree, high,
                      longer(tree->nodes[tree->leaf_count + high], (uint32_t)(hole_end - end)));
    }
    reach_set(tree, low, reach_of(tree, low));
}

void cn_hole_tree_give(struct cn_hole_tree *tree, uint64_t from, uint64_t end)
{
    uint64_t first = from - hole_below(tree, from), above = hole_above(tree, end);
    uint64_t low = first / CN_WORD_BITS, high = end / CN_WORD_BITS;
    uint32_t length = (uint32_t)(end + above - first);
    assert(from < end && cn_bits_get(tree->used, from) && cn_bits_get(tree->used, end - 1));
    cn_bits_clear(tree->used, from, end);
    tag(tree, first, end + above);
    if (above > 0 && high != low && tree->nodes[tree->leaf_count + high] == above)
        reach_set(tree, high, reach_of(tree, high));
    reach_set(tree, low, longer(tree->nodes[tree->leaf_count + low], length));
}

/* ---- finding ---- */

bool cn_hole_tree_find(const struct cn_hole_tree *tree, uint64_t count, uint64_t *out_first)
{
    const uint32_t *nodes = tree->nodes;
    uint64_t i = tree->root;
    if (nodes[i] < count)
        return false;
    uint32_t enough = (uint32_t)count;
    while (i < tree->leaf_count)
        i = 2 * i + (nodes[2 * i] < enough);
    uint64_t word = i - tree->leaf_count, free = ~used_bits(tree, word);
    /* The highest hole in the word may be long enough only together with the next words. */
    uint64_t begins = free & ~(free << 1);
    uint64_t starts = cn_bits_runs(free, count) |
                      UINT64_C(1) << (CN_WORD_BITS - 1 - (unsigned)__builtin_clzll(begins));
    *out_first = word * CN_WORD_BITS + (uint64_t)__builtin_ctzll(starts);
    return true;
}

/* ---- check ---- */

static bool tags_true(const struct cn_hole_tree *tree, uint64_t from, uint64_t end)
{
    uint64_t first = from / CN_WORD_BITS, last = (end - 1) / CN_WORD_BITS;
    bool leaves = end >= (first + 1) * CN_WORD_BITS, enters = from <= last * CN_WORD_BITS;
    return (!leaves || tree->tags[first].begins == end - from) &&
           (!enters || tree->tags[last].ends == end - from);
}

/* The holes that begin in a word, by the bitmap alone. */
static bool word_true(const struct cn_hole_tree *tree, uint64_t word)
{
    uint64_t longest = 0, at = word * CN_WORD_BITS, next_word = at + CN_WORD_BITS;
    if (at > 0 && !cn_bits_get(tree->used, at - 1))
        at = cn_bits_find(tree->used, true, at, tree->granule_count);
    for (;;) {
        uint64_t from = cn_bits_find(tree->used, false, at, tree->granule_count);
        if (from >= next_word || from == tree->granule_count)
            return longest == tree->nodes[tree->leaf_count + word] &&
                   (longest == 0 || !outside(tree, word));
        at = cn_bits_find(tree->used, true, from, tree->granule_count);
        if (!tags_true(tree, from, at))
            return false;
        longest = longest > at - from ? longest : at - from;
    }
}

/* The longer one of those below; what was never touched is 0. */
static uint32_t below(const struct cn_hole_tree *tree, uint64_t node)
{
    uint64_t count = node_count_of(tree->granule_count);
    uint32_t left = 2 * node < count ? tree->nodes[2 * node] : 0;
    uint32_t right = 2 * node + 1 < count ? tree->nodes[2 * node + 1] : 0;
    return longer(left, right);
}

bool cn_hole_tree_true(const struct cn_hole_tree *tree)
{
    for (uint64_t word = 0; word <= tree->last_word; word++)
        if (!word_true(tree, word))
            return false;
    for (uint64_t i = 1; i < tree->leaf_count; i++) {
        bool above_root = i < tree->root && (i & (i - 1)) == 0;
        if (tree->nodes[i] != (above_root ? 0 : below(tree, i)))
            return false;
    }
    return true;
}
