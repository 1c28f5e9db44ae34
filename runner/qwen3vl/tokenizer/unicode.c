/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8, character classes and NFC.
 *
 * Classes are sorted ranges, looked up by bisection (at most ten steps; ASCII goes first). They
 * are data of the tokenizer, not of the machine: see tools/unicode_tables.py.
 *
 * NFC comes from utf8proc, piece by piece. The text is cut before every character that cannot
 * change what stands before it (UAX #15 section 9.1), so a piece is one character and the joining
 * ones behind it: nearly always one character alone, which is copied. What the tokenizer's own,
 * older normaliser does not know is never shown to utf8proc: to that normaliser it is a plain
 * character that joins nothing, whatever a newer Unicode says.
 *
 * Canonical ordering is done here with a counting sort, since utf8proc's takes quadratic time
 * and a prompt may be a megabyte of accents. */
#include "unicode.h"

#include <assert.h>
#include <string.h>

#include <utf8proc.h>

typedef struct qwen_range {
    uint32_t first;
    uint32_t last;
} qwen_range;

#include "unicode_tables.inc"

#define IN_TABLE(table, character) in_ranges(table, sizeof(table) / sizeof((table)[0]), character)

static bool in_ranges(const qwen_range *ranges, size_t count, uint32_t character)
{
    size_t low = 0;
    while (count > 0) {
        const size_t half = count / 2;
        if (ranges[low + half].last < character) {
            low += half + 1;
            count -= half + 1;
        } else if (ranges[low + half].first <= character) {
            return true;
        } else {
            count = half;
        }
    }
    return false;
}

static qwen_char_class ascii_class(uint32_t character)
{
    if ((character | 0x20) - 'a' < 26)
        return QWEN_CHAR_LETTER;
    if (character - '0' < 10)
        return QWEN_CHAR_NUMBER;
    if (character == ' ' || character - '\t' < 5)
        return QWEN_CHAR_SPACE;
    return QWEN_CHAR_OTHER;
}

qwen_char_class qwen_char_class_get(uint32_t character)
{
    if (character < 0x80)
        return ascii_class(character);
    if (IN_TABLE(letter_ranges, character))
        return QWEN_CHAR_LETTER;
    if (IN_TABLE(number_ranges, character))
        return QWEN_CHAR_NUMBER;
    if (IN_TABLE(space_ranges, character))
        return QWEN_CHAR_SPACE;
    return QWEN_CHAR_OTHER;
}

/* ---- UTF-8: the well-formed sequences of the Unicode standard, table 3-7 ---- */

static size_t sequence_bytes(unsigned char lead)
{
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* The second byte keeps out overlong forms, surrogates and what lies above U+10FFFF. */
static bool second_fits(unsigned char lead, unsigned char second)
{
    const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return second >= low && second <= high;
}

qwen_utf8_state qwen_utf8_first(const unsigned char *bytes, size_t count, size_t *out_bytes)
{
    const size_t wanted = sequence_bytes(bytes[0]);
    *out_bytes = 1;
    if (wanted == 0)
        return QWEN_UTF8_INVALID;
    for (size_t i = 1; i < wanted; i++) {
        if (i == count)
            return QWEN_UTF8_PARTIAL;
        const bool fits = i == 1 ? second_fits(bytes[0], bytes[1]) : (bytes[i] & 0xc0) == 0x80;
        if (!fits)
            return QWEN_UTF8_INVALID;
        *out_bytes = i + 1;
    }
    return QWEN_UTF8_WHOLE;
}

size_t qwen_utf8_valid_bytes(const char *text, size_t text_bytes)
{
    const unsigned char *bytes = (const unsigned char *)text;
    size_t at = 0;
    while (at < text_bytes) {
        size_t length;
        if (qwen_utf8_first(bytes + at, text_bytes - at, &length) != QWEN_UTF8_WHOLE)
            break;
        at += length;
    }
    return at;
}

uint32_t qwen_utf8_decode(const char *text, size_t *out_bytes)
{
    const unsigned char *b = (const unsigned char *)text;
    const size_t length = sequence_bytes(b[0]);
    *out_bytes = length;
    switch (length) {
    case 1:
        return b[0];
    case 2:
        return (b[0] & 0x1fu) << 6 | (b[1] & 0x3fu);
    case 3:
        return (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    default:
        return (b[0] & 0x07u) << 18 | (b[1] & 0x3fu) << 12 | (b[2] & 0x3fu) << 6 | (b[3] & 0x3fu);
    }
}

/* ---- NFC ---- */

static bool is_joining(uint32_t character)
{
    return character >= joining_ranges[0].first && IN_TABLE(joining_ranges, character);
}

/* The bytes of the joining characters at the start of text. */
static size_t joining_bytes(const char *text, size_t text_bytes)
{
    size_t at = 0;
    while (at < text_bytes) {
        size_t length;
        if (!is_joining(qwen_utf8_decode(text + at, &length)))
            break;
        at += length;
    }
    return at;
}

size_t qwen_nfc_clean_bytes(const char *text, size_t text_bytes)
{
    size_t at = 0;
    size_t last = 0; /* where the character before `at` starts: a mark may still change it */
    while (at < text_bytes) {
        size_t length;
        if (is_joining(qwen_utf8_decode(text + at, &length)))
            return last;
        last = at;
        at += length;
    }
    return at;
}

static utf8proc_ssize_t decompose(uint32_t character, utf8proc_int32_t *points, size_t room)
{
    int boundary = 0;
    return utf8proc_decompose_char((utf8proc_int32_t)character, points, (utf8proc_ssize_t)room,
                                   UTF8PROC_COMPOSE | UTF8PROC_STABLE, &boundary);
}

static unsigned combining_class(utf8proc_int32_t point)
{
    return (unsigned)utf8proc_get_property(point)->combining_class & 0xffu;
}

/* Sorts marks (none of class 0) by class, keeping the order inside a class. */
static void sort_marks(utf8proc_int32_t *marks, size_t count, utf8proc_int32_t *copy)
{
    size_t begins[257] = {0};
    for (size_t i = 0; i < count; i++)
        begins[combining_class(marks[i]) + 1]++;
    for (size_t i = 1; i < 257; i++)
        begins[i] += begins[i - 1];
    memcpy(copy, marks, count * sizeof(*marks));
    for (size_t i = 0; i < count; i++)
        marks[begins[combining_class(copy[i])]++] = copy[i];
}

static void order_marks(utf8proc_int32_t *points, size_t count, utf8proc_int32_t *copy)
{
    size_t begin = 0;
    while (begin < count) {
        size_t end = begin;
        while (end < count && combining_class(points[end]) != 0)
            end++;
        if (end - begin > 1)
            sort_marks(points + begin, end - begin, copy);
        begin = end + 1;
    }
}

static size_t decomposed_count(const char *text, size_t text_bytes)
{
    size_t count = 0;
    for (size_t at = 0, length; at < text_bytes; at += length)
        count += (size_t)decompose(qwen_utf8_decode(text + at, &length), NULL, 0);
    return count;
}

/* Appends the NFC of one piece. */
static cenote_status compose_piece(const char *text, size_t text_bytes, qwen_scratch *work,
                                   qwen_scratch *output, size_t *used, cenote_error *err)
{
    const size_t count = decomposed_count(text, text_bytes);
    cenote_status status = qwen_scratch_reserve(work, count * 2 * sizeof(utf8proc_int32_t), 0, err);
    if (status == CENOTE_OK)
        status = qwen_scratch_reserve(output, *used + count * 4, *used, err);
    if (status != CENOTE_OK)
        return status;
    utf8proc_int32_t *points = work->data;
    size_t filled = 0;
    for (size_t at = 0, length; at < text_bytes; at += length)
        filled += (size_t)decompose(qwen_utf8_decode(text + at, &length), points + filled,
                                    count - filled);
    order_marks(points, count, points + count);
    const utf8proc_ssize_t composed = utf8proc_normalize_utf32(points, (utf8proc_ssize_t)count,
                                                               UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    assert(filled == count && composed > 0);
    for (utf8proc_ssize_t i = 0; i < composed; i++)
        *used += (size_t)utf8proc_encode_char(points[i], (utf8proc_uint8_t *)output->data + *used);
    return CENOTE_OK;
}

static cenote_status copy_piece(const char *text, size_t text_bytes, qwen_scratch *output,
                                size_t *used, cenote_error *err)
{
    const cenote_status status = qwen_scratch_reserve(output, *used + text_bytes, *used, err);
    if (status != CENOTE_OK)
        return status;
    memcpy((char *)output->data + *used, text, text_bytes);
    *used += text_bytes;
    return CENOTE_OK;
}

cenote_status qwen_nfc(const char *text, size_t text_bytes, qwen_scratch *work,
                       qwen_scratch *output, size_t *out_bytes, cenote_error *err)
{
    size_t used = 0;
    size_t at = 0;
    cenote_status status = CENOTE_OK;
    while (status == CENOTE_OK && at < text_bytes) {
        size_t piece = qwen_nfc_clean_bytes(text + at, text_bytes - at);
        if (piece == 0) {
            const uint32_t first = qwen_utf8_decode(text + at, &piece);
            if (is_joining(first) || IN_TABLE(base_ranges, first)) {
                piece += joining_bytes(text + at + piece, text_bytes - at - piece);
                status = compose_piece(text + at, piece, work, output, &used, err);
                at += piece;
                continue;
            }
        }
        status = copy_piece(text + at, piece, output, &used, err);
        at += piece;
    }
    if (status == CENOTE_OK)
        *out_bytes = used;
    return status;
}
