/* SPDX-License-Identifier: Apache-2.0 */
/* `cenote run`: open, plan, refuse or run, report.
 *
 * Nothing is read from the weights before the plan has said that the run fits. Until then the
 * budget does not bind, for the plan needs the tokenizer and the headers to know what the run
 * takes; from then on the limit is the user's. */
#include <stdio.h>

#include "answer.h"
#include "bound.h"
#include "cache.h"
#include "npy.h"
#include "report.h"
#include "signals.h"
#include "speed.h"

/* What one thread does in a second in the matrix products of prefill: guesses for a laptop, well
 * below the 80 to 100e9 that a Zen 4 server core reaches; only for the note about long waits. */
#define THREAD_FLOPS_AVX512   40e9
#define THREAD_FLOPS_AVX2     25e9
#define THREAD_FLOPS_PORTABLE 2e9
#define DISK_BYTES_PER_S      1e9
#define LONG_WAIT_S           30

/* The state of one call, released in the reverse order by run_fini(). */
struct run {
    const struct cli_options *options;
    qwen_request request; /* the job points into it */
    cenote_budget *budget;
    qwen_model *model;
    cenote_pack *pack; /* of --cache; the job reads from it */
    qwen_job *job;
    qwen_shape shape;
    qwen_plan plan;
    struct cli_npy *npy;
    struct cli_progress progress;
    struct cli_answer answer;
};

/* ---- events ---- */

static void on_text(void *context, const char *text, size_t text_bytes)
{
    struct run *run = context;
    if (!cli_answer_write(&run->answer, text, text_bytes))
        qwen_job_cancel(run->job); /* nobody reads on */
}

static void on_progress(void *context, qwen_phase phase, uint64_t done, uint64_t total)
{
    struct run *run = context;
    cli_progress_show(&run->progress, phase, done, total);
}

static cenote_status on_logits(void *context, const float *logits, uint32_t vocab_size,
                               cenote_error *err)
{
    struct run *run = context;
    return cli_npy_append(run->npy, logits, vocab_size, err);
}

/* ---- before the run ---- */

static void fill_request(struct run *run)
{
    const struct cli_options *options = run->options;
    run->request = (qwen_request){
        .image_paths = options->image_paths,
        .image_count = options->image_count,
        .prompt = options->prompt,
        .system = options->system,
        .raw_prompt = options->raw_prompt,
        .parse_special = options->parse_special,
        .max_tokens = options->max_tokens,
        .max_image_tokens = options->max_image_tokens,
        .kv_dtype = options->kv_dtype,
        .thread_count = options->thread_count,
        .unpacked = options->unpacked,
        .io_engine = options->io_engine,
        .draft = options->draft,
    };
}

static cenote_status interrupted(cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_CANCELLED, "interrupted");
}

/* Opens all that a plan needs. The logits file comes first: a path that cannot be written should
 * not cost the loading. */
static cenote_status run_open(struct run *run, cenote_error *err)
{
    const struct cli_options *options = run->options;
    cenote_status status = CENOTE_OK;
    if (options->logits_path != NULL)
        status = cli_npy_create(options->logits_path, &run->npy, err);
    if (status == CENOTE_OK)
        status = cli_budget_create(&run->budget, err);
    if (status == CENOTE_OK)
        status = qwen_model_open(run->budget, options->path, &run->model, err);
    if (status == CENOTE_OK && cli_signals_caught())
        status = interrupted(err);
    fill_request(run);
    if (status == CENOTE_OK)
        status = cli_sampling_get(options, run->model, &run->request.sampling, err);
    if (status == CENOTE_OK) {
        run->request.read_depth = cli_speed_depth(run->model, options->io_engine);
        status = cli_cache_open(options, run->model, run->budget, &run->pack, err);
        run->request.pack = run->pack;
        run->request.pack_required = cli_cache_is_named(options);
    }
    if (status == CENOTE_OK)
        status = qwen_job_create(run->model, &run->request, &run->job, err);
    if (status == CENOTE_OK)
        cli_signals_job(run->job);
    return status;
}

