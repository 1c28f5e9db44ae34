/* SPDX-License-Identifier: Apache-2.0 */
/* A program on a pseudo-terminal of its own, and what it shows there. Everything asserts. */
#ifndef TEST_SUPPORT_SCREEN_H
#define TEST_SUPPORT_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define SCREEN_BYTES_MAX (1u << 20)

struct test_screen {
    int master;
    pid_t pid;
    size_t filled;
    size_t looked; /* test_screen_await() has seen all before it */
    char shown[SCREEN_BYTES_MAX];
};

/* Exits with 77 where there are no pseudo-terminals. */
void test_screen_probe(void);
/* Starts argv[0] with standard input and error on the terminal, standard output too or nowhere.
 * The screen is released by test_screen_finish(). */
struct test_screen *test_screen_start(const char *const argv[], unsigned short columns,
                                      bool text_too);
/* Reads until @p words have shown at all; or to the end (NULL). */
void test_screen_watch(struct test_screen *screen, const char *words);
/* Reads until @p words show behind what was awaited before; fails the test when the program ends
 * first. */
void test_screen_await(struct test_screen *screen, const char *words);
void test_screen_type(struct test_screen *screen, const char *keys);
/* Reads to the end. @return the exit code. The text stays until test_screen_close(). */
int test_screen_finish(struct test_screen *screen);
void test_screen_close(struct test_screen *screen);
void test_screen_assert_shown(const struct test_screen *screen, const char *words);

#endif
