/* SPDX-License-Identifier: Apache-2.0 */
/* Runs of granules of any length over an integer range [0, granule_count).
 *
 * A pure algorithm: it moves no memory, takes no lock and makes no system call. It knows three
 * things of every granule: is it in a block, does a block begin here, is it committed. The metadata
 * is the caller's memory, so the same code manages host memory, device memory and a made-up range
 * in a test.
 *
 * Threads: none; the caller locks. */
#ifndef CN_ALLOC_PAGE_RUNS_H
#define CN_ALLOC_PAGE_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Granules that share one huge page and one page table page: 32 x 64 KiB = 2 MiB. */
#define CN_CHUNK_GRANULES 32u

struct cn_run {
    uint64_t first;
    uint64_t count;
};

struct cn_page_runs {
    uint64_t granule_count;
    uint64_t word_count;
    uint64_t free_hint; /* no granule below it is free */
    uint64_t used_count;
    uint64_t committed_count;
    uint64_t chunk_count; /* chunks with a committed granule */
    uint64_t block_count;
    uint64_t *used, *first, *committed; /* bitmaps of word_count words */
};

/* Bytes of metadata, 8-aligned, for that many granules (at most 2^40). */
size_t cn_page_runs_metadata_bytes(uint64_t granule_count);

/* Takes @p metadata, which must be zero. Everything is free and uncommitted. */
void cn_page_runs_init(struct cn_page_runs *runs, uint64_t granule_count, void *metadata);

/* Looks for the lowest free run of @p count (> 0) granules; marks nothing. */
bool cn_page_runs_find(struct cn_page_runs *runs, uint64_t count, struct cn_run *out_run);

/* Makes a free run one block. */
void cn_page_runs_take(struct cn_page_runs *runs, struct cn_run run);

/* The block that begins at granule @p first; false when none does. */
bool cn_page_runs_block(const struct cn_page_runs *runs, uint64_t first, struct cn_run *out_run);

/* Frees a block that cn_page_runs_block() gave. It stays committed. */
void cn_page_runs_free(struct cn_page_runs *runs, struct cn_run block);

/* The lowest uncommitted part of @p within; false when all of it is committed. */
bool cn_page_runs_uncommitted(const struct cn_page_runs *runs, struct cn_run within,
                              struct cn_run *out_run);

/* The highest run below granule @p below that is committed and in no block. */
bool cn_page_runs_idle(const struct cn_page_runs *runs, uint64_t below, struct cn_run *out_run);

void cn_page_runs_commit(struct cn_page_runs *runs, struct cn_run run);
void cn_page_runs_decommit(struct cn_page_runs *runs, struct cn_run run);

/* @p run, widened to whole chunks where all the rest of the chunk is uncommitted. */
struct cn_run cn_page_runs_widen(const struct cn_page_runs *runs, struct cn_run run);

/* What committed_count and chunk_count would be after committing all of @p run. */
void cn_page_runs_preview(const struct cn_page_runs *runs, struct cn_run run,
                          uint64_t *out_committed_count, uint64_t *out_chunk_count);

uint64_t cn_page_runs_largest_hole(const struct cn_page_runs *runs);

/* One past the highest granule that is in a block. */
uint64_t cn_page_runs_top(const struct cn_page_runs *runs);

/* NULL, or the first broken invariant in words. */
const char *cn_page_runs_check(const struct cn_page_runs *runs);

#endif
