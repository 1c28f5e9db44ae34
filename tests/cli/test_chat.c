/* SPDX-License-Identifier: Apache-2.0 */
/* `cenote chat` from outside, on a terminal and through pipes: what is typed, what comes back, and
 * that nothing of what goes wrong with one message ends the conversation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <jansson.h>

#include "checkpoint.h"
#include "lines.h"
#include "runner_fixture.h"
#include "screen.h"

#define COMMAND TEST_BIN_DIR "/cli/cenote"
#define PICTURE TEST_SOURCE_DIR "/examples/shapes.png"
#define CTRL_C  "\x03"
#define CTRL_D  "\x04"
#define UP      "\x1b[A"
#define DELETE  "\x7f"

/* A sanitizer's memory is not the program's. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* ---- through pipes ---- */

static char folder[512];

static int folder_up(void **state)
{
    (void)state;
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    return 0;
}

static int folder_down(void **state)
{
    (void)state;
    test_folder_remove(folder);
    return 0;
}

/* Runs `cenote chat MODEL @options` with @p input; its output lies in folder/out and folder/err.
 * @return the exit code. */
static int talk_bytes(const char *options, const char *input, size_t input_bytes)
{
    char path[600], command[4096];
    snprintf(path, sizeof path, "%s/in", folder);
    test_text_write(path, input, input_bytes);
    int size = snprintf(command, sizeof command,
                        "cd '%s' && '" COMMAND "' chat '%s' --threads 1 %s <in >out 2>err", folder,
                        fixture_checkpoint(), options);
    assert_true(size > 0 && (size_t)size < sizeof command);
    int status = system(command);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int talk(const char *options, const char *input)
{
    return talk_bytes(options, input, strlen(input));
}

static char *output(const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    static char text[1 << 20];
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = '\0';
    return text;
}

static void assert_said(const char *words)
{
    const char *text = output("err");
    if (strstr(text, words) == NULL)
        fail_msg("\"%s\" is not in: %s", words, text);
}

/* The objects of folder/out, one a line; json_decref() the array. */
static json_t *objects(void)
{
    json_t *all = json_array();
    for (char *line = strtok(output("out"), "\n"); line != NULL; line = strtok(NULL, "\n")) {
        json_error_t error;
        json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, &error);
        if (object == NULL)
            fail_msg("%s: %s", error.text, line);
        assert_int_equal(json_array_append_new(all, object), 0);
    }
    return all;
}

static json_int_t count_at(const json_t *all, size_t turn, const char *key)
{
    const json_t *value = json_object_get(json_array_get(all, turn), key);
    if (!json_is_integer(value))
        fail_msg("turn %zu has no %s", turn, key);
    return json_integer_value(value);
}

static const char *text_at(const json_t *all, size_t turn, const char *key)
{
    return json_string_value(json_object_get(json_array_get(all, turn), key));
}

static void test_json(void **state)
{
    (void)state;
    assert_int_equal(talk("--json --max-tokens 5 --memory 64MiB --image '" PICTURE "'",
                          "What is this?\n\n  \n/stats\nAnd\\\nnow?\n//image x"),
                     0);
    json_t *all = objects();
    assert_int_equal(json_array_size(all), 3);
    for (size_t turn = 0; turn < 3; turn++) {
        assert_string_equal(text_at(all, turn, "schema"), "cenote.chat/1");
        assert_int_equal(count_at(all, turn, "turn"), turn + 1);
        assert_true(json_is_null(json_object_get(json_array_get(all, turn), "error")));
        assert_string_equal(text_at(all, turn, "stop_reason"), "length");
        const json_t *ids = json_object_get(json_array_get(all, turn), "token_ids");
        assert_int_equal(json_array_size(ids), 5);
        assert_int_equal(count_at(all, turn, "used_tokens"),
                         count_at(all, turn, "prompt_tokens") + 4);
        const json_t *memory = json_object_get(json_array_get(all, turn), "memory");
        const json_t *io = json_object_get(json_array_get(all, turn), "io");
        assert_int_equal(json_integer_value(json_object_get(memory, "budget_bytes")), 64 << 20);
        assert_true(json_is_integer(json_object_get(io, "bytes_read_per_token")));
        if (!SANITIZED)
            assert_true(json_integer_value(json_object_get(memory, "peak_bytes")) < 64 << 20);
    }
    assert_int_equal(count_at(all, 0, "past_tokens"), 0);
    /* The prompt stays in the cache; the picture is not read twice. */
    assert_true(count_at(all, 1, "past_tokens") >= count_at(all, 0, "prompt_tokens") - 1);
    assert_true(count_at(all, 2, "past_tokens") >= count_at(all, 1, "prompt_tokens") - 1);
    json_decref(all);
    assert_said("context: ");
    assert_said("1 image");
}

