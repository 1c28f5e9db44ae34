/* SPDX-License-Identifier: Apache-2.0 */
/* Threads of which each needs what the others hold. Two pools that ask each other; pools between
 * which idle memory wanders although there is room; then pools, a tensor cache, moving quotas and a
 * moving limit on one budget that is far too small, while somebody asks who holds what. A deadlock
 * is a test that does not end. CENOTE_STRESS_SCALE multiplies the operations. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/tensor_cache.h>

#include "random.h"

#define KIB     UINT64_C(1024)
#define MIB     (KIB * KIB)
#define PROCESS MIB
#define QUOTA   (4 * MIB)
#define THREADS 4
#define POOLS   3
#define LIVE    4

struct shared {
    cenote_budget *budget;
    uint64_t limit_bytes;
    cenote_pool *pools[POOLS];
    cenote_tensor_cache *cache;
    unsigned ops;
    atomic_uint given, refused, hits;
    atomic_bool broken, done;
};

struct worker {
    struct shared *shared;
    pthread_t thread;
    unsigned number;
    uint64_t random_state;
};

/* @p room_bytes beside what the pools themselves cost. */
static void open_world(struct shared *s, uint64_t quota_bytes, uint64_t room_bytes, unsigned pools,
                       unsigned ops)
{
    const char *scale = getenv("CENOTE_STRESS_SCALE");
    static const cenote_class classes[POOLS] = {CENOTE_CLASS_ATTENTION, CENOTE_CLASS_ACTIVATIONS,
                                                CENOTE_CLASS_GENERAL};
    memset(s, 0, sizeof *s);
    s->ops = ops * (scale != NULL && atoi(scale) > 0 ? (unsigned)atoi(scale) : 1);
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    s->limit_bytes = PROCESS + pools * cenote_pool_overhead_bytes(quota_bytes) + room_bytes;
    options.limit_bytes = s->limit_bytes;
    options.process_bytes = PROCESS;
    assert_int_equal(cenote_budget_create(&options, &s->budget, NULL), CENOTE_OK);
    for (unsigned p = 0; p < pools; p++) {
        cenote_pool_options pool = CENOTE_POOL_OPTIONS_INIT;
        pool.class_id = classes[p];
        pool.quota_bytes = quota_bytes;
        assert_int_equal(cenote_pool_create(s->budget, &pool, &s->pools[p], NULL), CENOTE_OK);
    }
}

static void run_workers(struct shared *s, unsigned count, void *(*work)(void *))
{
    struct worker workers[THREADS];
    for (unsigned i = 0; i < count; i++) {
        workers[i] = (struct worker){.shared = s, .number = i, .random_state = i + 1};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < count; i++)
        pthread_join(workers[i].thread, NULL);
}

static void close_world(struct shared *s, unsigned pools)
{
    cenote_budget_stats stats;
    cenote_budget_stats_get(s->budget, &stats);
    assert_true(stats.charged_peak_bytes <= s->limit_bytes);
    if (s->cache != NULL) {
        assert_null(cenote_tensor_cache_check(s->cache));
        assert_int_equal(cenote_tensor_cache_destroy(s->cache), 0);
    }
    for (unsigned p = 0; p < pools; p++) {
        assert_null(cenote_pool_check(s->pools[p]));
        assert_int_equal(cenote_pool_destroy(s->pools[p]), 0);
    }
    cenote_budget_stats_get(s->budget, &stats);
    assert_int_equal(stats.charged_bytes, PROCESS);
    cenote_budget_destroy(s->budget);
}

/* ---- two pools that ask each other ---- */

/* Each needs two thirds of what there is, again and again: only what the other has idle makes that
 * possible. While the other has a block, it is refused, and tries again. */
static void *demand(void *argument)
{
    struct worker *w = argument;
    struct shared *s = w->shared;
    cenote_pool *own = s->pools[w->number];
    for (unsigned i = 0; i < s->ops; i++) {
        uint64_t size_bytes = MIB - random_below(&w->random_state, 64 * KIB);
        void *data;
        while (cenote_pool_alloc(own, size_bytes, &data, NULL) != CENOTE_OK)
            sched_yield();
        ((unsigned char *)data)[0] = ((unsigned char *)data)[size_bytes - 1] = (unsigned char)i;
        cenote_pool_free(own, data);
        atomic_fetch_add(&s->given, 1);
    }
    return NULL;
}

