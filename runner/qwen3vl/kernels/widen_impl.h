/* SPDX-License-Identifier: Apache-2.0 */
/* One weight as a float; shared by the portable kernels and by the tails of the others. */
#ifndef QWEN_WIDEN_IMPL_H
#define QWEN_WIDEN_IMPL_H

#include <string.h>

#include "kernels.h"

static inline float qwen_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float qwen_widen_bf16(uint16_t bits)
{
    return qwen_float_of_bits((uint32_t)bits << 16);
}

/* As vcvtph2ps: denormals become normal floats, signaling NaNs become quiet. */
static inline float qwen_widen_f16(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = bits >> 10 & 0x1fu;
    uint32_t mantissa = bits & 0x3ffu;
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f; /* exact */
        return sign != 0 ? -magnitude : magnitude;
    }
    if (exponent == 31) {
        uint32_t quiet = mantissa != 0 ? 0x400000u : 0;
        return qwen_float_of_bits(sign | 0x7f800000u | quiet | mantissa << 13);
    }
    return qwen_float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* Element @p index of a row that may lie at any address: files align nothing. */
static inline float qwen_widen_at(cenote_dtype dtype, const void *row, uint64_t index)
{
    if (dtype == CENOTE_DTYPE_F32) {
        float value;
        memcpy(&value, (const unsigned char *)row + index * 4, 4);
        return value;
    }
    uint16_t half;
    memcpy(&half, (const unsigned char *)row + index * 2, 2);
    return dtype == CENOTE_DTYPE_BF16 ? qwen_widen_bf16(half) : qwen_widen_f16(half);
}

/* Bytes of one weight. */
static inline size_t qwen_weight_bytes(cenote_dtype dtype)
{
    return dtype == CENOTE_DTYPE_F32 ? 4 : 2;
}

#endif
