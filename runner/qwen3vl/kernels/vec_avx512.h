/* SPDX-License-Identifier: Apache-2.0 */
/* vec.h with AVX-512 (F, BW, DQ, VL). The portable form next door says what each does. */
#ifndef QWEN_VEC_AVX512_H
#define QWEN_VEC_AVX512_H

#include <immintrin.h>

#define VEC_REGISTERS 32 /* of a vec's size */

typedef struct vec {
    __m512 v;
} vec;

VEC_INLINE __mmask16 vec_first(unsigned count)
{
    return (__mmask16)((1u << count) - 1u);
}

VEC_INLINE vec vec_load(const float *x)
{
    return (vec){_mm512_loadu_ps(x)};
}

VEC_INLINE vec vec_load_part(const float *x, unsigned count)
{
    return (vec){_mm512_maskz_loadu_ps(vec_first(count), x)};
}

VEC_INLINE void vec_store(float *x, vec a)
{
    _mm512_storeu_ps(x, a.v);
}

VEC_INLINE void vec_store_part(float *x, vec a, unsigned count)
{
    _mm512_mask_storeu_ps(x, vec_first(count), a.v);
}

VEC_INLINE vec vec_set(float x)
{
    return (vec){_mm512_set1_ps(x)};
}

VEC_INLINE vec vec_add(vec a, vec b)
{
    return (vec){_mm512_add_ps(a.v, b.v)};
}

VEC_INLINE vec vec_sub(vec a, vec b)
{
    return (vec){_mm512_sub_ps(a.v, b.v)};
}

VEC_INLINE vec vec_mul(vec a, vec b)
{
    return (vec){_mm512_mul_ps(a.v, b.v)};
}

VEC_INLINE vec vec_div(vec a, vec b)
{
    return (vec){_mm512_div_ps(a.v, b.v)};
}

VEC_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return (vec){_mm512_fmadd_ps(a.v, b.v, c.v)};
}

VEC_INLINE vec vec_fnma(vec a, vec b, vec c)
{
    return (vec){_mm512_fnmadd_ps(a.v, b.v, c.v)};
}

VEC_INLINE vec vec_max(vec a, vec b)
{
    return (vec){_mm512_max_ps(a.v, b.v)};
}

VEC_INLINE vec vec_min(vec a, vec b)
{
    return (vec){_mm512_min_ps(a.v, b.v)};
}

VEC_INLINE vec vec_abs(vec a)
{
    return (vec){_mm512_abs_ps(a.v)};
}

VEC_INLINE vec vec_keep_first(vec a, unsigned count, vec rest)
{
    return (vec){_mm512_mask_mov_ps(rest.v, vec_first(count), a.v)};
}

VEC_INLINE vec vec_scale2(vec a, vec n)
{
    return (vec){_mm512_scalef_ps(a.v, n.v)};
}

VEC_INLINE float vec_sum(vec a)
{
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

VEC_INLINE float vec_max_across(vec a)
{
    __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

VEC_INLINE vec vec_load_bf16(const uint16_t *x)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return (vec){_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}

VEC_INLINE vec vec_quads_f32(const float *a, const float *b, const float *c, const float *d)
{
    __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
    __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(c)), _mm_loadu_ps(d), 1);
    return (vec){_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)};
}

VEC_INLINE vec vec_quads_bf16(const uint16_t *a, const uint16_t *b, const uint16_t *c,
                              const uint16_t *d)
{
    long long quad[4];
    memcpy(&quad[0], a, 8);
    memcpy(&quad[1], b, 8);
    memcpy(&quad[2], c, 8);
    memcpy(&quad[3], d, 8);
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_set_epi64x(quad[3], quad[2], quad[1], quad[0]));
    return (vec){_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}

VEC_INLINE void vec_transpose_quads(vec x[4])
{
    __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(x[0].v, x[1].v));
    __m512d ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(x[0].v, x[1].v));
    __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(x[2].v, x[3].v));
    __m512d cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(x[2].v, x[3].v));
    x[0].v = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low));
    x[1].v = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low));
    x[2].v = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
    x[3].v = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
}

#endif
