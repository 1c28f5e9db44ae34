/* SPDX-License-Identifier: Apache-2.0 */
/* Norms, rotary positions, gates: near the definition in double precision, and the same bits from
 * every instruction set, number of threads and alignment. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dense_support.h"

#define QWEN_VEC_PORTABLE
#include "vec_math.h"

#define MARK         12345.0f
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- operands ---- */

static uint64_t random_state = 1;

/* xorshift64*, as a float in [-1, 1) */
static float random_float(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    uint64_t bits = random_state * UINT64_C(2685821657736338717) >> 11;
    return (float)((double)bits * 0x1p-52 - 1.0);
}

static float *floats(size_t count)
{
    float *x = malloc(count * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < count; i++)
        x[i] = random_float();
    return x;
}

static float *copy(const float *x, size_t count)
{
    float *y = malloc(count * sizeof *y);
    assert_non_null(y);
    memcpy(y, x, count * sizeof *y);
    return y;
}

static float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void assert_same(const float *got, const float *wanted, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++)
        if (!same_bits(got[i], wanted[i]))
            fail_msg("%s: [%zu] is %a, expected %a", what, i, (double)got[i], (double)wanted[i]);
}

/* Distance in units of the last place of the exact value as a float. */
static double ulps(float got, double exact)
{
    if ((double)got == exact)
        return 0;
    int exponent;
    frexp(exact, &exponent);
    return fabs((double)got - exact) / ldexp(1, exponent - 24 < -149 ? -149 : exponent - 24);
}

/* ---- every set ---- */

/* Runs @p test on each instruction set that the CPU has. */
static void each_isa(void (*test)(qwen_kernels *kernels))
{
    for (qwen_isa isa = QWEN_ISA_PORTABLE; isa <= QWEN_ISA_AVX512; isa++) {
        dense_rig rig;
        if (!dense_rig_open(&rig, isa, 1, 16)) {
            print_message("skipped: this CPU lacks %s\n", qwen_isa_text(isa));
            continue;
        }
        test(rig.kernels);
        dense_rig_close(&rig);
    }
}

/* ---- exp and the gates ---- */

#define SWEEP_STEP 2039u /* bits: all exponents, both signs, 2.1 million floats */

static void test_exp_is_within_an_ulp(void **state)
{
    (void)state;
    double worst = 0;
    float worst_at = 0;
    for (uint64_t bits = 0; bits < UINT32_MAX - VEC_LANES * SWEEP_STEP;) {
        float x[VEC_LANES], y[VEC_LANES];
        for (unsigned i = 0; i < VEC_LANES; i++, bits += SWEEP_STEP)
            x[i] = float_of_bits((uint32_t)bits);
        vec_store(y, vec_exp(vec_load(x)));
        for (unsigned i = 0; i < VEC_LANES; i++) {
            if (isnan(x[i])) {
                assert_true(isnan(y[i]));
                continue;
            }
            double exact = exp((double)x[i]);
            if (exact > (double)FLT_MAX) {
                assert_true((double)y[i] >= (double)FLT_MAX);
                continue;
            }
            double error = ulps(y[i], exact);
            if (error > worst) {
                worst = error;
                worst_at = x[i];
            }
        }
    }
    print_message("exp: at most %.3f ulp, at %a\n", worst, (double)worst_at);
    assert_true(worst <= 1.0);
}

static void test_exp_at_its_limits(void **state)
{
    (void)state;
    const float x[VEC_LANES] = {0,        -0.0f, -INFINITY, INFINITY, -104,      89,
                                88.7228f, -88,   -FLT_MAX,  FLT_MAX,  0x1p-149f, -103.9f};
    float y[VEC_LANES];
    vec_store(y, vec_exp(vec_load(x)));
    assert_true(y[0] == 1 && y[1] == 1);
    assert_true(y[2] == 0 && y[3] == INFINITY);
    assert_true(y[4] == 0 && y[5] == INFINITY);
    assert_true(isfinite(y[6]) && y[7] > 0);
    assert_true(y[8] == 0 && y[9] == INFINITY);
    assert_true(y[10] == 1 && y[11] == 0x1p-149f);
}

