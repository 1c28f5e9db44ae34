/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing a session and the turns on it, and the small weights.
 *
 * Every byte comes from a pool under the budget. For the session: the small weights and the
 * staging ring (parameters), keys and values. For a turn: the kernels' scratch and the activations
 * of each phase, which give their place to the next phase's, and the features of its images. */
#include "session.h"

#include <stdlib.h>

/* ---- pools ---- */

static cenote_status create_pool(qwen_run *run, cenote_class class_id, uint64_t quota_bytes,
                                 cenote_pool **out_pool, cenote_error *err)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.class_id = class_id;
    options.quota_bytes = quota_bytes;
    options.exact_runs = 1; /* the plan counts features to the byte too */
    return cenote_pool_create(run->model->budget, &options, out_pool, err);
}

/* ---- what stays ---- */

static cenote_status create_resident(qwen_run *run, cenote_error *err)
{
    void *resident;
    cenote_status status = cenote_pool_alloc(
        run->parameters, run->model->resident_floats * sizeof(float), &resident, err);
    if (status == CENOTE_OK)
        run->resident = resident;
    return status;
}

static cenote_status create_kv(qwen_run *run, const qwen_shape *shape, const qwen_plan *plan,
                               cenote_error *err)
{
    const qwen_text_config *text = &run->model->config.text;
    cenote_kv_options options = CENOTE_KV_OPTIONS_INIT;
    options.layer_count = text->layer_count;
    options.head_count = text->kv_head_count;
    options.head_dim = text->head_dim;
    options.token_count_max = plan->context_tokens;
    options.dtype = shape->kv_dtype;
    return cenote_kv_create(run->kv_pool, &options, &run->kv, err);
}

static cenote_status create_stream(qwen_run *run, const qwen_shape *shape, const qwen_plan *plan,
                                   cenote_error *err)
{
    const qwen_model *model = run->model;
    cenote_status status = cenote_resident_create(model->weights, model->budget, model->text_items,
                                                  model->text_item_count, plan->resident_encoding,
                                                  plan->pack, &run->resident_rows, err);
    if (status != CENOTE_OK)
        return status;
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = plan->panel_bytes;
    options.slot_count = plan->slot_count;
    options.engine = shape->io_engine;
    options.resident = run->resident_rows;
    options.pack = plan->pack;
    return cenote_stream_create(model->weights, run->parameters, &options, &run->stream, err);
}

static cenote_status set_up(qwen_session *session, const qwen_shape *shape, const qwen_plan *plan,
                            cenote_error *err)
{
    qwen_run *run = &session->run;
    uint64_t thread_bytes = plan->process_bytes - QWEN_PROCESS_BYTES;
    cenote_status status =
        cenote_budget_charge(run->model->budget, thread_bytes, "stacks of threads", err);
    if (status != CENOTE_OK)
        return status;
    session->thread_bytes = thread_bytes;
    status = create_pool(run, CENOTE_CLASS_PARAMETERS, qwen_plan_parameters_quota(plan),
                         &run->parameters, err);
    if (status == CENOTE_OK)
        status = create_pool(run, CENOTE_CLASS_KV_CACHE, plan->kv_quota_bytes, &run->kv_pool, err);
    if (status == CENOTE_OK)
        status = cenote_team_create(plan->thread_count, &run->team, err);
    if (status == CENOTE_OK)
        status = create_resident(run, err);
    if (status == CENOTE_OK)
        status = create_kv(run, shape, plan, err);
    return status != CENOTE_OK ? status : create_stream(run, shape, plan, err);
}

