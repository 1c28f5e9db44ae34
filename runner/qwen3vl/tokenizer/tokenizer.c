/* SPDX-License-Identifier: Apache-2.0 */
/* Text to ids, as transformers does it:
 *
 *   text ─ cut at added tokens ─► NFC ─ cut at normalized added tokens ─► pre-tokens ─► byte pairs
 *
 * Added tokens are matched leftmost, longest first. They lie sorted by their text, so that those
 * which agree with the text so far are always a range: reading one more byte narrows it by two
 * bisections. That is a trie without nodes; the released tokenizer has 26 of them. */
#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "pretokenize.h"
#include "tokenizer_internal.h"
#include "unicode.h"

#define IDS_CAPACITY_MIN 64u
#define TEXT_BYTES_MAX   (1u << 30)

/* ---- scratch ---- */

cenote_status qwen_scratch_reserve(qwen_scratch *scratch, uint64_t size_bytes, uint64_t keep_bytes,
                                   cenote_error *err)
{
    void *data;
    if (size_bytes <= scratch->capacity_bytes)
        return CENOTE_OK;
    /* Doubling, so that a text that grows by the character is not copied each time. */
    uint64_t wanted =
        size_bytes < 2 * scratch->capacity_bytes ? 2 * scratch->capacity_bytes : size_bytes;
    wanted = (wanted + CENOTE_GRANULE_BYTES - 1) / CENOTE_GRANULE_BYTES * CENOTE_GRANULE_BYTES;
    if (keep_bytes == 0)
        qwen_scratch_shrink(scratch, 0);
    const cenote_status status = cenote_pool_alloc(scratch->pool, wanted, &data, err);
    if (status != CENOTE_OK)
        return status;
    if (keep_bytes > 0)
        memcpy(data, scratch->data, keep_bytes);
    cenote_pool_free(scratch->pool, scratch->data);
    scratch->data = data;
    scratch->capacity_bytes = wanted;
    return CENOTE_OK;
}

void qwen_scratch_shrink(qwen_scratch *scratch, uint64_t keep_bytes_max)
{
    if (scratch->capacity_bytes <= keep_bytes_max)
        return;
    cenote_pool_free(scratch->pool, scratch->data);
    scratch->data = NULL;
    scratch->capacity_bytes = 0;
}

/* ---- ids ---- */

void qwen_ids_fini(qwen_ids *ids)
{
    free(ids->ids);
    ids->ids = NULL;
    ids->count = 0;
    ids->capacity = 0;
}

cenote_status qwen_ids_push(qwen_ids *ids, uint32_t id, cenote_error *err)
{
    if (ids->count == ids->count_max)
        return cenote_error_set(err, CENOTE_E_INVAL, "the text has more than %llu tokens",
                                (unsigned long long)ids->count_max);
    if (ids->count == ids->capacity) {
        const uint64_t capacity =
            ids->capacity < IDS_CAPACITY_MIN ? IDS_CAPACITY_MIN : 2 * ids->capacity;
        uint32_t *grown = reallocarray(ids->ids, capacity, sizeof(*grown));
        if (grown == NULL)
            return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for %llu token ids",
                                    (unsigned long long)capacity);
        ids->ids = grown;
        ids->capacity = capacity;
    }
    ids->ids[ids->count++] = id;
    return CENOTE_OK;
}

/* ---- lifetime ---- */

cenote_status qwen_tokenizer_open(cenote_pool *pool, const char *path,
                                  qwen_tokenizer **out_tokenizer, cenote_error *err)
{
    qwen_tokenizer *tokenizer;
    cenote_status status = qwen_tokenizer_parse(pool, path, &tokenizer, err);
    if (status != CENOTE_OK)
        return status;
    /* As much as a message of some lines takes, from the start: a plan made before one knows it. */
    status = qwen_scratch_reserve(&tokenizer->work, CENOTE_GRANULE_BYTES, 0, err);
    if (status == CENOTE_OK)
        status = qwen_scratch_reserve(&tokenizer->text, CENOTE_GRANULE_BYTES, 0, err);
    if (status != CENOTE_OK) {
        qwen_tokenizer_close(tokenizer);
        return status;
    }
    *out_tokenizer = tokenizer;
    return CENOTE_OK;
}

