/* SPDX-License-Identifier: Apache-2.0 */
/* How the command speaks: one line on stderr for each thing, and nothing in it that a terminal
 * would obey. Names in messages come from strangers' files (a tensor may be called "\033[2J"), and
 * so do the words of a model. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

size_t cli_text_clean(const char *text, size_t size_bytes, char *out)
{
    size_t written = 0;
    for (size_t i = 0; i < size_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        bool c0 = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f;
        /* U+0080..U+009F are C2 80..C2 9F; U+009B opens a control sequence like ESC [ does. */
        bool c1 = c == 0xc2 && i + 1 < size_bytes && (unsigned char)text[i + 1] >= 0x80 &&
                  (unsigned char)text[i + 1] <= 0x9f;
        out[written++] = c0 || c1 ? '?' : (char)c;
        if (c1)
            i++;
    }
    return written;
}

/* Not between the bytes of U+009B: neither of them alone says what it is. */
size_t cli_text_piece(const char *text, size_t size_bytes, size_t most_bytes)
{
    if (size_bytes <= most_bytes)
        return size_bytes;
    return (unsigned char)text[most_bytes - 1] == 0xc2 ? most_bytes - 1 : most_bytes;
}

void cli_say(const char *format, ...)
{
    char line[CENOTE_ERROR_MESSAGE_BYTES * 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    for (char *c = line; *c != '\0'; c++)
        if (*c == '\n' || *c == '\t')
            *c = ' ';
    size_t size = cli_text_clean(line, strlen(line), line);
    fprintf(stderr, "cenote: %.*s\n", (int)size, line);
}

enum cli_exit cli_exit_of(cenote_status status)
{
    switch (status) {
    case CENOTE_OK:
        return CLI_EXIT_OK;
    case CENOTE_E_INVAL:
        return CLI_EXIT_USAGE;
    case CENOTE_E_BUDGET:
        return CLI_EXIT_BUDGET;
    case CENOTE_E_CORRUPT:
    case CENOTE_E_CHANGED:
        return CLI_EXIT_CORRUPT;
    case CENOTE_E_CANCELLED:
        return CLI_EXIT_INTERRUPTED;
    case CENOTE_E_VERSION:
    case CENOTE_E_NOMEM:
    case CENOTE_E_IO:
    case CENOTE_E_NOTFOUND:
    case CENOTE_E_UNSUPPORTED:
        break;
    }
    return CLI_EXIT_FAILURE;
}

int cli_fail(const cenote_error *err)
{
    cli_say("%s", err->message);
    return cli_exit_of(err->status);
}

/* The largest unit of which there is at least one. */
static const char *scaled_text(uint64_t size_bytes, double step, const char *const *units,
                               size_t unit_count, char *text)
{
    double value = (double)size_bytes;
    size_t unit = 0;
    while (value >= step && unit + 1 < unit_count) {
        value /= step;
        unit++;
    }
    snprintf(text, CLI_BYTES_TEXT, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}

const char *cli_memory_text(uint64_t size_bytes, char text[CLI_BYTES_TEXT])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    return scaled_text(size_bytes, 1024, units, 5, text);
}

const char *cli_disk_text(uint64_t size_bytes, char text[CLI_BYTES_TEXT])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    return scaled_text(size_bytes, 1000, units, 5, text);
}

void cli_say_draft(const qwen_result *result)
{
    if (result->draft_accepted > 0)
        cli_say("%u of the tokens came from the text before: %.2f tokens a pass over the weights",
                result->draft_accepted, (double)(result->token_count - 1) / result->decode_passes);
}
