/* SPDX-License-Identifier: Apache-2.0 */
/* Guesses: the longest match, then the latest; a text that goes round goes on so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lookup.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* The text is cut at every place: where the prompt ends must not matter. */
static void guess_is(const uint32_t *text, uint64_t count, uint32_t most, const uint32_t *want,
                     uint32_t want_count)
{
    for (uint64_t cut = 0; cut <= count; cut++) {
        const qwen_text_so_far so_far = {text, cut, text + cut, count - cut};
        uint32_t guess[8];
        assert_int_equal(qwen_lookup(&so_far, most, guess), want_count);
        if (want_count > 0)
            assert_memory_equal(guess, want, want_count * sizeof *want);
    }
}

static void test_nothing_to_go_by(void **state)
{
    (void)state;
    const uint32_t text[] = {1, 2, 3, 4, 5, 3};
    for (uint64_t count = 0; count <= COUNT(text); count++)
        guess_is(text, count, 8, NULL, 0); /* one token alone says too little */
}

static void test_what_followed(void **state)
{
    (void)state;
    const uint32_t text[] = {7, 8, 9, 10, 11, 12, 1, 7, 8};
    const uint32_t want[] = {9, 10, 11, 12, 1, 7, 8, 9};
    guess_is(text, COUNT(text), 8, want, 8);
    guess_is(text, COUNT(text), 3, want, 3);
}

static void test_longest_then_latest(void **state)
{
    (void)state;
    const uint32_t longest[] = {5, 6, 7, 8, 30, 1, 7, 8, 40, 2, 5, 6, 7, 8};
    const uint32_t want_longest[] = {30, 1};
    guess_is(longest, COUNT(longest), 2, want_longest, 2);
    const uint32_t latest[] = {7, 8, 30, 1, 7, 8, 40, 2, 7, 8};
    const uint32_t want_latest[] = {40, 2};
    guess_is(latest, COUNT(latest), 2, want_latest, 2);
}

static void test_repetition(void **state)
{
    (void)state;
    const uint32_t text[] = {4, 4, 4};
    const uint32_t want[] = {4, 4, 4, 4, 4, 4, 4, 4};
    guess_is(text, COUNT(text), 8, want, 8);
    const uint32_t pairs[] = {1, 2, 1, 2, 1, 2};
    const uint32_t want_pairs[] = {1, 2, 1, 2, 1};
    guess_is(pairs, COUNT(pairs), 5, want_pairs, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_to_go_by),
        cmocka_unit_test(test_what_followed),
        cmocka_unit_test(test_longest_then_latest),
        cmocka_unit_test(test_repetition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
