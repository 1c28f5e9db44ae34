/* SPDX-License-Identifier: Apache-2.0 */
/* Choice of the instruction set, scratch from the pool, and widening. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dense_support.h"

#define UNTOUCHED ((qwen_kernels *)(uintptr_t)0x10)

/* ---- instruction sets ---- */

static cenote_status create(dense_rig *rig, qwen_isa isa, uint64_t k_max, qwen_kernels **out,
                            cenote_error *err)
{
    *out = UNTOUCHED;
    return qwen_kernels_create(isa, rig->team, rig->pool, k_max, out, err);
}

static void test_environment_names_the_set(void **state)
{
    (void)state;
    dense_rig rig;
    assert_true(dense_rig_open(&rig, QWEN_ISA_PORTABLE, 1, 16));
    for (qwen_isa isa = QWEN_ISA_PORTABLE; isa <= QWEN_ISA_AVX512; isa++) {
        qwen_kernels *kernels;
        cenote_error err;
        assert_int_equal(setenv("CENOTE_ISA", qwen_isa_text(isa), 1), 0);
        cenote_status status = create(&rig, QWEN_ISA_AUTO, 16, &kernels, &err);
        if (status == CENOTE_E_UNSUPPORTED) {
            print_message("skipped: this CPU lacks %s\n", qwen_isa_text(isa));
            assert_int_not_equal(isa, QWEN_ISA_PORTABLE);
            assert_non_null(strstr(err.message, qwen_isa_text(isa)));
            assert_ptr_equal(kernels, UNTOUCHED);
            continue;
        }
        assert_int_equal(status, CENOTE_OK);
        assert_int_equal(qwen_kernels_isa(kernels), isa);
        qwen_kernels_destroy(kernels);
    }
    unsetenv("CENOTE_ISA");
    dense_rig_close(&rig);
}

/* Unset, empty and "auto" mean the best set; the best runs, so no better one is refused. */
static void test_auto_takes_the_best(void **state)
{
    (void)state;
    dense_rig rig;
    assert_true(dense_rig_open(&rig, QWEN_ISA_PORTABLE, 1, 16));
    qwen_isa best = QWEN_ISA_AVX512;
    qwen_kernels *kernels;
    while (create(&rig, best, 16, &kernels, NULL) == CENOTE_E_UNSUPPORTED)
        best--;
    qwen_kernels_destroy(kernels);
    static const char *const texts[] = {NULL, "", "auto"};
    for (size_t i = 0; i < 3; i++) {
        if (texts[i] != NULL)
            assert_int_equal(setenv("CENOTE_ISA", texts[i], 1), 0);
        else
            unsetenv("CENOTE_ISA");
        assert_int_equal(create(&rig, QWEN_ISA_AUTO, 16, &kernels, NULL), CENOTE_OK);
        assert_int_equal(qwen_kernels_isa(kernels), best);
        qwen_kernels_destroy(kernels);
    }
    unsetenv("CENOTE_ISA");
    dense_rig_close(&rig);
}

/* A profile's instruction set is this machine's then; one that cannot be read is said. */
static void test_profile_is_the_machine(void **state)
{
    (void)state;
    dense_rig rig;
    assert_true(dense_rig_open(&rig, QWEN_ISA_PORTABLE, 1, 16));
    qwen_kernels *kernels;
    cenote_error err;
    assert_int_equal(setenv("CENOTE_HARDWARE", TEST_SOURCE_DIR "/share/hardware/i5-10210u.conf", 1),
                     0);
    assert_int_equal(create(&rig, QWEN_ISA_AVX512, 16, &kernels, &err), CENOTE_E_UNSUPPORTED);
    assert_int_equal(create(&rig, QWEN_ISA_AUTO, 16, &kernels, NULL), CENOTE_OK);
    assert_in_range(qwen_kernels_isa(kernels), QWEN_ISA_PORTABLE, QWEN_ISA_AVX2);
    qwen_kernels_destroy(kernels);
    assert_int_equal(setenv("CENOTE_HARDWARE", "/no/such.conf", 1), 0);
    assert_int_equal(create(&rig, QWEN_ISA_AUTO, 16, &kernels, &err), CENOTE_E_IO);
    assert_ptr_equal(kernels, UNTOUCHED);
    assert_non_null(strstr(err.message, "/no/such.conf"));
    unsetenv("CENOTE_HARDWARE");
    dense_rig_close(&rig);
}

static void test_bad_environment_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"avx1024", "AVX2", "avx2 ", " ", "avx", "portable\n"};
    dense_rig rig;
    assert_true(dense_rig_open(&rig, QWEN_ISA_PORTABLE, 1, 16));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        qwen_kernels *kernels;
        cenote_error err;
        assert_int_equal(setenv("CENOTE_ISA", texts[i], 1), 0);
        assert_int_equal(create(&rig, QWEN_ISA_AUTO, 16, &kernels, &err), CENOTE_E_INVAL);
        assert_ptr_equal(kernels, UNTOUCHED);
        assert_non_null(strstr(err.message, "CENOTE_ISA"));
        assert_non_null(strstr(err.message, "avx512"));
        /* The environment is only a default: a caller's own choice does not look at it. */
        assert_int_equal(create(&rig, QWEN_ISA_PORTABLE, 16, &kernels, NULL), CENOTE_OK);
        qwen_kernels_destroy(kernels);
    }
    unsetenv("CENOTE_ISA");
    dense_rig_close(&rig);
}

/* ---- scratch ---- */

