/* SPDX-License-Identifier: Apache-2.0 */
/* A tree of eight branches over words of 64 leaves:
 *
 *   level 1   ... [  8 ] ...                           512 leaves: free are 2^7, nodes 6 and 7
 *                /      \
 *   level 0   [ 7 ][ 3 ][T7][ t ][ R ][ 0 ][ 7 ][ 7 ]    64 leaves each
 *                    |
 *   word      used   1111 0000 1111 1111 ...           a block of 4 leaves, 4 free, a block of 8
 *             marks  1000 0000 1000 0000 ...
 *
 * A node's byte is the order + 1 of the largest free block below it, or says that the node is taken
 * as a whole: reserved (R), the beginning of a block (T, with its order), or the rest of one (t). A
 * block of 64 leaves or more is one, two or four sibling nodes, so its length costs nothing. Two
 * rules make that work:
 *
 *   - below a node that is all free, or taken as a whole, everything looks free. So taking or
 *     freeing a large block touches nothing below it, and whoever splits it finds its parts ready;
 *   - every other node's byte follows from its eight children (or its word). So there is no list to
 *     keep, merging is the same step as freeing, and the state depends only on what is taken now,
 *     never on the order of the operations before.
 *
 * The search goes down to the first child that offers enough: the lowest address where the block
 * fits at all. Eight bytes are looked at in one word; a step up ends as soon as a byte stays as it
 * was. Two bitmaps per order, of free and of used blocks, would be twice the metadata (here 17 1/7
 * bytes for 64 leaves) and three times the levels. */
#include "alloc/buddy_tree.h"

#include <string.h>

#include "base/compiler.h"

#define WORD_ORDER   6u
#define BRANCH_ORDER 3u

/* Codes of nodes: 0 nothing free; 1 + order of the largest free block; from 0x80 taken whole. */
#define CODE_NONE     0x00u
#define CODE_TAKEN    0x80u /* the rest of a block; | order + 1: its first node */
#define CODE_RESERVED 0xffu

#define EACH(byte) ((uint64_t)(byte)*UINT64_C(0x0101010101010101))
#define HIGH       EACH(0x80)
#define LOW        EACH(0x7f)

static unsigned shift_of(unsigned level)
{
    return WORD_ORDER + BRANCH_ORDER * level;
}

/* The code of a node that is all free. */
static uint8_t full_code(unsigned level)
{
    return (uint8_t)(shift_of(level) + 1);
}

/* ---- 64 leaves ---- */

/* Bits where a block of 2^order leaves may begin. */
static const uint64_t aligned_bits[WORD_ORDER + 1] = {
    UINT64_MAX,
    UINT64_C(0x5555555555555555),
    UINT64_C(0x1111111111111111),
    UINT64_C(0x0101010101010101),
    UINT64_C(0x0001000100010001),
    UINT64_C(0x0000000100000001),
    UINT64_C(0x0000000000000001),
};

/* From beginnings of free blocks of @p order to those of the next order. */
static uint64_t word_double(uint64_t runs, unsigned order)
{
    return runs & runs >> (1u << order) & aligned_bits[order + 1];
}

static uint64_t word_free(const struct cn_buddy_word *word)
{
    return ~(word->used | word->marks);
}

static uint8_t word_code(const struct cn_buddy_word *word)
{
    uint64_t runs = word_free(word);
    if (runs == UINT64_MAX)
        return WORD_ORDER + 1;
    if ((word->marks & ~word->used) == UINT64_MAX)
        return CODE_RESERVED;
    unsigned code = CODE_NONE;
    for (; runs != 0; code++)
        runs = word_double(runs, code);
    return (uint8_t)code;
}

static uint64_t word_mask(unsigned bit, uint64_t count)
{
    return (count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1) << bit;
}

/* Leaves of the block that begins at @p bit. */
static unsigned word_block_count(const struct cn_buddy_word *word, unsigned bit)
{
    uint64_t goes_on = (word->used & ~word->marks) >> bit >> 1;
    return 1 + (unsigned)__builtin_ctzll(~goes_on);
}

/* ---- eight siblings ---- */

