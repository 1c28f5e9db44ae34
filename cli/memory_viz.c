/* SPDX-License-Identifier: Apache-2.0 */
/* The file is written as the replay goes:
 *
 *   {"device_traces": [[event, event, ...]], "segments": [{..., "blocks": [block, hole, block]}]}
 *
 * The viewer starts from the segments, what is there at the end, and goes back through the events.
 * Its blocks have no addresses: they lie one behind the other, so that holes are blocks too. */
#include "memory_viz.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Numbers of the viewer are exact up to 2^53: 1024 segments of 2^43 each. */
#define SEGMENT_BYTES (UINT64_C(1) << 43)

struct live_block {
    uint64_t address; /* 0: none */
    uint64_t size_bytes;
    uint32_t tag;
    uint16_t pool;
};

struct cli_memory_viz {
    FILE *file;
    const char *path;
    const struct cli_trace *trace;
    struct live_block *blocks;          /* by slot */
    uint64_t ends[CLI_TRACE_POOLS_MAX]; /* of segments */
    uint64_t event_count;
    bool far;     /* an offset was too large */
    bool regular; /* a file that may be removed, and no device */
};

cenote_status cli_memory_viz_open(const char *path, const struct cli_trace *trace,
                                  struct cli_memory_viz **out_viz, cenote_error *err)
{
    void *viz_memory, *blocks;
    uint64_t blocks_bytes = (trace->slot_count + 1) * sizeof(struct live_block);
    cenote_status status =
        cenote_pool_alloc(trace->memory, sizeof(struct cli_memory_viz), &viz_memory, err);
    if (status == CENOTE_OK)
        status = cenote_pool_alloc(trace->memory, blocks_bytes, &blocks, err);
    if (status != CENOTE_OK)
        return status;
    struct cli_memory_viz *viz = viz_memory;
    memset(viz, 0, sizeof *viz);
    memset(blocks, 0, blocks_bytes);
    viz->path = path;
    viz->trace = trace;
    viz->blocks = blocks;
    viz->file = fopen(path, "we");
    if (viz->file == NULL)
        return cenote_error_set(err, CENOTE_E_IO, "--memory-viz %s: %s", path, strerror(errno));
    struct stat st;
    viz->regular = fstat(fileno(viz->file), &st) == 0 && S_ISREG(st.st_mode);
    fputs("{\"device_traces\": [[", viz->file);
    *out_viz = viz;
    return CENOTE_OK;
}

static void put_frames(struct cli_memory_viz *viz, uint16_t pool, uint32_t tag)
{
    const struct cli_trace_pool *p = &viz->trace->pools[pool];
    fprintf(viz->file,
            "\"frames\": [{\"name\": \"%s\", \"filename\": \"pool %" PRIu64 "\", \"line\": %" PRIu32
            "}]",
            cenote_class_text(p->class_id), p->number, tag);
}

static void put_event(struct cli_memory_viz *viz, const char *action,
                      const struct live_block *block)
{
    fprintf(viz->file,
            "%s\n{\"action\": \"%s\", \"addr\": %" PRIu64 ", \"size\": %" PRIu64
            ", \"stream\": 0, \"time_us\": %" PRIu64 ", ",
            viz->event_count > 0 ? "," : "", action, block->address, block->size_bytes,
            viz->event_count);
    viz->event_count++;
    put_frames(viz, block->pool, block->tag);
    fputc('}', viz->file);
}

void cli_memory_viz_alloc(struct cli_memory_viz *viz, const struct cli_trace_op *op,
                          uint32_t segment, uint64_t offset)
{
    if (viz == NULL || op->size_bytes == 0)
        return;
    if (offset >= SEGMENT_BYTES || op->size_bytes > SEGMENT_BYTES - offset) {
        viz->far = true;
        return;
    }
    struct live_block *block = &viz->blocks[op->slot];
    *block = (struct live_block){(segment + 1) * SEGMENT_BYTES + offset, op->size_bytes, op->tag,
                                 op->pool};
    if (offset + op->size_bytes > viz->ends[segment])
        viz->ends[segment] = offset + op->size_bytes;
    put_event(viz, "alloc", block);
}

