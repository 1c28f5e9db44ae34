/* SPDX-License-Identifier: Apache-2.0 */
#include "pool_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct rig rig_open(struct cn_fake *fake, uint64_t limit_bytes)
{
    struct rig rig = {.fake = fake};
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.os = fake != NULL ? cn_fake_os(fake) : NULL;
    options.limit_bytes = limit_bytes;
    options.process_bytes = RIG_PROCESS_BYTES;
    assert_int_equal(cenote_budget_create(&options, &rig.budget, NULL), CENOTE_OK);
    return rig;
}

int rig_up(void **state, uint64_t limit_bytes, cenote_class class_id)
{
    struct rig *rig = malloc(sizeof *rig);
    assert_non_null(rig);
    *rig = rig_open(cn_fake_create(), limit_bytes);
    if (class_id != CENOTE_CLASS_COUNT)
        rig->pool = rig_pool(rig, class_id, 0);
    *state = rig;
    return 0;
}

void rig_close(struct rig *rig)
{
    if (rig->pool != NULL)
        assert_null(cenote_pool_check(rig->pool));
    (void)cenote_pool_destroy(rig->pool);
    if (rig->fake != NULL) {
        struct cn_fake_books books = cn_fake_books_get(rig->fake);
        assert_int_equal(books.reservations, 0);
        assert_int_equal(books.committed_bytes, 0);
        assert_int_equal(books.misuse_count, 0);
    }
    assert_int_equal(rig_charged(rig), 0);
    cenote_budget_destroy(rig->budget); /* a cache that did not sell what it bought would show */
    cn_fake_destroy(rig->fake);
}

int rig_down(void **state)
{
    rig_close(*state);
    free(*state);
    return 0;
}

cenote_budget_stats rig_budget_stats(const struct rig *rig)
{
    cenote_budget_stats stats;
    cenote_budget_stats_get(rig->budget, &stats);
    return stats;
}

uint64_t rig_charged(const struct rig *rig)
{
    return rig_budget_stats(rig).charged_bytes - RIG_PROCESS_BYTES;
}

uint64_t rig_room(const struct rig *rig)
{
    cenote_budget_stats stats = rig_budget_stats(rig);
    return stats.limit_bytes - stats.charged_bytes;
}

cenote_pool *rig_pool(const struct rig *rig, cenote_class class_id, uint64_t quota_bytes)
{
    return rig_debug_pool(rig, class_id, quota_bytes, 0);
}

cenote_pool *rig_debug_pool(const struct rig *rig, cenote_class class_id, uint64_t quota_bytes,
                            uint32_t debug_level)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    cenote_pool *pool = NULL;
    options.class_id = class_id;
    options.quota_bytes = quota_bytes;
    options.debug_level = debug_level;
    assert_int_equal(cenote_pool_create(rig->budget, &options, &pool, NULL), CENOTE_OK);
    return pool;
}

void *rig_alloc(cenote_pool *pool, uint64_t size_bytes)
{
    void *data = NULL;
    cenote_error err = {0};
    if (cenote_pool_alloc(pool, size_bytes, &data, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    assert_null(cenote_pool_check(pool));
    return data;
}

cenote_pool_stats rig_stats(const cenote_pool *pool)
{
    cenote_pool_stats stats;
    cenote_pool_stats_get(pool, &stats);
    return stats;
}
