/* SPDX-License-Identifier: Apache-2.0 */
/* `cenote chat`: a session, and a loop over messages and commands.
 *
 * What can go wrong with one message (a picture that is none, no memory for it, a full context, an
 * error of the disk, Ctrl-C) is said, and the loop goes on. It ends when standard input does, when
 * nobody reads the answers, and at a signal other than Ctrl-C. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "bound.h"
#include "cache.h"
#include "json.h"
#include "lines.h"
#include "report.h"
#include "signals.h"
#include "speed.h"

/* The state of one call, released in the reverse order by chat_fini(). */
struct chat {
    const struct cli_options *options;
    cenote_budget *budget;
    qwen_model *model;
    cenote_pack *pack; /* of --cache; the session reads from it */
    qwen_sampling sampling;
    qwen_plan plan;
    qwen_session *session;
    struct cli_lines *lines;
    struct cli_progress progress;
    struct cli_answer answer;
    char *image_paths[QWEN_IMAGES_MAX]; /* for the next message */
    uint32_t image_count;
    uint32_t turn;
    qwen_result last; /* numbers only; its pointers are stale */
    qwen_result all;  /* what replies decoded, read and waited, added up */
    bool ended;
};

/* ---- pictures for the next message ---- */

static void drop_images(struct chat *chat)
{
    while (chat->image_count > 0)
        free(chat->image_paths[--chat->image_count]);
}

