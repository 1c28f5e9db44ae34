/* SPDX-License-Identifier: Apache-2.0 */
#include "layout_csv.h"

#include <string.h>

#include "size.h"

enum { ID, LOWER, UPPER, SIZE, ALIGNMENT, FIELDS_MAX };

static const char *const names[FIELDS_MAX] = {"id", "lower", "upper", "size", "alignment"};

struct span {
    const char *begin, *end;
};

struct reader {
    const char *text;
    struct span rest;
    uint64_t line;         /* number of the current one, from 1 */
    uint32_t column_count; /* 4 or 5, as the header says */
    uint64_t total_bytes;  /* sizes and alignments so far */
    cenote_error *err;
};

static uint64_t span_bytes(struct span span)
{
    return (uint64_t)(span.end - span.begin);
}

static cenote_status refuse(const struct reader *reader, const char *name, const char *what)
{
    return cenote_error_set(reader->err, CENOTE_E_CORRUPT, "line %llu: %s%s%s",
                            (unsigned long long)reader->line, name, name[0] != '\0' ? ": " : "",
                            what);
}

/* Cuts off what comes before the first @p stop, and the stop. */
static struct span cut(struct span *rest, char stop)
{
    const char *at = memchr(rest->begin, stop, span_bytes(*rest));
    struct span piece = {rest->begin, at != NULL ? at : rest->end};
    rest->begin = at != NULL ? at + 1 : rest->end;
    return piece;
}

/* The next line that is not empty. */
static bool next_line(struct reader *reader, struct span *out_line)
{
    while (reader->rest.begin < reader->rest.end) {
        struct span line = cut(&reader->rest, '\n');
        reader->line++;
        if (line.end > line.begin && line.end[-1] == '\r')
            line.end--;
        if (line.end > line.begin) {
            *out_line = line;
            return true;
        }
    }
    return false;
}

/* @return how many fields there are, or FIELDS_MAX + 1 for more. */
static uint32_t split(struct span line, struct span fields[FIELDS_MAX + 1])
{
    uint32_t count = 0;
    do
        fields[count++] = cut(&line, ',');
    while (fields[count - 1].end < line.end && count <= FIELDS_MAX);
    return count;
}

static bool span_is(struct span span, const char *text)
{
    return span_bytes(span) == strlen(text) && memcmp(span.begin, text, span_bytes(span)) == 0;
}

static cenote_status read_header(struct reader *reader)
{
    struct span line, fields[FIELDS_MAX + 1];
    bool good = next_line(reader, &line);
    if (!good)
        reader->line = 1;
    reader->column_count = good ? split(line, fields) : 0;
    good = reader->column_count == ALIGNMENT || reader->column_count == FIELDS_MAX;
    for (uint32_t i = 0; good && i < reader->column_count; i++)
        good = span_is(fields[i], names[i]);
    if (!good)
        return refuse(reader, "", "the header is not id,lower,upper,size[,alignment]");
    return CENOTE_OK;
}

static cenote_status read_number(const struct reader *reader, struct span field, uint32_t column,
                                 uint64_t *out_number)
{
    char text[24]; /* longer than any number; what does not fit is shown cut */
    cenote_error detail;
    uint64_t size = span_bytes(field) < sizeof text - 1 ? span_bytes(field) : sizeof text - 1;
    memcpy(text, field.begin, size);
    text[size] = '\0';
    if (size < span_bytes(field) || memchr(text, '\0', size) != NULL ||
        cli_number_parse(text, 0, UINT64_MAX, out_number, &detail) != CENOTE_OK)
        return cenote_error_set(
            reader->err, CENOTE_E_CORRUPT, "line %llu: %s: '%s' is not a number from 0 to %llu",
            (unsigned long long)reader->line, names[column], text, (unsigned long long)UINT64_MAX);
    return CENOTE_OK;
}

static cenote_status check_id(const struct reader *reader, struct span id)
{
    if (id.begin == id.end)
        return refuse(reader, names[ID], "it is empty");
    if (span_bytes(id) > UINT32_MAX)
        return refuse(reader, names[ID], "it is longer than 4 GiB");
    for (const char *c = id.begin; c < id.end; c++) {
        if (*c == '"')
            return refuse(reader, names[ID], "quotes are not supported");
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return refuse(reader, names[ID], "it has a control character");
    }
    return CENOTE_OK;
}

/* What cenote_layout_init() would refuse, by the line. */
static cenote_status check_buffer(struct reader *reader, const cenote_layout_buffer *buffer)
{
    uint64_t align = buffer->align_bytes;
    if (buffer->lower >= buffer->upper)
        return refuse(reader, names[UPPER], "it is not above lower");
    if ((align & (align - 1)) != 0 || align > CENOTE_LAYOUT_ALIGN_MAX)
        return refuse(reader, names[ALIGNMENT], "it is no power of two up to 4294967296");
    if (buffer->size_bytes > (uint64_t)INT64_MAX - align ||
        reader->total_bytes > (uint64_t)INT64_MAX - align - buffer->size_bytes)
        return refuse(reader, names[SIZE], "it brings the sum of all sizes to 2^63 or more");
    reader->total_bytes += buffer->size_bytes + align;
    return CENOTE_OK;
}

static cenote_status read_row(struct reader *reader, struct span line, struct cli_layout_row *row)
{
    struct span fields[FIELDS_MAX + 1];
    cenote_layout_buffer *buffer = &row->buffer;
    uint64_t *const numbers[FIELDS_MAX] = {NULL, &buffer->lower, &buffer->upper,
                                           &buffer->size_bytes, &buffer->align_bytes};
    uint32_t count = split(line, fields);
    if (count < reader->column_count)
        return refuse(reader, names[count], "it is missing");
    if (count > reader->column_count)
        return refuse(reader, "", "it has more fields than the header");
    cenote_status status = check_id(reader, fields[ID]);
    buffer->align_bytes = 0;
    for (uint32_t i = LOWER; status == CENOTE_OK && i < count; i++)
        status = read_number(reader, fields[i], i, numbers[i]);
    if (status == CENOTE_OK)
        status = check_buffer(reader, buffer);
    row->id_offset = (uint64_t)(fields[ID].begin - reader->text);
    row->id_bytes = (uint32_t)span_bytes(fields[ID]);
    return status;
}

uint64_t cli_layout_csv_rows_max(const char *text, uint64_t size_bytes)
{
    struct span rest = {text, text + size_bytes};
    uint64_t lines = 0;
    while (rest.begin < rest.end) {
        (void)cut(&rest, '\n');
        lines++;
    }
    return lines > 0 ? lines - 1 : 0; /* the header */
}

cenote_status cli_layout_csv_read(const char *text, uint64_t size_bytes,
                                  struct cli_layout_row *rows, uint64_t *out_count,
                                  cenote_error *err)
{
    struct reader reader = {.text = text, .rest = {text, text + size_bytes}, .err = err};
    struct span line;
    uint64_t count = 0;
    cenote_status status = read_header(&reader);
    while (status == CENOTE_OK && next_line(&reader, &line)) {
        if (count == CENOTE_LAYOUT_BUFFERS_MAX)
            return refuse(&reader, "", "there are more than 4194304 buffers");
        status = read_row(&reader, line, &rows[count++]);
    }
    if (status == CENOTE_OK)
        *out_count = count;
    return status;
}
