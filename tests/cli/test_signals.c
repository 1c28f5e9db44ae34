/* SPDX-License-Identifier: Apache-2.0 */
/* The first signal is noted, the second finds the default action, and one that the caller of the
 * command ignores stays ignored. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "signals.h"

static void (*action_of(int number))(int)
{
    struct sigaction action;
    assert_int_equal(sigaction(number, NULL, &action), 0);
    return action.sa_handler;
}

static void test_signals(void **state)
{
    (void)state;
    signal(SIGHUP, SIG_IGN); /* as under nohup */
    cli_signals_catch();
    assert_true(action_of(SIGHUP) == SIG_IGN);
    assert_true(action_of(SIGINT) != SIG_DFL);
    assert_true(action_of(SIGTERM) != SIG_DFL);
    assert_false(cli_signals_caught());
    raise(SIGINT);
    assert_true(cli_signals_caught());
    assert_true(action_of(SIGINT) == SIG_DFL);
    assert_true(action_of(SIGTERM) != SIG_DFL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_signals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
