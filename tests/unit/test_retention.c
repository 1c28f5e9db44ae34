/* SPDX-License-Identifier: Apache-2.0 */
/* What a pool commits, keeps and gives back: whole chunks, their limits, pressure, decay, and that
 * what it says it holds is what the kernel says. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include <cenote/pool.h>

#include "pool/budget.h"
#include "pool_fixture.h"
#include "random.h"

#define MIB     (UINT64_C(1) << 20)
#define GRANULE ((uint64_t)CENOTE_GRANULE_BYTES)
#define CHUNK   (2 * MIB)
#define LIMIT   (256 * MIB)
/* So much is handed out for one look at one chunk (pool_retain.c). */
#define TICK (64 * CHUNK)

static int set_up(void **state)
{
    return rig_up(state, LIMIT, CENOTE_CLASS_COUNT);
}

static uint64_t committed(const cenote_pool *pool)
{
    cenote_pool_stats stats;
    cenote_pool_stats_get(pool, &stats);
    return stats.committed_bytes;
}

/* ---- whole chunks ---- */

static void test_commits_whole_chunks(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    uint64_t before = rig_charged(rig), calls = cn_fake_calls(rig->fake, CN_FAKE_COMMIT);
    for (unsigned i = 0; i < 32; i++)
        (void)rig_alloc(pool, 1);
    assert_int_equal(committed(pool), CHUNK);
    assert_int_equal(rig_charged(rig) - before, cenote_pool_charge_bytes(CHUNK));
    assert_int_equal(cn_fake_calls(rig->fake, CN_FAKE_COMMIT), calls + 1);
    assert_int_equal(cn_fake_books_get(rig->fake).huge_count, 1);
    (void)rig_alloc(pool, 3 * MIB); /* to the middle of a chunk; the rest of it serves the next */
    assert_int_equal(committed(pool), 3 * CHUNK);
    (void)rig_alloc(pool, MIB);
    assert_int_equal(committed(pool), 3 * CHUNK);
    assert_int_equal(cn_fake_calls(rig->fake, CN_FAKE_COMMIT), calls + 2);
    (void)cenote_pool_destroy(pool);
}

/* Weights and keys fill what a plan left of the budget: no byte beyond the blocks. */
static void test_two_classes_commit_no_more_than_blocks(void **state)
{
    struct rig *rig = *state;
    static const cenote_class classes[] = {CENOTE_CLASS_PARAMETERS, CENOTE_CLASS_KV_CACHE};
    for (unsigned i = 0; i < 2; i++) {
        cenote_pool *pool = rig_pool(rig, classes[i], 0);
        uint64_t before = rig_charged(rig);
        (void)rig_alloc(pool, 1);
        (void)rig_alloc(pool, 3 * MIB);
        assert_int_equal(rig_charged(rig) - before,
                         cenote_pool_charge_bytes(1) + cenote_pool_charge_bytes(3 * MIB));
        (void)cenote_pool_destroy(pool);
    }
}

static void test_quota_binds_whole_chunks(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 3 * MIB);
    (void)rig_alloc(pool, GRANULE);
    assert_int_equal(committed(pool), CHUNK);
    (void)rig_alloc(pool, 2 * MIB); /* 4 MiB would be more than the quota */
    assert_int_equal(committed(pool), CHUNK + GRANULE);
    (void)rig_alloc(pool, MIB - GRANULE);
    assert_int_equal(committed(pool), 3 * MIB);
    assert_int_equal(cenote_pool_destroy(pool), 3);
}

