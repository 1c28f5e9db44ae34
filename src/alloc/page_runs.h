/* SPDX-License-Identifier: Apache-2.0 */
/* Runs of granules of any length over an integer range [0, granule_count).
 *
 * A pure algorithm: it moves no memory, takes no lock and makes no system call. It knows three
 * things of every granule (is it in a block, does a block begin here, is it committed) and three of
 * every chunk of 32 granules (is any of it in a block, is any of it committed, was it used lately).
 * The metadata is the caller's memory, so the same code manages host memory, device memory and a
 * made-up range in a test.
 *
 * Threads: none; the caller locks. */
#ifndef CN_ALLOC_PAGE_RUNS_H
#define CN_ALLOC_PAGE_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/hole_tree.h"
#include "base/bits.h"

/* Granules that share one huge page and one page table page: 32 x 64 KiB = 2 MiB. */
#define CN_CHUNK_GRANULES 32u

static inline uint64_t cn_chunks_of(uint64_t granule_count)
{
    return (granule_count + CN_CHUNK_GRANULES - 1) / CN_CHUNK_GRANULES;
}

struct cn_run {
    uint64_t first;
    uint64_t count;
};

struct cn_page_runs {
    uint64_t granule_count;
    uint64_t used_count;
    uint64_t committed_count;
    uint64_t chunk_count; /* chunks with a committed granule */
    uint64_t block_count;
    uint64_t hand;                      /* the chunk that decay looked at last */
    uint64_t *used, *first, *committed; /* a bit for each granule */
    uint64_t *busy, *touched, *recent;  /* a bit for each chunk */
    struct cn_hole_tree holes;
};

/* Bytes of metadata, 8-aligned, for that many granules (1 to 2^32 - 1). */
size_t cn_page_runs_metadata_bytes(uint64_t granule_count);

/* Takes @p metadata, which must be zero. Everything is free and uncommitted. */
void cn_page_runs_init(struct cn_page_runs *runs, uint64_t granule_count, void *metadata);

/* ---- blocks (page_runs.c) ---- */

/* Looks for the lowest free run of @p count (> 0) granules; marks nothing. O(log range). */
static inline bool cn_page_runs_find(const struct cn_page_runs *runs, uint64_t count,
                                     struct cn_run *out_run)
{
    out_run->count = count;
    return cn_hole_tree_find(&runs->holes, count, &out_run->first);
}

/* Makes a free run one block. */
void cn_page_runs_take(struct cn_page_runs *runs, struct cn_run run);

/* The block that begins at granule @p first; false when none does. */
bool cn_page_runs_block(const struct cn_page_runs *runs, uint64_t first, struct cn_run *out_run);

/* Frees a block that cn_page_runs_block() gave. It stays committed. */
void cn_page_runs_free(struct cn_page_runs *runs, struct cn_run block);

/* The same for a run of blocks of one granule each, in one step. */
void cn_page_runs_take_each(struct cn_page_runs *runs, struct cn_run run);
void cn_page_runs_free_each(struct cn_page_runs *runs, struct cn_run run);

static inline uint64_t cn_page_runs_largest_hole(const struct cn_page_runs *runs)
{
    return cn_hole_tree_longest(&runs->holes);
}

/* One past the highest granule that is in a block. */
uint64_t cn_page_runs_top(const struct cn_page_runs *runs);

/* NULL, or the first broken invariant in words. */
const char *cn_page_runs_check(const struct cn_page_runs *runs);

/* ---- commitment (page_commit.c) ---- */

/* The granules of @p run were cleared in @p by_granule: the chunks that have none left, if any. */
struct cn_run cn_page_runs_emptied(const uint64_t *by_granule, struct cn_run run);

/* Is all of @p run committed? */
static inline bool cn_page_runs_committed(const struct cn_page_runs *runs, struct cn_run run)
{
    return cn_bits_all(runs->committed, run.first, run.first + run.count);
}

/* @p run and the rest of the chunks that it touches. */
struct cn_run cn_page_runs_whole_chunks(const struct cn_page_runs *runs, struct cn_run run);

/* The lowest uncommitted part of @p within; false when all of it is committed. */
bool cn_page_runs_uncommitted(const struct cn_page_runs *runs, struct cn_run within,
                              struct cn_run *out_run);

/* What committed_count and chunk_count would be after committing all of @p run. */
void cn_page_runs_preview(const struct cn_page_runs *runs, struct cn_run run,
                          uint64_t *out_committed_count, uint64_t *out_chunk_count);

void cn_page_runs_commit(struct cn_page_runs *runs, struct cn_run run);
void cn_page_runs_decommit(struct cn_page_runs *runs, struct cn_run run);

/* @p run, widened to whole chunks where all the rest of the chunk is uncommitted. */
struct cn_run cn_page_runs_widen(const struct cn_page_runs *runs, struct cn_run run);

/* ---- idle: committed, and in no block (page_commit.c) ---- */

/* The highest run of idle granules below granule @p below. */
bool cn_page_runs_idle(const struct cn_page_runs *runs, uint64_t below, struct cn_run *out_run);

/* The highest run of touched chunks below granule @p below that hold no block. */
bool cn_page_runs_idle_chunks(const struct cn_page_runs *runs, uint64_t below,
                              struct cn_run *out_run);

/* The highest run of chunks that are committed to the last granule, hold no block and lie outside
 * of
 * @p without (whole chunks, or none). */
bool cn_page_runs_spare_chunks(const struct cn_page_runs *runs, struct cn_run without,
                               struct cn_run *out_run);

/* The lowest run of chunks that lie in @p within as a whole and have nothing committed. */
bool cn_page_runs_bare_chunks(const struct cn_page_runs *runs, struct cn_run within,
                              struct cn_run *out_run);

/* Moves the hand to the next touched chunk. @return true when that one holds no block and held none
 * since the hand was there before: it may go. */
bool cn_page_runs_decay(struct cn_page_runs *runs, struct cn_run *out_chunk);

#endif
