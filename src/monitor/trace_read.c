/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of traces. A chunk is looked at in three steps, each only when the one before was
 * passed: its header's numbers, its checksum, its operations. A chunk that the file ends in is what
 * a crash leaves, and no fault; any other that does not hold is. */
#include <inttypes.h>

#include "base/hash.h"
#include "monitor/trace_format.h"

struct chunk {
    uint64_t offset; /* in the file, of the header */
    uint64_t op_count;
    uint64_t first_seq;
    const unsigned char *at, *end; /* what of the payload is not read yet */
    cenote_error *err;
};

static cenote_status corrupt(const struct chunk *chunk, const char *what)
{
    return cenote_error_set(chunk->err, CENOTE_E_CORRUPT, "the chunk at byte %" PRIu64 ": %s",
                            chunk->offset, what);
}

/* ---- operations ---- */

static bool get_varint(struct chunk *chunk, uint64_t max, uint64_t *out_number)
{
    uint64_t number = 0;
    for (uint32_t shift = 0; shift < 64 && chunk->at < chunk->end; shift += 7) {
        uint64_t part = *chunk->at & 0x7f;
        if (part << shift >> shift != part)
            return false;
        number |= part << shift;
        if ((*chunk->at++ & 0x80) == 0) {
            *out_number = number;
            return number <= max;
        }
    }
    return false;
}

static bool get_small(struct chunk *chunk, uint32_t *out_number)
{
    uint64_t number;
    if (!get_varint(chunk, UINT32_MAX, &number))
        return false;
    *out_number = (uint32_t)number;
    return true;
}

static bool get_align(struct chunk *chunk, uint64_t *out_bytes)
{
    if (chunk->at == chunk->end || *chunk->at >= 64)
        return false;
    *out_bytes = UINT64_C(1) << *chunk->at++;
    return true;
}

/* The id of an allocation or a free, the size, the alignment. */
static bool get_block(struct chunk *chunk, uint32_t flags, struct cn_trace_before *before,
                      cenote_trace_op *op)
{
    uint64_t step;
    if (cn_trace_has_id(op->kind)) {
        if (!get_varint(chunk, UINT64_MAX, &step))
            return false;
        before->id += step >> 1 ^ -(step & 1);
        op->id = before->id;
    }
    if (cn_trace_has_size(op->kind) && !get_varint(chunk, UINT64_MAX, &op->size_bytes))
        return false;
    if ((flags & CN_TRACE_ALIGN) == 0)
        return true;
    return cn_trace_has_size(op->kind) && get_align(chunk, &op->align_bytes);
}

static bool get_op(struct chunk *chunk, struct cn_trace_before *before, cenote_trace_op *op)
{
    if (chunk->at == chunk->end)
        return false;
    uint32_t flags = *chunk->at++, kind = flags & CN_TRACE_KIND_MASK;
    if (kind >= CENOTE_TRACE_KIND_COUNT || flags > 0x7f)
        return false;
    if ((flags & CN_TRACE_THREAD) != 0 && !get_small(chunk, &before->thread))
        return false;
    uint64_t pool_max = UINT32_MAX * (uint64_t)CN_TRACE_CLASS_COUNT + CN_TRACE_CLASS_COUNT - 1;
    if ((flags & CN_TRACE_POOL) != 0 && !get_varint(chunk, pool_max, &before->pool))
        return false;
    if ((flags & CN_TRACE_TAG) != 0 && !get_small(chunk, &before->tag))
        return false;
    op->kind = (cenote_trace_kind)kind;
    op->thread = before->thread;
    op->pool = (uint32_t)(before->pool / CN_TRACE_CLASS_COUNT);
    op->class_id = (cenote_class)(before->pool % CN_TRACE_CLASS_COUNT);
    op->tag = before->tag;
    return (uint32_t)op->class_id < CENOTE_CLASS_COUNT && get_block(chunk, flags, before, op);
}

/* ---- chunks ---- */

/* @return false when the file ends in the chunk. Otherwise @p out_status says what it is worth. */
static bool open_chunk(const unsigned char *bytes, uint64_t size_bytes, uint64_t seq,
                       struct chunk *chunk, cenote_status *out_status)
{
    const unsigned char *header = bytes + chunk->offset;
    uint64_t left = size_bytes - chunk->offset;
    if (left < CN_TRACE_HEADER_BYTES)
        return false;
    uint64_t payload_bytes = cn_trace_get(header, 4);
    chunk->op_count = cn_trace_get(header + 4, 4);
    chunk->first_seq = cn_trace_get(header + 8, 8);
    *out_status = CENOTE_OK;
    if (payload_bytes == 0 || payload_bytes > CENOTE_TRACE_CHUNK_BYTES) {
        *out_status = corrupt(chunk, "its length is none that a recorder writes");
        return true;
    }
    if (left - CN_TRACE_HEADER_BYTES < payload_bytes)
        return false;
    chunk->at = header + CN_TRACE_HEADER_BYTES;
    chunk->end = chunk->at + payload_bytes;
    struct cn_hash hash;
    cn_hash_init(&hash);
    cn_hash_add(&hash, header, CN_TRACE_SUMMED_BYTES);
    cn_hash_add(&hash, chunk->at, payload_bytes);
    if (cn_hash_sum(&hash) != cn_trace_get(header + CN_TRACE_SUMMED_BYTES, 8))
        *out_status = corrupt(chunk, "its checksum is wrong");
    else if (chunk->first_seq != seq)
        *out_status = corrupt(chunk, "it does not follow the one before");
    return true;
}

static cenote_status read_chunk(struct chunk *chunk, cenote_trace_visit_fn visit, void *context)
{
    struct cn_trace_before before = {0};
    for (uint64_t i = 0; i < chunk->op_count; i++) {
        cenote_trace_op op = {.seq = chunk->first_seq + i};
        if (!get_op(chunk, &before, &op))
            return corrupt(chunk, "an operation in it is none");
        cenote_status status = visit(context, &op, chunk->err);
        if (status != CENOTE_OK)
            return status;
    }
    return chunk->at == chunk->end ? CENOTE_OK : corrupt(chunk, "bytes are left over in it");
}

bool cenote_trace_is(const void *bytes, uint64_t size_bytes)
{
    return size_bytes >= CN_TRACE_MAGIC_BYTES &&
           memcmp(bytes, CN_TRACE_MAGIC, CN_TRACE_MAGIC_BYTES) == 0;
}

cenote_status cenote_trace_read(const void *bytes, uint64_t size_bytes, cenote_trace_visit_fn visit,
                                void *context, uint64_t *out_torn_bytes, cenote_error *err)
{
    struct chunk chunk = {.offset = CN_TRACE_MAGIC_BYTES, .err = err};
    uint64_t seq = 0;
    if (!cenote_trace_is(bytes, size_bytes))
        return cenote_error_set(err, CENOTE_E_CORRUPT, "it does not begin with %s", CN_TRACE_MAGIC);
    while (chunk.offset < size_bytes) {
        cenote_status status;
        if (!open_chunk(bytes, size_bytes, seq, &chunk, &status))
            break;
        if (status == CENOTE_OK)
            status = read_chunk(&chunk, visit, context);
        if (status != CENOTE_OK)
            return status;
        seq += chunk.op_count;
        chunk.offset = (uint64_t)(chunk.end - (const unsigned char *)bytes);
    }
    *out_torn_bytes = size_bytes - chunk.offset;
    return CENOTE_OK;
}
