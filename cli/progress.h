/* SPDX-License-Identifier: Apache-2.0 */
/* One line on a terminal that says how far a run is. */
#ifndef CENOTE_CLI_PROGRESS_H
#define CENOTE_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "qwen3vl.h"

struct cli_progress {
    bool on;               /* stderr is a terminal and nobody asked for quiet */
    bool shown;            /* there is a line to clear */
    bool text_on_terminal; /* the answer shares the terminal: it is its own progress */
    qwen_phase phase;
    double phase_start_s;
    uint64_t limit_bytes;
    const qwen_model *model;
};

void cli_progress_init(struct cli_progress *progress, const qwen_model *model, uint64_t limit_bytes,
                       bool quiet);
void cli_progress_show(struct cli_progress *progress, qwen_phase phase, uint64_t done,
                       uint64_t total);
/* Draws any other line in its place. */
void cli_progress_line(struct cli_progress *progress, const char *line);
/* Takes the line away; before any other output and at the end. */
void cli_progress_clear(struct cli_progress *progress);

/* Seconds of a clock that only goes forward. */
double cli_now_s(void);

#endif
