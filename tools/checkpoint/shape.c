/* SPDX-License-Identifier: Apache-2.0 */
/* From a published size, or any config.json, to the numbers that decide the tensors.
 *
 * A preset is first turned into the very config.json tree that will be written and then read like
 * a stranger's: one reader, one set of checks. */
#include <inttypes.h>
#include <string.h>

#include "checkpoint.h"

struct preset {
    const char *name;
    bool tied, small_vocabulary;
    int hidden, intermediate, layers, heads, kv_heads, head_dim, mrope[3];
    int vision_depth, vision_hidden, vision_intermediate, vision_heads, deepstack[3];
};

static const struct preset presets[] = {
    {"tiny", true, true, 64, 160, 5, 4, 2, 32, {6, 5, 5}, 4, 48, 112, 4, {0, 1, 2}},
    {"2b", true, false, 2048, 6144, 28, 16, 8, 128, {24, 20, 20}, 24, 1024, 4096, 16, {5, 11, 17}},
    {"4b", true, false, 2560, 9728, 36, 32, 8, 128, {24, 20, 20}, 24, 1024, 4096, 16, {5, 11, 17}},
    {"8b",
     false,
     false,
     4096,
     12288,
     36,
     32,
     8,
     128,
     {24, 20, 20},
     27,
     1152,
     4304,
     16,
     {8, 16, 24}},
    {"32b",
     false,
     false,
     5120,
     25600,
     64,
     64,
     8,
     128,
     {24, 20, 20},
     27,
     1152,
     4304,
     16,
     {8, 16, 24}},
};

static const struct preset *preset_find(const char *name)
{
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++)
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    return NULL;
}

bool ckpt_preset_is_small(const char *name)
{
    const struct preset *preset = preset_find(name);
    return preset && preset->small_vocabulary;
}

static json_t *text_config(const struct preset *preset, int special_first, int vocab,
                           const char *dtype)
{
    json_t *rope =
        json_pack("{s:s, s:b, s:[i,i,i]}", "rope_type", "default", "mrope_interleaved", 1,
                  "mrope_section", preset->mrope[0], preset->mrope[1], preset->mrope[2]);
    return json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:f, s:o, s:i, s:b,"
                     " s:f, s:i, s:i, s:b, s:f, s:b}",
                     "model_type", "qwen3_vl_text", "dtype", dtype, "vocab_size", vocab,
                     "hidden_size", preset->hidden, "intermediate_size", preset->intermediate,
                     "num_hidden_layers", preset->layers, "num_attention_heads", preset->heads,
                     "num_key_value_heads", preset->kv_heads, "head_dim", preset->head_dim,
                     "hidden_act", "silu", "rms_norm_eps", 1e-6, "rope_theta", 5e6, "rope_scaling",
                     rope, "max_position_embeddings", 262144, "attention_bias", 0,
                     "attention_dropout", 0.0, "bos_token_id", special_first, "eos_token_id",
                     special_first + CKPT_SPECIAL_IM_END, "tie_word_embeddings", preset->tied,
                     "initializer_range", 0.02, "use_cache", 1);
}

static json_t *vision_config(const struct preset *preset)
{
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:[i,i,i]}",
                     "model_type", "qwen3_vl", "depth", preset->vision_depth, "hidden_size",
                     preset->vision_hidden, "intermediate_size", preset->vision_intermediate,
                     "num_heads", preset->vision_heads, "out_hidden_size", preset->hidden,
                     "num_position_embeddings", 2304, "in_channels", 3, "patch_size", 16,
                     "temporal_patch_size", 2, "spatial_merge_size", 2, "hidden_act",
                     "gelu_pytorch_tanh", "initializer_range", 0.02, "deepstack_visual_indexes",
                     preset->deepstack[0], preset->deepstack[1], preset->deepstack[2]);
}

json_t *ckpt_preset(const char *name, bool small_vocabulary, enum ckpt_dtype dtype)
{
    const struct preset *preset = preset_find(name);
    if (!preset)
        return NULL;
    int special_first = small_vocabulary ? 600 : 151643;
    int vocab = small_vocabulary ? 640 : 151936;
    const char *torch_dtype = dtype == CKPT_BF16  ? "bfloat16"
                              : dtype == CKPT_F16 ? "float16"
                                                  : "float32";
    return json_pack("{s:[s], s:s, s:o, s:o, s:i, s:i, s:i, s:i, s:b, s:s}", "architectures",
                     "Qwen3VLForConditionalGeneration", "model_type", "qwen3_vl", "text_config",
                     text_config(preset, special_first, vocab, torch_dtype), "vision_config",
                     vision_config(preset), "image_token_id",
                     special_first + CKPT_SPECIAL_IMAGE_PAD, "video_token_id",
                     special_first + CKPT_SPECIAL_VIDEO_PAD, "vision_start_token_id",
                     special_first + CKPT_SPECIAL_VISION_START, "vision_end_token_id",
                     special_first + CKPT_SPECIAL_VISION_END, "tie_word_embeddings", preset->tied,
                     "transformers_version", "4.57.6");
}

