/* SPDX-License-Identifier: Apache-2.0 */
/* Handles, references and pins: every error by name, what a handle says, what the table costs. That
 * blocks move is test_compact.c's. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/tensor.h>

#include "pool/tensor_table.h"
#include "pool_fixture.h"

#define KIB   UINT64_C(1024)
#define MIB   (KIB * KIB)
#define LIMIT (64 * MIB)

static int set_up(void **state)
{
    return rig_up(state, LIMIT, CENOTE_CLASS_IMAGE_FEATURES);
}

static cenote_tensor_options bytes_of(uint64_t size_bytes)
{
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    options.dtype = CENOTE_DTYPE_U8;
    options.rank = 1;
    options.shape[0] = size_bytes;
    return options;
}

static cenote_tensor create(cenote_pool *pool, uint64_t size_bytes)
{
    cenote_tensor_options options = bytes_of(size_bytes);
    cenote_tensor tensor = CENOTE_TENSOR_NONE;
    cenote_error err = {0};
    if (cenote_tensor_create(pool, &options, &tensor, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    assert_int_not_equal(tensor, CENOTE_TENSOR_NONE);
    assert_null(cenote_pool_check(pool));
    return tensor;
}

static cenote_tensor_state state_of(cenote_pool *pool, cenote_tensor tensor)
{
    cenote_tensor_state state;
    assert_int_equal(cenote_tensor_state_get(pool, tensor, &state, NULL), CENOTE_OK);
    return state;
}

static cenote_tensor_stats stats_of(const cenote_pool *pool)
{
    cenote_tensor_stats stats;
    cenote_tensor_stats_get(pool, &stats);
    return stats;
}

/* All five refuse the handle and name it. */
static void assert_dead(cenote_pool *pool, cenote_tensor tensor)
{
    cenote_error err[5] = {0};
    cenote_tensor_state state = {.rank = 77};
    void *data = &state;
    assert_int_equal(cenote_tensor_retain(pool, tensor, &err[0]), CENOTE_E_INVAL);
    assert_int_equal(cenote_tensor_release(pool, tensor, &err[1]), CENOTE_E_INVAL);
    assert_int_equal(cenote_tensor_pin(pool, tensor, &data, &err[2]), CENOTE_E_INVAL);
    assert_int_equal(cenote_tensor_unpin(pool, tensor, &err[3]), CENOTE_E_INVAL);
    assert_int_equal(cenote_tensor_state_get(pool, tensor, &state, &err[4]), CENOTE_E_INVAL);
    assert_ptr_equal(data, &state);
    assert_int_equal(state.rank, 77);
    char name[24];
    snprintf(name, sizeof name, "0x%016" PRIx64, tensor);
    for (unsigned i = 0; i < 5; i++) {
        assert_non_null(strstr(err[i].message, name));
        assert_non_null(strstr(err[i].message, "is no live tensor"));
    }
    assert_null(cenote_pool_check(pool));
}

