/* SPDX-License-Identifier: Apache-2.0 */
/* The matrix product's inner parts with AVX-512: tiles of 12 rows by 2 strips in 24 registers. */
#include "gemm_impl.h"

#include <assert.h>

#if defined(__x86_64__)
#include <immintrin.h>

#include "dense_vector.h"
#include "widen_impl.h"

#define TILE_ROWS 12u

static_assert(TILE_ROWS <= QWEN_GEMM_TILE_ROWS_MAX, "gemm.c has room for a tile's rows");

/* ---- packing ---- */

/* 16 bytes of each of 16 rows -> out[c] = the c-th 4 bytes of rows 0..15. Loads place rows 4 by 4
 * in the 128-bit lanes, so that two rounds of shuffles inside lanes finish the transpose. */
INLINE void transpose_4x16(const unsigned char *const *rows, size_t offset, __m512i out[4])
{
    __m512i r[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        const unsigned char *const *row = rows + i;
        __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(row[0] + offset)));
        __m128i v4 = _mm_loadu_si128((const void *)(row[4] + offset));
        __m128i v8 = _mm_loadu_si128((const void *)(row[8] + offset));
        __m128i v12 = _mm_loadu_si128((const void *)(row[12] + offset));
        v = _mm512_mask_broadcast_i32x4(v, 0x00f0, v4);
        v = _mm512_mask_broadcast_i32x4(v, 0x0f00, v8);
        r[i] = _mm512_mask_broadcast_i32x4(v, 0xf000, v12);
    }
    __m512i low01 = _mm512_unpacklo_epi32(r[0], r[1]), high01 = _mm512_unpackhi_epi32(r[0], r[1]);
    __m512i low23 = _mm512_unpacklo_epi32(r[2], r[3]), high23 = _mm512_unpackhi_epi32(r[2], r[3]);
    out[0] = _mm512_unpacklo_epi64(low01, low23);
    out[1] = _mm512_unpackhi_epi64(low01, low23);
    out[2] = _mm512_unpacklo_epi64(high01, high23);
    out[3] = _mm512_unpackhi_epi64(high01, high23);
}

/* Pairs of halves (k, k + 1) of 16 rows -> the two packed lines of floats. */
INLINE void store_pairs(cenote_dtype dtype, __m512i pairs, float *packed)
{
    if (dtype == CENOTE_DTYPE_BF16) {
        __m512i even = _mm512_slli_epi32(pairs, 16);
        __m512i odd = _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u));
        _mm512_store_ps(packed, _mm512_castsi512_ps(even));
        _mm512_store_ps(packed + QWEN_GEMM_STRIP, _mm512_castsi512_ps(odd));
    } else {
        __m256i even = _mm512_cvtepi32_epi16(pairs);
        __m256i odd = _mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16));
        _mm512_store_ps(packed, _mm512_cvtph_ps(even));
        _mm512_store_ps(packed + QWEN_GEMM_STRIP, _mm512_cvtph_ps(odd));
    }
}

/* Packs whole groups of 16 bytes a row; returns the elements of k done. */
INLINE size_t pack_groups(cenote_dtype dtype, const unsigned char *const *rows, size_t depth,
                          float *packed)
{
    const size_t element_bytes = dtype == CENOTE_DTYPE_F32 ? 4 : 2;
    const size_t step = 16 / element_bytes;
    size_t k = 0;
    for (; k + step <= depth; k += step) {
        __m512i columns[4];
        transpose_4x16(rows, k * element_bytes, columns);
        UNROLL
        for (unsigned i = 0; i < 4; i++)
            if (dtype == CENOTE_DTYPE_F32)
                _mm512_store_si512(packed + (k + i) * QWEN_GEMM_STRIP, columns[i]);
            else
                store_pairs(dtype, columns[i], packed + (k + 2 * i) * QWEN_GEMM_STRIP);
    }
    return k;
}

