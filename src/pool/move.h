/* SPDX-License-Identifier: Apache-2.0 */
/* One block of a pool from here to there, with its bytes and its books. Who may move, and where to,
 * is compact.c's. Threads: the pool is locked, and nobody else touches the block's bytes. */
#ifndef CN_POOL_MOVE_H
#define CN_POOL_MOVE_H

#include "pool/pool_impl.h"

enum cn_move_result {
    CN_MOVE_STAYS, /* the system or the budget has no room for it; nothing has changed */
    CN_MOVE_REMAPPED,
    CN_MOVE_COPIED,
    CN_MOVE_LOST, /* the system failed half way, there and back: the block is gone, and free */
};

/* Below this a copy takes no longer, and leaves no mapping behind. */
#define CN_REMAP_GRANULES_MIN 16u

/* Page tables only: CN_MOVE_REMAPPED, CN_MOVE_STAYS or CN_MOVE_LOST. @p size_bytes is what the
 * block's owner asked for, and may see of it. @p to is the first granule of a free run of the
 * block's length. */
enum cn_move_result cn_pool_move_remap(cenote_pool *pool, struct cn_run block, uint64_t size_bytes,
                                       uint64_t to);

/* Bytes: CN_MOVE_COPIED or CN_MOVE_STAYS. */
enum cn_move_result cn_pool_move_copy(cenote_pool *pool, struct cn_run block, uint64_t size_bytes,
                                      uint64_t to);

#endif
