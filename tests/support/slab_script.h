/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as operations on src/alloc/slab.h, beside a naive model that knows for every 64 bytes of
 * the range to whom they belong. Used by the property test and the fuzzer. */
#ifndef TEST_SLAB_SCRIPT_H
#define TEST_SLAB_SCRIPT_H

#include <stddef.h>
#include <stdint.h>

#define SLAB_SCRIPT_STEP_BYTES 4u

/* Runs the script; what is left over of a step is ignored. @return NULL, or what went wrong, in the
 * step *out_step. */
const char *slab_script_run(const uint8_t *bytes, size_t size, size_t *out_step);

void slab_script_print(const uint8_t *bytes, size_t size);

#endif