/* Looks at the picture's header now, so that a wrong path is known before the question is typed. */
static cenote_status attach(struct chat *chat, const char *path, uint64_t *out_tokens,
                            cenote_error *err)
{
    if (chat->image_count == QWEN_IMAGES_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "more than %u images", QWEN_IMAGES_MAX);
    cenote_status status = qwen_model_image_tokens(
        chat->model, path, chat->options->max_image_tokens, out_tokens, err);
    if (status != CENOTE_OK)
        return status;
    char *copy = strdup(path);
    if (copy == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for a path");
    chat->image_paths[chat->image_count++] = copy;
    return CENOTE_OK;
}

/* ---- a message ---- */

static void on_text(void *context, const char *text, size_t text_bytes)
{
    struct chat *chat = context;
    if (!cli_answer_write(&chat->answer, text, text_bytes))
        qwen_session_cancel(chat->session); /* nobody reads on */
}

static void on_progress(void *context, qwen_phase phase, uint64_t done, uint64_t total)
{
    struct chat *chat = context;
    cli_progress_show(&chat->progress, phase, done, total);
}

static void fill_report(const struct chat *chat, const qwen_result *result, double total_s,
                        struct cli_run_report *report)
{
    *report = (struct cli_run_report){
        .options = chat->options,
        .model = chat->model,
        .sampling = &chat->sampling,
        .plan = qwen_session_turn_plan(chat->session),
        .result = result,
        .total_s = total_s,
    };
    cenote_budget_stats_get(chat->budget, &report->budget);
    if (cenote_process_memory_get(&report->process, NULL) != CENOTE_OK)
        report->process = (cenote_process_memory){0};
    if (result != NULL && report->process.page_table_bytes < result->page_table_peak_bytes)
        report->process.page_table_bytes = result->page_table_peak_bytes;
}

static void say_summary(const struct chat *chat, const qwen_result *result)
{
    qwen_session_stats stats;
    char read[CLI_BYTES_TEXT];
    qwen_session_stats_get(chat->session, &stats);
    cli_say("%u token%s, first after %.2f s, then %.3f s and %s read per token; context %llu of "
            "%llu",
            result->token_count, result->token_count == 1 ? "" : "s",
            result->load_s + result->vision_s + result->prefill_s, result->seconds_per_token,
            cli_disk_text(result->bytes_read_per_token, read),
            (unsigned long long)stats.used_tokens, (unsigned long long)stats.context_tokens);
    cli_say_draft(result);
}

/* The whole conversation. */
static void say_end(const struct chat *chat)
{
    const qwen_result *all = &chat->all;
    struct cli_run_report report;
    char read[CLI_BYTES_TEXT], peak[CLI_BYTES_TEXT], limit[CLI_BYTES_TEXT];
    if (all->token_count == 0 || chat->options->json || chat->options->quiet)
        return;
    fill_report(chat, NULL, 0, &report);
    cli_say("%u message%s; decoded %u tokens, %.3f s and %s read per token; peak memory %s of %s",
            chat->turn, chat->turn == 1 ? "" : "s", all->token_count,
            all->decode_s / all->token_count,
            cli_disk_text(all->bytes_read_decode / all->token_count, read),
            cli_memory_text(cli_peak_bytes(&report.process), peak),
            cli_memory_text(report.budget.limit_bytes, limit));
    cli_bound_say(qwen_session_turn_plan(chat->session), all, "/memory");
}

/* Why the reply is not there, or not whole. */
static void say_trouble(const struct chat *chat, const qwen_result *result, const cenote_error *err)
{
    bool kept = result->token_count > 0;
    const char *more = "";
    if (err->status == CENOTE_E_CANCELLED)
        cli_say("stopped%s", kept ? "" : ", and the message with it");
    else if (err->status == CENOTE_E_BUDGET)
        more = "; /memory SIZE gives more";
    else if (!kept && chat->image_count > 0)
        more = "; its pictures are gone too";
    if (err->status != CENOTE_E_CANCELLED)
        cli_say("%s%s", err->message, more);
}

/* Pictures stay for the next message when another budget, or another moment, may do. */
static void settle_images(struct chat *chat, const qwen_result *result, cenote_status status)
{
    if (result->token_count == 0 && (status == CENOTE_E_BUDGET || status == CENOTE_E_CANCELLED))
        return;
    drop_images(chat);
}

static int report_turn(struct chat *chat, const qwen_result *result, cenote_status status,
                       const cenote_error *err, double total_s)
{
    bool asked = result->stop_reason != NULL;
    if (chat->options->json) {
        struct cli_run_report report;
        qwen_session_stats stats;
        fill_report(chat, asked ? result : NULL, total_s, &report);
        qwen_session_stats_get(chat->session, &stats);
        json_t *object =
            cli_turn_json(&report, &stats, chat->turn, status == CENOTE_OK ? NULL : err);
        if (!cli_json_print(object))
            return CLI_EXIT_FAILURE;
    }
    if (status != CENOTE_OK)
        say_trouble(chat, result, err);
    else if (!chat->options->json && !chat->options->quiet)
        say_summary(chat, result);
    if (asked && strcmp(result->stop_reason, "context") == 0)
        cli_say("the context is full; /reset begins another conversation");
    return CLI_EXIT_OK;
}

static void note_result(struct chat *chat, const qwen_result *result)
{
    qwen_result *all = &chat->all;
    chat->last = *result;
    if (result->token_count < 2)
        return; /* nothing was decoded */
    all->token_count += result->token_count - 1;
    all->decode_s += result->decode_s;
    all->bytes_read_decode += result->bytes_read_decode;
    all->seconds_waiting_decode += result->seconds_waiting_decode;
    all->resident_weight_bytes = result->resident_weight_bytes;
    all->resident_encoding = result->resident_encoding;
}

static int ask(struct chat *chat, const char *text)
{
    const qwen_message message = {
        .text = text,
        .image_paths = (const char *const *)chat->image_paths,
        .image_count = chat->image_count,
        .max_tokens = chat->options->max_tokens,
    };
    const qwen_events events = {.context = chat, .text = on_text, .progress = on_progress};
    qwen_result result = {0};
    cenote_error err;
    double start_s = cli_now_s();
    chat->turn++;
    chat->answer = (struct cli_answer){.progress = &chat->progress, .muted = chat->options->json};
    cli_signals_session(chat->session);
    cenote_status status = qwen_session_ask(chat->session, &message, &events, &result, &err);
    cli_signals_session(NULL);
    cli_signals_interrupted(); /* it was this turn's */
    cli_progress_clear(&chat->progress);
    int code = cli_answer_end(&chat->answer);
    if (code != CLI_EXIT_OK)
        return code;
    code = report_turn(chat, &result, status, &err, cli_now_s() - start_s);
    settle_images(chat, &result, status);
    if (result.stop_reason != NULL)
        note_result(chat, &result);
    return code;
}

/* ---- commands ---- */

static void on_image(struct chat *chat, char *path)
{
    cenote_error err;
    uint64_t tokens;
    size_t size = strlen(path);
    if (size >= 2 && (path[0] == '\'' || path[0] == '"') && path[size - 1] == path[0]) {
        path[size - 1] = '\0'; /* as a terminal writes a file that is dropped on it */
        path++;
    }
    if (*path == '\0')
        cli_say("/image PATH attaches a picture to the next message; %u are there",
                chat->image_count);
    else if (attach(chat, path, &tokens, &err) != CENOTE_OK)
        cli_say("%s", err.message);
    else if (!chat->options->quiet)
        cli_say("%s: %llu tokens, with the next message", path, (unsigned long long)tokens);
}

static void on_stats(struct chat *chat, char *argument)
{
    (void)argument;
    const qwen_result *last = &chat->last;
    struct cli_run_report report;
    qwen_session_stats stats;
    cenote_weights_stats weights;
    char a[CLI_BYTES_TEXT], b[CLI_BYTES_TEXT], c[CLI_BYTES_TEXT];
    fill_report(chat, NULL, 0, &report);
    qwen_session_stats_get(chat->session, &stats);
    cenote_weights_stats_get(qwen_model_weights(chat->model), &weights);
    uint64_t now = report.process.resident_bytes + report.process.page_table_bytes;
    cli_say("memory: %s now, %s at most so far, of %s", cli_memory_text(now, a),
            cli_memory_text(cli_peak_bytes(&report.process), b),
            cli_memory_text(stats.limit_bytes, c));
    cli_say("context: %llu of %llu tokens in %u message%s with %u image%s",
            (unsigned long long)stats.used_tokens, (unsigned long long)stats.context_tokens,
            stats.turn_count, stats.turn_count == 1 ? "" : "s", stats.image_count,
            stats.image_count == 1 ? "" : "s");
    cli_say("weights: %s resident%s of %s that a token touches; %s read so far",
            cli_disk_text(last->resident_weight_bytes, a),
            last->resident_encoding == CENOTE_ENCODING_BF12 ? " in 12 bits" : "",
            cli_disk_text(qwen_model_bytes_per_token(chat->model), b),
            cli_disk_text(weights.bytes_read, c));
    if (last->token_count < 2)
        return;
    cli_say("last reply: %u tokens, %.3f s and %s read per token", last->token_count,
            last->seconds_per_token, cli_disk_text(last->bytes_read_per_token, a));
    cli_bound_say(report.plan, last, "/memory");
}

static void on_memory(struct chat *chat, char *size)
{
    struct cli_options moved = *chat->options;
    uint64_t limit_bytes;
    cenote_error err;
    char text[CLI_BYTES_TEXT];
    moved.memory_text = size;
    cenote_status status = cli_limit_parse(size, &moved.memory_bytes, &err);
    if (status == CENOTE_OK)
        status = cli_limit_get(&moved, &limit_bytes, &err);
    if (status == CENOTE_OK)
        status = qwen_session_limit_set(chat->session, limit_bytes, &err);
    if (status != CENOTE_OK)
        cli_say("%s", err.message);
    else if (!chat->options->quiet)
        cli_say("the budget is %s from now on", cli_memory_text(limit_bytes, text));
    if (status == CENOTE_OK)
        chat->progress.limit_bytes = limit_bytes;
}

static void on_reset(struct chat *chat, char *argument)
{
    (void)argument;
    qwen_session_reset(chat->session);
    drop_images(chat);
    if (!chat->options->quiet)
        cli_say("a new conversation");
}

static void on_quit(struct chat *chat, char *argument)
{
    (void)argument;
    chat->ended = true;
}

static void on_help(struct chat *chat, char *argument);

static const struct command {
    const char *name, *argument, *help;
    void (*run)(struct chat *chat, char *argument);
} commands[] = {
    {"image", "PATH", "attach a PNG or JPEG file to the next message", on_image},
    {"stats", "", "what is held, read and used, and what bounds the speed", on_stats},
    {"memory", "SIZE", "move the budget, as in /memory 2GiB", on_memory},
    {"reset", "", "forget the conversation", on_reset},
    {"help", "", "this list", on_help},
    {"quit", "", "end; so does Ctrl-D", on_quit},
};

static void on_help(struct chat *chat, char *argument)
{
    (void)chat;
    (void)argument;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(stderr, "  /%s %-*s %s\n", commands[i].name, 12 - (int)strlen(commands[i].name),
                commands[i].argument, commands[i].help);
    fputs("  a backslash at the end of a line goes on with the next; Ctrl-C stops a reply;\n"
          "  two slashes begin a message that is to begin with one\n",
          stderr);
}

static void command(struct chat *chat, char *line)
{
    size_t size = strcspn(line, " \t\n");
    char *argument = line + size + strspn(line + size, " \t\n");
    for (size_t end = strlen(argument); end > 0 && strchr(" \t\n", argument[end - 1]) != NULL;)
        argument[--end] = '\0';
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strncmp(line, commands[i].name, size) == 0 && commands[i].name[size] == '\0') {
            commands[i].run(chat, argument);
            return;
        }
    cli_say("/%.*s is no command; /help lists them", (int)size, line);
}

