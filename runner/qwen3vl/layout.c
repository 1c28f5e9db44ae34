/* SPDX-License-Identifier: Apache-2.0 */
/* Offsets of activations: each buffer with the steps of its phase at which it is needed, and
 * cenote_layout puts those that are never needed at the same step into the same place.
 *
 *   decoder    EMBED  QKV  ATTEND  MLP  HEAD  CHOOSE
 *   residual   ==============================           q          QKV, ATTEND
 *   normed            =======================           k, v       QKV
 *   cosines, sines    =================                 gate, up   MLP
 *   logits                              ============    row EMBED, pointers ATTEND, seen CHOOSE
 *
 *   tower      PATCHES  EMBED  POSITIONS  BLOCKS
 *   pixels     ==============                           lines of the position table  POSITIONS
 *   residual            ========================        normed, wide, pointers       BLOCKS
 *   cosines, sines             =================
 *
 * All layers do the same, so one stands for all. The greedy orders meet the lower bound here (the
 * step of the MLP, or of the head, needs most, and whatever else there is fits beside it), so
 * nothing is searched: the block is as small as what one step needs, to the byte, and grows with
 * the tokens. Tests look. */
#include "layout.h"

#include <assert.h>

#include <cenote/kv.h>

#include "sample.h"

#define ALIGN_BYTES 64u
#define BUFFERS_MAX 16u
/* 350 bytes a buffer, on the stack: a plan tries some hundred layouts. */
#define MEMORY_BYTES 8192u

enum decoder_step { EMBED, QKV, ATTEND, MLP, HEAD, CHOOSE };
enum tower_step { TOWER_PATCHES, TOWER_EMBED, TOWER_POSITIONS, TOWER_BLOCKS };

struct buffer {
    uint64_t *out_offset;
    unsigned first, last; /* steps at which it is needed */
    uint64_t size_bytes;
};

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* @return the bytes of the block. Sizes cannot overflow: the configuration's ranges are narrow. */
static uint64_t lay_out(const struct buffer *buffers, unsigned count)
{
    cenote_layout_buffer lives[BUFFERS_MAX];
    _Alignas(8) unsigned char memory[MEMORY_BYTES];
    cenote_layout *layout;
    cenote_layout_report report;
    assert(count <= BUFFERS_MAX && cenote_layout_bytes(count) <= sizeof memory);
    for (unsigned i = 0; i < count; i++)
        lives[i] = (cenote_layout_buffer){.lower = buffers[i].first,
                                          .upper = buffers[i].last + 1u,
                                          .size_bytes = (buffers[i].size_bytes + ALIGN_BYTES - 1) /
                                                        ALIGN_BYTES * ALIGN_BYTES,
                                          .align_bytes = ALIGN_BYTES};
    cenote_status status = cenote_layout_init(lives, count, memory, &layout, NULL);
    assert(status == CENOTE_OK);
    if (status != CENOTE_OK)
        return UINT64_MAX / 4; /* more than any limit */
    for (unsigned i = 0; i < count; i++)
        *buffers[i].out_offset = cenote_layout_offset(layout, i);
    cenote_layout_report_get(layout, &report);
    return report.peak_bytes;
}

static uint64_t pointers_bytes(uint64_t tokens)
{
    return (tokens + CENOTE_KV_BLOCK_TOKENS - 1) / CENOTE_KV_BLOCK_TOKENS * sizeof(void *);
}

void qwen_vision_layout_make(const qwen_model *model, uint64_t patches, uint64_t patches_of_largest,
                             qwen_vision_layout *out_layout)
{
    const qwen_vision_config *vision = &model->config.vision;
    uint64_t d = vision->hidden, floats = patches * sizeof(float);
    uint64_t wide = max_u64(3 * d, max_u64(vision->ffn, d));
    uint64_t half = d / vision->head_count / 2;
    uint64_t line = vision->position_side * d;
    uint64_t pointers = pointers_bytes(patches_of_largest);
    qwen_vision_layout *o = out_layout;
    const struct buffer buffers[] = {
        {&o->pixels, TOWER_PATCHES, TOWER_EMBED, floats * qwen_patch_columns(vision)},
        {&o->residual, TOWER_EMBED, TOWER_BLOCKS, floats * d},
        {&o->cosines, TOWER_POSITIONS, TOWER_BLOCKS, floats * half},
        {&o->sines, TOWER_POSITIONS, TOWER_BLOCKS, floats * half},
        {&o->position_lines, TOWER_POSITIONS, TOWER_POSITIONS, 2 * line * sizeof(float)},
        {&o->position_raw, TOWER_POSITIONS, TOWER_POSITIONS,
         line * cenote_dtype_bytes(model->position_dtype)},
        {&o->normed, TOWER_BLOCKS, TOWER_BLOCKS, floats * d},
        {&o->wide, TOWER_BLOCKS, TOWER_BLOCKS, floats * wide},
        {&o->keys, TOWER_BLOCKS, TOWER_BLOCKS, pointers},
        {&o->values, TOWER_BLOCKS, TOWER_BLOCKS, pointers},
    };
    o->size_bytes = lay_out(buffers, sizeof buffers / sizeof buffers[0]);
}

void qwen_text_layout_make(const qwen_model *model, uint64_t tokens, uint64_t logit_rows,
                           uint64_t token_max, qwen_text_layout *out_layout)
{
    const qwen_text_config *text = &model->config.text;
    uint64_t floats = tokens * sizeof(float);
    uint64_t q = floats * text->head_count * text->head_dim;
    uint64_t kv = floats * text->kv_head_count * text->head_dim;
    uint64_t half = text->head_dim / 2;
    uint64_t pointers = pointers_bytes(token_max);
    uint64_t embed_row = text->hidden * cenote_dtype_bytes(model->embed_dtype);
    uint64_t logits = logit_rows * text->vocab_size * sizeof(float);
    qwen_text_layout *o = out_layout;
    const struct buffer buffers[] = {
        {&o->residual, EMBED, HEAD, floats * text->hidden},
        {&o->row, EMBED, EMBED, embed_row},
        {&o->cosines, QKV, MLP, floats * half},
        {&o->sines, QKV, MLP, floats * half},
        {&o->normed, QKV, HEAD, floats * text->hidden},
        {&o->q, QKV, ATTEND, q},
        {&o->k, QKV, QKV, kv},
        {&o->v, QKV, QKV, kv},
        {&o->keys, ATTEND, ATTEND, pointers},
        {&o->values, ATTEND, ATTEND, pointers},
        {&o->gate, MLP, MLP, floats * text->ffn},
        {&o->up, MLP, MLP, floats * text->ffn},
        {&o->logits, HEAD, CHOOSE, logits},
        {&o->seen, CHOOSE, CHOOSE, qwen_seen_bytes(text->vocab_size)},
    };
    o->size_bytes = lay_out(buffers, sizeof buffers / sizeof buffers[0]);
}

uint64_t qwen_features_bytes(const qwen_model *model, uint64_t patches)
{
    uint64_t tokens = patches / qwen_merge_count(&model->config.vision);
    return tokens * model->config.text.hidden * (1 + model->config.vision.deepstack_count) *
           sizeof(float);
}
