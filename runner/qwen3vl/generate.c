/* SPDX-License-Identifier: Apache-2.0 */
/* A run from its plan: take what was planned, load the small weights, look at the images, read the
 * prompt layer by layer, then produce tokens.
 *
 * Every byte comes from a pool under the budget, in this order: scratch, small weights, features,
 * KV and the staging ring stay for the run; the activations of each phase give their place to the
 * next phase's. */
#include <stdlib.h>
#include <string.h>

#include "job.h"
#include "sample.h"

static double seconds_now(void)
{
    return 1e-9 * (double)qwen_now_ns();
}

/* ---- set-up ---- */

static cenote_status create_pool(qwen_run *run, cenote_class class_id, uint64_t quota_bytes,
                                 cenote_pool **out_pool, cenote_error *err)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.class_id = class_id;
    options.quota_bytes = quota_bytes;
    return cenote_pool_create(run->model->budget, &options, out_pool, err);
}

static cenote_status create_pools(qwen_run *run, cenote_error *err)
{
    const qwen_plan *plan = run->plan;
    cenote_status status = create_pool(run, CENOTE_CLASS_PARAMETERS,
                                       qwen_plan_parameters_quota(plan), &run->parameters, err);
    if (status == CENOTE_OK)
        status = create_pool(run, CENOTE_CLASS_KV_CACHE, plan->kv_bytes, &run->kv_pool, err);
    if (status == CENOTE_OK && run->shape->image_count > 0)
        status = create_pool(run, CENOTE_CLASS_IMAGE_FEATURES, plan->image_bytes,
                             &run->features_pool, err);
    if (status == CENOTE_OK)
        status = create_pool(run, CENOTE_CLASS_ACTIVATIONS, qwen_plan_activations_quota(plan),
                             &run->activations, err);
    return status;
}

static cenote_status create_kv(qwen_run *run, cenote_error *err)
{
    const qwen_text_config *text = &run->model->config.text;
    cenote_kv_options options = CENOTE_KV_OPTIONS_INIT;
    options.layer_count = text->layer_count;
    options.head_count = text->kv_head_count;
    options.head_dim = text->head_dim;
    options.token_count_max = run->shape->prompt_tokens + run->plan->max_tokens;
    options.dtype = run->shape->kv_dtype;
    cenote_status status = cenote_kv_create(run->kv_pool, &options, &run->kv, err);
    /* All of it now: a token that was promised is not refused half-way. */
    return status != CENOTE_OK ? status : cenote_kv_reserve(run->kv, options.token_count_max, err);
}

static cenote_status create_stream(qwen_run *run, cenote_error *err)
{
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = run->plan->panel_bytes;
    options.slot_count = run->plan->slot_count;
    cenote_status status =
        cenote_stream_create(run->model->weights, run->parameters, &options, &run->stream, err);
    if (status != CENOTE_OK)
        return status;
    uint32_t vision = qwen_vision_program(run->model, NULL);
    uint32_t text = qwen_text_program(run->model, NULL) + 1;
    run->items = calloc(vision > text ? vision : text, sizeof *run->items);
    if (run->items == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for %u stream items",
                                vision > text ? vision : text);
    return CENOTE_OK;
}

static cenote_status create_features(qwen_run *run, cenote_error *err)
{
    uint64_t patches = 0;
    for (uint32_t i = 0; i < run->shape->image_count; i++)
        patches += (uint64_t)run->shape->grid_h[i] * run->shape->grid_w[i];
    if (patches == 0)
        return CENOTE_OK;
    run->feature_rows = patches / qwen_merge_count(&run->model->config.vision);
    void *features;
    cenote_status status = cenote_pool_alloc(
        run->features_pool, qwen_features_bytes(run->model, patches), &features, err);
    if (status == CENOTE_OK)
        run->features = features;
    return status;
}

