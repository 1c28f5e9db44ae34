/* SPDX-License-Identifier: Apache-2.0 */
/* The KV cache: its layout, its growth, and that it charges what it says. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/kv.h>

#include "pool_fixture.h"

#define MIB UINT64_C(1048576)

static int set_up(void **state)
{
    return rig_up(state, 64 * MIB, CENOTE_CLASS_KV_CACHE);
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(cenote_pool_destroy(rig->pool), 0);
    rig->pool = NULL;
    return rig_down(state);
}

static cenote_kv_options shape(uint32_t layers, uint32_t heads, uint32_t dim, uint64_t tokens,
                               cenote_dtype dtype)
{
    cenote_kv_options options = CENOTE_KV_OPTIONS_INIT;
    options.layer_count = layers;
    options.head_count = heads;
    options.head_dim = dim;
    options.token_count_max = tokens;
    options.dtype = dtype;
    return options;
}

/* Grows token by token; every part of every block must be its own, of full size, and stay. */
static void fill_and_check(struct rig *rig, cenote_kv_options options)
{
    uint64_t part =
        (options.dtype == CENOTE_DTYPE_F32 ? 4u : 2u) * 16u * options.head_count * options.head_dim;
    uint64_t before = rig_charged(rig), mark = 0;
    cenote_kv *kv;
    assert_int_equal(cenote_kv_create(rig->pool, &options, &kv, NULL), CENOTE_OK);
    for (uint64_t tokens = 1; tokens <= options.token_count_max; tokens++) {
        assert_int_equal(cenote_kv_reserve(kv, tokens, NULL), CENOTE_OK);
        if (tokens % 16 != 1)
            continue;
        for (uint32_t layer = 0; layer < options.layer_count; layer++) {
            memset(cenote_kv_keys(kv, layer, tokens / 16), (int)(mark++ % 251), part);
            memset(cenote_kv_values(kv, layer, tokens / 16), (int)(mark++ % 251), part);
        }
    }
    assert_int_equal(rig_charged(rig) - before,
                     cenote_kv_charge_bytes(&options, options.token_count_max));
    mark = 0;
    uint64_t blocks = (options.token_count_max + 15) / 16;
    for (uint64_t block = 0; block < blocks; block++) {
        for (uint32_t layer = 0; layer < options.layer_count; layer++) {
            const unsigned char *keys = cenote_kv_keys(kv, layer, block);
            const unsigned char *values = cenote_kv_values(kv, layer, block);
            assert_int_equal(keys[0], mark % 251);
            assert_int_equal(keys[part - 1], mark++ % 251);
            assert_int_equal(values[0], mark % 251);
            assert_int_equal(values[part - 1], mark++ % 251);
            assert_ptr_equal(values, keys + part);
        }
        const unsigned char *first = cenote_kv_keys(kv, 0, block);
        const unsigned char *last = cenote_kv_values(kv, options.layer_count - 1, block);
        assert_int_equal(last - first, (2 * options.layer_count - 1) * part);
    }
    cenote_kv_destroy(kv);
    cenote_pool_trim(rig->pool);
    assert_int_equal(rig_charged(rig), before);
}

static void test_layout_and_charge(void **state)
{
    fill_and_check(*state, shape(3, 2, 8, 100, CENOTE_DTYPE_F32));   /* many blocks a granule */
    fill_and_check(*state, shape(2, 4, 128, 40, CENOTE_DTYPE_BF16)); /* exactly one granule */
    fill_and_check(*state, shape(5, 4, 64, 33, CENOTE_DTYPE_F32));   /* more than one */
    fill_and_check(*state, shape(28, 8, 128, 17, CENOTE_DTYPE_F32)); /* 2B: 3.5 MiB a block */
    fill_and_check(*state, shape(1, 1, 1, 1, CENOTE_DTYPE_BF16));
}

/* Cut down and grown again: what was kept stays, what was given back is uncharged, to the byte. */
static void test_truncate(void **state)
{
    struct rig *rig = *state;
    const cenote_kv_options sizes[] = {
        shape(3, 2, 8, 400, CENOTE_DTYPE_F32),   /* many blocks a granule */
        shape(28, 8, 128, 80, CENOTE_DTYPE_F32), /* 3.5 MiB a block */
    };
    for (size_t i = 0; i < 2; i++) {
        const cenote_kv_options *options = &sizes[i];
        uint64_t before = rig_charged(rig);
        cenote_kv *kv;
        assert_int_equal(cenote_kv_create(rig->pool, options, &kv, NULL), CENOTE_OK);
        assert_int_equal(cenote_kv_reserve(kv, 16, NULL), CENOTE_OK);
        float *keys = cenote_kv_keys(kv, options->layer_count - 1, 0);
        keys[3] = 42;
        for (uint64_t most = 0; most <= options->token_count_max; most += 7)
            for (uint64_t kept = most; kept > 16; kept = kept * 2 / 3) {
                assert_int_equal(cenote_kv_reserve(kv, most, NULL), CENOTE_OK);
                cenote_kv_truncate(kv, kept);
                cenote_pool_trim(rig->pool);
                assert_int_equal(rig_charged(rig) - before, cenote_kv_charge_bytes(options, kept));
                assert_ptr_equal(cenote_kv_keys(kv, options->layer_count - 1, 0), keys);
                assert_true(keys[3] == 42);
            }
        cenote_kv_truncate(kv, 1000); /* behind the end: nothing to do */
        cenote_kv_truncate(kv, 0);
        cenote_pool_trim(rig->pool);
        assert_int_equal(rig_charged(rig) - before, cenote_kv_charge_bytes(options, 0));
        cenote_kv_destroy(kv);
        assert_int_equal(rig_charged(rig), before);
    }
}

