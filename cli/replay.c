/* SPDX-License-Identifier: Apache-2.0 */
/* cenote replay: asks an allocator for what a trace says, in the trace's order, and reports where
 * the blocks went, what it took and how long. No block is touched: only the allocator is at work.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "allocator.h"
#include "digest.h"
#include "histogram.h"
#include "json.h"
#include "memory_viz.h"
#include "progress.h"
#include "signals.h"
#include "slurp.h"

#define PROGRESS_PERIOD_OPS 65536u
#define REFUSED             UINT64_MAX /* the place of a block that was not given */

struct replay {
    const struct cli_options *options;
    cenote_budget *budget;
    cenote_pool *memory;
    struct cli_trace trace;
    struct cli_allocator allocator;
    struct cli_digest *digest;
    struct cli_memory_viz *viz; /* NULL: nobody asked */
    struct cli_histogram alloc_ns, free_ns;
    uint64_t refused_count, refused_bytes;
    uint64_t same_count; /* allocations whose offset is their id */
    uint64_t clock_ns;
    double seconds;
    bool cancelled;
};

/* ---- reading ---- */

static cenote_status read_trace(struct replay *replay, cenote_error *err)
{
    const struct cli_options *options = replay->options;
    cenote_error detail;
    char *bytes;
    uint64_t count;
    cli_trace_init(&replay->trace, replay->memory);
    if (options->generate.op_count > 0)
        return cli_trace_generate(&replay->trace, &options->generate, err);
    cenote_status status = cli_slurp(replay->memory, options->path, &bytes, &count, err);
    if (status != CENOTE_OK)
        return status;
    status = cenote_trace_is(bytes, count)
                 ? cli_trace_read_binary(&replay->trace, bytes, count, &detail)
                 : cli_trace_read_text(&replay->trace, bytes, count, &detail);
    cenote_pool_free(replay->memory, bytes);
    if (status != CENOTE_OK)
        return cenote_error_set(err, status, "%s: %s", options->path, detail.message);
    return CENOTE_OK;
}

/* ---- replaying ---- */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* What every time below has in it. */
static uint64_t clock_cost_ns(void)
{
    struct cli_histogram costs = {0};
    for (uint32_t i = 0; i < 1000; i++) {
        uint64_t begin = now_ns();
        cli_histogram_add(&costs, now_ns() - begin);
    }
    return cli_histogram_percentile(&costs, 0.5);
}

/* A block of no bytes is asked of nobody. */
static void replay_alloc(struct replay *replay, uint64_t number, const struct cli_trace_op *op)
{
    uint64_t offset = 0;
    bool given = true;
    if (op->size_bytes > 0) {
        uint64_t begin = now_ns();
        given = replay->allocator.kind->alloc(&replay->allocator, op, &offset);
        cli_histogram_add(&replay->alloc_ns, now_ns() - begin);
    }
    if (!given) {
        replay->allocator.blocks[op->slot] = REFUSED;
        replay->refused_count++;
        replay->refused_bytes += op->size_bytes;
        offset = REFUSED;
    }
    if (given)
        cli_memory_viz_alloc(replay->viz, op, replay->allocator.kind->by_pool ? op->pool : 0,
                             offset);
    replay->same_count += offset == op->id;
    cli_digest_add(replay->digest, number, offset);
}

static void replay_free(struct replay *replay, const struct cli_trace_op *op)
{
    if (op->size_bytes == 0 || replay->allocator.blocks[op->slot] == REFUSED)
        return;
    uint64_t begin = now_ns();
    replay->allocator.kind->free(&replay->allocator, op);
    cli_histogram_add(&replay->free_ns, now_ns() - begin);
    cli_memory_viz_free(replay->viz, op);
}

static void show(struct cli_progress *progress, uint64_t done, uint64_t total)
{
    char line[64];
    snprintf(line, sizeof line, "replaying %" PRIu64 " %%", done * 100 / total);
    cli_progress_line(progress, line);
}

