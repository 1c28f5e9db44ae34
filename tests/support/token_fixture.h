/* SPDX-License-Identifier: Apache-2.0 */
/* A pool, the committed small tokenizer, and variants of its file. */
#ifndef TOKEN_FIXTURE_H
#define TOKEN_FIXTURE_H

#include <jansson.h>
#include <stddef.h>

#include "tokenizer.h"

typedef struct token_fixture {
    cenote_budget *budget;
    cenote_pool *pool;
} token_fixture;

/* A pool of at most quota_bytes (0: no quota). */
void token_fixture_init(token_fixture *fixture, uint64_t quota_bytes);
/* Fails the test when a block is left. */
void token_fixture_fini(token_fixture *fixture);

/* Opens tests/data/tokenizer/tokenizer.json. */
qwen_tokenizer *token_fixture_open(token_fixture *fixture);

/* The whole of a file, with a NUL behind it; free() it. */
char *token_file_read(const char *path, size_t *out_bytes);
/* Opens bytes as if they were a file. */
cenote_status token_fixture_open_bytes(token_fixture *fixture, const char *bytes, size_t count,
                                       qwen_tokenizer **out_tokenizer, cenote_error *err);
/* The small tokenizer's file with the first `from` replaced by `to`; free() it. Fails the test
 * when there is none. */
char *token_file_variant(const char *from, const char *to);

/* tests/data/tokenizer/golden.json; json_decref() it. */
json_t *token_golden_load(void);

/* FNV-1a, as make.py has it. */
#define TOKEN_FNV_BEGIN 0xcbf29ce484222325u
uint64_t token_fnv(const void *bytes, size_t count, uint64_t hash);
/* UTF-8 of a code point appended at *out. */
void token_put_char(char **out, uint32_t character);

#endif
