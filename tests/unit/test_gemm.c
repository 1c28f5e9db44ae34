/* SPDX-License-Identifier: Apache-2.0 */
/* qwen_gemm against its definition (one accumulator, k ascending, fma), to the bit, for every
 * instruction set: shapes around every tile edge, dtypes, odd addresses, thread counts, panel cuts
 * and splits of m. The definition itself is checked against sums in double precision. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dense_support.h"
#include "kernels_impl.h"

#define K_MAX        3000u
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const qwen_isa isas[] = {QWEN_ISA_PORTABLE, QWEN_ISA_AVX2, QWEN_ISA_AVX512};
static const cenote_dtype dtypes[] = {CENOTE_DTYPE_BF16, CENOTE_DTYPE_F16, CENOTE_DTYPE_F32};
static const unsigned thread_counts[] = {1, 2, 3, 5};

static float *defined(const dense_case *test)
{
    const dense_shape *shape = &test->shape;
    float *expected = malloc(shape->m * shape->n * sizeof *expected);
    float *row = malloc(shape->k * sizeof *row);
    assert_non_null(expected);
    assert_non_null(row);
    for (uint64_t j = 0; j < shape->n; j++) {
        for (uint64_t k = 0; k < shape->k; k++)
            row[k] = dense_weight(test, j, k);
        for (uint64_t i = 0; i < shape->m; i++) {
            float sum = 0.0f;
            for (uint64_t k = 0; k < shape->k; k++)
                sum = fmaf(test->a[i * test->a_stride + k], row[k], sum);
            expected[i * shape->n + j] = dense_finish(test, i, j, sum);
        }
    }
    free(row);
    return expected;
}

static void open_or_skip(dense_rig *rig, void **state, unsigned thread_count)
{
    if (!dense_rig_open(rig, *(const qwen_isa *)*state, thread_count, K_MAX))
        skip();
}

static void check_one(dense_rig *rig, const dense_shape *shape, uint64_t seed, uint64_t panel_rows,
                      uint64_t call_rows)
{
    dense_case test;
    dense_case_init(&test, shape, seed);
    float *expected = defined(&test);
    dense_case_run(&test, rig->kernels, qwen_gemm, panel_rows, call_rows);
    dense_case_check(&test, expected);
    free(expected);
    dense_case_fini(&test);
}

/* ---- tests ---- */

static void test_definition_is_near_the_sum(void **state)
{
    (void)state;
    const dense_shape shapes[] = {
        {3, 2500, 5, CENOTE_DTYPE_BF16, 0, true, true},
        {2, 1, 3, CENOTE_DTYPE_F16, 1, false, true},
        {4, 700, 9, CENOTE_DTYPE_F32, 3, true, false},
    };
    for (size_t i = 0; i < COUNT(shapes); i++) {
        dense_case test;
        dense_case_init(&test, &shapes[i], i + 1);
        float *expected = defined(&test);
        dense_case_check_near(&test, expected);
        free(expected);
        dense_case_fini(&test);
    }
}

/* Tiles are 4, 6 and 12 rows by 16 and 32 columns; k goes in steps of up to 256, rows and columns
 * in groups of some hundred. */
static void test_shapes(void **state)
{
    static const uint64_t sizes[][3] = {
        {1, 1, 1},       {1, 7, 3},      {2, 8, 16},    {3, 33, 17},   {5, 300, 16},
        {6, 16, 31},     {7, 256, 33},   {11, 257, 48}, {12, 64, 32},  {13, 511, 49},
        {24, 5, 64},     {25, 1000, 47}, {64, 513, 80}, {300, 70, 19}, {1, 600, 40},
        {257, 260, 133}, {2, 300, 129},  {520, 12, 9},  {4, 3000, 16}, {30, 2, 300},
    };
    dense_rig rig;
    open_or_skip(&rig, state, 2);
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t d = 0; d < COUNT(dtypes); d++) {
            dense_shape shape = {sizes[i][0],           sizes[i][1], sizes[i][2],     dtypes[d],
                                 (unsigned)(i + d) % 4, i % 2 == 0,  (i + d) % 3 == 0};
            check_one(&rig, &shape, i * 3 + d, shape.n, shape.m);
        }
    dense_rig_close(&rig);
}

