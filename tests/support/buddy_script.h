/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a range and operations on it, run on the buddy allocator and on a model that looks
 * at every leaf. For the property test and the fuzz target. */
#ifndef TEST_SUPPORT_BUDDY_SCRIPT_H
#define TEST_SUPPORT_BUDDY_SCRIPT_H

#include <stddef.h>
#include <stdint.h>

enum {
    BUDDY_SCRIPT_HEAD_BYTES = 8, /* leaf size, start, length */
    BUDDY_SCRIPT_STEP_BYTES = 6, /* operation and numbers */
};

/* After every operation the same status, the same address, the same walk and figures as the model,
 * and cenote_buddy_check().
 * @return NULL, or what differed first; its step in *out_step when not NULL */
const char *buddy_script_run(const uint8_t *bytes, size_t size, size_t *out_step);

/* One line for each step, for a failing script. */
void buddy_script_print(const uint8_t *bytes, size_t size);

#endif
