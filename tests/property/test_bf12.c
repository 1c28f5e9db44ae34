/* SPDX-License-Identifier: Apache-2.0 */
/* Random panels of any shape there and back: both encoders give the same bytes, all decoders and
 * the description itself the elements, whole rows and any part of them; and mutated panels that
 * check passes hold no decoder's reads outside. CENOTE_TEST_SEED repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bf12_support.h"
#include "random.h"
#include "weights/bf12_codec.h"

enum { ROUNDS = 400, MUTATIONS = 60, GUARD = 0xa5 };

static uint64_t random_state;

/* [0, count) */
static uint64_t pick(uint64_t count)
{
    return random_next(&random_state) % count;
}

typedef struct panel {
    uint64_t rows, columns;
    uint16_t *data; /* at an odd address half of the time */
    unsigned char *block;
} panel;

static void panel_make(panel *p)
{
    p->columns = 1 + pick(pick(3) == 0 ? 2000 : 200);
    p->rows = 1 + pick(pick(3) == 0 ? 60 : 8);
    uint64_t count = p->rows * p->columns;
    uint16_t *values = malloc(count * 2);
    p->block = malloc(count * 2 + 1);
    assert_true(values != NULL && p->block != NULL);
    bf12_fill_normal(values, p->rows, p->columns, (unsigned)pick(4), &random_state);
    for (uint64_t odd = pick(2) ? 0 : pick(count / 200 + 12); odd > 0; odd--)
        values[pick(count)] = (uint16_t)pick(0x10000);
    if (pick(10) == 0)
        for (uint64_t i = 0; i < count; i++)
            values[i] = pick(3) == 0 ? (uint16_t)pick(0x10000) : 0;
    p->data = (void *)(p->block + pick(2));
    memcpy(p->data, values, count * 2);
    free(values);
}

static uint16_t element_of(const panel *p, uint64_t row, uint64_t column)
{
    uint16_t value;
    memcpy(&value, (const unsigned char *)p->data + (row * p->columns + column) * 2, 2);
    return value;
}

/* The same bytes by both, and the same elements by the description. */
static void check_encoders(const panel *p, const bf12_packed *packed)
{
    uint64_t bytes = 0;
    unsigned char *other = aligned_alloc(64, cenote_bf12_bytes_max(p->rows, p->columns));
    assert_non_null(other);
    cenote_status status = cn_bf12_encode_by(&cn_bf12_portable, p->data, p->rows, p->columns, other,
                                             UINT64_MAX, &bytes);
    assert_int_equal(status, packed->data != NULL ? CENOTE_OK : CENOTE_E_UNSUPPORTED);
    if (packed->data != NULL) {
        assert_int_equal(bytes, packed->bytes);
        assert_memory_equal(other, packed->data, bytes);
        for (uint64_t row = 0; row < p->rows; row++)
            for (uint64_t column = 0; column < p->columns; column++)
                assert_int_equal(bf12_element_at(packed->data, row, column),
                                 element_of(p, row, column));
    }
    free(other);
}

/* Any part of any row, into a buffer of exactly its size, by both decoders; against @p p where the
 * panel is whole, against each other where it was mutated. */
static void check_part(const panel *p, const unsigned char *packed, bool whole)
{
    uint64_t row = pick(p->rows), first = pick(p->columns);
    uint64_t count = pick(4) == 0 ? p->columns - first : pick(p->columns - first + 1);
    unsigned char *part = malloc(count * 2 + 2), *other = malloc(count * 2 + 2);
    assert_true(part != NULL && other != NULL);
    part[0] = other[0] = part[count * 2 + 1] = other[count * 2 + 1] = GUARD;
    cenote_bf12_decode(packed, p->columns, row, first, count, part + 1);
    cn_bf12_decode_by(&cn_bf12_portable, packed, row, first, count, other + 1);
    assert_memory_equal(part, other, count * 2 + 2);
    assert_true(part[0] == GUARD && part[count * 2 + 1] == GUARD);
    for (uint64_t i = 0; whole && i < count; i++) {
        uint16_t value;
        memcpy(&value, part + 1 + i * 2, 2);
        assert_int_equal(value, element_of(p, row, first + i));
    }
    free(part);
    free(other);
}

/* A few bytes changed, mostly where sizes and escapes are; one byte off its alignment. */
static unsigned check_mutated(const panel *p, const bf12_packed *packed)
{
    unsigned char *block = malloc(packed->bytes + 1), *data = block + 1;
    assert_non_null(block);
    memcpy(data, packed->data, packed->bytes);
    uint64_t ends = 64 + (p->rows + 1) * 2;
    uint64_t list_bytes = packed->bytes < 400 ? packed->bytes : 400;
    for (uint64_t changes = 1 + pick(3); changes > 0; changes--) {
        uint64_t kind = pick(4);
        uint64_t place = kind == 0   ? pick(packed->bytes)
                         : kind == 1 ? pick(ends)
                         : kind == 2 ? 64 + pick(ends - 64)
                                     : packed->bytes - 1 - pick(list_bytes);
        data[place] =
            pick(2) ? (unsigned char)pick(256) : data[place] ^ (unsigned char)(1 << pick(8));
    }
    bool sound = cenote_bf12_check(data, packed->bytes, p->rows, p->columns, NULL) == CENOTE_OK;
    for (int i = 0; sound && i < 8; i++)
        check_part(p, data, false);
    free(block);
    return sound;
}

static void test_panels(void **state)
{
    (void)state;
    unsigned packed_count = 0, sound_count = 0;
    for (int round = 0; round < ROUNDS; round++) {
        panel p;
        panel_make(&p);
        bf12_packed packed = {0};
        cenote_status status = bf12_pack(p.data, p.rows, p.columns, &packed);
        assert_true(status == CENOTE_OK || status == CENOTE_E_UNSUPPORTED);
        check_encoders(&p, &packed);
        if (status == CENOTE_OK) {
            packed_count++;
            assert_int_equal(cenote_bf12_check(packed.data, packed.bytes, p.rows, p.columns, NULL),
                             CENOTE_OK);
            for (int i = 0; i < 20; i++)
                check_part(&p, packed.data, true);
            for (int i = 0; i < MUTATIONS; i++)
                sound_count += check_mutated(&p, &packed);
        }
        free(packed.data);
        free(p.block);
    }
    print_message("%u of %u panels fit, %u mutations passed\n", packed_count, ROUNDS, sound_count);
    assert_true(packed_count > ROUNDS / 2 && sound_count > 100);
}

int main(void)
{
    const char *seed = getenv("CENOTE_TEST_SEED");
    random_state = seed != NULL ? strtoull(seed, NULL, 0) : 12;
    printf("CENOTE_TEST_SEED=%llu\n", (unsigned long long)random_state);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_panels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
