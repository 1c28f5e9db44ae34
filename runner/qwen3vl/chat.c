/* SPDX-License-Identifier: Apache-2.0 */
/* The prompt as ids, in ChatML with vision markers:
 *
 *   <|im_start|>system\nSYSTEM<|im_end|>\n
 *   <|im_start|>user\n<|vision_start|><|image_pad|>...<|vision_end|>USER<|im_end|>\n
 *   <|im_start|>assistant\n
 *
 * Markers are pushed as ids and the text between two of them is encoded in one go, for that is how
 * transformers cuts the rendered string: "user\n" and a user's text without an image before it are
 * one text, whose white space may join. Typed markers are text unless parse_special says so. */
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
#define TURN_END   "<|im_end|>"
#define THINK      "<think>"

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

/* ---- rendering ---- */

/* One rendering in progress; the first failure makes the rest do nothing. */
typedef struct chat_writer {
    qwen_tokenizer *tokenizer;
    const qwen_chat_prompt *prompt;
    qwen_ids *ids;
    cenote_error *err;
    cenote_status status;
} chat_writer;

static void put_id(chat_writer *w, uint32_t id)
{
    if (w->status == CENOTE_OK)
        w->status = qwen_ids_push(w->ids, id, w->err);
}

static void put_marker(chat_writer *w, const char *text)
{
    if (w->status != CENOTE_OK)
        return;
    const uint32_t id = qwen_tokenizer_special(w->tokenizer, text);
    if (id == QWEN_TOKEN_NONE)
        w->status = cenote_error_set(w->err, CENOTE_E_CORRUPT,
                                     "the tokenizer has no added token \"%s\"", text);
    put_id(w, id);
}

static void put_text(chat_writer *w, const char *text, bool parse_special)
{
    if (w->status == CENOTE_OK)
        w->status =
            qwen_tokenizer_encode(w->tokenizer, text, strlen(text), parse_special, w->ids, w->err);
}

/* "user\n" and the text that follows without a marker between. */
static void put_headed_text(chat_writer *w, const char *head, const char *text)
{
    if (w->status != CENOTE_OK)
        return;
    const size_t head_bytes = strlen(head);
    const size_t text_bytes = strlen(text);
    char *joined = malloc(head_bytes + text_bytes);
    if (joined == NULL) {
        w->status = cenote_error_set(w->err, CENOTE_E_NOMEM, "no memory for a prompt of %zu bytes",
                                     text_bytes);
        return;
    }
    memcpy(joined, head, head_bytes);
    memcpy(joined + head_bytes, text, text_bytes);
    w->status = qwen_tokenizer_encode(w->tokenizer, joined, head_bytes + text_bytes,
                                      w->prompt->parse_special, w->ids, w->err);
    free(joined);
}

static void put_pads(chat_writer *w, uint32_t image)
{
    for (uint64_t i = 0; w->status == CENOTE_OK && i < w->prompt->image_token_counts[image]; i++)
        put_id(w, w->prompt->image_token_id);
}

static void put_images(chat_writer *w)
{
    for (uint32_t i = 0; i < w->prompt->image_count; i++) {
        put_id(w, w->prompt->vision_start_token_id);
        put_pads(w, i);
        put_id(w, w->prompt->vision_end_token_id);
    }
}

static uint64_t count_id(const qwen_ids *ids, uint64_t begin, uint32_t id)
{
    uint64_t count = 0;
    for (uint64_t i = begin; i < ids->count; i++)
        count += ids->ids[i] == id;
    return count;
}

/* Images are told apart by their pad tokens: none may come from text. */
static void check_pads(chat_writer *w, uint64_t begin)
{
    uint64_t wanted = 0;
    if (w->status != CENOTE_OK || w->prompt->image_count == 0)
        return;
    for (uint32_t i = 0; i < w->prompt->image_count; i++)
        wanted += w->prompt->image_token_counts[i];
    const uint64_t found = count_id(w->ids, begin, w->prompt->image_token_id);
    if (found == wanted)
        return;
    if (w->prompt->parse_special)
        w->status = cenote_error_set(w->err, CENOTE_E_INVAL,
                                     "the prompt's text has %llu image pad tokens of its own next "
                                     "to %u images; --raw-prompt lets it place them",
                                     (unsigned long long)(found - wanted), w->prompt->image_count);
    else
        w->status = cenote_error_set(w->err, CENOTE_E_CORRUPT,
                                     "plain text encodes to the image token id %u",
                                     w->prompt->image_token_id);
}

static void render_turns(chat_writer *w, const qwen_chat_style *style)
{
    const qwen_chat_prompt *prompt = w->prompt;
    const uint64_t begin = w->ids->count;
    if (prompt->system != NULL) {
        put_marker(w, TURN_BEGIN);
        put_headed_text(w, "system\n", prompt->system);
        put_marker(w, TURN_END);
        put_text(w, "\n", false);
    }
    put_marker(w, TURN_BEGIN);
    if (prompt->image_count > 0) {
        put_text(w, "user\n", false);
        put_images(w);
        put_text(w, prompt->user, prompt->parse_special);
    } else {
        put_headed_text(w, "user\n", prompt->user);
    }
    put_marker(w, TURN_END);
    put_text(w, "\n", false);
    put_marker(w, TURN_BEGIN);
    put_text(w, style->think_suffix ? "assistant\n" THINK "\n" : "assistant\n", true);
    check_pads(w, begin);
}

/* Each pad token in the text stands for an image, or there is none and images come first. */
static void render_raw_ids(chat_writer *w, const qwen_ids *text)
{
    const uint64_t pads = count_id(text, 0, w->prompt->image_token_id);
    uint32_t image = 0;
    if (pads != 0 && pads != w->prompt->image_count) {
        w->status = cenote_error_set(w->err, CENOTE_E_INVAL,
                                     "the raw prompt has %llu image pad tokens for %u images",
                                     (unsigned long long)pads, w->prompt->image_count);
        return;
    }
    if (pads == 0)
        put_images(w);
    for (uint64_t i = 0; w->status == CENOTE_OK && i < text->count; i++) {
        if (text->ids[i] == w->prompt->image_token_id)
            put_pads(w, image++);
        else
            put_id(w, text->ids[i]);
    }
}

static void render_raw(chat_writer *w)
{
    qwen_ids text = {.count_max = w->ids->count_max};
    if (w->prompt->system != NULL) {
        w->status = cenote_error_set(w->err, CENOTE_E_INVAL,
                                     "a raw prompt stands for the whole conversation: no system "
                                     "text beside it");
        return;
    }
    w->status = qwen_tokenizer_encode(w->tokenizer, w->prompt->user, strlen(w->prompt->user), true,
                                      &text, w->err);
    if (w->status == CENOTE_OK)
        render_raw_ids(w, &text);
    qwen_ids_fini(&text);
}

cenote_status qwen_chat_render(qwen_tokenizer *tokenizer, const qwen_chat_style *style,
                               const qwen_chat_prompt *prompt, qwen_ids *out_ids, cenote_error *err)
{
    const uint64_t count_before = out_ids->count;
    chat_writer writer = {tokenizer, prompt, out_ids, err, CENOTE_OK};
    if (prompt->raw)
        render_raw(&writer);
    else
        render_turns(&writer, style);
    if (writer.status != CENOTE_OK)
        out_ids->count = count_before;
    return writer.status;
}
