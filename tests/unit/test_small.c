/* SPDX-License-Identifier: Apache-2.0 */
/* Small blocks and caches of threads, promise by promise: what they cost, where they lie, and when
 * what a thread has at hand goes back. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/pool.h>

#include "pool/thread_cache.h"
#include "pool_fixture.h"

#define KIB     UINT64_C(1024)
#define MIB     (KIB * KIB)
#define GRANULE ((uint64_t)CENOTE_GRANULE_BYTES)
#define LIMIT   (256 * MIB)

static int set_up(void **state)
{
    return rig_up(state, LIMIT, CENOTE_CLASS_GENERAL);
}

/* ---- what blocks cost ---- */

/* 1,000 embeddings of 2560 bf16 and 100 of 72 KiB: 12 MiB, where runs of granules take 75. */
static void test_small_blocks_pack(void **state)
{
    struct rig *rig = *state;
    for (unsigned i = 0; i < 1000; i++)
        (void)rig_alloc(rig->pool, 5120);
    for (unsigned i = 0; i < 100; i++)
        (void)rig_alloc(rig->pool, 72 * KIB);
    cenote_pool_stats stats = rig_stats(rig->pool);
    uint64_t asked = 1000 * 5120 + 100 * 72 * KIB;
    assert_int_equal(stats.requested_bytes, asked);
    assert_int_equal(stats.block_count, 1100);
    assert_int_equal(stats.alloc_count, 1100);
    assert_in_range(stats.used_total_bytes, asked, asked + asked / 32);
    assert_true((double)stats.used_bytes <= 1.02 * (double)asked + 2 * (double)GRANULE);
    assert_true(stats.internal_fragmentation < 0.03);
    assert_int_equal(rig_charged(rig), cenote_pool_overhead_bytes(LIMIT) +
                                           cenote_pool_charge_bytes(stats.committed_bytes) +
                                           stats.small_metadata_bytes);
    assert_int_equal(cenote_pool_destroy(rig->pool), 1100);
    rig->pool = NULL;
}

static void test_alignment(void **state)
{
    struct rig *rig = *state;
    for (uint64_t power = 64; power <= 64 * KIB; power *= 2)
        for (uint64_t odd = 1; odd <= 15; odd += 2)
            for (unsigned i = 0; i < 3; i++) {
                uintptr_t at = (uintptr_t)rig_alloc(rig->pool, power * odd);
                assert_int_equal(at % power, 0);
            }
    assert_int_equal((uintptr_t)rig_alloc(rig->pool, 1) % 64, 0);
    assert_int_equal((uintptr_t)rig_alloc(rig->pool, 5 * MIB + 1) % GRANULE, 0);
}

static void test_metadata_is_small(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(rig_stats(rig->pool).small_metadata_bytes, 0); /* nothing before the first */
    for (unsigned i = 0; i < 200000; i++) {
        void *data;
        assert_int_equal(cenote_pool_alloc(rig->pool, 512, &data, NULL), CENOTE_OK);
    }
    cenote_pool_stats stats = rig_stats(rig->pool);
    /* The pages' share, beside what every pool with small blocks and every thread has once. */
    double share = (double)(stats.small_metadata_bytes - 5 * CN_GRANULE_CHARGE_BYTES) /
                   (double)stats.used_bytes;
    if (share > 0.0025)
        fail_msg("metadata is %.3f %%", 100 * share);
}

static void test_exact_runs(void **state)
{
    struct rig *rig = *state;
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    cenote_pool *pool = NULL;
    options.class_id = CENOTE_CLASS_IMAGE_FEATURES;
    options.quota_bytes = 3 * GRANULE;
    options.exact_runs = 1;
    assert_int_equal(cenote_pool_create(rig->budget, &options, &pool, NULL), CENOTE_OK);
    uint64_t before = rig_charged(rig);
    (void)rig_alloc(pool, 100);
    void *data = rig_alloc(pool, GRANULE + 1);
    assert_int_equal(rig_charged(rig) - before, 3 * (GRANULE + 128));
    cenote_pool_free(pool, data);
    assert_int_equal(rig_stats(pool).thread_cached_bytes, 0);
    assert_int_equal(cenote_pool_destroy(pool), 1);
}

/* ---- what a thread has at hand ---- */

