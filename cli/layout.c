/* SPDX-License-Identifier: Apache-2.0 */
/* cenote layout: offsets for buffers whose lifetimes are known. All that depends on the file's size
 * is in one pool: the text, its rows, the buffers, the layout. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "json.h"
#include "layout_csv.h"
#include "progress.h"
#include "signals.h"
#include "slurp.h"

/* Between looks at the clock; some milliseconds for a few hundred buffers. */
#define SLICE_STEPS       4096u
#define PROGRESS_PERIOD_S 0.1
#define TIME_LIMIT_S      10.0

struct work {
    const struct cli_options *options;
    cenote_budget *budget;
    cenote_pool *pool;
    char *text;
    uint64_t text_bytes;
    struct cli_layout_row *rows;
    uint64_t count;
    cenote_layout *layout;
    cenote_layout_report report;
    double search_s;
    const char *stop_reason;
};

/* ---- reading ---- */

static cenote_status alloc(struct work *work, uint64_t count, uint64_t element_bytes,
                           void **out_data, cenote_error *err)
{
    uint64_t size_bytes;
    if (__builtin_mul_overflow(count + 1, element_bytes, &size_bytes)) /* + 1: never none */
        return cenote_error_set(err, CENOTE_E_NOMEM, "%" PRIu64 " buffers are too many", count);
    return cenote_pool_alloc(work->pool, size_bytes, out_data, err);
}

static cenote_status read_rows(struct work *work, cenote_error *err)
{
    cenote_error detail;
    void *rows;
    uint64_t rows_max = cli_layout_csv_rows_max(work->text, work->text_bytes);
    cenote_status status = alloc(work, rows_max, sizeof *work->rows, &rows, err);
    if (status != CENOTE_OK)
        return status;
    work->rows = rows;
    status = cli_layout_csv_read(work->text, work->text_bytes, work->rows, &work->count, &detail);
    if (status != CENOTE_OK)
        return cenote_error_set(err, status, "%s: %s", work->options->path, detail.message);
    return CENOTE_OK;
}

static cenote_status make_layout(struct work *work, cenote_error *err)
{
    void *buffers, *memory;
    cenote_status status = alloc(work, work->count, sizeof(cenote_layout_buffer), &buffers, err);
    if (status == CENOTE_OK)
        status = alloc(work, cenote_layout_bytes(work->count), 1, &memory, err);
    if (status != CENOTE_OK)
        return status;
    for (uint64_t i = 0; i < work->count; i++)
        ((cenote_layout_buffer *)buffers)[i] = work->rows[i].buffer;
    return cenote_layout_init(buffers, work->count, memory, &work->layout, err);
}

/* ---- searching ---- */

static bool fits(const struct work *work)
{
    uint64_t capacity_bytes = work->options->capacity_bytes;
    return capacity_bytes == 0 || work->report.peak_bytes <= capacity_bytes;
}

static double ratio(const cenote_layout_report *report)
{
    return report->lower_bound_bytes > 0
               ? (double)report->peak_bytes / (double)report->lower_bound_bytes
               : 1.0;
}

/* NULL: go on. */
static const char *reason_to_stop(const struct work *work, double limit_s)
{
    const struct cli_options *options = work->options;
    if (work->report.peak_bytes == work->report.least_bytes)
        return "optimal";
    if (options->capacity_bytes > 0 && fits(work))
        return "fits";
    if (work->report.least_bytes > options->capacity_bytes && options->capacity_bytes > 0)
        return "impossible";
    if (cli_signals_caught())
        return "cancelled";
    if (options->step_count > 0 && work->report.step_count >= options->step_count)
        return "steps";
    return work->search_s >= limit_s ? "time" : NULL;
}

static void show(struct cli_progress *progress, const struct work *work)
{
    char line[128];
    snprintf(line, sizeof line,
             "searching %.1f s  peak %.4f times the lower bound  %" PRIu64 " improvements",
             work->search_s, ratio(&work->report), work->report.improvement_count);
    cli_progress_line(progress, line);
}

static void search(struct work *work)
{
    const struct cli_options *options = work->options;
    double limit_s = options->time_limit_s;
    if (limit_s < 0)
        limit_s = options->step_count > 0 ? INFINITY : TIME_LIMIT_S;
    struct cli_progress progress;
    cli_progress_init(&progress, NULL, 0, options->quiet);
    double begin_s = cli_now_s(), shown_s = 0;
    uint64_t asked = 0;
    for (;;) {
        work->search_s = cli_now_s() - begin_s;
        cenote_layout_report_get(work->layout, &work->report);
        work->stop_reason = reason_to_stop(work, limit_s);
        if (work->stop_reason != NULL)
            break;
        if (work->search_s >= shown_s + PROGRESS_PERIOD_S) {
            show(&progress, work);
            shown_s = work->search_s;
        }
        uint64_t slice = SLICE_STEPS;
        if (options->step_count > 0 && options->step_count - asked < slice)
            slice = options->step_count - asked;
        (void)cenote_layout_improve(work->layout, slice);
        asked += slice;
    }
    cli_progress_clear(&progress);
}

