/* SPDX-License-Identifier: Apache-2.0 */
/* Compaction as the rest of a pool sees it. */
#ifndef CN_POOL_COMPACT_H
#define CN_POOL_COMPACT_H

#include "pool/tensor_table.h"

/* Where the pool would commit more memory for @p run: when it is fragmented and holds enough idle
 * memory, makes a hole in what is committed, unless that moves as much as would be committed. Pool
 * locked.
 * @param run  changed on success only: to that hole */
bool cn_pool_compact_self(cenote_pool *pool, struct cn_run *run);

/* The longest hole, in granules, that compaction could make now. Pool locked. */
uint64_t cn_compact_hole(cenote_pool *pool);

/* The pool's place on the budget's ladder, from its first tensor on: rebuildable tensors that may
 * be dropped, and holes that can be made. No lock of a pool or of the budget may be held. */
void cn_compact_join(cenote_pool *pool);
void cn_compact_leave(cenote_pool *pool);

#endif
