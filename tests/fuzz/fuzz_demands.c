/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as demands on pools that share one small budget (support/demand_script.h). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "demand_script.h"

enum { STEPS_MAX = 120 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t step = 0;
    if (size > STEPS_MAX * DEMAND_SCRIPT_STEP_BYTES)
        size = STEPS_MAX * DEMAND_SCRIPT_STEP_BYTES;
    const char *wrong = demand_script_run(data, size, &step);
    if (wrong != NULL) {
        fprintf(stderr, "step %zu: %s\n", step, wrong);
        demand_script_print(data, size);
        abort();
    }
    return 0;
}
