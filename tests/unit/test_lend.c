/* SPDX-License-Identifier: Apache-2.0 */
/* Idle memory serves whoever wants memory before more is committed: by page tables where that can
 * be, without a fault, a copy or an effect on where blocks lie. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pool/budget.h"
#include "pool_fixture.h"
#include "random.h"

#define MIB     (UINT64_C(1) << 20)
#define GRANULE ((uint64_t)CENOTE_GRANULE_BYTES)
#define CHUNK   (2 * MIB)
#define LIMIT   (512 * MIB)
/* Idle memory that nobody looks for, and what is granted beyond a peak (reclaim.c). */
#define LITTLE (16 * MIB)
#define GRANT  (4 * MIB)

static int set_up(void **state)
{
    return rig_up(state, LIMIT, CENOTE_CLASS_COUNT);
}

static uint64_t peak(const struct rig *rig)
{
    return rig_budget_stats(rig).charged_peak_bytes;
}

/* Calls of the system so far. */
struct calls {
    uint64_t commits, remaps;
};

static struct calls calls_of(const struct rig *rig)
{
    return (struct calls){cn_fake_calls(rig->fake, CN_FAKE_COMMIT),
                          cn_fake_calls(rig->fake, CN_FAKE_REMAP)};
}

/* Idle memory at granule 0, and behind it a block that stays. */
static void *leave_idle(cenote_pool *pool, uint64_t size_bytes)
{
    void *idle = rig_alloc(pool, size_bytes), *stays = rig_alloc(pool, CHUNK);
    memset(stays, 7, CHUNK);
    cenote_pool_free(pool, idle);
    return stays;
}

static void assert_stays(cenote_pool *pool, unsigned char *stays)
{
    for (uint64_t i = 0; i < CHUNK; i += 4096)
        assert_int_equal(stays[i], 7);
    cenote_pool_free(pool, stays);
    assert_null(cenote_pool_check(pool));
    assert_int_equal(cenote_pool_destroy(pool), 0);
}

/* ---- who serves whom ---- */

static void test_another_pool_serves(void **state)
{
    struct rig *rig = *state;
    cenote_pool *a = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    cenote_pool *b = rig_pool(rig, CENOTE_CLASS_GRADIENTS, 0);
    unsigned char *stays = leave_idle(a, 100 * MIB);
    struct calls before = calls_of(rig);
    uint64_t peak_before = peak(rig);
    unsigned char *block = rig_alloc(b, 64 * MIB);
    memset(block, 9, 64 * MIB);
    struct calls after = calls_of(rig);
    assert_int_equal(after.remaps - before.remaps, 1);
    assert_true(peak(rig) <= peak_before + GRANT + CHUNK);
    assert_in_range(rig_stats(a).committed_bytes, 38 * MIB, 38 * MIB + GRANT + CHUNK);
    assert_int_equal(rig_stats(b).committed_bytes, 64 * MIB);
    /* What moved was not committed anew. */
    assert_in_range(rig_stats(b).committed_total_bytes, 0, GRANT + CHUNK);
    assert_int_equal(rig_budget_stats(rig).reclaim[CENOTE_RECLAIM_IDLE].gave_count, 1);
    assert_int_equal(rig_stats(b).miss_count[CENOTE_MISS_RECLAIM], 1);
    cenote_pool_free(b, block);
    (void)cenote_pool_destroy(b);
    assert_stays(a, stays);
}

/* A pool that grows at its end has what lies idle further down, where it does not fit. */
static void test_own_idle_memory_moves(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    unsigned char *stays = leave_idle(pool, 100 * MIB);
    uint64_t peak_before = peak(rig), total = rig_stats(pool).committed_total_bytes;
    void *block = rig_alloc(pool, 102 * MIB);
    assert_int_equal(cenote_pool_offset(pool, block), 100 * MIB + CHUNK);
    assert_in_range(rig_stats(pool).committed_total_bytes - total, 0, 20 * MIB);
    assert_true(peak(rig) <= peak_before + 20 * MIB);
    cenote_pool_free(pool, block);
    assert_stays(pool, stays);
}

