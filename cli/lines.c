/* SPDX-License-Identifier: Apache-2.0 */
/* Prompts and what libedit draws go to standard error, for standard output is the answers'. Bytes
 * are read one way for both kinds of lines, waiting for the keyboard and for signals at once. */
#include "lines.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "signals.h"

#define HISTORY_LINES 1000

struct cli_lines {
    bool typed;
    EditLine *edit; /* NULL: lines as they come */
    History *history;
    const char *history_path;
    bool going_on;    /* the prompt is that of a message's second line and those after it */
    bool interrupted; /* why a read ended */
    unsigned char bytes[4096];
    size_t byte_first, byte_end;           /* of those that are read and not taken */
    char plain[CLI_MESSAGE_BYTES_MAX + 2]; /* what is behind it is not kept */
    char message[CLI_MESSAGE_BYTES_MAX + 1];
};

/* ---- bytes ---- */

/* Waits until there is something to read. @return false when a signal came, or poll fails. */
static bool await_input(struct cli_lines *lines)
{
    struct pollfd files[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                             {.fd = cli_signals_fd(), .events = POLLIN}};
    for (;;) {
        int ready = poll(files, 2, -1);
        if (ready < 0 && errno != EINTR)
            return false;
        if (ready > 0 && files[1].revents != 0) {
            lines->interrupted = true;
            return false;
        }
        if (ready > 0)
            return true;
    }
}

/* @return 1, 0 at the end, -1 with errno or `interrupted`. */
static int next_byte(struct cli_lines *lines, unsigned char *out_byte)
{
    if (lines->byte_first == lines->byte_end) {
        ssize_t got;
        do {
            if (!await_input(lines))
                return -1;
            got = read(STDIN_FILENO, lines->bytes, sizeof lines->bytes);
        } while (got < 0 && errno == EINTR);
        if (got <= 0)
            return (int)got;
        lines->byte_first = 0;
        lines->byte_end = (size_t)got;
    }
    *out_byte = lines->bytes[lines->byte_first++];
    return 1;
}

/* ---- with editing ---- */

/* A character for libedit; what is none is left out. */
static int next_character(EditLine *edit, wchar_t *out_character)
{
    struct cli_lines *lines;
    el_get(edit, EL_CLIENTDATA, &lines);
    mbstate_t state = {0};
    for (;;) {
        unsigned char byte;
        int result = next_byte(lines, &byte);
        if (result <= 0)
            return result;
        size_t size = mbrtowc(out_character, (const char *)&byte, 1, &state);
        if (size <= 1)
            return 1;
        if (size == (size_t)-1)
            state = (mbstate_t){0};
    }
}

static const char *prompt_text(bool going_on)
{
    return going_on ? ". " : "> ";
}

static char *prompt(EditLine *edit)
{
    static char text[4];
    struct cli_lines *lines;
    el_get(edit, EL_CLIENTDATA, &lines);
    snprintf(text, sizeof text, "%s", prompt_text(lines->going_on));
    return text;
}

/* Characters of several bytes need a locale that knows them. */
static void locale_setup(void)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
}

static void history_load(struct cli_lines *lines)
{
    HistEvent event;
    lines->history = history_init();
    if (lines->history == NULL)
        return;
    history(lines->history, &event, H_SETSIZE, HISTORY_LINES);
    history(lines->history, &event, H_SETUNIQUE, 1);
    if (lines->history_path != NULL && access(lines->history_path, F_OK) == 0 &&
        history(lines->history, &event, H_LOAD, lines->history_path) < 0)
        cli_say("note: no history in %s", lines->history_path);
    el_set(lines->edit, EL_HIST, history, lines->history);
}

static void history_save(struct cli_lines *lines)
{
    HistEvent event;
    mode_t before = umask(0077); /* it is what somebody said */
    if (history(lines->history, &event, H_SAVE, lines->history_path) < 0)
        cli_say("cannot write the history to %s: %s", lines->history_path, strerror(errno));
    umask(before);
}

/* Without it lines are read as they come. */
static void edit_init(struct cli_lines *lines)
{
    locale_setup();
    lines->edit = el_init("cenote", stdin, stderr, stderr);
    if (lines->edit == NULL)
        return;
    el_set(lines->edit, EL_CLIENTDATA, lines);
    el_set(lines->edit, EL_GETCFN, next_character);
    el_set(lines->edit, EL_PROMPT, prompt);
    el_set(lines->edit, EL_EDITOR, "emacs");
    /* The wide form keeps the texts as they are; the other one copies them and loses the copies. */
    el_wset(lines->edit, EL_ADDFN, L"file-complete", L"completes a file's name", _el_fn_complete);
    el_set(lines->edit, EL_BIND, "^I", "file-complete", NULL);
    history_load(lines);
    el_source(lines->edit, NULL);
}