static void test_freed_blocks_are_at_hand(void **state)
{
    struct rig *rig = *state;
    void *a = rig_alloc(rig->pool, 1000), *b = rig_alloc(rig->pool, 1000);
    cenote_pool_free(rig->pool, a);
    cenote_pool_free(rig->pool, b);
    cenote_pool_stats stats = rig_stats(rig->pool);
    assert_int_equal(stats.block_count, 0);
    assert_int_equal(stats.requested_bytes, 0);
    assert_int_equal(stats.requested_total_bytes, 2000);
    assert_in_range(stats.thread_cached_bytes, 2 * KIB, 4 * KIB);
    assert_ptr_equal(rig_alloc(rig->pool, 1024), b); /* the last that was freed */
    assert_ptr_equal(rig_alloc(rig->pool, 961), a);
    assert_int_equal(rig_stats(rig->pool).alloc_count, 4);
    (void)cenote_pool_trim(rig->pool);
    assert_null(cenote_pool_check(rig->pool));
    assert_int_equal(rig_stats(rig->pool).thread_cached_bytes, 0);
    cenote_pool_free(rig->pool, a);
    cenote_pool_free(rig->pool, b);
    (void)cenote_pool_trim(rig->pool);
    assert_int_equal(rig_stats(rig->pool).committed_bytes, 0);
}

static unsigned told_count;

static void count_told(const cenote_trace_op *event)
{
    (void)event;
    told_count++;
}

/* Who watches is told of what a thread has at hand too, of pools that were there and of new ones;
 * and afterwards it is at hand again. */
static void test_watching(void **state)
{
    struct rig *rig = *state;
    cenote_pool_free(rig->pool, rig_alloc(rig->pool, 1000));
    cn_thread_cache_watch(count_told);
    cenote_pool *other = rig_pool(rig, CENOTE_CLASS_TEXT_EMBEDDINGS, 0);
    for (unsigned i = 0; i < 10; i++) {
        cenote_pool_free(rig->pool, rig_alloc(rig->pool, 1000));
        cenote_pool_free(other, rig_alloc(other, 1000));
    }
    cn_thread_cache_watch(NULL);
    assert_int_equal(told_count, 40);
    cenote_pool *pools[] = {rig->pool, other};
    for (unsigned i = 0; i < 2; i++) {
        void *data = NULL;
        assert_true(cn_thread_cache_pop(pools[i], 1000, &data));
        assert_true(cn_thread_cache_push(pools[i], data));
    }
    assert_int_equal(told_count, 40);
    assert_int_equal(rig_stats(rig->pool).alloc_count, 12);
    (void)cenote_pool_destroy(other);
}

/* However much is freed, a hundredth of the budget stays at hand, of all pools together. */
static void test_cap(void **state)
{
    struct rig *rig = *state;
    cenote_pool *other = rig_pool(rig, CENOTE_CLASS_TEXT_EMBEDDINGS, 0);
    static void *blocks[2][600];
    for (unsigned i = 0; i < 600; i++) {
        blocks[0][i] = rig_alloc(rig->pool, 1 + i * 613 % (400 * KIB));
        blocks[1][i] = rig_alloc(other, 1 + i * 919 % (200 * KIB));
    }
    uint64_t most = 0;
    for (unsigned i = 0; i < 600; i++) {
        cenote_pool_free(rig->pool, blocks[0][i]);
        cenote_pool_free(other, blocks[1][i]);
        uint64_t both =
            rig_stats(rig->pool).thread_cached_bytes + rig_stats(other).thread_cached_bytes;
        most = both > most ? both : most;
    }
    assert_in_range(most, LIMIT / 200, LIMIT / 100);
    /* A lower limit: the caches hear of it at their next miss. */
    assert_int_equal(cenote_budget_limit_set(rig->budget, 128 * MIB, NULL), CENOTE_OK);
    for (unsigned i = 0; i < 40; i++) {
        (void)rig_alloc(rig->pool, 100 * KIB);
        (void)rig_alloc(other, 100 * KIB);
    }
    assert_in_range(rig_stats(rig->pool).thread_cached_bytes + rig_stats(other).thread_cached_bytes,
                    0, 128 * MIB / 100);
    (void)cenote_pool_destroy(other);
}

/* And of one pool 16 MiB for one thread and as much in the depot. */
static void test_cap_of_a_cache(void **state)
{
    struct rig *rig = *state;
    void *blocks[100];
    assert_int_equal(cenote_budget_limit_set(rig->budget, 4096 * MIB, NULL), CENOTE_OK);
    for (unsigned i = 0; i < 100; i++)
        blocks[i] = rig_alloc(rig->pool, (480 - i % 2 * 80) * KIB);
    for (unsigned i = 0; i < 100; i++) {
        cenote_pool_free(rig->pool, blocks[i]);
        assert_in_range(rig_stats(rig->pool).thread_cached_bytes, 0, 32 * MIB);
    }
    assert_in_range(rig_stats(rig->pool).thread_cached_bytes, 24 * MIB, 32 * MIB);
}

