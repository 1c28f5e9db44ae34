/* SPDX-License-Identifier: Apache-2.0 */
/* Differences between compilers, in one place. */
#ifndef CN_BASE_COMPILER_H
#define CN_BASE_COMPILER_H

#define CN_CACHE_LINE_BYTES 64
/* Apart enough that what one core writes is not fetched along with what another one reads. */
#define CN_CACHE_LINES_APART (2 * CN_CACHE_LINE_BYTES)
#define CN_ALIGNED(bytes)    __attribute__((aligned(bytes)))
#define CN_NOINLINE          __attribute__((noinline))
/* Begins with a cache line, so that it takes as few as it can wherever the linker puts it. */
#define CN_LINE_ALIGNED   __attribute__((aligned(CN_CACHE_LINE_BYTES)))
#define CN_LIKELY(x)      __builtin_expect(!!(x), 1)
#define CN_UNLIKELY(x)    __builtin_expect(!!(x), 0)
#define CN_ARRAY_COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A word as it is in memory <-> byte 0 lowest. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define CN_LITTLE_ENDIAN_64(x) (x)
#else
#define CN_LITTLE_ENDIAN_64(x) __builtin_bswap64(x)
#endif

#if defined(__x86_64__) || defined(__i386__)
#define CN_SPIN_HINT() __builtin_ia32_pause()
#else
#define CN_SPIN_HINT() ((void)0)
#endif

#endif
