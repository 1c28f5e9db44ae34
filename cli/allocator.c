/* SPDX-License-Identifier: Apache-2.0 */
/* Cenote's pools are real ones, in a budget of their own: a block's offset is its address less its
 * pool's, and the footprint is what the budget was charged at most, page tables included, beyond
 * what the empty pools cost. The others share one range, and their footprint is the highest end of
 * a block: what a program would have had to reserve. */
#include "allocator.h"

#include <inttypes.h>
#include <string.h>

#define BUDDY_LEAF_BYTES  ((uint64_t)CLI_TRACE_ROUND_BYTES)
#define BUDDY_LEAVES_MAX  (UINT64_C(1) << 28) /* 77 MB of metadata; larger leaves above */
#define RANGE_BYTES_MAX   (UINT64_C(1) << 62)
#define QUOTA_LEAST_BYTES (UINT64_C(64) << 20)
#define QUOTA_BYTES_MAX   (UINT64_C(1) << 45) /* a quarter of a process's addresses */

static void *memory_take(struct cli_allocator *allocator, uint64_t count, uint64_t element_bytes,
                         cenote_error *err)
{
    void *data;
    uint64_t size_bytes = (count + 1) * element_bytes; /* + 1: never none */
    return cenote_pool_alloc(allocator->memory, size_bytes, &data, err) == CENOTE_OK ? data : NULL;
}

/* ---- cenote ---- */

/* Far more than the pool's live blocks ever need, wherever the holes lie. */
static uint64_t quota_of(const struct cli_trace_pool *pool)
{
    uint64_t granules = pool->granules_peak;
    if (granules > QUOTA_BYTES_MAX / 2 / CENOTE_GRANULE_BYTES)
        return QUOTA_BYTES_MAX;
    uint64_t quota = 2 * granules * CENOTE_GRANULE_BYTES;
    return quota > QUOTA_LEAST_BYTES ? quota : QUOTA_LEAST_BYTES;
}

static cenote_status pools_create(struct cli_allocator *a, cenote_error *err)
{
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = INT64_MAX;
    options.process_bytes = 1; /* only what blocks are charged is of interest */
    a->pools = memory_take(a, a->trace->pool_count, sizeof *a->pools, err);
    if (a->pools == NULL)
        return err->status;
    memset(a->pools, 0, (a->trace->pool_count + 1) * sizeof *a->pools);
    cenote_status status = cenote_budget_create(&options, &a->budget, err);
    for (uint32_t i = 0; status == CENOTE_OK && i < a->trace->pool_count; i++) {
        cenote_pool_options pool = CENOTE_POOL_OPTIONS_INIT;
        pool.class_id = a->trace->pools[i].class_id;
        pool.quota_bytes = quota_of(&a->trace->pools[i]);
        status = cenote_pool_create(a->budget, &pool, &a->pools[i], err);
    }
    return status;
}

static cenote_status cenote_open(struct cli_allocator *a, uint64_t budget_bytes, cenote_error *err)
{
    cenote_budget_stats stats;
    cenote_status status = pools_create(a, err);
    if (status != CENOTE_OK)
        return status;
    cenote_budget_stats_get(a->budget, &stats);
    a->charged_bytes = stats.charged_bytes;
    if (budget_bytes == 0 || budget_bytes > INT64_MAX - stats.charged_bytes)
        return CENOTE_OK;
    return cenote_budget_limit_set(a->budget, stats.charged_bytes + budget_bytes, err);
}

/* A block is aligned as its size is, to granules at most; for more a larger block is taken. */
static uint64_t size_with_spare(const struct cli_trace_op *op)
{
    uint64_t align = UINT64_C(1) << op->align_log2;
    uint64_t natural = align < CENOTE_GRANULE_BYTES ? align : CENOTE_GRANULE_BYTES;
    return (op->size_bytes + natural - 1) / natural * natural + align - natural;
}

static uint64_t offset_in(const cenote_pool *pool, const void *data, const struct cli_trace_op *op)
{
    uint64_t align = UINT64_C(1) << op->align_log2;
    return (cenote_pool_offset(pool, data) + align - 1) & ~(align - 1);
}

static bool cenote_alloc(struct cli_allocator *a, const struct cli_trace_op *op,
                         uint64_t *out_offset)
{
    void *data;
    cenote_pool *pool = a->pools[op->pool];
    if (cenote_pool_alloc(pool, size_with_spare(op), &data, NULL) != CENOTE_OK)
        return false;
    a->blocks[op->slot] = (uintptr_t)data;
    *out_offset = offset_in(pool, data, op);
    return true;
}

