/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  bf16 weights in 12 bits an element, without loss.
 *
 *  Trained weights use few of the 256 exponents: of a panel, 14 in a row hold all but some
 * hundredths of a percent. So the low byte of each element is kept as it is, and the high byte
 * (sign and the upper seven bits of the exponent) becomes a code of four bits, looked up in a table
 * of 15. What the table lacks is an *escape*: code 15, and its high byte in a list. Every one of
 * the 65,536 patterns comes back bit by bit.
 *
 *  A panel of rows x columns is
 *
 *      byte 0      header, 64 bytes; all numbers little-endian
 *                    0  4 bytes  "BF12"
 *                    4  u32      version, 1
 *                    8  u64      rows
 *                   16  u64      columns, at most CENOTE_BF12_COLUMNS_MAX
 *                   24  u32      count of escapes, at most CENOTE_BF12_ESCAPES_MAX
 *                   28  20 bytes 0
 *                   48  16 bytes table: code -> high byte; [15] is 0
 *      byte 64     u16 [rows + 1]: row r's escapes are [starts[r], starts[r + 1]) of the list;
 *                  then zeros up to a multiple of 64
 *      then        rows: row r begins r * cenote_bf12_row_bytes(columns) bytes on; a row is one
 * group of 96 bytes for each 64 elements, the last one padded (with anything finite); then zeros up
 * to a multiple of 64 then        escapes, u32 each: column << 8 | high byte; in a row by ascending
 * columns; then zeros up to a multiple of 64, which is the end
 *
 *  and a group of elements 0..63
 *
 *      byte 0..63  low bytes. In the order in which vector instructions that interleave bytes
 * inside halves of 16 want them: of elements 32 h + (0..31), byte 32 h + i belongs to element 32 h
 * + cenote_bf12_element(i): 0-7, 16-23, 8-15, 24-31 64..95      codes: byte 64 + i has that of byte
 * i in its low and that of byte 32 + i in its high four bits
 *
 *  An escape's high byte is the one in the list, or'ed to the 0 that the table gives for code 15.
 *
 *  Threads: any; all functions touch only their arguments. */
#ifndef CENOTE_BF12_H
#define CENOTE_BF12_H

#include <stdint.h>

#include <cenote/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CENOTE_BF12_GROUP        64u /**< elements */
#define CENOTE_BF12_GROUP_BYTES  96u
#define CENOTE_BF12_CODES_BYTE   64u /**< where a group's codes begin */
#define CENOTE_BF12_ESCAPE       15u /**< the code that is none */
#define CENOTE_BF12_COLUMNS_MAX  (UINT64_C(1) << 24)
#define CENOTE_BF12_ESCAPES_MAX  65535u
#define CENOTE_BF12_HEADER_BYTES 64u

/** Room that encode may need: 0.756 of the bf16 panel, columns rounded up to 64, and two bytes a
 * row and at most 312. A multiple of 64; UINT64_MAX on overflow. */
CENOTE_API uint64_t cenote_bf12_bytes_max(uint64_t rows, uint64_t columns);

/** @param data       row-major bf16, any alignment
 *  @param out        64-byte aligned, cenote_bf12_bytes_max() long
 *  @param out_bytes  what was written, a multiple of 64; the same for the same data on any CPU
 *  Errors: CENOTE_E_UNSUPPORTED when more than about 0.3 % of the elements would be escapes, or
 * rows are too long: keep the panel plain then; @p out holds rubbish. CENOTE_E_INVAL: no elements.
 *  Cost: one pass, more than 4 GB of bf16 a second with AVX2. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_bf12_encode(const void *data, uint64_t rows,
                                                              uint64_t columns, void *out,
                                                              uint64_t *out_bytes);

/** Validates bytes from a stranger: after CENOTE_OK every decoder, here and in kernels, stays
 * inside them, and all decoders give the same elements.
 *  @param data  any alignment
 *  Errors: CENOTE_E_CORRUPT.  Cost: reads header, starts and escapes, and no rows. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_bf12_check(const void *data, uint64_t size_bytes,
                                                             uint64_t rows, uint64_t columns,
                                                             cenote_error *err);

/** Decodes columns [first, first + count) of @p row into @p out, bf16 of any alignment. @p data is
 *  what encode wrote or check passed, at any alignment. */
CENOTE_API void cenote_bf12_decode(const void *data, uint64_t columns, uint64_t row, uint64_t first,
                                   uint64_t count, void *out);

/* ---- for kernels that decode in their own loads ---- */

/** Where the parts of a panel lie; of any alignment. */
typedef struct cenote_bf12_view {
    const unsigned char *table;   /**< [16] */
    const unsigned char *starts;  /**< u16 [rows + 1] */
    const unsigned char *groups;  /**< [rows][row_bytes] */
    const unsigned char *escapes; /**< u32 [count] */
    uint64_t row_bytes;
} cenote_bf12_view;

/** @p data is what encode wrote or check passed. */
CENOTE_API cenote_bf12_view cenote_bf12_view_of(const void *data);

static inline uint64_t cenote_bf12_row_bytes(uint64_t columns)
{
    return (columns + CENOTE_BF12_GROUP - 1) / CENOTE_BF12_GROUP * CENOTE_BF12_GROUP_BYTES;
}

/** The element, 0..31, whose low byte is number @p i of a half group; its own inverse. */
static inline unsigned cenote_bf12_element(unsigned i)
{
    return (i & 7) | (i & 8) << 1 | (i & 16) >> 1;
}

#ifdef __cplusplus
}
#endif
#endif
