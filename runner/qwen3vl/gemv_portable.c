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

/* Where the bf16 order puts place @p i of x from. */
static inline uint64_t bf16_element(uint64_t i)
{
    return i / 32 * 32 + i % 16 * 2 + i % 32 / 16;
}

static float reduce(float lanes[QWEN_GEMV_LANES])
{
    for (unsigned half = QWEN_GEMV_LANES / 2; half > 0; half /= 2)
        for (unsigned i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

static float dot(cenote_dtype dtype, const float *x, const unsigned char *w, uint64_t k)
{
    float lanes[QWEN_GEMV_LANES] = {0};
    for (uint64_t base = 0; base < k; base += QWEN_GEMV_LANES)
        for (unsigned i = 0; i < QWEN_GEMV_LANES; i++) {
            uint64_t element = dtype == CENOTE_DTYPE_BF16 ? bf16_element(base + i) : base + i;
            /* Past the end too: adding 0 turns a sum of -0 into +0, in registers as here. */
            float weight = element < k ? qwen_widen_at(dtype, w, element) : 0.0f;
            lanes[i] = fmaf(weight, x[base + i], lanes[i]);
        }
    return reduce(lanes);
}

static float dot_f32(const float *x, const unsigned char *w, uint64_t k)
{
    return dot(CENOTE_DTYPE_F32, x, w, k);
}

static float dot_f16(const float *x, const unsigned char *w, uint64_t k)
{
    return dot(CENOTE_DTYPE_F16, x, w, k);
}

static float dot_bf16(const float *x, const unsigned char *w, uint64_t k)
{
    return dot(CENOTE_DTYPE_BF16, x, w, k);
}

const qwen_gemv_ops qwen_gemv_portable = {arrange, dot_f32, dot_f16, dot_bf16};
