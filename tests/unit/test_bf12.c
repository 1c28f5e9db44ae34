/* SPDX-License-Identifier: Apache-2.0 */
/* bf16 in 12 bits: every pattern comes back, panels that do not fit are refused, sizes are what the
 * header promises. */
#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bf12_support.h"
#include "random.h"
#include "weights/bf12_codec.h"

#define PAIR_ELEMENTS 512u /* patterns of one pair of exponents, both signs */
#define WINDOW        7u

static void assert_same(const uint16_t *data, uint64_t rows, uint64_t columns,
                        const bf12_packed *packed)
{
    uint16_t *row = malloc(columns * 2);
    assert_non_null(row);
    for (uint64_t r = 0; r < rows; r++) {
        cenote_bf12_decode(packed->data, columns, r, 0, columns, row);
        assert_memory_equal(row, data + r * columns, columns * 2);
        cn_bf12_decode_by(&cn_bf12_portable, packed->data, r, 0, columns, (unsigned char *)row);
        assert_memory_equal(row, data + r * columns, columns * 2);
    }
    free(row);
}

static uint32_t escape_count(const bf12_packed *packed)
{
    uint32_t count;
    memcpy(&count, packed->data + 24, 4);
    return count;
}

static void assert_round_trip(const uint16_t *data, uint64_t rows, uint64_t columns,
                              bf12_packed *out_packed)
{
    assert_int_equal(bf12_pack(data, rows, columns, out_packed), CENOTE_OK);
    assert_int_equal(cenote_bf12_check(out_packed->data, out_packed->bytes, rows, columns, NULL),
                     CENOTE_OK);
    assert_same(data, rows, columns, out_packed);
}

/* Elements of one high byte's pair, then of the next ones: no two groups look alike. */
static void fill_window(uint16_t *data, unsigned base, unsigned extra)
{
    for (unsigned i = 0; i < WINDOW * PAIR_ELEMENTS; i++) {
        unsigned high = base + i % WINDOW, sign = i / WINDOW % 2;
        data[i] = (uint16_t)(sign << 15 | high << 8 | i / WINDOW / 2);
    }
    for (unsigned i = 0; i < 256; i++)
        data[WINDOW * PAIR_ELEMENTS + i] = (uint16_t)(extra << 8 | i);
}

/* All patterns of every window and of any one more high byte: none is an escape. */
static void test_every_pattern_has_a_code(void **state)
{
    (void)state;
    enum { ROWS = 3, COLUMNS = (WINDOW * PAIR_ELEMENTS + 256) / ROWS };
    static_assert(COLUMNS * ROWS == WINDOW * PAIR_ELEMENTS + 256, "whole rows");
    static uint16_t data[ROWS * COLUMNS];
    for (unsigned base = 0; base + WINDOW <= 128; base++)
        for (unsigned extra = 0; extra < 256; extra += 5) {
            unsigned pair = extra & 127;
            if (pair + 1 >= base && pair <= base + WINDOW)
                continue; /* then another window would do as well */
            fill_window(data, base, extra);
            bf12_packed packed;
            assert_round_trip(data, ROWS, COLUMNS, &packed);
            assert_int_equal(escape_count(&packed), 0);
            free(packed.data);
        }
}

/* All 65,536 patterns scattered over normal elements: nine in ten of them are escapes. */
static void test_every_pattern_escapes(void **state)
{
    (void)state;
    enum { ROWS = 256, COLUMNS = 2048, PATTERNS = 1024, STEP = ROWS * COLUMNS / PATTERNS };
    uint16_t *data = malloc(ROWS * COLUMNS * 2);
    assert_non_null(data);
    uint64_t random = 1, escapes = 0;
    for (unsigned first = 0; first < 0x10000; first += PATTERNS) {
        bf12_fill_normal(data, ROWS, COLUMNS, 1, &random);
        for (unsigned i = 0; i < PATTERNS; i++)
            data[i * STEP + random_next(&random) % STEP] = (uint16_t)(first + i);
        bf12_packed packed;
        assert_round_trip(data, ROWS, COLUMNS, &packed);
        escapes += escape_count(&packed);
        free(packed.data);
    }
    assert_true(escapes > 50000);
    free(data);
}

