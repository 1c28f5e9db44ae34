/* SPDX-License-Identifier: Apache-2.0 */
/* Debug levels of pools: every mistake is made on purpose and must be found, named and survived;
 * and what is no mistake must not be found. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "base/poison.h"
#include "pool/debug.h"
#include "pool_fixture.h"
#include "random.h"

#define KIB   UINT64_C(1024)
#define MIB   (KIB * KIB)
#define LIMIT (256 * MIB)
#define QUOTA (64 * MIB) /* of each pool */

/* ---- findings ---- */

struct findings {
    unsigned count;
    cenote_finding last;
    char message[512]; /* the last */
    char first[512];
};

static struct findings findings;

static void take_finding(void *context, cenote_finding finding, const char *message)
{
    struct findings *to = context;
    if (to->count++ == 0)
        snprintf(to->first, sizeof to->first, "%s", message);
    to->last = finding;
    snprintf(to->message, sizeof to->message, "%s", message);
}

static void assert_found(cenote_finding finding, const char *words)
{
    assert_int_equal(findings.count, 1);
    assert_int_equal(findings.last, finding);
    if (strstr(findings.message, words) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", findings.message, words);
    findings.count = 0;
}

static void assert_nothing_found(void)
{
    if (findings.count > 0)
        fail_msg("found: %s", findings.message);
}

/* ---- pools ---- */

static cenote_pool *pool_of(const struct rig *rig, cenote_class class_id, uint32_t level)
{
    return rig_debug_pool(rig, class_id, QUOTA, level);
}

/* On this machine, with a pool of class general. */
static struct rig open_rig(uint32_t level)
{
    struct rig rig = rig_open(NULL, LIMIT);
    rig.pool = pool_of(&rig, CENOTE_CLASS_GENERAL, level);
    findings = (struct findings){0};
    cenote_finding_handler_set(take_finding, &findings);
    return rig;
}

static void close_rig(struct rig *rig)
{
    assert_int_equal(cenote_pool_destroy(rig->pool), 0);
    rig->pool = NULL;
    rig_close(rig);
    assert_nothing_found();
    cenote_finding_handler_set(NULL, NULL);
}

static unsigned char *alloc(cenote_pool *pool, uint64_t size_bytes)
{
    void *data = NULL;
    assert_int_equal(cenote_pool_alloc(pool, size_bytes, &data, NULL), CENOTE_OK);
    return data;
}

/* What a mistake does, unseen by ASan, which would find it first. */
__attribute__((no_sanitize("address", "thread"))) static void poke(volatile unsigned char *at)
{
    *at ^= 0x40;
}

__attribute__((no_sanitize("address", "thread"))) static unsigned peek(volatile unsigned char *at)
{
    return *at;
}

/* ---- level 1 ---- */

static void test_bad_frees_are_named(void **state)
{
    (void)state;
    struct rig rig = open_rig(1);
    cenote_pool *other = pool_of(&rig, CENOTE_CLASS_KV_CACHE, 1);
    unsigned char *first = alloc(other, 64 * KIB);
    unsigned char *a = alloc(rig.pool, 100 * KIB), *kv = alloc(other, 64 * KIB);
    uint32_t before = cenote_trace_tag(77);
    unsigned char *b = alloc(rig.pool, 300 * KIB);
    (void)cenote_trace_tag(before);

    cenote_pool_free(rig.pool, b + 128);
    assert_found(CENOTE_FINDING_NO_BLOCK, "which is byte 128 of a block of 307200 bytes at");
    cenote_pool_free(rig.pool, kv);
    assert_found(CENOTE_FINDING_WRONG_POOL, "pool general: a free of");
    assert_non_null(strstr(findings.message, "which lies in another pool, kv_cache"));
    cenote_pool_free(rig.pool, b + 300 * KIB); /* just behind it */
    assert_found(CENOTE_FINDING_NO_BLOCK, "where no block begins");
    static char stranger;
    cenote_pool_free(rig.pool, &stranger);
    assert_found(CENOTE_FINDING_NO_BLOCK, "where no block begins");
    /* None of that did anything. */
    memset(a, 1, 100 * KIB);
    memset(b, 2, 300 * KIB);
    assert_null(cenote_pool_check(rig.pool));

    cenote_pool_free(rig.pool, b);
    assert_nothing_found();
    cenote_pool_free(rig.pool, b);
    assert_found(CENOTE_FINDING_DOUBLE_FREE,
                 "(tag 77, made by operation 2, freed by 3): freed twice");
    /* The address is another block's by now: freeing that is right, and once only. */
    unsigned char *c = alloc(rig.pool, 300 * KIB);
    assert_ptr_equal(c, b);
    cenote_pool_free(rig.pool, c);
    assert_nothing_found();
    cenote_pool_free(rig.pool, c);
    assert_found(CENOTE_FINDING_DOUBLE_FREE, "freed by 5");
    cenote_pool_free(rig.pool, NULL);
    cenote_pool_free(rig.pool, a);
    cenote_pool_free(other, kv);
    cenote_pool_free(other, first);
    assert_int_equal(cenote_pool_destroy(other), 0);
    close_rig(&rig);
}

static void test_leaks_are_listed(void **state)
{
    (void)state;
    struct rig rig = open_rig(1);
    cenote_pool *leaky = pool_of(&rig, CENOTE_CLASS_ACTIVATIONS, 1);
    cenote_pool_free(leaky, alloc(leaky, MIB));
    uint32_t before = cenote_trace_tag(5);
    (void)alloc(leaky, 12345);
    (void)cenote_trace_tag(before);
    assert_int_equal(cenote_pool_destroy(leaky), 1);
    assert_int_equal(findings.count, 2); /* the block, and the sum */
    assert_int_equal(findings.last, CENOTE_FINDING_LEAK);
    assert_non_null(strstr(findings.first, "pool activations: a block of 12345 bytes at"));
    assert_non_null(strstr(findings.first, "(tag 5, made by operation 3): never freed"));
    assert_string_equal(findings.message, "pool activations: 1 blocks of 12345 bytes: never freed");
    findings.count = 0;
    leaky = pool_of(&rig, CENOTE_CLASS_ACTIVATIONS, 2);
    for (unsigned i = 0; i < 40; i++)
        (void)alloc(leaky, 1000);
    cenote_pool_free(leaky, alloc(leaky, 1000)); /* in quarantine: no leak */
    assert_int_equal(cenote_pool_destroy(leaky), 40);
    assert_int_equal(findings.count, 17);
    assert_string_equal(findings.message,
                        "pool activations: 40 blocks of 40000 bytes: never freed");
    findings.count = 0;
    /* What was written behind a block that is never freed is told as well. */
    leaky = pool_of(&rig, CENOTE_CLASS_ACTIVATIONS, 2);
    unsigned char *last = alloc(leaky, 1000);
    poke(last + 1000);
    assert_int_equal(cenote_pool_destroy(leaky), 1);
    assert_int_equal(findings.count, 3);
    assert_non_null(strstr(findings.first, "written beyond its end"));
    findings.count = 0;
    close_rig(&rig);
}

/* Random work gives the same addresses and charges with level 1 as without. */
static void test_level_1_changes_nothing(void **state)
{
    (void)state;
    uint64_t places[2][400] = {{0}}, charges[2][400];
    for (uint32_t level = 0; level < 2; level++) {
        struct rig rig = open_rig(0);
        cenote_pool *pool = pool_of(&rig, CENOTE_CLASS_PARAMETERS, level);
        uint64_t random_state = 1;
        unsigned char *blocks[20] = {NULL};
        for (unsigned i = 0; i < 400; i++) {
            uint64_t random = random_next(&random_state);
            unsigned slot = (unsigned)(random >> 33) % 20;
            if (blocks[slot] != NULL) {
                cenote_pool_free(pool, blocks[slot]);
                blocks[slot] = NULL;
            } else {
                blocks[slot] = alloc(pool, 1 + (random >> 40) % (2 * MIB));
                places[level][i] = cenote_pool_offset(pool, blocks[slot]);
            }
            charges[level][i] = rig_charged(&rig);
        }
        for (unsigned i = 0; i < 20; i++)
            cenote_pool_free(pool, blocks[i]);
        assert_int_equal(cenote_pool_destroy(pool), 0);
        close_rig(&rig);
    }
    assert_memory_equal(places[0], places[1], sizeof places[0]);
    assert_memory_equal(charges[0], charges[1], sizeof charges[0]);
}

/* What is remembered is bounded: many operations later the table is as long as before. */
static void test_memory_of_the_dead_is_bounded(void **state)
{
    (void)state;
    struct rig rig = open_rig(1);
    unsigned char *first = alloc(rig.pool, 1000);
    cenote_pool_free(rig.pool, first);
    for (unsigned i = 0; i < 20000; i++)
        cenote_pool_free(rig.pool, alloc(rig.pool, 1000));
    cenote_pool_free(rig.pool, first); /* still known, as the last of these */
    assert_found(CENOTE_FINDING_DOUBLE_FREE, "freed by 40002");
    unsigned char *many[900];
    for (unsigned i = 0; i < 900; i++)
        many[i] = alloc(rig.pool, 300);
    for (unsigned i = 0; i < 900; i++)
        cenote_pool_free(rig.pool, many[i]);
    cenote_pool_free(rig.pool, many[899]);
    assert_found(CENOTE_FINDING_DOUBLE_FREE, "a block of 300 bytes");
    close_rig(&rig);

    for (uint32_t level = 1; level <= 2; level++) {
        rig = rig_open(cn_fake_create(), LIMIT);
        cenote_pool *pool = pool_of(&rig, CENOTE_CLASS_PARAMETERS, level);
        uint64_t committed_bytes = 0;
        void *data;
        for (unsigned i = 0; i < 10000; i++) {
            cenote_pool_free(pool, alloc(pool, 1000));
            assert_int_equal(cenote_pool_alloc(pool, 2 * QUOTA, &data, NULL), CENOTE_E_BUDGET);
            (void)cenote_pool_trim(pool);
            if (i == 1200)
                committed_bytes = cn_fake_books_get(rig.fake).committed_bytes;
        }
        assert_int_equal(cn_fake_books_get(rig.fake).committed_bytes, committed_bytes);
        assert_int_equal(cenote_pool_destroy(pool), 0);
        rig_close(&rig);
    }
}

/* A level that the system has no memory for is refused, and leaves nothing behind. */
static void test_fault_sweep(void **state)
{
    (void)state;
    struct rig rig = rig_open(cn_fake_create(), LIMIT);
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.debug_level = 2;
    unsigned failures = 0;
    for (uint64_t nth = 1;; nth++) {
        cenote_pool *pool = NULL;
        cn_fake_fail(rig.fake, CN_FAKE_MEMORY, nth, ENOMEM);
        cenote_status status = cenote_pool_create(rig.budget, &options, &pool, NULL);
        void *data = NULL;
        if (status == CENOTE_OK)
            status = cenote_pool_alloc(pool, 100 * KIB, &data, NULL);
        cn_fake_fail(rig.fake, CN_FAKE_MEMORY, 0, 0);
        if (pool != NULL) {
            assert_null(cenote_pool_check(pool));
            cenote_pool_free(pool, data);
        }
        assert_int_equal(cenote_pool_destroy(pool), 0);
        assert_int_equal(rig_charged(&rig), 0);
        assert_int_equal(cn_fake_books_get(rig.fake).committed_bytes, 0);
        assert_int_equal(cn_fake_books_get(rig.fake).reservations, 0);
        if (status == CENOTE_OK)
            break;
        assert_int_equal(status, CENOTE_E_NOMEM);
        failures++;
    }
    assert_true(failures >= 6); /* the pool's own, and three of the level's */
    rig_close(&rig);
}

/* ---- level 2 ---- */

static void test_patterns(void **state)
{
    (void)state;
    struct rig rig = open_rig(2);
    unsigned char *data = alloc(rig.pool, 5000);
    for (unsigned i = 0; i < 5000; i++)
        assert_int_equal(data[i], CN_POISON_FRESH);
    memset(data, 0, 5000);
    cenote_pool_free(rig.pool, data);
    for (unsigned i = 0; i < 5000; i++)
        assert_int_equal(peek(data + i), CN_POISON_FREED);
    close_rig(&rig);
}

/* A zone does not cost a block its alignment. */
static void test_alignment(void **state)
{
    (void)state;
    for (uint32_t level = 1; level <= 2; level++) {
        struct rig rig = open_rig(level);
        unsigned char *blocks[100];
        unsigned count = 0;
        for (uint64_t unit = 64; unit <= 64 * KIB; unit *= 2)
            for (unsigned i = 1; i < 8; i += 2) {
                blocks[count] = alloc(rig.pool, i * unit);
                assert_int_equal((uintptr_t)blocks[count++] % unit, 0);
            }
        while (count > 0)
            cenote_pool_free(rig.pool, blocks[--count]);
        close_rig(&rig);
    }
}

static void test_overruns_are_found(void **state)
{
    (void)state;
    struct rig rig = open_rig(2);
    static const uint64_t sizes[] = {1, 63, 64, 100, 4096, 65535 - 63, 100 * KIB + 1, 3 * MIB - 64};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (unsigned at = 0; at < 64; at += 21) {
            unsigned char *data = alloc(rig.pool, sizes[i]);
            memset(data, 7, sizes[i]);
            assert_null(cenote_pool_check(rig.pool));
            poke(data + sizes[i] + at);
            assert_string_equal(cenote_pool_check(rig.pool), "written beyond its end");
            cenote_pool_free(rig.pool, data);
            assert_found(CENOTE_FINDING_OVERRUN, "written beyond its end");
            char size[32];
            snprintf(size, sizeof size, "%" PRIu64 " bytes", sizes[i]);
            assert_non_null(strstr(findings.message, size));
            assert_null(cenote_pool_check(rig.pool)); /* told once */
        }
    close_rig(&rig);
}

/* In pools that are charged by the granule the zone is what is left of the last one. */
static void test_short_zones(void **state)
{
    (void)state;
    struct rig rig = open_rig(2);
    cenote_pool *pool = pool_of(&rig, CENOTE_CLASS_PARAMETERS, 2);
    for (unsigned left = 1; left <= 70; left += 23) {
        unsigned char *data = alloc(pool, 65536 - left);
        poke(data + 65536 - left);
        cenote_pool_free(pool, data);
        assert_found(CENOTE_FINDING_OVERRUN, "pool parameters");
        data = alloc(pool, 65536 - left);
        poke(data + 65536 - left + (left < 64 ? left : 64) - 1);
        cenote_pool_free(pool, data);
        assert_found(CENOTE_FINDING_OVERRUN, "pool parameters");
    }
    assert_int_equal(cenote_pool_destroy(pool), 0);
    close_rig(&rig);
}

static void test_writes_after_free_are_found(void **state)
{
    (void)state;
    struct rig rig = open_rig(2);
    static const uint64_t places[] = {0, 1, 2500, 4999, 5000};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        unsigned char *data = alloc(rig.pool, 5000);
        cenote_pool_free(rig.pool, data);
        poke(data + places[i]);
        assert_string_equal(cenote_pool_check(rig.pool), "written after it was freed");
        (void)cenote_pool_trim(rig.pool); /* ends quarantine */
        assert_found(CENOTE_FINDING_WRITE_AFTER_FREE, "a block of 5000 bytes");
        assert_null(cenote_pool_check(rig.pool));
    }
    close_rig(&rig);
}

