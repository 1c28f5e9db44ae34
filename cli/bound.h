/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps an answer from being faster, and what to do about it. */
#ifndef CENOTE_CLI_BOUND_H
#define CENOTE_CLI_BOUND_H

#include "cli.h"

enum cli_bound { CLI_BOUND_DISK, CLI_BOUND_MEMORY, CLI_BOUND_COMPUTE };

/* "disk", "memory" or "compute". */
const char *cli_bound_text(enum cli_bound bound);

/* Of a run, from the share of its decoding that it waited for reads. */
enum cli_bound cli_bound_of_run(const qwen_plan *plan, const qwen_result *result);
/* Of a plan, from the forecast. */
enum cli_bound cli_bound_of_plan(const qwen_plan *plan, const qwen_forecast *forecast);

/* The option that would help most, in words; "" when there is none. */
const char *cli_bound_knob(enum cli_bound bound, const qwen_plan *plan, char text[160]);

#endif
