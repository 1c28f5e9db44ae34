/* SPDX-License-Identifier: Apache-2.0 */
/* A JSON file as events: read in pieces of 64 KiB, each shown to a guard and then to yajl.
 *
 * yajl keeps the part of a string that crosses a piece, so its memory is bounded by the longest
 * string: the guard bounds that before yajl sees it. It also refuses lone surrogate escapes, which
 * yajl would turn into question marks, that is, into another token. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <yajl/yajl_parse.h>

#include "tokenizer_internal.h"

#define STRING_BYTES_MAX  (256u << 10) /* as it stands in the file, escapes and all */
#define LITERAL_BYTES_MAX 64u          /* numbers, true, false, null */

typedef struct json_guard {
    uint32_t run_bytes; /* of the string or literal we are in */
    uint16_t escape;    /* the hex digits so far */
    uint8_t hex_left;
    bool in_string;
    bool escaped;  /* behind a backslash */
    bool want_low; /* behind the escape of a high surrogate */
} json_guard;

static unsigned hex_value(unsigned char digit)
{
    return digit <= '9' ? digit - (unsigned)'0' : (digit | 0x20u) - 'a' + 10;
}

/* The last digit of \uXXXX is in. */
static const char *guard_escape(json_guard *guard)
{
    const bool high = (guard->escape & 0xfc00) == 0xd800;
    const bool low = (guard->escape & 0xfc00) == 0xdc00;
    if (low != guard->want_low)
        return "half of a surrogate pair";
    guard->want_low = high;
    return NULL;
}

/* A byte inside a string. */
static const char *guard_string(json_guard *guard, unsigned char byte)
{
    if (++guard->run_bytes > STRING_BYTES_MAX)
        return "a string over 256 KiB";
    if (guard->hex_left > 0) {
        guard->escape = (uint16_t)(guard->escape << 4 | (hex_value(byte) & 0xf));
        return --guard->hex_left == 0 ? guard_escape(guard) : NULL;
    }
    if (guard->escaped) {
        guard->escaped = false;
        guard->hex_left = byte == 'u' ? 4 : 0;
        return guard->want_low && byte != 'u' ? "half of a surrogate pair" : NULL;
    }
    guard->escaped = byte == '\\';
    if (guard->want_low && !guard->escaped)
        return "half of a surrogate pair";
    if (byte == '"') {
        guard->in_string = false;
        guard->run_bytes = 0;
    }
    return NULL;
}

/* A byte outside of strings. */
static const char *guard_literal(json_guard *guard, unsigned char byte)
{
    guard->in_string = byte == '"';
    if (byte <= ' ' || strchr("\",:[]{}", byte) != NULL)
        guard->run_bytes = 0;
    else if (++guard->run_bytes > LITERAL_BYTES_MAX)
        return "a number or word over 64 bytes";
    return NULL;
}

/* @return NULL or what is wrong; *at is where. */
static const char *guard_check(json_guard *guard, const unsigned char *bytes, size_t count,
                               size_t *at)
{
    const char *wrong = NULL;
    size_t i = 0;
    for (; i < count && wrong == NULL; i++)
        wrong = guard->in_string ? guard_string(guard, bytes[i]) : guard_literal(guard, bytes[i]);
    *at = i;
    return wrong;
}

cenote_status qwen_json_open(const char *path, uint64_t size_bytes_max, unsigned char *buffer,
                             qwen_json_file *out_file, cenote_error *err)
{
    struct stat info;
    /* O_NONBLOCK: a FIFO in place of the file must not hang us. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return cenote_error_set(err, errno == ENOENT ? CENOTE_E_NOTFOUND : CENOTE_E_IO, "%s: %s",
                                path, strerror(errno));
    cenote_status status = CENOTE_OK;
    if (fstat(fd, &info) != 0)
        status = cenote_error_set(err, CENOTE_E_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = cenote_error_set(err, CENOTE_E_CORRUPT, "%s: not a regular file", path);
    else if ((uint64_t)info.st_size > size_bytes_max)
        status =
            cenote_error_set(err, CENOTE_E_CORRUPT, "%s: has %llu bytes, the limit is %llu", path,
                             (unsigned long long)info.st_size, (unsigned long long)size_bytes_max);
    if (status != CENOTE_OK) {
        close(fd);
        return status;
    }
    *out_file = (qwen_json_file){path, fd, (uint64_t)info.st_size, buffer};
    return CENOTE_OK;
}

void qwen_json_close(qwen_json_file *file)
{
    close(file->fd);
}

/* Reads the next piece: as much of it as the file has. */
static cenote_status read_piece(const qwen_json_file *file, uint64_t offset, size_t count,
                                cenote_error *err)
{
    size_t filled = 0;
    while (filled < count) {
        const ssize_t got =
            pread(file->fd, file->buffer + filled, count - filled, (off_t)(offset + filled));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return cenote_error_set(err, CENOTE_E_IO, "%s: read at byte %llu: %s", file->path,
                                    (unsigned long long)(offset + filled), strerror(errno));
        if (got == 0)
            return cenote_error_set(err, CENOTE_E_CHANGED, "%s: ends at byte %llu, had %llu",
                                    file->path, (unsigned long long)(offset + filled),
                                    (unsigned long long)file->size_bytes);
        filled += (size_t)got;
    }
    return CENOTE_OK;
}

static cenote_status parse_error(const qwen_json_file *file, uint64_t offset, const char *wrong,
                                 cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: near byte %llu: %.*s", file->path,
                            (unsigned long long)offset, (int)strcspn(wrong, "\n"), wrong);
}

/* What yajl has against the piece, or what a callback had. */
static cenote_status yajl_fault(const qwen_json_file *file, yajl_handle yajl, uint64_t offset,
                                const cenote_status *callback_status, cenote_error *err)
{
    if (*callback_status != CENOTE_OK)
        return *callback_status;
    unsigned char *text = yajl_get_error(yajl, 0, NULL, 0);
    const cenote_status status = parse_error(file, offset + yajl_get_bytes_consumed(yajl),
                                             text != NULL ? (const char *)text : "", err);
    yajl_free_error(yajl, text);
    return status;
}

cenote_status qwen_json_pass(const qwen_json_file *file, const void *callbacks, void *context,
                             const cenote_status *callback_status, cenote_error *err)
{
    json_guard guard = {0};
    cenote_status status = CENOTE_OK;
    uint64_t offset = 0;
    yajl_handle yajl = yajl_alloc(callbacks, NULL, context);
    if (yajl == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "%s: no memory for a parser", file->path);
    while (status == CENOTE_OK && offset < file->size_bytes) {
        const uint64_t left = file->size_bytes - offset;
        const size_t count = left < CENOTE_GRANULE_BYTES ? (size_t)left : CENOTE_GRANULE_BYTES;
        size_t at;
        status = read_piece(file, offset, count, err);
        if (status != CENOTE_OK)
            break;
        const char *wrong = guard_check(&guard, file->buffer, count, &at);
        if (wrong != NULL)
            status = parse_error(file, offset + at, wrong, err);
        else if (yajl_parse(yajl, file->buffer, count) != yajl_status_ok)
            status = yajl_fault(file, yajl, offset, callback_status, err);
        offset += count;
    }
    if (status == CENOTE_OK && yajl_complete_parse(yajl) != yajl_status_ok)
        status = yajl_fault(file, yajl, offset, callback_status, err);
    yajl_free(yajl);
    return status;
}
