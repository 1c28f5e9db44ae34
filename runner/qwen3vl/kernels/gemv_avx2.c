/* SPDX-License-Identifier: Apache-2.0 */
/* Rows times a vector with AVX2, FMA and F16C: the lanes of a row are two registers, which for six
 * rows leaves four for x and the weights. */
#include "gemv_impl.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "bf12_escapes.h"
#include "dense_vector.h"

typedef struct gemv_sums {
    __m256 half[2];
} gemv_sums;

INLINE void sums_zero(gemv_sums *sums)
{
    sums->half[0] = _mm256_setzero_ps();
    sums->half[1] = _mm256_setzero_ps();
}

INLINE void sums_load(gemv_sums *sums, const float *from)
{
    sums->half[0] = _mm256_load_ps(from);
    sums->half[1] = _mm256_load_ps(from + 8);
}

INLINE void sums_store(const gemv_sums *sums, float *to)
{
    _mm256_store_ps(to, sums->half[0]);
    _mm256_store_ps(to + 8, sums->half[1]);
}

/* Of a block of a row what meets half @p h of the lanes: places 0..15, then 16..31. */
INLINE void load_half(cenote_dtype dtype, const unsigned char *row, unsigned h, __m256 *first,
                      __m256 *second)
{
    if (dtype == CENOTE_DTYPE_F32) {
        *first = _mm256_loadu_ps((const void *)(row + h * 32));
        *second = _mm256_loadu_ps((const void *)(row + 64 + h * 32));
    } else if (dtype == CENOTE_DTYPE_F16) {
        *first = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + h * 16)));
        *second = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + 32 + h * 16)));
    } else {
        __m256i pairs = _mm256_loadu_si256((const void *)(row + h * 32));
        __m256i odd = _mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u));
        *first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        *second = _mm256_castsi256_ps(odd);
    }
}

/* One block of each row onto its sums, first the lower half of the lanes, then the upper; for each,
 * places 0..15 of x, then 16..31. */
INLINE void add_block(cenote_dtype dtype, const unsigned rows, const float *x,
                      const unsigned char *w, size_t stream_bytes, gemv_sums *sums)
{
    UNROLL
    for (unsigned h = 0; h < 2; h++) {
        __m256 x_first = _mm256_load_ps(x + h * 8), x_second = _mm256_load_ps(x + 16 + h * 8);
        UNROLL
        for (unsigned r = 0; r < rows; r++) {
            __m256 first, second;
            load_half(dtype, w + r * stream_bytes, h, &first, &second);
            sums[r].half[h] = _mm256_fmadd_ps(first, x_first, sums[r].half[h]);
            sums[r].half[h] = _mm256_fmadd_ps(second, x_second, sums[r].half[h]);
        }
    }
}

INLINE void widen_block(cenote_dtype dtype, const unsigned char *w, float *out)
{
    UNROLL
    for (unsigned h = 0; h < 2; h++) {
        __m256 first, second;
        load_half(dtype, w, h, &first, &second);
        _mm256_store_ps(out + h * 8, first);
        _mm256_store_ps(out + 16 + h * 8, second);
    }
}

/* Three rows by two x are twelve registers, which leaves four for a row's weights and both x. */
#define TILE_ROWS 3u
#define TILE_M    2u
#define TILES(X)  X(1, 1) X(1, 2) X(1, 3) X(2, 1) X(2, 2) X(2, 3)

/* Sixteen places. */
INLINE void add_tile(const unsigned rows, const unsigned m, const float *weights, const float *x,
                     gemv_sums (*sums)[TILE_ROWS])
{
    UNROLL
    for (unsigned h = 0; h < 2; h++) {
        __m256 x_i[TILE_M];
        UNROLL
        for (unsigned i = 0; i < m; i++) {
            x_i[i] = _mm256_load_ps(x + i * QWEN_GEMV_CHUNK + h * 8);
            IN_REGISTER(x_i[i]);
        }
        UNROLL
        for (unsigned r = 0; r < rows; r++) {
            __m256 w = _mm256_load_ps(weights + r * QWEN_GEMV_CHUNK + h * 8);
            IN_REGISTER(w);
            UNROLL
            for (unsigned i = 0; i < m; i++)
                sums[i][r].half[h] = _mm256_fmadd_ps(w, x_i[i], sums[i][r].half[h]);
        }
    }
}