/* A freed block comes back neither at once nor never; and not when somebody needs the room. */
static void test_quarantine(void **state)
{
    (void)state;
    struct rig rig = open_rig(2);
    unsigned char *data = alloc(rig.pool, 10000);
    cenote_pool_free(rig.pool, data);
    cenote_pool_free(rig.pool, data);
    assert_found(CENOTE_FINDING_DOUBLE_FREE, "freed twice");
    unsigned later = 0;
    while (later < 1000) {
        unsigned char *next = alloc(rig.pool, 10000);
        cenote_pool_free(rig.pool, next);
        later++;
        if (next == data)
            break;
    }
    assert_in_range(later, 64, 66);
    /* 1/16 of the quota is 4 MiB; a block of more is not kept at all. */
    (void)cenote_pool_trim(rig.pool);
    unsigned char *large = alloc(rig.pool, 5 * MIB);
    cenote_pool_free(rig.pool, large);
    unsigned char *again = alloc(rig.pool, 5 * MIB);
    assert_ptr_equal(again, large);
    cenote_pool_free(rig.pool, again);
    (void)cenote_pool_trim(rig.pool);
    /* All of the quota but what quarantine holds: it must make way. */
    cenote_pool_free(rig.pool, alloc(rig.pool, 3 * MIB));
    cenote_pool_free(rig.pool, alloc(rig.pool, 64 * MIB));
    /* A byte in quarantine may hold a granule. */
    cenote_pool *exact = pool_of(&rig, CENOTE_CLASS_PARAMETERS, 2);
    unsigned char *bytes[40];
    for (unsigned i = 0; i < 40; i++)
        bytes[i] = alloc(exact, 1);
    for (unsigned i = 0; i < 40; i++)
        cenote_pool_free(exact, bytes[i]);
    cenote_pool_free(exact, alloc(exact, QUOTA));
    assert_int_equal(cenote_pool_destroy(exact), 0);
    /* And for whoever else needs the budget. */
    (void)cenote_pool_trim(rig.pool);
    cenote_pool_free(rig.pool, alloc(rig.pool, 3 * MIB));
    uint64_t left = rig_room(&rig);
    assert_int_equal(cenote_budget_charge(rig.budget, left + 3 * MIB, "test", NULL), CENOTE_OK);
    cenote_budget_uncharge(rig.budget, left + 3 * MIB);
    close_rig(&rig);
}

