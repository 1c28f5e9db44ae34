/* SPDX-License-Identifier: Apache-2.0 */
/* The chat template of a model directory: where it is, and what of it counts. */
#include "chat.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chat_template.h"
#include "json_file.h"

#define TURN_BEGIN "<|im_start|>"
#define THINK      "<think>"
#define THINK_END  "</think>"

/* ---- the template ---- */

typedef struct template_text {
    char *text; /* malloc */
    size_t bytes;
} template_text;

static cenote_status template_copy(const char *text, size_t text_bytes, template_text *out,
                                   cenote_error *err)
{
    char *copy = malloc(text_bytes + 1);
    if (copy == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for a chat template of %zu bytes",
                                text_bytes);
    memcpy(copy, text, text_bytes);
    copy[text_bytes] = '\0';
    *out = (template_text){copy, text_bytes};
    return CENOTE_OK;
}

/* chat_template may be a text, or a list of {"name", "template"} of which "default" counts. */
static cenote_status template_from_json(const char *directory, const char *name, template_text *out,
                                        cenote_error *err)
{
    json_t *root;
    cenote_status status = qwen_json_file_read(directory, name, &root, err);
    if (status != CENOTE_OK)
        return status;
    const json_t *found = json_object_get(root, "chat_template");
    if (json_is_array(found)) {
        const json_t *list = found;
        size_t i;
        json_t *entry;
        found = NULL;
        json_array_foreach(list, i, entry)
        {
            const char *entry_name = json_string_value(json_object_get(entry, "name"));
            if (entry_name != NULL && strcmp(entry_name, "default") == 0)
                found = json_object_get(entry, "template");
        }
        if (found == NULL)
            status = cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                      "%s/%s: none of its %zu chat templates is named \"default\"",
                                      directory, name, json_array_size(list));
    }
    if (status == CENOTE_OK && found == NULL)
        status = cenote_error_set(err, CENOTE_E_NOTFOUND, "%s/%s: has no chat_template", directory,
                                  name);
    if (status == CENOTE_OK && !json_is_string(found))
        status = cenote_error_set(err, CENOTE_E_CORRUPT, "%s/%s: chat_template is not a text",
                                  directory, name);
    if (status == CENOTE_OK)
        status = template_copy(json_string_value(found), json_string_length(found), out, err);
    json_decref(root);
    return status;
}

static cenote_status read_all(int fd, const char *path, char *text, size_t text_bytes,
                              cenote_error *err)
{
    for (size_t filled = 0; filled < text_bytes;) {
        const ssize_t got = read(fd, text + filled, text_bytes - filled);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return cenote_error_set(err, CENOTE_E_IO, "%s: %s", path, strerror(errno));
        if (got == 0)
            return cenote_error_set(err, CENOTE_E_CHANGED, "%s: ends at byte %zu, had %zu", path,
                                    filled, text_bytes);
        filled += (size_t)got;
    }
    return CENOTE_OK;
}

static cenote_status template_from_fd(int fd, const char *path, template_text *out,
                                      cenote_error *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return cenote_error_set(err, CENOTE_E_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_size > (off_t)QWEN_JSON_FILE_BYTES_MAX)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: not a regular file of %u bytes at most",
                                path, QWEN_JSON_FILE_BYTES_MAX);
    const size_t text_bytes = (size_t)info.st_size;
    char *text = malloc(text_bytes + 1);
    if (text == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for a chat template of %zu bytes",
                                text_bytes);
    const cenote_status status = read_all(fd, path, text, text_bytes, err);
    if (status != CENOTE_OK) {
        free(text);
        return status;
    }
    text[text_bytes] = '\0';
    *out = (template_text){text, text_bytes};
    return CENOTE_OK;
}

static cenote_status template_from_jinja(const char *directory, template_text *out,
                                         cenote_error *err)
{
    char path[4096];
    const int length = snprintf(path, sizeof(path), "%s/chat_template.jinja", directory);
    if (length < 0 || (size_t)length >= sizeof(path))
        return cenote_error_set(err, CENOTE_E_INVAL, "path longer than %zu bytes",
                                sizeof(path) - 1);
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return cenote_error_set(
            err, errno == ENOENT || errno == ENOTDIR ? CENOTE_E_NOTFOUND : CENOTE_E_IO, "%s: %s",
            path, strerror(errno));
    const cenote_status status = template_from_fd(fd, path, out, err);
    close(fd);
    return status;
}

/* In the order in which transformers prefers them. */
static cenote_status template_find(const char *directory, template_text *out, const char **out_name,
                                   cenote_error *err)
{
    static const char *const names[] = {"chat_template.jinja", "chat_template.json",
                                        "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const cenote_status status = i == 0 ? template_from_jinja(directory, out, err)
                                            : template_from_json(directory, names[i], out, err);
        if (status == CENOTE_OK)
            *out_name = names[i];
        if (status != CENOTE_E_NOTFOUND)
            return status;
    }
    return cenote_error_set(err, CENOTE_E_NOTFOUND,
                            "%s: no chat template in chat_template.jinja, chat_template.json or "
                            "tokenizer_config.json; --raw-prompt does without",
                            directory);
}

static cenote_status style_of_template(const char *directory, const char *name,
                                       const template_text *found, qwen_chat_style *out_style,
                                       cenote_error *err)
{
    char turn[QWEN_CHAT_TURN_BYTES];
    if (memmem(found->text, found->bytes, TURN_BEGIN, strlen(TURN_BEGIN)) == NULL)
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                "%s/%s: the chat template has no " TURN_BEGIN
                                "; write the prompt out and use --raw-prompt",
                                directory, name);
    const cenote_status status = qwen_chat_template_turn(found->text, found->bytes, turn, err);
    if (status != CENOTE_OK)
        return status;
    if (turn[0] != '\0' && strcmp(turn, THINK) != 0)
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                "%s/%s: the chat template opens the assistant's turn with \"%s\"; "
                                "write the prompt out and use --raw-prompt",
                                directory, name, turn);
    out_style->think_suffix = turn[0] != '\0';
    out_style->drops_thoughts =
        memmem(found->text, found->bytes, THINK_END, strlen(THINK_END)) != NULL;
    return CENOTE_OK;
}

cenote_status qwen_chat_style_read(const char *directory, qwen_chat_style *out_style,
                                   cenote_error *err)
{
    template_text found;
    const char *name;
    cenote_status status = template_find(directory, &found, &name, err);
    if (status != CENOTE_OK)
        return status;
    status = style_of_template(directory, name, &found, out_style, err);
    free(found.text);
    return status;
}
