/* SPDX-License-Identifier: Apache-2.0 */
/* What all benches share: a clock, and figures of interleaved repetitions. A bench that cannot set
 * itself up says so and exits with 1. */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cenote/status.h>

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

static inline void bench_require(cenote_status status, const cenote_error *err)
{
    if (status == CENOTE_OK)
        return;
    fprintf(stderr, "%s\n", err->message);
    exit(1);
}

/* Is what LD_PRELOAD names here, if it names anything? The loader goes on without it. */
static inline bool bench_preloaded(void)
{
    const char *name = getenv("LD_PRELOAD");
    char line[1024];
    bool found = name == NULL || name[0] == '\0';
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && !found && fgets(line, sizeof line, maps) != NULL)
        found = strstr(line, name) != NULL;
    if (maps != NULL)
        fclose(maps);
    return found;
}

#endif
