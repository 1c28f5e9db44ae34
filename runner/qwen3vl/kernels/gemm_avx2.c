/* SPDX-License-Identifier: Apache-2.0 */
/* The matrix product's inner parts with AVX2, FMA and F16C: tiles of 6 rows by one strip, which is
 * two registers wide, in 12 registers. */
#include "gemm_impl.h"

#include <assert.h>

#if defined(__x86_64__)
#include <immintrin.h>

#include "dense_vector.h"
#include "widen_impl.h"

#define TILE_ROWS 6u
#define LANES     8u

static_assert(TILE_ROWS <= QWEN_GEMM_TILE_ROWS_MAX, "gemm.c has room for a tile's rows");

/* ---- packing ---- */

/* 16 bytes of each of 8 rows -> out[c] = the c-th 4 bytes of rows 0..7. Loads place rows i and
 * i + 4 in the two lanes, so that two rounds of shuffles inside lanes finish the transpose. */
INLINE void transpose_4x8(const unsigned char *const *rows, size_t offset, __m256i out[4])
{
    __m256i r[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const void *)(rows[i] + offset));
        __m128i high = _mm_loadu_si128((const void *)(rows[i + 4] + offset));
        r[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    __m256i low01 = _mm256_unpacklo_epi32(r[0], r[1]), high01 = _mm256_unpackhi_epi32(r[0], r[1]);
    __m256i low23 = _mm256_unpacklo_epi32(r[2], r[3]), high23 = _mm256_unpackhi_epi32(r[2], r[3]);
    out[0] = _mm256_unpacklo_epi64(low01, low23);
    out[1] = _mm256_unpackhi_epi64(low01, low23);
    out[2] = _mm256_unpacklo_epi64(high01, high23);
    out[3] = _mm256_unpackhi_epi64(high01, high23);
}

/* Pairs of halves (k, k + 1) of 8 rows -> half of two packed lines of floats. */
INLINE void store_pairs(cenote_dtype dtype, __m256i pairs, float *packed)
{
    if (dtype == CENOTE_DTYPE_BF16) {
        __m256i even = _mm256_slli_epi32(pairs, 16);
        __m256i odd = _mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u));
        _mm256_store_ps(packed, _mm256_castsi256_ps(even));
        _mm256_store_ps(packed + QWEN_GEMM_STRIP, _mm256_castsi256_ps(odd));
    } else {
        __m256i even = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
        __m256i odd = _mm256_srli_epi32(pairs, 16);
        /* lanes: even 0-3, odd 0-3 | even 4-7, odd 4-7; then the middle quarters change places */
        __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(even, odd), 0xd8);
        _mm256_store_ps(packed, _mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
        _mm256_store_ps(packed + QWEN_GEMM_STRIP,
                        _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
    }
}

/* Packs whole groups of 16 bytes a row; returns the elements of k done. */
INLINE size_t pack_groups(cenote_dtype dtype, const unsigned char *const *rows, size_t depth,
                          float *packed)
{
    const size_t element_bytes = dtype == CENOTE_DTYPE_F32 ? 4 : 2;
    const size_t step = 16 / element_bytes;
    size_t k = 0;
    for (; k + step <= depth; k += step)
        UNROLL
    for (unsigned half = 0; half < QWEN_GEMM_STRIP; half += LANES) {
        __m256i columns[4];
        transpose_4x8(rows + half, k * element_bytes, columns);
        UNROLL
        for (unsigned i = 0; i < 4; i++) {
            float *line = packed + k * QWEN_GEMM_STRIP + half;
            if (dtype == CENOTE_DTYPE_F32)
                _mm256_store_ps(line + i * QWEN_GEMM_STRIP, _mm256_castsi256_ps(columns[i]));
            else
                store_pairs(dtype, columns[i], line + 2 * i * QWEN_GEMM_STRIP);
        }
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
        for (; k + LANES <= depth; k += LANES)
            _mm256_store_ps(out + k, _mm256_loadu_ps(a + k));
        for (; k < depth; k++)
            out[k] = a[k];
    }
}

INLINE void add_line(const unsigned rows, const qwen_gemm_tile *t, size_t k,
                     __m256 sum[TILE_ROWS][2])
{
    __m256 b0 = _mm256_load_ps(t->packed + k * QWEN_GEMM_STRIP);
    __m256 b1 = _mm256_load_ps(t->packed + k * QWEN_GEMM_STRIP + LANES);
    UNROLL
    for (unsigned i = 0; i < rows; i++) {
        __m256 a_ik = _mm256_broadcast_ss(t->a + i * QWEN_GEMM_A_STRIDE + k);
        sum[i][0] = _mm256_fmadd_ps(a_ik, b0, sum[i][0]);
        sum[i][1] = _mm256_fmadd_ps(a_ik, b1, sum[i][1]);
    }
}

INLINE void tile_of(const unsigned rows, const qwen_gemm_tile *t)
{
    __m256 sum[TILE_ROWS][2];
    UNROLL
    for (unsigned i = 0; i < rows; i++)
        UNROLL
    for (unsigned h = 0; h < 2; h++)
        sum[i][h] = t->first ? _mm256_setzero_ps()
                             : _mm256_load_ps(t->sums + i * t->sums_stride + h * LANES);
    for (size_t k = 0; k < t->depth;) {
        for (unsigned i = 0; i < t->ahead_rows; i++)
            _mm_prefetch((const char *)(t->ahead + i * t->ahead_stride + k), _MM_HINT_T0);
        for (size_t end = k + 16 < t->depth ? k + 16 : t->depth; k < end; k++)
            add_line(rows, t, k, sum);
    }
    UNROLL
    for (unsigned i = 0; i < rows; i++)
        UNROLL
    for (unsigned h = 0; h < 2; h++)
        _mm256_store_ps(t->sums + i * t->sums_stride + h * LANES, sum[i][h]);
}

#define TILES(X) X(1) X(2) X(3) X(4) X(5) X(6)

/* One loop for each height, so that all sums stay in registers. */
static void tile(const qwen_gemm_tile *t)
{
    switch (t->rows) {
#define TILE_CASE(n)                                                                               \
    case n:                                                                                        \
        tile_of(n, t);                                                                             \
        break;
        TILES(TILE_CASE)
#undef TILE_CASE
    default:
        break;
    }
}

const qwen_gemm_ops qwen_gemm_avx2 = {
    .tile_rows = TILE_ROWS, .tile_strips = 1, .pack = pack, .copy = copy, .tile = tile};
#endif
