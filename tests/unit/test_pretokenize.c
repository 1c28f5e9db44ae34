/* SPDX-License-Identifier: Apache-2.0 */
/* The pre-tokenizer and NFC against what `tokenizers` makes of every code point. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pretokenize.h"
#include "token_fixture.h"
#include "unicode.h"

#define BLOCK_CODE_POINTS 4096u
#define BLOCK_COUNT       (0x110000u / BLOCK_CODE_POINTS)

static bool is_surrogate(uint32_t c)
{
    return c >= 0xd800 && c < 0xe000;
}

/* Pieces joined by '|'. */
static void assert_pieces(const char *text, const char *expected)
{
    char joined[512] = "";
    const size_t count = strlen(text);
    for (size_t at = 0; at < count;) {
        const size_t piece = qwen_pretoken_bytes(text + at, count - at);
        assert_in_range(piece, 1, count - at);
        if (at > 0)
            strcat(joined, "|");
        strncat(joined, text + at, piece);
        at += piece;
    }
    assert_string_equal(joined, expected);
}

static void test_pieces(void **state)
{
    (void)state;
    assert_pieces("Hello world", "Hello| world");
    assert_pieces("it's IT'S we'Ll", "it|'s| IT|'S| we|'Ll");
    assert_pieces("it'\xc5\xbfup", "it|'\xc5\xbf|up");
    assert_pieces("'sup 'x 'll", "'s|up| '|x| '|ll");
    assert_pieces("a1b23", "a|1|b|2|3");
    assert_pieces("  a  b\n\n c", " | a| | b|\n\n| c");
    assert_pieces(" \n  x", " \n| | x");
    assert_pieces("x   ", "x|   ");
    assert_pieces("   1", "  | |1");
    assert_pieces("\tx\t!", "\tx|\t|!");
    assert_pieces("!\n\n x ?!\r\n", "!\n\n| x| ?!\r\n");
    assert_pieces("\nx", "\n|x");
    assert_pieces("\xe3\x80\x80x", "\xe3\x80\x80x");
    assert_pieces("(foo)", "(foo|)");
    assert_pieces("''s", "''|s");
    /* U+180E is no white space here, whatever PCRE says; U+0085 is. */
    assert_pieces(" \xe1\xa0\x8e", " \xe1\xa0\x8e");
    assert_pieces(" \xc2\x85", " \xc2\x85");
}

static void assert_hash(json_t *golden, const char *key, uint32_t block, uint64_t hash)
{
    char text[32];
    snprintf(text, sizeof(text), "%016llx", (unsigned long long)hash);
    const char *expected = json_string_value(json_array_get(json_object_get(golden, key), block));
    assert_non_null(expected);
    if (strcmp(text, expected) != 0)
        fail_msg("%s differ in U+%X to U+%X", key, block * BLOCK_CODE_POINTS,
                 (block + 1) * BLOCK_CODE_POINTS - 1);
}

/* x{c}y {c}1{c}'{c}s\u3000{c}{c}\n{c} {c} */
static size_t split_text(char *text, uint32_t c)
{
    static const char *const between[] = {"x", "y ", "1", "'", "s\xe3\x80\x80", "", "\n", " "};
    char *out = text;
    for (size_t i = 0; i < sizeof(between) / sizeof(between[0]); i++) {
        out = stpcpy(out, between[i]);
        token_put_char(&out, c);
    }
    return (size_t)(out - text);
}

static void test_every_code_point_splits(void **state)
{
    (void)state;
    json_t *golden = token_golden_load();
    for (uint32_t block = 0; block < BLOCK_COUNT; block++) {
        uint64_t hash = TOKEN_FNV_BEGIN;
        for (uint32_t c = block * BLOCK_CODE_POINTS; c < (block + 1) * BLOCK_CODE_POINTS; c++) {
            char text[80];
            const size_t count = is_surrogate(c) ? 0 : split_text(text, c);
            for (size_t at = 0; at < count;) {
                const unsigned char piece =
                    (unsigned char)qwen_pretoken_bytes(text + at, count - at);
                hash = token_fnv(&piece, 1, hash);
                at += piece;
            }
        }
        assert_hash(golden, "splits", block, hash);
    }
    json_decref(golden);
}

