/* SPDX-License-Identifier: Apache-2.0 */
/* What ASan is told of a pool's memory: the caller's bytes can be seen, and nothing else. Without
 * ASan there is nothing to look at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/debug.h>
#include <cenote/tensor.h>

#include "base/poison.h"
#include "pool_fixture.h"

#ifdef CN_ASAN

#define KIB   UINT64_C(1024)
#define MIB   (KIB * KIB)
#define QUOTA (32 * MIB)

static int set_up(void **state)
{
    return rig_up(state, 256 * MIB, CENOTE_CLASS_COUNT);
}

/* The first byte of [from, end) that is not as it should be; end: all are. */
static uint64_t odd_one(const unsigned char *data, uint64_t from, uint64_t end, bool seen)
{
    while (from < end && (__asan_address_is_poisoned(data + from) == 0) == seen)
        from++;
    return from;
}

/* Of @p whole_bytes the first @p size_bytes can be seen. ASan knows words of 8 bytes. */
static void assert_seen(const void *data, uint64_t size_bytes, uint64_t whole_bytes)
{
    uint64_t hidden_from = (size_bytes + 7) / 8 * 8;
    assert_int_equal(odd_one(data, 0, size_bytes, true), size_bytes);
    assert_int_equal(odd_one(data, hidden_from, whole_bytes, false), whole_bytes);
}

/* A block, freed and given again, with fewer bytes then. */
static void check_life(cenote_pool *pool, uint64_t size_bytes, uint64_t whole_bytes)
{
    void *data = rig_alloc(pool, size_bytes);
    assert_seen(data, size_bytes, whole_bytes);
    cenote_pool_free(pool, data);
    assert_seen(data, 0, whole_bytes);
    void *again = rig_alloc(pool, size_bytes - 7);
    assert_ptr_equal(again, data);
    assert_seen(again, size_bytes - 7, whole_bytes);
    cenote_pool_free(pool, again);
}

static void test_runs(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_ACTIVATIONS, QUOTA);
    check_life(pool, 100001, 128 * KIB);
    check_life(pool, 64 * KIB, 64 * KIB);
    check_life(pool, 3 * MIB - 13, 3 * MIB);
    assert_int_equal(cenote_pool_destroy(pool), 0);
}

/* Those that threads have at hand too. */
static void test_small_blocks(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_GENERAL, QUOTA);
    check_life(pool, 1001, 1024);
    check_life(pool, 8 * KIB, 8 * KIB);
    check_life(pool, 70 * KIB, 72 * KIB);
    assert_int_equal(cenote_pool_destroy(pool), 0);
}

static void test_quarantine(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_debug_pool(rig, CENOTE_CLASS_GENERAL, QUOTA, 2);
    void *data = NULL;
    assert_int_equal(cenote_pool_alloc(pool, 5000, &data, NULL), CENOTE_OK);
    assert_seen(data, 5000, 5064); /* with the zone; and so it stays when it was looked at */
    assert_null(cenote_pool_check(pool));
    assert_seen(data, 5000, 5064);
    cenote_pool_free(pool, data);
    assert_seen(data, 0, 5064);
    assert_null(cenote_pool_check(pool));
    assert_seen(data, 0, 5064);
    assert_int_equal(cenote_pool_destroy(pool), 0);
}

static cenote_tensor create(cenote_pool *pool, uint64_t size_bytes,
                            cenote_tensor_dropped_fn dropped)
{
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    cenote_tensor tensor = CENOTE_TENSOR_NONE;
    options.dtype = CENOTE_DTYPE_U8;
    options.rank = 1;
    options.shape[0] = size_bytes;
    options.dropped = dropped;
    assert_int_equal(cenote_tensor_create(pool, &options, &tensor, NULL), CENOTE_OK);
    return tensor;
}

