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
#include "random.h"

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

/* Holes at and across edges of words, some of which are edges of the tree above too. */
static void test_find_across_edges(void **state)
{
    (void)state;
    static const uint64_t edges[] = {64, 128, 256, 512, 1024, 2048, 3000};
    for (unsigned i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        for (uint64_t before = 0; before < 3; before++) {
            open_range(3100);
            uint64_t first = edges[i] - before;
            struct cn_run run, low = {0, first}, high = {first + 5, 3100 - first - 5};
            cn_page_runs_take(&runs, low);
            cn_page_runs_take(&runs, high);
            assert_null(cn_page_runs_check(&runs));
            assert_int_equal(cn_page_runs_largest_hole(&runs), 5);
            assert_false(cn_page_runs_find(&runs, 6, &run));
            for (uint64_t count = 1; count <= 5; count++) {
                assert_true(cn_page_runs_find(&runs, count, &run));
                assert_int_equal(run.first, first);
            }
            assert_int_equal(take(5), first);
            give(0);
            assert_int_equal(cn_page_runs_largest_hole(&runs), first);
            (void)close_range(NULL);
        }
    }
}

/* Of two holes side by side the lower one is one granule too short. */
static void test_one_too_short(void **state)
{
    (void)state;
    for (uint64_t count = 1; count < 200; count++) {
        open_range(3 * count);
        cn_page_runs_take(&runs, (struct cn_run){count - 1, 1});
        cn_page_runs_take(&runs, (struct cn_run){2 * count, count});
        assert_int_equal(take(count), count);
        if (count > 1)
            assert_int_equal(take(count - 1), 0);
        assert_int_equal(cn_page_runs_largest_hole(&runs), 0);
        (void)close_range(NULL);
    }
}

/* A hole that is freed far above all that ever were: the root must know the low one still. */
static void test_root_rises(void **state)
{
    (void)state;
    struct cn_run run;
    open_range(1000);
    cn_page_runs_take(&runs, (struct cn_run){640, 360});
    cn_page_runs_take(&runs, (struct cn_run){10, 630});
    assert_int_equal(runs.holes.root, runs.holes.leaf_count);
    give(640);
    assert_int_equal(runs.holes.root, 1);
    assert_true(cn_page_runs_find(&runs, 10, &run));
    assert_int_equal(run.first, 0);
    assert_true(cn_page_runs_find(&runs, 11, &run));
    assert_int_equal(run.first, 640);
}

static void test_idle_chunks(void **state)
{
    (void)state;
    struct cn_run run;
    open_range(200); /* seven chunks, the last of 8 granules */
    cn_page_runs_commit(&runs, (struct cn_run){0, 100});
    cn_page_runs_commit(&runs, (struct cn_run){190, 10});
    assert_int_equal(runs.chunk_count, 6);
    assert_true(cn_page_runs_idle_chunks(&runs, 200, &run));
    assert_int_equal(run.first, 160); /* 190 and 191 lie in the chunk before the last */
    assert_int_equal(run.count, 40);
    assert_true(cn_page_runs_idle_chunks(&runs, 160, &run));
    assert_int_equal(run.first, 0);
    assert_int_equal(run.count, 128);
    assert_int_equal(take(33), 0);
    assert_true(cn_page_runs_idle_chunks(&runs, 160, &run));
    assert_int_equal(run.first, 64);
    give(0);
    assert_int_equal(take(1), 0);
    assert_true(cn_page_runs_idle_chunks(&runs, 160, &run));
    assert_int_equal(run.first, 32);
    cn_page_runs_decommit(&runs, (struct cn_run){32, 96});
    assert_false(cn_page_runs_idle_chunks(&runs, 160, &run));
    struct cn_run whole = cn_page_runs_whole_chunks(&runs, (struct cn_run){31, 2});
    assert_int_equal(whole.first, 0);
    assert_int_equal(whole.count, 64);
    whole = cn_page_runs_whole_chunks(&runs, (struct cn_run){199, 1});
    assert_int_equal(whole.first, 192);
    assert_int_equal(whole.count, 8);
}

