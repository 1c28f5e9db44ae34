/* SPDX-License-Identifier: Apache-2.0 */
/* Characters as the released tokenizers see them: UTF-8, classes, NFC. */
#ifndef QWEN_UNICODE_H
#define QWEN_UNICODE_H

#include <stddef.h>
#include <stdint.h>

#include <cenote/cenote.h>

#include "tokenizer_internal.h"

typedef enum qwen_char_class {
    QWEN_CHAR_OTHER,
    QWEN_CHAR_LETTER, /* \p{L} */
    QWEN_CHAR_NUMBER, /* \p{N} */
    QWEN_CHAR_SPACE   /* \s */
} qwen_char_class;

qwen_char_class qwen_char_class_get(uint32_t character);

typedef enum qwen_utf8_state {
    QWEN_UTF8_WHOLE,   /* a character */
    QWEN_UTF8_PARTIAL, /* all bytes together are the beginning of a character */
    QWEN_UTF8_INVALID  /* neither */
} qwen_utf8_state;

/* Looks at the first character of count > 0 bytes. *out_bytes is its length; for invalid bytes,
 * that of the longest beginning of a character there (at least 1), which is what one U+FFFD stands
 * for. */
qwen_utf8_state qwen_utf8_first(const unsigned char *bytes, size_t count, size_t *out_bytes);

/* The number of leading bytes that are whole characters: text_bytes when all is UTF-8. */
size_t qwen_utf8_valid_bytes(const char *text, size_t text_bytes);

/* The first character of valid, non-empty UTF-8. */
uint32_t qwen_utf8_decode(const char *text, size_t *out_bytes);

/* The number of leading bytes that NFC leaves alone whatever follows up to the end. */
size_t qwen_nfc_clean_bytes(const char *text, size_t text_bytes);

/* Writes the NFC of valid UTF-8 into @p output; @p work is clobbered.
 * Errors: those of the pool. */
CENOTE_MUST_CHECK cenote_status qwen_nfc(const char *text, size_t text_bytes, qwen_scratch *work,
                                         qwen_scratch *output, size_t *out_bytes,
                                         cenote_error *err);

#endif
