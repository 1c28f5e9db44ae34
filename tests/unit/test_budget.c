/* SPDX-License-Identifier: Apache-2.0 */
/* The budget's arithmetic, its refusals, and how it asks clients for room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/hardware.h>
#include <cenote/pool.h>

#include "pool/budget.h"

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

/* A client that holds something idle, and gives it back in lumps as pools do. */
struct hoarder {
    struct cn_budget_client client;
    cenote_budget *budget;
    uint64_t idle_bytes;
    unsigned asked;
};
#define LUMP 150u

static uint64_t hoarder_trim(struct cn_budget_client *client, uint64_t want_bytes)
{
    struct hoarder *hoarder = (struct hoarder *)client;
    uint64_t back = (want_bytes + LUMP - 1) / LUMP * LUMP;
    if (back > hoarder->idle_bytes)
        back = hoarder->idle_bytes;
    hoarder->idle_bytes -= back;
    hoarder->asked++;
    cenote_budget_uncharge(hoarder->budget, back);
    return back;
}

static void test_room_is_made_as_needed(void **state)
{
    (void)state;
    cenote_budget *budget = make(1000, 100);
    struct hoarder hoarders[3] = {0};
    for (unsigned i = 0; i < 3; i++) {
        hoarders[i] = (struct hoarder){{NULL, hoarder_trim}, budget, 200, 0};
        assert_int_equal(cenote_budget_charge(budget, 200, "idle", NULL), CENOTE_OK);
        cn_budget_register(budget, &hoarders[i].client);
    }
    /* 300 are left: 250 fit without asking anybody. */
    assert_int_equal(cenote_budget_charge(budget, 250, "fits", NULL), CENOTE_OK);
    assert_int_equal(hoarders[0].asked + hoarders[1].asked + hoarders[2].asked, 0);
    /* 50 are left: 300 more take 200 of the last client, a lump of the one before, and leave the
     * first in peace. */
    assert_int_equal(cenote_budget_charge(budget, 300, "needs room", NULL), CENOTE_OK);
    assert_int_equal(stats_of(budget).charged_bytes, 900);
    assert_int_equal(hoarders[2].idle_bytes, 0);
    assert_int_equal(hoarders[1].idle_bytes, 50);
    assert_int_equal(hoarders[0].asked, 0);
    /* A lower limit takes from them too, and a limit that does not fit leaves the old one. */
    assert_int_equal(cenote_budget_limit_set(budget, 850, NULL), CENOTE_OK);
    assert_int_equal(stats_of(budget).charged_bytes, 850);
    assert_int_equal(hoarders[0].asked, 0);
    assert_int_equal(cenote_budget_limit_set(budget, 600, NULL), CENOTE_E_BUDGET);
    assert_int_equal(stats_of(budget).limit_bytes, 850);
    assert_int_equal(stats_of(budget).charged_bytes, 650);
    assert_int_equal(stats_of(budget).refused_count, 0);
    cn_budget_unregister(budget, &hoarders[1].client);
    cn_budget_unregister(budget, &hoarders[2].client);
    cn_budget_unregister(budget, &hoarders[0].client);
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
        cmocka_unit_test(test_room_is_made_as_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
