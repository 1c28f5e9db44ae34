/* SPDX-License-Identifier: Apache-2.0 */
/* A tensor cache's promises one by one: what is handed out again, what is kept and for how long,
 * what comes back when somebody needs it, and what is refused. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/tensor_cache.h>

#include "pool_fixture.h"

#define KIB   UINT64_C(1024)
#define MIB   (KIB * KIB)
#define LIMIT (64 * MIB)
#define CAP   (8 * MIB) /* threads keep 256 KiB each */

struct cached {
    struct rig rig; /* without a pool of its own */
    cenote_pool *attention, *activations;
    cenote_tensor_cache *cache; /* over both */
};

static int set_up(void **state)
{
    struct cached *cached = calloc(1, sizeof *cached);
    assert_non_null(cached);
    cached->rig = rig_open(cn_fake_create(), LIMIT);
    cached->attention = rig_pool(&cached->rig, CENOTE_CLASS_ATTENTION, 40 * MIB);
    cached->activations = rig_pool(&cached->rig, CENOTE_CLASS_ACTIVATIONS, 32 * MIB);
    cenote_pool *const pools[] = {cached->attention, cached->activations};
    cenote_tensor_cache_options cache = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
    cache.pools = pools;
    cache.pool_count = 2;
    cache.limit_bytes = CAP;
    assert_int_equal(cenote_tensor_cache_create(&cache, &cached->cache, NULL), CENOTE_OK);
    *state = cached;
    return 0;
}

/* Everything is given back, and nobody still has a tensor. */
static int tear_down(void **state)
{
    struct cached *cached = *state;
    assert_null(cenote_tensor_cache_check(cached->cache));
    assert_int_equal(cenote_tensor_cache_destroy(cached->cache), 0);
    assert_int_equal(cenote_pool_destroy(cached->attention), 0);
    assert_int_equal(cenote_pool_destroy(cached->activations), 0);
    rig_close(&cached->rig);
    free(cached);
    return 0;
}

static cenote_tensor_spec spec_of(cenote_dtype dtype, uint32_t rank, const uint64_t *shape)
{
    cenote_tensor_spec spec = {.dtype = dtype, .rank = rank};
    memcpy(spec.shape, shape, rank * sizeof *shape);
    return spec;
}

/* @p bytes in one row. */
static cenote_tensor_spec row(uint64_t bytes)
{
    return spec_of(CENOTE_DTYPE_U8, 2, (const uint64_t[]){1, bytes});
}