/* What runs over in one class is at hand again, last in, first out, in whatever number. */
static void test_many_blocks_of_a_class(void **state)
{
    struct rig *rig = *state;
    void *blocks[100];
    assert_int_equal(cenote_budget_limit_set(rig->budget, 2048 * MIB, NULL), CENOTE_OK);
    for (unsigned i = 0; i < 100; i++)
        blocks[i] = rig_alloc(rig->pool, 64 * KIB);
    uint64_t used = rig_stats(rig->pool).used_bytes;
    for (unsigned i = 0; i < 100; i++)
        cenote_pool_free(rig->pool, blocks[i]);
    assert_int_equal(rig_stats(rig->pool).thread_cached_bytes, 100 * 64 * KIB);
    assert_null(cenote_pool_check(rig->pool));
    for (unsigned i = 100; i-- > 0;)
        assert_ptr_equal(rig_alloc(rig->pool, 64 * KIB), blocks[i]);
    assert_int_equal(rig_stats(rig->pool).used_bytes, used);
    (void)cenote_pool_trim(rig->pool);
    assert_int_equal(rig_stats(rig->pool).thread_cached_bytes, 0);
}

/* What this thread has at hand is nothing that a request of its own is refused for. */
static void test_own_caches_give_way(void **state)
{
    struct rig *rig = *state;
    cenote_pool *other = rig_pool(rig, CENOTE_CLASS_PARAMETERS, 0);
    void *a = rig_alloc(rig->pool, MIB), *b = rig_alloc(rig->pool, 400 * KIB);
    cenote_pool_free(rig->pool, a);
    cenote_pool_free(rig->pool, b);
    assert_int_equal(rig_stats(rig->pool).thread_cached_bytes, MIB + 416 * KIB);
    uint64_t left = LIMIT - RIG_PROCESS_BYTES - rig_charged(rig);
    (void)rig_alloc(other, (left + MIB) / CN_GRANULE_CHARGE_BYTES * GRANULE);
    assert_int_equal(rig_stats(rig->pool).thread_cached_bytes, 0);
    assert_null(cenote_pool_check(rig->pool));
    (void)cenote_pool_destroy(other);
}

/* ---- threads ---- */

struct meeting {
    struct rig *rig;
    pthread_barrier_t barrier;
    void *block;
};

static void *cache_and_wait(void *argument)
{
    struct meeting *m = argument;
    void *data = rig_alloc(m->rig->pool, MIB);
    cenote_pool_free(m->rig->pool, data);
    pthread_barrier_wait(&m->barrier);  /* there is a block at hand */
    pthread_barrier_wait(&m->barrier);  /* somebody needed it */
    (void)rig_alloc(m->rig->pool, 100); /* a miss */
    pthread_barrier_wait(&m->barrier);
    pthread_barrier_wait(&m->barrier); /* looked at */
    return NULL;
}

/* Another thread's cache gives up at its next miss, and when the thread ends. */
static void test_other_threads_give_up(void **state)
{
    struct meeting m = {.rig = *state};
    cenote_pool *other = rig_pool(m.rig, CENOTE_CLASS_PARAMETERS, 0);
    pthread_t thread;
    pthread_barrier_init(&m.barrier, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, cache_and_wait, &m), 0);
    pthread_barrier_wait(&m.barrier);
    assert_int_equal(rig_stats(m.rig->pool).thread_cached_bytes, MIB);
    void *data = NULL;
    assert_int_equal(cenote_pool_alloc(other, LIMIT - MIB, &data, NULL), CENOTE_E_BUDGET);
    assert_int_equal(rig_stats(m.rig->pool).thread_cached_bytes, MIB); /* not at once */
    pthread_barrier_wait(&m.barrier);
    pthread_barrier_wait(&m.barrier);
    assert_int_equal(rig_stats(m.rig->pool).thread_cached_bytes, 0);
    pthread_barrier_wait(&m.barrier);
    pthread_join(thread, NULL);
    assert_int_equal(rig_stats(m.rig->pool).alloc_count, 2); /* what it counted stays */
    (void)cenote_pool_destroy(other);
    pthread_barrier_destroy(&m.barrier);
}

static void *cache_and_end(void *argument)
{
    struct rig *rig = argument;
    void *blocks[100];
    for (unsigned i = 0; i < 100; i++)
        blocks[i] = rig_alloc(rig->pool, 300 + i);
    for (unsigned i = 0; i < 100; i++)
        cenote_pool_free(rig->pool, blocks[i]);
    return NULL;
}

