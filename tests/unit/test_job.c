/* SPDX-License-Identifier: Apache-2.0 */
/* One request from the outside: what is refused before anything is read, a picture that is another
 * one by the time it is looked at, and an end in the middle of every phase. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <png.h>

#include "image_files.h"
#include "runner_fixture.h"

#define MIB     (UINT64_C(1) << 20)
#define PICTURE TEST_SCRATCH_DIR "/job.png"

struct rig {
    cenote_budget *budget;
    qwen_model *model;
};

static int rig_open(void **state)
{
    static struct rig rig;
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = 1024 * MIB;
    options.process_bytes = QWEN_PROCESS_BYTES;
    *state = &rig;
    return cenote_budget_create(&options, &rig.budget, NULL) != CENOTE_OK ||
           qwen_model_open(rig.budget, fixture_checkpoint(), &rig.model, NULL) != CENOTE_OK;
}

static int rig_close(void **state)
{
    struct rig *rig = *state;
    qwen_model_close(rig->model);
    cenote_budget_stats stats;
    cenote_budget_stats_get(rig->budget, &stats);
    cenote_budget_destroy(rig->budget);
    unlink(PICTURE);
    return stats.charged_bytes != QWEN_PROCESS_BYTES;
}

static void refused(const struct rig *rig, const qwen_request *request, const char *words)
{
    qwen_job *job = NULL;
    cenote_error err = {0};
    assert_int_equal(qwen_job_create(rig->model, request, &job, &err), CENOTE_E_INVAL);
    assert_null(job);
    if (strstr(err.message, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

static void test_refused_requests(void **state)
{
    const struct rig *rig = *state;
    qwen_request request = fixture_request();
    request.image_count = QWEN_IMAGES_MAX + 1;
    refused(rig, &request, "65 images, at most 64");
    request = fixture_request();
    request.prompt = NULL;
    refused(rig, &request, "no prompt");
    request = fixture_request();
    request.sampling.temperature = -0.5f;
    refused(rig, &request, "-0.5");
    request.sampling.temperature = NAN;
    refused(rig, &request, "nan");
    request = fixture_request();
    request.kv_dtype = CENOTE_DTYPE_F16;
    refused(rig, &request, "f32 or bf16");
}

/* ---- whole runs ---- */

static cenote_status run_job(const struct rig *rig, qwen_job *job, const qwen_events *events,
                             qwen_result *out_result, cenote_error *err)
{
    qwen_shape shape;
    qwen_plan plan;
    qwen_job_shape(job, &shape);
    assert_int_equal(qwen_plan_make(rig->model, &shape, 1024 * MIB, &plan, NULL), CENOTE_OK);
    cenote_budget_stats before, after;
    cenote_budget_stats_get(rig->budget, &before);
    cenote_status status = qwen_job_run(job, &plan, events, out_result, err);
    cenote_budget_stats_get(rig->budget, &after);
    assert_int_equal(after.charged_bytes, before.charged_bytes);
    return status;
}

static void make_picture(uint32_t side)
{
    const image_png_options options = {side, side, 8, PNG_COLOR_TYPE_RGB, false};
    image_file_make_png(PICTURE, &options);
}

/* Plans for a small picture and runs after @p replace; the message must name the file. */
static void run_replaced(const struct rig *rig, void (*replace)(void), cenote_status wanted)
{
    static const char *const paths[] = {PICTURE};
    qwen_request request = fixture_request();
    request.image_paths = paths;
    qwen_job *job;
    qwen_result result;
    cenote_error err = {0};
    make_picture(64);
    assert_int_equal(qwen_job_create(rig->model, &request, &job, NULL), CENOTE_OK);
    replace();
    cenote_status status = run_job(rig, job, NULL, &result, &err);
    if (status != wanted || strstr(err.message, PICTURE) == NULL)
        fail_msg("status %d, \"%s\"; wanted %d", status, err.message, wanted);
    assert_string_equal(result.stop_reason, "error");
    qwen_job_destroy(job);
}

static void by_a_huge_one(void)
{
    make_picture(2000);
}

static void by_text(void)
{
    image_file_write(PICTURE, "no picture at all", 17);
}

static void by_nothing(void)
{
    assert_int_equal(unlink(PICTURE), 0);
}

static void test_replaced_pictures(void **state)
{
    run_replaced(*state, by_a_huge_one, CENOTE_E_CHANGED);
    run_replaced(*state, by_text, CENOTE_E_CORRUPT);
    run_replaced(*state, by_nothing, CENOTE_E_NOTFOUND);
}

struct canceller {
    qwen_job *job;
    qwen_phase phase;
    bool reached;
};

static void cancel_in_phase(void *context, qwen_phase phase, uint64_t done, uint64_t total)
{
    struct canceller *canceller = context;
    (void)done;
    (void)total;
    if (phase != canceller->phase)
        return;
    canceller->reached = true;
    qwen_job_cancel(canceller->job);
}

