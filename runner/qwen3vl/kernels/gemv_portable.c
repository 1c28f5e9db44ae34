/* SPDX-License-Identifier: Apache-2.0 */
/* Rows times a vector in plain C: the lanes of the vector kernels, one by one. */
#include <math.h>
#include <string.h>

#include "bf12_escapes.h"
#include "gemv_impl.h"
#include "widen_impl.h"

static void arrange(const float *x, size_t count, float *out)
{
    for (size_t i = 0; i < count; i += 32)
        for (size_t j = 0; j < 16; j++) {
            out[i + j] = x[i + 2 * j];
            out[i + 16 + j] = x[i + 2 * j + 1];
        }
}

/* The element of k that lies at place @p i of x. */
static inline uint64_t element_at(cenote_dtype dtype, uint64_t i)
{
    return dtype == CENOTE_DTYPE_BF16 ? i / 32 * 32 + i % 16 * 2 + i % 32 / 16 : i;
}

/* Across lanes: i with i + 8, then i + 4, i + 2, i + 1. */
static float reduce(const float *lanes)
{
    float sums[QWEN_GEMV_LANES];
    memcpy(sums, lanes, sizeof sums);
    for (unsigned half = QWEN_GEMV_LANES / 2; half > 0; half /= 2)
        for (unsigned i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sums[0];
}

static float dot(cenote_dtype dtype, const float *x, const unsigned char *w, uint64_t k)
{
    float lanes[QWEN_GEMV_LANES] = {0};
    uint64_t padded = (k + QWEN_GEMV_BLOCK - 1) / QWEN_GEMV_BLOCK * QWEN_GEMV_BLOCK;
    for (uint64_t i = 0; i < padded; i++) {
        uint64_t element = element_at(dtype, i);
        /* Past the end too: adding 0 turns a sum of -0 into +0, in registers as here. */
        float weight = element < k ? qwen_widen_at(dtype, w, element) : 0.0f;
        lanes[i % QWEN_GEMV_LANES] = fmaf(weight, x[i], lanes[i % QWEN_GEMV_LANES]);
    }
    return reduce(lanes);
}

/* ---- the 12-bit form: cenote/bf12.h ---- */

/* Element @p column of a group, without its escape. */
static float element_of(const unsigned char *table, const unsigned char *group, unsigned column)
{
    unsigned place = cenote_bf12_element(column % 32), half = column / 32;
    unsigned code = group[CENOTE_BF12_CODES_BYTE + place] >> (half * 4) & 15;
    return qwen_widen_bf16((uint16_t)(table[code] << 8 | group[half * 32 + place]));
}

static void widen_bf12(const unsigned char *table, const unsigned char *w, size_t groups,
                       float *out)
{
    for (; groups > 0; groups--) {
        for (unsigned i = 0; i < CENOTE_BF12_GROUP; i++)
            out[qwen_bf12_place(i)] = element_of(table, w, i);
        w += CENOTE_BF12_GROUP_BYTES;
        out += CENOTE_BF12_GROUP;
    }
}

static float dot_packed(const float *x, const cenote_bf12_view *panel, uint64_t row, uint64_t k)
{
    const unsigned char *group = panel->groups + row * panel->row_bytes;
    qwen_bf12_escapes escapes = qwen_bf12_escapes_of(panel, row);
    float lanes[QWEN_GEMV_LANES] = {0};
    for (uint64_t first = 0; first < k; first += CENOTE_BF12_GROUP) {
        float weights[CENOTE_BF12_GROUP];
        uint64_t left = k - first;
        widen_bf12(panel->table, group, 1, weights);
        qwen_bf12_patch(&escapes, first / CENOTE_BF12_GROUP, weights);
        for (unsigned i = 0; i < CENOTE_BF12_GROUP && i / QWEN_GEMV_BLOCK * QWEN_GEMV_BLOCK < left;
             i++) {
            float weight = element_at(CENOTE_DTYPE_BF16, i) < left ? weights[i] : 0.0f;
            lanes[i % QWEN_GEMV_LANES] = fmaf(weight, x[first + i], lanes[i % QWEN_GEMV_LANES]);
        }
        group += CENOTE_BF12_GROUP_BYTES;
    }
    return reduce(lanes);
}

static void dots_bf12(unsigned rows, const float *x, const cenote_bf12_view *panel, uint64_t row,
                      uint64_t stride, uint64_t k, float *sums)
{
    for (unsigned r = 0; r < rows; r++)
        sums[r] = dot_packed(x, panel, row + r * stride, k);
}

#define DOTS(name, dtype)                                                                          \
    static void name(unsigned rows, const float *x, const unsigned char *w, size_t stream_bytes,   \
                     uint64_t k, float *sums)                                                      \
    {                                                                                              \
        for (unsigned r = 0; r < rows; r++)                                                        \
            sums[r] = dot(dtype, x, w + r * stream_bytes, k);                                      \
    }
DOTS(dots_f32, CENOTE_DTYPE_F32)
DOTS(dots_f16, CENOTE_DTYPE_F16)
DOTS(dots_bf16, CENOTE_DTYPE_BF16)

/* ---- several rows of x: gemv_many.c ---- */

static void widen(cenote_dtype dtype, const unsigned char *w, size_t count, float *out)
{
    for (uint64_t i = 0; i < qwen_gemv_padded(count); i++) {
        uint64_t element = element_at(dtype, i);
        out[i] = element < count ? qwen_widen_at(dtype, w, element) : 0.0f;
    }
}

static void add(unsigned rows, unsigned m, const float *weights, const float *x, size_t count,
                float *sums)
{
    for (unsigned i = 0; i < m; i++, x += QWEN_GEMV_CHUNK)
        for (unsigned r = 0; r < rows; r++) {
            float *lanes = sums + (i * QWEN_GEMV_STREAMS + r) * QWEN_GEMV_LANES;
            const float *row = weights + r * QWEN_GEMV_CHUNK;
            for (size_t k = 0; k < count; k++)
                lanes[k % QWEN_GEMV_LANES] = fmaf(row[k], x[k], lanes[k % QWEN_GEMV_LANES]);
        }
}

const qwen_gemv_ops qwen_gemv_portable = {arrange, dots_f32,   dots_f16, dots_bf16, dots_bf12,
                                          widen,   widen_bf12, add,      reduce};
