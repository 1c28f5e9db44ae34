/* SPDX-License-Identifier: Apache-2.0 */
/* yajl, fed in pieces, behind one event function.
 *
 *   file --64 KiB--> guard (each byte) --> yajl --> event --> the caller's state machine
 *
 * A headers' tree costs many times its text and a stranger chooses how long that is, so events it
 * is. yajl keeps a token that crosses a piece in a buffer that doubles, and its stack grows with
 * the nesting; both without asking anyone. The guard sees each byte first, knows the length of the
 * token and the depth, charges the budget before yajl grows, and ends the parse at the caps.
 * The guard is no parser: it only tells strings from the rest. */
#include "weights/json.h"

#include <inttypes.h>
#include <string.h>

#include <yajl/yajl_parse.h>

#include "base/checked.h"
#include "weights/message.h"

enum {
    PARSER_BYTES = 32768,    /* yajl at work on short tokens, with malloc's own overhead */
    TOKEN_FREE_BYTES = 4096, /* tokens that PARSER_BYTES covers */
    TOKEN_GROWTH = 4,        /* two buffers of yajl, each up to twice the token */
};

struct guard {
    bool in_string;
    bool escaped;
    uint32_t depth;
    uint64_t token_bytes;
};

struct parse {
    const struct cn_json_source *source;
    cn_json_fn fn;
    void *context;
    cenote_error *err;
    cenote_status status;
    struct guard guard;
    uint64_t charged_bytes;
    uint64_t token_covered_bytes;
};

/* ---- the guard ---- */

/* Doubles what the budget has been charged for the token at hand. yajl's buffers double as well, so
 * the charge stays ahead of them. */
static cenote_status guard_cover(struct parse *p, uint64_t token_bytes)
{
    uint64_t cover = p->token_covered_bytes * 2;
    if (token_bytes > CN_JSON_TOKEN_BYTES_MAX)
        return cn_weights_error(p->err, CENOTE_E_CORRUPT, p->source->file->path, NULL,
                                "a string or number is longer than the limit of %u bytes",
                                CN_JSON_TOKEN_BYTES_MAX);
    uint64_t growth = (cover - p->token_covered_bytes) * TOKEN_GROWTH;
    cenote_status status =
        cenote_budget_charge(p->source->budget, growth, "a long string in a header", p->err);
    if (status == CENOTE_OK) {
        p->charged_bytes += growth;
        p->token_covered_bytes = cover;
    }
    return status;
}

static cenote_status guard_depth(struct parse *p)
{
    if (++p->guard.depth <= CN_JSON_DEPTH_MAX)
        return CENOTE_OK;
    return cn_weights_error(p->err, CENOTE_E_CORRUPT, p->source->file->path, NULL,
                            "nested deeper than the limit of %u", CN_JSON_DEPTH_MAX);
}

/* Outside of strings: brackets count, separators end a token, anything else is part of a number or
 * a word (or nonsense, which is yajl's to say). */
static cenote_status guard_byte_outside(struct parse *p, unsigned char c)
{
    struct guard *g = &p->guard;
    switch (c) {
    case '"':
        g->in_string = true;
        g->token_bytes = 0;
        return CENOTE_OK;
    case '{':
    case '[':
        g->token_bytes = 0;
        return guard_depth(p);
    case '}':
    case ']':
        if (g->depth > 0)
            g->depth--;
        g->token_bytes = 0;
        return CENOTE_OK;
    case ',':
    case ':':
    case ' ':
    case '\t':
    case '\n':
    case '\r':
        g->token_bytes = 0;
        return CENOTE_OK;
    default:
        break;
    }
    /* yajl takes vertical tabs and form feeds for space; JSON does not */
    if (c < 0x20)
        return cn_weights_error(p->err, CENOTE_E_CORRUPT, p->source->file->path, NULL,
                                "control character 0x%02x in the JSON text", c);
    g->token_bytes++;
    return CENOTE_OK;
}

