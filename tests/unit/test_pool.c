/* SPDX-License-Identifier: Apache-2.0 */
/* A pool's promises one by one: what it charges, refuses, gives back, and what the kernel says
 * about all that. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/hardware.h>
#include <cenote/pool.h>

#include "pool/budget.h"
#include "pool_fixture.h"
#include "shadow.h"

#define KIB     UINT64_C(1024)
#define MIB     (KIB * KIB)
#define GRANULE ((uint64_t)CENOTE_GRANULE_BYTES)
#define LIMIT   (64 * MIB)

static int set_up(void **state)
{
    return rig_up(state, LIMIT, CENOTE_CLASS_COUNT);
}

/* ---- charges ---- */

static void test_overhead_is_exact(void **state)
{
    struct rig *rig = *state;
    static const uint64_t quotas[] = {1, GRANULE, 2 * MIB, 100 * MIB, 3 * KIB * MIB + 1};
    for (unsigned i = 0; i < 5; i++) {
        cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_GENERAL, quotas[i]);
        assert_int_equal(rig_charged(rig), cenote_pool_overhead_bytes(quotas[i]));
        assert_int_equal(cenote_pool_destroy(pool), 0);
        assert_int_equal(rig_charged(rig), 0);
    }
    assert_true(cenote_pool_overhead_bytes(0) == UINT64_MAX);
    assert_true(cenote_pool_overhead_bytes(UINT64_MAX) == UINT64_MAX);
    /* Without a quota: the limit's. */
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_GENERAL, 0);
    assert_int_equal(rig_charged(rig), cenote_pool_overhead_bytes(LIMIT));
    assert_int_equal(rig_stats(pool).quota_bytes, LIMIT);
    (void)cenote_pool_destroy(pool);
}

static void test_charges_add_up(void **state)
{
    struct rig *rig = *state;
    static const uint64_t sizes[] = {1, GRANULE, GRANULE + 1, 3 * MIB, 100, 7 * MIB - 1, MIB};
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_PARAMETERS, 0);
    uint64_t expected = rig_charged(rig);
    void *data[7];
    for (unsigned i = 0; i < 7; i++) {
        data[i] = rig_alloc(pool, sizes[i]);
        expected += cenote_pool_charge_bytes(sizes[i]);
        assert_int_equal(rig_charged(rig), expected);
    }
    /* Freed memory stays, and costs nothing when it is used again. */
    cenote_pool_free(pool, data[3]);
    assert_int_equal(rig_charged(rig), expected);
    assert_ptr_equal(rig_alloc(pool, 3 * MIB), data[3]);
    assert_int_equal(rig_charged(rig), expected);
    assert_int_equal(cenote_pool_destroy(pool), 7);
    assert_int_equal(cenote_pool_charge_bytes(0), 0);
    assert_int_equal(cenote_pool_charge_bytes(1), GRANULE + 128);
    assert_true(cenote_pool_charge_bytes(UINT64_MAX) == UINT64_MAX);
}

/* Holes that trimming leaves: a page table page for each 2 MiB is charged, not its share alone. */
static void test_sparse_memory_pays_its_page_tables(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
    uint64_t before = rig_charged(rig);
    void *small[8], *large[8];
    for (unsigned i = 0; i < 8; i++) {
        small[i] = rig_alloc(pool, 1);
        large[i] = rig_alloc(pool, 2 * MIB - GRANULE);
    }
    for (unsigned i = 0; i < 8; i++)
        cenote_pool_free(pool, large[i]);
    assert_int_equal(cenote_pool_trim(pool) > 0, 1);
    assert_null(cenote_pool_check(pool));
    assert_int_equal(rig_charged(rig) - before, 8 * GRANULE + 7 * 4096);
    for (unsigned i = 0; i < 8; i++)
        cenote_pool_free(pool, small[i]);
    assert_int_equal(cenote_pool_trim(pool), 8 * GRANULE + 7 * 4096);
    assert_int_equal(rig_charged(rig), before);
    assert_int_equal(cenote_pool_trim(pool), 0);
    (void)cenote_pool_destroy(pool);
}

/* ---- refusals ---- */

