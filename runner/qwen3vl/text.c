/* SPDX-License-Identifier: Apache-2.0 */
/* The text decoder: a chunk of tokens through all layers, and logits of one row.
 *
 * Prefill calls it with many rows and the GEMM kernels, decoding with one row and the GEMV kernels;
 * the order of layers is the order of the stream (transformers models/qwen3_vl/
 * modeling_qwen3_vl.py, Qwen3VLTextModel). Keys are stored after norm and rotation. Attention is
 * causal over the order of tokens, not over positions. */
#include <math.h>
#include <string.h>

#include "fault.h"
#include "run.h"

uint32_t qwen_text_program(const qwen_model *model, cenote_stream_item *out_items)
{
    const uint32_t layer_count = model->config.text.layer_count;
    if (out_items == NULL)
        return 7 * layer_count + 1;
    uint32_t count = 0;
    for (uint32_t i = 0; i < layer_count; i++) {
        const qwen_text_layer *layer = &model->layers[i];
        qwen_program_add(out_items, &count, &layer->q);
        qwen_program_add(out_items, &count, &layer->k);
        qwen_program_add(out_items, &count, &layer->v);
        qwen_program_add(out_items, &count, &layer->o);
        qwen_program_add(out_items, &count, &layer->gate);
        qwen_program_add(out_items, &count, &layer->up);
        qwen_program_add(out_items, &count, &layer->down);
    }
    qwen_program_add(out_items, &count, &model->head);
    return count;
}

/* ---- positions ---- */

static const qwen_span *span_of(const qwen_chunk *chunk, uint64_t token)
{
    for (uint32_t s = 0; s + 1 < chunk->span_count; s++)
        if (token < chunk->spans[s].first + chunk->spans[s].count)
            return &chunk->spans[s];
    return &chunk->spans[chunk->span_count - 1]; /* text goes on while decoding */
}

/* Position of a token on the axes time, height, width. */
static void token_position(const qwen_run *run, const qwen_chunk *chunk, uint64_t token,
                           float out_position[3])
{
    static const qwen_span flat = {.image_index = QWEN_SPAN_TEXT}; /* a position is an index */
    bool by_index = QWEN_FAULT(POSITIONS_1D) || (QWEN_FAULT(DECODE_BY_INDEX) && chunk->decode);
    const qwen_span *span = by_index ? &flat : span_of(chunk, token);
    uint64_t offset = token - span->first;
    if (span->image_index == QWEN_SPAN_TEXT) {
        for (int axis = 0; axis < 3; axis++)
            out_position[axis] = (float)(span->position + offset);
        return;
    }
    uint64_t columns = run->shape->grid_w[span->image_index] / run->model->config.vision.merge_size;
    out_position[0] = (float)span->position;
    unsigned height = QWEN_FAULT(POSITIONS_TURNED) ? 2 : 1;
    out_position[height] = (float)(span->position + offset / columns);
    out_position[3 - height] = (float)(span->position + offset % columns);
}

/* Interleaved M-RoPE: which axis turns pair i. */
static unsigned axis_of_pair(const uint32_t section[3], uint32_t pair)
{
    if (QWEN_FAULT(MROPE_IN_BLOCKS))
        return pair < section[0] ? 0 : pair < section[0] + section[1] ? 1 : 2;
    if (pair % 3 == 1 && pair < 3 * section[1])
        return 1;
    if (pair % 3 == 2 && pair < 3 * section[2])
        return 2;
    return 0;
}

static void fill_rotary(const qwen_run *run, const qwen_text_buffers *buffers,
                        const qwen_chunk *chunk)
{
    const qwen_text_config *text = &run->model->config.text;
    uint32_t half = text->head_dim / 2;
    float theta = QWEN_FAULT(ROPE_THETA_5E6) ? 5e6f : text->rope_theta;
    float *cosines = qwen_text_at(buffers, buffers->layout.cosines);
    float *sines = qwen_text_at(buffers, buffers->layout.sines);
    for (uint32_t i = 0; i < half; i++) {
        float inverse = 1.0f / powf(theta, (float)(2 * i) / (float)text->head_dim);
        unsigned axis = axis_of_pair(text->mrope_section, i);
        for (uint64_t t = 0; t < chunk->count; t++) {
            float position[3];
            token_position(run, chunk, chunk->first + t, position);
            float angle = position[axis] * inverse;
            cosines[t * half + i] = cosf(angle);
            sines[t * half + i] = sinf(angle);
        }
    }
}