/* ---- one line ---- */

/* Both: the bytes of the line with its newline, also those that were not kept; 0 with *out_line
 * NULL at the end; -1 with errno or `interrupted`. */
static ssize_t read_plain(struct cli_lines *lines, const char **out_line)
{
    size_t size = 0;
    unsigned char byte = 0;
    int result = 1;
    if (lines->typed)
        fputs(prompt_text(lines->going_on), stderr);
    while (byte != '\n' && (result = next_byte(lines, &byte)) > 0) {
        if (size < sizeof lines->plain)
            lines->plain[size] = (char)byte;
        size++;
    }
    *out_line = size > 0 ? lines->plain : NULL;
    return result < 0 ? -1 : (ssize_t)size;
}

static ssize_t read_edited(struct cli_lines *lines, const char **out_line)
{
    int size = 0;
    /* el_gets() does so only behind the prompt, and a Ctrl-D between the two would be lost. */
    el_set(lines->edit, EL_PREP_TERM, 1);
    *out_line = el_gets(lines->edit, &size);
    if (*out_line == NULL)
        return size < 0 ? -1 : 0;
    HistEvent event;
    if (lines->history != NULL && **out_line != '\n')
        history(lines->history, &event, H_ENTER, *out_line);
    return size;
}

/* ---- messages ---- */

/* Takes the newline off, and the backslash before it. */
static bool goes_on(const char *line, size_t *size)
{
    if (*size > 0 && line[*size - 1] == '\n')
        (*size)--;
    if (*size == 0 || line[*size - 1] != '\\')
        return false;
    (*size)--;
    return true;
}

static enum cli_line end_of(struct cli_lines *lines, ssize_t result)
{
    if (result == 0) {
        if (lines->typed)
            fputc('\n', stderr);
        return CLI_LINE_END;
    }
    if (lines->interrupted)
        return CLI_LINE_INTERRUPTED;
    cli_say("cannot read standard input: %s", strerror(errno));
    return CLI_LINE_FAILED;
}

enum cli_line cli_lines_next(struct cli_lines *lines, char **out_text)
{
    size_t filled = 0;
    bool more = true, refused = false;
    lines->going_on = lines->interrupted = false;
    while (more) {
        const char *line;
        ssize_t result = lines->edit != NULL ? read_edited(lines, &line) : read_plain(lines, &line);
        if (result < 0 || (line == NULL && !lines->going_on))
            return end_of(lines, result);
        size_t size = (size_t)result;
        bool whole = size <= sizeof lines->plain; /* else whether it goes on is not known */
        more = whole && size > 0 && goes_on(line, &size);
        refused = refused || !whole || filled + size + more > CLI_MESSAGE_BYTES_MAX ||
                  (size > 0 && memchr(line, '\0', size) != NULL);
        if (!refused && size > 0)
            memcpy(lines->message + filled, line, size);
        filled += refused ? 0 : size;
        if (more && !refused)
            lines->message[filled++] = '\n';
        lines->going_on = true;
    }
    if (refused) {
        cli_say("a message has at most %u bytes, and none that is 0", CLI_MESSAGE_BYTES_MAX);
        return CLI_LINE_REFUSED;
    }
    lines->message[filled] = '\0';
    *out_text = lines->message;
    return CLI_LINE_MESSAGE;
}

/* ---- open and close ---- */

bool cli_lines_typed(const struct cli_lines *lines)
{
    return lines->typed;
}

cenote_status cli_lines_open(const char *history_path, struct cli_lines **out_lines,
                             cenote_error *err)
{
    struct cli_lines *lines = calloc(1, sizeof *lines);
    if (lines == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for %zu bytes of a message",
                                sizeof *lines);
    const char *term = getenv("TERM");
    lines->history_path = history_path;
    lines->typed = isatty(STDIN_FILENO) != 0;
    if (lines->typed && isatty(STDERR_FILENO) && term != NULL && strcmp(term, "dumb") != 0)
        edit_init(lines);
    *out_lines = lines;
    return CENOTE_OK;
}

void cli_lines_close(struct cli_lines *lines)
{
    if (lines == NULL)
        return;
    if (lines->history != NULL && lines->history_path != NULL)
        history_save(lines);
    if (lines->edit != NULL)
        el_end(lines->edit);
    if (lines->history != NULL)
        history_end(lines->history);
    free(lines);
}
