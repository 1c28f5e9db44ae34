/* SPDX-License-Identifier: Apache-2.0 */
/* Offsets of activations. Buffers whose lifetimes do not overlap share a place: q, k, v with gate,
 * up; patch rows, qkv, fc1 and merger outputs in `wide`. */
#include "layout.h"

#include <cenote/kv.h>

#include "sample.h"

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Places size_bytes at *end, moves *end on; returns the place. */
static uint64_t place(uint64_t *end, uint64_t size_bytes)
{
    uint64_t at = *end;
    *end = at + (size_bytes + 63) / 64 * 64;
    return at;
}

void qwen_vision_layout_make(const qwen_model *model, uint64_t patches, uint64_t patches_of_largest,
                             qwen_vision_layout *out_layout)
{
    const qwen_vision_config *vision = &model->config.vision;
    uint64_t d = vision->hidden;
    uint64_t wide = max_u64(max_u64(qwen_patch_columns(vision), 3 * d), max_u64(vision->ffn, d));
    uint64_t half = d / vision->head_count / 2;
    uint64_t blocks = (patches_of_largest + CENOTE_KV_BLOCK_TOKENS - 1) / CENOTE_KV_BLOCK_TOKENS;
    uint64_t end = 0;
    out_layout->residual = place(&end, patches * d * sizeof(float));
    out_layout->normed = place(&end, patches * d * sizeof(float));
    out_layout->wide = place(&end, patches * wide * sizeof(float));
    out_layout->cosines = place(&end, patches * half * sizeof(float));
    out_layout->sines = place(&end, patches * half * sizeof(float));
    out_layout->position_lines = place(&end, 2 * vision->position_side * d * sizeof(float));
    out_layout->position_raw =
        place(&end, vision->position_side * d * cenote_dtype_bytes(model->position_dtype));
    out_layout->keys = place(&end, blocks * sizeof(void *));
    out_layout->values = place(&end, blocks * sizeof(void *));
    out_layout->size_bytes = end;
}

void qwen_text_layout_make(const qwen_model *model, uint64_t tokens, uint64_t logit_rows,
                           uint64_t token_max, qwen_text_layout *out_layout)
{
    const qwen_text_config *text = &model->config.text;
    uint64_t row = text->hidden * sizeof(float);
    uint64_t q = (uint64_t)text->head_count * text->head_dim * sizeof(float);
    uint64_t kv = (uint64_t)text->kv_head_count * text->head_dim * sizeof(float);
    uint64_t ffn = text->ffn * sizeof(float);
    uint64_t half = text->head_dim / 2 * sizeof(float);
    uint64_t blocks = (token_max + CENOTE_KV_BLOCK_TOKENS - 1) / CENOTE_KV_BLOCK_TOKENS;
    uint64_t end = 0;
    out_layout->residual = place(&end, tokens * row);
    out_layout->normed = place(&end, tokens * row);
    uint64_t shared = end;
    out_layout->q = place(&end, tokens * q);
    out_layout->k = place(&end, tokens * kv);
    out_layout->v = place(&end, tokens * kv);
    uint64_t attention_end = end;
    end = shared;
    out_layout->gate = place(&end, tokens * ffn);
    out_layout->up = place(&end, tokens * ffn);
    end = max_u64(end, attention_end);
    out_layout->cosines = place(&end, tokens * half);
    out_layout->sines = place(&end, tokens * half);
    out_layout->row = place(&end, text->hidden * cenote_dtype_bytes(model->embed_dtype));
    out_layout->logits = place(&end, logit_rows * text->vocab_size * sizeof(float));
    out_layout->seen = place(&end, qwen_seen_bytes(text->vocab_size));
    out_layout->keys = place(&end, blocks * sizeof(void *));
    out_layout->values = place(&end, blocks * sizeof(void *));
    out_layout->size_bytes = end;
}

uint64_t qwen_features_bytes(const qwen_model *model, uint64_t patches)
{
    uint64_t tokens = patches / qwen_merge_count(&model->config.vision);
    return tokens * model->config.text.hidden * (1 + model->config.vision.deepstack_count) *
           sizeof(float);
}
