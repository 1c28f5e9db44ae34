/* SPDX-License-Identifier: Apache-2.0 */
/* The first signal is noted, the second finds the default action, and one that the caller of the
 * command ignores stays ignored. */
#include <poll.h>
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

static bool readable(int fd)
{
    struct pollfd file = {.fd = fd, .events = POLLIN};
    return poll(&file, 1, 0) == 1;
}

/* In a conversation Ctrl-C is news, as often as it comes, and nobody's end. */
static void test_conversation(void **state)
{
    (void)state;
    cenote_error err;
    assert_int_equal(cli_signals_catch_chat(&err), CENOTE_OK);
    assert_false(readable(cli_signals_fd()));
    for (int i = 0; i < 5; i++) {
        raise(SIGINT);
        raise(SIGINT);
        assert_true(readable(cli_signals_fd()));
        assert_true(cli_signals_interrupted());
        assert_false(cli_signals_interrupted());
        assert_false(readable(cli_signals_fd()));
    }
    for (int i = 0; i < 100000; i++) /* more than a pipe holds */
        raise(SIGINT);
    assert_true(cli_signals_interrupted());
    assert_false(cli_signals_caught());
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_conversation),
                                       cmocka_unit_test(test_signals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
