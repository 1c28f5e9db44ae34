/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix times vector, for decoding: bound by the stream of weights, so all that matters is to
 * keep loads in flight and add nothing to them.
 *
 *     w, bf16   | 0 1 | 2 3 | 4 5 | ...     a 32-bit word holds a pair; a shift left by 16 makes
 *                                           a float of the even one, a mask of the odd one
 *     x         0 2 4 .. 30 1 3 5 .. 31     put into that order once a call, in scratch
 *     sums      64 lanes, lane = place in x mod 64; then halves are added to each other: 64 + 64,
 *               32 + 32, .. 1 + 1
 *
 * f16 and f32 weights widen in order, so there x only is copied. The lane of an element depends
 * on k and the dtype alone, and each row belongs to one thread: threads and panels change no bit.
 * More than one row at a time would save loads of x, which come from the L1 cache and cost
 * nothing beside memory; a single stream is what prefetchers like best. */
#include "gemv_impl.h"

#include <string.h>

#include "widen_impl.h"

typedef float (*dot_fn)(const float *x, const unsigned char *w, uint64_t k);

typedef struct gemv_job {
    const qwen_kernels *kernels;
    const qwen_gemv_ops *ops;
    const qwen_product *product;
    dot_fn dot;
} gemv_job;

/* k rounded up to whole registers of lanes. */
static size_t padded(uint64_t k)
{
    return (size_t)((k + QWEN_GEMV_LANES - 1) / QWEN_GEMV_LANES * QWEN_GEMV_LANES);
}

/* Each rank for itself: cheaper than another meeting of the team. */
static void prepare_x(const gemv_job *job, float *x)
{
    const qwen_product *product = job->product;
    uint64_t k = product->k;
    uint64_t whole =
        product->w_dtype == CENOTE_DTYPE_BF16 ? k / QWEN_GEMV_LANES * QWEN_GEMV_LANES : 0;
    float tail[QWEN_GEMV_LANES] = {0};
    if (product->w_dtype == CENOTE_DTYPE_BF16) {
        job->ops->arrange(product->a, whole, x);
        memcpy(tail, product->a + whole, (k - whole) * sizeof *tail);
        job->ops->arrange(tail, padded(k) - whole, x + whole);
    } else {
        memcpy(x, product->a, k * sizeof *x);
        memset(x + k, 0, (padded(k) - k) * sizeof *x);
    }
}

static void multiply_rows(void *argument, unsigned rank, unsigned size)
{
    const gemv_job *job = argument;
    const qwen_product *product = job->product;
    unsigned long first, count;
    cenote_team_share(product->n, 1, rank, size, &first, &count);
    if (count == 0)
        return;
    float *x = qwen_kernels_scratch(job->kernels, rank);
    prepare_x(job, x);
    size_t row_bytes = product->k * qwen_weight_bytes(product->w_dtype);
    const unsigned char *w = (const unsigned char *)product->w + first * row_bytes;
    for (unsigned long j = first; j < first + count; j++, w += row_bytes) {
        float value = job->dot(x, w, product->k);
        if (product->bias != NULL)
            value += product->bias[j];
        product->c[j] = product->accumulate ? product->c[j] + value : value;
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

static dot_fn dot_of(const qwen_gemv_ops *ops, cenote_dtype dtype)
{
    if (dtype == CENOTE_DTYPE_BF16)
        return ops->dot_bf16;
    return dtype == CENOTE_DTYPE_F16 ? ops->dot_f16 : ops->dot_f32;
}

void qwen_gemv(qwen_kernels *kernels, const qwen_product *product)
{
    const qwen_gemv_ops *ops = gemv_ops(kernels->isa);
    gemv_job job = {kernels, ops, product, dot_of(ops, product->w_dtype)};
    cenote_team_run(kernels->team, multiply_rows, &job);
}

size_t qwen_gemv_scratch_bytes(uint64_t k_max)
{
    return padded(k_max) * sizeof(float);
}
