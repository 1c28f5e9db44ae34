/* SPDX-License-Identifier: Apache-2.0 */
/* Widens small tensors (norms, biases, rows of the embedding) to floats. Matrices are never widened
 * here: the products do it on the way, in the load or while packing. */
#include "widen_impl.h"

void qwen_widen(cenote_dtype dtype, const void *from, uint64_t count, float *to)
{
    for (uint64_t i = 0; i < count; i++)
        to[i] = qwen_widen_at(dtype, from, i);
}
