/* SPDX-License-Identifier: Apache-2.0 */
/* What may reach a terminal, and the JSON strings that are made of strangers' bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "json.h"

static void cleans(const char *text, const char *expected)
{
    char out[256];
    size_t size = cli_text_clean(text, strlen(text), out);
    assert_true(size < sizeof out);
    out[size] = '\0';
    assert_string_equal(out, expected);
}

static void test_text_clean(void **state)
{
    (void)state;
    cleans("plain\n\ttext", "plain\n\ttext");
    cleans("\033[2J\a\r\b\x7f", "?[2J????");
    cleans("a\xc2\x9b"
           "2J",
           "a?2J"); /* U+009B is a control sequence introducer too */
    cleans("\xc2\xa0\xc3\xa9", "\xc2\xa0\xc3\xa9");
    cleans("\xe2\x82\xac \xf0\x9f\x90\x88", "\xe2\x82\xac \xf0\x9f\x90\x88");
    cleans("\xc2", "\xc2");
    char zero[2];
    assert_int_equal(cli_text_clean("\0x", 2, zero), 2);
    assert_memory_equal(zero, "?x", 2);
}

/* A model's word may be longer than what is cleaned at once. */
static void test_text_piece(void **state)
{
    (void)state;
    static const char text[] = "abc\xc2\x9b"
                               "2J";
    assert_int_equal(cli_text_piece(text, 7, 7), 7);
    assert_int_equal(cli_text_piece(text, 7, 5), 5);
    assert_int_equal(cli_text_piece(text, 7, 4), 3);
    assert_int_equal(cli_text_piece(text, 7, 3), 3);
    assert_int_equal(cli_text_piece(text, 0, 4), 0);
    assert_int_equal(cli_text_piece("\xc2", 1, 4), 1);
}

static void becomes(const char *text, const char *expected)
{
    json_t *string = cli_json_text(text);
    assert_non_null(string);
    assert_string_equal(json_string_value(string), expected);
    json_decref(string);
}

static void test_json_text(void **state)
{
    (void)state;
#define BAD "\xef\xbf\xbd"
    becomes("caf\xc3\xa9 \xf0\x9f\x90\x88", "caf\xc3\xa9 \xf0\x9f\x90\x88");
    becomes("a\xff"
            "b",
            "a" BAD "b");
    becomes("\xc3", BAD);
    becomes("\xc0\xaf", BAD BAD);                 /* overlong */
    becomes("\xed\xa0\x80", BAD BAD BAD);         /* a surrogate */
    becomes("\xf4\x90\x80\x80", BAD BAD BAD BAD); /* above U+10FFFF */
    becomes("\xe2\x82", BAD BAD);
    becomes("", "");
}

static void test_json_numbers(void **state)
{
    (void)state;
    json_t *value = cli_json_real(0.0 / 0.0);
    assert_true(json_is_null(value));
    json_decref(value);
    value = cli_json_count(UINT64_MAX);
    assert_true(json_integer_value(value) == INT64_MAX);
    json_decref(value);
    const uint32_t ids[] = {7, 4294967295u};
    value = cli_json_ids(ids, 2);
    char *text = json_dumps(value, JSON_COMPACT);
    assert_string_equal(text, "[7,4294967295]");
    free(text);
    json_decref(value);
}

static void test_byte_texts(void **state)
{
    (void)state;
    char text[CLI_BYTES_TEXT];
    assert_string_equal(cli_memory_text(0, text), "0 B");
    assert_string_equal(cli_memory_text(1536, text), "1.5 KiB");
    assert_string_equal(cli_memory_text(256ull << 20, text), "256.0 MiB");
    assert_string_equal(cli_disk_text(4260000000, text), "4.3 GB");
    cli_memory_text(UINT64_MAX, text);
    assert_true(strlen(text) < CLI_BYTES_TEXT);
}

static void test_exit_codes(void **state)
{
    (void)state;
    assert_int_equal(cli_exit_of(CENOTE_OK), 0);
    assert_int_equal(cli_exit_of(CENOTE_E_INVAL), 2);
    assert_int_equal(cli_exit_of(CENOTE_E_BUDGET), 3);
    assert_int_equal(cli_exit_of(CENOTE_E_CORRUPT), 5);
    assert_int_equal(cli_exit_of(CENOTE_E_CHANGED), 5);
    assert_int_equal(cli_exit_of(CENOTE_E_NOTFOUND), 1);
    assert_int_equal(cli_exit_of(CENOTE_E_UNSUPPORTED), 1);
    assert_int_equal(cli_exit_of(CENOTE_E_CANCELLED), 130);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_clean), cmocka_unit_test(test_text_piece),
        cmocka_unit_test(test_json_text),  cmocka_unit_test(test_json_numbers),
        cmocka_unit_test(test_byte_texts), cmocka_unit_test(test_exit_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
