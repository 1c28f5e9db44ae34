/* SPDX-License-Identifier: Apache-2.0 */
/* Random ranges and operations, against a model that looks at every leaf (buddy_script.h). What
 * fails is made as short as it goes and printed. CENOTE_TEST_SEED repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "buddy_script.h"
#include "script.h"

enum {
    SCRIPTS = 600,
    STEPS_MAX = 240,
    HEAD = BUDDY_SCRIPT_HEAD_BYTES,
    STEP = BUDDY_SCRIPT_STEP_BYTES
};

static void test_random(void **state)
{
    (void)state;
    const struct script_form form = {.head_bytes = HEAD,
                                     .step_bytes = STEP,
                                     .steps_max = STEPS_MAX,
                                     .run = buddy_script_run,
                                     .print = buddy_script_print};
    script_run_random(&form, SCRIPTS, 20261121);
}

/* A fault that needs two steps, to see that shrinking leaves just these. */
static const char *fails_by_two(const uint8_t *bytes, size_t size, size_t *out_step)
{
    bool first = false;
    (void)out_step;
    for (size_t at = HEAD; at + STEP <= size; at += STEP) {
        if (first && bytes[at] == 200)
            return "both";
        first |= bytes[at] == 100;
    }
    return NULL;
}

static void test_shrink(void **state)
{
    (void)state;
    const struct script_form form = {.head_bytes = HEAD,
                                     .step_bytes = STEP,
                                     .steps_max = STEPS_MAX,
                                     .run = fails_by_two,
                                     .print = buddy_script_print};
    uint8_t script[HEAD + STEPS_MAX * STEP] = {0};
    script[HEAD + 17 * STEP] = 100;
    script[HEAD + 201 * STEP] = 200;
    assert_int_equal(script_shrink(&form, script, sizeof script), HEAD + 2 * STEP);
    assert_int_equal(script[HEAD], 100);
    assert_int_equal(script[HEAD + STEP], 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_shrink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
