/* SPDX-License-Identifier: Apache-2.0 */
/* vec.h with AVX2 and FMA. The portable form next door says what each does. */
#ifndef QWEN_VEC_AVX2_H
#define QWEN_VEC_AVX2_H

#include <immintrin.h>

#define VEC_REGISTERS 8 /* pairs of the 16 */

typedef struct vec {
    __m256 low, high;
} vec;

/* All ones in lanes [0, count) of the eight from @p lane on. */
VEC_INLINE __m256i vec_first(unsigned count, int lane)
{
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count - lane), index);
}

VEC_INLINE vec vec_load(const float *x)
{
    return (vec){_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)};
}

VEC_INLINE vec vec_load_part(const float *x, unsigned count)
{
    return (vec){_mm256_maskload_ps(x, vec_first(count, 0)),
                 _mm256_maskload_ps(x + 8, vec_first(count, 8))};
}

VEC_INLINE void vec_store(float *x, vec a)
{
    _mm256_storeu_ps(x, a.low);
    _mm256_storeu_ps(x + 8, a.high);
}

VEC_INLINE void vec_store_part(float *x, vec a, unsigned count)
{
    _mm256_maskstore_ps(x, vec_first(count, 0), a.low);
    _mm256_maskstore_ps(x + 8, vec_first(count, 8), a.high);
}

VEC_INLINE vec vec_set(float x)
{
    __m256 v = _mm256_set1_ps(x);
    return (vec){v, v};
}

VEC_INLINE vec vec_add(vec a, vec b)
{
    return (vec){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

VEC_INLINE vec vec_sub(vec a, vec b)
{
    return (vec){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}

VEC_INLINE vec vec_mul(vec a, vec b)
{
    return (vec){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

VEC_INLINE vec vec_div(vec a, vec b)
{
    return (vec){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}

VEC_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return (vec){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

VEC_INLINE vec vec_fnma(vec a, vec b, vec c)
{
    return (vec){_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}

VEC_INLINE vec vec_max(vec a, vec b)
{
    return (vec){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}

VEC_INLINE vec vec_min(vec a, vec b)
{
    return (vec){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}

VEC_INLINE vec vec_abs(vec a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (vec){_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}

VEC_INLINE vec vec_keep_first(vec a, unsigned count, vec rest)
{
    __m256 low = _mm256_castsi256_ps(vec_first(count, 0));
    __m256 high = _mm256_castsi256_ps(vec_first(count, 8));
    return (vec){_mm256_blendv_ps(rest.low, a.low, low), _mm256_blendv_ps(rest.high, a.high, high)};
}

/* 2^n does not always fit a float where a * 2^n does: two factors, the first exact. */
VEC_INLINE __m256 vec_scale2_half(__m256 a, __m256 n)
{
    __m256i whole = _mm256_cvtps_epi32(n);
    __m256i first = _mm256_srai_epi32(whole, 1);
    __m256i second = _mm256_sub_epi32(whole, first);
    __m256i bias = _mm256_set1_epi32(127);
    first = _mm256_slli_epi32(_mm256_add_epi32(first, bias), 23);
    second = _mm256_slli_epi32(_mm256_add_epi32(second, bias), 23);
    a = _mm256_mul_ps(a, _mm256_castsi256_ps(first));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(second));
}

VEC_INLINE vec vec_scale2(vec a, vec n)
{
    return (vec){vec_scale2_half(a.low, n.low), vec_scale2_half(a.high, n.high)};
}

VEC_INLINE float vec_sum(vec a)
{
    __m256 half = _mm256_add_ps(a.low, a.high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

VEC_INLINE float vec_max_across(vec a)
{
    __m256 half = _mm256_max_ps(a.low, a.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

VEC_INLINE __m256 vec_widen_bf16(__m128i x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

VEC_INLINE vec vec_load_bf16(const uint16_t *x)
{
    return (vec){vec_widen_bf16(_mm_loadu_si128((const __m128i *)x)),
                 vec_widen_bf16(_mm_loadu_si128((const __m128i *)(x + 8)))};
}

VEC_INLINE vec vec_quads_f32(const float *a, const float *b, const float *c, const float *d)
{
    return (vec){_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1),
                 _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(c)), _mm_loadu_ps(d), 1)};
}

VEC_INLINE __m256 vec_widen_quads(const uint16_t *a, const uint16_t *b)
{
    long long quad[2];
    memcpy(&quad[0], a, 8);
    memcpy(&quad[1], b, 8);
    return vec_widen_bf16(_mm_set_epi64x(quad[1], quad[0]));
}

VEC_INLINE vec vec_quads_bf16(const uint16_t *a, const uint16_t *b, const uint16_t *c,
                              const uint16_t *d)
{
    return (vec){vec_widen_quads(a, b), vec_widen_quads(c, d)};
}

VEC_INLINE void vec_transpose_half(__m256 *a, __m256 *b, __m256 *c, __m256 *d)
{
    __m256d ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(*a, *b));
    __m256d ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(*a, *b));
    __m256d cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(*c, *d));
    __m256d cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(*c, *d));
    *a = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low));
    *b = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low));
    *c = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
    *d = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
}

VEC_INLINE void vec_transpose_quads(vec x[4])
{
    vec_transpose_half(&x[0].low, &x[1].low, &x[2].low, &x[3].low);
    vec_transpose_half(&x[0].high, &x[1].high, &x[2].high, &x[3].high);
}

#endif
