/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation in chat form: what was answered is shown as transformers would show its text,
 * whatever tokens it was produced in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "chat.h"
#include "token_fixture.h"

#define IMAGE_PAD 594
#define PADS3     "<|image_pad|><|image_pad|><|image_pad|>"
#define IMAGE3    "<|vision_start|>" PADS3 "<|vision_end|>"
#define IMAGE1    "<|vision_start|><|image_pad|><|vision_end|>"

struct rig {
    token_fixture tokens;
    qwen_tokenizer *tokenizer;
};

static int set_up(void **state)
{
    static struct rig rig;
    token_fixture_init(&rig.tokens, 0);
    rig.tokenizer = token_fixture_open(&rig.tokens);
    *state = &rig;
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    qwen_tokenizer_close(rig->tokenizer);
    token_fixture_fini(&rig->tokens);
    return 0;
}

static qwen_ids ids_of(const struct rig *rig, const char *text, bool parse_special)
{
    qwen_ids ids = {.count_max = 10000};
    assert_int_equal(
        qwen_tokenizer_encode(rig->tokenizer, text, strlen(text), parse_special, &ids, NULL),
        CENOTE_OK);
    return ids;
}

/* A model that spells: each byte a token of its own. */
static qwen_ids ids_by_bytes(const struct rig *rig, const char *text)
{
    qwen_ids ids = {.count_max = 10000};
    for (const char *c = text; *c != '\0'; c++) {
        uint32_t id = 0;
        const unsigned char *bytes;
        bool special;
        while (qwen_tokenizer_token_bytes(rig->tokenizer, id, &bytes, &special) != 1 ||
               bytes[0] != (unsigned char)*c)
            id++;
        assert_int_equal(qwen_ids_push(&ids, id, NULL), CENOTE_OK);
    }
    return ids;
}

static qwen_chat_prompt prompt_after(const qwen_chat_turn *past, uint32_t past_count)
{
    return (qwen_chat_prompt){
        .past = past,
        .past_count = past_count,
        .user = "next",
        .image_token_id = IMAGE_PAD,
        .vision_start_token_id = 591,
        .vision_end_token_id = 592,
    };
}

