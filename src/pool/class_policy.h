/* SPDX-License-Identifier: Apache-2.0 */
/* What the class of a pool decides. All of it: who asks for a class elsewhere should ask here. */
#ifndef CN_POOL_CLASS_POLICY_H
#define CN_POOL_CLASS_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/pool.h>

struct cn_class_policy {
    bool small_blocks; /* below 1 MiB from slabs and thread caches; else runs of granules, exact */
    bool whole_chunks; /* commits 2 MiB at a time, as huge pages; else no more than the blocks */
    uint32_t priority; /* whose memory goes first when somebody needs it: the lowest */
};

const struct cn_class_policy *cn_class_policy(cenote_class class_id);

#endif
