/* SPDX-License-Identifier: Apache-2.0 */
/* Where the free runs of a bitmap are: what makes first fit O(log n). The metadata is the caller's
 * memory; the bitmap is only read. Threads: none; the caller locks. */
#ifndef CN_ALLOC_HOLE_TREE_H
#define CN_ALLOC_HOLE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Free granules at the low end, at the high end, and in the longest run anywhere. */
struct cn_hole {
    uint32_t head, tail, longest;
};

struct cn_hole_tree {
    const uint64_t *used; /* the bitmap; the caller's */
    uint64_t granule_count;
    uint64_t leaf_count;   /* a power of two; those beyond the range have nothing free */
    struct cn_hole *nodes; /* [1] is the root, [2i] and [2i + 1] are below [i]; [0] is not used */
};

/* Bytes of metadata, 8-aligned, for that many granules (1 to 2^32 - 1). */
size_t cn_hole_tree_bytes(uint64_t granule_count);

/* Over @p used, which may have any content. */
void cn_hole_tree_init(struct cn_hole_tree *tree, uint64_t granule_count, const uint64_t *used,
                       void *metadata);

/* The lowest free run of @p count (> 0) granules. */
bool cn_hole_tree_find(const struct cn_hole_tree *tree, uint64_t count, uint64_t *out_first);

/* The bits of [from, end) have changed. */
void cn_hole_tree_update(struct cn_hole_tree *tree, uint64_t from, uint64_t end);

static inline uint64_t cn_hole_tree_longest(const struct cn_hole_tree *tree)
{
    return tree->nodes[1].longest;
}

/* Is every node what the bitmap says? */
bool cn_hole_tree_true(const struct cn_hole_tree *tree);

#endif
