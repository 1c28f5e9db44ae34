/* SPDX-License-Identifier: Apache-2.0 */
/* Logits are the same bytes at every budget, thread count, chunk of prefill and instruction set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels.h"
#include "runner_fixture.h"

/* Sanitizers make a run some ten times slower: fewer of them then. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(CENOTE_COVERAGE)
#define BUDGET_STEPS   3u
#define RESIDENT_STEPS 3u
#define DRAFT_THREADS  1u
#else
#define BUDGET_STEPS   12u
#define RESIDENT_STEPS 20u
#define DRAFT_THREADS  3u
#endif

static char long_prompt[2000];

static struct fixture_run run_with(uint64_t limit_bytes, unsigned threads, cenote_dtype kv_dtype)
{
    struct fixture_run run = {.limit_bytes = limit_bytes, .request = fixture_request()};
    run.request.prompt = long_prompt;
    run.request.thread_count = threads;
    run.request.kv_dtype = kv_dtype;
    fixture_run(&run);
    return run;
}

static void assert_same(const struct fixture_run *a, const struct fixture_run *b)
{
    assert_int_equal(a->status, CENOTE_OK);
    if (b->status != CENOTE_OK)
        fail_msg("status %d: %s", b->status, b->error.message);
    assert_int_equal(a->logit_count, b->logit_count);
    assert_true(a->logit_count > 0);
    assert_memory_equal(a->logits, b->logits, a->logit_count * sizeof *a->logits);
    assert_int_equal(a->token_count, b->token_count);
    assert_memory_equal(a->tokens, b->tokens, a->token_count * sizeof *a->tokens);
}

static int set_up(void **state)
{
    (void)state;
    for (size_t i = 0; i + 12 < sizeof long_prompt; i += 12)
        memcpy(long_prompt + i, i % 24 ? "word or two " : "and a line\n\n", 12);
    return 0;
}

/* Text alone: with a picture the tower needs more than any chunk of prefill. */
static struct fixture_run run_text(uint64_t limit_bytes)
{
    struct fixture_run run = {.limit_bytes = limit_bytes, .request = fixture_request()};
    run.request.prompt = long_prompt;
    run.request.image_count = 0;
    fixture_run(&run);
    return run;
}

static void test_budgets(void **state)
{
    (void)state;
    struct fixture_run reference = run_text(0);
    assert_int_equal(reference.plan.prefill_weight_passes, 1);
    uint64_t smallest = reference.plan.smallest_bytes;
    uint64_t largest_passes = 1;
    for (unsigned step = 0; step < BUDGET_STEPS; step++) {
        struct fixture_run run = run_text(smallest + step * (96u << 10));
        if (run.plan.prefill_weight_passes > largest_passes)
            largest_passes = run.plan.prefill_weight_passes;
        assert_same(&reference, &run);
        fixture_run_fini(&run);
    }
    assert_true(largest_passes > 2); /* or the budgets above did not vary the chunks */
    struct fixture_run below = run_text(smallest - 1);
    assert_int_equal(below.status, CENOTE_E_BUDGET);
    fixture_run_fini(&reference);

    reference = run_with(0, 2, CENOTE_DTYPE_F32);
    struct fixture_run tight = run_with(reference.plan.smallest_bytes, 2, CENOTE_DTYPE_F32);
    assert_same(&reference, &tight);
    fixture_run_fini(&reference);
    fixture_run_fini(&tight);
}

/* A short text: what is resident matters to each token alike. */
static qwen_request short_request(void)
{
    qwen_request request = fixture_request();
    request.prompt = long_prompt + strlen(long_prompt) - 100;
    request.image_count = 0;
    return request;
}

static struct fixture_run run_resident(uint64_t limit_bytes, bool unpacked, unsigned step)
{
    struct fixture_run run = {.limit_bytes = limit_bytes, .request = short_request()};
    run.request.unpacked = unpacked;
    run.request.io_engine = step % 2 == 0 ? CENOTE_ENGINE_PREAD : CENOTE_ENGINE_AUTO;
    fixture_run(&run);
    return run;
}

