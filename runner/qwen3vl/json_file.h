/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Small JSON files of a model directory, with a cap on their size and on what they hold, and typed
 *  lookups whose errors name the file, the key and the value. */
#ifndef QWEN_JSON_FILE_H
#define QWEN_JSON_FILE_H

#include <jansson.h>
#include <stdint.h>

#include <cenote/cenote.h>

#define QWEN_JSON_FILE_BYTES_MAX (4u << 20)
/** Counted by their '{', '[' and ','. Released files have under a thousand. */
#define QWEN_JSON_VALUES_MAX (32u << 10)

/** Parses DIRECTORY/NAME, whose top must be an object. Ownership: release with json_decref().
 *  Errors: CENOTE_E_NOTFOUND (no such file), CENOTE_E_IO, CENOTE_E_CORRUPT. */
CENOTE_MUST_CHECK cenote_status qwen_json_file_read(const char *directory, const char *name,
                                                    json_t **out_root, cenote_error *err);

/** The integer @p key of @p object, in [low, high]; @p fallback when the key is absent or null
 *  (UINT64_MAX: the key must be there). @p file is for the message.
 *  Errors: CENOTE_E_CORRUPT. */
CENOTE_MUST_CHECK cenote_status qwen_json_uint(const json_t *object, const char *file,
                                               const char *key, uint64_t low, uint64_t high,
                                               uint64_t fallback, uint64_t *out_value,
                                               cenote_error *err);
/** As above for a finite number in (0, high]; @p fallback 0: the key must be there. */
CENOTE_MUST_CHECK cenote_status qwen_json_positive(const json_t *object, const char *file,
                                                   const char *key, double high, double fallback,
                                                   double *out_value, cenote_error *err);
/** Absent, or exactly @p expected; else CENOTE_E_UNSUPPORTED. */
CENOTE_MUST_CHECK cenote_status qwen_json_expect_text(const json_t *object, const char *file,
                                                      const char *key, const char *expected,
                                                      cenote_error *err);

#endif
