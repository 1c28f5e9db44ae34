/* SPDX-License-Identifier: Apache-2.0 */
/* What gemv.c asks of an instruction set. */
#ifndef QWEN_GEMV_IMPL_H
#define QWEN_GEMV_IMPL_H

#include "kernels_impl.h"

/* A row's sum is kept in this many lanes; element k always goes to the same one. */
#define QWEN_GEMV_LANES 16u
/* Elements that a loop takes at once. */
#define QWEN_GEMV_BLOCK 32u
/* The most rows that share a pass over x: what AVX2's registers hold. Fewer while k is at most
 * QWEN_GEMV_SHORT, when x takes no more than a quarter of a common L1 cache. */
#define QWEN_GEMV_STREAMS       6u
#define QWEN_GEMV_STREAMS_SHORT 4u
#define QWEN_GEMV_SHORT         2048u

/* sums[r] = the dot product of x and the k weights at w + r * stream_bytes, for each of 1 to
 * QWEN_GEMV_STREAMS rows. x lies in scratch in the order of lanes, padded with zeros to a multiple
 * of QWEN_GEMV_BLOCK. */
typedef void (*qwen_gemv_fn)(unsigned rows, const float *x, const unsigned char *w,
                             size_t stream_bytes, uint64_t k, float *sums);

/* The same for rows row, row + stride, .. of a panel in the 12-bit form. */
typedef void (*qwen_gemv_bf12_fn)(unsigned rows, const float *x, const cenote_bf12_view *panel,
                                  uint64_t row, uint64_t stride, uint64_t k, float *sums);

typedef struct qwen_gemv_ops {
    /* x[0..count) to bf16 order: of each 32 elements the even ones, then the odd ones, for these
     * are what a shift and a mask make of a register of bf16 pairs. count is a multiple of 32. */
    void (*arrange)(const float *x, size_t count, float *out);
    qwen_gemv_fn dots_f32, dots_f16, dots_bf16;
    qwen_gemv_bf12_fn dots_bf12;
} qwen_gemv_ops;

extern const qwen_gemv_ops qwen_gemv_portable;
extern const qwen_gemv_ops qwen_gemv_avx2;
extern const qwen_gemv_ops qwen_gemv_avx512;

/* Per thread, a multiple of 64. */
size_t qwen_gemv_scratch_bytes(uint64_t k_max);

#endif