static uint64_t group_load(const uint8_t *codes)
{
    uint64_t group;
    memcpy(&group, codes, sizeof group);
    return CN_LITTLE_ENDIAN_64(group);
}

static void group_store(uint8_t *codes, uint64_t group)
{
    group = CN_LITTLE_ENDIAN_64(group);
    memcpy(codes, &group, sizeof group);
}

/* A bit for each sibling that is all free. */
static unsigned group_whole(uint64_t group, uint8_t full)
{
    uint64_t differ = group ^ EACH(full);
    uint64_t same = ~(((differ & LOW) + LOW) | differ | LOW);
    return (unsigned)(same * UINT64_C(0x0002040810204081) >> 56);
}

/* Of those, where 2^order (order <= 3) in a row begin, aligned. */
static unsigned group_runs(unsigned whole, unsigned order)
{
    if (order >= 1)
        whole &= whole >> 1 & 0x55;
    if (order >= 2)
        whole &= whole >> 2 & 0x11;
    if (order >= 3)
        whole &= whole >> 4;
    return whole;
}

/* A high bit for each sibling that offers @p code (1 .. 0x80) or more. */
static uint64_t group_offers(uint64_t group, unsigned code)
{
    return ((group & LOW) + EACH(0x80 - code)) & ~group & HIGH;
}

/* The larger of each two bytes, all below 0x80. */
static uint64_t bytes_max(uint64_t a, uint64_t b)
{
    uint64_t a_wins = ((((a | HIGH) - b) & HIGH) >> 7) * 0xff;
    return (a & a_wins) | (b & ~a_wins);
}

/* What the parent says. */
static inline uint8_t group_code(uint64_t group, uint8_t full)
{
    unsigned whole = group_whole(group, full);
    if (whole != 0)
        return (uint8_t)(full + (group_runs(whole, 1) != 0) + (group_runs(whole, 2) != 0) +
                         (whole == 0xff));
    if (group == EACH(CODE_RESERVED))
        return CODE_RESERVED;
    uint64_t max = group & ~(((group & HIGH) >> 7) * 0xff);
    max = bytes_max(max, max >> 32);
    max = bytes_max(max, max >> 16);
    return (uint8_t)bytes_max(max, max >> 8);
}

/* ---- nodes ---- */

static struct cn_buddy_word *word_at(const struct cn_buddy_tree *tree, uint64_t node)
{
    return &tree->words[node - tree->word_base];
}

static uint8_t *code_at(const struct cn_buddy_tree *tree, unsigned level, uint64_t node)
{
    return (uint8_t *)(tree->codes[level] + node);
}

static uint8_t *siblings_of(const struct cn_buddy_tree *tree, unsigned level, uint64_t node)
{
    return code_at(tree, level, node & ~UINT64_C(7));
}

/* Puts @p value, where @p mask has ones, over the codes of @p node and its next siblings, and then
 * what follows from it over those above. Whole groups are stored: a byte stored and eight loaded
 * would make the processor wait. */
static void codes_put(struct cn_buddy_tree *tree, unsigned level, uint64_t node, uint64_t mask,
                      uint64_t value)
{
    for (uint8_t full = full_code(level);; full += BRANCH_ORDER) {
        uint8_t *siblings = siblings_of(tree, level, node);
        uint64_t group = group_load(siblings);
        unsigned shift = node % 8 * 8;
        uint64_t changed = (group & ~(mask << shift)) | value << shift;
        if (changed == group)
            return;
        group_store(siblings, changed);
        if (level++ == tree->top)
            return;
        node >>= BRANCH_ORDER;
        mask = 0xff;
        value = group_code(changed, full);
        if (CN_UNLIKELY(value == CODE_RESERVED))
            group_store(siblings, EACH(full)); /* taken as a whole now: looks free below */
    }
}

static void code_put(struct cn_buddy_tree *tree, unsigned level, uint64_t node, uint8_t code)
{
    codes_put(tree, level, node, 0xff, code);
}

static void word_changed(struct cn_buddy_tree *tree, uint64_t node)
{
    struct cn_buddy_word *word = word_at(tree, node);
    uint8_t code = word_code(word);
    if (CN_UNLIKELY(code == CODE_RESERVED))
        *word = (struct cn_buddy_word){0, 0};
    code_put(tree, 0, node, code);
}

