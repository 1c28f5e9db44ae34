/* SPDX-License-Identifier: Apache-2.0 */
/* Conversations against transformers: conversations.json (make_conversations.py) holds the ids of
 * each turn's whole prompt, of the greedy reply, and how much of the prompt a cache may keep.
 *
 * Every conversation runs three times: with room, with guesses of the next tokens, and in as little
 * memory as each turn takes, with another number of threads and the portable kernels. There a turn
 * that does not fit is refused, the limit is moved, and the same message asked again. Logits of all
 * must be the same to the bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <jansson.h>

#include "chat.h"
#include "checkpoint.h"
#include "program.h"
#include "runner_fixture.h"
#include "token_fixture.h"

#define GOLDEN_DIR TEST_DATA_DIR "/../golden"
#define IMAGES_MAX 8
#define STEP_BYTES (64u << 10)

static json_t *golden;

/* ---- making ---- */

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* Writes the checkpoint that a conversation describes into folder/model. */
static void model_make(const json_t *conversation, char folder[512], char model[600])
{
    char config[512], said[1024];
    const json_t *checkpoint = json_object_get(conversation, "checkpoint");
    const json_t *arguments = json_object_get(checkpoint, "args");
    test_folder_create(TEST_SCRATCH_DIR, folder, 512);
    snprintf(model, 600, "%s/model", folder);
    snprintf(config, sizeof config, "%s/configs/%s.json", GOLDEN_DIR,
             text_of(checkpoint, "config"));
    const char *argv[24] = {TEST_BIN_DIR "/tools/make_checkpoint", "--config", config, model,
                            "--quiet"};
    for (size_t i = 0; i < json_array_size(arguments); i++)
        argv[5 + i] = json_string_value(json_array_get(arguments, i));
    if (test_program_run(argv, said, sizeof said) != 0)
        fail_msg("%s", said);
    const char *template_text = text_of(conversation, "template");
    if (template_text == NULL)
        return;
    char path[700];
    snprintf(path, sizeof path, "%s/chat_template.jinja", model);
    test_text_write(path, template_text, strlen(template_text));
}

static void ids_check(const json_t *wanted, const uint32_t *ids, uint64_t count, const char *what,
                      size_t turn)
{
    for (uint64_t i = 0; i < count && i < json_array_size(wanted); i++)
        if (ids[i] != (uint64_t)json_integer_value(json_array_get(wanted, i)))
            fail_msg("turn %zu: %s %llu is %u, not %lld", turn, what, (unsigned long long)i, ids[i],
                     (long long)json_integer_value(json_array_get(wanted, i)));
    if (count != json_array_size(wanted))
        fail_msg("turn %zu: %llu %ss, not %zu", turn, (unsigned long long)count, what,
                 json_array_size(wanted));
}

/* ---- asking ---- */

struct talk {
    cenote_budget *budget;
    qwen_model *model;
    qwen_session *session;
    uint64_t limit_bytes;
    bool tight, guessing;
    unsigned refusals;
    uint32_t guessed_right;
    uLong logits_sum;
};

static cenote_status on_logits(void *context, const float *logits, uint32_t vocab_size,
                               cenote_error *err)
{
    struct talk *talk = context;
    (void)err;
    talk->logits_sum = crc32(talk->logits_sum, (const Bytef *)logits, 4 * vocab_size);
    return CENOTE_OK;
}

