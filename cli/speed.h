/* SPDX-License-Identifier: Apache-2.0 */
/* The rates of this machine, measured once and kept in the user's cache directory. */
#ifndef CENOTE_CLI_SPEED_H
#define CENOTE_CLI_SPEED_H

#include "cli.h"

/* Rates for the disk under the model's first file, read in the model's panels by @p engine, and for
 * kernels with @p thread_count threads: those of speed.json, and what is missing there is measured
 * (some two seconds) and kept. With @p anew everything is measured. A speed.json that cannot be
 * read or written is no error. Errors: CENOTE_E_UNSUPPORTED (a model or a machine too small to
 * measure), of the measurement. */
CENOTE_MUST_CHECK cenote_status cli_speed_get(qwen_model *model, cenote_budget *budget,
                                              cenote_io_engine engine, uint32_t thread_count,
                                              bool anew, qwen_speed *out_speed, cenote_error *err);

/* Only what speed.json has of kernels; false when it is not there. */
bool cli_speed_kernels(uint32_t thread_count, qwen_speed *out_speed);

/* How many reads at a time the disk under the model wants, by speed.json; 0: not known. */
uint32_t cli_speed_depth(qwen_model *model, cenote_io_engine engine);

#endif
