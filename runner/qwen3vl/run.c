/* SPDX-License-Identifier: Apache-2.0 */
/* The loops that turn panels into products and queries into sums, with cancelling and progress. */
#include "run.h"

#include <stdio.h>
#include <time.h>

#define PROGRESS_INTERVAL_NS 100000000ull
/* Queries of one call: at 47,000 patches (a 12-megapixel photo) of the 2B tower some 50 GFLOP, a
 * second of two cores; and still a tile or more for each thread. */
#define STRIP_QUERIES 256u

uint64_t qwen_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void qwen_run_phase(qwen_run *run, qwen_phase phase, uint64_t total)
{
    run->phase = phase;
    run->progress_done = 0;
    run->progress_total = total;
    run->progress_last_ns = qwen_now_ns();
    if (run->events->progress != NULL)
        run->events->progress(run->events->context, phase, 0, total);
}

void qwen_run_advance(qwen_run *run, uint64_t step)
{
    run->progress_done += step;
    if (run->events->progress == NULL)
        return;
    uint64_t now = qwen_now_ns();
    if (now - run->progress_last_ns < PROGRESS_INTERVAL_NS)
        return;
    run->progress_last_ns = now;
    run->events->progress(run->events->context, run->phase, run->progress_done,
                          run->progress_total);
}

void qwen_run_note_page_tables(qwen_run *run)
{
    cenote_process_memory process;
    if (cenote_process_memory_get(&process, NULL) == CENOTE_OK &&
        process.page_table_bytes > run->page_table_peak_bytes)
        run->page_table_peak_bytes = process.page_table_bytes;
}

void qwen_run_note_waits(qwen_run *run, uint32_t layer)
{
    if (run->layer_waiting_s == NULL)
        return;
    cenote_weights_stats stats;
    cenote_weights_stats_get(run->model->weights, &stats);
    run->layer_waiting_s[layer] += 1e-9 * (double)(stats.wait_ns - run->waited_ns);
    run->waited_ns = stats.wait_ns;
}

void qwen_run_stage(const qwen_run *run, const char *name, int number, uint64_t index,
                    const float *values, uint64_t rows, uint64_t columns)
{
    if (run->events->stage == NULL)
        return;
    char full[64];
    if (number >= 0)
        snprintf(full, sizeof full, "%s.%d", name, number);
    else
        snprintf(full, sizeof full, "%s", name);
    run->events->stage(run->events->context, full, index, values, rows, columns);
}

cenote_status qwen_run_go_on(const qwen_run *run, cenote_error *err)
{
    if (*run->cancelled)
        return cenote_error_set(err, CENOTE_E_CANCELLED, "cancelled");
    return CENOTE_OK;
}

static qwen_product product_of(const qwen_run *run, const qwen_linear *linear,
                               const qwen_rows *rows, const cenote_panel *panel)
{
    return (qwen_product){
        .a = rows->a,
        .a_stride = rows->a_stride,
        .m = rows->m,
        .k = linear->k,
        .w = panel->data,
        .w_dtype = linear->dtype,
        .w_encoding = panel->encoding,
        .n = panel->row_count,
        .bias = linear->has_bias ? qwen_run_vector(run, &linear->bias) + panel->row_first : NULL,
        .c = rows->c + panel->row_first,
        .c_stride = rows->c_stride,
        .accumulate = rows->accumulate,
    };
}

/* While decoding a panel is work for 20 microseconds: as many as are there at a time. In prefill it
 * is work enough, and its slot is to come free at once. */
cenote_status qwen_run_linear(qwen_run *run, const qwen_linear *linear, const qwen_rows *rows,
                              cenote_error *err)
{
    cenote_panel panels[QWEN_DECODE_PANELS];
    qwen_product products[QWEN_DECODE_PANELS];
    uint32_t count;
    for (uint64_t rows_done = 0; rows_done < linear->n;) {
        cenote_status status = qwen_run_go_on(run, err);
        if (status == CENOTE_OK)
            status = cenote_stream_next_several(run->stream, rows->decode ? QWEN_DECODE_PANELS : 1,
                                                panels, &count, err);
        if (status != CENOTE_OK)
            return status;
        for (uint32_t i = 0; i < count; i++)
            products[i] = product_of(run, linear, rows, &panels[i]);
        if (rows->decode)
            qwen_gemv(run->kernels, products, count);
        else
            qwen_gemm(run->kernels, products);
        for (uint32_t i = 0; i < count; i++) {
            rows_done += panels[i].row_count;
            if (run->phase != QWEN_PHASE_DECODE)
                qwen_run_advance(run, panels[i].row_count * panels[i].row_bytes);
            cenote_stream_release(run->stream, &panels[i]);
        }
    }
    return CENOTE_OK;
}

cenote_status qwen_run_attend(qwen_run *run, const qwen_attention *attention, cenote_error *err)
{
    for (uint64_t first = 0; first < attention->query_count; first += STRIP_QUERIES) {
        cenote_status status = qwen_run_go_on(run, err);
        if (status != CENOTE_OK)
            return status;
        uint64_t left = attention->query_count - first;
        qwen_attention strip = *attention;
        strip.q += first * attention->q_stride;
        strip.out += first * attention->out_stride;
        strip.query_count = left < STRIP_QUERIES ? left : STRIP_QUERIES;
        strip.first_position += first;
        qwen_attend(run->kernels, &strip);
        qwen_run_advance(run, 0);
    }
    return CENOTE_OK;
}