/* ---- the loop ---- */

static bool is_blank(const char *text)
{
    return text[strspn(text, " \t\r\n")] == '\0';
}

static int take(struct chat *chat, char *text)
{
    if (is_blank(text))
        return CLI_EXIT_OK;
    if (text[0] != '/')
        return ask(chat, text);
    if (text[1] == '/')
        return ask(chat, text + 1);
    command(chat, text + 1);
    return CLI_EXIT_OK;
}

static int interrupted(void)
{
    cenote_error err;
    cenote_error_set(&err, CENOTE_E_CANCELLED, "interrupted");
    return cli_fail(&err);
}

static int loop(struct chat *chat)
{
    int code = CLI_EXIT_OK;
    while (code == CLI_EXIT_OK && !chat->ended) {
        char *text;
        enum cli_line line = cli_lines_next(chat->lines, &text);
        if (cli_signals_caught())
            return interrupted();
        if (line == CLI_LINE_MESSAGE)
            code = take(chat, text);
        else if (line == CLI_LINE_END)
            chat->ended = true;
        else if (line == CLI_LINE_FAILED)
            code = CLI_EXIT_FAILURE;
        else if (line == CLI_LINE_INTERRUPTED) {
            cli_signals_interrupted();
            if (!cli_lines_typed(chat->lines))
                return interrupted();
            fputs("\nCtrl-D or /quit ends\n", stderr);
        }
        if (cli_signals_caught())
            return interrupted();
    }
    return code;
}

