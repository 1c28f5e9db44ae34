/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration files of a model directory. Accepts what transformers 4.57 and 5 write:
 * `rope_scaling` + `rope_theta` or `rope_parameters`, `eos_token_id` as a number or a list,
 * `size` or `min_pixels`/`max_pixels`. Ranges are wide enough for any published shape and small
 * enough that no later product of two of them wraps 64 bits. */
#include "config.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "json_file.h"

static const char config_name[] = "config.json";
static const char generation_name[] = "generation_config.json";
static const char processor_name[] = "preprocessor_config.json";

/* One row of a table of 32-bit fields. */
struct field {
    const char *key;
    uint64_t low, high;
    uint64_t fallback; /* UINT64_MAX: required */
    uint32_t *out;
};
#define REQUIRED UINT64_MAX

static cenote_status read_fields(const json_t *object, const char *file, const struct field *fields,
                                 size_t count, cenote_error *err)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t value;
        cenote_status status = qwen_json_uint(object, file, fields[i].key, fields[i].low,
                                              fields[i].high, fields[i].fallback, &value, err);
        if (status != CENOTE_OK)
            return status;
        *fields[i].out = (uint32_t)value;
    }
    return CENOTE_OK;
}
#define READ_FIELDS(object, file, fields, err)                                                     \
    read_fields(object, file, fields, sizeof(fields) / sizeof((fields)[0]), err)

static cenote_status section_of(const json_t *root, const char *key, const json_t **out_section,
                                cenote_error *err)
{
    const json_t *section = json_object_get(root, key);
    if (!json_is_object(section))
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: `%s` is missing or not an object",
                                config_name, key);
    *out_section = section;
    return CENOTE_OK;
}

/* ---- text ---- */

static cenote_status read_mrope_section(const json_t *rope, qwen_text_config *text,
                                        cenote_error *err)
{
    const uint32_t released[3] = {24, 20, 20};
    memcpy(text->mrope_section, released, sizeof released);
    const json_t *section = rope != NULL ? json_object_get(rope, "mrope_section") : NULL;
    if (section == NULL)
        return CENOTE_OK;
    if (json_array_size(section) != 3)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s: `mrope_section` has %zu entries, must have 3", config_name,
                                json_array_size(section));
    for (size_t i = 0; i < 3; i++) {
        const json_t *entry = json_array_get(section, i);
        json_int_t value = json_is_integer(entry) ? json_integer_value(entry) : -1;
        if (value < 0 || value > 256)
            return cenote_error_set(err, CENOTE_E_CORRUPT,
                                    "%s: `mrope_section[%zu]` must be an integer from 0 to 256",
                                    config_name, i);
        text->mrope_section[i] = (uint32_t)value;
    }
    return CENOTE_OK;
}

static cenote_status read_rope(const json_t *section, qwen_text_config *text, cenote_error *err)
{
    const json_t *rope = json_object_get(section, "rope_parameters");
    if (!json_is_object(rope))
        rope = json_object_get(section, "rope_scaling");
    if (!json_is_object(rope))
        rope = NULL;
    cenote_status status = CENOTE_OK;
    if (rope != NULL) {
        status = qwen_json_expect_text(rope, config_name, "rope_type", "default", err);
        if (status != CENOTE_OK)
            return status;
    }
    const json_t *holder =
        rope != NULL && json_object_get(rope, "rope_theta") != NULL ? rope : section;
    double theta;
    status = qwen_json_positive(holder, config_name, "rope_theta", 1e12, 5e6, &theta, err);
    if (status != CENOTE_OK)
        return status;
    text->rope_theta = (float)theta;
    return read_mrope_section(rope, text, err);
}

static cenote_status check_text(const qwen_text_config *text, cenote_error *err)
{
    if (text->head_count % text->kv_head_count != 0)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s: %u attention heads do not divide into %u key-value heads",
                                config_name, text->head_count, text->kv_head_count);
    if (text->head_dim % 4 != 0)
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED, "%s: `head_dim` %u is no multiple of 4",
                                config_name, text->head_dim);
    return CENOTE_OK;
}