static void test_bad_arguments(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = NULL;
    cenote_error err;
    void *data = NULL;
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.version = 7;
    assert_int_equal(cenote_pool_create(rig->budget, &options, &pool, &err), CENOTE_E_VERSION);
    options.version = CENOTE_POOL_OPTIONS_VERSION;
    options.class_id = CENOTE_CLASS_COUNT;
    assert_int_equal(cenote_pool_create(rig->budget, &options, &pool, &err), CENOTE_E_INVAL);
    options.class_id = CENOTE_CLASS_GENERAL;
    options.quota_bytes = UINT64_MAX;
    assert_int_equal(cenote_pool_create(rig->budget, &options, &pool, &err), CENOTE_E_INVAL);
    options.quota_bytes = UINT64_C(1) << 46; /* its book-keeping alone is more than the budget */
    assert_int_equal(cenote_pool_create(rig->budget, &options, &pool, &err), CENOTE_E_BUDGET);
    assert_null(pool);
    pool = rig_pool(rig, CENOTE_CLASS_GENERAL, 0);
    assert_int_equal(cenote_pool_alloc(pool, 0, &data, &err), CENOTE_E_INVAL);
    assert_int_equal(cenote_pool_alloc(pool, UINT64_MAX, &data, &err), CENOTE_E_BUDGET);
    assert_null(data);
    cenote_pool_free(pool, NULL);
    (void)cenote_pool_destroy(pool);
    assert_int_equal(cenote_pool_destroy(NULL), 0);
}

static void test_quota(void **state)
{
    struct rig *rig = *state;
    cenote_error err = {0};
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 10 * GRANULE);
    void *data = NULL, *blocks[10];
    for (unsigned i = 0; i < 10; i++)
        blocks[i] = rig_alloc(pool, GRANULE);
    assert_int_equal(cenote_pool_alloc(pool, 1, &data, &err), CENOTE_E_BUDGET);
    static const char *const words[] = {"kv_cache", " 1 bytes", "655360", "largest hole"};
    for (unsigned i = 0; i < 4; i++)
        assert_non_null(strstr(err.message, words[i]));
    /* Every second one freed: no hole of 5 granules below the quota, but address space enough. The
     * idle granules make way, for they count against the quota as well. */
    for (unsigned i = 0; i < 10; i += 2)
        cenote_pool_free(pool, blocks[i]);
    data = rig_alloc(pool, 5 * GRANULE);
    memset(data, 1, 5 * GRANULE);
    assert_int_equal(rig_stats(pool).committed_bytes, 10 * GRANULE);
    assert_int_equal(cenote_pool_destroy(pool), 6);
}

static void test_budget_refusal(void **state)
{
    struct rig *rig = *state;
    cenote_error err = {0};
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_PARAMETERS, 0);
    void *block = rig_alloc(pool, 40 * MIB), *data = NULL;
    uint64_t before = rig_charged(rig);
    assert_int_equal(cenote_pool_alloc(pool, 23 * MIB, &data, &err), CENOTE_E_BUDGET);
    char left[32], need[32];
    snprintf(left, sizeof left, "%llu are left",
             (unsigned long long)(LIMIT - RIG_PROCESS_BYTES - before));
    snprintf(need, sizeof need, "needs %llu bytes",
             (unsigned long long)cenote_pool_charge_bytes(23 * MIB));
    const char *const words[] = {"parameters", left, need, "67108864", "largest hole"};
    for (unsigned i = 0; i < 5; i++)
        if (strstr(err.message, words[i]) == NULL)
            fail_msg("no `%s` in `%s`", words[i], err.message);
    assert_null(data);
    assert_int_equal(rig_charged(rig), before);
    cenote_pool_free(pool, block);
    (void)cenote_pool_destroy(pool);
}

