/* SPDX-License-Identifier: Apache-2.0 */
#include "runner_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *fixture_checkpoint(void)
{
    static const char directory[] = TEST_BIN_DIR "/checkpoints/tiny";
    if (access(TEST_BIN_DIR "/checkpoints/tiny/config.json", R_OK) == 0)
        return directory;
    /* Tests run side by side: each writes its own and renames; the first one wins. */
    char command[2048];
    snprintf(command, sizeof command,
             "mkdir -p '" TEST_BIN_DIR "/checkpoints' && '" TEST_BIN_DIR
             "/tools/make_checkpoint' tiny '%s.%d' >/dev/null && mv -T '%s.%d' '%s' 2>/dev/null; "
             "rm -rf '%s.%d'; test -r '%s/config.json'",
             directory, getpid(), directory, getpid(), directory, directory, getpid(), directory);
    if (system(command) != 0) {
        fprintf(stderr, "cannot write %s\n", directory);
        exit(1);
    }
    return directory;
}

qwen_request fixture_request(void)
{
    static const char *const images[] = {TEST_SOURCE_DIR "/examples/shapes.png"};
    return (qwen_request){
        .image_paths = images,
        .image_count = 1,
        .prompt = "What is this?",
        .max_tokens = 4,
        .kv_dtype = CENOTE_DTYPE_F32,
        .thread_count = 2,
    };
}

static cenote_status keep_logits(void *context, const float *logits, uint32_t vocab_size,
                                 cenote_error *err)
{
    struct fixture_run *run = context;
    uint64_t count = run->logit_count + vocab_size;
    float *grown = realloc(run->logits, count * sizeof *grown);
    if (grown == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for logits");
    memcpy(grown + run->logit_count, logits, vocab_size * sizeof *grown);
    run->logits = grown;
    run->logit_count = count;
    return CENOTE_OK;
}

static void run_job(struct fixture_run *run, cenote_budget *budget, qwen_job *job,
                    qwen_model *model, cenote_pack **pack)
{
    qwen_shape shape;
    qwen_job_shape(job, &shape);
    run->status = qwen_plan_make(model, &shape, run->limit_bytes, &run->plan, &run->error);
    if (run->status == CENOTE_OK && !run->plan.fits)
        run->status = CENOTE_E_BUDGET;
    if (run->plan.pack == NULL) {
        cenote_pack_close(*pack);
        *pack = NULL;
    }
    if (run->status == CENOTE_OK)
        run->status = cenote_budget_limit_set(budget, run->limit_bytes, &run->error);
    if (run->status != CENOTE_OK)
        return;
    const qwen_events events = {.context = run, .logits = keep_logits};
    qwen_result result = {0};
    run->status = qwen_job_run(job, &run->plan, &events, &result, &run->error);
    run->decode_passes = result.decode_passes;
    run->draft_accepted = result.draft_accepted;
    run->bytes_read_decode = result.bytes_read_decode;
    run->token_count =
        result.token_count < FIXTURE_TOKENS_MAX ? result.token_count : FIXTURE_TOKENS_MAX;
    if (run->token_count > 0)
        memcpy(run->tokens, result.token_ids, run->token_count * sizeof *run->tokens);
}

static cenote_status open_pack(const struct fixture_run *run, cenote_budget *budget,
                               qwen_model *model, cenote_pack **out_pack, cenote_error *err)
{
    cenote_weights *weights = qwen_model_weights_mutable(model);
    cenote_pack_options options = CENOTE_PACK_OPTIONS_INIT;
    cenote_pack_info info;
    uint32_t count;
    const cenote_stream_item *items = qwen_model_matrices(model, &count);
    cenote_status status = CENOTE_OK;
    if (run->pack_path == NULL)
        return CENOTE_OK;
    if (access(run->pack_path, R_OK) != 0)
        status =
            cenote_pack_write(weights, budget, items, count, run->pack_path, &options, &info, err);
    if (status == CENOTE_OK)
        status = cenote_pack_open(weights, budget, run->pack_path, CENOTE_IO_AUTO, out_pack, err);
    return status;
}

void fixture_run(struct fixture_run *run)
{
    if (run->limit_bytes == 0)
        run->limit_bytes = UINT64_C(1) << 30;
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = UINT64_C(1) << 40;
    options.process_bytes = QWEN_PROCESS_BYTES;
    options.os = run->os;
    cenote_budget *budget;
    run->status = cenote_budget_create(&options, &budget, &run->error);
    if (run->status != CENOTE_OK)
        return;
    qwen_model *model = NULL;
    qwen_job *job = NULL;
    run->status = qwen_model_open(budget, fixture_checkpoint(), &model, &run->error);
    cenote_pack *pack = NULL;
    if (run->status == CENOTE_OK)
        run->status = open_pack(run, budget, model, &pack, &run->error);
    run->request.pack = pack;
    if (run->status == CENOTE_OK)
        run->status = qwen_job_create(model, &run->request, &job, &run->error);
    if (run->status == CENOTE_OK)
        run_job(run, budget, job, model, &pack);
    qwen_job_destroy(job);
    cenote_pack_close(pack);
    if (model != NULL) {
        cenote_weights_stats stats;
        cenote_weights_stats_get(qwen_model_weights(model), &stats);
        run->pack_failures = stats.pack_failures;
    }
    qwen_model_close(model);
    cenote_budget_stats stats;
    cenote_budget_stats_get(budget, &stats);
    run->charged_after = stats.charged_bytes - QWEN_PROCESS_BYTES;
    cenote_budget_destroy(budget);
}

void fixture_run_fini(struct fixture_run *run)
{
    free(run->logits);
    run->logits = NULL;
}