static cenote_status read_text(const json_t *root, qwen_text_config *text, cenote_error *err)
{
    const json_t *section;
    cenote_status status = section_of(root, "text_config", &section, err);
    if (status != CENOTE_OK)
        return status;
    const struct field fields[] = {
        {"vocab_size", 1, 1u << 24, REQUIRED, &text->vocab_size},
        {"hidden_size", 4, 1u << 16, REQUIRED, &text->hidden},
        {"intermediate_size", 4, 1u << 18, REQUIRED, &text->ffn},
        {"num_hidden_layers", 1, 1024, REQUIRED, &text->layer_count},
        {"num_attention_heads", 1, 1024, REQUIRED, &text->head_count},
        {"num_key_value_heads", 1, 1024, REQUIRED, &text->kv_head_count},
        {"head_dim", 4, 256, 128, &text->head_dim},
        {"max_position_embeddings", 1, 1u << 24, 262144, &text->position_max},
    };
    status = READ_FIELDS(section, config_name, fields, err);
    if (status != CENOTE_OK)
        return status;
    double eps;
    status = qwen_json_positive(section, config_name, "rms_norm_eps", 1, 1e-6, &eps, err);
    if (status != CENOTE_OK)
        return status;
    text->rms_eps = (float)eps;
    status = qwen_json_expect_text(section, config_name, "hidden_act", "silu", err);
    if (status != CENOTE_OK)
        return status;
    if (json_is_true(json_object_get(section, "attention_bias")))
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                "%s: `attention_bias` true is not supported", config_name);
    /* Only this flag counts in transformers 4.57; the top-level one is ignored. */
    text->tied = json_is_true(json_object_get(section, "tie_word_embeddings"));
    status = read_rope(section, text, err);
    return status != CENOTE_OK ? status : check_text(text, err);
}

/* ---- vision ---- */

/* Entry j's output goes to the text layer given by its block's rank among the entries: transformers
 * collects the outputs in the order of the blocks and injects them in that order. */
static cenote_status read_deepstack(const json_t *section, uint32_t text_layer_count,
                                    qwen_vision_config *vision, cenote_error *err)
{
    const json_t *list = json_object_get(section, "deepstack_visual_indexes");
    size_t count = json_array_size(list);
    if (count > QWEN_DEEPSTACK_MAX || count > text_layer_count)
        return cenote_error_set(
            err, CENOTE_E_CORRUPT, "%s: `deepstack_visual_indexes` has %zu entries, at most %u fit",
            config_name, count,
            text_layer_count < QWEN_DEEPSTACK_MAX ? text_layer_count : QWEN_DEEPSTACK_MAX);
    for (size_t j = 0; j < count; j++) {
        const json_t *entry = json_array_get(list, j);
        json_int_t block = json_is_integer(entry) ? json_integer_value(entry) : -1;
        if (block < 0 || block >= (json_int_t)vision->depth)
            return cenote_error_set(err, CENOTE_E_CORRUPT,
                                    "%s: `deepstack_visual_indexes[%zu]` must be 0 to %u",
                                    config_name, j, vision->depth - 1);
        for (size_t i = 0; i < j; i++)
            if (vision->deepstack_block[i] == (uint32_t)block)
                return cenote_error_set(err, CENOTE_E_CORRUPT,
                                        "%s: `deepstack_visual_indexes` names block %lld twice",
                                        config_name, (long long)block);
        vision->deepstack_block[j] = (uint32_t)block;
    }
    vision->deepstack_count = (uint32_t)count;
    for (size_t j = 0; j < count; j++) {
        vision->deepstack_layer[j] = 0;
        for (size_t i = 0; i < count; i++)
            vision->deepstack_layer[j] += vision->deepstack_block[i] < vision->deepstack_block[j];
    }
    return CENOTE_OK;
}

static cenote_status check_vision(const qwen_config *config, uint32_t position_count,
                                  cenote_error *err)
{
    const qwen_vision_config *vision = &config->vision;
    if (vision->position_side * vision->position_side != position_count)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s: `num_position_embeddings` %u is not a square", config_name,
                                position_count);
    uint32_t head_dim = vision->hidden / vision->head_count;
    if (vision->hidden % vision->head_count != 0 || head_dim % 4 != 0 || head_dim > 256)
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                "%s: vision head size %u / %u must be a multiple of 4 up to 256",
                                config_name, vision->hidden, vision->head_count);
    if (vision->out_hidden != config->text.hidden)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s: `out_hidden_size` %u differs from the text's `hidden_size` %u",
                                config_name, vision->out_hidden, config->text.hidden);
    return CENOTE_OK;
}

static cenote_status read_vision(const json_t *root, qwen_config *config, cenote_error *err)
{
    const json_t *section;
    cenote_status status = section_of(root, "vision_config", &section, err);
    if (status != CENOTE_OK)
        return status;
    qwen_vision_config *vision = &config->vision;
    uint32_t position_count;
    const struct field fields[] = {
        {"depth", 1, 1024, REQUIRED, &vision->depth},
        {"hidden_size", 4, 1u << 16, REQUIRED, &vision->hidden},
        {"intermediate_size", 4, 1u << 18, REQUIRED, &vision->ffn},
        {"num_heads", 1, 1024, REQUIRED, &vision->head_count},
        {"in_channels", 3, 3, 3, &vision->channels},
        {"patch_size", 1, 64, 16, &vision->patch_size},
        {"temporal_patch_size", 1, 8, 2, &vision->temporal_patch_size},
        {"spatial_merge_size", 1, 8, 2, &vision->merge_size},
        {"out_hidden_size", 4, 1u << 16, REQUIRED, &vision->out_hidden},
        {"num_position_embeddings", 1, 1u << 20, 2304, &position_count},
    };
    status = READ_FIELDS(section, config_name, fields, err);
    if (status != CENOTE_OK)
        return status;
    vision->position_side = (uint32_t)lround(sqrt(position_count));
    status = qwen_json_expect_text(section, config_name, "hidden_act", "gelu_pytorch_tanh", err);
    if (status != CENOTE_OK)
        return status;
    status = read_deepstack(section, config->text.layer_count, vision, err);
    return status != CENOTE_OK ? status : check_vision(config, position_count, err);
}