/* ---- set-up ---- */

static uint64_t up_to_8(uint64_t bytes)
{
    return (bytes + 7) & ~UINT64_C(7);
}

/* The first node of a level that has a byte. */
static uint64_t group_base(const struct cn_buddy_tree *tree, unsigned level)
{
    return (tree->first >> shift_of(level)) & ~UINT64_C(7);
}

/* Sets all but the contents; without @p metadata, which may be NULL, all but pointers.
 * @return its bytes */
static uint64_t lay_out(struct cn_buddy_tree *tree, uint64_t first, uint64_t count, void *metadata)
{
    unsigned top = 0;
    while (count > UINT64_C(1) << shift_of(top))
        top++;
    uint64_t origin = first & ~((UINT64_C(1) << shift_of(top)) - 1);
    *tree = (struct cn_buddy_tree){
        .origin = origin, .first = first - origin, .end = first - origin + count, .top = top};

    tree->word_base = tree->first >> WORD_ORDER;
    tree->words = metadata;
    uint64_t words = ((tree->end - 1) >> WORD_ORDER) - tree->word_base + 1;
    uint64_t bytes = words * sizeof *tree->words;
    for (unsigned level = 0; level <= top; level++) {
        uint64_t base = group_base(tree, level);
        tree->codes[level] = (uintptr_t)metadata + bytes - base;
        bytes += up_to_8(((tree->end - 1) >> shift_of(level)) + 1 - base);
    }
    return bytes;
}

uint64_t cn_buddy_tree_bytes(uint64_t first, uint64_t count)
{
    struct cn_buddy_tree tree;
    return lay_out(&tree, first, count, NULL);
}

/* Leaves of an edge word that are not of the range look like blocks that nobody may free. */
static uint64_t outside_bits(const struct cn_buddy_tree *tree, uint64_t node)
{
    uint64_t begin = node << WORD_ORDER, outside = 0;
    if (begin < tree->first)
        outside = word_mask(0, tree->first - begin);
    if (tree->end - begin < 64)
        outside |= UINT64_MAX << (tree->end - begin);
    return outside;
}

void cn_buddy_tree_init(struct cn_buddy_tree *tree, uint64_t first, uint64_t count, void *metadata)
{
    memset(metadata, 0, lay_out(tree, first, count, metadata));
    uint64_t last = (tree->end - 1) >> WORD_ORDER;
    word_at(tree, tree->word_base)->used = outside_bits(tree, tree->word_base);
    word_at(tree, last)->used = outside_bits(tree, last);
    for (uint64_t node = tree->word_base; node <= last; node++) {
        struct cn_buddy_word *word = word_at(tree, node);
        word->marks = word->used;
        *code_at(tree, 0, node) = word_code(word);
    }
    for (unsigned level = 1; level <= tree->top; level++) {
        uint64_t node = tree->first >> shift_of(level);
        for (; node <= (tree->end - 1) >> shift_of(level); node++) {
            const uint8_t *children = code_at(tree, level - 1, node << BRANCH_ORDER);
            *code_at(tree, level, node) = group_code(group_load(children), full_code(level - 1));
        }
    }
}

/* ---- blocks ---- */

/* The lowest free block of 2^order leaves. */
static bool find(const struct cn_buddy_tree *tree, unsigned order, uint64_t *out_leaf)
{
    unsigned want = order + 1;
    uint64_t node = 0;
    if (order > shift_of(tree->top))
        return false;
    for (unsigned level = tree->top;; level--, node <<= BRANCH_ORDER) {
        uint64_t group = group_load(code_at(tree, level, node));
        unsigned full = full_code(level);
        if (want > full) { /* two or four siblings */
            unsigned runs = group_runs(group_whole(group, (uint8_t)full), want - full);
            *out_leaf = (node + (unsigned)__builtin_ctz(runs)) << shift_of(level);
            return true;
        }
        uint64_t offers = group_offers(group, want);
        if (offers == 0)
            return false; /* at the top only: below it somebody promised */
        unsigned bit = (unsigned)__builtin_ctzll(offers) & ~7u;
        node += bit / 8;
        if ((group >> bit & 0xff) == full) {
            *out_leaf = node << shift_of(level);
            return true;
        }
        if (level == 0)
            break;
    }
    uint64_t runs = word_free(word_at(tree, node));
    for (unsigned k = 0; k < order; k++)
        runs = word_double(runs, k);
    *out_leaf = (node << WORD_ORDER) + (unsigned)__builtin_ctzll(runs);
    return true;
}