typedef void (*gate_fn)(qwen_kernels *kernels, float *x, uint64_t count);

static void silu(qwen_kernels *kernels, float *x, uint64_t count)
{
    float *ones = floats(count);
    for (uint64_t i = 0; i < count; i++)
        ones[i] = 1;
    qwen_silu_mul(kernels, x, ones, count);
    free(ones);
}

static double silu_exact(double x)
{
    return x / (1 + exp(-x));
}

static double gelu_tanh_exact(double x)
{
    return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double gelu_erf_exact(double x)
{
    return x / 2 * erfc(-x / sqrt(2));
}

typedef struct gate {
    const char *name;
    gate_fn run;
    double (*exact)(double x);
    float range; /* where the relative error is held: |x| below it */
    double ulps_max;
    double error_max; /* anywhere, beside the rounding of the result */
} gate;

/* gelu_tanh's exponent is a rounded cubic: in its tail the relative error grows, while the value
 * vanishes. */
static const gate gates[] = {
    {"silu", silu, silu_exact, 80, 4, 1e-7},
    {"gelu_tanh", qwen_gelu_tanh, gelu_tanh_exact, 4, 20, 1e-7},
    {"gelu_erf", qwen_gelu_erf, gelu_erf_exact, 12, 8, 1e-7},
};

static void gate_check(const gate *g, const float *x, const float *y, size_t count,
                       double *ulps_max, double *error_max)
{
    for (size_t i = 0; i < count; i++) {
        if (isnan(x[i])) {
            assert_true(isnan(y[i]));
            continue;
        }
        if (isinf(x[i]) || fabsf(x[i]) > 1e6f) {
            assert_true(x[i] > 0 ? y[i] == x[i] : y[i] == 0);
            continue;
        }
        double exact = g->exact((double)x[i]);
        double error = fabs((double)y[i] - exact) - fabs(exact) * 0x1p-23;
        *error_max = error > *error_max ? error : *error_max;
        if (fabsf(x[i]) < g->range && ulps(y[i], exact) > *ulps_max)
            *ulps_max = ulps(y[i], exact);
    }
}

static void gates_test(qwen_kernels *kernels)
{
    const size_t count = 1009;
    float *x = floats(count);
    for (size_t j = 0; j < COUNT(gates); j++) {
        double ulps_max = 0, error_max = 0;
        for (uint64_t bits = 0; bits <= UINT32_MAX;) {
            for (size_t i = 0; i < count; i++, bits += SWEEP_STEP)
                x[i] = float_of_bits((uint32_t)bits);
            float *y = copy(x, count);
            gates[j].run(kernels, y, count);
            gate_check(&gates[j], x, y, count, &ulps_max, &error_max);
            free(y);
        }
        print_message("%s, %s: at most %.2f ulp for |x| < %g, and %.1e beyond rounding\n",
                      gates[j].name, qwen_isa_text(qwen_kernels_isa(kernels)), ulps_max,
                      (double)gates[j].range, error_max);
        assert_true(ulps_max <= gates[j].ulps_max);
        assert_true(error_max <= gates[j].error_max);
    }
    free(x);
}

static void test_gates_are_near_the_definition(void **state)
{
    (void)state;
    each_isa(gates_test);
}

static void gate_limits_test(qwen_kernels *kernels)
{
    for (size_t j = 0; j < COUNT(gates); j++) {
        float x[] = {0,        -0.0f, INFINITY, -INFINITY, NAN, FLT_MAX,
                     -FLT_MAX, -200,  200,      0x1p-149f, -40, -FLT_MIN};
        gates[j].run(kernels, x, COUNT(x));
        assert_true(x[0] == 0 && x[1] == 0 && signbit(x[1]));
        assert_true(x[2] == INFINITY && x[3] == 0 && isnan(x[4]));
        assert_true(x[5] == FLT_MAX && x[6] == 0);
        assert_true(x[7] == 0 && x[8] == 200);
        assert_true(x[9] >= 0 && x[9] <= 0x1p-149f);
        assert_true(x[10] <= 0 && x[10] > -1e-15f);
        assert_true(fabs((double)x[11] + (double)FLT_MIN / 2) < (double)FLT_MIN * 1e-6);
    }
}

static void test_gates_at_their_limits(void **state)
{
    (void)state;
    each_isa(gate_limits_test);
}

/* ---- norms ---- */

static const uint64_t widths[] = {1, 3, 4, 15, 16, 17, 48, 63, 64, 65, 72, 128, 200, 1152, 5120};

typedef struct norm_case {
    uint64_t rows, n;
    size_t x_stride, out_stride;
    float *x, *gain, *bias;
} norm_case;

static norm_case norm_case_make(uint64_t rows, uint64_t n, float shift)
{
    norm_case c = {.rows = rows, .n = n, .x_stride = n + 3, .out_stride = n + 5};
    c.x = floats((rows - 1) * c.x_stride + n);
    c.gain = floats(n);
    c.bias = floats(n);
    for (uint64_t i = 0; i < (rows - 1) * c.x_stride + n; i++)
        c.x[i] = c.x[i] * 3 + shift;
    return c;
}

static void norm_case_free(norm_case *c)
{
    free(c->x);
    free(c->gain);
    free(c->bias);
}

/* [rows][out_stride], the gaps marked. */
static float *norm_run(qwen_kernels *kernels, const norm_case *c, bool layer, float eps)
{
    float *out = floats(c->rows * c->out_stride);
    for (uint64_t i = 0; i < c->rows * c->out_stride; i++)
        out[i] = MARK;
    if (layer)
        qwen_layer_norm(kernels, out, c->out_stride, c->x, c->x_stride, c->rows, c->n, c->gain,
                        c->bias, eps);
    else
        qwen_rms_norm(kernels, out, c->out_stride, c->x, c->x_stride, c->rows, c->n, c->gain, eps);
    return out;
}

static void norm_exact(const norm_case *c, uint64_t row, bool layer, double eps, double *out)
{
    const float *x = c->x + row * c->x_stride;
    double mean = 0, square = 0;
    for (uint64_t i = 0; layer && i < c->n; i++)
        mean += (double)x[i] / (double)c->n;
    for (uint64_t i = 0; i < c->n; i++)
        square += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)c->n;
    for (uint64_t i = 0; i < c->n; i++) {
        out[i] = ((double)x[i] - mean) / sqrt(square + eps) * (double)c->gain[i];
        if (layer)
            out[i] += (double)c->bias[i];
    }
}

