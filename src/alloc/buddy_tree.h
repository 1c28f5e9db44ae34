/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of 2^order leaves over a range of leaves, each aligned to its size.
 *
 * A pure algorithm over numbers: it moves no memory, takes no lock, makes no system call, and its
 * metadata is the caller's. Leaves are counted from `origin`, a multiple of the largest block
 * there could be, so that alignment among them is alignment among the absolute ones.
 *
 * Threads: none; the caller locks. */
#ifndef CN_ALLOC_BUDDY_TREE_H
#define CN_ALLOC_BUDDY_TREE_H

#include <stdbool.h>
#include <stdint.h>

#define CN_BUDDY_LEAVES_MAX (UINT64_C(1) << 60)
#define CN_BUDDY_LEVELS_MAX 19u /* a node of the highest level is 2^60 leaves */

/* used marks
 *   0    0    free
 *   1    1    a block begins, or outside of the range
 *   1    0    a block goes on
 *   0    1    reserved */
struct cn_buddy_word {
    uint64_t used, marks;
};

struct cn_buddy_tree {
    uint64_t origin;     /* absolute number of leaf 0 */
    uint64_t first, end; /* leaves of the range */
    unsigned top;        /* the level where the range is within two nodes */
    uint64_t word_base;
    struct cn_buddy_word *words; /* of node word_base of level 0 and on */
    /* What each node offers, a byte, in whole groups of 8 siblings: the address where node 0's
     * would be, if the range began there. */
    uintptr_t codes[CN_BUDDY_LEVELS_MAX];
};

enum cn_buddy_kind { CN_BUDDY_FREE, CN_BUDDY_USED, CN_BUDDY_RESERVED };

struct cn_buddy_extent {
    uint64_t first, count;
    enum cn_buddy_kind kind;
};

/* Bytes of metadata, a multiple of 8, for @p count (1 .. LEAVES_MAX) leaves from absolute leaf
 * @p first on. */
uint64_t cn_buddy_tree_bytes(uint64_t first, uint64_t count);

/* Takes @p metadata, aligned to 8; everything is free. Cost: O(count / 64). */
void cn_buddy_tree_init(struct cn_buddy_tree *tree, uint64_t first, uint64_t count, void *metadata);

/* The lowest free block of 2^place_order leaves becomes a block of 2^order (<= place_order) at its
 * beginning. @return false when there is none. */
bool cn_buddy_tree_alloc(struct cn_buddy_tree *tree, unsigned order, unsigned place_order,
                         uint64_t *out_leaf);

/* @return false, and changes nothing, unless @p leaf (inside the range) begins a used block of that
 * order. */
bool cn_buddy_tree_free(struct cn_buddy_tree *tree, uint64_t leaf, unsigned order);

/* All of [leaf, end), not empty, must be free; reserved. Cost: O(log^2). */
void cn_buddy_tree_reserve(struct cn_buddy_tree *tree, uint64_t leaf, uint64_t end);
void cn_buddy_tree_release(struct cn_buddy_tree *tree, uint64_t leaf, uint64_t end);

/* What holds @p leaf (inside the range): a used block; the largest free block; or the reserved part
 * that the tree keeps as one piece. */
struct cn_buddy_extent cn_buddy_tree_at(const struct cn_buddy_tree *tree, uint64_t leaf);

/* Leaves of the largest free block; 0 when there is none. */
uint64_t cn_buddy_tree_largest(const struct cn_buddy_tree *tree);

/* NULL, or the first broken invariant in words. Cost: O(leaves). */
const char *cn_buddy_tree_check(const struct cn_buddy_tree *tree);

#endif