static void test_too_many_escapes_are_refused(void **state)
{
    (void)state;
    enum { ROWS = 64, COLUMNS = 1000 };
    uint16_t *data = malloc(ROWS * COLUMNS * 2);
    assert_non_null(data);
    uint64_t random = 2;
    for (unsigned i = 0; i < ROWS * COLUMNS; i++)
        data[i] = (uint16_t)random_next(&random);
    bf12_packed packed;
    assert_int_equal(bf12_pack(data, ROWS, COLUMNS, &packed), CENOTE_E_UNSUPPORTED);

    /* one below, at, and above the limit: 3 of each whole 1024 elements, padding too, and 16 */
    const unsigned limit = ROWS * 1024 / 1024 * 3 + 16;
    for (unsigned count = limit - 1; count <= limit + 1; count++) {
        for (unsigned i = 0; i < ROWS * COLUMNS; i++)
            data[i] = i < count ? 0x7f80 : i < count + 5000 ? 0x0001 : 0x3f80;
        cenote_status status = bf12_pack(data, ROWS, COLUMNS, &packed);
        assert_int_equal(status, count <= limit ? CENOTE_OK : CENOTE_E_UNSUPPORTED);
        if (status != CENOTE_OK)
            continue;
        assert_int_equal(escape_count(&packed), count);
        assert_same(data, ROWS, COLUMNS, &packed);
        free(packed.data);
    }
    free(data);
}

/* Rows of the sample say one thing, the others another: the second try counts all. */
static void test_a_sample_that_misleads(void **state)
{
    (void)state;
    enum { ROWS = 512, COLUMNS = 64, STEP = 3 };
    uint16_t *data = malloc(ROWS * COLUMNS * 2);
    assert_non_null(data);
    for (unsigned i = 0; i < ROWS * COLUMNS; i++)
        data[i] = i / COLUMNS % STEP == 0 ? (uint16_t)(i % 2 ? 0x2000 : 0x3f00) : 0x3000;
    bf12_packed packed;
    assert_int_equal(bf12_pack(data, ROWS, COLUMNS, &packed), CENOTE_E_UNSUPPORTED);
    for (unsigned i = 0; i < ROWS * COLUMNS; i++)
        data[i] = i / COLUMNS % STEP == 0 ? 0x2000 : i % 3 ? 0x3000 : 0xb100;
    assert_round_trip(data, ROWS, COLUMNS, &packed);
    free(packed.data);
    free(data);
}

/* In a room of just its bytes a panel is what it is anywhere; in less it is refused, and behind the
 * room nothing is written. */
static void test_room(void **state)
{
    (void)state;
    const uint64_t rows = 16, columns = 2000, most = cenote_bf12_bytes_max(rows, columns);
    uint16_t *data = malloc(rows * columns * 2);
    unsigned char *room = malloc(most + 1);
    uint64_t random = 7, bytes;
    bf12_packed packed;
    assert_true(data != NULL && room != NULL);
    bf12_fill_normal(data, rows, columns, 0, &random);
    for (unsigned wild = 0; wild < 40; wild++) /* more than the 16 that a row's end has room for */
        data[wild * 701] = (uint16_t)(wild % 2 == 0 ? 0x7f00 : 0x0001);
    assert_int_equal(bf12_pack(data, rows, columns, &packed), CENOTE_OK);
    assert_true(escape_count(&packed) >= 20 && packed.bytes < most);
    const cn_bf12_ops *const all[] = {&cn_bf12_portable, cn_bf12_ops_best()};
    for (unsigned i = 0; i < 2; i++)
        for (uint64_t size = packed.bytes - 256; size <= packed.bytes; size++) {
            memset(room, 0xee, most + 1);
            cenote_status status =
                cn_bf12_encode_by(all[i], data, rows, columns, room, size, &bytes);
            assert_int_equal(status, size == packed.bytes ? CENOTE_OK : CENOTE_E_UNSUPPORTED);
            for (uint64_t at = size; at <= most; at++)
                assert_int_equal(room[at], 0xee);
        }
    assert_memory_equal(room, packed.data, packed.bytes);
    free(packed.data);
    free(room);
    free(data);
}

