/* SPDX-License-Identifier: Apache-2.0 */
#include "pixels.h"

uint32_t pixels_adler32(const uint8_t *bytes, size_t count)
{
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < count; i++) {
        a = (a + bytes[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

void pixels_noise(uint8_t *bytes, size_t count, uint32_t seed, bool hard)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        uint8_t v = (uint8_t)(seed >> 24);
        bytes[i] = !hard ? v : v >= 128 ? 255 : 0;
    }
}
