/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes and numbers of the command line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "size.h"

#define GIB (1ull << 30)

static void accepts(const char *text, uint64_t expected)
{
    uint64_t bytes = 0;
    cenote_error err;
    if (cli_size_parse(text, 8 * GIB, &bytes, &err) != CENOTE_OK)
        fail_msg("%s: %s", text, err.message);
    if (bytes != expected)
        fail_msg("%s is %llu", text, (unsigned long long)bytes);
}

/* Refused, output untouched, and the message names what was written. */
static void refuses(const char *text)
{
    uint64_t bytes = 77;
    cenote_error err;
    if (cli_size_parse(text, 8 * GIB, &bytes, &err) != CENOTE_E_INVAL)
        fail_msg("'%s' was taken for %llu", text, (unsigned long long)bytes);
    assert_int_equal(bytes, 77);
    assert_non_null(strstr(err.message, text));
}

static void test_units(void **state)
{
    (void)state;
    accepts("1", 1);
    accepts("123456", 123456);
    accepts("2GiB", 2 * GIB);
    accepts("2gib", 2 * GIB);
    accepts("2G", 2 * GIB);
    accepts("512MiB", 512ull << 20);
    accepts("512m", 512ull << 20);
    accepts("64K", 65536);
    accepts("64KiB", 65536);
    accepts("64kB", 64000);
    accepts("700MB", 700000000);
    accepts("1GB", 1000000000);
    accepts("1TiB", 1ull << 40);
    accepts("1TB", 1000000000000ull);
    accepts("100B", 100);
}

static void test_fractions_are_exact(void **state)
{
    (void)state;
    accepts("1.5G", 3 * GIB / 2);
    accepts("0.5KiB", 512);
    accepts(".5K", 512);
    accepts("1.0000001K", 1024);
    accepts("0.1G", 107374182);
    accepts("8191.999G", 8796091948466ull);
}

static void test_percent(void **state)
{
    (void)state;
    accepts("50%", 4 * GIB);
    accepts("100%", 8 * GIB);
    accepts("12.5%", GIB);
    refuses("101%");
    refuses("100.0001%");
    refuses("0%");
    refuses("0.00000001%");
    refuses("-5%");
    refuses("50%%");
    refuses("%");
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "0",
        "0G",
        "0.4",
        "-1",
        "-1G",
        "+1G",
        "1 G",
        " 1G",
        "1G ",
        "G",
        ".",
        ".G",
        "1.2.3G",
        "1e9",
        "0x10",
        "1Gi",
        "1GiBs",
        "1X",
        "nan",
        "inf",
        "1,5G",
        "1PiB",
        "9223372036854775808",
        "8388608T",
        "99999999999999999999G",
        "18446744073709551617",
        "1.0000000000000000001G",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refuses(bad[i]);
    uint64_t bytes = 77;
    assert_int_equal(cli_size_parse("", GIB, &bytes, NULL), CENOTE_E_INVAL);
}

static void test_largest(void **state)
{
    (void)state;
    accepts("8388607T", 8388607ull << 40);
}

static void test_numbers(void **state)
{
    (void)state;
    uint64_t number = 77;
    cenote_error err;
    assert_int_equal(cli_number_parse("42", 1, 42, &number, &err), CENOTE_OK);
    assert_int_equal(number, 42);
    assert_int_equal(cli_number_parse("18446744073709551615", 0, UINT64_MAX, &number, &err),
                     CENOTE_OK);
    assert_true(number == UINT64_MAX);
    static const char *const bad[] = {
        "", "0", "43", "-1", "4x", "x", " 4", "18446744073709551616", "4.0"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(cli_number_parse(bad[i], 1, 42, &number, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "42"));
}

static void test_pixels(void **state)
{
    (void)state;
    uint32_t width = 0, height = 0;
    cenote_error err;
    assert_int_equal(cli_pixels_parse("640x480", 1000, &width, &height, &err), CENOTE_OK);
    assert_int_equal(width, 640);
    assert_int_equal(height, 480);
    static const char *const bad[] = {"640",  "x480",      "640x",        "0x1",
                                      "1x0",  "640x480x3", "1001x1",      "1x1001",
                                      "-1x5", "640X480",   "4294967297x1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(cli_pixels_parse(bad[i], 1000, &width, &height, &err), CENOTE_E_INVAL);
}

static void test_reals(void **state)
{
    (void)state;
    double real = 7;
    cenote_error err;
    assert_int_equal(cli_real_parse("0.75", 100, &real, &err), CENOTE_OK);
    assert_true(real == 0.75);
    static const char *const bad[] = {"", "-1", "nan", "inf", "100.5", "1e3", "0,5", "1.5x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(cli_real_parse(bad[i], 100, &real, &err), CENOTE_E_INVAL);
}

static void test_times(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double s;
    } times[] = {{"10s", 10}, {"10", 10}, {"500ms", 0.5}, {"1.5min", 90}, {"2h", 7200}, {"0s", 0}};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        double s = -1;
        assert_int_equal(cli_time_parse(times[i].text, &s, NULL), CENOTE_OK);
        assert_true(s == times[i].s);
    }
    static const char *const bad[] = {"", "s", "-1s", "1y", "1 s", "9000h", "1..5s", "0x1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        double s = -1;
        cenote_error err;
        assert_int_equal(cli_time_parse(bad[i], &s, &err), CENOTE_E_INVAL);
        assert_true(s == -1);
        assert_non_null(strstr(err.message, bad[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_fractions_are_exact),
        cmocka_unit_test(test_percent),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_pixels),
        cmocka_unit_test(test_reals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