/* ---- top level ---- */

static cenote_status check_architecture(const json_t *root, cenote_error *err)
{
    const char *type = json_string_value(json_object_get(root, "model_type"));
    if (type != NULL && strcmp(type, "qwen3_vl") == 0)
        return CENOTE_OK;
    if (type != NULL && strcmp(type, "qwen3_vl_moe") == 0)
        return cenote_error_set(
            err, CENOTE_E_UNSUPPORTED,
            "%s: mixture-of-experts models (qwen3_vl_moe) are not supported yet", config_name);
    return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                            "%s: `model_type` is \"%.60s\"; supported: \"qwen3_vl\"", config_name,
                            type != NULL ? type : "(none)");
}

static cenote_status read_model_config(const json_t *root, qwen_config *config, cenote_error *err)
{
    cenote_status status = check_architecture(root, err);
    if (status == CENOTE_OK)
        status = read_text(root, &config->text, err);
    if (status == CENOTE_OK)
        status = read_vision(root, config, err);
    if (status != CENOTE_OK)
        return status;
    const uint64_t id_max = config->text.vocab_size - 1;
    const struct field ids[] = {
        {"image_token_id", 0, id_max, REQUIRED, &config->image_token_id},
        {"video_token_id", 0, id_max, REQUIRED, &config->video_token_id},
        {"vision_start_token_id", 0, id_max, REQUIRED, &config->vision_start_token_id},
        {"vision_end_token_id", 0, id_max, REQUIRED, &config->vision_end_token_id},
    };
    return READ_FIELDS(root, config_name, ids, err);
}

/* ---- end tokens ---- */

static cenote_status read_eos_value(const json_t *value, const char *file, qwen_config *config,
                                    cenote_error *err)
{
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if (count > QWEN_EOS_MAX)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s: `eos_token_id` has %zu entries, at most %u", file, count,
                                QWEN_EOS_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *entry = json_is_array(value) ? json_array_get(value, i) : value;
        json_int_t id = json_is_integer(entry) ? json_integer_value(entry) : -1;
        if (id < 0 || id >= (json_int_t)config->text.vocab_size)
            return cenote_error_set(err, CENOTE_E_CORRUPT,
                                    "%s: `eos_token_id` must be an id below %u", file,
                                    config->text.vocab_size);
        config->eos_ids[i] = (uint32_t)id;
    }
    config->eos_count = (uint32_t)count;
    return CENOTE_OK;
}

static cenote_status read_real(const json_t *object, const char *key, double low, double high,
                               float fallback, float *out_value, cenote_error *err)
{
    const json_t *value = json_object_get(object, key);
    double number = (double)fallback;
    if (value != NULL && !json_is_null(value))
        number = json_is_number(value) ? json_number_value(value) : NAN;
    if (!(number >= low && number <= high))
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: `%s` is not a number within %g and %g",
                                generation_name, key, low, high);
    *out_value = (float)number;
    return CENOTE_OK;
}

/* transformers' defaults where nothing is said. */
static cenote_status read_sampling(const json_t *generation, qwen_sampling *out_sampling,
                                   cenote_error *err)
{
    qwen_sampling sampling = {0};
    uint64_t top_k;
    cenote_status status =
        read_real(generation, "temperature", 0, 1e6, 1, &sampling.temperature, err);
    if (status == CENOTE_OK)
        status = read_real(generation, "top_p", 0, 1, 1, &sampling.top_p, err);
    if (status == CENOTE_OK)
        status = read_real(generation, "repetition_penalty", 1e-3, 1e3, 1,
                           &sampling.repetition_penalty, err);
    if (status == CENOTE_OK)
        status =
            qwen_json_uint(generation, generation_name, "top_k", 0, UINT32_MAX, 50, &top_k, err);
    if (status != CENOTE_OK)
        return status;
    sampling.top_k = (uint32_t)top_k;
    if (sampling.top_p == 0)
        sampling.top_p = FLT_MIN; /* to transformers that is the likeliest alone, to us none */
    *out_sampling = sampling;
    return CENOTE_OK;
}