/* The level whose nodes a block of @p order (>= WORD_ORDER) consists of. */
static unsigned level_of(unsigned order)
{
    return (order - WORD_ORDER) / BRANCH_ORDER;
}

/* Makes the nodes of a block (order >= WORD_ORDER) taken, or free. */
static void nodes_put(struct cn_buddy_tree *tree, uint64_t leaf, unsigned order, bool taken)
{
    unsigned level = level_of(order), shift = shift_of(level);
    uint64_t mask = (UINT64_C(1) << (8u << (order - shift))) - 1; /* of one, two or four bytes */
    uint64_t value = EACH(taken ? CODE_TAKEN : full_code(level)) & mask;
    codes_put(tree, level, leaf >> shift, mask, taken ? value | (order + 1) : value);
}

static void take(struct cn_buddy_tree *tree, uint64_t leaf, unsigned order)
{
    if (order >= WORD_ORDER) {
        nodes_put(tree, leaf, order, true);
        return;
    }
    struct cn_buddy_word *word = word_at(tree, leaf >> WORD_ORDER);
    unsigned bit = leaf % 64;
    word->used |= word_mask(bit, UINT64_C(1) << order);
    word->marks |= UINT64_C(1) << bit;
    word_changed(tree, leaf >> WORD_ORDER);
}

bool cn_buddy_tree_alloc(struct cn_buddy_tree *tree, unsigned order, unsigned place_order,
                         uint64_t *out_leaf)
{
    uint64_t leaf;
    if (!find(tree, place_order, &leaf))
        return false;
    take(tree, leaf, order);
    *out_leaf = leaf;
    return true;
}

bool cn_buddy_tree_free(struct cn_buddy_tree *tree, uint64_t leaf, unsigned order)
{
    if (order > shift_of(tree->top) || (leaf & ((UINT64_C(1) << order) - 1)) != 0)
        return false;
    if (order >= WORD_ORDER) {
        unsigned level = level_of(order);
        if (*code_at(tree, level, leaf >> shift_of(level)) != (CODE_TAKEN | (order + 1)))
            return false;
        nodes_put(tree, leaf, order, false);
        return true;
    }
    struct cn_buddy_word *word = word_at(tree, leaf >> WORD_ORDER);
    unsigned bit = leaf % 64;
    bool begins = (word->used & word->marks) >> bit & 1;
    if (!begins || word_block_count(word, bit) != 1u << order)
        return false;
    word->used &= ~word_mask(bit, UINT64_C(1) << order);
    word->marks &= ~(UINT64_C(1) << bit);
    word_changed(tree, leaf >> WORD_ORDER);
    return true;
}

uint64_t cn_buddy_tree_largest(const struct cn_buddy_tree *tree)
{
    const uint8_t *codes = siblings_of(tree, tree->top, tree->first >> shift_of(tree->top));
    uint8_t code = group_code(group_load(codes), full_code(tree->top));
    return code == CODE_NONE || code == CODE_RESERVED ? 0 : UINT64_C(1) << (code - 1);
}

/* ---- what is where ---- */

static struct cn_buddy_extent word_extent(const struct cn_buddy_word *word, unsigned bit)
{
    uint64_t below = word_mask(0, bit + 1), here = UINT64_C(1) << bit;
    if (word->used & here) {
        uint64_t begins = word->used & word->marks & below;
        unsigned first = 63 - (unsigned)__builtin_clzll(begins);
        return (struct cn_buddy_extent){first, word_block_count(word, first), CN_BUDDY_USED};
    }
    if (word->marks & here) {
        uint64_t others = ~word->marks | word->used;
        uint64_t lower = others & below, upper = others & ~below;
        unsigned first = lower == 0 ? 0 : 64 - (unsigned)__builtin_clzll(lower);
        unsigned end = upper == 0 ? 64 : (unsigned)__builtin_ctzll(upper);
        return (struct cn_buddy_extent){first, end - first, CN_BUDDY_RESERVED};
    }
    struct cn_buddy_extent extent = {bit, 1, CN_BUDDY_FREE};
    uint64_t runs = word_free(word);
    for (unsigned k = 0; k < WORD_ORDER; k++) {
        runs = word_double(runs, k);
        uint64_t first = bit >> (k + 1) << (k + 1);
        if ((runs >> first & 1) == 0)
            break;
        extent.first = first;
        extent.count = UINT64_C(2) << k;
    }
    return extent;
}

