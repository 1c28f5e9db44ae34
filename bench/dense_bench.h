/* SPDX-License-Identifier: Apache-2.0 */
/* What the benches of the dense products share: a clock, figures of interleaved repetitions, and
 * kernels with everything they need. A bench that cannot set itself up says so and exits with 1. */
#ifndef DENSE_BENCH_H
#define DENSE_BENCH_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cenote/cenote.h>

#include "kernels.h"

#define BENCH_REPETITIONS_MAX 101u

static inline double bench_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- figures ---- */

/* One figure per repetition. */
typedef struct bench_series {
    unsigned count;
    double values[BENCH_REPETITIONS_MAX];
} bench_series;

static inline void bench_add(bench_series *series, double value)
{
    if (series->count < BENCH_REPETITIONS_MAX)
        series->values[series->count++] = value;
}

static inline int bench_compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* The value below which @p share of the series lies; 0.5 is the median. */
static inline double bench_quantile(const bench_series *series, double share)
{
    bench_series sorted = *series;
    if (sorted.count == 0)
        return 0.0;
    qsort(sorted.values, sorted.count, sizeof *sorted.values, bench_compare);
    return sorted.values[(unsigned)(share * (sorted.count - 1) + 0.5)];
}

/* Ratios are taken repetition by repetition: what disturbs a machine disturbs neighbours alike. */
static inline bench_series bench_ratio(const bench_series *over, const bench_series *under)
{
    bench_series ratio = {0};
    for (unsigned i = 0; i < over->count && i < under->count; i++)
        bench_add(&ratio, over->values[i] / under->values[i]);
    return ratio;
}

/* "median (quarter .. three quarters)" */
static inline void bench_print(const char *format, const bench_series *series)
{
    printf(format, bench_quantile(series, 0.5), bench_quantile(series, 0.25),
           bench_quantile(series, 0.75));
}

static inline unsigned bench_repetitions(unsigned usual)
{
    const char *text = getenv("CENOTE_BENCH_REPETITIONS");
    unsigned long count = text != NULL ? strtoul(text, NULL, 10) : 0;
    if (count == 0)
        return usual;
    return count < BENCH_REPETITIONS_MAX ? (unsigned)count : BENCH_REPETITIONS_MAX;
}

/* ---- kernels ---- */

#define BENCH_ISA_COUNT 2u
static const qwen_isa bench_isas[BENCH_ISA_COUNT] = {QWEN_ISA_AVX2, QWEN_ISA_AVX512};

typedef struct bench_rig {
    cenote_budget *budget;
    cenote_pool *pool;
    cenote_team *team;
    qwen_kernels *kernels[BENCH_ISA_COUNT]; /* NULL where the CPU lacks the set */
} bench_rig;

static inline void bench_require(cenote_status status, const cenote_error *err)
{
    if (status == CENOTE_OK)
        return;
    fprintf(stderr, "%s\n", err->message);
    exit(1);
}

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