/* From nothing resident to everything, in both forms, read by either engine. */
static void test_resident_rows(void **state)
{
    (void)state;
    struct fixture_run reference = run_resident(0, false, 0);
    for (int unpacked = 0; unpacked < 2; unpacked++) {
        struct fixture_run all = run_resident(0, unpacked, 1);
        uint64_t smallest = all.plan.smallest_bytes;
        uint64_t span = all.plan.whole_bytes - smallest;
        assert_same(&reference, &all);
        assert_true(all.plan.limit_bytes >= all.plan.whole_bytes);
        unsigned partly = 0;
        for (unsigned step = 0; step <= RESIDENT_STEPS; step++) {
            struct fixture_run run =
                run_resident(smallest + span * step / RESIDENT_STEPS, unpacked, step);
            assert_same(&reference, &run);
            partly +=
                run.plan.resident_bytes > 0 && run.plan.resident_bytes < all.plan.resident_bytes;
            fixture_run_fini(&run);
        }
        assert_true(partly > 0); /* or the budgets above were the wrong ones */
        fixture_run_fini(&all);
    }
    fixture_run_fini(&reference);
}

static void damage(const char *path)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long size = ftell(file);
    for (long at = size / 2; at < size; at += 50000) { /* panels are in the second half, too */
        assert_int_equal(fseek(file, at, SEEK_SET), 0);
        assert_int_not_equal(fputc('#', file), EOF);
    }
    assert_int_equal(fclose(file), 0);
}

/* A packed copy changes the bytes that are read and nothing else; what is bad in it is read from
 * the original. */
static void test_packed_copy(void **state)
{
    (void)state;
    static const char path[] = TEST_BIN_DIR "/identity.pack";
    remove(path);
    struct fixture_run reference = run_resident(0, false, 0);
    uint64_t span = reference.plan.whole_bytes - reference.plan.smallest_bytes;
    for (unsigned step = 0; step < RESIDENT_STEPS; step++) {
        struct fixture_run runs[2];
        for (unsigned i = 0; i < 2; i++) {
            runs[i] =
                (struct fixture_run){.limit_bytes = reference.plan.smallest_bytes + (256u << 10) +
                                                    span * step / RESIDENT_STEPS,
                                     .request = short_request(),
                                     .pack_path = i > 0 ? path : NULL};
            runs[i].request.draft = QWEN_DRAFT_OFF;
            runs[i].request.io_engine = step % 2 ? CENOTE_ENGINE_PREAD : CENOTE_ENGINE_AUTO;
            fixture_run(&runs[i]);
            assert_same(&reference, &runs[i]);
        }
        bool damaged = step >= RESIDENT_STEPS / 2;
        assert_true((runs[1].pack_failures > 0) == damaged);
        if (step == 0) /* later the copy's table costs resident rows, which are few here */
            assert_true((double)runs[1].bytes_read_decode <
                        0.9 * (double)runs[0].bytes_read_decode);
        fixture_run_fini(&runs[0]);
        fixture_run_fini(&runs[1]);
        if (step + 1 == RESIDENT_STEPS / 2)
            damage(path);
    }
    remove(path);
    fixture_run_fini(&reference);
}

/* Where a budget has no room for the copy's table the run goes without it, unless it must not. */
static void test_no_room_for_the_copy(void **state)
{
    (void)state;
    static const char path[] = TEST_BIN_DIR "/identity-left.pack";
    remove(path);
    struct fixture_run reference = run_resident(0, false, 0);
    uint64_t smallest = reference.plan.smallest_bytes;
    uint64_t limits[] = {smallest - 1, smallest, smallest + (256u << 10)};
    for (unsigned i = 0; i < 6; i++) {
        struct fixture_run run = {
            .limit_bytes = limits[i / 2], .request = short_request(), .pack_path = path};
        run.request.pack_required = i % 2 == 1;
        fixture_run(&run);
        bool refused = i < 2 || (i == 3);
        assert_int_equal(run.status, refused ? CENOTE_E_BUDGET : CENOTE_OK);
        assert_int_equal(run.plan.pack_left_out, i == 0 || i == 2);
        assert_true(run.request.pack_required ? run.plan.smallest_bytes > smallest
                                              : run.plan.smallest_bytes == smallest);
        if (!refused)
            assert_same(&reference, &run);
        fixture_run_fini(&run);
    }
    remove(path);
    fixture_run_fini(&reference);
}

