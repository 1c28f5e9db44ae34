/* SPDX-License-Identifier: Apache-2.0 */
/* What the process itself holds: a program that has opened the library, and the command before the
 * tokenizer. Every plan counts QWEN_PROCESS_BYTES for it, so it may not be more. Instrumentation
 * takes more: for release builds (label "release"). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "program.h"
#include "runner_fixture.h"

#define LIMIT_BYTES (UINT64_C(16) << 20)
#define KIB         UINT64_C(1024)

static char file[1024]; /* of weights */

static int set_up(void **state)
{
    (void)state;
    snprintf(file, sizeof file, "%s/model.safetensors", fixture_checkpoint());
    return 0;
}

static void test_library_opened(void **state)
{
    (void)state;
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    budget_options.limit_bytes = UINT64_C(1) << 30;
    budget_options.process_bytes = QWEN_PROCESS_BYTES;
    cenote_budget *budget;
    cenote_pool *pool;
    cenote_team *team;
    cenote_weights *weights;
    assert_int_equal(cenote_budget_create(&budget_options, &budget, NULL), CENOTE_OK);
    assert_int_equal(cenote_pool_create(budget, &pool_options, &pool, NULL), CENOTE_OK);
    assert_int_equal(cenote_team_create(2, &team, NULL), CENOTE_OK);
    assert_int_equal(cenote_weights_open(budget, file, NULL, &weights, NULL), CENOTE_OK);
    cenote_process_memory process;
    assert_int_equal(cenote_process_memory_get(&process, NULL), CENOTE_OK);
    uint64_t peak_bytes = process.resident_peak_bytes + process.page_table_bytes;
    printf("library opened: VmHWM + VmPTE %llu KiB\n", (unsigned long long)(peak_bytes / KIB));
    assert_true(peak_bytes <= LIMIT_BYTES);
    cenote_weights_close(weights);
    cenote_team_destroy(team);
    assert_int_equal(cenote_pool_destroy(pool), 0);
    cenote_budget_destroy(budget);
}

/* `cenote inspect FILE` opens a table of tensors and no tokenizer. The kernel keeps the peak of a
 * child that has ended (its resident set, this program's before exec included). */
static void test_command_before_the_tokenizer(void **state)
{
    (void)state;
    const char *const argv[] = {TEST_BIN_DIR "/cli/cenote", "inspect", file, "--json", NULL};
    char said[512];
    assert_int_equal(test_program_run(argv, said, sizeof said), 0);
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &usage), 0);
    printf("cenote inspect: peak %ld KiB\n", usage.ru_maxrss);
    assert_true((uint64_t)usage.ru_maxrss * KIB <= LIMIT_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_library_opened),
        cmocka_unit_test(test_command_before_the_tokenizer),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
