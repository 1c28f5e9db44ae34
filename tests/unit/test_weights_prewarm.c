/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes to pre-warm from a model's matrices, and a tensor cache that then never misses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "checkpoint.h"
#include "weights_fixture.h"

static const struct test_tensor tensors[] = {
    {"embed", "BF16", {900, 32}, 2, 1},          {"layers.0.down", "BF16", {32, 96}, 2, 2},
    {"layers.0.norm", "F32", {32}, 1, 3},        {"layers.0.up", "BF16", {96, 32}, 2, 4},
    {"layers.1.down", "BF16", {32, 96}, 2, 5},   {"layers.1.none", "BF16", {0, 32}, 2, 6},
    {"patches", "BF16", {48, 3, 2, 4, 4}, 5, 7}, {"scale", "F32", {0}, 0, 8},
};

static char folder[512];
static cenote_budget *budget;
static cenote_weights *weights;

static int setup(void **state)
{
    (void)state;
    char path[600];
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    test_checkpoint_write(path, tensors, sizeof tensors / sizeof tensors[0], 0);
    budget = test_budget_create(64u << 20, NULL);
    weights = test_weights_open(budget, path, CENOTE_IO_AUTO);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cenote_weights_close(weights);
    assert_int_equal(test_budget_charged(budget), 1);
    cenote_budget_destroy(budget);
    test_folder_remove(folder);
    return 0;
}

static void expect_outputs(const char *prefix, const uint64_t *expected, size_t count)
{
    cenote_weights_outputs outputs = {prefix, CENOTE_CLASS_ACTIVATIONS, CENOTE_DTYPE_F32, 17};
    cenote_tensor_prewarm list[8];
    assert_int_equal(cenote_weights_prewarm(weights, &outputs, NULL, 0), count);
    assert_int_equal(cenote_weights_prewarm(weights, &outputs, list, 8), count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(list[i].class_id, CENOTE_CLASS_ACTIVATIONS);
        assert_int_equal(list[i].count, 1);
        assert_int_equal(list[i].spec.dtype, CENOTE_DTYPE_F32);
        assert_int_equal(list[i].spec.rank, 3);
        assert_int_equal(list[i].spec.shape[0], 1);
        assert_int_equal(list[i].spec.shape[1], 17);
        assert_int_equal(list[i].spec.shape[2], expected[i]);
    }
}

static void test_shapes(void **state)
{
    (void)state;
    expect_outputs(NULL, (const uint64_t[]){900, 32, 96, 48}, 4);
    expect_outputs("layers.", (const uint64_t[]){32, 96}, 2);
    expect_outputs("layers.0.up", (const uint64_t[]){96}, 1);
    expect_outputs("layers.0.norm", NULL, 0); /* no matrix */
    expect_outputs("layers.1.none", NULL, 0); /* gives nothing */
    expect_outputs("other", NULL, 0);
    /* No more than there is room for. */
    cenote_weights_outputs outputs = {NULL, CENOTE_CLASS_GENERAL, CENOTE_DTYPE_F32, 1};
    cenote_tensor_prewarm list[3] = {[2] = {.count = 77}};
    assert_int_equal(cenote_weights_prewarm(weights, &outputs, list, 2), 4);
    assert_int_equal(list[1].spec.shape[2], 32);
    assert_int_equal(list[2].count, 77);
}

static void test_first_pass_misses_nothing(void **state)
{
    (void)state;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    cenote_tensor_cache_options options = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
    cenote_pool *pool;
    cenote_tensor_cache *cache;
    cenote_error err;
    pool_options.class_id = CENOTE_CLASS_ACTIVATIONS;
    pool_options.quota_bytes = 4u << 20;
    assert_int_equal(cenote_pool_create(budget, &pool_options, &pool, &err), CENOTE_OK);
    options.pools = &pool;
    options.pool_count = 1;
    options.limit_bytes = 1u << 20;
    assert_int_equal(cenote_tensor_cache_create(&options, &cache, &err), CENOTE_OK);

    cenote_weights_outputs outputs = {"layers.", CENOTE_CLASS_ACTIVATIONS, CENOTE_DTYPE_BF16, 64};
    cenote_tensor_prewarm list[4];
    size_t count = cenote_weights_prewarm(weights, &outputs, list, 4);
    assert_int_equal(cenote_tensor_cache_prewarm(cache, list, count, &err), CENOTE_OK);
    for (uint32_t i = 0; i < cenote_weights_count(weights); i++) { /* as its layers would ask */
        const cenote_tensor_info *info = cenote_weights_tensor(weights, i);
        cenote_tensor_spec spec = {CENOTE_DTYPE_BF16, 3, {1, 64, info->shape[0]}};
        cenote_tensor tensor;
        if (info->rank != 2 || info->name[0] != 'l' || info->size_bytes == 0)
            continue;
        assert_int_equal(cenote_tensor_cache_get(cache, pool, &spec, &tensor, &err), CENOTE_OK);
        assert_int_equal(cenote_tensor_cache_release(cache, pool, tensor, &err), CENOTE_OK);
    }
    cenote_tensor_cache_stats stats;
    cenote_tensor_cache_stats_get(cache, CENOTE_CLASS_ACTIVATIONS, &stats);
    assert_int_equal(stats.hit_count, 3);
    assert_int_equal(stats.miss_count, 0);
    assert_int_equal(cenote_tensor_cache_destroy(cache), 0);
    assert_int_equal(cenote_pool_destroy(pool), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_first_pass_misses_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
