/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that create, pin, write, check, unpin and release tensors of one pool that is too small
 * for all of them, while others compact it without a pause: nobody sees another one's bytes, and
 * what is pinned stays. Half of the tensors are rebuildable, so they may be gone.
 * CENOTE_STRESS_SCALE multiplies the operations. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/tensor.h>

#include "random.h"

#define MIB      UINT64_C(1048576)
#define WORKERS  3
#define LIVE_MAX 8
#define OPS      600
#define STRIDE   65536u

struct shared {
    cenote_budget *budget;
    cenote_pool *pool;
    unsigned ops;
    atomic_uint given, refused, dropped, found_dropped;
    atomic_bool over;
    _Atomic(const char *) broken;
};

struct tensor {
    cenote_tensor handle; /* 0: an empty place */
    uint64_t size_bytes;
    unsigned char mark;
};

struct worker {
    struct shared *shared;
    pthread_t thread;
    uint64_t random_state;
    struct tensor live[LIVE_MAX];
};

static void on_drop(void *context, cenote_tensor tensor)
{
    struct shared *s = context;
    (void)tensor;
    atomic_fetch_add(&s->dropped, 1);
}

/* Pins, checks or writes the marks, and looks again a while later whether all is still there. */
static void look(struct worker *w, struct tensor *t, bool fresh)
{
    struct shared *s = w->shared;
    void *pinned;
    cenote_status status = cenote_tensor_pin(s->pool, t->handle, &pinned, NULL);
    if (status == CENOTE_E_NOTFOUND) {
        atomic_fetch_add(&s->found_dropped, 1);
        return;
    }
    if (status != CENOTE_OK) {
        atomic_store(&s->broken, "a live tensor cannot be pinned");
        return;
    }
    unsigned char *data = pinned;
    for (unsigned round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < t->size_bytes; i += STRIDE) {
            if (fresh && round == 0)
                data[i] = t->mark;
            else if (data[i] != t->mark)
                atomic_store(&s->broken, "a tensor's bytes changed");
        }
        if (random_below(&w->random_state, 16) == 0)
            (void)!cenote_pool_compact(s->pool, NULL, NULL, NULL); /* with it pinned */
    }
    if (cenote_tensor_unpin(s->pool, t->handle, NULL) != CENOTE_OK)
        atomic_store(&s->broken, "a pinned tensor cannot be unpinned");
}

static void begin(struct worker *w, struct tensor *t)
{
    struct shared *s = w->shared;
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    options.dtype = CENOTE_DTYPE_U8;
    options.rank = 1;
    options.shape[0] = 1 + random_below(&w->random_state, 2 * MIB);
    if (random_below(&w->random_state, 2) == 0) {
        options.dropped = on_drop;
        options.dropped_context = s;
        options.rebuild_bytes = random_below(&w->random_state, 2) * MIB / 2;
    }
    if (cenote_tensor_create(s->pool, &options, &t->handle, NULL) != CENOTE_OK) {
        atomic_fetch_add(&s->refused, 1);
        return;
    }
    atomic_fetch_add(&s->given, 1);
    t->size_bytes = options.shape[0];
    t->mark = (unsigned char)(1 + random_below(&w->random_state, 255));
    look(w, t, true);
}

static void end(struct worker *w, struct tensor *t)
{
    struct shared *s = w->shared;
    if (cenote_tensor_release(s->pool, t->handle, NULL) != CENOTE_OK)
        atomic_store(&s->broken, "a live tensor cannot be released");
    void *data;
    if (cenote_tensor_pin(s->pool, t->handle, &data, NULL) != CENOTE_E_INVAL)
        atomic_store(&s->broken, "a released tensor can be pinned");
    *t = (struct tensor){0};
}

static void *work(void *argument)
{
    struct worker *w = argument;
    struct shared *s = w->shared;
    for (unsigned i = 0; i < s->ops; i++) {
        struct tensor *t = &w->live[random_below(&w->random_state, LIVE_MAX)];
        if (t->handle == CENOTE_TENSOR_NONE)
            begin(w, t);
        else if (random_below(&w->random_state, 3) == 0)
            end(w, t);
        else
            look(w, t, false);
    }
    for (unsigned i = 0; i < LIVE_MAX; i++)
        if (w->live[i].handle != CENOTE_TENSOR_NONE)
            end(w, &w->live[i]);
    return NULL;
}

static void *squeeze(void *argument)
{
    struct shared *s = argument;
    while (!atomic_load(&s->over)) {
        cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
        cenote_tensor_stats stats;
        options.max_moves = 4;
        if (cenote_pool_compact(s->pool, &options, NULL, NULL) != CENOTE_OK)
            atomic_store(&s->broken, "compaction was refused");
        cenote_tensor_stats_get(s->pool, &stats);
        const char *broken = cenote_pool_check(s->pool);
        if (broken != NULL)
            atomic_store(&s->broken, broken);
    }
    return NULL;
}

static void test_pins_and_moves(void **state)
{
    (void)state;
    const char *scale = getenv("CENOTE_STRESS_SCALE");
    struct shared s = {.ops = OPS * (scale != NULL ? (unsigned)atoi(scale) : 1)};
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    budget_options.limit_bytes = 24 * MIB;
    budget_options.process_bytes = MIB;
    assert_int_equal(cenote_budget_create(&budget_options, &s.budget, NULL), CENOTE_OK);
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.class_id = CENOTE_CLASS_KV_CACHE;
    assert_int_equal(cenote_pool_create(s.budget, &options, &s.pool, NULL), CENOTE_OK);
    struct worker workers[WORKERS] = {0};
    pthread_t squeezer;
    assert_int_equal(pthread_create(&squeezer, NULL, squeeze, &s), 0);
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i].shared = &s;
        workers[i].random_state = 88172645463325252u + i;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        pthread_join(workers[i].thread, NULL);
    atomic_store(&s.over, true);
    pthread_join(squeezer, NULL);
    cenote_tensor_stats stats;
    cenote_tensor_stats_get(s.pool, &stats);
    print_message("%u given, %u refused, %u dropped (%u times found so), %llu MiB moved, %llu of "
                  "them by page tables\n",
                  s.given, s.refused, s.dropped, s.found_dropped,
                  (unsigned long long)(stats.moved_bytes / MIB),
                  (unsigned long long)(stats.remapped_bytes / MIB));
    const char *broken = atomic_load(&s.broken);
    if (broken != NULL)
        fail_msg("%s", broken);
    assert_int_equal(stats.live_count, 0);
    assert_true(stats.moved_bytes > 0);
    assert_true(s.dropped > 0);
    assert_int_equal(cenote_pool_destroy(s.pool), 0);
    cenote_budget_stats budget;
    cenote_budget_stats_get(s.budget, &budget);
    assert_int_equal(budget.charged_bytes, MIB);
    cenote_budget_destroy(s.budget);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pins_and_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