/* generation_config.json is optional; without it the text config's end token holds. */
static cenote_status read_generation(const char *directory, const json_t *model_root,
                                     qwen_config *config, cenote_error *err)
{
    json_t *generation = NULL;
    cenote_status status = qwen_json_file_read(directory, generation_name, &generation, err);
    if (status != CENOTE_OK && status != CENOTE_E_NOTFOUND)
        return status;
    const char *file = generation_name;
    const json_t *value = json_object_get(generation, "eos_token_id");
    if (value == NULL || json_is_null(value)) {
        file = config_name;
        value = json_object_get(json_object_get(model_root, "text_config"), "eos_token_id");
    }
    status = CENOTE_OK;
    if (value != NULL && !json_is_null(value))
        status = read_eos_value(value, file, config, err);
    config->sampling_status = read_sampling(generation, &config->sampling, &config->sampling_error);
    json_decref(generation);
    return status;
}

/* ---- image processor ---- */

static cenote_status expect_halves(const json_t *root, const char *key, cenote_error *err)
{
    const json_t *list = json_object_get(root, key);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_number_value(json_array_get(list, i)) != 0.5)
            return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                    "%s: `%s` other than 0.5 is not supported", processor_name,
                                    key);
    return CENOTE_OK;
}

static cenote_status read_pixel_limits(const json_t *root, qwen_image_limits *limits,
                                       cenote_error *err)
{
    const uint64_t pixels_limit = 1u << 28;
    const json_t *size = json_object_get(root, "size");
    cenote_status status = qwen_json_uint(size, processor_name, "shortest_edge", 1, pixels_limit,
                                          65536, &limits->pixels_min, err);
    if (status == CENOTE_OK)
        status = qwen_json_uint(size, processor_name, "longest_edge", 1, pixels_limit, 16777216,
                                &limits->pixels_max, err);
    /* The fast processor lets these two override `size`. */
    if (status == CENOTE_OK)
        status = qwen_json_uint(root, processor_name, "min_pixels", 1, pixels_limit,
                                limits->pixels_min, &limits->pixels_min, err);
    if (status == CENOTE_OK)
        status = qwen_json_uint(root, processor_name, "max_pixels", 1, pixels_limit,
                                limits->pixels_max, &limits->pixels_max, err);
    if (status == CENOTE_OK && limits->pixels_min > limits->pixels_max)
        status = cenote_error_set(
            err, CENOTE_E_CORRUPT, "%s: fewest pixels %llu above most pixels %llu", processor_name,
            (unsigned long long)limits->pixels_min, (unsigned long long)limits->pixels_max);
    return status;
}

static cenote_status read_processor(const char *directory, qwen_config *config, cenote_error *err)
{
    json_t *root;
    cenote_status status = qwen_json_file_read(directory, processor_name, &root, err);
    if (status != CENOTE_OK)
        return status;
    status = read_pixel_limits(root, &config->image_limits, err);
    if (status == CENOTE_OK)
        status = expect_halves(root, "image_mean", err);
    if (status == CENOTE_OK)
        status = expect_halves(root, "image_std", err);
    const qwen_vision_config *vision = &config->vision;
    uint32_t patch_size, merge_size, temporal;
    const struct field fields[] = {
        {"patch_size", 1, 64, vision->patch_size, &patch_size},
        {"merge_size", 1, 8, vision->merge_size, &merge_size},
        {"temporal_patch_size", 1, 8, vision->temporal_patch_size, &temporal},
    };
    if (status == CENOTE_OK)
        status = READ_FIELDS(root, processor_name, fields, err);
    json_decref(root);
    if (status != CENOTE_OK)
        return status;
    if (patch_size != vision->patch_size || merge_size != vision->merge_size ||
        temporal != vision->temporal_patch_size)
        return cenote_error_set(
            err, CENOTE_E_CORRUPT,
            "%s: patch, merge and temporal sizes %u, %u, %u differ from %s: %u, %u, %u",
            processor_name, patch_size, merge_size, temporal, config_name, vision->patch_size,
            vision->merge_size, vision->temporal_patch_size);
    config->image_limits.factor = patch_size * merge_size;
    return CENOTE_OK;
}

cenote_status qwen_config_read(const char *directory, qwen_config *out_config, cenote_error *err)
{
    json_t *root;
    cenote_status status = qwen_json_file_read(directory, config_name, &root, err);
    if (status != CENOTE_OK)
        return status;
    qwen_config config = {0};
    status = read_model_config(root, &config, err);
    if (status == CENOTE_OK)
        status = read_generation(directory, root, &config, err);
    if (status == CENOTE_OK)
        status = read_processor(directory, &config, err);
    json_decref(root);
    if (status == CENOTE_OK)
        *out_config = config;
    return status;
}