/* What lies idle where it is wanted stays there while others serve the rest. */
static void test_what_is_there_stays(void **state)
{
    struct rig *rig = *state;
    cenote_pool *a = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    cenote_pool *b = rig_pool(rig, CENOTE_CLASS_GRADIENTS, 0);
    unsigned char *stays = leave_idle(a, 100 * MIB);
    void *block = rig_alloc(b, 40 * MIB);
    cenote_pool_free(b, block);
    uint64_t total = rig_stats(b).committed_total_bytes;
    block = rig_alloc(b, 80 * MIB);
    assert_in_range(rig_stats(b).committed_total_bytes - total, 0, GRANT + CHUNK);
    assert_int_equal(rig_stats(b).committed_bytes, 80 * MIB);
    assert_int_equal(rig_budget_stats(rig).reclaim[CENOTE_RECLAIM_OWN_IDLE].given_bytes, 0);
    cenote_pool_free(b, block);
    (void)cenote_pool_destroy(b);
    assert_stays(a, stays);
}

/* Classes whose charge a plan knows have not a byte beyond their blocks, wherever it came from. */
static void test_exact_stays_exact(void **state)
{
    struct rig *rig = *state;
    cenote_pool *a = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    cenote_pool *kv = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
    unsigned char *stays = leave_idle(a, 100 * MIB);
    struct calls before = calls_of(rig);
    void *first = rig_alloc(kv, 3 * GRANULE); /* so that the next one begins inside of a chunk */
    void *block = rig_alloc(kv, 30 * MIB + GRANULE);
    assert_true(calls_of(rig).remaps > before.remaps);
    assert_int_equal(rig_stats(kv).committed_bytes, 30 * MIB + 4 * GRANULE);
    cenote_pool_free(kv, first);
    cenote_pool_free(kv, block);
    (void)cenote_pool_destroy(kv);
    assert_stays(a, stays);
}

/* A little is left in peace, and so is all of it below the mark. */
static void test_no_peak_no_search(void **state)
{
    struct rig *rig = *state;
    cenote_pool *a = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    cenote_pool *b = rig_pool(rig, CENOTE_CLASS_GRADIENTS, 0);
    unsigned char *stays = leave_idle(a, LITTLE - CHUNK);
    void *block = rig_alloc(b, 64 * MIB);
    assert_int_equal(calls_of(rig).remaps, 0);
    assert_int_equal(rig_stats(a).committed_bytes, LITTLE);
    cenote_pool_free(b, block);
    cenote_pool_trim(b);
    void *more = rig_alloc(a, 60 * MIB); /* as much as there was */
    cenote_pool_free(a, more);
    block = rig_alloc(b, GRANT);
    assert_int_equal(calls_of(rig).remaps, 0);
    cenote_pool_free(b, block);
    (void)cenote_pool_destroy(b);
    assert_stays(a, stays);
}

/* What a pool held that is gone is no mark for those that remain. */
static void test_a_pool_ends(void **state)
{
    struct rig *rig = *state;
    cenote_pool *large = rig_pool(rig, CENOTE_CLASS_GENERAL, 0);
    cenote_pool_free(large, rig_alloc(large, 300 * MIB));
    (void)cenote_pool_destroy(large);
    uint64_t empty = rig_charged(rig), overhead = cenote_pool_overhead_bytes(LIMIT);
    cenote_pool *a = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    cenote_pool *b = rig_pool(rig, CENOTE_CLASS_GRADIENTS, 0);
    unsigned char *stays = leave_idle(a, 100 * MIB);
    void *block = rig_alloc(b, 64 * MIB);
    assert_true(rig_charged(rig) - empty - 2 * overhead <= 103 * MIB + GRANT + CHUNK);
    cenote_pool_free(b, block);
    (void)cenote_pool_destroy(b);
    assert_stays(a, stays);
}

