/* SPDX-License-Identifier: Apache-2.0 */
/* Caches of threads under threads: blocks that others free, threads that begin and end, pools that
 * come and go, and a budget that is too small, so that everybody's caches are asked for all the
 * time. CENOTE_STRESS_SCALE multiplies the rounds. */
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

#define MIB     UINT64_C(1048576)
#define THREADS 4
#define POOLS   2
#define PLACES  64
#define ROUNDS  4
#define OPS     1500
#define PROCESS MIB

/* The first word of a block is its size, in which all its users agree. */
struct shared {
    cenote_budget *budget;
    cenote_pool *pools[POOLS];
    _Atomic(uint64_t *) places[POOLS][PLACES]; /* blocks that anybody may free */
    atomic_uint given, refused;
    atomic_bool broken;
};

struct worker {
    struct shared *shared;
    pthread_t thread;
    uint64_t random_state;
};

static uint64_t *fill(struct worker *w, cenote_pool *pool)
{
    uint64_t size_bytes = UINT64_C(64) << random_below(&w->random_state, 16);
    void *data = NULL;
    size_bytes += random_below(&w->random_state, size_bytes) / 8 * 8;
    if (cenote_pool_alloc(pool, size_bytes, &data, NULL) != CENOTE_OK) {
        atomic_fetch_add(&w->shared->refused, 1);
        return NULL;
    }
    atomic_fetch_add(&w->shared->given, 1);
    uint64_t *words = data;
    words[0] = size_bytes;
    words[size_bytes / 8 - 1] = size_bytes;
    return words;
}

static void drop(struct worker *w, cenote_pool *pool, uint64_t *words)
{
    if (words == NULL)
        return;
    if (words[0] == 0 || words[0] % 8 != 0 || words[0] > 4 * MIB ||
        words[words[0] / 8 - 1] != words[0])
        atomic_store(&w->shared->broken, true);
    words[0] = 0;
    cenote_pool_free(pool, words);
}

/* A pool of the thread's own: its number takes a slot, and goes. */
static void use_own_pool(struct worker *w)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    cenote_pool *pool = NULL;
    options.quota_bytes = MIB;
    if (cenote_pool_create(w->shared->budget, &options, &pool, NULL) != CENOTE_OK)
        return;
    uint64_t *a = fill(w, pool), *b = fill(w, pool);
    drop(w, pool, a);
    if (cenote_pool_destroy(pool) != (b != NULL))
        atomic_store(&w->shared->broken, true);
}

static void *work(void *argument)
{
    struct worker *w = argument;
    struct shared *s = w->shared;
    for (unsigned i = 0; i < OPS; i++) {
        unsigned p = (unsigned)random_below(&w->random_state, POOLS);
        _Atomic(uint64_t *) *place = &s->places[p][random_below(&w->random_state, PLACES)];
        drop(w, s->pools[p], atomic_exchange(place, fill(w, s->pools[p])));
        if (i % 128 == 0)
            (void)cenote_pool_trim(s->pools[p]);
        if (i % 512 == 0)
            use_own_pool(w);
    }
    return NULL;
}

/* What is at hand is the other threads'; all of them have ended. */
static void check_pool(struct shared *s, unsigned p)
{
    cenote_pool_stats stats;
    uint64_t live = 0;
    for (unsigned i = 0; i < PLACES; i++)
        live += s->places[p][i] != NULL;
    assert_null(cenote_pool_check(s->pools[p]));
    cenote_pool_stats_get(s->pools[p], &stats);
    assert_int_equal(stats.thread_cached_bytes, 0);
    assert_int_equal(stats.block_count, live);
}

static void test_caches(void **state)
{
    (void)state;
    static struct shared s;
    struct worker workers[THREADS];
    const char *scale = getenv("CENOTE_STRESS_SCALE");
    unsigned rounds = ROUNDS * (scale != NULL && atoi(scale) > 0 ? (unsigned)atoi(scale) : 1);
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    budget_options.limit_bytes = 32 * MIB;
    budget_options.process_bytes = PROCESS;
    assert_int_equal(cenote_budget_create(&budget_options, &s.budget, NULL), CENOTE_OK);
    for (unsigned p = 0; p < POOLS; p++) {
        cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
        assert_int_equal(cenote_pool_create(s.budget, &options, &s.pools[p], NULL), CENOTE_OK);
    }
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < THREADS; i++) {
            workers[i] = (struct worker){.shared = &s, .random_state = round * THREADS + i + 1};
            assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
        }
        for (unsigned i = 0; i < 100; i++)
            assert_null(cenote_pool_check(s.pools[i % POOLS]));
        for (unsigned i = 0; i < THREADS; i++)
            pthread_join(workers[i].thread, NULL);
        assert_false(s.broken);
        for (unsigned p = 0; p < POOLS; p++)
            check_pool(&s, p);
    }
    assert_true(s.given > 0 && s.refused > 0);
    struct worker last = {.shared = &s};
    for (unsigned p = 0; p < POOLS; p++) {
        for (unsigned i = 0; i < PLACES; i++)
            drop(&last, s.pools[p], s.places[p][i]);
        assert_int_equal(cenote_pool_destroy(s.pools[p]), 0);
    }
    cenote_budget_stats stats;
    cenote_budget_stats_get(s.budget, &stats);
    assert_int_equal(stats.charged_bytes, PROCESS);
    assert_true(stats.charged_peak_bytes <= stats.limit_bytes);
    cenote_budget_destroy(s.budget);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_caches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
