/* SPDX-License-Identifier: Apache-2.0 */
/* Sixteen floats, and the few things that the attention and row kernels do with them.
 *
 * An algorithm over vec is written once, in a *_body.h, and compiled three times: a file that
 * includes it says which registers by defining one of
 *
 *     QWEN_VEC_AVX512     one zmm register
 *     QWEN_VEC_AVX2       two ymm registers
 *     QWEN_VEC_PORTABLE   float[16]
 *
 * All three give the same bits, NaN payloads apart: lanes do not mix but in the functions that
 * say so, in an order that is written down, and a product and a sum round once (vec_fma) or twice
 * (vec_mul, vec_add), never as the compiler likes.
 *
 * Minimum and maximum follow the processor's rule: when an operand is NaN, the second one is the
 * result. */
#ifndef QWEN_VEC_H
#define QWEN_VEC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VEC_LANES  16u
#define VEC_INLINE static inline __attribute__((always_inline, unused))

#if defined(QWEN_VEC_AVX512)
#include "vec_avx512.h"
#elif defined(QWEN_VEC_AVX2)
#include "vec_avx2.h"
#elif defined(QWEN_VEC_PORTABLE)
#include "vec_portable.h"
#else
#error "say which registers: QWEN_VEC_AVX512, QWEN_VEC_AVX2 or QWEN_VEC_PORTABLE"
#endif

/* Lanes [0, count) of @p x, the rest zero; count may exceed 16. */
VEC_INLINE vec vec_load_first(const float *x, size_t count)
{
    return count >= VEC_LANES ? vec_load(x) : vec_load_part(x, (unsigned)count);
}

VEC_INLINE void vec_store_first(float *x, vec v, size_t count)
{
    if (count >= VEC_LANES)
        vec_store(x, v);
    else
        vec_store_part(x, v, (unsigned)count);
}

#endif
