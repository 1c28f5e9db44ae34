/* SPDX-License-Identifier: Apache-2.0 */
/* Panels like trained ones, and the 12-bit form read by nothing but its description in
 * cenote/bf12.h. Everything here asserts on failure. */
#ifndef TESTS_BF12_SUPPORT_H
#define TESTS_BF12_SUPPORT_H

#include <stdint.h>

#include <cenote/cenote.h>

/** bf16 of a normal distribution whose deviation differs from row to row by up to 2^@p spread. */
void bf12_fill_normal(uint16_t *data, uint64_t rows, uint64_t columns, unsigned spread,
                      uint64_t *state);

/** A panel in the 12-bit form, by any of the encoders. The block ends where the panel does. */
typedef struct bf12_packed {
    unsigned char *data; /* 64-byte aligned; free() */
    uint64_t bytes;
} bf12_packed;

/** @return the encoder's status; on failure there is nothing to free. */
cenote_status bf12_pack(const void *data, uint64_t rows, uint64_t columns, bf12_packed *out_packed);

/** Element [row][column], from the description. */
uint16_t bf12_element_at(const unsigned char *packed, uint64_t row, uint64_t column);

#endif
