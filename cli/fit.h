/* SPDX-License-Identifier: Apache-2.0 */
/* First fit and best fit over one range, the two classics that a pool is compared with. */
#ifndef CENOTE_CLI_FIT_H
#define CENOTE_CLI_FIT_H

#include <stdbool.h>
#include <stdint.h>

/* What addresses and sizes are multiples of: what device memory is aligned to. */
#define CLI_FIT_UNIT_BYTES 256u

enum cli_fit_order {
    CLI_FIT_FIRST, /* the lowest hole that is large enough */
    CLI_FIT_BEST,  /* the smallest, and of equal ones the lowest */
};

struct cli_fit_node {
    uint64_t start, size_bytes;
    uint64_t largest;       /* of the holes below this one in the tree */
    uint32_t before, after; /* neighbours by address */
    uint32_t left, right;   /* in the tree of holes */
    uint32_t priority;
    bool hole;
};

struct cli_fit {
    enum cli_fit_order order;
    struct cli_fit_node *nodes; /* 0 is nobody */
    uint32_t root, unused;      /* unused ones are a list along `after` */
    uint64_t end_peak;          /* of all blocks so far */
};

/* Nodes for as many live blocks. */
uint64_t cli_fit_nodes(uint64_t block_count);

/* A range [0, size_bytes) over the caller's nodes. */
void cli_fit_init(struct cli_fit *fit, enum cli_fit_order order, uint64_t size_bytes,
                  struct cli_fit_node *nodes, uint64_t node_count);

/* @param align_bytes  a power of two
 * @return a node whose start is the block's, 0 when nothing fits. Cost: O(log n) expected. */
uint32_t cli_fit_alloc(struct cli_fit *fit, uint64_t size_bytes, uint64_t align_bytes);
void cli_fit_free(struct cli_fit *fit, uint32_t node);

/* NULL, or the first broken invariant in words. */
const char *cli_fit_check(const struct cli_fit *fit);

#endif
