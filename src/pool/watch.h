/* SPDX-License-Identifier: Apache-2.0 */
/* What pools tell whoever watches them. There is one watcher at most, the recorder of traces, which
 * lies above pools and may not be included here: it registers a function
 * (cn_thread_cache_watch()). While nobody watches, the fast paths of alloc and free pay nothing;
 * while somebody does they find no cache of their thread, and what they go through instead asks. */
#ifndef CN_POOL_WATCH_H
#define CN_POOL_WATCH_H

#include <stdatomic.h>
#include <stdbool.h>

#include <cenote/trace.h>

#include "base/compiler.h"

/* Called after a block is given and before it is taken back, so that the events of one block, and
 * of the next one in its place, come in their order. A block that compaction moves is freed and
 * allocated. The pool may be locked: call nothing of it. A block that moves is
 * freed and allocated, with the lock held. Only kind, pool,
 * class_id, id, size_bytes and align_bytes are set. */
typedef void (*cn_watch_fn)(const cenote_trace_op *event);

/* NULL: nobody. Stays callable when it is taken away. Set by cn_thread_cache_watch(). */
extern _Atomic(cn_watch_fn) cn_watch __attribute__((visibility("hidden")));

/* What the calling thread's operations are for (cenote_trace_tag()). */
extern _Thread_local uint32_t cn_watch_tag;

/* Starts what the environment asks for (CENOTE_TRACE); called for each budget before anything else.
 * The one call upwards: src/monitor/trace_record.c has it. Errors: those of cenote_trace_start().
 */
CENOTE_MUST_CHECK cenote_status cn_watch_begin(cenote_error *err);

/* The rest of cn_watch_tell(), out of the way. */
void cn_watch_call(cn_watch_fn watch, const cenote_pool *pool, cenote_trace_kind kind,
                   const void *data, uint64_t size_bytes, uint64_t align_bytes);

static inline void cn_watch_tell(const cenote_pool *pool, cenote_trace_kind kind, const void *data,
                                 uint64_t size_bytes, uint64_t align_bytes)
{
    cn_watch_fn watch = atomic_load_explicit(&cn_watch, memory_order_acquire);
    if (CN_UNLIKELY(watch != NULL))
        cn_watch_call(watch, pool, kind, data, size_bytes, align_bytes);
}

#endif
