/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json as events.
 *
 * Nothing of the file is kept but what goes into the tables. A first pass counts; the tables are
 * allocated; then each section is filled, in the order added_tokens, model.vocab, model.merges,
 * for a merge names tokens and a token may be an added one. Writers put the sections in this very
 * order, so one more pass does; a file with another order (sorted keys) takes up to three.
 *
 *   {"added_tokens": [{"id": 3, "content": "<|im_end|>", ...}],        section ADDED
 *    "normalizer": {"type": "NFC"}, ...                                rules, by path
 *    "model": {"type": "BPE", "vocab": {"!": 0}, "merges": [["a", "b"]]}}   VOCAB, MERGES
 *
 * Outside of the sections a path such as pre_tokenizer.pretokenizers[0].type is kept, and the
 * values that decide what kind of tokenizer this is are compared with what is supported. */
#include <stdio.h>
#include <string.h>

#include <yajl/yajl_parse.h>

#include "pretokenize.h"
#include "tokenizer_internal.h"

#define DEPTH_MAX     32
#define PATH_BYTES    256
#define KEY_BYTES_MAX 48 /* longer keys name nothing that we know */
#define VALUE_SHOWN   80
#define SECTION_COUNT 3

typedef enum section { SECTION_ADDED, SECTION_VOCAB, SECTION_MERGES, SECTION_NONE } section;

static const struct {
    const char *path;
    bool is_array;
} sections[SECTION_COUNT] = {
    [SECTION_ADDED] = {"added_tokens", true},
    [SECTION_VOCAB] = {"model.vocab", false},
    [SECTION_MERGES] = {"model.merges", true},
};

/* Scalars are compared as JSON text, strings by their content in quotes. */
static const struct {
    const char *path;
    const char *value;
    const char *or_value; /* NULL: none */
    bool required;
} rules[] = {
    {"model.type", "\"BPE\"", NULL, true},
    {"model.dropout", "null", "0.0", false},
    {"model.unk_token", "null", NULL, false},
    {"model.continuing_subword_prefix", "\"\"", "null", false},
    {"model.end_of_word_suffix", "\"\"", "null", false},
    {"model.byte_fallback", "false", NULL, false},
    {"model.ignore_merges", "false", NULL, false},
    {"normalizer.type", "\"NFC\"", NULL, true},
    {"pre_tokenizer.type", "\"Sequence\"", NULL, true},
    {"pre_tokenizer.pretokenizers[0].type", "\"Split\"", NULL, true},
    {"pre_tokenizer.pretokenizers[0].pattern.Regex", "\"" QWEN_PRETOKENIZE_REGEX "\"", NULL, true},
    {"pre_tokenizer.pretokenizers[0].behavior", "\"Isolated\"", NULL, true},
    {"pre_tokenizer.pretokenizers[0].invert", "false", NULL, false},
    {"pre_tokenizer.pretokenizers[1].type", "\"ByteLevel\"", NULL, true},
    {"pre_tokenizer.pretokenizers[1].add_prefix_space", "false", NULL, true},
    {"pre_tokenizer.pretokenizers[1].use_regex", "false", NULL, true},
    {"pre_tokenizer.pretokenizers[2].type", "no third step", NULL, false},
    {"decoder.type", "\"ByteLevel\"", NULL, true},
};
#define RULE_COUNT (sizeof(rules) / sizeof(rules[0]))

typedef struct frame {
    uint32_t path_bytes; /* of the container's own path */
    uint32_t index;      /* of the next element */
    bool is_array;
} frame;

typedef struct added_fields {
    unsigned char text[QWEN_TOKENIZER_ADDED_BYTES_MAX];
    size_t text_bytes;
    long long id;
    bool has_id;
    bool special;
    bool normalized;
    bool has_normalized;
} added_fields;

