/* SPDX-License-Identifier: Apache-2.0 */
/* What the recorder and the reader of traces agree on; cenote/trace.h describes the file. */
#ifndef CN_MONITOR_TRACE_FORMAT_H
#define CN_MONITOR_TRACE_FORMAT_H

#include <assert.h>
#include <string.h>

#include <cenote/trace.h>

#include "base/compiler.h"

#define CN_TRACE_MAGIC       "CNTRACE1"
#define CN_TRACE_MAGIC_BYTES 8u

/* Of a chunk: what comes before the payload, and the part of it that the checksum covers. */
#define CN_TRACE_HEADER_BYTES 24u
#define CN_TRACE_SUMMED_BYTES 16u

/* In an operation's first byte. */
#define CN_TRACE_KIND_MASK   0x07u
#define CN_TRACE_THREAD      0x08u
#define CN_TRACE_POOL        0x10u
#define CN_TRACE_TAG         0x20u
#define CN_TRACE_ALIGN       0x40u
#define CN_TRACE_CLASS_COUNT 16u

/* First byte, thread, pool, tag, id, size, alignment. */
#define CN_TRACE_OP_BYTES_MAX (1u + 5u + 6u + 5u + 10u + 10u + 1u)

/* What an operation is written as a difference to: the one before in its chunk. */
struct cn_trace_before {
    uint32_t thread;
    uint32_t tag;
    uint64_t pool; /* with its class */
    uint64_t id;
};

static_assert(CENOTE_CLASS_COUNT <= CN_TRACE_CLASS_COUNT, "a class has four bits");
static_assert(CENOTE_TRACE_KIND_COUNT <= CN_TRACE_KIND_MASK + 1, "a kind has three bits");

static inline bool cn_trace_has_id(cenote_trace_kind kind)
{
    return kind == CENOTE_TRACE_ALLOC || kind == CENOTE_TRACE_FREE;
}

static inline bool cn_trace_has_size(cenote_trace_kind kind)
{
    return kind == CENOTE_TRACE_ALLOC || kind == CENOTE_TRACE_REFUSED;
}

static inline void cn_trace_put(unsigned char *at, uint64_t number, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        at[i] = (unsigned char)(number >> 8 * i);
}

static inline uint64_t cn_trace_get(const unsigned char *at, uint32_t bytes)
{
    uint64_t number = 0;
    for (uint32_t i = 0; i < bytes; i++)
        number |= (uint64_t)at[i] << 8 * i;
    return number;
}

#endif
