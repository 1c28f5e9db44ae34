/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON object of a run, schema cenote.run/1, and the parts of a plan that several reports
 * show. */
#ifndef CENOTE_CLI_REPORT_H
#define CENOTE_CLI_REPORT_H

#include "json.h"

struct cli_run_report {
    const struct cli_options *options;
    const qwen_model *model;
    const qwen_job *job;
    const qwen_shape *shape;
    const qwen_sampling *sampling;
    const qwen_plan *plan;
    const qwen_result *result;
    cenote_budget_stats budget;
    cenote_process_memory process;
    double total_s;
};

/* "plain" or "bf12". */
const char *cli_form_text(cenote_encoding encoding);

/* Of the packed copy: "read", "no room" or "none". */
const char *cli_copy_text(const qwen_plan *plan);

/* What --memory is a promise about: VmHWM + VmPTE. */
uint64_t cli_peak_bytes(const cenote_process_memory *process);

/* NULL without memory, as all of jansson. */
json_t *cli_run_json(const struct cli_run_report *report);
/* A message of a conversation and what came of it, schema cenote.chat/1. Of @p report options,
 * model, sampling, plan, result, budget and process count; without a result the message was not
 * asked, and @p err says why. @p err NULL: nothing went wrong. */
json_t *cli_turn_json(const struct cli_run_report *report, const qwen_session_stats *stats,
                      uint32_t turn, const cenote_error *err);
/* Adds temperature, top_k, top_p, repetition_penalty and seed, as they were used. @return false
 * without memory. */
bool cli_sampling_json_add(json_t *object, const qwen_sampling *sampling);
json_t *cli_grids_json(const uint32_t *grids, uint32_t image_count);
/* Adds the members of the plan that add up to its memory. @return false without memory. */
bool cli_plan_json_add(json_t *memory, const qwen_plan *plan);

#endif