static void cenote_free(struct cli_allocator *a, const struct cli_trace_op *op)
{
    cenote_pool_free(a->pools[op->pool], (void *)(uintptr_t)a->blocks[op->slot]);
}

/* ---- cenote, in tensors that nobody pins ---- */

static bool tensors_alloc(struct cli_allocator *a, const struct cli_trace_op *op,
                          uint64_t *out_offset)
{
    cenote_pool *pool = a->pools[op->pool];
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    options.dtype = CENOTE_DTYPE_U8;
    options.rank = 1;
    options.shape[0] = size_with_spare(op);
    void *data;
    if (cenote_tensor_create(pool, &options, &a->blocks[op->slot], NULL) != CENOTE_OK)
        return false;
    /* Where it is now; a tensor that was made just now can be pinned. */
    (void)!cenote_tensor_pin(pool, a->blocks[op->slot], &data, NULL);
    *out_offset = offset_in(pool, data, op);
    (void)!cenote_tensor_unpin(pool, a->blocks[op->slot], NULL);
    return true;
}

static void tensors_free(struct cli_allocator *a, const struct cli_trace_op *op)
{
    (void)!cenote_tensor_release(a->pools[op->pool], a->blocks[op->slot], NULL);
}

static uint64_t tensors_moved(const struct cli_allocator *a)
{
    uint64_t moved = 0;
    for (uint32_t i = 0; i < a->trace->pool_count; i++) {
        cenote_tensor_stats stats;
        cenote_tensor_stats_get(a->pools[i], &stats);
        moved += stats.moved_bytes;
    }
    return moved;
}

static void cenote_trim(struct cli_allocator *a, const struct cli_trace_op *op)
{
    (void)cenote_pool_trim(a->pools[op->pool]);
}

static uint64_t cenote_footprint(const struct cli_allocator *a)
{
    cenote_budget_stats stats;
    cenote_budget_stats_get(a->budget, &stats);
    return stats.charged_peak_bytes - a->charged_bytes;
}

static uint64_t cenote_committed(const struct cli_allocator *a)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < a->trace->pool_count; i++) {
        cenote_pool_stats stats;
        cenote_pool_stats_get(a->pools[i], &stats);
        total += stats.committed_total_bytes;
    }
    return total;
}

/* ---- buddy ---- */

static cenote_status buddy_open(struct cli_allocator *a, uint64_t budget_bytes, cenote_error *err)
{
    cenote_buddy_options options = CENOTE_BUDDY_OPTIONS_INIT;
    /* Four times what lives, as rounded: the rest is holes. */
    uint64_t peak = a->trace->rounded_bytes_peak;
    uint64_t live = cli_trace_rounded_bytes(peak > 0 ? peak : 1, 0);
    options.size_bytes = budget_bytes > 0             ? budget_bytes
                         : live < RANGE_BYTES_MAX / 4 ? 4 * live
                                                      : RANGE_BYTES_MAX;
    options.leaf_bytes = BUDDY_LEAF_BYTES;
    while (options.size_bytes / options.leaf_bytes > BUDDY_LEAVES_MAX)
        options.leaf_bytes *= 2;
    if (options.size_bytes < options.leaf_bytes)
        return cenote_error_set(err, CENOTE_E_BUDGET, "a budget of %" PRIu64 " bytes is no leaf",
                                budget_bytes);
    uint64_t bytes = cenote_buddy_metadata_bytes(&options);
    void *metadata = memory_take(a, bytes, 1, err);
    if (metadata == NULL)
        return err->status;
    a->leaf_bytes = options.leaf_bytes;
    return cenote_buddy_init(&options, metadata, bytes, &a->buddy, err);
}

static bool buddy_alloc(struct cli_allocator *a, const struct cli_trace_op *op,
                        uint64_t *out_offset)
{
    if (cenote_buddy_alloc(a->buddy, op->size_bytes, UINT64_C(1) << op->align_log2, out_offset,
                           NULL) != CENOTE_OK)
        return false;
    uint64_t block_bytes = cli_trace_rounded_bytes(op->size_bytes, 0);
    uint64_t end = *out_offset + (block_bytes > a->leaf_bytes ? block_bytes : a->leaf_bytes);
    if (end > a->end_peak)
        a->end_peak = end;
    a->blocks[op->slot] = *out_offset;
    return true;
}