static void test_ratio_of_normal_panels(void **state)
{
    (void)state;
    enum { ROWS = 256, COLUMNS = 2048 };
    uint16_t *data = malloc(ROWS * COLUMNS * 2);
    assert_non_null(data);
    uint64_t random = 3;
    for (unsigned spread = 0; spread <= 4; spread++) {
        bf12_fill_normal(data, ROWS, COLUMNS, spread, &random);
        bf12_packed packed;
        assert_round_trip(data, ROWS, COLUMNS, &packed);
        double ratio = (double)packed.bytes / (ROWS * COLUMNS * 2);
        print_message("sigma within 2^%u: ratio %.4f, escapes %.4f %%\n", spread, ratio,
                      100.0 * escape_count(&packed) / (ROWS * COLUMNS));
        assert_true(ratio <= 0.76);
        free(packed.data);
    }
    free(data);
}

/* All matrices of the demo model, panels of at most 1 MiB. Its rows are short: what a panel and a
 * row cost of their own counts there more than escapes do. */
static void test_ratio_of_trained_weights(void **state)
{
    (void)state;
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = UINT64_C(1) << 30;
    options.process_bytes = 1;
    cenote_budget *budget;
    cenote_weights *weights;
    assert_int_equal(cenote_budget_create(&options, &budget, NULL), CENOTE_OK);
    assert_int_equal(
        cenote_weights_open(budget, TEST_SOURCE_DIR "/models/qwen3vl-tiny", NULL, &weights, NULL),
        CENOTE_OK);
    uint64_t plain_bytes = 0, packed_bytes = 0, escapes = 0;
    for (uint32_t i = 0; i < cenote_weights_count(weights); i++) {
        const cenote_tensor_info *t = cenote_weights_tensor(weights, i);
        if (t->rank < 2 || t->dtype != CENOTE_DTYPE_BF16)
            continue;
        uint64_t columns = t->size_bytes / 2 / t->shape[0];
        uint16_t *data = malloc(t->size_bytes);
        assert_non_null(data);
        assert_int_equal(cenote_weights_read(weights, i, 0, t->size_bytes, data, NULL), CENOTE_OK);
        bf12_packed packed;
        assert_round_trip(data, t->shape[0], columns, &packed);
        plain_bytes += t->size_bytes;
        packed_bytes += packed.bytes;
        escapes += escape_count(&packed);
        free(packed.data);
        free(data);
    }
    print_message("demo model: ratio %.4f, escapes %.4f %%\n",
                  (double)packed_bytes / (double)plain_bytes,
                  200.0 * (double)escapes / (double)plain_bytes);
    assert_true(plain_bytes > 5000000 && packed_bytes * 100 <= plain_bytes * 76);
    cenote_weights_close(weights);
    cenote_budget_destroy(budget);
}

static void test_sizes(void **state)
{
    (void)state;
    assert_true(cenote_bf12_bytes_max(256, 2048) <= 256 * 2048 * 2 * 0.76);
    assert_true(cenote_bf12_bytes_max(512, 1024) <= 512 * 1024 * 2 * 0.76);
    assert_true(cenote_bf12_bytes_max(1, 1) <= 512);
    assert_int_equal(cenote_bf12_bytes_max(7, 4304) % 64, 0);
    assert_true(cenote_bf12_bytes_max(UINT64_MAX, 64) == UINT64_MAX);
    assert_true(cenote_bf12_bytes_max(UINT64_C(1) << 60, 64) == UINT64_MAX);
    assert_true(cenote_bf12_bytes_max(1, CENOTE_BF12_COLUMNS_MAX + 1) == UINT64_MAX);
    assert_true(cenote_bf12_bytes_max(1, CENOTE_BF12_COLUMNS_MAX) != UINT64_MAX);
    uint64_t bytes = 77;
    assert_int_equal(cenote_bf12_encode("", 0, 5, NULL, &bytes), CENOTE_E_INVAL);
    assert_int_equal(cenote_bf12_encode("", 5, 0, NULL, &bytes), CENOTE_E_INVAL);
    assert_int_equal(cenote_bf12_encode("", 1, CENOTE_BF12_COLUMNS_MAX + 1, NULL, &bytes),
                     CENOTE_E_UNSUPPORTED);
    assert_int_equal(bytes, 77);
}

