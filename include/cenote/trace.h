/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  A record of what a process asks of its pools, and the way to read one.
 *
 *  `CENOTE_TRACE=FILE program` records every operation of every pool, from the first budget to the
 *  end of the process; cenote_trace_start() and cenote_trace_stop() do so for a part of it. `cenote
 *  replay FILE` repeats it on this and other allocators.
 *
 *  The environment is looked at when a budget is made, never by a program with raised rights, and
 *  does nothing else. `%p` in FILE is the number of the process. A file that is there is never
 *  written over: making the budget fails then, as for any other file that cannot be made, for who
 *  asks for a trace should not miss it. A process that is forked does not go on recording; one that
 *  it executes looks at the environment again, so give it %p.
 *
 *  Operations are kept in a buffer of CENOTE_TRACE_CHUNK_BYTES and written when it is full, when
 *  recording stops and when the process ends by exit(). One that is killed loses at most that
 *  buffer; a machine that loses power, what it had not written back. A disk that is full ends the
 *  recording, not the program. The buffer is not charged to a budget, but is there before the first
 *  one when the environment asks, and so part of what the process holds.
 *
 *  A block that compaction moves is recorded as freed and allocated again, at its new place.
 *
 *  The order of a trace is that of its operations, when one thread works. Among threads a block's
 *  free still comes behind its allocation and before the next one at its place.
 *
 *  The file, all numbers with their lowest byte first:
 *
 *      "CNTRACE1"
 *      chunk      payload bytes (4), operations (4), number of the first (8),
 *                 XXH3-64 of these 16 bytes and the payload (8),
 *                 payload (1 to CENOTE_TRACE_CHUNK_BYTES)
 *      operation  a byte: the kind in bits 0-2, and in bits 3-6 whether these follow: thread,
 *                 pool, tag (else those of the one before; 0 when a chunk begins), alignment;
 *                 then as varints of 7 bits, lowest first: thread; number of the pool * 16 +
 *                 class; tag; id less that of the one before (zigzag; allocations and frees);
 *                 size (allocations, also refused ones);
 *                 and a byte: the logarithm of the alignment
 *
 *  Threads: any. Recording takes a lock for each operation. */
#ifndef CENOTE_TRACE_H
#define CENOTE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/pool.h>
#include <cenote/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CENOTE_TRACE_CHUNK_BYTES 16384u

typedef enum cenote_trace_kind {
    CENOTE_TRACE_ALLOC = 0,
    CENOTE_TRACE_FREE,
    CENOTE_TRACE_REFUSED, /**< an allocation that failed */
    CENOTE_TRACE_TRIM,    /**< cenote_pool_trim() */
    CENOTE_TRACE_DESTROY, /**< of the pool, with what lives in it */
    CENOTE_TRACE_KIND_COUNT
} cenote_trace_kind;

typedef struct cenote_trace_op {
    uint64_t seq; /**< 0, 1, 2, ... */
    cenote_trace_kind kind;
    cenote_class class_id; /**< the pool's */
    uint32_t pool;         /**< its number in the process, by age */
    uint32_t thread;       /**< its number in the trace, by first operation */
    uint32_t tag;          /**< cenote_trace_tag() of the thread */
    uint64_t id; /**< cenote_pool_offset() of the block: one that no other live block of the
                      pool has */
    uint64_t size_bytes;
    uint64_t align_bytes; /**< as asked for; 0: the pool's */
} cenote_trace_op;

/* ---- recording ---- */

/** Records from now on. Frees of blocks from before are recorded too.
 *  @param path  a file that is not there yet; %p in it becomes the number of the process
 *  Errors: CENOTE_E_INVAL (a recording is under way), CENOTE_E_IO, CENOTE_E_NOTFOUND. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_trace_start(const char *path, cenote_error *err);

/** Writes what is left and closes the file; whoever started it. What other threads do meanwhile may
 *  or may not be in it.
 *  Errors: CENOTE_E_INVAL (none is under way), CENOTE_E_IO (what had been written before an error
 *  is a trace of its own). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_trace_stop(cenote_error *err);

/** What the calling thread's operations are for from now on, in the program's own numbers; 0 at
 *  first. @return the tag until now, to be put back. */
CENOTE_API uint32_t cenote_trace_tag(uint32_t tag);

/* ---- reading ---- */

/** Whether bytes begin like a trace. */
CENOTE_API bool cenote_trace_is(const void *bytes, uint64_t size_bytes);

/** Is given each operation; a status other than CENOTE_OK ends the reading with it. */
typedef cenote_status (*cenote_trace_visit_fn)(void *context, const cenote_trace_op *op,
                                               cenote_error *err);

/** Hands all operations of a trace that is in memory to @p visit, in order. The bytes may be
 *  anybody's: all are checked, and operations of a chunk come after its checksum.
 *  @param out_torn_bytes  at the end, of a chunk that was not written whole; 0 for a whole trace.
 *                         What is before them is good and was visited
 *  Errors: CENOTE_E_CORRUPT naming the offset; what @p visit says.  Cost: O(n), no memory. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_trace_read(const void *bytes, uint64_t size_bytes,
                                                             cenote_trace_visit_fn visit,
                                                             void *context,
                                                             uint64_t *out_torn_bytes,
                                                             cenote_error *err);

#ifdef __cplusplus
}
#endif
#endif