/* A chunk goes when the hand finds it twice and it was in no block meanwhile. */
static void test_decay(void **state)
{
    (void)state;
    struct cn_run run;
    open_range(160);
    assert_false(cn_page_runs_decay(&runs, &run)); /* nothing is touched */
    cn_page_runs_commit(&runs, (struct cn_run){0, 96});
    assert_int_equal(take(96), 0);
    give(0);
    assert_int_equal(take(10), 0);
    for (unsigned i = 0; i < 3; i++) /* chunks 2 and 1 lose their marks; 0 is busy */
        assert_false(cn_page_runs_decay(&runs, &run));
    assert_int_equal(take(30), 10); /* reaches into chunk 1 */
    give(10);
    assert_true(cn_page_runs_decay(&runs, &run));
    assert_int_equal(run.first, 64);
    assert_int_equal(run.count, 32);
    cn_page_runs_decommit(&runs, run);
    assert_false(cn_page_runs_decay(&runs, &run)); /* 1 was used, and has its chance */
    assert_false(cn_page_runs_decay(&runs, &run)); /* 0 */
    assert_true(cn_page_runs_decay(&runs, &run));
    assert_int_equal(run.first, 32);
    cn_page_runs_decommit(&runs, run);
    for (unsigned i = 0; i < 5; i++)
        assert_false(cn_page_runs_decay(&runs, &run));
}

#define BREAK(what, change, repair)                                                                \
    do {                                                                                           \
        change;                                                                                    \
        const char *broken = cn_page_runs_check(&runs);                                            \
        if (broken == NULL || strstr(broken, what) == NULL)                                        \
            fail_msg("`%s` instead of `%s`", broken != NULL ? broken : "nothing", what);           \
        repair;                                                                                    \
        assert_null(cn_page_runs_check(&runs));                                                    \
    } while (0)

static void test_check_sees_what_is_broken(void **state)
{
    (void)state;
    open_range(1000);
    take(10);
    cn_page_runs_commit(&runs, (struct cn_run){0, 12});
    const uint64_t bit = 1;
    BREAK("used granules", runs.used_count++, runs.used_count--);
    BREAK("blocks", runs.block_count++, runs.block_count--);
    BREAK("committed granules", runs.committed_count--, runs.committed_count++);
    BREAK("touched chunks", runs.chunk_count--, runs.chunk_count++);
    BREAK("begins", runs.first[0] ^= bit << 20, runs.first[0] ^= bit << 20);
    BREAK("no block", runs.first[0] ^= bit, runs.first[0] ^= bit);
    BREAK("above the last", runs.used[15] ^= bit << 50, runs.used[15] ^= bit << 50);
    BREAK("busy", runs.busy[0] ^= bit << 3, runs.busy[0] ^= bit << 3);
    BREAK("busy", runs.busy[0] ^= bit, runs.busy[0] ^= bit);
    BREAK("touched", runs.touched[0] ^= bit << 3, runs.touched[0] ^= bit << 3);
    BREAK("hand", runs.hand = 33, runs.hand = 0);
    struct cn_hole_tree *holes = &runs.holes;
    BREAK("tree of holes", holes->tags[0].begins++, holes->tags[0].begins--);
    BREAK("tree of holes", holes->tags[15].ends--, holes->tags[15].ends++);
    uint64_t root = holes->root;
    take(100); /* holes begin in two words: the root is above both */
    assert_int_equal(holes->root, root / 2);
    BREAK("tree of holes", holes->root = root, holes->root = root / 2);
    BREAK("tree of holes", holes->root = root / 4, holes->root = root / 2);
    /* Each node: too large, and too small. */
    for (uint64_t i = 1; i <= holes->leaf_count + holes->last_word; i++) {
        BREAK("tree of holes", ++holes->nodes[i], --holes->nodes[i]);
        BREAK("tree of holes", --holes->nodes[i], ++holes->nodes[i]);
    }
}

/* ---- random operations against arrays ---- */

#define MODEL_MAX  1300
#define CHUNKS_MAX (MODEL_MAX / CN_CHUNK_GRANULES + 1)

struct model {
    uint64_t granules;
    unsigned block[MODEL_MAX]; /* 0 free, else the block's number */
    bool committed[MODEL_MAX];
    bool recent[CHUNKS_MAX];
    uint64_t hand;
    unsigned next;
};

static uint64_t random_state;