static void pack(cenote_dtype dtype, const unsigned char *w, size_t row_bytes, unsigned rows,
                 size_t depth, float *packed)
{
    const unsigned char *row[QWEN_GEMM_STRIP];
    for (unsigned j = 0; j < QWEN_GEMM_STRIP; j++)
        row[j] = w + (j < rows ? j : rows - 1) * row_bytes;
    size_t k;
    if (dtype == CENOTE_DTYPE_BF16)
        k = pack_groups(CENOTE_DTYPE_BF16, row, depth, packed);
    else if (dtype == CENOTE_DTYPE_F16)
        k = pack_groups(CENOTE_DTYPE_F16, row, depth, packed);
    else
        k = pack_groups(CENOTE_DTYPE_F32, row, depth, packed);
    for (; k < depth; k++)
        for (unsigned j = 0; j < QWEN_GEMM_STRIP; j++)
            packed[k * QWEN_GEMM_STRIP + j] = qwen_widen_at(dtype, row[j], k);
}

/* ---- tiles ---- */

static void copy(unsigned rows, size_t depth, const float *a, size_t a_stride, float *out)
{
    for (unsigned i = 0; i < rows; i++, a += a_stride, out += QWEN_GEMM_A_STRIDE) {
        size_t k = 0;
        for (; k + 16 <= depth; k += 16)
            _mm512_store_ps(out + k, _mm512_loadu_ps(a + k));
        __mmask16 rest = (__mmask16)((1u << (depth - k)) - 1);
        _mm512_mask_store_ps(out + k, rest, _mm512_maskz_loadu_ps(rest, a + k));
    }
}

INLINE void add_line(const unsigned rows, const unsigned strips, const qwen_gemm_tile *t, size_t k,
                     __m512 sum[TILE_ROWS][2])
{
    __m512 b[2];
    UNROLL
    for (unsigned s = 0; s < strips; s++)
        b[s] = _mm512_load_ps(t->packed + s * t->strip_stride + k * QWEN_GEMM_STRIP);
    UNROLL
    for (unsigned i = 0; i < rows; i++) {
        __m512 a_ik = _mm512_set1_ps(t->a[i * QWEN_GEMM_A_STRIDE + k]);
        UNROLL
        for (unsigned s = 0; s < strips; s++)
            sum[i][s] = _mm512_fmadd_ps(a_ik, b[s], sum[i][s]);
    }
}

INLINE void tile_of(const unsigned rows, const unsigned strips, const qwen_gemm_tile *t)
{
    __m512 sum[TILE_ROWS][2];
    UNROLL
    for (unsigned i = 0; i < rows; i++)
        UNROLL
    for (unsigned s = 0; s < strips; s++)
        sum[i][s] = t->first ? _mm512_setzero_ps()
                             : _mm512_load_ps(t->sums + i * t->sums_stride + s * QWEN_GEMM_STRIP);
    for (size_t k = 0; k < t->depth;) {
        for (unsigned i = 0; i < t->ahead_rows; i++)
            _mm_prefetch((const char *)(t->ahead + i * t->ahead_stride + k), _MM_HINT_T0);
        for (size_t end = k + 16 < t->depth ? k + 16 : t->depth; k < end; k++)
            add_line(rows, strips, t, k, sum);
    }
    UNROLL
    for (unsigned i = 0; i < rows; i++)
        UNROLL
    for (unsigned s = 0; s < strips; s++)
        _mm512_store_ps(t->sums + i * t->sums_stride + s * QWEN_GEMM_STRIP, sum[i][s]);
}

#define TILES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)

/* One loop for each shape, so that all sums stay in registers. */
static void tile(const qwen_gemm_tile *t)
{
    switch (t->rows * 2 + t->strips - 1) {
#define TILE_CASE(n)                                                                               \
    case (n)*2:                                                                                    \
        tile_of(n, 1, t);                                                                          \
        break;                                                                                     \
    case (n)*2 + 1:                                                                                \
        tile_of(n, 2, t);                                                                          \
        break;
        TILES(TILE_CASE)
#undef TILE_CASE
    default:
        break;
    }
}

const qwen_gemm_ops qwen_gemm_avx512 = {
    .tile_rows = TILE_ROWS, .tile_strips = 2, .pack = pack, .copy = copy, .tile = tile};
#endif