static void norm_check(qwen_kernels *kernels, uint64_t n, float shift, bool layer, double limit)
{
    norm_case c = norm_case_make(5, n, shift);
    float *out = norm_run(kernels, &c, layer, 1e-6f);
    double *exact = calloc(n, sizeof *exact);
    assert_non_null(exact);
    double error = 0, size = 0;
    for (uint64_t row = 0; row < c.rows; row++) {
        norm_exact(&c, row, layer, (double)1e-6f, exact);
        for (uint64_t i = 0; i < n; i++) {
            double difference = (double)out[row * c.out_stride + i] - exact[i];
            error += difference * difference;
            size += exact[i] * exact[i];
        }
        for (uint64_t i = n; i < c.out_stride; i++)
            assert_true(out[row * c.out_stride + i] == MARK);
    }
    if (!(sqrt(error / size) <= limit))
        fail_msg("n %lu, shift %g: relative error %g", (unsigned long)n, (double)shift,
                 sqrt(error / size));
    free(exact);
    free(out);
    norm_case_free(&c);
}

static void norms_test(qwen_kernels *kernels)
{
    for (size_t i = 0; i < COUNT(widths); i++) {
        norm_check(kernels, widths[i], 0, false, 2e-7);
        norm_check(kernels, widths[i], 1, false, 2e-7);
        /* A few elements may lie close to their mean, which is rounded to a float of its size. */
        norm_check(kernels, widths[i], 0, true, widths[i] < 15 ? 2e-6 : 2e-7);
        if (widths[i] > 1)
            norm_check(kernels, widths[i], 300, true, 3e-5);
    }
}

