/* SPDX-License-Identifier: Apache-2.0 */
/* A turn on a session: look at the images, read the prompt layer by layer, then produce tokens. */
#include <stdlib.h>
#include <string.h>

#include "job.h"
#include "lookup.h"
#include "sample.h"
#include "session.h"

static double seconds_now(void)
{
    return 1e-9 * (double)qwen_now_ns();
}

/* ---- text out ---- */

/* Keeps a copy of the text, NUL-terminated, and passes it on. */
static void emit_text(void *context, const char *text, size_t text_bytes)
{
    qwen_job *job = context;
    if (job->text_bytes + text_bytes + 1 > job->text_capacity) {
        size_t capacity = (job->text_bytes + text_bytes + 1) * 2;
        char *grown = realloc(job->text, capacity);
        if (grown == NULL) {
            job->text_failed = true;
            return;
        }
        job->text = grown;
        job->text_capacity = capacity;
    }
    memcpy(job->text + job->text_bytes, text, text_bytes);
    job->text_bytes += text_bytes;
    job->text[job->text_bytes] = '\0';
    if (job->events->text != NULL && text_bytes > 0)
        job->events->text(job->events->context, text, text_bytes);
}

static cenote_status check_text(const qwen_job *job, cenote_error *err)
{
    if (job->text_failed)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for %zu bytes of text",
                                job->text_bytes);
    return CENOTE_OK;
}

static bool is_end(const qwen_config *config, uint32_t id)
{
    for (uint32_t i = 0; i < config->eos_count; i++)
        if (config->eos_ids[i] == id)
            return true;
    return false;
}

static float *logits_row(const qwen_job *job, const qwen_text_buffers *buffers, uint32_t row)
{
    float *logits = qwen_text_at(buffers, buffers->layout.logits);
    return logits + (size_t)row * job->model->config.text.vocab_size;
}

static uint32_t choose(const qwen_job *job, qwen_sampler *sampler, const qwen_text_buffers *buffers,
                       uint32_t row)
{
    uint32_t vocab_size = job->model->config.text.vocab_size;
    float penalty = sampler->sampling.repetition_penalty;
    float *logits = logits_row(job, buffers, row);
    if (penalty > 0 && penalty != 1) {
        uint64_t *seen = qwen_text_at(buffers, buffers->layout.seen);
        memset(seen, 0, qwen_seen_bytes(vocab_size));
        qwen_penalize(penalty, logits, vocab_size, job->prompt.ids, job->prompt.count, seen);
        qwen_penalize(penalty, logits, vocab_size, job->produced.ids, job->produced.count, seen);
    }
    return qwen_sample(sampler, logits, vocab_size);
}

/* Hands out a row of logits, chooses the next token and shows it. */
static cenote_status produce_token(qwen_job *job, qwen_sampler *sampler,
                                   const qwen_text_buffers *buffers, uint32_t row, bool *out_end,
                                   cenote_error *err)
{
    uint32_t vocab_size = job->model->config.text.vocab_size;
    const float *logits = logits_row(job, buffers, row);
    cenote_status status = CENOTE_OK;
    if (job->events->logits != NULL)
        status = job->events->logits(job->events->context, logits, vocab_size, err);
    if (status != CENOTE_OK)
        return status;
    uint32_t id = choose(job, sampler, buffers, row);
    status = qwen_ids_push(&job->produced, id, err);
    if (status != CENOTE_OK)
        return status;
    const unsigned char *bytes;
    bool special = false;
    size_t count = qwen_tokenizer_token_bytes(job->model->tokenizer, id, &bytes, &special);
    if (count > 0 && !special)
        qwen_detokenizer_feed(&job->detokenizer, bytes, count, emit_text, job);
    status = check_text(job, err);
    if (status != CENOTE_OK)
        return status;
    *out_end = is_end(&job->model->config, id);
    return CENOTE_OK;
}

/* ---- phases ---- */

