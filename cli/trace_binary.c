/* SPDX-License-Identifier: Apache-2.0 */
#include "trace.h"

#include <inttypes.h>

static cenote_status add(struct cli_trace *trace, uint32_t pool, const cenote_trace_op *op,
                         cenote_error *err)
{
    switch (op->kind) {
    case CENOTE_TRACE_ALLOC:
        return cli_trace_alloc(trace, pool, op->id, op->size_bytes, op->align_bytes, op->tag, err);
    case CENOTE_TRACE_FREE:
        if (cli_trace_lives(trace, pool, op->id))
            return cli_trace_free(trace, pool, op->id, err);
        trace->foreign_count++; /* a block from before the recording began */
        return CENOTE_OK;
    case CENOTE_TRACE_REFUSED:
        trace->refused_count++;
        return CENOTE_OK;
    default:
        return cli_trace_trim(trace, pool, op->kind == CENOTE_TRACE_DESTROY, err);
    }
}

static cenote_status visit(void *context, const cenote_trace_op *op, cenote_error *err)
{
    cenote_error detail;
    uint32_t pool;
    cenote_status status = cli_trace_pool(context, op->pool, op->class_id, &pool, &detail);
    if (status == CENOTE_OK)
        status = add(context, pool, op, &detail);
    if (status != CENOTE_OK)
        return cenote_error_set(err, status, "operation %" PRIu64 ": %s", op->seq, detail.message);
    return CENOTE_OK;
}

cenote_status cli_trace_read_binary(struct cli_trace *trace, const void *bytes, uint64_t size_bytes,
                                    cenote_error *err)
{
    trace->recorded = true;
    return cenote_trace_read(bytes, size_bytes, visit, trace, &trace->torn_bytes, err);
}
