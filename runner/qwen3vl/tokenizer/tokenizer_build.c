/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of a tokenizer, filled once.
 *
 * Everything was counted before, so one block of the pool holds it all. Both hash tables are open
 * addressing with linear probing at a load of two thirds at most; the keys lie in the arrays they
 * index, a slot is four bytes. (A merge table with its keys in the slots would save a cache miss
 * and cost 2 MiB.) Runs of probes are bounded: honest keys stay far below the bound at this load,
 * and a file made to collide is refused instead of being built in quadratic time. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer_internal.h"
#include "unicode.h"

#define PROBE_COUNT_MAX   4096u
#define NAME_SHOWN_BYTES  60 /* of a token in a message */
#define LENGTH_BYTES      2  /* in front of every token's bytes */
#define BLOCK_ALIGN_BYTES 8u
#define FIRST_MAPPED_CHAR 0x100u
#define MAPPED_CHAR_COUNT 68u

/* ---- the byte alphabet: printable Latin-1 stands for itself, the rest for U+0100 and up ---- */

static bool byte_is_itself(uint32_t byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) ||
           (byte >= 174 && byte <= 255);
}

int qwen_byte_of_char(uint32_t character)
{
    if (character < FIRST_MAPPED_CHAR)
        return byte_is_itself(character) ? (int)character : -1;
    uint32_t index = character - FIRST_MAPPED_CHAR;
    if (index >= MAPPED_CHAR_COUNT)
        return -1;
    /* The others, in order: 0-32, 127-160, 173. */
    if (index <= 32)
        return (int)index;
    index += 127 - 33;
    return index <= 160 ? (int)index : 173;
}

bool qwen_token_name_decode(const unsigned char *name, size_t name_bytes, unsigned char *out,
                            size_t *out_bytes)
{
    size_t count = 0;
    for (size_t at = 0, length; at < name_bytes; at += length) {
        if (qwen_utf8_first(name + at, name_bytes - at, &length) != QWEN_UTF8_WHOLE)
            return false;
        const int byte = qwen_byte_of_char(qwen_utf8_decode((const char *)name + at, &length));
        if (byte < 0)
            return false;
        out[count++] = (unsigned char)byte;
    }
    *out_bytes = count;
    return true;
}

/* ---- hashing ---- */

static uint64_t hash_mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

static uint64_t hash_bytes(const unsigned char *bytes, size_t count)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash_mix(hash);
}

/* A power of two, at least half as many again as @p count. */
static uint64_t slot_count(uint64_t count)
{
    uint64_t slots = 16;
    while (slots < count + count / 2 + 1)
        slots *= 2;
    return slots;
}

/* The slot of a merge, or the free one where it belongs; NULL: too many probes. */
static uint32_t *merge_slot(const qwen_tokenizer *tokenizer, uint64_t pair)
{
    const uint32_t mask = tokenizer->merge_slot_mask;
    uint32_t at = (uint32_t)hash_mix(pair) & mask;
    for (uint32_t probe = 0; probe < PROBE_COUNT_MAX; probe++, at = (at + 1) & mask) {
        uint32_t *slot = &tokenizer->merge_slots[at];
        if (*slot == QWEN_TOKEN_NONE || tokenizer->merge_pairs[*slot] == pair)
            return slot;
    }
    return NULL;
}

uint32_t qwen_merge_find(const qwen_tokenizer *tokenizer, uint32_t left, uint32_t right)
{
    const uint32_t *slot = merge_slot(tokenizer, (uint64_t)left << 32 | right);
    return slot == NULL ? QWEN_TOKEN_NONE : *slot;
}

const unsigned char *qwen_tokenizer_bytes_at(const qwen_tokenizer *tokenizer, uint32_t start,
                                             size_t *out_bytes)
{
    uint16_t length;
    memcpy(&length, tokenizer->token_bytes + start, LENGTH_BYTES);
    *out_bytes = length;
    return tokenizer->token_bytes + start + LENGTH_BYTES;
}

