/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  The prompt, or a whole conversation, in the model's chat form.
 *
 *  Every Qwen3-VL template is ChatML with vision markers: that is rendered here. From the
 *  template's text only what differs between releases is taken: whether the assistant's turn
 *  opens with `<think>\n` (the Thinking models), whatever the template's wording, and whether it
 *  knows of `</think>`, for then it leaves out what was thought in turns that are past. */
#ifndef QWEN_CHAT_H
#define QWEN_CHAT_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/cenote.h>

#include "tokenizer/tokenizer.h"

/** What the template of a model directory asks for. */
typedef struct qwen_chat_style {
    bool think_suffix; /**< the generation prompt ends in "<think>\n" */
    bool
        drops_thoughts; /**< of replies that are past only what follows "</think>" is shown again */
} qwen_chat_style;

/** Finds the template: chat_template.jinja, chat_template.json, or in tokenizer_config.json.
 *  Errors: CENOTE_E_NOTFOUND (none of them has one), CENOTE_E_UNSUPPORTED (a template without
 *  <|im_start|>; the message suggests --raw-prompt), CENOTE_E_CORRUPT. */
CENOTE_MUST_CHECK cenote_status qwen_chat_style_read(const char *directory,
                                                     qwen_chat_style *out_style, cenote_error *err);

/** What was said and answered before. */
typedef struct qwen_chat_turn {
    const char *user;
    uint32_t image_count;
    const uint64_t *image_token_counts;
    const uint32_t *reply_ids; /**< as produced, end token included or not */
    uint64_t reply_count;
} qwen_chat_turn;

typedef struct qwen_chat_prompt {
    const char *system; /**< NULL: none */
    const qwen_chat_turn *past;
    uint32_t past_count;
    const char *user;
    uint32_t image_count;
    const uint64_t *image_token_counts; /**< pad tokens of each image */
    bool raw; /**< user as it is, images' triples before it, specials parsed */
    bool parse_special;
    /* ids from config.json */
    uint32_t image_token_id;
    uint32_t vision_start_token_id;
    uint32_t vision_end_token_id;
} qwen_chat_prompt;

/** Appends the prompt's ids: [system] {user [images, text] assistant reply} user [images, text]
 *  assistant. A raw prompt has no past.
 *  Errors: CENOTE_E_CORRUPT when the tokenizer lacks a marker; those of encode. */
CENOTE_MUST_CHECK cenote_status qwen_chat_render(qwen_tokenizer *tokenizer,
                                                 const qwen_chat_style *style,
                                                 const qwen_chat_prompt *prompt, qwen_ids *out_ids,
                                                 cenote_error *err);

#endif
