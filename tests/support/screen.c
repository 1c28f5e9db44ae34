/* SPDX-License-Identifier: Apache-2.0 */
#include "screen.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "program.h"

void test_screen_probe(void)
{
    int probe = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (probe < 0) {
        printf("SKIP: no pseudo-terminals here (is /dev/pts mounted?)\n");
        exit(77);
    }
    close(probe);
}

/* In the child: the terminal becomes the session's, so that its Ctrl-C is a signal. */
static void child(const char *name, const char *const argv[], bool text_too)
{
    setsid();
    int terminal = open(name, O_RDWR);
    int off = open("/dev/null", O_WRONLY);
    ioctl(terminal, TIOCSCTTY, 0);
    dup2(terminal, STDIN_FILENO);
    dup2(text_too ? terminal : off, STDOUT_FILENO);
    dup2(terminal, STDERR_FILENO);
    setenv("TERM", "xterm", 1);
    union { /* execv's type is older than const */
        const char *const *given;
        char *const *wanted;
    } arguments = {argv};
    execv(argv[0], arguments.wanted);
    _exit(127);
}

struct test_screen *test_screen_start(const char *const argv[], unsigned short columns,
                                      bool text_too)
{
    struct test_screen *screen = calloc(1, sizeof *screen);
    assert_non_null(screen);
    screen->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(screen->master >= 0);
    assert_int_equal(grantpt(screen->master), 0);
    assert_int_equal(unlockpt(screen->master), 0);
    char name[64];
    assert_int_equal(ptsname_r(screen->master, name, sizeof name), 0);
    const struct winsize size = {.ws_row = 24, .ws_col = columns};
    assert_int_equal(ioctl(screen->master, TIOCSWINSZ, &size), 0);
    screen->pid = fork();
    assert_true(screen->pid >= 0);
    if (screen->pid == 0)
        child(name, argv, text_too);
    return screen;
}

/* @return false at the end. */
static bool read_more(struct test_screen *screen)
{
    ssize_t got;
    do
        got = read(screen->master, screen->shown + screen->filled,
                   sizeof screen->shown - 1 - screen->filled);
    while (got < 0 && errno == EINTR);
    if (got <= 0) /* EIO: nobody has the other end any more */
        return false;
    screen->filled += (size_t)got;
    screen->shown[screen->filled] = '\0';
    return true;
}

void test_screen_watch(struct test_screen *screen, const char *words)
{
    while (words == NULL || strstr(screen->shown, words) == NULL)
        if (!read_more(screen))
            return;
}

void test_screen_await(struct test_screen *screen, const char *words)
{
    const char *found;
    while ((found = strstr(screen->shown + screen->looked, words)) == NULL)
        if (!read_more(screen))
            fail_msg("'%s' did not show after: %s", words, screen->shown + screen->looked);
    screen->looked = (size_t)(found - screen->shown) + strlen(words);
}

void test_screen_type(struct test_screen *screen, const char *keys)
{
    assert_int_equal(write(screen->master, keys, strlen(keys)), strlen(keys));
}

int test_screen_finish(struct test_screen *screen)
{
    test_screen_watch(screen, NULL);
    close(screen->master);
    return test_program_wait(screen->pid);
}

void test_screen_close(struct test_screen *screen)
{
    free(screen);
}

void test_screen_assert_shown(const struct test_screen *screen, const char *words)
{
    if (strstr(screen->shown, words) == NULL)
        fail_msg("'%s' did not show in: %s", words, screen->shown);
}
