/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that alloc and free on one pool while they are recorded, and recordings that begin and
 * end meanwhile. In a trace, whatever thread a block came from, it lives from its allocation to its
 * free and nobody else has its place between. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "checkpoint.h"

#define THREADS     4
#define ROUNDS      8
#define OPS         3000
#define GRANULES    1024u
#define PLACE_BYTES 64u /* no block is smaller */
#define PLACES      (GRANULES * (CENOTE_GRANULE_BYTES / PLACE_BYTES))

static cenote_budget *budget;
static cenote_pool *pool;
static _Atomic(void *) shared[THREADS]; /* blocks that one thread leaves for the next */

static void *work(void *argument)
{
    uintptr_t self = (uintptr_t)argument;
    uint64_t random = self + 1;
    for (int i = 0; i < OPS; i++) {
        void *data;
        random = random * UINT64_C(6364136223846793005) + 1;
        if (cenote_pool_alloc(pool, 1 + (random >> 40) % 200000, &data, NULL) != CENOTE_OK)
            continue;
        cenote_pool_free(pool, atomic_exchange(&shared[(self + random % 2) % THREADS], data));
    }
    return NULL;
}

struct replay {
    bool live[PLACES];
    uint64_t count, thread_max, foreign;
};

static cenote_status visit(void *context, const cenote_trace_op *op, cenote_error *err)
{
    (void)err;
    struct replay *replay = context;
    uint64_t place = op->id / PLACE_BYTES;
    assert_true(place < PLACES);
    if (op->kind == CENOTE_TRACE_ALLOC) {
        assert_false(replay->live[place]);
        replay->live[place] = true;
    } else {
        assert_int_equal(op->kind, CENOTE_TRACE_FREE);
        replay->foreign += !replay->live[place];
        replay->live[place] = false;
    }
    replay->count++;
    if (op->thread > replay->thread_max)
        replay->thread_max = op->thread;
    return CENOTE_OK;
}

static uint64_t check(const char *path, bool all)
{
    static struct replay replay;
    static unsigned char bytes[1 << 20];
    uint64_t torn;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t size = read(fd, bytes, sizeof bytes);
    assert_true(size > 0 && size < (ssize_t)sizeof bytes);
    close(fd);
    unlink(path);
    memset(&replay, 0, sizeof replay);
    assert_int_equal(cenote_trace_read(bytes, (uint64_t)size, visit, &replay, &torn, NULL),
                     CENOTE_OK);
    assert_int_equal(torn, 0);
    assert_true(replay.thread_max <= THREADS);
    if (all)
        assert_int_equal(replay.foreign, 0);
    return replay.count;
}

static void run(cenote_class class_id)
{
    char folder[512], path[600];
    pthread_t threads[THREADS];
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = UINT64_C(1) << 28;
    options.process_bytes = 1;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    pool_options.class_id = class_id;
    pool_options.quota_bytes = GRANULES / 2 * (uint64_t)CENOTE_GRANULE_BYTES;
    assert_int_equal(cenote_budget_create(&options, &budget, NULL), CENOTE_OK);
    assert_int_equal(cenote_pool_create(budget, &pool_options, &pool, NULL), CENOTE_OK);
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/trace", folder);
    assert_int_equal(cenote_trace_start(path, NULL), CENOTE_OK);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, (void *)i), 0);
    /* the first recording is of the beginning; the others begin among live blocks */
    for (int round = 0; round < ROUNDS; round++) {
        usleep(1000);
        assert_int_equal(cenote_trace_stop(NULL), CENOTE_OK);
        check(path, round == 0);
        assert_int_equal(cenote_trace_start(path, NULL), CENOTE_OK);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
        cenote_pool_free(pool, atomic_exchange(&shared[i], NULL));
    assert_int_equal(cenote_trace_stop(NULL), CENOTE_OK);
    check(path, false);
    /* all of it in one */
    assert_int_equal(cenote_trace_start(path, NULL), CENOTE_OK);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
        cenote_pool_free(pool, atomic_exchange(&shared[i], NULL));
    assert_int_equal(cenote_trace_stop(NULL), CENOTE_OK);
    assert_int_equal(check(path, true), 2 * THREADS * OPS);
    rmdir(folder);
    assert_int_equal(cenote_pool_destroy(pool), 0);
    cenote_budget_destroy(budget);
}

static void test_granules(void **state)
{
    (void)state;
    run(CENOTE_CLASS_ACTIVATIONS);
}

static void test_small_blocks(void **state)
{
    (void)state;
    run(CENOTE_CLASS_GENERAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_granules),
        cmocka_unit_test(test_small_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
