/* SPDX-License-Identifier: Apache-2.0 */
/* The shipped model through the runner: answers on pictures that it was not trained on, against
 * what transformers answered (make_demo.py stored both), and on the examples that ship with it. A
 * trained model tells a right run from a plausible one: a fault that random weights would hide in
 * noise changes words.
 *
 * Each question is asked twice: with room, and in the smallest budget that works, where the
 * weights stream through a ring that holds a fifth of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "qwen3vl.h"

#define MODEL        TEST_SOURCE_DIR "/models/qwen3vl-tiny"
#define CASES        TEST_SOURCE_DIR "/tests/golden/demo"
#define IMAGES_MAX   4
#define RELATIVE_MAX 3e-5 /* of the RMS */

struct question {
    const char *folder;
    const json_t *from; /* images, question */
    const char *answer; /* wanted */
    const json_t *token_ids;
    /* wanted logits, or NULL; and how far the run's are from them */
    const float *logits;
    uint64_t step_count, columns, steps_seen;
    double difference, reference; /* sums of squares */
};

static cenote_status on_logits(void *context, const float *logits, uint32_t vocab_size,
                               cenote_error *err)
{
    struct question *question = context;
    (void)err;
    if (question->logits == NULL || question->steps_seen == question->step_count)
        return CENOTE_OK;
    assert_int_equal(vocab_size, question->columns);
    const float *wanted = question->logits + question->steps_seen++ * question->columns;
    for (uint64_t i = 0; i < question->columns; i++) {
        double distance = (double)logits[i] - (double)wanted[i];
        question->difference += distance * distance;
        question->reference += (double)wanted[i] * (double)wanted[i];
    }
    return CENOTE_OK;
}

static void result_check(const struct question *question, const qwen_result *result)
{
    const char *asked = json_string_value(json_object_get(question->from, "question"));
    if (strcmp(result->text, question->answer) != 0)
        fail_msg("%s\nsaid   %s\nwanted %s", asked, result->text, question->answer);
    assert_string_equal(result->stop_reason, "end");
    if (question->token_ids != NULL) {
        assert_int_equal(result->token_count, json_array_size(question->token_ids));
        for (uint32_t i = 0; i < result->token_count; i++)
            assert_int_equal(result->token_ids[i],
                             json_integer_value(json_array_get(question->token_ids, i)));
    }
    if (question->logits != NULL) {
        assert_int_equal(question->steps_seen, question->step_count);
        double relative = sqrt(question->difference / question->reference);
        if (!(relative <= RELATIVE_MAX))
            fail_msg("%s: logits are %.3g of their RMS away", asked, relative);
    }
}

static void check(cenote_status status, const cenote_error *err)
{
    if (status != CENOTE_OK)
        fail_msg("%s", err->message);
}

static void ask(struct question *question, bool tight)
{
    char paths[IMAGES_MAX][512];
    const char *image_paths[IMAGES_MAX];
    const json_t *images = json_object_get(question->from, "images");
    qwen_request request = {
        .image_paths = image_paths,
        .image_count = (uint32_t)json_array_size(images),
        .prompt = json_string_value(json_object_get(question->from, "question")),
        .max_tokens = 64,
        .kv_dtype = CENOTE_DTYPE_F32,
        .thread_count = tight ? 1 : 2,
    };
    assert_true(request.image_count <= IMAGES_MAX);
    for (uint32_t i = 0; i < request.image_count; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%s", question->folder,
                 json_string_value(json_array_get(images, i)));
        image_paths[i] = paths[i];
    }
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = 1u << 30;
    options.process_bytes = QWEN_PROCESS_BYTES;
    cenote_error err;
    cenote_budget *budget;
    qwen_model *model;
    qwen_job *job;
    qwen_shape shape;
    qwen_plan plan;
    qwen_result result;
    check(cenote_budget_create(&options, &budget, &err), &err);
    check(qwen_model_open(budget, MODEL, &model, &err), &err);
    check(qwen_job_create(model, &request, &job, &err), &err);
    qwen_job_shape(job, &shape);
    check(qwen_plan_make(model, &shape, options.limit_bytes, &plan, &err), &err);
    if (tight)
        check(qwen_plan_make(model, &shape, plan.smallest_bytes, &plan, &err), &err);
    check(cenote_budget_limit_set(budget, plan.limit_bytes, &err), &err);
    const qwen_events events = {.context = question, .logits = on_logits};
    question->steps_seen = 0;
    question->difference = question->reference = 0;
    check(qwen_job_run(job, &plan, &events, &result, &err), &err);
    result_check(question, &result);
    qwen_job_destroy(job);
    qwen_model_close(model);
    cenote_budget_destroy(budget);
}