/* What one pool has idle, another can have. */
static void test_pools_share_idle_memory(void **state)
{
    struct rig *rig = *state;
    cenote_pool *a = rig_pool(rig, CENOTE_CLASS_PARAMETERS, 0);
    cenote_pool *b = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
    void *big = rig_alloc(a, 50 * MIB), *mark = rig_alloc(a, 1);
    memset(mark, 7, 1);
    cenote_pool_free(a, big);
    assert_int_equal(rig_stats(a).committed_bytes, 50 * MIB + GRANULE);
    /* 20 MiB: more than there was. Whole chunks come from a's high end, and not all. */
    void *other = rig_alloc(b, 20 * MIB);
    assert_null(cenote_pool_check(a));
    assert_in_range(rig_stats(a).committed_bytes, 30 * MIB, 36 * MIB);
    assert_int_equal(*(char *)mark, 7);
    /* Its own idle memory counts as well: b gives up what it has to grow elsewhere. */
    cenote_pool_free(b, other);
    other = rig_alloc(b, 61 * MIB);
    assert_in_range(rig_stats(a).committed_bytes, GRANULE, 2 * MIB - 1);
    cenote_pool_free(b, other);
    /* The budget's own charges and a lower limit take idle memory too. */
    assert_int_equal(cenote_budget_charge(rig->budget, 30 * MIB, "decoder", NULL), CENOTE_OK);
    assert_int_equal(cenote_budget_limit_set(rig->budget, 33 * MIB, NULL), CENOTE_OK);
    assert_int_equal(cenote_budget_limit_set(rig->budget, 30 * MIB, NULL), CENOTE_E_BUDGET);
    cenote_budget_uncharge(rig->budget, 30 * MIB);
    assert_int_equal(cenote_pool_destroy(a), 1);
    assert_int_equal(cenote_pool_destroy(b), 0);
}

/* Every reserve and commit refused once, over a life that reuses, grows and trims. */
static void test_fault_sweep(void **state)
{
    struct rig *rig = *state;
    unsigned refused = 0;
    for (unsigned nth = 1;; nth++) {
        cn_fake_fail(rig->fake, CN_FAKE_MEMORY, nth, ENOMEM);
        cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
        options.class_id = CENOTE_CLASS_PARAMETERS;
        cenote_pool *pool = NULL;
        cenote_error err = {0};
        void *a = NULL, *b = NULL, *c = NULL;
        cenote_status status = cenote_pool_create(rig->budget, &options, &pool, &err);
        if (status == CENOTE_OK)
            status = cenote_pool_alloc(pool, 3 * MIB, &a, &err);
        if (status == CENOTE_OK)
            status = cenote_pool_alloc(pool, MIB, &b, &err);
        if (pool != NULL) {
            cenote_pool_free(pool, a);
            a = NULL;
        }
        /* Half of it is idle, the other half is new, behind b: two parts to commit. */
        if (status == CENOTE_OK) {
            (void)cenote_pool_trim(pool);
            status = cenote_pool_alloc(pool, GRANULE, &c, &err);
        }
        if (status == CENOTE_OK) {
            cenote_pool_free(pool, c);
            status = cenote_pool_alloc(pool, 2 * MIB, &a, &err);
        }
        if (pool != NULL)
            assert_null(cenote_pool_check(pool));
        if (status != CENOTE_OK) {
            assert_int_equal(status, CENOTE_E_NOMEM);
            assert_non_null(strstr(err.message, "Cannot allocate memory"));
            refused++;
        }
        assert_int_equal(cenote_pool_destroy(pool), (a != NULL) + (b != NULL));
        assert_int_equal(rig_charged(rig), 0);
        assert_int_equal(cn_fake_books_get(rig->fake).committed_bytes, 0);
        if (status == CENOTE_OK)
            break;
    }
    assert_int_equal(refused, 7);
}

static void test_statistics(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 8 * MIB);
    void *a = rig_alloc(pool, 100), *b = rig_alloc(pool, GRANULE + 1);
    cenote_pool_free(pool, a);
    cenote_pool_stats stats = rig_stats(pool);
    assert_int_equal(stats.class_id, CENOTE_CLASS_KV_CACHE);
    assert_int_equal(stats.priority, 70);
    assert_int_equal(stats.quota_bytes, 8 * MIB);
    assert_int_equal(stats.requested_bytes, GRANULE + 1);
    assert_int_equal(stats.requested_peak_bytes, GRANULE + 101);
    assert_int_equal(stats.used_bytes, 2 * GRANULE);
    assert_int_equal(stats.used_peak_bytes, 3 * GRANULE);
    assert_int_equal(stats.committed_bytes, 3 * GRANULE);
    assert_int_equal(stats.committed_peak_bytes, 3 * GRANULE);
    assert_int_equal(stats.block_count, 1);
    assert_int_equal(stats.largest_hole_bytes, 16 * MIB - 3 * GRANULE);
    assert_float_equal(stats.internal_fragmentation, (GRANULE - 1) / (2.0 * GRANULE), 1e-9);
    assert_float_equal(stats.external_fragmentation, 1 / 3.0, 1e-9); /* a's hole below b */
    /* Totals grow, whatever is freed. */
    (void)cenote_pool_trim(pool);
    a = rig_alloc(pool, 7);
    stats = rig_stats(pool);
    assert_int_equal(stats.requested_total_bytes, GRANULE + 108);
    assert_int_equal(stats.used_total_bytes, 4 * GRANULE);
    assert_int_equal(stats.committed_total_bytes, 4 * GRANULE);
    cenote_pool_free(pool, a);
    cenote_pool_free(pool, b);
    stats = rig_stats(pool);
    assert_true(stats.internal_fragmentation == 0 && stats.external_fragmentation == 0);
    (void)cenote_pool_destroy(pool);
    assert_string_equal(cenote_class_text(CENOTE_CLASS_TEXT_EMBEDDINGS), "text_embeddings");
    assert_string_equal(cenote_class_text((cenote_class)99), "unknown class");
}

