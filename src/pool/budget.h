/* SPDX-License-Identifier: Apache-2.0 */
/* What the library's own modules may ask of a budget beyond the public header. */
#ifndef CN_POOL_BUDGET_H
#define CN_POOL_BUDGET_H

#include <cenote/pool.h>

#include "os/os.h"

struct cn_os *cn_budget_os(const cenote_budget *budget);

/* Metadata: exact accounting, charged before it is committed, all freed with the arena.
 * Grows in 64 KiB steps inside a reservation of reserve_bytes, so addresses never change. */
struct cn_arena;
CENOTE_MUST_CHECK cenote_status cn_arena_create(cenote_budget *budget, uint64_t reserve_bytes,
                                                struct cn_arena **out_arena, cenote_error *err);
void cn_arena_destroy(struct cn_arena *arena);
/* Zeroed bytes, aligned to align_bytes (a power of two <= 4096); NULL when the budget, the
 * reservation or the machine has no more (detail in err). */
void *cn_arena_alloc(struct cn_arena *arena, uint64_t size_bytes, uint64_t align_bytes,
                     cenote_error *err);
uint64_t cn_arena_used_bytes(const struct cn_arena *arena);

#endif
