/* SPDX-License-Identifier: Apache-2.0 */
/* Bitmaps: bit i is bit i % 64 of word i / 64. Spans are [from, end); the caller sees to it that
 * they lie inside. */
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

static inline void cn_bits_set(uint64_t *bits, uint64_t from, uint64_t end)
{
    for (uint64_t i = from, next; i < end; i = next)
        bits[i / CN_WORD_BITS] |= cn_bits_mask(i, end, &next);
}

static inline void cn_bits_clear(uint64_t *bits, uint64_t from, uint64_t end)
{
    for (uint64_t i = from, next; i < end; i = next)
        bits[i / CN_WORD_BITS] &= ~cn_bits_mask(i, end, &next);
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

/* Where runs of @p count (> 0) set bits of @p word begin: each round joins two shorter runs. */
static inline uint64_t cn_bits_runs(uint64_t word, uint64_t count)
{
    if (count > CN_WORD_BITS)
        return 0;
    for (uint64_t have = 1; have < count && word != 0;) {
        uint64_t more = have < count - have ? have : count - have;
        word &= word >> more;
        have += more;
    }
    return word;
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
