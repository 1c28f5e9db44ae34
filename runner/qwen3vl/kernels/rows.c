/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels that look at one row, one head or one element at a time: norms, rotary positions, gates.
 *
 * The work is cut into items (rows, or runs of elements) and each thread takes one share of them.
 * No item's bits depend on the others, so neither the cut nor the number of threads shows. They
 * are bound by memory from a few thousand elements on; below that a call stays on its thread,
 * which is cheaper than to wake a team. */
#include "rows_impl.h"

/* Elements below which the team is left asleep, and a share of elements (4 KiB of floats). */
#define ALONE_MAX     16384u
#define ELEMENT_GRAIN 1024u

typedef struct rows_job {
    void (*share)(const struct rows_job *job, uint64_t first, uint64_t count);
    const qwen_rows_ops *ops;
    uint64_t items;
    uint64_t grain;
    float *out;
    size_t out_stride;
    const float *x;
    size_t x_stride;
    uint64_t n;
    const float *gain;
    const float *bias;
    float eps;
    uint32_t heads;
    uint32_t head_dim;
    const float *cosines;
    const float *sines;
    void (*elements)(float *x, const float *y, uint64_t count);
} rows_job;

static const qwen_rows_ops *rows_ops(const qwen_kernels *kernels)
{
#if defined(__x86_64__)
    if (kernels->isa == QWEN_ISA_AVX512)
        return &qwen_rows_avx512;
    if (kernels->isa == QWEN_ISA_AVX2)
        return &qwen_rows_avx2;
#endif
    (void)kernels;
    return &qwen_rows_portable;
}

static void rows_rank(void *argument, unsigned rank, unsigned size)
{
    const rows_job *job = argument;
    unsigned long first, count;
    cenote_team_share(job->items, job->grain, rank, size, &first, &count);
    if (count > 0)
        job->share(job, first, count);
}

static void rows_run(qwen_kernels *kernels, rows_job *job, uint64_t elements)
{
    if (elements <= ALONE_MAX)
        rows_rank(job, 0, 1);
    else
        cenote_team_run(kernels->team, rows_rank, job);
}

static void rms_norm_share(const rows_job *job, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++)
        job->ops->rms_norm(job->out + i * job->out_stride, job->x + i * job->x_stride, job->n,
                           job->gain, job->eps);
}

void qwen_rms_norm(qwen_kernels *kernels, float *out, size_t out_stride, const float *x,
                   size_t x_stride, uint64_t rows, uint64_t n, const float *gain, float eps)
{
    rows_job job = {
        .share = rms_norm_share,
        .ops = rows_ops(kernels),
        .items = rows,
        .grain = 1,
        .out = out,
        .out_stride = out_stride,
        .x = x,
        .x_stride = x_stride,
        .n = n,
        .gain = gain,
        .eps = eps,
    };
    rows_run(kernels, &job, rows * n);
}

static void layer_norm_share(const rows_job *job, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++)
        job->ops->layer_norm(job->out + i * job->out_stride, job->x + i * job->x_stride, job->n,
                             job->gain, job->bias, job->eps);
}

void qwen_layer_norm(qwen_kernels *kernels, float *out, size_t out_stride, const float *x,
                     size_t x_stride, uint64_t rows, uint64_t n, const float *gain,
                     const float *bias, float eps)
{
    rows_job job = {
        .share = layer_norm_share,
        .ops = rows_ops(kernels),
        .items = rows,
        .grain = 1,
        .out = out,
        .out_stride = out_stride,
        .x = x,
        .x_stride = x_stride,
        .n = n,
        .gain = gain,
        .bias = bias,
        .eps = eps,
    };
    rows_run(kernels, &job, rows * n);
}

static void rope_share(const rows_job *job, uint64_t first, uint64_t count)
{
    uint32_t half = job->head_dim / 2;
    for (uint64_t i = first; i < first + count; i++)
        job->ops->rope(job->out + i * job->out_stride, job->heads, job->head_dim,
                       job->cosines + i * half, job->sines + i * half);
}

void qwen_rope(qwen_kernels *kernels, float *x, size_t x_stride, uint64_t rows, uint32_t heads,
               uint32_t head_dim, const float *cosines, const float *sines)
{
    rows_job job = {
        .share = rope_share,
        .ops = rows_ops(kernels),
        .items = rows,
        .grain = 1,
        .out = x,
        .out_stride = x_stride,
        .heads = heads,
        .head_dim = head_dim,
        .cosines = cosines,
        .sines = sines,
    };
    rows_run(kernels, &job, rows * heads * head_dim);
}

static void elements_share(const rows_job *job, uint64_t first, uint64_t count)
{
    job->elements(job->out + first, job->x == NULL ? NULL : job->x + first, count);
}

static void elements_run(qwen_kernels *kernels, void (*elements)(float *, const float *, uint64_t),
                         float *x, const float *y, uint64_t count)
{
    rows_job job = {
        .share = elements_share,
        .items = count,
        .grain = ELEMENT_GRAIN,
        .out = x,
        .x = y,
        .elements = elements,
    };
    rows_run(kernels, &job, count);
}

void qwen_silu_mul(qwen_kernels *kernels, float *gate, const float *up, uint64_t count)
{
    elements_run(kernels, rows_ops(kernels)->silu_mul, gate, up, count);
}

void qwen_gelu_tanh(qwen_kernels *kernels, float *x, uint64_t count)
{
    elements_run(kernels, rows_ops(kernels)->gelu_tanh, x, NULL, count);
}

void qwen_gelu_erf(qwen_kernels *kernels, float *x, uint64_t count)
{
    elements_run(kernels, rows_ops(kernels)->gelu_erf, x, NULL, count);
}

void qwen_add(qwen_kernels *kernels, float *x, const float *y, uint64_t count)
{
    elements_run(kernels, rows_ops(kernels)->add, x, y, count);
}
