/* SPDX-License-Identifier: Apache-2.0 */
/* What shows on a terminal and nowhere else: the progress line of a run, the bar of
 * make_checkpoint, and the end that the keyboard asks for. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "layout_instances.h"
#include "program.h"
#include "runner_fixture.h"

#define COMMAND TEST_BIN_DIR "/cli/cenote"
#define TOOL    TEST_BIN_DIR "/tools/make_checkpoint"
#define PICTURE TEST_SOURCE_DIR "/examples/cat.png"
#define CTRL_C  "\x03"

static char shown[1 << 20]; /* what the terminal was told */

struct screen {
    int master;
    pid_t pid;
    size_t filled;
};

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

static struct screen start(const char *const argv[], unsigned short columns, bool text_too)
{
    struct screen screen = {.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)};
    assert_true(screen.master >= 0);
    assert_int_equal(grantpt(screen.master), 0);
    assert_int_equal(unlockpt(screen.master), 0);
    char name[64];
    assert_int_equal(ptsname_r(screen.master, name, sizeof name), 0);
    const struct winsize size = {.ws_row = 24, .ws_col = columns};
    assert_int_equal(ioctl(screen.master, TIOCSWINSZ, &size), 0);
    screen.pid = fork();
    assert_true(screen.pid >= 0);
    if (screen.pid == 0)
        child(name, argv, text_too);
    return screen;
}

/* Reads until @p words have shown, or to the end (NULL). */
static void watch(struct screen *screen, const char *words)
{
    shown[screen->filled] = '\0';
    while (words == NULL || strstr(shown, words) == NULL) {
        ssize_t got =
            read(screen->master, shown + screen->filled, sizeof shown - 1 - screen->filled);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) /* EIO: nobody has the other end any more */
            return;
        screen->filled += (size_t)got;
        shown[screen->filled] = '\0';
    }
}

static int finish(struct screen *screen)
{
    watch(screen, NULL);
    close(screen->master);
    return test_program_wait(screen->pid);
}

static void assert_shown(const char *words)
{
    if (strstr(shown, words) == NULL)
        fail_msg("'%s' did not show in: %s", words, shown);
}

static void test_progress_of_a_run(void **state)
{
    (void)state;
    const char *const argv[] = {COMMAND,    "run",    fixture_checkpoint(), "--image", PICTURE,
                                "--prompt", "hi",     "--memory",           "256MiB",  "--seed",
                                "1",        "--json", "--max-tokens",       "20",      NULL};
    struct screen screen = start(argv, 200, false);
    assert_int_equal(finish(&screen), 0);
    const char *const parts[] = {"loading",  "looking", "reading", "writing",     "% ",
                                 "tokens/s", " read ",  "memory ", "of 256.0 MiB"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        assert_shown(parts[i]);
    const char *end = strrchr(shown, '\r');
    assert_non_null(end);
    assert_string_equal(end, "\r\033[K"); /* the line is gone at the end */
}

/* A line that wraps could not be taken back. */
static void test_narrow_terminal(void **state)
{
    (void)state;
    const char *const argv[] = {COMMAND,    "run",    fixture_checkpoint(),
                                "--prompt", "hi",     "--max-tokens",
                                "2",        "--json", NULL};
    struct screen screen = start(argv, 20, false);
    assert_int_equal(finish(&screen), 0);
    assert_shown("loading");
    for (const char *line = strstr(shown, "\033[K"); line != NULL;) {
        line += strlen("\033[K");
        assert_true(strcspn(line, "\r") < 20);
        line = strstr(line, "\033[K");
    }
}

static void test_quiet(void **state)
{
    (void)state;
    const char *const argv[] = {COMMAND,    "run",     fixture_checkpoint(),
                                "--prompt", "hi",      "--max-tokens",
                                "2",        "--quiet", NULL};
    struct screen screen = start(argv, 80, false);
    assert_int_equal(finish(&screen), 0);
    assert_string_equal(shown, "");
}

static void test_ctrl_c(void **state)
{
    (void)state;
    const char *const argv[] = {
        COMMAND, "run", fixture_checkpoint(), "--prompt", "hi", "--max-tokens", "100000", NULL};
    struct screen screen = start(argv, 80, false);
    watch(&screen, "tokens/s");
    assert_int_equal(write(screen.master, CTRL_C, 1), 1);
    assert_int_equal(finish(&screen), 130);
    assert_shown("cenote: interrupted");
}

/* A line that says how far it is; Ctrl-C ends the search and not the answer. */
static void test_layout(void **state)
{
    (void)state;
    enum { COUNT = 300 };
    static cenote_layout_buffer buffers[COUNT];
    char path[] = TEST_SCRATCH_DIR "/terminal.XXXXXX";
    FILE *file = fdopen(mkstemp(path), "w");
    assert_non_null(file);
    layout_make_random(buffers, COUNT, 100, 5000, 6, 1);
    fputs("id,lower,upper,size,alignment\n", file);
    for (unsigned i = 0; i < COUNT; i++)
        fprintf(file, "%u,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\n", i, buffers[i].lower,
                buffers[i].upper, buffers[i].size_bytes, buffers[i].align_bytes);
    assert_int_equal(fclose(file), 0);
    const char *const argv[] = {COMMAND, "layout", path, "--time-limit", "1h", NULL};
    struct screen screen = start(argv, 100, true);
    watch(&screen, " times the lower bound  ");
    assert_int_equal(write(screen.master, CTRL_C, 1), 1);
    assert_int_equal(finish(&screen), 130);
    assert_shown("searching 0.");
    assert_shown("cenote: interrupted; this is the best so far");
    assert_shown("id,offset");
    assert_shown("\n299,");
    assert_int_equal(unlink(path), 0);
}

static void test_bar_of_make_checkpoint(void **state)
{
    (void)state;
    char directory[] = TEST_SCRATCH_DIR "/terminal.XXXXXX", path[sizeof directory + 8];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/tiny", directory);
    const char *const argv[] = {TOOL, "tiny", path, NULL};
    struct screen screen = start(argv, 80, true);
    assert_int_equal(finish(&screen), 0);
    assert_shown("model.safetensors");
    assert_shown(" %  ");
    assert_shown(" MB/s  ");
    char command[sizeof directory + 16];
    snprintf(command, sizeof command, "rm -r '%s'", directory);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    int probe = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (probe < 0) {
        printf("SKIP: no pseudo-terminals here (is /dev/pts mounted?)\n");
        return 77;
    }
    close(probe);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_progress_of_a_run),
        cmocka_unit_test(test_narrow_terminal),
        cmocka_unit_test(test_quiet),
        cmocka_unit_test(test_ctrl_c),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_bar_of_make_checkpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
