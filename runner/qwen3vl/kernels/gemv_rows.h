/* SPDX-License-Identifier: Apache-2.0 */
/* The loops over k that the AVX2 and the AVX-512 rows times a vector have in common. Before it is
 * included: gemv_sums (the lanes of a row), sums_zero(), sums_load(), sums_store(), add_block() and
 * reduce(); for the 12-bit form table_of(), add_group() and widen_group(); for several rows of x
 * widen_block(), add_tile(), TILE_ROWS and TILE_M. */
#ifndef QWEN_GEMV_ROWS_H
#define QWEN_GEMV_ROWS_H

#include "bf12_escapes.h"

/* Far enough to come from L2 in time, near enough not to push x out of L1; from memory to L2 the
 * hardware fetches streams better than any distance here would. */
#define AHEAD_BYTES 256u
#define LINE_BYTES  64u

INLINE void dot_rows(const unsigned rows, cenote_dtype dtype, const float *x,
                     const unsigned char *w, size_t stream_bytes, uint64_t k, float *out)
{
    const size_t element_bytes = dtype == CENOTE_DTYPE_F32 ? 4 : 2;
    const size_t block_bytes = QWEN_GEMV_BLOCK * element_bytes;
    gemv_sums sums[QWEN_GEMV_STREAMS];
    UNROLL
    for (unsigned r = 0; r < rows; r++)
        sums_zero(&sums[r]);
    for (uint64_t block = k / QWEN_GEMV_BLOCK; block > 0; block--) {
        UNROLL
        for (unsigned r = 0; r < rows; r++)
            UNROLL
        for (size_t line = 0; line < block_bytes; line += LINE_BYTES)
            _mm_prefetch((const char *)w + r * stream_bytes + AHEAD_BYTES + line, _MM_HINT_T0);
        add_block(dtype, rows, x, w, stream_bytes, sums);
        x += QWEN_GEMV_BLOCK;
        w += block_bytes;
    }
    size_t rest_bytes = k % QWEN_GEMV_BLOCK * element_bytes;
    if (rest_bytes != 0) {
        unsigned char tails[QWEN_GEMV_STREAMS][QWEN_GEMV_BLOCK * 4] = {{0}};
        UNROLL
        for (unsigned r = 0; r < rows; r++)
            memcpy(tails[r], w + r * stream_bytes, rest_bytes);
        add_block(dtype, rows, x, tails[0], sizeof tails[0], sums);
    }
    UNROLL
    for (unsigned r = 0; r < rows; r++)
        out[r] = reduce(&sums[r]);
}

/* ---- the 12-bit form ---- */

/* The first group from which on a row has an escape, at most @p end. */
INLINE uint64_t next_escape_group(const unsigned rows, const qwen_bf12_escapes *escapes,
                                  uint64_t end)
{
    UNROLL
    for (unsigned r = 0; r < rows; r++) {
        uint64_t group = qwen_bf12_escape_group(&escapes[r]);
        end = group < end ? group : end;
    }
    return end;
}

/* What is left of the rows behind their whole groups: @p count elements, through floats in the
 * order of x. */
INLINE void add_rest(const unsigned rows, const cenote_bf12_view *panel, const float *x,
                     const unsigned char *w, size_t stream_bytes, uint64_t group, unsigned count,
                     qwen_bf12_escapes *escapes, gemv_sums *sums)
{
    float stage[QWEN_GEMV_STREAMS][CENOTE_BF12_GROUP] __attribute__((aligned(64)));
    for (unsigned r = 0; r < rows; r++) {
        widen_group(table_of(panel->table), w + r * stream_bytes, stage[r]);
        qwen_bf12_patch(&escapes[r], group, stage[r]);
        for (unsigned column = count; column < CENOTE_BF12_GROUP; column++)
            stage[r][qwen_bf12_place(column)] = 0.0f;
    }
    for (unsigned first = 0; first < count; first += QWEN_GEMV_BLOCK)
        add_block(CENOTE_DTYPE_F32, rows, x + first, (const unsigned char *)(stage[0] + first),
                  sizeof stage[0], sums);
}

