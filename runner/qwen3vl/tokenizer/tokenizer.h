/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  tokenizer.json: byte-level BPE with NFC and the Qwen pre-tokenizer.
 *
 *  The file is parsed as events, never as a tree (the released one has 11 MB), into tables that
 *  come from a pool. Ids of control tokens come from the file.
 *
 *  Threads: immutable after open, except that encoding uses the tokenizer's own scratch: one
 *  thread at a time. */
#ifndef QWEN_TOKENIZER_H
#define QWEN_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cenote/cenote.h>

#define QWEN_TOKEN_NONE UINT32_MAX

typedef struct qwen_tokenizer qwen_tokenizer;

/** Errors: CENOTE_E_NOTFOUND, CENOTE_E_CORRUPT, CENOTE_E_UNSUPPORTED (another kind of tokenizer;
 *  the message names what differs), CENOTE_E_BUDGET. */
CENOTE_MUST_CHECK cenote_status qwen_tokenizer_open(cenote_pool *pool, const char *path,
                                                    qwen_tokenizer **out_tokenizer,
                                                    cenote_error *err);
void qwen_tokenizer_close(qwen_tokenizer *tokenizer);

/** One more than the largest id. */
uint32_t qwen_tokenizer_id_limit(const qwen_tokenizer *tokenizer);
/** The id of an added token by its exact text, or QWEN_TOKEN_NONE. */
uint32_t qwen_tokenizer_special(const qwen_tokenizer *tokenizer, const char *text);

/** A growing list of ids; memory from malloc, at most @p count_max ids. */
typedef struct qwen_ids {
    uint32_t *ids;
    uint64_t count;
    uint64_t capacity;
    uint64_t count_max;
} qwen_ids;
void qwen_ids_fini(qwen_ids *ids);
CENOTE_MUST_CHECK cenote_status qwen_ids_push(qwen_ids *ids, uint32_t id, cenote_error *err);

/** Appends the ids of @p text. With @p parse_special the text of added tokens becomes those
 *  tokens, as transformers does; without, it is ordinary text.
 *  Errors: CENOTE_E_INVAL (not UTF-8; the byte offset is in err), CENOTE_E_NOMEM, CENOTE_E_INVAL
 *  (more than count_max ids). */
CENOTE_MUST_CHECK cenote_status qwen_tokenizer_encode(qwen_tokenizer *tokenizer, const char *text,
                                                      size_t text_bytes, bool parse_special,
                                                      qwen_ids *out_ids, cenote_error *err);

/** The raw bytes of a token (may be part of a character); special tokens give their text.
 *  @return the number of bytes; 0 for an id without a token. */
size_t qwen_tokenizer_token_bytes(const qwen_tokenizer *tokenizer, uint32_t id,
                                  const unsigned char **out_bytes, bool *out_special);

/** Whether an id is an added token, special or not. */
bool qwen_tokenizer_is_added(const qwen_tokenizer *tokenizer, uint32_t id);

/** Streaming detokenizer: gives whole UTF-8 characters only; invalid bytes become U+FFFD as the
 *  UTF-8 decoder of Python's errors="replace" does. */
typedef struct qwen_detokenizer {
    unsigned char pending[4];
    uint32_t pending_count;
} qwen_detokenizer;
#define QWEN_DETOKENIZER_INIT                                                                      \
    {                                                                                              \
        {0}, 0                                                                                     \
    }
/** Feeds @p bytes; calls @p emit with whole characters. @p bytes NULL flushes the end. */
void qwen_detokenizer_feed(qwen_detokenizer *detokenizer, const unsigned char *bytes, size_t count,
                           void (*emit)(void *context, const char *text, size_t text_bytes),
                           void *context);

#endif
