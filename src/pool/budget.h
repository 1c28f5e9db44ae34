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

/* Would charging that much be more than pools have come to so far? False as well when it does not
 * fit: then the whole ladder is climbed. Any lock may be held. */
bool cn_budget_is_peak(cenote_budget *budget, uint64_t size_bytes);

/* Before a charge that is: has pools' idle memory serve it, unless there is but little; nothing is
 * dropped and no huge page broken for it. What cannot be had so is granted, and somewhat more, so
 * that the next one is no peak at once. @p asker and @p granules are as below. @return true: idle
 * memory was found. No lock may be held. Cost: O(pools) beyond what is moved. (reclaim.c) */
bool cn_budget_avoid_peak(cenote_budget *budget, cenote_pool *asker, uint64_t granules,
                          uint64_t size_bytes);

/* A pool has ended: from now on what pools hold now is the most that they have come to. Any lock
 * may be held. */
void cn_budget_lower_mark(cenote_budget *budget);

/* Climbs the ladder until @p size_bytes more would fit. @p asker gives its own idle memory first;
 * NULL: who asks is no pool. @p granules: idle memory may be moved to where @p asker would allocate
 * a run of so many, which then needs less; 0: it is given back. @return true: something came back,
 * or it fits by now, so try again; false: waiting for more is in vain. No lock may be held.
 * (reclaim.c) */
bool cn_budget_make_room(cenote_budget *budget, cenote_pool *asker, uint64_t granules,
                         uint64_t size_bytes);

/* The same for a pool whose quota is @p want_bytes too small: asks who keeps something in this
 * pool. False as well when all of that is not enough; then nothing was dropped. */
bool cn_budget_make_quota(cenote_budget *budget, const cenote_pool *asker, uint64_t want_bytes);

/* The same for a pool in which no hole is @p hole_bytes long: they drop that much, or move it. */
bool cn_budget_make_hole(cenote_budget *budget, const cenote_pool *asker, uint64_t hole_bytes);

/* Counts the refusal and words it, with who holds most. @p detail may be NULL. No lock may be
 * held. */
cenote_status cn_budget_refuse(cenote_budget *budget, uint64_t size_bytes, const char *what,
                               const char *detail, cenote_error *err);

/* Who can give something up. A pool is one, at the first rung, for its idle memory; a cache is one
 * for each pool that it keeps tensors in.
 *
 * Lock ranks, taken in this order only: the list of clients < a cache's lock < a pool's lock < the
 * counters. Both callbacks run with the list locked, so they may uncharge and free blocks of pools,
 * but not allocate, charge, register or unregister; and nobody allocates or charges while it holds
 * a lock that its own callbacks take. */
struct cn_budget_client {
    struct cn_budget_client *next; /* the list's, as what follows is the client's */
    cenote_reclaim_step step;      /* CENOTE_RECLAIM_IDLE for pools */
    uint32_t priority;             /* at one rung the lowest is asked first */
    cenote_pool *pool;             /* where its bytes lie */
    /* Gives up @p want_bytes or more, or what there is. A pool uncharges them; others free blocks,
     * which makes them idle memory of the pool, or move blocks until a hole of @p want_bytes is
     * there. @return bytes; 0 when nothing has changed that would help. */
    uint64_t (*give)(struct cn_budget_client *client, uint64_t want_bytes);
    /* Pools: the same, when whole chunks of all pools do not do. NULL: nothing. */
    uint64_t (*give_parts)(struct cn_budget_client *client, uint64_t want_bytes);
    /* Pools: the same for whole chunks, but to where @p asker would allocate a run of @p granules,
     * which then needs less. Pools of a test: NULL. */
    uint64_t (*lend)(struct cn_budget_client *client, cenote_pool *asker, uint64_t granules,
                     uint64_t want_bytes);
    /* Pools: what is committed and in no block. NULL: nothing. */
    uint64_t (*idle_bytes)(struct cn_budget_client *client);
    /* Adds what it knows to the row of its pool. NULL: nothing. */
    void (*report)(struct cn_budget_client *client, cenote_budget_holder *holder);
};
void cn_budget_register(cenote_budget *budget, struct cn_budget_client *client);
void cn_budget_unregister(cenote_budget *budget, struct cn_budget_client *client);

/* Caches of threads (thread_cache.h) and depots (depot.h) buy the bytes that they may hold; each
 * kind half a per cent of the limit. No lock is taken. */
enum cn_cache_kind { CN_CACHE_THREADS, CN_CACHE_DEPOTS, CN_CACHE_KINDS };
bool cn_budget_cache_take(cenote_budget *budget, enum cn_cache_kind kind, uint64_t size_bytes);
void cn_budget_cache_give(cenote_budget *budget, enum cn_cache_kind kind, uint64_t size_bytes);
/* Whoever finds another epoch than the last time gives up its caches. */
void cn_budget_cache_call(cenote_budget *budget);
uint64_t cn_budget_cache_epoch(const cenote_budget *budget);

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