/* A hit needs no system call; each miss has one reason. */
static void test_hits_and_misses(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 40 * MIB);
    cenote_pool *other = rig_pool(rig, CENOTE_CLASS_PARAMETERS, 0);
    void *idle = rig_alloc(other, 30 * MIB), *kept = rig_alloc(other, 10 * MIB), *data = NULL;
    cenote_pool_free(other, idle);
    cenote_pool_free(pool, rig_alloc(pool, 3 * MIB)); /* commits */
    cenote_pool_free(pool, rig_alloc(pool, 2 * MIB)); /* hit */
    void *big = rig_alloc(pool, 39 * MIB);            /* the other pool's idle memory goes */
    assert_int_equal(cenote_pool_alloc(pool, 2 * MIB, &data, NULL), CENOTE_E_BUDGET); /* quota */
    assert_int_equal(cenote_pool_alloc(other, 50 * MIB, &data, NULL), CENOTE_E_BUDGET);
    cenote_pool_free(pool, big);
    cn_fake_fail(rig->fake, CN_FAKE_MEMORY, 1, ENOMEM);
    (void)cenote_pool_trim(pool);
    assert_int_equal(cenote_pool_alloc(pool, 1, &data, NULL), CENOTE_E_NOMEM);
    cenote_pool_stats stats = rig_stats(pool);
    static const uint64_t misses[CENOTE_MISS_COUNT] = {
        [CENOTE_MISS_COMMIT] = 1,
        [CENOTE_MISS_RECLAIM] = 1,
        [CENOTE_MISS_QUOTA] = 1,
        [CENOTE_MISS_SYSTEM] = 1,
    };
    assert_memory_equal(stats.miss_count, misses, sizeof misses);
    assert_int_equal(stats.hit_count, 1);
    assert_int_equal(stats.alloc_count, 3);
    assert_int_equal(rig_stats(other).miss_count[CENOTE_MISS_BUDGET], 1);
    cenote_pool_free(other, kept);
    (void)cenote_pool_destroy(pool);
    (void)cenote_pool_destroy(other);
}

/* Twice the quota is full of single granules with gaps of one between them. */
static void test_a_miss_for_want_of_a_hole(void **state)
{
    struct rig *rig = *state;
    enum { COUNT = 64 };
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, COUNT / 2 * GRANULE);
    void *blocks[COUNT], *data = NULL;
    cenote_error err;
    assert_int_equal(cenote_pool_quota_set(pool, COUNT * GRANULE, &err), CENOTE_OK);
    for (unsigned i = 0; i < COUNT; i++)
        blocks[i] = rig_alloc(pool, GRANULE);
    for (unsigned i = 0; i < COUNT; i += 2)
        cenote_pool_free(pool, blocks[i]);
    assert_int_equal(cenote_pool_alloc(pool, 2 * GRANULE, &data, &err), CENOTE_E_BUDGET);
    assert_non_null(strstr(err.message, "largest hole is 65536"));
    assert_int_equal(rig_stats(pool).miss_count[CENOTE_MISS_HOLE], 1);
    assert_int_equal(cenote_pool_destroy(pool), COUNT / 2);
}