typedef struct parser {
    const char *file; /* for messages */
    cenote_error *err;
    cenote_status status;
    qwen_tokenizer_counts counts;
    qwen_tokenizer_builder builder; /* of the passes after the first */
    bool counting;
    bool present[SECTION_COUNT];
    bool done[SECTION_COUNT];
    bool rule_seen[RULE_COUNT];
    /* where we are */
    char path[PATH_BYTES];
    uint32_t path_bytes;
    uint32_t depth;
    frame frames[DEPTH_MAX];
    section section;
    uint32_t section_depth; /* the depth inside the section's container */
    bool section_fills;
    /* the entry we are in */
    added_fields added;
    unsigned char name[QWEN_TOKENIZER_TOKEN_BYTES_MAX]; /* key of vocab, left part of a merge */
    size_t name_bytes;
    unsigned char right[QWEN_TOKENIZER_TOKEN_BYTES_MAX];
    size_t right_bytes;
    uint32_t part_count; /* of a merge given as a pair */
} parser;

/* ---- faults: set the status and end the pass ---- */

static int passed(parser *p, cenote_status status)
{
    p->status = status;
    return status == CENOTE_OK;
}

static int corrupt(parser *p, const char *wrong)
{
    if (p->section == SECTION_MERGES)
        return passed(p,
                      cenote_error_set(p->err, CENOTE_E_CORRUPT, "%s: model.merges[%llu]: %s",
                                       p->file, (unsigned long long)p->counts.merge_count, wrong));
    return passed(p, cenote_error_set(p->err, CENOTE_E_CORRUPT, "%s: %.*s: %s", p->file,
                                      (int)p->path_bytes, p->path, wrong));
}

/* About a vocab key or an added token's text. */
static int entry_corrupt(parser *p, const unsigned char *name, size_t name_bytes, const char *wrong)
{
    return passed(p, cenote_error_set(p->err, CENOTE_E_CORRUPT, "%s: %.*s \"%.*s\": %s", p->file,
                                      (int)p->path_bytes, p->path,
                                      name_bytes < VALUE_SHOWN ? (int)name_bytes : VALUE_SHOWN,
                                      (const char *)name, wrong));
}

static int bad_id(parser *p, const unsigned char *name, size_t name_bytes, long long id)
{
    char wrong[96];
    snprintf(wrong, sizeof(wrong), "id %lld is outside 0 to %u", id, QWEN_TOKENIZER_ID_MAX);
    return entry_corrupt(p, name, name_bytes, wrong);
}

/* ---- path ---- */

static void path_append(parser *p, const char *text, size_t count)
{
    const size_t room = PATH_BYTES - p->path_bytes;
    const size_t taken = count < room ? count : room;
    memcpy(p->path + p->path_bytes, text, taken);
    p->path_bytes += (uint32_t)taken;
}

/* A key that could be taken for a path of its own must not be. */
static bool key_is_plain(const unsigned char *key, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strchr(".[]", key[i]) != NULL) /* NUL too: strchr finds the end */
            return false;
    return count > 0 && count <= KEY_BYTES_MAX;
}

static void path_key(parser *p, const unsigned char *key, size_t count)
{
    p->path_bytes = p->frames[p->depth - 1].path_bytes;
    if (p->path_bytes > 0)
        path_append(p, ".", 1);
    if (key_is_plain(key, count))
        path_append(p, (const char *)key, count);
    else
        path_append(p, "?", 1);
}

/* A value begins: in an array the path gets its index (in a map the key was there already). */
static void path_value(parser *p)
{
    char text[16];
    if (p->depth == 0 || !p->frames[p->depth - 1].is_array)
        return;
    frame *array = &p->frames[p->depth - 1];
    p->path_bytes = array->path_bytes;
    const int count = snprintf(text, sizeof(text), "[%u]", array->index++);
    path_append(p, text, (size_t)count);
}

static bool path_is(const parser *p, const char *path)
{
    return strlen(path) == p->path_bytes && memcmp(path, p->path, p->path_bytes) == 0;
}

/* ---- rules ---- */

static int unsupported(parser *p, size_t rule, const char *value, size_t value_bytes)
{
    return passed(p, cenote_error_set(p->err, CENOTE_E_UNSUPPORTED,
                                      "%s: %s is %.*s; this runner supports %s", p->file,
                                      rules[rule].path,
                                      value_bytes < VALUE_SHOWN ? (int)value_bytes : VALUE_SHOWN,
                                      value, rules[rule].value));
}

