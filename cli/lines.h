/* SPDX-License-Identifier: Apache-2.0 */
/* Messages from standard input: lines, of which a trailing backslash joins two. On a terminal they
 * can be edited and called back (libedit), elsewhere they are read as they come. */
#ifndef CENOTE_CLI_LINES_H
#define CENOTE_CLI_LINES_H

#include "cli.h"

/* Of one message. */
#define CLI_MESSAGE_BYTES_MAX (256u << 10)

struct cli_lines;

enum cli_line {
    CLI_LINE_MESSAGE,
    CLI_LINE_REFUSED,     /* too long, or with a NUL in it; said, and read to its end */
    CLI_LINE_INTERRUPTED, /* by a signal; what was typed is gone */
    CLI_LINE_END,         /* Ctrl-D, or the end of the file */
    CLI_LINE_FAILED,      /* said */
};

/* @p history_path: where lines are kept from call to call (only with editing); NULL: nowhere.
 * Errors: CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK cenote_status cli_lines_open(const char *history_path,
                                               struct cli_lines **out_lines, cenote_error *err);
/* Writes the history. NULL is fine. */
void cli_lines_close(struct cli_lines *lines);

/* Somebody sits there. */
bool cli_lines_typed(const struct cli_lines *lines);
/* The next message, NUL-terminated, lines joined by newlines; @p out_text lives until the next
 * call and may be written to. */
enum cli_line cli_lines_next(struct cli_lines *lines, char **out_text);

#endif
