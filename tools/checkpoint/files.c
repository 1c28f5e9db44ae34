/* SPDX-License-Identifier: Apache-2.0 */
/* The small files of a model directory, besides config.json and the tokenizer. */
#include <stdio.h>

#include "checkpoint.h"

static char *dump(json_t *tree)
{
    char *text = json_dumps(tree, JSON_INDENT(2));
    json_decref(tree);
    return text;
}

/* Sampling as the Instruct releases have it; tests ask for greedy. */
char *ckpt_generation_config(uint32_t special_first)
{
    int end_of_text = (int)special_first, im_end = end_of_text + CKPT_SPECIAL_IM_END;
    return dump(json_pack("{s:b, s:f, s:f, s:i, s:f, s:i, s:i, s:[i,i]}", "do_sample", 1,
                          "temperature", 0.7, "top_p", 0.8, "top_k", 20, "repetition_penalty", 1.0,
                          "bos_token_id", end_of_text, "pad_token_id", end_of_text, "eos_token_id",
                          im_end, end_of_text));
}

/* The pixel limits stand there twice: the slow processor class of transformers reads min_pixels
 * and max_pixels only, the fast one takes size. */
char *ckpt_preprocessor_config(const struct ckpt_shape *shape, uint64_t pixels_min,
                               uint64_t pixels_max)
{
    json_int_t least = (json_int_t)pixels_min, most = (json_int_t)pixels_max;
    return dump(json_pack(
        "{s:s, s:{s:I,s:I}, s:I, s:I, s:i, s:i, s:i, s:[f,f,f], s:[f,f,f], s:b, s:b, s:b, s:b, "
        "s:i, s:f}",
        "image_processor_type", "Qwen2VLImageProcessorFast", "size", "shortest_edge", least,
        "longest_edge", most, "min_pixels", least, "max_pixels", most, "patch_size",
        (int)shape->patch, "temporal_patch_size", (int)shape->temporal_patch, "merge_size",
        (int)shape->merge, "image_mean", 0.5, 0.5, 0.5, "image_std", 0.5, 0.5, 0.5,
        "do_convert_rgb", 1, "do_resize", 1, "do_rescale", 1, "do_normalize", 1, "resample", 3,
        "rescale_factor", 1.0 / 255));
}

/* ChatML with vision markers, in our own words; renders what the releases' templates render for
 * system, user and assistant turns with text and images. */
char *ckpt_chat_template(void)
{
    static const char text[] =
        "{%- for message in messages %}"
        "{{- '<|im_start|>' + message.role + '\\n' }}"
        "{%- if message.content is string %}{{- message.content }}"
        "{%- else %}{%- for part in message.content %}"
        "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
        "{%- elif part.type == 'video' %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}"
        "{%- elif part.type == 'text' %}{{- part.text }}"
        "{%- endif %}{%- endfor %}{%- endif %}"
        "{{- '<|im_end|>\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";
    return dump(json_pack("{s:s}", "chat_template", text));
}

char *ckpt_tokenizer_config(uint32_t special_first)
{
    json_t *decoder = json_object(), *additional = json_array();
    for (uint32_t i = 0; i < CKPT_SPECIAL_COUNT; i++) {
        char id[16];
        snprintf(id, sizeof(id), "%u", special_first + i);
        bool special = i <= CKPT_SPECIAL_VIDEO_PAD;
        json_object_set_new(decoder, id,
                            json_pack("{s:s, s:b, s:b, s:b, s:b, s:b}", "content",
                                      ckpt_special_tokens[i], "lstrip", 0, "normalized", 0,
                                      "rstrip", 0, "single_word", 0, "special", (int)special));
        if (special && i > 0)
            json_array_append_new(additional, json_string(ckpt_special_tokens[i]));
    }
    return dump(json_pack(
        "{s:b, s:b, s:o, s:o, s:n, s:b, s:s, s:s, s:i, s:s, s:b, s:s, s:n}", "add_bos_token", 0,
        "add_prefix_space", 0, "added_tokens_decoder", decoder, "additional_special_tokens",
        additional, "bos_token", "clean_up_tokenization_spaces", 0, "eos_token", "<|im_end|>",
        "errors", "replace", "model_max_length", 262144, "pad_token", "<|endoftext|>",
        "split_special_tokens", 0, "tokenizer_class", "Qwen2Tokenizer", "unk_token"));
}
