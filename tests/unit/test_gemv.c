/* SPDX-License-Identifier: Apache-2.0 */
/* qwen_gemv against its definition (16 lanes, halves added to each other), to the bit, for every
 * instruction set, and the definition against sums in double precision. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dense_support.h"

#define K_MAX        3000u
#define LANES        16u
#define BLOCK        32u
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const qwen_isa isas[] = {QWEN_ISA_PORTABLE, QWEN_ISA_AVX2, QWEN_ISA_AVX512};
static const cenote_dtype dtypes[] = {CENOTE_DTYPE_BF16, CENOTE_DTYPE_F16, CENOTE_DTYPE_F32};
static const unsigned thread_counts[] = {1, 2, 3, 5};

static unsigned lane_of(cenote_dtype dtype, uint64_t k)
{
    return (unsigned)(dtype == CENOTE_DTYPE_BF16 ? k % BLOCK / 2 : k % LANES);
}

/* Element k = 0, 1, .. each onto its lane, zeros up to whole blocks. */
static float defined_sum(const dense_case *test, uint64_t j)
{
    const dense_shape *shape = &test->shape;
    float lanes[LANES] = {0};
    uint64_t padded = (shape->k + BLOCK - 1) / BLOCK * BLOCK;
    for (uint64_t k = 0; k < padded; k++) {
        float *lane = &lanes[lane_of(shape->dtype, k)];
        *lane = k < shape->k ? fmaf(dense_weight(test, j, k), test->a[k], *lane) : *lane + 0.0f;
    }
    for (unsigned half = LANES / 2; half > 0; half /= 2)
        for (unsigned i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

static float *defined(const dense_case *test)
{
    float *expected = malloc(test->shape.n * sizeof *expected);
    assert_non_null(expected);
    for (uint64_t j = 0; j < test->shape.n; j++)
        expected[j] = dense_finish(test, 0, j, defined_sum(test, j));
    return expected;
}

static void open_or_skip(dense_rig *rig, void **state, unsigned thread_count)
{
    if (!dense_rig_open(rig, *(const qwen_isa *)*state, thread_count, K_MAX))
        skip();
}

static void check_one(dense_rig *rig, const dense_shape *shape, uint64_t seed)
{
    dense_case test;
    dense_case_init(&test, shape, seed);
    float *expected = defined(&test);
    dense_case_check_near(&test, expected);
    dense_case_run(&test, rig->kernels, qwen_gemv, shape->n, 1);
    dense_case_check(&test, expected);
    free(expected);
    dense_case_fini(&test);
}

/* ---- tests ---- */

/* Every length up to four blocks, at changing residues of the address, with every number of rows
 * that streams leave over. */
static void test_every_tail(void **state)
{
    dense_rig rig;
    open_or_skip(&rig, state, 1);
    for (size_t d = 0; d < COUNT(dtypes); d++)
        for (uint64_t k = 1; k <= 4 * BLOCK; k++) {
            dense_shape shape = {
                1, k, 1 + k % 13, dtypes[d], (unsigned)(k * 3 + d) % 7, k % 2 == 0, k % 3 == 0};
            check_one(&rig, &shape, k + d);
        }
    dense_rig_close(&rig);
}

static void test_long_rows(void **state)
{
    static const uint64_t lengths[] = {1024, 1029, 2048, 2999, 3000};
    dense_rig rig;
    open_or_skip(&rig, state, 2);
    for (size_t d = 0; d < COUNT(dtypes); d++)
        for (size_t i = 0; i < COUNT(lengths); i++) {
            dense_shape shape = {1, lengths[i], 21, dtypes[d], (unsigned)i, true, i % 2 == 0};
            check_one(&rig, &shape, i * 3 + d);
        }
    dense_rig_close(&rig);
}

static void test_threads_and_cuts_change_nothing(void **state)
{
    for (size_t d = 0; d < COUNT(dtypes); d++) {
        dense_shape shape = {1, 333, 101, dtypes[d], 1, true, true};
        dense_case test;
        dense_case_init(&test, &shape, d + 7);
        float *expected = defined(&test);
        for (size_t t = 0; t < COUNT(thread_counts); t++) {
            dense_rig rig;
            open_or_skip(&rig, state, thread_counts[t]);
            static const uint64_t panels[] = {101, 16, 48, 1, 2, 7};
            for (size_t i = 0; i < COUNT(panels); i++) {
                dense_case_run(&test, rig.kernels, qwen_gemv, panels[i], 1);
                dense_case_check(&test, expected);
            }
            dense_rig_close(&rig);
        }
        free(expected);
        dense_case_fini(&test);
    }
}

/* Every pattern of 16 bits, widened in the load: the others are nought. Not a sum but its place in
 * the lanes is what could go wrong, so the weight moves through all of them. */
static void test_every_half(void **state)
{
    dense_rig rig;
    open_or_skip(&rig, state, 2);
    for (size_t d = 0; d < 2; d++) {
        dense_shape shape = {1, 70, 0x10000, dtypes[d], 1, false, false};
        dense_case test;
        dense_case_init(&test, &shape, 0);
        for (uint64_t k = 0; k < shape.k; k++)
            test.a[k] = (float)(k + 1);
        memset(test.w, 0, shape.n * shape.k * 2);
        for (uint64_t j = 0; j < shape.n; j++)
            dense_weight_set(&test, j, j % shape.k, (uint16_t)j);
        float *expected = defined(&test);
        dense_case_run(&test, rig.kernels, qwen_gemv, shape.n, 1);
        dense_case_check(&test, expected);
        free(expected);
        dense_case_fini(&test);
    }
    dense_rig_close(&rig);
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
        FOR_EACH_ISA(test_every_tail),
        FOR_EACH_ISA(test_long_rows),
        FOR_EACH_ISA(test_threads_and_cuts_change_nothing),
        FOR_EACH_ISA(test_every_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
