/* SPDX-License-Identifier: Apache-2.0 */
/* Address space that becomes memory on demand.
 *
 * A reservation is one PROT_NONE mapping, 2 MiB aligned: it costs a VMA and nothing else. Commit
 * opens a part of it with mprotect, so that a stray write to memory that nobody has paid for
 * faults instead of growing the process behind the budget's back.
 *
 * Decommit maps fresh PROT_NONE pages over the part. Compared with MADV_DONTNEED this also frees
 * page tables of whole 2 MiB (they count in VmPTE, and MADV_DONTNEED keeps them on kernels before
 * 6.14), drops the huge page advice so that neighbouring VMAs merge again, and leaves khugepaged
 * nothing to refill.
 *
 * Remap is mremap onto the new place, and then a decommit of the old one. MREMAP_DONTUNMAP (Linux
 * 5.7) keeps the old place mapped in between: without it there would be a moment in which another
 * thread's mmap may settle in the middle of the reservation. */
#include <errno.h>
#include <sys/mman.h>

#include "os/linux/linux.h"

#define HUGE_BYTES    ((size_t)2 << 20)
#define GRANULE_BYTES ((size_t)65536)
#define PAGE_BYTES    ((size_t)4096)

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#ifndef MADV_POPULATE_WRITE /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

static char *align_up(char *address, size_t align_bytes)
{
    return (char *)(((uintptr_t)address + align_bytes - 1) & ~(uintptr_t)(align_bytes - 1));
}

static char *align_down(char *address, size_t align_bytes)
{
    return (char *)((uintptr_t)address & ~(uintptr_t)(align_bytes - 1));
}

int cn_linux_memory_reserve(struct cn_os *os, size_t size_bytes, void **out_base)
{
    (void)os;
    if (size_bytes == 0 || size_bytes > SIZE_MAX - HUGE_BYTES)
        return -ENOMEM;
    /* mmap promises page alignment only: ask for one huge page more, then cut off both ends. */
    size_t mapped_bytes = size_bytes + HUGE_BYTES;
    char *mapped =
        mmap(NULL, mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return -errno;
    char *base = align_up(mapped, HUGE_BYTES);
    size_t head_bytes = (size_t)(base - mapped);
    size_t tail_bytes = mapped_bytes - head_bytes - size_bytes;
    if (head_bytes > 0)
        munmap(mapped, head_bytes);
    if (tail_bytes > 0)
        munmap(base + size_bytes, tail_bytes);
    *out_base = base;
    return 0;
}

void cn_linux_memory_release(struct cn_os *os, void *base, size_t size_bytes)
{
    (void)os;
    munmap(base, size_bytes);
}

int cn_linux_memory_commit(struct cn_os *os, void *address, size_t size_bytes, bool huge)
{
    (void)os;
    if (mprotect(address, size_bytes, PROT_READ | PROT_WRITE) != 0)
        return -errno;
    if (!huge)
        return 0;
    char *first = align_up(address, HUGE_BYTES);
    char *end = align_down((char *)address + size_bytes, HUGE_BYTES);
    /* Advice only: a kernel without huge pages says EINVAL and the memory is as good. */
    if (first < end)
        (void)madvise(first, (size_t)(end - first), MADV_HUGEPAGE);
    return 0;
}

void cn_linux_memory_decommit(struct cn_os *os, void *address, size_t size_bytes)
{
    (void)os;
    void *fresh = mmap(address, size_bytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (fresh != MAP_FAILED)
        return;
    /* Out of VMAs, or of kernel memory. The pages can go back all the same; the range may stay
     * writable, which only weakens the check for stray writes. */
    (void)madvise(address, size_bytes, MADV_DONTNEED);
    (void)mprotect(address, size_bytes, PROT_NONE);
}

/* How much of what should have moved to @p to is there, from the front; @p to was PROT_NONE. */
static size_t arrived_bytes(char *to, size_t size_bytes)
{
    size_t arrived = 0;
    while (arrived < size_bytes && madvise(to + arrived, PAGE_BYTES, MADV_POPULATE_READ) == 0)
        arrived += GRANULE_BYTES;
    return arrived;
}

/* A part that was committed in pieces has several VMAs. Up to Linux 6.16 that is EFAULT: then by
 * halves, front first. From 6.17 on they move one after the other, and a failure may come half way
 * (before, arrived_bytes() finds nothing). */
int64_t cn_linux_memory_remap(struct cn_os *os, void *from, void *to, size_t size_bytes)
{
    if (mmap(to, size_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED)
        return -errno;
    if (mremap(from, size_bytes, size_bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
               to) != MAP_FAILED) {
        cn_linux_memory_decommit(os, from, size_bytes);
        return (int64_t)size_bytes;
    }
    int error = errno;
    size_t arrived = arrived_bytes(to, size_bytes);
    if (arrived > 0) {
        cn_linux_memory_decommit(os, from, arrived);
        return (int64_t)arrived;
    }
    if (error != EFAULT || size_bytes < 2 * GRANULE_BYTES)
        return -error;
    size_t half_bytes = size_bytes / GRANULE_BYTES / 2 * GRANULE_BYTES;
    int64_t front = cn_linux_memory_remap(os, from, to, half_bytes);
    if (front != (int64_t)half_bytes)
        return front;
    int64_t back = cn_linux_memory_remap(os, (char *)from + half_bytes, (char *)to + half_bytes,
                                         size_bytes - half_bytes);
    return front + (back > 0 ? back : 0);
}

void cn_linux_memory_populate(struct cn_os *os, void *address, size_t size_bytes)
{
    (void)os;
    /* Advice: older kernels say EINVAL, and a full machine ENOMEM; the first touch comes later
     * then. */
    (void)madvise(address, size_bytes, MADV_POPULATE_WRITE);
}
