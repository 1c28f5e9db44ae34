/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks and holes are one list by address, so a freed block finds its neighbours at once; holes
 * are also a treap, a search tree that random priorities keep low.
 *
 *   list   | block | hole | block | block | hole ...                      |
 *                     ^                      ^
 *   first fit: a tree by address; each node knows the largest hole below it
 *   best fit:  a tree by size, then address
 *
 * Priorities follow from node numbers: the same requests give the same tree everywhere. */
#include "fit.h"

#include <string.h>

uint64_t cli_fit_nodes(uint64_t block_count)
{
    return 2 * block_count + 2; /* a hole beside each block, the one at the end, and nobody */
}

/* ---- the treap ---- */

static bool less(const struct cli_fit *fit, uint32_t a, uint32_t b)
{
    const struct cli_fit_node *x = &fit->nodes[a], *y = &fit->nodes[b];
    if (fit->order == CLI_FIT_BEST && x->size_bytes != y->size_bytes)
        return x->size_bytes < y->size_bytes;
    return x->start < y->start;
}

static void update(struct cli_fit *fit, uint32_t at)
{
    struct cli_fit_node *node = &fit->nodes[at];
    uint64_t left = fit->nodes[node->left].largest, right = fit->nodes[node->right].largest;
    uint64_t below = left > right ? left : right;
    node->largest = node->size_bytes > below ? node->size_bytes : below;
}

/* What comes before @p key to the left, the rest to the right. */
static void split(struct cli_fit *fit, uint32_t at, uint32_t key, uint32_t *left, uint32_t *right)
{
    if (at == 0) {
        *left = *right = 0;
    } else if (less(fit, at, key)) {
        split(fit, fit->nodes[at].right, key, &fit->nodes[at].right, right);
        *left = at;
        update(fit, at);
    } else {
        split(fit, fit->nodes[at].left, key, left, &fit->nodes[at].left);
        *right = at;
        update(fit, at);
    }
}

static uint32_t join(struct cli_fit *fit, uint32_t left, uint32_t right)
{
    if (left == 0 || right == 0)
        return left | right;
    if (fit->nodes[left].priority > fit->nodes[right].priority) {
        fit->nodes[left].right = join(fit, fit->nodes[left].right, right);
        update(fit, left);
        return left;
    }
    fit->nodes[right].left = join(fit, left, fit->nodes[right].left);
    update(fit, right);
    return right;
}

static void insert(struct cli_fit *fit, uint32_t node)
{
    uint32_t left, right;
    fit->nodes[node].left = fit->nodes[node].right = 0;
    fit->nodes[node].hole = true;
    update(fit, node);
    split(fit, fit->root, node, &left, &right);
    fit->root = join(fit, join(fit, left, node), right);
}

static uint32_t remove_below(struct cli_fit *fit, uint32_t at, uint32_t node)
{
    if (at == node)
        return join(fit, fit->nodes[at].left, fit->nodes[at].right);
    if (less(fit, node, at))
        fit->nodes[at].left = remove_below(fit, fit->nodes[at].left, node);
    else
        fit->nodes[at].right = remove_below(fit, fit->nodes[at].right, node);
    update(fit, at);
    return at;
}

static void take_out(struct cli_fit *fit, uint32_t node)
{
    fit->root = remove_below(fit, fit->root, node);
    fit->nodes[node].hole = false;
}

/* The first hole in the tree's order that has @p size_bytes. */
static uint32_t search(const struct cli_fit *fit, uint64_t size_bytes)
{
    const struct cli_fit_node *nodes = fit->nodes;
    uint32_t at = fit->root, best = 0;
    while (at != 0) {
        bool large = nodes[at].size_bytes >= size_bytes;
        bool left =
            fit->order == CLI_FIT_BEST ? large : nodes[nodes[at].left].largest >= size_bytes;
        if (large)
            best = at;
        if (large && !left)
            break;
        at = left ? nodes[at].left : nodes[at].right;
    }
    return best;
}

/* ---- the list ---- */

static uint32_t node_new(struct cli_fit *fit, uint32_t before, uint64_t start, uint64_t size_bytes)
{
    uint32_t node = fit->unused;
    fit->unused = fit->nodes[node].after;
    uint32_t after = before != 0 ? fit->nodes[before].after : 0;
    uint32_t priority = node * UINT32_C(0x9e3779b1);
    priority = (priority ^ (priority >> 15)) * UINT32_C(0x85ebca77);
    fit->nodes[node] = (struct cli_fit_node){
        start, size_bytes, 0, before, after, 0, 0, priority ^ (priority >> 13), false};
    if (before != 0)
        fit->nodes[before].after = node;
    if (after != 0)
        fit->nodes[after].before = node;
    return node;
}