/* One integer of a config: "section.key" or "key", in min..max. */
struct field {
    const char *section, *key;
    uint64_t *out;
    uint64_t min, max;
};

static int field_read(const json_t *config, const struct field *field)
{
    const json_t *object = field->section ? json_object_get(config, field->section) : config;
    const json_t *value = json_object_get(object, field->key);
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || (uint64_t)number < field->min ||
        (uint64_t)number > field->max)
        return ckpt_fail("config: %s%s%s must be an integer in %" PRIu64 "..%" PRIu64,
                         field->section ? field->section : "", field->section ? "." : "",
                         field->key, field->min, field->max);
    *field->out = (uint64_t)number;
    return 0;
}

/* The added tokens follow the base vocabulary in one order; every id must agree with it. */
static int specials_read(const json_t *config, struct ckpt_shape *shape)
{
    static const struct {
        const char *key;
        uint64_t place;
    } ids[] = {{"image_token_id", CKPT_SPECIAL_IMAGE_PAD},
               {"video_token_id", CKPT_SPECIAL_VIDEO_PAD},
               {"vision_start_token_id", CKPT_SPECIAL_VISION_START},
               {"vision_end_token_id", CKPT_SPECIAL_VISION_END}};
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        uint64_t id;
        struct field field = {NULL, ids[i].key, &id, 256 + ids[i].place, 16u << 20};
        if (field_read(config, &field) != 0)
            return -1;
        if (i == 0)
            shape->special_first = id - ids[i].place;
        else if (id != shape->special_first + ids[i].place)
            return ckpt_fail("config: %s is %" PRIu64 "; with image_token_id %" PRIu64
                             " it must be %" PRIu64,
                             ids[i].key, id, shape->special_first + CKPT_SPECIAL_IMAGE_PAD,
                             shape->special_first + ids[i].place);
    }
    if (shape->special_first + CKPT_SPECIAL_COUNT > shape->vocab)
        return ckpt_fail("config: vocab_size %" PRIu64 " has no room for the %d added tokens from "
                         "%" PRIu64 " on",
                         shape->vocab, CKPT_SPECIAL_COUNT, shape->special_first);
    return 0;
}

int ckpt_shape_read(const json_t *config, struct ckpt_shape *out_shape)
{
    const uint64_t width_max = 1u << 20, count_max = 1024;
    struct ckpt_shape shape = {0};
    const struct field fields[] = {
        {"text_config", "vocab_size", &shape.vocab, 1, 16u << 20},
        {"text_config", "hidden_size", &shape.hidden, 1, width_max},
        {"text_config", "intermediate_size", &shape.intermediate, 1, width_max},
        {"text_config", "num_hidden_layers", &shape.layers, 1, count_max},
        {"text_config", "num_attention_heads", &shape.heads, 1, count_max},
        {"text_config", "num_key_value_heads", &shape.kv_heads, 1, count_max},
        {"text_config", "head_dim", &shape.head_dim, 2, 4096},
        {"vision_config", "depth", &shape.vision_depth, 1, count_max},
        {"vision_config", "hidden_size", &shape.vision_hidden, 1, width_max},
        {"vision_config", "intermediate_size", &shape.vision_intermediate, 1, width_max},
        {"vision_config", "out_hidden_size", &shape.out_hidden, 1, width_max},
        {"vision_config", "num_position_embeddings", &shape.positions, 1, width_max},
        {"vision_config", "in_channels", &shape.channels, 1, 64},
        {"vision_config", "patch_size", &shape.patch, 1, 256},
        {"vision_config", "temporal_patch_size", &shape.temporal_patch, 1, 16},
        {"vision_config", "spatial_merge_size", &shape.merge, 1, 16},
    };
    const char *type = json_string_value(json_object_get(config, "model_type"));
    if (!type || strcmp(type, "qwen3_vl") != 0)
        return ckpt_fail("config: model_type must be qwen3_vl, not %s", type ? type : "absent");
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        if (field_read(config, &fields[i]) != 0)
            return -1;
    const json_t *text = json_object_get(config, "text_config");
    const json_t *list =
        json_object_get(json_object_get(config, "vision_config"), "deepstack_visual_indexes");
    shape.deepstack_count = json_array_size(list);
    if (!json_is_array(list) || shape.deepstack_count > CKPT_DEEPSTACK_MAX)
        return ckpt_fail("config: vision_config.deepstack_visual_indexes must be a list of at "
                         "most %d numbers",
                         CKPT_DEEPSTACK_MAX);
    if (shape.heads % shape.kv_heads != 0)
        return ckpt_fail("config: %" PRIu64 " attention heads are no multiple of %" PRIu64
                         " key-value heads",
                         shape.heads, shape.kv_heads);
    /* transformers looks at the flag of the text part alone. */
    shape.tied = json_is_true(json_object_get(text, "tie_word_embeddings"));
    if (specials_read(config, &shape) != 0)
        return -1;
    *out_shape = shape;
    return 0;
}
