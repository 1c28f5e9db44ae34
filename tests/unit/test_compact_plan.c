/* SPDX-License-Identifier: Apache-2.0 */
/* The planner on a made-up range: hand-made pictures, then random ones against a planner that tries
 * everything. A picture has a letter for each granule: '.' free, a run of one letter is a block,
 * capitals may not move. CENOTE_TEST_SEED repeats a run. */
#include <ctype.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/compact.h"
#include "random.h"

#define GRANULES_MAX 512u

static struct cn_page_runs runs;
static void *metadata;
static bool fixed[GRANULES_MAX]; /* by a block's first granule */

static bool may_move(void *context, struct cn_run block)
{
    (void)context;
    return !fixed[block.first];
}

static struct cn_compact compact = {&runs, false, UINT64_MAX, may_move, NULL};

static void open_range(uint64_t granule_count)
{
    free(metadata);
    metadata = calloc(1, cn_page_runs_metadata_bytes(granule_count));
    assert_non_null(metadata);
    cn_page_runs_init(&runs, granule_count, metadata);
    memset(fixed, 0, sizeof fixed);
    compact.committed = false;
    compact.cost_below = UINT64_MAX;
}

static void draw(const char *picture)
{
    size_t length = strlen(picture);
    open_range(length);
    for (size_t i = 0; i < length;) {
        size_t end = i + 1;
        while (end < length && picture[end] == picture[i])
            end++;
        if (picture[i] != '.') {
            cn_page_runs_take(&runs, (struct cn_run){i, end - i});
            fixed[i] = isupper((unsigned char)picture[i]);
        }
        i = end;
    }
    assert_null(cn_page_runs_check(&runs));
}

static int close_range(void **state)
{
    (void)state;
    free(metadata);
    metadata = NULL;
    return 0;
}

/* The move is one that can be made: makes it. */
static void carry_out(struct cn_move move)
{
    struct cn_run block, place = {move.to, move.block.count};
    assert_true(cn_page_runs_block(&runs, move.block.first, &block));
    assert_int_equal(block.count, move.block.count);
    assert_false(fixed[block.first]);
    for (uint64_t i = 0; i < place.count; i++)
        assert_false(runs.used[(place.first + i) / 64] >> ((place.first + i) % 64) & 1);
    cn_page_runs_free(&runs, block);
    cn_page_runs_take(&runs, place);
    assert_null(cn_page_runs_check(&runs));
}

/* ---- down ---- */

static void expect_down(uint64_t below, uint64_t first, uint64_t to)
{
    struct cn_move move;
    assert_true(cn_compact_down(&compact, below, &move));
    assert_int_equal(move.block.first, first);
    assert_int_equal(move.to, to);
}

static void expect_no_down(const char *picture)
{
    struct cn_move move;
    draw(picture);
    assert_false(cn_compact_down(&compact, strlen(picture), &move));
}

static void test_down(void **state)
{
    (void)state;
    draw("aaa..bbb....cc.d");
    expect_down(16, 15, 3);
    expect_down(15, 12, 3); /* on below that one */
    struct cn_move move;
    assert_false(cn_compact_down(&compact, 12, &move));
    draw("a..BB.cc..DD");
    expect_down(12, 6, 1);
    expect_no_down("..aaa"); /* it does not slide */
    expect_no_down("..AA");
    expect_no_down("aaaa....");
    expect_no_down("....");
}

/* A block with whole chunks goes to where it has the same offset in its chunk, if there is such a
 * place; a smaller one to the lowest. */
static void test_down_keeps_offsets(void **state)
{
    (void)state;
    open_range(512);
    cn_page_runs_take(&runs, (struct cn_run){0, 5});
    cn_page_runs_take(&runs, (struct cn_run){256 + 7, 64});
    expect_down(512, 256 + 7, 7);
    open_range(512);
    cn_page_runs_take(&runs, (struct cn_run){0, 9});
    cn_page_runs_take(&runs, (struct cn_run){256 + 7, 64});
    expect_down(512, 256 + 7, 32 + 7);
    open_range(512);
    cn_page_runs_take(&runs, (struct cn_run){0, 5});
    cn_page_runs_take(&runs, (struct cn_run){256, 40}); /* may hold no whole one elsewhere */
    expect_down(512, 256, 5);
    open_range(512); /* room for the block, and none for the offset */
    cn_page_runs_take(&runs, (struct cn_run){0, 5});
    cn_page_runs_take(&runs, (struct cn_run){70, 2});
    cn_page_runs_take(&runs, (struct cn_run){72, 64});
    fixed[70] = true;
    expect_down(136, 72, 5);
}

