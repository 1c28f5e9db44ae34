/* SPDX-License-Identifier: Apache-2.0 */
/* Bitmaps: bit i is bit i % 64 of word i / 64. Spans are [from, end); the caller sees to it that
 * they lie inside, and that those that are set, cleared or asked for all of it are not empty. */
#ifndef CN_BASE_BITS_H
#define CN_BASE_BITS_H

#include <stdbool.h>
#include <stdint.h>

#define CN_WORD_BITS 64u

static inline uint64_t cn_bits_words(uint64_t bit_count)
{
    return (bit_count + CN_WORD_BITS - 1) / CN_WORD_BITS;
}

static inline bool cn_bits_get(const uint64_t *bits, uint64_t index)
{
    return bits[index / CN_WORD_BITS] >> (index % CN_WORD_BITS) & 1;
}

/* The bits of from's word from there on, cut off where the span ends; *out_next: where to go on. */
static inline uint64_t cn_bits_mask(uint64_t from, uint64_t end, uint64_t *out_next)
{
    uint64_t next = (from / CN_WORD_BITS + 1) * CN_WORD_BITS;
    uint64_t mask = UINT64_MAX << (from % CN_WORD_BITS);
    *out_next = next < end ? next : end;
    return next <= end ? mask : mask & (UINT64_MAX >> (next - end));
}

static inline void cn_bits_flip(uint64_t *bits, uint64_t index)
{
    bits[index / CN_WORD_BITS] ^= UINT64_C(1) << (index % CN_WORD_BITS);
}

/* A span that is not empty, as its first word, its last, and what it has of them. Most have one
 * word or two, and which of it is as good as random: so both are treated alike. */
struct cn_bits_span {
    uint64_t first, last, head, tail;
};

static inline struct cn_bits_span cn_bits_span(uint64_t from, uint64_t end)
{
    struct cn_bits_span span = {from / CN_WORD_BITS, (end - 1) / CN_WORD_BITS,
                                UINT64_MAX << (from % CN_WORD_BITS),
                                UINT64_MAX >> (-end % CN_WORD_BITS)};
    uint64_t both = span.head & span.tail;
    span.head = span.first == span.last ? both : span.head;
    span.tail = span.first == span.last ? both : span.tail;
    return span;
}

static inline void cn_bits_set(uint64_t *bits, uint64_t from, uint64_t end)
{
    struct cn_bits_span span = cn_bits_span(from, end);
    bits[span.first] |= span.head;
    bits[span.last] |= span.tail;
    for (uint64_t w = span.first + 1; w < span.last; w++)
        bits[w] = UINT64_MAX;
}

static inline void cn_bits_clear(uint64_t *bits, uint64_t from, uint64_t end)
{
    struct cn_bits_span span = cn_bits_span(from, end);
    bits[span.first] &= ~span.head;
    bits[span.last] &= ~span.tail;
    for (uint64_t w = span.first + 1; w < span.last; w++)
        bits[w] = 0;
}

/* Are all of them set? */
static inline bool cn_bits_all(const uint64_t *bits, uint64_t from, uint64_t end)
{
    struct cn_bits_span span = cn_bits_span(from, end);
    uint64_t missing = (~bits[span.first] & span.head) | (~bits[span.last] & span.tail);
    for (uint64_t w = span.first + 1; w < span.last; w++)
        missing |= ~bits[w];
    return missing == 0;
}

static inline uint64_t cn_bits_count(const uint64_t *bits, uint64_t from, uint64_t end)
{
    uint64_t sum = 0;
    for (uint64_t i = from, next; i < end; i = next)
        sum += (uint64_t)__builtin_popcountll(bits[i / CN_WORD_BITS] & cn_bits_mask(i, end, &next));
    return sum;
}

/* The lowest bit in the span that is @p value, or end. */
static inline uint64_t cn_bits_find(const uint64_t *bits, bool value, uint64_t from, uint64_t end)
{
    uint64_t flip = value ? 0 : UINT64_MAX;
    for (uint64_t i = from, next; i < end; i = next) {
        uint64_t hits = (bits[i / CN_WORD_BITS] ^ flip) & cn_bits_mask(i, end, &next);
        if (hits != 0)
            return i / CN_WORD_BITS * CN_WORD_BITS + (uint64_t)__builtin_ctzll(hits);
    }
    return end;
}

/* One above the highest bit below @p below that is set; 0 when there is none. */
static inline uint64_t cn_bits_above_last(const uint64_t *bits, uint64_t below)
{
    for (uint64_t end = below; end > 0; end = (end - 1) / CN_WORD_BITS * CN_WORD_BITS) {
        uint64_t hits = bits[(end - 1) / CN_WORD_BITS] << (-end % CN_WORD_BITS);
        if (hits != 0)
            return end - (uint64_t)__builtin_clzll(hits);
    }
    return 0;
}

/* Where runs of @p count (> 0) set bits of @p word begin. A round joins two shorter runs; six are
 * enough for any, and no branch depends on how many it takes. */
static inline uint64_t cn_bits_join(uint64_t word, uint64_t *have, uint64_t count)
{
    uint64_t left = count - *have, more = *have < left ? *have : left;
    *have += more;
    return word & word >> more;
}

static inline uint64_t cn_bits_runs(uint64_t word, uint64_t count)
{
    uint64_t have = 1;
    word = cn_bits_join(word, &have, count);
    word = cn_bits_join(word, &have, count);
    word = cn_bits_join(word, &have, count);
    word = cn_bits_join(word, &have, count);
    word = cn_bits_join(word, &have, count);
    word = cn_bits_join(word, &have, count);
    return count <= CN_WORD_BITS ? word : 0;
}

/* The length of the longest run of set bits: from one run to the next. */
static inline uint32_t cn_bits_longest(uint64_t word)
{
    uint32_t longest = 0;
    while (word != 0) {
        word >>= __builtin_ctzll(word);
        if (word == UINT64_MAX)
            return CN_WORD_BITS;
        uint32_t length = (uint32_t)__builtin_ctzll(~word);
        longest = longest < length ? length : longest;
        word >>= length;
    }
    return longest;
}

#endif
