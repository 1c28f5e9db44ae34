/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  A pool on the fake system with a few tensors in it, for tests of compaction: each has marks in
 *  every byte, so that none can be lost unseen. */
#ifndef TEST_COMPACT_FIXTURE_H
#define TEST_COMPACT_FIXTURE_H

#include <cenote/tensor.h>

#include "pool_fixture.h"

#define SCENE_LIMIT_BYTES (UINT64_C(64) << 20)
#define SCENE_TENSORS     8u

struct scene {
    struct rig rig; /* with the pool */
    cenote_tensor tensors[SCENE_TENSORS];
    uint64_t sizes[SCENE_TENSORS]; /* 0: released */
    unsigned dropped;              /* calls of on_drop */
    cenote_tensor dropped_last;
};

cenote_status scene_try_make(struct scene *scene, unsigned i, uint64_t size_bytes,
                             uint64_t rebuild_bytes, cenote_error *err);

unsigned char *scene_pin(struct scene *scene, unsigned i);

void scene_unpin(struct scene *scene, unsigned i);

void scene_make_rebuildable(struct scene *scene, unsigned i, uint64_t size_bytes,
                            uint64_t rebuild_bytes);

/** Tensor @p i, with marks in every byte that scene_check() looks at. */
void scene_make(struct scene *scene, unsigned i, uint64_t size_bytes);

void scene_release(struct scene *scene, unsigned i);

/** Where tensor @p i lies, in granules. */
uint64_t scene_place(struct scene *scene, unsigned i);

cenote_tensor_stats scene_tensor_stats(const struct scene *scene);

/** The pool, the system's books against the budget's, and every byte. */
void scene_check(struct scene *scene);

/** Compacts and checks. */
cenote_compact_result scene_compact(struct scene *scene, const cenote_compact_options *options);

/** A pool that compacts only when a test says so. */
void scene_pool(struct scene *scene, uint64_t quota_bytes);

int scene_up(void **state);

int scene_down(void **state);

/** Four of 3 MiB, the first and the third released again: |....|111|....|333| */
void scene_two_holes(struct scene *scene);

#endif
