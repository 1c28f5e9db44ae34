/* SPDX-License-Identifier: Apache-2.0 */
/* Small blocks: pages of 8 KiB in granules that somebody lends, and slabs of one class in them.
 *
 * A pure algorithm over the integer range [0, granule_count) of 64 KiB granules: it moves no
 * memory, takes no lock and makes no system call. Its owner lends granules when a request finds no
 * room, and has each back at once when nothing in it is taken any more. The metadata is the owner's
 * memory, four arrays beside the range, which must be there (and was zero at first) for lent
 * granules only:
 *
 *   classes[page]     [0, covered_granules), for whoever frees looks there first
 *   free_pages, bits  [0, covered_granules)
 *   reach, by word of free_pages; the same
 *   pages[page]       of lent granules
 *
 * A block is named by its id: its offset in units of 64 bytes. A range has 256 GiB at most.
 *
 * Threads: none; the caller locks. Cost: O(1) for a block of a slab that has room; else the words
 * of free_pages that are passed. */
#ifndef CN_ALLOC_SLAB_H
#define CN_ALLOC_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/page_runs.h"
#include "alloc/size_class.h"

#define CN_SLAB_PAGE_SHIFT    13u /* 8 KiB */
#define CN_SLAB_GRANULE_PAGES 8u
#define CN_SLAB_GRANULES_MAX  (UINT64_C(1) << 22) /* 256 GiB */

/* What classes[] says of pages inside of a block, after its first. 0: no block begins there. */
#define CN_CLASS_INSIDE (CN_CLASS_LAST + 1)

struct cn_slab_page {
    uint32_t head;        /* the slab's first page; there only: */
    uint32_t free_blocks; /* a bit for each block */
    uint32_t next, prev;  /* slabs of the class that have room */
};

/* Pages of a slab and blocks in it; one block is a run of pages of its own. */
struct cn_slab_shape {
    uint8_t page_count, block_count;
};

#define CN_SLAB_RUN_PAGES_MAX 60u /* of the largest class below CN_CLASS_RUN_FIRST */

struct cn_slabs {
    uint64_t covered_granules; /* the owner's to raise */
    uint8_t *classes;
    uint64_t *free_pages;
    uint8_t *reach; /* by word: the longest run of free pages that begins there; 64: or longer */
    struct cn_slab_page *pages;
    uint64_t word_end; /* no granule of a word from here on was ever lent */
    uint64_t lent_granules;
    uint64_t free_page_count;
    uint64_t taken_bytes;
    uint64_t taken[CN_CLASS_LAST + 1];      /* blocks, by class */
    uint32_t with_room[CN_CLASS_RUN_FIRST]; /* by class: a slab that has room */
    struct cn_slab_shape shapes[CN_CLASS_RUN_FIRST];
    uint32_t word_hint[CN_SLAB_RUN_PAGES_MAX + 1]; /* by pages: in no word below does a run begin */
};

/* Metadata for each granule of the range, by array; together 0.21 %. */
#define CN_SLAB_CLASSES_BYTES    CN_SLAB_GRANULE_PAGES
#define CN_SLAB_FREE_PAGES_BYTES 1u
#define CN_SLAB_WORD_GRANULES    8u /* a word of free_pages, and a byte of reach */
#define CN_SLAB_PAGES_BYTES      (CN_SLAB_GRANULE_PAGES * sizeof(struct cn_slab_page))

void cn_slabs_init(struct cn_slabs *slabs, uint8_t *classes, uint64_t *free_pages, uint8_t *reach,
                   struct cn_slab_page *pages);

/* Takes up to @p count blocks of a class below CN_CLASS_RUN_FIRST. @return how many there were. */
uint32_t cn_slabs_take(struct cn_slabs *slabs, uint32_t size_class, uint32_t count,
                       uint32_t *out_ids);

/* When there was none: how many granules its owner must find. */
uint64_t cn_slabs_granules_for(const struct cn_slabs *slabs, uint32_t size_class);

/* Takes up to @p count blocks out of such a run, below covered_granules, and the free pages before
 * it; cn_slabs_take() must have found none. @return the part that is lent now: as little as will
 * do, from the run's beginning on. */
struct cn_run cn_slabs_lend(struct cn_slabs *slabs, uint32_t size_class, struct cn_run run,
                            uint32_t count, uint32_t *out_ids, uint32_t *out_count);

/* Is there a taken block that begins at @p id? */
bool cn_slabs_holds(const struct cn_slabs *slabs, uint32_t id);

/* Gives back a block that cn_slabs_holds(). @return the granules that are the owner's again. */
struct cn_run cn_slabs_give(struct cn_slabs *slabs, uint32_t id);

/* Runs of whole granules, which their owner takes and frees, are entered and removed here, so that
 * classes[] knows all blocks of all classes. */
void cn_slabs_enter_run(struct cn_slabs *slabs, uint64_t granule, uint32_t size_class);
void cn_slabs_remove_run(struct cn_slabs *slabs, uint64_t granule);

/* Is granule @p granule lent? */
bool cn_slabs_lent(const struct cn_slabs *slabs, uint64_t granule);

/* NULL, or the first broken invariant in words. */
const char *cn_slabs_check(const struct cn_slabs *slabs);

#endif