static void test_every_tile_height(void **state)
{
    dense_rig rig;
    open_or_skip(&rig, state, 1);
    for (uint64_t m = 1; m <= 26; m++) {
        dense_shape narrow = {m, 19, 16, CENOTE_DTYPE_BF16, 1, false, false};
        dense_shape wide = {m, 21, 41, CENOTE_DTYPE_BF16, 0, true, true};
        check_one(&rig, &narrow, m, narrow.n, m);
        check_one(&rig, &wide, m, wide.n, m);
    }
    dense_rig_close(&rig);
}

/* Every residue of k in a group of the packing, and of the address. */
static void test_tails_and_odd_addresses(void **state)
{
    dense_rig rig;
    open_or_skip(&rig, state, 1);
    for (size_t d = 0; d < COUNT(dtypes); d++)
        for (uint64_t k = 1; k <= 20; k++) {
            dense_shape shape = {3, k, 18, dtypes[d], (unsigned)k % 5, false, true};
            check_one(&rig, &shape, k + d, shape.n, shape.m);
        }
    dense_rig_close(&rig);
}

static void test_threads_and_cuts_change_nothing(void **state)
{
    const dense_shape shapes[] = {
        {40, 530, 140, CENOTE_DTYPE_BF16, 1, true, true},
        {150, 270, 70, CENOTE_DTYPE_F16, 3, false, true},
        {7, 300, 100, CENOTE_DTYPE_F32, 2, true, false},
        {300, 20, 3, CENOTE_DTYPE_BF16, 1, false, false},
    };
    for (size_t s = 0; s < COUNT(shapes); s++) {
        dense_case test;
        dense_case_init(&test, &shapes[s], s + 40);
        float *expected = defined(&test);
        for (size_t t = 0; t < COUNT(thread_counts); t++) {
            dense_rig rig;
            open_or_skip(&rig, state, thread_counts[t]);
            const uint64_t cuts[][2] = {
                {shapes[s].n, shapes[s].m}, {16, 13}, {48, shapes[s].m}, {shapes[s].n, 7}};
            for (size_t i = 0; i < COUNT(cuts); i++) {
                dense_case_run(&test, rig.kernels, qwen_gemm, cuts[i][0], cuts[i][1]);
                dense_case_check(&test, expected);
            }
            dense_rig_close(&rig);
        }
        free(expected);
        dense_case_fini(&test);
    }
}

/* Caches decide how a product is cut: depths from 16 to the most that scratch holds, groups of one
 * strip to those of the least depth. */
static void test_machines_change_nothing(void **state)
{
    static const cenote_hardware machines[] = {
        {.l1d = {64, 64, 1, 1, 0}, .l2 = {64, 64, 1, 1, 0}, .l3 = {64, 64, 1, 1, 0}},
        {.l1d = {64, 64, 1, 1, 0}, .l2 = {1 << 30, 64, 16, 1, 0}},
        {.l1d = {8192, 64, 8, 1, 0}, .l2 = {32768, 64, 4, 1, 0}, .l3 = {65536, 64, 8, 1, 0}},
        {.l1d = {1 << 20, 64, 16, 1, 0}, .l2 = {1024, 64, 1, 1, 0}},
        {.l1d = {1 << 20, 64, 16, 1, 0}, .l2 = {1 << 30, 64, 16, 1, 0}},
        {.cores = 1, .cpus = 64},
    };
    const dense_shape shapes[] = {
        {40, 530, 140, CENOTE_DTYPE_BF16, 1, true, true},
        {300, 77, 19, CENOTE_DTYPE_F16, 3, false, true},
        {17, 300, 2500, CENOTE_DTYPE_F32, 0, true, false},
    };
    dense_rig rig;
    open_or_skip(&rig, state, 2);
    for (size_t s = 0; s < COUNT(shapes); s++) {
        dense_case test;
        dense_case_init(&test, &shapes[s], s + 60);
        float *expected = defined(&test);
        for (size_t i = 0; i < COUNT(machines); i++) {
            rig.kernels->hardware = machines[i];
            dense_case_run(&test, rig.kernels, qwen_gemm, shapes[s].n, shapes[s].m);
            dense_case_check(&test, expected);
        }
        free(expected);
        dense_case_fini(&test);
    }
    dense_rig_close(&rig);
}

/* Infinities, NaNs of both kinds, denormals, largest and smallest weights, each in its own column
 * and step of k: none may leak into a neighbour, which padding with copies could do. */
