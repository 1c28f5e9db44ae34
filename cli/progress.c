/* SPDX-License-Identifier: Apache-2.0 */
/* The line is drawn over itself with a carriage return and cut to the terminal's width, for a line
 * that wraps cannot be taken back. */
#include "progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

#define CLEAR_LINE "\r\033[K"

double cli_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void cli_progress_init(struct cli_progress *progress, const qwen_model *model, uint64_t limit_bytes,
                       bool quiet)
{
    const char *term = getenv("TERM");
    bool dumb = term == NULL || strcmp(term, "dumb") == 0;
    *progress = (struct cli_progress){
        .on = !quiet && !dumb && isatty(STDERR_FILENO),
        .text_on_terminal = isatty(STDOUT_FILENO),
        .phase = QWEN_PHASE_LOAD,
        .phase_start_s = cli_now_s(),
        .limit_bytes = limit_bytes,
        .model = model,
    };
}

static int terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return 80;
    return size.ws_col;
}

static uint64_t held_bytes(void)
{
    cenote_process_memory memory;
    if (cenote_process_memory_get(&memory, NULL) != CENOTE_OK)
        return 0;
    return memory.resident_bytes + memory.page_table_bytes;
}

static void compose(const struct cli_progress *progress, uint64_t done, uint64_t total, char *line,
                    size_t line_bytes)
{
    static const char *const names[] = {"loading", "looking", "reading", "writing"};
    char rate[48] = "";
    double elapsed_s = cli_now_s() - progress->phase_start_s;
    if (progress->phase == QWEN_PHASE_DECODE && elapsed_s > 0)
        snprintf(rate, sizeof rate, "  %.2f tokens/s", (double)done / elapsed_s);
    cenote_weights_stats stats;
    cenote_weights_stats_get(qwen_model_weights(progress->model), &stats);
    char read[CLI_BYTES_TEXT], held[CLI_BYTES_TEXT], limit[CLI_BYTES_TEXT];
    snprintf(line, line_bytes, "%s %3.0f%%%s  %s read  memory %s of %s", names[progress->phase],
             total > 0 ? 100.0 * (double)done / (double)total : 0.0, rate,
             cli_disk_text(stats.bytes_read, read), cli_memory_text(held_bytes(), held),
             cli_memory_text(progress->limit_bytes, limit));
}

void cli_progress_line(struct cli_progress *progress, const char *line)
{
    if (!progress->on)
        return;
    fprintf(stderr, CLEAR_LINE "%.*s", terminal_width() - 1, line);
    fflush(stderr);
    progress->shown = true;
}

void cli_progress_show(struct cli_progress *progress, qwen_phase phase, uint64_t done,
                       uint64_t total)
{
    if (phase != progress->phase) {
        progress->phase = phase;
        progress->phase_start_s = cli_now_s();
    }
    if (!progress->on || (phase == QWEN_PHASE_DECODE && progress->text_on_terminal))
        return;
    char line[256];
    compose(progress, done, total, line, sizeof line);
    cli_progress_line(progress, line);
}

void cli_progress_clear(struct cli_progress *progress)
{
    if (!progress->shown)
        return;
    fputs(CLEAR_LINE, stderr);
    fflush(stderr);
    progress->shown = false;
}
