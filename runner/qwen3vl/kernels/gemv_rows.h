/* SPDX-License-Identifier: Apache-2.0 */
/* The loop over k that the AVX2 and the AVX-512 rows times a vector have in common. Before it is
 * included: gemv_sums (the lanes of a row), sums_zero(), add_block() and reduce(). */
#ifndef QWEN_GEMV_ROWS_H
#define QWEN_GEMV_ROWS_H

/* Far enough to come from L2 in time, near enough not to push x out of L1; from memory to L2 the
 * hardware fetches streams better than any distance here would. */
#define AHEAD_BYTES 256u
#define LINE_BYTES  64u

INLINE void dot_rows(cenote_dtype dtype, const unsigned rows, const float *x,
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

/* One loop for each number of rows and dtype, so that all sums stay in registers. */
#define DOTS(name, dtype)                                                                          \
    static void name(unsigned rows, const float *x, const unsigned char *w, size_t stream_bytes,   \
                     uint64_t k, float *sums)                                                      \
    {                                                                                              \
        switch (rows) {                                                                            \
        case 1:                                                                                    \
            dot_rows(dtype, 1, x, w, stream_bytes, k, sums);                                       \
            break;                                                                                 \
        case 2:                                                                                    \
            dot_rows(dtype, 2, x, w, stream_bytes, k, sums);                                       \
            break;                                                                                 \
        case 3:                                                                                    \
            dot_rows(dtype, 3, x, w, stream_bytes, k, sums);                                       \
            break;                                                                                 \
        case 4:                                                                                    \
            dot_rows(dtype, 4, x, w, stream_bytes, k, sums);                                       \
            break;                                                                                 \
        case 5:                                                                                    \
            dot_rows(dtype, 5, x, w, stream_bytes, k, sums);                                       \
            break;                                                                                 \
        default:                                                                                   \
            dot_rows(dtype, QWEN_GEMV_STREAMS, x, w, stream_bytes, k, sums);                       \
            break;                                                                                 \
        }                                                                                          \
    }
DOTS(dots_f32, CENOTE_DTYPE_F32)
DOTS(dots_f16, CENOTE_DTYPE_F16)
DOTS(dots_bf16, CENOTE_DTYPE_BF16)

#endif
