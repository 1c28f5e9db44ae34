/* SPDX-License-Identifier: Apache-2.0 */
/* What gemv.c asks of an instruction set. */
#ifndef QWEN_GEMV_IMPL_H
#define QWEN_GEMV_IMPL_H

#include "kernels_impl.h"

/* A row's sum is kept in this many lanes; element k always goes to the same one. */
#define QWEN_GEMV_LANES 16u
/* Elements that a loop takes at once. */
#define QWEN_GEMV_BLOCK 32u
/* The most rows that share a pass over x: what AVX2's registers hold; and how many where x is
 * short. */
#define QWEN_GEMV_STREAMS       6u
#define QWEN_GEMV_STREAMS_SHORT 4u

/* sums[r] = the dot product of x and the k weights at w + r * stream_bytes, for each of 1 to
 * QWEN_GEMV_STREAMS rows. x lies in scratch in the order of lanes, padded with zeros to a multiple
 * of QWEN_GEMV_BLOCK. */
typedef void (*qwen_gemv_fn)(unsigned rows, const float *x, const unsigned char *w,
                             size_t stream_bytes, uint64_t k, float *sums);

/* The same for rows row, row + stride, .. of a panel in the 12-bit form. */
typedef void (*qwen_gemv_bf12_fn)(unsigned rows, const float *x, const cenote_bf12_view *panel,
                                  uint64_t row, uint64_t stride, uint64_t k, float *sums);

/* Elements of k that are widened at a time where several rows of x meet the same weights. With six
 * rows of weights and eight of x that is 14 KiB of floats, which an L1 cache holds. */
#define QWEN_GEMV_CHUNK 256u

typedef struct qwen_gemv_ops {
    /* x[0..count) to bf16 order: of each 32 elements the even ones, then the odd ones, for these
     * are what a shift and a mask make of a register of bf16 pairs. count is a multiple of 32. */
    void (*arrange)(const float *x, size_t count, float *out);
    qwen_gemv_fn dots_f32, dots_f16, dots_bf16;
    qwen_gemv_bf12_fn dots_bf12;
    /* Floats of w[0..count) in the order of x, padded with zeros to whole blocks. */
    void (*widen)(cenote_dtype dtype, const unsigned char *w, size_t count, float *out);
    /* The same of whole groups of the 12-bit form, without their escapes. */
    void (*widen_bf12)(const unsigned char *table, const unsigned char *w, size_t groups,
                       float *out);
    /* Onto the lanes of every pair of a row of weights and a row of x: count elements, a multiple
     * of QWEN_GEMV_BLOCK. Rows of weights and of x lie QWEN_GEMV_CHUNK apart; those of sums are
     * sums[m][QWEN_GEMV_STREAMS][QWEN_GEMV_LANES]. */
    void (*add)(unsigned rows, unsigned m, const float *weights, const float *x, size_t count,
                float *sums);
    float (*reduce)(const float *lanes); /* of one sum */
} qwen_gemv_ops;

typedef struct qwen_gemv_job {
    const qwen_kernels *kernels;
    const qwen_gemv_ops *ops;
    const qwen_product *product;
    qwen_gemv_fn dots;
    const cenote_bf12_view *packed; /* NULL for a plain panel */
} qwen_gemv_job;

/* A rank's rows, cut into streams of @p stride rows; the last may be shorter. */
typedef struct qwen_gemv_streams {
    uint64_t first, count;
    uint64_t stride;
    const unsigned char *w; /* of the first row */
    size_t row_bytes;
} qwen_gemv_streams;

/* count elements of a row of x into the order of lanes, padded with zeros to whole blocks. */
void qwen_gemv_order(const qwen_gemv_job *job, const float *from, uint64_t count, float *x);
/* Bias and c onto the sum of element [i][j] of c. */
void qwen_gemv_write(const qwen_product *product, uint64_t i, uint64_t j, float sum);
/* Where m > 1: all rows of x into scratch, then any number of times the products with them. */
void qwen_gemv_many_order(const qwen_gemv_job *job, void *scratch);
void qwen_gemv_many(const qwen_gemv_job *job, const qwen_gemv_streams *streams, void *scratch);
size_t qwen_gemv_many_scratch_bytes(uint64_t k_max);

/* count rounded up to whole blocks. */
static inline size_t qwen_gemv_padded(uint64_t count)
{
    return (size_t)((count + QWEN_GEMV_BLOCK - 1) / QWEN_GEMV_BLOCK * QWEN_GEMV_BLOCK);
}

extern const qwen_gemv_ops qwen_gemv_portable;
extern const qwen_gemv_ops qwen_gemv_avx2;
extern const qwen_gemv_ops qwen_gemv_avx512;

/* Per thread, a multiple of 64. */
size_t qwen_gemv_scratch_bytes(uint64_t k_max);

#endif
