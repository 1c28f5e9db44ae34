/* SPDX-License-Identifier: Apache-2.0 */
/* Control characters go to a file as they are and to a terminal as '?'. */
#include "answer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void note_failure(struct cli_answer *answer)
{
    answer->failed = true;
    answer->error_number = errno;
}

bool cli_answer_write(struct cli_answer *answer, const char *text, size_t text_bytes)
{
    if (answer->muted || answer->failed)
        return !answer->failed;
    cli_progress_clear(answer->progress);
    char clean[512];
    bool written = true;
    while (text_bytes > 0 && written) {
        size_t piece = cli_text_piece(text, text_bytes, sizeof clean);
        size_t size = piece;
        const char *from = text;
        if (answer->progress->text_on_terminal) {
            size = cli_text_clean(text, piece, clean);
            from = clean;
        }
        written = fwrite(from, 1, size, stdout) == size;
        text += piece;
        text_bytes -= piece;
    }
    answer->shown = true;
    if (!written || fflush(stdout) != 0)
        note_failure(answer);
    return !answer->failed;
}

int cli_answer_end(struct cli_answer *answer)
{
    if (answer->shown && !answer->failed && (fputc('\n', stdout) == EOF || fflush(stdout) != 0))
        note_failure(answer);
    answer->shown = false;
    if (!answer->failed)
        return CLI_EXIT_OK;
    cli_say("cannot write the answer: %s", strerror(answer->error_number));
    clearerr(stdout); /* said; main() need not say it again */
    return CLI_EXIT_FAILURE;
}