static void talk_open(struct talk *talk, const char *model, const json_t *conversation)
{
    cenote_error err;
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = UINT64_C(1) << 40;
    options.process_bytes = QWEN_PROCESS_BYTES;
    assert_int_equal(cenote_budget_create(&options, &talk->budget, NULL), CENOTE_OK);
    if (qwen_model_open(talk->budget, model, &talk->model, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    const qwen_session_options asked = {
        .context_tokens = 300,
        .kv_dtype = CENOTE_DTYPE_F32,
        .thread_count = talk->tight ? 3 : 2,
        .draft = talk->guessing ? QWEN_DRAFT_LOOKUP : QWEN_DRAFT_OFF,
        .system = text_of(conversation, "system"),
        .sampling.repetition_penalty =
            (float)json_number_value(json_object_get(conversation, "repetition_penalty")),
    };
    qwen_plan plan;
    talk->limit_bytes = UINT64_C(1) << 30;
    assert_int_equal(qwen_session_plan(talk->model, &asked, talk->limit_bytes, &plan, &err),
                     CENOTE_OK);
    if (talk->tight) {
        talk->limit_bytes = plan.smallest_bytes;
        assert_int_equal(qwen_session_plan(talk->model, &asked, talk->limit_bytes, &plan, &err),
                         CENOTE_OK);
    }
    assert_true(plan.fits);
    assert_int_equal(plan.context_tokens, 300);
    assert_int_equal(cenote_budget_limit_set(talk->budget, talk->limit_bytes, &err), CENOTE_OK);
    if (qwen_session_open(talk->model, &asked, &plan, &talk->session, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
}

static void talk_close(struct talk *talk)
{
    qwen_session_close(talk->session);
    qwen_model_close(talk->model);
    cenote_budget_stats stats;
    cenote_budget_stats_get(talk->budget, &stats);
    assert_int_equal(stats.charged_bytes, QWEN_PROCESS_BYTES);
    assert_true(stats.charged_peak_bytes <= talk->limit_bytes);
    cenote_budget_destroy(talk->budget);
}

/* Asks until there is enough memory. */
static void ask(struct talk *talk, const qwen_message *message, qwen_result *result)
{
    const qwen_events events = {.context = talk, .logits = on_logits};
    cenote_error err = {0};
    cenote_status status;
    while ((status = qwen_session_ask(talk->session, message, &events, result, &err)) ==
               CENOTE_E_BUDGET &&
           talk->tight) {
        assert_non_null(strstr(err.message, "the message does not fit: needs at least"));
        talk->refusals++;
        talk->limit_bytes += STEP_BYTES;
        assert_int_equal(qwen_session_limit_set(talk->session, talk->limit_bytes, &err), CENOTE_OK);
    }
    if (status != CENOTE_OK)
        fail_msg("%s", err.message);
}

static void turn_check(struct talk *talk, const json_t *conversation, size_t number)
{
    const json_t *turn = json_array_get(json_object_get(conversation, "turns"), number);
    const json_t *images = json_object_get(turn, "images");
    char paths[IMAGES_MAX][512];
    const char *image_paths[IMAGES_MAX];
    for (size_t i = 0; i < json_array_size(images); i++) {
        snprintf(paths[i], sizeof paths[i], "%s/images/%s", GOLDEN_DIR,
                 json_string_value(json_array_get(images, i)));
        image_paths[i] = paths[i];
    }
    const qwen_message message = {
        .text = text_of(turn, "prompt"),
        .image_paths = image_paths,
        .image_count = (uint32_t)json_array_size(images),
        .max_tokens = (uint32_t)json_integer_value(json_object_get(conversation, "max_tokens")),
    };
    qwen_result result;
    ask(talk, &message, &result);
    talk->guessed_right += result.draft_accepted;
    uint64_t count;
    const uint32_t *ids = qwen_session_prompt_ids(talk->session, &count);
    ids_check(json_object_get(turn, "prompt_ids"), ids, count, "prompt id", number);
    ids_check(json_object_get(turn, "token_ids"), result.token_ids, result.token_count, "token",
              number);
    assert_int_equal(result.prompt_tokens, count);
    assert_int_equal(result.past_tokens, json_integer_value(json_object_get(turn, "past_tokens")));
    qwen_session_stats stats;
    qwen_session_stats_get(talk->session, &stats);
    assert_int_equal(stats.used_tokens, count + result.token_count - 1);
    assert_int_equal(stats.turn_count, number + 1);
}

static uint32_t guessed_right; /* in all conversations */

static uLong conversation_run(const json_t *conversation, const char *model, struct talk talk)
{
    talk.logits_sum = crc32(0, NULL, 0);
    size_t turns = json_array_size(json_object_get(conversation, "turns"));
    talk_open(&talk, model, conversation);
    for (size_t i = 0; i < turns; i++)
        turn_check(&talk, conversation, i);
    uLong sum = talk.logits_sum;
    talk_close(&talk);
    print_message("%s, %s: %zu turns, %u refusals, %u tokens guessed right\n",
                  text_of(conversation, "name"), talk.tight ? "least memory" : "ample memory",
                  turns, talk.refusals, talk.guessed_right);
    guessed_right += talk.guessed_right;
    return sum;
}

static void test_conversation(void **state)
{
    const json_t *conversation = json_object_get(golden, *state);
    char folder[512], model[600];
    assert_non_null(conversation);
    model_make(conversation, folder, model);
    uLong sum = conversation_run(conversation, model, (struct talk){0});
    assert_int_equal(conversation_run(conversation, model, (struct talk){.guessing = true}), sum);
    const char *isa = getenv("CENOTE_ISA");
    char given[16];
    snprintf(given, sizeof given, "%s", isa != NULL ? isa : "");
    setenv("CENOTE_ISA", "portable", 1);
    assert_int_equal(conversation_run(conversation, model, (struct talk){.tight = true}), sum);
    if (given[0] != '\0')
        setenv("CENOTE_ISA", given, 1);
    else
        unsetenv("CENOTE_ISA");
    test_folder_remove(model);
    test_folder_remove(folder);
}

/* ---- what replies are shown as ---- */

static qwen_ids ids_of(const json_t *array)
{
    qwen_ids ids = {.count_max = json_array_size(array)};
    for (size_t i = 0; i < json_array_size(array); i++)
        assert_int_equal(
            qwen_ids_push(&ids, (uint32_t)json_integer_value(json_array_get(array, i)), NULL),
            CENOTE_OK);
    return ids;
}

static void test_renderings(void **state)
{
    (void)state;
    const json_t *renderings = json_object_get(golden, "renderings");
    const char *template_text = text_of(renderings, "template");
    char folder[512], path[700];
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
    test_text_write(path, template_text, strlen(template_text));
    qwen_chat_style style;
    assert_int_equal(qwen_chat_style_read(folder, &style, NULL), CENOTE_OK);
    test_folder_remove(folder);
    token_fixture fixture;
    token_fixture_init(&fixture, 0);
    qwen_tokenizer *tokenizer;
    snprintf(path, sizeof path, "%s/tokenizer.json", fixture_checkpoint());
    assert_int_equal(qwen_tokenizer_open(fixture.pool, path, &tokenizer, NULL), CENOTE_OK);
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(renderings, "list"), i, entry)
    {
        qwen_ids reply = ids_of(json_object_get(entry, "reply"));
        const qwen_chat_turn past = {
            .user = "first", .reply_ids = reply.ids, .reply_count = reply.count};
        const qwen_chat_prompt prompt = {.past = &past, .past_count = 1, .user = "next"};
        qwen_ids ids = {.count_max = 1000};
        assert_int_equal(qwen_chat_render(tokenizer, &style, &prompt, &ids, NULL), CENOTE_OK);
        ids_check(json_object_get(entry, "prompt_ids"), ids.ids, ids.count, "prompt id", i);
        qwen_ids_fini(&ids);
        qwen_ids_fini(&reply);
    }
    assert_true(i >= 7);
    qwen_tokenizer_close(tokenizer);
    token_fixture_fini(&fixture);
}

static void test_guesses_were_made(void **state)
{
    (void)state;
    assert_true(guessed_right > 0);
}

int main(void)
{
    static char names[][16] = {"text", "pictures", "system", "one_token", "penalty", "thinking"};
    struct CMUnitTest tests[sizeof names / sizeof names[0] + 2];
    size_t count = 0;
    golden = json_load_file(GOLDEN_DIR "/conversations.json", 0, NULL);
    if (golden == NULL)
        return 1;
    for (; count < sizeof names / sizeof names[0]; count++)
        tests[count] =
            (struct CMUnitTest){names[count], test_conversation, NULL, NULL, names[count]};
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_renderings);
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_guesses_were_made);
    int failed = _cmocka_run_group_tests("conversations", tests, count, NULL, NULL);
    json_decref(golden);
    return failed;
}
