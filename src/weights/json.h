/* SPDX-License-Identifier: Apache-2.0 */
/* JSON of any length out of a file, as events, in pieces of 64 KiB: no tree, never the whole text
 * in memory. What yajl is too kind to refuse is refused here: long tokens, deep nesting, strings
 * that are not UTF-8.
 * Threads: as the buffer of the source. */
#ifndef CN_WEIGHTS_JSON_H
#define CN_WEIGHTS_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include "weights/file.h"

#define CN_JSON_PIECE_BYTES     65536u
#define CN_JSON_DEPTH_MAX       16u
#define CN_JSON_TOKEN_BYTES_MAX (1u << 20)

enum cn_json_kind {
    CN_JSON_NULL,
    CN_JSON_BOOL,
    CN_JSON_NUMBER, /* text as written */
    CN_JSON_STRING, /* text unescaped; may hold NUL bytes */
    CN_JSON_KEY,    /* likewise */
    CN_JSON_MAP_BEGIN,
    CN_JSON_MAP_END,
    CN_JSON_ARRAY_BEGIN,
    CN_JSON_ARRAY_END,
};

struct cn_json_event {
    enum cn_json_kind kind;
    const char *text; /* not terminated; gone after the call */
    size_t length;
};

/* Anything but CENOTE_OK (with err filled) ends the parse with that status. */
typedef cenote_status (*cn_json_fn)(void *context, const struct cn_json_event *event,
                                    cenote_error *err);

struct cn_json_source {
    cenote_budget *budget; /* charged with the parser's memory while it runs */
    const struct cn_file *file;
    uint64_t offset_bytes; /* where the text is in the file */
    uint64_t size_bytes;
    void *buffer; /* CN_JSON_PIECE_BYTES, aligned to CN_FILE_ALIGN_MAX */
};

/* Errors: CENOTE_E_CORRUPT (no JSON, or more than one value), CENOTE_E_BUDGET, the file's, the
 * callback's. */
CENOTE_MUST_CHECK cenote_status cn_json_parse(const struct cn_json_source *source, cn_json_fn fn,
                                              void *context, cenote_error *err);

/* A name that may be kept and printed: UTF-8 without NUL or any control character. */
bool cn_json_name_clean(const char *text, size_t length);

/* The text of a number as a whole number; false for a sign, a fraction, an exponent or more than
 * 64 bits. */
bool cn_json_u64(const char *text, size_t length, uint64_t *out_value);

#endif
