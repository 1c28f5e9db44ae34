/* SPDX-License-Identifier: Apache-2.0 */
#include "sweep.h"

#include <stdio.h>

#include "bound.h"
#include "json.h"

#define BAR_COLUMNS 32

cenote_status cli_sweep_make(const qwen_model *model, const qwen_shape *shape,
                             const qwen_speed *speed,
                             struct cli_sweep_point points[CLI_SWEEP_POINTS], cenote_error *err)
{
    qwen_plan plan;
    cenote_status status = qwen_plan_make(model, shape, 1, &plan, err);
    uint64_t smallest = plan.smallest_bytes;
    if (status == CENOTE_OK)
        status = qwen_plan_make(model, shape, smallest, &plan, err);
    if (status != CENOTE_OK)
        return status;
    /* The plan of the whole has more slots and a larger chunk than that of the smallest. */
    for (int round = 0; status == CENOTE_OK && round < 3; round++)
        status = qwen_plan_make(model, shape, plan.whole_bytes, &plan, err);
    uint64_t whole = plan.whole_bytes > smallest ? plan.whole_bytes : smallest;
    for (uint64_t i = 0; status == CENOTE_OK && i < CLI_SWEEP_POINTS; i++) {
        uint64_t limit = smallest + (whole - smallest) * i / (CLI_SWEEP_POINTS - 1);
        status = qwen_plan_make(model, shape, limit, &points[i].plan, err);
        if (status == CENOTE_OK)
            qwen_plan_forecast(&points[i].plan, speed, &points[i].forecast);
    }
    return status;
}

void cli_sweep_print(const struct cli_sweep_point points[CLI_SWEEP_POINTS])
{
    char limit[CLI_BYTES_TEXT], read[CLI_BYTES_TEXT];
    double longest = points[0].forecast.seconds_per_token;
    printf("\n  %-12s %12s %10s   (%u tokens)\n", "budget", "read a token", "s a token",
           points[0].plan.max_tokens);
    for (uint32_t i = 0; i < CLI_SWEEP_POINTS; i++) {
        const qwen_forecast *forecast = &points[i].forecast;
        int bar = (int)(BAR_COLUMNS * forecast->seconds_per_token / longest + 0.5);
        printf("  %-12s %12s %10.3f  %.*s%*s %s\n",
               cli_memory_text(points[i].plan.limit_bytes, limit),
               cli_disk_text(points[i].plan.bytes_per_token, read), forecast->seconds_per_token,
               bar < BAR_COLUMNS ? bar : BAR_COLUMNS, "################################",
               bar < BAR_COLUMNS ? BAR_COLUMNS - bar : 0, "", cli_bound_text(forecast->bound));
    }
}

json_t *cli_sweep_json(const struct cli_sweep_point points[CLI_SWEEP_POINTS])
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < CLI_SWEEP_POINTS; i++) {
        const qwen_plan *plan = &points[i].plan;
        const qwen_forecast *forecast = &points[i].forecast;
        json_t *point = json_pack(
            "{s:o, s:o, s:o, s:o, s:s}", "budget_bytes", cli_json_count(plan->limit_bytes),
            "resident_bytes", cli_json_count(plan->resident_bytes), "bytes_read_per_token",
            cli_json_count(plan->bytes_per_token), "seconds_per_token",
            cli_json_real(forecast->seconds_per_token), "bound", cli_bound_text(forecast->bound));
        if (json_array_append_new(array, point) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}
