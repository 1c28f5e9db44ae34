/* SPDX-License-Identifier: Apache-2.0 */
/* From a request to token ids and positions: image headers are read, the prompt is put into chat
 * form, and runs of image tokens become spans with positions of their own. */
#include "job.h"

#include <stdlib.h>
#include <string.h>

#include "fault.h"
#include "sample.h"
#include "tokenizer/unicode.h"

/* The grid of the picture in a file. */
static cenote_status probe_grid(const qwen_model *model, const char *path,
                                uint32_t max_image_tokens, uint32_t *out_grid_h,
                                uint32_t *out_grid_w, cenote_error *err)
{
    qwen_image_info info;
    cenote_status status = qwen_image_probe(path, &info, err);
    if (status != CENOTE_OK)
        return status;
    cenote_error detail;
    status = qwen_model_image_grid(model, info.width, info.height, max_image_tokens, out_grid_h,
                                   out_grid_w, &detail);
    if (status != CENOTE_OK)
        return cenote_error_set(err, status, "%s: %.300s", path, detail.message);
    return CENOTE_OK;
}

static cenote_status probe_image(qwen_job *job, uint32_t i, cenote_error *err)
{
    const qwen_request *request = job->request;
    qwen_shape *shape = &job->shape;
    const char *path = request->image_paths[i];
    uint32_t patch = job->model->config.vision.patch_size;
    cenote_status status = probe_grid(job->model, path, request->max_image_tokens,
                                      &shape->grid_h[i], &shape->grid_w[i], err);
    return status != CENOTE_OK
               ? status
               : qwen_image_load_bytes(path, shape->grid_h[i] * patch, shape->grid_w[i] * patch,
                                       &shape->decode_bytes[i], err);
}

cenote_status qwen_model_image_tokens(const qwen_model *model, const char *path,
                                      uint32_t max_image_tokens, uint64_t *out_tokens,
                                      cenote_error *err)
{
    uint32_t grid_h, grid_w;
    cenote_status status = probe_grid(model, path, max_image_tokens, &grid_h, &grid_w, err);
    if (status == CENOTE_OK)
        *out_tokens = (uint64_t)grid_h * grid_w / qwen_merge_count(&model->config.vision);
    return status;
}

cenote_status qwen_shape_image_add(const qwen_model *model, uint32_t width, uint32_t height,
                                   uint32_t max_image_tokens, qwen_shape *shape, cenote_error *err)
{
    uint32_t i = shape->image_count, patch = model->config.vision.patch_size;
    if (i >= QWEN_IMAGES_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "more than %u images", QWEN_IMAGES_MAX);
    const qwen_image_info info = {width, height};
    uint32_t grid_h, grid_w;
    cenote_status status =
        qwen_model_image_grid(model, width, height, max_image_tokens, &grid_h, &grid_w, err);
    if (status == CENOTE_OK)
        status = qwen_image_size_bytes(&info, grid_h * patch, grid_w * patch,
                                       &shape->decode_bytes[i], err);
    if (status != CENOTE_OK)
        return status;
    shape->grid_h[i] = grid_h;
    shape->grid_w[i] = grid_w;
    shape->prompt_tokens += (uint64_t)grid_h * grid_w / qwen_merge_count(&model->config.vision) + 2;
    shape->image_count++;
    return CENOTE_OK;
}

uint64_t qwen_job_image_tokens(const qwen_job *job, uint32_t i)
{
    return (uint64_t)job->shape.grid_h[i] * job->shape.grid_w[i] /
           qwen_merge_count(&job->model->config.vision);
}

static cenote_status render_prompt(qwen_job *job, const qwen_job_past *past, cenote_error *err)
{
    const qwen_model *model = job->model;
    const qwen_request *request = job->request;
    if (!request->raw_prompt && model->chat_status != CENOTE_OK) {
        if (err != NULL)
            *err = model->chat_error;
        return model->chat_status;
    }
    uint64_t counts[QWEN_IMAGES_MAX];
    for (uint32_t i = 0; i < request->image_count; i++)
        counts[i] = qwen_job_image_tokens(job, i);
    const qwen_chat_prompt prompt = {
        .system = request->system,
        .past = past->turns,
        .past_count = past->turn_count,
        .user = request->prompt,
        .image_count = request->image_count - past->images->image_count,
        .image_token_counts = counts + past->images->image_count,
        .raw = request->raw_prompt,
        .parse_special = request->parse_special,
        .image_token_id = model->config.image_token_id,
        .vision_start_token_id = model->config.vision_start_token_id,
        .vision_end_token_id = model->config.vision_end_token_id,
    };
    job->prompt.count_max = model->config.text.position_max;
    return qwen_chat_render(model->tokenizer, &model->chat_style, &prompt, &job->prompt, err);
}

/* ---- spans: transformers' get_rope_index ---- */

static void add_span(qwen_job *job, uint64_t first, uint64_t count, uint64_t position,
                     uint32_t image_index)
{
    job->spans[job->span_count++] = (qwen_span){first, count, position, image_index};
}

static bool is_image_run(const qwen_job *job, uint64_t first, uint64_t count)
{
    if (first + count > job->prompt.count)
        return false;
    for (uint64_t t = first; t < first + count; t++)
        if (job->prompt.ids[t] != job->model->config.image_token_id)
            return false;
    return true;
}

/* Text advances all axes by one a token; an image's tokens share one time and spread over height
 * and width, and the next text starts behind the larger of the two. */