static void test_ended_threads_leave_nothing(void **state)
{
    struct rig *rig = *state;
    uint64_t metadata = 0;
    for (unsigned i = 0; i < 20; i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, cache_and_end, rig), 0);
        pthread_join(thread, NULL);
        cenote_pool_stats stats = rig_stats(rig->pool);
        assert_int_equal(stats.thread_cached_bytes, 0);
        assert_int_equal(stats.used_bytes, 0);
        assert_int_equal(stats.alloc_count, 100 * (i + 1));
        /* And the next thread has the memory of its cache. */
        assert_true(i == 0 || stats.small_metadata_bytes == metadata);
        metadata = stats.small_metadata_bytes;
    }
}

static void *free_it(void *argument)
{
    struct meeting *m = argument;
    cenote_pool_free(m->rig->pool, m->block);
    return NULL;
}

/* A block is anybody's to free, also for a thread that never allocated. */
static void test_remote_free(void **state)
{
    struct meeting m = {.rig = *state};
    m.block = rig_alloc(m.rig->pool, 5000);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, free_it, &m), 0);
    pthread_join(thread, NULL);
    cenote_pool_stats stats = rig_stats(m.rig->pool);
    assert_int_equal(stats.block_count, 0);
    assert_int_equal(stats.thread_cached_bytes, 0);
    assert_ptr_equal(rig_alloc(m.rig->pool, 5000), m.block);
}

static void *outlive_a_pool(void *argument)
{
    struct meeting *m = argument;
    void *data = rig_alloc(m->rig->pool, 1000);
    cenote_pool_free(m->rig->pool, data);
    pthread_barrier_wait(&m->barrier);
    pthread_barrier_wait(&m->barrier); /* the pool is gone, and another one is there */
    data = rig_alloc(m->rig->pool, 1000);
    cenote_pool_free(m->rig->pool, data);
    return NULL;
}

static void test_pool_goes_while_threads_live(void **state)
{
    struct meeting m = {.rig = *state};
    pthread_t thread;
    pthread_barrier_init(&m.barrier, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, outlive_a_pool, &m), 0);
    pthread_barrier_wait(&m.barrier);
    assert_int_equal(cenote_pool_destroy(m.rig->pool), 0);
    m.rig->pool = rig_pool(m.rig, CENOTE_CLASS_GENERAL, 0);
    pthread_barrier_wait(&m.barrier);
    pthread_join(thread, NULL);
    assert_int_equal(rig_stats(m.rig->pool).thread_cached_bytes, 0);
    assert_int_equal(rig_stats(m.rig->pool).alloc_count, 1);
    pthread_barrier_destroy(&m.barrier);
}

/* More pools than a thread has slots for: they share them. */
static void test_many_pools(void **state)
{
    struct rig *rig = *state;
    enum { POOLS = 2 * CN_THREAD_CACHE_SLOTS + 3 };
    cenote_pool *pools[POOLS];
    void *data[POOLS];
    for (unsigned i = 0; i < POOLS; i++)
        pools[i] =
            rig_pool(rig, i % 2 == 0 ? CENOTE_CLASS_GENERAL : CENOTE_CLASS_TEXT_EMBEDDINGS, 0);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < POOLS; i++) {
            void *again = rig_alloc(pools[i], 700);
            assert_true(round == 0 || again == data[i]);
            data[i] = again;
        }
        for (unsigned i = 0; i < POOLS; i++)
            cenote_pool_free(pools[i], data[i]);
    }
    for (unsigned i = 0; i < POOLS; i++) {
        assert_int_equal(rig_stats(pools[i]).alloc_count, 3);
        assert_int_equal(cenote_pool_destroy(pools[i]), 0);
    }
}

/* ---- faults ---- */

/* Each reservation and commit fails in turn: an error that says so or a block that is good, and
 * nothing is left behind. */