/* A plan adds up cenote_pool_charge_bytes(). Whatever was committed beyond the blocks gives way. */
static void test_a_plan_holds(void **state)
{
    (void)state;
    static const cenote_class classes[] = {CENOTE_CLASS_ACTIVATIONS, CENOTE_CLASS_PARAMETERS,
                                           CENOTE_CLASS_GRADIENTS};
    static const uint64_t sizes[] = {GRANULE,           MIB + 1,           5 * MIB,
                                     3 * MIB - GRANULE, 2 * MIB + GRANULE, 7 * GRANULE};
    enum { POOLS = 3, BLOCKS = 6 };
    uint64_t quota[POOLS] = {0}, plan = RIG_PROCESS_BYTES;
    for (unsigned i = 0; i < POOLS; i++)
        for (unsigned j = 0; j < BLOCKS; j++) {
            quota[i] += (sizes[j] + GRANULE - 1) / GRANULE * GRANULE;
            plan += cenote_pool_charge_bytes(sizes[j]);
        }
    for (unsigned i = 0; i < POOLS; i++) {
        quota[i] += 8 * MIB; /* room for whole chunks, as far as the quota goes */
        plan += cenote_pool_overhead_bytes(quota[i]);
    }
    struct rig rig = rig_open(cn_fake_create(), plan);
    cenote_pool *pools[POOLS];
    for (unsigned i = 0; i < POOLS; i++)
        pools[i] = rig_pool(&rig, classes[i], quota[i]);
    for (unsigned j = 0; j < BLOCKS; j++)
        for (unsigned i = 0; i < POOLS; i++)
            (void)rig_alloc(pools[i], sizes[j]);
    assert_int_equal(rig_charged(&rig) + RIG_PROCESS_BYTES, plan);
    for (unsigned i = 0; i < POOLS; i++)
        assert_int_equal(cenote_pool_destroy(pools[i]), BLOCKS);
    void *down = memcpy(malloc(sizeof rig), &rig, sizeof rig);
    (void)rig_down(&down);
}

/* Refuses each commit in turn. A machine that refuses a whole chunk may still have the block. */
static void test_fault_sweep(void **state)
{
    struct rig *rig = *state;
    unsigned refused = 0, survived = 0;
    for (unsigned nth = 1;; nth++) {
        cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
        uint64_t before = rig_charged(rig), calls = cn_fake_calls(rig->fake, CN_FAKE_COMMIT);
        void *a = NULL, *b = NULL, *c = NULL;
        cenote_error err = {0};
        cn_fake_fail(rig->fake, CN_FAKE_COMMIT, nth, ENOMEM);
        cenote_status status = cenote_pool_alloc(pool, 3 * GRANULE, &a, &err);
        if (nth == 1) {
            assert_int_equal(status, CENOTE_OK);
            assert_int_equal(rig_charged(rig) - before, cenote_pool_charge_bytes(3 * GRANULE));
        }
        if (status == CENOTE_OK)
            status = cenote_pool_alloc(pool, 3 * MIB, &b, &err);
        (void)cenote_pool_trim(pool); /* what follows finds holes beside blocks */
        cenote_pool_free(pool, a);
        a = NULL;
        if (status == CENOTE_OK)
            status = cenote_pool_alloc(pool, 4 * GRANULE, &c, &err);
        assert_null(cenote_pool_check(pool));
        bool failed = cn_fake_calls(rig->fake, CN_FAKE_COMMIT) - calls >= nth;
        refused += status != CENOTE_OK;
        survived += failed && status == CENOTE_OK;
        cn_fake_fail(rig->fake, CN_FAKE_COMMIT, 0, 0);
        assert_int_equal(cenote_pool_destroy(pool), (b != NULL) + (c != NULL));
        assert_int_equal(rig_charged(rig), before - cenote_pool_overhead_bytes(LIMIT));
        if (!failed)
            break;
    }
    assert_int_equal(refused, 0); /* one refusal is always survived */
    assert_int_equal(survived, 3);
}

/* ---- pressure ---- */

