/* SPDX-License-Identifier: Apache-2.0 */
/* `cenote plan`: the plan of a run that is described and not given. */
#include <stdio.h>

#include "bound.h"
#include "cache.h"
#include "report.h"
#include "speed.h"
#include "sweep.h"

#define PROMPT_TOKENS_DEFAULT 32

/* What was asked, and all that is known about it. */
struct question {
    cenote_budget *budget;
    qwen_model *model;
    cenote_pack *pack; /* of --cache */
    qwen_shape shape;
    qwen_plan plan;
    qwen_speed speed;
    qwen_forecast forecast;
    bool has_speed;
};

static cenote_status make_shape(const qwen_model *model, const struct cli_options *options,
                                qwen_shape *out_shape, cenote_error *err)
{
    qwen_shape shape = {
        .prompt_tokens =
            options->prompt_tokens > 0 ? options->prompt_tokens : PROMPT_TOKENS_DEFAULT,
        .max_tokens = options->max_tokens,
        .kv_dtype = options->kv_dtype,
        .thread_count = options->thread_count,
        .unpacked = options->unpacked,
    };
    for (uint32_t i = 0; i < options->image_count; i++) {
        const struct cli_pixels *size = &options->image_sizes[i];
        cenote_status status = qwen_shape_image_add(model, size->width, size->height,
                                                    options->max_image_tokens, &shape, err);
        if (status != CENOTE_OK)
            return status;
    }
    *out_shape = shape;
    return CENOTE_OK;
}

static json_t *grids_of(const qwen_shape *shape)
{
    uint32_t grids[QWEN_IMAGES_MAX][3];
    for (uint32_t i = 0; i < shape->image_count; i++) {
        grids[i][0] = 1;
        grids[i][1] = shape->grid_h[i];
        grids[i][2] = shape->grid_w[i];
    }
    return cli_grids_json(&grids[0][0], shape->image_count);
}

static json_t *memory_json(const qwen_plan *plan)
{
    json_t *memory = json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o}", "resident_form", cli_form_text(plan->resident_encoding),
        "budget_bytes", cli_json_count(plan->limit_bytes), "vision_bytes",
        cli_json_count(plan->vision_bytes), "decode_image_bytes",
        cli_json_count(plan->decode_image_bytes), "prefill_bytes",
        cli_json_count(plan->prefill_bytes), "token_bytes", cli_json_count(plan->token_bytes));
    if (memory != NULL && cli_plan_json_add(memory, plan))
        return memory;
    json_decref(memory);
    return NULL;
}

static json_t *plan_json(const struct cli_options *options, const qwen_shape *shape,
                         const qwen_plan *plan)
{
    json_t *io = json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "packed_copy", cli_copy_text(plan),
        "weight_bytes_per_token", cli_json_count(plan->weight_bytes_per_token),
        "streamed_bytes_per_token", cli_json_count(plan->streamed_bytes_per_token),
        "packed_bytes_per_token", cli_json_count(plan->packed_bytes_per_token),
        "bytes_read_per_token", cli_json_count(plan->bytes_per_token),
        "bytes_read_before_first_token", cli_json_count(plan->bytes_prefill),
        "prefill_weight_passes", cli_json_count(plan->prefill_weight_passes),
        "prefill_chunk_tokens", cli_json_count(plan->prefill_chunk_tokens), "panel_bytes",
        cli_json_count(plan->panel_bytes), "slots", cli_json_count(plan->slot_count));
    return json_pack(
        "{s:s, s:s, s:o, s:b, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o}", "schema", "cenote.plan/1",
        "version", cenote_version(), "model", cli_json_text(options->path), "fits", (int)plan->fits,
        "prompt_tokens", cli_json_count(shape->prompt_tokens), "max_tokens",
        cli_json_count(plan->max_tokens), "grid_thw", grids_of(shape), "threads",
        cli_json_count(plan->thread_count), "kv_type",
        shape->kv_dtype == CENOTE_DTYPE_BF16 ? "bf16" : "f32", "flops_before_first_token",
        cli_json_real(plan->flops_before_first_token), "memory", memory_json(plan), "io", io);
}

/* ---- text ---- */

static void print_part(const char *name, uint64_t size_bytes, const char *remark)
{
    printf("  %-18s %10.1f%s%s\n", name, (double)size_bytes / (1 << 20), *remark ? "   " : "",
           remark);
}

