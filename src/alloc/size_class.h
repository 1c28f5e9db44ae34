/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes of blocks that are kept by the class, so that one that was freed fits the next request.
 *
 *   bytes   256 320 .. 512 | 576 640 .. 1024 | 1152 .. 2048 | .. | 576 KiB .. 1 MiB
 *   class     1   2 ..   5 |   6   7 ..   13 |   14 ..   21 | .. |      86 ..    93
 *   step           64              64              128      | .. |      64 KiB
 *
 * Eight classes for each doubling: a block is at most an eighth larger than what was asked for.
 * From 512 KiB on a class is a number of whole granules, so nothing is rounded that a run of
 * granules would not round too. A size that is a multiple of a power of two has a class that is one
 * as well. Class 0 is none.
 *
 * Threads: pure. */
#ifndef CN_ALLOC_SIZE_CLASS_H
#define CN_ALLOC_SIZE_CLASS_H

#include <stdint.h>

#define CN_CLASS_UNIT_SHIFT 6u /* the steps of the smallest classes: 64 bytes */
#define CN_CLASS_BYTES_MIN  256u
#define CN_CLASS_RUN_FIRST  85u        /* 512 KiB: from here on whole granules */
#define CN_CLASS_LAST       93u        /* 1 MiB */
#define CN_CLASS_BYTES_MAX  (1u << 20) /* of the last class */

/* The smallest class for @p size_bytes, 1..CN_CLASS_BYTES_MAX. */
static inline uint32_t cn_size_class(uint64_t size_bytes)
{
    uint32_t unit = (uint32_t)((size_bytes - 1) >> CN_CLASS_UNIT_SHIFT);
    if (unit < CN_CLASS_BYTES_MIN / 64 - 1)
        unit = CN_CLASS_BYTES_MIN / 64 - 1;
    /* Below 16 units one for each; above, the four highest bits say which. */
    uint32_t shift = 28 - (uint32_t)__builtin_clz(unit | 8);
    return 8 * shift + (unit >> shift) - 2;
}

/* What a block of class 1..CN_CLASS_LAST takes. */
static inline uint64_t cn_class_bytes(uint32_t size_class)
{
    uint32_t number = size_class + 2;
    uint32_t shift = number < 16 ? 0 : number / 8 - 1;
    return (uint64_t)(number - 8 * shift + 1) << (shift + CN_CLASS_UNIT_SHIFT);
}

#endif