static cenote_status text_buffers(qwen_run *run, uint64_t tokens, uint64_t logit_rows,
                                  qwen_text_buffers *out_buffers, cenote_error *err)
{
    qwen_text_layout_make(run->model, tokens, logit_rows, run->plan->context_tokens,
                          &out_buffers->layout);
    return cenote_pool_alloc(run->activations, out_buffers->layout.size_bytes, &out_buffers->block,
                             err);
}

static void text_buffers_free(qwen_run *run, qwen_text_buffers *buffers)
{
    cenote_pool_free(run->activations, buffers->block);
    buffers->block = NULL;
}

static cenote_status prefill_chunks(qwen_run *run, const qwen_job *job,
                                    const qwen_text_buffers *buffers, uint64_t *out_last_row,
                                    cenote_error *err)
{
    uint64_t total = job->prompt.count, step = run->plan->prefill_chunk_tokens;
    for (uint64_t first = run->shape->past_tokens; first < total; first += step) {
        const qwen_chunk chunk = {
            .ids = job->prompt.ids + first,
            .first = first,
            .count = total - first < step ? total - first : step,
            .spans = job->spans,
            .span_count = job->span_count,
        };
        cenote_status status = qwen_text_chunk(run, buffers, &chunk, err);
        if (status != CENOTE_OK)
            return status;
        *out_last_row = chunk.count - 1;
    }
    return CENOTE_OK;
}

/* What of the prompt is not in the cache yet, up to the first token. */
static cenote_status prefill(qwen_run *run, qwen_job *job, qwen_sampler *sampler, bool *out_end,
                             cenote_error *err)
{
    const qwen_model *model = run->model;
    uint64_t passes = run->plan->prefill_weight_passes;
    qwen_run_phase(run, QWEN_PHASE_PREFILL,
                   passes * model->layers_weight_bytes + model->head_weight_bytes);
    qwen_text_buffers buffers = {0};
    cenote_status status = text_buffers(run, run->plan->prefill_chunk_tokens, 1, &buffers, err);
    if (status != CENOTE_OK)
        return status;
    uint32_t head = model->text_item_count - 1;
    status = cenote_stream_start(run->stream, model->text_items, head, passes, err);
    uint64_t last_row = 0;
    if (status == CENOTE_OK)
        status = prefill_chunks(run, job, &buffers, &last_row, err);
    if (status == CENOTE_OK)
        status = cenote_stream_start(run->stream, model->text_items + head, 1, 1, err);
    if (status == CENOTE_OK)
        status = qwen_text_logits(run, &buffers, last_row, 1, err);
    if (status == CENOTE_OK)
        status = produce_token(job, sampler, &buffers, 0, out_end, err);
    qwen_run_note_page_tables(run);
    text_buffers_free(run, &buffers);
    return status;
}

/* The last token, which is not in the cache yet, and guesses of those after it; no more than the
 * answer and the cache have room for. */
static uint32_t draft(const qwen_run *run, const qwen_job *job, uint32_t ids[QWEN_GEMV_M_MAX])
{
    const qwen_text_so_far text = {job->prompt.ids, job->prompt.count, job->produced.ids,
                                   job->produced.count};
    uint64_t room = run->plan->max_tokens - job->produced.count; /* for tokens of this pass */
    uint32_t rows = run->plan->draft_rows < room ? run->plan->draft_rows : (uint32_t)room;
    ids[0] = job->produced.ids[job->produced.count - 1];
    return rows > 1 ? 1 + qwen_lookup(&text, rows - 1, ids + 1) : 1;
}

/* A pass over the weights: one token, and as many more as were guessed right. What is in the cache
 * of a wrong guess is written over by the next pass. */
