/* SPDX-License-Identifier: Apache-2.0 */
/* qwen_gemv against its definition (16 lanes, halves added to each other), to the bit, for every
 * instruction set, and the definition against sums in double precision. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bf12_support.h"
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

static void gemv(qwen_kernels *kernels, const qwen_product *product)
{
    qwen_gemv(kernels, product, 1);
}

static void check_one(dense_rig *rig, const dense_shape *shape, uint64_t seed)
{
    dense_case test;
    dense_case_init(&test, shape, seed);
    float *expected = defined(&test);
    dense_case_check_near(&test, expected);
    dense_case_run(&test, rig->kernels, gemv, shape->n, 1);
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
                dense_case_run(&test, rig.kernels, gemv, panels[i], 1);
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
        dense_case_run(&test, rig.kernels, gemv, shape.n, 1);
        dense_case_check(&test, expected);
        free(expected);
        dense_case_fini(&test);
    }
    dense_rig_close(&rig);
}

/* ---- the 12-bit form ---- */

/* The plain panel has the defined bits, the tests above say; so must the other one. */
static void check_bf12(dense_rig *rig, const dense_shape *shape, unsigned escapes, uint64_t seed,
                       uint64_t panel_rows)
{
    dense_case test;
    dense_case_init(&test, shape, seed);
    dense_case_scatter(&test, escapes, seed);
    float *expected = defined(&test);
    dense_case_run(&test, rig->kernels, gemv, panel_rows, 1);
    dense_case_check(&test, expected);
    assert_true(dense_case_run_bf12(&test, rig->kernels, gemv, panel_rows, 1));
    dense_case_check(&test, expected);
    free(expected);
    dense_case_fini(&test);
}

static void test_bf12_every_tail(void **state)
{
    dense_rig rig;
    open_or_skip(&rig, state, 1);
    for (uint64_t k = 1; k <= 5 * CENOTE_BF12_GROUP; k++)
        for (unsigned escapes = 1; escapes <= 9; escapes += 4) {
            dense_shape shape = {1, k, 1 + k % 7, CENOTE_DTYPE_BF16, k % 2, k % 2 == 0, k % 3 == 0};
            check_bf12(&rig, &shape, escapes, k + escapes, shape.n);
        }
    dense_rig_close(&rig);
}

static void test_bf12_long_rows(void **state)
{
    static const uint64_t lengths[] = {1024, 1029, 2048, 2080, 2999, 3000};
    static const unsigned escapes[] = {1, 2, 3};
    dense_rig rig;
    open_or_skip(&rig, state, 2);
    for (size_t i = 0; i < COUNT(lengths); i++)
        for (size_t e = 0; e < COUNT(escapes); e++) {
            dense_shape shape = {1, lengths[i], 21 + i, CENOTE_DTYPE_BF16, 1, true, i % 2 == 0};
            check_bf12(&rig, &shape, escapes[e], i * 3 + e, shape.n);
        }
    dense_rig_close(&rig);
}

static void test_bf12_threads_and_cuts(void **state)
{
    static const uint64_t panels[] = {101, 16, 48, 1, 2, 7};
    for (size_t t = 0; t < COUNT(thread_counts); t++) {
        dense_rig rig;
        open_or_skip(&rig, state, thread_counts[t]);
        for (size_t i = 0; i < COUNT(panels); i++) {
            dense_shape shape = {1, 333, 101, CENOTE_DTYPE_BF16, 1, true, true};
            check_bf12(&rig, &shape, 2, i, panels[i]);
        }
        dense_rig_close(&rig);
    }
}