void qwen_tokenizer_close(qwen_tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    qwen_scratch_shrink(&tokenizer->work, 0);
    qwen_scratch_shrink(&tokenizer->text, 0);
    cenote_pool_free(tokenizer->pool, tokenizer);
}

/* ---- added tokens ---- */

typedef struct added_range {
    uint32_t begin;
    uint32_t end;
} added_range;

static added_range added_group(const qwen_tokenizer *tokenizer, bool normalized)
{
    const uint32_t raw = tokenizer->added_raw_count;
    return normalized ? (added_range){raw, tokenizer->added_count} : (added_range){0, raw};
}

/* The first in the range whose byte at `depth` is `byte` or more. All agree before that byte; one
 * that ends there comes before all others. */
static uint32_t lower_bound(const qwen_tokenizer *tokenizer, added_range range, size_t depth,
                            unsigned byte)
{
    while (range.begin < range.end) {
        const uint32_t middle = range.begin + (range.end - range.begin) / 2;
        size_t count;
        const unsigned char *text =
            qwen_tokenizer_bytes_at(tokenizer, tokenizer->added[middle].start, &count);
        if (count <= depth || text[depth] < byte)
            range.begin = middle + 1;
        else
            range.end = middle;
    }
    return range.begin;
}

/* The longest added token at the start of text; NULL: none. */
static const qwen_added_token *longest_added(const qwen_tokenizer *tokenizer, bool normalized,
                                             const char *text, size_t text_bytes, size_t *out_bytes)
{
    const qwen_added_token *found = NULL;
    added_range range = added_group(tokenizer, normalized);
    for (size_t depth = 0; depth < text_bytes && range.begin < range.end; depth++) {
        const unsigned byte = (unsigned char)text[depth];
        range.begin = lower_bound(tokenizer, range, depth, byte);
        range.end = lower_bound(tokenizer, range, depth, byte + 1);
        if (range.begin == range.end)
            break;
        size_t count;
        (void)qwen_tokenizer_bytes_at(tokenizer, tokenizer->added[range.begin].start, &count);
        if (count == depth + 1) {
            found = &tokenizer->added[range.begin];
            *out_bytes = count;
        }
    }
    return found;
}

/* The first added token in text; *out_begin is where, or text_bytes. */
static const qwen_added_token *next_added(const qwen_tokenizer *tokenizer, bool normalized,
                                          const char *text, size_t text_bytes, size_t *out_begin,
                                          size_t *out_bytes)
{
    const bool *first = tokenizer->added_first[normalized];
    for (size_t at = 0; at < text_bytes; at++) {
        if (!first[(unsigned char)text[at]])
            continue;
        const qwen_added_token *found =
            longest_added(tokenizer, normalized, text + at, text_bytes - at, out_bytes);
        if (found != NULL) {
            *out_begin = at;
            return found;
        }
    }
    *out_begin = text_bytes;
    return NULL;
}

uint32_t qwen_tokenizer_special(const qwen_tokenizer *tokenizer, const char *text)
{
    const size_t text_bytes = strlen(text);
    for (int normalized = 0; normalized < 2; normalized++) {
        size_t count;
        const qwen_added_token *found =
            longest_added(tokenizer, normalized, text, text_bytes, &count);
        if (found != NULL && count == text_bytes)
            return found->id;
    }
    return QWEN_TOKEN_NONE;
}

/* ---- ids to bytes ---- */

uint32_t qwen_tokenizer_id_limit(const qwen_tokenizer *tokenizer)
{
    return tokenizer->id_limit;
}

static const qwen_added_token *added_of(const qwen_tokenizer *tokenizer, uint32_t id)
{
    for (uint32_t i = 0; i < tokenizer->added_count; i++)
        if (tokenizer->added[i].id == id)
            return &tokenizer->added[i];
    return NULL;
}

bool qwen_tokenizer_is_added(const qwen_tokenizer *tokenizer, uint32_t id)
{
    return added_of(tokenizer, id) != NULL;
}

size_t qwen_tokenizer_token_bytes(const qwen_tokenizer *tokenizer, uint32_t id,
                                  const unsigned char **out_bytes, bool *out_special)
{
    size_t count;
    if (id >= tokenizer->id_limit || tokenizer->starts[id] == 0)
        return 0;
    *out_bytes = qwen_tokenizer_bytes_at(tokenizer, tokenizer->starts[id], &count);
    const qwen_added_token *added = added_of(tokenizer, id);
    *out_special = added != NULL && added->special;
    return count;
}