/* A text that goes round and round is guessed right; the guesses change nothing but the passes. */
static void test_draft(void **state)
{
    (void)state;
    uint64_t smallest = 0;
    for (unsigned threads = 1; threads <= DRAFT_THREADS; threads++) {
        struct fixture_run runs[4];
        for (unsigned i = 0; i < 4; i++) {
            runs[i] = (struct fixture_run){.request = short_request()};
            runs[i].request.max_tokens = 24;
            runs[i].request.thread_count = threads;
            runs[i].request.draft = i == 0 ? QWEN_DRAFT_OFF : QWEN_DRAFT_LOOKUP;
            /* with room for all rows, for some and for none */
            runs[i].limit_bytes = i < 2 ? 0 : smallest + (i - 2) * (64u << 10);
            fixture_run(&runs[i]);
            smallest = runs[0].plan.smallest_bytes;
        }
        assert_int_equal(runs[0].plan.draft_rows, 1);
        assert_int_equal(runs[0].decode_passes, runs[0].token_count - 1);
        assert_int_equal(runs[1].plan.draft_rows, 8);
        assert_true(runs[1].draft_accepted > 0);
        for (unsigned i = 1; i < 4; i++) {
            assert_same(&runs[0], &runs[i]);
            assert_int_equal(runs[i].decode_passes + runs[i].draft_accepted,
                             runs[i].token_count - 1);
        }
        for (unsigned i = 0; i < 4; i++)
            fixture_run_fini(&runs[i]);
    }
}

static void test_threads(void **state)
{
    (void)state;
    const unsigned counts[] = {1, 3, 4, 7};
    for (int bf16 = 0; bf16 < 2; bf16++) {
        cenote_dtype kv = bf16 ? CENOTE_DTYPE_BF16 : CENOTE_DTYPE_F32;
        struct fixture_run reference = run_with(0, 2, kv);
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            struct fixture_run run = run_with(0, counts[i], kv);
            assert_same(&reference, &run);
            fixture_run_fini(&run);
        }
        fixture_run_fini(&reference);
    }
}

static void test_kv_type_matters(void **state)
{
    (void)state;
    struct fixture_run full = run_with(0, 2, CENOTE_DTYPE_F32);
    struct fixture_run half = run_with(0, 2, CENOTE_DTYPE_BF16);
    assert_int_equal(half.status, CENOTE_OK);
    assert_memory_not_equal(full.logits, half.logits, full.logit_count * sizeof *full.logits);
    fixture_run_fini(&full);
    fixture_run_fini(&half);
}

static void test_instruction_sets(void **state)
{
    (void)state;
    struct fixture_run reference = run_with(0, 2, CENOTE_DTYPE_F32);
    const char *const names[] = {"portable", "avx2", "avx512"};
    int compared = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        setenv("CENOTE_ISA", names[i], 1);
        struct fixture_run run = run_with(0, 2, CENOTE_DTYPE_F32);
        unsetenv("CENOTE_ISA");
        if (run.status == CENOTE_E_UNSUPPORTED) {
            printf("SKIP: this CPU has no %s\n", names[i]);
            continue;
        }
        assert_same(&reference, &run);
        fixture_run_fini(&run);
        compared++;
    }
    assert_true(compared >= 1);
    fixture_run_fini(&reference);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),         cmocka_unit_test(test_resident_rows),
        cmocka_unit_test(test_packed_copy),     cmocka_unit_test(test_no_room_for_the_copy),
        cmocka_unit_test(test_draft),           cmocka_unit_test(test_threads),
        cmocka_unit_test(test_kv_type_matters), cmocka_unit_test(test_instruction_sets),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