static bool bytes_equal(const qwen_tokenizer *tokenizer, uint32_t start, const unsigned char *bytes,
                        size_t count)
{
    size_t length;
    const unsigned char *there = qwen_tokenizer_bytes_at(tokenizer, start, &length);
    return length == count && memcmp(there, bytes, count) == 0;
}

/* As merge_slot(), for a token's bytes. */
static uint32_t *token_slot(const qwen_tokenizer_builder *builder, const unsigned char *bytes,
                            size_t count)
{
    const uint32_t mask = builder->token_slot_mask;
    uint32_t at = (uint32_t)hash_bytes(bytes, count) & mask;
    for (uint32_t probe = 0; probe < PROBE_COUNT_MAX; probe++, at = (at + 1) & mask) {
        uint32_t *slot = &builder->token_slots[at];
        if (*slot == QWEN_TOKEN_NONE ||
            bytes_equal(builder->tokenizer, builder->tokenizer->starts[*slot], bytes, count))
            return slot;
    }
    return NULL;
}

static uint32_t token_find(const qwen_tokenizer_builder *builder, const unsigned char *bytes,
                           size_t count)
{
    const uint32_t *slot = token_slot(builder, bytes, count);
    return slot == NULL ? QWEN_TOKEN_NONE : *slot;
}

/* ---- messages ---- */

static int shown(size_t bytes)
{
    return bytes < NAME_SHOWN_BYTES ? (int)bytes : NAME_SHOWN_BYTES;
}

static cenote_status token_fault(const qwen_tokenizer_builder *builder, const char *section,
                                 const unsigned char *name, size_t name_bytes, const char *wrong,
                                 cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: %s \"%.*s\": %s", builder->path, section,
                            shown(name_bytes), (const char *)name, wrong);
}

static cenote_status changed(const qwen_tokenizer_builder *builder, cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_CHANGED, "%s: changed while it was read", builder->path);
}

/* ---- allocation ---- */

/* Hands out consecutive parts of a block that does not exist yet: once to add up, once to point. */
static void *take(unsigned char *block, uint64_t *used, uint64_t size_bytes)
{
    void *part = block == NULL ? NULL : block + *used;
    *used += (size_bytes + BLOCK_ALIGN_BYTES - 1) / BLOCK_ALIGN_BYTES * BLOCK_ALIGN_BYTES;
    return part;
}

/* No sum here can wrap: every count is at most 2^28, for the file is. */
static uint64_t lay_out(const qwen_tokenizer_counts *counts, unsigned char *block,
                        qwen_tokenizer *tokenizer)
{
    const uint64_t token_bytes = LENGTH_BYTES + counts->token_bytes + counts->added_bytes +
                                 LENGTH_BYTES * (counts->token_count + counts->added_count);
    uint64_t used = 0;
    (void)take(block, &used, sizeof(*tokenizer));
    tokenizer->merge_pairs = take(block, &used, counts->merge_count * sizeof(uint64_t));
    tokenizer->merge_ids = take(block, &used, counts->merge_count * sizeof(uint32_t));
    tokenizer->merge_slots = take(block, &used, slot_count(counts->merge_count) * sizeof(uint32_t));
    tokenizer->starts = take(block, &used, counts->id_limit * sizeof(uint32_t));
    tokenizer->added = take(block, &used, counts->added_count * sizeof(qwen_added_token));
    tokenizer->token_bytes = take(block, &used, token_bytes);
    return used;
}

