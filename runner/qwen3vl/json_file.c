/* SPDX-License-Identifier: Apache-2.0 */
/* Small JSON files as jansson trees. The files come from strangers: their size and the number of
 * their values are bounded, and every number is checked for kind and range at the lookup.
 *
 * The values count because a tree takes far more than its text: jansson makes 225 bytes of "{},",
 * 300 MiB of a file of 4 MiB, which no plan knows of. Openers and commas are counted as the parser
 * reads them; those within strings count too, which only makes the bound tighter. */
#include "json_file.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A FIFO or a device in place of the file must not block or run on for ever. */
static cenote_status open_regular(const char *path, int *out_fd, cenote_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        cenote_status status =
            errno == ENOENT || errno == ENOTDIR ? CENOTE_E_NOTFOUND : CENOTE_E_IO;
        return cenote_error_set(err, status, "%s: %s", path, strerror(errno));
    }
    struct stat st;
    cenote_status status = CENOTE_OK;
    if (fstat(fd, &st) != 0)
        status = cenote_error_set(err, CENOTE_E_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        status = cenote_error_set(err, CENOTE_E_CORRUPT, "%s: not a regular file", path);
    else if (st.st_size > (off_t)QWEN_JSON_FILE_BYTES_MAX)
        status = cenote_error_set(err, CENOTE_E_CORRUPT, "%s: %lld bytes, at most %u are read",
                                  path, (long long)st.st_size, QWEN_JSON_FILE_BYTES_MAX);
    if (status != CENOTE_OK) {
        close(fd);
        return status;
    }
    *out_fd = fd;
    return CENOTE_OK;
}

struct source {
    int fd;
    size_t bytes;
    size_t values; /* at least as many as the tree has */
    bool too_much;
};

/* jansson's reader; (size_t)-1 ends the parse. */
static size_t source_read(void *buffer, size_t size_bytes, void *context)
{
    struct source *source = context;
    ssize_t got;
    do
        got = read(source->fd, buffer, size_bytes);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return got < 0 ? (size_t)-1 : 0;
    const char *text = buffer;
    for (ssize_t i = 0; i < got; i++)
        source->values += text[i] == '{' || text[i] == '[' || text[i] == ',';
    source->bytes += (size_t)got;
    source->too_much =
        source->values > QWEN_JSON_VALUES_MAX || source->bytes > QWEN_JSON_FILE_BYTES_MAX;
    return source->too_much ? (size_t)-1 : (size_t)got;
}

cenote_status qwen_json_file_read(const char *directory, const char *name, json_t **out_root,
                                  cenote_error *err)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return cenote_error_set(err, CENOTE_E_INVAL, "path longer than %zu bytes", sizeof path - 1);
    struct source source = {0};
    cenote_status status = open_regular(path, &source.fd, err);
    if (status != CENOTE_OK)
        return status;

    json_error_t detail;
    json_t *root = json_load_callback(source_read, &source, 0, &detail);
    close(source.fd);
    if (source.too_much) {
        json_decref(root);
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: over %u values or %u bytes", path,
                                QWEN_JSON_VALUES_MAX, QWEN_JSON_FILE_BYTES_MAX);
    }
    if (root == NULL)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: line %d: %s", path, detail.line,
                                detail.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: the top is not an object", path);
    }
    *out_root = root;
    return CENOTE_OK;
}

static bool is_absent(const json_t *value)
{
    return value == NULL || json_is_null(value);
}

cenote_status qwen_json_uint(const json_t *object, const char *file, const char *key, uint64_t low,
                             uint64_t high, uint64_t fallback, uint64_t *out_value,
                             cenote_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (is_absent(value)) {
        if (fallback == UINT64_MAX)
            return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: `%s` is missing", file, key);
        *out_value = fallback;
        return CENOTE_OK;
    }
    if (!json_is_integer(value))
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: `%s` is not an integer", file, key);
    json_int_t number = json_integer_value(value);
    if (number < 0 || (uint64_t)number < low || (uint64_t)number > high)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: `%s` is %lld, must be %llu to %llu",
                                file, key, (long long)number, (unsigned long long)low,
                                (unsigned long long)high);
    *out_value = (uint64_t)number;
    return CENOTE_OK;
}

cenote_status qwen_json_positive(const json_t *object, const char *file, const char *key,
                                 double high, double fallback, double *out_value, cenote_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (is_absent(value)) {
        if (fallback <= 0)
            return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: `%s` is missing", file, key);
        *out_value = fallback;
        return CENOTE_OK;
    }
    double number = json_is_number(value) ? json_number_value(value) : NAN;
    if (!(number > 0 && number <= high))
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s: `%s` must be a number above 0, at most %g", file, key, high);
    *out_value = number;
    return CENOTE_OK;
}

cenote_status qwen_json_expect_text(const json_t *object, const char *file, const char *key,
                                    const char *expected, cenote_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (is_absent(value))
        return CENOTE_OK;
    const char *text = json_string_value(value);
    if (text == NULL)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: `%s` is not a string", file, key);
    if (strcmp(text, expected) != 0)
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                "%s: `%s` is \"%.60s\"; supported: \"%s\"", file, key, text,
                                expected);
    return CENOTE_OK;
}
