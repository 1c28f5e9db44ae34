/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are made are real ones, below a folder of the test's own: here they only can be
 * refused, cut short, or told that the disk is full. */
#include <errno.h>

#include "os/fake/fake_internal.h"
#include "os/linux/linux.h"

/* Counts a call of that kind; 0, or the negative errno that it is to fail with. */
static int counted(struct cn_os *os, enum cn_fake_call call)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    int error = fake_call(fake, call);
    pthread_mutex_unlock(&fake->lock);
    return -error;
}

int fake_file_create(struct cn_os *os, const char *path, int *out_fd)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    int real_fd, rc = counted(os, CN_FAKE_CREATE);
    if (rc == 0)
        rc = cn_linux_file_create(NULL, path, &real_fd);
    if (rc != 0)
        return rc;
    pthread_mutex_lock(&fake->lock);
    rc = fake_open_real(fake, path, real_fd, out_fd);
    pthread_mutex_unlock(&fake->lock);
    if (rc != 0)
        cn_linux_file_close(NULL, real_fd);
    return rc;
}

int64_t fake_file_pwrite(struct cn_os *os, int fd, const void *data, size_t size_bytes,
                         uint64_t offset)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    int error = fake_call(fake, CN_FAKE_WRITE);
    int real_fd = fake_real_fd(fake, fd);
    uint64_t most = fake->write_most_bytes;
    pthread_mutex_unlock(&fake->lock);
    if (error != 0)
        return -error;
    if (real_fd < 0)
        return -EBADF;
    if (most != 0 && size_bytes > most)
        size_bytes = (size_t)most;
    return cn_linux_file_pwrite(NULL, real_fd, data, size_bytes, offset);
}

int fake_file_sync(struct cn_os *os, int fd)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    int rc = counted(os, CN_FAKE_SYNC);
    pthread_mutex_lock(&fake->lock);
    int real_fd = fake_real_fd(fake, fd);
    pthread_mutex_unlock(&fake->lock);
    if (rc != 0)
        return rc;
    return real_fd >= 0 ? cn_linux_file_sync(NULL, real_fd) : -EBADF;
}

int fake_file_rename(struct cn_os *os, const char *from, const char *to)
{
    int rc = counted(os, CN_FAKE_RENAME);
    return rc != 0 ? rc : cn_linux_file_rename(NULL, from, to);
}

int fake_file_remove(struct cn_os *os, const char *path)
{
    int rc = counted(os, CN_FAKE_REMOVE);
    return rc != 0 ? rc : cn_linux_file_remove(NULL, path);
}

int fake_file_remove_abandoned(struct cn_os *os, const char *path)
{
    int rc = counted(os, CN_FAKE_REMOVE);
    return rc != 0 ? rc : cn_linux_file_remove_abandoned(NULL, path);
}

int fake_directory_sync(struct cn_os *os, const char *path)
{
    int rc = counted(os, CN_FAKE_SYNC);
    return rc != 0 ? rc : cn_linux_directory_sync(NULL, path);
}

int fake_directory_free(struct cn_os *os, const char *path, uint64_t *out_bytes)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    uint64_t free_bytes = fake->free_bytes;
    pthread_mutex_unlock(&fake->lock);
    int rc = cn_linux_directory_free(NULL, path, out_bytes);
    if (rc == 0 && *out_bytes > free_bytes)
        *out_bytes = free_bytes;
    return rc;
}

/* Added files lie where their path says. */
int fake_path_resolve(struct cn_os *os, const char *path, char *out, size_t out_bytes)
{
    (void)os;
    return cn_linux_path_resolve(NULL, path, out, out_bytes);
}

void cn_fake_write_set(struct cn_fake *fake, uint64_t most_bytes, uint64_t free_bytes)
{
    pthread_mutex_lock(&fake->lock);
    fake->write_most_bytes = most_bytes;
    fake->free_bytes = free_bytes;
    pthread_mutex_unlock(&fake->lock);
}
