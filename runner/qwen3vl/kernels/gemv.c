/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix times vector, for decoding: bound by the stream of weights, so all that matters is to
 * keep the hardware's prefetchers running and to add nothing to them. Several vectors: gemv_many.c.
 *
 *     w, bf16   | 0 1 | 2 3 | 4 5 | ...     a 32-bit word holds a pair; a shift left by 16 makes
 *                                           a float of the even one, a mask of the odd one
 *     x         0 2 4 .. 30 1 3 5 .. 31     put into that order once a call, in scratch
 *     sums      16 lanes a row, lane = place in x mod 16; at the end halves are added to each
 *               other: 8 + 8, 4 + 4, 2 + 2, 1 + 1
 *
 * The 12-bit form of bf16 (cenote/bf12.h) is decoded into such pairs in registers, and a group with
 * escapes through a few floats on the stack; the sums take the same steps.
 *
 * f16 and f32 weights widen in order, so there x only is copied. The lane of an element depends
 * on k and the dtype alone, and each row belongs to one thread: threads and panels change no bit.
 *
 *     rank's rows   | 0 1 2 .. | s s+1 .. | 2s 2s+1 .. | ..    a step takes one row of each stream
 *                     stream 0   stream 1   stream 2
 *
 * x of 6144 floats and a row of bf16 do not fit an L1 cache of 32 KiB together: one row at a time
 * reads x from L2 again for each row, twice the bytes of the row, and gets 0.4 of the bandwidth.
 * So up to six rows share a pass over x. Not neighbouring rows: a row's end would then be a jump
 * for the prefetchers, and with a jump every 4 KiB or 12 KiB half of the bandwidth is gone. As
 * streams that each run on through memory they keep it (docs/kernels.md). */
#include "gemv_impl.h"

#include <assert.h>
#include <string.h>

#include "bf12_escapes.h"
#include "widen_impl.h"

#define LINE_BYTES  64u
#define START_BYTES 512u

void qwen_gemv_order(const qwen_gemv_job *job, const float *from, uint64_t count, float *x)
{
    if (job->product->w_dtype != CENOTE_DTYPE_BF16) {
        memcpy(x, from, count * sizeof *x);
        memset(x + count, 0, (qwen_gemv_padded(count) - count) * sizeof *x);
        return;
    }
    uint64_t whole = count / QWEN_GEMV_BLOCK * QWEN_GEMV_BLOCK;
    float tail[QWEN_GEMV_BLOCK] = {0};
    memcpy(tail, from + whole, (count - whole) * sizeof *tail);
    job->ops->arrange(from, whole, x);
    job->ops->arrange(tail, qwen_gemv_padded(count) - whole, x + whole);
}

void qwen_gemv_write(const qwen_product *product, uint64_t i, uint64_t j, float sum)
{
    float *c = product->c + i * product->c_stride + j;
    float value = product->bias != NULL ? sum + product->bias[j] : sum;
    *c = product->accumulate ? *c + value : value;
}

/* Four while x takes little of L1: each more is one more start for the prefetchers. */
static unsigned streams_max(const qwen_product *product)
{
    return product->m == 1 && product->k <= QWEN_GEMV_SHORT ? QWEN_GEMV_STREAMS_SHORT
                                                            : QWEN_GEMV_STREAMS;
}

/* Wakes the prefetchers while x is being prepared: a panel is over in 20 microseconds, and the
 * first bytes of each stream take a part of one. */
static void start_streams(const qwen_gemv_streams *streams)
{
    for (size_t i = 0; i < START_BYTES; i += LINE_BYTES)
        for (uint64_t row = 0; row < streams->count; row += streams->stride)
            __builtin_prefetch(streams->w + row * streams->row_bytes + i, 0, 2);
}

/* The same for a panel's lists of escapes: the fast loops end where the next one is. */
static void start_escapes(const qwen_gemv_job *job, const qwen_gemv_streams *streams)
{
    if (job->packed == NULL)
        return;
    const unsigned char *from = qwen_bf12_escapes_at(job->packed, streams->first);
    const unsigned char *end = qwen_bf12_escapes_at(job->packed, streams->first + streams->count);
    for (; from < end; from += LINE_BYTES)
        __builtin_prefetch(from, 0, 2);
}

static void multiply_streams(const qwen_gemv_job *job, const qwen_gemv_streams *streams,
                             const float *x)
{
    uint64_t stride = streams->stride;
    for (uint64_t step = 0; step < stride; step++) {
        float sums[QWEN_GEMV_STREAMS];
        unsigned live = (unsigned)((streams->count - step + stride - 1) / stride);
        if (job->packed != NULL)
            job->ops->dots_bf12(live, x, job->packed, streams->first + step, stride,
                                job->product->k, sums);
        else
            job->dots(live, x, streams->w + step * streams->row_bytes, stride * streams->row_bytes,
                      job->product->k, sums);
        for (unsigned s = 0; s < live; s++)
            qwen_gemv_write(job->product, 0, streams->first + s * stride + step, sums[s]);
    }
}

static void multiply_share(void *argument, unsigned rank, unsigned size)
{
    const qwen_gemv_job *job = argument;
    const qwen_product *product = job->product;
    unsigned long first, count;
    cenote_team_share(product->n, 1, rank, size, &first, &count);
    if (count == 0)
        return;
    const unsigned char *w = product->w;
    size_t row_bytes = product->k * qwen_weight_bytes(product->w_dtype);
    if (job->packed != NULL) {
        w = job->packed->groups;
        row_bytes = job->packed->row_bytes;
    }
    unsigned most = streams_max(product);
    qwen_gemv_streams streams = {
        .first = first,
        .count = count,
        .stride = (count + most - 1) / most,
        .w = w + first * row_bytes,
        .row_bytes = row_bytes,
    };
    float *x = qwen_kernels_scratch(job->kernels, rank);
    start_streams(&streams);
    if (product->m > 1) {
        qwen_gemv_many(job, &streams, x);
        return;
    }
    /* each rank for itself: cheaper than another meeting of the team */
    qwen_gemv_order(job, product->a, product->k, x);
    start_escapes(job, &streams);
    multiply_streams(job, &streams, x);
}

static const qwen_gemv_ops *gemv_ops(qwen_isa isa)
{
#if defined(__x86_64__)
    if (isa == QWEN_ISA_AVX512)
        return &qwen_gemv_avx512;
    if (isa == QWEN_ISA_AVX2)
        return &qwen_gemv_avx2;
#endif
    (void)isa;
    return &qwen_gemv_portable;
}

static qwen_gemv_fn dots_of(const qwen_gemv_ops *ops, cenote_dtype dtype)
{
    if (dtype == CENOTE_DTYPE_BF16)
        return ops->dots_bf16;
    return dtype == CENOTE_DTYPE_F16 ? ops->dots_f16 : ops->dots_f32;
}

void qwen_gemv(qwen_kernels *kernels, const qwen_product *product)
{
    assert(product->m >= 1 && product->m <= QWEN_GEMV_M_MAX && product->k <= kernels->k_max);
    const qwen_gemv_ops *ops = gemv_ops(kernels->isa);
    qwen_gemv_job job = {kernels, ops, product, dots_of(ops, product->w_dtype), NULL};
    cenote_bf12_view packed;
    if (product->w_encoding == CENOTE_ENCODING_BF12) {
        packed = cenote_bf12_view_of(product->w);
        job.packed = &packed;
    }
    cenote_team_run(kernels->team, multiply_share, &job);
}

size_t qwen_gemv_scratch_bytes(uint64_t k_max)
{
    return qwen_gemv_many_scratch_bytes(k_max); /* holds one row of x as well */
}