/* ---- going to and fro ---- */

/* Two pools that take turns hold what the larger one needs, and commit nothing any more. */
static void test_turns_commit_once(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pools[] = {rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0),
                            rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0)};
    uint64_t committed = 0, empty = rig_charged(rig);
    for (unsigned turn = 0; turn < 40; turn++) {
        cenote_pool *pool = pools[turn % 2];
        void *block = rig_alloc(pool, turn % 2 == 0 ? 96 * MIB : 64 * MIB);
        memset(block, (int)turn, 64 * MIB);
        assert_null(cenote_pool_check(pools[1 - turn % 2]));
        cenote_pool_free(pool, block);
        uint64_t total =
            rig_stats(pools[0]).committed_total_bytes + rig_stats(pools[1]).committed_total_bytes;
        if (turn == 3)
            committed = total;
        assert_true(turn < 3 || total == committed);
    }
    assert_true(peak(rig) - RIG_PROCESS_BYTES - empty <= 96 * MIB + LITTLE + 2 * GRANT + CHUNK);
    (void)cenote_pool_destroy(pools[0]);
    (void)cenote_pool_destroy(pools[1]);
}

/* Of one pool: what is freed and asked for again is there. */
static void test_a_steady_pool_asks_nobody(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    cenote_pool *other = rig_pool(rig, CENOTE_CLASS_GRADIENTS, 0);
    unsigned char *stays = leave_idle(other, 64 * MIB);
    cenote_pool_free(pool, rig_alloc(pool, 60 * MIB));
    struct calls before = calls_of(rig);
    uint64_t asked = rig_budget_stats(rig).reclaim[CENOTE_RECLAIM_IDLE].asked_count;
    for (unsigned i = 0; i < 100; i++)
        cenote_pool_free(pool, rig_alloc(pool, (1 + i % 60) * MIB));
    struct calls after = calls_of(rig);
    assert_int_equal(after.commits, before.commits);
    assert_int_equal(after.remaps, before.remaps);
    assert_int_equal(rig_budget_stats(rig).reclaim[CENOTE_RECLAIM_IDLE].asked_count, asked);
    (void)cenote_pool_destroy(pool);
    assert_stays(other, stays);
}

/* ---- limits ---- */

/* Not a byte is left for the page tables of the place: a chunk that goes back pays for them. */
static void test_a_full_budget(void **state)
{
    struct rig *rig = *state;
    cenote_pool *a = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    cenote_pool *b = rig_pool(rig, CENOTE_CLASS_GRADIENTS, 0);
    unsigned char *stays = leave_idle(a, 100 * MIB);
    uint64_t rest = rig_room(rig);
    assert_int_equal(cenote_budget_charge(rig->budget, rest, "all", NULL), CENOTE_OK);
    void *block = rig_alloc(b, 90 * MIB);
    assert_int_equal(rig_stats(b).committed_bytes, 90 * MIB);
    assert_int_equal(rig_stats(b).committed_total_bytes, 0);
    assert_int_equal(rig_stats(a).committed_bytes, 10 * MIB); /* 90, and the one */
    cenote_pool_free(b, block);
    cenote_budget_uncharge(rig->budget, rest);
    (void)cenote_pool_destroy(b);
    assert_stays(a, stays);
}

/* Whole chunks would be more than the quota: one comes less. */
static void test_a_small_quota(void **state)
{
    struct rig *rig = *state;
    cenote_pool *a = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    cenote_pool *b = rig_pool(rig, CENOTE_CLASS_GRADIENTS, 33 * MIB);
    unsigned char *stays = leave_idle(a, 100 * MIB);
    void *block = rig_alloc(b, 33 * MIB);
    assert_int_equal(rig_stats(b).committed_bytes, 33 * MIB);
    assert_in_range(rig_stats(b).committed_total_bytes, MIB, MIB + GRANT + CHUNK);
    cenote_pool_free(b, block);
    (void)cenote_pool_destroy(b);
    assert_stays(a, stays);
}

