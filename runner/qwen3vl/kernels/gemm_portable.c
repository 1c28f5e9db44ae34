/* SPDX-License-Identifier: Apache-2.0 */
/* The matrix product's inner parts in plain C: what the others must equal to the bit. */
#include <math.h>
#include <string.h>

#include "gemm_impl.h"
#include "widen_impl.h"

static void pack(cenote_dtype dtype, const unsigned char *w, size_t row_bytes, unsigned rows,
                 size_t depth, float *packed)
{
    for (unsigned j = 0; j < QWEN_GEMM_STRIP; j++) {
        const unsigned char *row = w + (j < rows ? j : rows - 1) * row_bytes;
        for (size_t k = 0; k < depth; k++)
            packed[k * QWEN_GEMM_STRIP + j] = qwen_widen_at(dtype, row, k);
    }
}

static void copy(unsigned rows, size_t depth, const float *a, size_t a_stride, float *out)
{
    for (unsigned i = 0; i < rows; i++)
        memcpy(out + i * QWEN_GEMM_A_STRIDE, a + i * a_stride, depth * sizeof *a);
}

static void tile(const qwen_gemm_tile *t)
{
    for (unsigned i = 0; i < t->rows; i++) {
        const float *a = t->a + i * QWEN_GEMM_A_STRIDE;
        float *sums = t->sums + i * t->sums_stride;
        for (unsigned j = 0; t->first && j < QWEN_GEMM_STRIP; j++)
            sums[j] = 0.0f;
        /* fmaf rounds once, as the instruction does; a * b + c would round twice. */
        for (size_t k = 0; k < t->depth; k++)
            for (unsigned j = 0; j < QWEN_GEMM_STRIP; j++)
                sums[j] = fmaf(a[k], t->packed[k * QWEN_GEMM_STRIP + j], sums[j]);
    }
}

const qwen_gemm_ops qwen_gemm_portable = {
    .tile_rows = 4, .tile_strips = 1, .pack = pack, .copy = copy, .tile = tile};
