/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic that must not wrap, at its edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/checked.h"

#define MAX UINT64_MAX

static void test_add(void **state)
{
    (void)state;
    uint64_t out = 7;
    assert_true(cn_checked_add(MAX - 1, 1, &out));
    assert_true(out == MAX);
    out = 7;
    assert_false(cn_checked_add(MAX, 1, &out));
    assert_false(cn_checked_add(1, MAX, &out));
    assert_int_equal(out, 7);
}

static void test_mul(void **state)
{
    (void)state;
    uint64_t out = 7;
    assert_true(cn_checked_mul(MAX / 3, 3, &out));
    assert_true(out == MAX);
    assert_true(cn_checked_mul(MAX, 0, &out));
    assert_int_equal(out, 0);
    out = 7;
    assert_false(cn_checked_mul(MAX / 3 + 1, 3, &out));
    assert_false(cn_checked_mul(UINT64_C(1) << 32, UINT64_C(1) << 32, &out));
    assert_int_equal(out, 7);
}

static void test_round_up(void **state)
{
    (void)state;
    uint64_t out = 7;
    assert_true(cn_checked_round_up(0, 4096, &out));
    assert_int_equal(out, 0);
    assert_true(cn_checked_round_up(1, 4096, &out));
    assert_int_equal(out, 4096);
    assert_true(cn_checked_round_up(4096, 4096, &out));
    assert_int_equal(out, 4096);
    assert_true(cn_checked_round_up(10, 3, &out)); /* any unit, not powers of two alone */
    assert_int_equal(out, 12);
    assert_true(cn_checked_round_up(MAX, 1, &out));
    assert_true(out == MAX);
    out = 7;
    assert_false(cn_checked_round_up(MAX - 4094, 4096, &out));
    assert_int_equal(out, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add),
        cmocka_unit_test(test_mul),
        cmocka_unit_test(test_round_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
