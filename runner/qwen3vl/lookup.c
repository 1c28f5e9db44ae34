/* SPDX-License-Identifier: Apache-2.0 */
#include "lookup.h"

#define MATCH_MOST  4u
#define MATCH_LEAST 2u

static uint32_t token_at(const qwen_text_so_far *text, uint64_t i)
{
    return i < text->prompt_count ? text->prompt[i] : text->produced[i - text->prompt_count];
}

/* How many tokens before @p end are the same as those at the end of the text, up to the most. */
static uint32_t match_before(const qwen_text_so_far *text, uint64_t total, uint64_t end)
{
    uint32_t length = 0;
    while (length < MATCH_MOST && length < end &&
           token_at(text, end - 1 - length) == token_at(text, total - 1 - length))
        length++;
    return length;
}

uint32_t qwen_lookup(const qwen_text_so_far *text, uint32_t guess_max, uint32_t *out_guess)
{
    uint64_t total = text->prompt_count + text->produced_count;
    uint64_t best_end = 0;
    uint32_t best = MATCH_LEAST - 1;
    for (uint64_t end = total; end-- > 1 && best < MATCH_MOST;) {
        uint32_t length = match_before(text, total, end);
        if (length > best) {
            best = length;
            best_end = end;
        }
    }
    if (best < MATCH_LEAST)
        return 0;
    for (uint32_t i = 0; i < guess_max; i++) {
        uint64_t at = best_end + i; /* past the end the text goes on as it was guessed */
        out_guess[i] = at < total ? token_at(text, at) : out_guess[at - total];
    }
    return guess_max;
}
