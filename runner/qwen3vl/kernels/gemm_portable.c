/* SPDX-License-Identifier: Apache-2.0 */
/* The matrix product's inner parts in plain C: what the others must equal to the bit. */
#include <math.h>

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

static void tile(unsigned rows, unsigned strips, size_t depth, const float *a, const float *packed,
                 float *sums, bool first)
{
    (void)strips; /* one */
    for (unsigned i = 0; i < rows; i++) {
        float *sum = sums + i * QWEN_GEMM_WIDTH;
        for (unsigned j = 0; first && j < QWEN_GEMM_STRIP; j++)
            sum[j] = 0.0f;
        /* fmaf rounds once, as the instruction does; a * b + c would round twice. */
        for (size_t k = 0; k < depth; k++)
            for (unsigned j = 0; j < QWEN_GEMM_STRIP; j++)
                sum[j] =
                    fmaf(a[i * QWEN_GEMM_A_STRIDE + k], packed[k * QWEN_GEMM_STRIP + j], sum[j]);
    }
}

const qwen_gemm_ops qwen_gemm_portable = {
    .tile_rows = 4, .tile_strips = 1, .pack = pack, .tile = tile};
