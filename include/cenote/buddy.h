/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  A buddy allocator over any range of integers.
 *
 *  The range may be host memory, device memory, a file or nothing at all: the allocator only counts
 *  and never touches what it manages. All it knows lies in one block of the caller's memory, whose
 *  size is a function of the range.
 *
 *      cenote_buddy_options options = CENOTE_BUDDY_OPTIONS_INIT;
 *      options.start = device_address;
 *      options.size_bytes = device_bytes;
 *      uint64_t bytes = cenote_buddy_metadata_bytes(&options);
 *      status = cenote_buddy_init(&options, malloc(bytes), bytes, &buddy, &err);
 *
 *  Blocks are a power of two of *leaves*, the smallest block, and aligned to their own size in
 *  absolute numbers, whatever the range's start. What is left of a leaf at either end of the range
 *  is not used.
 *
 *  The rule: of all places where a block fits, the lowest. What is free depends only on what is
 *  taken now, and never on the order of the operations before; so the same requests get the same
 *  addresses everywhere.
 *
 *  There is nothing to undo: forget the metadata, and the allocator is gone.
 *
 *  Threads: none; one call at a time on one allocator, const functions included when another call
 *  changes it.  No function allocates, locks or calls the system.
 *  Below, n is the number of leaves. */
#ifndef CENOTE_BUDDY_H
#define CENOTE_BUDDY_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CENOTE_BUDDY_LEAF_BYTES_MIN 16u
#define CENOTE_BUDDY_METADATA_ALIGN 8u /**< 64 keeps words of one cache line together */

typedef struct cenote_buddy cenote_buddy;

typedef struct cenote_buddy_options {
    uint32_t version;    /**< CENOTE_BUDDY_OPTIONS_VERSION */
    uint64_t start;      /**< the lowest number of the range; any */
    uint64_t size_bytes; /**< numbers in the range; any, as long as start + size_bytes < 2^64 and
                              one whole leaf lies inside */
    uint64_t leaf_bytes; /**< a power of two, CENOTE_BUDDY_LEAF_BYTES_MIN or more */
} cenote_buddy_options;
#define CENOTE_BUDDY_OPTIONS_VERSION 1u
#define CENOTE_BUDDY_OPTIONS_INIT                                                                  \
    {                                                                                              \
        CENOTE_BUDDY_OPTIONS_VERSION, 0, 0, 4096                                                   \
    }

/** What cenote_buddy_init() needs: a little over 17 bytes for 64 leaves, 16 for their generations
 *  (128 for leaves of 4 KiB or more) and less than 1 KiB. That is 0.056 % of the range at leaves of
 *  4 KiB and 0.203 % at 256 B.
 *  @return UINT64_MAX for options that init refuses */
CENOTE_API uint64_t cenote_buddy_metadata_bytes(const cenote_buddy_options *options);

/** Makes all of the range free.
 *  @param metadata        aligned to CENOTE_BUDDY_METADATA_ALIGN; must outlive the allocator, and
 *                         may not be moved. Init again to begin anew.
 *  @param metadata_bytes  its size: at least cenote_buddy_metadata_bytes()
 *  Errors: CENOTE_E_VERSION, CENOTE_E_INVAL.  Cost: O(n / 32), from leaves of 4 KiB on O(n / 4). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_buddy_init(const cenote_buddy_options *options,
                                                             void *metadata,
                                                             uint64_t metadata_bytes,
                                                             cenote_buddy **out_buddy,
                                                             cenote_error *err);

/** Takes a block of at least @p size_bytes (> 0): the next power of two, one leaf at least.
 *  @param align_bytes  power of two; 0 and all up to the block's size are free of charge. More
 *                      takes the beginning of the lowest free block of that size; the rest stays
 *                      free
 *  Errors: CENOTE_E_INVAL; CENOTE_E_BUDGET when nothing fits (what is free and the largest block in
 *  err).  Cost: O(log n). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_buddy_alloc(cenote_buddy *buddy,
                                                              uint64_t size_bytes,
                                                              uint64_t align_bytes,
                                                              uint64_t *out_address,
                                                              cenote_error *err);

/** Tells the blocks apart that begin at @p address one after the other: a number that is another
 *  one after each free, and comes round after 4 of them, with leaves of 4 KiB or more after 65,536.
 *  To be asked for when the block was taken, and kept beside its address.
 *  @return 0 when @p address is not in the range.  Cost: O(1). */
