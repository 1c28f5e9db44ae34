/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as demands on pools of four classes, tensors that may be dropped, and a tensor cache that
 * share one small budget, with quotas and the limit moving, against a model that only knows what is
 * live. What the model says fits must not be refused: everything else, idle, kept or rebuildable,
 * has to make way. After each step the books are compared to the byte, and everything's own check
 * is asked. */
#ifndef TEST_DEMAND_SCRIPT_H
#define TEST_DEMAND_SCRIPT_H

#include <stddef.h>
#include <stdint.h>

enum { DEMAND_SCRIPT_STEP_BYTES = 4 };

/* @return NULL, or what went wrong in step *out_step (may be NULL). */
const char *demand_script_run(const uint8_t *bytes, size_t size, size_t *out_step);
void demand_script_print(const uint8_t *bytes, size_t size);

#endif