static double thread_flops(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return THREAD_FLOPS_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return THREAD_FLOPS_AVX2;
#endif
    return THREAD_FLOPS_PORTABLE;
}

static void warn_of_long_wait(const struct run *run)
{
    const qwen_plan *plan = &run->plan;
    double rate = thread_flops() * plan->thread_count;
    double wait_s =
        plan->flops_before_first_token / rate + (double)plan->bytes_prefill / DISK_BYTES_PER_S;
    if (run->options->quiet || wait_s <= LONG_WAIT_S)
        return;
    const char *hint = "";
    if (run->shape.image_count > 0)
        hint = ", images included; --max-image-tokens N makes them smaller";
    cli_say("note: the first word may take about %.0f s: %llu prompt tokens%s", wait_s,
            (unsigned long long)run->shape.prompt_tokens, hint);
}

static void note_extra_tensors(const struct run *run)
{
    uint32_t count = qwen_model_extra_count(run->model);
    if (count > 0 && !run->options->quiet)
        cli_say("note: %u tensor%s in the files %s not used by this model", count,
                count == 1 ? "" : "s", count == 1 ? "is" : "are");
}

static cenote_status limit_choose(const struct run *run, uint64_t *out_limit_bytes,
                                  cenote_error *err)
{
    if (!run->options->memory_least)
        return cli_limit_get(run->options, out_limit_bytes, err);
    qwen_plan plan;
    cenote_status status = qwen_plan_make(run->model, &run->shape, 0, &plan, err);
    if (status == CENOTE_OK)
        *out_limit_bytes = plan.smallest_bytes;
    return status;
}

/* Makes the plan and binds the budget to it. @return CLI_EXIT_OK, or what to exit with. */
static int run_plan(struct run *run)
{
    cenote_error err;
    uint64_t limit_bytes;
    qwen_job_shape(run->job, &run->shape);
    cenote_status status = limit_choose(run, &limit_bytes, &err);
    if (status == CENOTE_OK)
        status = qwen_plan_make(run->model, &run->shape, limit_bytes, &run->plan, &err);
    if (status != CENOTE_OK)
        return cli_fail(&err);
    if (!run->plan.fits)
        return cli_refuse(run->options, &run->plan, &run->shape);
    cli_cache_note_left_out(run->options, &run->plan, run->pack);
    if (run->plan.pack == NULL) {
        cenote_pack_close(run->pack);
        run->pack = NULL;
    }
    status = cenote_budget_limit_set(run->budget, limit_bytes, &err);
    if (status != CENOTE_OK)
        return cli_fail(&err);
    note_extra_tensors(run);
    warn_of_long_wait(run);
    return CLI_EXIT_OK;
}

/* ---- after the run ---- */

static void say_summary(const struct run *run, const struct cli_run_report *report)
{
    const qwen_result *result = report->result;
    char peak[CLI_BYTES_TEXT], limit[CLI_BYTES_TEXT], read[CLI_BYTES_TEXT];
    cli_memory_text(cli_peak_bytes(&report->process), peak);
    cli_memory_text(run->plan.limit_bytes, limit);
    if (result->token_count > 1) {
        cli_say("%u tokens, first after %.2f s, then %.3f s and %s read per token; "
                "peak memory %s of %s",
                result->token_count, result->load_s + result->vision_s + result->prefill_s,
                result->seconds_per_token, cli_disk_text(result->bytes_read_per_token, read), peak,
                limit);
        cli_say_draft(result);
        cli_bound_say(&run->plan, result, "--memory");
    } else
        cli_say("%u token%s in %.2f s, %s read; peak memory %s of %s", result->token_count,
                result->token_count == 1 ? "" : "s", report->total_s,
                cli_disk_text(result->weight_bytes_read, read), peak, limit);
}