/* Runs from one group with an escape to the next: in between there is nothing to look at. */
INLINE void dot_packed_rows(const unsigned rows, const float *x, const cenote_bf12_view *panel,
                            uint64_t row, uint64_t stride, uint64_t k, float *out)
{
    const unsigned char *w = panel->groups + row * panel->row_bytes;
    const size_t stream_bytes = stride * panel->row_bytes;
    const uint64_t groups = k / CENOTE_BF12_GROUP;
    const gemv_table table = table_of(panel->table);
    qwen_bf12_escapes escapes[QWEN_GEMV_STREAMS];
    gemv_sums sums[QWEN_GEMV_STREAMS];
    UNROLL
    for (unsigned r = 0; r < rows; r++) {
        sums_zero(&sums[r]);
        escapes[r] = qwen_bf12_escapes_of(panel, row + r * stride);
    }
    for (uint64_t group = 0;;) {
        for (uint64_t stop = next_escape_group(rows, escapes, groups); group < stop; group++) {
            UNROLL
            for (unsigned r = 0; r < rows; r++) {
                const char *ahead = (const char *)w + r * stream_bytes + AHEAD_BYTES;
                _mm_prefetch(ahead, _MM_HINT_T0);
                _mm_prefetch(ahead + LINE_BYTES, _MM_HINT_T0);
            }
            add_group(rows, table, x, w, stream_bytes, group, NULL, sums);
            x += CENOTE_BF12_GROUP;
            w += CENOTE_BF12_GROUP_BYTES;
        }
        if (group == groups)
            break;
        add_group(rows, table, x, w, stream_bytes, group++, escapes, sums);
        x += CENOTE_BF12_GROUP;
        w += CENOTE_BF12_GROUP_BYTES;
    }
    if (k % CENOTE_BF12_GROUP != 0)
        add_rest(rows, panel, x, w, stream_bytes, groups, k % CENOTE_BF12_GROUP, escapes, sums);
    UNROLL
    for (unsigned r = 0; r < rows; r++)
        out[r] = reduce(&sums[r]);
}

/* One loop for each number of rows and dtype, so that all sums stay in registers. */
#define CASES(function, ...)                                                                       \
    switch (rows) {                                                                                \
    case 1:                                                                                        \
        function(1, __VA_ARGS__);                                                                  \
        break;                                                                                     \
    case 2:                                                                                        \
        function(2, __VA_ARGS__);                                                                  \
        break;                                                                                     \
    case 3:                                                                                        \
        function(3, __VA_ARGS__);                                                                  \
        break;                                                                                     \
    case 4:                                                                                        \
        function(4, __VA_ARGS__);                                                                  \
        break;                                                                                     \
    case 5:                                                                                        \
        function(5, __VA_ARGS__);                                                                  \
        break;                                                                                     \
    default:                                                                                       \
        function(QWEN_GEMV_STREAMS, __VA_ARGS__);                                                  \
        break;                                                                                     \
    }

#define DOTS(name, dtype)                                                                          \
    static void name(unsigned rows, const float *x, const unsigned char *w, size_t stream_bytes,   \
                     uint64_t k, float *sums)                                                      \
    {                                                                                              \
        CASES(dot_rows, dtype, x, w, stream_bytes, k, sums)                                        \
    }
DOTS(dots_f32, CENOTE_DTYPE_F32)
DOTS(dots_f16, CENOTE_DTYPE_F16)
DOTS(dots_bf16, CENOTE_DTYPE_BF16)

static void dots_bf12(unsigned rows, const float *x, const cenote_bf12_view *panel, uint64_t row,
                      uint64_t stride, uint64_t k,
                      float *sums){CASES(dot_packed_rows, x, panel, row, stride, k, sums)}

/* ---- several rows of x: gemv_many.c ---- */

