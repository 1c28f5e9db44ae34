/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that alloc, write, check, free and trim on shared pools of one budget that is too small
 * for all of them, so that every pool keeps trimming the others. CENOTE_STRESS_SCALE multiplies the
 * operations. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/pool.h>

#include "random.h"

#define MIB          UINT64_C(1048576)
#define THREADS      4
#define POOLS        3
#define LIVE_MAX     6
#define OPS          2000
#define PROCESS      MIB
#define WATCH_ROUNDS 200

struct shared {
    cenote_budget *budget;
    cenote_pool *pools[POOLS];
    unsigned ops;
    atomic_uint refused, given;
    atomic_bool broken;
};

struct worker {
    struct shared *shared;
    pthread_t thread;
    uint64_t random_state;
};

struct block {
    cenote_pool *pool;
    unsigned char *data;
    uint64_t size_bytes;
    unsigned char mark;
};

static void put(struct worker *w, struct block *b, unsigned char mark)
{
    struct shared *s = w->shared;
    void *data;
    b->pool = s->pools[random_below(&w->random_state, POOLS)];
    b->size_bytes = 1 + random_below(&w->random_state, 3 * MIB);
    if (cenote_pool_alloc(b->pool, b->size_bytes, &data, NULL) != CENOTE_OK) {
        atomic_fetch_add(&s->refused, 1);
        return;
    }
    atomic_fetch_add(&s->given, 1);
    b->data = data;
    b->mark = mark;
    b->data[0] = b->data[b->size_bytes / 2] = b->data[b->size_bytes - 1] = mark;
}

static void drop(struct worker *w, struct block *b)
{
    if (b->data[0] != b->mark || b->data[b->size_bytes / 2] != b->mark ||
        b->data[b->size_bytes - 1] != b->mark)
        atomic_store(&w->shared->broken, true);
    cenote_pool_free(b->pool, b->data);
    b->data = NULL;
}

static void *work(void *argument)
{
    struct worker *w = argument;
    struct block live[LIVE_MAX] = {0};
    for (unsigned i = 0; i < w->shared->ops; i++) {
        struct block *b = &live[random_below(&w->random_state, LIVE_MAX)];
        if (b->data == NULL)
            put(w, b, (unsigned char)i);
        else
            drop(w, b);
        if (i % 64 == 0)
            (void)cenote_pool_trim(w->shared->pools[random_below(&w->random_state, POOLS)]);
        if (i % 97 == 0 &&
            cenote_budget_charge(w->shared->budget, MIB, "stress", NULL) == CENOTE_OK)
            cenote_budget_uncharge(w->shared->budget, MIB);
    }
    for (unsigned i = 0; i < LIVE_MAX; i++)
        if (live[i].data != NULL)
            drop(w, &live[i]);
    return NULL;
}

/* Looks on while the others work. */
static const char *watch(const struct shared *s)
{
    const char *broken = NULL;
    for (unsigned round = 0; round < WATCH_ROUNDS && broken == NULL; round++) {
        cenote_budget_stats stats;
        cenote_budget_stats_get(s->budget, &stats);
        if (stats.charged_bytes > stats.limit_bytes || stats.charged_peak_bytes > stats.limit_bytes)
            broken = "the budget was exceeded";
        for (unsigned p = 0; p < POOLS && broken == NULL; p++)
            broken = cenote_pool_check(s->pools[p]);
    }
    return broken;
}

static void test_threads_share_pools(void **state)
{
    (void)state;
    static struct shared s;
    struct worker workers[THREADS];
    const char *scale = getenv("CENOTE_STRESS_SCALE");
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    budget_options.limit_bytes = 14 * MIB;
    budget_options.process_bytes = PROCESS;
    assert_int_equal(cenote_budget_create(&budget_options, &s.budget, NULL), CENOTE_OK);
    for (unsigned p = 0; p < POOLS; p++) {
        cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
        assert_int_equal(cenote_pool_create(s.budget, &options, &s.pools[p], NULL), CENOTE_OK);
    }
    s.ops = OPS * (scale != NULL && atoi(scale) > 0 ? (unsigned)atoi(scale) : 1);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.shared = &s, .random_state = i + 1};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    const char *broken = watch(&s);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    if (broken != NULL)
        fail_msg("%s", broken);
    assert_false(s.broken);
    assert_true(s.given > 0);
    assert_true(s.refused > 0); /* else the budget was never tight and nothing was tested */
    for (unsigned p = 0; p < POOLS; p++) {
        assert_null(cenote_pool_check(s.pools[p]));
        assert_int_equal(cenote_pool_destroy(s.pools[p]), 0);
    }
    cenote_budget_stats stats;
    cenote_budget_stats_get(s.budget, &stats);
    assert_int_equal(stats.charged_bytes, PROCESS);
    cenote_budget_destroy(s.budget);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_share_pools),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
