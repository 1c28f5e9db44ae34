/* SPDX-License-Identifier: Apache-2.0 */
/* `cenote plan --sweep`: what each budget would buy. */
#ifndef CENOTE_CLI_SWEEP_H
#define CENOTE_CLI_SWEEP_H

#include <jansson.h>

#include "cli.h"

#define CLI_SWEEP_POINTS 9u

struct cli_sweep_point {
    qwen_plan plan;
    qwen_forecast forecast;
};

/* Budgets from the smallest that works to the one in which no weights are read, evenly. */
CENOTE_MUST_CHECK cenote_status cli_sweep_make(const qwen_model *model, const qwen_shape *shape,
                                               const qwen_speed *speed,
                                               struct cli_sweep_point points[CLI_SWEEP_POINTS],
                                               cenote_error *err);
void cli_sweep_print(const struct cli_sweep_point points[CLI_SWEEP_POINTS]);
json_t *cli_sweep_json(const struct cli_sweep_point points[CLI_SWEEP_POINTS]);

#endif