INLINE void widen_of(cenote_dtype dtype, const unsigned char *w, size_t count, float *out)
{
    const size_t element_bytes = dtype == CENOTE_DTYPE_F32 ? 4 : 2;
    size_t whole = count / QWEN_GEMV_BLOCK * QWEN_GEMV_BLOCK;
    for (size_t i = 0; i < whole; i += QWEN_GEMV_BLOCK)
        widen_block(dtype, w + i * element_bytes, out + i);
    if (whole == count)
        return;
    unsigned char tail[QWEN_GEMV_BLOCK * 4] = {0};
    memcpy(tail, w + whole * element_bytes, (count - whole) * element_bytes);
    widen_block(dtype, tail, out + whole);
}

static void widen(cenote_dtype dtype, const unsigned char *w, size_t count, float *out)
{
    if (dtype == CENOTE_DTYPE_BF16)
        widen_of(CENOTE_DTYPE_BF16, w, count, out);
    else if (dtype == CENOTE_DTYPE_F16)
        widen_of(CENOTE_DTYPE_F16, w, count, out);
    else
        widen_of(CENOTE_DTYPE_F32, w, count, out);
}

static void widen_bf12(const unsigned char *table, const unsigned char *w, size_t groups,
                       float *out)
{
    const gemv_table both = table_of(table);
    for (; groups > 0; groups--) {
        widen_group(both, w, out);
        w += CENOTE_BF12_GROUP_BYTES;
        out += CENOTE_BF12_GROUP;
    }
}

/* A tile of rows by x, whose lanes stay in registers. */
INLINE void tile_of(const unsigned rows, const unsigned m, const float *weights, const float *x,
                    size_t count, float *sums)
{
    gemv_sums lanes[TILE_M][TILE_ROWS];
    UNROLL
    for (unsigned i = 0; i < m; i++)
        UNROLL
    for (unsigned r = 0; r < rows; r++)
        sums_load(&lanes[i][r], sums + (i * QWEN_GEMV_STREAMS + r) * QWEN_GEMV_LANES);
    for (size_t k = 0; k < count; k += QWEN_GEMV_LANES)
        add_tile(rows, m, weights + k, x + k, lanes);
    UNROLL
    for (unsigned i = 0; i < m; i++)
        UNROLL
    for (unsigned r = 0; r < rows; r++)
        sums_store(&lanes[i][r], sums + (i * QWEN_GEMV_STREAMS + r) * QWEN_GEMV_LANES);
}

static void tile(unsigned rows, unsigned m, const float *weights, const float *x, size_t count,
                 float *sums)
{
    switch (m * 4 + rows) {
#define TILE_CASE(m_case, rows_case)                                                               \
    case (m_case)*4 + (rows_case):                                                                 \
        tile_of(rows_case, m_case, weights, x, count, sums);                                       \
        break;
        TILES(TILE_CASE)
#undef TILE_CASE
    default:
        break;
    }
}

/* Tiles of nearly equal sides: a last one of one row by one x would cost as much as a whole one. */
static void add(unsigned rows, unsigned m, const float *weights, const float *x, size_t count,
                float *sums)
{
    unsigned across = (rows + TILE_ROWS - 1) / TILE_ROWS, down = (m + TILE_M - 1) / TILE_M;
    for (unsigned i = 0; i < down; i++)
        for (unsigned j = 0; j < across; j++) {
            unsigned vector = m * i / down, row = rows * j / across;
            tile(rows * (j + 1) / across - row, m * (i + 1) / down - vector,
                 weights + row * QWEN_GEMV_CHUNK, x + vector * QWEN_GEMV_CHUNK, count,
                 sums + (vector * QWEN_GEMV_STREAMS + row) * QWEN_GEMV_LANES);
        }
}

static float reduce_lanes(const float *lanes)
{
    gemv_sums sums;
    sums_load(&sums, lanes);
    return reduce(&sums);
}

#endif
