/* SPDX-License-Identifier: Apache-2.0 */
/* The depot of free blocks between threads: what it gives, what it keeps, and what it forgets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pool/depot.h"
#include "pool_fixture.h"

#define KIB   UINT64_C(1024)
#define MIB   (KIB * KIB)
#define LIMIT (2048 * MIB)

struct depot_rig {
    struct rig *rig;
    struct cn_depot depot;
    uint32_t left[CN_SHELF_BLOCKS_MAX + CN_DEPOT_STALE_MAX];
};

static int set_up(void **state)
{
    struct depot_rig *d = aligned_alloc(64, sizeof *d);
    void *rig = NULL;
    if (d == NULL || rig_up(&rig, LIMIT, CENOTE_CLASS_COUNT) != 0)
        return -1;
    memset(d, 0, sizeof *d);
    d->rig = rig;
    cn_depot_init(&d->depot);
    *state = d;
    return 0;
}

static int tear_down(void **state)
{
    struct depot_rig *d = *state;
    void *rig = d->rig;
    free(d);
    return rig_down(&rig);
}

static uint32_t put(struct depot_rig *d, uint32_t size_class, const uint32_t *ids, uint32_t count)
{
    uint32_t left = cn_depot_put(&d->depot, d->rig->budget, size_class, ids, count, d->left);
    assert_null(cn_depot_check(&d->depot));
    return left;
}

static uint32_t put_one(struct depot_rig *d, uint32_t size_class, uint32_t id)
{
    return put(d, size_class, &id, 1);
}

static uint32_t count_of(struct depot_rig *d, uint32_t size_class)
{
    uint16_t counts[CN_CLASS_LAST + 1];
    cn_depot_counts(&d->depot, counts);
    return counts[size_class];
}

static void test_last_in_first_out(void **state)
{
    struct depot_rig *d = *state;
    static const uint32_t ids[5] = {10, 11, 12, 13, 14};
    uint32_t got[5] = {0};
    assert_int_equal(cn_depot_get(&d->depot, 7, 5, got), 0);
    assert_int_equal(put(d, 7, ids, 2), 0);
    assert_int_equal(put(d, 7, ids + 2, 3), 0);
    assert_int_equal(put_one(d, 8, 99), 0);
    assert_int_equal(cn_depot_get(&d->depot, 7, 2, got), 2);
    assert_int_equal(got[0], 14);
    assert_int_equal(got[1], 13);
    assert_int_equal(cn_depot_get(&d->depot, 7, 5, got), 3);
    assert_int_equal(got[2], 10);
    assert_int_equal(cn_depot_bytes(&d->depot), cn_class_bytes(8));
}

/* A shelf keeps what was freed last. */
static void test_a_shelf_is_full(void **state)
{
    struct depot_rig *d = *state;
    uint32_t ids[CN_SHELF_BLOCKS_MAX], got;
    for (uint32_t i = 0; i < CN_SHELF_BLOCKS_MAX; i++)
        ids[i] = i;
    assert_int_equal(put(d, 1, ids, CN_SHELF_BLOCKS_MAX - 2), 0);
    assert_int_equal(put(d, 1, ids, 5), 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(d->left[i], i);
    assert_int_equal(cn_depot_get(&d->depot, 1, 1, &got), 1);
    assert_int_equal(got, 4);
}

/* Half a per cent of the budget for all depots, and 16 MiB for one. */
static void test_caps(void **state)
{
    struct depot_rig *d = *state;
    uint32_t large = CN_DEPOT_CLASS_LAST, kept = 0;
    uint64_t large_bytes = cn_class_bytes(large);
    for (uint32_t i = 0; i < 40; i++)
        kept += put_one(d, large, i) == 0;
    assert_in_range(kept * large_bytes, LIMIT / 200 - large_bytes, LIMIT / 200);
    assert_int_equal(cenote_budget_limit_set(d->rig->budget, 4 * LIMIT, NULL), CENOTE_OK);
    uint32_t ids[CN_SHELF_BLOCKS_MAX];
    while (cn_depot_get(&d->depot, large, 1, ids) > 0)
        ;
    kept = 0;
    for (uint32_t i = 0; i < 40; i++)
        kept += put_one(d, large, i) == 0;
    assert_int_equal(kept, 16 * MIB / large_bytes);
    /* What was sold is there for others. */
    assert_int_equal(cn_depot_get(&d->depot, large, 40, ids), kept);
    cn_depot_sell(&d->depot, d->rig->budget);
    uint64_t all = 4 * LIMIT / 200;
    assert_true(cn_budget_cache_take(d->rig->budget, CN_CACHE_DEPOTS, all));
    assert_false(cn_budget_cache_take(d->rig->budget, CN_CACHE_DEPOTS, 1));
    assert_true(cn_budget_cache_take(d->rig->budget, CN_CACHE_THREADS, all));
    assert_int_equal(put_one(d, 1, 0), 1);
}

/* Runs of granules are none of a depot's. */
static void test_runs_pass_by(void **state)
{
    struct depot_rig *d = *state;
    uint32_t ids[2] = {10, 11};
    assert_int_equal(put(d, CN_CLASS_RUN_FIRST, ids, 2), 2);
    assert_int_equal(d->left[0], 10);
    assert_int_equal(d->left[1], 11);
    assert_int_equal(cn_depot_get(&d->depot, CN_CLASS_LAST, 2, ids), 0);
    assert_int_equal(cn_depot_bytes(&d->depot), 0);
}

/* A full depot of blocks that nobody wants makes room for those that somebody does, and those that
 * come and go meanwhile stay. */
static void test_unwanted_blocks_go(void **state)
{
    struct depot_rig *d = *state;
    const uint32_t unwanted = CN_DEPOT_CLASS_LAST, wanted = cn_size_class(200 * KIB), busy = 40;
    uint32_t got;
    for (uint32_t i = 0; put_one(d, unwanted, i) == 0; i++)
        ;
    uint32_t full = count_of(d, unwanted), rounds = 0;
    assert_int_equal(full, LIMIT / 200 / cn_class_bytes(unwanted));
    (void)put_one(d, busy, 7);
    while (count_of(d, wanted) < 40 && rounds++ < 10 * CN_CLASS_LAST) {
        if (cn_depot_get(&d->depot, busy, 1, &got) == 1)
            assert_int_equal(got, 7);
        (void)put_one(d, busy, 7);
        (void)put_one(d, wanted, 1000 + rounds);
    }
    assert_int_equal(count_of(d, wanted), 40); /* 8 MiB of 10 */
    assert_in_range(count_of(d, unwanted), 0, 4);
    assert_int_equal(count_of(d, busy), 1);
}

/* ---- against a model ---- */

struct model {
    uint32_t stacks[CN_CLASS_LAST + 1][CN_SHELF_BLOCKS_MAX];
    uint32_t counts[CN_CLASS_LAST + 1];
};

static uint32_t random_below(uint64_t *state, uint32_t bound)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33) % bound;
}