/* ---- embedding ---- */

static const float *feature_row(const qwen_run *run, uint32_t set, uint64_t row)
{
    return run->features + (set * run->feature_rows + row) * run->model->config.text.hidden;
}

/* The row of the features that stands for an image token. */
static uint64_t feature_row_of(const qwen_run *run, const qwen_span *span, uint64_t token)
{
    uint32_t merge = qwen_merge_count(&run->model->config.vision);
    uint64_t row = 0;
    uint32_t first = run->shape->image_first;
    uint32_t before = QWEN_FAULT(FIRST_PICTURE_TWICE) ? first : span->image_index;
    for (uint32_t image = first; image < before; image++)
        row += (uint64_t)run->shape->grid_h[image] * run->shape->grid_w[image] / merge;
    return row + token - span->first;
}

static cenote_status embed(qwen_run *run, const qwen_text_buffers *buffers, const qwen_chunk *chunk,
                           cenote_error *err)
{
    const qwen_model *model = run->model;
    uint32_t hidden = model->config.text.hidden;
    uint64_t row_bytes = hidden * cenote_dtype_bytes(model->embed_dtype);
    float *residual = qwen_text_at(buffers, buffers->layout.residual);
    void *raw = qwen_text_at(buffers, buffers->layout.row);
    for (uint64_t t = 0; t < chunk->count; t++) {
        const qwen_span *span = span_of(chunk, chunk->first + t);
        float *to = residual + t * hidden;
        if (span->image_index != QWEN_SPAN_TEXT) {
            uint64_t row = feature_row_of(run, span, chunk->first + t);
            memcpy(to, feature_row(run, 0, row), hidden * sizeof *to);
            continue;
        }
        cenote_status status = qwen_run_go_on(run, err);
        if (status == CENOTE_OK)
            status = cenote_weights_read(model->weights, model->embed_tensor,
                                         chunk->ids[t] * row_bytes, row_bytes, raw, err);
        if (status != CENOTE_OK)
            return status;
        qwen_widen(model->embed_dtype, raw, hidden, to);
    }
    return CENOTE_OK;
}

/* After layer l, the rows of image tokens get the deepstack output that belongs to l. */
static void inject_deepstack(qwen_run *run, const qwen_text_buffers *buffers,
                             const qwen_chunk *chunk, uint32_t layer)
{
    const qwen_vision_config *vision = &run->model->config.vision;
    uint32_t hidden = run->model->config.text.hidden;
    float *residual = qwen_text_at(buffers, buffers->layout.residual);
    if (run->features == NULL || QWEN_FAULT(DEEPSTACK_LEFT_OUT))
        return;
    for (uint32_t j = 0; j < vision->deepstack_count; j++) {
        uint32_t at = QWEN_FAULT(DEEPSTACK_SWAPPED) ? vision->deepstack_count - 1 - j : j;
        if (vision->deepstack_layer[at] != layer)
            continue;
        for (uint64_t t = 0; t < chunk->count; t++) {
            const qwen_span *span = span_of(chunk, chunk->first + t);
            if (span->image_index == QWEN_SPAN_TEXT)
                continue;
            uint64_t row = feature_row_of(run, span, chunk->first + t);
            qwen_add(run->kernels, residual + t * hidden, feature_row(run, 1 + j, row), hidden);
        }
    }
}

/* ---- one layer ---- */

static cenote_status linear(qwen_run *run, const qwen_chunk *chunk, const qwen_linear *matrix,
                            const float *a, float *c, bool accumulate, cenote_error *err)
{
    const qwen_rows rows = {
        .a = a,
        .a_stride = matrix->k,
        .c = c,
        .c_stride = matrix->n,
        .m = chunk->count,
        .accumulate = accumulate,
        .decode = chunk->decode,
    };
    return qwen_run_linear(run, matrix, &rows, err);
}

