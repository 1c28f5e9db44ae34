/* SPDX-License-Identifier: Apache-2.0 */
/* The Qwen pre-tokenizer: one regular expression, by hand.
 *
 *   1  (?i:'s|'t|'re|'ve|'m|'ll|'d)       contractions, in any case
 *   2  [^\r\n\p{L}\p{N}]?\p{L}+           letters, with one other character before them
 *   3  \p{N}                              one digit
 *   4   ?[^\s\p{L}\p{N}]+[\r\n]*          punctuation, a space before it, line ends behind it
 *   5  \s*[\r\n]+                         white space up to its last line end
 *   6  \s+(?!\S)                          white space but its last character, which goes to 2 or 4
 *   7  \s+                                what is left of it
 *
 * The alternatives are tried in this order at each place, as a backtracking engine does. They need
 * one character of look-ahead, or the end of a run of white space, so a function per kind of first
 * character says it all; a general engine would bring its own idea of \s and \p{L} with it. */
#include "pretokenize.h"

#include "unicode.h"

typedef struct cursor {
    const char *text;
    size_t bytes;
} cursor;

/* The class of the character at `at`, its length in *length. At the end: other, length 0. */
static qwen_char_class class_at(cursor in, size_t at, size_t *length)
{
    *length = 0;
    return at < in.bytes ? qwen_char_class_get(qwen_utf8_decode(in.text + at, length))
                         : QWEN_CHAR_OTHER;
}

static bool is_line_end(cursor in, size_t at)
{
    return at < in.bytes && (in.text[at] == '\r' || in.text[at] == '\n');
}

static size_t skip_class(cursor in, size_t at, qwen_char_class wanted)
{
    size_t length;
    while (class_at(in, at, &length) == wanted && length > 0)
        at += length;
    return at;
}

static bool letter_is(cursor in, size_t at, char lower)
{
    return at < in.bytes && (in.text[at] | 0x20) == lower;
}

/* Alternative 1 at an apostrophe. 0: no. */
static size_t contraction_bytes(cursor in)
{
    static const char pairs[][2] = {{'r', 'e'}, {'v', 'e'}, {'l', 'l'}};
    if (letter_is(in, 1, 's') || letter_is(in, 1, 't') || letter_is(in, 1, 'm') ||
        letter_is(in, 1, 'd'))
        return 2;
    /* U+017F folds to s. */
    if (in.bytes >= 3 && in.text[1] == '\xc5' && in.text[2] == '\xbf')
        return 3;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
        if (letter_is(in, 1, pairs[i][0]) && letter_is(in, 2, pairs[i][1]))
            return 3;
    return 0;
}

/* Alternative 4 from its first character that is not a space. */
static size_t punctuation_end(cursor in, size_t at)
{
    at = skip_class(in, at, QWEN_CHAR_OTHER);
    while (is_line_end(in, at))
        at++;
    return at;
}

/* Alternatives 5 to 7: text starts with white space that nothing else takes. */
static size_t space_bytes(cursor in)
{
    size_t at = 0;
    size_t last = 0;          /* where the last character of the run starts */
    size_t line_end_past = 0; /* past the last line end in the run */
    size_t length;
    while (class_at(in, at, &length) == QWEN_CHAR_SPACE) {
        if (is_line_end(in, at))
            line_end_past = at + 1;
        last = at;
        at += length;
    }
    if (line_end_past > 0)
        return line_end_past;
    return at == in.bytes || last == 0 ? at : last;
}

size_t qwen_pretoken_bytes(const char *text, size_t text_bytes)
{
    const cursor in = {text, text_bytes};
    size_t first;
    size_t second;
    const qwen_char_class class = class_at(in, 0, &first);
    if (class == QWEN_CHAR_LETTER)
        return skip_class(in, first, QWEN_CHAR_LETTER);
    if (class == QWEN_CHAR_NUMBER)
        return first;
    if (text[0] == '\'') {
        const size_t contraction = contraction_bytes(in);
        if (contraction > 0)
            return contraction;
    }
    const qwen_char_class next = class_at(in, first, &second);
    if (next == QWEN_CHAR_LETTER && !is_line_end(in, 0))
        return skip_class(in, first, QWEN_CHAR_LETTER);
    if (class == QWEN_CHAR_OTHER)
        return punctuation_end(in, 0);
    if (text[0] == ' ' && next == QWEN_CHAR_OTHER && second > 0)
        return punctuation_end(in, first);
    return space_bytes(in);
}