static float *floats_read(const char *path, uint64_t *out_count)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long size = ftell(file);
    assert_true(size > 0 && size % 4 == 0);
    rewind(file);
    float *values = malloc((size_t)size);
    assert_non_null(values);
    assert_int_equal(fread(values, 1, (size_t)size, file), size);
    fclose(file);
    *out_count = (uint64_t)size / 4;
    return values;
}

static uint64_t number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return (uint64_t)json_integer_value(value);
}

static void fresh_questions(bool tight)
{
    json_t *all = json_load_file(CASES "/cases.json", 0, NULL);
    assert_non_null(all);
    uint64_t float_count, right = 0, with_logits = 0;
    float *floats = floats_read(CASES "/logits.f32", &float_count);
    const json_t *cases = json_object_get(all, "cases");
    assert_true(json_array_size(cases) >= 40);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *from = json_array_get(cases, i);
        struct question question = {
            .folder = CASES,
            .from = from,
            .answer = json_string_value(json_object_get(from, "answer")),
            .token_ids = json_object_get(from, "token_ids"),
        };
        const json_t *logits = json_object_get(from, "logits");
        if (logits != NULL) {
            question.step_count = number(logits, "steps");
            question.columns = number(logits, "columns");
            question.logits = floats + number(logits, "offset");
            with_logits++;
        }
        ask(&question, tight);
        const char *truth = json_string_value(json_object_get(from, "truth"));
        right += strcmp(truth, question.answer) == 0;
    }
    /* The answers are transformers', so this is its accuracy and the runner's. */
    assert_int_equal(right, number(all, "right"));
    assert_true(with_logits >= 3);
    print_message("%llu of %zu answers are right\n", (unsigned long long)right,
                  json_array_size(cases));
    free(floats);
    json_decref(all);
}

/* What the model answers instead of the truth, where it is known to be wrong. */
static const char *known_answer(const json_t *known, const json_t *example)
{
    const char *truth = json_string_value(json_object_get(example, "answer"));
    for (size_t i = 0; i < json_array_size(known); i++) {
        const json_t *wrong = json_array_get(known, i);
        if (json_equal(json_object_get(wrong, "images"), json_object_get(example, "images")) &&
            json_equal(json_object_get(wrong, "question"), json_object_get(example, "question")))
            return json_string_value(json_object_get(wrong, "answer"));
    }
    return truth;
}

/* The pictures that ship with the model: the drawn truth, but for what its card names. */
static void test_examples(void **state)
{
    (void)state;
    json_t *examples = json_load_file(MODEL "/examples/examples.json", 0, NULL);
    json_t *checked = json_load_file(CASES "/examples.json", 0, NULL);
    assert_non_null(examples);
    assert_non_null(checked);
    assert_true(json_array_size(examples) >= 12);
    const json_t *wrong = json_object_get(checked, "wrong");
    for (size_t i = 0; i < json_array_size(examples); i++) {
        const json_t *from = json_array_get(examples, i);
        struct question question = {
            .folder = MODEL "/examples",
            .from = from,
            .answer = known_answer(wrong, from),
        };
        ask(&question, false);
    }
    print_message("%zu of %zu examples are right\n",
                  json_array_size(examples) - json_array_size(wrong), json_array_size(examples));
    json_decref(examples);
    json_decref(checked);
}

static void test_fresh_questions(void **state)
{
    (void)state;
    fresh_questions(false);
}

static void test_fresh_questions_in_little_memory(void **state)
{
    (void)state;
    fresh_questions(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_fresh_questions),
        cmocka_unit_test(test_fresh_questions_in_little_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