static bool value_is(const char *wanted, const char *value, size_t value_bytes)
{
    return wanted != NULL && strlen(wanted) == value_bytes &&
           memcmp(wanted, value, value_bytes) == 0;
}

/* A scalar outside of the sections, as JSON text. */
static int rule_check(parser *p, const char *value, size_t value_bytes)
{
    for (size_t i = 0; i < RULE_COUNT; i++) {
        if (!path_is(p, rules[i].path))
            continue;
        if (p->rule_seen[i])
            return corrupt(p, "given twice");
        p->rule_seen[i] = true;
        if (!value_is(rules[i].value, value, value_bytes) &&
            !value_is(rules[i].or_value, value, value_bytes))
            return unsupported(p, i, value, value_bytes);
    }
    return 1;
}

/* ---- entries of the sections ---- */

static void count_id(parser *p, uint32_t id)
{
    if (p->counts.id_limit <= id)
        p->counts.id_limit = (uint64_t)id + 1;
}

static int vocab_entry(parser *p, long long id)
{
    unsigned char bytes[QWEN_TOKENIZER_TOKEN_BYTES_MAX];
    size_t count = 0;
    if (id < 0 || id > QWEN_TOKENIZER_ID_MAX)
        return bad_id(p, p->name, p->name_bytes, id);
    if (!p->counting)
        return passed(
            p, qwen_builder_token(&p->builder, p->name, p->name_bytes, (uint32_t)id, p->err));
    count_id(p, (uint32_t)id);
    p->counts.token_count++;
    if (qwen_token_name_decode(p->name, p->name_bytes, bytes, &count))
        p->counts.token_bytes += count;
    return 1;
}

static int merge_entry(parser *p)
{
    if (p->counting) {
        p->counts.merge_count++;
        return 1;
    }
    return passed(p, qwen_builder_merge(&p->builder, p->name, p->name_bytes, p->right,
                                        p->right_bytes, p->err));
}

static int keep_name(parser *p, const unsigned char *text, size_t count, unsigned char *name,
                     size_t *name_bytes)
{
    if (count == 0 || count > QWEN_TOKENIZER_TOKEN_BYTES_MAX)
        return entry_corrupt(p, text, count, count == 0 ? "an empty token" : "over 4096 bytes");
    memcpy(name, text, count);
    *name_bytes = count;
    return 1;
}

/* "left right", the older way of writing a merge. */
static int merge_line(parser *p, const unsigned char *text, size_t count)
{
    const unsigned char *space = memchr(text, ' ', count);
    if (space == NULL || memchr(space + 1, ' ', count - (size_t)(space + 1 - text)) != NULL)
        return entry_corrupt(p, text, count, "not two tokens with a space between");
    const size_t left_bytes = (size_t)(space - text);
    return keep_name(p, text, left_bytes, p->name, &p->name_bytes) &&
           keep_name(p, space + 1, count - left_bytes - 1, p->right, &p->right_bytes) &&
           merge_entry(p);
}

/* ["left", "right"], the newer one. */
static int merge_part(parser *p, const unsigned char *text, size_t count)
{
    switch (p->part_count++) {
    case 0:
        return keep_name(p, text, count, p->name, &p->name_bytes);
    case 1:
        return keep_name(p, text, count, p->right, &p->right_bytes);
    default:
        return corrupt(p, "a merge of more than two tokens");
    }
}

static int added_entry(parser *p)
{
    const added_fields *added = &p->added;
    if (!added->has_id || added->text_bytes == 0)
        return corrupt(p, "an added token without id or content");
    if (added->id < 0 || added->id > QWEN_TOKENIZER_ID_MAX)
        return bad_id(p, added->text, added->text_bytes, added->id);
    /* tokenizers' own default */
    const bool normalized = added->has_normalized ? added->normalized : !added->special;
    if (!p->counting)
        return passed(p,
                      qwen_builder_added(&p->builder, added->text, added->text_bytes,
                                         (uint32_t)added->id, added->special, normalized, p->err));
    if (++p->counts.added_count > QWEN_TOKENIZER_ADDED_MAX)
        return corrupt(p, "more than 65536 added tokens");
    count_id(p, (uint32_t)added->id);
    p->counts.added_bytes += added->text_bytes;
    return 1;
}