static void test_fault_sweep(void **state)
{
    struct rig *rig = *state;
    unsigned refused = 0;
    for (uint64_t nth = 1;; nth++) {
        cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_GENERAL, 0);
        void *blocks[3] = {NULL, NULL, NULL};
        cenote_status status = CENOTE_OK;
        cenote_error err = {0};
        cn_fake_fail(rig->fake, CN_FAKE_MEMORY, nth, ENOMEM);
        static const uint64_t sizes[3] = {300, 300 * KIB, 700 * KIB};
        for (unsigned i = 0; i < 3 && status == CENOTE_OK; i++)
            status = cenote_pool_alloc(pool, sizes[i], &blocks[i], &err);
        cn_fake_fail(rig->fake, CN_FAKE_MEMORY, 0, 0);
        assert_null(cenote_pool_check(pool));
        if (status != CENOTE_OK) {
            assert_int_equal(status, CENOTE_E_NOMEM);
            assert_non_null(strstr(err.message, "Cannot allocate memory"));
            refused++;
        }
        unsigned live = 0;
        for (unsigned i = 0; i < 3; i++)
            live += blocks[i] != NULL;
        assert_int_equal(cenote_pool_destroy(pool), live);
        if (status == CENOTE_OK && live == 3 && nth > refused + 3)
            break;
    }
    assert_in_range(refused, 4, 9);
}

/* A budget that is too small for the book-keeping, by a granule more each time. */
static void test_tight_budgets(void **state)
{
    (void)state;
    bool fitted = false;
    for (uint64_t granules = 1; granules < 20; granules++) {
        cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
        cenote_budget *budget;
        cenote_pool *pool;
        options.process_bytes = RIG_PROCESS_BYTES;
        options.limit_bytes =
            RIG_PROCESS_BYTES + cenote_pool_overhead_bytes(MIB) + granules * GRANULE;
        assert_int_equal(cenote_budget_create(&options, &budget, NULL), CENOTE_OK);
        cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
        pool_options.quota_bytes = MIB;
        assert_int_equal(cenote_pool_create(budget, &pool_options, &pool, NULL), CENOTE_OK);
        void *data = NULL;
        cenote_error err = {0};
        cenote_status status = cenote_pool_alloc(pool, 300, &data, &err);
        assert_null(cenote_pool_check(pool));
        assert_true(status == CENOTE_OK || (status == CENOTE_E_BUDGET && err.message[0] != '\0'));
        assert_true(status == CENOTE_OK || !fitted); /* more room is never worse */
        fitted = status == CENOTE_OK;
        assert_int_equal(cenote_pool_destroy(pool), fitted);
        cenote_budget_destroy(budget);
    }
    assert_true(fitted);
}

static bool dies(void (*misuse)(struct rig *), struct rig *rig)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct sigaction action = {.sa_handler = SIG_DFL};
        sigaction(SIGABRT, &action, NULL);
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(0);
        misuse(rig);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0);
}

/* A bin that is full looks, and so does the pool when it has its blocks back. */
static void free_twice(struct rig *rig)
{
    void *a = rig_alloc(rig->pool, 1000);
    cenote_pool_free(rig->pool, a);
    cenote_pool_free(rig->pool, a);
    (void)cenote_pool_trim(rig->pool);
}

static void free_inside(struct rig *rig)
{
    char *a = rig_alloc(rig->pool, 1000);
    cenote_pool_free(rig->pool, a + 64);
    (void)cenote_pool_trim(rig->pool);
}

static void free_inside_a_run(struct rig *rig)
{
    char *a = rig_alloc(rig->pool, 100 * KIB);
    cenote_pool_free(rig->pool, a + 8192);
}

static void free_free_pages(struct rig *rig)
{
    char *a = rig_alloc(rig->pool, 8192);
    cenote_pool_free(rig->pool, a + 8192);
}

static void test_bugs_are_caught(void **state)
{
    struct rig *rig = *state;
    assert_true(dies(free_twice, rig));
    assert_true(dies(free_inside, rig));
    assert_true(dies(free_inside_a_run, rig));
    assert_true(dies(free_free_pages, rig));
}

int main(void)
{
#define SMALL_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, rig_down)
    const struct CMUnitTest tests[] = {
        SMALL_TEST(test_small_blocks_pack),
        SMALL_TEST(test_alignment),
        SMALL_TEST(test_metadata_is_small),
        SMALL_TEST(test_exact_runs),
        SMALL_TEST(test_freed_blocks_are_at_hand),
        SMALL_TEST(test_watching),
        SMALL_TEST(test_cap),
        SMALL_TEST(test_cap_of_a_cache),
        SMALL_TEST(test_many_blocks_of_a_class),
        SMALL_TEST(test_own_caches_give_way),
        SMALL_TEST(test_other_threads_give_up),
        SMALL_TEST(test_ended_threads_leave_nothing),
        SMALL_TEST(test_remote_free),
        SMALL_TEST(test_pool_goes_while_threads_live),
        SMALL_TEST(test_many_pools),
        SMALL_TEST(test_fault_sweep),
        cmocka_unit_test(test_tight_budgets),
        SMALL_TEST(test_bugs_are_caught),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