static cenote_status set_up(qwen_run *run, cenote_error *err)
{
    cenote_status status = create_pools(run, err);
    if (status == CENOTE_OK)
        status = cenote_team_create(run->plan->thread_count, &run->team, err);
    if (status == CENOTE_OK)
        status = qwen_kernels_create(QWEN_ISA_AUTO, run->team, run->activations, run->model->k_max,
                                     &run->kernels, err);
    void *resident;
    if (status == CENOTE_OK)
        status = cenote_pool_alloc(run->parameters, run->model->resident_floats * sizeof(float),
                                   &resident, err);
    if (status != CENOTE_OK)
        return status;
    run->resident = resident;
    status = create_features(run, err);
    if (status == CENOTE_OK)
        status = create_kv(run, err);
    if (status == CENOTE_OK)
        status = create_stream(run, err);
    return status;
}

static void tear_down(qwen_run *run)
{
    cenote_stream_destroy(run->stream);
    free(run->items);
    cenote_kv_destroy(run->kv);
    if (run->features != NULL)
        cenote_pool_free(run->features_pool, run->features);
    if (run->resident != NULL)
        cenote_pool_free(run->parameters, run->resident);
    qwen_kernels_destroy(run->kernels);
    cenote_team_destroy(run->team);
    cenote_pool_destroy(run->activations);
    cenote_pool_destroy(run->features_pool);
    cenote_pool_destroy(run->kv_pool);
    cenote_pool_destroy(run->parameters);
}

/* ---- small weights ---- */

static cenote_status load_vector(qwen_run *run, const qwen_vector *vector, cenote_error *err)
{
    const cenote_tensor_info *info =
        cenote_weights_tensor(run->model->weights, vector->tensor_index);
    size_t element_bytes = cenote_dtype_bytes(info->dtype);
    unsigned char raw[8192];
    uint64_t piece = sizeof raw / element_bytes;
    for (uint64_t done = 0; done < vector->count; done += piece) {
        uint64_t count = vector->count - done < piece ? vector->count - done : piece;
        cenote_status status =
            cenote_weights_read(run->model->weights, vector->tensor_index, done * element_bytes,
                                count * element_bytes, raw, err);
        if (status != CENOTE_OK)
            return status;
        qwen_widen(info->dtype, raw, count, run->resident + vector->offset + done);
    }
    qwen_run_advance(run, 1);
    return CENOTE_OK;
}

static cenote_status load_vectors(qwen_run *run, const qwen_vector *const *vectors, size_t count,
                                  cenote_error *err)
{
    for (size_t i = 0; i < count; i++) {
        cenote_status status = qwen_run_go_on(run, err);
        if (status == CENOTE_OK)
            status = load_vector(run, vectors[i], err);
        if (status != CENOTE_OK)
            return status;
    }
    return CENOTE_OK;
}
#define LOAD(run, vectors, err)                                                                    \
    load_vectors(run, vectors, sizeof(vectors) / sizeof((vectors)[0]), err)

static cenote_status load_merger(qwen_run *run, const qwen_merger *merger, cenote_error *err)
{
    const qwen_vector *const vectors[] = {&merger->norm_gain, &merger->norm_bias, &merger->fc1.bias,
                                          &merger->fc2.bias};
    return LOAD(run, vectors, err);
}

static cenote_status load_vision_vectors(qwen_run *run, cenote_error *err)
{
    const qwen_model *model = run->model;
    const qwen_vector *const first[] = {&model->patch_embed.bias};
    cenote_status status = LOAD(run, first, err);
    for (uint32_t i = 0; status == CENOTE_OK && i < model->config.vision.depth; i++) {
        const qwen_vision_block *block = &model->blocks[i];
        const qwen_vector *const vectors[] = {
            &block->norm1_gain, &block->norm1_bias, &block->norm2_gain, &block->norm2_bias,
            &block->qkv.bias,   &block->proj.bias,  &block->fc1.bias,   &block->fc2.bias,
        };
        status = LOAD(run, vectors, err);
    }
    for (uint32_t j = 0; status == CENOTE_OK && j < model->config.vision.deepstack_count; j++)
        status = load_merger(run, &model->deepstack[j], err);
    return status != CENOTE_OK ? status : load_merger(run, &model->merger, err);
}

