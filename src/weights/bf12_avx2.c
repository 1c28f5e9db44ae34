/* SPDX-License-Identifier: Apache-2.0 */
/* Groups with AVX2. Packing words to bytes and interleaving bytes both work inside halves of a
 * register, which is where the order of a group's low bytes comes from: neither way needs a
 * permutation across. */
#include "weights/bf12_codec.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const unsigned char *from)
{
    return _mm256_loadu_si256((const void *)from);
}

INLINE void store(unsigned char *to, __m256i value)
{
    _mm256_storeu_si256((void *)to, value);
}

/* Codes of 32 high bytes. */
INLINE __m256i codes_of(const cn_bf12_code *code, __m256i high)
{
    __m256i pair = _mm256_and_si256(high, _mm256_set1_epi8(0x7f));
    /* 7 for all that lie outside of the window */
    __m256i step = _mm256_sub_epi8(pair, _mm256_set1_epi8((char)code->base));
    step = _mm256_min_epu8(step, _mm256_set1_epi8(CN_BF12_PAIRS));
    __m256i outside = _mm256_cmpeq_epi8(step, _mm256_set1_epi8(CN_BF12_PAIRS));
    __m256i sign = _mm256_and_si256(_mm256_srli_epi16(high, 4), _mm256_set1_epi8(8));
    __m256i codes = _mm256_or_si256(_mm256_or_si256(step, sign),
                                    _mm256_and_si256(outside, _mm256_set1_epi8(15)));
    __m256i extra = _mm256_cmpeq_epi8(high, _mm256_set1_epi8((char)code->extra));
    return _mm256_blendv_epi8(codes, _mm256_set1_epi8(CN_BF12_EXTRA), extra);
}

/* The bits of a mask of bytes, in the order of elements: the two middle bytes change places. */
INLINE uint32_t in_order(uint32_t mask)
{
    return (mask & 0xff0000ffu) | (mask & 0xff00u) << 8 | (mask >> 8 & 0xff00u);
}

/* Half a group: stores its low bytes, lists its escapes, gives its codes. */
INLINE __m256i encode_half(const cn_bf12_code *code, const unsigned char *from, uint64_t column,
                           unsigned char *out, cn_bf12_escapes *escapes)
{
    __m256i first = load(from), second = load(from + 32);
    __m256i byte = _mm256_set1_epi16(0xff);
    store(out, _mm256_packus_epi16(_mm256_and_si256(first, byte), _mm256_and_si256(second, byte)));
    __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(first, 8), _mm256_srli_epi16(second, 8));
    __m256i codes = codes_of(code, high);
    __m256i escaped = _mm256_cmpeq_epi8(codes, _mm256_set1_epi8(CENOTE_BF12_ESCAPE));
    uint32_t mask = (uint32_t)_mm256_movemask_epi8(escaped);
    if (__builtin_expect(mask != 0, 0))
        for (mask = in_order(mask); mask != 0; mask &= mask - 1) {
            unsigned e = (unsigned)__builtin_ctz(mask);
            cn_bf12_escape_add(escapes, column + e, from[2 * e + 1]);
        }
    return codes;
}

static void encode(const cn_bf12_code *code, const unsigned char *from, uint64_t groups,
                   uint64_t column, unsigned char *out, cn_bf12_escapes *escapes)
{
    for (; groups > 0; groups--) {
        __m256i low = encode_half(code, from, column, out, escapes);
        __m256i high = encode_half(code, from + 64, column + 32, out + 32, escapes);
        store(out + CENOTE_BF12_CODES_BYTE, _mm256_or_si256(low, _mm256_slli_epi16(high, 4)));
        from += CENOTE_BF12_GROUP * 2;
        out += CENOTE_BF12_GROUP_BYTES;
        column += CENOTE_BF12_GROUP;
    }
}

INLINE void decode_half(__m256i table, __m256i codes, const unsigned char *low, unsigned char *out)
{
    __m256i bytes = load(low);
    __m256i high = _mm256_shuffle_epi8(table, codes);
    store(out, _mm256_unpacklo_epi8(bytes, high));
    store(out + 32, _mm256_unpackhi_epi8(bytes, high));
}

static void decode(const unsigned char *table, const unsigned char *from, uint64_t groups,
                   unsigned char *out)
{
    __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
    __m256i nibble = _mm256_set1_epi8(15);
    for (; groups > 0; groups--) {
        __m256i codes = load(from + CENOTE_BF12_CODES_BYTE);
        __m256i low = _mm256_and_si256(codes, nibble);
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble);
        decode_half(both, low, from, out);
        decode_half(both, high, from + 32, out + 64);
        from += CENOTE_BF12_GROUP_BYTES;
        out += CENOTE_BF12_GROUP * 2;
    }
}

const cn_bf12_ops cn_bf12_avx2 = {encode, decode};
#endif
