/* SPDX-License-Identifier: Apache-2.0 */
#include "bf12_support.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "random.h"

/* In (0, 1]. */
static float unit(uint64_t *state)
{
    return (float)((random_next(state) >> 40) + 1) * 0x1p-24f;
}

void bf12_fill_normal(uint16_t *data, uint64_t rows, uint64_t columns, unsigned spread,
                      uint64_t *state)
{
    for (uint64_t row = 0; row < rows; row++) {
        float sigma = 0.02f * exp2f((float)spread * (unit(state) - 0.5f));
        for (uint64_t i = 0; i < columns; i++) { /* Box and Muller */
            float radius = sqrtf(-2.0f * logf(unit(state)));
            float value = sigma * radius * cosf(6.2831853f * unit(state));
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            data[row * columns + i] = (uint16_t)(bits >> 16);
        }
    }
}

cenote_status bf12_pack(const void *data, uint64_t rows, uint64_t columns, bf12_packed *out_packed)
{
    uint64_t bytes = 0, room = cenote_bf12_bytes_max(rows, columns);
    unsigned char *scratch = aligned_alloc(64, room);
    assert_non_null(scratch);
    cenote_status status = cenote_bf12_encode(data, rows, columns, scratch, &bytes);
    if (status == CENOTE_OK) {
        assert_true(bytes <= room && bytes % 64 == 0);
        *out_packed = (bf12_packed){aligned_alloc(64, bytes), bytes};
        assert_non_null(out_packed->data);
        memcpy(out_packed->data, scratch, bytes);
    }
    free(scratch);
    return status;
}

static uint64_t number(const unsigned char *from, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)from[i] << (8 * i);
    return value;
}

uint16_t bf12_element_at(const unsigned char *packed, uint64_t row, uint64_t column)
{
    static const unsigned char place_of_eight[] = {0, 2, 1, 3};
    uint64_t rows = number(packed + 8, 8), columns = number(packed + 16, 8);
    uint64_t groups = (columns + 63) / 64;
    const unsigned char *starts = packed + 64;
    const unsigned char *first_row = starts + ((rows + 1) * 2 + 63) / 64 * 64;
    const unsigned char *escapes = first_row + (rows * groups * 96 + 63) / 64 * 64;
    const unsigned char *group = first_row + (row * groups + column / 64) * 96;
    unsigned half = column % 64 / 32;
    unsigned place = place_of_eight[column % 32 / 8] * 8 + column % 8;
    unsigned codes = group[64 + place];
    unsigned code = half == 0 ? codes & 15 : codes >> 4;
    unsigned high = packed[48 + code];
    for (uint64_t i = number(starts + row * 2, 2);
         code == 15 && i < number(starts + row * 2 + 2, 2); i++)
        if (number(escapes + i * 4, 4) >> 8 == column)
            high = escapes[i * 4];
    return (uint16_t)(high << 8 | group[half * 32 + place]);
}
