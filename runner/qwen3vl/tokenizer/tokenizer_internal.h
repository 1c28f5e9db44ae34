/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the tokenizer share: its tables, how they are built, scratch memory. */
#ifndef QWEN_TOKENIZER_INTERNAL_H
#define QWEN_TOKENIZER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenizer.h"

/* Caps on what a file may ask for. The released one: 151,669 ids, 151,387 merges, tokens of 128
 * bytes at most, 26 added tokens of 21 bytes at most, 11 MB. */
#define QWEN_TOKENIZER_FILE_BYTES_MAX  (256u << 20)
#define QWEN_TOKENIZER_ID_MAX          (1u << 24)
#define QWEN_TOKENIZER_ID_SLACK        4096u /* ids without a token beside as many with one */
#define QWEN_TOKENIZER_TOKEN_BYTES_MAX 4096u
#define QWEN_TOKENIZER_ADDED_BYTES_MAX 512u
#define QWEN_TOKENIZER_ADDED_MAX       65536u

/* Memory of a pool that grows when asked and is given back when large. */
typedef struct qwen_scratch {
    cenote_pool *pool;
    void *data;
    uint64_t capacity_bytes;
} qwen_scratch;

/* Makes room for size_bytes; the first keep_bytes stay. Errors: those of cenote_pool_alloc(). */
CENOTE_MUST_CHECK cenote_status qwen_scratch_reserve(qwen_scratch *scratch, uint64_t size_bytes,
                                                     uint64_t keep_bytes, cenote_error *err);
/* Frees what is over keep_bytes_max. */
void qwen_scratch_shrink(qwen_scratch *scratch, uint64_t keep_bytes_max);

typedef struct qwen_added_token {
    uint32_t id;
    uint32_t start; /* of its text in token_bytes */
    bool special;
    bool normalized; /* looked for after NFC, not before */
} qwen_added_token;

/* Read-only once built. One block of the pool holds this and all arrays.
 *
 *   starts[id] ──► token_bytes: | length (2 bytes) | bytes | length | bytes | ...
 *   merge_slots (open addressing) ──► rank ──► merge_pairs[rank], merge_ids[rank]
 *   added: sorted by (normalized, text), which makes each half a trie to bisect */
struct qwen_tokenizer {
    cenote_pool *pool;
    uint32_t id_limit;
    uint32_t merge_count;
    uint32_t merge_slot_mask;
    uint32_t added_count;
    uint32_t added_raw_count; /* those before the first normalized one */
    uint32_t *starts;         /* 0: no token */
    unsigned char *token_bytes;
    uint64_t *merge_pairs; /* left id << 32 | right id */
    uint32_t *merge_ids;
    uint32_t *merge_slots; /* rank, or QWEN_TOKEN_NONE */
    qwen_added_token *added;
    uint32_t byte_ids[256];
    bool added_first[2][256]; /* [normalized]: bytes that added tokens begin with */
    qwen_scratch work;        /* byte pairs, normalisation; the file's bytes while parsing */
    qwen_scratch text;        /* normalised text */
};

/* The text at a start. */
const unsigned char *qwen_tokenizer_bytes_at(const qwen_tokenizer *tokenizer, uint32_t start,
                                             size_t *out_bytes);

/* The rank of a merge, or QWEN_TOKEN_NONE. */
uint32_t qwen_merge_find(const qwen_tokenizer *tokenizer, uint32_t left, uint32_t right);

/* Appends the ids of one pre-token. */
CENOTE_MUST_CHECK cenote_status qwen_bpe_encode(qwen_tokenizer *tokenizer, const char *text,
                                                size_t text_bytes, qwen_ids *out_ids,
                                                cenote_error *err);

/* ---- building ---- */

/* What a file holds, counted before anything is allocated. */
typedef struct qwen_tokenizer_counts {
    uint64_t id_limit;
    uint64_t token_count;
    uint64_t token_bytes;
    uint64_t added_count;
    uint64_t added_bytes;
    uint64_t merge_count;
} qwen_tokenizer_counts;

