/* SPDX-License-Identifier: Apache-2.0 */
/* vec.h in plain C: the definition that the other two must match to the bit. */
#ifndef QWEN_VEC_PORTABLE_H
#define QWEN_VEC_PORTABLE_H

#define VEC_REGISTERS 8

typedef struct vec {
    float lane[VEC_LANES];
} vec;

#define VEC_EACH(i) for (unsigned i = 0; i < VEC_LANES; i++)

VEC_INLINE vec vec_load(const float *x)
{
    vec v;
    memcpy(v.lane, x, sizeof v.lane);
    return v;
}

/* Lanes [0, count), the rest zero; count < 16. */
VEC_INLINE vec vec_load_part(const float *x, unsigned count)
{
    vec v;
    VEC_EACH(i)
    v.lane[i] = i < count ? x[i] : 0.0f;
    return v;
}

VEC_INLINE void vec_store(float *x, vec a)
{
    memcpy(x, a.lane, sizeof a.lane);
}

/* Lanes [0, count) only; count < 16. */
VEC_INLINE void vec_store_part(float *x, vec a, unsigned count)
{
    VEC_EACH(i)
    if (i < count)
        x[i] = a.lane[i];
}

VEC_INLINE vec vec_set(float x)
{
    vec v;
    VEC_EACH(i)
    v.lane[i] = x;
    return v;
}

VEC_INLINE vec vec_add(vec a, vec b)
{
    VEC_EACH(i)
    a.lane[i] += b.lane[i];
    return a;
}

VEC_INLINE vec vec_sub(vec a, vec b)
{
    VEC_EACH(i)
    a.lane[i] -= b.lane[i];
    return a;
}

VEC_INLINE vec vec_mul(vec a, vec b)
{
    VEC_EACH(i)
    a.lane[i] *= b.lane[i];
    return a;
}

VEC_INLINE vec vec_div(vec a, vec b)
{
    VEC_EACH(i)
    a.lane[i] /= b.lane[i];
    return a;
}

/* a * b + c, rounded once. */
VEC_INLINE vec vec_fma(vec a, vec b, vec c)
{
    VEC_EACH(i)
    c.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return c;
}

/* c - a * b, rounded once. */
VEC_INLINE vec vec_fnma(vec a, vec b, vec c)
{
    VEC_EACH(i)
    c.lane[i] = fmaf(-a.lane[i], b.lane[i], c.lane[i]);
    return c;
}

VEC_INLINE vec vec_max(vec a, vec b)
{
    VEC_EACH(i)
    a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

VEC_INLINE vec vec_min(vec a, vec b)
{
    VEC_EACH(i)
    a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

VEC_INLINE vec vec_abs(vec a)
{
    VEC_EACH(i)
    a.lane[i] = fabsf(a.lane[i]);
    return a;
}

/* Lanes [0, count) of @p a, the others of @p rest; count <= 16. */
VEC_INLINE vec vec_keep_first(vec a, unsigned count, vec rest)
{
    VEC_EACH(i)
    if (i >= count)
        a.lane[i] = rest.lane[i];
    return a;
}

/* a * 2^n, rounded once; n is whole, in [-252, 252], or NaN where a is NaN too. */
VEC_INLINE vec vec_scale2(vec a, vec n)
{
    VEC_EACH(i)
    if (!isnan(n.lane[i]))
        a.lane[i] = ldexpf(a.lane[i], (int)n.lane[i]);
    return a;
}

/* Across lanes: i with i + 8, then i + 4, i + 2, i + 1. */
VEC_INLINE float vec_sum(vec a)
{
    for (unsigned half = VEC_LANES / 2; half > 0; half /= 2)
        for (unsigned i = 0; i < half; i++)
            a.lane[i] += a.lane[i + half];
    return a.lane[0];
}

VEC_INLINE float vec_max_across(vec a)
{
    for (unsigned half = VEC_LANES / 2; half > 0; half /= 2)
        for (unsigned i = 0; i < half; i++)
            a.lane[i] = a.lane[i] > a.lane[i + half] ? a.lane[i] : a.lane[i + half];
    return a.lane[0];
}

/* Sixteen bf16 numbers, widened. */
VEC_INLINE vec vec_load_bf16(const uint16_t *x)
{
    vec v;
    VEC_EACH(i)
    {
        uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(&v.lane[i], &bits, sizeof bits);
    }
    return v;
}

/* Four times four floats side by side. */
VEC_INLINE vec vec_quads_f32(const float *a, const float *b, const float *c, const float *d)
{
    vec v;
    memcpy(v.lane, a, 16);
    memcpy(v.lane + 4, b, 16);
    memcpy(v.lane + 8, c, 16);
    memcpy(v.lane + 12, d, 16);
    return v;
}

VEC_INLINE vec vec_quads_bf16(const uint16_t *a, const uint16_t *b, const uint16_t *c,
                              const uint16_t *d)
{
    const uint16_t *quads[4] = {a, b, c, d};
    vec v;
    VEC_EACH(i)
    {
        uint32_t bits = (uint32_t)quads[i / 4][i % 4] << 16;
        memcpy(&v.lane[i], &bits, sizeof bits);
    }
    return v;
}

/* Four 4 x 4 matrices at once: lane 4 q + j of x[i] changes places with lane 4 q + i of x[j]. */
VEC_INLINE void vec_transpose_quads(vec x[4])
{
    for (unsigned quad = 0; quad < VEC_LANES; quad += 4)
        for (unsigned i = 0; i < 4; i++)
            for (unsigned j = 0; j < i; j++) {
                float kept = x[i].lane[quad + j];
                x[i].lane[quad + j] = x[j].lane[quad + i];
                x[j].lane[quad + i] = kept;
            }
}

#endif