/* ---- the 12-bit form: cenote/bf12.h ---- */

typedef __m256i gemv_table;

INLINE gemv_table table_of(const unsigned char *table)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
}

/* Pairs of bf16 of half a group, as they would lie in memory: its first and its last 16. */
INLINE void pairs_of(gemv_table table, const unsigned char *group, unsigned half, __m256i pairs[2])
{
    __m256i codes = _mm256_loadu_si256((const void *)(group + CENOTE_BF12_CODES_BYTE));
    if (half == 1)
        codes = _mm256_srli_epi16(codes, 4);
    __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, _mm256_set1_epi8(15)));
    __m256i low = _mm256_loadu_si256((const void *)(group + half * 32));
    pairs[0] = _mm256_unpacklo_epi8(low, high);
    pairs[1] = _mm256_unpackhi_epi8(low, high);
}

/* Gives the elements of half a group that the row has escapes for their high bytes. */
INLINE void patch_pairs(qwen_bf12_escapes *escapes, uint64_t group, unsigned half, __m256i pairs[2])
{
    const __m256i places = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint64_t first = group * CENOTE_BF12_GROUP + half * 32;
    unsigned column, high;
    while (qwen_bf12_take(escapes, first, 32, &column, &high)) {
        __m256i bits = _mm256_set1_epi16((short)(high << 8));
        UNROLL
        for (unsigned h = 0; h < 2; h++) {
            __m256i here = _mm256_cmpeq_epi16(places, _mm256_set1_epi16((short)(column - h * 16)));
            pairs[h] = _mm256_or_si256(pairs[h], _mm256_and_si256(here, bits));
        }
    }
}

/* One group of each row onto its sums, in the order of add_block(). @p escapes: of each row, NULL
 * where none of them has one in this group. */
INLINE void add_group(const unsigned rows, gemv_table table, const float *x, const unsigned char *w,
                      size_t stream_bytes, uint64_t group, qwen_bf12_escapes *escapes,
                      gemv_sums *sums)
{
    UNROLL
    for (unsigned half = 0; half < 2; half++, x += QWEN_GEMV_BLOCK)
        UNROLL
    for (unsigned r = 0; r < rows; r++) {
        __m256i pairs[2];
        pairs_of(table, w + r * stream_bytes, half, pairs);
        if (escapes != NULL)
            patch_pairs(&escapes[r], group, half, pairs);
        UNROLL
        for (unsigned h = 0; h < 2; h++) {
            __m256i odd = _mm256_and_si256(pairs[h], _mm256_set1_epi32((int)0xffff0000u));
            __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs[h], 16));
            __m256 second = _mm256_castsi256_ps(odd);
            __m256 sum = sums[r].half[h];
            sum = _mm256_fmadd_ps(first, _mm256_load_ps(x + h * 8), sum);
            sums[r].half[h] = _mm256_fmadd_ps(second, _mm256_load_ps(x + 16 + h * 8), sum);
        }
    }
}

INLINE void widen_group(gemv_table table, const unsigned char *group, float *out)
{
    UNROLL
    for (unsigned half = 0; half < 2; half++, out += QWEN_GEMV_BLOCK) {
        __m256i pairs[2];
        pairs_of(table, group, half, pairs);
        UNROLL
        for (unsigned h = 0; h < 2; h++) {
            __m256i odd = _mm256_and_si256(pairs[h], _mm256_set1_epi32((int)0xffff0000u));
            _mm256_store_ps(out + h * 8, _mm256_castsi256_ps(_mm256_slli_epi32(pairs[h], 16)));
            _mm256_store_ps(out + 16 + h * 8, _mm256_castsi256_ps(odd));
        }
    }
}

INLINE float reduce(const gemv_sums *sums)
{
    __m256 s8 = _mm256_add_ps(sums->half[0], sums->half[1]);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

#include "gemv_rows.h"

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

const qwen_gemv_ops qwen_gemv_avx2 = {arrange, dots_f32,   dots_f16, dots_bf16,   dots_bf12,
                                      widen,   widen_bf12, add,      reduce_lanes};
#endif
