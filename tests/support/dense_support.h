/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of the dense products share: kernels with everything they need, and a product with
 * known operands in buffers of exact size. */
#ifndef TESTS_DENSE_SUPPORT_H
#define TESTS_DENSE_SUPPORT_H

#include <cenote/cenote.h>

#include "kernels.h"

typedef struct dense_rig {
    cenote_budget *budget;
    cenote_pool *pool;
    cenote_team *team;
    qwen_kernels *kernels;
} dense_rig;

/** @return false when the CPU lacks the instruction set; any other failure fails the test. */
bool dense_rig_open(dense_rig *rig, qwen_isa isa, unsigned thread_count, uint64_t k_max);
void dense_rig_close(dense_rig *rig);

typedef struct dense_shape {
    uint64_t m, k, n;
    cenote_dtype dtype;
    unsigned w_offset; /* of the first weight from an aligned address, in bytes */
    bool bias, accumulate;
} dense_shape;

typedef struct dense_case {
    dense_shape shape;
    size_t a_stride, c_stride;
    float *a, *bias;
    unsigned char *w_block, *w;
    float *c_before; /* [m][c_stride]; gaps hold a mark */
    float *c;
} dense_case;

/** Operands of random sizes, a few of them denormal; buffers end where the data does, so that
 *  ASan sees a read too far. */
void dense_case_init(dense_case *test, const dense_shape *shape, uint64_t seed);
/** bf16 weights that the 12-bit form takes, but for @p per_1000 of any pattern: odd exponents,
 *  infinities, NaNs. */
void dense_case_scatter(dense_case *test, unsigned per_1000, uint64_t seed);
void dense_case_fini(dense_case *test);

/** Weight [row][index] as a float, widened by the plain definition of its dtype. */
float dense_weight(const dense_case *test, uint64_t row, uint64_t index);
void dense_weight_set(dense_case *test, uint64_t row, uint64_t index, uint16_t half);

/** Runs the product on a fresh copy of c, cut into panels of @p panel_rows rows of w and calls of
 *  at most @p call_rows rows of a. */
typedef void (*dense_product_fn)(qwen_kernels *kernels, const qwen_product *product);
void dense_case_run(dense_case *test, qwen_kernels *kernels, dense_product_fn product,
                    uint64_t panel_rows, uint64_t call_rows);

/** As dense_case_run(), up to @p count (at most 16) panels a call; of bf16 every other one is in
 * the 12-bit form where it fits. */
void dense_case_run_several(dense_case *test, qwen_kernels *kernels, uint64_t panel_rows,
                            uint64_t call_rows, unsigned count);

/** As dense_case_run(), each panel in the 12-bit form, at an odd address half of the time. False
 *  when one does not fit it. */
bool dense_case_run_bf12(dense_case *test, qwen_kernels *kernels, dense_product_fn product,
                         uint64_t panel_rows, uint64_t call_rows);

/** Fails unless c is @p expected [m][n] to the bit (any NaN equals any other) and nothing beside
 *  it was written. */
void dense_case_check(const dense_case *test, const float *expected);

/** Fails unless @p values [m][n] are as near to sums in double precision as fp32 sums in any order
 *  must be. */
void dense_case_check_near(const dense_case *test, const float *values);

/** bias and c as the contract adds them to the sum of element [i][j]. */
float dense_finish(const dense_case *test, uint64_t i, uint64_t j, float sum);

#endif