/* ---- window ---- */

static struct cn_compact_plan plan;

static void expect_window(const char *picture, uint64_t count, uint64_t first, uint64_t cost)
{
    draw(picture);
    assert_true(cn_compact_window(&compact, count, &plan));
    assert_int_equal(plan.window.first, first);
    assert_int_equal(plan.window.count, count);
    assert_int_equal(plan.cost, cost);
}

static void carry_out_plan(void)
{
    for (uint32_t i = 0; i < plan.move_count; i++)
        carry_out(plan.moves[i]);
    for (uint64_t i = plan.window.first; i < plan.window.first + plan.window.count; i++)
        assert_false(runs.used[i / 64] >> (i % 64) & 1);
}

static void expect_no_window(const char *picture, uint64_t count)
{
    draw(picture);
    assert_false(cn_compact_window(&compact, count, &plan));
}

static void test_window(void **state)
{
    (void)state;
    expect_window("aaaaa..b..cccc...", 5, 5, 1);
    assert_int_equal(plan.move_count, 1);
    assert_int_equal(plan.moves[0].block.first, 7);
    assert_int_equal(plan.moves[0].to, 14);
    carry_out_plan();
    expect_window("aaaaa..B..cc.ddd..", 5, 8, 2); /* the smaller obstacle may not move */
    expect_window("aa...b", 3, 2, 0);             /* is there already */
    expect_window("AA..abb.cccc.....dd...", 9, 12, 2);
    expect_no_window("AAAAA..b..CCCC", 5); /* nowhere to go */
    expect_no_window("aa..bb", 3);         /* not even when all is moved */
    expect_no_window("AA.bb.bb.A", 7);
    /* Two that find a place one by one, but not both. */
    expect_no_window("AA.b.bCCC.D", 4);
    expect_window("AA.b.bCCC..D", 4, 2, 2);
    carry_out_plan();
    expect_window("AA..bb.b..CCC....D", 6, 2, 3);
    assert_int_equal(plan.moves[0].block.first, 4); /* the larger one first */
    assert_int_equal(plan.moves[0].to, 8);
    assert_int_equal(plan.moves[1].block.first, 7);
    assert_int_equal(plan.moves[1].to, 13);
    carry_out_plan();
}

/* Windows in committed memory; places anywhere. */
static void test_window_committed(void **state)
{
    (void)state;
    draw("aaaa.b..cc..........");
    cn_page_runs_commit(&runs, (struct cn_run){0, 10});
    compact.committed = true;
    assert_true(cn_compact_window(&compact, 4, &plan));
    assert_int_equal(plan.window.first, 4);
    assert_int_equal(plan.moves[0].to, 10);
    assert_false(cn_compact_window(&compact, 11, &plan));
    compact.cost_below = 8;
    assert_true(cn_compact_window(&compact, 10, &plan));
    assert_int_equal(plan.cost, 7);
    compact.cost_below = 7;
    assert_false(cn_compact_window(&compact, 10, &plan));
}

/* A block with whole chunks keeps its offset here too. */
static void test_window_keeps_offsets(void **state)
{
    (void)state;
    open_range(512);
    cn_page_runs_take(&runs, (struct cn_run){0, 3});
    cn_page_runs_take(&runs, (struct cn_run){32 + 8, 70});
    cn_page_runs_take(&runs, (struct cn_run){240, 272});
    fixed[0] = fixed[240] = true;
    assert_true(cn_compact_window(&compact, 140, &plan));
    assert_int_equal(plan.window.first, 3);
    assert_int_equal(plan.moves[0].to, 5 * 32 + 8); /* and not 143 */
}

static void test_longest(void **state)
{
    (void)state;
    draw("a..B.c.D..");
    assert_int_equal(cn_compact_longest(&compact), 3);
    draw("a.b.c.d...");
    assert_int_equal(cn_compact_longest(&compact), 6);
    draw("AAAA");
    assert_int_equal(cn_compact_longest(&compact), 0);
    draw("....");
    assert_int_equal(cn_compact_longest(&compact), 4);
}

/* ---- random pictures ---- */

static uint64_t random_state;

/* Blocks are too short to keep an offset, which the naive planner does not. */
static void draw_random(uint64_t granules_max)
{
    uint64_t length = 1 + random_below(&random_state, granules_max);
    uint64_t longest =
        1 + random_below(&random_state, random_below(&random_state, 4) == 0 ? 62 : 9);
    open_range(length);
    for (uint64_t i = random_below(&random_state, 2); i < length;) {
        uint64_t count = 1 + random_below(&random_state, longest);
        if (count > length - i)
            count = length - i;
        cn_page_runs_take(&runs, (struct cn_run){i, count});
        fixed[i] = random_below(&random_state, 6) == 0;
        i += count + random_below(&random_state, 3) * random_below(&random_state, longest);
    }
}