static int added_text(parser *p, const unsigned char *text, size_t count)
{
    if (!path_is(p, "added_tokens.content"))
        return 1;
    if (count == 0 || count > QWEN_TOKENIZER_ADDED_BYTES_MAX)
        return entry_corrupt(p, text, count, count == 0 ? "is empty" : "over 512 bytes");
    memcpy(p->added.text, text, count);
    p->added.text_bytes = count;
    return 1;
}

static int added_flag(parser *p, bool value)
{
    if (path_is(p, "added_tokens.special"))
        p->added.special = value;
    if (path_is(p, "added_tokens.normalized")) {
        p->added.normalized = value;
        p->added.has_normalized = true;
    }
    const bool strips = path_is(p, "added_tokens.single_word") ||
                        path_is(p, "added_tokens.lstrip") || path_is(p, "added_tokens.rstrip");
    if (!strips || !value)
        return 1;
    return passed(p, cenote_error_set(p->err, CENOTE_E_UNSUPPORTED,
                                      "%s: added_tokens: %.*s is true; this runner supports false",
                                      p->file, (int)p->path_bytes, p->path));
}

/* ---- events ---- */

typedef enum scalar_kind { SCALAR_NULL, SCALAR_BOOL, SCALAR_INTEGER, SCALAR_TEXT } scalar_kind;

/* Where an event stands in its section: 0 directly in the container, 1 in an entry. */
static uint32_t section_level(const parser *p)
{
    return p->depth - p->section_depth;
}

static bool section_ready(const parser *p, section s)
{
    for (section before = SECTION_ADDED; before < s; before++)
        if (!p->done[before])
            return false;
    return !p->done[s];
}

static section section_at(const parser *p)
{
    for (section s = SECTION_ADDED; s < SECTION_NONE; s++)
        if (path_is(p, sections[s].path))
            return s;
    return SECTION_NONE;
}

static int section_begin(parser *p, bool is_array)
{
    const section s = section_at(p);
    if (s == SECTION_NONE)
        return 1;
    if (sections[s].is_array != is_array)
        return passed(p, cenote_error_set(p->err, CENOTE_E_UNSUPPORTED,
                                          "%s: %s is %s; this runner supports %s", p->file,
                                          sections[s].path, is_array ? "a list" : "an object",
                                          is_array ? "an object" : "a list"));
    if (p->counting && p->present[s])
        return corrupt(p, "given twice");
    p->present[s] = true;
    p->section = s;
    p->section_depth = p->depth;
    p->section_fills = p->counting || section_ready(p, s);
    return 1;
}

static int container_begin(parser *p, bool is_array)
{
    if (p->section == SECTION_NONE)
        path_value(p);
    if (p->depth == DEPTH_MAX)
        return corrupt(p, "nested deeper than 32");
    p->frames[p->depth++] = (frame){p->path_bytes, 0, is_array};
    if (p->section == SECTION_NONE)
        return section_begin(p, is_array);
    const bool entry = section_level(p) == 1;
    if (p->section == SECTION_ADDED && entry && !is_array) {
        p->added = (added_fields){.text_bytes = 0};
        return 1;
    }
    if (p->section == SECTION_MERGES && entry && is_array) {
        p->part_count = 0;
        return 1;
    }
    /* Unknown fields of an added token may be anything. */
    return p->section == SECTION_ADDED && section_level(p) > 1
               ? 1
               : corrupt(p, "an entry of another form");
}

static int entry_end(parser *p)
{
    if (!p->section_fills)
        return 1;
    if (p->section == SECTION_ADDED)
        return added_entry(p);
    if (p->part_count != 2)
        return corrupt(p, "a merge of fewer than two tokens");
    return merge_entry(p);
}

