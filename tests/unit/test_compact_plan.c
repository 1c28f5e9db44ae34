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

#define GRANULES_MAX 512u

static struct cn_page_runs runs;
static void *metadata;
static bool fixed[GRANULES_MAX]; /* by a block's first granule */

static bool may_move(void *context, struct cn_run block)
{
    (void)context;
    return !fixed[block.first];
}

static const struct cn_compact compact = {&runs, may_move, NULL};

static void open_range(uint64_t granule_count)
{
    free(metadata);
    metadata = calloc(1, cn_page_runs_metadata_bytes(granule_count));
    assert_non_null(metadata);
    cn_page_runs_init(&runs, granule_count, metadata);
    memset(fixed, 0, sizeof fixed);
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

static void test_window(void **state)
{
    (void)state;
    struct cn_run window;
    struct cn_move move;
    draw("aaaaa..b..cccc...");
    assert_true(cn_compact_window(&compact, 5, &window));
    assert_int_equal(window.first, 5);
    assert_int_equal(window.count, 5);
    assert_true(cn_compact_out(&compact, window, &move));
    assert_int_equal(move.block.first, 7);
    assert_int_equal(move.to, 14);
    carry_out(move);
    assert_false(cn_compact_out(&compact, window, &move));
    assert_int_equal(move.block.count, 0);
    assert_int_equal(cn_page_runs_largest_hole(&runs), 5);

    draw("aaaaa..B..cc.ddd.."); /* the smaller obstacle may not move */
    assert_true(cn_compact_window(&compact, 5, &window));
    assert_int_equal(window.first, 8);
    draw("aaaaa..b..cccc"); /* nowhere to go */
    fixed[10] = fixed[0] = true;
    assert_false(cn_compact_window(&compact, 5, &window));
    draw("aa..bb");
    assert_false(cn_compact_window(&compact, 3, &window)); /* not even when all is moved */
    assert_true(cn_compact_window(&compact, 2, &window));  /* is there already */
    assert_int_equal(window.first, 2);
}

/* The largest of a window goes first; one that got pinned meanwhile ends it. */
static void test_out(void **state)
{
    (void)state;
    struct cn_run window = {4, 6};
    struct cn_move move;
    draw("AA..abb.cccc.....dd...");
    assert_true(cn_compact_out(&compact, window, &move));
    assert_int_equal(move.block.first, 8); /* with a part of it */
    assert_int_equal(move.to, 12);
    fixed[8] = true;
    assert_false(cn_compact_out(&compact, window, &move));
    assert_int_equal(move.block.first, 8);
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

static uint64_t random_below(uint64_t bound)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * UINT64_C(2685821657736338717) % bound;
}

static void draw_random(void)
{
    uint64_t length = 1 + random_below(random_below(4) == 0 ? GRANULES_MAX : 80);
    uint64_t longest = 1 + random_below(random_below(4) == 0 ? 100 : 9);
    open_range(length);
    for (uint64_t i = random_below(2); i < length;) {
        uint64_t count = 1 + random_below(longest);
        if (count > length - i)
            count = length - i;
        cn_page_runs_take(&runs, (struct cn_run){i, count});
        fixed[i] = random_below(6) == 0;
        i += count + random_below(3) * random_below(longest);
    }
}

/* Is there a free place of that length in [from, end)? By looking at every one. */
static bool naive_place(uint64_t count, uint64_t from, uint64_t end)
{
    uint64_t free_count = 0;
    for (uint64_t i = from; i < end && free_count < count; i++)
        free_count = runs.used[i / 64] >> (i % 64) & 1 ? 0 : free_count + 1;
    return free_count >= count;
}

static uint64_t naive_cost(struct cn_run window)
{
    uint64_t cost = 0, end = window.first + window.count;
    struct cn_run block;
    for (uint64_t i = 0; i < end; i++) {
        if (!cn_page_runs_block(&runs, i, &block) || i + block.count <= window.first)
            continue;
        if (fixed[i] || !(naive_place(block.count, 0, window.first) ||
                          naive_place(block.count, end, runs.granule_count)))
            return UINT64_MAX;
        cost += block.count;
    }
    return cost;
}

static void check_window(uint64_t count)
{
    uint64_t best = UINT64_MAX;
    for (uint64_t first = 0; first + count <= runs.granule_count; first++) {
        uint64_t cost = naive_cost((struct cn_run){first, count});
        best = cost < best ? cost : best;
    }
    struct cn_run window;
    assert_int_equal(cn_compact_window(&compact, count, &window), best != UINT64_MAX);
    if (best == UINT64_MAX)
        return;
    assert_int_equal(window.count, count);
    assert_int_equal(naive_cost(window), best);
    struct cn_move move;
    while (cn_compact_out(&compact, window, &move)) {
        assert_true(move.to + move.block.count <= window.first ||
                    move.to >= window.first + window.count);
        carry_out(move);
    }
    if (move.block.count == 0)
        assert_true(cn_page_runs_largest_hole(&runs) >= count);
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
    for (uint64_t i = 0; i < runs.granule_count; i++)
        if (cn_page_runs_block(&runs, i, &block) && !fixed[i])
            assert_false(naive_place(block.count, 0, i));
}

static void test_random(void **state)
{
    (void)state;
    const char *seed_text = getenv("CENOTE_TEST_SEED");
    uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : 7;
    print_message("seed %" PRIu64 "\n", seed);
    for (unsigned round = 0; round < 3000; round++) {
        random_state = (seed + round) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        draw_random();
        if (random_below(2) == 0)
            check_down();
        else
            check_window(1 + random_below(runs.granule_count));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_down),    cmocka_unit_test(test_down_keeps_offsets),
        cmocka_unit_test(test_window),  cmocka_unit_test(test_out),
        cmocka_unit_test(test_longest), cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, close_range);
}