static void test_cancelled_in_each_phase(void **state)
{
    const struct rig *rig = *state;
    const qwen_request request = fixture_request();
    for (qwen_phase phase = QWEN_PHASE_LOAD; phase <= QWEN_PHASE_DECODE; phase++) {
        struct canceller canceller = {.phase = phase};
        const qwen_events events = {.context = &canceller, .progress = cancel_in_phase};
        qwen_result result;
        cenote_error err;
        assert_int_equal(qwen_job_create(rig->model, &request, &canceller.job, NULL), CENOTE_OK);
        assert_int_equal(run_job(rig, canceller.job, &events, &result, &err), CENOTE_E_CANCELLED);
        assert_true(canceller.reached);
        assert_string_equal(result.stop_reason, "cancelled");
        /* The first token comes at the end of prefill. */
        assert_int_equal(result.token_count, phase == QWEN_PHASE_DECODE ? 1 : 0);
        qwen_job_destroy(canceller.job);
    }
}

/* ---- where a run ends ---- */

#define ENDING TEST_SCRATCH_DIR "/job-ending"

/* The tiny checkpoint with another end token. */
static qwen_model *open_ending(cenote_budget *budget, uint32_t end_id)
{
    char command[2048];
    snprintf(command, sizeof command,
             "rm -rf '" ENDING "' && cp -rs '%s' '" ENDING "' && rm '" ENDING
             "/generation_config.json' && echo '{\"eos_token_id\": [0, %u]}' >'" ENDING
             "/generation_config.json'",
             fixture_checkpoint(), end_id);
    assert_int_equal(system(command), 0);
    qwen_model *model;
    assert_int_equal(qwen_model_open(budget, ENDING, &model, NULL), CENOTE_OK);
    return model;
}

static void test_ends_at_an_end_token(void **state)
{
    const struct rig *rig = *state;
    qwen_request request = fixture_request();
    request.max_tokens = 8;
    qwen_job *job;
    qwen_result result;
    uint32_t ids[8], expected = 0;
    assert_int_equal(qwen_job_create(rig->model, &request, &job, NULL), CENOTE_OK);
    assert_int_equal(run_job(rig, job, NULL, &result, NULL), CENOTE_OK);
    assert_string_equal(result.stop_reason, "length");
    assert_int_equal(result.token_count, 8);
    memcpy(ids, result.token_ids, sizeof ids);
    qwen_job_destroy(job);

    while (ids[expected] != ids[4]) /* a random model may repeat itself */
        expected++;
    const struct rig ending = {rig->budget, open_ending(rig->budget, ids[4])};
    assert_int_equal(qwen_job_create(ending.model, &request, &job, NULL), CENOTE_OK);
    assert_int_equal(run_job(&ending, job, NULL, &result, NULL), CENOTE_OK);
    assert_string_equal(result.stop_reason, "end");
    assert_int_equal(result.token_count, expected + 1); /* the end token included */
    assert_memory_equal(result.token_ids, ids, result.token_count * sizeof *ids);
    qwen_job_destroy(job);
    qwen_model_close(ending.model);
    assert_int_equal(system("rm -r '" ENDING "'"), 0);
}

/* smart_resize rounds up and keeps a shape, so a small cap is where it would be passed. */
static void test_image_tokens_are_capped(void **state)
{
    const struct rig *rig = *state;
    static const uint32_t sides[][2] = {{10, 1900}, {1900, 10}, {640, 480}, {33, 33}, {3000, 40}};
    for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++)
        for (uint32_t cap = 1; cap < 40; cap++) {
            uint32_t grid_h, grid_w;
            assert_int_equal(qwen_model_image_grid(rig->model, sides[i][0], sides[i][1], cap,
                                                   &grid_h, &grid_w, NULL),
                             CENOTE_OK);
            assert_true(grid_h >= 2 && grid_h % 2 == 0 && grid_w >= 2 && grid_w % 2 == 0);
            if (grid_h * grid_w / 4 > cap)
                fail_msg("%ux%u with a cap of %u: %u tokens", sides[i][0], sides[i][1], cap,
                         grid_h * grid_w / 4);
        }
}

static void test_page_tables_are_seen(void **state)
{
    const struct rig *rig = *state;
    const qwen_request request = fixture_request();
    qwen_job *job;
    qwen_result result;
    assert_int_equal(qwen_job_create(rig->model, &request, &job, NULL), CENOTE_OK);
    assert_int_equal(run_job(rig, job, NULL, &result, NULL), CENOTE_OK);
    cenote_process_memory after;
    assert_int_equal(cenote_process_memory_get(&after, NULL), CENOTE_OK);
    assert_true(result.page_table_peak_bytes > after.page_table_bytes);
    qwen_job_destroy(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_requests),        cmocka_unit_test(test_replaced_pictures),
        cmocka_unit_test(test_cancelled_in_each_phase), cmocka_unit_test(test_ends_at_an_end_token),
        cmocka_unit_test(test_image_tokens_are_capped), cmocka_unit_test(test_page_tables_are_seen),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
