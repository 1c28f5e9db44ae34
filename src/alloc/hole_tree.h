/* SPDX-License-Identifier: Apache-2.0 */
/* A bitmap of what is taken, and where its free runs, the holes, are: what makes first fit
 * O(log n). Taking and giving back look at the neighbours of what they change and at nothing else
 * of the range. All of it is the caller's memory. Threads: none; the caller locks. */
#ifndef CN_ALLOC_HOLE_TREE_H
#define CN_ALLOC_HOLE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Lengths of the holes that cross a word's edges, where there are any. */
struct cn_hole_tags {
    uint32_t begins; /* the one that begins in this word and has its last granule */
    uint32_t ends;   /* the one that ends in this word and has its first granule */
};

struct cn_hole_tree {
    uint64_t *used; /* a bit for each granule; others may read it */
    uint64_t granule_count;
    uint64_t last_word, beyond; /* the last word's bits that are no granules */
    uint64_t leaf_count;        /* words, rounded up to a power of two */
    uint64_t root;              /* the node above all words in which a hole has ever begun */
    uint32_t *nodes;            /* [2i] and [2i + 1] below [i]; [leaf_count + w] is word w */
    struct cn_hole_tags *tags;  /* by word */
};

/* Bytes of metadata beside the bitmap, 8-aligned, for that many granules (1 to 2^32 - 1). */
size_t cn_hole_tree_bytes(uint64_t granule_count);

/* Everything is free. @p used and @p metadata must be zero; O(log n). */
void cn_hole_tree_init(struct cn_hole_tree *tree, uint64_t granule_count, uint64_t *used,
                       void *metadata);

/* The lowest free run of @p count (> 0) granules. */
bool cn_hole_tree_find(const struct cn_hole_tree *tree, uint64_t count, uint64_t *out_first);

/* Takes [from, end), which is free and not empty; gives it back. O(log n) beside the words of the
 * bitmap that change; who takes from within a hole also passes the words from its beginning on. */
void cn_hole_tree_take(struct cn_hole_tree *tree, uint64_t from, uint64_t end);
void cn_hole_tree_give(struct cn_hole_tree *tree, uint64_t from, uint64_t end);

static inline uint64_t cn_hole_tree_longest(const struct cn_hole_tree *tree)
{
    return tree->nodes[tree->root];
}

/* Is every node and every tag what the bitmap says? O(n). */
bool cn_hole_tree_true(const struct cn_hole_tree *tree);

#endif