/* Every pattern among small ones: nearly all are escapes, in every place of a group. */
static void test_bf12_every_pattern(void **state)
{
    dense_rig rig;
    open_or_skip(&rig, state, 2);
    dense_shape shape = {1, 353, 0x4000, CENOTE_DTYPE_BF16, 0, false, false};
    for (unsigned first = 0; first < 0x10000; first += (unsigned)shape.n) {
        dense_case test;
        dense_case_init(&test, &shape, first);
        memset(test.w, 0, shape.n * shape.k * 2);
        for (uint64_t j = 0; j < shape.n; j++)
            dense_weight_set(&test, j, j * 7 % shape.k, (uint16_t)(first + j));
        dense_case_run(&test, rig.kernels, gemv, 512, 1);
        float *plain = test.c;
        test.c = malloc(shape.n * test.c_stride * sizeof *plain);
        assert_non_null(test.c);
        assert_true(dense_case_run_bf12(&test, rig.kernels, gemv, 512, 1));
        dense_case_check(&test, plain);
        free(plain);
        dense_case_fini(&test);
    }
    dense_rig_close(&rig);
}

/* ---- several rows of x ---- */

/* What single calls give, which the tests above hold to the definition. */
static float *single_calls(dense_case *test, qwen_kernels *kernels, uint64_t panel_rows)
{
    const dense_shape *shape = &test->shape;
    dense_case_run(test, kernels, gemv, panel_rows, 1);
    float *single = malloc(shape->m * shape->n * sizeof *single);
    assert_non_null(single);
    for (uint64_t i = 0; i < shape->m; i++)
        memcpy(single + i * shape->n, test->c + i * test->c_stride, shape->n * sizeof *single);
    return single;
}

static void check_many(dense_rig *rig, const dense_shape *shape, uint64_t seed, uint64_t panel_rows)
{
    dense_case test;
    dense_case_init(&test, shape, seed);
    if (shape->dtype == CENOTE_DTYPE_BF16)
        dense_case_scatter(&test, seed % 3, seed);
    float *single = single_calls(&test, rig->kernels, panel_rows);
    dense_case_run(&test, rig->kernels, gemv, panel_rows, shape->m);
    dense_case_check(&test, single);
    if (shape->dtype == CENOTE_DTYPE_BF16) {
        assert_true(dense_case_run_bf12(&test, rig->kernels, gemv, panel_rows, shape->m));
        dense_case_check(&test, single);
    }
    free(single);
    dense_case_fini(&test);
}

/* Every number of rows of x by every number of streams, at lengths around blocks and chunks. */
static void test_many(void **state)
{
    static const uint64_t lengths[] = {1, 31, 32, 33, 63, 64, 65, 255, 256, 257, 512, 700};
    dense_rig rig;
    open_or_skip(&rig, state, 1);
    for (size_t d = 0; d < COUNT(dtypes); d++)
        for (uint64_t m = 2; m <= QWEN_GEMV_M_MAX; m++)
            for (uint64_t n = 1; n <= QWEN_GEMV_M_MAX; n++) {
                uint64_t k = lengths[(n * 5 + m * 7 + d) % COUNT(lengths)];
                dense_shape shape = {m, k, n, dtypes[d], (unsigned)n % 3, n % 2 == 0, m % 2 == 0};
                check_many(&rig, &shape, m * 9 + n, n);
            }
    dense_rig_close(&rig);
}

static void test_many_threads_and_cuts(void **state)
{
    static const uint64_t lengths[] = {32, 100, 256, 333, 2999};
    static const uint64_t panels[] = {61, 16, 7, 1};
    for (size_t t = 0; t < COUNT(thread_counts); t++) {
        dense_rig rig;
        open_or_skip(&rig, state, thread_counts[t]);
        for (size_t d = 0; d < COUNT(dtypes); d++)
            for (size_t i = 0; i < COUNT(lengths); i++) {
                dense_shape shape = {2 + (i + t) % 7, lengths[i], 61, dtypes[d], 1, true, true};
                check_many(&rig, &shape, i + t, panels[(i + d) % COUNT(panels)]);
            }
        dense_rig_close(&rig);
    }
}