static void test_whole_chunks_go_before_parts(void **state)
{
    struct rig *rig = *state;
    cenote_pool *parts = rig_pool(rig, CENOTE_CLASS_GRADIENTS, 0); /* asked first: lower priority */
    cenote_pool *chunks = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    void *block = rig_alloc(parts, GRANULE);
    cenote_pool_free(chunks, rig_alloc(chunks, 4 * CHUNK));
    uint64_t left = LIMIT - RIG_PROCESS_BYTES - rig_charged(rig);
    /* One byte too many: a chunk, though another pool has idle memory as well. */
    assert_int_equal(cenote_budget_charge(rig->budget, left + 1, "x", NULL), CENOTE_OK);
    assert_int_equal(committed(parts), CHUNK);
    assert_int_equal(committed(chunks), 3 * CHUNK);
    cenote_budget_uncharge(rig->budget, left + 1);
    /* More than all whole chunks: now the huge page breaks. */
    left = LIMIT - RIG_PROCESS_BYTES - rig_charged(rig) + 3 * cenote_pool_charge_bytes(CHUNK);
    assert_int_equal(cenote_budget_charge(rig->budget, left + 1, "x", NULL), CENOTE_OK);
    assert_int_equal(committed(chunks), 0);
    assert_int_equal(committed(parts), GRANULE);
    cenote_budget_uncharge(rig->budget, left + 1);
    cenote_pool_free(parts, block);
    (void)cenote_pool_destroy(parts);
    (void)cenote_pool_destroy(chunks);
}

/* ---- decay ---- */

/* Hands out @p size_bytes in pieces of 1 MiB, one at a time. */
static void hand_out(cenote_pool *pool, uint64_t size_bytes)
{
    for (uint64_t given = 0; given < size_bytes; given += MIB) {
        void *data = NULL;
        assert_int_equal(cenote_pool_alloc(pool, MIB, &data, NULL), CENOTE_OK);
        cenote_pool_free(pool, data);
    }
}

static void test_decay(void **state)
{
    struct rig *rig = *state;
    static const cenote_class classes[] = {CENOTE_CLASS_ACTIVATIONS, CENOTE_CLASS_KV_CACHE};
    for (unsigned i = 0; i < 2; i++) {
        cenote_pool *pool = rig_pool(rig, classes[i], 0);
        uint64_t before = rig_charged(rig);
        cenote_pool_free(pool, rig_alloc(pool, 8 * CHUNK));
        hand_out(pool, 8 * TICK - 8 * CHUNK); /* one round: every chunk has its chance */
        assert_int_equal(committed(pool), 8 * CHUNK);
        hand_out(pool, 4 * TICK);
        assert_in_range(committed(pool), 4 * CHUNK, 5 * CHUNK);
        hand_out(pool, 4 * TICK);
        assert_int_equal(committed(pool), CHUNK); /* what is in use stays */
        assert_int_equal(rig_charged(rig) - before, cenote_pool_charge_bytes(CHUNK));
        assert_null(cenote_pool_check(pool));
        (void)cenote_pool_destroy(pool);
    }
}

/* What comes back before 64 times as much was handed out never goes. */
static void test_a_cycle_does_not_decay(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 0);
    cenote_pool_free(pool, rig_alloc(pool, 8 * CHUNK));
    uint64_t calls = cn_fake_calls(rig->fake, CN_FAKE_COMMIT);
    for (unsigned cycle = 0; cycle < 8; cycle++) {
        hand_out(pool, 7 * TICK);
        cenote_pool_free(pool, rig_alloc(pool, 8 * CHUNK));
        assert_int_equal(committed(pool), 8 * CHUNK);
    }
    assert_int_equal(cn_fake_calls(rig->fake, CN_FAKE_COMMIT), calls);
    (void)cenote_pool_destroy(pool);
}

/* ---- the kernel's view ---- */

#define QUOTA      (64 * MIB)
#define BLOCKS_MAX 24

static uint64_t resident_bytes(void *base, uint64_t size_bytes)
{
    static unsigned char pages[2 * QUOTA / 4096];
    uint64_t count = 0;
    assert_true(size_bytes / 4096 <= sizeof pages);
    assert_int_equal(mincore(base, size_bytes, pages), 0);
    for (uint64_t i = 0; i < size_bytes / 4096; i++)
        count += pages[i] & 1;
    return count * 4096;
}