cenote_status qwen_builder_init(qwen_tokenizer_builder *builder, cenote_pool *pool,
                                const char *path, const qwen_tokenizer_counts *counts,
                                cenote_error *err)
{
    const uint64_t token_slots = slot_count(counts->token_count);
    qwen_tokenizer tables = {0};
    void *block;
    void *slots;
    cenote_status status = cenote_pool_alloc(pool, lay_out(counts, NULL, &tables), &block, err);
    if (status != CENOTE_OK)
        return status;
    status = cenote_pool_alloc(pool, token_slots * sizeof(uint32_t), &slots, err);
    if (status != CENOTE_OK) {
        cenote_pool_free(pool, block);
        return status;
    }
    (void)lay_out(counts, block, &tables);
    tables.pool = tables.work.pool = tables.text.pool = pool;
    tables.id_limit = (uint32_t)counts->id_limit;
    tables.merge_slot_mask = (uint32_t)slot_count(counts->merge_count) - 1;
    memset(tables.merge_slots, 0xff, ((size_t)tables.merge_slot_mask + 1) * sizeof(uint32_t));
    memset(tables.starts, 0, counts->id_limit * sizeof(uint32_t));
    memset(slots, 0xff, token_slots * sizeof(uint32_t));
    *(qwen_tokenizer *)block = tables;
    *builder = (qwen_tokenizer_builder){
        .path = path,
        .tokenizer = block,
        .room = *counts,
        .token_slots = slots,
        .token_slot_mask = (uint32_t)token_slots - 1,
        .bytes_used = LENGTH_BYTES, /* so that no start is 0 */
    };
    return CENOTE_OK;
}

void qwen_builder_fini(qwen_tokenizer_builder *builder)
{
    if (builder->tokenizer == NULL)
        return;
    cenote_pool *pool = builder->tokenizer->pool;
    cenote_pool_free(pool, builder->token_slots);
    cenote_pool_free(pool, builder->tokenizer);
    builder->tokenizer = NULL;
}

/* ---- filling ---- */

static uint32_t append_bytes(qwen_tokenizer_builder *builder, const unsigned char *bytes,
                             size_t count)
{
    const uint32_t start = builder->bytes_used;
    const uint16_t length = (uint16_t)count;
    memcpy(builder->tokenizer->token_bytes + start, &length, LENGTH_BYTES);
    memcpy(builder->tokenizer->token_bytes + start + LENGTH_BYTES, bytes, count);
    builder->bytes_used += LENGTH_BYTES + (uint32_t)count;
    return start;
}

cenote_status qwen_builder_added(qwen_tokenizer_builder *builder, const unsigned char *text,
                                 size_t text_bytes, uint32_t id, bool special, bool normalized,
                                 cenote_error *err)
{
    qwen_tokenizer *tokenizer = builder->tokenizer;
    builder->used.added_bytes += text_bytes;
    if (tokenizer->added_count == builder->room.added_count || id >= tokenizer->id_limit ||
        builder->used.added_bytes > builder->room.added_bytes)
        return changed(builder, err);
    if (tokenizer->starts[id] != 0)
        return token_fault(builder, "added_tokens", text, text_bytes,
                           "its id is given to another added token", err);
    const uint32_t start = append_bytes(builder, text, text_bytes);
    tokenizer->starts[id] = start;
    tokenizer->added[tokenizer->added_count++] = (qwen_added_token){id, start, special, normalized};
    tokenizer->added_raw_count += normalized ? 0 : 1;
    builder->added_end = builder->bytes_used;
    return CENOTE_OK;
}

/* A token may stand in both places, as trained tokenizers write their special tokens. */
static cenote_status check_id_free(const qwen_tokenizer_builder *builder, const unsigned char *name,
                                   size_t name_bytes, uint32_t id, cenote_error *err)
{
    const uint32_t start = builder->tokenizer->starts[id];
    const bool added = start < builder->added_end;
    if (start == 0 || (added && bytes_equal(builder->tokenizer, start, name, name_bytes)))
        return CENOTE_OK;
    return token_fault(builder, "model.vocab", name, name_bytes, "its id is given to another token",
                       err);
}

