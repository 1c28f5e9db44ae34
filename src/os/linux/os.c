/* SPDX-License-Identifier: Apache-2.0 */
/* The linux table, and its clock. Stateless: one table serves the whole process. */
#include <errno.h>
#include <time.h>

#include "os/linux/linux.h"

#define NS_PER_S 1000000000u

uint64_t cn_linux_clock_ns(struct cn_os *os)
{
    (void)os;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

void cn_linux_sleep_ns(struct cn_os *os, uint64_t duration_ns)
{
    (void)os;
    struct timespec left = {(time_t)(duration_ns / NS_PER_S), (long)(duration_ns % NS_PER_S)};
    /* A signal must not shorten a back-off; the kernel writes the rest to its last argument. */
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
        ;
}

struct cn_os *cn_os_linux(void)
{
    static const struct cn_os_ops ops = {
        .memory_reserve = cn_linux_memory_reserve,
        .memory_release = cn_linux_memory_release,
        .memory_commit = cn_linux_memory_commit,
        .memory_decommit = cn_linux_memory_decommit,
        .memory_remap = cn_linux_memory_remap,
        .memory_populate = cn_linux_memory_populate,
        .file_open = cn_linux_file_open,
        .file_close = cn_linux_file_close,
        .file_stat = cn_linux_file_stat,
        .file_pread = cn_linux_file_pread,
        .file_drop_cache = cn_linux_file_drop_cache,
        .file_create = cn_linux_file_create,
        .file_pwrite = cn_linux_file_pwrite,
        .file_sync = cn_linux_file_sync,
        .file_rename = cn_linux_file_rename,
        .file_remove = cn_linux_file_remove,
        .file_remove_abandoned = cn_linux_file_remove_abandoned,
        .directory_sync = cn_linux_directory_sync,
        .directory_free = cn_linux_directory_free,
        .path_resolve = cn_linux_path_resolve,
        .ring_open = cn_linux_ring_open,
        .ring_register = cn_linux_ring_register,
        .ring_enter = cn_linux_ring_enter,
        .ring_reap = cn_linux_ring_reap,
        .ring_cancel = cn_linux_ring_cancel,
        .ring_close = cn_linux_ring_close,
        .directory_each = cn_linux_directory_each,
        .clock_ns = cn_linux_clock_ns,
        .sleep_ns = cn_linux_sleep_ns,
    };
    static struct cn_os linux_os = {&ops};
    return &linux_os;
}
