/* SPDX-License-Identifier: Apache-2.0 */
/* Compaction as the rest of a pool sees it. */
#ifndef CN_POOL_COMPACT_H
#define CN_POOL_COMPACT_H

#include "pool/tensor_table.h"

/* Compacts the pool when it is time to: to be called where it would commit more memory otherwise.
 * Pool locked. @return true when a block moved, so what was looked at has changed */
bool cn_pool_compact_self(cenote_pool *pool);

/* The longest hole, in granules, that compaction could make now. Pool locked. */
uint64_t cn_compact_hole(cenote_pool *pool);

/* The pool's place on the budget's ladder, from its first tensor on: rebuildable tensors that may
 * be dropped, and holes that can be made. No lock of a pool or of the budget may be held. */
void cn_compact_join(cenote_pool *pool);
void cn_compact_leave(cenote_pool *pool);

#endif
