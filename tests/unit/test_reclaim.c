/* SPDX-License-Identifier: Apache-2.0 */
/* The ladder: who is asked, in what order, for how much, and who is left in peace. Its clients are
 * made up here: pools that are nothing but numbers, and keepers of blocks in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pool/budget.h"
#include "pool_fixture.h"

#define POOLS 3
#define LUMP  150u
#define ROOM  900u /* of the budget */

/* A pool's numbers; its idle memory comes back in lumps, as chunks do. */
struct fake_pool {
    struct cn_budget_client client;
    cenote_budget *budget;
    uint64_t live_bytes, idle_bytes;
    unsigned asked;
};

/* Holds some of a pool's live bytes, and drops just what it is asked for. */
struct keeper {
    struct cn_budget_client client;
    struct fake_pool *home;
    uint64_t kept_bytes;
    unsigned asked;
};

static char order[16]; /* who was asked: digits are pools, letters keepers */

static void note(char who)
{
    size_t length = strlen(order);
    assert_true(length + 1 < sizeof order);
    order[length] = who;
    order[length + 1] = '\0';
}

static uint64_t pool_give(struct cn_budget_client *client, uint64_t want_bytes)
{
    struct fake_pool *pool = (struct fake_pool *)client;
    uint64_t back = (want_bytes + LUMP - 1) / LUMP * LUMP;
    if (back > pool->idle_bytes)
        back = pool->idle_bytes;
    pool->idle_bytes -= back;
    pool->asked++;
    cenote_budget_uncharge(pool->budget, back);
    return back;
}

static void pool_report(struct cn_budget_client *client, cenote_budget_holder *holder)
{
    struct fake_pool *pool = (struct fake_pool *)client;
    *holder = (cenote_budget_holder){
        .class_id = (cenote_class)client->priority,
        .priority = client->priority,
        .charged_bytes = pool->live_bytes + pool->idle_bytes,
        .live_bytes = pool->live_bytes,
        .idle_bytes = pool->idle_bytes,
    };
}

static uint64_t keeper_give(struct cn_budget_client *client, uint64_t want_bytes)
{
    struct keeper *keeper = (struct keeper *)client;
    uint64_t drop = want_bytes < keeper->kept_bytes ? want_bytes : keeper->kept_bytes;
    keeper->kept_bytes -= drop;
    keeper->home->live_bytes -= drop;
    keeper->home->idle_bytes += drop;
    keeper->asked++;
    note((char)client->priority);
    return drop;
}

static void keeper_report(struct cn_budget_client *client, cenote_budget_holder *holder)
{
    struct keeper *keeper = (struct keeper *)client;
    *(client->step == CENOTE_RECLAIM_CACHE ? &holder->cached_bytes : &holder->rebuildable_bytes) +=
        keeper->kept_bytes;
}

struct ladder {
    struct rig rig;
    struct fake_pool pools[POOLS];
};

/* Pool i has priority i; they are registered the other way round. */
static struct ladder ladder_make(uint64_t live_bytes, uint64_t idle_bytes)
{
    struct ladder ladder = {.rig = rig_open(NULL, RIG_PROCESS_BYTES + ROOM)};
    for (unsigned i = 0; i < POOLS; i++) {
        ladder.pools[i] = (struct fake_pool){
            .budget = ladder.rig.budget, .live_bytes = live_bytes, .idle_bytes = idle_bytes};
        assert_int_equal(
            cenote_budget_charge(ladder.rig.budget, live_bytes + idle_bytes, "pool", NULL),
            CENOTE_OK);
    }
    order[0] = '\0';
    return ladder;
}

static cenote_pool *as_pool(struct fake_pool *pool)
{
    return (cenote_pool *)pool; /* the ladder compares it and looks no further */
}

static void ladder_register(struct ladder *ladder)
{
    for (unsigned i = POOLS; i-- > 0;) {
        struct fake_pool *pool = &ladder->pools[i];
        pool->client = (struct cn_budget_client){.step = CENOTE_RECLAIM_IDLE,
                                                 .priority = i,
                                                 .pool = as_pool(pool),
                                                 .give = pool_give,
                                                 .report = pool_report};
        cn_budget_register(ladder->rig.budget, &pool->client);
    }
}

