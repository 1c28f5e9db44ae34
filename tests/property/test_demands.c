/* SPDX-License-Identifier: Apache-2.0 */
/* Random demands on pools that share one small budget, against a model of what is live
 * (demand_script.h). What fails is made as short as it goes. CENOTE_TEST_SEED repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "demand_script.h"
#include "script.h"

enum { SCRIPTS = 150, STEPS_MAX = 250 };

static void test_random(void **state)
{
    (void)state;
    const struct script_form form = {.step_bytes = DEMAND_SCRIPT_STEP_BYTES,
                                     .steps_max = STEPS_MAX,
                                     .run = demand_script_run,
                                     .print = demand_script_print};
    script_run_random(&form, SCRIPTS, 20261121);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