/* a{c}\u0301{c}\u0323\u0345{c}\u0334{c} */
static size_t mark_text(char *text, uint32_t c)
{
    static const char *const between[] = {"a", "\xcc\x81", "\xcc\xa3\xcd\x85", "\xcc\xb4"};
    char *out = text;
    for (size_t i = 0; i < sizeof(between) / sizeof(between[0]); i++) {
        out = stpcpy(out, between[i]);
        token_put_char(&out, c);
    }
    return (size_t)(out - text);
}

static void test_every_code_point_normalises(void **state)
{
    (void)state;
    token_fixture fixture;
    json_t *golden = token_golden_load();
    token_fixture_init(&fixture, 0);
    qwen_scratch work = {fixture.pool, NULL, 0};
    qwen_scratch output = {fixture.pool, NULL, 0};
    for (uint32_t block = 0; block < BLOCK_COUNT; block++) {
        uint64_t hash = TOKEN_FNV_BEGIN;
        for (uint32_t c = block * BLOCK_CODE_POINTS; c < (block + 1) * BLOCK_CODE_POINTS; c++) {
            char text[80];
            size_t normal;
            if (is_surrogate(c))
                continue;
            const size_t count = mark_text(text, c);
            assert_int_equal(qwen_nfc(text, count, &work, &output, &normal, NULL), CENOTE_OK);
            hash = token_fnv(output.data, normal, hash);
            /* What is said to stay must stay. */
            const size_t clean = qwen_nfc_clean_bytes(text, count);
            assert_true(clean <= normal);
            assert_memory_equal(text, output.data, clean);
        }
        assert_hash(golden, "nfc", block, hash);
    }
    qwen_scratch_shrink(&work, 0);
    qwen_scratch_shrink(&output, 0);
    token_fixture_fini(&fixture);
    json_decref(golden);
}

static void test_classes(void **state)
{
    (void)state;
    size_t counts[4] = {0};
    for (uint32_t c = 0; c < 0x110000; c++)
        counts[qwen_char_class_get(c)]++;
    assert_int_equal(counts[QWEN_CHAR_LETTER], 141028);
    assert_int_equal(counts[QWEN_CHAR_NUMBER], 1911);
    assert_int_equal(counts[QWEN_CHAR_SPACE], 25);
    assert_int_equal(qwen_char_class_get('_'), QWEN_CHAR_OTHER);
    assert_int_equal(qwen_char_class_get('@'), QWEN_CHAR_OTHER);
    assert_int_equal(qwen_char_class_get('['), QWEN_CHAR_OTHER);
    assert_int_equal(qwen_char_class_get(0x2ebf0), QWEN_CHAR_LETTER); /* Unicode 15.1 */
    assert_int_equal(qwen_char_class_get(0x180e), QWEN_CHAR_OTHER);
}

/* Every code point there and back, whole and cut short. */
static void test_utf8(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x110000; c++) {
        char text[8];
        char *end = text;
        size_t length;
        token_put_char(&end, c);
        const size_t count = (size_t)(end - text);
        const qwen_utf8_state whole = qwen_utf8_first((const unsigned char *)text, count, &length);
        assert_int_equal(whole, is_surrogate(c) ? QWEN_UTF8_INVALID : QWEN_UTF8_WHOLE);
        if (whole == QWEN_UTF8_WHOLE) {
            assert_int_equal(length, count);
            assert_int_equal(qwen_utf8_decode(text, &length), c);
            assert_int_equal(length, count);
        }
        for (size_t cut = 1; cut < count && !is_surrogate(c); cut++) {
            assert_int_equal(qwen_utf8_first((const unsigned char *)text, cut, &length),
                             QWEN_UTF8_PARTIAL);
            assert_int_equal(length, cut);
        }
    }
    assert_int_equal(qwen_utf8_valid_bytes("ab\xc0\x80", 4), 2);
    assert_int_equal(qwen_utf8_valid_bytes("\xf4\x90\x80\x80", 4), 0);
    assert_int_equal(qwen_utf8_valid_bytes("a\xe0\x9f\x80", 4), 1);
    assert_int_equal(qwen_utf8_valid_bytes("a\0b", 3), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_every_code_point_splits),
        cmocka_unit_test(test_every_code_point_normalises),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