static void test_two_pools_ask_each_other(void **state)
{
    (void)state;
    static struct shared s;
    open_world(&s, QUOTA, 3 * MIB / 2, 2, 1000);
    run_workers(&s, 2, demand);
    assert_int_equal(s.given, 2 * s.ops);
    cenote_budget_stats stats;
    cenote_budget_stats_get(s.budget, &stats);
    assert_true(stats.reclaim[CENOTE_RECLAIM_IDLE].gave_count > 0);
    close_world(&s, 2);
}

/* ---- idle memory that wanders ---- */

#define WANDER_QUOTA (128 * MIB)

/* A large block of one pool after another: what the last one left serves the next. */
static void *wander(void *argument)
{
    struct worker *w = argument;
    struct shared *s = w->shared;
    for (unsigned i = 0; i < s->ops; i++) {
        cenote_pool *pool = s->pools[(w->number + i) % POOLS];
        uint64_t size_bytes = 8 * MIB + random_below(&w->random_state, 24 * MIB);
        void *data;
        if (cenote_pool_alloc(pool, size_bytes, &data, NULL) != CENOTE_OK) {
            atomic_fetch_add(&s->refused, 1);
            continue;
        }
        unsigned char *bytes = data, mark = (unsigned char)(w->number + i);
        for (uint64_t at = 0; at < size_bytes; at += 64 * KIB)
            bytes[at] = mark;
        for (uint64_t at = 0; at < size_bytes; at += 64 * KIB)
            if (bytes[at] != mark)
                atomic_store(&s->broken, true);
        cenote_pool_free(pool, data);
    }
    return NULL;
}

static void test_idle_memory_wanders(void **state)
{
    (void)state;
    static struct shared s;
    open_world(&s, WANDER_QUOTA, POOLS * WANDER_QUOTA, POOLS, 40);
    run_workers(&s, THREADS, wander);
    cenote_budget_stats stats;
    cenote_budget_stats_get(s.budget, &stats);
    assert_false(s.broken);
    assert_int_equal(s.refused, 0);
    assert_true(stats.reclaim[CENOTE_RECLAIM_IDLE].gave_count > 0);
    close_world(&s, POOLS);
}

/* ---- all at once ---- */

struct block {
    cenote_pool *pool;
    cenote_tensor tensor; /* of the cache; or */
    unsigned char *data;  /* a raw block */
    uint64_t size_bytes;
};

static void take(struct worker *w, struct block *b)
{
    struct shared *s = w->shared;
    cenote_status status;
    unsigned p = (unsigned)random_below(&w->random_state, POOLS);
    b->pool = s->pools[p];
    if (random_below(&w->random_state, 2) == 0) {
        void *data;
        b->size_bytes = 1 + random_below(&w->random_state, 200 * KIB);
        status = cenote_pool_alloc(b->pool, b->size_bytes, &data, NULL);
        if (status == CENOTE_OK) {
            b->data = data;
            b->data[0] = b->data[b->size_bytes - 1] = (unsigned char)w->number;
        }
    } else {
        static const uint64_t columns[] = {16, 1024, 65536, 150000};
        cenote_tensor_spec spec = {
            CENOTE_DTYPE_U8, 2, {1, columns[random_below(&w->random_state, 4)]}};
        status = cenote_tensor_cache_get(s->cache, b->pool, &spec, &b->tensor, NULL);
    }
    atomic_fetch_add(status == CENOTE_OK ? &s->given : &s->refused, 1);
}

static void drop(struct worker *w, struct block *b)
{
    struct shared *s = w->shared;
    if (b->data != NULL) {
        if (b->data[0] != (unsigned char)w->number ||
            b->data[b->size_bytes - 1] != (unsigned char)w->number)
            atomic_store(&s->broken, true);
        cenote_pool_free(b->pool, b->data);
    } else if (b->tensor != CENOTE_TENSOR_NONE) {
        void *data;
        if (cenote_tensor_pin(b->pool, b->tensor, &data, NULL) != CENOTE_OK)
            atomic_store(&s->broken, true);
        else
            *(unsigned char *)data = (unsigned char)w->number;
        if (cenote_tensor_unpin(b->pool, b->tensor, NULL) != CENOTE_OK ||
            cenote_tensor_cache_release(s->cache, b->pool, b->tensor, NULL) != CENOTE_OK)
            atomic_store(&s->broken, true);
    }
    *b = (struct block){0};
}