/* The first answer is what `cenote run` says. */
static void test_same_as_run(void **state)
{
    (void)state;
    assert_int_equal(talk("--max-tokens 9 --image '" PICTURE "' --system 'Be brief.'", "Hello?"),
                     0);
    char *chat = strdup(output("out"));
    assert_said("9 tokens, first after ");
    assert_said(" of 4096");
    assert_said("1 message; decoded 8 tokens, ");
    assert_said("bound by ");
    char command[4096];
    snprintf(command, sizeof command,
             "'" COMMAND "' run '%s' --max-tokens 9 --image '" PICTURE
             "' --system 'Be brief.' --prompt 'Hello?' >'%s/out' 2>/dev/null",
             fixture_checkpoint(), folder);
    assert_int_equal(system(command), 0);
    assert_string_equal(output("out"), chat);
    free(chat);
    /* Drawn, with the same seed again. */
    assert_int_equal(talk("--max-tokens 9 --sample --seed 3", "a\nb"), 0);
    char *drawn = strdup(output("out"));
    assert_int_equal(talk("--max-tokens 9 --sample --seed 3", "a\nb"), 0);
    assert_string_equal(output("out"), drawn);
    assert_int_equal(talk("--max-tokens 9 --sample --seed 4", "a\nb"), 0);
    assert_string_not_equal(output("out"), drawn);
    free(drawn);
}

/* What is wrong with one message is said; those after it are answered. */
static void test_bad_messages(void **state)
{
    (void)state;
    char path[600];
    snprintf(path, sizeof path, "%s/text.png", folder);
    test_text_write(path, "no picture at all", 17);
    assert_int_equal(talk("--json --max-tokens 2 --max-context 64",
                          "/image missing.png\n/image text.png\n/image\n/frobnicate\n/stat\n"
                          "bad \xff byte\nHi\n"
                          "so many words that they do not fit into a context of sixty-four tokens, "
                          "with the small vocabulary that this model has, are these\n/reset\nHi"),
                     0);
    json_t *all = objects();
    assert_int_equal(json_array_size(all), 4);
    assert_non_null(strstr(text_at(all, 0, "error"), "not UTF-8 at byte 4"));
    assert_string_equal(text_at(all, 0, "stop_reason"), "error");
    assert_int_equal(json_array_size(json_object_get(json_array_get(all, 1), "token_ids")), 2);
    assert_non_null(strstr(text_at(all, 2, "error"), "and there is room for 64"));
    assert_int_equal(count_at(all, 2, "used_tokens"), count_at(all, 1, "used_tokens"));
    assert_string_equal(text_at(all, 3, "text"), text_at(all, 1, "text"));
    assert_int_equal(count_at(all, 3, "past_tokens"), 0);
    json_decref(all);
    assert_said("missing.png: No such file");
    assert_said("text.png");
    assert_said("/image PATH attaches");
    assert_said("/frobnicate is no command");
    assert_said("/stat is no command");
}

