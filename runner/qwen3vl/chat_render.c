/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation as ids, in ChatML with vision markers:
 *
 *   <|im_start|>system\nSYSTEM<|im_end|>\n
 *   <|im_start|>user\n<|vision_start|><|image_pad|>...<|vision_end|>USER<|im_end|>\n
 *   <|im_start|>assistant\nREPLY<|im_end|>\n            and so on, until
 *   <|im_start|>assistant\n
 *
 * Markers are pushed as ids and the text between two of them is encoded in one go, for that is how
 * transformers cuts the rendered string: "user\n" and a user's text without an image before it are
 * one text, whose white space may join. Typed markers are text unless parse_special says so.
 *
 * A reply comes as the ids that were produced. transformers would hand the template its text, so
 * it is decoded, special tokens left out, and encoded again: what joins "assistant\n" or was
 * produced in other pieces than the tokenizer makes gets other ids. Added tokens that are not
 * special (<think>) stay what they were produced as. */
#include "chat.h"

#include <stdlib.h>
#include <string.h>

#define TURN_BEGIN "<|im_start|>"
#define TURN_END   "<|im_end|>"
#define ASSISTANT  "assistant\n"
#define THINK      "<think>"
#define THINK_END  "</think>"

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

static void put_pads(chat_writer *w, uint64_t count)
{
    for (uint64_t i = 0; w->status == CENOTE_OK && i < count; i++)
        put_id(w, w->prompt->image_token_id);
}