static void disturb(struct worker *w)
{
    struct shared *s = w->shared;
    cenote_pool *pool = s->pools[random_below(&w->random_state, POOLS)];
    switch (random_below(&w->random_state, 5)) {
    case 0:
        (void)!cenote_pool_quota_set(pool, MIB / 2 + random_below(&w->random_state, 4 * MIB), NULL);
        break;
    case 1:
        (void)!cenote_budget_limit_set(s->budget,
                                       s->limit_bytes - random_below(&w->random_state, MIB), NULL);
        break;
    case 2:
        (void)cenote_tensor_cache_trim(s->cache, random_below(&w->random_state, MIB));
        break;
    case 3:
        (void)cenote_pool_trim(pool);
        break;
    default:
        if (cenote_budget_charge(s->budget, MIB / 4, "stress", NULL) == CENOTE_OK)
            cenote_budget_uncharge(s->budget, MIB / 4);
        break;
    }
}

static void *mix(void *argument)
{
    struct worker *w = argument;
    struct block live[LIVE] = {0};
    for (unsigned i = 0; i < w->shared->ops; i++) {
        struct block *b = &live[random_below(&w->random_state, LIVE)];
        if (b->data == NULL && b->tensor == CENOTE_TENSOR_NONE)
            take(w, b);
        else
            drop(w, b);
        if (i % 16 == 0)
            disturb(w);
    }
    for (unsigned i = 0; i < LIVE; i++)
        drop(w, &live[i]);
    return NULL;
}

/* Every row is true at its moment, and their order. */
static void *watch(void *argument)
{
    struct shared *s = argument;
    cenote_budget_holder holders[POOLS];
    cenote_tensor_cache_stats stats;
    while (!atomic_load(&s->done)) {
        size_t count = cenote_budget_explain(s->budget, holders, POOLS);
        for (size_t i = 0; i < count; i++)
            if (holders[i].live_bytes + holders[i].idle_bytes > holders[i].charged_bytes ||
                (i > 0 && holders[i].charged_bytes > holders[i - 1].charged_bytes))
                atomic_store(&s->broken, true);
        cenote_tensor_cache_stats_get(s->cache, CENOTE_CLASS_COUNT, &stats);
        if (stats.kept_bytes > stats.limit_bytes)
            atomic_store(&s->broken, true);
    }
    return NULL;
}

static void test_everything_at_once(void **state)
{
    (void)state;
    static struct shared s;
    pthread_t watcher;
    open_world(&s, QUOTA, 2 * MIB, POOLS, 2000);
    cenote_tensor_cache_options options = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
    options.pools = s.pools;
    options.pool_count = POOLS;
    options.limit_bytes = MIB;
    assert_int_equal(cenote_tensor_cache_create(&options, &s.cache, NULL), CENOTE_OK);
    assert_int_equal(pthread_create(&watcher, NULL, watch, &s), 0);
    run_workers(&s, THREADS, mix);
    atomic_store(&s.done, true);
    pthread_join(watcher, NULL);
    cenote_budget_stats stats;
    cenote_tensor_cache_stats cache;
    cenote_budget_stats_get(s.budget, &stats);
    cenote_tensor_cache_stats_get(s.cache, CENOTE_CLASS_COUNT, &cache);
    assert_false(s.broken);
    assert_true(s.given > 0 && s.refused > 0);
    assert_true(stats.reclaim[CENOTE_RECLAIM_CACHE].gave_count > 0); /* else it was never tight */
    assert_true(cache.hit_count > 0 && cache.lent_count == 0);
    close_world(&s, POOLS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_pools_ask_each_other),
        cmocka_unit_test(test_idle_memory_wanders),
        cmocka_unit_test(test_everything_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
