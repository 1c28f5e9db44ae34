/* SPDX-License-Identifier: Apache-2.0 */
/* What can be asked of a model that is open. */
#include "model.h"

cenote_status qwen_model_sampling(const qwen_model *model, qwen_sampling *out_sampling,
                                  cenote_error *err)
{
    const qwen_config *config = &model->config;
    if (config->sampling_status == CENOTE_OK)
        *out_sampling = config->sampling;
    else if (err != NULL)
        *err = config->sampling_error;
    return config->sampling_status;
}

const cenote_weights *qwen_model_weights(const qwen_model *model)
{
    return model->weights;
}

cenote_weights *qwen_model_weights_mutable(qwen_model *model)
{
    return model->weights;
}

const cenote_stream_item *qwen_model_matrices(const qwen_model *model, uint32_t *out_count)
{
    *out_count = model->vision_item_count + model->text_item_count; /* one after the other */
    return model->vision_items;
}

uint64_t qwen_model_panel_bytes(const qwen_model *model)
{
    return model->panel_bytes_max;
}

uint32_t qwen_model_extra_count(const qwen_model *model)
{
    return model->extra_count;
}

uint64_t qwen_model_bytes_per_token(const qwen_model *model)
{
    uint64_t embed_row = model->config.text.hidden * cenote_dtype_bytes(model->embed_dtype);
    return model->layers_weight_bytes + model->head_weight_bytes + embed_row;
}

const char *qwen_model_tensor_class(const qwen_model *model, uint32_t tensor_index)
{
    static const char *const names[] = {
        [QWEN_TENSOR_EXTRA] = "extra",         [QWEN_TENSOR_VISION] = "vision",
        [QWEN_TENSOR_EMBEDDING] = "embedding", [QWEN_TENSOR_TEXT] = "text",
        [QWEN_TENSOR_HEAD] = "head",
    };
    return names[model->tensor_classes[tensor_index]];
}

/* smart_resize rounds sides up and never below one factor, so a small cap can be passed: the longer
 * side gives way then, for the cap is a promise about memory and time. */
static void cap_tokens(uint32_t *height, uint32_t *width, uint32_t factor, uint64_t tokens_max)
{
    while ((uint64_t)*height / factor * (*width / factor) > tokens_max) {
        uint32_t *longer = *height > *width ? height : width;
        *longer -= factor;
    }
}

cenote_status qwen_model_image_grid(const qwen_model *model, uint32_t width, uint32_t height,
                                    uint32_t max_image_tokens, uint32_t *out_grid_h,
                                    uint32_t *out_grid_w, cenote_error *err)
{
    qwen_image_limits limits = model->config.image_limits;
    uint64_t token_pixels = (uint64_t)limits.factor * limits.factor;
    uint64_t tokens_max = max_image_tokens > 0 ? max_image_tokens : UINT64_MAX;
    if (max_image_tokens > 0 && max_image_tokens * token_pixels < limits.pixels_max)
        limits.pixels_max = max_image_tokens * token_pixels;
    if (limits.pixels_min > limits.pixels_max)
        limits.pixels_min = limits.pixels_max;
    uint32_t new_height, new_width;
    cenote_status status = qwen_smart_resize(&limits, height, width, &new_height, &new_width, err);
    if (status != CENOTE_OK)
        return status;
    cap_tokens(&new_height, &new_width, limits.factor, tokens_max);
    *out_grid_h = new_height / model->config.vision.patch_size;
    *out_grid_w = new_width / model->config.vision.patch_size;
    return CENOTE_OK;
}
