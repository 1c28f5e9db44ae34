/* SPDX-License-Identifier: Apache-2.0 */
/* Cuts text into the pieces that byte pairs never cross. */
#ifndef QWEN_PRETOKENIZE_H
#define QWEN_PRETOKENIZE_H

#include <stddef.h>

/* The pattern that qwen_pretoken_bytes() does by hand, as it stands in tokenizer.json. */
#define QWEN_PRETOKENIZE_REGEX                                                                     \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "                          \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* The length of the piece at the start of valid, non-empty UTF-8 that goes on to its end.
 * Cost: O(length of the piece), one character more at most. */
size_t qwen_pretoken_bytes(const char *text, size_t text_bytes);

#endif
