/* SPDX-License-Identifier: Apache-2.0 */
/* What gemm.c asks of an instruction set. */
#ifndef QWEN_GEMM_IMPL_H
#define QWEN_GEMM_IMPL_H

#include "kernels_impl.h"

/* Columns of c (rows of w) that are packed side by side: one AVX-512 register. */
#define QWEN_GEMM_STRIP 16u
/* The most elements of k that are packed at a time. */
#define QWEN_GEMM_DEPTH_MAX 256u
/* Distance of a's rows in scratch: cenote_row_stride_bytes() of a row. */
#define QWEN_GEMM_A_STRIDE (QWEN_GEMM_DEPTH_MAX + 16u)
/* Floats that are packed at a time, and partial sums that are kept meanwhile. */
#define QWEN_GEMM_PACKED        (32u << 10)
#define QWEN_GEMM_SUMS          (32u << 10)
#define QWEN_GEMM_TILE_ROWS_MAX 12u

/* Widens and transposes w[0..rows)[0..depth) into packed[depth][QWEN_GEMM_STRIP], rows 1..16;
 * columns of missing rows hold anything finite or not, nobody reads their sums. */
typedef void (*qwen_gemm_pack_fn)(cenote_dtype dtype, const unsigned char *w, size_t row_bytes,
                                  unsigned rows, size_t depth, float *packed);

/* a[0..rows)[0..depth) into out, at row stride QWEN_GEMM_A_STRIDE. Not memcpy: compilers see that
 * a row is at most a KiB and put `rep movs` there, which took a fifth of the time. */
typedef void (*qwen_gemm_copy_fn)(unsigned rows, size_t depth, const float *a, size_t a_stride,
                                  float *out);

/* sums[i][j] = (first ? 0 : sums[i][j]) + sum over k of a[i][k] * packed[k][j], k ascending, one
 * fma each. a has row stride QWEN_GEMM_A_STRIDE, sums sums_stride; strip s of packed begins at
 * s * strip_stride.
 *
 * Meanwhile ahead[0..ahead_rows)[0..depth) is prefetched, a line of each row every 16 steps: all
 * at once it would wait for the few misses that a core can have under way (measured: a from L3,
 * k = 6144, 84 against 102 GFLOP/s). */
typedef struct qwen_gemm_tile {
    unsigned rows, strips;
    size_t depth;
    const float *a;
    const float *packed;
    size_t strip_stride; /* in floats */
    float *sums;
    size_t sums_stride; /* in floats */
    bool first;
    const float *ahead;
    unsigned ahead_rows;
    size_t ahead_stride;
} qwen_gemm_tile;
typedef void (*qwen_gemm_tile_fn)(const qwen_gemm_tile *tile);

typedef struct qwen_gemm_ops {
    unsigned tile_rows; /* the most rows and strips of a tile */
    unsigned tile_strips;
    qwen_gemm_pack_fn pack;
    qwen_gemm_copy_fn copy;
    qwen_gemm_tile_fn tile;
} qwen_gemm_ops;

extern const qwen_gemm_ops qwen_gemm_portable;
extern const qwen_gemm_ops qwen_gemm_avx2;
extern const qwen_gemm_ops qwen_gemm_avx512;

/* Per thread, a multiple of 64. */
size_t qwen_gemm_scratch_bytes(void);

#endif
