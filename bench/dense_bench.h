/* SPDX-License-Identifier: Apache-2.0 */
/* What the benches of the dense products share: kernels with everything they need. */
#ifndef DENSE_BENCH_H
#define DENSE_BENCH_H

#include <cenote/cenote.h>

#include "bench.h"
#include "kernels.h"

/* ---- kernels ---- */

#define BENCH_ISA_COUNT 2u
static const qwen_isa bench_isas[BENCH_ISA_COUNT] = {QWEN_ISA_AVX2, QWEN_ISA_AVX512};

typedef struct bench_rig {
    cenote_budget *budget;
    cenote_pool *pool;
    cenote_team *team;
    qwen_kernels *kernels[BENCH_ISA_COUNT]; /* NULL where the CPU lacks the set */
} bench_rig;

static inline void bench_rig_open(bench_rig *rig, unsigned thread_count, uint64_t k_max)
{
    cenote_error err;
    cenote_budget_options budget = CENOTE_BUDGET_OPTIONS_INIT;
    budget.limit_bytes = UINT64_C(1) << 40;
    budget.process_bytes = 1;
    cenote_pool_options pool = CENOTE_POOL_OPTIONS_INIT;
    *rig = (bench_rig){0};
    bench_require(cenote_budget_create(&budget, &rig->budget, &err), &err);
    bench_require(cenote_pool_create(rig->budget, &pool, &rig->pool, &err), &err);
    bench_require(cenote_team_create(thread_count, &rig->team, &err), &err);
    for (unsigned i = 0; i < BENCH_ISA_COUNT; i++) {
        cenote_status status =
            qwen_kernels_create(bench_isas[i], rig->team, rig->pool, k_max, &rig->kernels[i], &err);
        if (status == CENOTE_E_UNSUPPORTED)
            printf("skipped: %s\n", err.message);
        else
            bench_require(status, &err);
    }
}

static inline void *bench_alloc(bench_rig *rig, uint64_t size_bytes)
{
    void *data = NULL;
    cenote_error err;
    bench_require(cenote_pool_alloc(rig->pool, size_bytes, &data, &err), &err);
    return data;
}

static inline void bench_rig_close(bench_rig *rig)
{
    for (unsigned i = 0; i < BENCH_ISA_COUNT; i++)
        qwen_kernels_destroy(rig->kernels[i]);
    cenote_team_destroy(rig->team);
    cenote_pool_destroy(rig->pool);
    cenote_budget_destroy(rig->budget);
}

/* ---- operands ---- */

/* xorshift64*, as a float in [-1, 1) */
static inline float bench_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    uint64_t value = *state * UINT64_C(2685821657736338717);
    return (float)((double)(value >> 11) * 0x1p-52 - 1.0);
}

static inline uint16_t bench_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

#endif
