/* SPDX-License-Identifier: Apache-2.0 */
/* Page runs on a made-up range: hand-made cases at the edges of words and chunks, then random
 * operations against arrays of bool. CENOTE_TEST_SEED repeats a run. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/page_runs.h"

static struct cn_page_runs runs;
static void *metadata;

static void open_range(uint64_t granule_count)
{
    metadata = calloc(1, cn_page_runs_metadata_bytes(granule_count));
    assert_non_null(metadata);
    cn_page_runs_init(&runs, granule_count, metadata);
    assert_null(cn_page_runs_check(&runs));
}

static int close_range(void **state)
{
    (void)state;
    free(metadata);
    metadata = NULL;
    return 0;
}

static uint64_t take(uint64_t count)
{
    struct cn_run run;
    assert_true(cn_page_runs_find(&runs, count, &run));
    assert_int_equal(run.count, count);
    cn_page_runs_take(&runs, run);
    assert_null(cn_page_runs_check(&runs));
    return run.first;
}

static void give(uint64_t first)
{
    struct cn_run run;
    assert_true(cn_page_runs_block(&runs, first, &run));
    cn_page_runs_free(&runs, run);
    assert_null(cn_page_runs_check(&runs));
}

static void test_first_fit_by_address(void **state)
{
    (void)state;
    struct cn_run run;
    open_range(200);
    assert_int_equal(take(3), 0);
    assert_int_equal(take(61), 3); /* up to the end of the first word */
    assert_int_equal(take(70), 64);
    assert_int_equal(take(66), 134);
    assert_false(cn_page_runs_find(&runs, 1, &run));
    assert_int_equal(cn_page_runs_largest_hole(&runs), 0);
    give(3);
    give(134);
    assert_int_equal(cn_page_runs_largest_hole(&runs), 66);
    assert_int_equal(take(1), 3);
    assert_int_equal(take(61), 134); /* 60 are left of the lower hole */
    assert_int_equal(take(60), 4);
    assert_int_equal(take(5), 195);
    assert_false(cn_page_runs_find(&runs, 1, &run));
}

static void test_blocks_side_by_side(void **state)
{
    (void)state;
    struct cn_run run;
    open_range(130);
    take(64);
    take(64);
    take(2);
    assert_true(cn_page_runs_block(&runs, 0, &run));
    assert_int_equal(run.count, 64);
    assert_true(cn_page_runs_block(&runs, 64, &run));
    assert_int_equal(run.count, 64);
    assert_true(cn_page_runs_block(&runs, 128, &run));
    assert_int_equal(run.count, 2);
    assert_false(cn_page_runs_block(&runs, 1, &run));
    assert_false(cn_page_runs_block(&runs, 129, &run));
    assert_false(cn_page_runs_block(&runs, 130, &run));
    assert_false(cn_page_runs_block(&runs, UINT64_MAX, &run));
    give(64);
    assert_int_equal(take(64), 64); /* freed neighbours are one hole without merging */
}

static void test_whole_range(void **state)
{
    (void)state;
    struct cn_run run;
    open_range(64);
    assert_false(cn_page_runs_find(&runs, 65, &run));
    assert_false(cn_page_runs_find(&runs, UINT64_MAX, &run));
    assert_int_equal(take(64), 0);
    give(0);
    assert_int_equal(runs.block_count, 0);
    assert_int_equal(cn_page_runs_largest_hole(&runs), 64);
}

static void test_commitment(void **state)
{
    (void)state;
    struct cn_run part;
    open_range(100);
    cn_page_runs_commit(&runs, (struct cn_run){10, 5});
    cn_page_runs_commit(&runs, (struct cn_run){62, 4});
    assert_int_equal(runs.committed_count, 9);
    assert_int_equal(runs.chunk_count, 3); /* 0, 1 and 2: 62 and 63, 64 and 65 */
    assert_true(cn_page_runs_uncommitted(&runs, (struct cn_run){0, 100}, &part));
    assert_int_equal(part.first, 0);
    assert_int_equal(part.count, 10);
    assert_true(cn_page_runs_uncommitted(&runs, (struct cn_run){12, 88}, &part));
    assert_int_equal(part.first, 15);
    assert_int_equal(part.count, 47);
    assert_false(cn_page_runs_uncommitted(&runs, (struct cn_run){62, 4}, &part));
    uint64_t committed, chunks;
    cn_page_runs_preview(&runs, (struct cn_run){0, 100}, &committed, &chunks);
    assert_int_equal(committed, 100);
    assert_int_equal(chunks, 4);
    assert_true(cn_page_runs_idle(&runs, 100, &part));
    assert_int_equal(part.first, 62);
    assert_int_equal(part.count, 4);
    assert_true(cn_page_runs_idle(&runs, 62, &part));
    assert_int_equal(part.first, 10);
    assert_int_equal(part.count, 5);
    assert_true(cn_page_runs_idle(&runs, 12, &part));
    assert_int_equal(part.count, 2);
    assert_false(cn_page_runs_idle(&runs, 10, &part));
    cn_page_runs_decommit(&runs, (struct cn_run){0, 100});
    assert_int_equal(runs.committed_count, 0);
    assert_int_equal(runs.chunk_count, 0);
    assert_null(cn_page_runs_check(&runs));
}