static cenote_status load_text_vectors(qwen_run *run, cenote_error *err)
{
    const qwen_model *model = run->model;
    const qwen_vector *const last[] = {&model->final_norm_gain};
    cenote_status status = LOAD(run, last, err);
    for (uint32_t i = 0; status == CENOTE_OK && i < model->config.text.layer_count; i++) {
        const qwen_text_layer *layer = &model->layers[i];
        const qwen_vector *const vectors[] = {&layer->norm1_gain, &layer->norm2_gain,
                                              &layer->q_norm_gain, &layer->k_norm_gain};
        status = LOAD(run, vectors, err);
    }
    return status;
}

/* The tower's vectors only when there is something to look at. */
static cenote_status load_small_weights(qwen_run *run, cenote_error *err)
{
    qwen_run_phase(run, QWEN_PHASE_LOAD, 0);
    cenote_status status = load_text_vectors(run, err);
    if (status == CENOTE_OK && run->shape->image_count > 0)
        status = load_vision_vectors(run, err);
    return status;
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

/* Hands out the logits, chooses the next token and shows it. */
static cenote_status produce_token(qwen_job *job, qwen_sampler *sampler, const float *logits,
                                   bool *out_end, cenote_error *err)
{
    uint32_t vocab_size = job->model->config.text.vocab_size;
    cenote_status status = CENOTE_OK;
    if (job->events->logits != NULL)
        status = job->events->logits(job->events->context, logits, vocab_size, err);
    if (status != CENOTE_OK)
        return status;
    uint32_t id = qwen_sample(sampler, logits, vocab_size);
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

static cenote_status text_buffers(qwen_run *run, uint64_t tokens, qwen_text_buffers *out_buffers,
                                  cenote_error *err)
{
    qwen_text_layout_make(run->model, tokens, run->shape->prompt_tokens + run->plan->max_tokens,
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
    for (uint64_t first = 0; first < total; first += step) {
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

/* The whole prompt, up to the first token. */
static cenote_status prefill(qwen_run *run, qwen_job *job, qwen_sampler *sampler, bool *out_end,
                             cenote_error *err)
{
    const qwen_model *model = run->model;
    uint64_t passes = run->plan->prefill_weight_passes;
    qwen_run_phase(run, QWEN_PHASE_PREFILL,
                   passes * model->layers_weight_bytes + model->head_weight_bytes);
    qwen_text_buffers buffers = {0};
    cenote_status status = text_buffers(run, run->plan->prefill_chunk_tokens, &buffers, err);
    if (status != CENOTE_OK)
        return status;
    uint32_t item_count = qwen_text_program(model, run->items);
    status = cenote_stream_start(run->stream, run->items, item_count, passes, err);
    uint64_t last_row = 0;
    if (status == CENOTE_OK)
        status = prefill_chunks(run, job, &buffers, &last_row, err);
    if (status == CENOTE_OK) {
        item_count = 0;
        qwen_program_add(run->items, &item_count, &model->head);
        status = cenote_stream_start(run->stream, run->items, item_count, 1, err);
    }
    if (status == CENOTE_OK)
        status = qwen_text_logits(run, &buffers, last_row, err);
    if (status == CENOTE_OK)
        status = produce_token(job, sampler, qwen_text_at(&buffers, buffers.layout.logits), out_end,
                               err);
    qwen_run_note_page_tables(run);
    text_buffers_free(run, &buffers);
    return status;
}

static cenote_status decode_token(qwen_run *run, qwen_job *job, const qwen_text_buffers *buffers,
                                  qwen_sampler *sampler, bool *out_end, cenote_error *err)
{
    const qwen_chunk chunk = {
        .ids = &job->produced.ids[job->produced.count - 1],
        .first = job->prompt.count + job->produced.count - 1,
        .count = 1,
        .spans = job->spans,
        .span_count = job->span_count,
        .decode = true,
    };
    cenote_status status = qwen_text_chunk(run, buffers, &chunk, err);
    if (status == CENOTE_OK)
        status = qwen_text_logits(run, buffers, 0, err);
    if (status == CENOTE_OK)
        status = produce_token(job, sampler, qwen_text_at(buffers, buffers->layout.logits), out_end,
                               err);
    if (status == CENOTE_OK)
        qwen_run_advance(run, 1);
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
    cenote_status status = text_buffers(run, 1, &buffers, err);
    if (status != CENOTE_OK)
        return status;
    uint32_t item_count = qwen_text_program(run->model, run->items);
    qwen_program_add(run->items, &item_count, &run->model->head);
    status = cenote_stream_start(run->stream, run->items, item_count, max_tokens - 1, err);
    while (status == CENOTE_OK && !*out_end && job->produced.count < max_tokens)
        status = decode_token(run, job, &buffers, sampler, out_end, err);
    cenote_stream_stop(run->stream);
    qwen_run_note_page_tables(run);
    text_buffers_free(run, &buffers);
    return status;
}

/* ---- the whole ---- */

static cenote_status run_phases(qwen_run *run, qwen_job *job, qwen_result *result, bool *out_end,
                                cenote_error *err)
{
    double start = seconds_now();
    cenote_status status = load_small_weights(run, err);
    double loaded = seconds_now();
    result->load_s += loaded - start;
    if (status == CENOTE_OK && run->shape->image_count > 0)
        status = qwen_vision_run(run, err);
    double seen = seconds_now();
    result->vision_s = run->shape->image_count > 0 ? seen - loaded : 0;
    qwen_sampler sampler = {job->request->temperature, job->request->seed};
    if (status == CENOTE_OK)
        status = prefill(run, job, &sampler, out_end, err);
    double filled = seconds_now();
    result->prefill_s = filled - seen;
    cenote_weights_stats before, after;
    cenote_weights_stats_get(run->model->weights, &before);
    if (status == CENOTE_OK)
        status = decode(run, job, &sampler, out_end, err);
    result->decode_s = seconds_now() - filled;
    cenote_weights_stats_get(run->model->weights, &after);
    if (job->produced.count > 1) {
        uint64_t steps = job->produced.count - 1;
        result->seconds_per_token = result->decode_s / (double)steps;
        result->bytes_read_per_token = (after.bytes_read - before.bytes_read) / steps;
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
    result->seconds_waiting = 1e-9 * (double)(after.wait_ns - before->wait_ns);
}

cenote_status qwen_job_run(qwen_job *job, const qwen_plan *plan, const qwen_events *events,
                           qwen_result *out_result, cenote_error *err)
{
    static const qwen_events no_events = {0};
    if (!plan->fits)
        return cenote_error_set(
            err, CENOTE_E_BUDGET, "needs at least %llu bytes, the limit is %llu",
            (unsigned long long)plan->smallest_bytes, (unsigned long long)plan->limit_bytes);
    uint64_t thread_bytes = plan->process_bytes - QWEN_PROCESS_BYTES;
    cenote_status status =
        cenote_budget_charge(job->model->budget, thread_bytes, "stacks of threads", err);
    if (status != CENOTE_OK)
        return status;
    job->events = events != NULL ? events : &no_events;
    job->produced.count_max = plan->max_tokens;
    qwen_run run = {
        .model = job->model,
        .plan = plan,
        .shape = &job->shape,
        .events = job->events,
        .image_paths = job->request->image_paths,
        .cancelled = &job->cancelled,
    };
    cenote_weights_stats before;
    cenote_weights_stats_get(job->model->weights, &before);
    qwen_result result = {0};
    bool end = false;
    double start = seconds_now();
    status = set_up(&run, err);
    result.load_s = seconds_now() - start;
    if (status == CENOTE_OK)
        status = run_phases(&run, job, &result, &end, err);
    result.page_table_peak_bytes = run.page_table_peak_bytes;
    tear_down(&run);
    cenote_budget_uncharge(job->model->budget, thread_bytes);
    qwen_detokenizer_feed(&job->detokenizer, NULL, 0, emit_text, job); /* what is left of it */
    if (status == CENOTE_OK)
        status = check_text(job, err);
    fill_result(job, plan, status, end, &before, &result);
    *out_result = result;
    return status;
}