static void test_full_context(void **state)
{
    (void)state;
    assert_int_equal(talk("--json --max-context 40", "Hi\nHi\n/reset\nHi"), 0);
    json_t *all = objects();
    assert_int_equal(json_array_size(all), 3);
    assert_string_equal(text_at(all, 0, "stop_reason"), "context");
    assert_string_equal(text_at(all, 1, "stop_reason"), "error");
    assert_string_equal(text_at(all, 2, "text"), text_at(all, 0, "text"));
    json_decref(all);
    assert_said("the context is full; /reset begins another conversation");
}

/* A message of the most bytes, one byte more, and a byte that no text has. */
static void test_long_messages(void **state)
{
    (void)state;
    char *input = malloc(2 * CLI_MESSAGE_BYTES_MAX + 64);
    assert_non_null(input);
    memset(input, 'x', 2 * CLI_MESSAGE_BYTES_MAX + 64);
    input[CLI_MESSAGE_BYTES_MAX] = '\n';
    assert_int_equal(talk_bytes("--json --max-context 64", input, CLI_MESSAGE_BYTES_MAX + 1), 0);
    assert_non_null(strstr(output("out"), "\"error\""));
    input[CLI_MESSAGE_BYTES_MAX] = 'x';
    input[CLI_MESSAGE_BYTES_MAX + 1] = '\n';
    memcpy(input + CLI_MESSAGE_BYTES_MAX + 2, "/quit\nnever", 11);
    assert_int_equal(talk_bytes("--json", input, CLI_MESSAGE_BYTES_MAX + 13), 0);
    assert_string_equal(output("out"), "");
    assert_said("a message has at most 262144 bytes");
    assert_int_equal(talk_bytes("--json --max-tokens 1", "a\0b\nc", 5), 0);
    json_t *all = objects();
    assert_int_equal(json_array_size(all), 1);
    json_decref(all);
    free(input);
}

/* /memory moves the budget, and says why not. */
static void test_memory(void **state)
{
    (void)state;
    assert_int_equal(
        talk("--json --max-tokens 3 --memory 40MiB",
             "Hi\n/memory 1MiB\n/memory lots\n/memory 30MiB\nHi\n/memory 64MiB\n/image " PICTURE
             "\nHi"),
        0);
    json_t *all = objects();
    assert_int_equal(json_array_size(all), 3);
    static const json_int_t budgets[] = {40 << 20, 30 << 20, 64 << 20};
    for (size_t turn = 0; turn < 3; turn++) {
        const json_t *memory = json_object_get(json_array_get(all, turn), "memory");
        assert_int_equal(json_integer_value(json_object_get(memory, "budget_bytes")),
                         budgets[turn]);
        assert_int_equal(json_array_size(json_object_get(json_array_get(all, turn), "token_ids")),
                         3);
    }
    json_decref(all);
    assert_said("the conversation needs at least");
    assert_said("'lots'");
}

/* A refusal names what would help: half the KV where that is a large part, and not twice. */
static void test_refusal_helps(void **state)
{
    (void)state;
    assert_int_equal(talk("--memory 1MiB --max-context 8000", "Hi"), 3);
    assert_said("; --kv-type bf16 halves the KV");
    assert_int_equal(talk("--memory 1MiB --max-context 8000 --kv-type bf16", "Hi"), 3);
    assert_null(strstr(output("err"), "halves"));
    assert_int_equal(talk("--memory 1MiB --max-context 64", "Hi"), 3);
    assert_null(strstr(output("err"), "halves"));
}