/* A stranger's padding may be infinite: it meets nothing. */
static void pad_with_infinities(bf12_packed *packed, const dense_shape *shape)
{
    packed->data[48 + 7] = 0x7f; /* the extra code, which nobody uses */
    for (uint64_t row = 0; row < shape->n; row++)
        for (unsigned column = (unsigned)shape->k; column < 64; column++) {
            unsigned char *group = packed->data + 128 + row * 96;
            unsigned place = cenote_bf12_element(column % 32), shift = column / 32 * 4;
            unsigned code = group[64 + place];
            group[64 + place] = (unsigned char)((code & ~(15u << shift)) | 7u << shift);
            group[column / 32 * 32 + place] = 0x80;
        }
    assert_int_equal(cenote_bf12_check(packed->data, packed->bytes, shape->n, shape->k, NULL),
                     CENOTE_OK);
}

static void test_bf12_padding(void **state)
{
    dense_rig rig;
    open_or_skip(&rig, state, 1);
    for (uint64_t k = 1; k < 64; k += 7)
        for (uint64_t call_rows = 1; call_rows <= 2; call_rows++) {
            dense_shape shape = {2, k, 5, CENOTE_DTYPE_BF16, 0, false, false};
            dense_case test;
            dense_case_init(&test, &shape, k);
            dense_case_scatter(&test, 0, k);
            float *single = single_calls(&test, rig.kernels, shape.n);
            bf12_packed packed;
            assert_int_equal(bf12_pack(test.w, shape.n, k, &packed), CENOTE_OK);
            pad_with_infinities(&packed, &shape);
            for (uint64_t i = 0; i < shape.m; i += call_rows) {
                qwen_product product = {.a = test.a + i * test.a_stride,
                                        .a_stride = test.a_stride,
                                        .m = call_rows,
                                        .k = k,
                                        .w = packed.data,
                                        .w_dtype = CENOTE_DTYPE_BF16,
                                        .w_encoding = CENOTE_ENCODING_BF12,
                                        .n = shape.n,
                                        .c = test.c + i * test.c_stride,
                                        .c_stride = test.c_stride};
                qwen_gemv(rig.kernels, &product, 1);
            }
            dense_case_check(&test, single);
            free(packed.data);
            free(single);
            dense_case_fini(&test);
        }
    dense_rig_close(&rig);
}

/* Several panels a call: which rank has which rows of which panel changes nothing. */
static void test_panels_together(void **state)
{
    static const uint64_t panels[] = {16, 7, 1, 40};
    for (size_t t = 0; t < COUNT(thread_counts); t++) {
        dense_rig rig;
        open_or_skip(&rig, state, thread_counts[t]);
        for (size_t d = 0; d < COUNT(dtypes); d++)
            for (size_t i = 0; i < COUNT(panels); i++)
                for (unsigned count = 1; count <= 16; count += 5) {
                    dense_shape shape = {3, 333 + 64 * i, 101, dtypes[d], 1, true, true};
                    dense_case test;
                    dense_case_init(&test, &shape, i + t);
                    if (shape.dtype == CENOTE_DTYPE_BF16)
                        dense_case_scatter(&test, i % 3, i + t);
                    float *single = single_calls(&test, rig.kernels, shape.n);
                    dense_case_run_several(&test, rig.kernels, panels[i], 1, count);
                    dense_case_check(&test, single);
                    dense_case_run_several(&test, rig.kernels, panels[i], shape.m, count);
                    dense_case_check(&test, single);
                    free(single);
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
        FOR_EACH_ISA(test_every_tail),
        FOR_EACH_ISA(test_long_rows),
        FOR_EACH_ISA(test_threads_and_cuts_change_nothing),
        FOR_EACH_ISA(test_every_half),
        FOR_EACH_ISA(test_bf12_every_tail),
        FOR_EACH_ISA(test_bf12_long_rows),
        FOR_EACH_ISA(test_bf12_threads_and_cuts),
        FOR_EACH_ISA(test_bf12_padding),
        FOR_EACH_ISA(test_bf12_every_pattern),
        FOR_EACH_ISA(test_many),
        FOR_EACH_ISA(test_many_threads_and_cuts),
        FOR_EACH_ISA(test_panels_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