static void test_quota_moves(void **state)
{
    struct rig *rig = *state;
    cenote_error err;
    void *data = NULL;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 8 * MIB);
    void *a = rig_alloc(pool, 4 * MIB), *b = rig_alloc(pool, 4 * MIB);
    assert_int_equal(cenote_pool_quota_set(pool, 0, &err), CENOTE_E_INVAL);
    assert_int_equal(cenote_pool_quota_set(pool, UINT64_MAX, &err), CENOTE_E_INVAL);
    assert_int_equal(cenote_pool_quota_set(pool, 16 * MIB + 1, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "16777216"));
    assert_int_equal(cenote_pool_quota_set(pool, 8 * MIB - GRANULE, &err), CENOTE_E_BUDGET);
    assert_non_null(strstr(err.message, "8388608"));
    assert_int_equal(rig_stats(pool).quota_bytes, 8 * MIB);
    /* Up, with live blocks, and down again: what is idle above it goes back. */
    assert_int_equal(cenote_pool_quota_set(pool, 16 * MIB, &err), CENOTE_OK);
    void *c = rig_alloc(pool, 8 * MIB);
    assert_int_equal(cenote_pool_alloc(pool, 1, &data, &err), CENOTE_E_BUDGET);
    cenote_pool_free(pool, c);
    cenote_pool_free(pool, b);
    uint64_t before = rig_charged(rig);
    assert_int_equal(cenote_pool_quota_set(pool, 5 * MIB, &err), CENOTE_OK);
    assert_true(rig_stats(pool).committed_bytes <= 5 * MIB);
    assert_true(rig_charged(rig) <= before - 11 * MIB);
    assert_null(cenote_pool_check(pool));
    assert_int_equal(cenote_pool_alloc(pool, MIB + 1, &data, &err), CENOTE_E_BUDGET);
    cenote_pool_free(pool, rig_alloc(pool, MIB));
    cenote_pool_free(pool, a);
    (void)cenote_pool_destroy(pool);
}

/* What is not planned ahead comes and goes in turn: above what was, without a hole at any time. */
static void test_last_in_first_out(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 32 * MIB);
    void *stack[16], *planned = rig_alloc(pool, 5 * MIB);
    unsigned depth = 0;
    uint64_t turn = 1;
    for (unsigned i = 0; i < 300; i++) {
        turn = turn * 2862933555777941757u + 3037000493u;
        bool push = depth == 0 || (depth < 16 && turn >> 63);
        if (push)
            stack[depth++] = rig_alloc(pool, 1 + (turn >> 20) % MIB);
        else
            cenote_pool_free(pool, stack[--depth]);
        assert_true(rig_stats(pool).external_fragmentation == 0);
    }
    cenote_pool_stats stats = rig_stats(pool);
    assert_true(stats.committed_peak_bytes < stats.used_peak_bytes + 2 * MIB);
    while (depth > 0)
        cenote_pool_free(pool, stack[--depth]);
    cenote_pool_free(pool, planned);
    (void)cenote_pool_destroy(pool);
}

static void test_priority(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pools[3];
    static const uint32_t asked[3] = {0, 5, 200}, given[3] = {80, 5, 200};
    for (unsigned i = 0; i < 3; i++) {
        cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
        options.class_id = CENOTE_CLASS_PARAMETERS;
        options.priority = asked[i];
        assert_int_equal(cenote_pool_create(rig->budget, &options, &pools[i], NULL), CENOTE_OK);
        assert_int_equal(rig_stats(pools[i]).priority, given[i]);
        cenote_pool_free(pools[i], rig_alloc(pools[i], 10 * MIB));
    }
    /* What is needed comes from the second alone. */
    assert_int_equal(cenote_budget_charge(rig->budget, 36 * MIB, "x", NULL), CENOTE_OK);
    assert_int_equal(rig_stats(pools[0]).committed_bytes, 10 * MIB);
    assert_true(rig_stats(pools[1]).committed_bytes < 10 * MIB);
    assert_int_equal(rig_stats(pools[2]).committed_bytes, 10 * MIB);
    cenote_budget_uncharge(rig->budget, 36 * MIB);
    for (unsigned i = 0; i < 3; i++)
        (void)cenote_pool_destroy(pools[i]);
}

static void test_huge_pages_for_large_blocks(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_PARAMETERS, 0);
    void *small = rig_alloc(pool, 2 * MIB - GRANULE);
    assert_int_equal(cn_fake_books_get(rig->fake).huge_count, 0);
    void *large = rig_alloc(pool, 2 * MIB - GRANULE + 1);
    assert_int_equal(cn_fake_books_get(rig->fake).huge_count, 1);
    cenote_pool_free(pool, small);
    cenote_pool_free(pool, large);
    (void)cenote_pool_destroy(pool);
}

