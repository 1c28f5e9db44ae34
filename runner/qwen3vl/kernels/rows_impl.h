/* SPDX-License-Identifier: Apache-2.0 */
/* What rows.c asks of an instruction set. */
#ifndef QWEN_ROWS_IMPL_H
#define QWEN_ROWS_IMPL_H

#include "kernels_impl.h"

typedef struct qwen_rows_ops {
    /* One row of n; out may be x. */
    void (*rms_norm)(float *out, const float *x, uint64_t n, const float *gain, float eps);
    void (*layer_norm)(float *out, const float *x, uint64_t n, const float *gain, const float *bias,
                       float eps);
    /* The heads of one row. */
    void (*rope)(float *x, uint32_t heads, uint32_t head_dim, const float *cosines,
                 const float *sines);
    /* Any run of elements. */
    void (*silu_mul)(float *gate, const float *up, uint64_t count);
    void (*gelu_tanh)(float *x, const float *unused, uint64_t count);
    void (*gelu_erf)(float *x, const float *unused, uint64_t count);
    void (*add)(float *x, const float *y, uint64_t count);
} qwen_rows_ops;

extern const qwen_rows_ops qwen_rows_portable;
extern const qwen_rows_ops qwen_rows_avx2;
extern const qwen_rows_ops qwen_rows_avx512;

#endif
