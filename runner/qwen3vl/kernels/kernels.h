/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  The arithmetic: fp32 activations against bf16, f16 or f32 weights, one panel at a time.
 *
 *  Every result is the same to the bit whatever the number of threads, the number of rows in a
 *  call, and how a matrix is cut into panels: each output element is computed by one thread in a
 *  fixed order of k, and no tile's shape depends on anything but the instruction set. The
 *  portable, AVX2 and AVX-512 kernels give the same bits too (same lanes, same order, fma).
 *
 *  Threads: a qwen_kernels is used by one thread at a time; it spreads the work over its team. */
#ifndef QWEN_KERNELS_H
#define QWEN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include <cenote/cenote.h>

typedef enum qwen_isa {
    QWEN_ISA_AUTO = 0, /**< CENOTE_ISA=portable|avx2|avx512, else the best the CPU has */
    QWEN_ISA_PORTABLE,
    QWEN_ISA_AVX2,   /**< AVX2, FMA and F16C */
    QWEN_ISA_AVX512, /**< F, BW, DQ, VL */
} qwen_isa;

typedef struct qwen_kernels qwen_kernels;

/** Scratch that create takes from the pool, for any call with k <= k_max and head_dim <= 256. */
uint64_t qwen_kernels_scratch_bytes(unsigned thread_count, uint64_t k_max);

/** Errors: CENOTE_E_UNSUPPORTED when the CPU lacks the asked instruction set, CENOTE_E_INVAL for a
 *  bad CENOTE_ISA, CENOTE_E_BUDGET, those of cenote_hardware_get(). */
CENOTE_MUST_CHECK cenote_status qwen_kernels_create(qwen_isa isa, cenote_team *team,
                                                    cenote_pool *pool, uint64_t k_max,
                                                    qwen_kernels **out_kernels, cenote_error *err);
void qwen_kernels_destroy(qwen_kernels *kernels);
qwen_isa qwen_kernels_isa(const qwen_kernels *kernels);
const char *qwen_isa_text(qwen_isa isa);

/* ---- products with a panel of weights ---- */

/** c[i][j] (+)= sum over k of a[i][k] * w[j][k] (+ bias[j]); w is row-major [n][k], contiguous, of
 *  any alignment; or a panel of n x k in the 12-bit form of bf16, the whole of it, as
 *  cenote_bf12_encode() made or cenote_bf12_check() passed it. The bits of the result are those of
 *  the plain panel. */
typedef struct qwen_product {
    const float *a;  /**< [m][k], row stride a_stride */
    size_t a_stride; /**< in floats */
    uint64_t m;
    uint64_t k;
    const void *w;
    cenote_dtype w_dtype; /**< F32, F16 or BF16 */
    cenote_encoding w_encoding;
    uint64_t n;        /**< rows of the panel */
    const float *bias; /**< [n] or NULL; the panel's part */
    float *c;          /**< [m][n], row stride c_stride; first column is the panel's first row */
    size_t c_stride;
    bool accumulate; /**< add to c instead of overwriting it: c = c + (product + bias) */
} qwen_product;

/** Any m: for prefill and the vision tower (m may be 1 there too; the bits do not depend on m). */
void qwen_gemm(qwen_kernels *kernels, const qwen_product *product);
#define QWEN_GEMV_M_MAX 8u
/** m is 1 to QWEN_GEMV_M_MAX: for decoding, and for looking at a few guessed tokens in one pass
 * over the weights: each row of c has the bits of a call of its own. They differ from qwen_gemm's.
 * @param products  one or more panels of weights, all with the same a, m, k and w_dtype: the team
 *                  shares the rows of all of them, which costs one meeting instead of @p count */
void qwen_gemv(qwen_kernels *kernels, const qwen_product *products, unsigned count);

/** Widens @p count elements to float. */
void qwen_widen(cenote_dtype dtype, const void *from, uint64_t count, float *to);

/* ---- attention ---- */

/** Keys and values lie in blocks of 16 tokens: element (head h, token t, i) of block b is at
 *  keys[b] + h * head_stride + (t % 16) * row_stride + i, strides in elements of kv_dtype. Serves
 *  the paged KV cache (row_stride = head_dim) and rows of a [N, 3D] qkv matrix alike. */
typedef struct qwen_attention {
    const float *q; /**< [query_count][head_count * head_dim], row stride q_stride */
    size_t q_stride;
    float *out; /**< like q, row stride out_stride; may be q itself */
    size_t out_stride;
    uint64_t query_count;
    uint32_t head_count;
    uint32_t kv_head_count; /**< divides head_count; head j uses kv head j /
                               (head_count/kv_head_count) */
    uint32_t head_dim;      /**< <= 256, a multiple of 4 */
    const void *const *keys;
    const void *const *values;
    size_t head_stride;
    size_t row_stride;
    cenote_dtype kv_dtype; /**< F32 or BF16 */
    uint64_t key_count;
    bool causal; /**< query i sees keys [0, first_position + i], else all */
    uint64_t first_position;
    float scale;
} qwen_attention;

void qwen_attend(qwen_kernels *kernels, const qwen_attention *attention);

/** Stores one token's keys or values (fp32 [kv_head_count][head_dim]) at token @p slot (0..15) of
 *  a block part laid out as above with row_stride = head_dim. */
void qwen_kv_store(cenote_dtype kv_dtype, void *block_part, uint32_t slot, uint32_t kv_head_count,
                   uint32_t head_dim, const float *from);

/* ---- rows ---- */

/** out[i] = x[i] * rsqrt(mean(x[i]^2) + eps) * gain, rows of n floats; out may be x. Row strides
 *  in floats. */
void qwen_rms_norm(qwen_kernels *kernels, float *out, size_t out_stride, const float *x,
                   size_t x_stride, uint64_t rows, uint64_t n, const float *gain, float eps);
void qwen_layer_norm(qwen_kernels *kernels, float *out, size_t out_stride, const float *x,
                     size_t x_stride, uint64_t rows, uint64_t n, const float *gain,
                     const float *bias, float eps);
/** Rotate-half on each of @p heads heads of each row: pairs (i, i + head_dim/2), angle tables
 *  cosines and sines [rows][head_dim/2]. */
void qwen_rope(qwen_kernels *kernels, float *x, size_t x_stride, uint64_t rows, uint32_t heads,
               uint32_t head_dim, const float *cosines, const float *sines);
/** gate = silu(gate) * up, contiguous. */
void qwen_silu_mul(qwen_kernels *kernels, float *gate, const float *up, uint64_t count);
void qwen_gelu_tanh(qwen_kernels *kernels, float *x, uint64_t count);
void qwen_gelu_erf(qwen_kernels *kernels, float *x, uint64_t count);
/** x += y */
void qwen_add(qwen_kernels *kernels, float *x, const float *y, uint64_t count);

#endif