cenote_status qwen_builder_token(qwen_tokenizer_builder *builder, const unsigned char *name,
                                 size_t name_bytes, uint32_t id, cenote_error *err)
{
    unsigned char bytes[QWEN_TOKENIZER_TOKEN_BYTES_MAX];
    size_t count;
    if (builder->used.token_count++ == builder->room.token_count ||
        id >= builder->tokenizer->id_limit || name_bytes > sizeof(bytes))
        return changed(builder, err);
    const cenote_status status = check_id_free(builder, name, name_bytes, id, err);
    if (status != CENOTE_OK)
        return status;
    if (!qwen_token_name_decode(name, name_bytes, bytes, &count)) {
        if (builder->tokenizer->starts[id] != 0)
            return CENOTE_OK; /* an added token: text, not bytes in disguise */
        return token_fault(builder, "model.vocab", name, name_bytes,
                           "has a character that stands for no byte", err);
    }
    builder->used.token_bytes += count;
    if (builder->used.token_bytes > builder->room.token_bytes)
        return changed(builder, err);
    uint32_t *slot = token_slot(builder, bytes, count);
    if (slot == NULL)
        return token_fault(builder, "model.vocab", name, name_bytes, "too many hash collisions",
                           err);
    if (*slot != QWEN_TOKEN_NONE)
        return token_fault(builder, "model.vocab", name, name_bytes, "given twice", err);
    builder->tokenizer->starts[id] = append_bytes(builder, bytes, count);
    *slot = id;
    return CENOTE_OK;
}

static cenote_status merge_fault(const qwen_tokenizer_builder *builder, const unsigned char *left,
                                 size_t left_bytes, const unsigned char *right, size_t right_bytes,
                                 const char *wrong, cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: model.merges[%u] \"%.*s\" \"%.*s\": %s",
                            builder->path, builder->tokenizer->merge_count, shown(left_bytes),
                            (const char *)left, shown(right_bytes), (const char *)right, wrong);
}

/* The three ids of a merge. @return NULL, or what is wrong. */
static const char *merge_ids_find(const qwen_tokenizer_builder *builder, const unsigned char *left,
                                  size_t left_bytes, const unsigned char *right, size_t right_bytes,
                                  uint32_t ids[3])
{
    unsigned char bytes[2 * QWEN_TOKENIZER_TOKEN_BYTES_MAX];
    size_t left_count;
    size_t right_count;
    if (!qwen_token_name_decode(left, left_bytes, bytes, &left_count) ||
        !qwen_token_name_decode(right, right_bytes, bytes + left_count, &right_count))
        return "has a character that stands for no byte";
    ids[0] = token_find(builder, bytes, left_count);
    ids[1] = token_find(builder, bytes + left_count, right_count);
    ids[2] = token_find(builder, bytes, left_count + right_count);
    if (ids[0] == QWEN_TOKEN_NONE)
        return "the left token is not in model.vocab";
    if (ids[1] == QWEN_TOKEN_NONE)
        return "the right token is not in model.vocab";
    return ids[2] == QWEN_TOKEN_NONE ? "the merged token is not in model.vocab" : NULL;
}

cenote_status qwen_builder_merge(qwen_tokenizer_builder *builder, const unsigned char *left,
                                 size_t left_bytes, const unsigned char *right, size_t right_bytes,
                                 cenote_error *err)
{
    qwen_tokenizer *tokenizer = builder->tokenizer;
    uint32_t ids[3];
    if (tokenizer->merge_count == builder->room.merge_count ||
        left_bytes > QWEN_TOKENIZER_TOKEN_BYTES_MAX || right_bytes > QWEN_TOKENIZER_TOKEN_BYTES_MAX)
        return changed(builder, err);
    const char *wrong = merge_ids_find(builder, left, left_bytes, right, right_bytes, ids);
    if (wrong != NULL)
        return merge_fault(builder, left, left_bytes, right, right_bytes, wrong, err);
    const uint64_t pair = (uint64_t)ids[0] << 32 | ids[1];
    uint32_t *slot = merge_slot(tokenizer, pair);
    if (slot == NULL || *slot != QWEN_TOKEN_NONE)
        return merge_fault(builder, left, left_bytes, right, right_bytes,
                           slot == NULL ? "too many hash collisions" : "given twice", err);
    *slot = tokenizer->merge_count;
    tokenizer->merge_pairs[tokenizer->merge_count] = pair;
    tokenizer->merge_ids[tokenizer->merge_count++] = ids[2];
    return CENOTE_OK;
}

/* ---- the end ---- */