/* ---- the command ---- */

static int plan_session(struct chat *chat, const qwen_session_options *asked)
{
    static const qwen_shape no_pictures = {0};
    uint64_t limit_bytes;
    cenote_error err;
    cenote_status status = cli_limit_get(chat->options, &limit_bytes, &err);
    if (status == CENOTE_OK)
        status = qwen_session_plan(chat->model, asked, limit_bytes, &chat->plan, &err);
    if (status != CENOTE_OK)
        return cli_fail(&err);
    if (!chat->plan.fits)
        return cli_refuse(chat->options, &chat->plan, &no_pictures);
    cli_cache_note_left_out(chat->options, &chat->plan, chat->pack);
    if (chat->plan.pack == NULL) {
        cenote_pack_close(chat->pack);
        chat->pack = NULL;
    }
    status = cenote_budget_limit_set(chat->budget, limit_bytes, &err);
    if (status == CENOTE_OK)
        status = qwen_session_open(chat->model, asked, &chat->plan, &chat->session, &err);
    return status == CENOTE_OK ? CLI_EXIT_OK : cli_fail(&err);
}

static cenote_status open_model(struct chat *chat, cenote_error *err)
{
    const struct cli_options *options = chat->options;
    cenote_status status = cli_budget_create(&chat->budget, err);
    if (status == CENOTE_OK)
        status = qwen_model_open(chat->budget, options->path, &chat->model, err);
    if (status == CENOTE_OK && cli_signals_caught())
        status = cenote_error_set(err, CENOTE_E_CANCELLED, "interrupted");
    if (status == CENOTE_OK)
        status = cli_sampling_get(options, chat->model, &chat->sampling, err);
    if (status == CENOTE_OK)
        status = cli_cache_open(options, chat->model, chat->budget, &chat->pack, err);
    uint64_t tokens;
    for (uint32_t i = 0; status == CENOTE_OK && i < options->image_count; i++)
        status = attach(chat, options->image_paths[i], &tokens, err);
    if (status == CENOTE_OK)
        status = cli_lines_open(options->history_path, &chat->lines, err);
    return status;
}

