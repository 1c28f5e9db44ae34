/* SPDX-License-Identifier: Apache-2.0 */
/* Would the tests see a wrong runner? golden.demo_model and a case of golden.golden, linked with a
 * runner that can be told to make one of the mistakes of runner/qwen3vl/fault.h, must pass without
 * one; with each, one of them must fail, by what it compares and not by crashing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fault.h"
#include "program.h"

static const char *const names[] = {"NONE",
#define NAME(name, text) #name,
                                    QWEN_FAULTS_EACH(NAME)};
static const char *const texts[] = {"does nothing wrong",
#define TEXT(name, text) text,
                                    QWEN_FAULTS_EACH(TEXT)};

/* The trained model and pictures; a random one, stage by stage. */
static const char *const demo_model[] = {TEST_BIN_DIR "/tests/golden_demo_model_faulty", NULL};
static const char *const stages[] = {TEST_BIN_DIR "/tests/golden_golden_faulty", "two_images",
                                     NULL};

/* Runs the test with that fault. @return how many of its cases failed. */
static int failures_with(enum qwen_fault fault, const char *const test[], char *said,
                         size_t said_bytes)
{
    setenv("CENOTE_TEST_FAULT", names[fault], 1);
    int code = test_program_run(test, said, said_bytes);
    unsetenv("CENOTE_TEST_FAULT");
    if (code > 3 || strstr(said, "no such fault") != NULL)
        fail_msg("%s: exit code %d: %s", names[fault], code, said);
    return code;
}

/* @return what a test noticed; NULL: nothing. */
static const char *seen_by(enum qwen_fault fault)
{
    char said[16384];
    if (failures_with(fault, demo_model, said, sizeof said) > 0) {
        if (strstr(said, "\nsaid ") != NULL)
            return "the demo model says something else";
        if (strstr(said, "of their RMS away") != NULL)
            return "the demo model's logits are others";
    }
    if (failures_with(fault, stages, said, sizeof said) > 0 &&
        strstr(said, "arrays are far") != NULL)
        return "a stage's values are others";
    return NULL;
}

static void test_no_fault(void **state)
{
    (void)state;
    char said[16384];
    if (failures_with(QWEN_FAULT_NONE, demo_model, said, sizeof said) != 0 ||
        failures_with(QWEN_FAULT_NONE, stages, said, sizeof said) != 0)
        fail_msg("%s", said);
}

static void test_each_fault(void **state)
{
    (void)state;
    int unseen = 0;
    for (int i = QWEN_FAULT_NONE + 1; i < QWEN_FAULT_COUNT; i++) {
        const char *seen = seen_by((enum qwen_fault)i);
        print_message("%-20s %s: %s\n", names[i], texts[i], seen != NULL ? seen : "NOT SEEN");
        unseen += seen == NULL;
    }
    assert_int_equal(unseen, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_fault),
        cmocka_unit_test(test_each_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