/* The promise is kept by construction; should it ever not be, the user is the first to know. */
static void check_promise(const struct run *run, const struct cli_run_report *report)
{
    uint64_t peak_bytes = cli_peak_bytes(&report->process);
    if (peak_bytes > run->plan.limit_bytes)
        cli_say("bug: the process held %llu bytes, more than the %llu it was given; please report",
                (unsigned long long)peak_bytes, (unsigned long long)run->plan.limit_bytes);
}

static int report_run(struct run *run, const qwen_result *result, double start_s)
{
    cenote_error err;
    struct cli_run_report report = {
        .options = run->options,
        .model = run->model,
        .job = run->job,
        .shape = &run->shape,
        .sampling = &run->request.sampling,
        .plan = &run->plan,
        .result = result,
        .total_s = cli_now_s() - start_s,
    };
    cenote_budget_stats_get(run->budget, &report.budget);
    if (cenote_process_memory_get(&report.process, &err) != CENOTE_OK)
        return cli_fail(&err);
    /* The run has given its memory back, and the tables of it. */
    if (report.process.page_table_bytes < result->page_table_peak_bytes)
        report.process.page_table_bytes = result->page_table_peak_bytes;
    if (run->options->json && !cli_json_print(cli_run_json(&report)))
        return CLI_EXIT_FAILURE;
    /* A run that was stopped before its first word has only that to say. */
    if (!run->options->json && !run->options->quiet && result->token_count > 0)
        say_summary(run, &report);
    check_promise(run, &report);
    return CLI_EXIT_OK;
}

static int run_job(struct run *run, double start_s)
{
    cenote_error err;
    qwen_result result = {0};
    double open_s = cli_now_s() - start_s; /* the tokenizer is most of it, and the user waits */
    const qwen_events events = {
        .context = run,
        .text = on_text,
        .progress = on_progress,
        .logits = run->npy != NULL ? on_logits : NULL,
    };
    cli_progress_init(&run->progress, run->model, run->plan.limit_bytes, run->options->quiet);
    run->answer = (struct cli_answer){.progress = &run->progress, .muted = run->options->json};
    cenote_status status = qwen_job_run(run->job, &run->plan, &events, &result, &err);
    result.load_s += open_s;
    cli_signals_job(NULL);
    cli_progress_clear(&run->progress);
    int code = cli_answer_end(&run->answer);
    if (code != CLI_EXIT_OK)
        return code;
    if (status == CENOTE_OK && run->npy != NULL)
        status = cli_npy_commit(run->npy, &err);
    if (status != CENOTE_OK && status != CENOTE_E_CANCELLED)
        return cli_fail(&err);
    code = report_run(run, &result, start_s);
    if (code == CLI_EXIT_OK && status == CENOTE_E_CANCELLED) {
        interrupted(&err);
        return cli_fail(&err);
    }
    return code;
}

static void run_fini(struct run *run)
{
    cli_signals_job(NULL);
    qwen_job_destroy(run->job);
    cenote_pack_close(run->pack);
    qwen_model_close(run->model);
    cenote_budget_destroy(run->budget);
    cli_npy_destroy(run->npy);
}

int cli_run(const struct cli_options *options)
{
    if (options->prompt == NULL) {
        cli_say("run: --prompt TEXT is missing (see 'cenote run --help')");
        return CLI_EXIT_USAGE;
    }
    double start_s = cli_now_s();
    cenote_error err;
    char default_path[PATH_MAX];
    struct cli_options with_path = *options;
    if (options->path == NULL) {
        if (cli_model_find("run", default_path, &err) != CENOTE_OK)
            return cli_fail(&err);
        with_path.path = default_path;
    }
    struct run run = {.options = &with_path};
    cli_signals_catch();
    int code = CLI_EXIT_OK;
    if (run_open(&run, &err) != CENOTE_OK)
        code = cli_fail(&err);
    if (code == CLI_EXIT_OK)
        code = run_plan(&run);
    if (code == CLI_EXIT_OK)
        code = run_job(&run, start_s);
    run_fini(&run);
    return code;
}
