/* SPDX-License-Identifier: Apache-2.0 */
/* The only door to the kernel for memory, files and the clock. Two tables implement it: linux/
 * (this machine) and fake/ (linux memory, files with injected faults, virtual time), so that every
 * fault that a machine can have is a test.
 *
 * Functions return 0 or a negative errno; the caller words the message, for it knows the file and
 * the tensor. Threads: every function from any thread. */
#ifndef CN_OS_OS_H
#define CN_OS_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cn_os_open_flags { CN_OS_OPEN_DIRECT = 1 };

struct cn_os_file_stat {
    uint64_t size_bytes;
    uint64_t inode;
    uint64_t device;
    int64_t mtime_ns;
    uint32_t direct_align_bytes; /* offset and length granularity of O_DIRECT; 0 unknown */
    bool regular;
};

/* One name of a folder, "." and ".." left out. */
typedef int (*cn_os_name_fn)(void *context, const char *name);

struct cn_os; /* first member of each implementation's state */

/* A ring: reads that the kernel does meanwhile. One thread at a time uses it. */
struct cn_os_ring;

struct cn_os_ring_options {
    uint32_t depth; /* reads under way at most, 1..256 */
    const int *fds; /* reads name them by index; they stay open as long as the ring */
    uint32_t fd_count;
};

struct cn_os_ring_read {
    uint32_t tag; /* the caller's, < depth, of one read under way at a time */
    uint32_t file_index;
    uint64_t offset_bytes;
    uint32_t size_bytes;
    bool patient; /* on a thread of the kernel that may block: what answered -EAGAIN goes there */
    void *data;
};

struct cn_os_ring_done {
    uint32_t tag;
    int64_t result; /* as of file_pread */
};

struct cn_os_ops {
    /* memory: reserve gives address space that nobody may touch; size and addresses are multiples
     * of 64 KiB, reservations aligned to 2 MiB. Commit makes it readable, writable and zero (huge
     * asks for huge pages: only for whole, aligned 2 MiB). Decommit gives the memory back at once.
     * Populate makes committed memory resident now, as far as there is some; contents stay. */
    int (*memory_reserve)(struct cn_os *os, size_t size_bytes, void **out_base);
    void (*memory_release)(struct cn_os *os, void *base, size_t size_bytes);
    int (*memory_commit)(struct cn_os *os, void *address, size_t size_bytes, bool huge);
    void (*memory_decommit)(struct cn_os *os, void *address, size_t size_bytes);
    void (*memory_populate)(struct cn_os *os, void *address, size_t size_bytes);

    /* Moves the pages of a committed part, not their bytes, to another part of a reservation; the
     * two do not overlap. What was at to, committed or not, is gone; what moved is committed there
     * and no more at from. @return the bytes moved, from the front: all, or fewer (whole granules)
     * when the kernel refuses the rest, which stays as it is; a negative errno when it moves none.
     * Cheap where both have the same offset in 2 MiB, for then page tables move as a whole. */
    int64_t (*memory_remap)(struct cn_os *os, void *from, void *to, size_t size_bytes);

    /* files, read only; pread may return fewer bytes than asked for, 0 at the end of the file */
    int (*file_open)(struct cn_os *os, const char *path, int flags, int *out_fd);
    void (*file_close)(struct cn_os *os, int fd);
    int (*file_stat)(struct cn_os *os, int fd, struct cn_os_file_stat *out_stat);
    int64_t (*file_pread)(struct cn_os *os, int fd, void *data, size_t size_bytes, uint64_t offset);
    void (*file_drop_cache)(struct cn_os *os, int fd, uint64_t offset, uint64_t size_bytes);

    /* Files that are made. file_create refuses a path that is there (-EEXIST), and locks what it
     * made for as long as it is open, so that others can tell a file in the making from one that
     * was abandoned; pwrite may write fewer bytes than asked for. file_remove_abandoned removes
     * unless it is locked (-EBUSY). directory_free: what an unprivileged user may still write.
     * path_resolve: absolute, without links; for paths that exist. */
    int (*file_create)(struct cn_os *os, const char *path, int *out_fd);
    int64_t (*file_pwrite)(struct cn_os *os, int fd, const void *data, size_t size_bytes,
                           uint64_t offset);
    int (*file_sync)(struct cn_os *os, int fd);
    int (*file_rename)(struct cn_os *os, const char *from, const char *to);
    int (*file_remove)(struct cn_os *os, const char *path);
    int (*file_remove_abandoned)(struct cn_os *os, const char *path);
    int (*directory_sync)(struct cn_os *os, const char *path);
    int (*directory_free)(struct cn_os *os, const char *path, uint64_t *out_bytes);
    int (*path_resolve)(struct cn_os *os, const char *path, char *out, size_t out_bytes);

    /* rings. ring_open's errors: -ENOSYS, -EPERM, -EACCES where the kernel or a filter has none,
     * -ENOMEM, -EMFILE; anything else means as much: do without.
     * ring_register pins a region, so that reads into it need not look up its pages (they become
     * resident at once, and stay until ring_close whatever is decommitted); refused with -ENOMEM
     * where RLIMIT_MEMLOCK is small, and the ring is as good as before.
     * ring_enter hands over reads from the front and, asked to wait, returns when one read or more
     * is complete; waiting for nothing would never end. It gives the number of reads that the
     * kernel took, the others are forgotten; or, when it took none, an errno that says why, -EINTR
     * for a wait that a signal ended.
     * ring_reap gives what is complete, without a system call.
     * ring_cancel asks for an early end of reads under way; each still completes, in its own time.
     * ring_close: no read may be under way. */
    int (*ring_open)(struct cn_os *os, const struct cn_os_ring_options *options,
                     struct cn_os_ring **out_ring);
    int (*ring_register)(struct cn_os *os, struct cn_os_ring *ring, void *base, size_t size_bytes);
    int (*ring_enter)(struct cn_os *os, struct cn_os_ring *ring,
                      const struct cn_os_ring_read *reads, uint32_t read_count, bool wait);
    uint32_t (*ring_reap)(struct cn_os *os, struct cn_os_ring *ring, struct cn_os_ring_done *out,
                          uint32_t out_max);
    void (*ring_cancel)(struct cn_os *os, struct cn_os_ring *ring, const uint32_t *tags,
                        uint32_t tag_count);
    void (*ring_close)(struct cn_os *os, struct cn_os_ring *ring);

    /* calls visit with each name in a folder, in no order, and ends early when it says non-zero;
     * the result is 0 then as well */
    int (*directory_each)(struct cn_os *os, const char *path, cn_os_name_fn visit, void *context);

    /* monotonic clock */
    uint64_t (*clock_ns)(struct cn_os *os);
    void (*sleep_ns)(struct cn_os *os, uint64_t duration_ns);
};

struct cn_os {
    const struct cn_os_ops *ops;
};

/* This machine; a static, never freed. */
struct cn_os *cn_os_linux(void);

#endif
