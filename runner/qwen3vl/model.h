/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  A model that is open: configuration, tokenizer, and every tensor bound to its place. Shared by
 *  the runner's own files. */
#ifndef QWEN_MODEL_H
#define QWEN_MODEL_H

#include <stdint.h>

#include "chat.h"
#include "config.h"
#include "qwen3vl.h"
#include "tokenizer/tokenizer.h"

/** A vector that is kept resident as fp32: a norm's gain or a bias. */
typedef struct qwen_vector {
    uint32_t tensor_index;
    uint32_t count;
    uint64_t offset; /**< in floats, in the resident block */
} qwen_vector;

/** A matrix that is streamed in panels, y = x * W^T (+ bias). */
typedef struct qwen_linear {
    uint32_t tensor_index;
    cenote_dtype dtype;
    uint32_t n; /**< rows of W: outputs */
    uint32_t k; /**< columns of W: inputs */
    uint32_t rows_per_panel;
    bool has_bias;
    qwen_vector bias;
} qwen_linear;

typedef struct qwen_vision_block {
    qwen_vector norm1_gain, norm1_bias, norm2_gain, norm2_bias;
    qwen_linear qkv, proj, fc1, fc2;
} qwen_vision_block;

/** norm over hidden (merger) or over the merged width (deepstack), then fc2(gelu(fc1(x))). */
typedef struct qwen_merger {
    qwen_vector norm_gain, norm_bias;
    qwen_linear fc1, fc2;
} qwen_merger;

typedef struct qwen_text_layer {
    qwen_vector norm1_gain, norm2_gain, q_norm_gain, k_norm_gain;
    qwen_linear q, k, v, o, gate, up, down;
} qwen_text_layer;

struct qwen_model {
    cenote_budget *budget;
    cenote_pool *pool; /**< tables of the tokenizer and of this struct */
    cenote_weights *weights;
    qwen_tokenizer *tokenizer;
    qwen_config config;
    qwen_chat_style chat_style;
    cenote_status chat_status; /**< why the chat form cannot be used; --raw-prompt still can */
    cenote_error chat_error;

    qwen_linear patch_embed;
    uint32_t position_tensor; /**< [side * side][vision hidden], read by the row */
    cenote_dtype position_dtype;
    qwen_vision_block *blocks;
    qwen_merger merger;
    qwen_merger deepstack[QWEN_DEEPSTACK_MAX];
    uint32_t embed_tensor; /**< [vocab][hidden], read by the row */
    cenote_dtype embed_dtype;
    qwen_text_layer *layers;
    qwen_vector final_norm_gain;
    qwen_linear head;

    cenote_stream_item *vision_items; /**< the programs of the stream, in order of use */
    cenote_stream_item *text_items;   /**< all layers; the head is the last */
    uint32_t vision_item_count;
    uint32_t text_item_count;

    uint64_t resident_floats; /**< of all vectors */
    uint64_t panel_bytes_max;
    uint64_t k_max;               /**< the longest row of any matrix */
    uint64_t vision_weight_bytes; /**< streamed once per prompt with images */
    uint64_t layers_weight_bytes;
    uint64_t head_weight_bytes;
    uint64_t whole_plain_bytes;   /**< to hold the text program's matrices as they are */
    uint64_t whole_packed_bytes;  /**< the same in 12 bits where they are bf16 */
    uint64_t resident_book_bytes; /**< of a resident set over them */
    uint32_t extra_count;
    unsigned char *tensor_classes; /**< by tensor index: an entry of qwen_tensor_class */
};

enum qwen_tensor_class {
    QWEN_TENSOR_EXTRA,
    QWEN_TENSOR_VISION,
    QWEN_TENSOR_EMBEDDING,
    QWEN_TENSOR_TEXT,
    QWEN_TENSOR_HEAD,
};

/** Columns of the patch rows: channels * temporal * patch * patch. */
static inline uint32_t qwen_patch_columns(const qwen_vision_config *vision)
{
    return vision->channels * vision->temporal_patch_size * vision->patch_size * vision->patch_size;
}

/** Patches that become one image token. */
static inline uint32_t qwen_merge_count(const qwen_vision_config *vision)
{
    return vision->merge_size * vision->merge_size;
}

/** Appends a matrix to a program. */
static inline void qwen_program_add(cenote_stream_item *items, uint32_t *count,
                                    const qwen_linear *linear)
{
    items[*count] = (cenote_stream_item){linear->tensor_index, linear->rows_per_panel};
    (*count)++;
}

/** Matrices of a prompt with images (vision.c); of a token, the head last (text.c).
 *  @return how many; @p out_items may be NULL to count. */
uint32_t qwen_vision_program(const qwen_model *model, cenote_stream_item *out_items);
uint32_t qwen_text_program(const qwen_model *model, cenote_stream_item *out_items);

static inline uint64_t qwen_linear_bytes(const qwen_linear *linear)
{
    return (uint64_t)linear->n * linear->k * cenote_dtype_bytes(linear->dtype);
}

#endif
