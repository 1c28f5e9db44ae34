/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding is a race of two: reads of what is not resident, and products with all weights. When it
 * waits for reads, the disk decides, else the products do: then it is memory if they keep up with
 * what memory gives, which only a measurement tells. Where there was none yet: plain weights are
 * multiplied about as fast as a plain loop reads them (docs/kernels.md), packed ones cost work. */
#include "bound.h"

#include <stdio.h>

#include "speed.h"

/* Waiting less than this share of the time is the beginning and chance. */
#define WAITING_SHARE 0.1
#define SAVING_WORTH  0.05

const char *cli_bound_text(qwen_bound bound)
{
    static const char *const texts[] = {
        [QWEN_BOUND_DISK] = "disk",
        [QWEN_BOUND_MEMORY] = "memory",
        [QWEN_BOUND_COMPUTE] = "compute",
    };
    return texts[bound];
}

qwen_bound cli_bound_of_run(const qwen_plan *plan, const qwen_result *result)
{
    qwen_speed speed;
    if (result->seconds_waiting_decode > WAITING_SHARE * result->decode_s)
        return QWEN_BOUND_DISK;
    if (cli_speed_kernels(plan->thread_count, &speed))
        return qwen_speed_bound(&speed, plan->resident_encoding);
    return plan->resident_encoding == CENOTE_ENCODING_BF12 ? QWEN_BOUND_COMPUTE : QWEN_BOUND_MEMORY;
}

const char *cli_bound_knob(qwen_bound bound, const qwen_plan *plan, const char *memory,
                           char text[160])
{
    char size[CLI_BYTES_TEXT];
    uint32_t cpus = cenote_cpu_count();
    text[0] = '\0';
    double saved = 1 - (double)plan->packed_bytes_per_token / (double)plan->bytes_per_token;
    if (bound == QWEN_BOUND_DISK && saved > SAVING_WORTH && !plan->pack_left_out)
        snprintf(text, 160,
                 "with %s %s no weights would be read, from a packed copy (cenote pack) %.0f "
                 "%% less",
                 memory, cli_memory_text(plan->whole_bytes, size), 100 * saved);
    else if (bound == QWEN_BOUND_DISK)
        snprintf(text, 160, "with %s %s no weights would be read", memory,
                 cli_memory_text(plan->whole_bytes, size));
    else if (plan->thread_count < cpus)
        snprintf(text, 160, "--threads %u would use all processors", cpus);
    return text;
}

void cli_bound_say(const qwen_plan *plan, const qwen_result *result, const char *memory)
{
    char held[CLI_BYTES_TEXT], knob[160];
    qwen_bound bound = cli_bound_of_run(plan, result);
    cli_bound_knob(bound, plan, memory, knob);
    cli_say("bound by %s: %s of weights resident%s, %.0f %% of the time waiting for reads%s%s",
            cli_bound_text(bound), cli_disk_text(result->resident_weight_bytes, held),
            result->resident_encoding == CENOTE_ENCODING_BF12 ? " in 12 bits" : "",
            100 * result->seconds_waiting_decode / result->decode_s, *knob ? "; " : "", knob);
}
