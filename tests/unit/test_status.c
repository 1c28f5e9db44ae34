/* SPDX-License-Identifier: Apache-2.0 */
/* Status texts, and error messages that are safe to print. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/cenote.h>

static void test_every_status_has_its_text(void **state)
{
    (void)state;
    static const cenote_status all[] = {
#define STATUS_NAME(name, code, text) name,
        CENOTE_STATUS_TABLE(STATUS_NAME)
#undef STATUS_NAME
    };
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        const char *text = cenote_status_text(all[i]);
        assert_true(text[0] != '\0');
        assert_string_not_equal(text, "unknown status");
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(text, cenote_status_text(all[j]));
    }
    assert_string_equal(cenote_status_text((cenote_status)-999), "unknown status");
}

static void test_message(void **state)
{
    (void)state;
    cenote_error err;
    assert_int_equal(cenote_error_set(&err, CENOTE_E_IO, "%s: %d of %d", "model", 3, 4),
                     CENOTE_E_IO);
    assert_int_equal(err.status, CENOTE_E_IO);
    assert_string_equal(err.message, "model: 3 of 4");
    assert_int_equal(cenote_error_set(NULL, CENOTE_E_INVAL, "unheard"), CENOTE_E_INVAL);
}

static void test_message_is_one_safe_line(void **state)
{
    (void)state;
    cenote_error err;
    (void)!cenote_error_set(&err, CENOTE_E_CORRUPT, "tensor `%s`", "a\nb\x1b[31m\x7f\tc\xc3\xa9");
    assert_string_equal(err.message, "tensor `a?b?[31m??c\xc3\xa9`");
}

static void test_long_message_is_cut(void **state)
{
    (void)state;
    cenote_error err;
    char name[2 * CENOTE_ERROR_MESSAGE_BYTES];
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = '\0';
    (void)!cenote_error_set(&err, CENOTE_E_CORRUPT, "%s", name);
    assert_int_equal(strlen(err.message), CENOTE_ERROR_MESSAGE_BYTES - 1);
}

static void test_version(void **state)
{
    (void)state;
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", CENOTE_VERSION_MAJOR, CENOTE_VERSION_MINOR,
             CENOTE_VERSION_PATCH);
    assert_string_equal(cenote_version(), text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_status_has_its_text),
        cmocka_unit_test(test_message),
        cmocka_unit_test(test_message_is_one_safe_line),
        cmocka_unit_test(test_long_message_is_cut),
        cmocka_unit_test(test_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