/* Before yajl sees the piece: a token that will not be taken must not have been buffered. */
static cenote_status guard_piece(struct parse *p, const unsigned char *text, size_t length)
{
    struct guard *g = &p->guard;
    for (size_t i = 0; i < length; i++) {
        cenote_status status = CENOTE_OK;
        unsigned char c = text[i];
        if (!g->in_string) {
            status = guard_byte_outside(p, c);
        } else {
            g->token_bytes++;
            if (g->escaped)
                g->escaped = false;
            else if (c == '\\')
                g->escaped = true;
            else if (c == '"')
                g->in_string = false;
        }
        if (status == CENOTE_OK && g->token_bytes > p->token_covered_bytes)
            status = guard_cover(p, g->token_bytes);
        if (status != CENOTE_OK)
            return status;
    }
    return CENOTE_OK;
}

/* ---- text ---- */

/* The length of the UTF-8 sequence at text, 0 when it is none (overlong, surrogate, above
 * U+10FFFF). yajl's own check sees only the shape of the bytes. */
static size_t utf8_sequence(const unsigned char *text, size_t left)
{
    unsigned char c = text[0];
    if (c < 0x80)
        return 1;
    size_t length = c >= 0xc2 && c <= 0xdf   ? 2
                    : (c & 0xf0) == 0xe0     ? 3
                    : c >= 0xf0 && c <= 0xf4 ? 4
                                             : 0;
    if (length == 0 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (c == 0xe0 && text[1] < 0xa0) || (c == 0xf0 && text[1] < 0x90);
    bool surrogate = c == 0xed && text[1] >= 0xa0;
    bool above = c == 0xf4 && text[1] >= 0x90;
    return overlong || surrogate || above ? 0 : length;
}

static bool utf8_valid(const char *text, size_t length)
{
    const unsigned char *bytes = (const unsigned char *)text;
    for (size_t i = 0; i < length;) {
        size_t step = utf8_sequence(bytes + i, length - i);
        if (step == 0)
            return false;
        i += step;
    }
    return true;
}

bool cn_json_name_clean(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        /* U+0080..U+009F drive terminals as well */
        bool c1 = c == 0xc2 && i + 1 < length && (unsigned char)text[i + 1] < 0xa0;
        if (c < 0x20 || c == 0x7f || c1)
            return false;
    }
    return utf8_valid(text, length);
}

/* Not strtoull: it takes signs and spaces, and the text is not terminated. */
bool cn_json_u64(const char *text, size_t length, uint64_t *out_value)
{
    uint64_t value = 0;
    if (length == 0)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        if (!cn_checked_mul(value, 10, &value) ||
            !cn_checked_add(value, (uint64_t)(text[i] - '0'), &value))
            return false;
    }
    *out_value = value;
    return true;
}

/* ---- yajl's callbacks ---- */

/* All of yajl's callbacks end here; a status that is not OK makes yajl stop ("client cancelled"),
 * and the parse returns that status. */
static int emit(void *context, enum cn_json_kind kind, const char *text, size_t length)
{
    struct parse *p = context;
    struct cn_json_event event = {.kind = kind, .text = text, .length = length};
    bool is_text = kind == CN_JSON_STRING || kind == CN_JSON_KEY;
    if (is_text && !utf8_valid(text, length))
        p->status = cn_weights_error(p->err, CENOTE_E_CORRUPT, p->source->file->path, NULL,
                                     "a string is not valid UTF-8");
    else
        p->status = p->fn(p->context, &event, p->err);
    return p->status == CENOTE_OK;
}

static int on_null(void *context)
{
    return emit(context, CN_JSON_NULL, "null", 4);
}

static int on_boolean(void *context, int value)
{
    return emit(context, CN_JSON_BOOL, value ? "true" : "false", value ? 4 : 5);
}

static int on_number(void *context, const char *text, size_t length)
{
    return emit(context, CN_JSON_NUMBER, text, length);
}

static int on_string(void *context, const unsigned char *text, size_t length)
{
    return emit(context, CN_JSON_STRING, (const char *)text, length);
}

static int on_key(void *context, const unsigned char *text, size_t length)
{
    return emit(context, CN_JSON_KEY, (const char *)text, length);
}