static cenote_status decode_pass(qwen_run *run, qwen_job *job, const qwen_text_buffers *buffers,
                                 qwen_sampler *sampler, bool *out_end, cenote_error *err)
{
    uint32_t ids[QWEN_GEMV_M_MAX];
    uint32_t rows = draft(run, job, ids);
    const qwen_chunk chunk = {
        .ids = ids,
        .first = job->prompt.count + job->produced.count - 1,
        .count = rows,
        .spans = job->spans,
        .span_count = job->span_count,
        .decode = true,
    };
    cenote_status status = qwen_text_chunk(run, buffers, &chunk, err);
    if (status == CENOTE_OK)
        status = qwen_text_logits(run, buffers, 0, rows, err);
    job->decode_passes++;
    job->draft_guessed += rows - 1;
    for (uint32_t row = 0; status == CENOTE_OK && row < rows; row++) {
        status = produce_token(job, sampler, buffers, row, out_end, err);
        if (status != CENOTE_OK)
            break;
        qwen_run_advance(run, 1);
        bool right = row + 1 < rows && ids[row + 1] == job->produced.ids[job->produced.count - 1];
        if (*out_end || !right)
            break;
        job->draft_accepted++;
    }
    return status;
}

static cenote_status decode(qwen_run *run, qwen_job *job, qwen_sampler *sampler, bool *out_end,
                            cenote_error *err)
{
    uint32_t max_tokens = run->plan->max_tokens;
    if (*out_end || max_tokens <= 1)
        return CENOTE_OK;
    qwen_run_phase(run, QWEN_PHASE_DECODE, max_tokens);
    qwen_run_advance(run, 1);
    qwen_text_buffers buffers = {0};
    uint32_t rows = run->plan->draft_rows;
    cenote_status status = text_buffers(run, rows, rows, &buffers, err);
    if (status != CENOTE_OK)
        return status;
    status = cenote_stream_start(run->stream, run->model->text_items, run->model->text_item_count,
                                 max_tokens - 1, err);
    while (status == CENOTE_OK && !*out_end && job->produced.count < max_tokens)
        status = decode_pass(run, job, &buffers, sampler, out_end, err);
    cenote_stream_stop(run->stream);
    qwen_run_note_page_tables(run);
    text_buffers_free(run, &buffers);
    return status;
}

/* ---- the whole ---- */

static void fill_resident(const qwen_run *run, qwen_result *result)
{
    cenote_resident_stats stats;
    cenote_resident_stats_get(run->resident_rows, &stats);
    result->resident_weight_bytes = stats.held_weight_bytes;
    result->resident_encoding = stats.encoding;
    result->resident_refused_panels = stats.refused_panels;
}

static cenote_status run_phases(qwen_session *session, qwen_job *job, qwen_sampler *sampler,
                                qwen_result *result, bool *out_end, cenote_error *err)
{
    qwen_run *run = &session->run;
    bool pictures = run->shape->image_first < run->shape->image_count;
    double start = seconds_now();
    cenote_status status = qwen_turn_begin(session, err);
    if (status == CENOTE_OK)
        status = qwen_turn_load(session, err);
    double loaded = seconds_now();
    result->load_s = loaded - start;
    if (status == CENOTE_OK && pictures)
        status = qwen_vision_run(run, err);
    double seen = seconds_now();
    result->vision_s = pictures ? seen - loaded : 0;
    if (status == CENOTE_OK)
        status = cenote_resident_resize(run->resident_rows, run->plan->resident_prefill_bytes, err);
    if (status == CENOTE_OK)
        status = prefill(run, job, sampler, out_end, err);
    double filled = seconds_now();
    result->prefill_s = filled - seen;
    cenote_stream_stop(run->stream);
    qwen_turn_forget_images(session);
    if (status == CENOTE_OK)
        status = cenote_resident_resize(run->resident_rows, run->plan->resident_bytes, err);
    cenote_weights_stats before, after;
    cenote_weights_stats_get(run->model->weights, &before);
    run->layer_waiting_s = job->layer_waiting_s;
    run->waited_ns = before.wait_ns;
    if (status == CENOTE_OK)
        status = decode(run, job, sampler, out_end, err);
    run->layer_waiting_s = NULL;
    result->decode_s = seconds_now() - filled;
    cenote_weights_stats_get(run->model->weights, &after);
    result->bytes_read_decode = after.bytes_read - before.bytes_read;
    result->seconds_waiting_decode = 1e-9 * (double)(after.wait_ns - before.wait_ns);
    fill_resident(run, result);
    if (job->produced.count > 1) {
        uint64_t steps = job->produced.count - 1;
        result->seconds_per_token = result->decode_s / (double)steps;
        result->bytes_read_per_token = result->bytes_read_decode / steps;
    }
    return status;
}