/* The block of whole nodes that @p node, all free or taken, is part of. */
static struct cn_buddy_extent node_extent(const struct cn_buddy_tree *tree, unsigned level,
                                          uint64_t node)
{
    unsigned shift = shift_of(level), order = 0;
    uint8_t code = *code_at(tree, level, node);
    if (code == CODE_RESERVED)
        return (struct cn_buddy_extent){node << shift, UINT64_C(1) << shift, CN_BUDDY_RESERVED};
    if (code & CODE_TAKEN) {
        for (; code == CODE_TAKEN && order < 2; order++)
            code = *code_at(tree, level, node >> (order + 1) << (order + 1));
        uint64_t count = UINT64_C(1) << ((code & ~CODE_TAKEN) - 1);
        return (struct cn_buddy_extent){node << shift & ~(count - 1), count, CN_BUDDY_USED};
    }
    unsigned whole = group_whole(group_load(siblings_of(tree, level, node)), full_code(level));
    while (order < 2 &&
           group_runs(whole, order + 1) >> ((node & 7) >> (order + 1) << (order + 1)) & 1)
        order++;
    return (struct cn_buddy_extent){node >> order << order << shift, UINT64_C(1) << (order + shift),
                                    CN_BUDDY_FREE};
}

struct cn_buddy_extent cn_buddy_tree_at(const struct cn_buddy_tree *tree, uint64_t leaf)
{
    for (unsigned level = tree->top;; level--) {
        uint64_t node = leaf >> shift_of(level);
        uint8_t code = *code_at(tree, level, node);
        if ((code & CODE_TAKEN) || code == full_code(level))
            return node_extent(tree, level, node);
        if (level == 0)
            break;
    }
    struct cn_buddy_extent extent = word_extent(word_at(tree, leaf >> WORD_ORDER), leaf % 64);
    extent.first += leaf & ~UINT64_C(63);
    return extent;
}

/* ---- reserved parts ---- */

/* The largest piece that begins at @p leaf and ends at @p end or before: a node, or part of a word.
 * @return its level; its leaves in *out_count */
static unsigned piece_at(const struct cn_buddy_tree *tree, uint64_t leaf, uint64_t end,
                         uint64_t *out_count)
{
    unsigned level = 0;
    while (level < tree->top && leaf % (UINT64_C(1) << shift_of(level + 1)) == 0 &&
           end - leaf >= UINT64_C(1) << shift_of(level + 1))
        level++;
    uint64_t room = (UINT64_C(1) << shift_of(level)) - leaf % (UINT64_C(1) << shift_of(level));
    *out_count = end - leaf < room ? end - leaf : room;
    return level;
}

/* Makes one piece reserved or free. A whole node looks free below either way. */
static void piece_set(struct cn_buddy_tree *tree, unsigned level, uint64_t leaf, uint64_t count,
                      bool reserved)
{
    uint64_t node = leaf >> shift_of(level);
    if (count == UINT64_C(1) << shift_of(level)) {
        code_put(tree, level, node, reserved ? CODE_RESERVED : full_code(level));
        return;
    }
    uint64_t mask = word_mask(leaf % 64, count);
    struct cn_buddy_word *word = word_at(tree, node);
    word->marks = reserved ? word->marks | mask : word->marks & ~mask;
    word_changed(tree, node);
}

void cn_buddy_tree_reserve(struct cn_buddy_tree *tree, uint64_t leaf, uint64_t end)
{
    for (uint64_t count; leaf < end; leaf += count) {
        unsigned level = piece_at(tree, leaf, end, &count);
        piece_set(tree, level, leaf, count, true);
    }
}