static int on_map_begin(void *context)
{
    return emit(context, CN_JSON_MAP_BEGIN, "{", 1);
}

static int on_map_end(void *context)
{
    return emit(context, CN_JSON_MAP_END, "}", 1);
}

static int on_array_begin(void *context)
{
    return emit(context, CN_JSON_ARRAY_BEGIN, "[", 1);
}

static int on_array_end(void *context)
{
    return emit(context, CN_JSON_ARRAY_END, "]", 1);
}

static const yajl_callbacks callbacks = {
    .yajl_null = on_null,
    .yajl_boolean = on_boolean,
    .yajl_number = on_number,
    .yajl_string = on_string,
    .yajl_map_key = on_key,
    .yajl_start_map = on_map_begin,
    .yajl_end_map = on_map_end,
    .yajl_start_array = on_array_begin,
    .yajl_end_array = on_array_end,
};

/* ---- the parse ---- */

static cenote_status yajl_failed(struct parse *p, yajl_handle handle, yajl_status rc)
{
    if (rc == yajl_status_client_canceled)
        return p->status;
    unsigned char *words = yajl_get_error(handle, 0, NULL, 0);
    const char *text = words != NULL ? (const char *)words : "no JSON";
    cenote_status status =
        cn_weights_error(p->err, CENOTE_E_CORRUPT, p->source->file->path, NULL,
                         "the JSON text does not parse: %.*s", (int)strcspn(text, "\n"), text);
    if (words != NULL)
        yajl_free_error(handle, words);
    return status;
}

/* Pieces are read at the file's own offsets, so the buffer needs no copy and no carry. */
static cenote_status feed(struct parse *p, yajl_handle handle)
{
    const struct cn_json_source *s = p->source;
    uint64_t done = 0;
    while (done < s->size_bytes) {
        struct cn_file_span span = {.offset_bytes = s->offset_bytes + done};
        /* the residue of the first piece must fit as well; the others are aligned */
        uint64_t room = CN_JSON_PIECE_BYTES - span.offset_bytes % CN_FILE_ALIGN_MAX;
        span.size_bytes = s->size_bytes - done < room ? s->size_bytes - done : room;
        const void *text;
        cenote_status status = cn_file_read(s->file, NULL, &span, s->buffer, &text, p->err);
        if (status == CENOTE_OK)
            status = guard_piece(p, text, span.size_bytes);
        if (status != CENOTE_OK)
            return status;
        yajl_status rc = yajl_parse(handle, text, span.size_bytes);
        if (rc != yajl_status_ok)
            return yajl_failed(p, handle, rc);
        done += span.size_bytes;
    }
    /* behind the value, yajl waits for a string's end for ever and calls that fine */
    if (p->guard.in_string)
        return cn_weights_error(p->err, CENOTE_E_CORRUPT, s->file->path, NULL,
                                "the JSON text ends inside a string");
    yajl_status rc = yajl_complete_parse(handle);
    return rc == yajl_status_ok ? CENOTE_OK : yajl_failed(p, handle, rc);
}

cenote_status cn_json_parse(const struct cn_json_source *source, cn_json_fn fn, void *context,
                            cenote_error *err)
{
    struct parse p = {.source = source,
                      .fn = fn,
                      .context = context,
                      .err = err,
                      .charged_bytes = PARSER_BYTES,
                      .token_covered_bytes = TOKEN_FREE_BYTES};
    cenote_status status =
        cenote_budget_charge(source->budget, PARSER_BYTES, "the parser of a header", err);
    if (status != CENOTE_OK)
        return status;
    yajl_handle handle = yajl_alloc(&callbacks, NULL, &p);
    if (handle == NULL) {
        status = cenote_error_set(err, CENOTE_E_NOMEM, "no memory for a JSON parser");
        goto out_uncharge;
    }
    status = feed(&p, handle);
    yajl_free(handle);
out_uncharge:
    cenote_budget_uncharge(source->budget, p.charged_bytes);
    return status;
}
