/* SPDX-License-Identifier: Apache-2.0 */
/* How near layouts come to the lower bound: the three greedy orders, and the search.
 *
 *   bench_layout [SECONDS]   most seconds of the search on one instance; default 10 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cenote/cenote.h>

#include "layout_instances.h"

enum { BUFFERS_MAX = 20000, PERFECT_COUNT = 20, SLICE = 20000 };

static cenote_layout_buffer buffers[BUFFERS_MAX];
static void *memory;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

struct result {
    cenote_layout_report report;
    double greedy_s, search_s;
};

static struct result solve(uint64_t count, double seconds)
{
    struct result result;
    cenote_layout *layout;
    cenote_error err;
    double begin = now();
    if (cenote_layout_init(buffers, count, memory, &layout, &err) != CENOTE_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    double middle = now();
    while (now() - middle < seconds && cenote_layout_improve(layout, SLICE))
        ;
    result.greedy_s = middle - begin;
    result.search_s = now() - middle;
    cenote_layout_report_get(layout, &result.report);
    const char *broken = cenote_layout_check(layout);
    if (broken != NULL) {
        fprintf(stderr, "%s\n", broken);
        exit(1);
    }
    return result;
}

static void print(const char *name, uint64_t count, const struct result *result)
{
    const cenote_layout_report *report = &result->report;
    double bound = (double)report->lower_bound_bytes;
    printf("%-10s %6" PRIu64, name, count);
    for (int order = 0; order < CENOTE_LAYOUT_ORDER_COUNT; order++)
        printf("  %.4f", (double)report->greedy_bytes[order] / bound);
    printf("  %.4f%s  %8.3f %8.3f  %" PRIu64 "\n", (double)report->peak_bytes / bound,
           report->peak_bytes == report->least_bytes ? "=" : " ", result->greedy_s,
           result->search_s, report->step_count);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 10.0;
    memory = malloc(cenote_layout_bytes(BUFFERS_MAX));
    if (memory == NULL)
        return 1;
    printf("peak over lower bound; = is the least there is; %.0f s of search at most\n"
           "instance    count  by size  by area  by time  searched   greedy s  search s  steps\n",
           seconds);
    unsigned solved = 0;
    for (unsigned i = 0; i < PERFECT_COUNT; i++) {
        uint64_t count = 150 + i * 300 / (PERFECT_COUNT - 1);
        layout_make_perfect(buffers, count, i + 1);
        struct result result = solve(count, seconds);
        print("perfect", count, &result);
        solved += result.report.peak_bytes == result.report.lower_bound_bytes;
    }
    printf("%u of %u perfect packings found\n", solved, (unsigned)PERFECT_COUNT);
    for (uint64_t size = 16; size <= 4096; size *= 16) {
        uint64_t text = layout_make_runner_text(buffers, size);
        struct result result = solve(text, seconds);
        print("text", text, &result);
        uint64_t vision = layout_make_runner_vision(buffers, size);
        result = solve(vision, seconds);
        print("vision", vision, &result);
    }
    static const uint64_t counts[] = {1000, BUFFERS_MAX};
    for (unsigned i = 0; i < 2 * 2; i++) {
        bool training = i % 2 != 0;
        layout_make_transformer(buffers, counts[i / 2], training, i);
        struct result result = solve(counts[i / 2], seconds);
        print(training ? "training" : "inference", counts[i / 2], &result);
    }
    free(memory);
    return 0;
}
