/* SPDX-License-Identifier: Apache-2.0 */
/* Pictures without files, and a checksum of pictures. */
#ifndef TEST_PIXELS_H
#define TEST_PIXELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As zlib's adler32(). */
uint32_t pixels_adler32(const uint8_t *bytes, size_t count);

/* noise() of tests/data/images/make.py: the top byte of a linear congruential generator, or 0 and
 * 255 where hard. */
void pixels_noise(uint8_t *bytes, size_t count, uint32_t seed, bool hard);

#endif