static void *place_of(cenote_pool *pool, cenote_tensor tensor)
{
    void *data = NULL;
    assert_int_equal(cenote_tensor_pin(pool, tensor, &data, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_unpin(pool, tensor, NULL), CENOTE_OK);
    return data;
}

/* By page tables and by bytes. */
static void test_moved(void **state)
{
    struct rig *rig = *state;
    static const uint64_t sizes[] = {3 * MIB - 100, 200 * KIB + 1};
    for (unsigned i = 0; i < 2; i++) {
        uint64_t whole_bytes = (sizes[i] + 64 * KIB - 1) / (64 * KIB) * (64 * KIB);
        cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_KV_CACHE, QUOTA);
        cenote_tensor tensors[2];
        void *places[2];
        for (unsigned k = 0; k < 2; k++) {
            tensors[k] = create(pool, sizes[i], NULL);
            places[k] = place_of(pool, tensors[k]);
        }
        assert_int_equal(cenote_tensor_release(pool, tensors[0], NULL), CENOTE_OK);
        assert_int_equal(cenote_pool_compact(pool, NULL, NULL, NULL), CENOTE_OK);
        assert_ptr_equal(place_of(pool, tensors[1]), places[0]);
        assert_seen(places[0], sizes[i], whole_bytes);
        if (i == 1) /* still committed */
            assert_seen(places[1], 0, whole_bytes);
        assert_int_equal(cenote_tensor_release(pool, tensors[1], NULL), CENOTE_OK);
        assert_int_equal(cenote_pool_destroy(pool), 0);
    }
}

static void ignore_drop(void *context, cenote_tensor tensor)
{
    (void)context;
    (void)tensor;
}

/* One of two small blocks of a slab goes when somebody needs more than there is. */
static void test_dropped(void **state)
{
    struct rig *rig = *state;
    cenote_pool *pool = rig_pool(rig, CENOTE_CLASS_IMAGE_FEATURES, QUOTA);
    cenote_tensor soft = create(pool, 1000, ignore_drop), hard = create(pool, 1000, NULL);
    void *places[] = {place_of(pool, soft), place_of(pool, hard)};
    (void)cenote_pool_trim(pool);
    for (unsigned i = 0; i < 2; i++) /* the first may only take the mark of its use away */
        (void)!cenote_budget_charge(rig->budget, rig_room(rig) + 1, "somebody", NULL);
    cenote_tensor_state soft_state;
    assert_int_equal(cenote_tensor_state_get(pool, soft, &soft_state, NULL), CENOTE_OK);
    assert_true(soft_state.dropped);
    assert_seen(places[0], 0, 1024);
    assert_seen(places[1], 1000, 1024);
    assert_int_equal(cenote_tensor_release(pool, soft, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_release(pool, hard, NULL), CENOTE_OK);
    assert_int_equal(cenote_pool_destroy(pool), 0);
}

static void ignore(void *context, cenote_finding finding, const char *message)
{
    (void)context;
    (void)finding;
    (void)message;
}

/* The next owner of the addresses finds no marks of ours. */
static void test_destroyed(void **state)
{
    struct rig *rig = *state;
    for (uint32_t level = 0; level <= 2; level++) {
        cenote_pool *pool = rig_debug_pool(rig, CENOTE_CLASS_GENERAL, QUOTA, level);
        unsigned char *small = rig_alloc(pool, 1000), *large = rig_alloc(pool, 2 * MIB - 100);
        cenote_pool_free(pool, small);
        cenote_pool_free(pool, rig_alloc(pool, MIB));
        if (level == 0)
            cenote_pool_free(pool, large);
        (void)cenote_pool_trim(pool);
        cenote_finding_handler_set(ignore, NULL); /* of the leak */
        (void)cenote_pool_destroy(pool);
        cenote_finding_handler_set(NULL, NULL);
        assert_int_equal(odd_one(small, 0, 64 * KIB, true), 64 * KIB);
        assert_int_equal(odd_one(large, 0, 2 * MIB, true), 2 * MIB);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, rig_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_runs),  TEST(test_small_blocks), TEST(test_quarantine),
        TEST(test_moved), TEST(test_dropped),      TEST(test_destroyed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    printf("skipped: not under ASan\n");
    return 77;
}

#endif