/* ---- encoding ---- */

/* Text that holds no added token, in NFC. */
static cenote_status encode_plain(qwen_tokenizer *tokenizer, const char *text, size_t text_bytes,
                                  qwen_ids *out_ids, cenote_error *err)
{
    cenote_status status = CENOTE_OK;
    for (size_t at = 0; status == CENOTE_OK && at < text_bytes;) {
        const size_t count = qwen_pretoken_bytes(text + at, text_bytes - at);
        status = qwen_bpe_encode(tokenizer, text + at, count, out_ids, err);
        at += count;
    }
    return status;
}

typedef cenote_status encode_function(qwen_tokenizer *tokenizer, const char *text,
                                      size_t text_bytes, qwen_ids *out_ids, cenote_error *err);

/* Cuts at added tokens of one kind; `encode` gets what lies between. */
static cenote_status encode_between(qwen_tokenizer *tokenizer, bool normalized, const char *text,
                                    size_t text_bytes, encode_function *encode, qwen_ids *out_ids,
                                    cenote_error *err)
{
    cenote_status status = CENOTE_OK;
    while (status == CENOTE_OK && text_bytes > 0) {
        size_t begin;
        size_t count = 0;
        const qwen_added_token *found =
            next_added(tokenizer, normalized, text, text_bytes, &begin, &count);
        if (begin > 0)
            status = encode(tokenizer, text, begin, out_ids, err);
        if (status == CENOTE_OK && found != NULL)
            status = qwen_ids_push(out_ids, found->id, err);
        text += begin + count;
        text_bytes -= begin + count;
    }
    return status;
}

static cenote_status normalize(qwen_tokenizer *tokenizer, const char **text, size_t *text_bytes,
                               cenote_error *err)
{
    if (qwen_nfc_clean_bytes(*text, *text_bytes) == *text_bytes)
        return CENOTE_OK;
    const cenote_status status =
        qwen_nfc(*text, *text_bytes, &tokenizer->work, &tokenizer->text, text_bytes, err);
    if (status == CENOTE_OK)
        *text = tokenizer->text.data;
    return status;
}

static cenote_status encode_literal(qwen_tokenizer *tokenizer, const char *text, size_t text_bytes,
                                    qwen_ids *out_ids, cenote_error *err)
{
    const cenote_status status = normalize(tokenizer, &text, &text_bytes, err);
    return status == CENOTE_OK ? encode_plain(tokenizer, text, text_bytes, out_ids, err) : status;
}

static cenote_status encode_segment(qwen_tokenizer *tokenizer, const char *text, size_t text_bytes,
                                    qwen_ids *out_ids, cenote_error *err)
{
    const cenote_status status = normalize(tokenizer, &text, &text_bytes, err);
    return status == CENOTE_OK
               ? encode_between(tokenizer, true, text, text_bytes, encode_plain, out_ids, err)
               : status;
}

cenote_status qwen_tokenizer_encode(qwen_tokenizer *tokenizer, const char *text, size_t text_bytes,
                                    bool parse_special, qwen_ids *out_ids, cenote_error *err)
{
    const uint64_t count_before = out_ids->count;
    if (text_bytes > TEXT_BYTES_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "a text of %zu bytes, the limit is %u",
                                text_bytes, TEXT_BYTES_MAX);
    const size_t valid = qwen_utf8_valid_bytes(text, text_bytes);
    if (valid < text_bytes)
        return cenote_error_set(err, CENOTE_E_INVAL, "the text is not UTF-8 at byte %zu", valid);
    const cenote_status status =
        parse_special
            ? encode_between(tokenizer, false, text, text_bytes, encode_segment, out_ids, err)
            : encode_literal(tokenizer, text, text_bytes, out_ids, err);
    qwen_scratch_shrink(&tokenizer->work, CENOTE_GRANULE_BYTES);
    qwen_scratch_shrink(&tokenizer->text, CENOTE_GRANULE_BYTES);
    if (status != CENOTE_OK)
        out_ids->count = count_before;
    return status;
}
