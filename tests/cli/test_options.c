/* SPDX-License-Identifier: Apache-2.0 */
/* The option tables and their parser. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "options.h"

#define ARGUMENTS_MAX 300

/* Splits at '|' so that a call reads as one string. */
static cenote_status parse(const char *command_name, const char *line, struct cli_options *options,
                           cenote_error *err)
{
    static char copy[4096];
    char *argv[ARGUMENTS_MAX + 1];
    int argc = 0;
    snprintf(copy, sizeof copy, "%s|%s", command_name, line);
    for (char *word = strtok(copy, "|"); word != NULL; word = strtok(NULL, "|")) {
        assert_true(argc < ARGUMENTS_MAX);
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    return cli_options_parse(cli_command_find(command_name), argc, argv, options, err);
}

static void refuses(const char *command_name, const char *line, const char *expected)
{
    struct cli_options options = {.sampling = {.seed = 77}};
    cenote_error err;
    if (parse(command_name, line, &options, &err) != CENOTE_E_INVAL)
        fail_msg("%s %s was accepted", command_name, line);
    assert_int_equal(options.sampling.seed, 77);
    if (strstr(err.message, expected) == NULL)
        fail_msg("%s %s: '%s' does not say '%s'", command_name, line, err.message, expected);
}

static void test_run(void **state)
{
    (void)state;
    struct cli_options o;
    cenote_error err;
    const char *line =
        "--image|a.png|model|--image=b.jpg|--prompt|hi there|--system|be brief|"
        "--memory|1.5GiB|--max-tokens|7|--max-image-tokens|99|--threads|3|"
        "--sample|--temperature|0.5|--top-k|20|--top-p|0.8|--repetition-penalty|1.05|"
        "--seed|18446744073709551615|--raw-prompt|--parse-special|"
        "--kv-type|bf16|--json|--logits|l.npy|--quiet";
    if (parse("run", line, &o, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    assert_string_equal(o.path, "model");
    assert_int_equal(o.image_count, 2);
    assert_string_equal(o.image_paths[0], "a.png");
    assert_string_equal(o.image_paths[1], "b.jpg");
    assert_string_equal(o.prompt, "hi there");
    assert_string_equal(o.system, "be brief");
    assert_int_equal(o.memory_bytes, 3ull << 29);
    assert_string_equal(o.memory_text, "1.5GiB");
    assert_int_equal(o.max_tokens, 7);
    assert_int_equal(o.max_image_tokens, 99);
    assert_int_equal(o.thread_count, 3);
    assert_true(o.sample && o.sampling.temperature == 0.5f);
    assert_int_equal(o.sampling.top_k, 20);
    assert_true(o.sampling.top_p == 0.8f && o.sampling.repetition_penalty == 1.05f);
    assert_true(o.sampling.seed == UINT64_MAX);
    assert_true(o.raw_prompt && o.parse_special && o.json && o.quiet);
    assert_int_equal(o.kv_dtype, CENOTE_DTYPE_BF16);
    assert_string_equal(o.logits_path, "l.npy");
}

static void test_chat(void **state)
{
    (void)state;
    struct cli_options o;
    cenote_error err;
    const char *line = "m|--image|a.png|--max-context|9000|--history|h|--sample|--json";
    if (parse("chat", line, &o, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    assert_int_equal(o.context_tokens, 9000);
    assert_string_equal(o.history_path, "h");
    assert_true(o.sample && o.json);
    assert_int_equal(o.image_count, 1);
    assert_int_equal(parse("chat", "", &o, &err), CENOTE_OK);
    assert_null(o.path);
    assert_int_equal(o.context_tokens, 0);
    refuses("chat", "m|--max-context|0", "0");
    refuses("chat", "m|--prompt|hi", "--prompt");
}

static void test_defaults(void **state)
{
    (void)state;
    struct cli_options o;
    cenote_error err;
    assert_int_equal(parse("run", "m|--prompt|p", &o, &err), CENOTE_OK);
    assert_int_equal(o.memory_bytes, 0);
    assert_null(o.memory_text);
    assert_int_equal(o.max_tokens, 0);
    assert_int_equal(o.kv_dtype, CENOTE_DTYPE_F32);
    assert_true(o.sampling.temperature == CLI_NOT_GIVEN && o.sampling.top_p == CLI_NOT_GIVEN);
    assert_true(o.sampling.repetition_penalty == CLI_NOT_GIVEN);
    assert_int_equal(o.sampling.top_k, CLI_TOP_K_NOT_GIVEN);
    assert_false(o.sample || o.json || o.quiet || o.raw_prompt || o.parse_special);
}

/* A second parse knows nothing of the first; -- ends the options. */
static void test_parses_are_independent(void **state)
{
    (void)state;
    struct cli_options o;
    cenote_error err;
    assert_int_equal(parse("run", "m|--prompt|p|--image|a|--json", &o, &err), CENOTE_OK);
    assert_int_equal(parse("run", "--prompt|p|--|--m", &o, &err), CENOTE_OK);
    assert_string_equal(o.path, "--m");
    assert_int_equal(o.image_count, 0);
    assert_false(o.json);
}

static void test_percent_of_the_machine(void **state)
{
    (void)state;
    struct cli_options half, whole;
    cenote_error err;
    assert_int_equal(parse("plan", "m|--memory|50%", &half, &err), CENOTE_OK);
    assert_int_equal(parse("plan", "m|--memory|100%", &whole, &err), CENOTE_OK);
    cenote_machine_memory machine;
    assert_int_equal(cenote_machine_memory_get(&machine, &err), CENOTE_OK);
    assert_true(whole.memory_bytes <= machine.total_bytes && whole.memory_bytes > 0);
    assert_int_equal(half.memory_bytes, whole.memory_bytes / 2);
}

static void test_plan_sizes(void **state)
{
    (void)state;
    struct cli_options o;
    cenote_error err;
    assert_int_equal(parse("plan", "m|--image|640x480|--image|1x65500|--prompt-tokens|9", &o, &err),
                     CENOTE_OK);
    assert_int_equal(o.image_count, 2);
    assert_int_equal(o.image_sizes[1].height, 65500);
    assert_int_equal(o.prompt_tokens, 9);
}

static void test_pack(void **state)
{
    (void)state;
    struct cli_options o;
    cenote_error err;
    assert_int_equal(parse("pack", "m", &o, &err), CENOTE_OK);
    assert_true(o.cache_directory == NULL && !o.force && !o.verify);
    assert_int_equal(parse("pack", "m|--out|d|--force", &o, &err), CENOTE_OK);
    assert_string_equal(o.cache_directory, "d");
    assert_true(o.force && !o.verify);
    assert_int_equal(parse("pack", "--cache=e|m|--verify", &o, &err), CENOTE_OK);
    assert_string_equal(o.cache_directory, "e");
    assert_true(!o.force && o.verify);
    refuses("pack", "--out|d", "MODEL_DIR is missing");
}

static void test_refusals(void **state)
{
    (void)state;
    refuses("plan", "--prompt-tokens|3", "MODEL_DIR is missing");
    refuses("demo", "m", "one argument too many");
    refuses("run", "m|more", "more");
    refuses("run", "m|--nonsense", "--nonsense");
    refuses("run", "m|-x", "-x");
    refuses("run", "m|--max|3", "--max");     /* ambiguous */
    refuses("run", "m|--json=yes", "--json"); /* takes no value */
    refuses("run", "m|--prompt", "--prompt"); /* lacks one */
    refuses("run", "m|--memory|12potatoes", "12potatoes");
    refuses("run", "m|--memory|0", "--memory");
    refuses("run", "m|--max-tokens|0", "1 to 2147483647");
    refuses("run", "m|--threads|257", "1 to 256");
    refuses("run", "m|--threads|0", "1 to 256");
    refuses("run", "m|--temperature|-1", "-1");
    refuses("run", "m|--top-k|-1", "-1");
    refuses("run", "m|--top-p|0", "above 0");
    refuses("run", "m|--top-p|1.5", "1.5");
    refuses("run", "m|--repetition-penalty|0", "above 0");
    refuses("run", "m|--seed|18446744073709551616", "18446744073709551616");
    refuses("run", "m|--kv-type|f64", "f64");
    refuses("plan", "m|--image|cat.jpg", "cat.jpg");
    refuses("plan", "m|--image|65501x1", "65500");
    refuses("plan", "m|--prompt|p", "--prompt"); /* ambiguity or not: not plan's */
    refuses("inspect", "m|--memory|1G", "--memory");
}

static void test_an_argument_that_may_be_left_out(void **state)
{
    (void)state;
    struct cli_options o;
    cenote_error err;
    assert_int_equal(parse("run", "--prompt|p", &o, &err), CENOTE_OK);
    assert_null(o.path);
    assert_int_equal(parse("run", "m|--prompt|p", &o, &err), CENOTE_OK);
    assert_string_equal(o.path, "m");
    assert_int_equal(parse("demo", "--memory|30MiB", &o, &err), CENOTE_OK);
    assert_null(o.path);
}

static void test_too_many_images(void **state)
{
    (void)state;
    char line[2048] = "m|--prompt|p";
    for (unsigned i = 0; i <= QWEN_IMAGES_MAX; i++)
        strcat(line, "|--image|a");
    refuses("run", line, "64");
}

static void test_help_needs_nothing_else(void **state)
{
    (void)state;
    struct cli_options o;
    cenote_error err;
    for (size_t i = 0; i < cli_command_count; i++) {
        assert_int_equal(parse(cli_commands[i].name, "--help", &o, &err), CENOTE_OK);
        assert_true(o.help);
        assert_true(cli_commands[i].option_count <= 32);
    }
}

static void test_layout(void **state)
{
    (void)state;
    struct cli_options o;
    cenote_error err;
    assert_int_equal(parse("layout", "a.csv", &o, &err), CENOTE_OK);
    assert_true(o.time_limit_s == CLI_NOT_GIVEN);
    assert_int_equal(o.step_count, 0);
    assert_int_equal(o.capacity_bytes, 0);
    assert_int_equal(
        parse("layout", "-|--time-limit|1.5min|--steps|9|--capacity|2MiB|--json", &o, &err),
        CENOTE_OK);
    assert_string_equal(o.path, "-");
    assert_true(o.time_limit_s == 90);
    assert_int_equal(o.step_count, 9);
    assert_int_equal(o.capacity_bytes, 2 << 20);
    assert_true(o.json);
    refuses("layout", "a.csv|--capacity|10%", "--capacity: '10%' is a share of nothing");
    refuses("layout", "a.csv|--time-limit|soon", "--time-limit: 'soon'");
    refuses("layout", "a.csv|--steps|0", "--steps: '0'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_parses_are_independent),
        cmocka_unit_test(test_percent_of_the_machine),
        cmocka_unit_test(test_plan_sizes),
        cmocka_unit_test(test_pack),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_an_argument_that_may_be_left_out),
        cmocka_unit_test(test_too_many_images),
        cmocka_unit_test(test_help_needs_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