/* Where the charge is by the granule it stays what a plan says. */
static void test_charge_of_exact_pools(void **state)
{
    (void)state;
    struct rig rig = open_rig(2);
    cenote_pool *pool = pool_of(&rig, CENOTE_CLASS_PARAMETERS, 2);
    static const uint64_t sizes[] = {1, 65535, 65536, 65536 - 63, 3 * MIB, 3 * MIB + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        cenote_pool_stats before, after;
        cenote_pool_stats_get(pool, &before);
        unsigned char *data = alloc(pool, sizes[i]);
        cenote_pool_stats_get(pool, &after);
        assert_int_equal(after.used_bytes - before.used_bytes, (sizes[i] + 65535) / 65536 * 65536);
        cenote_pool_free(pool, data);
        (void)cenote_pool_trim(pool);
    }
    cenote_error err;
    void *data;
    assert_int_equal(cenote_pool_alloc(pool, 0, &data, &err), CENOTE_E_INVAL);
    assert_int_equal(cenote_pool_alloc(pool, UINT64_MAX, &data, &err), CENOTE_E_BUDGET);
    assert_int_equal(cenote_pool_destroy(pool), 0);
    close_rig(&rig);
}

/* ---- level 3 ---- */

static void test_every_operation_checks(void **state)
{
    (void)state;
    struct rig rig = open_rig(3);
    unsigned char *data = alloc(rig.pool, 1000), *other = alloc(rig.pool, 1000);
    poke(data + 1000);
    unsigned char *third = alloc(rig.pool, 1000); /* has nothing to do with it */
    assert_found(CENOTE_FINDING_OVERRUN, "made by operation 1)");
    cenote_pool_free(rig.pool, data); /* which was told already */
    assert_nothing_found();
    poke(data);
    cenote_pool_free(rig.pool, third);
    assert_found(CENOTE_FINDING_WRITE_AFTER_FREE, "made by operation 1, freed by 4)");
    for (unsigned i = 0; i < 70; i++) /* until it leaves quarantine */
        cenote_pool_free(rig.pool, alloc(rig.pool, 1000));
    assert_nothing_found();
    rig.pool->counts.requested_bytes++;
    cenote_pool_free(rig.pool, other);
    assert_found(CENOTE_FINDING_BROKEN, "pool general: ");
    rig.pool->counts.requested_bytes--;
    close_rig(&rig);
}

