/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan assumes for a picture of which only the size is known is enough for every file that
 * is decoded a row at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "image.h"

static void test_is_enough(void **state)
{
    (void)state;
    static const char *const names[] = {
        "rgb8.png",         "rgba8.png",   "rgb16.png", "rgba16.png",     "palette8.png",
        "grey16_alpha.png", "bilevel.png", "tall.png",  "one.png",        "rgb.jpg",
        "grey.jpg",         "turn3.jpg",   "turn5.jpg", "turn3_late.png",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, TEST_DATA_DIR "/images/%s", names[i]);
        qwen_image_info info;
        uint64_t of_file = 0, of_size = 0;
        cenote_error err;
        if (qwen_image_probe(path, &info, &err) != CENOTE_OK ||
            qwen_image_load_bytes(path, 64, 96, &of_file, &err) != CENOTE_OK ||
            qwen_image_size_bytes(&info, 64, 96, &of_size, &err) != CENOTE_OK)
            fail_msg("%s", err.message);
        if (of_size < of_file)
            fail_msg("%s: planned %llu, needs %llu", names[i], (unsigned long long)of_size,
                     (unsigned long long)of_file);
    }
}

static void test_refuses_what_no_file_may_be(void **state)
{
    (void)state;
    static const qwen_image_info bad[] = {{0, 10}, {10, 0}, {65501, 1}, {65500, 65500}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t bytes = 77;
        cenote_error err;
        assert_int_equal(qwen_image_size_bytes(&bad[i], 64, 96, &bytes, &err), CENOTE_E_INVAL);
        assert_int_equal(bytes, 77);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_is_enough),
        cmocka_unit_test(test_refuses_what_no_file_may_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
