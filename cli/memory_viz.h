/* SPDX-License-Identifier: Apache-2.0 */
/* A replay as a snapshot of PyTorch's allocator, in JSON: what pytorch.org/memory_viz draws, once
 * it is a pickle (tools/traces/convert.py pickle). Each pool is a segment; what a block is for
 * shows as its stack. */
#ifndef CENOTE_CLI_MEMORY_VIZ_H
#define CENOTE_CLI_MEMORY_VIZ_H

#include "trace.h"

struct cli_memory_viz;

/* Makes the file, or empties it. Errors: CENOTE_E_IO and those of the trace's memory. */
CENOTE_MUST_CHECK cenote_status cli_memory_viz_open(const char *path, const struct cli_trace *trace,
                                                    struct cli_memory_viz **out_viz,
                                                    cenote_error *err);

/* A block at an offset of a segment: a pool's number, 0 where there is one range. NULL is fine. */
void cli_memory_viz_alloc(struct cli_memory_viz *viz, const struct cli_trace_op *op,
                          uint32_t segment, uint64_t offset);
void cli_memory_viz_free(struct cli_memory_viz *viz, const struct cli_trace_op *op);

/* Writes what is live at the end and closes the file; without @p whole removes it. NULL is fine.
 * Errors: CENOTE_E_IO; CENOTE_E_UNSUPPORTED: an offset of 8 TiB or more, which the viewer's numbers
 * do not hold. The file is removed then. */
CENOTE_MUST_CHECK cenote_status cli_memory_viz_close(struct cli_memory_viz *viz, bool whole,
                                                     cenote_error *err);

#endif
