/* SPDX-License-Identifier: Apache-2.0 */
/* One place words the errors about checkpoints, so that each has the same shape: which file, which
 * tensor, which numbers. All three come from strangers; a name of a kilobyte must not push the
 * numbers out of the message, so path and name are clipped first. */
#include "weights/message.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { PATH_SHOWN_BYTES = 140, NAME_SHOWN_BYTES = 120, DETAIL_BYTES = 220 };

/* The last bytes of a path say more than its first. */
static const char *path_tail(const char *path)
{
    size_t length = strlen(path);
    if (length <= PATH_SHOWN_BYTES)
        return path;
    const char *tail = path + length - PATH_SHOWN_BYTES;
    /* not from the middle of a UTF-8 character */
    while (((unsigned char)*tail & 0xc0) == 0x80)
        tail++;
    return tail;
}

static int name_shown(const char *name)
{
    size_t length = strnlen(name, NAME_SHOWN_BYTES + 1);
    if (length <= NAME_SHOWN_BYTES)
        return (int)length;
    length = NAME_SHOWN_BYTES;
    while (length > 0 && ((unsigned char)name[length] & 0xc0) == 0x80)
        length--;
    return (int)length;
}

cenote_status cn_weights_error(cenote_error *err, cenote_status status, const char *path,
                               const char *tensor, const char *format, ...)
{
    char detail[DETAIL_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);

    const char *tail = path_tail(path);
    const char *path_cut = tail == path ? "" : "...";
    if (tensor == NULL)
        return cenote_error_set(err, status, "%s%s: %s", path_cut, tail, detail);
    int shown = name_shown(tensor);
    const char *name_cut = tensor[shown] == '\0' ? "" : "...";
    return cenote_error_set(err, status, "%s%s: tensor `%.*s%s`: %s", path_cut, tail, shown, tensor,
                            name_cut, detail);
}

cenote_status cn_weights_error_errno(cenote_error *err, const char *path, const char *tensor,
                                     const char *what, int code)
{
    if (code == ENOENT || code == ENOTDIR)
        return cn_weights_error(err, CENOTE_E_NOTFOUND, path, tensor, "%s: no such file", what);
    const char *words = strerrordesc_np(code);
    return cn_weights_error(err, code == ENOMEM ? CENOTE_E_NOMEM : CENOTE_E_IO, path, tensor,
                            "%s: %s (errno %d)", what, words ? words : "unknown error", code);
}