static void run(struct replay *replay)
{
    struct cli_progress progress;
    cli_progress_init(&progress, NULL, 0, replay->options->quiet);
    double begin_s = cli_now_s();
    replay->clock_ns = clock_cost_ns();
    const struct cli_trace *trace = &replay->trace;
    for (uint64_t i = 0; i < trace->op_count && !replay->cancelled; i++) {
        const struct cli_trace_op *op = &trace->ops[i];
        if (op->kind == CLI_TRACE_ALLOC)
            replay_alloc(replay, i, op);
        else if (op->kind == CLI_TRACE_FREE)
            replay_free(replay, op);
        else
            replay->allocator.kind->trim(&replay->allocator, op);
        if (i % PROGRESS_PERIOD_OPS == PROGRESS_PERIOD_OPS - 1) {
            show(&progress, i, trace->op_count);
            replay->cancelled = cli_signals_caught();
        }
    }
    replay->seconds = cli_now_s() - begin_s;
    cli_progress_clear(&progress);
}

/* ---- reporting ---- */

static double ratio(const struct replay *replay)
{
    uint64_t live = replay->trace.live_bytes_peak;
    return live > 0 ? (double)replay->allocator.kind->footprint(&replay->allocator) / (double)live
                    : 1.0;
}

static const double shares[] = {0.5, 0.99, 0.999};

static void print_times(const char *name, const struct cli_histogram *histogram)
{
    uint64_t ns[3];
    for (uint32_t i = 0; i < 3; i++)
        ns[i] = cli_histogram_percentile(histogram, shares[i]);
    printf("%-12s p50 %" PRIu64 " ns, p99 %" PRIu64 " ns, p99.9 %" PRIu64 " ns\n", name, ns[0],
           ns[1], ns[2]);
}

static void print_text(const struct replay *replay)
{
    const struct cli_trace *trace = &replay->trace;
    char live[CLI_BYTES_TEXT], footprint[CLI_BYTES_TEXT], all[CLI_BYTES_TEXT];
    printf("operations   %" PRIu64 ", %" PRIu64 " of them allocations of %s in all\n",
           trace->op_count, trace->alloc_count, cli_memory_text(trace->alloc_bytes, all));
    printf("live         at most %" PRIu64 " blocks and %s at one time\n", trace->live_count_peak,
           cli_memory_text(trace->live_bytes_peak, live));
    printf("allocator    %s\n", replay->allocator.kind->name);
    printf("digest       %016" PRIx64 "\n", cli_digest_sum(replay->digest));
    printf("footprint    %s, %.4f of what lives at most\n",
           cli_memory_text(replay->allocator.kind->footprint(&replay->allocator), footprint),
           ratio(replay));
    printf("committed    %s in all\n",
           cli_memory_text(replay->allocator.kind->committed(&replay->allocator), all));
    printf("moved        %s\n",
           cli_memory_text(replay->allocator.kind->moved(&replay->allocator), all));
    printf("refused      %" PRIu64 "\n", replay->refused_count);
    if (trace->recorded)
        printf("as recorded  %" PRIu64 " of the offsets, %" PRIu64 " of them not\n",
               replay->same_count, trace->alloc_count - replay->same_count);
    print_times("alloc", &replay->alloc_ns);
    print_times("free", &replay->free_ns);
    printf("clock        %" PRIu64 " ns of each time\n", replay->clock_ns);
}

static json_t *times_json(const struct cli_histogram *histogram)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "count", cli_json_count(histogram->count), "p50",
                     cli_json_count(cli_histogram_percentile(histogram, shares[0])), "p99",
                     cli_json_count(cli_histogram_percentile(histogram, shares[1])), "p999",
                     cli_json_count(cli_histogram_percentile(histogram, shares[2])), "largest",
                     cli_json_count(histogram->largest));
}

static json_t *trace_json(const struct cli_trace *trace)
{
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "op_count", cli_json_count(trace->op_count),
        "alloc_count", cli_json_count(trace->alloc_count), "alloc_bytes",
        cli_json_count(trace->alloc_bytes), "live_count_peak",
        cli_json_count(trace->live_count_peak), "live_bytes_peak",
        cli_json_count(trace->live_bytes_peak), "refused_count",
        cli_json_count(trace->refused_count), "foreign_count", cli_json_count(trace->foreign_count),
        "torn_bytes", cli_json_count(trace->torn_bytes));
}

static json_t *memory_json(const struct replay *replay)
{
    const struct cli_allocator *allocator = &replay->allocator;
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "footprint_bytes",
                     cli_json_count(allocator->kind->footprint(allocator)), "ratio",
                     cli_json_real(ratio(replay)), "committed_bytes",
                     cli_json_count(allocator->kind->committed(allocator)), "moved_bytes",
                     cli_json_count(allocator->kind->moved(allocator)), "refused_count",
                     cli_json_count(replay->refused_count), "refused_bytes",
                     cli_json_count(replay->refused_bytes));
}

