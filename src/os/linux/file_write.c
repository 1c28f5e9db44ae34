/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are made: as thin as reading them, errors as negative errno. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/checked.h"
#include "os/linux/linux.h"

int cn_linux_file_create(struct cn_os *os, const char *path, int *out_fd)
{
    (void)os;
    int fd;
    do
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return -errno;
    /* The lock says that somebody is at work; file systems without locks go without. */
    (void)flock(fd, LOCK_EX | LOCK_NB);
    *out_fd = fd;
    return 0;
}

int64_t cn_linux_file_pwrite(struct cn_os *os, int fd, const void *data, size_t size_bytes,
                             uint64_t offset)
{
    (void)os;
    if (offset > INT64_MAX)
        return -EINVAL;
    ssize_t done = pwrite(fd, data, size_bytes, (off_t)offset);
    return done < 0 ? -errno : (int64_t)done;
}

int cn_linux_file_sync(struct cn_os *os, int fd)
{
    (void)os;
    return fsync(fd) != 0 ? -errno : 0;
}

int cn_linux_file_rename(struct cn_os *os, const char *from, const char *to)
{
    (void)os;
    return rename(from, to) != 0 ? -errno : 0;
}

int cn_linux_file_remove(struct cn_os *os, const char *path)
{
    (void)os;
    return unlink(path) != 0 ? -errno : 0;
}

int cn_linux_file_remove_abandoned(struct cn_os *os, const char *path)
{
    (void)os;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -errno;
    int rc = 0;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        rc = -EBUSY;
    else if (unlink(path) != 0)
        rc = -errno;
    close(fd);
    return rc;
}

int cn_linux_directory_sync(struct cn_os *os, const char *path)
{
    (void)os;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    /* Some file systems have nothing to sync there, and say so. */
    int rc = fsync(fd) != 0 && errno != EINVAL ? -errno : 0;
    close(fd);
    return rc;
}

int cn_linux_directory_free(struct cn_os *os, const char *path, uint64_t *out_bytes)
{
    (void)os;
    struct statvfs fs;
    if (statvfs(path, &fs) != 0)
        return -errno;
    uint64_t bytes;
    *out_bytes = cn_checked_mul(fs.f_bavail, fs.f_frsize, &bytes) ? bytes : UINT64_MAX;
    return 0;
}

int cn_linux_path_resolve(struct cn_os *os, const char *path, char *out, size_t out_bytes)
{
    (void)os;
    char resolved[PATH_MAX];
    if (realpath(path, resolved) == NULL)
        return -errno;
    size_t length = strlen(resolved);
    if (length >= out_bytes)
        return -ENAMETOOLONG;
    memcpy(out, resolved, length + 1);
    return 0;
}