void cli_memory_viz_free(struct cli_memory_viz *viz, const struct cli_trace_op *op)
{
    if (viz == NULL || viz->blocks[op->slot].address == 0)
        return;
    put_event(viz, "free_requested", &viz->blocks[op->slot]);
    put_event(viz, "free_completed", &viz->blocks[op->slot]);
    viz->blocks[op->slot].address = 0;
}

/* ---- the end ---- */

static int by_address(const void *a, const void *b)
{
    uint64_t x = ((const struct live_block *)a)->address;
    uint64_t y = ((const struct live_block *)b)->address;
    return (x > y) - (x < y);
}

static void put_hole(struct cli_memory_viz *viz, uint64_t from, uint64_t to, const char *comma)
{
    if (to > from)
        fprintf(viz->file, "%s{\"size\": %" PRIu64 ", \"state\": \"inactive\"}", comma, to - from);
}

/* @p at: of the live blocks by address, those of this segment come next. @return those behind */
static const struct live_block *put_segment(struct cli_memory_viz *viz, uint32_t segment,
                                            const struct live_block *at,
                                            const struct live_block *end)
{
    uint64_t first = (segment + 1) * SEGMENT_BYTES, size = viz->ends[segment], live = 0;
    const struct live_block *mine = at;
    for (; at < end && at->address < first + SEGMENT_BYTES; at++)
        live += at->size_bytes;
    fprintf(viz->file,
            "{\"device\": 0, \"address\": %" PRIu64 ", \"total_size\": %" PRIu64
            ", \"allocated_size\": %" PRIu64 ", \"active_size\": %" PRIu64
            ", \"requested_size\": %" PRIu64
            ", \"stream\": 0, \"segment_type\": \"large\", \"frames\": [], \"blocks\": [",
            first, size, live, live, live);
    uint64_t place = first;
    for (const struct live_block *block = mine; block < at; block++) {
        put_hole(viz, place, block->address, place > first ? ", " : "");
        fprintf(viz->file,
                "%s{\"size\": %" PRIu64 ", \"requested_size\": %" PRIu64
                ", \"state\": \"active_allocated\", ",
                block->address > first ? ", " : "", block->size_bytes, block->size_bytes);
        put_frames(viz, block->pool, block->tag);
        fputc('}', viz->file);
        place = block->address + block->size_bytes;
    }
    put_hole(viz, place, first + size, place > first ? ", " : "");
    fputs("]}", viz->file);
    return at;
}

static void put_segments(struct cli_memory_viz *viz)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < viz->trace->slot_count; i++)
        if (viz->blocks[i].address != 0)
            viz->blocks[count++] = viz->blocks[i];
    qsort(viz->blocks, count, sizeof *viz->blocks, by_address);
    const struct live_block *at = viz->blocks, *end = viz->blocks + count;
    const char *comma = "";
    fputs("\n]], \"segments\": [", viz->file);
    for (uint32_t i = 0; i < CLI_TRACE_POOLS_MAX; i++) {
        if (viz->ends[i] == 0)
            continue;
        fputs(comma, viz->file);
        comma = ",\n";
        at = put_segment(viz, i, at, end);
    }
    fputs("]}\n", viz->file);
}

cenote_status cli_memory_viz_close(struct cli_memory_viz *viz, bool whole, cenote_error *err)
{
    if (viz == NULL)
        return CENOTE_OK;
    if (whole && !viz->far)
        put_segments(viz);
    bool failed = ferror(viz->file) != 0;
    failed |= fclose(viz->file) != 0;
    if (whole && !viz->far && !failed)
        return CENOTE_OK;
    if (viz->regular)
        unlink(viz->path);
    if (!whole)
        return CENOTE_OK;
    if (viz->far)
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                "--memory-viz %s: a block lies beyond 8 TiB", viz->path);
    return cenote_error_set(err, CENOTE_E_IO, "--memory-viz %s: cannot be written", viz->path);
}
