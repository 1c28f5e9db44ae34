/* SPDX-License-Identifier: Apache-2.0 */
/* Real memory with books: which granules of which reservation are committed. A call that linux
 * would let pass but the contract of os.h does not (outside of a reservation, not aligned, twice)
 * counts as misuse. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "os/fake/fake_internal.h"
#include "os/linux/linux.h"

#define GRANULE_BYTES     65536u
#define RESERVE_BYTES_MAX ((size_t)1 << 46) /* more than this no machine maps */

/* The reservation that holds all of the span. Locked. */
static struct fake_range *range_of(struct cn_fake *fake, const char *address, size_t size_bytes)
{
    for (unsigned i = 0; i < RANGES_MAX; i++) {
        struct fake_range *range = &fake->ranges[i];
        if (range->base == NULL || address < range->base)
            continue;
        size_t offset = (size_t)(address - range->base);
        if (offset > range->size_bytes || size_bytes > range->size_bytes - offset)
            continue;
        return offset % GRANULE_BYTES == 0 && size_bytes % GRANULE_BYTES == 0 ? range : NULL;
    }
    return NULL;
}

/* Marks the span's granules. @return how many changed. Locked. */
static size_t mark(struct fake_range *range, const char *address, size_t size_bytes,
                   unsigned char value)
{
    size_t changed = 0;
    size_t first = (size_t)(address - range->base) / GRANULE_BYTES;
    for (size_t i = first; i < first + size_bytes / GRANULE_BYTES; i++) {
        changed += range->committed[i] != value;
        range->committed[i] = value;
    }
    return changed;
}

static bool all_committed(const struct fake_range *range, const char *address, size_t size_bytes)
{
    size_t first = (size_t)(address - range->base) / GRANULE_BYTES;
    return memchr(range->committed + first, 0, size_bytes / GRANULE_BYTES) == NULL;
}

static int memory_call(struct cn_fake *fake, enum cn_fake_call call)
{
    int error = fake_call(fake, call);
    int any_error = fake_call(fake, CN_FAKE_MEMORY);
    return error != 0 ? error : any_error;
}

static int reserve_locked(struct cn_fake *fake, size_t size_bytes, void **out_base)
{
    int error = memory_call(fake, CN_FAKE_RESERVE);
    if (error != 0)
        return -error;
    struct fake_range *place = NULL;
    for (unsigned i = 0; i < RANGES_MAX && place == NULL; i++)
        if (fake->ranges[i].base == NULL)
            place = &fake->ranges[i];
    if (place == NULL || size_bytes > RESERVE_BYTES_MAX)
        return -ENOMEM;
    unsigned char *committed = calloc(size_bytes / GRANULE_BYTES + 1, 1);
    if (committed == NULL)
        return -ENOMEM;
    void *base;
    error = cn_linux_memory_reserve(NULL, size_bytes, &base);
    if (error != 0) {
        free(committed);
        return error;
    }
    fake->books.misuse_count += size_bytes % GRANULE_BYTES != 0;
    fake->books.reservations++;
    fake->books.reserved_bytes += size_bytes;
    *place = (struct fake_range){base, size_bytes, committed};
    *out_base = base;
    return 0;
}

int fake_memory_reserve(struct cn_os *os, size_t size_bytes, void **out_base)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    int result = reserve_locked(fake, size_bytes, out_base);
    pthread_mutex_unlock(&fake->lock);
    return result;
}

void fake_memory_release(struct cn_os *os, void *base, size_t size_bytes)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    struct fake_range *range = range_of(fake, base, size_bytes);
    if (range == NULL || range->base != base || range->size_bytes != size_bytes) {
        fake->books.misuse_count++;
    } else {
        fake->books.reservations--;
        fake->books.reserved_bytes -= size_bytes;
        fake->books.committed_bytes -= mark(range, base, size_bytes, 0) * GRANULE_BYTES;
        free(range->committed);
        *range = (struct fake_range){0};
        cn_linux_memory_release(NULL, base, size_bytes);
    }
    pthread_mutex_unlock(&fake->lock);
}

static int commit_locked(struct cn_fake *fake, void *address, size_t size_bytes, bool huge)
{
    int error = memory_call(fake, CN_FAKE_COMMIT);
    if (error != 0)
        return -error;
    struct fake_range *range = range_of(fake, address, size_bytes);
    if (range == NULL) {
        fake->books.misuse_count++;
        return -EINVAL;
    }
    error = cn_linux_memory_commit(NULL, address, size_bytes, huge);
    if (error != 0)
        return error;
    size_t changed = mark(range, address, size_bytes, 1);
    fake->books.misuse_count += changed != size_bytes / GRANULE_BYTES;
    fake->books.huge_count += huge;
    fake->books.committed_bytes += changed * GRANULE_BYTES;
    if (fake->books.committed_bytes > fake->books.committed_peak_bytes)
        fake->books.committed_peak_bytes = fake->books.committed_bytes;
    return 0;
}

int fake_memory_commit(struct cn_os *os, void *address, size_t size_bytes, bool huge)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    int result = commit_locked(fake, address, size_bytes, huge);
    pthread_mutex_unlock(&fake->lock);
    return result;
}

void fake_memory_decommit(struct cn_os *os, void *address, size_t size_bytes)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    struct fake_range *range = range_of(fake, address, size_bytes);
    if (range == NULL) {
        fake->books.misuse_count++;
    } else {
        fake->books.committed_bytes -= mark(range, address, size_bytes, 0) * GRANULE_BYTES;
        cn_linux_memory_decommit(NULL, address, size_bytes);
    }
    pthread_mutex_unlock(&fake->lock);
}

/* A planned failure happens half way: the front has moved, in whole granules, when it has two. */
static int64_t remap_locked(struct cn_fake *fake, char *from, char *to, size_t size_bytes)
{
    int error = fake_call(fake, CN_FAKE_REMAP);
    struct fake_range *old = range_of(fake, from, size_bytes);
    struct fake_range *young = range_of(fake, to, size_bytes);
    bool apart = from + size_bytes <= to || to + size_bytes <= from;
    if (old == NULL || young == NULL || !apart || size_bytes == 0 ||
        !all_committed(old, from, size_bytes)) {
        fake->books.misuse_count++;
        return -EINVAL;
    }
    if (error != 0) {
        size_bytes = size_bytes / GRANULE_BYTES / 2 * GRANULE_BYTES;
        if (size_bytes == 0)
            return -error;
    }
    int64_t moved = cn_linux_memory_remap(NULL, from, to, size_bytes);
    if (moved <= 0)
        return moved;
    size_t gone = mark(young, to, (size_t)moved, 0);
    mark(young, to, (size_t)moved, 1);
    mark(old, from, (size_t)moved, 0);
    fake->books.committed_bytes -= gone * GRANULE_BYTES;
    return moved;
}

int64_t fake_memory_remap(struct cn_os *os, void *from, void *to, size_t size_bytes)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    int64_t result = remap_locked(fake, from, to, size_bytes);
    pthread_mutex_unlock(&fake->lock);
    return result;
}

void fake_memory_populate(struct cn_os *os, void *address, size_t size_bytes)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    struct fake_range *range = range_of(fake, address, size_bytes);
    if (range == NULL || !all_committed(range, address, size_bytes))
        fake->books.misuse_count++;
    else
        cn_linux_memory_populate(NULL, address, size_bytes);
    pthread_mutex_unlock(&fake->lock);
}