/* Takes a node whose bytes another one has now off the list. */
static void node_end(struct cli_fit *fit, uint32_t node)
{
    uint32_t before = fit->nodes[node].before, after = fit->nodes[node].after;
    if (before != 0)
        fit->nodes[before].after = after;
    if (after != 0)
        fit->nodes[after].before = before;
    fit->nodes[node] = (struct cli_fit_node){.after = fit->unused};
    fit->unused = node;
}

void cli_fit_init(struct cli_fit *fit, enum cli_fit_order order, uint64_t size_bytes,
                  struct cli_fit_node *nodes, uint64_t node_count)
{
    *fit = (struct cli_fit){.order = order, .nodes = nodes, .unused = 1};
    memset(nodes, 0, node_count * sizeof *nodes);
    for (uint32_t i = 1; i + 1 < node_count; i++)
        nodes[i].after = i + 1;
    size_bytes -= size_bytes % CLI_FIT_UNIT_BYTES;
    if (size_bytes > 0)
        insert(fit, node_new(fit, 0, 0, size_bytes));
}

uint32_t cli_fit_alloc(struct cli_fit *fit, uint64_t size_bytes, uint64_t align_bytes)
{
    uint64_t units = size_bytes / CLI_FIT_UNIT_BYTES + (size_bytes % CLI_FIT_UNIT_BYTES != 0);
    uint64_t size = units * CLI_FIT_UNIT_BYTES;
    /* A hole of this size has room wherever it begins. */
    uint64_t spare = align_bytes > CLI_FIT_UNIT_BYTES ? align_bytes - CLI_FIT_UNIT_BYTES : 0;
    uint32_t node = search(fit, size + spare);
    if (node == 0)
        return 0;
    take_out(fit, node);
    uint64_t start = fit->nodes[node].start, end = start + fit->nodes[node].size_bytes;
    uint64_t at = spare > 0 ? (start + align_bytes - 1) & ~(align_bytes - 1) : start;
    uint32_t block = node;
    if (at > start) {
        block = node_new(fit, node, at, size);
        fit->nodes[node].size_bytes = at - start;
        insert(fit, node);
    }
    fit->nodes[block].size_bytes = size;
    if (at + size < end)
        insert(fit, node_new(fit, block, at + size, end - at - size));
    if (at + size > fit->end_peak)
        fit->end_peak = at + size;
    return block;
}

void cli_fit_free(struct cli_fit *fit, uint32_t node)
{
    uint32_t before = fit->nodes[node].before, after = fit->nodes[node].after;
    if (after != 0 && fit->nodes[after].hole) {
        take_out(fit, after);
        fit->nodes[node].size_bytes += fit->nodes[after].size_bytes;
        node_end(fit, after);
    }
    if (before != 0 && fit->nodes[before].hole) {
        take_out(fit, before);
        fit->nodes[before].size_bytes += fit->nodes[node].size_bytes;
        node_end(fit, node);
        node = before;
    }
    insert(fit, node);
}

/* ---- check ---- */

/* Counts holes below @p at; UINT64_MAX when something is wrong. */
static uint64_t count_tree(const struct cli_fit *fit, uint32_t at)
{
    const struct cli_fit_node *n = &fit->nodes[at];
    if (at == 0)
        return 0;
    uint64_t left = count_tree(fit, n->left), right = count_tree(fit, n->right);
    uint64_t l = fit->nodes[n->left].largest, r = fit->nodes[n->right].largest;
    uint64_t below = l > r ? l : r;
    if (left == UINT64_MAX || right == UINT64_MAX || !n->hole ||
        n->largest != (n->size_bytes > below ? n->size_bytes : below))
        return UINT64_MAX;
    if ((n->left != 0 && !less(fit, n->left, at)) || (n->right != 0 && !less(fit, at, n->right)))
        return UINT64_MAX;
    return left + right + 1;
}

const char *cli_fit_check(const struct cli_fit *fit)
{
    uint64_t holes = 0, start = 0;
    uint32_t at = fit->root;
    while (at != 0 && fit->nodes[at].before != 0)
        at = fit->nodes[at].before;
    for (bool hole = false; at != 0; at = fit->nodes[at].after) {
        if (fit->nodes[at].start != start || fit->nodes[at].size_bytes == 0)
            return "blocks and holes do not tile the range";
        if (hole && fit->nodes[at].hole)
            return "two holes side by side";
        hole = fit->nodes[at].hole;
        holes += hole;
        start += fit->nodes[at].size_bytes;
    }
    return count_tree(fit, fit->root) == holes ? NULL : "the tree does not hold the holes";
}