/* ---- writing ---- */

static void print_csv(const struct work *work)
{
    puts("id,offset");
    for (uint64_t i = 0; i < work->count; i++) {
        fwrite(work->text + work->rows[i].id_offset, 1, work->rows[i].id_bytes, stdout);
        printf(",%" PRIu64 "\n", cenote_layout_offset(work->layout, i));
    }
}

static json_t *offsets_json(const struct work *work)
{
    json_t *offsets = json_array();
    for (uint64_t i = 0; i < work->count; i++) {
        char *id = work->text + work->rows[i].id_offset;
        id[work->rows[i].id_bytes] = '\0'; /* the comma after it */
        json_t *offset = json_pack("{s:o, s:o}", "id", cli_json_text(id), "offset",
                                   cli_json_count(cenote_layout_offset(work->layout, i)));
        if (json_array_append_new(offsets, offset) != 0) {
            json_decref(offsets);
            return NULL;
        }
    }
    return offsets;
}

static json_t *greedy_json(const cenote_layout_report *report)
{
    json_t *greedy = json_object();
    for (int order = 0; order < CENOTE_LAYOUT_ORDER_COUNT; order++)
        if (json_object_set_new(greedy, cenote_layout_order_text((cenote_layout_order)order),
                                cli_json_count(report->greedy_bytes[order])) != 0) {
            json_decref(greedy);
            return NULL;
        }
    return greedy;
}

static bool print_json(const struct work *work)
{
    const cenote_layout_report *report = &work->report;
    uint64_t capacity_bytes = work->options->capacity_bytes;
    return cli_json_print(json_pack(
        "{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:s, s:o, s:b, s:o}",
        "schema", "cenote.layout/1", "version", cenote_version(), "path",
        cli_json_text(work->options->path), "buffer_count", cli_json_count(report->buffer_count),
        "lower_bound_bytes", cli_json_count(report->lower_bound_bytes), "least_bytes",
        cli_json_count(report->least_bytes), "peak_bytes", cli_json_count(report->peak_bytes),
        "ratio", cli_json_real(ratio(report)), "greedy_bytes", greedy_json(report), "greedy_best",
        cenote_layout_order_text(report->greedy_best), "improvements",
        cli_json_count(report->improvement_count), "steps", cli_json_count(report->step_count),
        "seconds", cli_json_real(work->search_s), "stop_reason", work->stop_reason,
        "capacity_bytes", capacity_bytes > 0 ? cli_json_count(capacity_bytes) : json_null(), "fits",
        fits(work), "offsets", offsets_json(work)));
}

static void say_summary(const struct work *work)
{
    const cenote_layout_report *report = &work->report;
    cli_say("peak %" PRIu64
            " bytes, %.4f times the lower bound%s; the best greedy order, by %s, had %" PRIu64
            "; %" PRIu64 " steps in %.2f s",
            report->peak_bytes, ratio(report),
            report->peak_bytes == report->least_bytes ? " and the least there is" : "",
            cenote_layout_order_text(report->greedy_best),
            report->greedy_bytes[report->greedy_best], report->step_count, work->search_s);
}

static int refuse(const struct work *work)
{
    const cenote_layout_report *report = &work->report;
    cli_say("--capacity of %" PRIu64 " bytes is too small: the best layout found has %" PRIu64
            " bytes, and none has less than %" PRIu64,
            work->options->capacity_bytes, report->peak_bytes, report->least_bytes);
    return CLI_EXIT_BUDGET;
}

static int write_out(const struct work *work)
{
    bool ended = strcmp(work->stop_reason, "cancelled") != 0;
    if (work->options->json && !print_json(work))
        return CLI_EXIT_FAILURE;
    if (!fits(work) && ended)
        return refuse(work);
    if (!ended)
        cli_say("interrupted; this is the best so far");
    if (!work->options->json)
        print_csv(work);
    if (!work->options->quiet)
        say_summary(work);
    return ended ? CLI_EXIT_OK : CLI_EXIT_INTERRUPTED;
}

/* ---- the command ---- */

static cenote_status prepare(struct work *work, cenote_error *err)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    cenote_status status = cli_budget_create(&work->budget, err);
    if (status == CENOTE_OK)
        status = cenote_pool_create(work->budget, &options, &work->pool, err);
    if (status == CENOTE_OK)
        status = cli_slurp(work->pool, work->options->path, &work->text, &work->text_bytes, err);
    if (status == CENOTE_OK)
        status = read_rows(work, err);
    if (status == CENOTE_OK)
        status = make_layout(work, err);
    return status;
}

int cli_layout(const struct cli_options *options)
{
    cenote_error err;
    struct work work = {.options = options};
    int code;
    if (prepare(&work, &err) == CENOTE_OK) {
        cli_signals_catch(); /* only now is there something to keep */
        search(&work);
        code = write_out(&work);
    } else {
        code = cli_fail(&err);
    }
    (void)cenote_pool_destroy(work.pool);
    cenote_budget_destroy(work.budget);
    return code;
}
