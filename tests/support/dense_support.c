/* SPDX-License-Identifier: Apache-2.0 */
#include "dense_support.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bf12_support.h"

#define MARK 12345.0f

bool dense_rig_open(dense_rig *rig, qwen_isa isa, unsigned thread_count, uint64_t k_max)
{
    cenote_budget_options budget = CENOTE_BUDGET_OPTIONS_INIT;
    budget.limit_bytes = UINT64_C(1) << 32;
    budget.process_bytes = 1;
    cenote_pool_options pool = CENOTE_POOL_OPTIONS_INIT;
    *rig = (dense_rig){0};
    assert_int_equal(cenote_budget_create(&budget, &rig->budget, NULL), CENOTE_OK);
    assert_int_equal(cenote_pool_create(rig->budget, &pool, &rig->pool, NULL), CENOTE_OK);
    assert_int_equal(cenote_team_create(thread_count, &rig->team, NULL), CENOTE_OK);
    cenote_status status =
        qwen_kernels_create(isa, rig->team, rig->pool, k_max, &rig->kernels, NULL);
    if (status == CENOTE_E_UNSUPPORTED) {
        dense_rig_close(rig);
        return false;
    }
    assert_int_equal(status, CENOTE_OK);
    return true;
}

void dense_rig_close(dense_rig *rig)
{
    qwen_kernels_destroy(rig->kernels);
    cenote_team_destroy(rig->team);
    assert_int_equal(cenote_pool_destroy(rig->pool), 0);
    cenote_budget_destroy(rig->budget);
}

/* ---- operands ---- */

/* xorshift64* */
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static float random_float(uint64_t *state)
{
    float value = (float)((double)(random_next(state) >> 11) * 0x1p-52 - 1.0);
    return random_next(state) % 37 == 0 ? value * 0x1p-130f : value;
}

static size_t weight_bytes(cenote_dtype dtype)
{
    return dtype == CENOTE_DTYPE_F32 ? 4 : 2;
}

/* Truncated bf16; f16 patterns below 2.0, denormals among them. */
static void fill_weights(dense_case *test, uint64_t *state)
{
    uint64_t count = test->shape.n * test->shape.k;
    for (uint64_t i = 0; i < count; i++) {
        float value = random_float(state);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        uint16_t half = (uint16_t)(bits >> 16);
        if (test->shape.dtype == CENOTE_DTYPE_F16)
            half = (uint16_t)(random_next(state) & 0xbfffu);
        if (test->shape.dtype == CENOTE_DTYPE_F32)
            memcpy(test->w + i * 4, &value, 4);
        else
            memcpy(test->w + i * 2, &half, 2);
    }
}

static float *random_floats(size_t count, uint64_t *state)
{
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = random_float(state);
    return values;
}

void dense_case_init(dense_case *test, const dense_shape *shape, uint64_t seed)
{
    uint64_t state = seed * 2 + 1;
    *test = (dense_case){.shape = *shape};
    test->a_stride = shape->k + seed % 5;
    test->c_stride = shape->n + seed % 3;
    test->a = random_floats((shape->m - 1) * test->a_stride + shape->k, &state);
    test->bias = shape->bias ? random_floats(shape->n, &state) : NULL;
    size_t w_bytes = shape->n * shape->k * weight_bytes(shape->dtype);
    test->w_block = malloc(w_bytes + shape->w_offset);
    assert_non_null(test->w_block);
    test->w = test->w_block + shape->w_offset;
    fill_weights(test, &state);
    size_t c_count = shape->m * test->c_stride;
    test->c_before = random_floats(c_count, &state);
    for (uint64_t i = 0; i < shape->m; i++)
        for (uint64_t j = shape->n; j < test->c_stride; j++)
            test->c_before[i * test->c_stride + j] = MARK;
    test->c = malloc(c_count * sizeof *test->c);
    assert_non_null(test->c);
}