/* ---- bugs of the caller ---- */

/* Runs @p fn in a child. @return true when it died of a signal or a sanitizer's report. */
static bool dies(void (*fn)(const struct rig *), const struct rig *rig)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(0);
        signal(SIGABRT, SIG_DFL);
        signal(SIGSEGV, SIG_DFL);
        fn(rig);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void free_twice(const struct rig *rig)
{
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
    void *data = rig_alloc(pool, 1);
    cenote_pool_free(pool, data);
    cenote_pool_free(pool, data);
}

static void free_inside(const struct rig *rig)
{
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
    cenote_pool_free(pool, (char *)rig_alloc(pool, 2 * GRANULE) + GRANULE);
}

static void free_stranger(const struct rig *rig)
{
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
    static char stranger;
    cenote_pool_free(pool, &stranger);
}

static void read_freed(const struct rig *rig)
{
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
    volatile char *data = rig_alloc(pool, GRANULE);
    cenote_pool_free(pool, (void *)(uintptr_t)data);
    (void)data[5];
}

static void read_trimmed(const struct rig *rig)
{
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
    volatile char *data = rig_alloc(pool, GRANULE);
    cenote_pool_free(pool, (void *)(uintptr_t)data);
    (void)cenote_pool_trim(pool);
    (void)data[5];
}

static void write_past_the_end(const struct rig *rig)
{
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
    volatile char *data = rig_alloc(pool, 100);
    data[104] = 1;
}

static void test_bugs_are_caught(void **state)
{
    struct rig *rig = *state;
#ifndef NDEBUG
    assert_true(dies(free_twice, rig));
    assert_true(dies(free_inside, rig));
    assert_true(dies(free_stranger, rig));
#else
    (void)free_twice, (void)free_inside, (void)free_stranger;
#endif
    assert_true(dies(read_trimmed, rig));
#ifdef CN_ASAN
    assert_true(dies(read_freed, rig));
    assert_true(dies(write_past_the_end, rig));
#else
    assert_false(dies(read_freed, rig));
    assert_false(dies(write_past_the_end, rig));
#endif
}

/* ---- the kernel's view ---- */

static uint64_t held_bytes(void)
{
    cenote_process_memory memory;
    assert_int_equal(cenote_process_memory_get(&memory, NULL), CENOTE_OK);
    return memory.resident_bytes + memory.page_table_bytes;
}

/* The kernel's counters lag by some pages per CPU. */
#define LAG_BYTES (MIB / 2)

/* Grows a pool by blocks of @p block_bytes, in holes and out of them, and compares with the kernel:
 * what the process holds grows by no more than what is charged. */
static void check_resident(uint64_t block_bytes, unsigned count)
{
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_budget *budget;
    options.limit_bytes = UINT64_C(1) << 40;
    options.process_bytes = 1;
    void **blocks = calloc(count, sizeof *blocks);
    uint64_t start = held_bytes();
    assert_int_equal(cenote_budget_create(&options, &budget, NULL), CENOTE_OK);
    struct rig rig = {.budget = budget};
    cenote_pool *pool = rig_pool(&rig, CENOTE_CLASS_KV_CACHE, 256 * MIB);
    cenote_budget_stats stats;
    for (unsigned i = 0; i < count; i++) {
        blocks[i] = rig_alloc(pool, block_bytes);
        memset(blocks[i], 1, block_bytes);
    }
    cenote_budget_stats_get(budget, &stats);
    uint64_t full = held_bytes();
    assert_true(full <= start + stats.charged_bytes + LAG_BYTES);
    assert_true(full + LAG_BYTES >= start + count * block_bytes); /* it really was touched */

    /* All but every 8th go, and are given back. */
    for (unsigned i = 0; i < count; i++)
        if (i % 8 != 0)
            cenote_pool_free(pool, blocks[i]);
    assert_true(held_bytes() + LAG_BYTES >= full);
    uint64_t back = cenote_pool_trim(pool);
    cenote_budget_stats_get(budget, &stats);
    uint64_t sparse = held_bytes();
    assert_true(sparse <= full - back + LAG_BYTES);
    assert_true(sparse <= start + stats.charged_bytes + LAG_BYTES);
    assert_int_equal(cenote_pool_destroy(pool), (count + 7) / 8);
    assert_true(held_bytes() <= start + LAG_BYTES);
    cenote_budget_destroy(budget);
    free(blocks);
}

