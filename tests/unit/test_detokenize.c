/* SPDX-License-Identifier: Apache-2.0 */
/* The streaming detokenizer against Python's decoder, fed in every way of cutting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "token_fixture.h"
#include "unicode.h"

#define TEXT_BYTES 512

typedef struct collected {
    char text[TEXT_BYTES];
    size_t count;
} collected;

static void collect(void *context, const char *text, size_t text_bytes)
{
    collected *c = context;
    /* Whole characters only, in every single call. */
    assert_int_equal(qwen_utf8_valid_bytes(text, text_bytes), text_bytes);
    assert_true(text_bytes > 0);
    assert_true(c->count + text_bytes <= TEXT_BYTES);
    memcpy(c->text + c->count, text, text_bytes);
    c->count += text_bytes;
}

/* Feeds pieces of piece_bytes, the first of first_bytes. */
static void feed_in_pieces(const unsigned char *bytes, size_t count, size_t first_bytes,
                           size_t piece_bytes, collected *out)
{
    qwen_detokenizer detokenizer = QWEN_DETOKENIZER_INIT;
    size_t piece = first_bytes;
    out->count = 0;
    for (size_t at = 0; at < count; at += piece, piece = piece_bytes) {
        piece = piece < count - at ? piece : count - at;
        qwen_detokenizer_feed(&detokenizer, bytes + at, piece, collect, out);
        if (at + piece == count)
            break;
    }
    qwen_detokenizer_feed(&detokenizer, NULL, 0, collect, out);
    assert_int_equal(detokenizer.pending_count, 0);
}

static size_t from_hex(const char *hex, unsigned char *out)
{
    size_t count = 0;
    unsigned byte;
    for (; sscanf(hex + 2 * count, "%2x", &byte) == 1; count++)
        out[count] = (unsigned char)byte;
    return count;
}

static void test_goldens(void **state)
{
    (void)state;
    json_t *golden = token_golden_load();
    json_t *cases = json_object_get(golden, "decode");
    size_t i;
    json_t *entry;
    assert_true(json_array_size(cases) > 200);
    json_array_foreach(cases, i, entry)
    {
        unsigned char bytes[TEXT_BYTES];
        collected out;
        const char *expected = json_string_value(json_array_get(entry, 1));
        const size_t expected_bytes = json_string_length(json_array_get(entry, 1));
        const size_t count = from_hex(json_string_value(json_array_get(entry, 0)), bytes);
        for (size_t piece = 1; piece <= count + 1; piece++)
            for (size_t first = 1; first <= piece; first++) {
                feed_in_pieces(bytes, count, first, piece, &out);
                if (out.count != expected_bytes || memcmp(out.text, expected, expected_bytes) != 0)
                    fail_msg("case %zu, pieces of %zu and %zu bytes", i, first, piece);
            }
    }
    json_decref(golden);
}

/* What is complete comes out at once; what is not waits. */
static void test_streaming(void **state)
{
    (void)state;
    qwen_detokenizer detokenizer = QWEN_DETOKENIZER_INIT;
    collected out = {.count = 0};
    qwen_detokenizer_feed(&detokenizer, (const unsigned char *)"ab\xf0\x9f", 4, collect, &out);
    assert_int_equal(out.count, 2);
    qwen_detokenizer_feed(&detokenizer, (const unsigned char *)"\x98", 1, collect, &out);
    assert_int_equal(out.count, 2);
    qwen_detokenizer_feed(&detokenizer, (const unsigned char *)"\x80z", 2, collect, &out);
    assert_int_equal(out.count, 7);
    assert_memory_equal(out.text, "ab\xf0\x9f\x98\x80z", 7);
    /* Feeding nothing is not the end. */
    qwen_detokenizer_feed(&detokenizer, (const unsigned char *)"\xc3", 1, collect, &out);
    qwen_detokenizer_feed(&detokenizer, (const unsigned char *)"", 0, collect, &out);
    assert_int_equal(out.count, 7);
    qwen_detokenizer_feed(&detokenizer, NULL, 0, collect, &out);
    assert_memory_equal(out.text + 7, "\xef\xbf\xbd", 3);
    assert_int_equal(out.count, 10);
    qwen_detokenizer_feed(&detokenizer, NULL, 0, collect, &out);
    assert_int_equal(out.count, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_streaming),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
