/* SPDX-License-Identifier: Apache-2.0 */
/* Small JSON files as jansson trees. The files come from strangers: they are bounded before they
 * are read, and every number is checked for kind and range at the lookup. */
#include "json_file.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A FIFO or a device in place of the file must not block or run on for ever. */
static cenote_status open_regular(const char *path, int *out_fd, size_t *out_size_bytes,
                                  cenote_error *err)
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
    *out_size_bytes = (size_t)st.st_size;
    return CENOTE_OK;
}

cenote_status qwen_json_file_read(const char *directory, const char *name, json_t **out_root,
                                  cenote_error *err)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return cenote_error_set(err, CENOTE_E_INVAL, "path longer than %zu bytes", sizeof path - 1);
    int fd;
    size_t size_bytes;
    cenote_status status = open_regular(path, &fd, &size_bytes, err);
    if (status != CENOTE_OK)
        return status;

    json_error_t detail;
    json_t *root = json_loadfd(fd, 0, &detail);
    close(fd);
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
