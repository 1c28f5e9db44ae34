/* SPDX-License-Identifier: Apache-2.0 */
/* The row kernels, written once over vec. The file that includes this has chosen the registers
 * and defines ROWS_OPS, the name of the table.
 *
 * A sum over a row has 64 lanes: element i goes to lane i % 64, in ascending i. The four vectors
 * of lanes are added as (0 + 1) + (2 + 3), then the lanes as vec_sum does. */
#include "rows_impl.h"
#include "vec_math.h"

#define SUM_VECS 4u

/* Sum of (x - shift), or of its square. */
VEC_INLINE float row_sum(const float *x, uint64_t n, float shift, bool square)
{
    vec sums[SUM_VECS];
    vec shifts = vec_set(shift);
    for (unsigned j = 0; j < SUM_VECS; j++)
        sums[j] = vec_set(0.0f);
    uint64_t i = 0;
    for (; i + SUM_VECS * VEC_LANES <= n; i += SUM_VECS * VEC_LANES)
        for (unsigned j = 0; j < SUM_VECS; j++) {
            vec v = vec_sub(vec_load(x + i + j * VEC_LANES), shifts);
            sums[j] = square ? vec_fma(v, v, sums[j]) : vec_add(v, sums[j]);
        }
    for (unsigned j = 0; j < SUM_VECS; j++) {
        if (i + j * VEC_LANES >= n)
            break;
        uint64_t left = n - i - j * VEC_LANES;
        vec v = vec_sub(vec_load_first(x + i + j * VEC_LANES, left), shifts);
        if (left < VEC_LANES)
            v = vec_keep_first(v, (unsigned)left, vec_set(0.0f));
        sums[j] = square ? vec_fma(v, v, sums[j]) : vec_add(v, sums[j]);
    }
    return vec_sum(vec_add(vec_add(sums[0], sums[1]), vec_add(sums[2], sums[3])));
}

static void rms_norm(float *out, const float *x, uint64_t n, const float *gain, float eps)
{
    float mean_square = row_sum(x, n, 0.0f, true) / (float)n;
    vec scale = vec_set(1.0f / sqrtf(mean_square + eps));
    for (uint64_t i = 0; i < n; i += VEC_LANES) {
        vec v = vec_mul(vec_load_first(x + i, n - i), scale);
        vec_store_first(out + i, vec_mul(v, vec_load_first(gain + i, n - i)), n - i);
    }
}

/* Two passes: the mean is taken out before squaring, so that a large mean costs no digits. */
static void layer_norm(float *out, const float *x, uint64_t n, const float *gain, const float *bias,
                       float eps)
{
    float mean = row_sum(x, n, 0.0f, false) / (float)n;
    float variance = row_sum(x, n, mean, true) / (float)n;
    vec scale = vec_set(1.0f / sqrtf(variance + eps));
    for (uint64_t i = 0; i < n; i += VEC_LANES) {
        vec v = vec_mul(vec_sub(vec_load_first(x + i, n - i), vec_set(mean)), scale);
        v = vec_fma(v, vec_load_first(gain + i, n - i), vec_load_first(bias + i, n - i));
        vec_store_first(out + i, v, n - i);
    }
}

static void rope(float *x, uint32_t heads, uint32_t head_dim, const float *cosines,
                 const float *sines)
{
    uint32_t half = head_dim / 2;
    for (uint32_t head = 0; head < heads; head++) {
        float *first = x + (size_t)head * head_dim;
        float *second = first + half;
        for (uint32_t i = 0; i < half; i += VEC_LANES) {
            vec c = vec_load_first(cosines + i, half - i);
            vec s = vec_load_first(sines + i, half - i);
            vec a = vec_load_first(first + i, half - i);
            vec b = vec_load_first(second + i, half - i);
            vec_store_first(first + i, vec_fnma(b, s, vec_mul(a, c)), half - i);
            vec_store_first(second + i, vec_fma(a, s, vec_mul(b, c)), half - i);
        }
    }
}

static void silu_mul(float *gate, const float *up, uint64_t count)
{
    for (uint64_t i = 0; i < count; i += VEC_LANES) {
        vec v = vec_silu(vec_load_first(gate + i, count - i));
        v = vec_mul(v, vec_load_first(up + i, count - i));
        vec_store_first(gate + i, v, count - i);
    }
}

static void gelu_tanh(float *x, const float *unused, uint64_t count)
{
    (void)unused;
    for (uint64_t i = 0; i < count; i += VEC_LANES)
        vec_store_first(x + i, vec_gelu_tanh(vec_load_first(x + i, count - i)), count - i);
}

static void gelu_erf(float *x, const float *unused, uint64_t count)
{
    (void)unused;
    for (uint64_t i = 0; i < count; i += VEC_LANES)
        vec_store_first(x + i, vec_gelu_erf(vec_load_first(x + i, count - i)), count - i);
}

static void add(float *x, const float *y, uint64_t count)
{
    for (uint64_t i = 0; i < count; i += VEC_LANES) {
        vec v = vec_add(vec_load_first(x + i, count - i), vec_load_first(y + i, count - i));
        vec_store_first(x + i, v, count - i);
    }
}

const qwen_rows_ops ROWS_OPS = {
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .rope = rope,
    .silu_mul = silu_mul,
    .gelu_tanh = gelu_tanh,
    .gelu_erf = gelu_erf,
    .add = add,
};