/* Is there a free place of that length in [from, end)? By looking at every one. */
static bool naive_place(const bool *used, uint64_t count, uint64_t from, uint64_t end,
                        uint64_t *out_to)
{
    uint64_t free_count = 0;
    for (uint64_t i = from; i < end && free_count < count; i++) {
        free_count = used[i] ? 0 : free_count + 1;
        *out_to = i + 1 - free_count;
    }
    return free_count >= count;
}

static void naive_used(bool used[GRANULES_MAX])
{
    for (uint64_t i = 0; i < runs.granule_count; i++)
        used[i] = runs.used[i / 64] >> (i % 64) & 1;
}

static int larger_first(const void *a, const void *b)
{
    const struct cn_run *left = a, *right = b;
    int by_size = (left->count < right->count) - (left->count > right->count);
    return by_size != 0 ? by_size : (left->first > right->first) - (left->first < right->first);
}

/* Largest first, each to the lowest place. UINT64_MAX: it cannot be emptied in that way. */
static uint64_t naive_cost(uint64_t first, uint64_t count)
{
    static struct cn_run blocks[GRANULES_MAX];
    bool used[GRANULES_MAX];
    uint64_t cost = 0, to, end = first + count, block_count = 0;
    for (uint64_t i = 0; i < end; i++)
        if (cn_page_runs_block(&runs, i, &blocks[block_count]) &&
            i + blocks[block_count].count > first)
            block_count++;
    qsort(blocks, block_count, sizeof *blocks, larger_first);
    naive_used(used);
    for (uint64_t b = 0; b < block_count; b++) {
        uint64_t size = blocks[b].count;
        if (fixed[blocks[b].first] || block_count > CN_COMPACT_MOVES_MAX ||
            !(naive_place(used, size, 0, first, &to) ||
              naive_place(used, size, end, runs.granule_count, &to)))
            return UINT64_MAX;
        memset(used + to, true, size);
        cost += size;
    }
    return cost;
}

/* Against every window that begins where a block ends or ends where one begins. */
static void check_window(uint64_t count)
{
    uint64_t best = UINT64_MAX, end = runs.granule_count;
    struct cn_run block;
    for (uint64_t first = 0; first + count <= end; first++) {
        bool begins = first == 0, ends = first + count == end;
        for (uint64_t i = 0; i < end; i++)
            if (cn_page_runs_block(&runs, i, &block)) {
                begins |= i + block.count == first;
                ends |= i == first + count;
            }
        uint64_t cost = begins || ends ? naive_cost(first, count) : UINT64_MAX;
        best = cost < best ? cost : best;
    }
    assert_int_equal(cn_compact_window(&compact, count, &plan), best != UINT64_MAX);
    if (best == UINT64_MAX)
        return;
    assert_int_equal(plan.cost, best);
    carry_out_plan();
}

/* Until nothing moves: each move lowers a block, and in the end none could go lower. */
static void check_down(void)
{
    uint64_t below = runs.granule_count;
    struct cn_move move;
    for (bool moved = false;;) {
        if (cn_compact_down(&compact, below, &move)) {
            assert_true(move.to + move.block.count <= move.block.first);
            assert_true(move.block.first < below);
            carry_out(move);
            below = move.block.first;
            moved = true;
        } else if (moved) {
            below = runs.granule_count;
            moved = false;
        } else {
            break;
        }
    }
    struct cn_run block;
    bool used[GRANULES_MAX];
    uint64_t to;
    naive_used(used);
    for (uint64_t i = 0; i < runs.granule_count; i++)
        if (cn_page_runs_block(&runs, i, &block) && !fixed[i])
            assert_false(naive_place(used, block.count, 0, i, &to));
}

static void test_random(void **state)
{
    (void)state;
    const char *seed_text = getenv("CENOTE_TEST_SEED");
    uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : 7;
    print_message("seed %" PRIu64 "\n", seed);
    for (unsigned round = 0; round < 2000; round++) {
        random_state = seed + round;
        draw_random(random_below(&random_state, 8) == 0 ? GRANULES_MAX : 80);
        if (random_below(&random_state, 2) == 0)
            check_down();
        else
            check_window(1 + random_below(&random_state, runs.granule_count));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_down),
        cmocka_unit_test(test_down_keeps_offsets),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_window_committed),
        cmocka_unit_test(test_window_keeps_offsets),
        cmocka_unit_test(test_longest),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, close_range);
}
