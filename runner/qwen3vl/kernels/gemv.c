/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix times vector, for decoding: bound by the stream of weights, so all that matters is to
 * keep the hardware's prefetchers running and to add nothing to them. Several vectors: gemv_many.c.
 * One call takes several panels of a matrix: the team meets once for all of them.
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

#define LINE_BYTES      64u
#define START_BYTES     512u
#define L1D_BYTES_USUAL 32768u

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

/* Fewer while x takes no more than a quarter of L1: each more is one more start for the
 * prefetchers. */
static unsigned streams_max(const qwen_gemv_job *job)
{
    uint64_t l1d_bytes = job->kernels->hardware.l1d.size_bytes;
    uint64_t quarter = (l1d_bytes > 0 ? l1d_bytes : L1D_BYTES_USUAL) / 4;
    bool little = job->product->m == 1 && job->product->k * sizeof(float) <= quarter;
    return little ? QWEN_GEMV_STREAMS_SHORT : QWEN_GEMV_STREAMS;
}

/* Wakes the prefetchers before their panel's turn: it is over in 40 microseconds, and the first
 * bytes of each stream take a part of one. */
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

/* Several panels, as one: rank r has a part of all their rows, which may begin and end anywhere. */
typedef struct batch {
    qwen_kernels *kernels;
    const qwen_gemv_ops *ops;
    qwen_gemv_fn dots;
    const qwen_product *products;
    unsigned count;
    uint64_t rows;
} batch;

/* What is left of a rank's rows: [first, end), and the panel that the first of them is in. */
typedef struct share {
    uint64_t first, end;
    unsigned panel;
    uint64_t panel_first;
} share;

typedef struct part {
    qwen_gemv_job job;
    qwen_gemv_streams streams;
    cenote_bf12_view packed;
} part;

/* The rows of the next panel; false when there are none left. */
static bool part_next(const batch *b, share *left, part *out)
{
    if (left->first == left->end)
        return false;
    const qwen_product *product = &b->products[left->panel];
    for (; left->first - left->panel_first >= product->n; product = &b->products[left->panel])
        left->panel_first += b->products[left->panel++].n;
    uint64_t panel_end = left->panel_first + product->n;
    uint64_t end = left->end < panel_end ? left->end : panel_end;
    out->job = (qwen_gemv_job){b->kernels, b->ops, product, b->dots, NULL};
    out->streams =
        (qwen_gemv_streams){.first = left->first - left->panel_first,
                            .count = end - left->first,
                            .w = product->w,
                            .row_bytes = product->k * qwen_weight_bytes(product->w_dtype)};
    if (product->w_encoding == CENOTE_ENCODING_BF12) {
        out->packed = cenote_bf12_view_of(product->w);
        out->job.packed = &out->packed;
        out->streams.w = out->packed.groups;
        out->streams.row_bytes = out->packed.row_bytes;
    }
    unsigned most = streams_max(&out->job);
    out->streams.stride = (out->streams.count + most - 1) / most;
    out->streams.w += out->streams.first * out->streams.row_bytes;
    left->first = end;
    return true;
}

static void multiply_share(void *argument, unsigned rank, unsigned size)
{
    const batch *b = argument;
    unsigned long first, count;
    cenote_team_share(b->rows, 1, rank, size, &first, &count);
    share left = {first, first + count, 0, 0};
    part parts[2];
    float *x = qwen_kernels_scratch(b->kernels, rank);
    bool more = part_next(b, &left, &parts[0]);
    if (more) {
        start_streams(&parts[0].streams);
        /* each rank for itself: cheaper than another meeting of the team */
        if (b->products->m > 1)
            qwen_gemv_many_order(&parts[0].job, x);
        else
            qwen_gemv_order(&parts[0].job, b->products->a, b->products->k, x);
    }
    for (unsigned i = 0; more; i ^= 1) {
        const part *now = &parts[i];
        more = part_next(b, &left, &parts[i ^ 1]);
        if (more)
            start_streams(&parts[i ^ 1].streams);
        start_escapes(&now->job, &now->streams);
        if (b->products->m > 1)
            qwen_gemv_many(&now->job, &now->streams, x);
        else
            multiply_streams(&now->job, &now->streams, x);
    }
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

void qwen_gemv(qwen_kernels *kernels, const qwen_product *products, unsigned count)
{
    assert(products->m >= 1 && products->m <= QWEN_GEMV_M_MAX && products->k <= kernels->k_max);
    const qwen_gemv_ops *ops = gemv_ops(kernels->isa);
    batch b = {kernels, ops, dots_of(ops, products->w_dtype), products, count, 0};
    for (unsigned i = 0; i < count; i++)
        b.rows += products[i].n;
    cenote_team_run(kernels->team, multiply_share, &b);
}

size_t qwen_gemv_scratch_bytes(uint64_t k_max)
{
    return qwen_gemv_many_scratch_bytes(k_max); /* holds one row of x as well */
}