/* Tensors live, move and go at every level, and nothing is found. */
static void test_tensors(void **state)
{
    (void)state;
    for (uint32_t level = 1; level <= 3; level++) {
        struct rig rig = open_rig(0);
        cenote_pool *pool = pool_of(&rig, CENOTE_CLASS_ACTIVATIONS, level);
        cenote_tensor tensors[8];
        cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
        options.rank = 1;
        for (unsigned i = 0; i < 8; i++) {
            options.shape[0] = 100000 + 200000 * (i % 4) + i; /* some by page tables */
            assert_int_equal(cenote_tensor_create(pool, &options, &tensors[i], NULL), CENOTE_OK);
        }
        for (unsigned i = 0; i < 8; i += 2)
            assert_int_equal(cenote_tensor_release(pool, tensors[i], NULL), CENOTE_OK);
        (void)cenote_pool_trim(pool);
        cenote_compact_result result;
        assert_int_equal(cenote_pool_compact(pool, NULL, &result, NULL), CENOTE_OK);
        assert_true(result.moves > 0);
        assert_null(cenote_pool_check(pool));
        for (unsigned i = 1; i < 8; i += 2) {
            void *data;
            cenote_tensor_state tensor;
            assert_int_equal(cenote_tensor_state_get(pool, tensors[i], &tensor, NULL), CENOTE_OK);
            assert_int_equal(cenote_tensor_pin(pool, tensors[i], &data, NULL), CENOTE_OK);
            memset(data, 1, tensor.size_bytes);
            assert_int_equal(cenote_tensor_unpin(pool, tensors[i], NULL), CENOTE_OK);
            if (i == 7 && level >= 2)
                poke((unsigned char *)data + tensor.size_bytes);
            assert_int_equal(cenote_tensor_release(pool, tensors[i], NULL), CENOTE_OK);
        }
        if (level >= 2)
            assert_found(CENOTE_FINDING_OVERRUN, "2800028 bytes");
        assert_int_equal(cenote_pool_destroy(pool), 0);
        close_rig(&rig);
    }
}