static void model_enter(struct model *m, struct cn_run run)
{
    m->next++;
    for (uint64_t i = run.first; i < run.first + run.count; i++) {
        m->block[i] = m->next;
        m->recent[i / CN_CHUNK_GRANULES] = true;
    }
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
    model_enter(m, run);
}

/* Anywhere, as compaction does: @p at, if it is free, and what is free behind it. */
static void model_take(struct model *m, uint64_t at, uint64_t most)
{
    uint64_t count = 0;
    while (count < most && at + count < m->granules && m->block[at + count] == 0)
        count++;
    if (count == 0)
        return;
    cn_page_runs_take(&runs, (struct cn_run){at, count});
    model_enter(m, (struct cn_run){at, count});
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

static bool is_idle(const struct model *m, uint64_t granule)
{
    return m->committed[granule] && m->block[granule] == 0;
}

struct chunk {
    bool busy, touched;
};

static struct chunk chunk_of(const struct model *m, uint64_t chunk)
{
    struct chunk c = {false, false};
    for (uint64_t i = chunk * 32; i < (chunk + 1) * 32 && i < m->granules; i++) {
        c.busy |= m->block[i] != 0;
        c.touched |= m->committed[i];
    }
    return c;
}

static bool is_idle_chunk(const struct model *m, uint64_t granule)
{
    struct chunk c = chunk_of(m, granule / CN_CHUNK_GRANULES);
    return c.touched && !c.busy;
}

/* Every run of such granules from the top down, against a walk over the arrays. */
static void model_runs(const struct model *m, bool (*is)(const struct model *m, uint64_t granule),
                       bool (*next)(const struct cn_page_runs *r, uint64_t below,
                                    struct cn_run *out_run))
{
    uint64_t below = m->granules, end = m->granules;
    struct cn_run run;
    for (;;) {
        while (end > 0 && !is(m, end - 1))
            end--;
        bool found = next(&runs, below, &run);
        assert_int_equal(found, end > 0);
        if (!found)
            break;
        uint64_t first = end;
        while (first > 0 && is(m, first - 1))
            first--;
        assert_int_equal(run.first, first);
        assert_int_equal(run.count, end - first);
        below = end = first;
    }
}

static bool is_spare(const struct model *m, uint64_t chunk, struct cn_run without)
{
    uint64_t first = chunk * CN_CHUNK_GRANULES, end = first + CN_CHUNK_GRANULES;
    if (end > m->granules || (first < without.first + without.count && without.first < end))
        return false;
    for (uint64_t i = first; i < end; i++)
        if (!is_idle(m, i))
            return false;
    return true;
}

/* Whole chunks to take from, and whole chunks to bring them to. */
static void model_chunks(const struct model *m, struct cn_run within)
{
    struct cn_run run, without = cn_page_runs_whole_chunks(&runs, within);
    if (within.first % 3 == 0)
        without.count = 0;
    uint64_t end = m->granules / CN_CHUNK_GRANULES;
    while (end > 0 && !is_spare(m, end - 1, without))
        end--;
    uint64_t first = end;
    while (first > 0 && is_spare(m, first - 1, without))
        first--;
    assert_int_equal(cn_page_runs_spare_chunks(&runs, without, &run), end > 0);
    assert_true(end == 0 || run.first == first * CN_CHUNK_GRANULES);
    assert_true(end == 0 || run.count == (end - first) * CN_CHUNK_GRANULES);

    uint64_t last = (within.first + within.count) / CN_CHUNK_GRANULES;
    first = cn_chunks_of(within.first);
    while (first < last && chunk_of(m, first).touched)
        first++;
    for (end = first; end < last && !chunk_of(m, end).touched;)
        end++;
    assert_int_equal(cn_page_runs_bare_chunks(&runs, within, &run), first < end);
    assert_true(first >= end || run.first == first * CN_CHUNK_GRANULES);
    assert_true(first >= end || run.count == (end - first) * CN_CHUNK_GRANULES);
}

/* One step of the clock, chunk by chunk. What may go goes. */
static void model_decay(struct model *m)
{
    uint64_t chunks = cn_chunks_of(m->granules), chunk = m->hand, steps = 0;
    do
        chunk = (chunk + chunks - 1) % chunks;
    while (!chunk_of(m, chunk).touched && ++steps < chunks);
    bool goes = false;
    if (steps < chunks) {
        m->hand = chunk;
        if (!chunk_of(m, chunk).busy) {
            goes = !m->recent[chunk];
            m->recent[chunk] = false;
        }
    }
    struct cn_run run;
    assert_int_equal(cn_page_runs_decay(&runs, &run), goes);
    if (!goes)
        return;
    assert_int_equal(run.first, chunk * CN_CHUNK_GRANULES);
    model_commit(m, run, false);
}

static void random_round(uint64_t seed)
{
    static struct model m;
    memset(&m, 0, sizeof m);
    random_state = seed;
    m.granules = 1 + random_below(&random_state, MODEL_MAX);
    open_range(m.granules);
    for (unsigned step = 0; step < 2000; step++) {
        struct cn_run run = {random_below(&random_state, m.granules), 0};
        run.count = 1 + random_below(&random_state, m.granules - run.first);
        switch (random_below(&random_state, 10)) {
        case 0:
            model_alloc(&m, 1 + random_below(&random_state, m.granules + 2));
            break;
        case 1:
        case 2:
            model_alloc(&m, 1 + random_below(&random_state, 8));
            break;
        case 3:
        case 4:
        case 5:
            model_free(&m, run.first);
            break;
        case 6:
            model_decay(&m);
            break;
        case 7:
            model_take(&m, run.first,
                       1 + random_below(&random_state, step % 4 > 0 ? 8 : m.granules));
            break;
        default:
            model_commit(&m, run, random_below(&random_state, 2));
        }
        uint64_t top = m.granules;
        while (top > 0 && m.block[top - 1] == 0)
            top--;
        assert_int_equal(cn_page_runs_top(&runs), top);
        if (step % 4 == 0) {
            model_runs(&m, is_idle, cn_page_runs_idle);
            model_runs(&m, is_idle_chunk, cn_page_runs_idle_chunks);
            model_chunks(&m, run);
        }
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

/* A run of blocks of one granule is what taking and freeing each gives. */
static void test_each(void **state)
{
    (void)state;
    static uint64_t books[2][1024];
    struct cn_page_runs one, by_one;
    struct cn_run block;
    assert_true(cn_page_runs_metadata_bytes(300) <= sizeof books[0]);
    cn_page_runs_init(&one, 300, books[0]);
    cn_page_runs_init(&by_one, 300, books[1]);
    cn_page_runs_take_each(&one, (struct cn_run){60, 9});
    for (uint64_t i = 60; i < 69; i++)
        cn_page_runs_take(&by_one, (struct cn_run){i, 1});
    assert_null(cn_page_runs_check(&one));
    /* But for the tags, of which some mean nothing. */
    size_t same_bytes = (size_t)((char *)one.holes.tags - (char *)books[0]);
    assert_memory_equal(books[0], books[1], same_bytes);
    assert_int_equal(one.block_count, 9);
    assert_int_equal(one.used_count, 9);
    cn_page_runs_free_each(&one, (struct cn_run){62, 5});
    assert_null(cn_page_runs_check(&one));
    assert_int_equal(one.block_count, 4);
    for (uint64_t i = 60; i < 69; i++)
        assert_int_equal(cn_page_runs_block(&one, i, &block), i < 62 || i > 66);
    cn_page_runs_free_each(&one, (struct cn_run){60, 2});
    cn_page_runs_free_each(&one, (struct cn_run){67, 2});
    assert_int_equal(one.block_count + one.used_count, 0);
    assert_null(cn_page_runs_check(&one));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_first_fit_by_address, close_range),
        cmocka_unit_test_teardown(test_blocks_side_by_side, close_range),
        cmocka_unit_test_teardown(test_whole_range, close_range),
        cmocka_unit_test_teardown(test_commitment, close_range),
        cmocka_unit_test_teardown(test_widen, close_range),
        cmocka_unit_test_teardown(test_find_across_edges, close_range),
        cmocka_unit_test_teardown(test_one_too_short, close_range),
        cmocka_unit_test_teardown(test_root_rises, close_range),
        cmocka_unit_test_teardown(test_idle_chunks, close_range),
        cmocka_unit_test_teardown(test_decay, close_range),
        cmocka_unit_test_teardown(test_check_sees_what_is_broken, close_range),
        cmocka_unit_test_teardown(test_random, close_range),
        cmocka_unit_test(test_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