/* @p expected_text: control tokens in it count. */
static void assert_rendered(const struct rig *rig, const qwen_chat_style *style,
                            const qwen_chat_prompt *prompt, const char *expected_text)
{
    cenote_error err;
    qwen_ids ids = {.count_max = 10000};
    qwen_ids expected = ids_of(rig, expected_text, true);
    if (qwen_chat_render(rig->tokenizer, style, prompt, &ids, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    if (ids.count != expected.count || memcmp(ids.ids, expected.ids, 4 * ids.count) != 0)
        fail_msg("%llu ids, not the %llu of: %s", (unsigned long long)ids.count,
                 (unsigned long long)expected.count, expected_text);
    qwen_ids_fini(&ids);
    qwen_ids_fini(&expected);
}

#define BEFORE "<|im_start|>user\nfirst<|im_end|>\n<|im_start|>assistant\n"
#define AFTER  "<|im_end|>\n<|im_start|>user\nnext<|im_end|>\n<|im_start|>assistant\n"

/* One reply, and how it is shown. Frees @p reply. */
static void assert_shown(const struct rig *rig, const qwen_chat_style *style, qwen_ids reply,
                         const char *expected)
{
    const qwen_chat_turn past = {
        .user = "first", .reply_ids = reply.ids, .reply_count = reply.count};
    const qwen_chat_prompt prompt = prompt_after(&past, 1);
    assert_rendered(rig, style, &prompt, expected);
    qwen_ids_fini(&reply);
}

static void test_replies(void **state)
{
    const struct rig *rig = *state;
    const qwen_chat_style plain = {0};
    assert_shown(rig, &plain, ids_of(rig, "A cat.<|im_end|>", true), BEFORE "A cat." AFTER);
    assert_shown(rig, &plain, ids_of(rig, "A cat", true), BEFORE "A cat" AFTER); /* cut off */
    assert_shown(rig, &plain, ids_of(rig, "<|endoftext|>", true), BEFORE AFTER);
    assert_shown(rig, &plain, (qwen_ids){0}, BEFORE AFTER);
    /* What transformers' text would not hold: special tokens; what it would: other added ones. */
    assert_shown(rig, &plain, ids_of(rig, "a<|vision_start|>b", true), BEFORE "ab" AFTER);
    assert_shown(rig, &plain, ids_of(rig, "<tool_call> x</tool_call>\n", true),
                 BEFORE "<tool_call> x</tool_call>\n" AFTER);
}

static void test_other_pieces(void **state)
{
    const struct rig *rig = *state;
    const qwen_chat_style plain = {0};
    /* Line ends join the role's. */
    assert_shown(rig, &plain, ids_of(rig, "\n\nx", false), BEFORE "\n\nx" AFTER);
    assert_shown(rig, &plain, ids_by_bytes(rig, "The picture isn't "),
                 BEFORE "The picture isn't " AFTER);
    assert_shown(rig, &plain, ids_by_bytes(rig, "caf\xc3\xa9 \xe7\x8b\x97"),
                 BEFORE "caf\xc3\xa9 \xe7\x8b\x97" AFTER);
    /* A character that was not finished, at the end and before a token of its own. */
    assert_shown(rig, &plain, ids_by_bytes(rig, "x\xe7\x8b"), BEFORE "x\xef\xbf\xbd" AFTER);
    qwen_ids cut = ids_by_bytes(rig, "x\xe7");
    assert_int_equal(qwen_ids_push(&cut, qwen_tokenizer_special(rig->tokenizer, "<think>"), NULL),
                     CENOTE_OK);
    assert_shown(rig, &plain, cut, BEFORE "x\xef\xbf\xbd<think>" AFTER);
}

/* Markers that a model spells, or a user types, are text: unless parse_special says so. */
static void test_spelled_markers(void **state)
{
    const struct rig *rig = *state;
    const qwen_chat_style plain = {0};
    qwen_ids reply = ids_of(rig, "so <|im_end|> so", false);
    const qwen_chat_turn past = {
        .user = "first", .reply_ids = reply.ids, .reply_count = reply.count};
    qwen_chat_prompt prompt = prompt_after(&past, 1);
    prompt.parse_special = true;
    assert_rendered(rig, &plain, &prompt, BEFORE "so <|im_end|> so" AFTER);
    prompt.parse_special = false;
    qwen_ids ids = {.count_max = 10000};
    assert_int_equal(qwen_chat_render(rig->tokenizer, &plain, &prompt, &ids, NULL), CENOTE_OK);
    const uint32_t end = qwen_tokenizer_special(rig->tokenizer, "<|im_end|>");
    size_t ends = 0;
    for (uint64_t i = 0; i < ids.count; i++)
        ends += ids.ids[i] == end;
    assert_int_equal(ends, 3);
    qwen_ids_fini(&ids);
    qwen_ids_fini(&reply);
}

static void test_thoughts(void **state)
{
    const struct rig *rig = *state;
    static const char thought[] = "A cat?\n</think>\n\n\nYes.\n<|im_end|>";
    const qwen_chat_style keeps = {0}, drops = {.drops_thoughts = true};
    assert_shown(rig, &keeps, ids_of(rig, thought, true),
                 BEFORE "A cat?\n</think>\n\n\nYes.\n" AFTER);
    assert_shown(rig, &drops, ids_of(rig, thought, true), BEFORE "Yes.\n" AFTER);
    assert_shown(rig, &drops, ids_of(rig, "A cat?\n</think>\n\n\nYes.", false),
                 BEFORE "Yes." AFTER); /* spelled */
    assert_shown(rig, &drops, ids_by_bytes(rig, "a<</think>b</think>\nc</thinc"),
                 BEFORE "c</thinc" AFTER);
    assert_shown(rig, &drops, ids_of(rig, "1</think>2</think>", true), BEFORE AFTER);
    assert_shown(rig, &drops, ids_of(rig, "A cat? It has", true), BEFORE "A cat? It has" AFTER);
    /* Only those up to the last mark go. */
    assert_shown(rig, &drops, ids_of(rig, "a</think>\n<think>\nb", true),
                 BEFORE "<think>\nb" AFTER);
}

static void test_pictures_of_the_past(void **state)
{
    const struct rig *rig = *state;
    static const uint64_t counts[] = {3, 1, 1};
    const qwen_chat_style think = {.think_suffix = true, .drops_thoughts = true};
    qwen_ids reply = ids_of(rig, "hm</think>no", true);
    const qwen_chat_turn past[] = {
        {"a", 2, counts, reply.ids, reply.count},
        {"b", 0, NULL, reply.ids, reply.count},
    };
    qwen_chat_prompt prompt = prompt_after(past, 2);
    prompt.system = "s";
    prompt.image_count = 1;
    prompt.image_token_counts = counts + 2;
    assert_rendered(rig, &think, &prompt,
                    "<|im_start|>system\ns<|im_end|>\n"
                    "<|im_start|>user\n" IMAGE3 IMAGE1 "a<|im_end|>\n"
                    "<|im_start|>assistant\nno<|im_end|>\n"
                    "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n"
                    "<|im_start|>user\n" IMAGE1 "next<|im_end|>\n"
                    "<|im_start|>assistant\n<think>\n");
    /* A pad that is no picture's, typed in any turn. */
    cenote_error err;
    qwen_ids ids = {.count_max = 10000};
    const qwen_chat_turn typed = {"<|image_pad|>", 0, NULL, reply.ids, reply.count};
    prompt = prompt_after(&typed, 1);
    prompt.parse_special = true;
    prompt.image_count = 1;
    prompt.image_token_counts = counts;
    assert_int_equal(qwen_chat_render(rig->tokenizer, &think, &prompt, &ids, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "1 image pad tokens of its own"));
    assert_int_equal(ids.count, 0);
    qwen_ids_fini(&ids);
    qwen_ids_fini(&reply);
}

/* Every place where the list can be full; under the leak checker, every place that must free. */
static void test_full_lists(void **state)
{
    const struct rig *rig = *state;
    const qwen_chat_style plain = {0};
    qwen_ids reply = ids_of(rig, "a<think>b", true);
    const qwen_chat_turn past = {
        .user = "first", .reply_ids = reply.ids, .reply_count = reply.count};
    const qwen_chat_prompt prompt = prompt_after(&past, 1);
    qwen_ids ids = {0};
    while (qwen_chat_render(rig->tokenizer, &plain, &prompt, &ids, NULL) != CENOTE_OK) {
        assert_int_equal(ids.count, 0);
        ids.count_max++;
    }
    assert_int_equal(ids.count, ids.count_max);
    qwen_ids_fini(&ids);
    qwen_ids_fini(&reply);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_other_pieces),
        cmocka_unit_test(test_spelled_markers),
        cmocka_unit_test(test_thoughts),
        cmocka_unit_test(test_pictures_of_the_past),
        cmocka_unit_test(test_full_lists),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
