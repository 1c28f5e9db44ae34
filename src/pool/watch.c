/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/watch.h"

#include "pool/pool_impl.h"

_Atomic(cn_watch_fn) cn_watch;
_Thread_local uint32_t cn_watch_tag;

void cn_watch_call(cn_watch_fn watch, const cenote_pool *pool, cenote_trace_kind kind,
                   const void *data, uint64_t size_bytes, uint64_t align_bytes)
{
    cenote_trace_op event = {
        .kind = kind,
        .class_id = pool->class_id,
        .pool = pool->number,
        .id = data != NULL ? cenote_pool_offset(pool, data) : 0,
        .size_bytes = size_bytes,
        .align_bytes = align_bytes,
    };
    watch(&event);
}