static void test_resident_memory(void **state)
{
    (void)state;
    if (SHADOW_MEMORY) {
        print_message("the sanitizer's shadow memory hides the truth\n");
        skip();
    }
    check_resident(GRANULE, 1024);
    check_resident(3 * MIB + GRANULE, 20); /* huge pages inside, odd edges */
    check_resident(512 * KIB, 128);
}

/* Chunks that empty piece by piece: the last piece must take the page table with it. */
static void test_page_tables_go_with_the_last_piece(void **state)
{
    (void)state;
    enum { COUNT = 128 };
    cenote_process_memory before, after;
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_budget *budget;
    void *blocks[COUNT];
    if (SHADOW_MEMORY) {
        print_message("the sanitizer's shadow memory hides the truth\n");
        skip();
    }
    options.limit_bytes = UINT64_C(1) << 40;
    options.process_bytes = 1;
    assert_int_equal(cenote_budget_create(&options, &budget, NULL), CENOTE_OK);
    cenote_pool *pool = rig_pool(&(struct rig){.budget = budget}, CENOTE_CLASS_KV_CACHE, 256 * MIB);
    assert_int_equal(cenote_process_memory_get(&before, NULL), CENOTE_OK);
    for (unsigned i = 0; i < COUNT; i++) {
        blocks[i] = rig_alloc(pool, MIB);
        *(char *)blocks[i] = 1;
    }
    for (unsigned odd = 0; odd < 2; odd++) {
        for (unsigned i = odd; i < COUNT; i += 2)
            cenote_pool_free(pool, blocks[i]);
        (void)cenote_pool_trim(pool);
    }
    assert_int_equal(cenote_process_memory_get(&after, NULL), CENOTE_OK);
    assert_true(after.page_table_bytes <= before.page_table_bytes + 16 * KIB);
    assert_int_equal(cenote_pool_destroy(pool), 0);
    cenote_budget_destroy(budget);
}

/* A row says what a pool holds beside its blocks, and a refusal what is in them. */
static void test_who_holds_what(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, 8 * MIB);
    void *data = rig_alloc(pool, MIB), *refused;
    (void)rig_alloc(pool, GRANULE);
    cenote_pool_free(pool, data);
    cenote_pool_stats stats = rig_stats(pool);
    cenote_budget_holder holder;
    assert_true(cenote_budget_explain(rig->budget, &holder, 1) >= 1);
    assert_int_equal(holder.class_id, CENOTE_CLASS_ACTIVATIONS);
    assert_int_equal(holder.quota_bytes, 8 * MIB);
    assert_int_equal(holder.live_bytes, GRANULE);
    assert_int_equal(holder.idle_bytes, stats.committed_bytes - GRANULE);
    assert_true(holder.charged_bytes > stats.committed_bytes);
    /* There are twice as many addresses as the quota is. */
    assert_int_equal(holder.largest_hole_bytes, 15 * MIB - GRANULE);
    assert_int_equal(holder.compacted_hole_bytes, 15 * MIB - GRANULE);
    cenote_error err = {0};
    assert_int_equal(cenote_pool_alloc(pool, 8 * MIB, &refused, &err), CENOTE_E_BUDGET);
    assert_non_null(strstr(err.message, "8388608 bytes do not fit, 65536 are used of the quota of "
                                        "8388608 and the largest hole is 15663104"));
    assert_int_equal(cenote_pool_destroy(pool), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, rig_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_overhead_is_exact),
        TEST(test_charges_add_up),
        TEST(test_sparse_memory_pays_its_page_tables),
        TEST(test_bad_arguments),
        TEST(test_quota),
        TEST(test_budget_refusal),
        TEST(test_who_holds_what),
        TEST(test_pools_share_idle_memory),
        TEST(test_fault_sweep),
        TEST(test_statistics),
        TEST(test_hits_and_misses),
        TEST(test_a_miss_for_want_of_a_hole),
        TEST(test_quota_moves),
        TEST(test_last_in_first_out),
        TEST(test_priority),
        TEST(test_huge_pages_for_large_blocks),
        TEST(test_bugs_are_caught),
        cmocka_unit_test(test_resident_memory),
        cmocka_unit_test(test_page_tables_go_with_the_last_piece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
