/* SPDX-License-Identifier: Apache-2.0 */
/* From --memory to a limit, and the line that refuses a run which does not fit. */
#include <string.h>

#include "cli.h"
#include "size.h"

/* What there is: the machine's memory, or the lowest cgroup limit when that is less. */
static cenote_status most_bytes(uint64_t *out_bytes, cenote_error *err)
{
    cenote_machine_memory machine;
    cenote_status status = cenote_machine_memory_get(&machine, err);
    if (status == CENOTE_OK)
        *out_bytes = machine.total_bytes < machine.cgroup_limit_bytes ? machine.total_bytes
                                                                      : machine.cgroup_limit_bytes;
    return status;
}

cenote_status cli_limit_parse(const char *text, uint64_t *out_bytes, cenote_error *err)
{
    uint64_t whole_bytes = 0;
    cenote_status status = strchr(text, '%') != NULL ? most_bytes(&whole_bytes, err) : CENOTE_OK;
    return status != CENOTE_OK ? status : cli_size_parse(text, whole_bytes, out_bytes, err);
}

static cenote_status lower_to_machine(const struct cli_options *options, uint64_t *limit_bytes,
                                      cenote_error *err)
{
    uint64_t most;
    cenote_status status = most_bytes(&most, err);
    if (status != CENOTE_OK)
        return status;
    if (*limit_bytes <= most)
        return CENOTE_OK;
    char text[CLI_BYTES_TEXT];
    if (!options->quiet)
        cli_say("note: --memory %s is more than there is; using %s", options->memory_text,
                cli_memory_text(most, text));
    *limit_bytes = most;
    return CENOTE_OK;
}

cenote_status cli_limit_get(const struct cli_options *options, uint64_t *out_limit_bytes,
                            cenote_error *err)
{
    uint64_t limit_bytes = options->memory_bytes;
    if (limit_bytes > 0) {
        cenote_status status = lower_to_machine(options, &limit_bytes, err);
        if (status == CENOTE_OK)
            *out_limit_bytes = limit_bytes;
        return status;
    }
    cenote_machine_memory machine;
    cenote_status status = cenote_machine_memory_get(&machine, err);
    if (status == CENOTE_OK)
        *out_limit_bytes = machine.spare_bytes;
    return status;
}

cenote_status cli_budget_create(cenote_budget **out_budget, cenote_error *err)
{
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = INT64_MAX;
    options.process_bytes = QWEN_PROCESS_BYTES;
    return cenote_budget_create(&options, out_budget, err);
}

#define KV_SHARE_LARGE 4
/* Pictures of 512 x 512 and less have little to give. */
#define PATCHES_LARGE 1024u

static const char *images_hint(const qwen_shape *shape)
{
    for (uint32_t i = 0; i < shape->image_count; i++)
        if ((uint64_t)shape->grid_h[i] * shape->grid_w[i] > PATCHES_LARGE)
            return "; --max-image-tokens N makes the images smaller";
    return "";
}

/* Keys and values are a large part of what does not fit. */
static const char *kv_hint(const struct cli_options *options, const qwen_plan *plan)
{
    bool large = plan->kv_bytes > plan->smallest_bytes / KV_SHARE_LARGE;
    if (large && options->kv_dtype == CENOTE_DTYPE_F32)
        return "; --kv-type bf16 halves the KV";
    return "";
}

int cli_refuse(const struct cli_options *options, const qwen_plan *plan, const qwen_shape *shape)
{
    char needs[CENOTE_ERROR_MESSAGE_BYTES];
    qwen_plan_explain(plan, needs, sizeof needs);
    char limit[CLI_BYTES_TEXT];
    const char *kv = kv_hint(options, plan), *images = images_hint(shape);
    const char *copy = plan->pack != NULL ? "; --cache none takes less" : "";
    if (options->memory_text != NULL)
        cli_say("--memory %s is too small: %s%s%s%s", options->memory_text, needs, kv, images,
                copy);
    else
        cli_say("the %s that this machine can spare are too little: %s%s%s%s",
                cli_memory_text(plan->limit_bytes, limit), needs, kv, images, copy);
    return CLI_EXIT_BUDGET;
}