static void ignore_drop(void *context, cenote_tensor tensor)
{
    (void)context;
    (void)tensor;
}

/* What the ladder dropped is no block any more: neither looked at nor listed. */
static void test_dropped_tensors(void **state)
{
    (void)state;
    for (uint32_t level = 1; level <= 3; level++) {
        struct rig rig = open_rig(0);
        cenote_pool *pool = pool_of(&rig, CENOTE_CLASS_ACTIVATIONS, level);
        cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
        cenote_tensor tensor = CENOTE_TENSOR_NONE;
        options.rank = 1;
        options.shape[0] = 250000;
        options.dropped = ignore_drop;
        assert_int_equal(cenote_tensor_create(pool, &options, &tensor, NULL), CENOTE_OK);
        (void)cenote_pool_trim(pool);
        uint64_t more = rig_room(&rig) + MIB / 2;
        assert_int_equal(cenote_budget_charge(rig.budget, more, "somebody", NULL), CENOTE_OK);
        cenote_tensor_state after;
        assert_int_equal(cenote_tensor_state_get(pool, tensor, &after, NULL), CENOTE_OK);
        assert_true(after.dropped);
        assert_null(cenote_pool_check(pool));
        cenote_budget_uncharge(rig.budget, more);
        assert_int_equal(cenote_tensor_release(pool, tensor, NULL), CENOTE_OK);
        assert_int_equal(cenote_pool_destroy(pool), 0);
        close_rig(&rig);
    }
}