static cenote_status make_spans(qwen_job *job, cenote_error *err)
{
    uint64_t text_first = 0, position = 0, token = 0;
    uint32_t merge = job->model->config.vision.merge_size;
    for (uint32_t image = 0; image < job->request->image_count; image++) {
        while (token < job->prompt.count &&
               job->prompt.ids[token] != job->model->config.image_token_id)
            token++;
        uint64_t count = qwen_job_image_tokens(job, image);
        if (!is_image_run(job, token, count))
            return cenote_error_set(err, CENOTE_E_INVAL,
                                    "the prompt holds fewer than %llu image tokens for image %u",
                                    (unsigned long long)count, image + 1);
        add_span(job, text_first, token - text_first, position, QWEN_SPAN_TEXT);
        position += token - text_first;
        add_span(job, token, count, position, image);
        uint32_t h = job->shape.grid_h[image] / merge, w = job->shape.grid_w[image] / merge;
        position += QWEN_FAULT(POSITIONS_BY_COUNT) ? count : h > w ? h : w;
        token += count;
        text_first = token;
    }
    add_span(job, text_first, job->prompt.count - text_first, position, QWEN_SPAN_TEXT);
    return CENOTE_OK;
}

/* ---- public ---- */

/* The tokenizer would count the bytes of the template too. */
static cenote_status check_utf8(const char *what, const char *text, cenote_error *err)
{
    size_t valid = text != NULL ? qwen_utf8_valid_bytes(text, strlen(text)) : 0;
    if (text != NULL && text[valid] != '\0')
        return cenote_error_set(err, CENOTE_E_INVAL, "the %s is not UTF-8 at byte %zu", what,
                                valid);
    return CENOTE_OK;
}

static cenote_status check_request(const qwen_request *request, cenote_error *err)
{
    if (request->image_count > QWEN_IMAGES_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "%u images, at most %u", request->image_count,
                                QWEN_IMAGES_MAX);
    if (request->prompt == NULL)
        return cenote_error_set(err, CENOTE_E_INVAL, "no prompt");
    if (request->kv_dtype != CENOTE_DTYPE_F32 && request->kv_dtype != CENOTE_DTYPE_BF16)
        return cenote_error_set(err, CENOTE_E_INVAL, "KV type must be f32 or bf16");
    cenote_status status = qwen_sampling_check(&request->sampling, err);
    if (status == CENOTE_OK)
        status = check_utf8("prompt", request->prompt, err);
    return status == CENOTE_OK ? check_utf8("system text", request->system, err) : status;
}

static void set_grid(qwen_job *job, uint32_t i)
{
    job->grids[i][0] = 1;
    job->grids[i][1] = job->shape.grid_h[i];
    job->grids[i][2] = job->shape.grid_w[i];
}

static cenote_status fill_job(qwen_job *job, const qwen_job_past *past, cenote_error *err)
{
    const qwen_request *request = job->request;
    uint32_t image = past->images->image_count;
    job->shape = *past->images;
    for (uint32_t i = 0; i < image; i++)
        set_grid(job, i);
    for (; image < request->image_count; image++) {
        cenote_status status = probe_image(job, image, err);
        if (status != CENOTE_OK)
            return status;
        set_grid(job, image);
    }
    job->shape.image_count = request->image_count;
    cenote_status status = render_prompt(job, past, err);
    if (status == CENOTE_OK)
        status = make_spans(job, err);
    job->shape.prompt_tokens = job->prompt.count;
    job->shape.max_tokens = request->max_tokens;
    job->shape.kv_dtype = request->kv_dtype;
    job->shape.thread_count = request->thread_count;
    job->shape.unpacked = request->unpacked;
    job->shape.io_engine = request->io_engine;
    job->shape.draft = request->draft;
    job->shape.read_depth = request->read_depth;
    job->shape.pack = request->pack;
    job->shape.pack_required = request->pack_required;
    return status;
}

cenote_status qwen_job_create_after(qwen_model *model, const qwen_request *request,
                                    const qwen_job_past *past, qwen_job **out_job,
                                    cenote_error *err)
{
    cenote_status status = check_request(request, err);
    if (status != CENOTE_OK)
        return status;
    qwen_job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for a request");
    job->model = model;
    job->request = request;
    job->layer_waiting_s =
        calloc(model->config.text.layer_count + 1u, sizeof *job->layer_waiting_s);
    if (job->layer_waiting_s == NULL)
        status = cenote_error_set(err, CENOTE_E_NOMEM, "no memory for a request");
    else
        status = fill_job(job, past, err);
    if (status == CENOTE_OK)
        *out_job = job;
    else
        qwen_job_destroy(job);
    return status;
}

cenote_status qwen_job_create(qwen_model *model, const qwen_request *request, qwen_job **out_job,
                              cenote_error *err)
{
    static const qwen_shape no_images = {0};
    static const qwen_job_past no_past = {.images = &no_images};
    return qwen_job_create_after(model, request, &no_past, out_job, err);
}

void qwen_job_destroy(qwen_job *job)
{
    if (job == NULL)
        return;
    qwen_ids_fini(&job->prompt);
    qwen_ids_fini(&job->produced);
    free(job->layer_waiting_s);
    free(job->text);
    free(job);
}

const uint32_t *qwen_job_prompt_ids(const qwen_job *job, uint64_t *out_count)
{
    *out_count = job->prompt.count;
    return job->prompt.ids;
}

const uint32_t *qwen_job_grids(const qwen_job *job)
{
    return &job->grids[0][0];
}

void qwen_job_shape(const qwen_job *job, qwen_shape *out_shape)
{
    *out_shape = job->shape;
}

void qwen_job_cancel(qwen_job *job)
{
    job->cancelled = 1;
}
