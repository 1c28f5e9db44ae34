/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens are bytes; text is characters. A token may end inside a character, so what is incomplete
 * (three bytes at most) waits for the next one. Bytes that can never become a character turn into
 * U+FFFD, one per longest beginning of a character, as the Unicode standard recommends (section
 * 3.9) and Python's decoder does. */
#include "tokenizer.h"

#include <string.h>

#include "unicode.h"

typedef void emit_function(void *context, const char *text, size_t text_bytes);

static void emit_replacement(emit_function *emit, void *context)
{
    emit(context, "\xef\xbf\xbd", 3);
}

/* Adds one byte to what waits, and emits what that decides. */
static void feed_pending(qwen_detokenizer *detokenizer, unsigned char byte, emit_function *emit,
                         void *context)
{
    unsigned char *pending = detokenizer->pending;
    pending[detokenizer->pending_count++] = byte;
    while (detokenizer->pending_count > 0) {
        size_t length;
        const qwen_utf8_state state = qwen_utf8_first(pending, detokenizer->pending_count, &length);
        if (state == QWEN_UTF8_PARTIAL)
            return;
        if (state == QWEN_UTF8_WHOLE)
            emit(context, (const char *)pending, length);
        else
            emit_replacement(emit, context);
        /* A byte that broke a sequence may begin the next one. */
        detokenizer->pending_count -= (uint32_t)length;
        memmove(pending, pending + length, detokenizer->pending_count);
    }
}

void qwen_detokenizer_feed(qwen_detokenizer *detokenizer, const unsigned char *bytes, size_t count,
                           emit_function *emit, void *context)
{
    if (bytes == NULL) {
        if (detokenizer->pending_count > 0)
            emit_replacement(emit, context);
        detokenizer->pending_count = 0;
        return;
    }
    size_t at = 0;
    while (at < count) {
        if (detokenizer->pending_count == 0) {
            const size_t whole = qwen_utf8_valid_bytes((const char *)bytes + at, count - at);
            if (whole > 0)
                emit(context, (const char *)bytes + at, whole);
            at += whole;
            if (at == count)
                return;
        }
        feed_pending(detokenizer, bytes[at++], emit, context);
    }
}