static int container_end(parser *p)
{
    const frame *ended = &p->frames[p->depth - 1];
    p->path_bytes = ended->path_bytes;
    if (p->section != SECTION_NONE && section_level(p) == 1 && !entry_end(p))
        return 0;
    if (p->section != SECTION_NONE && section_level(p) == 0) {
        p->done[p->section] |= p->section_fills && !p->counting;
        p->section = SECTION_NONE;
    }
    p->depth--;
    return 1;
}

/* A scalar inside a section. */
static int section_scalar(parser *p, scalar_kind kind, const unsigned char *text, size_t count,
                          long long number)
{
    const uint32_t level = section_level(p);
    if (!p->section_fills)
        return 1;
    if (p->section == SECTION_VOCAB)
        return kind == SCALAR_INTEGER
                   ? vocab_entry(p, number)
                   : entry_corrupt(p, p->name, p->name_bytes, "id is no integer");
    if (p->section == SECTION_MERGES) {
        if (kind != SCALAR_TEXT)
            return corrupt(p, "a merge that is not text");
        return level == 0 ? merge_line(p, text, count) : merge_part(p, text, count);
    }
    if (level == 0)
        return corrupt(p, "an entry of another form");
    if (level > 1)
        return 1;
    if (kind == SCALAR_TEXT)
        return added_text(p, text, count);
    if (kind == SCALAR_INTEGER && path_is(p, "added_tokens.id")) {
        p->added.id = number;
        p->added.has_id = true;
    }
    return kind == SCALAR_BOOL ? added_flag(p, number != 0) : 1;
}

static int on_key(void *context, const unsigned char *key, size_t count)
{
    parser *p = context;
    if (p->section == SECTION_NONE) {
        path_key(p, key, count);
        return 1;
    }
    if (p->section == SECTION_VOCAB)
        return keep_name(p, key, count, p->name, &p->name_bytes);
    if (section_level(p) == 1)
        path_key(p, key, count);
    return 1;
}

static int on_text(void *context, const unsigned char *text, size_t count)
{
    parser *p = context;
    char quoted[256];
    if (p->section != SECTION_NONE)
        return section_scalar(p, SCALAR_TEXT, text, count, 0);
    path_value(p);
    /* What does not fit is longer than anything that a rule allows. */
    const size_t kept = count < sizeof(quoted) - 2 ? count : sizeof(quoted) - 2;
    quoted[0] = '"';
    memcpy(quoted + 1, text, kept);
    quoted[kept + 1] = '"';
    return rule_check(p, quoted, kept + 2);
}

static int plain_scalar(parser *p, const char *text, size_t count)
{
    path_value(p);
    return rule_check(p, text, count);
}

static int on_null(void *context)
{
    parser *p = context;
    if (p->section != SECTION_NONE)
        return section_scalar(p, SCALAR_NULL, NULL, 0, 0);
    return plain_scalar(p, "null", 4);
}

static int on_bool(void *context, int value)
{
    parser *p = context;
    if (p->section != SECTION_NONE)
        return section_scalar(p, SCALAR_BOOL, NULL, 0, value);
    return plain_scalar(p, value ? "true" : "false", value ? 4 : 5);
}

/* yajl gives numbers as text here, so that the guard against odd ones is ours. */
static int on_number(void *context, const char *text, size_t count)
{
    parser *p = context;
    if (p->section == SECTION_NONE)
        return plain_scalar(p, text, count);
    long long number = 0;
    const bool negative = count > 0 && text[0] == '-';
    for (size_t i = negative; i < count; i++) {
        if (text[i] < '0' || text[i] > '9' || number > QWEN_TOKENIZER_ID_MAX)
            return section_scalar(p, number > QWEN_TOKENIZER_ID_MAX ? SCALAR_INTEGER : SCALAR_NULL,
                                  NULL, 0, number);
        number = number * 10 + (text[i] - '0');
    }
    return section_scalar(p, SCALAR_INTEGER, NULL, 0, negative ? -number : number);
}

static int on_map_begin(void *context)
{
    return container_begin(context, false);
}

