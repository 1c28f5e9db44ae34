/* SPDX-License-Identifier: Apache-2.0 */
/* Scripts: bytes that are operations on something, a head and then steps of one length, run beside
 * a model. Seeded ones for property tests; what fails is made as short as it goes. */
#ifndef TEST_SCRIPT_H
#define TEST_SCRIPT_H

#include <stddef.h>
#include <stdint.h>

/* @return NULL, or what went wrong in step *out_step. */
typedef const char *(*script_runner)(const uint8_t *bytes, size_t size, size_t *out_step);

struct script_form {
    size_t head_bytes, step_bytes, steps_max;
    script_runner run;
    void (*print)(const uint8_t *bytes, size_t size);
    void (*draw)(uint64_t *random_state, uint8_t *step); /* NULL: any bytes are a step */
};

/* Leaves out steps, halves of all that is there down to single ones, for as long as it still fails.
 * @return the size that is left. */
size_t script_shrink(const struct script_form *form, uint8_t *script, size_t size);

/* Runs that many random scripts and fails the test at the first that fails. CENOTE_TEST_SEED
 * repeats a run. */
void script_run_random(const struct script_form *form, unsigned count, uint64_t seed);

#endif
