/* SPDX-License-Identifier: Apache-2.0 */
/* Files with faults. A descriptor stands for a real file or for added bytes; over both lies the
 * same film: where the file ends at the latest, how much later its mtime is, and what the plan says
 * about this read. O_DIRECT on added bytes is as strict as a disk: offset, length and address must
 * be multiples of CN_FAKE_DIRECT_BYTES. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "os/fake/fake_internal.h"
#include "os/linux/linux.h"

#define FIRST_INODE 1000u

/* ---- files by path; locked ---- */

static struct fake_file *file_find(struct cn_fake *fake, const char *path)
{
    for (unsigned i = 0; i < fake->file_count; i++)
        if (!fake->files[i]->replaced && strcmp(fake->files[i]->path, path) == 0)
            return fake->files[i];
    return NULL;
}

/* A new entry; takes @p data, also when it fails. */
static struct fake_file *file_new(struct cn_fake *fake, const char *path, unsigned char *data,
                                  uint64_t size_bytes)
{
    struct fake_file *file = calloc(1, sizeof *file);
    char *path_copy = strdup(path);
    if (file == NULL || path_copy == NULL || fake->file_count == FILES_MAX) {
        free(path_copy);
        free(file);
        free(data);
        return NULL;
    }
    *file = (struct fake_file){
        .path = path_copy,
        .data = data,
        .size_bytes = size_bytes,
        .inode = FIRST_INODE + fake->file_count,
        .cut_bytes = UINT64_MAX,
    };
    fake->files[fake->file_count++] = file;
    return file;
}

static struct fake_file *file_find_or_new(struct cn_fake *fake, const char *path)
{
    struct fake_file *file = file_find(fake, path);
    return file != NULL ? file : file_new(fake, path, NULL, 0);
}

int cn_fake_file_add(struct cn_fake *fake, const char *path, const void *data, size_t size_bytes)
{
    unsigned char *copy = malloc(size_bytes > 0 ? size_bytes : 1);
    if (copy == NULL)
        return -ENOMEM;
    if (size_bytes > 0)
        memcpy(copy, data, size_bytes);
    pthread_mutex_lock(&fake->lock);
    struct fake_file *old = file_find(fake, path);
    struct fake_file *file = file_new(fake, path, copy, size_bytes);
    if (old != NULL && file != NULL)
        old->replaced = true;
    pthread_mutex_unlock(&fake->lock);
    return file != NULL ? 0 : -ENOMEM;
}

void cn_fake_file_truncate(struct cn_fake *fake, const char *path, uint64_t size_bytes)
{
    pthread_mutex_lock(&fake->lock);
    struct fake_file *file = file_find_or_new(fake, path);
    if (file != NULL) {
        file->cut_bytes = size_bytes;
        file->mtime_later_ns++;
    }
    pthread_mutex_unlock(&fake->lock);
}

/* ---- descriptors ---- */

/* The open file of @p fd, NULL (and misuse) when there is none. Locked. */
static struct fake_open *open_of(struct cn_fake *fake, int fd)
{
    unsigned index = (unsigned)(fd - CN_FAKE_FD_FIRST);
    if (fd < CN_FAKE_FD_FIRST || index >= OPENS_MAX || !fake->opens[index].used) {
        fake->books.misuse_count++;
        return NULL;
    }
    return &fake->opens[index];
}

/* A place among the open ones; OPENS_MAX when all are taken. Locked. */
static unsigned free_place(const struct cn_fake *fake)
{
    unsigned index = 0;
    while (index < OPENS_MAX && fake->opens[index].used)
        index++;
    return index;
}

static int place_take(struct cn_fake *fake, unsigned index, struct fake_open open)
{
    fake->opens[index] = open;
    fake->books.open_files++;
    return CN_FAKE_FD_FIRST + (int)index;
}

int fake_open_real(struct cn_fake *fake, const char *path, int real_fd, int *out_fd)
{
    unsigned index = free_place(fake);
    if (index == OPENS_MAX)
        return -EMFILE;
    struct fake_file *file = file_find_or_new(fake, path);
    if (file == NULL)
        return -ENOMEM;
    *out_fd = place_take(fake, index, (struct fake_open){true, false, file, real_fd});
    return 0;
}

int fake_real_fd(struct cn_fake *fake, int fd)
{
    const struct fake_open *open = open_of(fake, fd);
    return open != NULL ? open->real_fd : -1;
}

