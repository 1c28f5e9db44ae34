/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a pool share: its struct, and who may call what with which lock.
 *
 *   pool.c         create, destroy; sizes that follow from a quota
 *   pool_alloc.c   alloc, free
 *   thread_cache.c, depot.c, small.c  blocks of a size class: caches of threads, what they
 *                  exchange, then slabs
 *   pool_retain.c  what is committed: charging, committing, the quota, giving idle memory back
 *   pool_stats.c   statistics, check
 *   lend.c         idle memory moved to where it is wanted
 *   debug.c, debug_table.c, finding.c  debug levels
 *   tensor_table.c, tensor.c  handles on blocks
 *   compact.c, move.c         moving and dropping them */
#ifndef CN_POOL_POOL_IMPL_H
#define CN_POOL_POOL_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include <cenote/tensor.h>

#include "alloc/page_runs.h"
#include "base/compiler.h"
#include "pool/budget.h"

#define GRANULE_BYTES    ((uint64_t)CENOTE_GRANULE_BYTES)
#define CHUNK_BYTES      (GRANULE_BYTES * CN_CHUNK_GRANULES)
#define TABLE_PAGE_BYTES 4096u

/* What statistics need beyond the state itself. The first line is what each run of granules
 * changes. */
struct cn_pool_counts {
    CN_ALIGNED(CN_CACHE_LINE_BYTES) uint64_t requested_bytes;
    uint64_t requested_peak_bytes, requested_total_bytes;
    uint64_t used_peak_granules, used_total_granules;
    uint64_t committed_peak_granules, committed_total_granules;
    uint64_t hit_count;
    uint64_t miss_count[CENOTE_MISS_COUNT];
};

struct cenote_pool {
    struct cn_budget_client client; /* first: trim gets back from it to the pool */
    cenote_budget *budget;
    struct cn_os *os;
    struct cn_arena *arena; /* holds this struct too */
    uint64_t reserve_bytes;
    struct cn_debug *debug; /* NULL: level 0 */
    cenote_class class_id;
    uint32_t number;   /* in the process, by age; for traces */
    bool whole_chunks; /* commits 2 MiB at a time */
    bool small_blocks;

    /* What the fast paths of alloc and free look at (thread_cache.h); hardly ever written. */
    CN_ALIGNED(CN_CACHE_LINE_BYTES) uint64_t id; /* number + 1; in slots of threads */
    _Atomic uint64_t unwatched_id; /* the same, or what is in no slot; thread_cache.c's registry */
    uint64_t slot_at;              /* of the pool's slot in those of a thread, bytes */
    char *base;
    uint8_t *classes;               /* by page of 8 KiB; release with covered_bytes */
    _Atomic uint64_t covered_bytes; /* of the range, by classes; lock to write */

    /* Threads that take turns with the lock fetch each line from each other: what they change each
     * time lies in three. */
    CN_ALIGNED(CN_CACHE_LINE_BYTES) pthread_mutex_t lock;
    uint64_t tick_granules; /* lock, and what follows; handed out and not yet seen by decay */
    uint64_t charged_bytes;
    struct cn_pool_counts counts;
    CN_ALIGNED(CN_CACHE_LINE_BYTES) struct cn_page_runs runs;
    struct cn_small *small; /* made by the first small block */
    uint16_t *slack_bytes;  /* by a block's first granule: whole granules less what was asked */
    uint64_t quota_granules;

    /* Made by the first tensor; tensor_table.c. */
    _Atomic(struct cn_tensors *) tensors;
    pthread_mutex_t tensors_lock; /* of making and growing; taken before the budget's locks */
    uint32_t compact_above;       /* percent; lock, as what follows */
    cenote_compact_options compact_options;
};

/* ---- pool_alloc.c ---- */

/* Alloc and free without a debug level; the second takes a block that is one. The pool is not
 * locked. */
CENOTE_MUST_CHECK cenote_status cn_pool_block_alloc(cenote_pool *pool, uint64_t size_bytes,
                                                    void **out_data, cenote_error *err);
void cn_pool_block_free(cenote_pool *pool, void *data);
/* As cenote_pool_free(), but nothing stays at hand for the thread: who frees wants the room. */
void cn_pool_free_now(cenote_pool *pool, void *data);

/* After something was taken. Pool locked. */
void cn_pool_raise_peaks(cenote_pool *pool);

/* ---- pool_stats.c ---- */

/* Blocks that somebody has. Pool locked, or nobody else's. */
uint64_t cn_pool_live_count(const cenote_pool *pool);

/* Frees a block that is a run of its own; it stays committed. Pool locked; told to nobody. */
void cn_pool_free_run(cenote_pool *pool, struct cn_run run);

/* What dropping a block may make idle at most: a small one is rounded, and may be the last in
 * granules that others have left. */
static inline uint64_t cn_pool_soft_bytes(const cenote_pool *pool, uint64_t size_bytes)
{
    uint64_t most = pool->small_blocks ? size_bytes + size_bytes / 8 + GRANULE_BYTES : size_bytes;
    return (most + GRANULE_BYTES - 1) / GRANULE_BYTES * GRANULE_BYTES;
}

/* ---- pool_retain.c ---- */

/* The charge for so many committed granules in so many touched chunks. */
uint64_t cn_pool_charge_of(uint64_t committed_granules, uint64_t touched_chunks);

/* Brings the charge in line with what is committed. @return bytes uncharged. Pool locked. */
uint64_t cn_pool_settle(cenote_pool *pool);

/* Decommits a run that is in no block. Widened to whole chunks where that is possible, so that
 * their page tables go too. Pool locked. */
void cn_pool_decommit(cenote_pool *pool, struct cn_run run);

/* Commits what of a charged run is not committed. Pool locked. On failure the whole run is given
 * back, what was idle in it before too: it is free memory on a machine that has none. */
CENOTE_MUST_CHECK cenote_status cn_pool_commit(cenote_pool *pool, struct cn_run run,
                                               cenote_error *err);

/* The budget's callbacks. All lock. The first two give back idle memory until @p want_bytes are
 * uncharged: whole chunks; and after them what is idle beside blocks. */
uint64_t cn_pool_give_chunks(struct cn_budget_client *client, uint64_t want_bytes);
uint64_t cn_pool_give_parts(struct cn_budget_client *client, uint64_t want_bytes);
uint64_t cn_pool_idle_bytes(struct cn_budget_client *client);
void cn_pool_report_client(struct cn_budget_client *client, cenote_budget_holder *holder);

/* Finds a run of @p granules, charges and commits what of it is not committed yet. The pool is
 * locked; the lock is let go while the budget makes room. On failure nothing more is charged than
 * before. The run is not taken yet. Counts the hit or the miss. */
cenote_status cn_pool_obtain(cenote_pool *pool, uint64_t size_bytes, uint64_t granules,
                             struct cn_run *out_run, cenote_error *err);

/* ---- lend.c ---- */

/* The budget's callback: moves idle whole chunks to where @p asker would allocate a run of
 * @p granules, up to @p want_bytes, and gives back such chunks for what does not fit there. Locks
 * both pools; the list of clients must be locked. @return bytes of both */
uint64_t cn_pool_lend(struct cn_budget_client *client, cenote_pool *asker, uint64_t granules,
                      uint64_t want_bytes);

/* The same within a locked pool, to where @p run is about to be committed. */
uint64_t cn_pool_lend_self(cenote_pool *pool, struct cn_run run, uint64_t want_bytes);

#endif
