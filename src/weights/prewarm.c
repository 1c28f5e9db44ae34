/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes to pre-warm a tensor cache with, from the matrices of a model. */
#include <cenote/weights.h>

#include <stdbool.h>
#include <string.h>

/* Rows that the matrix gives one element each; 0: it is none, or none that was asked for. */
static uint64_t outputs_of(const cenote_tensor_info *info, const char *prefix)
{
    bool asked = info->rank >= 2 && info->size_bytes > 0 &&
                 (prefix == NULL || strncmp(info->name, prefix, strlen(prefix)) == 0);
    return asked ? info->shape[0] : 0;
}

/* Has a tensor before this one as many? */
static bool is_known(const cenote_weights *weights, const char *prefix, uint32_t index,
                     uint64_t outputs)
{
    uint32_t i = 0;
    while (i < index && outputs_of(cenote_weights_tensor(weights, i), prefix) != outputs)
        i++;
    return i < index;
}

size_t cenote_weights_prewarm(const cenote_weights *weights, const cenote_weights_outputs *outputs,
                              cenote_tensor_prewarm *out_list, size_t list_max)
{
    size_t count = 0;
    for (uint32_t i = 0; i < cenote_weights_count(weights); i++) {
        uint64_t rows = outputs_of(cenote_weights_tensor(weights, i), outputs->prefix);
        if (rows == 0 || is_known(weights, outputs->prefix, i, rows))
            continue;
        if (count < list_max)
            out_list[count] = (cenote_tensor_prewarm){
                .class_id = outputs->class_id,
                .count = 1,
                .spec = {outputs->dtype, 3, {1, outputs->tokens, rows}},
            };
        count++;
    }
    return count;
}