static int on_array_begin(void *context)
{
    return container_begin(context, true);
}

static int on_end(void *context)
{
    return container_end(context);
}

static const yajl_callbacks callbacks = {
    .yajl_null = on_null,
    .yajl_boolean = on_bool,
    .yajl_number = on_number,
    .yajl_string = on_text,
    .yajl_start_map = on_map_begin,
    .yajl_map_key = on_key,
    .yajl_end_map = on_end,
    .yajl_start_array = on_array_begin,
    .yajl_end_array = on_end,
};

/* ---- passes ---- */

static cenote_status run_pass(parser *p, const qwen_json_file *file)
{
    p->path_bytes = 0;
    p->depth = 0;
    p->section = SECTION_NONE;
    memset(p->rule_seen, 0, sizeof(p->rule_seen));
    return qwen_json_pass(file, &callbacks, p, &p->status, p->err);
}

/* After the first pass: is it a tokenizer of our kind, and of a sane size? */
static cenote_status check_counts(const parser *p)
{
    for (size_t i = 0; i < RULE_COUNT; i++)
        if (rules[i].required && !p->rule_seen[i])
            return cenote_error_set(p->err, CENOTE_E_UNSUPPORTED,
                                    "%s: has no %s; this runner supports %s", p->file,
                                    rules[i].path, rules[i].value);
    if (!p->present[SECTION_VOCAB] || !p->present[SECTION_MERGES])
        return cenote_error_set(
            p->err, CENOTE_E_CORRUPT, "%s: has no %s", p->file,
            sections[p->present[SECTION_VOCAB] ? SECTION_MERGES : SECTION_VOCAB].path);
    const uint64_t tokens = p->counts.token_count + p->counts.added_count;
    if (p->counts.id_limit > 2 * tokens + QWEN_TOKENIZER_ID_SLACK)
        return cenote_error_set(
            p->err, CENOTE_E_CORRUPT, "%s: the largest id is %llu, for %llu tokens", p->file,
            (unsigned long long)p->counts.id_limit - 1, (unsigned long long)tokens);
    return CENOTE_OK;
}

static cenote_status parse_file(parser *p, cenote_pool *pool, const qwen_json_file *file,
                                qwen_tokenizer **out_tokenizer)
{
    p->counting = true;
    cenote_status status = run_pass(p, file);
    if (status == CENOTE_OK)
        status = check_counts(p);
    if (status == CENOTE_OK)
        status = qwen_builder_init(&p->builder, pool, p->file, &p->counts, p->err);
    if (status != CENOTE_OK)
        return status;
    p->counting = false;
    p->done[SECTION_ADDED] = !p->present[SECTION_ADDED];
    /* Each pass does the first section that is left, at least. */
    for (int pass = 0; pass < SECTION_COUNT && status == CENOTE_OK && !p->done[SECTION_MERGES];
         pass++)
        status = run_pass(p, file);
    if (status == CENOTE_OK)
        status = qwen_builder_finish(&p->builder, out_tokenizer, p->err);
    qwen_builder_fini(&p->builder);
    return status;
}

cenote_status qwen_tokenizer_parse(cenote_pool *pool, const char *path,
                                   qwen_tokenizer **out_tokenizer, cenote_error *err)
{
    /* The piece of the file and what the parser keeps of an entry: two granules for a while. */
    struct {
        unsigned char piece[CENOTE_GRANULE_BYTES];
        parser parser;
    } * room;
    qwen_json_file file;
    void *block;
    cenote_status status = cenote_pool_alloc(pool, sizeof(*room), &block, err);
    if (status != CENOTE_OK)
        return status;
    room = block;
    memset(&room->parser, 0, sizeof(room->parser));
    room->parser.file = path;
    room->parser.err = err;
    status = qwen_json_open(path, QWEN_TOKENIZER_FILE_BYTES_MAX, room->piece, &file, err);
    if (status == CENOTE_OK) {
        status = parse_file(&room->parser, pool, &file, out_tokenizer);
        qwen_json_close(&file);
    }
    cenote_pool_free(pool, block);
    return status;
}