static void test_widen(void **state)
{
    (void)state;
    open_range(90); /* the last chunk has 26 granules */
    struct cn_run wide = cn_page_runs_widen(&runs, (struct cn_run){40, 3});
    assert_int_equal(wide.first, 32);
    assert_int_equal(wide.count, 32);
    cn_page_runs_commit(&runs, (struct cn_run){33, 1});
    wide = cn_page_runs_widen(&runs, (struct cn_run){40, 30});
    assert_int_equal(wide.first, 40); /* 33 must not go */
    assert_int_equal(wide.count, 50); /* to the end of the range */
    cn_page_runs_commit(&runs, (struct cn_run){89, 1});
    wide = cn_page_runs_widen(&runs, (struct cn_run){34, 50});
    assert_int_equal(wide.first, 34);
    assert_int_equal(wide.count, 50);
}

static void test_check_sees_what_is_broken(void **state)
{
    (void)state;
    open_range(100);
    take(10);
    runs.used_count++;
    assert_non_null(cn_page_runs_check(&runs));
    runs.used_count--;
    runs.first[0] |= 1u << 20;
    assert_non_null(cn_page_runs_check(&runs));
    runs.first[0] &= ~(UINT64_C(1) << 20);
    runs.used[1] |= UINT64_C(1) << 50;
    assert_non_null(cn_page_runs_check(&runs));
    runs.used[1] = 0;
    runs.free_hint = 50;
    assert_non_null(cn_page_runs_check(&runs));
    runs.free_hint = 10;
    runs.committed[0] = 1;
    assert_non_null(cn_page_runs_check(&runs));
    runs.committed[0] = 0;
    assert_null(cn_page_runs_check(&runs));
}

/* ---- random operations against arrays ---- */

#define MODEL_MAX 300

struct model {
    uint64_t granules;
    unsigned block[MODEL_MAX]; /* 0 free, else the block's number */
    bool committed[MODEL_MAX];
    unsigned next;
};

static uint64_t random_state;

static uint64_t random_below(uint64_t bound)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * UINT64_C(2685821657736338717) % bound;
}

static void model_alloc(struct model *m, uint64_t count)
{
    uint64_t first = 0, length = 0;
    for (uint64_t i = 0; i < m->granules && length < count; i++) {
        length = m->block[i] == 0 ? length + 1 : 0;
        first = i + 1 - length;
    }
    struct cn_run run;
    bool found = cn_page_runs_find(&runs, count, &run);
    assert_int_equal(found, length >= count);
    if (!found)
        return;
    assert_int_equal(run.first, first);
    cn_page_runs_take(&runs, run);
    m->next++;
    for (uint64_t i = 0; i < count; i++)
        m->block[first + i] = m->next;
}

static void model_free(struct model *m, uint64_t first)
{
    bool begins = m->block[first] != 0 && (first == 0 || m->block[first - 1] != m->block[first]);
    struct cn_run run;
    assert_int_equal(cn_page_runs_block(&runs, first, &run), begins);
    if (!begins)
        return;
    cn_page_runs_free(&runs, run);
    unsigned number = m->block[first];
    for (uint64_t i = 0; i < run.count; i++) {
        assert_int_equal(m->block[first + i], number);
        m->block[first + i] = 0;
    }
    assert_true(first + run.count == m->granules || m->block[first + run.count] != number);
}

static void model_commit(struct model *m, struct cn_run run, bool value)
{
    if (value)
        cn_page_runs_commit(&runs, run);
    else
        cn_page_runs_decommit(&runs, run);
    for (uint64_t i = run.first; i < run.first + run.count; i++)
        m->committed[i] = value;
}

/* Every idle run from the top down, against a walk over the arrays. */
static void model_idle(const struct model *m)
{
    uint64_t below = m->granules, end = m->granules;
    struct cn_run run;
    for (;;) {
        while (end > 0 && !(m->committed[end - 1] && m->block[end - 1] == 0))
            end--;
        bool found = cn_page_runs_idle(&runs, below, &run);
        assert_int_equal(found, end > 0);
        if (!found)
            break;
        uint64_t first = end;
        while (first > 0 && m->committed[first - 1] && m->block[first - 1] == 0)
            first--;
        assert_int_equal(run.first, first);
        assert_int_equal(run.count, end - first);
        below = end = first;
    }
}

static void random_round(uint64_t seed)
{
    static struct model m;
    memset(&m, 0, sizeof m);
    random_state = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    m.granules = 1 + random_below(MODEL_MAX);
    open_range(m.granules);
    for (unsigned step = 0; step < 2000; step++) {
        struct cn_run run = {random_below(m.granules), 0};
        run.count = 1 + random_below(m.granules - run.first);
        switch (random_below(8)) {
        case 0:
            model_alloc(&m, 1 + random_below(m.granules + 2));
            break;
        case 1:
        case 2:
            model_alloc(&m, 1 + random_below(8));
            break;
        case 3:
        case 4:
        case 5:
            model_free(&m, run.first);
            break;
        default:
            model_commit(&m, run, random_below(2));
        }
        model_idle(&m);
        const char *broken = cn_page_runs_check(&runs);
        if (broken != NULL)
            fail_msg("seed %" PRIu64 ", step %u: %s", seed, step, broken);
    }
    (void)close_range(NULL);
}

static void test_random(void **state)
{
    (void)state;
    const char *seed_text = getenv("CENOTE_TEST_SEED");
    uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : 1;
    for (unsigned round = 0; round < (seed_text != NULL ? 1 : 12); round++) {
        print_message("seed %" PRIu64 "\n", seed + round);
        random_round(seed + round);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_first_fit_by_address, close_range),
        cmocka_unit_test_teardown(test_blocks_side_by_side, close_range),
        cmocka_unit_test_teardown(test_whole_range, close_range),
        cmocka_unit_test_teardown(test_commitment, close_range),
        cmocka_unit_test_teardown(test_widen, close_range),
        cmocka_unit_test_teardown(test_check_sees_what_is_broken, close_range),
        cmocka_unit_test_teardown(test_random, close_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
