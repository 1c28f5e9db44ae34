/* SPDX-License-Identifier: Apache-2.0 */
/* The functions behind the linux table; the fake system delegates to them. */
#ifndef CN_OS_LINUX_LINUX_H
#define CN_OS_LINUX_LINUX_H

#include "os/os.h"

int cn_linux_memory_reserve(struct cn_os *os, size_t size_bytes, void **out_base);
void cn_linux_memory_release(struct cn_os *os, void *base, size_t size_bytes);
int cn_linux_memory_commit(struct cn_os *os, void *address, size_t size_bytes, bool huge);
void cn_linux_memory_decommit(struct cn_os *os, void *address, size_t size_bytes);
int64_t cn_linux_memory_remap(struct cn_os *os, void *from, void *to, size_t size_bytes);
void cn_linux_memory_populate(struct cn_os *os, void *address, size_t size_bytes);

int cn_linux_file_open(struct cn_os *os, const char *path, int flags, int *out_fd);
void cn_linux_file_close(struct cn_os *os, int fd);
int cn_linux_file_stat(struct cn_os *os, int fd, struct cn_os_file_stat *out_stat);
int64_t cn_linux_file_pread(struct cn_os *os, int fd, void *data, size_t size_bytes,
                            uint64_t offset);
void cn_linux_file_drop_cache(struct cn_os *os, int fd, uint64_t offset, uint64_t size_bytes);
int cn_linux_directory_each(struct cn_os *os, const char *path, cn_os_name_fn visit, void *context);

int cn_linux_file_create(struct cn_os *os, const char *path, int *out_fd);
int64_t cn_linux_file_pwrite(struct cn_os *os, int fd, const void *data, size_t size_bytes,
                             uint64_t offset);
int cn_linux_file_sync(struct cn_os *os, int fd);
int cn_linux_file_rename(struct cn_os *os, const char *from, const char *to);
int cn_linux_file_remove(struct cn_os *os, const char *path);
int cn_linux_file_remove_abandoned(struct cn_os *os, const char *path);
int cn_linux_directory_sync(struct cn_os *os, const char *path);
int cn_linux_directory_free(struct cn_os *os, const char *path, uint64_t *out_bytes);
int cn_linux_path_resolve(struct cn_os *os, const char *path, char *out, size_t out_bytes);

int cn_linux_ring_open(struct cn_os *os, const struct cn_os_ring_options *options,
                       struct cn_os_ring **out_ring);
int cn_linux_ring_register(struct cn_os *os, struct cn_os_ring *ring, void *base,
                           size_t size_bytes);
int cn_linux_ring_enter(struct cn_os *os, struct cn_os_ring *ring,
                        const struct cn_os_ring_read *reads, uint32_t read_count, bool wait);
uint32_t cn_linux_ring_reap(struct cn_os *os, struct cn_os_ring *ring, struct cn_os_ring_done *out,
                            uint32_t out_max);
void cn_linux_ring_cancel(struct cn_os *os, struct cn_os_ring *ring, const uint32_t *tags,
                          uint32_t tag_count);
void cn_linux_ring_close(struct cn_os *os, struct cn_os_ring *ring);

uint64_t cn_linux_clock_ns(struct cn_os *os);
void cn_linux_sleep_ns(struct cn_os *os, uint64_t duration_ns);

#endif