static json_t *time_json(const struct replay *replay)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "alloc_ns", times_json(&replay->alloc_ns), "free_ns",
                     times_json(&replay->free_ns), "clock_ns", cli_json_count(replay->clock_ns),
                     "seconds", cli_json_real(replay->seconds));
}

static bool print_json(const struct replay *replay)
{
    const struct cli_options *options = replay->options;
    char digest[17];
    snprintf(digest, sizeof digest, "%016" PRIx64, cli_digest_sum(replay->digest));
    return cli_json_print(json_pack(
        "{s:s, s:s, s:o, s:s, s:o, s:o, s:s, s:o, s:o, s:o}", "schema", "cenote.replay/1",
        "version", cenote_version(), "path",
        options->path != NULL ? cli_json_text(options->path) : json_null(), "allocator",
        replay->allocator.kind->name, "budget_bytes",
        options->capacity_bytes > 0 ? cli_json_count(options->capacity_bytes) : json_null(),
        "trace", trace_json(&replay->trace), "digest", digest, "recorded_offsets",
        replay->trace.recorded ? cli_json_count(replay->same_count) : json_null(), "memory",
        memory_json(replay), "time", time_json(replay)));
}

/* What of a recording is not in the replay. */
static void say_missing(const struct replay *replay)
{
    const struct cli_trace *trace = &replay->trace;
    if (trace->torn_bytes > 0)
        cli_say("%s: the recording was cut off: its last %" PRIu64 " bytes are not replayed",
                replay->options->path, trace->torn_bytes);
    if (trace->foreign_count > 0)
        cli_say("%s: %" PRIu64 " frees of blocks from before the recording are not replayed",
                replay->options->path, trace->foreign_count);
    if (trace->refused_count > 0)
        cli_say("%s: %" PRIu64 " allocations were refused when it was recorded",
                replay->options->path, trace->refused_count);
}

static int report(const struct replay *replay)
{
    if (replay->cancelled) {
        cli_say("interrupted");
        return CLI_EXIT_INTERRUPTED;
    }
    if (!replay->options->quiet)
        say_missing(replay);
    if (!replay->options->json)
        print_text(replay);
    else if (!print_json(replay))
        return CLI_EXIT_FAILURE;
    if (replay->refused_count == 0)
        return CLI_EXIT_OK;
    if (!replay->options->quiet)
        cli_say("%" PRIu64 " allocations of %" PRIu64
                " did not fit; their blocks were left out of the replay",
                replay->refused_count, replay->trace.alloc_count);
    return CLI_EXIT_BUDGET;
}

/* ---- the command ---- */

static cenote_status prepare(struct replay *replay, cenote_error *err)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    const char *name = replay->options->allocator;
    const struct cli_allocator_kind *kind = cli_allocator_find(name != NULL ? name : "cenote");
    if ((replay->options->path == NULL) == (replay->options->generate.op_count == 0))
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "replay: either TRACE or --generate (see 'cenote replay --help')");
    cenote_status status = cli_budget_create(&replay->budget, err);
    if (status == CENOTE_OK)
        status = cenote_pool_create(replay->budget, &options, &replay->memory, err);
    if (status == CENOTE_OK)
        status = read_trace(replay, err);
    if (status == CENOTE_OK)
        status = cli_digest_create(&replay->digest, err);
    if (status == CENOTE_OK)
        status = cli_allocator_open(&replay->allocator, kind, &replay->trace,
                                    replay->options->capacity_bytes, err);
    if (status == CENOTE_OK && replay->options->memory_viz_path != NULL)
        status = cli_memory_viz_open(replay->options->memory_viz_path, &replay->trace, &replay->viz,
                                     err);
    return status;
}

int cli_replay(const struct cli_options *options)
{
    static struct replay replay; /* some 80 KB: more than a stack should have to give */
    cenote_error err;
    replay.options = options;
    int code;
    if (prepare(&replay, &err) == CENOTE_OK) {
        cli_signals_catch();
        run(&replay);
        bool whole = !replay.cancelled;
        code = cli_memory_viz_close(replay.viz, whole, &err) == CENOTE_OK ? report(&replay)
                                                                          : cli_fail(&err);
    } else {
        code = cli_fail(&err);
    }
    cli_allocator_close(&replay.allocator);
    cli_digest_destroy(replay.digest);
    (void)cenote_pool_destroy(replay.memory);
    cenote_budget_destroy(replay.budget);
    return code;
}
