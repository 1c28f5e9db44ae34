/* SPDX-License-Identifier: Apache-2.0 */
/* A whole run on a machine that fails: every kind of fault at every read of weights, and a refused
 * memory call at every call. Either the same tokens come out, or one clear error does; nothing is
 * left open, reserved, committed or charged. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "os/fake/fake.h"
#include "runner_fixture.h"

/* Release builds try every position. Sanitizers and coverage make a run several times slower; they
 * take every STRIDE-th. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(CENOTE_COVERAGE)
#define STRIDE 17u
#else
#define STRIDE 1u
#endif

static struct fixture_run reference;
static uint64_t reference_reads;

static struct fixture_run run_on(struct cn_fake *fake)
{
    struct fixture_run run = {.os = cn_fake_os(fake), .request = fixture_request()};
    run.request.max_tokens = 2;
    run.limit_bytes = UINT64_C(128) << 20;
    fixture_run(&run);
    return run;
}

static void assert_clean(struct cn_fake *fake, const struct fixture_run *run)
{
    struct cn_fake_books books = cn_fake_books_get(fake);
    assert_int_equal(books.open_files, 0);
    assert_int_equal(books.reservations, 0);
    assert_int_equal(books.committed_bytes, 0);
    assert_int_equal(books.misuse_count, 0);
    assert_int_equal(run->charged_after, 0);
}

static void assert_same_tokens(const struct fixture_run *run)
{
    if (run->status != CENOTE_OK)
        fail_msg("status %d: %s", run->status, run->error.message);
    assert_int_equal(run->token_count, reference.token_count);
    assert_memory_equal(run->tokens, reference.tokens, run->token_count * sizeof *run->tokens);
    assert_memory_equal(run->logits, reference.logits, run->logit_count * sizeof *run->logits);
}

static int set_up(void **state)
{
    (void)state;
    struct cn_fake *fake = cn_fake_create();
    assert_non_null(fake);
    reference = run_on(fake);
    assert_int_equal(reference.status, CENOTE_OK);
    reference_reads = cn_fake_calls(fake, CN_FAKE_READ);
    assert_clean(fake, &reference);
    cn_fake_destroy(fake);
    printf("%llu reads\n", (unsigned long long)reference_reads);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fixture_run_fini(&reference);
    return 0;
}

/* One run with one fault; it must end well when `harmless`, else well or with a message. */
static void run_with_fault(struct cn_fake_fault fault, bool harmless)
{
    struct cn_fake *fake = cn_fake_create();
    assert_non_null(fake);
    cn_fake_fault_add(fake, fault);
    struct fixture_run run = run_on(fake);
    if (harmless || run.status == CENOTE_OK) {
        assert_same_tokens(&run);
    } else {
        bool known = run.status == CENOTE_E_IO || run.status == CENOTE_E_CORRUPT ||
                     run.status == CENOTE_E_CHANGED;
        if (!known || strstr(run.error.message, "safetensors") == NULL)
            fail_msg("fault %d at read %llu: status %d, \"%s\"", fault.kind,
                     (unsigned long long)fault.at_read, run.status, run.error.message);
    }
    assert_clean(fake, &run);
    fixture_run_fini(&run);
    cn_fake_destroy(fake);
}

static void test_passing_faults(void **state)
{
    (void)state;
    const struct cn_fake_fault kinds[] = {
        {CN_FAULT_SHORT, 0, 1, 1},      {CN_FAULT_SHORT, 0, 1, 512},
        {CN_FAULT_ERROR, 0, 1, EIO},    {CN_FAULT_ERROR, 0, 1, EINTR},
        {CN_FAULT_ERROR, 0, 1, EAGAIN}, {CN_FAULT_DELAY, 0, 1, 50000000},
    };
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (uint64_t at = 1 + k % STRIDE; at <= reference_reads; at += STRIDE) {
            struct cn_fake_fault fault = kinds[k];
            fault.at_read = at;
            run_with_fault(fault, true);
        }
}

static void test_lasting_faults(void **state)
{
    (void)state;
    const struct cn_fake_fault kinds[] = {
        {CN_FAULT_ERROR, 0, CN_FAKE_ALWAYS, EIO},
        {CN_FAULT_TRUNCATE, 0, 1, 4096},
        {CN_FAULT_TRUNCATE, 0, 1, 0},
        {CN_FAULT_CHANGE, 0, 1, 1000000000},
    };
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (uint64_t at = 1 + k % STRIDE; at <= reference_reads; at += STRIDE) {
            struct cn_fake_fault fault = kinds[k];
            fault.at_read = at;
            run_with_fault(fault, false);
        }
}

static void test_refused_memory(void **state)
{
    (void)state;
    uint64_t nth = 0, refused = 0;
    bool met = true;
    while (met) {
        struct cn_fake *fake = cn_fake_create();
        assert_non_null(fake);
        cn_fake_fail(fake, CN_FAKE_MEMORY, ++nth, ENOMEM);
        struct fixture_run run = run_on(fake);
        met = cn_fake_calls(fake, CN_FAKE_MEMORY) >= nth;
        if (run.status != CENOTE_OK) { /* a block that is refused whole chunks may yet be had */
            refused++;
            assert_int_equal(run.status, CENOTE_E_NOMEM);
            assert_true(run.error.message[0] != '\0');
        }
        assert_clean(fake, &run);
        fixture_run_fini(&run);
        cn_fake_destroy(fake);
    }
    printf("%llu memory calls\n", (unsigned long long)nth - 1);
    assert_true(nth > 10 && refused > 10); /* the sweep met the calls that a run makes */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passing_faults),
        cmocka_unit_test(test_lasting_faults),
        cmocka_unit_test(test_refused_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