static void test_life(void **state)
{
    struct rig *rig = *state;
    cenote_tensor tensor = create(rig->pool, 3 * MIB);
    void *data = NULL, *again = NULL;
    assert_int_equal(cenote_tensor_pin(rig->pool, tensor, &data, NULL), CENOTE_OK);
    memset(data, 0x5a, 3 * MIB);
    assert_int_equal(cenote_tensor_pin(rig->pool, tensor, &again, NULL), CENOTE_OK);
    assert_ptr_equal(data, again);
    assert_int_equal(cenote_tensor_retain(rig->pool, tensor, NULL), CENOTE_OK);
    cenote_tensor_state s = state_of(rig->pool, tensor);
    assert_int_equal(s.references, 2);
    assert_int_equal(s.pins, 2);
    assert_int_equal(s.class_id, CENOTE_CLASS_IMAGE_FEATURES);
    assert_int_equal(s.dtype, CENOTE_DTYPE_U8);
    assert_false(s.rebuildable);
    assert_int_equal(stats_of(rig->pool).live_count, 1);
    assert_int_equal(stats_of(rig->pool).live_bytes, 3 * MIB);

    assert_int_equal(cenote_tensor_unpin(rig->pool, tensor, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_release(rig->pool, tensor, NULL), CENOTE_OK);
    cenote_error err = {0};
    assert_int_equal(cenote_tensor_release(rig->pool, tensor, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "the last reference while it is pinned"));
    assert_int_equal(cenote_tensor_unpin(rig->pool, tensor, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_unpin(rig->pool, tensor, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "is not pinned"));
    assert_int_equal(cenote_tensor_release(rig->pool, tensor, NULL), CENOTE_OK);
    assert_dead(rig->pool, tensor);
    cenote_pool_stats pool;
    cenote_pool_stats_get(rig->pool, &pool);
    assert_int_equal(pool.block_count, 0);
    assert_int_equal(stats_of(rig->pool).live_count, 0);
    assert_int_equal(stats_of(rig->pool).live_bytes, 0);
}

/* A slot is used again at once; the old handle does not open it. */
static void test_use_after_release(void **state)
{
    struct rig *rig = *state;
    cenote_tensor old = create(rig->pool, MIB);
    assert_int_equal(cenote_tensor_release(rig->pool, old, NULL), CENOTE_OK);
    cenote_tensor young = create(rig->pool, MIB);
    assert_int_equal((uint32_t)old, (uint32_t)young);
    assert_int_not_equal(old, young);
    assert_dead(rig->pool, old);
    assert_int_equal(state_of(rig->pool, young).references, 1);
    assert_int_equal(cenote_tensor_release(rig->pool, young, NULL), CENOTE_OK);
    assert_dead(rig->pool, young);
}

static void test_foreign_handles(void **state)
{
    struct rig *rig = *state;
    assert_dead(rig->pool, CENOTE_TENSOR_NONE); /* before there is a table */
    cenote_tensor tensor = create(rig->pool, MIB);
    assert_dead(rig->pool, CENOTE_TENSOR_NONE);
    assert_dead(rig->pool, UINT64_MAX);
    assert_dead(rig->pool, tensor | 0xffff);              /* an index above the table */
    assert_dead(rig->pool, tensor + 1);                   /* a slot that is free */
    assert_dead(rig->pool, tensor + CN_STATE_GENERATION); /* one that is to come */
    cenote_pool *other = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
    cenote_tensor foreign = create(other, MIB);
    assert_int_equal((uint32_t)foreign, (uint32_t)tensor);
    assert_dead(rig->pool, foreign);
    assert_dead(other, tensor);
    assert_int_equal(cenote_pool_destroy(other), 1);
    assert_int_equal(cenote_tensor_release(rig->pool, tensor, NULL), CENOTE_OK);
}

/* After the last generation of its class a slot stays dead for good. */
static void test_generations_end(void **state)
{
    struct rig *rig = *state;
    cenote_tensor tensor = create(rig->pool, MIB);
    struct cn_tensor_slot *slot = cn_tensors_slot(rig->pool, tensor);
    uint64_t class_bits = (uint64_t)CENOTE_CLASS_IMAGE_FEATURES << CN_GENERATION_CLASS_BIT;
    uint64_t last = class_bits | ((UINT64_C(1) << CN_GENERATION_CLASS_BIT) - 1);
    atomic_store(&slot->state, last * CN_STATE_GENERATION + CN_STATE_REFERENCE);
    cenote_tensor old = last << 32 | (uint32_t)tensor;
    assert_int_equal(state_of(rig->pool, old).references, 1);
    assert_int_equal(cenote_tensor_release(rig->pool, old, NULL), CENOTE_OK);
    assert_dead(rig->pool, old);
    assert_dead(rig->pool, tensor);
    assert_dead(rig->pool,
                (class_bits + (UINT64_C(1) << CN_GENERATION_CLASS_BIT)) << 32 | (uint32_t)tensor);
    cenote_tensor next = create(rig->pool, MIB);
    assert_int_not_equal((uint32_t)next, (uint32_t)tensor);
    assert_int_equal(cenote_tensor_release(rig->pool, next, NULL), CENOTE_OK);
    assert_int_equal(stats_of(rig->pool).live_count, 0);
}

static void test_counts_are_bounded(void **state)
{
    struct rig *rig = *state;
    cenote_tensor tensor = create(rig->pool, MIB);
    cenote_error err = {0};
    void *data = NULL;
    for (unsigned i = 1; i < CENOTE_TENSOR_REFERENCES_MAX; i++)
        assert_int_equal(cenote_tensor_retain(rig->pool, tensor, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_retain(rig->pool, tensor, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "as many references"));
    for (unsigned i = 0; i < CENOTE_TENSOR_PINS_MAX; i++)
        assert_int_equal(cenote_tensor_pin(rig->pool, tensor, &data, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_pin(rig->pool, tensor, &data, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "as many pins"));
    cenote_tensor_state s = state_of(rig->pool, tensor);
    assert_int_equal(s.references, CENOTE_TENSOR_REFERENCES_MAX);
    assert_int_equal(s.pins, CENOTE_TENSOR_PINS_MAX);
    for (unsigned i = 0; i < CENOTE_TENSOR_PINS_MAX; i++)
        assert_int_equal(cenote_tensor_unpin(rig->pool, tensor, NULL), CENOTE_OK);
    for (unsigned i = 0; i < CENOTE_TENSOR_REFERENCES_MAX; i++)
        assert_int_equal(cenote_tensor_release(rig->pool, tensor, NULL), CENOTE_OK);
    assert_dead(rig->pool, tensor);
}

static void test_shapes(void **state)
{
    struct rig *rig = *state;
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    options.dtype = CENOTE_DTYPE_BF16;
    options.rank = 3;
    options.shape[0] = 3, options.shape[1] = 224, options.shape[2] = 300;
    cenote_tensor tensor;
    assert_int_equal(cenote_tensor_create(rig->pool, &options, &tensor, NULL), CENOTE_OK);
    cenote_tensor_state s = state_of(rig->pool, tensor);
    assert_int_equal(s.rank, 3);
    assert_int_equal(s.shape[2], 300);
    assert_int_equal(s.shape[3], 0);
    assert_int_equal(s.strides[0], 224 * 300);
    assert_int_equal(s.strides[1], 300);
    assert_int_equal(s.strides[2], 1);
    assert_int_equal(s.size_bytes, 3 * 224 * 300 * 2);
    assert_int_equal(cenote_tensor_release(rig->pool, tensor, NULL), CENOTE_OK);

    /* Rows with a pad: the last row has none. */
    options.strides[0] = 224 * 320, options.strides[1] = 320, options.strides[2] = 1;
    assert_int_equal(cenote_tensor_create(rig->pool, &options, &tensor, NULL), CENOTE_OK);
    s = state_of(rig->pool, tensor);
    assert_int_equal(s.strides[1], 320);
    assert_int_equal(s.size_bytes, (2 * 224 * 320 + 223 * 320 + 299 + 1) * 2);
    assert_int_equal(cenote_tensor_release(rig->pool, tensor, NULL), CENOTE_OK);

    options = (cenote_tensor_options)CENOTE_TENSOR_OPTIONS_INIT; /* a scalar */
    assert_int_equal(cenote_tensor_create(rig->pool, &options, &tensor, NULL), CENOTE_OK);
    assert_int_equal(state_of(rig->pool, tensor).size_bytes, 4);
    assert_int_equal(cenote_tensor_release(rig->pool, tensor, NULL), CENOTE_OK);
}

static void refused(struct rig *rig, const cenote_tensor_options *options, cenote_status expected,
                    const char *words)
{
    cenote_tensor tensor = 99;
    cenote_error err = {0};
    assert_int_equal(cenote_tensor_create(rig->pool, options, &tensor, &err), expected);
    assert_int_equal(tensor, 99);
    if (strstr(err.message, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
    assert_null(cenote_pool_check(rig->pool));
}

static void test_bad_options(void **state)
{
    struct rig *rig = *state;
    cenote_tensor_options options = bytes_of(MIB);
    options.version = 7;
    refused(rig, &options, CENOTE_E_VERSION, "version 7, not 1");
    options = bytes_of(MIB);
    options.dtype = CENOTE_DTYPE_COUNT;
    refused(rig, &options, CENOTE_E_INVAL, "dtype");
    options = bytes_of(MIB);
    options.rank = CENOTE_RANK_MAX + 1;
    refused(rig, &options, CENOTE_E_INVAL, "9 dimensions");
    options = bytes_of(0);
    refused(rig, &options, CENOTE_E_INVAL, "dimension 0 is 0");
    options = bytes_of(UINT64_MAX);
    options.rank = 2, options.shape[1] = 2;
    refused(rig, &options, CENOTE_E_INVAL, "2^64 elements");
    options = bytes_of(UINT64_MAX);
    options.dtype = CENOTE_DTYPE_F64;
    refused(rig, &options, CENOTE_E_INVAL, "2^64 bytes");
    options = bytes_of(3);
    options.strides[0] = UINT64_MAX / 2 + 1;
    refused(rig, &options, CENOTE_E_INVAL, "2^64 bytes");
    options = bytes_of(2 * LIMIT);
    refused(rig, &options, CENOTE_E_BUDGET, "image_features");
    assert_int_equal(stats_of(rig->pool).live_count, 0);
}

/* Nothing is charged for handles before the first; 900 of them cost what is said. */
static void test_table_is_charged(void **state)
{
    struct rig *rig = *state;
    uint64_t before = rig_charged(rig);
    assert_int_equal(stats_of(rig->pool).table_bytes, 0);
    cenote_tensor tensors[900];
    for (unsigned i = 0; i < 300; i++)
        tensors[i] = create(rig->pool, 1);
    cenote_pool_stats pool;
    cenote_pool_stats_get(rig->pool, &pool);
    uint64_t table = stats_of(rig->pool).table_bytes;
    assert_true(table >= 300 * sizeof(struct cn_tensor_slot));
    assert_int_equal(rig_charged(rig),
                     before +
                         pool.committed_bytes / CENOTE_GRANULE_BYTES * CN_GRANULE_CHARGE_BYTES +
                         pool.small_metadata_bytes + table);
    for (unsigned i = 300; i < 900; i++)
        tensors[i] = create(rig->pool, 1);
    assert_true(stats_of(rig->pool).table_bytes > table);
    for (unsigned i = 0; i < 900; i++)
        for (unsigned j = 0; j < i; j++)
            assert_int_not_equal(tensors[i], tensors[j]);
    for (unsigned i = 0; i < 900; i++)
        assert_int_equal(cenote_tensor_release(rig->pool, tensors[i], NULL), CENOTE_OK);
}

/* What is refused takes no slot of the table. */
static void test_refused_take_no_slot(void **state)
{
    struct rig *rig = *state;
    cenote_tensor_options large = bytes_of(2 * LIMIT);
    cenote_tensor tensor = create(rig->pool, 100);
    uint64_t table_bytes = stats_of(rig->pool).table_bytes;
    for (unsigned i = 0; i < 5000; i++)
        assert_int_equal(cenote_tensor_create(rig->pool, &large, &(cenote_tensor){0}, NULL),
                         CENOTE_E_BUDGET);
    assert_int_equal(stats_of(rig->pool).table_bytes, table_bytes);
    assert_int_equal(cenote_tensor_release(rig->pool, tensor, NULL), CENOTE_OK);
}

/* Fails each reservation and commit of the first tensor in turn; nothing stays. */
static void test_fault_sweep(void **state)
{
    struct rig *rig = *state;
    cenote_tensor_options options = bytes_of(3 * MIB);
    cenote_tensor tensor = 99;
    unsigned failures = 0;
    for (uint64_t nth = 1;; nth++) {
        cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, 0);
        uint64_t before = rig_charged(rig);
        cn_fake_fail(rig->fake, CN_FAKE_MEMORY, nth, ENOMEM);
        cenote_error err = {0};
        cenote_status status = cenote_tensor_create(pool, &options, &tensor, &err);
        cn_fake_fail(rig->fake, CN_FAKE_MEMORY, 0, 0);
        assert_null(cenote_pool_check(pool));
        if (status != CENOTE_OK) {
            assert_int_equal(status, CENOTE_E_NOMEM);
            assert_int_equal(tensor, 99);
            assert_int_equal(rig_charged(rig), before + stats_of(pool).table_bytes);
            failures++;
        }
        cenote_pool_destroy(pool);
        if (status == CENOTE_OK)
            break;
    }
    assert_int_equal(failures, 3); /* the table's range, its pages, the block */
}

int main(void)
{
#define TENSOR_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, rig_down)
    const struct CMUnitTest tests[] = {
        TENSOR_TEST(test_life),
        TENSOR_TEST(test_use_after_release),
        TENSOR_TEST(test_foreign_handles),
        TENSOR_TEST(test_generations_end),
        TENSOR_TEST(test_counts_are_bounded),
        TENSOR_TEST(test_shapes),
        TENSOR_TEST(test_bad_options),
        TENSOR_TEST(test_table_is_charged),
        TENSOR_TEST(test_refused_take_no_slot),
        TENSOR_TEST(test_fault_sweep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
