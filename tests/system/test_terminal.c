/* SPDX-License-Identifier: Apache-2.0 */
/* What shows on a terminal and nowhere else: the progress line of a run, the bar of
 * make_checkpoint, and the end that the keyboard asks for. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "layout_instances.h"
#include "runner_fixture.h"
#include "screen.h"

#define COMMAND TEST_BIN_DIR "/cli/cenote"
#define TOOL    TEST_BIN_DIR "/tools/make_checkpoint"
#define PICTURE TEST_SOURCE_DIR "/examples/cat.png"
#define CTRL_C  "\x03"

static void test_progress_of_a_run(void **state)
{
    (void)state;
    const char *const argv[] = {COMMAND,    "run",    fixture_checkpoint(), "--image", PICTURE,
                                "--prompt", "hi",     "--memory",           "256MiB",  "--seed",
                                "1",        "--json", "--max-tokens",       "20",      NULL};
    struct test_screen *screen = test_screen_start(argv, 200, false);
    assert_int_equal(test_screen_finish(screen), 0);
    const char *const parts[] = {"loading",  "looking", "reading", "writing",     "% ",
                                 "tokens/s", " read ",  "memory ", "of 256.0 MiB"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        test_screen_assert_shown(screen, parts[i]);
    const char *end = strrchr(screen->shown, '\r');
    assert_non_null(end);
    assert_string_equal(end, "\r\033[K"); /* the line is gone at the end */
    test_screen_close(screen);
}

/* A line that wraps could not be taken back. */
static void test_narrow_terminal(void **state)
{
    (void)state;
    const char *const argv[] = {COMMAND,    "run",    fixture_checkpoint(),
                                "--prompt", "hi",     "--max-tokens",
                                "2",        "--json", NULL};
    struct test_screen *screen = test_screen_start(argv, 20, false);
    assert_int_equal(test_screen_finish(screen), 0);
    test_screen_assert_shown(screen, "loading");
    for (const char *line = strstr(screen->shown, "\033[K"); line != NULL;) {
        line += strlen("\033[K");
        assert_true(strcspn(line, "\r") < 20);
        line = strstr(line, "\033[K");
    }
    test_screen_close(screen);
}

static void test_quiet(void **state)
{
    (void)state;
    const char *const argv[] = {COMMAND,    "run",     fixture_checkpoint(),
                                "--prompt", "hi",      "--max-tokens",
                                "2",        "--quiet", NULL};
    struct test_screen *screen = test_screen_start(argv, 80, false);
    assert_int_equal(test_screen_finish(screen), 0);
    assert_string_equal(screen->shown, "");
    test_screen_close(screen);
}

static void test_ctrl_c(void **state)
{
    (void)state;
    const char *const argv[] = {
        COMMAND, "run", fixture_checkpoint(), "--prompt", "hi", "--max-tokens", "100000", NULL};
    struct test_screen *screen = test_screen_start(argv, 80, false);
    test_screen_watch(screen, "tokens/s");
    test_screen_type(screen, CTRL_C);
    assert_int_equal(test_screen_finish(screen), 130);
    test_screen_assert_shown(screen, "cenote: interrupted");
    test_screen_close(screen);
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
    struct test_screen *screen = test_screen_start(argv, 100, true);
    test_screen_watch(screen, " times the lower bound  ");
    test_screen_type(screen, CTRL_C);
    assert_int_equal(test_screen_finish(screen), 130);
    test_screen_assert_shown(screen, "searching 0.");
    test_screen_assert_shown(screen, "cenote: interrupted; this is the best so far");
    test_screen_assert_shown(screen, "id,offset");
    test_screen_assert_shown(screen, "\n299,");
    assert_int_equal(unlink(path), 0);
    test_screen_close(screen);
}

static void test_bar_of_make_checkpoint(void **state)
{
    (void)state;
    char directory[] = TEST_SCRATCH_DIR "/terminal.XXXXXX", path[sizeof directory + 8];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/tiny", directory);
    const char *const argv[] = {TOOL, "tiny", path, NULL};
    struct test_screen *screen = test_screen_start(argv, 80, true);
    assert_int_equal(test_screen_finish(screen), 0);
    test_screen_assert_shown(screen, "model.safetensors");
    test_screen_assert_shown(screen, " %  ");
    test_screen_assert_shown(screen, " MB/s  ");
    char command[sizeof directory + 16];
    snprintf(command, sizeof command, "rm -r '%s'", directory);
    assert_int_equal(system(command), 0);
    test_screen_close(screen);
}

int main(void)
{
    test_screen_probe();
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