static void put_images(chat_writer *w, uint32_t count, const uint64_t *token_counts)
{
    for (uint32_t i = 0; i < count; i++) {
        put_id(w, w->prompt->vision_start_token_id);
        put_pads(w, token_counts[i]);
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

static uint64_t sum_of(const uint64_t *counts, uint32_t count)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += counts[i];
    return sum;
}

/* Images are told apart by their pad tokens: none may come from text. */
static void check_pads(chat_writer *w, uint64_t begin)
{
    const qwen_chat_prompt *prompt = w->prompt;
    uint64_t wanted = sum_of(prompt->image_token_counts, prompt->image_count);
    for (uint32_t i = 0; i < prompt->past_count; i++)
        wanted += sum_of(prompt->past[i].image_token_counts, prompt->past[i].image_count);
    if (w->status != CENOTE_OK || wanted == 0)
        return;
    const uint64_t found = count_id(w->ids, begin, prompt->image_token_id);
    if (found == wanted)
        return;
    if (prompt->parse_special)
        w->status = cenote_error_set(w->err, CENOTE_E_INVAL,
                                     "the prompt's text has %llu image pad tokens of its own next "
                                     "to the images; --raw-prompt lets it place them",
                                     (unsigned long long)(found - wanted));
    else
        w->status =
            cenote_error_set(w->err, CENOTE_E_CORRUPT,
                             "plain text encodes to the image token id %u", prompt->image_token_id);
}

/* ---- a reply ---- */

typedef struct reply_text {
    chat_writer *writer;
    char *bytes;
    size_t count;
    size_t capacity;
    bool skip_newlines; /* nothing but newlines since the end of the thoughts */
} reply_text;

static void reply_append(void *context, const char *text, size_t text_bytes)
{
    reply_text *reply = context;
    chat_writer *w = reply->writer;
    while (reply->skip_newlines && text_bytes > 0 && *text == '\n') {
        text++;
        text_bytes--;
    }
    if (w->status != CENOTE_OK || text_bytes == 0)
        return;
    reply->skip_newlines = false;
    if (reply->count + text_bytes > reply->capacity) {
        const size_t capacity = (reply->count + text_bytes) * 2;
        char *grown = realloc(reply->bytes, capacity);
        if (grown == NULL) {
            w->status = cenote_error_set(w->err, CENOTE_E_NOMEM,
                                         "no memory for a reply of %zu bytes", capacity);
            return;
        }
        reply->bytes = grown;
        reply->capacity = capacity;
    }
    memcpy(reply->bytes + reply->count, text, text_bytes);
    reply->count += text_bytes;
}

static void reply_flush(reply_text *reply)
{
    chat_writer *w = reply->writer;
    if (w->status == CENOTE_OK && reply->count > 0)
        w->status = qwen_tokenizer_encode(w->tokenizer, reply->bytes, reply->count,
                                          w->prompt->parse_special, w->ids, w->err);
    reply->count = 0;
}

/* Where a reply begins to be shown. */
typedef struct reply_place {
    uint64_t id_index;
    size_t byte; /* of that token */
} reply_place;

/* Behind the thoughts that the template leaves out of what is past: behind the last </think>, be
 * it a token of its own or spelled; else the beginning. */
static reply_place thoughts_end(const chat_writer *w, const uint32_t *ids, uint64_t count)
{
    static const char mark[] = THINK_END;
    reply_place end = {0, 0};
    size_t matched = 0;
    for (uint64_t i = 0; i < count; i++) {
        const unsigned char *bytes;
        bool special = false;
        const size_t size = qwen_tokenizer_token_bytes(w->tokenizer, ids[i], &bytes, &special);
        for (size_t k = 0; !special && k < size; k++) {
            matched = bytes[k] == (unsigned char)mark[matched] ? matched + 1 : bytes[k] == '<';
            if (mark[matched] != '\0')
                continue;
            end = (reply_place){i, k + 1};
            matched = 0;
        }
    }
    return end;
}

static void put_reply_id(chat_writer *w, reply_text *reply, qwen_detokenizer *detokenizer,
                         uint32_t id, size_t skip_bytes)
{
    const unsigned char *bytes;
    bool special = false;
    const size_t size = qwen_tokenizer_token_bytes(w->tokenizer, id, &bytes, &special);
    if (size <= skip_bytes || special)
        return;
    if (!qwen_tokenizer_is_added(w->tokenizer, id)) {
        qwen_detokenizer_feed(detokenizer, bytes + skip_bytes, size - skip_bytes, reply_append,
                              reply);
        return;
    }
    qwen_detokenizer_feed(detokenizer, NULL, 0, reply_append, reply);
    reply_flush(reply);
    put_id(w, id);
    reply->skip_newlines = false;
}

static void put_reply(chat_writer *w, const qwen_chat_style *style, const qwen_chat_turn *turn)
{
    reply_text reply = {.writer = w};
    qwen_detokenizer detokenizer = QWEN_DETOKENIZER_INIT;
    reply_place first = {0, 0};
    if (style->drops_thoughts)
        first = thoughts_end(w, turn->reply_ids, turn->reply_count);
    reply_append(&reply, ASSISTANT, strlen(ASSISTANT));
    reply.skip_newlines = first.byte > 0;
    for (uint64_t i = first.id_index; w->status == CENOTE_OK && i < turn->reply_count; i++)
        put_reply_id(w, &reply, &detokenizer, turn->reply_ids[i],
                     i == first.id_index ? first.byte : 0);
    qwen_detokenizer_feed(&detokenizer, NULL, 0, reply_append, &reply);
    reply_flush(&reply);
    free(reply.bytes);
}

/* ---- turns ---- */

static void put_user(chat_writer *w, const qwen_chat_turn *turn)
{
    put_marker(w, TURN_BEGIN);
    if (turn->image_count > 0) {
        put_text(w, "user\n", false);
        put_images(w, turn->image_count, turn->image_token_counts);
        put_text(w, turn->user, w->prompt->parse_special);
    } else {
        put_headed_text(w, "user\n", turn->user);
    }
    put_marker(w, TURN_END);
    put_text(w, "\n", false);
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
    for (uint32_t i = 0; i < prompt->past_count; i++) {
        put_user(w, &prompt->past[i]);
        put_marker(w, TURN_BEGIN);
        put_reply(w, style, &prompt->past[i]);
        put_marker(w, TURN_END);
        put_text(w, "\n", false);
    }
    const qwen_chat_turn last = {
        .user = prompt->user,
        .image_count = prompt->image_count,
        .image_token_counts = prompt->image_token_counts,
    };
    put_user(w, &last);
    put_marker(w, TURN_BEGIN);
    put_text(w, style->think_suffix ? ASSISTANT THINK "\n" : ASSISTANT, true);
    check_pads(w, begin);
}

/* ---- the prompt as it is ---- */

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
        put_images(w, w->prompt->image_count, w->prompt->image_token_counts);
    for (uint64_t i = 0; w->status == CENOTE_OK && i < text->count; i++) {
        if (text->ids[i] == w->prompt->image_token_id)
            put_pads(w, w->prompt->image_token_counts[image++]);
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
