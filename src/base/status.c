/* SPDX-License-Identifier: Apache-2.0 */
/* The status table as text, and one-line error details that are safe to print. */
#include <stdarg.h>
#include <stdio.h>

#include <cenote/cenote.h>

const char *cenote_status_text(cenote_status status)
{
    switch (status) {
#define STATUS_CASE(name, code, text)                                                              \
    case name:                                                                                     \
        return text;
        CENOTE_STATUS_TABLE(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}

cenote_status cenote_error_set(cenote_error *err, cenote_status status, const char *format, ...)
{
    if (err == NULL)
        return status;
    err->status = status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    for (char *c = err->message; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return status;
}

const char *cenote_version(void)
{
    return CENOTE_VERSION_TEXT;
}
