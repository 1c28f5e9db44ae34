/* SPDX-License-Identifier: Apache-2.0 */
/* Words for kernels in intrinsics: functions that must melt into their callers, and loops that
 * must be unrolled so that arrays of vectors become registers. */
#ifndef QWEN_VECTOR_H
#define QWEN_VECTOR_H

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Keeps a vector in its register: gcc would rather load it again for every use. */
#define IN_REGISTER(v) __asm__("" : "+v"(v))

#endif
