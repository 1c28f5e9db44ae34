/* SPDX-License-Identifier: Apache-2.0 */
/* What a trace can be replayed on: Cenote's pools, and what they are compared with. Nobody touches
 * the memory, so a trace of any size replays on any machine. */
#ifndef CENOTE_CLI_ALLOCATOR_H
#define CENOTE_CLI_ALLOCATOR_H

#include "fit.h"
#include "trace.h"

struct cli_allocator {
    const struct cli_allocator_kind *kind;
    const struct cli_trace *trace;
    cenote_pool *memory;   /* for book-keeping, outside of what is measured */
    uint64_t *blocks;      /* by slot: what the kind needs to free the block */
    cenote_budget *budget; /* cenote: what is measured */
    cenote_pool **pools;
    uint64_t charged_bytes; /* by pools that are empty */
    cenote_buddy *buddy;
    uint64_t leaf_bytes, end_peak;
    struct cli_fit fit;
};

struct cli_allocator_kind {
    const char *name;
    bool by_pool; /* offsets are in the block's pool, and not in one range of all */
    /* @p budget_bytes: the most that may be taken; 0: no limit. */
    cenote_status (*open)(struct cli_allocator *allocator, uint64_t budget_bytes,
                          cenote_error *err);
    /* @p out_offset: where in the allocator's range. @return false when it does not fit */
    bool (*alloc)(struct cli_allocator *allocator, const struct cli_trace_op *op,
                  uint64_t *out_offset);
    void (*free)(struct cli_allocator *allocator, const struct cli_trace_op *op);
    void (*trim)(struct cli_allocator *allocator, const struct cli_trace_op *op);
    /* The most memory that was held at one time. */
    uint64_t (*footprint)(const struct cli_allocator *allocator);
    /* Memory that was committed, each time that it was: what page faults would be paid for. */
    uint64_t (*committed)(const struct cli_allocator *allocator);
    /* Bytes of blocks that compaction moved. */
    uint64_t (*moved)(const struct cli_allocator *allocator);
};

extern const struct cli_allocator_kind cli_allocator_kinds[];
extern const size_t cli_allocator_kind_count;
/* NULL for a name that nobody has. */
const struct cli_allocator_kind *cli_allocator_find(const char *name);

/* @p err is needed. Errors: CENOTE_E_BUDGET and those of the memory. */
CENOTE_MUST_CHECK cenote_status cli_allocator_open(struct cli_allocator *allocator,
                                                   const struct cli_allocator_kind *kind,
                                                   const struct cli_trace *trace,
                                                   uint64_t budget_bytes, cenote_error *err);
/* NULL or half open is fine. */
void cli_allocator_close(struct cli_allocator *allocator);

#endif
