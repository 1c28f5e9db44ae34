/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a range and operations on the buddy allocator (support/buddy_script.h). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "buddy_script.h"

enum { STEPS_MAX = 120 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t most = BUDDY_SCRIPT_HEAD_BYTES + STEPS_MAX * BUDDY_SCRIPT_STEP_BYTES, step = 0;
    if (size > most)
        size = most;
    const char *wrong = buddy_script_run(data, size, &step);
    if (wrong != NULL) {
        fprintf(stderr, "step %zu: %s\n", step, wrong);
        buddy_script_print(data, size);
        abort();
    }
    return 0;
}
