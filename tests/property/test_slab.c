/* SPDX-License-Identifier: Apache-2.0 */
/* Random operations on slabs and runs of pages, against a model that looks at every 64 bytes
 * (slab_script.h). What fails is made as short as it goes. CENOTE_TEST_SEED repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "script.h"
#include "slab_script.h"

enum { SCRIPTS = 300, STEPS_MAX = 240 };

static void test_random(void **state)
{
    (void)state;
    const struct script_form form = {.step_bytes = SLAB_SCRIPT_STEP_BYTES,
                                     .steps_max = STEPS_MAX,
                                     .run = slab_script_run,
                                     .print = slab_script_print};
    script_run_random(&form, SCRIPTS, 20261121);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