static void store_kv(qwen_run *run, const qwen_text_buffers *buffers, const qwen_chunk *chunk,
                     uint32_t layer)
{
    const qwen_text_config *text = &run->model->config.text;
    size_t row = (size_t)text->kv_head_count * text->head_dim;
    const float *k = qwen_text_at(buffers, buffers->layout.k);
    const float *v = qwen_text_at(buffers, buffers->layout.v);
    for (uint64_t t = 0; t < chunk->count; t++) {
        uint64_t token = chunk->first + t;
        uint64_t block = token / CENOTE_KV_BLOCK_TOKENS;
        uint32_t slot = (uint32_t)(token % CENOTE_KV_BLOCK_TOKENS);
        qwen_kv_store(run->shape->kv_dtype, cenote_kv_keys(run->kv, layer, block), slot,
                      text->kv_head_count, text->head_dim, k + t * row);
        qwen_kv_store(run->shape->kv_dtype, cenote_kv_values(run->kv, layer, block), slot,
                      text->kv_head_count, text->head_dim, v + t * row);
    }
}

static cenote_status attend(qwen_run *run, const qwen_text_buffers *buffers,
                            const qwen_chunk *chunk, uint32_t layer, cenote_error *err)
{
    const qwen_text_config *text = &run->model->config.text;
    uint64_t key_count = chunk->first + chunk->count;
    const void **keys = qwen_text_at(buffers, buffers->layout.keys);
    const void **values = qwen_text_at(buffers, buffers->layout.values);
    for (uint64_t b = 0; b * CENOTE_KV_BLOCK_TOKENS < key_count; b++) {
        keys[b] = cenote_kv_keys(run->kv, layer, b);
        values[b] = cenote_kv_values(run->kv, layer, b);
    }
    float *q = qwen_text_at(buffers, buffers->layout.q);
    const qwen_attention attention = {
        .q = q,
        .q_stride = (size_t)text->head_count * text->head_dim,
        .out = q,
        .out_stride = (size_t)text->head_count * text->head_dim,
        .query_count = chunk->count,
        .head_count = text->head_count,
        .kv_head_count = text->kv_head_count,
        .head_dim = text->head_dim,
        .keys = keys,
        .values = values,
        .head_stride = (size_t)CENOTE_KV_BLOCK_TOKENS * text->head_dim,
        .row_stride = text->head_dim,
        .kv_dtype = run->shape->kv_dtype,
        .key_count = key_count,
        .causal = !QWEN_FAULT(NOT_CAUSAL),
        .first_position = chunk->first,
        .scale = 1.0f / sqrtf((float)text->head_dim),
    };
    return qwen_run_attend(run, &attention, err);
}

/* RMS norm of each head, then rotation. */
static void norm_and_turn(qwen_run *run, const qwen_text_buffers *buffers, const qwen_chunk *chunk,
                          float *rows, uint32_t head_count, const qwen_vector *gain)
{
    const qwen_text_config *text = &run->model->config.text;
    uint32_t head_dim = text->head_dim;
    if (!QWEN_FAULT(NO_QK_NORM))
        qwen_rms_norm(run->kernels, rows, head_dim, rows, head_dim, chunk->count * head_count,
                      head_dim, qwen_run_vector(run, gain), text->rms_eps);
    qwen_rope(run->kernels, rows, (size_t)head_count * head_dim, chunk->count, head_count, head_dim,
              qwen_text_at(buffers, buffers->layout.cosines),
              qwen_text_at(buffers, buffers->layout.sines));
}