/* Moving memory within a pool takes nothing of its quota. */
static void test_a_full_quota(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 102 * MIB);
    void *low = rig_alloc(pool, 50 * MIB);
    unsigned char *stays = leave_idle(pool, GRANULE);
    void *high = rig_alloc(pool, 50 * MIB - GRANULE);
    cenote_pool_free(pool, low);
    cenote_pool_free(pool, high);
    uint64_t total = rig_stats(pool).committed_total_bytes, held = rig_stats(pool).committed_bytes;
    high = rig_alloc(pool, 60 * MIB);
    assert_int_equal(rig_stats(pool).committed_total_bytes, total);
    assert_int_equal(rig_stats(pool).committed_bytes, held);
    cenote_pool_free(pool, high);
    assert_stays(pool, stays);
}

/* The kernel refuses a move, or stops half way: the memory goes back and is committed instead. */
static void test_fault_sweep(void **state)
{
    (void)state;
    bool failed = true;
    unsigned nth = 0;
    while (failed) {
        struct rig rig = rig_open(cn_fake_create(), LIMIT);
        cenote_pool *a = rig_pool(&rig, CENOTE_CLASS_ACTIVATIONS, 0);
        cenote_pool *b = rig_pool(&rig, CENOTE_CLASS_GRADIENTS, 0);
        unsigned char *stays = leave_idle(a, 100 * MIB);
        cn_fake_fail(rig.fake, CN_FAKE_REMAP, ++nth, ENOMEM);
        void *blocks[] = {rig_alloc(b, 30 * MIB), rig_alloc(b, 30 * MIB), rig_alloc(a, 101 * MIB)};
        memset(blocks[0], 1, 30 * MIB);
        memset(blocks[1], 1, 30 * MIB);
        memset(blocks[2], 1, 101 * MIB);
        assert_null(cenote_pool_check(a));
        failed = calls_of(&rig).remaps >= nth;
        cenote_pool_free(b, blocks[0]);
        cenote_pool_free(b, blocks[1]);
        cenote_pool_free(a, blocks[2]);
        (void)cenote_pool_destroy(b);
        assert_stays(a, stays);
        rig_close(&rig);
    }
    assert_true(nth > 3);
}

/* ---- at random ---- */

#define POOLS  3
#define SLOTS  16
#define STEPS  900
#define ROUNDS 3
#define QUOTA  (192 * MIB)

struct world {
    struct rig rigs[POOLS]; /* the same one, or one for each pool */
    cenote_pool *pools[POOLS];
    struct {
        unsigned char *data;
        uint64_t size_bytes;
    } slots[POOLS][SLOTS];
    uint64_t digest; /* of all places */
    uint64_t live_bytes, live_peak_bytes;
};

static void world_open(struct world *w, bool together)
{
    static const cenote_class classes[POOLS] = {CENOTE_CLASS_KV_CACHE, CENOTE_CLASS_ACTIVATIONS,
                                                CENOTE_CLASS_GENERAL};
    memset(w, 0, sizeof *w);
    for (unsigned p = 0; p < POOLS; p++) {
        w->rigs[p] = p > 0 && together ? w->rigs[0] : rig_open(cn_fake_create(), LIMIT);
        w->pools[p] = rig_pool(&w->rigs[p], classes[p], QUOTA);
    }
}

/* @return what was charged at most in all */
static uint64_t world_close(struct world *w, bool together)
{
    uint64_t sum = 0;
    for (unsigned p = 0; p < POOLS; p++)
        if (p == 0 || !together)
            sum += peak(&w->rigs[p]) - RIG_PROCESS_BYTES;
    for (unsigned p = 0; p < POOLS; p++)
        (void)cenote_pool_destroy(w->pools[p]);
    for (unsigned p = 0; p < (together ? 1 : POOLS); p++)
        rig_close(&w->rigs[p]);
    return sum;
}