static int open_locked(struct cn_fake *fake, const char *path, int flags, int *out_fd)
{
    bool direct = flags & CN_OS_OPEN_DIRECT;
    int error = fake_call(fake, CN_FAKE_OPEN);
    if (error != 0)
        return -error;
    if (direct && fake->direct == CN_FAKE_DIRECT_FAILS_OPEN)
        return -EINVAL;
    unsigned index = free_place(fake);
    if (index == OPENS_MAX)
        return -EMFILE;
    struct fake_file *file = file_find(fake, path);
    int real_fd = -1;
    if (file == NULL || file->data == NULL) {
        error = cn_linux_file_open(NULL, path, flags, &real_fd);
        if (error != 0)
            return error;
        if (file == NULL)
            file = file_new(fake, path, NULL, 0);
        if (file == NULL) {
            cn_linux_file_close(NULL, real_fd);
            return -ENOMEM;
        }
    }
    *out_fd = place_take(fake, index, (struct fake_open){true, direct, file, real_fd});
    return 0;
}

int fake_file_open(struct cn_os *os, const char *path, int flags, int *out_fd)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    int result = open_locked(fake, path, flags, out_fd);
    pthread_mutex_unlock(&fake->lock);
    return result;
}

void fake_file_close(struct cn_os *os, int fd)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    struct fake_open *open = open_of(fake, fd);
    if (open != NULL) {
        if (open->real_fd >= 0)
            cn_linux_file_close(NULL, open->real_fd);
        *open = (struct fake_open){0};
        fake->books.open_files--;
    }
    pthread_mutex_unlock(&fake->lock);
}

static int stat_locked(struct cn_fake *fake, int fd, struct cn_os_file_stat *out_stat)
{
    int error = fake_call(fake, CN_FAKE_STAT);
    if (error != 0)
        return -error;
    struct fake_open *open = open_of(fake, fd);
    if (open == NULL)
        return -EBADF;
    struct cn_os_file_stat stat = {
        .size_bytes = open->file->size_bytes,
        .inode = open->file->inode,
        .device = 1,
        .direct_align_bytes = CN_FAKE_DIRECT_BYTES,
        .regular = true,
    };
    if (open->real_fd >= 0 && (error = cn_linux_file_stat(NULL, open->real_fd, &stat)) != 0)
        return error;
    if (stat.size_bytes > open->file->cut_bytes)
        stat.size_bytes = open->file->cut_bytes;
    stat.mtime_ns += (int64_t)open->file->mtime_later_ns;
    *out_stat = stat;
    return 0;
}

int fake_file_stat(struct cn_os *os, int fd, struct cn_os_file_stat *out_stat)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    int result = stat_locked(fake, fd, out_stat);
    pthread_mutex_unlock(&fake->lock);
    return result;
}

void fake_file_drop_cache(struct cn_os *os, int fd, uint64_t offset, uint64_t size_bytes)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    struct fake_open *open = open_of(fake, fd);
    if (open != NULL) {
        fake->books.dropped_bytes += size_bytes;
        if (open->real_fd >= 0)
            cn_linux_file_drop_cache(NULL, open->real_fd, offset, size_bytes);
    }
    pthread_mutex_unlock(&fake->lock);
}

/* ---- folders ---- */

/* The name of an added file that lies in the folder itself, else NULL. */
static const char *name_in(const struct fake_file *file, const char *folder)
{
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/')
        length--;
    if (file->replaced || file->data == NULL || strncmp(file->path, folder, length) != 0 ||
        file->path[length] != '/')
        return NULL;
    const char *name = file->path + length + 1;
    return strchr(name, '/') == NULL ? name : NULL;
}

/* Added files come first, then what a real folder of that name holds. */
int fake_directory_each(struct cn_os *os, const char *path, cn_os_name_fn visit, void *context)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    bool added = false;
    pthread_mutex_lock(&fake->lock);
    int error = fake_call(fake, CN_FAKE_LIST);
    unsigned file_count = fake->file_count;
    pthread_mutex_unlock(&fake->lock);
    if (error != 0)
        return -error;
    /* Files are never removed, and the lock cannot be held while a stranger's code runs. */
    for (unsigned i = 0; i < file_count; i++) {
        pthread_mutex_lock(&fake->lock);
        const char *name = name_in(fake->files[i], path);
        pthread_mutex_unlock(&fake->lock);
        if (name == NULL)
            continue;
        added = true;
        if (visit(context, name) != 0)
            return 0;
    }
    error = cn_linux_directory_each(NULL, path, visit, context);
    return added && error == -ENOENT ? 0 : error;
}

