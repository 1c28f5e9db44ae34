/* SPDX-License-Identifier: Apache-2.0 */
/* Just enough Jinja to see how a template opens the assistant's turn.
 *
 * Templates of one model family differ in wording: one literal or two, either quote, trim markers,
 * conditions on variables that nobody sets, `<think>` in the part that renders old turns. Looking
 * for a phrase would be fooled by one or the other, so the template is rendered: with
 * add_generation_prompt true and no conversation, that is, loops run no time and every other
 * variable is undefined. What it then emits ends with the generation prompt. (Some templates emit
 * that inside of the loop, behind `loop.last`: when nothing was found, loops run once.)
 *
 * Expressions are evaluated by recursive descent over texts, truth values and "something else";
 * what is not understood is undefined, which is falsy and prints nothing, as in Jinja. Only the
 * last 4 KiB of the output are kept. */
#include "chat_template.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define OUTPUT_BYTES    4096u
#define TAG_ARENA_BYTES 16384u /* texts of one tag's expression */
#define VARIABLE_COUNT  32
#define VARIABLE_BYTES  256
#define BLOCK_DEPTH_MAX 64
#define NESTING_MAX     64 /* of an expression */
#define TURN_OPENING    "<|im_start|>"
#define TURN_ROLE       "assistant"

typedef struct slice {
    const char *text;
    size_t bytes;
} slice;

typedef enum value_kind {
    VALUE_UNDEFINED,
    VALUE_FALSE,
    VALUE_TRUE,
    VALUE_TEXT,
    VALUE_OTHER
} value_kind;

typedef struct value {
    value_kind kind; /* VALUE_FALSE stands for none too; VALUE_OTHER for numbers, lists, ... */
    slice text;
} value;

typedef struct variable {
    char name[32];
    char text[VARIABLE_BYTES];
    value value;
} variable;

typedef enum block_kind { BLOCK_IF, BLOCK_FOR, BLOCK_SKIP } block_kind;

typedef struct block {
    block_kind kind;
    bool outer_active;
    bool taken; /* a branch of the if was */
} block;

typedef struct renderer {
    bool loops_run_once;
    bool active; /* the text here is emitted */
    block blocks[BLOCK_DEPTH_MAX];
    size_t block_count;
    variable variables[VARIABLE_COUNT];
    size_t variable_count;
    char output[OUTPUT_BYTES];
    size_t output_bytes;
    char arena[TAG_ARENA_BYTES];
    size_t arena_bytes;
    slice in; /* what is left of the expression */
    int nesting;
} renderer;

static const value undefined = {VALUE_UNDEFINED, {NULL, 0}};
static const value other = {VALUE_OTHER, {NULL, 0}};

static value truth(bool is_true)
{
    return (value){is_true ? VALUE_TRUE : VALUE_FALSE, {NULL, 0}};
}

static bool is_truthy(value v)
{
    return v.kind == VALUE_TRUE || v.kind == VALUE_OTHER ||
           (v.kind == VALUE_TEXT && v.text.bytes > 0);
}

