/* SPDX-License-Identifier: Apache-2.0 */
/* The answer's text on its way to standard output, piece by piece as it is produced. */
#ifndef CENOTE_CLI_ANSWER_H
#define CENOTE_CLI_ANSWER_H

#include "cli.h"
#include "progress.h"

struct cli_answer {
    struct cli_progress *progress; /* its line goes before text comes */
    bool muted;                    /* a report will hold the text */
    bool shown;
    bool failed; /* nobody reads on */
    int error_number;
};

/* @return false once writing has failed: the rest is lost, and the run may end. */
bool cli_answer_write(struct cli_answer *answer, const char *text, size_t text_bytes);
/* Ends the line. @return CLI_EXIT_OK, or CLI_EXIT_FAILURE after saying why. */
int cli_answer_end(struct cli_answer *answer);

#endif