/* ---- reading ---- */

/* Applies every plan for read number @p number. Locked. */
static void apply_faults(struct cn_fake *fake, struct fake_file *file, uint64_t number,
                         struct fake_read *read)
{
    for (unsigned i = 0; i < fake->fault_count; i++) {
        const struct cn_fake_fault *fault = &fake->faults[i];
        if (number < fault->at_read || number - fault->at_read >= fault->count)
            continue;
        switch (fault->kind) {
        case CN_FAULT_SHORT:
            if (read->short_bytes > fault->argument)
                read->short_bytes = (size_t)fault->argument;
            break;
        case CN_FAULT_ERROR:
            read->error = -(int)fault->argument;
            break;
        case CN_FAULT_DELAY:
            read->delay_ns += fault->argument;
            break;
        case CN_FAULT_TRUNCATE:
            file->cut_bytes = fault->argument;
            break;
        case CN_FAULT_CHANGE:
            file->mtime_later_ns = fault->argument;
            break;
        }
    }
}

struct fake_read fake_read_plan(struct cn_fake *fake, int fd, const void *data, size_t size_bytes,
                                uint64_t offset)
{
    struct fake_read read = {.size_bytes = size_bytes, .short_bytes = size_bytes};
    read.error = -fake_call(fake, CN_FAKE_READ);
    struct fake_open *open = open_of(fake, fd);
    if (open == NULL)
        read.error = -EBADF;
    if (read.error == 0)
        apply_faults(fake, open->file, fake->orders[CN_FAKE_READ].calls, &read);
    if (read.error != 0)
        return read;
    uint64_t residue = offset | size_bytes | (uintptr_t)data;
    bool strict = open->direct && open->real_fd < 0 && residue % CN_FAKE_DIRECT_BYTES != 0;
    if (strict || (open->direct && fake->direct == CN_FAKE_DIRECT_FAILS_READ)) {
        read.error = -EINVAL;
        return read;
    }
    read.file = open->file;
    read.real_fd = open->real_fd;
    read.end_bytes = open->file->cut_bytes;
    return read;
}

/* All that was asked for is read, for O_DIRECT wants whole blocks; what the plan withholds is then
 * spoilt, so that a caller who takes a short read for a whole one has wrong bytes. */
static int64_t read_planned(const struct fake_read *read, void *data, uint64_t offset)
{
    uint64_t end = read->end_bytes;
    if (read->real_fd < 0 && end > read->file->size_bytes)
        end = read->file->size_bytes;
    if (offset >= end)
        return 0;
    int64_t got;
    if (read->real_fd >= 0) {
        got = cn_linux_file_pread(NULL, read->real_fd, data, read->size_bytes, offset);
    } else {
        uint64_t left = end - offset;
        got = (int64_t)(read->size_bytes < left ? read->size_bytes : left);
        memcpy(data, read->file->data + offset, (size_t)got);
    }
    uint64_t given = end - offset < read->short_bytes ? end - offset : read->short_bytes;
    if (got <= 0 || (uint64_t)got <= given)
        return got;
    memset((char *)data + given, FAKE_SPOILT, (size_t)got - given);
    return (int64_t)given;
}

int64_t fake_read_do(struct cn_fake *fake, const struct fake_read *read, void *data,
                     uint64_t offset)
{
    if (read->error != 0)
        return read->error;
    int64_t got = read_planned(read, data, offset);
    if (got > 0) {
        pthread_mutex_lock(&fake->lock);
        fake->books.read_bytes += (uint64_t)got;
        pthread_mutex_unlock(&fake->lock);
    }
    return got;
}

int64_t fake_file_pread(struct cn_os *os, int fd, void *data, size_t size_bytes, uint64_t offset)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    struct fake_read read = fake_read_plan(fake, fd, data, size_bytes, offset);
    uint64_t end_ns = fake_disk_read_ns(fake, read.error == 0 ? size_bytes : 0, read.delay_ns);
    pthread_mutex_unlock(&fake->lock);
    fake_clock_reach(fake, end_ns);
    return fake_read_do(fake, &read, data, offset);
}