static void test_norms_are_near_the_definition(void **state)
{
    (void)state;
    each_isa(norms_test);
}

static void norm_in_place_test(qwen_kernels *kernels)
{
    for (int layer = 0; layer < 2; layer++) {
        norm_case c = norm_case_make(3, 77, 0.5f);
        c.out_stride = c.x_stride = c.n;
        float *wanted = norm_run(kernels, &c, layer, 1e-6f);
        if (layer)
            qwen_layer_norm(kernels, c.x, c.n, c.x, c.n, 3, c.n, c.gain, c.bias, 1e-6f);
        else
            qwen_rms_norm(kernels, c.x, c.n, c.x, c.n, 3, c.n, c.gain, 1e-6f);
        assert_same(c.x, wanted, 3 * c.n, "in place");
        free(wanted);
        norm_case_free(&c);
    }
}

static void test_norms_work_in_place(void **state)
{
    (void)state;
    each_isa(norm_in_place_test);
}

static void norm_zero_test(qwen_kernels *kernels)
{
    float x[20] = {0}, gain[20], bias[20];
    for (int i = 0; i < 20; i++) {
        gain[i] = 2;
        bias[i] = (float)i;
    }
    float out[20];
    qwen_rms_norm(kernels, out, 20, x, 20, 1, 20, gain, 1e-6f);
    for (int i = 0; i < 20; i++)
        assert_true(out[i] == 0);
    qwen_layer_norm(kernels, out, 20, x, 20, 1, 20, gain, bias, 1e-6f);
    assert_same(out, bias, 20, "a row of zeros");
}

static void test_norms_of_zero_rows_are_finite(void **state)
{
    (void)state;
    each_isa(norm_zero_test);
}

/* ---- rotary positions ---- */

static void rope_test(qwen_kernels *kernels)
{
    static const uint32_t dims[] = {4, 8, 32, 36, 48, 64, 72, 128, 256};
    for (size_t d = 0; d < COUNT(dims); d++) {
        const uint32_t heads = 3, half = dims[d] / 2;
        const uint64_t rows = 4;
        const size_t stride = heads * dims[d] + 7;
        float *x = floats(rows * stride);
        float *angles = floats(rows * half);
        float *cosines = copy(angles, rows * half);
        float *sines = copy(angles, rows * half);
        for (size_t i = 0; i < rows * half; i++) {
            cosines[i] = cosf(angles[i] * 100);
            sines[i] = sinf(angles[i] * 100);
        }
        float *y = copy(x, rows * stride);
        qwen_rope(kernels, y, stride, rows, heads, dims[d], cosines, sines);
        for (uint64_t row = 0; row < rows; row++) {
            for (uint32_t i = 0; i < heads * dims[d]; i++) {
                uint32_t j = i % dims[d] % half;
                bool low = i % dims[d] < half;
                const float *at = x + row * stride + i;
                double a = (double)at[0], b = low ? -(double)at[half] : (double)at[-(int)half];
                double exact =
                    a * (double)cosines[row * half + j] + b * (double)sines[row * half + j];
                assert_true(fabs((double)y[row * stride + i] - exact) < 1.3e-7);
            }
            assert_same(y + row * stride + heads * dims[d], x + row * stride + heads * dims[d], 7,
                        "beside a row");
        }
        free(x);
        free(y);
        free(angles);
        free(cosines);
        free(sines);
    }
}

static void test_rope_turns_pairs(void **state)
{
    (void)state;
    each_isa(rope_test);
}

/* ---- the same bits ---- */

/* Sizes on both sides of where the team starts to work; none a multiple of 16. */
static const uint64_t sizes[] = {1, 15, 333, 16385, 40001};

static void elements_all(qwen_kernels *kernels, float *x, const float *y, uint64_t count)
{
    qwen_silu_mul(kernels, x, y, count);
    qwen_gelu_tanh(kernels, x + count, count);
    qwen_gelu_erf(kernels, x + 2 * count, count);
    qwen_add(kernels, x + 3 * count, y, count);
}

