/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of buffers: what it takes, and the line and field that it names when it does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layout_csv.h"

#define HEADER "id,lower,upper,size,alignment\n"

static struct cli_layout_row rows[16];

/* From a block of the text's exact size. @return the rows */
static uint64_t takes(const char *text)
{
    uint64_t count = 77, size = strlen(text);
    cenote_error err;
    char *copy = malloc(size);
    assert_non_null(copy);
    memcpy(copy, text, size);
    assert_true(cli_layout_csv_rows_max(copy, size) <= 16);
    if (cli_layout_csv_read(copy, size, rows, &count, &err) != CENOTE_OK)
        fail_msg("%s: %s", text, err.message);
    assert_true(count <= cli_layout_csv_rows_max(copy, size));
    free(copy);
    return count;
}

static void refuses(const char *text, const char *message)
{
    uint64_t count = 77;
    cenote_error err;
    if (cli_layout_csv_read(text, strlen(text), rows, &count, &err) != CENOTE_E_CORRUPT)
        fail_msg("%s was taken", text);
    assert_string_equal(err.message, message);
    assert_int_equal(count, 77);
}

static void test_rows(void **state)
{
    (void)state;
    const char *text = HEADER "first one,0,3,65536,64\r\n\n\nb,18446744073709551614,"
                              "18446744073709551615,0,0";
    assert_int_equal(takes(text), 2);
    assert_memory_equal(text + rows[0].id_offset, "first one", rows[0].id_bytes);
    assert_int_equal(rows[0].id_bytes, 9);
    assert_int_equal(rows[0].buffer.lower, 0);
    assert_int_equal(rows[0].buffer.upper, 3);
    assert_int_equal(rows[0].buffer.size_bytes, 65536);
    assert_int_equal(rows[0].buffer.align_bytes, 64);
    assert_memory_equal(text + rows[1].id_offset, "b,", 2);
    assert_int_equal(rows[1].buffer.lower, UINT64_MAX - 1);
    assert_int_equal(rows[1].buffer.align_bytes, 0);
}

static void test_without_alignment(void **state)
{
    (void)state;
    rows[0].buffer.align_bytes = 5;
    assert_int_equal(takes("id,lower,upper,size\r\na,1,2,3\r\n"), 1);
    assert_int_equal(rows[0].buffer.size_bytes, 3);
    assert_int_equal(rows[0].buffer.align_bytes, 0);
    assert_int_equal(takes("id,lower,upper,size"), 0);
    assert_int_equal(takes("\n\nid,lower,upper,size\n\n"), 0);
}

static void test_header(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "id",
                                      "id,lower,upper",
                                      "id,lower,upper,size,alignment,more",
                                      "a,1,2,3",
                                      "ID,lower,upper,size",
                                      "id,lower,upper,size,",
                                      "id,lower,upper,size ",
                                      "id,upper,lower,size"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refuses(bad[i], "line 1: the header is not id,lower,upper,size[,alignment]");
    refuses("\nx\n", "line 2: the header is not id,lower,upper,size[,alignment]");
}

static void test_fields(void **state)
{
    (void)state;
    refuses(HEADER "a,0,1,1,1\n,0,1,1,1", "line 3: id: it is empty");
    refuses(HEADER "a\"b,0,1,1,1", "line 2: id: quotes are not supported");
    refuses(HEADER "a\tb,0,1,1,1", "line 2: id: it has a control character");
    refuses(HEADER "a", "line 2: lower: it is missing");
    refuses(HEADER "\na,0", "line 3: upper: it is missing");
    refuses(HEADER "a,0,1", "line 2: size: it is missing");
    refuses(HEADER "a,0,1,1", "line 2: alignment: it is missing");
    refuses("id,lower,upper,size\na,0,1,1,1", "line 2: it has more fields than the header");
    refuses(HEADER "a,0,1,1,1,1,1,1,1", "line 2: it has more fields than the header");
    refuses(HEADER "a,x,1,1,1",
            "line 2: lower: 'x' is not a number from 0 to 18446744073709551615");
    refuses(HEADER "a,0,18446744073709551616,1,1",
            "line 2: upper: '18446744073709551616' is not a number from 0 to "
            "18446744073709551615");
    refuses(HEADER "a,0,1, 1,1",
            "line 2: size: ' 1' is not a number from 0 to 18446744073709551615");
    refuses(HEADER "a,0,1,1,",
            "line 2: alignment: '' is not a number from 0 to 18446744073709551615");
    refuses(HEADER "a,0,1,000000000000000000000000000000000001,1",
            "line 2: size: '00000000000000000000000' is not a number from 0 to "
            "18446744073709551615");
}

static void test_meaning(void **state)
{
    (void)state;
    refuses(HEADER "a,1,1,1,1", "line 2: upper: it is not above lower");
    refuses(HEADER "a,2,1,1,1", "line 2: upper: it is not above lower");
    refuses(HEADER "a,0,1,1,3", "line 2: alignment: it is no power of two up to 4294967296");
    refuses(HEADER "a,0,1,1,8589934592",
            "line 2: alignment: it is no power of two up to 4294967296");
    refuses(HEADER "a,0,1,18446744073709551615,1",
            "line 2: size: it brings the sum of all sizes to 2^63 or more");
    refuses(HEADER "a,0,1,9223372036854775800,4\nb,0,1,4,1",
            "line 3: size: it brings the sum of all sizes to 2^63 or more");
}

/* A zero inside a number ends no text here. */
static void test_zero_byte(void **state)
{
    (void)state;
    static const char text[] = HEADER "a,0,1\0,1,1";
    uint64_t count = 77;
    cenote_error err;
    assert_int_equal(cli_layout_csv_read(text, sizeof text - 1, rows, &count, &err),
                     CENOTE_E_CORRUPT);
    assert_int_equal(count, 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),    cmocka_unit_test(test_without_alignment),
        cmocka_unit_test(test_header),  cmocka_unit_test(test_fields),
        cmocka_unit_test(test_meaning), cmocka_unit_test(test_zero_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
