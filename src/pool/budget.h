/* SPDX-License-Identifier: Apache-2.0 */
/* What the library's own modules may ask of a budget beyond the public header. */
#ifndef CN_POOL_BUDGET_H
#define CN_POOL_BUDGET_H

#include <cenote/pool.h>

#include "os/os.h"

struct cn_os *cn_budget_os(const cenote_budget *budget);
cenote_budget *cn_pool_budget(const cenote_pool *pool);

/* What each range of address space costs in page tables beyond its granules' share: the tables
 * above the last level, and the last-level table at its edge. */
#define CN_RANGE_CHARGE_BYTES 12288u
/* A granule and its share of page tables: 8 bytes for each 4 KiB page. */
#define CN_GRANULE_CHARGE_BYTES (CENOTE_GRANULE_BYTES + CENOTE_GRANULE_BYTES / 4096u * 8u)

/* Charges when it fits as things are; gives nothing back to make room. Any lock may be held. */
bool cn_budget_try_charge(cenote_budget *budget, uint64_t size_bytes);

/* Makes pools give back idle memory until @p size_bytes more would fit. @return the bytes that
 * came back; 0 means that waiting for more is in vain. No pool lock may be held. */
uint64_t cn_budget_make_room(cenote_budget *budget, uint64_t size_bytes);

/* Counts the refusal and words it. @p detail may be NULL. */
cenote_status cn_budget_refuse(cenote_budget *budget, uint64_t size_bytes, const char *what,
                               const char *detail, cenote_error *err);

/* Who can give idle memory back. The callback is called with the list locked: it may uncharge,
 * but not charge, register or unregister. @return bytes uncharged, @p want_bytes or more if it
 * can. Lock ranks: list of clients < a client's own lock < counters. */
struct cn_budget_client {
    struct cn_budget_client *next;
    uint64_t (*trim)(struct cn_budget_client *client, uint64_t want_bytes);
};
void cn_budget_register(cenote_budget *budget, struct cn_budget_client *client);
void cn_budget_unregister(cenote_budget *budget, struct cn_budget_client *client);

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
/* Handed out, alignment and the arena's own header included. */
uint64_t cn_arena_used_bytes(const struct cn_arena *arena);
/* What it is charged for now. */
uint64_t cn_arena_charged_bytes(const struct cn_arena *arena);
/* What an arena charges once it has handed out @p size_bytes in one piece; UINT64_MAX on overflow.
 */
uint64_t cn_arena_charge_bytes(uint64_t size_bytes);

#endif
