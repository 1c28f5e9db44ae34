/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps an answer from being faster, and what to do about it. */
#ifndef CENOTE_CLI_BOUND_H
#define CENOTE_CLI_BOUND_H

#include "cli.h"

/* "disk", "memory" or "compute". */
const char *cli_bound_text(qwen_bound bound);

/* Of a run, from the share of its decoding that it waited for reads, and the rates that were
 * measured some day (cli_speed_get()). */
qwen_bound cli_bound_of_run(const qwen_plan *plan, const qwen_result *result);

/* What would help most, in words; "" when there is nothing. @p memory is how the budget is said:
 * "--memory", in a conversation "/memory". */
const char *cli_bound_knob(qwen_bound bound, const qwen_plan *plan, const char *memory,
                           char text[160]);

/* Says why decoding was as fast as it was, and what would help. Of @p result count what was decoded
 * and waited, and what is resident. */
void cli_bound_say(const qwen_plan *plan, const qwen_result *result, const char *memory);

#endif
