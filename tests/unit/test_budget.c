/* SPDX-License-Identifier: Apache-2.0 */
/* The budget's arithmetic and its refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/hardware.h>
#include <cenote/pool.h>

static cenote_budget *make(uint64_t limit_bytes, uint64_t process_bytes)
{
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_budget *budget = NULL;
    options.limit_bytes = limit_bytes;
    options.process_bytes = process_bytes;
    assert_int_equal(cenote_budget_create(&options, &budget, NULL), CENOTE_OK);
    return budget;
}

static cenote_budget_stats stats_of(const cenote_budget *budget)
{
    cenote_budget_stats stats;
    cenote_budget_stats_get(budget, &stats);
    return stats;
}

static void test_charge_and_uncharge(void **state)
{
    (void)state;
    cenote_error err = {0};
    cenote_budget *budget = make(1000, 100);
    assert_int_equal(stats_of(budget).charged_bytes, 100);
    assert_int_equal(cenote_budget_charge(budget, 900, "all of it", &err), CENOTE_OK);
    assert_int_equal(cenote_budget_charge(budget, 0, "nothing", &err), CENOTE_OK);
    assert_int_equal(cenote_budget_charge(budget, 1, "one more", &err), CENOTE_E_BUDGET);
    assert_int_equal(cenote_budget_charge(budget, UINT64_MAX, "x", NULL), CENOTE_E_BUDGET);
    cenote_budget_uncharge(budget, 500);
    cenote_budget_stats stats = stats_of(budget);
    assert_int_equal(stats.charged_bytes, 500);
    assert_int_equal(stats.charged_peak_bytes, 1000);
    assert_int_equal(stats.limit_bytes, 1000);
    assert_int_equal(stats.refused_count, 2);
    cenote_budget_destroy(budget);
}

static void test_refusal_names_the_numbers(void **state)
{
    (void)state;
    cenote_error err = {0};
    cenote_budget *budget = make(1000, 100);
    assert_int_equal(cenote_budget_charge(budget, 901, "the decoder", &err), CENOTE_E_BUDGET);
    assert_int_equal(err.status, CENOTE_E_BUDGET);
    static const char *const words[] = {"the decoder", "901", "900", "1000"};
    for (unsigned i = 0; i < 4; i++)
        assert_non_null(strstr(err.message, words[i]));
    cenote_budget_destroy(budget);
}

static void test_bad_options(void **state)
{
    (void)state;
    cenote_budget *budget = NULL;
    cenote_error err;
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    assert_int_equal(cenote_budget_create(&options, &budget, &err), CENOTE_E_INVAL);
    options.limit_bytes = 100;
    options.version = 2;
    assert_int_equal(cenote_budget_create(&options, &budget, &err), CENOTE_E_VERSION);
    options.version = CENOTE_BUDGET_OPTIONS_VERSION;
    options.process_bytes = 101;
    assert_int_equal(cenote_budget_create(&options, &budget, &err), CENOTE_E_BUDGET);
    assert_non_null(strstr(err.message, "101"));
    options.process_bytes = 0; /* no process lives in 100 bytes */
    assert_int_equal(cenote_budget_create(&options, &budget, &err), CENOTE_E_BUDGET);
    assert_null(budget);
    cenote_budget_destroy(NULL);
}

static void test_process_is_charged(void **state)
{
    (void)state;
    cenote_process_memory process;
    assert_int_equal(cenote_process_memory_get(&process, NULL), CENOTE_OK);
    uint64_t now = process.resident_bytes + process.page_table_bytes;
    cenote_budget *budget = make(UINT64_MAX, 0);
    uint64_t charged = stats_of(budget).charged_bytes;
    assert_in_range(charged, now / 2, 2 * now);
    cenote_budget_destroy(budget);
}

static void test_limit_moves(void **state)
{
    (void)state;
    cenote_error err;
    cenote_budget *budget = make(1000, 400);
    assert_int_equal(cenote_budget_limit_set(budget, 400, &err), CENOTE_OK);
    assert_int_equal(cenote_budget_limit_set(budget, 399, &err), CENOTE_E_BUDGET);
    assert_non_null(strstr(err.message, "399"));
    assert_non_null(strstr(err.message, "400"));
    assert_int_equal(stats_of(budget).limit_bytes, 400);
    assert_int_equal(cenote_budget_limit_set(budget, 0, &err), CENOTE_E_BUDGET);
    assert_int_equal(cenote_budget_limit_set(budget, UINT64_MAX, &err), CENOTE_OK);
    assert_int_equal(cenote_budget_charge(budget, 1 << 20, "more", &err), CENOTE_OK);
    cenote_budget_destroy(budget);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_charge_and_uncharge),
        cmocka_unit_test(test_refusal_names_the_numbers),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_process_is_charged),
        cmocka_unit_test(test_limit_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
