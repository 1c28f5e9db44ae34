/* SPDX-License-Identifier: Apache-2.0 */
/* A pool's debug level (cenote/debug.h): what stands between cenote_pool_alloc() and the pool's own
 * allocation where the level is not 0. Blocks that it hands out begin where the pool's do. */
#ifndef CN_POOL_DEBUG_H
#define CN_POOL_DEBUG_H

#include "pool/pool_impl.h"

/* Gives @p pool its level; nothing for level 0. Errors: CENOTE_E_INVAL for a level above the
 * highest, of the options or of CENOTE_DEBUG, CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK cenote_status cn_debug_open(cenote_pool *pool, uint32_t level, cenote_error *err);
/* Ends quarantine, and lists what is left. Before the pool's own end. */
void cn_debug_close(cenote_pool *pool);

CENOTE_MUST_CHECK cenote_status cn_debug_alloc(cenote_pool *pool, uint64_t size_bytes,
                                               void **out_data, cenote_error *err);
void cn_debug_free(cenote_pool *pool, void *data);

/* A block was moved, or lost by the system on the way. Pool locked. */
void cn_debug_moved(cenote_pool *pool, uint64_t from_offset, uint64_t to_offset);
void cn_debug_lost(cenote_pool *pool, uint64_t offset);

/* Frees what is in quarantine. @return bytes */
uint64_t cn_debug_flush(cenote_pool *pool);

/* NULL, or what was written where nobody may. Pool locked. */
const char *cn_debug_check(const cenote_pool *pool);

#endif