/* A handle that was one, and one that never was. */
static void test_dead_handles_are_named(void **state)
{
    (void)state;
    struct rig rig = open_rig(0);
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    cenote_tensor tensor = 0, next = 0;
    cenote_error err;
    void *data;
    assert_int_equal(cenote_tensor_create(rig.pool, &options, &tensor, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_release(rig.pool, tensor, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_release(rig.pool, tensor, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "of pool general: it was released"));
    assert_int_equal(cenote_tensor_create(rig.pool, &options, &next, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_pin(rig.pool, tensor, &data, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "of pool general: it was released"));
    const cenote_tensor never[] = {0, next + 1, next + (UINT64_C(1) << 32), UINT64_MAX, 77};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        assert_int_equal(cenote_tensor_pin(rig.pool, never[i], &data, &err), CENOTE_E_INVAL);
        assert_null(strstr(err.message, "released"));
    }
    assert_int_equal(cenote_tensor_release(rig.pool, next, NULL), CENOTE_OK);
    close_rig(&rig);
}

/* Random work without mistakes. */
static void test_nothing_is_found_in_good_programs(void **state)
{
    (void)state;
    struct rig rig = open_rig(3);
    unsigned char *blocks[30] = {NULL};
    uint64_t sizes[30], random_state = 3;
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t random = random_next(&random_state);
        unsigned slot = (unsigned)(random >> 33) % 30;
        if (blocks[slot] != NULL) {
            for (uint64_t at = 0; at < sizes[slot]; at += 97)
                assert_int_equal(blocks[slot][at], slot);
            cenote_pool_free(rig.pool, blocks[slot]);
            blocks[slot] = NULL;
        } else {
            sizes[slot] = 1 + (random >> 40) % (UINT64_C(64) << (random >> 36) % 10);
            blocks[slot] = alloc(rig.pool, sizes[slot]);
            memset(blocks[slot], (int)slot, sizes[slot]);
        }
    }
    for (unsigned i = 0; i < 30; i++)
        cenote_pool_free(rig.pool, blocks[i]);
    close_rig(&rig);
}

/* ---- levels ---- */

static void test_choice_of_level(void **state)
{
    (void)state;
    struct rig rig = open_rig(0);
    assert_null(rig.pool->debug);
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    cenote_pool *pool = NULL;
    cenote_error err;
    options.debug_level = 4;
    uint64_t before = rig_charged(&rig);
    assert_int_equal(cenote_pool_create(rig.budget, &options, &pool, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "debug level 4, 3 is the highest"));
    options.debug_level = 0;
    static const char *const bad[] = {"4", "x", "-1", "11", " 1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setenv("CENOTE_DEBUG", bad[i], 1);
        assert_int_equal(cenote_pool_create(rig.budget, &options, &pool, &err), CENOTE_E_INVAL);
        assert_non_null(strstr(err.message, "it may be 0 to 3"));
    }
    assert_null(pool);
    assert_int_equal(rig_charged(&rig), before);
    setenv("CENOTE_DEBUG", "1", 1);
    pool = pool_of(&rig, CENOTE_CLASS_GENERAL, 0);
    unsigned char *data = alloc(pool, 10);
    cenote_pool_free(pool, data);
    cenote_pool_free(pool, data);
    assert_found(CENOTE_FINDING_DOUBLE_FREE, "freed twice");
    assert_int_equal(cenote_pool_destroy(pool), 0);
    unsetenv("CENOTE_DEBUG");
    close_rig(&rig);
}

/* ---- children ---- */

/* Runs @p child with its standard error in @p text; @return what wait() says. */
static int in_child(void (*child)(cenote_pool *), cenote_pool *pool, char *text, size_t text_bytes)
{
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_int_not_equal(pid, -1);
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        child(pool);
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    ssize_t got;
    while ((got = read(ends[0], text + used, text_bytes - 1 - used)) > 0)
        used += (size_t)got;
    text[used] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void free_twice(cenote_pool *pool)
{
    cenote_finding_handler_set(NULL, NULL);
    unsigned char *data = alloc(pool, 10);
    cenote_pool_free(pool, data);
    cenote_pool_free(pool, data);
}

static void leak(cenote_pool *pool)
{
    cenote_finding_handler_set(NULL, NULL);
    (void)alloc(pool, 10);
    if (cenote_pool_destroy(pool) != 1)
        _exit(1);
}

/* Without a handler a finding ends the process as an assertion does, and a leak is only said. */
static void test_without_a_handler(void **state)
{
    (void)state;
    struct rig rig = open_rig(1);
    char text[1024];
    int status = in_child(free_twice, rig.pool, text, sizeof text);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(text, "cenote: pool general: a block of 10 bytes at "));
    assert_non_null(strstr(text, "freed twice\n"));
    status = in_child(leak, rig.pool, text, sizeof text);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_non_null(strstr(text, "never freed\n"));
    close_rig(&rig);
}

static unsigned char *shared_block;

static void use_pool(cenote_pool *pool)
{
    if (shared_block[0] != 11 || shared_block[MIB - 1] != 11)
        _exit(2);
    memset(shared_block, 22, MIB);
    unsigned char *data = alloc(pool, 3 * MIB);
    memset(data, 33, 3 * MIB);
    for (unsigned i = 0; i < 100; i++) {
        unsigned char *small = alloc(pool, 1 + i * 77);
        memset(small, 44, 1 + i * 77);
        cenote_pool_free(pool, small);
    }
    if (cenote_pool_check(pool) != NULL)
        _exit(3);
    cenote_pool_free(pool, data);
    cenote_pool_free(pool, shared_block);
    if (cenote_pool_destroy(pool) != 0)
        _exit(4);
}

/* A child of a process with one thread has a copy of everything and goes on with it; the parent's
 * pools know nothing of that. */
static void test_fork(void **state)
{
    (void)state;
    for (uint32_t level = 0; level <= 3; level++) {
        struct rig rig = open_rig(level);
        cenote_pool_free(rig.pool, alloc(rig.pool, 500)); /* something at hand for the thread */
        shared_block = alloc(rig.pool, MIB);
        memset(shared_block, 11, MIB);
        uint64_t before = rig_charged(&rig);
        char text[1024];
        int status = in_child(use_pool, rig.pool, text, sizeof text);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        assert_string_equal(text, "");
        for (uint64_t i = 0; i < MIB; i++)
            assert_int_equal(shared_block[i], 11);
        assert_int_equal(rig_charged(&rig), before);
        assert_null(cenote_pool_check(rig.pool));
        cenote_pool_free(rig.pool, shared_block);
        close_rig(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_frees_are_named),
        cmocka_unit_test(test_leaks_are_listed),
        cmocka_unit_test(test_level_1_changes_nothing),
        cmocka_unit_test(test_memory_of_the_dead_is_bounded),
        cmocka_unit_test(test_fault_sweep),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_overruns_are_found),
        cmocka_unit_test(test_short_zones),
        cmocka_unit_test(test_writes_after_free_are_found),
        cmocka_unit_test(test_quarantine),
        cmocka_unit_test(test_charge_of_exact_pools),
        cmocka_unit_test(test_every_operation_checks),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_dropped_tensors),
        cmocka_unit_test(test_dead_handles_are_named),
        cmocka_unit_test(test_nothing_is_found_in_good_programs),
        cmocka_unit_test(test_choice_of_level),
        cmocka_unit_test(test_without_a_handler),
        cmocka_unit_test(test_fork),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