static struct keeper *keep(struct ladder *ladder, struct keeper *keeper, cenote_reclaim_step step,
                           unsigned home, char name, uint64_t kept_bytes)
{
    *keeper = (struct keeper){.home = &ladder->pools[home], .kept_bytes = kept_bytes};
    keeper->client = (struct cn_budget_client){.step = step,
                                               .priority = (uint32_t)name,
                                               .pool = as_pool(keeper->home),
                                               .give = keeper_give,
                                               .report = keeper_report};
    cn_budget_register(ladder->rig.budget, &keeper->client);
    return keeper;
}

static void ladder_end(struct ladder *ladder)
{
    for (unsigned i = 0; i < POOLS; i++)
        cn_budget_unregister(ladder->rig.budget, &ladder->pools[i].client);
    cenote_budget_destroy(ladder->rig.budget);
}

/* ---- idle memory ---- */

static void test_lowest_priority_first_and_no_more_than_needed(void **state)
{
    (void)state;
    struct ladder ladder = ladder_make(0, 200);
    ladder_register(&ladder);
    /* 300 are left: 250 fit without asking anybody. */
    assert_int_equal(cenote_budget_charge(ladder.rig.budget, 250, "fits", NULL), CENOTE_OK);
    assert_int_equal(ladder.pools[0].asked, 0);
    /* 50 are left: 300 more take all of pool 0, a lump of pool 1, and leave pool 2 in peace. */
    assert_int_equal(cenote_budget_charge(ladder.rig.budget, 300, "needs room", NULL), CENOTE_OK);
    assert_int_equal(ladder.pools[0].idle_bytes, 0);
    assert_int_equal(ladder.pools[1].idle_bytes, 50);
    assert_int_equal(ladder.pools[2].asked, 0);
    /* A lower limit takes from them too. */
    assert_int_equal(cenote_budget_limit_set(ladder.rig.budget, RIG_PROCESS_BYTES + 750, NULL),
                     CENOTE_OK);
    assert_int_equal(rig_charged(&ladder.rig), 750);
    cenote_reclaim_stats others = rig_budget_stats(&ladder.rig).reclaim[CENOTE_RECLAIM_IDLE];
    assert_int_equal(others.given_bytes, 400);
    assert_int_equal(others.gave_count, 3);
    ladder_end(&ladder);
}

static void test_the_asker_gives_first(void **state)
{
    (void)state;
    struct ladder ladder = ladder_make(0, 200);
    ladder_register(&ladder);
    assert_true(cn_budget_make_room(ladder.rig.budget, as_pool(&ladder.pools[2]), 0, 400));
    assert_int_equal(ladder.pools[2].idle_bytes, 50);
    assert_int_equal(ladder.pools[0].asked + ladder.pools[1].asked, 0);
    assert_int_equal(rig_budget_stats(&ladder.rig).reclaim[CENOTE_RECLAIM_OWN_IDLE].given_bytes,
                     150);
    assert_int_equal(rig_budget_stats(&ladder.rig).reclaim[CENOTE_RECLAIM_IDLE].asked_count, 0);
    /* What fits needs nobody. */
    assert_true(cn_budget_make_room(ladder.rig.budget, as_pool(&ladder.pools[2]), 0, 450));
    assert_int_equal(ladder.pools[2].asked, 1);
    ladder_end(&ladder);
}

/* What cannot be satisfied takes nothing away, by the budget, a limit or a quota. */
static void test_hopeless_requests_disturb_nobody(void **state)
{
    (void)state;
    struct ladder ladder = ladder_make(100, 100);
    struct keeper cache;
    ladder_register(&ladder);
    keep(&ladder, &cache, CENOTE_RECLAIM_CACHE, 1, 'a', 80);
    /* 300 left, 300 idle, 80 cached: 680 is the most. */
    assert_int_equal(cenote_budget_charge(ladder.rig.budget, 681, "too much", NULL),
                     CENOTE_E_BUDGET);
    assert_int_equal(cenote_budget_limit_set(ladder.rig.budget, RIG_PROCESS_BYTES + 219, NULL),
                     CENOTE_E_BUDGET);
    assert_false(cn_budget_make_quota(ladder.rig.budget, as_pool(&ladder.pools[1]), 81));
    assert_false(cn_budget_make_quota(ladder.rig.budget, as_pool(&ladder.pools[0]), 1));
    assert_int_equal(
        cache.asked + ladder.pools[0].asked + ladder.pools[1].asked + ladder.pools[2].asked, 0);
    assert_int_equal(rig_budget_stats(&ladder.rig).limit_bytes, RIG_PROCESS_BYTES + ROOM);
    assert_int_equal(cenote_budget_charge(ladder.rig.budget, 680, "the most", NULL), CENOTE_OK);
    assert_int_equal(cache.kept_bytes, 0);
    cn_budget_unregister(ladder.rig.budget, &cache.client);
    ladder_end(&ladder);
}

