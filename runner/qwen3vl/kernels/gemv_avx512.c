/* SPDX-License-Identifier: Apache-2.0 */
/* Rows times a vector with AVX-512: the lanes of a row are one register. */
#include "gemv_impl.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "bf12_escapes.h"
#include "dense_vector.h"

typedef __m512 gemv_sums;

INLINE void sums_zero(gemv_sums *sums)
{
    *sums = _mm512_setzero_ps();
}

INLINE void sums_load(gemv_sums *sums, const float *from)
{
    *sums = _mm512_load_ps(from);
}

INLINE void sums_store(const gemv_sums *sums, float *to)
{
    _mm512_store_ps(to, *sums);
}

/* A block of a row: places 0..15, then 16..31. */
INLINE void load_block(cenote_dtype dtype, const unsigned char *row, __m512 *first, __m512 *second)
{
    if (dtype == CENOTE_DTYPE_F32) {
        *first = _mm512_loadu_ps((const void *)row);
        *second = _mm512_loadu_ps((const void *)(row + 64));
    } else if (dtype == CENOTE_DTYPE_F16) {
        *first = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)row));
        *second = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(row + 32)));
    } else {
        __m512i pairs = _mm512_loadu_si512(row);
        __m512i odd = _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u));
        *first = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
        *second = _mm512_castsi512_ps(odd);
    }
}

/* One block of each row onto its sums: places 0..15 of x, then 16..31. */
INLINE void add_block(cenote_dtype dtype, const unsigned rows, const float *x,
                      const unsigned char *w, size_t stream_bytes, gemv_sums *sums)
{
    __m512 x_first = _mm512_load_ps(x), x_second = _mm512_load_ps(x + 16);
    UNROLL
    for (unsigned r = 0; r < rows; r++) {
        __m512 first, second;
        load_block(dtype, w + r * stream_bytes, &first, &second);
        sums[r] = _mm512_fmadd_ps(first, x_first, sums[r]);
        sums[r] = _mm512_fmadd_ps(second, x_second, sums[r]);
    }
}

INLINE void widen_block(cenote_dtype dtype, const unsigned char *w, float *out)
{
    __m512 first, second;
    load_block(dtype, w, &first, &second);
    _mm512_store_ps(out, first);
    _mm512_store_ps(out + 16, second);
}

/* Three rows by four x: twelve sums, as many as keep two units for fma busy. */
#define TILE_ROWS 3u
#define TILE_M    4u
#define TILES(X)                                                                                   \
    X(1, 1)                                                                                        \
    X(1, 2) X(1, 3) X(2, 1) X(2, 2) X(2, 3) X(3, 1) X(3, 2) X(3, 3) X(4, 1) X(4, 2) X(4, 3)

/* Sixteen places. */
INLINE void add_tile(const unsigned rows, const unsigned m, const float *weights, const float *x,
                     gemv_sums (*sums)[TILE_ROWS])
{
    __m512 x_i[TILE_M];
    UNROLL
    for (unsigned i = 0; i < m; i++) {
        x_i[i] = _mm512_load_ps(x + i * QWEN_GEMV_CHUNK);
        IN_REGISTER(x_i[i]);
    }
    UNROLL
    for (unsigned r = 0; r < rows; r++) {
        __m512 w = _mm512_load_ps(weights + r * QWEN_GEMV_CHUNK);
        IN_REGISTER(w);
        UNROLL
        for (unsigned i = 0; i < m; i++)
            sums[i][r] = _mm512_fmadd_ps(w, x_i[i], sums[i][r]);
    }
}

/* ---- the 12-bit form: cenote/bf12.h ---- */

typedef __m512i gemv_table;

INLINE gemv_table table_of(const unsigned char *table)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table));
}

/* Pairs of bf16 of a group, as they would lie in memory: its first and its last 32. The quarters of
 * a register come out as 0-15, 32-47 and 16-31, 48-63. */
INLINE void pairs_of(gemv_table table, const unsigned char *group, __m512i pairs[2])
{
    __m256i codes = _mm256_loadu_si256((const void *)(group + CENOTE_BF12_CODES_BYTE));
    __m512i both =
        _mm512_inserti64x4(_mm512_castsi256_si512(codes), _mm256_srli_epi16(codes, 4), 1);
    __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(both, _mm512_set1_epi8(15)));
    __m512i low = _mm512_loadu_si512(group);
    __m512i first = _mm512_unpacklo_epi8(low, high), second = _mm512_unpackhi_epi8(low, high);
    pairs[0] = _mm512_shuffle_i64x2(first, second, 0x44);
    pairs[1] = _mm512_shuffle_i64x2(first, second, 0xee);
}

/* Gives the elements of a group that the row has escapes for their high bytes. */
INLINE void patch_pairs(qwen_bf12_escapes *escapes, uint64_t group, __m512i pairs[2])
{
    unsigned column, high;
    while (qwen_bf12_take(escapes, group * CENOTE_BF12_GROUP, CENOTE_BF12_GROUP, &column, &high)) {
        __m512i bits = _mm512_set1_epi16((short)(high << 8));
        uint64_t mask = UINT64_C(1) << column;
        pairs[0] =
            _mm512_mask_mov_epi16(pairs[0], (__mmask32)mask, _mm512_or_si512(pairs[0], bits));
        pairs[1] = _mm512_mask_mov_epi16(pairs[1], (__mmask32)(mask >> 32),
                                         _mm512_or_si512(pairs[1], bits));
    }
}

/* One group of each row onto its sums, in the order of add_block(). @p escapes: of each row, NULL
 * where none of them has one in this group. */
INLINE void add_group(const unsigned rows, gemv_table table, const float *x, const unsigned char *w,
                      size_t stream_bytes, uint64_t group, qwen_bf12_escapes *escapes,
                      gemv_sums *sums)
{
    UNROLL
    for (unsigned r = 0; r < rows; r++) {
        __m512i pairs[2];
        pairs_of(table, w + r * stream_bytes, pairs);
        if (escapes != NULL)
            patch_pairs(&escapes[r], group, pairs);
        UNROLL
        for (unsigned half = 0; half < 2; half++) {
            const float *at = x + half * QWEN_GEMV_BLOCK;
            __m512i odd = _mm512_and_si512(pairs[half], _mm512_set1_epi32((int)0xffff0000u));
            __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(pairs[half], 16));
            __m512 second = _mm512_castsi512_ps(odd);
            sums[r] = _mm512_fmadd_ps(first, _mm512_load_ps(at), sums[r]);
            sums[r] = _mm512_fmadd_ps(second, _mm512_load_ps(at + 16), sums[r]);
        }
    }
}

INLINE void widen_group(gemv_table table, const unsigned char *group, float *out)
{
    __m512i pairs[2];
    pairs_of(table, group, pairs);
    UNROLL
    for (unsigned half = 0; half < 2; half++, out += QWEN_GEMV_BLOCK) {
        __m512i odd = _mm512_and_si512(pairs[half], _mm512_set1_epi32((int)0xffff0000u));
        _mm512_store_si512(out, _mm512_slli_epi32(pairs[half], 16));
        _mm512_store_si512(out + 16, odd);
    }
}

INLINE float reduce(const gemv_sums *sums)
{
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(*sums), _mm512_extractf32x8_ps(*sums, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

#include "gemv_rows.h"

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

const qwen_gemv_ops qwen_gemv_avx512 = {arrange, dots_f32,   dots_f16, dots_bf16,   dots_bf12,
                                        widen,   widen_bf12, add,      reduce_lanes};
#endif
