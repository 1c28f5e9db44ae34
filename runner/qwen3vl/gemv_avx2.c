/* SPDX-License-Identifier: Apache-2.0 */
/* Rows times a vector with AVX2, FMA and F16C: eight registers of 8 lanes. */
#include "gemv_impl.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "widen_impl.h"

#define INLINE      static inline __attribute__((always_inline))
#define LANES       8u
#define SUM_COUNT   (QWEN_GEMV_LANES / LANES)
#define AHEAD_BYTES 4096 /* one page; the hardware's prefetchers stop at its end */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

static void arrange(const float *x, size_t count, float *out)
{
    for (size_t i = 0; i < count; i += 16) {
        __m256 low = _mm256_loadu_ps(x + i), high = _mm256_loadu_ps(x + i + 8);
        /* inside the 128-bit lanes first: 0 2 8 10 4 6 12 14; then the middle quarters change */
        __m256d even = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
        __m256d odd = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0xdd));
        float *place = out + i / 32 * 32 + i % 32 / 2;
        _mm256_store_ps(place, _mm256_castpd_ps(_mm256_permute4x64_pd(even, 0xd8)));
        _mm256_store_ps(place + 16, _mm256_castpd_ps(_mm256_permute4x64_pd(odd, 0xd8)));
    }
}

/* Sum i of a block's 32 bf16 weights: of registers e0 e1 o0 o1, pairs 0 or 1, even or odd. */
INLINE __m256 load_bf16(const unsigned char *w, unsigned i)
{
    __m256i pairs = _mm256_loadu_si256((const void *)(w + i / 4 * 64 + i % 2 * 32));
    pairs = i % 4 < 2 ? _mm256_slli_epi32(pairs, 16)
                      : _mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u));
    return _mm256_castsi256_ps(pairs);
}

/* QWEN_GEMV_LANES weights and places of x onto the sums. */
INLINE void add_block(cenote_dtype dtype, const float *x, const unsigned char *w,
                      __m256 sums[SUM_COUNT])
{
    UNROLL
    for (unsigned i = 0; i < SUM_COUNT; i++) {
        __m256 weight;
        if (dtype == CENOTE_DTYPE_F32)
            weight = _mm256_loadu_ps((const void *)(w + i * 32));
        else if (dtype == CENOTE_DTYPE_F16)
            weight = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(w + i * 16)));
        else
            weight = load_bf16(w, i);
        sums[i] = _mm256_fmadd_ps(weight, _mm256_load_ps(x + i * LANES), sums[i]);
    }
}

INLINE float reduce(const __m256 sums[SUM_COUNT])
{
    __m256 s32[4];
    UNROLL
    for (unsigned i = 0; i < 4; i++)
        s32[i] = _mm256_add_ps(sums[i], sums[i + 4]);
    __m256 s8 = _mm256_add_ps(_mm256_add_ps(s32[0], s32[2]), _mm256_add_ps(s32[1], s32[3]));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

INLINE float dot(cenote_dtype dtype, const float *x, const unsigned char *w, uint64_t k)
{
    const size_t element_bytes = dtype == CENOTE_DTYPE_F32 ? 4 : 2;
    const size_t block_bytes = QWEN_GEMV_LANES * element_bytes;
    __m256 sums[SUM_COUNT];
    UNROLL
    for (unsigned i = 0; i < SUM_COUNT; i++)
        sums[i] = _mm256_setzero_ps();
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

const qwen_gemv_ops qwen_gemv_avx2 = {arrange, dot_f32, dot_f16, dot_bf16};
#endif
