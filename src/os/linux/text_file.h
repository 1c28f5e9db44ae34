/* SPDX-License-Identifier: Apache-2.0 */
/* The small text files of /proc and /sys, line by line, below a root that tests can move. */
#ifndef CN_OS_LINUX_TEXT_FILE_H
#define CN_OS_LINUX_TEXT_FILE_H

#include <stdbool.h>
#include <stdint.h>

/* Sees one line without its newline; false ends the walk. */
typedef bool (*cn_line_fn)(void *argument, const char *line);

/* Calls @p fn for each line of root + path. @return 0, or a negative errno. */
int cn_text_file_lines(const char *root, const char *path, cn_line_fn fn, void *argument);

/* A decimal number and nothing but blanks after it, for "max" and garbage false. */
bool cn_text_number(const char *text, uint64_t *out_number);

/* The number in the first line of root + path; false when there is none. */
bool cn_text_file_number(const char *root, const char *path, uint64_t *out_number);

/* One "key value" or "Key:  value kB" of a file. Values in kB come out in bytes. */
struct cn_text_field {
    const char *key; /* without the colon */
    uint64_t value;  /* untouched when the key is missing */
    bool found;
};
int cn_text_file_fields(const char *root, const char *path, struct cn_text_field *fields,
                        unsigned field_count);

#endif