/* Which phase the activations are sized for. */
static const char *widest_phase(const qwen_plan *plan)
{
    if (plan->activation_bytes == plan->prefill_bytes)
        return "a chunk of the prompt";
    if (plan->activation_bytes == plan->token_bytes)
        return "one token";
    return "picture decoding and the vision tower";
}

static void print_parts(const qwen_plan *plan, const qwen_shape *shape)
{
    char remark[96];
    printf("\n  %-18s %10s\n", "where it goes", "MiB");
    print_part("process", plan->process_bytes, "code, libraries, stacks, heap");
    print_part("tables", plan->tables_bytes, "tokenizer, extent table");
    print_part("books", plan->books_bytes, "book-keeping of the pools");
    print_part("small weights", plan->weights_bytes, "norms and biases, resident");
    print_part("kernel scratch", plan->scratch_bytes, "");
    snprintf(remark, sizeof remark, "%u slots of %.1f MiB", plan->slot_count,
             (double)plan->panel_bytes / (1 << 20));
    print_part("staging", plan->staging_bytes, remark);
    snprintf(remark, sizeof remark, "%llu + %u tokens, %s",
             (unsigned long long)shape->prompt_tokens, plan->max_tokens,
             shape->kv_dtype == CENOTE_DTYPE_BF16 ? "bf16" : "f32");
    print_part("keys and values", plan->kv_bytes, remark);
    if (shape->image_count > 0)
        print_part("image features", plan->image_bytes, "");
    print_part("activations", plan->activation_bytes, widest_phase(plan));
    /* What does not fit is shown at its smallest, so this adds up to one of the two. */
    uint64_t top = plan->fits ? plan->limit_bytes : plan->smallest_bytes;
    uint64_t sum = plan->process_bytes + plan->tables_bytes + plan->books_bytes +
                   plan->weights_bytes + plan->scratch_bytes + plan->staging_bytes +
                   plan->kv_bytes + plan->image_bytes + plan->activation_bytes;
    if (plan->resident_vision_bytes > 0)
        print_part("resident rows", plan->resident_vision_bytes, "of weights; more while decoding");
    if (plan->fits && top > sum + plan->resident_vision_bytes)
        print_part("left", top - sum - plan->resident_vision_bytes, "");
    print_part(plan->fits ? "budget" : "smallest budget", top, "");
}

static void print_plan(const qwen_plan *plan, const qwen_shape *shape)
{
    char limit[CLI_BYTES_TEXT], smallest[CLI_BYTES_TEXT], read[CLI_BYTES_TEXT];
    printf("%s %s; the smallest budget that works is %s\n",
           plan->fits ? "fits in" : "does not fit in", cli_memory_text(plan->limit_bytes, limit),
           cli_memory_text(plan->smallest_bytes, smallest));
    print_parts(plan, shape);
    char touched[CLI_BYTES_TEXT], held[CLI_BYTES_TEXT];
    printf("\n  each token touches %s of weights",
           cli_disk_text(plan->weight_bytes_per_token, touched));
    if (plan->resident_bytes > 0)
        printf("; while decoding %s%s hold a part", cli_memory_text(plan->resident_bytes, held),
               plan->resident_encoding == CENOTE_ENCODING_BF12 ? " in 12-bit form" : "");
    printf(", and %s are read\n", cli_disk_text(plan->bytes_per_token, read));
    printf("  the first one reads %s, in %llu pass%s over the prompt's layers\n",
           cli_disk_text(plan->bytes_prefill, read),
           (unsigned long long)plan->prefill_weight_passes,
           plan->prefill_weight_passes == 1 ? "" : "es");
}

/* ---- seconds ---- */

/* Measuring is a part of the answer that may be missing: a note says why, nothing fails. */
static bool get_speed(const struct cli_options *options, struct question *q)
{
    cenote_error err;
    if (!q->plan.fits && !options->sweep)
        return false;
    if (cli_speed_get(q->model, q->budget, options->io_engine, q->plan.thread_count,
                      options->measure, &q->speed, &err) == CENOTE_OK)
        return true;
    if (!options->quiet)
        cli_say("note: no forecast of seconds: %s", err.message);
    return false;
}

