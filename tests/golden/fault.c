/* SPDX-License-Identifier: Apache-2.0 */
/* Which fault of runner/qwen3vl/fault.h the faulty build of a test has: CENOTE_TEST_FAULT's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fault.h"

static enum qwen_fault fault_read(void)
{
#define NAME(name, text) #name,
    static const char *const names[] = {"NONE", QWEN_FAULTS_EACH(NAME)};
    const char *wanted = getenv("CENOTE_TEST_FAULT");
    for (int i = 0; i < QWEN_FAULT_COUNT; i++)
        if (strcmp(wanted != NULL ? wanted : "NONE", names[i]) == 0)
            return (enum qwen_fault)i;
    fprintf(stderr, "CENOTE_TEST_FAULT=%s: there is no such fault\n", wanted);
    exit(2);
}

enum qwen_fault qwen_fault_chosen(void)
{
    static int chosen = -1; /* asked by the thread that runs the job only */
    if (chosen < 0)
        chosen = (int)fault_read();
    return (enum qwen_fault)chosen;
}