static void test_scratch_is_what_was_said(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {1, 64, 6144, 25600, 1000000};
    for (unsigned threads = 1; threads <= 3; threads++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            dense_rig rig;
            assert_true(dense_rig_open(&rig, QWEN_ISA_PORTABLE, threads, lengths[i]));
            cenote_pool_stats stats;
            cenote_pool_stats_get(rig.pool, &stats);
            assert_int_equal(stats.block_count, 1);
            assert_int_equal(stats.requested_bytes,
                             qwen_kernels_scratch_bytes(threads, lengths[i]));
            qwen_kernels_destroy(rig.kernels);
            rig.kernels = NULL;
            cenote_pool_stats_get(rig.pool, &stats);
            assert_int_equal(stats.requested_bytes, 0);
            dense_rig_close(&rig);
        }
    qwen_kernels_destroy(NULL);
}

static void test_scratch_that_does_not_fit(void **state)
{
    (void)state;
    dense_rig rig;
    assert_true(dense_rig_open(&rig, QWEN_ISA_PORTABLE, 2, 16));
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.quota_bytes = CENOTE_GRANULE_BYTES;
    cenote_pool *small;
    assert_int_equal(cenote_pool_create(rig.budget, &options, &small, NULL), CENOTE_OK);
    qwen_kernels *kernels = UNTOUCHED;
    cenote_error err;
    assert_int_equal(
        qwen_kernels_create(QWEN_ISA_PORTABLE, rig.team, small, 1 << 20, &kernels, &err),
        CENOTE_E_BUDGET);
    assert_ptr_equal(kernels, UNTOUCHED);
    assert_int_equal(cenote_pool_destroy(small), 0);
    dense_rig_close(&rig);
}

static void test_absurd_rows_are_refused(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {(UINT64_C(1) << 28) + 1, UINT64_MAX / 4, UINT64_MAX};
    dense_rig rig;
    assert_true(dense_rig_open(&rig, QWEN_ISA_PORTABLE, 1, 16));
    for (size_t i = 0; i < 3; i++) {
        qwen_kernels *kernels;
        cenote_error err;
        assert_int_equal(create(&rig, QWEN_ISA_PORTABLE, lengths[i], &kernels, &err),
                         CENOTE_E_INVAL);
        assert_ptr_equal(kernels, UNTOUCHED);
        assert_int_equal(qwen_kernels_scratch_bytes(1, lengths[i]), UINT64_MAX);
    }
    dense_rig_close(&rig);
}

/* ---- widening ---- */

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void test_widen_every_bf16(void **state)
{
    (void)state;
    unsigned char from[2 * 0x10000 + 1];
    float *to = malloc(0x10000 * sizeof *to);
    assert_non_null(to);
    for (unsigned i = 0; i < 0x10000; i++) {
        uint16_t half = (uint16_t)i;
        memcpy(from + 1 + 2 * i, &half, 2);
    }
    qwen_widen(CENOTE_DTYPE_BF16, from + 1, 0x10000, to);
    for (unsigned i = 0; i < 0x10000; i++)
        assert_int_equal(bits_of(to[i]), i << 16);
    free(to);
}

static double f16_value(unsigned half)
{
    int exponent = half >> 10 & 31;
    double mantissa = half & 1023;
    double value = exponent == 31  ? INFINITY
                   : exponent == 0 ? ldexp(mantissa, -24)
                                   : ldexp(1 + mantissa / 1024, exponent - 15);
    return half & 0x8000 ? -value : value;
}

static void test_widen_every_f16(void **state)
{
    (void)state;
    unsigned char from[2 * 0x10000 + 1];
    float *to = malloc(0x10000 * sizeof *to);
    assert_non_null(to);
    for (unsigned i = 0; i < 0x10000; i++) {
        uint16_t half = (uint16_t)i;
        memcpy(from + 1 + 2 * i, &half, 2);
    }
    qwen_widen(CENOTE_DTYPE_F16, from + 1, 0x10000, to);
    for (unsigned i = 0; i < 0x10000; i++) {
        bool nan = (i & 0x7c00) == 0x7c00 && (i & 0x3ff) != 0;
        /* A NaN keeps sign and payload and becomes quiet, as in the processor's conversion. */
        uint32_t wanted = nan ? (i & 0x8000u) << 16 | 0x7fc00000u | (i & 0x3ffu) << 13
                              : bits_of((float)f16_value(i));
        assert_int_equal(bits_of(to[i]), wanted);
    }
    free(to);
}

static void test_widen_f32_copies(void **state)
{
    (void)state;
    static const uint32_t patterns[] = {0, 0x80000000u, 1, 0x7f800000u, 0x7f800001u, 0x3f800000u};
    unsigned char from[sizeof patterns + 3];
    float to[6];
    memcpy(from + 3, patterns, sizeof patterns);
    qwen_widen(CENOTE_DTYPE_F32, from + 3, 6, to);
    assert_memory_equal(to, patterns, sizeof patterns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_environment_names_the_set),
        cmocka_unit_test(test_auto_takes_the_best),
        cmocka_unit_test(test_profile_is_the_machine),
        cmocka_unit_test(test_bad_environment_is_refused),
        cmocka_unit_test(test_scratch_is_what_was_said),
        cmocka_unit_test(test_scratch_that_does_not_fit),
        cmocka_unit_test(test_absurd_rows_are_refused),
        cmocka_unit_test(test_widen_every_bf16),
        cmocka_unit_test(test_widen_every_f16),
        cmocka_unit_test(test_widen_f32_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