CENOTE_API uint32_t cenote_buddy_generation(const cenote_buddy *buddy, uint64_t address);

/** For who keeps no generation: then a block that was freed before is only known while no other one
 *  begins there. */
#define CENOTE_BUDDY_GENERATION_ANY UINT32_MAX

/** Frees the block at @p address. Whatever is no live block is refused, and nothing changes: a
 *  block freed before, an address inside of a block, a reserved or a foreign one.
 *  @param size_bytes  what was asked for; a size that would have given another block is refused;
 *                     any other of the same block makes requested_bytes wrong, and nothing else
 *  @param generation  the block's, so that a second free is known although another block begins
 *                     there by now; or CENOTE_BUDDY_GENERATION_ANY
 *  Errors: CENOTE_E_INVAL, with what lies at the address in err.  Cost: O(log n). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_buddy_free(cenote_buddy *buddy, uint64_t address,
                                                             uint64_t size_bytes,
                                                             uint32_t generation,
                                                             cenote_error *err);

/** Keeps [address, address + size_bytes) out of use, widened to whole leaves: memory that somebody
 *  else has, bad pages, a boundary. Any length; all of it must be free.
 *  Errors: CENOTE_E_INVAL (empty, not in the range, or not free: by whom in err); nothing has
 *  changed then.  Cost: O(log^2 n). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_buddy_reserve(cenote_buddy *buddy,
                                                                uint64_t address,
                                                                uint64_t size_bytes,
                                                                cenote_error *err);

/** Makes [address, address + size_bytes), widened to whole leaves, free again. All of it must be
 *  reserved, in however many calls. Errors and cost as cenote_buddy_reserve(). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_buddy_release(cenote_buddy *buddy,
                                                                uint64_t address,
                                                                uint64_t size_bytes,
                                                                cenote_error *err);

typedef enum cenote_buddy_kind {
    CENOTE_BUDDY_FREE = 0, /**< a free block, merged as far as it goes */
    CENOTE_BUDDY_USED,     /**< from cenote_buddy_alloc() */
    CENOTE_BUDDY_RESERVED, /**< a reserved part; a long one is several in a row */
} cenote_buddy_kind;

typedef struct cenote_buddy_block {
    uint64_t address;
    uint64_t size_bytes;
    cenote_buddy_kind kind;
} cenote_buddy_block;

/** The block that holds @p address, or the first one when that is below the range. So a walk over
 *  all, from low to high, without gaps, is
 *
 *      for (uint64_t at = 0; cenote_buddy_next(buddy, at, &block); at = block.address +
 * block.size_bytes)
 *
 *  @return false, and nothing in @p out_block, when @p address is above.  Cost: O(log n). */
CENOTE_API bool cenote_buddy_next(const cenote_buddy *buddy, uint64_t address,
                                  cenote_buddy_block *out_block);

typedef struct cenote_buddy_stats {
    uint64_t usable_bytes;    /**< whole leaves; used + reserved + free */
    uint64_t used_bytes;      /**< in blocks */
    uint64_t used_peak_bytes; /**< since init */
    uint64_t requested_bytes; /**< of used_bytes, what was asked for */
    uint64_t reserved_bytes;
    uint64_t free_bytes;
    uint64_t largest_block_bytes;  /**< the largest request that would succeed now; 0: none */
    uint64_t block_count;          /**< live blocks */
    uint64_t alloc_count;          /**< blocks since init */
    double occupancy;              /**< (used + reserved) / usable */
    double internal_fragmentation; /**< 1 - requested / used; 0 when nothing is used */
    double external_fragmentation; /**< 1 - largest_block / free; 0 when nothing is free. An empty
                                        range is above 0 unless it is one block itself. */
} cenote_buddy_stats;
/** Cost: O(1). */
CENOTE_API void cenote_buddy_stats_get(const cenote_buddy *buddy, cenote_buddy_stats *out_stats);

/** @return NULL, or the first broken invariant in words. Cost: O(n). */
CENOTE_API const char *cenote_buddy_check(const cenote_buddy *buddy);

#ifdef __cplusplus
}
#endif
#endif