/* Where a node above the piece is reserved as a whole, its children become so, down to the piece.
 */
static void split_reserved(struct cn_buddy_tree *tree, unsigned level, uint64_t leaf,
                           uint64_t count)
{
    for (unsigned above = tree->top; above > level; above--) {
        uint64_t node = leaf >> shift_of(above);
        if (*code_at(tree, above, node) == CODE_RESERVED)
            memset(code_at(tree, above - 1, node << BRANCH_ORDER), CODE_RESERVED, 8);
    }
    uint64_t node = leaf >> shift_of(level);
    if (count < 64 && *code_at(tree, 0, node) == CODE_RESERVED)
        *word_at(tree, node) = (struct cn_buddy_word){0, UINT64_MAX};
}

void cn_buddy_tree_release(struct cn_buddy_tree *tree, uint64_t leaf, uint64_t end)
{
    for (uint64_t count; leaf < end; leaf += count) {
        unsigned level = piece_at(tree, leaf, end, &count);
        split_reserved(tree, level, leaf, count);
        piece_set(tree, level, leaf, count, false);
    }
}

/* ---- check ---- */

static const char *word_check(const struct cn_buddy_tree *tree, uint64_t node)
{
    const struct cn_buddy_word *word = word_at(tree, node);
    if ((outside_bits(tree, node) & ~(word->used & word->marks)) != 0)
        return "a leaf outside of the range is not kept out";
    for (unsigned bit = 0, count; bit < 64; bit += count) {
        count = 1;
        if ((word->used >> bit & 1) == 0)
            continue;
        if ((word->marks >> bit & 1) == 0)
            return "a leaf belongs to a block that never began";
        count = word_block_count(word, bit);
        if ((count & (count - 1)) != 0 || bit % count != 0)
            return "a block is no power of two, or not aligned to itself";
    }
    return NULL;
}

/* Blocks of whole nodes among eight siblings. */
static const char *group_check(const uint8_t *codes, unsigned level)
{
    for (unsigned i = 0, count; i < 8; i += count) {
        count = 1;
        if ((codes[i] & CODE_TAKEN) == 0 || codes[i] == CODE_RESERVED)
            continue;
        unsigned order = (codes[i] & ~CODE_TAKEN) - 1u;
        if (order < shift_of(level) || order - shift_of(level) >= BRANCH_ORDER)
            return "a block of nodes has a size of another level, or no beginning";
        count = 1u << (order - shift_of(level));
        if (i % count != 0)
            return "a block of nodes is not aligned to itself";
        for (unsigned k = 1; k < count; k++)
            if (codes[i + k] != CODE_TAKEN)
                return "a node of a block is not taken";
    }
    return NULL;
}

static const char *node_check(const struct cn_buddy_tree *tree, unsigned level, uint64_t node)
{
    uint8_t code = *code_at(tree, level, node), expected;
    if (level == 0) {
        const char *broken = word_check(tree, node);
        if (broken != NULL)
            return broken;
        expected = word_code(word_at(tree, node));
    } else {
        uint64_t group = group_load(code_at(tree, level - 1, node << BRANCH_ORDER));
        expected = group_code(group, full_code(level - 1));
    }
    if ((code & CODE_TAKEN) && expected != full_code(level))
        return "something below a node that is taken as a whole does not look free";
    if ((code & CODE_TAKEN) == 0 && code != expected)
        return "a node does not say what lies below it";
    return NULL;
}

const char *cn_buddy_tree_check(const struct cn_buddy_tree *tree)
{
    const char *broken = NULL;
    for (unsigned level = 0; level <= tree->top; level++) {
        uint64_t first = tree->first >> shift_of(level);
        uint64_t last = (tree->end - 1) >> shift_of(level);
        for (uint64_t node = group_base(tree, level); node <= (last | 7); node++) {
            bool inside = node >= first && node <= last;
            if (!inside && *code_at(tree, level, node) != CODE_NONE)
                return "a node outside of the range offers something";
            if (inside && (broken = node_check(tree, level, node)) != NULL)
                return broken;
            if (node % 8 == 0 && (broken = group_check(code_at(tree, level, node), level)) != NULL)
                return broken;
        }
    }
    return NULL;
}