static bool slice_is(slice s, const char *text)
{
    return s.bytes == strlen(text) && memcmp(s.text, text, s.bytes) == 0;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static slice trim(slice s)
{
    while (s.bytes > 0 && is_blank(s.text[0])) {
        s.text++;
        s.bytes--;
    }
    while (s.bytes > 0 && is_blank(s.text[s.bytes - 1]))
        s.bytes--;
    return s;
}

/* ---- tokens of an expression ---- */

static void advance(renderer *r, size_t count)
{
    r->in.text += count;
    r->in.bytes -= count;
}

static char peek(renderer *r)
{
    while (r->in.bytes > 0 && is_blank(r->in.text[0]))
        advance(r, 1);
    return r->in.bytes > 0 ? r->in.text[0] : '\0';
}

static bool take_mark(renderer *r, const char *mark)
{
    const size_t count = strlen(mark);
    (void)peek(r);
    if (r->in.bytes < count || memcmp(r->in.text, mark, count) != 0)
        return false;
    advance(r, count);
    return true;
}

static slice peek_name(renderer *r)
{
    slice name = {r->in.text, 0};
    (void)peek(r);
    name.text = r->in.text;
    while (name.bytes < r->in.bytes && is_name_char(name.text[name.bytes]))
        name.bytes++;
    return name;
}

static bool take_word(renderer *r, const char *word)
{
    const slice name = peek_name(r);
    if (!slice_is(name, word))
        return false;
    advance(r, name.bytes);
    return true;
}

static slice take_name(renderer *r)
{
    const slice name = peek_name(r);
    advance(r, name.bytes);
    return name;
}

/* ---- values ---- */

/* Text of the tag's arena; something else when it is full. */
static value text_value(renderer *r, slice first, slice second)
{
    const size_t count = first.bytes + second.bytes;
    if (count > TAG_ARENA_BYTES - r->arena_bytes)
        return other;
    char *text = r->arena + r->arena_bytes;
    if (first.bytes > 0)
        memcpy(text, first.text, first.bytes);
    if (second.bytes > 0)
        memcpy(text + first.bytes, second.text, second.bytes);
    r->arena_bytes += count;
    return (value){VALUE_TEXT, {text, count}};
}

static char unescape(char c)
{
    return c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
}

static value parse_text(renderer *r)
{
    const char quote = r->in.text[0];
    const size_t begin = r->arena_bytes;
    advance(r, 1);
    while (r->in.bytes > 0 && r->in.text[0] != quote) {
        const bool escaped = r->in.text[0] == '\\' && r->in.bytes > 1;
        const char c = escaped ? unescape(r->in.text[1]) : r->in.text[0];
        if (r->arena_bytes < TAG_ARENA_BYTES)
            r->arena[r->arena_bytes++] = c;
        advance(r, escaped ? 2 : 1);
    }
    if (r->in.bytes > 0)
        advance(r, 1);
    return (value){VALUE_TEXT, {r->arena + begin, r->arena_bytes - begin}};
}

static value variable_value(const renderer *r, slice name)
{
    for (size_t i = r->variable_count; i > 0; i--)
        if (slice_is(name, r->variables[i - 1].name))
            return r->variables[i - 1].value;
    if (slice_is(name, "true") || slice_is(name, "True") || slice_is(name, "add_generation_prompt"))
        return truth(true);
    if (slice_is(name, "false") || slice_is(name, "False") || slice_is(name, "none") ||
        slice_is(name, "None"))
        return truth(false);
    return slice_is(name, "messages") || slice_is(name, "namespace") ? other : undefined;
}

/* ---- grammar, from the loosest to the tightest ---- */

static value parse_expression(renderer *r);

/* Up to the closing bracket, whatever is in it; the value of the first expression. */
static value parse_bracketed(renderer *r, char closing)
{
    const value first = peek(r) == closing ? undefined : parse_expression(r);
    while (peek(r) != '\0' && peek(r) != closing) {
        const size_t left = r->in.bytes;
        (void)parse_expression(r);
        if (r->in.bytes == left) /* a comma, a colon, an equals sign */
            advance(r, 1);
    }
    if (r->in.bytes > 0)
        advance(r, 1);
    return first;
}

static value parse_primary(renderer *r)
{
    const char c = peek(r);
    if (c == '\'' || c == '"')
        return parse_text(r);
    if (take_mark(r, "("))
        return parse_bracketed(r, ')');
    if (take_mark(r, "[")) {
        (void)parse_bracketed(r, ']');
        return other;
    }
    if (take_mark(r, "{")) {
        (void)parse_bracketed(r, '}');
        return other;
    }
    const slice name = take_name(r);
    if (name.bytes == 0)
        return undefined;
    return c >= '0' && c <= '9' ? other : variable_value(r, name);
}

static value apply_filter(renderer *r, value v)
{
    const slice name = take_name(r);
    const value argument = take_mark(r, "(") ? parse_bracketed(r, ')') : undefined;
    if (slice_is(name, "default") || slice_is(name, "d"))
        return v.kind == VALUE_UNDEFINED ? argument : v;
    if (slice_is(name, "trim") && v.kind == VALUE_TEXT)
        v.text = trim(v.text);
    return v;
}

static value apply_test(renderer *r, value v)
{
    const bool negated = take_word(r, "not");
    const slice name = take_name(r);
    bool result = false;
    if (slice_is(name, "defined"))
        result = v.kind != VALUE_UNDEFINED;
    else if (slice_is(name, "undefined"))
        result = v.kind == VALUE_UNDEFINED;
    else if (slice_is(name, "true"))
        result = v.kind == VALUE_TRUE;
    else if (slice_is(name, "false") || slice_is(name, "none"))
        result = v.kind == VALUE_FALSE;
    else if (slice_is(name, "string"))
        result = v.kind == VALUE_TEXT;
    if (take_mark(r, "("))
        (void)parse_bracketed(r, ')');
    return truth(result != negated);
}

/* Members of what we do not know are unknown; of `loop`, what holds for its only run. */
static value member(slice owner, slice name)
{
    if (slice_is(owner, "loop") && (slice_is(name, "last") || slice_is(name, "first")))
        return truth(true);
    return undefined;
}

static value parse_postfix(renderer *r)
{
    const slice owner = peek_name(r);
    value v = parse_primary(r);
    for (;;) {
        if (take_mark(r, ".")) {
            v = member(owner, take_name(r));
        } else if (take_mark(r, "[")) {
            (void)parse_bracketed(r, ']');
            v = undefined;
        } else if (take_mark(r, "(")) {
            (void)parse_bracketed(r, ')');
            v = slice_is(owner, "namespace") ? other : undefined;
        } else if (take_mark(r, "|")) {
            v = apply_filter(r, v);
        } else if (take_word(r, "is")) {
            v = apply_test(r, v);
        } else {
            return v;
        }
    }
}

/* + of texts; other arithmetic gives something else. */
static value parse_sum(renderer *r)
{
    value v = parse_postfix(r);
    for (;;) {
        const bool joins = take_mark(r, "+") || take_mark(r, "~");
        if (!joins && !take_mark(r, "-") && !take_mark(r, "*") && !take_mark(r, "/") &&
            !take_mark(r, "%"))
            return v;
        const value right = parse_postfix(r);
        const slice a = v.kind == VALUE_TEXT ? v.text : (slice){NULL, 0};
        const slice b = right.kind == VALUE_TEXT ? right.text : (slice){NULL, 0};
        const bool texts = v.kind == VALUE_TEXT || right.kind == VALUE_TEXT;
        v = joins && texts ? text_value(r, a, b) : other;
    }
}

static bool values_equal(value a, value b)
{
    if (a.kind == VALUE_OTHER || a.kind != b.kind)
        return false;
    return a.kind != VALUE_TEXT ||
           (a.text.bytes == b.text.bytes && memcmp(a.text.text, b.text.text, a.text.bytes) == 0);
}

static bool contains(value whole, value part)
{
    return whole.kind == VALUE_TEXT && part.kind == VALUE_TEXT &&
           (part.text.bytes == 0 ||
            memmem(whole.text.text, whole.text.bytes, part.text.text, part.text.bytes) != NULL);
}

static bool take_not_in(renderer *r)
{
    const slice before = r->in;
    if (take_word(r, "not") && take_word(r, "in"))
        return true;
    r->in = before;
    return false;
}

/* Only numbers are compared by size, and none is known. */
static value compare_unknown(renderer *r)
{
    (void)parse_sum(r);
    return truth(false);
}

static value parse_comparison(renderer *r)
{
    value v = parse_sum(r);
    for (;;) {
        if (take_mark(r, "=="))
            v = truth(values_equal(v, parse_sum(r)));
        else if (take_mark(r, "!="))
            v = truth(!values_equal(v, parse_sum(r)));
        else if (take_word(r, "in"))
            v = truth(contains(parse_sum(r), v));
        else if (take_not_in(r))
            v = truth(!contains(parse_sum(r), v));
        else if (take_mark(r, "<=") || take_mark(r, ">=") || take_mark(r, "<") || take_mark(r, ">"))
            v = compare_unknown(r);
        else
            return v;
    }
}

static value parse_not(renderer *r)
{
    bool negated = false;
    bool any = false;
    while (take_word(r, "not")) {
        negated = !negated;
        any = true;
    }
    const value v = parse_comparison(r);
    return any ? truth(is_truthy(v) != negated) : v;
}

static value parse_and(renderer *r)
{
    value v = parse_not(r);
    while (take_word(r, "and")) {
        const value right = parse_not(r);
        v = is_truthy(v) ? right : v;
    }
    return v;
}

static value parse_or(renderer *r)
{
    value v = parse_and(r);
    while (take_word(r, "or")) {
        const value right = parse_and(r);
        v = is_truthy(v) ? v : right;
    }
    return v;
}

static value parse_expression(renderer *r)
{
    if (r->nesting == NESTING_MAX) {
        advance(r, r->in.bytes);
        return undefined;
    }
    r->nesting++;
    value v = parse_or(r);
    if (take_word(r, "if")) {
        const bool condition = is_truthy(parse_or(r));
        const value otherwise = take_word(r, "else") ? parse_expression(r) : undefined;
        v = condition ? v : otherwise;
    }
    r->nesting--;
    return v;
}

static value evaluate(renderer *r, slice expression)
{
    r->in = expression;
    r->nesting = 0;
    r->arena_bytes = 0;
    return parse_expression(r);
}

/* ---- statements ---- */

static void emit(renderer *r, slice s)
{
    if (!r->active)
        return;
    if (s.bytes > OUTPUT_BYTES) {
        s.text += s.bytes - OUTPUT_BYTES;
        s.bytes = OUTPUT_BYTES;
    }
    if (s.bytes > OUTPUT_BYTES - r->output_bytes) {
        const size_t kept = OUTPUT_BYTES - s.bytes;
        memmove(r->output, r->output + r->output_bytes - kept, kept);
        r->output_bytes = kept;
    }
    if (s.bytes > 0)
        memcpy(r->output + r->output_bytes, s.text, s.bytes);
    r->output_bytes += s.bytes;
}

static void block_begin(renderer *r, block_kind kind, bool active)
{
    if (r->block_count == BLOCK_DEPTH_MAX) {
        r->active = false; /* and stays so: nothing real nests like this */
        return;
    }
    r->blocks[r->block_count++] = (block){kind, r->active, active};
    r->active = r->active && active;
}

static void block_else(renderer *r, bool condition)
{
    if (r->block_count == 0)
        return;
    block *b = &r->blocks[r->block_count - 1];
    if (b->kind == BLOCK_SKIP)
        return;
    /* A loop's else is for lists without elements; a conversation has some. */
    const bool now = b->kind == BLOCK_IF && !b->taken && condition;
    b->taken = b->taken || now;
    r->active = b->outer_active && now;
}

static void block_end(renderer *r)
{
    if (r->block_count > 0)
        r->active = r->blocks[--r->block_count].outer_active;
}

/* `set name = expression`; with no `=` it is a block whose text we leave out. */
static void set_variable(renderer *r)
{
    const slice name = take_name(r);
    if (peek(r) == '\0' || peek(r) == '|') {
        block_begin(r, BLOCK_SKIP, false);
        return;
    }
    if (!take_mark(r, "=") || !r->active || r->variable_count == VARIABLE_COUNT ||
        name.bytes >= sizeof(r->variables[0].name))
        return;
    value v = parse_expression(r);
    variable *kept = &r->variables[r->variable_count++];
    memcpy(kept->name, name.text, name.bytes);
    kept->name[name.bytes] = '\0';
    if (v.kind == VALUE_TEXT && v.text.bytes > VARIABLE_BYTES)
        v = other;
    if (v.kind == VALUE_TEXT && v.text.bytes > 0)
        memcpy(kept->text, v.text.text, v.text.bytes);
    v.text.text = kept->text;
    kept->value = v;
}

static void run_statement(renderer *r, slice statement)
{
    r->in = statement;
    r->nesting = 0;
    r->arena_bytes = 0;
    const slice word = take_name(r);
    if (slice_is(word, "if"))
        block_begin(r, BLOCK_IF, is_truthy(parse_expression(r)));
    else if (slice_is(word, "elif"))
        block_else(r, is_truthy(parse_expression(r)));
    else if (slice_is(word, "else"))
        block_else(r, true);
    else if (slice_is(word, "for"))
        block_begin(r, BLOCK_FOR, r->loops_run_once);
    else if (slice_is(word, "macro") || slice_is(word, "call"))
        block_begin(r, BLOCK_SKIP, false);
    else if (slice_is(word, "set"))
        set_variable(r);
    else if (slice_is(word, "endif") || slice_is(word, "endfor") || slice_is(word, "endmacro") ||
             slice_is(word, "endcall") || slice_is(word, "endset"))
        block_end(r);
}

/* ---- the template ---- */

/* The length of a tag's inside: up to "%}", "}}" or "#}" outside of texts and braces. */
static size_t tag_inside_bytes(slice rest, char kind)
{
    const char closing = kind == '{' ? '}' : kind;
    char quote = '\0';
    size_t braces = 0;
    for (size_t i = 0; i + 1 < rest.bytes; i++) {
        const char c = rest.text[i];
        if (quote != '\0') {
            i += c == '\\';
            quote = c == quote ? '\0' : quote;
        } else if (c == closing && rest.text[i + 1] == '}' && braces == 0) {
            return i;
        } else if (kind != '#') {
            quote = c == '\'' || c == '"' ? c : '\0';
            braces += c == '{';
            braces -= c == '}' && braces > 0;
        }
    }
    return rest.bytes;
}

/* The literal text before a tag, as transformers sets Jinja up: trim_blocks, lstrip_blocks. */
static slice trim_literal(slice literal, bool after_statement, bool after_trim, char next,
                          bool next_trims)
{
    slice s = literal;
    if (after_trim)
        while (s.bytes > 0 && is_blank(s.text[0])) {
            s.text++;
            s.bytes--;
        }
    else if (after_statement && s.bytes > 0 && s.text[0] == '\n') {
        s.text++;
        s.bytes--;
    }
    if (next_trims)
        while (s.bytes > 0 && is_blank(s.text[s.bytes - 1]))
            s.bytes--;
    if (next == '%' || next == '#') {
        size_t line = s.bytes;
        while (line > 0 && (s.text[line - 1] == ' ' || s.text[line - 1] == '\t'))
            line--;
        if (line == 0 || s.text[line - 1] == '\n')
            s.bytes = line;
    }
    return s;
}

/* The next "{{", "{%" or "{#". */
static size_t literal_bytes(slice rest)
{
    for (size_t i = 0; i + 1 < rest.bytes; i++)
        if (rest.text[i] == '{' && strchr("{%#", rest.text[i + 1]) != NULL &&
            rest.text[i + 1] != '\0')
            return i;
    return rest.bytes;
}

static void run_tag(renderer *r, char kind, slice inside)
{
    if (kind == '%') {
        run_statement(r, inside);
    } else if (kind == '{' && r->active) {
        const value v = evaluate(r, inside);
        if (v.kind == VALUE_TEXT)
            emit(r, v.text);
    }
}

static void render(renderer *r, slice rest)
{
    bool after_statement = false;
    bool after_trim = false;
    r->active = true;
    while (rest.bytes > 0) {
        const slice literal = {rest.text, literal_bytes(rest)};
        rest.text += literal.bytes;
        rest.bytes -= literal.bytes;
        const char kind = rest.bytes > 2 ? rest.text[1] : '\0';
        const bool trims = rest.bytes > 2 && rest.text[2] == '-';
        emit(r, trim_literal(literal, after_statement, after_trim, kind, trims));
        if (kind == '\0')
            return;
        rest.text += 2;
        rest.bytes -= 2;
        slice inside = {rest.text, tag_inside_bytes(rest, kind)};
        const size_t past = inside.bytes + 2 < rest.bytes ? inside.bytes + 2 : rest.bytes;
        rest.text += past;
        rest.bytes -= past;
        after_statement = kind != '{';
        after_trim = inside.bytes > 0 && inside.text[inside.bytes - 1] == '-';
        inside.bytes -= after_trim;
        if (inside.bytes > 0 && (inside.text[0] == '-' || inside.text[0] == '+')) {
            inside.text++;
            inside.bytes--;
        }
        run_tag(r, kind, inside);
    }
}

/* What the output has behind its last opening of an assistant's turn. */
static bool find_turn(const renderer *r, slice *out_turn)
{
    const size_t opening = strlen(TURN_OPENING);
    const size_t role = strlen(TURN_ROLE);
    for (size_t at = r->output_bytes; at-- > 0;) {
        const slice rest = {r->output + at, r->output_bytes - at};
        if (rest.bytes < opening || memcmp(rest.text, TURN_OPENING, opening) != 0)
            continue;
        if (rest.bytes < opening + role || memcmp(rest.text + opening, TURN_ROLE, role) != 0)
            return false;
        *out_turn = trim((slice){rest.text + opening + role, rest.bytes - opening - role});
        return true;
    }
    return false;
}

cenote_status qwen_chat_template_turn(const char *text, size_t text_bytes,
                                      char out_turn[QWEN_CHAT_TURN_BYTES], cenote_error *err)
{
    slice turn = {"", 0};
    renderer *r = malloc(sizeof(*r));
    if (r == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory to read the chat template");
    for (int loops = 0; loops < 2; loops++) {
        memset(r, 0, sizeof(*r));
        r->loops_run_once = loops == 1;
        render(r, (slice){text, text_bytes});
        if (find_turn(r, &turn))
            break;
    }
    const size_t count = turn.bytes < QWEN_CHAT_TURN_BYTES ? turn.bytes : QWEN_CHAT_TURN_BYTES - 1;
    memcpy(out_turn, turn.text, count);
    out_turn[count] = '\0';
    free(r);
    return CENOTE_OK;
}
