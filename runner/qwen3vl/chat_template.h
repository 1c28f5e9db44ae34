/* SPDX-License-Identifier: Apache-2.0 */
/* What a chat template emits to open the assistant's turn. */
#ifndef QWEN_CHAT_TEMPLATE_H
#define QWEN_CHAT_TEMPLATE_H

#include <stddef.h>

#include <cenote/cenote.h>

#define QWEN_CHAT_TURN_BYTES 64

/* Renders the generation prompt of a Jinja template and gives what follows
 * "<|im_start|>assistant" in it, without the white space around, cut to fit; "" when the template
 * has no generation prompt. Errors: CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK cenote_status qwen_chat_template_turn(const char *text, size_t text_bytes,
                                                        char out_turn[QWEN_CHAT_TURN_BYTES],
                                                        cenote_error *err);

#endif
