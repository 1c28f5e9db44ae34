/* SPDX-License-Identifier: Apache-2.0 */
/* A trace, ready to be replayed: what programs asked of their pools, in order.
 *
 *   ops     | a 0 | a 1 | f 0 | a 0 | a 2 | f 1 | ...     slot numbers, not the trace's own ids
 *
 * A source (text, binary, generator) hands over operations one by one; each is checked here, its
 * block gets a *slot*, and the slot of a freed block goes to the next one. So a replay needs an
 * array of as many blocks as ever lived at once, and looks nothing up while it is timed. */
#ifndef CENOTE_CLI_TRACE_H
#define CENOTE_CLI_TRACE_H

#include "cli.h"

#define CLI_TRACE_OPS_MAX     (UINT64_C(1) << 28)
#define CLI_TRACE_POOLS_MAX   1024u
#define CLI_TRACE_ALIGN_MAX   (UINT64_C(1) << 32)
#define CLI_TRACE_ROUND_BYTES 256u

enum cli_trace_kind {
    CLI_TRACE_ALLOC,
    CLI_TRACE_FREE,
    CLI_TRACE_TRIM, /* a pool's idle memory goes back */
};

struct cli_trace_op {
    uint64_t size_bytes; /* of the block; may be 0 */
    uint64_t id;         /* the trace's own: of a recorded allocation, its offset */
    uint32_t slot;
    uint32_t tag;
    uint16_t pool; /* index of the pool */
    uint8_t kind;
    uint8_t align_log2;
};

struct cli_trace_pool {
    cenote_class class_id;
    uint64_t number;                  /* the trace's own */
    uint32_t live;                    /* slot of the newest live block + 1; 0: none */
    uint64_t granules, granules_peak; /* of live blocks, with what aligning them takes */
};

struct cli_trace_slot;

struct cli_trace {
    cenote_pool *memory; /* where all of it lies */
    struct cli_trace_op *ops;
    uint64_t op_count, op_capacity;
    struct cli_trace_pool pools[CLI_TRACE_POOLS_MAX];
    uint32_t pool_count, pool_last;

    uint64_t alloc_count, alloc_bytes;
    uint64_t live_count, live_count_peak;
    uint64_t live_bytes, live_bytes_peak;
    uint64_t rounded_bytes, rounded_bytes_peak; /* the same by cli_trace_rounded_bytes() */
    uint64_t foreign_count;                     /* frees of blocks from before the recording */
    uint64_t refused_count; /* allocations that failed when they were recorded */
    uint64_t torn_bytes;    /* at the end of a recording that was cut off */
    bool recorded;          /* ids are offsets */

    struct cli_trace_slot *slots;
    uint64_t slot_count, slot_capacity;
    uint32_t slot_free; /* + 1; 0: none */
    uint32_t *index;    /* open addressing: slot + 1 of a live (pool, id) */
    uint64_t index_mask;
    uint64_t index_seed; /* so that no file can be made to collide */
};

/* Takes @p memory, which must outlive the trace; nothing is to be undone but the pool. */
void cli_trace_init(struct cli_trace *trace, cenote_pool *memory);

/* What a block takes of a buddy: a power of two up to 2^62, CLI_TRACE_ROUND_BYTES and its alignment
 * at least; 0 for one of no bytes. */
uint64_t cli_trace_rounded_bytes(uint64_t size_bytes, unsigned align_log2);

/* In all of these @p err is needed. */

/* One block is asked for. @p align_bytes: a power of two, or 0.
 * Errors: CENOTE_E_CORRUPT (the id lives already, an alignment that is none, too many), and those
 * of the memory. */
CENOTE_MUST_CHECK cenote_status cli_trace_alloc(struct cli_trace *trace, uint32_t pool, uint64_t id,
                                                uint64_t size_bytes, uint64_t align_bytes,
                                                uint32_t tag, cenote_error *err);

/* Errors: CENOTE_E_CORRUPT: no such block lives. */
CENOTE_MUST_CHECK cenote_status cli_trace_free(struct cli_trace *trace, uint32_t pool, uint64_t id,
                                               cenote_error *err);
bool cli_trace_lives(const struct cli_trace *trace, uint32_t pool, uint64_t id);

/* The pool gives back what it holds idle; with @p destroy its blocks are freed first. */
CENOTE_MUST_CHECK cenote_status cli_trace_trim(struct cli_trace *trace, uint32_t pool, bool destroy,
                                               cenote_error *err);

/* Index of the pool that the trace calls @p number, made when it is new.
 * Errors: CENOTE_E_CORRUPT: too many pools. */
CENOTE_MUST_CHECK cenote_status cli_trace_pool(struct cli_trace *trace, uint64_t number,
                                               cenote_class class_id, uint32_t *out_pool,
                                               cenote_error *err);

/* ---- sources ---- */

/* Text, in one pool of class general (trace_text.c):
 *
 *   # comment                  also behind an operation; empty lines are passed over
 *   a ID SIZE [ALIGN]          numbers in decimal; a size of 0 is a block of no bytes
 *   f ID
 *
 * Lines end with LF or CRLF. Errors: CENOTE_E_CORRUPT naming the line. */
CENOTE_MUST_CHECK cenote_status cli_trace_read_text(struct cli_trace *trace, const char *text,
                                                    uint64_t size_bytes, cenote_error *err);

/* What a program recorded (cenote/trace.h; trace_binary.c). Errors: CENOTE_E_CORRUPT. */
CENOTE_MUST_CHECK cenote_status cli_trace_read_binary(struct cli_trace *trace, const void *bytes,
                                                      uint64_t size_bytes, cenote_error *err);

/* "vlm:SEED:OPS:chunked" or "...:contiguous" (trace_vlm.c). Errors: CENOTE_E_INVAL. */
CENOTE_MUST_CHECK cenote_status cli_vlm_parse(const char *text, struct cli_vlm *out_vlm,
                                              cenote_error *err);
/* The serving of a vision-language model, drawn from a seed. */
CENOTE_MUST_CHECK cenote_status cli_trace_generate(struct cli_trace *trace,
                                                   const struct cli_vlm *vlm, cenote_error *err);

#endif
