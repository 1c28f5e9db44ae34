/* SPDX-License-Identifier: Apache-2.0 */
/* The metadata arena: zeroed, aligned, charged before it is committed, all given back. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pool/budget.h"
#include "pool_fixture.h"

static int set_up(void **state)
{
    return rig_up(state, 2 * RIG_PROCESS_BYTES, CENOTE_CLASS_COUNT);
}

static void test_allocations(void **state)
{
    struct rig *rig = *state;
    struct cn_arena *arena;
    cenote_error err;
    assert_int_equal(cn_arena_create(rig->budget, 300000, &arena, &err), CENOTE_OK);
    assert_int_equal(rig_charged(rig), cn_arena_charge_bytes(0));
    unsigned char *before = NULL;
    for (unsigned i = 0; i < 500; i++) {
        uint64_t align = UINT64_C(1) << i % 13;
        unsigned char *data = cn_arena_alloc(arena, i % 50, align, &err);
        assert_non_null(data);
        assert_int_equal((uintptr_t)data % align, 0);
        assert_true(data >= before);
        for (unsigned k = 0; k < i % 50; k++) {
            assert_int_equal(data[k], 0);
            data[k] = 0xee;
        }
        before = data + i % 50;
        /* Charged by whole granules of what is handed out, and no more than that is committed. */
        assert_int_equal(rig_charged(rig), cn_arena_charge_bytes(cn_arena_used_bytes(arena) - 64));
        assert_true(cn_fake_books_get(rig->fake).committed_bytes <= rig_charged(rig));
    }
    cn_arena_destroy(arena);
    cn_arena_destroy(NULL);
}

static void test_end_of_the_reservation(void **state)
{
    struct rig *rig = *state;
    struct cn_arena *arena;
    cenote_error err = {0};
    assert_int_equal(cn_arena_create(rig->budget, 100000, &arena, &err), CENOTE_OK);
    assert_non_null(cn_arena_alloc(arena, 100000, 64, &err));
    assert_int_equal(rig_charged(rig), cn_arena_charge_bytes(100000));
    assert_null(cn_arena_alloc(arena, 100000, 1, &err));
    assert_int_equal(err.status, CENOTE_E_NOMEM);
    assert_null(cn_arena_alloc(arena, UINT64_MAX, 1, &err));
    assert_null(cn_arena_alloc(arena, UINT64_MAX - 70000, 4096, NULL));
    assert_non_null(cn_arena_alloc(arena, 1, 1, &err)); /* still usable */
    cn_arena_destroy(arena);
}

static void test_budget_is_asked_first(void **state)
{
    struct rig *rig = *state;
    struct cn_arena *arena;
    cenote_error err = {0};
    assert_int_equal(cn_arena_create(rig->budget, 4 << 20, &arena, &err), CENOTE_OK);
    uint64_t before = rig_charged(rig);
    assert_null(cn_arena_alloc(arena, 2 << 20, 1, &err));
    assert_int_equal(err.status, CENOTE_E_BUDGET);
    assert_int_equal(rig_charged(rig), before);
    assert_int_equal(cn_fake_books_get(rig->fake).committed_bytes, CENOTE_GRANULE_BYTES);
    cn_arena_destroy(arena);
    assert_int_equal(cn_arena_create(rig->budget, UINT64_MAX, &arena, &err), CENOTE_E_NOMEM);
    assert_true(cn_arena_charge_bytes(UINT64_MAX) == UINT64_MAX);
}

/* Every provider call refused once: nothing leaks, nothing stays charged, the error says so. */
static void test_fault_sweep(void **state)
{
    struct rig *rig = *state;
    unsigned refused = 0;
    for (unsigned nth = 1;; nth++) {
        struct cn_arena *arena = NULL;
        cenote_error err = {0};
        cn_fake_fail(rig->fake, CN_FAKE_MEMORY, nth, ENOMEM);
        cenote_status status = cn_arena_create(rig->budget, 300000, &arena, &err);
        void *data = status == CENOTE_OK ? cn_arena_alloc(arena, 200000, 64, &err) : NULL;
        if (data == NULL)
            assert_int_equal(err.status, CENOTE_E_NOMEM);
        refused += data == NULL;
        cn_arena_destroy(arena);
        assert_int_equal(rig_charged(rig), 0);
        assert_int_equal(cn_fake_books_get(rig->fake).reservations, 0);
        if (data != NULL)
            break;
    }
    assert_int_equal(refused, 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, rig_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_allocations),
        TEST(test_end_of_the_reservation),
        TEST(test_budget_is_asked_first),
        TEST(test_fault_sweep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
