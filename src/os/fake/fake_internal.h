/* SPDX-License-Identifier: Apache-2.0 */
/* The state of the fake system, shared by its memory and its files. */
#ifndef CN_OS_FAKE_FAKE_INTERNAL_H
#define CN_OS_FAKE_FAKE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "os/fake/fake.h"

#define RANGES_MAX 256
#define FILES_MAX  256
#define OPENS_MAX  1024
#define FAULTS_MAX 64

#define FAKE_SPOILT 0x5a /* bytes that nobody should take for data */

struct fake_range {
    char *base; /* NULL: an empty place */
    size_t size_bytes;
    unsigned char *committed; /* a byte for each granule */
};

/* Bytes under a path; kept until the end, for descriptors may still read them. */
struct fake_file {
    char *path;
    unsigned char *data; /* NULL: a real file */
    uint64_t size_bytes;
    uint64_t inode;
    bool replaced;      /* found no more by its path */
    uint64_t cut_bytes; /* ends here at the latest */
    uint64_t mtime_later_ns;
};

struct fake_open {
    bool used, direct;
    struct fake_file *file;
    int real_fd; /* -1: added bytes */
};

struct fake_order {
    uint64_t calls;
    uint64_t fail_at; /* a call number; 0 none */
    int error;
};

/* The disk's state: when a lane and the bus are free again. */
struct fake_disk {
    struct cn_fake_disk traits;
    uint64_t random;
    uint64_t bus_free_ns;
    uint64_t lane_free_ns[CN_FAKE_LANES_MAX];
};

struct cn_fake {
    struct cn_os os; /* first: the table's functions cast back */
    atomic_uint_fast64_t clock_ns;
    pthread_mutex_t lock; /* all that follows */
    struct fake_order orders[CN_FAKE_CALL_COUNT];
    struct fake_range ranges[RANGES_MAX];
    struct fake_file *files[FILES_MAX];
    struct fake_open opens[OPENS_MAX];
    struct cn_fake_fault faults[FAULTS_MAX]; /* at_read: the absolute number */
    unsigned file_count, fault_count;
    enum cn_fake_direct direct;
    uint64_t write_most_bytes; /* of one pwrite; 0: no limit */
    uint64_t free_bytes;       /* of any folder, at most */
    struct fake_disk disk;
    struct cn_fake_books books;
};

/* Counts a call. @return 0, or the errno (positive) that it is to fail with. Locked. */
int fake_call(struct cn_fake *fake, enum cn_fake_call call);

/* Moves the clock forward to @p time_ns; never back. */
void fake_clock_reach(struct cn_fake *fake, uint64_t time_ns);

/* The disk; locked. A read of so many bytes that begins now and takes @p delay_ns longer than it
 * would ends then. */
uint64_t fake_disk_read_ns(struct cn_fake *fake, uint64_t size_bytes, uint64_t delay_ns);
/* 0..limit-1 */
uint64_t fake_disk_random(struct cn_fake *fake, uint64_t limit);

/* What one read is going to do. */
struct fake_read {
    int error; /* negative: it fails, and all that follows is unset but for delay_ns */
    struct fake_file *file;
    int real_fd;
    uint64_t end_bytes; /* the file ends here at the latest */
    size_t size_bytes;  /* asked for */
    size_t short_bytes; /* given at most */
    uint64_t delay_ns;
};
/* Counts the read and applies what is planned for it. Locked. */
struct fake_read fake_read_plan(struct cn_fake *fake, int fd, const void *data, size_t size_bytes,
                                uint64_t offset);
/* Does it, without the lock; as file_pread. */
int64_t fake_read_do(struct cn_fake *fake, const struct fake_read *read, void *data,
                     uint64_t offset);

int fake_ring_open(struct cn_os *os, const struct cn_os_ring_options *options,
                   struct cn_os_ring **out_ring);
int fake_ring_register(struct cn_os *os, struct cn_os_ring *ring, void *base, size_t size_bytes);
int fake_ring_enter(struct cn_os *os, struct cn_os_ring *ring, const struct cn_os_ring_read *reads,
                    uint32_t read_count, bool wait);
uint32_t fake_ring_reap(struct cn_os *os, struct cn_os_ring *ring, struct cn_os_ring_done *out,
                        uint32_t out_max);
void fake_ring_cancel(struct cn_os *os, struct cn_os_ring *ring, const uint32_t *tags,
                      uint32_t tag_count);
void fake_ring_close(struct cn_os *os, struct cn_os_ring *ring);

int fake_memory_reserve(struct cn_os *os, size_t size_bytes, void **out_base);
void fake_memory_release(struct cn_os *os, void *base, size_t size_bytes);
int fake_memory_commit(struct cn_os *os, void *address, size_t size_bytes, bool huge);
void fake_memory_decommit(struct cn_os *os, void *address, size_t size_bytes);
int64_t fake_memory_remap(struct cn_os *os, void *from, void *to, size_t size_bytes);
void fake_memory_populate(struct cn_os *os, void *address, size_t size_bytes);

int fake_file_open(struct cn_os *os, const char *path, int flags, int *out_fd);
void fake_file_close(struct cn_os *os, int fd);
int fake_file_stat(struct cn_os *os, int fd, struct cn_os_file_stat *out_stat);
int64_t fake_file_pread(struct cn_os *os, int fd, void *data, size_t size_bytes, uint64_t offset);
void fake_file_drop_cache(struct cn_os *os, int fd, uint64_t offset, uint64_t size_bytes);
int fake_directory_each(struct cn_os *os, const char *path, cn_os_name_fn visit, void *context);

/* A descriptor for a real file; takes it over unless it fails. Locked. */
int fake_open_real(struct cn_fake *fake, const char *path, int real_fd, int *out_fd);
/* -1 for added bytes and for what is not open. Locked. */
int fake_real_fd(struct cn_fake *fake, int fd);

int fake_file_create(struct cn_os *os, const char *path, int *out_fd);
int64_t fake_file_pwrite(struct cn_os *os, int fd, const void *data, size_t size_bytes,
                         uint64_t offset);
int fake_file_sync(struct cn_os *os, int fd);
int fake_file_rename(struct cn_os *os, const char *from, const char *to);
int fake_file_remove(struct cn_os *os, const char *path);
int fake_file_remove_abandoned(struct cn_os *os, const char *path);
int fake_directory_sync(struct cn_os *os, const char *path);
int fake_directory_free(struct cn_os *os, const char *path, uint64_t *out_bytes);
int fake_path_resolve(struct cn_os *os, const char *path, char *out, size_t out_bytes);

#endif