static cenote_status attention_half(qwen_run *run, const qwen_text_buffers *buffers,
                                    const qwen_chunk *chunk, uint32_t index, cenote_error *err)
{
    const qwen_text_config *text = &run->model->config.text;
    const qwen_text_layer *layer = &run->model->layers[index];
    float *residual = qwen_text_at(buffers, buffers->layout.residual);
    float *normed = qwen_text_at(buffers, buffers->layout.normed);
    float *q = qwen_text_at(buffers, buffers->layout.q);
    float *k = qwen_text_at(buffers, buffers->layout.k);
    float *v = qwen_text_at(buffers, buffers->layout.v);
    qwen_rms_norm(run->kernels, normed, text->hidden, residual, text->hidden, chunk->count,
                  text->hidden, qwen_run_vector(run, &layer->norm1_gain), text->rms_eps);
    cenote_status status = linear(run, chunk, &layer->q, normed, q, false, err);
    if (status == CENOTE_OK)
        status = linear(run, chunk, &layer->k, normed, k, false, err);
    if (status == CENOTE_OK)
        status = linear(run, chunk, &layer->v, normed, v, false, err);
    if (status != CENOTE_OK)
        return status;
    norm_and_turn(run, buffers, chunk, q, text->head_count, &layer->q_norm_gain);
    norm_and_turn(run, buffers, chunk, k, text->kv_head_count, &layer->k_norm_gain);
    store_kv(run, buffers, chunk, index);
    status = attend(run, buffers, chunk, index, err);
    return status != CENOTE_OK ? status : linear(run, chunk, &layer->o, q, residual, true, err);
}

static cenote_status mlp_half(qwen_run *run, const qwen_text_buffers *buffers,
                              const qwen_chunk *chunk, uint32_t index, cenote_error *err)
{
    const qwen_text_config *text = &run->model->config.text;
    const qwen_text_layer *layer = &run->model->layers[index];
    float *residual = qwen_text_at(buffers, buffers->layout.residual);
    float *normed = qwen_text_at(buffers, buffers->layout.normed);
    float *gate = qwen_text_at(buffers, buffers->layout.gate);
    float *up = qwen_text_at(buffers, buffers->layout.up);
    qwen_rms_norm(run->kernels, normed, text->hidden, residual, text->hidden, chunk->count,
                  text->hidden, qwen_run_vector(run, &layer->norm2_gain), text->rms_eps);
    cenote_status status = linear(run, chunk, &layer->gate, normed, gate, false, err);
    if (status == CENOTE_OK)
        status = linear(run, chunk, &layer->up, normed, up, false, err);
    if (status != CENOTE_OK)
        return status;
    qwen_silu_mul(run->kernels, gate, up, chunk->count * text->ffn);
    return linear(run, chunk, &layer->down, gate, residual, true, err);
}

/* ---- public ---- */

cenote_status qwen_text_chunk(qwen_run *run, const qwen_text_buffers *buffers,
                              const qwen_chunk *chunk, cenote_error *err)
{
    cenote_status status = embed(run, buffers, chunk, err);
    if (status != CENOTE_OK)
        return status;
    fill_rotary(run, buffers, chunk);
    const float *residual = qwen_text_at(buffers, buffers->layout.residual);
    for (uint32_t layer = 0; layer < run->model->config.text.layer_count; layer++) {
        status = attention_half(run, buffers, chunk, layer, err);
        if (status == CENOTE_OK)
            status = mlp_half(run, buffers, chunk, layer, err);
        if (status != CENOTE_OK)
            return status;
        qwen_run_note_waits(run, layer);
        qwen_run_stage(run, "layer", (int)layer, chunk->first, residual, chunk->count,
                       run->model->config.text.hidden);
        inject_deepstack(run, buffers, chunk, layer);
    }
    return CENOTE_OK;
}

cenote_status qwen_text_logits(qwen_run *run, const qwen_text_buffers *buffers, uint64_t row,
                               uint64_t count, cenote_error *err)
{
    const qwen_model *model = run->model;
    const qwen_text_config *text = &model->config.text;
    float *residual = (float *)qwen_text_at(buffers, buffers->layout.residual) + row * text->hidden;
    float *normed = qwen_text_at(buffers, buffers->layout.normed);
    qwen_rms_norm(run->kernels, normed, text->hidden, residual, text->hidden, count, text->hidden,
                  qwen_run_vector(run, &model->final_norm_gain), text->rms_eps);
    const qwen_rows rows = {
        .a = normed,
        .a_stride = text->hidden,
        .c = qwen_text_at(buffers, buffers->layout.logits),
        .c_stride = text->vocab_size,
        .m = count,
        .decode = true,
    };
    cenote_status status = qwen_run_linear(run, &model->head, &rows, err);
    qwen_run_note_waits(run, text->layer_count);
    return status;
}