static json_t *forecast_json(const struct question *q)
{
    if (!q->has_speed)
        return json_null();
    qwen_bound bound = q->forecast.bound;
    return json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "seconds_per_token",
                     cli_json_real(q->forecast.seconds_per_token), "bound", cli_bound_text(bound),
                     "disk_s", cli_json_real(q->forecast.disk_s), "compute_s",
                     cli_json_real(q->forecast.compute_s), "disk_bytes_per_s",
                     cli_json_real(q->speed.disk_bytes_per_s), "plain_bytes_per_s",
                     cli_json_real(q->speed.plain_bytes_per_s), "packed_bytes_per_s",
                     cli_json_real(q->speed.packed_bytes_per_s), "whole_budget_bytes",
                     cli_json_count(q->plan.whole_bytes));
}

static void print_forecast(const struct question *q)
{
    char disk[CLI_BYTES_TEXT], kernels[CLI_BYTES_TEXT], knob[160];
    qwen_bound bound = q->forecast.bound;
    bool packed = q->plan.resident_encoding == CENOTE_ENCODING_BF12;
    double rate = packed ? q->speed.packed_bytes_per_s : q->speed.plain_bytes_per_s;
    cli_bound_knob(bound, &q->plan, "--memory", knob);
    printf("  about %.3f s a token, bound by %s: the disk gives %s/s, %u thread%s get through %s/s "
           "of weights\n",
           q->forecast.seconds_per_token, cli_bound_text(bound),
           cli_disk_text((uint64_t)q->speed.disk_bytes_per_s, disk), q->plan.thread_count,
           q->plan.thread_count == 1 ? "" : "s", cli_disk_text((uint64_t)rate, kernels));
    if (knob[0] != '\0')
        printf("  %s\n", knob);
}

/* ---- the command ---- */

static int report(const struct cli_options *options, const struct question *q)
{
    struct cli_sweep_point points[CLI_SWEEP_POINTS];
    bool sweep = options->sweep && q->has_speed;
    cenote_error err;
    qwen_shape shape = q->shape;
    shape.max_tokens = q->plan.max_tokens; /* the same for every budget, or they do not compare */
    if (sweep && cli_sweep_make(q->model, &shape, &q->speed, points, &err) != CENOTE_OK)
        return cli_fail(&err);
    if (!options->json) {
        print_plan(&q->plan, &q->shape);
        if (q->has_speed && q->plan.fits)
            print_forecast(q);
        if (sweep)
            cli_sweep_print(points);
    } else {
        json_t *json = plan_json(options, &q->shape, &q->plan);
        json_object_set_new(json, "forecast", q->plan.fits ? forecast_json(q) : json_null());
        if (sweep)
            json_object_set_new(json, "sweep", cli_sweep_json(points));
        if (!cli_json_print(json))
            return CLI_EXIT_FAILURE;
    }
    return q->plan.fits ? CLI_EXIT_OK : cli_refuse(options, &q->plan, &q->shape);
}

int cli_plan(const struct cli_options *options)
{
    cenote_error err;
    struct question q = {0};
    uint64_t limit_bytes = 0;
    cenote_status status = cli_budget_create(&q.budget, &err);
    if (status == CENOTE_OK)
        status = qwen_model_open(q.budget, options->path, &q.model, &err);
    if (status == CENOTE_OK)
        status = make_shape(q.model, options, &q.shape, &err);
    if (status == CENOTE_OK) {
        q.shape.read_depth = cli_speed_depth(q.model, options->io_engine);
        status = cli_cache_open(options, q.model, q.budget, &q.pack, &err);
        q.shape.pack = q.pack;
        q.shape.pack_required = cli_cache_is_named(options);
    }
    if (status == CENOTE_OK)
        status = cli_limit_get(options, &limit_bytes, &err);
    if (status == CENOTE_OK)
        status = qwen_plan_make(q.model, &q.shape, limit_bytes, &q.plan, &err);
    int code = status == CENOTE_OK ? CLI_EXIT_OK : cli_fail(&err);
    if (status == CENOTE_OK) {
        if (q.plan.fits)
            cli_cache_note_left_out(options, &q.plan, q.pack);
        q.has_speed = get_speed(options, &q);
        if (q.has_speed && q.plan.fits)
            qwen_plan_forecast(&q.plan, &q.speed, &q.forecast);
        code = report(options, &q);
    }
    cenote_pack_close(q.pack);
    qwen_model_close(q.model);
    cenote_budget_destroy(q.budget);
    return code;
}
