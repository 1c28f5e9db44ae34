/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that nobody should read: patterns in debug builds, ASan poisoning where ASan is on. */
#ifndef CN_BASE_POISON_H
#define CN_BASE_POISON_H

#include <stddef.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define CN_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CN_ASAN 1
#endif
#endif

#ifdef CN_ASAN
#include <sanitizer/asan_interface.h>
#endif

/* Whether anything below does something. */
#if defined(CN_ASAN) || defined(CN_DEBUG)
#define CN_POISON 1
#else
#define CN_POISON 0
#endif

/* All ones is a NaN in f32, f16 and bf16: a kernel that reads what it never wrote says so. */
#define CN_POISON_FRESH 0xff
#define CN_POISON_FREED 0xdb

/* What is there becomes the caller's, for size_bytes. */
static inline void cn_poison_open(void *data, size_t size_bytes, size_t whole_bytes)
{
#ifdef CN_ASAN
    ASAN_UNPOISON_MEMORY_REGION(data, size_bytes);
    /* Whole 8-byte words: ASan knows no poisoned head of a word. */
    size_t used_bytes = (size_bytes + 7) & ~(size_t)7;
    if (used_bytes < whole_bytes)
        ASAN_POISON_MEMORY_REGION((char *)data + used_bytes, whole_bytes - used_bytes);
#endif
    (void)data;
    (void)size_bytes;
    (void)whole_bytes;
}

/* Memory becomes the caller's, for size_bytes. */
static inline void cn_poison_give(void *data, size_t size_bytes, size_t whole_bytes)
{
    cn_poison_open(data, size_bytes, whole_bytes);
#ifdef CN_DEBUG
    memset(data, CN_POISON_FRESH, size_bytes);
#endif
}

/* Memory comes back from the caller and stays committed. */
static inline void cn_poison_take(void *data, size_t whole_bytes)
{
#ifdef CN_ASAN
    ASAN_UNPOISON_MEMORY_REGION(data, whole_bytes);
#endif
#ifdef CN_DEBUG
    memset(data, CN_POISON_FREED, whole_bytes);
#endif
#ifdef CN_ASAN
    ASAN_POISON_MEMORY_REGION(data, whole_bytes);
#endif
    (void)data;
    (void)whole_bytes;
}

/* Of the caller's memory all behind @p size_bytes is nobody's, and keeps its bytes. */
static inline void cn_poison_hide(void *data, size_t size_bytes, size_t whole_bytes)
{
#ifdef CN_ASAN
    size_t used_bytes = (size_bytes + 7) & ~(size_t)7;
    if (used_bytes < whole_bytes)
        ASAN_POISON_MEMORY_REGION((char *)data + used_bytes, whole_bytes - used_bytes);
#endif
    (void)data;
    (void)size_bytes;
    (void)whole_bytes;
}

/* Memory goes back to the system, where the next owner of the address must not find our marks. */
static inline void cn_poison_forget(void *data, size_t whole_bytes)
{
#ifdef CN_ASAN
    ASAN_UNPOISON_MEMORY_REGION(data, whole_bytes);
#endif
    (void)data;
    (void)whole_bytes;
}

#endif