static cenote_tensor get(struct cached *cached, cenote_pool *pool, cenote_tensor_spec spec)
{
    cenote_tensor tensor = CENOTE_TENSOR_NONE;
    cenote_error err = {0};
    if (cenote_tensor_cache_get(cached->cache, pool, &spec, &tensor, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    return tensor;
}

static void give_back(struct cached *cached, cenote_pool *pool, cenote_tensor tensor)
{
    cenote_error err = {0};
    if (cenote_tensor_cache_release(cached->cache, pool, tensor, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    assert_null(cenote_tensor_cache_check(cached->cache));
}

static cenote_tensor_cache_stats stats_of(struct cached *cached)
{
    cenote_tensor_cache_stats stats;
    cenote_tensor_cache_stats_get(cached->cache, CENOTE_CLASS_COUNT, &stats);
    return stats;
}

/* ---- what is handed out again ---- */

static void test_the_same_tensor_again(void **state)
{
    struct cached *cached = *state;
    for (unsigned large = 0; large < 2; large++) { /* by the front; by the lists */
        cenote_tensor_spec spec = row(large ? MIB : 4 * KIB);
        void *data, *again;
        cenote_tensor first = get(cached, cached->attention, spec);
        assert_int_equal(cenote_tensor_pin(cached->attention, first, &data, NULL), CENOTE_OK);
        memset(data, 7, 4 * KIB);
        assert_int_equal(cenote_tensor_unpin(cached->attention, first, NULL), CENOTE_OK);
        give_back(cached, cached->attention, first);
        uint64_t allocs = rig_stats(cached->attention).alloc_count;
        for (unsigned i = 0; i < 5; i++) {
            assert_int_equal(get(cached, cached->attention, spec), first);
            give_back(cached, cached->attention, first);
        }
        assert_int_equal(rig_stats(cached->attention).alloc_count, allocs);
        assert_int_equal(cenote_tensor_pin(cached->attention, first, &again, NULL), CENOTE_OK);
        assert_ptr_equal(again, data);
        assert_int_equal(cenote_tensor_unpin(cached->attention, first, NULL), CENOTE_OK);
    }
    cenote_tensor_cache_stats stats = stats_of(cached);
    assert_int_equal(stats.miss_count, 2);
    assert_int_equal(stats.hit_count, 10);
    assert_float_equal(stats.hit_rate, 10 / 12.0, 1e-9);
    assert_int_equal(stats.kept_count, 2);
    assert_int_equal(stats.kept_bytes, MIB + 4 * KIB);
    assert_int_equal(stats.lent_count, 0);
}

static void test_only_for_the_very_same_key(void **state)
{
    struct cached *cached = *state;
    static const uint64_t shapes[][3] = {{1, 8, 16}, {1, 16, 8}, {8, 16, 1}};
    cenote_tensor seen[8],
        kept = get(cached, cached->attention, spec_of(CENOTE_DTYPE_F32, 3, shapes[0]));
    give_back(cached, cached->attention, kept);
    seen[0] = get(cached, cached->attention, spec_of(CENOTE_DTYPE_I32, 3, shapes[0]));
    seen[1] = get(cached, cached->attention, spec_of(CENOTE_DTYPE_F32, 3, shapes[1]));
    seen[2] = get(cached, cached->attention, spec_of(CENOTE_DTYPE_F32, 3, shapes[2]));
    seen[3] = get(cached, cached->attention, spec_of(CENOTE_DTYPE_F32, 2, shapes[0]));
    seen[4] = get(cached, cached->activations, spec_of(CENOTE_DTYPE_F32, 3, shapes[0]));
    assert_int_equal(stats_of(cached).hit_count, 0);
    for (unsigned i = 0; i < 4; i++)
        assert_true(seen[i] != kept);
    assert_int_equal(get(cached, cached->attention, spec_of(CENOTE_DTYPE_F32, 3, shapes[0])), kept);
    /* What lies above rank is ignored; a scalar is a shape as well. */
    cenote_tensor_spec scalar = {.dtype = CENOTE_DTYPE_F32, .shape = {1, 2}};
    seen[5] = get(cached, cached->attention, scalar);
    give_back(cached, cached->attention, seen[5]);
    scalar.shape[1] = 3;
    assert_int_equal(get(cached, cached->attention, scalar), seen[5]);
    for (unsigned i = 0; i < 6; i++)
        give_back(cached, i == 4 ? cached->activations : cached->attention, seen[i]);
    give_back(cached, cached->attention, kept);
}

/* ---- what is kept, and for how long ---- */

static void test_least_recently_released_goes_first(void **state)
{
    struct cached *cached = *state;
    cenote_tensor tensors[8];
    /* With one front, 7.75 MiB are for the lists: the eighth of 1 MiB pushes the first out. */
    for (unsigned i = 0; i < 8; i++)
        tensors[i] = get(cached, cached->attention, row(MIB - i));
    for (unsigned i = 0; i < 8; i++) {
        give_back(cached, cached->attention, tensors[i]);
        if (i == 3) { /* the first one is used again, so the second is the oldest */
            assert_int_equal(get(cached, cached->attention, row(MIB)), tensors[0]);
            give_back(cached, cached->attention, tensors[0]);
        }
    }
    cenote_tensor_cache_stats stats = stats_of(cached);
    assert_int_equal(stats.evicted_count, 1);
    assert_int_equal(stats.evicted_bytes, MIB - 1);
    assert_true(stats.kept_bytes <= CAP);
    assert_int_equal(get(cached, cached->attention, row(MIB)), tensors[0]);
    assert_int_equal(stats_of(cached).miss_count, 8);
    tensors[1] = get(cached, cached->attention, row(MIB - 1));
    assert_int_equal(stats_of(cached).miss_count, 9);
    give_back(cached, cached->attention, tensors[0]);
    give_back(cached, cached->attention, tensors[1]);
}

/* Of many of one shape, the one released last is lent first: it is warm. */
static void test_the_newest_is_lent_first(void **state)
{
    struct cached *cached = *state;
    cenote_tensor tensors[6];
    for (unsigned i = 0; i < 6; i++)
        tensors[i] = get(cached, cached->attention, row(MIB));
    for (unsigned i = 0; i < 6; i++)
        give_back(cached, cached->attention, tensors[i]);
    for (unsigned i = 6; i-- > 0;)
        assert_int_equal(get(cached, cached->attention, row(MIB)), tensors[i]);
    for (unsigned i = 0; i < 6; i++)
        give_back(cached, cached->attention, tensors[i]);
}

/* What is evicted is free memory of its pool, and trimming gives it to the system. */
static void test_evicted_memory_goes_back(void **state)
{
    struct cached *cached = *state;
    cenote_tensor tensors[6];
    for (unsigned i = 0; i < 6; i++)
        tensors[i] = get(cached, cached->attention, row(MIB));
    for (unsigned i = 0; i < 6; i++)
        give_back(cached, cached->attention, tensors[i]);
    assert_int_equal(rig_stats(cached->attention).used_bytes, 6 * MIB);
    assert_int_equal(cenote_tensor_cache_trim(cached->cache, 2 * MIB), 4 * MIB);
    assert_int_equal(rig_stats(cached->attention).used_bytes, 2 * MIB);
    assert_int_equal(stats_of(cached).kept_bytes, 2 * MIB);
    uint64_t before = cn_fake_books_get(cached->rig.fake).committed_bytes;
    (void)cenote_pool_trim(cached->attention);
    assert_int_equal(cn_fake_books_get(cached->rig.fake).committed_bytes, before - 4 * MIB);
    assert_int_equal(rig_stats(cached->attention).committed_bytes, 2 * MIB);
    assert_int_equal(cenote_tensor_cache_trim(cached->cache, 0), 2 * MIB);
    assert_int_equal(rig_stats(cached->attention).used_bytes, 0);
    /* The thread's own as well. */
    give_back(cached, cached->attention, get(cached, cached->attention, row(4 * KIB)));
    assert_int_equal(stats_of(cached).kept_count, 1);
    assert_int_equal(cenote_tensor_cache_trim(cached->cache, 0), 4 * KIB);
    assert_int_equal(stats_of(cached).kept_count, 0);
    assert_int_equal(rig_stats(cached->attention).block_count, 0);
}

static void test_larger_than_the_cap(void **state)
{
    struct cached *cached = *state;
    cenote_tensor small = get(cached, cached->attention, row(MIB));
    cenote_tensor large = get(cached, cached->activations, row(CAP + 1));
    give_back(cached, cached->attention, small);
    give_back(cached, cached->activations, large); /* ends at once, and pushes nothing out */
    assert_int_equal(rig_stats(cached->activations).used_bytes, 0);
    assert_int_equal(stats_of(cached).kept_count, 1);
    assert_int_equal(stats_of(cached).lent_count, 0);
}

/* ---- what comes back when somebody needs it ---- */

static void test_kept_tensors_make_room(void **state)
{
    struct cached *cached = *state;
    cenote_pool *other = rig_pool(&cached->rig, CENOTE_CLASS_PARAMETERS, 0);
    cenote_tensor tensors[6];
    void *data = NULL;
    for (unsigned i = 0; i < 6; i++)
        tensors[i] = get(cached, cached->attention, row(MIB));
    for (unsigned i = 0; i < 5; i++)
        give_back(cached, cached->attention, tensors[i]);
    /* Beyond all reach: nobody is disturbed. */
    uint64_t left = rig_room(&cached->rig);
    cenote_error err;
    assert_int_equal(cenote_pool_alloc(other, left + 6 * MIB, &data, &err), CENOTE_E_BUDGET);
    assert_int_equal(stats_of(cached).kept_count, 5);
    /* 2.5 MiB more than is left: three tensors go. */
    assert_int_equal(cenote_pool_alloc(other, left + 5 * MIB / 2, &data, &err), CENOTE_OK);
    assert_int_equal(stats_of(cached).kept_count, 2);
    assert_int_equal(rig_budget_stats(&cached->rig).reclaim[CENOTE_RECLAIM_CACHE].given_bytes,
                     3 * MIB);
    assert_int_equal(rig_stats(other).miss_count[CENOTE_MISS_RECLAIM], 1);
    assert_int_equal(rig_stats(cached->attention).committed_bytes, 3 * MIB);
    cenote_budget_holder holders[3];
    assert_int_equal(cenote_budget_explain(cached->rig.budget, holders, 3), 3);
    assert_int_equal(holders[1].class_id, CENOTE_CLASS_ATTENTION);
    assert_int_equal(holders[1].cached_bytes, 2 * MIB);
    assert_int_equal(holders[1].live_bytes, 3 * MIB);
    cenote_pool_free(other, data);
    (void)cenote_pool_destroy(other);
    give_back(cached, cached->attention, tensors[5]);
}

/* What was evicted for somebody is not left at hand for the thread, which would cost more of them.
 */
static void test_no_more_small_ones_go_than_needed(void **state)
{
    struct cached *cached = *state;
    enum { TENSORS = 64 };
    struct cached small = *cached;
    cenote_pool *pool = rig_pool(&cached->rig, CENOTE_CLASS_GENERAL, 8 * MIB);
    cenote_pool *other = rig_pool(&cached->rig, CENOTE_CLASS_PARAMETERS, 0);
    cenote_tensor_cache_options options = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
    options.pools = &pool;
    options.pool_count = 1;
    options.limit_bytes = 4 * MIB;
    assert_int_equal(cenote_tensor_cache_create(&options, &small.cache, NULL), CENOTE_OK);
    cenote_tensor tensors[TENSORS];
    for (unsigned i = 0; i < TENSORS; i++)
        tensors[i] = get(&small, pool, row(32 * KIB));
    for (unsigned i = 0; i < TENSORS; i++)
        give_back(&small, pool, tensors[i]);
    (void)cenote_pool_trim(pool);
    void *data = NULL;
    uint64_t left = rig_room(&cached->rig) / CENOTE_GRANULE_BYTES * CENOTE_GRANULE_BYTES;
    assert_int_equal(cenote_pool_alloc(other, left + CENOTE_GRANULE_BYTES, &data, NULL), CENOTE_OK);
    assert_in_range(stats_of(&small).evicted_count, 1, 10);
    cenote_pool_free(other, data);
    assert_int_equal(cenote_pool_destroy(other), 0);
    assert_int_equal(cenote_tensor_cache_destroy(small.cache), 0);
    assert_int_equal(cenote_pool_destroy(pool), 0);
}

static void test_kept_tensors_make_way_for_a_quota(void **state)
{
    struct cached *cached = *state;
    cenote_tensor here[6], there = get(cached, cached->activations, row(MIB));
    void *data = NULL;
    for (unsigned i = 0; i < 6; i++)
        here[i] = get(cached, cached->attention, row(MIB));
    give_back(cached, cached->activations, there); /* the oldest, and none of that quota */
    for (unsigned i = 0; i < 6; i++)
        give_back(cached, cached->attention, here[i]);
    assert_int_equal(cenote_pool_alloc(cached->attention, 36 * MIB, &data, NULL), CENOTE_OK);
    assert_int_equal(rig_stats(cached->attention).used_bytes, 40 * MIB);
    assert_int_equal(cenote_pool_quota_set(cached->attention, 35 * MIB, NULL), CENOTE_E_BUDGET);
    assert_int_equal(stats_of(cached).kept_count, 5); /* what would not help stays */
    assert_int_equal(cenote_pool_quota_set(cached->attention, 37 * MIB, NULL), CENOTE_OK);
    assert_int_equal(rig_stats(cached->attention).used_bytes, 37 * MIB);
    assert_int_equal(stats_of(cached).kept_count, 2); /* one here, and the other pool's */
    cenote_pool_free(cached->attention, data);
    assert_int_equal(rig_stats(cached->activations).used_bytes, MIB);
}

/* What the thread keeps for itself is no reason to refuse it another shape. */
static void test_own_front_makes_room(void **state)
{
    struct cached *cached = *state;
    cenote_pool *other = rig_pool(&cached->rig, CENOTE_CLASS_PARAMETERS, 0);
    void *data = NULL;
    give_back(cached, cached->activations,
              get(cached, cached->activations, row(1))); /* its table */
    (void)cenote_tensor_cache_trim(cached->cache, 0);
    for (unsigned i = 0; i < 2; i++)
        give_back(cached, cached->attention, get(cached, cached->attention, row(128 * KIB)));
    (void)cenote_pool_trim(cached->activations);
    uint64_t left = rig_room(&cached->rig);
    uint64_t size = left / (CENOTE_GRANULE_BYTES + 128) * CENOTE_GRANULE_BYTES;
    assert_int_equal(cenote_pool_alloc(other, size, &data, NULL), CENOTE_OK);
    give_back(cached, cached->activations, get(cached, cached->activations, row(64 * KIB)));
    cenote_pool_free(other, data);
    (void)cenote_pool_destroy(other);
}

/* ---- what is refused ---- */

static cenote_status try_release(struct cached *cached, cenote_pool *pool, cenote_tensor tensor,
                                 const char *word)
{
    cenote_error err = {0};
    cenote_status status = cenote_tensor_cache_release(cached->cache, pool, tensor, &err);
    if (status != CENOTE_OK && strstr(err.message, word) == NULL)
        fail_msg("%s", err.message);
    assert_null(cenote_tensor_cache_check(cached->cache));
    return status;
}

static void test_what_was_not_lent_is_not_taken(void **state)
{
    struct cached *cached = *state;
    void *data;
    cenote_pool *stranger = rig_pool(&cached->rig, CENOTE_CLASS_GENERAL, MIB);
    for (unsigned large = 0; large < 2; large++) {
        cenote_tensor_spec spec = row(large ? MIB : 4 * KIB);
        cenote_tensor tensor = get(cached, cached->attention, spec), own;
        assert_int_equal(try_release(cached, stranger, tensor, "none of its pools"),
                         CENOTE_E_INVAL);
        assert_int_equal(try_release(cached, cached->activations, tensor, "not lent"),
                         CENOTE_E_INVAL);
        assert_int_equal(try_release(cached, cached->attention, 0, "not lent"), CENOTE_E_INVAL);
        assert_int_equal(try_release(cached, cached->attention, UINT64_MAX, "not lent"),
                         CENOTE_E_INVAL);
        assert_int_equal(cenote_tensor_pin(cached->attention, tensor, &data, NULL), CENOTE_OK);
        assert_int_equal(try_release(cached, cached->attention, tensor, "pinned"), CENOTE_E_INVAL);
        assert_int_equal(cenote_tensor_unpin(cached->attention, tensor, NULL), CENOTE_OK);
        assert_int_equal(cenote_tensor_retain(cached->attention, tensor, NULL), CENOTE_OK);
        assert_int_equal(try_release(cached, cached->attention, tensor, "referenced"),
                         CENOTE_E_INVAL);
        assert_int_equal(cenote_tensor_release(cached->attention, tensor, NULL), CENOTE_OK);
        give_back(cached, cached->attention, tensor);
        assert_int_equal(try_release(cached, cached->attention, tensor, "not lent"),
                         CENOTE_E_INVAL);
        /* Of the pool, but not of the cache. */
        cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
        assert_int_equal(cenote_tensor_create(cached->attention, &options, &own, NULL), CENOTE_OK);
        assert_int_equal(try_release(cached, cached->attention, own, "not lent"), CENOTE_E_INVAL);
        assert_int_equal(cenote_tensor_release(cached->attention, own, NULL), CENOTE_OK);
        /* Ended behind the cache's back: it is dead, and its number may be another's. */
        tensor = get(cached, cached->attention, spec);
        assert_int_equal(cenote_tensor_release(cached->attention, tensor, NULL), CENOTE_OK);
        assert_int_equal(try_release(cached, cached->attention, tensor, "dead"), CENOTE_E_INVAL);
        give_back(cached, cached->attention, get(cached, cached->attention, spec));
        assert_int_equal(stats_of(cached).lent_count, 0);
    }
    (void)cenote_pool_destroy(stranger);
}

/* With a debug level a handle that was given back is dead, though its tensor is kept. */
static void test_debug_levels_renew_handles(void **state)
{
    struct cached *cached = *state;
    struct cached other = *cached;
    cenote_tensor_cache_options cache = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
    cenote_pool *pool = rig_debug_pool(&cached->rig, CENOTE_CLASS_GENERAL, 8 * MIB, 1);
    cache.pools = &pool;
    cache.pool_count = 1;
    cache.limit_bytes = CAP;
    assert_int_equal(cenote_tensor_cache_create(&cache, &other.cache, NULL), CENOTE_OK);
    for (unsigned large = 0; large < 2; large++) {
        cenote_tensor_spec spec = row(large ? MIB : 4 * KIB);
        cenote_tensor first = get(&other, pool, spec);
        void *data, *again;
        assert_int_equal(cenote_tensor_pin(pool, first, &data, NULL), CENOTE_OK);
        assert_int_equal(cenote_tensor_unpin(pool, first, NULL), CENOTE_OK);
        give_back(&other, pool, first);
        assert_int_equal(cenote_tensor_pin(pool, first, &again, NULL), CENOTE_E_INVAL);
        cenote_tensor second = get(&other, pool, spec);
        assert_true(second != first);
        assert_int_equal(cenote_tensor_pin(pool, second, &again, NULL), CENOTE_OK);
        assert_ptr_equal(again, data);
        assert_int_equal(cenote_tensor_unpin(pool, second, NULL), CENOTE_OK);
        assert_int_equal(try_release(&other, pool, first, "not lent"), CENOTE_E_INVAL);
        give_back(&other, pool, second);
    }
    assert_int_equal(stats_of(&other).hit_count, 2);
    assert_int_equal(cenote_tensor_cache_destroy(other.cache), 0);
    assert_int_equal(cenote_pool_destroy(pool), 0);
}

static void test_hostile_specs(void **state)
{
    struct cached *cached = *state;
    const struct {
        cenote_tensor_spec spec;
        const char *word;
        cenote_status status;
    } cases[] = {
        {{(cenote_dtype)99, 1, {1}}, "dtype 99", CENOTE_E_INVAL},
        {{CENOTE_DTYPE_F32, 9, {1}}, "9 dimensions, 8", CENOTE_E_INVAL},
        {{CENOTE_DTYPE_F32, UINT32_MAX, {1}}, "4294967295 dimensions", CENOTE_E_INVAL},
        {{CENOTE_DTYPE_F32, 3, {1, 0, 1}}, "dimension 1 is 0", CENOTE_E_INVAL},
        {{CENOTE_DTYPE_F32, 2, {UINT64_C(1) << 32, UINT64_C(1) << 32}},
         "more than 2^64 bytes with dimension 1 of 4294967296",
         CENOTE_E_INVAL},
        {{CENOTE_DTYPE_U8, 1, {UINT64_MAX}}, "quota", CENOTE_E_BUDGET},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cenote_tensor tensor = CENOTE_TENSOR_NONE;
        cenote_error err = {0};
        assert_int_equal(cenote_tensor_cache_get(cached->cache, cached->attention, &cases[i].spec,
                                                 &tensor, &err),
                         cases[i].status);
        if (strstr(err.message, cases[i].word) == NULL)
            fail_msg("%s", err.message);
        assert_int_equal(tensor, CENOTE_TENSOR_NONE);
    }
    assert_int_equal(stats_of(cached).shape_count, 0);
    assert_int_equal(stats_of(cached).miss_count, 1); /* the last was worth a try */
}

static void test_bad_options(void **state)
{
    struct cached *cached = *state;
    cenote_tensor_cache *cache = NULL;
    cenote_error err;
    cenote_pool *const twice[] = {cached->attention, cached->attention};
    cenote_tensor_cache_options options = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
    options.version = 9;
    assert_int_equal(cenote_tensor_cache_create(&options, &cache, &err), CENOTE_E_VERSION);
    options.version = CENOTE_TENSOR_CACHE_OPTIONS_VERSION;
    options.pools = twice;
    assert_int_equal(cenote_tensor_cache_create(&options, &cache, &err), CENOTE_E_INVAL);
    options.pool_count = 17;
    assert_int_equal(cenote_tensor_cache_create(&options, &cache, &err), CENOTE_E_INVAL);
    options.pool_count = 1;
    assert_int_equal(cenote_tensor_cache_create(&options, &cache, &err), CENOTE_E_INVAL);
    options.limit_bytes = 1;
    options.pool_count = 2;
    assert_int_equal(cenote_tensor_cache_create(&options, &cache, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "twice"));
    assert_null(cache);
    assert_int_equal(cenote_tensor_cache_destroy(NULL), 0);
}

/* ---- many shapes ---- */

static void test_shapes_are_bounded(void **state)
{
    struct cached *cached = *state;
    enum { MORE = CENOTE_TENSOR_CACHE_SHAPES_MAX + 100 };
    cenote_tensor first = get(cached, cached->attention, row(1)),
                  *lent = calloc(MORE, sizeof *lent);
    /* One after the other: those asked for longest ago are forgotten, and their
     * tensors end. */
    for (unsigned i = 1; i < MORE; i++)
        give_back(cached, cached->attention, get(cached, cached->attention, row(1 + i)));
    cenote_tensor_cache_stats stats = stats_of(cached);
    assert_int_equal(stats.shape_count, CENOTE_TENSOR_CACHE_SHAPES_MAX);
    assert_int_equal(stats.kept_count, CENOTE_TENSOR_CACHE_SHAPES_MAX - 1);
    assert_int_equal(stats.miss_count, MORE); /* those of forgotten shapes too */
    assert_int_equal(rig_stats(cached->attention).block_count, CENOTE_TENSOR_CACHE_SHAPES_MAX);
    give_back(cached, cached->attention, first); /* it was lent all the while, so it is known */
    assert_int_equal(get(cached, cached->attention, row(1)), first);
    give_back(cached, cached->attention, first);
    /* All at once: what the table has no room for is lent all the same, and not kept. */
    for (unsigned i = 0; i < MORE; i++)
        lent[i] = get(cached, cached->attention, row(1 + i));
    assert_int_equal(stats_of(cached).shape_count, CENOTE_TENSOR_CACHE_SHAPES_MAX);
    for (unsigned i = 0; i < MORE; i++)
        give_back(cached, cached->attention, lent[i]);
    assert_int_equal(stats_of(cached).kept_count, CENOTE_TENSOR_CACHE_SHAPES_MAX);
    assert_int_equal(stats_of(cached).lent_count, 0);
    free(lent);
}

static void test_figures_by_class_and_shape(void **state)
{
    struct cached *cached = *state;
    cenote_tensor_cache_stats attention, activations, gradients;
    cenote_tensor_cache_shape shapes[3];
    for (unsigned i = 0; i < 4; i++) {
        give_back(cached, cached->attention, get(cached, cached->attention, row(MIB)));
        give_back(cached, cached->activations, get(cached, cached->activations, row(100)));
    }
    cenote_tensor lent = get(cached, cached->activations, row(100));
    cenote_tensor_cache_stats_get(cached->cache, CENOTE_CLASS_ATTENTION, &attention);
    cenote_tensor_cache_stats_get(cached->cache, CENOTE_CLASS_ACTIVATIONS, &activations);
    cenote_tensor_cache_stats_get(cached->cache, CENOTE_CLASS_GRADIENTS, &gradients);
    assert_int_equal(attention.hit_count, 3);
    assert_int_equal(attention.kept_bytes, MIB);
    assert_int_equal(activations.hit_count, 4);
    assert_int_equal(activations.lent_count, 1);
    assert_int_equal(activations.kept_count, 0);
    assert_int_equal(gradients.hit_count + gradients.miss_count + gradients.shape_count, 0);
    assert_true(gradients.hit_rate == 0);
    assert_int_equal(cenote_tensor_cache_shapes(cached->cache, shapes, 3), 2);
    assert_int_equal(shapes[0].class_id, CENOTE_CLASS_ATTENTION);
    assert_int_equal(shapes[0].spec.shape[1], MIB);
    assert_int_equal(shapes[0].kept_count, 1);
    assert_int_equal(shapes[0].hit_count, 3);
    assert_int_equal(shapes[1].size_bytes, 100);
    assert_int_equal(shapes[1].hit_count, 4);
    assert_int_equal(shapes[1].miss_count, 1);
    assert_int_equal(shapes[1].lent_count, 1);
    assert_int_equal(cenote_tensor_cache_shapes(cached->cache, NULL, 0), 2);
    give_back(cached, cached->activations, lent);
}

/* ---- before the first step ---- */

static void test_prewarm(void **state)
{
    struct cached *cached = *state;
    cenote_error err;
    cenote_tensor_prewarm list[2] = {
        {.class_id = CENOTE_CLASS_ATTENTION, .count = 2, .spec = row(MIB)},
        {.class_id = CENOTE_CLASS_ACTIVATIONS, .count = 1, .spec = row(4 * KIB)},
    };
    assert_int_equal(cenote_tensor_cache_prewarm(cached->cache, list, 2, &err), CENOTE_OK);
    assert_int_equal(cenote_tensor_cache_prewarm(cached->cache, list, 2, &err), CENOTE_OK);
    cenote_tensor_cache_stats stats = stats_of(cached);
    assert_int_equal(stats.kept_count, 3); /* the second time there was nothing to do */
    assert_int_equal(stats.kept_bytes, 2 * MIB + 4 * KIB);
    cenote_tensor a = get(cached, cached->attention, row(MIB)),
                  b = get(cached, cached->attention, row(MIB));
    cenote_tensor c = get(cached, cached->activations, row(4 * KIB));
    assert_int_equal(stats_of(cached).hit_count, 3);
    give_back(cached, cached->attention, a);
    give_back(cached, cached->attention, b);
    give_back(cached, cached->activations, c);
    /* All or nothing where that can be known. */
    list[1].class_id = CENOTE_CLASS_KV_CACHE;
    list[0].spec = row(MIB + 1);
    assert_int_equal(cenote_tensor_cache_prewarm(cached->cache, list, 2, &err), CENOTE_E_NOTFOUND);
    assert_non_null(strstr(err.message, "kv_cache"));
    list[1].class_id = CENOTE_CLASS_ACTIVATIONS;
    list[1].spec.shape[0] = 0;
    assert_int_equal(cenote_tensor_cache_prewarm(cached->cache, list, 2, &err), CENOTE_E_INVAL);
    list[1].spec.shape[0] = 1;
    list[1].count = UINT32_MAX;
    assert_int_equal(cenote_tensor_cache_prewarm(cached->cache, list, 2, &err), CENOTE_E_BUDGET);
    assert_int_equal(stats_of(cached).kept_count, 3);
}

static void test_prewarm_common_shapes(void **state)
{
    struct cached *cached = *state;
    cenote_tensor_prewarm list[CENOTE_TENSOR_PREWARM_COMMON_COUNT];
    cenote_tensor_prewarm_common(CENOTE_DTYPE_BF16, list);
    uint64_t sum = 0;
    for (unsigned i = 0; i < CENOTE_TENSOR_PREWARM_COMMON_COUNT; i++) {
        uint64_t elements = 1;
        for (uint32_t d = 0; d < list[i].spec.rank; d++)
            elements *= list[i].spec.shape[d];
        assert_int_equal(list[i].spec.dtype, CENOTE_DTYPE_BF16);
        assert_int_equal(list[i].count, 1);
        sum += elements;
    }
    assert_int_equal(sum, 512 * 4096 + 512 * 512 + 8 * 512 * 512 + 512 * 11008 + 11008 * 4096 +
                              576 * 4096 + 3 * 224 * 224);
    /* Those of one class of the cache's. */
    assert_int_equal(cenote_tensor_cache_prewarm(cached->cache, list, 1, NULL), CENOTE_OK);
    give_back(cached, cached->attention, get(cached, cached->attention, list[0].spec));
    assert_int_equal(stats_of(cached).hit_count, 1);
    assert_int_equal(stats_of(cached).miss_count, 0); /* nobody asked when it was made */
    assert_true(stats_of(cached).hit_rate == 1.0);
}

/* ---- threads ---- */

struct visitor {
    struct cached *cached;
    pthread_barrier_t *barrier; /* NULL: no need to wait */
    cenote_tensor tensor;
};

static void *visit(void *argument)
{
    struct visitor *v = argument;
    cenote_tensor_spec spec = row(4 * KIB);
    for (unsigned i = 0; i < 3; i++)
        if (cenote_tensor_cache_get(v->cached->cache, v->cached->attention, &spec, &v->tensor,
                                    NULL) != CENOTE_OK ||
            cenote_tensor_cache_release(v->cached->cache, v->cached->attention, v->tensor, NULL) !=
                CENOTE_OK)
            abort();
    if (v->barrier != NULL) {
        (void)pthread_barrier_wait(v->barrier); /* all have a front who can */
        (void)pthread_barrier_wait(v->barrier); /* the test has looked, and trimmed */
        if (cenote_tensor_cache_get(v->cached->cache, v->cached->attention, &spec, &v->tensor,
                                    NULL) != CENOTE_OK ||
            cenote_tensor_cache_release(v->cached->cache, v->cached->attention, v->tensor, NULL) !=
                CENOTE_OK)
            abort();
    }
    return NULL;
}

static void test_a_thread_that_ends_leaves_nothing(void **state)
{
    struct cached *cached = *state;
    for (unsigned i = 0; i < 20; i++) { /* more than there are fronts */
        struct visitor v = {.cached = cached};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, visit, &v), 0);
        pthread_join(thread, NULL);
        assert_null(cenote_tensor_cache_check(cached->cache));
    }
    assert_int_equal(stats_of(cached).miss_count, 1); /* each found what the first made */
    assert_int_equal(stats_of(cached).kept_count, 1);
    assert_int_equal(cenote_tensor_cache_trim(cached->cache, 0), 4 * KIB);
}

static void test_more_threads_than_fronts(void **state)
{
    struct cached *cached = *state;
    enum { THREADS = 12 };
    struct visitor visitors[THREADS];
    pthread_t threads[THREADS];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (unsigned i = 0; i < THREADS; i++) {
        visitors[i] = (struct visitor){.cached = cached, .barrier = &barrier};
        assert_int_equal(pthread_create(&threads[i], NULL, visit, &visitors[i]), 0);
    }
    (void)pthread_barrier_wait(&barrier);
    assert_null(cenote_tensor_cache_check(cached->cache));
    /* What others keep stays theirs until their next call. */
    (void)cenote_tensor_cache_trim(cached->cache, 0);
    assert_in_range(stats_of(cached).kept_count, 1, 8);
    (void)pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    cenote_tensor_cache_stats stats = stats_of(cached);
    assert_int_equal(stats.hit_count + stats.miss_count, 4 * THREADS);
    assert_int_equal(stats.lent_count, 0);
    (void)cenote_tensor_cache_trim(cached->cache, 0);
    assert_int_equal(rig_stats(cached->attention).block_count, 0);
}

/* A thread's slots outlive caches: a new one at the same place, with the same slot, is another. */
static void test_caches_come_and_go(void **state)
{
    struct cached *cached = *state;
    for (unsigned i = 0; i < 40; i++) {
        struct cached other = *cached;
        cenote_tensor_cache_options options = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
        options.pools = &cached->activations;
        options.pool_count = 1;
        options.limit_bytes = CAP;
        assert_int_equal(cenote_tensor_cache_create(&options, &other.cache, NULL), CENOTE_OK);
        give_back(&other, cached->activations, get(&other, cached->activations, row(4 * KIB)));
        give_back(cached, cached->attention, get(cached, cached->attention, row(4 * KIB)));
        cenote_tensor lent = get(&other, cached->activations, row(100));
        assert_int_equal(cenote_tensor_cache_destroy(other.cache), 1);
        /* It lives on. */
        assert_int_equal(cenote_tensor_release(cached->activations, lent, NULL), CENOTE_OK);
    }
    assert_int_equal(rig_stats(cached->activations).block_count, 0);
    assert_int_equal(stats_of(cached).hit_count, 39);
}

/* ---- faults ---- */

/* Every reserve and commit refused once, over create, get and pre-warm. */
static void test_fault_sweep(void **state)
{
    struct cached *cached = *state;
    unsigned refused = 0;
    for (unsigned nth = 1;; nth++) {
        struct cached other = *cached;
        cenote_tensor tensor = CENOTE_TENSOR_NONE;
        cenote_tensor_cache_options options = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
        cenote_tensor_prewarm item = {CENOTE_CLASS_GENERAL, 3, row(MIB)};
        cenote_tensor_spec spec = row(2 * MIB);
        cenote_pool *pool = rig_pool(&cached->rig, CENOTE_CLASS_GENERAL, 8 * MIB);
        options.pools = &pool;
        options.pool_count = 1;
        options.limit_bytes = CAP;
        other.cache = NULL;
        cn_fake_fail(cached->rig.fake, CN_FAKE_MEMORY, nth, ENOMEM);
        cenote_status status = cenote_tensor_cache_create(&options, &other.cache, NULL);
        if (status == CENOTE_OK)
            status = cenote_tensor_cache_get(other.cache, pool, &spec, &tensor, NULL);
        if (status == CENOTE_OK)
            status = cenote_tensor_cache_prewarm(other.cache, &item, 1, NULL);
        if (other.cache != NULL)
            assert_null(cenote_tensor_cache_check(other.cache));
        cn_fake_fail(cached->rig.fake, CN_FAKE_MEMORY, 0, 0);
        if (tensor != CENOTE_TENSOR_NONE)
            give_back(&other, pool, tensor);
        assert_int_equal(cenote_tensor_cache_destroy(other.cache), 0);
        assert_int_equal(cenote_pool_destroy(pool), 0);
        if (status == CENOTE_OK)
            break;
        assert_int_equal(status, CENOTE_E_NOMEM);
        refused++;
    }
    assert_in_range(refused, 8, 40);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_same_tensor_again),
        TEST(test_only_for_the_very_same_key),
        TEST(test_least_recently_released_goes_first),
        TEST(test_the_newest_is_lent_first),
        TEST(test_evicted_memory_goes_back),
        TEST(test_larger_than_the_cap),
        TEST(test_kept_tensors_make_room),
        TEST(test_no_more_small_ones_go_than_needed),
        TEST(test_kept_tensors_make_way_for_a_quota),
        TEST(test_own_front_makes_room),
        TEST(test_what_was_not_lent_is_not_taken),
        TEST(test_debug_levels_renew_handles),
        TEST(test_hostile_specs),
        TEST(test_bad_options),
        TEST(test_shapes_are_bounded),
        TEST(test_figures_by_class_and_shape),
        TEST(test_prewarm),
        TEST(test_prewarm_common_shapes),
        TEST(test_a_thread_that_ends_leaves_nothing),
        TEST(test_more_threads_than_fronts),
        TEST(test_caches_come_and_go),
        TEST(test_fault_sweep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