static int compare_added(const void *a, const void *b, void *context)
{
    const qwen_added_token *left = a;
    const qwen_added_token *right = b;
    size_t left_bytes;
    size_t right_bytes;
    if (left->normalized != right->normalized)
        return left->normalized ? 1 : -1;
    const unsigned char *l = qwen_tokenizer_bytes_at(context, left->start, &left_bytes);
    const unsigned char *r = qwen_tokenizer_bytes_at(context, right->start, &right_bytes);
    const int order = memcmp(l, r, left_bytes < right_bytes ? left_bytes : right_bytes);
    return order != 0 ? order : (left_bytes > right_bytes) - (left_bytes < right_bytes);
}

/* An added token that the vocabulary has too must have the same id there: transformers takes that
 * one and warns. */
static cenote_status check_added(const qwen_tokenizer_builder *builder,
                                 const qwen_added_token *added, cenote_error *err)
{
    unsigned char bytes[QWEN_TOKENIZER_ADDED_BYTES_MAX];
    size_t text_bytes;
    size_t count;
    const unsigned char *text =
        qwen_tokenizer_bytes_at(builder->tokenizer, added->start, &text_bytes);
    if (!qwen_token_name_decode(text, text_bytes, bytes, &count))
        return CENOTE_OK;
    const uint32_t id = token_find(builder, bytes, count);
    if (id == QWEN_TOKEN_NONE || id == added->id)
        return CENOTE_OK;
    return token_fault(builder, "added_tokens", text, text_bytes, "has another id in model.vocab",
                       err);
}

static cenote_status finish_added(const qwen_tokenizer_builder *builder, cenote_error *err)
{
    qwen_tokenizer *tokenizer = builder->tokenizer;
    qsort_r(tokenizer->added, tokenizer->added_count, sizeof(*tokenizer->added), compare_added,
            tokenizer);
    for (uint32_t i = 0; i < tokenizer->added_count; i++) {
        const qwen_added_token *added = &tokenizer->added[i];
        size_t count;
        const unsigned char *text = qwen_tokenizer_bytes_at(tokenizer, added->start, &count);
        if (i > 0 && compare_added(added - 1, added, tokenizer) == 0)
            return token_fault(builder, "added_tokens", text, count, "given twice", err);
        if (added->normalized && qwen_nfc_clean_bytes((const char *)text, count) < count)
            return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                    "%s: added_tokens \"%.*s\": looked for in NFC, not in NFC",
                                    builder->path, shown(count), (const char *)text);
        const cenote_status status = check_added(builder, added, err);
        if (status != CENOTE_OK)
            return status;
        tokenizer->added_first[added->normalized][text[0]] = true;
    }
    return CENOTE_OK;
}

static cenote_status finish_bytes(const qwen_tokenizer_builder *builder, cenote_error *err)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        const unsigned char text = (unsigned char)byte;
        const uint32_t id = token_find(builder, &text, 1);
        if (id == QWEN_TOKEN_NONE)
            return cenote_error_set(err, CENOTE_E_CORRUPT,
                                    "%s: model.vocab: no token for the byte 0x%02x", builder->path,
                                    byte);
        builder->tokenizer->byte_ids[byte] = id;
    }
    return CENOTE_OK;
}

cenote_status qwen_builder_finish(qwen_tokenizer_builder *builder, qwen_tokenizer **out_tokenizer,
                                  cenote_error *err)
{
    qwen_tokenizer *tokenizer = builder->tokenizer;
    if (builder->used.token_count != builder->room.token_count ||
        tokenizer->added_count != builder->room.added_count ||
        tokenizer->merge_count != builder->room.merge_count)
        return changed(builder, err);
    cenote_status status = finish_bytes(builder, err);
    if (status == CENOTE_OK)
        status = finish_added(builder, err);
    if (status != CENOTE_OK)
        return status;
    cenote_pool_free(tokenizer->pool, builder->token_slots);
    builder->tokenizer = NULL;
    *out_tokenizer = tokenizer;
    return CENOTE_OK;
}
