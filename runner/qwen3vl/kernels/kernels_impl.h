/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernels' own files share; nobody else includes it. */
#ifndef QWEN_KERNELS_IMPL_H
#define QWEN_KERNELS_IMPL_H

#include "kernels.h"

struct qwen_kernels {
    qwen_isa isa; /* never AUTO */
    cenote_team *team;
    cenote_pool *pool;
    unsigned char *scratch; /* team size * scratch_bytes, each part 64-byte aligned */
    size_t scratch_bytes;   /* per thread: the larger of the two below */
    uint64_t k_max;
    cenote_hardware hardware; /* decides how products are cut, which no result sees */
};

static inline void *qwen_kernels_scratch(const qwen_kernels *kernels, unsigned rank)
{
    return kernels->scratch + rank * kernels->scratch_bytes;
}

/* Per thread, multiples of 64. */
size_t qwen_dense_scratch_bytes(uint64_t k_max);
size_t qwen_attention_scratch_bytes(void);

#endif