static void greet(const struct chat *chat)
{
    char limit[CLI_BYTES_TEXT];
    if (cli_lines_typed(chat->lines) && !chat->options->quiet)
        cli_say("%s, %llu tokens of context in %s; /help lists the commands", chat->options->path,
                (unsigned long long)chat->plan.context_tokens,
                cli_memory_text(chat->plan.limit_bytes, limit));
}

static int chat_run(struct chat *chat)
{
    const struct cli_options *options = chat->options;
    cenote_error err;
    if (open_model(chat, &err) != CENOTE_OK)
        return cli_fail(&err);
    const qwen_session_options asked = {
        .context_tokens = options->context_tokens,
        .max_image_tokens = options->max_image_tokens,
        .kv_dtype = options->kv_dtype,
        .thread_count = options->thread_count,
        .system = options->system,
        .parse_special = options->parse_special,
        .unpacked = options->unpacked,
        .io_engine = options->io_engine,
        .read_depth = cli_speed_depth(chat->model, options->io_engine),
        .pack = chat->pack,
        .pack_required = cli_cache_is_named(options),
        .draft = options->draft,
        .sampling = chat->sampling,
    };
    int code = plan_session(chat, &asked);
    if (code != CLI_EXIT_OK)
        return code;
    if (cli_signals_caught())
        return interrupted();
    if (cli_signals_catch_chat(&err) != CENOTE_OK)
        return cli_fail(&err);
    cli_progress_init(&chat->progress, chat->model, chat->plan.limit_bytes, options->quiet);
    greet(chat);
    int ended = loop(chat);
    if (ended == CLI_EXIT_OK)
        say_end(chat);
    return ended;
}

static void chat_fini(struct chat *chat)
{
    drop_images(chat);
    cli_lines_close(chat->lines);
    qwen_session_close(chat->session);
    cenote_pack_close(chat->pack);
    qwen_model_close(chat->model);
    cenote_budget_destroy(chat->budget);
}

int cli_chat(const struct cli_options *options)
{
    cenote_error err;
    char default_path[PATH_MAX];
    struct cli_options with_path = *options;
    if (options->path == NULL) {
        if (cli_model_find("chat", default_path, &err) != CENOTE_OK)
            return cli_fail(&err);
        with_path.path = default_path;
    }
    struct chat chat = {.options = &with_path};
    cli_signals_catch();
    int code = chat_run(&chat);
    chat_fini(&chat);
    return code;
}
