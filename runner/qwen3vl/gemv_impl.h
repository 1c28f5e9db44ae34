/* SPDX-License-Identifier: Apache-2.0 */
/* What gemv.c asks of an instruction set. */
#ifndef QWEN_GEMV_IMPL_H
#define QWEN_GEMV_IMPL_H

#include "kernels_impl.h"

/* A row's sum is kept in this many lanes; element k always goes to the same one. */
#define QWEN_GEMV_LANES 64u

typedef struct qwen_gemv_ops {
    /* x[0..count) to bf16 order: of each 32 elements the even ones, then the odd ones, for these
     * are what a shift and a mask make of a register of bf16 pairs. count is a multiple of 32. */
    void (*arrange)(const float *x, size_t count, float *out);
    /* The dot product of k weights with x, which lies in scratch in the order of lanes, padded
     * with zeros to a multiple of QWEN_GEMV_LANES. */
    float (*dot_f32)(const float *x, const unsigned char *w, uint64_t k);
    float (*dot_f16)(const float *x, const unsigned char *w, uint64_t k);
    float (*dot_bf16)(const float *x, const unsigned char *w, uint64_t k);
} qwen_gemv_ops;

extern const qwen_gemv_ops qwen_gemv_portable;
extern const qwen_gemv_ops qwen_gemv_avx2;
extern const qwen_gemv_ops qwen_gemv_avx512;

/* Per thread, a multiple of 64. */
size_t qwen_gemv_scratch_bytes(uint64_t k_max);

#endif