/* Who keeps more than lives (small blocks are estimates) makes no more possible. */
static void test_keepers_that_say_too_much(void **state)
{
    (void)state;
    struct ladder ladder = ladder_make(100, 100);
    struct keeper cache;
    ladder_register(&ladder);
    keep(&ladder, &cache, CENOTE_RECLAIM_CACHE, 1, 'a', 180);
    /* 300 left, 300 idle, 100 live in the cache's pool. */
    assert_int_equal(cenote_budget_charge(ladder.rig.budget, 701, "too much", NULL),
                     CENOTE_E_BUDGET);
    assert_false(cn_budget_make_quota(ladder.rig.budget, as_pool(&ladder.pools[1]), 101));
    assert_int_equal(cache.asked + ladder.pools[0].asked + ladder.pools[1].asked, 0);
    cn_budget_unregister(ladder.rig.budget, &cache.client);
    ladder_end(&ladder);
}

/* ---- what is dropped ---- */

static void test_rungs_in_order(void **state)
{
    (void)state;
    struct ladder ladder = ladder_make(200, 50);
    struct keeper features, old_cache, new_cache;
    ladder_register(&ladder);
    keep(&ladder, &features, CENOTE_RECLAIM_REBUILDABLE, 0, 'a', 100);
    keep(&ladder, &new_cache, CENOTE_RECLAIM_CACHE, 1, 'c', 100);
    keep(&ladder, &old_cache, CENOTE_RECLAIM_CACHE, 2, 'b', 100);
    /* 150 left, 150 idle. 350 more take the idle memory and 50 of the cache that counts less. */
    assert_int_equal(cenote_budget_charge(ladder.rig.budget, 350, "some", NULL), CENOTE_OK);
    assert_string_equal(order, "b");
    assert_int_equal(old_cache.kept_bytes, 50);
    /* The rest of it, all of the other, and 50 of the features. */
    assert_int_equal(cenote_budget_charge(ladder.rig.budget, 200, "more", NULL), CENOTE_OK);
    assert_string_equal(order, "bbbcca");
    assert_int_equal(features.kept_bytes, 50);
    const cenote_budget_stats stats = rig_budget_stats(&ladder.rig);
    assert_int_equal(stats.reclaim[CENOTE_RECLAIM_IDLE].given_bytes, 400);
    assert_int_equal(stats.reclaim[CENOTE_RECLAIM_CACHE].given_bytes, 200);
    assert_int_equal(stats.reclaim[CENOTE_RECLAIM_REBUILDABLE].given_bytes, 50);
    assert_int_equal(stats.reclaim[CENOTE_RECLAIM_CACHE].asked_count, 5);
    assert_int_equal(stats.reclaim[CENOTE_RECLAIM_CACHE].gave_count, 3);
    cn_budget_unregister(ladder.rig.budget, &features.client);
    cn_budget_unregister(ladder.rig.budget, &old_cache.client);
    cn_budget_unregister(ladder.rig.budget, &new_cache.client);
    ladder_end(&ladder);
}

/* A quota or a hole is a matter of one pool; a hole is made by moving blocks, if that can be,
 * before anything is dropped for it. */