void dense_case_scatter(dense_case *test, unsigned per_1000, uint64_t seed)
{
    uint64_t state = seed * 2 + 1;
    for (uint64_t i = 0; i < test->shape.n * test->shape.k; i++) {
        uint64_t bits = random_next(&state);
        uint16_t half = (uint16_t)((bits & 0x807f) | (118 + (bits >> 16) % 10) << 7);
        if (random_next(&state) % 1000 < per_1000)
            half = (uint16_t)bits;
        memcpy(test->w + i * 2, &half, 2);
    }
}

void dense_case_fini(dense_case *test)
{
    free(test->a);
    free(test->bias);
    free(test->w_block);
    free(test->c_before);
    free(test->c);
}

float dense_weight(const dense_case *test, uint64_t row, uint64_t index)
{
    uint64_t place = row * test->shape.k + index;
    if (test->shape.dtype == CENOTE_DTYPE_F32) {
        float value;
        memcpy(&value, test->w + place * 4, 4);
        return value;
    }
    uint16_t half;
    memcpy(&half, test->w + place * 2, 2);
    if (test->shape.dtype == CENOTE_DTYPE_BF16) {
        uint32_t bits = (uint32_t)half << 16;
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
    int exponent = half >> 10 & 31;
    double mantissa = half & 1023;
    double value = exponent == 31  ? (mantissa != 0 ? NAN : INFINITY)
                   : exponent == 0 ? ldexp(mantissa, -24)
                                   : ldexp(mantissa + 1024, exponent - 25);
    return (float)(half & 0x8000 ? -value : value);
}

void dense_weight_set(dense_case *test, uint64_t row, uint64_t index, uint16_t half)
{
    uint64_t place = row * test->shape.k + index;
    uint32_t bits = (uint32_t)half << 16;
    if (test->shape.dtype == CENOTE_DTYPE_F32)
        memcpy(test->w + place * 4, &bits, 4);
    else
        memcpy(test->w + place * 2, &half, 2);
}

/* ---- runs and checks ---- */

static qwen_product product_of(const dense_case *test, uint64_t i, uint64_t call_rows, uint64_t j,
                               uint64_t panel_rows)
{
    const dense_shape *shape = &test->shape;
    return (qwen_product){
        .a = test->a + i * test->a_stride,
        .a_stride = test->a_stride,
        .m = shape->m - i < call_rows ? shape->m - i : call_rows,
        .k = shape->k,
        .w = test->w + j * shape->k * weight_bytes(shape->dtype),
        .w_dtype = shape->dtype,
        .n = shape->n - j < panel_rows ? shape->n - j : panel_rows,
        .bias = test->bias != NULL ? test->bias + j : NULL,
        .c = test->c + i * test->c_stride + j,
        .c_stride = test->c_stride,
        .accumulate = shape->accumulate,
    };
}

void dense_case_run(dense_case *test, qwen_kernels *kernels, dense_product_fn product,
                    uint64_t panel_rows, uint64_t call_rows)
{
    const dense_shape *shape = &test->shape;
    memcpy(test->c, test->c_before, shape->m * test->c_stride * sizeof *test->c);
    for (uint64_t j = 0; j < shape->n; j += panel_rows)
        for (uint64_t i = 0; i < shape->m; i += call_rows) {
            qwen_product part = product_of(test, i, call_rows, j, panel_rows);
            product(kernels, &part);
        }
}

bool dense_case_run_bf12(dense_case *test, qwen_kernels *kernels, dense_product_fn product,
                         uint64_t panel_rows, uint64_t call_rows)
{
    const dense_shape *shape = &test->shape;
    memcpy(test->c, test->c_before, shape->m * test->c_stride * sizeof *test->c);
    for (uint64_t j = 0; j < shape->n; j += panel_rows) {
        bf12_packed packed;
        uint64_t rows = shape->n - j < panel_rows ? shape->n - j : panel_rows;
        const unsigned char *w = test->w + j * shape->k * 2;
        if (bf12_pack(w, rows, shape->k, &packed) != CENOTE_OK)
            return false;
        unsigned char *moved = malloc(packed.bytes + 1);
        assert_non_null(moved);
        unsigned odd = j / panel_rows % 2;
        memcpy(moved + odd, packed.data, packed.bytes);
        for (uint64_t i = 0; i < shape->m; i += call_rows) {
            qwen_product part = product_of(test, i, call_rows, j, panel_rows);
            part.w = moved + odd;
            part.w_encoding = CENOTE_ENCODING_BF12;
            product(kernels, &part);
        }
        free(moved);
        free(packed.data);
    }
    return true;
}

void dense_case_run_several(dense_case *test, qwen_kernels *kernels, uint64_t panel_rows,
                            uint64_t call_rows, unsigned count)
{
    const dense_shape *shape = &test->shape;
    memcpy(test->c, test->c_before, shape->m * test->c_stride * sizeof *test->c);
    for (uint64_t i = 0; i < shape->m; i += call_rows) {
        qwen_product parts[16];
        bf12_packed packed[16] = {{0}};
        unsigned filled = 0;
        for (uint64_t j = 0; j < shape->n; j += panel_rows) {
            uint64_t rows = shape->n - j < panel_rows ? shape->n - j : panel_rows;
            qwen_product *part = &parts[filled];
            *part = product_of(test, i, call_rows, j, panel_rows);
            if (shape->dtype == CENOTE_DTYPE_BF16 && j / panel_rows % 2 == 1 &&
                bf12_pack(part->w, rows, shape->k, &packed[filled]) == CENOTE_OK) {
                part->w = packed[filled].data;
                part->w_encoding = CENOTE_ENCODING_BF12;
            }
            if (++filled < count && j + rows < shape->n)
                continue;
            qwen_gemv(kernels, parts, filled);
            for (; filled > 0; filled--) {
                free(packed[filled - 1].data);
                packed[filled - 1].data = NULL;
            }
        }
    }
}

static bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

void dense_case_check(const dense_case *test, const float *expected)
{
    const dense_shape *shape = &test->shape;
    for (uint64_t i = 0; i < shape->m; i++)
        for (uint64_t j = 0; j < test->c_stride; j++) {
            float value = test->c[i * test->c_stride + j];
            float wanted = j < shape->n ? expected[i * shape->n + j] : MARK;
            if (!same_bits(value, wanted))
                fail_msg("m %lu k %lu n %lu %d: c[%lu][%lu] is %a, expected %a",
                         (unsigned long)shape->m, (unsigned long)shape->k, (unsigned long)shape->n,
                         (int)shape->dtype, (unsigned long)i, (unsigned long)j, (double)value,
                         (double)wanted);
        }
}

float dense_finish(const dense_case *test, uint64_t i, uint64_t j, float sum)
{
    float value = test->bias != NULL ? sum + test->bias[j] : sum;
    return test->shape.accumulate ? test->c_before[i * test->c_stride + j] + value : value;
}

void dense_case_check_near(const dense_case *test, const float *values)
{
    const dense_shape *shape = &test->shape;
    for (uint64_t i = 0; i < shape->m; i++)
        for (uint64_t j = 0; j < shape->n; j++) {
            double bias = test->bias != NULL ? test->bias[j] : 0.0;
            double before = shape->accumulate ? test->c_before[i * test->c_stride + j] : 0.0;
            double sum = bias + before;
            double size = fabs(bias) + fabs(before);
            for (uint64_t k = 0; k < shape->k; k++) {
                double term =
                    (double)test->a[i * test->a_stride + k] * (double)dense_weight(test, j, k);
                sum += term;
                size += fabs(term);
            }
            /* n roundings of half an ulp each (Higham, "Accuracy and stability", 3.1) */
            double limit = (double)(shape->k + 3) * 0x1p-24 * size + 0x1p-149;
            if (!(fabs(sum - (double)values[i * shape->n + j]) <= limit))
                fail_msg("m %lu k %lu n %lu: [%lu][%lu] is %g, the sum is %g",
                         (unsigned long)shape->m, (unsigned long)shape->k, (unsigned long)shape->n,
                         (unsigned long)i, (unsigned long)j, (double)values[i * shape->n + j], sum);
        }
}