/* A picture for which there is no memory stays for the next try. */
static void test_pictures_wait_for_memory(void **state)
{
    (void)state;
    assert_int_equal(talk("--memory 1MiB", "Hi"), 3);
    assert_said("needs at least");
    unsigned needed = 0;
    assert_int_equal(
        sscanf(strstr(output("err"), "needs at least"), "needs at least %u MiB", &needed), 1);
    char options[128];
    snprintf(options, sizeof options, "--json --max-context 300 --max-tokens 2 --memory %uMiB",
             needed);
    assert_int_equal(talk(options, "/image " TEST_SOURCE_DIR "/examples/valley.jpg\nLook\n"
                                   "/memory 512MiB\nLook\nAnd?"),
                     0);
    json_t *all = objects();
    assert_int_equal(json_array_size(all), 3);
    assert_non_null(strstr(text_at(all, 0, "error"), "does not fit: needs at least"));
    assert_true(count_at(all, 1, "prompt_tokens") > 64);
    json_decref(all);
    assert_said("; /memory SIZE gives more");
}

/* What bounds the speed is said of the last reply and of all; where it is the disk, as it will be
 * in the smallest budget on most machines, so is what helps. */
static void test_bound(void **state)
{
    (void)state;
    assert_int_equal(talk("--max-context 600 --memory 1MiB", "Hi"), 3);
    unsigned needed = 0;
    assert_int_equal(
        sscanf(strstr(output("err"), "needs at least"), "needs at least %u MiB", &needed), 1);
    char options[128];
    snprintf(options, sizeof options, "--max-context 600 --max-tokens 9 --memory %uMiB", needed);
    assert_int_equal(talk(options, "/stats\nHi\nAnd?\n/stats\n"), 0);
    assert_said("2 messages; decoded 16 tokens, ");
    const char *first = strstr(output("err"), "bound by ");
    assert_non_null(first); /* of /stats, once there was a reply */
    const char *last = strstr(first + 1, "bound by ");
    assert_non_null(last);
    assert_null(strstr(last + 1, "bound by "));
    if (strncmp(last, "bound by disk", 13) == 0)
        assert_non_null(strstr(last, "; with /memory "));
}

static void test_ends(void **state)
{
    (void)state;
    assert_int_equal(talk("--quiet", ""), 0);
    assert_string_equal(output("err"), "");
    assert_int_equal(talk("--quiet --max-tokens 2", "Hi\n/quit\nnot this"), 0);
    char command[4096];
    snprintf(command, sizeof command,
             "echo Hi | '" COMMAND "' chat '%s' --max-tokens 2 >/dev/full 2>'%s/err'",
             fixture_checkpoint(), folder);
    assert_int_equal(WEXITSTATUS(system(command)), 1);
    assert_said("cannot write the answer");
    assert_int_equal(talk("--image missing.png", "Hi"), 1);
    assert_said("missing.png");
    assert_int_equal(talk("--max-context 99999999", "Hi"), 2);
    assert_said("the model admits");
    snprintf(command, sizeof command,
             "cd '%s' && mkfifo keys && { '" COMMAND "' chat '%s' <keys 2>err & } && exec 3>keys "
             "&& sleep 1 && kill -TERM $! && wait $!",
             folder, fixture_checkpoint());
    assert_int_equal(WEXITSTATUS(system(command)), 130);
    assert_said("interrupted");
}

/* ---- on a terminal ---- */

static struct test_screen *start(const char *a, const char *b, const char *c, const char *d,
                                 bool text_too)
{
    const char *argv[] = {
        COMMAND, "chat", fixture_checkpoint(), "--threads", "1", "--image", PICTURE, a, b, c,
        d,       NULL};
    return test_screen_start(argv, 100, text_too);
}

static void test_typed(void **state)
{
    (void)state;
    struct test_screen *screen = start("--max-tokens", "5", NULL, NULL, true);
    test_screen_await(screen, "tokens of context in");
    test_screen_await(screen, "> ");
    test_screen_type(screen, "What is this?\r");
    test_screen_await(screen, "5 tokens, first after");
    test_screen_await(screen, "> ");
    test_screen_type(screen, "And\\\r");
    test_screen_await(screen, ". ");
    test_screen_type(screen, "now?\r");
    test_screen_await(screen, "5 tokens, first after");
    test_screen_type(screen, "/statx" DELETE "s\r"); /* edited */
    test_screen_await(screen, "in 2 messages with 1 image");
    test_screen_await(screen, "> ");
    test_screen_type(screen, UP "\r"); /* called back */
    test_screen_await(screen, "in 2 messages with 1 image");
    test_screen_type(screen, "/help\r");
    test_screen_await(screen, "/image PATH");
    test_screen_await(screen, "> ");
    test_screen_type(screen, CTRL_D);
    assert_int_equal(test_screen_finish(screen), 0);
    test_screen_close(screen);
}

