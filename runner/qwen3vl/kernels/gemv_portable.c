/* SPDX-License-Identifier: Apache-2.0 */
/* Rows times a vector in plain C: the lanes of the vector kernels, one by one. */
#include <math.h>

#include "gemv_impl.h"
#include "widen_impl.h"

static void arrange(const float *x, size_t count, float *out)
{
    for (size_t i = 0; i < count; i += 32)
        for (size_t j = 0; j < 16; j++) {
            out[i + j] = x[i + 2 * j];
            out[i + 16 + j] = x[i + 2 * j + 1];
        }
}

/* The element of k that lies at place @p i of x. */
static inline uint64_t element_at(cenote_dtype dtype, uint64_t i)
{
    return dtype == CENOTE_DTYPE_BF16 ? i / 32 * 32 + i % 16 * 2 + i % 32 / 16 : i;
}

static float dot(cenote_dtype dtype, const float *x, const unsigned char *w, uint64_t k)
{
    float lanes[QWEN_GEMV_LANES] = {0};
    uint64_t padded = (k + QWEN_GEMV_BLOCK - 1) / QWEN_GEMV_BLOCK * QWEN_GEMV_BLOCK;
    for (uint64_t i = 0; i < padded; i++) {
        uint64_t element = element_at(dtype, i);
        /* Past the end too: adding 0 turns a sum of -0 into +0, in registers as here. */
        float weight = element < k ? qwen_widen_at(dtype, w, element) : 0.0f;
        lanes[i % QWEN_GEMV_LANES] = fmaf(weight, x[i], lanes[i % QWEN_GEMV_LANES]);
    }
    for (unsigned half = QWEN_GEMV_LANES / 2; half > 0; half /= 2)
        for (unsigned i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

#define DOTS(name, dtype)                                                                          \
    static void name(unsigned rows, const float *x, const unsigned char *w, size_t stream_bytes,   \
                     uint64_t k, float *sums)                                                      \
    {                                                                                              \
        for (unsigned r = 0; r < rows; r++)                                                        \
            sums[r] = dot(dtype, x, w + r * stream_bytes, k);                                      \
    }
DOTS(dots_f32, CENOTE_DTYPE_F32)
DOTS(dots_f16, CENOTE_DTYPE_F16)
DOTS(dots_bf16, CENOTE_DTYPE_BF16)

const qwen_gemv_ops qwen_gemv_portable = {arrange, dots_f32, dots_f16, dots_bf16};
