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

/** cmocka's: nothing may be left but the rig's own pool. */
int rig_down(void **state);

/** What pools have charged. */
uint64_t rig_charged(const struct rig *rig);

cenote_pool *rig_pool(const struct rig *rig, cenote_class class_id, uint64_t quota_bytes);

/** A block; the pool is checked afterwards. */
void *rig_alloc(cenote_pool *pool, uint64_t size_bytes);

cenote_pool_stats rig_stats(const cenote_pool *pool);

#endif
