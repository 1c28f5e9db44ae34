/* SPDX-License-Identifier: Apache-2.0 */
/* What bf12.c asks of an instruction set: whole groups of one row, there and back. The AVX2 form
 * must give the portable one's bytes. */
#ifndef CN_WEIGHTS_BF12_CODEC_H
#define CN_WEIGHTS_BF12_CODEC_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/bf12.h>

/* Exponents in pairs (the low bit of each stays in the low byte) that the table covers for both
 * signs: codes 0..6 and 8..14. */
#define CN_BF12_PAIRS 7u
/* The code of one more high byte, whichever is the most common besides. */
#define CN_BF12_EXTRA 7u

/* How a panel's high bytes become codes. */
typedef struct cn_bf12_code {
    uint8_t base;         /* the lowest pair of the window, 0..121 */
    uint8_t extra;        /* the high byte of code 7 */
    uint8_t of_high[256]; /* CENOTE_BF12_ESCAPE for those without a code */
} cn_bf12_code;

/* The list of escapes as it grows. */
typedef struct cn_bf12_escapes {
    unsigned char *data;
    uint32_t count, limit; /* when full, further ones are counted and not stored */
} cn_bf12_escapes;

typedef struct cn_bf12_ops {
    /* @p from: bf16 of @p groups whole groups, the first of which begins at @p column. */
    void (*encode)(const cn_bf12_code *code, const unsigned char *from, uint64_t groups,
                   uint64_t column, unsigned char *out, cn_bf12_escapes *escapes);
    /* Escapes come out as their low byte. */
    void (*decode)(const unsigned char *table, const unsigned char *from, uint64_t groups,
                   unsigned char *out);
} cn_bf12_ops;

extern const cn_bf12_ops cn_bf12_portable;
extern const cn_bf12_ops cn_bf12_avx2;

/* As the public ones, by given operations. The encoder writes no more than @p room_bytes:
 * CENOTE_E_UNSUPPORTED also where the panel's escapes want more. */
cenote_status cn_bf12_encode_by(const cn_bf12_ops *ops, const void *data, uint64_t rows,
                                uint64_t columns, void *out, uint64_t room_bytes,
                                uint64_t *out_bytes);
void cn_bf12_decode_by(const cn_bf12_ops *ops, const void *data, uint64_t row, uint64_t first,
                       uint64_t count, unsigned char *out);

/* The best that this CPU has. */
const cn_bf12_ops *cn_bf12_ops_best(void);

static inline void cn_bf12_escape_add(cn_bf12_escapes *escapes, uint64_t column, uint8_t high)
{
    if (escapes->count < escapes->limit) {
        uint32_t entry = (uint32_t)column << 8 | high;
        __builtin_memcpy(escapes->data + (uint64_t)escapes->count * 4, &entry, 4);
    }
    escapes->count++;
}

#endif
