/* SPDX-License-Identifier: Apache-2.0 */
/* exp, and the gates of the feed-forward layers, over vec.
 *
 * SiLU and both GELUs are x * P(x) with a P that has P(x) + P(-x) = 1. They are all computed as
 *
 *     x * P(x) = max(x, 0) - |x| * P(-|x|)
 *
 * where nothing cancels: the second term is right to a few ulp far into the tail, in which the
 * textbook's 1 + tanh and 1 + erf have no bit left. |x| is capped where the term is zero, so that
 * -Inf gives 0 and +Inf gives +Inf. */
#ifndef QWEN_VEC_MATH_H
#define QWEN_VEC_MATH_H

#include "vec.h"

/* e^x within 1 ulp; 0 below -104, +Inf above 88.73, NaN for NaN.
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 p(r) with p of degree 4, minimax for the
 * relative error of e^r (3.1e-9; Remez' exchange). */
VEC_INLINE vec vec_exp(vec x)
{
    /* Adding 1.5 * 2^23 rounds to the nearest whole number, ties to even. */
    const vec shift = vec_set(0x1.8p23f);
    x = vec_max(vec_set(-104.0f), vec_min(vec_set(89.0f), x));
    vec n = vec_sub(vec_fma(x, vec_set(0x1.715476p0f), shift), shift);
    /* ln 2 in two parts; the first has few enough bits for the difference to be exact. */
    vec r = vec_fnma(n, vec_set(0x1.62e4p-1f), x);
    r = vec_fnma(n, vec_set(0x1.7f7d1cp-20f), r);
    vec p = vec_set(0.00138144672f);
    p = vec_fma(p, r, vec_set(0.00836878084f));
    p = vec_fma(p, r, vec_set(0.0416683927f));
    p = vec_fma(p, r, vec_set(0.166665196f));
    p = vec_fma(p, r, vec_set(0.49999994f));
    vec e = vec_fma(vec_mul(r, r), p, r);
    return vec_scale2(vec_add(e, vec_set(1.0f)), n);
}

/* max(x, 0) - a * e / (1 + e), e = e^-v: the gate whose P is the logistic function. */
VEC_INLINE vec vec_logistic_gate(vec x, vec a, vec v)
{
    vec e = vec_exp(vec_sub(vec_set(0.0f), v));
    vec tail = vec_div(vec_mul(a, e), vec_add(vec_set(1.0f), e));
    return vec_sub(vec_max(vec_set(0.0f), x), tail);
}

VEC_INLINE vec vec_magnitude(vec x, float cap)
{
    return vec_min(vec_set(cap), vec_abs(x));
}

/* x / (1 + e^-x) */
VEC_INLINE vec vec_silu(vec x)
{
    vec a = vec_magnitude(x, 128.0f);
    return vec_logistic_gate(x, a, a);
}

/* x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); (1 + tanh u) / 2 is the logistic function
 * of 2 u. */
VEC_INLINE vec vec_gelu_tanh(vec x)
{
    vec a = vec_magnitude(x, 128.0f);
    vec slope = vec_fma(vec_mul(a, a), vec_set(0.0713548139f), vec_set(1.59576917f));
    return vec_logistic_gate(x, a, vec_mul(a, slope));
}

/* x / 2 * (1 + erf(x / sqrt 2)).
 * P(-a) = erfc(z) / 2 with z = a / sqrt 2, and erfc(z) = e^(-z^2) t q(t) with t = 1 / (1 + 0.35 z)
 * and q of degree 9, minimax for the relative error (8.4e-9) up to z = 11.4. */
VEC_INLINE vec vec_gelu_erf(vec x)
{
    static const float q[10] = {0.0400774814f, -0.16824989f, 0.203952655f, -0.0585562289f,
                                0.113479026f,  0.131354377f, 0.156452656f, 0.186728284f,
                                0.197285816f,  0.197475836f};
    const vec one = vec_set(1.0f);
    const vec half = vec_set(0.5f);
    vec a = vec_magnitude(x, 16.0f);
    vec t = vec_div(one, vec_fma(a, vec_set(0.247487366f), one));
    vec p = vec_set(q[0]);
    for (unsigned i = 1; i < 10; i++)
        p = vec_fma(p, t, vec_set(q[i]));
    /* e^-s is sensitive to the rounding of s = a^2 / 2: s + rest is exact. */
    vec s = vec_mul(vec_mul(a, half), a);
    vec rest = vec_fma(vec_mul(a, half), a, vec_sub(vec_set(0.0f), s));
    vec e = vec_exp(vec_sub(vec_set(0.0f), s));
    e = vec_fnma(e, rest, e);
    vec tail = vec_mul(vec_mul(vec_mul(a, half), vec_mul(t, p)), e);
    return vec_sub(vec_max(vec_set(0.0f), x), tail);
}

#endif