/* Everything once, into one buffer of results. */
static float *results(qwen_kernels *kernels, size_t *out_count)
{
    random_state = 7;
    size_t capacity = 0;
    for (size_t i = 0; i < COUNT(sizes); i++)
        capacity += 4 * sizes[i];
    size_t count = 0;
    float *all = floats(capacity + 6 * 40000);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        float *y = floats(sizes[i]);
        float *x = all + count;
        for (size_t j = 0; j < 4 * sizes[i]; j++)
            x[j] = ldexpf(x[j], (int)(j % 19) - 9);
        x[0] = NAN;
        x[sizes[i] - 1] = -INFINITY;
        elements_all(kernels, x, y, sizes[i]);
        count += 4 * sizes[i];
        free(y);
    }
    for (int rows = 3; rows <= 33; rows += 30) {
        norm_case c = norm_case_make((uint64_t)rows, 1001, 0.1f);
        for (int layer = 0; layer < 2; layer++) {
            float *out = norm_run(kernels, &c, layer, 1e-6f);
            memcpy(all + count, out, c.rows * c.out_stride * sizeof *out);
            count += c.rows * c.out_stride;
            free(out);
        }
        const uint32_t heads = 13, head_dim = 72; /* 936 of a row's 1004 */
        qwen_rope(kernels, c.x, c.x_stride, c.rows - 1, heads, head_dim, all, all + 40);
        memcpy(all + count, c.x, (c.rows - 1) * c.x_stride * sizeof *c.x);
        count += (c.rows - 1) * c.x_stride;
        norm_case_free(&c);
    }
    assert_true(count <= capacity + 6 * 40000);
    *out_count = count;
    return all;
}

static void test_bits_do_not_depend_on_set_or_threads(void **state)
{
    (void)state;
    static const unsigned threads[] = {1, 2, 3, 5};
    float *wanted = NULL;
    size_t wanted_count = 0;
    for (qwen_isa isa = QWEN_ISA_PORTABLE; isa <= QWEN_ISA_AVX512; isa++)
        for (size_t i = 0; i < COUNT(threads); i++) {
            dense_rig rig;
            if (!dense_rig_open(&rig, isa, threads[i], 16)) {
                print_message("skipped: this CPU lacks %s\n", qwen_isa_text(isa));
                break;
            }
            size_t count;
            float *got = results(rig.kernels, &count);
            if (wanted == NULL) {
                wanted = got;
                wanted_count = count;
            } else {
                assert_int_equal(count, wanted_count);
                assert_same(got, wanted, count, qwen_isa_text(isa));
                free(got);
            }
            dense_rig_close(&rig);
        }
    free(wanted);
}

/* An element's bits do not depend on its place in the run. */
static void place_test(qwen_kernels *kernels)
{
    const size_t count = 200;
    float *x = floats(4 * count), *y = floats(count);
    float *whole = copy(x, 4 * count);
    elements_all(kernels, whole, y, count);
    for (size_t i = 0; i < count; i++) {
        float one[4] = {x[i], x[count + i], x[2 * count + i], x[3 * count + i]};
        elements_all(kernels, one, y + i, 1);
        for (size_t j = 0; j < 4; j++)
            assert_true(same_bits(one[j], whole[j * count + i]));
    }
    free(x);
    free(y);
    free(whole);
}

static void test_bits_do_not_depend_on_place(void **state)
{
    (void)state;
    each_isa(place_test);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp_is_within_an_ulp),
        cmocka_unit_test(test_exp_at_its_limits),
        cmocka_unit_test(test_gates_are_near_the_definition),
        cmocka_unit_test(test_gates_at_their_limits),
        cmocka_unit_test(test_norms_are_near_the_definition),
        cmocka_unit_test(test_norms_work_in_place),
        cmocka_unit_test(test_norms_of_zero_rows_are_finite),
        cmocka_unit_test(test_rope_turns_pairs),
        cmocka_unit_test(test_bits_do_not_depend_on_set_or_threads),
        cmocka_unit_test(test_bits_do_not_depend_on_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
