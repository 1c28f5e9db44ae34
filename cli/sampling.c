/* SPDX-License-Identifier: Apache-2.0 */
/* How tokens are to be chosen: greedily unless the user asks for a draw, by --sample (as the model
 * suggests), by --temperature, or by what only makes sense with one. */
#include "cli.h"

cenote_status cli_sampling_get(const struct cli_options *options, const qwen_model *model,
                               qwen_sampling *out_sampling, cenote_error *err)
{
    const qwen_sampling *given = &options->sampling;
    bool top_k = given->top_k != CLI_TOP_K_NOT_GIVEN, top_p = given->top_p >= 0;
    qwen_sampling sampling = {.temperature = top_k || top_p ? 1 : 0};
    if (options->sample) {
        cenote_status status = qwen_model_sampling(model, &sampling, err);
        if (status != CENOTE_OK)
            return status;
    }
    if (given->temperature >= 0)
        sampling.temperature = given->temperature;
    if (top_k)
        sampling.top_k = given->top_k;
    if (top_p)
        sampling.top_p = given->top_p;
    if (given->repetition_penalty >= 0)
        sampling.repetition_penalty = given->repetition_penalty;
    sampling.seed = given->seed;
    *out_sampling = sampling;
    return CENOTE_OK;
}