/* Out of the model, wherever it lies; false when it is not there. */
static bool forget(struct model *m, uint32_t id)
{
    for (uint32_t c = 1; c <= CN_CLASS_LAST; c++)
        for (uint32_t i = 0; i < m->counts[c]; i++)
            if (m->stacks[c][i] == id) {
                m->counts[c]--;
                memmove(&m->stacks[c][i], &m->stacks[c][i + 1],
                        (m->counts[c] - i) * sizeof m->stacks[c][0]);
                return true;
            }
    return false;
}

static void put_some(struct depot_rig *d, struct model *m, uint32_t size_class, uint32_t count,
                     uint32_t *next_id)
{
    uint32_t ids[24];
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (*next_id)++;
    uint32_t left = put(d, size_class, ids, count), own = 0;
    while (own < count && own < left && d->left[own] == ids[own])
        own++; /* the oldest are refused */
    for (uint32_t i = own; i < count; i++)
        m->stacks[size_class][m->counts[size_class]++] = ids[i];
    for (uint32_t i = own; i < left; i++)
        assert_true(forget(m, d->left[i]));
    assert_true(left - own <= CN_DEPOT_STALE_MAX && (own > 0 || left == 0));
}

/* Random batches: nothing is lost, nothing is given twice, and what comes is the last that went. */
static void test_model(void **state)
{
    struct depot_rig *d = *state;
    struct model *m = calloc(1, sizeof *m);
    uint64_t random_state = 20261121;
    uint32_t next_id = 1, refused = 0, served = 0;
    assert_non_null(m);
    for (unsigned step = 0; step < 20000; step++) {
        uint32_t size_class = 1 + random_below(&random_state, CN_CLASS_LAST), got[24];
        uint32_t count = 1 + random_below(&random_state, 24);
        if (random_below(&random_state, 2) == 0) {
            uint32_t before = m->counts[size_class];
            put_some(d, m, size_class, count, &next_id);
            refused += m->counts[size_class] < before + count;
        } else {
            uint32_t have = m->counts[size_class];
            uint32_t given = cn_depot_get(&d->depot, size_class, count, got);
            assert_int_equal(given, count < have ? count : have);
            for (uint32_t i = 0; i < given; i++)
                assert_int_equal(got[i], m->stacks[size_class][--m->counts[size_class]]);
            served += given;
        }
        assert_null(cn_depot_check(&d->depot));
        uint16_t counts[CN_CLASS_LAST + 1];
        cn_depot_counts(&d->depot, counts);
        for (uint32_t c = 1; c <= CN_CLASS_LAST; c++)
            assert_int_equal(counts[c], m->counts[c]);
    }
    assert_true(refused > 1000 && served > 1000);
    free(m);
}

int main(void)
{
#define DEPOT_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        DEPOT_TEST(test_last_in_first_out),
        DEPOT_TEST(test_a_shelf_is_full),
        DEPOT_TEST(test_caps),
        DEPOT_TEST(test_runs_pass_by),
        DEPOT_TEST(test_unwanted_blocks_go),
        DEPOT_TEST(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