static void buddy_free(struct cli_allocator *a, const struct cli_trace_op *op)
{
    /* What the trace says of a block was checked when it was read. */
    (void)!cenote_buddy_free(a->buddy, a->blocks[op->slot], op->size_bytes,
                             CENOTE_BUDDY_GENERATION_ANY, NULL);
}

static uint64_t end_peak(const struct cli_allocator *a)
{
    return a->end_peak;
}

/* ---- first fit, best fit ---- */

static cenote_status fit_open(struct cli_allocator *a, uint64_t budget_bytes,
                              enum cli_fit_order order, cenote_error *err)
{
    uint64_t count = cli_fit_nodes(a->trace->slot_count);
    void *nodes = memory_take(a, count, sizeof(struct cli_fit_node), err);
    if (nodes == NULL)
        return err->status;
    cli_fit_init(&a->fit, order, budget_bytes > 0 ? budget_bytes : INT64_MAX, nodes, count);
    return CENOTE_OK;
}

static cenote_status first_fit_open(struct cli_allocator *a, uint64_t budget_bytes,
                                    cenote_error *err)
{
    return fit_open(a, budget_bytes, CLI_FIT_FIRST, err);
}

static cenote_status best_fit_open(struct cli_allocator *a, uint64_t budget_bytes,
                                   cenote_error *err)
{
    return fit_open(a, budget_bytes, CLI_FIT_BEST, err);
}

static bool fit_alloc(struct cli_allocator *a, const struct cli_trace_op *op, uint64_t *out_offset)
{
    uint32_t node = cli_fit_alloc(&a->fit, op->size_bytes, UINT64_C(1) << op->align_log2);
    if (node == 0)
        return false;
    a->blocks[op->slot] = node;
    *out_offset = a->fit.nodes[node].start;
    return true;
}

static void fit_free(struct cli_allocator *a, const struct cli_trace_op *op)
{
    cli_fit_free(&a->fit, (uint32_t)a->blocks[op->slot]);
}

static uint64_t fit_footprint(const struct cli_allocator *a)
{
    return a->fit.end_peak;
}

/* ---- all of them ---- */

static void no_trim(struct cli_allocator *a, const struct cli_trace_op *op)
{
    (void)a;
    (void)op;
}

static uint64_t nothing_moved(const struct cli_allocator *a)
{
    (void)a;
    return 0;
}

const struct cli_allocator_kind cli_allocator_kinds[] = {
    {"cenote", true, cenote_open, cenote_alloc, cenote_free, cenote_trim, cenote_footprint,
     cenote_committed, nothing_moved},
    {"tensors", true, cenote_open, tensors_alloc, tensors_free, cenote_trim, cenote_footprint,
     cenote_committed, tensors_moved},
    {"buddy", false, buddy_open, buddy_alloc, buddy_free, no_trim, end_peak, end_peak,
     nothing_moved},
    {"best-fit", false, best_fit_open, fit_alloc, fit_free, no_trim, fit_footprint, fit_footprint,
     nothing_moved},
    {"first-fit", false, first_fit_open, fit_alloc, fit_free, no_trim, fit_footprint, fit_footprint,
     nothing_moved},
};
const size_t cli_allocator_kind_count = sizeof cli_allocator_kinds / sizeof cli_allocator_kinds[0];

const struct cli_allocator_kind *cli_allocator_find(const char *name)
{
    for (size_t i = 0; i < cli_allocator_kind_count; i++)
        if (strcmp(cli_allocator_kinds[i].name, name) == 0)
            return &cli_allocator_kinds[i];
    return NULL;
}

cenote_status cli_allocator_open(struct cli_allocator *allocator,
                                 const struct cli_allocator_kind *kind,
                                 const struct cli_trace *trace, uint64_t budget_bytes,
                                 cenote_error *err)
{
    *allocator = (struct cli_allocator){.kind = kind, .trace = trace, .memory = trace->memory};
    allocator->blocks = memory_take(allocator, trace->slot_count, sizeof *allocator->blocks, err);
    return allocator->blocks != NULL ? kind->open(allocator, budget_bytes, err) : err->status;
}

void cli_allocator_close(struct cli_allocator *allocator)
{
    if (allocator == NULL || allocator->trace == NULL)
        return;
    for (uint32_t i = 0; allocator->pools != NULL && i < allocator->trace->pool_count; i++)
        (void)cenote_pool_destroy(allocator->pools[i]);
    cenote_budget_destroy(allocator->budget);
    *allocator = (struct cli_allocator){0};
}
