/* SPDX-License-Identifier: Apache-2.0 */
/* Random ranges and operations, against a model that looks at every leaf (buddy_script.h). What
 * fails is made as short as it goes and printed. CENOTE_TEST_SEED repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "buddy_script.h"

enum {
    SCRIPTS = 600,
    STEPS_MAX = 240,
    HEAD = BUDDY_SCRIPT_HEAD_BYTES,
    STEP = BUDDY_SCRIPT_STEP_BYTES
};

static uint64_t random_state;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

typedef const char *(*script_runner)(const uint8_t *bytes, size_t size, size_t *out_step);

/* Leaves out steps, halves of all that is there down to single ones, for as long as it still fails.
 */
static size_t shrink(uint8_t *script, size_t size, script_runner run)
{
    uint8_t shorter[HEAD + STEPS_MAX * STEP];
    for (size_t steps = (size - HEAD) / STEP; steps > 0;) {
        bool shrunk = false;
        for (size_t at = HEAD; at + steps * STEP <= size;) {
            memcpy(shorter, script, at);
            memcpy(shorter + at, script + at + steps * STEP, size - at - steps * STEP);
            if (run(shorter, size - steps * STEP, NULL) == NULL) {
                at += STEP;
                continue;
            }
            size -= steps * STEP;
            memcpy(script, shorter, size);
            shrunk = true;
        }
        steps = shrunk && steps == 1 ? 1 : steps / 2;
    }
    return size;
}

static void test_random(void **state)
{
    (void)state;
    const char *text = getenv("CENOTE_TEST_SEED");
    uint64_t seed = text != NULL ? strtoull(text, NULL, 0) : 20261121;
    for (unsigned number = 0; number < SCRIPTS; number++) {
        uint8_t script[HEAD + STEPS_MAX * STEP];
        random_state = (seed + number) * 0x9e3779b97f4a7c15u | 1;
        for (size_t i = 0; i < sizeof script; i++)
            script[i] = (uint8_t)(random_u64() >> 32);
        size_t size = HEAD + STEP * (1 + random_u64() % STEPS_MAX), step = 0;
        const char *wrong = buddy_script_run(script, size, &step);
        if (wrong == NULL)
            continue;
        printf("CENOTE_TEST_SEED=%llu: script %u, step %zu: %s; at its shortest:\n",
               (unsigned long long)seed, number, step, wrong);
        size = shrink(script, size, buddy_script_run);
        buddy_script_print(script, size);
        wrong = buddy_script_run(script, size, NULL);
        fail_msg("%s", wrong != NULL ? wrong : "does not fail any more");
    }
}

/* A fault that needs two steps, to see that shrinking leaves just these. */
static const char *fails_by_two(const uint8_t *bytes, size_t size, size_t *out_step)
{
    bool first = false;
    (void)out_step;
    for (size_t at = HEAD; at + STEP <= size; at += STEP) {
        if (first && bytes[at] == 200)
            return "both";
        first |= bytes[at] == 100;
    }
    return NULL;
}

static void test_shrink(void **state)
{
    (void)state;
    uint8_t script[HEAD + STEPS_MAX * STEP] = {0};
    script[HEAD + 17 * STEP] = 100;
    script[HEAD + 201 * STEP] = 200;
    assert_int_equal(shrink(script, sizeof script, fails_by_two), HEAD + 2 * STEP);
    assert_int_equal(script[HEAD], 100);
    assert_int_equal(script[HEAD + STEP], 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_shrink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