static void turn(struct world *w, uint64_t *random_state, unsigned step)
{
    unsigned p = (unsigned)random_below(random_state, POOLS);
    unsigned i = (unsigned)random_below(random_state, SLOTS);
    /* Pools have their times: so idle memory wanders. */
    bool frees = random_below(random_state, 4) < (step / 100 % POOLS == p ? 1 : 3);
    uint64_t size =
        GRANULE + random_below(random_state, 1 + (MIB << random_below(random_state, 4)));
    if (frees == (w->slots[p][i].data == NULL))
        return;
    unsigned char *data = w->slots[p][i].data;
    if (frees) {
        for (uint64_t at = 0; at < w->slots[p][i].size_bytes; at += GRANULE)
            assert_int_equal(data[at], (unsigned char)(p + i + 1));
        cenote_pool_free(w->pools[p], data);
        w->live_bytes -= w->slots[p][i].size_bytes;
        w->slots[p][i].data = NULL;
        return;
    }
    data = rig_alloc(w->pools[p], size);
    for (uint64_t at = 0; at < size; at += GRANULE)
        data[at] = (unsigned char)(p + i + 1);
    w->slots[p][i].data = data;
    w->slots[p][i].size_bytes = size;
    w->live_bytes += size;
    if (w->live_bytes > w->live_peak_bytes)
        w->live_peak_bytes = w->live_bytes;
    w->digest = (w->digest + cenote_pool_offset(w->pools[p], data)) * UINT64_C(0x9e3779b97f4a7c15);
}

static void check(struct world *w, bool together)
{
    uint64_t charged = 0, committed = 0;
    for (unsigned p = 0; p < POOLS; p++) {
        assert_null(cenote_pool_check(w->pools[p]));
        committed += rig_stats(w->pools[p]).committed_bytes;
        charged += p == 0 || !together ? rig_charged(&w->rigs[p]) : 0;
    }
    assert_true(charged >= committed);
    uint64_t on_the_books = 0;
    for (unsigned p = 0; p < (together ? 1 : POOLS); p++)
        on_the_books += cn_fake_books_get(w->rigs[p].fake).committed_bytes;
    assert_true(on_the_books >= committed && on_the_books <= charged);
}

/* Pools of one budget against the same pools with a budget each, step by step: blocks lie at the
 * same places, and together they hold less. */
static void test_random(void **state)
{
    (void)state;
    const char *seed_text = getenv("CENOTE_TEST_SEED");
    uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : 1;
    for (unsigned round = 0; round < ROUNDS; round++) {
        static struct world together, apart;
        print_message("seed %llu\n", (unsigned long long)(seed + round));
        world_open(&together, true);
        world_open(&apart, false);
        uint64_t states[] = {seed + round, seed + round};
        for (unsigned step = 0; step < STEPS; step++) {
            turn(&together, &states[0], step);
            turn(&apart, &states[1], step);
            if (step % 8 == 0) {
                check(&together, true);
                check(&apart, false);
            }
            assert_int_equal(together.digest, apart.digest);
        }
        uint64_t live = together.live_peak_bytes;
        uint64_t most = world_close(&together, true), sum = world_close(&apart, false);
        print_message("%llu MiB live, %llu held together, %llu apart\n",
                      (unsigned long long)(live / MIB), (unsigned long long)(most / MIB),
                      (unsigned long long)(sum / MIB));
        assert_true(most < sum && most < live + live / 2 + LITTLE + GRANT);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, rig_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_another_pool_serves), TEST(test_own_idle_memory_moves),
        TEST(test_what_is_there_stays), TEST(test_exact_stays_exact),
        TEST(test_no_peak_no_search),   TEST(test_a_pool_ends),
        TEST(test_turns_commit_once),   TEST(test_a_steady_pool_asks_nobody),
        TEST(test_a_full_budget),       TEST(test_a_small_quota),
        TEST(test_a_full_quota),        cmocka_unit_test(test_fault_sweep),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