cenote_status qwen_session_create(qwen_model *model, const qwen_shape *shape, const qwen_plan *plan,
                                  qwen_session **out_session, cenote_error *err)
{
    if (!plan->fits)
        return cenote_error_set(
            err, CENOTE_E_BUDGET, "needs at least %llu bytes, the limit is %llu",
            (unsigned long long)plan->smallest_bytes, (unsigned long long)plan->limit_bytes);
    qwen_session *session = calloc(1, sizeof *session);
    if (session == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for a session");
    session->run.model = model;
    cenote_status status = set_up(session, shape, plan, err);
    if (status == CENOTE_OK)
        *out_session = session;
    else
        qwen_session_close(session);
    return status;
}

void qwen_session_close(qwen_session *session)
{
    if (session == NULL)
        return;
    qwen_run *run = &session->run;
    cenote_stream_destroy(run->stream);
    cenote_resident_destroy(run->resident_rows);
    cenote_kv_destroy(run->kv);
    if (run->resident != NULL)
        cenote_pool_free(run->parameters, run->resident);
    cenote_team_destroy(run->team);
    cenote_pool_destroy(run->kv_pool);
    cenote_pool_destroy(run->parameters);
    cenote_budget_uncharge(run->model->budget, session->thread_bytes);
    qwen_session_forget(session);
    free(session->system);
    free(session);
}

/* ---- what a turn takes ---- */

static cenote_status create_features(qwen_run *run, cenote_error *err)
{
    uint64_t patches = 0;
    for (uint32_t i = run->shape->image_first; i < run->shape->image_count; i++)
        patches += (uint64_t)run->shape->grid_h[i] * run->shape->grid_w[i];
    if (patches == 0)
        return CENOTE_OK;
    run->feature_rows = patches / qwen_merge_count(&run->model->config.vision);
    void *features;
    cenote_status status = create_pool(run, CENOTE_CLASS_IMAGE_FEATURES, run->plan->image_bytes,
                                       &run->features_pool, err);
    if (status == CENOTE_OK)
        status = cenote_pool_alloc(run->features_pool, qwen_features_bytes(run->model, patches),
                                   &features, err);
    if (status == CENOTE_OK)
        run->features = features;
    return status;
}

/* Keys and values for all of the turn now: a token that was promised is not refused half-way. What
 * the last turn left goes first, then resident rows make room. */
static cenote_status reserve_kv(qwen_run *run, cenote_error *err)
{
    cenote_kv_truncate(run->kv, run->shape->past_tokens);
    cenote_pool_trim(run->kv_pool);
    cenote_status status =
        cenote_resident_resize(run->resident_rows, run->plan->resident_vision_bytes, err);
    return status != CENOTE_OK ? status : cenote_kv_reserve(run->kv, run->plan->kv_tokens, err);
}

cenote_status qwen_turn_begin(qwen_session *session, cenote_error *err)
{
    qwen_run *run = &session->run;
    cenote_status status = reserve_kv(run, err);
    if (status == CENOTE_OK)
        status = create_pool(run, CENOTE_CLASS_ACTIVATIONS, qwen_plan_activations_quota(run->plan),
                             &run->activations, err);
    if (status == CENOTE_OK)
        status = qwen_kernels_create(QWEN_ISA_AUTO, run->team, run->activations, run->model->k_max,
                                     &run->kernels, err);
    return status != CENOTE_OK ? status : create_features(run, err);
}

void qwen_turn_forget_images(qwen_session *session)
{
    qwen_run *run = &session->run;
    if (run->features != NULL)
        cenote_pool_free(run->features_pool, run->features);
    cenote_pool_destroy(run->features_pool);
    run->features = NULL;
    run->feature_rows = 0;
    run->features_pool = NULL;
}

void qwen_turn_end(qwen_session *session)
{
    qwen_run *run = &session->run;
    cenote_stream_stop(run->stream);
    qwen_turn_forget_images(session);
    qwen_kernels_destroy(run->kernels);
    cenote_pool_destroy(run->activations);
    run->kernels = NULL;
    run->activations = NULL;
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

cenote_status qwen_turn_load(qwen_session *session, cenote_error *err)
{
    qwen_run *run = &session->run;
    cenote_status status = CENOTE_OK;
    qwen_run_phase(run, QWEN_PHASE_LOAD, 0);
    if (!session->text_loaded)
        status = load_text_vectors(run, err);
    session->text_loaded = status == CENOTE_OK;
    if (status != CENOTE_OK || session->vision_loaded ||
        run->shape->image_first == run->shape->image_count)
        return status;
    status = load_vision_vectors(run, err);
    session->vision_loaded = status == CENOTE_OK;
    return status;
}
