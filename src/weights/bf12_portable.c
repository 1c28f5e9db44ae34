/* SPDX-License-Identifier: Apache-2.0 */
/* Groups in plain C: the definition that the others must equal to the byte. */
#include <string.h>

#include "weights/bf12_codec.h"

/* Where the low byte of a group's element lies. */
static unsigned place_of(unsigned element)
{
    return (element & 32) | cenote_bf12_element(element & 31);
}

static void encode(const cn_bf12_code *code, const unsigned char *from, uint64_t groups,
                   uint64_t column, unsigned char *out, cn_bf12_escapes *escapes)
{
    for (; groups > 0; groups--) {
        unsigned char *codes = out + CENOTE_BF12_CODES_BYTE;
        memset(codes, 0, CENOTE_BF12_GROUP / 2);
        for (unsigned e = 0; e < CENOTE_BF12_GROUP; e++) {
            unsigned place = place_of(e);
            uint8_t high = from[2 * e + 1];
            uint8_t nibble = code->of_high[high];
            out[place] = from[2 * e];
            codes[place % 32] = (uint8_t)(codes[place % 32] | nibble << (place / 32 * 4));
            if (nibble == CENOTE_BF12_ESCAPE)
                cn_bf12_escape_add(escapes, column + e, high);
        }
        from += CENOTE_BF12_GROUP * 2;
        out += CENOTE_BF12_GROUP_BYTES;
        column += CENOTE_BF12_GROUP;
    }
}

static void decode(const unsigned char *table, const unsigned char *from, uint64_t groups,
                   unsigned char *out)
{
    for (; groups > 0; groups--) {
        const unsigned char *codes = from + CENOTE_BF12_CODES_BYTE;
        for (unsigned e = 0; e < CENOTE_BF12_GROUP; e++) {
            unsigned place = place_of(e);
            out[2 * e] = from[place];
            out[2 * e + 1] = table[codes[place % 32] >> (place / 32 * 4) & 15];
        }
        from += CENOTE_BF12_GROUP_BYTES;
        out += CENOTE_BF12_GROUP * 2;
    }
}

const cn_bf12_ops cn_bf12_portable = {encode, decode};
