/* SPDX-License-Identifier: Apache-2.0 */
/* Read-only files, as thin as they can be: one system call each, errors as negative errno. EINTR
 * and short reads go to the caller, who knows how to go on. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "os/linux/linux.h"

#define NS_PER_S 1000000000

int cn_linux_file_open(struct cn_os *os, const char *path, int flags, int *out_fd)
{
    (void)os;
    /* O_NONBLOCK so that a FIFO with a checkpoint's name cannot hang the process; it means nothing
     * for regular files. */
    int open_flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    if (flags & CN_OS_OPEN_DIRECT)
        open_flags |= O_DIRECT;
    int fd;
    do
        fd = open(path, open_flags);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return -errno;
    /* Callers know what they want: read-ahead would bring bytes that nobody counts, and pages that
     * are still on their way when the cache is dropped stay in it. */
    if (!(flags & CN_OS_OPEN_DIRECT))
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    *out_fd = fd;
    return 0;
}

void cn_linux_file_close(struct cn_os *os, int fd)
{
    (void)os;
    close(fd);
}

/* What O_DIRECT needs of offsets, lengths and addresses; 0 where the kernel (before 6.1) or the
 * file system does not say. */
static uint32_t direct_align_bytes(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx more;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &more) != 0)
        return 0;
    if (!(more.stx_mask & STATX_DIOALIGN))
        return 0;
    uint32_t offset = more.stx_dio_offset_align;
    uint32_t memory = more.stx_dio_mem_align;
    return offset > memory ? offset : memory;
#else
    (void)fd;
    return 0;
#endif
}

int cn_linux_file_stat(struct cn_os *os, int fd, struct cn_os_file_stat *out_stat)
{
    (void)os;
    struct stat st;
    if (fstat(fd, &st) != 0)
        return -errno;
    *out_stat = (struct cn_os_file_stat){
        .size_bytes = st.st_size < 0 ? 0 : (uint64_t)st.st_size,
        .inode = (uint64_t)st.st_ino,
        .device = (uint64_t)st.st_dev,
        .mtime_ns = (int64_t)st.st_mtim.tv_sec * NS_PER_S + st.st_mtim.tv_nsec,
        .direct_align_bytes = direct_align_bytes(fd),
        .regular = S_ISREG(st.st_mode),
    };
    return 0;
}

int64_t cn_linux_file_pread(struct cn_os *os, int fd, void *data, size_t size_bytes,
                            uint64_t offset)
{
    (void)os;
    if (offset > INT64_MAX)
        return -EINVAL;
    ssize_t got = pread(fd, data, size_bytes, (off_t)offset);
    return got < 0 ? -errno : (int64_t)got;
}

void cn_linux_file_drop_cache(struct cn_os *os, int fd, uint64_t offset, uint64_t size_bytes)
{
    (void)os;
    /* Advice: a file system may ignore it, and nothing depends on it but other programs' cache. */
    (void)posix_fadvise(fd, (off_t)offset, (off_t)size_bytes, POSIX_FADV_DONTNEED);
}

int cn_linux_directory_each(struct cn_os *os, const char *path, cn_os_name_fn visit, void *context)
{
    (void)os;
    DIR *folder = opendir(path);
    if (folder == NULL)
        return -errno;
    int rc = 0;
    for (;;) {
        errno = 0; /* NULL means the end or an error; only errno tells which */
        struct dirent *entry = readdir(folder);
        if (entry == NULL) {
            rc = -errno;
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (visit(context, entry->d_name) != 0)
            break;
    }
    closedir(folder);
    return rc;
}