static void test_bad_options(void **state)
{
    struct rig *rig = *state;
    cenote_kv *kv = NULL;
    cenote_error err;
    cenote_kv_options good = shape(1, 1, 8, 16, CENOTE_DTYPE_F32), bad;
    bad = good;
    bad.version = 9;
    assert_int_equal(cenote_kv_create(rig->pool, &bad, &kv, &err), CENOTE_E_VERSION);
    bad = good;
    bad.head_dim = 0;
    assert_int_equal(cenote_kv_create(rig->pool, &bad, &kv, &err), CENOTE_E_INVAL);
    bad = good;
    bad.token_count_max = 0;
    assert_int_equal(cenote_kv_create(rig->pool, &bad, &kv, &err), CENOTE_E_INVAL);
    bad = good;
    bad.dtype = CENOTE_DTYPE_F16;
    assert_int_equal(cenote_kv_create(rig->pool, &bad, &kv, &err), CENOTE_E_INVAL);
    bad = shape(UINT32_MAX, UINT32_MAX, UINT32_MAX, 16, CENOTE_DTYPE_F32);
    assert_int_equal(cenote_kv_create(rig->pool, &bad, &kv, &err), CENOTE_E_INVAL);
    assert_true(cenote_kv_charge_bytes(&bad, 16) == UINT64_MAX);
    bad = shape(1, 1, 8, UINT64_MAX, CENOTE_DTYPE_F32);
    assert_true(cenote_kv_charge_bytes(&bad, UINT64_MAX) > UINT64_MAX / 2);
    assert_int_not_equal(cenote_kv_create(rig->pool, &bad, &kv, &err), CENOTE_OK);
    assert_null(kv);
    cenote_kv_destroy(NULL);
}

static void test_too_many_tokens(void **state)
{
    struct rig *rig = *state;
    cenote_kv *kv;
    cenote_error err;
    cenote_kv_options options = shape(1, 1, 8, 20, CENOTE_DTYPE_F32);
    assert_int_equal(cenote_kv_create(rig->pool, &options, &kv, &err), CENOTE_OK);
    assert_int_equal(cenote_kv_reserve(kv, 21, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "21"));
    assert_non_null(strstr(err.message, "20"));
    assert_int_equal(cenote_kv_reserve(kv, 20, &err), CENOTE_OK);
    cenote_kv_destroy(kv);
}

/* A reserve that fails half way leaves the cache as it was. */
static void test_reserve_is_all_or_nothing(void **state)
{
    struct rig *rig = *state;
    cenote_kv *kv;
    cenote_kv_options options = shape(28, 8, 128, 1000, CENOTE_DTYPE_F32);
    assert_int_equal(cenote_kv_create(rig->pool, &options, &kv, NULL), CENOTE_OK);
    assert_int_equal(cenote_kv_reserve(kv, 16, NULL), CENOTE_OK);
    float *keys = cenote_kv_keys(kv, 27, 0);
    keys[0] = 42;
    cenote_pool_stats stats;
    assert_int_equal(cenote_kv_reserve(kv, 1000, NULL), CENOTE_E_BUDGET);
    cenote_pool_stats_get(rig->pool, &stats);
    assert_int_equal(stats.block_count, 1);
    cenote_pool_trim(rig->pool);
    cn_fake_fail(rig->fake, CN_FAKE_COMMIT, 2, ENOMEM);
    assert_int_equal(cenote_kv_reserve(kv, 48, NULL), CENOTE_E_NOMEM);
    assert_int_equal(cenote_kv_reserve(kv, 48, NULL), CENOTE_OK);
    assert_ptr_equal(cenote_kv_keys(kv, 27, 0), keys);
    assert_true(keys[0] == 42);
    cenote_kv_destroy(kv);
}

static void test_create_fault_sweep(void **state)
{
    struct rig *rig = *state;
    cenote_kv_options options = shape(1, 1, 8, UINT64_C(10000000), CENOTE_DTYPE_F32);
    uint64_t before = rig_charged(rig);
    cenote_kv *kv = NULL;
    unsigned nth = 1;
    for (;; nth++) {
        cn_fake_fail(rig->fake, CN_FAKE_MEMORY, nth, ENOMEM);
        if (cenote_kv_create(rig->pool, &options, &kv, NULL) == CENOTE_OK)
            break;
        assert_null(kv);
        assert_int_equal(rig_charged(rig), before);
    }
    cn_fake_faults_clear(rig->fake);
    assert_int_equal(nth, 4); /* a reservation, the header, the rest of the table */
    cenote_kv_destroy(kv);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_layout_and_charge),  TEST(test_bad_options),
        TEST(test_too_many_tokens),    TEST(test_reserve_is_all_or_nothing),
        TEST(test_create_fault_sweep), TEST(test_truncate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