typedef struct qwen_tokenizer_builder {
    const char *path; /* for messages */
    qwen_tokenizer *tokenizer;
    qwen_tokenizer_counts room; /* what was counted */
    qwen_tokenizer_counts used; /* what was added */
    uint32_t *token_slots;      /* bytes -> id; needed for merges only, so freed after them */
    uint32_t token_slot_mask;
    uint32_t bytes_used;
    uint32_t added_end; /* starts below are of added tokens */
} qwen_tokenizer_builder;

/* The byte that a character of GPT-2's alphabet stands for: -1 for other characters. */
int qwen_byte_of_char(uint32_t character);
/* Decodes a token's name to its bytes. @return false when a character is outside the alphabet. */
bool qwen_token_name_decode(const unsigned char *name, size_t name_bytes, unsigned char *out,
                            size_t *out_bytes);

/* Allocates the tables. Errors: those of the pool. */
CENOTE_MUST_CHECK cenote_status qwen_builder_init(qwen_tokenizer_builder *builder,
                                                  cenote_pool *pool, const char *path,
                                                  const qwen_tokenizer_counts *counts,
                                                  cenote_error *err);
/* In this order: all added tokens, all tokens, all merges. Errors: CENOTE_E_CORRUPT,
 * CENOTE_E_CHANGED (more than was counted). @p name: as it stands in the file. */
CENOTE_MUST_CHECK cenote_status qwen_builder_added(qwen_tokenizer_builder *builder,
                                                   const unsigned char *text, size_t text_bytes,
                                                   uint32_t id, bool special, bool normalized,
                                                   cenote_error *err);
CENOTE_MUST_CHECK cenote_status qwen_builder_token(qwen_tokenizer_builder *builder,
                                                   const unsigned char *name, size_t name_bytes,
                                                   uint32_t id, cenote_error *err);
CENOTE_MUST_CHECK cenote_status qwen_builder_merge(qwen_tokenizer_builder *builder,
                                                   const unsigned char *left, size_t left_bytes,
                                                   const unsigned char *right, size_t right_bytes,
                                                   cenote_error *err);
/* Checks what can only be checked at the end, and gives the tokenizer. */
CENOTE_MUST_CHECK cenote_status qwen_builder_finish(qwen_tokenizer_builder *builder,
                                                    qwen_tokenizer **out_tokenizer,
                                                    cenote_error *err);
/* Drops what was not handed out. */
void qwen_builder_fini(qwen_tokenizer_builder *builder);

/* ---- reading ---- */

/* Reads tokenizer.json. Errors: as qwen_tokenizer_open(). */
CENOTE_MUST_CHECK cenote_status qwen_tokenizer_parse(cenote_pool *pool, const char *path,
                                                     qwen_tokenizer **out_tokenizer,
                                                     cenote_error *err);

/* A JSON file that is read in pieces, as often as needed. */
typedef struct qwen_json_file {
    const char *path;
    int fd;
    uint64_t size_bytes;
    unsigned char *buffer; /* caller's, CENOTE_GRANULE_BYTES */
} qwen_json_file;

/* Errors: CENOTE_E_NOTFOUND, CENOTE_E_IO, CENOTE_E_CORRUPT (no regular file, or over
 * @p size_bytes_max). */
CENOTE_MUST_CHECK cenote_status qwen_json_open(const char *path, uint64_t size_bytes_max,
                                               unsigned char *buffer, qwen_json_file *out_file,
                                               cenote_error *err);
void qwen_json_close(qwen_json_file *file);
/* One pass. @p callbacks is a yajl_callbacks; when one of them returns 0 the pass ends with
 * @p *status, which the callback has set together with err.
 * Errors: CENOTE_E_CORRUPT (not JSON, an over-long string, a lone surrogate), CENOTE_E_IO,
 * CENOTE_E_CHANGED (it ends before its size). */
CENOTE_MUST_CHECK cenote_status qwen_json_pass(const qwen_json_file *file, const void *callbacks,
                                               void *context, const cenote_status *status,
                                               cenote_error *err);

#endif