static const char *stop_reason(cenote_status status, bool end)
{
    if (status == CENOTE_E_CANCELLED)
        return "cancelled";
    if (status != CENOTE_OK)
        return "error";
    return end ? "end" : "length";
}

static void fill_result(qwen_job *job, const qwen_plan *plan, cenote_status status, bool end,
                        const cenote_weights_stats *before, qwen_result *result)
{
    cenote_weights_stats after;
    cenote_weights_stats_get(job->model->weights, &after);
    result->token_ids = job->produced.ids;
    result->token_count = (uint32_t)job->produced.count;
    result->stop_reason = stop_reason(status, end);
    result->text = job->text != NULL ? job->text : "";
    result->weight_bytes_read = after.bytes_read - before->bytes_read;
    result->prefill_weight_passes = plan->prefill_weight_passes;
    result->decode_passes = job->decode_passes;
    result->draft_guessed = job->draft_guessed;
    result->draft_accepted = job->draft_accepted;
    result->layer_waiting_s = job->layer_waiting_s;
    result->layer_waiting_count = job->model->config.text.layer_count + 1;
    result->seconds_waiting_start = 1e-9 * (double)(after.wait_start_ns - before->wait_start_ns);
    result->prompt_tokens = job->prompt.count;
    result->past_tokens = job->shape.past_tokens;
    result->seconds_waiting = 1e-9 * (double)(after.wait_ns - before->wait_ns);
}

cenote_status qwen_turn_run(qwen_session *session, qwen_job *job, const qwen_plan *plan,
                            const qwen_events *events, const volatile sig_atomic_t *cancelled,
                            qwen_sampler *sampler, qwen_result *out_result, cenote_error *err)
{
    static const qwen_events no_events = {0};
    job->events = events != NULL ? events : &no_events;
    job->produced.count_max = plan->max_tokens;
    qwen_run *run = &session->run;
    run->plan = plan;
    run->shape = &job->shape;
    run->events = job->events;
    run->image_paths = job->request->image_paths;
    run->cancelled = cancelled;
    run->page_table_peak_bytes = 0;
    cenote_weights_stats before;
    cenote_weights_stats_get(run->model->weights, &before);
    qwen_result result = {0};
    bool end = false;
    cenote_status status = run_phases(session, job, sampler, &result, &end, err);
    qwen_turn_end(session);
    result.page_table_peak_bytes = run->page_table_peak_bytes;
    qwen_detokenizer_feed(&job->detokenizer, NULL, 0, emit_text, job); /* what is left of it */
    if (status == CENOTE_OK)
        status = check_text(job, err);
    fill_result(job, plan, status, end, &before, &result);
    *out_result = result;
    return status;
}

cenote_status qwen_job_run(qwen_job *job, const qwen_plan *plan, const qwen_events *events,
                           qwen_result *out_result, cenote_error *err)
{
    double start = seconds_now();
    qwen_session *session;
    cenote_status status = qwen_session_create(job->model, &job->shape, plan, &session, err);
    if (status != CENOTE_OK)
        return status;
    double open_s = seconds_now() - start;
    qwen_sampler sampler = qwen_sampler_make(&job->request->sampling);
    status = qwen_turn_run(session, job, plan, events, &job->cancelled, &sampler, out_result, err);
    out_result->load_s += open_s;
    qwen_session_close(session);
    return status;
}