static void test_special_weights(void **state)
{
    static const uint16_t halves[] = {0x7f80, 0xff80, 0x7fc0, 0x7f81, 0xffff, 0x0001, 0x807f,
                                      0x7c00, 0xfc00, 0x7c01, 0x7e00, 0x8000, 0x03ff, 0x7bff};
    dense_rig rig;
    open_or_skip(&rig, state, 2);
    for (size_t d = 0; d < COUNT(dtypes); d++) {
        dense_shape shape = {5, 290, 37, dtypes[d], 1, true, false};
        dense_case test;
        dense_case_init(&test, &shape, d + 90);
        for (uint64_t i = 0; i < COUNT(halves); i++)
            dense_weight_set(&test, i * 2 + 1, i * 20 + i, halves[i]);
        float *expected = defined(&test);
        dense_case_run(&test, rig.kernels, qwen_gemm, shape.n, shape.m);
        dense_case_check(&test, expected);
        free(expected);
        dense_case_fini(&test);
    }
    dense_rig_close(&rig);
}

/* Every pattern of 16 bits, widened by the packing, beside zeros; its place in the groups that are
 * transposed changes with the pattern. */
static void test_every_half(void **state)
{
    dense_rig rig;
    open_or_skip(&rig, state, 2);
    for (size_t d = 0; d < 2; d++) {
        dense_shape shape = {1, 9, 0x10000, dtypes[d], 1, false, false};
        dense_case test;
        dense_case_init(&test, &shape, 0);
        memset(test.w, 0, shape.n * shape.k * 2);
        for (uint64_t j = 0; j < shape.n; j++)
            dense_weight_set(&test, j, j % shape.k, (uint16_t)j);
        float *expected = defined(&test);
        dense_case_run(&test, rig.kernels, qwen_gemm, shape.n, 1);
        dense_case_check(&test, expected);
        free(expected);
        dense_case_fini(&test);
    }
    dense_rig_close(&rig);
}

/* The 12-bit form beside the plain one: lengths below, at and between whole groups and steps of
 * packing, panels of every number of strips and a part, threads. */
static void test_bf12(void **state)
{
    static const uint64_t lengths[] = {1,   7,   31,  32,  33,  63,  64,  65,
                                       100, 127, 128, 200, 256, 257, 320, 530};
    for (unsigned threads = 1; threads <= 3; threads++) {
        dense_rig rig;
        open_or_skip(&rig, state, threads);
        for (size_t i = 0; i < COUNT(lengths); i++) {
            dense_shape shape = {1 + i * 5 % 40, lengths[i], 5 + i * 9, CENOTE_DTYPE_BF16,
                                 i % 2,          i % 2 == 0, i % 3 == 0};

            dense_case test;
            dense_case_init(&test, &shape, i + threads);
            dense_case_scatter(&test, 2, i + threads);
            float *expected = defined(&test);
            dense_case_run(&test, rig.kernels, qwen_gemm, shape.n, shape.m);
            dense_case_check(&test, expected);
            static const uint64_t panels[] = {1000, 16, 3};
            for (size_t p = 0; p < COUNT(panels); p++) {
                assert_true(dense_case_run_bf12(&test, rig.kernels, qwen_gemm, panels[p], shape.m));
                dense_case_check(&test, expected);
            }
            free(expected);
            dense_case_fini(&test);
        }
        dense_rig_close(&rig);
    }
}

#define FOR_EACH_ISA(function)                                                                     \
    {#function ": portable", function, NULL, NULL, (void *)(uintptr_t)&isas[0]},                   \
        {#function ": avx2", function, NULL, NULL, (void *)(uintptr_t)&isas[1]},                   \
    {                                                                                              \
#function ": avx512", function, NULL, NULL, (void *)(uintptr_t)&isas[2]                    \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition_is_near_the_sum),
        FOR_EACH_ISA(test_shapes),
        FOR_EACH_ISA(test_every_tile_height),
        FOR_EACH_ISA(test_tails_and_odd_addresses),
        FOR_EACH_ISA(test_threads_and_cuts_change_nothing),
        FOR_EACH_ISA(test_machines_change_nothing),
        FOR_EACH_ISA(test_special_weights),
        FOR_EACH_ISA(test_every_half),
        FOR_EACH_ISA(test_bf12),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
