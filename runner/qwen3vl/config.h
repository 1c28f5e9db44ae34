/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  What config.json, generation_config.json and preprocessor_config.json say, checked. */
#ifndef QWEN_CONFIG_H
#define QWEN_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/cenote.h>

#include "image/image.h"
#include "qwen3vl.h"

#define QWEN_DEEPSTACK_MAX 16u
#define QWEN_EOS_MAX       16u

typedef struct qwen_text_config {
    uint32_t vocab_size;
    uint32_t hidden;
    uint32_t ffn;
    uint32_t layer_count;
    uint32_t head_count;
    uint32_t kv_head_count;
    uint32_t head_dim; /* heads * head_dim need not be hidden */
    uint32_t position_max;
    uint32_t mrope_section[3];
    float rope_theta;
    float rms_eps;
    bool tied; /* as text_config says; a missing lm_head.weight ties too */
} qwen_text_config;

typedef struct qwen_vision_config {
    uint32_t depth;
    uint32_t hidden;
    uint32_t ffn;
    uint32_t head_count;
    uint32_t channels; /* 3 */
    uint32_t patch_size;
    uint32_t temporal_patch_size;
    uint32_t merge_size;
    uint32_t out_hidden;    /* = text hidden */
    uint32_t position_side; /* the position table is side x side */
    uint32_t deepstack_count;
    uint32_t deepstack_block[QWEN_DEEPSTACK_MAX]; /* list order */
    uint32_t
        deepstack_layer[QWEN_DEEPSTACK_MAX]; /* text layer of list entry j: rank of its block */
} qwen_vision_config;

typedef struct qwen_config {
    qwen_text_config text;
    qwen_vision_config vision;
    qwen_image_limits image_limits;
    uint32_t image_token_id;
    uint32_t video_token_id;
    uint32_t vision_start_token_id;
    uint32_t vision_end_token_id;
    uint32_t eos_count;
    uint32_t eos_ids[QWEN_EOS_MAX];
    qwen_sampling sampling;        /* that generation_config.json suggests */
    cenote_status sampling_status; /* why it cannot be followed; greedy decoding still can */
    cenote_error sampling_error;
} qwen_config;

/** Errors: CENOTE_E_NOTFOUND (config.json or preprocessor_config.json is missing),
 *  CENOTE_E_CORRUPT (a value out of range, named), CENOTE_E_UNSUPPORTED (MoE, another
 *  architecture, rope type or activation). */
CENOTE_MUST_CHECK cenote_status qwen_config_read(const char *directory, qwen_config *out_config,
                                                 cenote_error *err);

#endif
