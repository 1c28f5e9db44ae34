/* SPDX-License-Identifier: Apache-2.0 */
/* Rows times a vector with AVX-512: four registers of 16 lanes. */
#include "gemv_impl.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "widen_impl.h"

#define INLINE      static inline __attribute__((always_inline))
#define LANES       16u
#define SUM_COUNT   (QWEN_GEMV_LANES / LANES)
#define AHEAD_BYTES 4096 /* one page; the hardware's prefetchers stop at its end */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

static void arrange(const float *x, size_t count, float *out)
{
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    for (size_t i = 0; i < count; i += 32) {
        __m512 low = _mm512_loadu_ps(x + i), high = _mm512_loadu_ps(x + i + 16);
        _mm512_store_ps(out + i, _mm512_permutex2var_ps(low, even, high));
        _mm512_store_ps(out + i + 16, _mm512_permutex2var_ps(low, odd, high));
    }
}

/* QWEN_GEMV_LANES weights and places of x onto the sums. */
INLINE void add_block(cenote_dtype dtype, const float *x, const unsigned char *w,
                      __m512 sums[SUM_COUNT])
{
    UNROLL
    for (unsigned i = 0; i < SUM_COUNT; i++) {
        __m512 weight;
        if (dtype == CENOTE_DTYPE_F32) {
            weight = _mm512_loadu_ps((const void *)(w + i * 64));
        } else if (dtype == CENOTE_DTYPE_F16) {
            weight = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(w + i * 32)));
        } else {
            __m512i pairs = _mm512_loadu_si512(w + i / 2 * 64);
            pairs = i % 2 == 0 ? _mm512_slli_epi32(pairs, 16)
                               : _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u));
            weight = _mm512_castsi512_ps(pairs);
        }
        sums[i] = _mm512_fmadd_ps(weight, _mm512_load_ps(x + i * LANES), sums[i]);
    }
}

INLINE float reduce(const __m512 sums[SUM_COUNT])
{
    __m512 s16 = _mm512_add_ps(_mm512_add_ps(sums[0], sums[2]), _mm512_add_ps(sums[1], sums[3]));
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(s16), _mm512_extractf32x8_ps(s16, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

INLINE float dot(cenote_dtype dtype, const float *x, const unsigned char *w, uint64_t k)
{
    const size_t element_bytes = dtype == CENOTE_DTYPE_F32 ? 4 : 2;
    const size_t block_bytes = QWEN_GEMV_LANES * element_bytes;
    __m512 sums[SUM_COUNT];
    UNROLL
    for (unsigned i = 0; i < SUM_COUNT; i++)
        sums[i] = _mm512_setzero_ps();
    uint64_t blocks = k / QWEN_GEMV_LANES;
    for (uint64_t block = 0; block < blocks; block++) {
        UNROLL
        for (size_t line = 0; line < block_bytes; line += 64)
            _mm_prefetch((const char *)w + AHEAD_BYTES + line, _MM_HINT_T0);
        add_block(dtype, x, w, sums);
        x += QWEN_GEMV_LANES;
        w += block_bytes;
    }
    size_t rest_bytes = k % QWEN_GEMV_LANES * element_bytes;
    if (rest_bytes != 0) {
        unsigned char tail[QWEN_GEMV_LANES * 4] = {0};
        memcpy(tail, w, rest_bytes);
        add_block(dtype, x, tail, sums);
    }
    return reduce(sums);
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

const qwen_gemv_ops qwen_gemv_avx512 = {arrange, dot_f32, dot_f16, dot_bf16};
#endif
