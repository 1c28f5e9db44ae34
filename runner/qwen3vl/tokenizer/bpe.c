/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair encoding of one pre-token: merge the neighbouring pair of lowest rank, leftmost first,
 * until no pair has a rank.
 *
 * The symbols are a doubly linked list over the text's bytes; a binary heap holds (rank, place) of
 * pairs that can be merged:
 *
 *   ids    [h][e][l][l][o]        heap: (rank of "ll", 2), (rank of "he", 0)
 *   after "ll":  [h][e][ll][-][o]  pairs (e,ll) at 1 and (ll,o) at 2 join the heap if ranked
 *
 * A heap entry is not removed when one of its symbols is merged away; it is recognised when it
 * surfaces, because the pair at its place is then no longer the pair of its rank. Each merge adds
 * two entries at most, so n bytes need 2n entries and O(n log n) time: a megabyte without a space
 * is no trap, as scanning for the minimum would make it. */
#include <assert.h>

#include "tokenizer_internal.h"

typedef struct bpe_word {
    const qwen_tokenizer *tokenizer;
    uint64_t *heap; /* rank << 32 | place: the smallest is the lowest rank, then the leftmost */
    uint32_t heap_count;
    uint32_t count;
    uint32_t *ids;   /* QWEN_TOKEN_NONE: merged into the one before */
    uint32_t *left;  /* QWEN_TOKEN_NONE: none */
    uint32_t *right; /* count: none */
} bpe_word;

#define BYTES_PER_SYMBOL (2 * sizeof(uint64_t) + 3 * sizeof(uint32_t))

static void heap_push(bpe_word *word, uint64_t entry)
{
    uint32_t at = word->heap_count++;
    assert(at < 2 * word->count);
    while (at > 0) {
        const uint32_t parent = (at - 1) / 2;
        if (word->heap[parent] <= entry)
            break;
        word->heap[at] = word->heap[parent];
        at = parent;
    }
    word->heap[at] = entry;
}

static uint64_t heap_pop(bpe_word *word)
{
    const uint64_t top = word->heap[0];
    const uint64_t entry = word->heap[--word->heap_count];
    uint64_t at = 0;
    for (;;) {
        uint64_t child = 2 * at + 1;
        if (child >= word->heap_count)
            break;
        if (child + 1 < word->heap_count && word->heap[child + 1] < word->heap[child])
            child++;
        if (entry <= word->heap[child])
            break;
        word->heap[at] = word->heap[child];
        at = child;
    }
    word->heap[at] = entry;
    return top;
}

/* Offers the pair that starts at `at`. */
static void push_pair(bpe_word *word, uint32_t at)
{
    const uint32_t right = word->right[at];
    if (right == word->count)
        return;
    const uint32_t rank = qwen_merge_find(word->tokenizer, word->ids[at], word->ids[right]);
    if (rank != QWEN_TOKEN_NONE)
        heap_push(word, (uint64_t)rank << 32 | at);
}

static bool is_pair(const bpe_word *word, uint32_t at, uint32_t rank)
{
    const uint32_t right = word->right[at];
    if (word->ids[at] == QWEN_TOKEN_NONE || right == word->count)
        return false;
    return word->tokenizer->merge_pairs[rank] == ((uint64_t)word->ids[at] << 32 | word->ids[right]);
}

static void merge_at(bpe_word *word, uint32_t at, uint32_t rank)
{
    const uint32_t gone = word->right[at];
    const uint32_t next = word->right[gone];
    word->ids[at] = word->tokenizer->merge_ids[rank];
    word->ids[gone] = QWEN_TOKEN_NONE;
    word->right[at] = next;
    if (next < word->count)
        word->left[next] = at;
    if (word->left[at] != QWEN_TOKEN_NONE)
        push_pair(word, word->left[at]);
    push_pair(word, at);
}

static void word_init(bpe_word *word, qwen_tokenizer *tokenizer, const char *text, uint32_t count)
{
    word->tokenizer = tokenizer;
    word->heap = tokenizer->work.data;
    word->heap_count = 0;
    word->count = count;
    word->ids = (uint32_t *)(word->heap + 2 * (size_t)count);
    word->left = word->ids + count;
    word->right = word->left + count;
    for (uint32_t i = 0; i < count; i++) {
        word->ids[i] = tokenizer->byte_ids[(unsigned char)text[i]];
        word->left[i] = i - 1; /* QWEN_TOKEN_NONE for the first */
        word->right[i] = i + 1;
    }
}

cenote_status qwen_bpe_encode(qwen_tokenizer *tokenizer, const char *text, size_t text_bytes,
                              qwen_ids *out_ids, cenote_error *err)
{
    bpe_word word;
    cenote_status status =
        qwen_scratch_reserve(&tokenizer->work, text_bytes * BYTES_PER_SYMBOL, 0, err);
    if (status != CENOTE_OK)
        return status;
    word_init(&word, tokenizer, text, (uint32_t)text_bytes);
    for (uint32_t i = 0; i + 1 < word.count; i++)
        push_pair(&word, i);
    while (word.heap_count > 0) {
        const uint64_t entry = heap_pop(&word);
        const uint32_t at = (uint32_t)entry;
        const uint32_t rank = (uint32_t)(entry >> 32);
        if (is_pair(&word, at, rank))
            merge_at(&word, at, rank);
    }
    for (uint32_t i = 0; status == CENOTE_OK && i < word.count; i = word.right[i])
        status = qwen_ids_push(out_ids, word.ids[i], err);
    return status;
}