static void test_ctrl_c(void **state)
{
    (void)state;
    struct test_screen *screen = start("--max-tokens", "100000", "--max-context", "8000", false);
    test_screen_await(screen, "> ");
    test_screen_type(screen, "Go on for long.\r");
    test_screen_await(screen, "tokens/s"); /* in the middle of the reply */
    test_screen_type(screen, CTRL_C);
    test_screen_await(screen, "cenote: stopped");
    test_screen_await(screen, "> ");
    test_screen_type(screen, "what was that" CTRL_C); /* a line that is not to be */
    test_screen_await(screen, "Ctrl-D or /quit ends");
    test_screen_type(screen, "/stats\r");
    test_screen_await(screen, "in 1 message with 1 image");
    test_screen_type(screen, "Again.\r");
    test_screen_await(screen, "tokens/s");
    test_screen_type(screen, CTRL_C);
    test_screen_await(screen, "cenote: stopped");
    test_screen_type(screen, "/quit\r");
    assert_int_equal(test_screen_finish(screen), 0);
    test_screen_close(screen);
}

static void test_history(void **state)
{
    (void)state;
    char path[600];
    snprintf(path, sizeof path, "%s/history", folder);
    struct test_screen *screen = start("--quiet", "--history", path, NULL, true);
    test_screen_await(screen, "> ");
    test_screen_type(screen, "/frobnicate\r");
    test_screen_await(screen, "is no command");
    test_screen_await(screen, "> ");
    test_screen_type(screen, CTRL_D);
    assert_int_equal(test_screen_finish(screen), 0);
    test_screen_close(screen);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    screen = start("--quiet", "--history", path, NULL, true);
    test_screen_await(screen, "> ");
    test_screen_type(screen, UP "\r");
    test_screen_await(screen, "/frobnicate is no command");
    test_screen_await(screen, "> ");
    test_screen_type(screen, CTRL_D);
    assert_int_equal(test_screen_finish(screen), 0);
    test_screen_close(screen);
}

/* Where lines cannot be edited they are read as they come. */
static void test_dumb_terminal(void **state)
{
    (void)state;
    const char *const argv[] = {"/usr/bin/env",       "TERM=dumb",    COMMAND, "chat",
                                fixture_checkpoint(), "--max-tokens", "2",     NULL};
    struct test_screen *screen = test_screen_start(argv, 80, true);
    test_screen_await(screen, "> ");
    test_screen_type(screen, "Hi\n");
    test_screen_await(screen, "2 tokens, first after");
    test_screen_await(screen, "> ");
    test_screen_type(screen, CTRL_C);
    test_screen_await(screen, "Ctrl-D or /quit ends");
    test_screen_await(screen, "> ");
    test_screen_type(screen, CTRL_D);
    assert_int_equal(test_screen_finish(screen), 0);
    test_screen_close(screen);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_up, folder_down)

int main(void)
{
    test_screen_probe();
    const struct CMUnitTest tests[] = {
        TEST(test_json),          TEST(test_same_as_run),
        TEST(test_bad_messages),  TEST(test_full_context),
        TEST(test_long_messages), TEST(test_memory),
        TEST(test_refusal_helps), TEST(test_pictures_wait_for_memory),
        TEST(test_bound),         TEST(test_ends),
        TEST(test_typed),         TEST(test_ctrl_c),
        TEST(test_history),       TEST(test_dumb_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
