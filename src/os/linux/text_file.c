/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the line-oriented files of /proc and /sys. Numbers are parsed strictly: what does not
 * look like one is missing, never zero. */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "os/linux/text_file.h"

int cn_text_file_lines(const char *root, const char *path, cn_line_fn fn, void *argument)
{
    char full[PATH_MAX];
    int length = snprintf(full, sizeof full, "%s%s", root, path);
    if (length < 0 || (size_t)length >= sizeof full)
        return -ENAMETOOLONG;
    FILE *file = fopen(full, "re");
    if (file == NULL)
        return -errno;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t got;
    errno = 0;
    while ((got = getline(&line, &capacity, file)) >= 0) {
        if (got > 0 && line[got - 1] == '\n')
            line[got - 1] = '\0';
        if (!fn(argument, line))
            break;
        errno = 0;
    }
    int error = got < 0 && !feof(file) ? -errno : 0;
    free(line);
    fclose(file);
    return error;
}

/* Digits at the start of text; *out_end is what follows them. */
static bool parse_digits(const char *text, uint64_t *out_number, const char **out_end)
{
    if (!isdigit((unsigned char)*text))
        return false;
    uint64_t number = 0;
    for (; isdigit((unsigned char)*text); text++) {
        if (!cn_checked_mul(number, 10, &number) ||
            !cn_checked_add(number, (uint64_t)(*text - '0'), &number))
            return false;
    }
    *out_number = number;
    *out_end = text;
    return true;
}

static const char *skip_blanks(const char *text)
{
    while (*text == ' ' || *text == '\t')
        text++;
    return text;
}

bool cn_text_number(const char *text, uint64_t *out_number)
{
    const char *end;
    uint64_t number;
    if (!parse_digits(text, &number, &end) || *skip_blanks(end) != '\0')
        return false;
    *out_number = number;
    return true;
}

struct first_number {
    uint64_t number;
    bool found;
};

static bool take_first_number(void *argument, const char *line)
{
    struct first_number *first = argument;
    first->found = cn_text_number(line, &first->number);
    return false;
}

bool cn_text_file_number(const char *root, const char *path, uint64_t *out_number)
{
    struct first_number first = {0, false};
    if (cn_text_file_lines(root, path, take_first_number, &first) != 0 || !first.found)
        return false;
    *out_number = first.number;
    return true;
}

struct field_list {
    struct cn_text_field *fields;
    unsigned count;
};

static void take_value(struct cn_text_field *field, const char *text)
{
    const char *end;
    uint64_t value;
    if (!parse_digits(skip_blanks(text), &value, &end))
        return;
    if (strcmp(skip_blanks(end), "kB") == 0 && !cn_checked_mul(value, 1024, &value))
        return;
    field->value = value;
    field->found = true;
}

static bool take_field(void *argument, const char *line)
{
    struct field_list *list = argument;
    size_t key_length = strcspn(line, ": \t");
    for (unsigned i = 0; i < list->count; i++) {
        struct cn_text_field *field = &list->fields[i];
        if (strlen(field->key) != key_length || memcmp(field->key, line, key_length) != 0)
            continue;
        const char *rest = line + key_length;
        take_value(field, *rest == ':' ? rest + 1 : rest);
        break;
    }
    return true;
}

int cn_text_file_fields(const char *root, const char *path, struct cn_text_field *fields,
                        unsigned field_count)
{
    struct field_list list = {fields, field_count};
    return cn_text_file_lines(root, path, take_field, &list);
}
