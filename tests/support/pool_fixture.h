/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  A budget for tests of pools, on the fake system unless told otherwise. */
#ifndef TEST_POOL_FIXTURE_H
#define TEST_POOL_FIXTURE_H

#include <cenote/pool.h>

#include "os/fake/fake.h"

/** What the process itself is said to hold. */
#define RIG_PROCESS_BYTES (UINT64_C(1) << 20)

struct rig {
    struct cn_fake *fake; /**< NULL: this machine */
    cenote_budget *budget;
    cenote_pool *pool; /**< for tests that need but one; NULL for others */
};

struct rig rig_open(struct cn_fake *fake, uint64_t limit_bytes);

/** cmocka's: a rig on a system of its own, with a pool of @p class_id unless that is
 *  CENOTE_CLASS_COUNT. */
int rig_up(void **state, uint64_t limit_bytes, cenote_class class_id);

/** Ends what rig_open() began, and the rig's own pool with what is in it. Nothing else may be left.
 */
void rig_close(struct rig *rig);

/** cmocka's: rig_close() */
int rig_down(void **state);

cenote_budget_stats rig_budget_stats(const struct rig *rig);

/** What pools have charged. */
uint64_t rig_charged(const struct rig *rig);

/** What the budget has left. */
uint64_t rig_room(const struct rig *rig);

cenote_pool *rig_pool(const struct rig *rig, cenote_class class_id, uint64_t quota_bytes);

/** A pool at @p debug_level; at 0 CENOTE_DEBUG may say another. */
cenote_pool *rig_debug_pool(const struct rig *rig, cenote_class class_id, uint64_t quota_bytes,
                            uint32_t debug_level);

/** A block; the pool is checked afterwards. */
void *rig_alloc(cenote_pool *pool, uint64_t size_bytes);

cenote_pool_stats rig_stats(const cenote_pool *pool);

#endif
