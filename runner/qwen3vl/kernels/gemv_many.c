/* SPDX-License-Identifier: Apache-2.0 */
/* A few rows of x at once, for tokens that were guessed: the weights are read once for all of them.
 *
 *     rank's rows  | 0 1 2 .. | s s+1 .. | 2s 2s+1 .. | ..     streams as in gemv.c
 *
 *     weights[6][256]   one row of each stream, a chunk of k, widened to floats     6 KiB
 *     x[m][256]         the same chunk of every row of x, in the order of lanes     8 KiB at most
 *     sums[m][6][16]    lanes of every pair                                         3 KiB at most
 *
 * Weights are decoded once a chunk, whatever m, and both sides of a chunk stay in L1 while tiles of
 * a few rows by a few x keep their lanes in registers. A lane takes its elements in the order of a
 * single call, for sums only pause between chunks: the bits are those of m calls.
 *
 * x lies by chunks, [k / 256][m][256], so that its rows never share cache sets as rows a power of
 * two apart would. */
#include "gemv_impl.h"

#include <string.h>

#include "bf12_escapes.h"
#include "widen_impl.h"

#define LINE_BYTES 64u

typedef struct many_room {
    float weights[QWEN_GEMV_STREAMS][QWEN_GEMV_CHUNK];
    float sums[QWEN_GEMV_M_MAX][QWEN_GEMV_STREAMS][QWEN_GEMV_LANES];
    float x[]; /* [chunks][m][QWEN_GEMV_CHUNK] */
} many_room;

static uint64_t at_most(uint64_t value, uint64_t limit)
{
    return value < limit ? value : limit;
}

static uint64_t chunks_of(uint64_t k)
{
    return (k + QWEN_GEMV_CHUNK - 1) / QWEN_GEMV_CHUNK;
}

void qwen_gemv_many_order(const qwen_gemv_job *job, void *scratch)
{
    many_room *room = scratch;
    float *x = room->x;
    const qwen_product *product = job->product;
    for (uint64_t first = 0; first < product->k; first += QWEN_GEMV_CHUNK)
        for (uint64_t i = 0; i < product->m; i++, x += QWEN_GEMV_CHUNK)
            qwen_gemv_order(job, product->a + i * product->a_stride + first,
                            at_most(product->k - first, QWEN_GEMV_CHUNK), x);
}

/* The next chunk of a row; the hardware's prefetchers see a stream that stops and goes. */
static void fetch_ahead(const unsigned char *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE_BYTES)
        __builtin_prefetch(from + i, 0, 3);
}

static void widen_packed(const qwen_gemv_job *job, const unsigned char *row, uint64_t first,
                         size_t count, qwen_bf12_escapes *escapes, float *out)
{
    uint64_t group = first / CENOTE_BF12_GROUP;
    size_t groups = (count + CENOTE_BF12_GROUP - 1) / CENOTE_BF12_GROUP;
    const unsigned char *w = row + group * CENOTE_BF12_GROUP_BYTES;
    fetch_ahead(w + groups * CENOTE_BF12_GROUP_BYTES, groups * CENOTE_BF12_GROUP_BYTES);
    job->ops->widen_bf12(job->packed->table, w, groups, out);
    for (size_t i = 0; i < groups; i++)
        qwen_bf12_patch(escapes, group + i, out + i * CENOTE_BF12_GROUP);
    float *last = out + count / CENOTE_BF12_GROUP * CENOTE_BF12_GROUP;
    for (unsigned i = count % CENOTE_BF12_GROUP; i % QWEN_GEMV_BLOCK != 0; i++)
        last[qwen_bf12_place(i)] = 0.0f;
}

static void widen_plain(const qwen_gemv_job *job, const unsigned char *row, uint64_t first,
                        size_t count, float *out)
{
    cenote_dtype dtype = job->product->w_dtype;
    size_t element_bytes = qwen_weight_bytes(dtype);
    const unsigned char *w = row + first * element_bytes;
    fetch_ahead(w + count * element_bytes, count * element_bytes);
    job->ops->widen(dtype, w, count, out);
}

/* One row of each stream, all of k. */
static void add_rows(const qwen_gemv_job *job, const qwen_gemv_streams *streams, uint64_t step,
                     unsigned live, many_room *room)
{
    const qwen_product *product = job->product;
    qwen_bf12_escapes escapes[QWEN_GEMV_STREAMS];
    for (unsigned s = 0; job->packed != NULL && s < live; s++)
        escapes[s] = qwen_bf12_escapes_of(job->packed, streams->first + s * streams->stride + step);
    memset(room->sums, 0, product->m * sizeof room->sums[0]);
    const float *x = room->x;
    for (uint64_t first = 0; first < product->k; first += QWEN_GEMV_CHUNK) {
        size_t count = at_most(product->k - first, QWEN_GEMV_CHUNK);
        for (unsigned s = 0; s < live; s++) {
            const unsigned char *row =
                streams->w + (s * streams->stride + step) * streams->row_bytes;
            if (job->packed != NULL)
                widen_packed(job, row, first, count, &escapes[s], room->weights[s]);
            else
                widen_plain(job, row, first, count, room->weights[s]);
        }
        job->ops->add(live, (unsigned)product->m, room->weights[0], x, qwen_gemv_padded(count),
                      room->sums[0][0]);
        x += product->m * QWEN_GEMV_CHUNK;
    }
}

void qwen_gemv_many(const qwen_gemv_job *job, const qwen_gemv_streams *streams, void *scratch)
{
    many_room *room = scratch;
    uint64_t stride = streams->stride;
    for (uint64_t step = 0; step < stride; step++) {
        unsigned live = (unsigned)((streams->count - step + stride - 1) / stride);
        add_rows(job, streams, step, live, room);
        for (uint64_t i = 0; i < job->product->m; i++)
            for (unsigned s = 0; s < live; s++)
                qwen_gemv_write(job->product, i, streams->first + s * stride + step,
                                job->ops->reduce(room->sums[i][s]));
    }
}

size_t qwen_gemv_many_scratch_bytes(uint64_t k_max)
{
    return sizeof(many_room) + chunks_of(k_max) * QWEN_GEMV_M_MAX * QWEN_GEMV_CHUNK * sizeof(float);
}
