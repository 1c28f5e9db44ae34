/* SPDX-License-Identifier: Apache-2.0 */
#include "trace.h"

#include <inttypes.h>
#include <string.h>

#include "size.h"

#define WORDS_MAX 4u

struct span {
    const char *begin, *end;
};

/* Cuts the next line off @p rest; false at the end. */
static bool next_line(struct span *rest, struct span *out_line)
{
    if (rest->begin == rest->end)
        return false;
    const char *end = memchr(rest->begin, '\n', (size_t)(rest->end - rest->begin));
    *out_line = (struct span){rest->begin, end != NULL ? end : rest->end};
    rest->begin = end != NULL ? end + 1 : rest->end;
    return true;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Words up to a comment. @return how many; WORDS_MAX + 1: more than that */
static uint32_t split(struct span line, struct span words[WORDS_MAX])
{
    uint32_t count = 0;
    const char *at = line.begin;
    for (;;) {
        while (at < line.end && blank(*at))
            at++;
        if (at == line.end || *at == '#')
            return count;
        if (count == WORDS_MAX)
            return WORDS_MAX + 1;
        words[count].begin = at;
        while (at < line.end && !blank(*at) && *at != '#')
            at++;
        words[count++].end = at;
    }
}

static cenote_status read_number(struct span word, const char *name, uint64_t *out_number,
                                 cenote_error *err)
{
    char text[24]; /* longer than any number; what does not fit is shown cut */
    size_t size = (size_t)(word.end - word.begin);
    size_t shown = size < sizeof text ? size : sizeof text - 1;
    memcpy(text, word.begin, shown);
    text[shown] = '\0';
    if (shown < size || strlen(text) != size ||
        cli_number_parse(text, 0, UINT64_MAX, out_number, NULL) != CENOTE_OK)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s: '%s' is not a number from 0 to %" PRIu64, name, text,
                                UINT64_MAX);
    return CENOTE_OK;
}

static bool word_is(struct span word, char letter)
{
    return word.end - word.begin == 1 && *word.begin == letter;
}

static cenote_status read_line(struct cli_trace *trace, struct span line, cenote_error *err)
{
    static const char *const names[WORDS_MAX] = {"", "id", "size", "alignment"};
    struct span words[WORDS_MAX];
    uint64_t numbers[WORDS_MAX] = {0};
    uint32_t count = split(line, words);
    if (count == 0)
        return CENOTE_OK;
    bool alloc = word_is(words[0], 'a') && (count == 3 || count == 4);
    if (!alloc && !(word_is(words[0], 'f') && count == 2))
        return cenote_error_set(err, CENOTE_E_CORRUPT, "neither 'a ID SIZE [ALIGN]' nor 'f ID'");
    for (uint32_t i = 1; i < count; i++) {
        cenote_status status = read_number(words[i], names[i], &numbers[i], err);
        if (status != CENOTE_OK)
            return status;
    }
    if (alloc)
        return cli_trace_alloc(trace, 0, numbers[1], numbers[2], numbers[3], 0, err);
    return cli_trace_free(trace, 0, numbers[1], err);
}

cenote_status cli_trace_read_text(struct cli_trace *trace, const char *text, uint64_t size_bytes,
                                  cenote_error *err)
{
    cenote_error detail;
    struct span rest = {text, text + size_bytes}, line;
    uint32_t pool; /* the first of the trace: 0 */
    cenote_status status = cli_trace_pool(trace, 0, CENOTE_CLASS_GENERAL, &pool, err);
    for (uint64_t number = 1; status == CENOTE_OK && next_line(&rest, &line); number++) {
        status = read_line(trace, line, &detail);
        if (status != CENOTE_OK)
            return cenote_error_set(err, status, "line %" PRIu64 ": %s", number, detail.message);
    }
    return status;
}