/* The last column that an escape can name. */
static void test_longest_row(void **state)
{
    (void)state;
    uint16_t *data = malloc(CENOTE_BF12_COLUMNS_MAX * 2);
    assert_non_null(data);
    for (uint64_t i = 0; i < CENOTE_BF12_COLUMNS_MAX; i++)
        data[i] = (uint16_t)(0x3f00 + i % 256);
    data[CENOTE_BF12_COLUMNS_MAX - 3] = 0x7f81;
    data[CENOTE_BF12_COLUMNS_MAX - 1] = 0xff81;
    bf12_packed packed;
    assert_round_trip(data, 1, CENOTE_BF12_COLUMNS_MAX, &packed);
    assert_int_equal(escape_count(&packed), 2);
    free(packed.data);
    free(data);
}

static void test_check_names_the_fault(void **state)
{
    (void)state;
    enum { ROWS = 5, COLUMNS = 100 };
    static uint16_t data[ROWS * COLUMNS];
    uint64_t random = 4;
    bf12_fill_normal(data, ROWS, COLUMNS, 0, &random);
    data[7] = data[9] = data[150] = 0x7fc1;
    data[8] = data[151] = 0x0001;
    data[152] = 0x0001;
    bf12_packed packed;
    assert_round_trip(data, ROWS, COLUMNS, &packed);
    assert_true(escape_count(&packed) >= 3);
    static const struct {
        unsigned byte;
        unsigned char value;
    } faults[] = {
        {0, 'b'}, {4, 2},  {8, 6},  {16, 101}, {24, 255},
        {27, 1},  {28, 1}, {47, 1}, {63, 1},   {64, 1}, /* the first row does not begin at 0 */
        {66, 99},                                       /* runs backwards to the next one */
        {74, 1},                                        /* the last row's end */
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        cenote_error err = {0};
        unsigned char kept = packed.data[faults[i].byte];
        packed.data[faults[i].byte] = faults[i].value;
        assert_int_equal(cenote_bf12_check(packed.data, packed.bytes, ROWS, COLUMNS, &err),
                         CENOTE_E_CORRUPT);
        assert_true(err.message[0] != '\0');
        packed.data[faults[i].byte] = kept;
    }
    unsigned char *list = packed.data + packed.bytes - 64;
    static const uint32_t columns[] = {100, 6, 9}; /* outside, no code 15, not ascending */
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        uint32_t before, escape = columns[i] << 8 | 0x7f;
        memcpy(&before, list, 4);
        memcpy(list, &escape, 4);
        assert_int_equal(cenote_bf12_check(packed.data, packed.bytes, ROWS, COLUMNS, NULL),
                         CENOTE_E_CORRUPT);
        memcpy(list, &before, 4);
    }
    /* The first row's last escape moved into the padding, where code 15 now is. */
    unsigned char *codes = packed.data + 128 + 96 + 64 + 100 % 64 % 32, *last = list;
    last += (packed.data[66] - 1) * 4;
    uint32_t kept, entry = 100 << 8 | 0x7f;
    memcpy(&kept, last, 4);
    memcpy(last, &entry, 4);
    *codes |= 0xf0;
    assert_int_equal(cenote_bf12_check(packed.data, packed.bytes, ROWS, COLUMNS, NULL),
                     CENOTE_E_CORRUPT);
    memcpy(last, &kept, 4);
    assert_int_equal(cenote_bf12_check(packed.data, packed.bytes - 64, ROWS, COLUMNS, NULL),
                     CENOTE_E_CORRUPT);
    assert_int_equal(cenote_bf12_check(packed.data, 10, ROWS, COLUMNS, NULL), CENOTE_E_CORRUPT);
    assert_int_equal(cenote_bf12_check(packed.data, packed.bytes, 0, COLUMNS, NULL),
                     CENOTE_E_CORRUPT);
    assert_int_equal(cenote_bf12_check(packed.data, packed.bytes, ROWS, COLUMNS, NULL), CENOTE_OK);
    free(packed.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pattern_has_a_code),
        cmocka_unit_test(test_every_pattern_escapes),
        cmocka_unit_test(test_too_many_escapes_are_refused),
        cmocka_unit_test(test_a_sample_that_misleads),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_ratio_of_normal_panels),
        cmocka_unit_test(test_ratio_of_trained_weights),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_longest_row),
        cmocka_unit_test(test_check_names_the_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
