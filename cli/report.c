/* SPDX-License-Identifier: Apache-2.0 */
/* json_pack() takes over ("o") what it is given, NULL included, and then gives NULL: one check at
 * the end covers every allocation above it. */
#include "report.h"

#include "bound.h"

#define COUNT(n) cli_json_count(n)
#define REAL(x)  cli_json_real(x)

const char *cli_form_text(cenote_encoding encoding)
{
    return encoding == CENOTE_ENCODING_BF12 ? "bf12" : "plain";
}

const char *cli_copy_text(const qwen_plan *plan)
{
    if (plan->pack_left_out)
        return "no room";
    return plan->pack != NULL ? "read" : "none";
}

uint64_t cli_peak_bytes(const cenote_process_memory *process)
{
    return process->resident_peak_bytes + process->page_table_bytes;
}

json_t *cli_grids_json(const uint32_t *grids, uint32_t image_count)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < image_count; i++)
        if (json_array_append_new(array, cli_json_ids(grids + 3 * i, 3)) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

bool cli_plan_json_add(json_t *memory, const qwen_plan *plan)
{
    const struct {
        const char *name;
        uint64_t size_bytes;
    } parts[] = {
        {"smallest_budget_bytes", plan->smallest_bytes},
        {"process_bytes", plan->process_bytes},
        {"tables_bytes", plan->tables_bytes},
        {"books_bytes", plan->books_bytes},
        {"weights_bytes", plan->weights_bytes},
        {"scratch_bytes", plan->scratch_bytes},
        {"staging_bytes", plan->staging_bytes},
        {"kv_bytes", plan->kv_bytes},
        {"image_bytes", plan->image_bytes},
        {"activation_bytes", plan->activation_bytes},
        {"resident_vision_bytes", plan->resident_vision_bytes},
        {"resident_prefill_bytes", plan->resident_prefill_bytes},
        {"resident_bytes", plan->resident_bytes},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (json_object_set_new(memory, parts[i].name, COUNT(parts[i].size_bytes)) != 0)
            return false;
    return true;
}

static json_t *memory_json(const struct cli_run_report *report)
{
    const cenote_process_memory *process = &report->process;
    json_t *memory = json_pack(
        "{s:o, s:o, s:o, s:o, s:o}", "budget_bytes", COUNT(report->budget.limit_bytes),
        "peak_bytes", COUNT(cli_peak_bytes(process)), "resident_peak_bytes",
        COUNT(process->resident_peak_bytes), "page_table_bytes", COUNT(process->page_table_bytes),
        "charged_peak_bytes", COUNT(report->budget.charged_peak_bytes));
    const qwen_result *result = report->result;
    bool complete =
        memory != NULL && cli_plan_json_add(memory, report->plan) &&
        json_object_set_new(memory, "resident_weight_bytes",
                            COUNT(result->resident_weight_bytes)) == 0 &&
        json_object_set_new(memory, "resident_form",
                            json_string(cli_form_text(result->resident_encoding))) == 0 &&
        json_object_set_new(memory, "resident_refused_panels",
                            COUNT(result->resident_refused_panels)) == 0;
    if (complete)
        return memory;
    json_decref(memory);
    return NULL;
}

static json_t *reals_json(const double *values, uint32_t count)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < count; i++)
        if (json_array_append_new(array, REAL(values[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *io_json(const struct cli_run_report *report)
{
    cenote_weights_stats stats;
    cenote_weights_stats_get(qwen_model_weights(report->model), &stats);
    const qwen_result *result = report->result;
    return json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:b, s:o, s:o, s:o, s:o}",
        "packed_copy", cli_copy_text(report->plan), "weight_bytes_read",
        COUNT(result->weight_bytes_read), "bytes_read_decode", COUNT(result->bytes_read_decode),
        "bytes_read_per_token", COUNT(result->bytes_read_per_token), "pack_failures",
        COUNT(stats.pack_failures), "seconds_waiting_decode", REAL(result->seconds_waiting_decode),
        "seconds_waiting_start", REAL(result->seconds_waiting_start), "seconds_waiting_by_layer",
        reals_json(result->layer_waiting_s, result->layer_waiting_count), "prefill_weight_passes",
        COUNT(result->prefill_weight_passes), "engine", stats.engine, "direct", (int)stats.direct,
        "seconds_waiting", REAL(result->seconds_waiting), "read_count", COUNT(stats.read_count),
        "retry_count", COUNT(stats.retry_count), "process_disk_read_bytes",
        COUNT(report->process.disk_read_bytes));
}

static json_t *draft_json(const qwen_plan *plan, const qwen_result *result)
{
    double passes = result->decode_passes;
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "rows", COUNT(plan->draft_rows), "passes",
                     COUNT(result->decode_passes), "guessed", COUNT(result->draft_guessed),
                     "accepted", COUNT(result->draft_accepted), "tokens_per_pass",
                     REAL(passes > 0 ? (result->token_count - 1) / passes : 0));
}

static json_t *time_json(const struct cli_run_report *report)
{
    const qwen_result *result = report->result;
    qwen_bound bound = cli_bound_of_run(report->plan, result);
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "bound",
                     result->token_count > 1 ? cli_bound_text(bound) : "none", "load_s",
                     REAL(result->load_s), "vision_s", REAL(result->vision_s), "prefill_s",
                     REAL(result->prefill_s), "decode_s", REAL(result->decode_s),
                     "seconds_per_token", REAL(result->seconds_per_token), "total_s",
                     REAL(report->total_s));
}

bool cli_sampling_json_add(json_t *object, const qwen_sampling *sampling)
{
    /* Zeros stand for none; said is what they mean. */
    double top_p = sampling->top_p > 0 ? (double)sampling->top_p : 1;
    double penalty = sampling->repetition_penalty > 0 ? (double)sampling->repetition_penalty : 1;
    json_t *members =
        json_pack("{s:o, s:o, s:o, s:o, s:o}", "temperature", REAL((double)sampling->temperature),
                  "top_k", COUNT(sampling->top_k), "top_p", REAL(top_p), "repetition_penalty",
                  REAL(penalty), "seed", COUNT(sampling->seed));
    bool added = members != NULL && json_object_update(object, members) == 0;
    json_decref(members);
    return added;
}

json_t *cli_run_json(const struct cli_run_report *report)
{
    const struct cli_options *options = report->options;
    const qwen_result *result = report->result;
    uint64_t prompt_count;
    const uint32_t *prompt_ids = qwen_job_prompt_ids(report->job, &prompt_count);
    json_t *object = json_pack(
        "{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:s}", "schema",
        "cenote.run/1", "version", cenote_version(), "model", cli_json_text(options->path), "text",
        cli_json_text(result->text), "prompt_token_ids", cli_json_ids(prompt_ids, prompt_count),
        "token_ids", cli_json_ids(result->token_ids, result->token_count), "grid_thw",
        cli_grids_json(qwen_job_grids(report->job), options->image_count), "stop_reason",
        result->stop_reason, "memory", memory_json(report), "io", io_json(report), "time",
        time_json(report), "draft", draft_json(report->plan, result), "threads",
        COUNT(report->plan->thread_count), "kv_type",
        options->kv_dtype == CENOTE_DTYPE_BF16 ? "bf16" : "f32");
    if (object != NULL && cli_sampling_json_add(object, report->sampling))
        return object;
    json_decref(object);
    return NULL;
}

/* What is only there when the message was asked. */
static json_t *asked_json(const struct cli_run_report *report)
{
    const qwen_result *result = report->result;
    json_t *object =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "text", cli_json_text(result->text),
                  "token_ids", cli_json_ids(result->token_ids, result->token_count),
                  "prompt_tokens", COUNT(result->prompt_tokens), "past_tokens",
                  COUNT(result->past_tokens), "memory", memory_json(report), "io", io_json(report),
                  "time", time_json(report), "draft", draft_json(report->plan, result));
    if (object != NULL && cli_sampling_json_add(object, report->sampling))
        return object;
    json_decref(object);
    return NULL;
}

json_t *cli_turn_json(const struct cli_run_report *report, const qwen_session_stats *stats,
                      uint32_t turn, const cenote_error *err)
{
    json_t *object = json_pack(
        "{s:s, s:s, s:o, s:o, s:s, s:o, s:o, s:o}", "schema", "cenote.chat/1", "version",
        cenote_version(), "model", cli_json_text(report->options->path), "turn", COUNT(turn),
        "stop_reason", report->result != NULL ? report->result->stop_reason : "error", "error",
        err != NULL ? cli_json_text(err->message) : json_null(), "context_tokens",
        COUNT(stats->context_tokens), "used_tokens", COUNT(stats->used_tokens));
    if (object == NULL || report->result == NULL)
        return object;
    json_t *asked = asked_json(report);
    bool added = asked != NULL && json_object_update(object, asked) == 0;
    json_decref(asked);
    if (added)
        return object;
    json_decref(object);
    return NULL;
}