static bool can_populate(void)
{
#ifdef MADV_POPULATE_WRITE
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool can = madvise(page, 4096, MADV_POPULATE_WRITE) == 0;
    munmap(page, 4096);
    return can;
#else
    return false;
#endif
}

struct life {
    struct rig rig;
    cenote_pool *pool;
    void *base; /* of the pool's range */
    struct {
        unsigned char *data;
        uint64_t size_bytes;
    } blocks[BLOCKS_MAX];
    uint64_t random_state, held_bytes; /* charged to others */
};

/* Takes a block, written from end to end, or gives one back. */
static void turn(struct life *life)
{
    unsigned i = (unsigned)random_below(&life->random_state, BLOCKS_MAX);
    void *data = NULL;
    if (life->blocks[i].data != NULL) {
        cenote_pool_free(life->pool, life->blocks[i].data);
        life->blocks[i].data = NULL;
        return;
    }
    uint64_t size = GRANULE << random_below(&life->random_state, 8);
    size += random_below(&life->random_state, size / GRANULE + 1) * GRANULE;
    if (cenote_pool_alloc(life->pool, size, &data, NULL) != CENOTE_OK)
        return;
    memset(data, 1, size);
    life->blocks[i].data = data;
    life->blocks[i].size_bytes = size;
}

/* Somebody else needs much of the budget, or gives it back. */
static void squeeze(struct life *life)
{
    cenote_budget_uncharge(life->rig.budget, life->held_bytes);
    life->held_bytes = random_below(&life->random_state, 80) * MIB;
    if (cenote_budget_charge(life->rig.budget, life->held_bytes, "others", NULL) != CENOTE_OK)
        life->held_bytes = 0;
}

/* As soon as blocks are written, what the pool says it has committed is resident, to the page,
 * whether chunks are whole or broken, and nothing else is. */
static void test_committed_is_resident(void **state)
{
    (void)state;
    static const cenote_class classes[] = {CENOTE_CLASS_ACTIVATIONS, CENOTE_CLASS_KV_CACHE};
    if (!can_populate()) {
        print_message("this kernel has no MADV_POPULATE_WRITE\n");
        skip();
    }
    for (unsigned c = 0; c < 2; c++) {
        static struct life life;
        life = (struct life){.rig = rig_open(NULL, 96 * MIB), .random_state = 77 + c};
        life.pool = rig_pool(&life.rig, classes[c], QUOTA);
        life.base = rig_alloc(life.pool, GRANULE);
        memset(life.base, 1, GRANULE);
        uint64_t most = 0, least = UINT64_MAX;
        for (unsigned step = 0; step < 600; step++) {
            if (step % 50 == 49)
                (void)cenote_pool_trim(life.pool);
            else if (step % 10 == 9)
                squeeze(&life);
            else
                turn(&life);
            uint64_t now = committed(life.pool);
            assert_null(cenote_pool_check(life.pool));
            if (resident_bytes(life.base, 2 * QUOTA) != now)
                fail_msg("class %u, step %u: %llu bytes resident, %llu committed", c, step,
                         (unsigned long long)resident_bytes(life.base, 2 * QUOTA),
                         (unsigned long long)now);
            most = now > most ? now : most;
            least = now < least ? now : least;
        }
        assert_true(most > 40 * MIB && least < 24 * MIB);
        (void)cenote_pool_destroy(life.pool);
        cenote_budget_destroy(life.rig.budget);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, rig_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_commits_whole_chunks),
        TEST(test_two_classes_commit_no_more_than_blocks),
        TEST(test_quota_binds_whole_chunks),
        cmocka_unit_test(test_a_plan_holds),
        TEST(test_fault_sweep),
        TEST(test_whole_chunks_go_before_parts),
        TEST(test_decay),
        TEST(test_a_cycle_does_not_decay),
        cmocka_unit_test(test_committed_is_resident),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