static void test_only_who_keeps_something_in_the_pool(void **state)
{
    (void)state;
    struct ladder ladder = ladder_make(200, 0);
    struct keeper here, elsewhere, packer;
    ladder_register(&ladder);
    keep(&ladder, &elsewhere, CENOTE_RECLAIM_CACHE, 0, 'a', 100);
    keep(&ladder, &here, CENOTE_RECLAIM_CACHE, 1, 'b', 100);
    keep(&ladder, &packer, CENOTE_RECLAIM_COMPACTION, 1, 'c', 0);
    packer.client.report = NULL;
    assert_true(cn_budget_make_quota(ladder.rig.budget, as_pool(&ladder.pools[1]), 60));
    assert_string_equal(order, "b");
    assert_int_equal(here.kept_bytes, 40);
    assert_true(cn_budget_make_hole(ladder.rig.budget, as_pool(&ladder.pools[1]), 500));
    assert_int_equal(here.kept_bytes, 0);
    assert_false(cn_budget_make_hole(ladder.rig.budget, as_pool(&ladder.pools[1]), 500));
    assert_string_equal(order, "bcbcb");
    assert_int_equal(elsewhere.kept_bytes, 100);
    cn_budget_unregister(ladder.rig.budget, &here.client);
    cn_budget_unregister(ladder.rig.budget, &elsewhere.client);
    cn_budget_unregister(ladder.rig.budget, &packer.client);
    ladder_end(&ladder);
}

/* ---- who holds the wall ---- */

static void test_explanation(void **state)
{
    (void)state;
    struct ladder ladder = ladder_make(0, 0);
    struct keeper cache;
    static const uint64_t live[POOLS] = {10, 300, 40};
    assert_int_equal(cenote_budget_charge(ladder.rig.budget, 360, "pools", NULL), CENOTE_OK);
    for (unsigned i = 0; i < POOLS; i++)
        ladder.pools[i].live_bytes = live[i];
    ladder.pools[2].idle_bytes = 10;
    ladder_register(&ladder);
    keep(&ladder, &cache, CENOTE_RECLAIM_CACHE, 1, 'a', 70);

    cenote_budget_holder holders[POOLS + 1];
    memset(holders, 0xaa, sizeof holders);
    assert_int_equal(cenote_budget_explain(ladder.rig.budget, holders, POOLS + 1), POOLS);
    static const uint64_t charged[POOLS] = {300, 50, 10};
    for (unsigned i = 0; i < POOLS; i++)
        assert_int_equal(holders[i].charged_bytes, charged[i]);
    assert_int_equal(holders[0].cached_bytes, 70);
    assert_int_equal(holders[1].cached_bytes, 0);
    assert_int_equal(holders[1].idle_bytes, 10);
    /* Fewer rows than pools: the largest, and nothing behind them is written. */
    memset(holders, 0xaa, sizeof holders);
    assert_int_equal(cenote_budget_explain(ladder.rig.budget, holders, 1), POOLS);
    assert_int_equal(holders[0].charged_bytes, 300);
    assert_int_equal(holders[1].charged_bytes, UINT64_C(0xaaaaaaaaaaaaaaaa));
    assert_int_equal(cenote_budget_explain(ladder.rig.budget, NULL, 0), POOLS);

    cenote_error err;
    assert_int_equal(cenote_budget_charge(ladder.rig.budget, 900, "the decoder", &err),
                     CENOTE_E_BUDGET);
    assert_non_null(strstr(err.message, "held by kv_cache 300, image_features 50, parameters 10"));
    cn_budget_unregister(ladder.rig.budget, &cache.client);
    ladder_end(&ladder);
}

static void test_texts(void **state)
{
    (void)state;
    assert_string_equal(cenote_reclaim_step_text(CENOTE_RECLAIM_CACHE), "cached tensors");
    assert_string_equal(cenote_reclaim_step_text((cenote_reclaim_step)99), "unknown step");
    assert_string_equal(cenote_miss_text(CENOTE_MISS_QUOTA), "refused: the quota");
    assert_string_equal(cenote_miss_text((cenote_miss)99), "unknown miss");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lowest_priority_first_and_no_more_than_needed),
        cmocka_unit_test(test_the_asker_gives_first),
        cmocka_unit_test(test_hopeless_requests_disturb_nobody),
        cmocka_unit_test(test_keepers_that_say_too_much),
        cmocka_unit_test(test_rungs_in_order),
        cmocka_unit_test(test_only_who_keeps_something_in_the_pool),
        cmocka_unit_test(test_explanation),
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
