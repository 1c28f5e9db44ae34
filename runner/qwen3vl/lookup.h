/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Guessing the next tokens from the text so far (prompt lookup decoding; A. Saxena, 2023,
 *  github.com/apoorvumang/prompt-lookup-decoding): answers copy names, numbers and phrases. */
#ifndef QWEN_LOOKUP_H
#define QWEN_LOOKUP_H

#include <stdint.h>

/** A text in two parts, one after the other. */
typedef struct qwen_text_so_far {
    const uint32_t *prompt;
    uint64_t prompt_count;
    const uint32_t *produced;
    uint64_t produced_count;
} qwen_text_so_far;

/** What followed the last earlier place where the text went as it goes now: the longest match of
 * its last 4 to 2 tokens counts, and of those the latest place. A text that goes round and round is
 * taken to go on so.
 *  @return how many tokens are in @p out_guess: @p guess_max, or 0 when nothing matches.
 *  Cost: O(tokens) comparisons. */
uint32_t qwen_lookup(const qwen_text_so_far *text, uint32_t guess_max, uint32_t *out_guess);

#endif
