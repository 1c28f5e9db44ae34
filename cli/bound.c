/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding is a race of two: reads of what is not resident, and products with all weights. When it
 * waits for reads, the disk decides. When it does not, the products do: with weights in 12 bits
 * that is the work of decoding them (compute), with plain ones the rate at which memory gives them,
 * for GEMV reads plain weights about as fast as a plain loop does (docs/kernels.md). */
#include "bound.h"

#include <stdio.h>

/* Waiting less than this share of the time is the beginning and chance. */
#define WAITING_SHARE 0.1

const char *cli_bound_text(enum cli_bound bound)
{
    static const char *const texts[] = {
        [CLI_BOUND_DISK] = "disk",
        [CLI_BOUND_MEMORY] = "memory",
        [CLI_BOUND_COMPUTE] = "compute",
    };
    return texts[bound];
}

static enum cli_bound bound_of_products(const qwen_plan *plan)
{
    return plan->resident_encoding == CENOTE_ENCODING_BF12 ? CLI_BOUND_COMPUTE : CLI_BOUND_MEMORY;
}

enum cli_bound cli_bound_of_run(const qwen_plan *plan, const qwen_result *result)
{
    if (result->seconds_waiting_decode > WAITING_SHARE * result->decode_s)
        return CLI_BOUND_DISK;
    return bound_of_products(plan);
}

enum cli_bound cli_bound_of_plan(const qwen_plan *plan, const qwen_forecast *forecast)
{
    return forecast->disk_bound ? CLI_BOUND_DISK : bound_of_products(plan);
}

const char *cli_bound_knob(enum cli_bound bound, const qwen_plan *plan, char text[160])
{
    char size[CLI_BYTES_TEXT];
    uint32_t cpus = cenote_cpu_count();
    text[0] = '\0';
    if (bound == CLI_BOUND_DISK)
        snprintf(text, 160, "with --memory %s no weights would be read",
                 cli_memory_text(plan->whole_bytes, size));
    else if (plan->thread_count < cpus)
        snprintf(text, 160, "--threads %u would use all processors", cpus);
    return text;
}
