/* SPDX-License-Identifier: Apache-2.0 */
/* NumPy format 1.0: magic, a header of 128 bytes that says dtype and shape, then the rows. The
 * number of rows is known at the end only, so the header is written twice.
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
 *
 * The file has no name until it is whole: it is opened with O_TMPFILE and linked into place, so
 * that a process that is killed leaves nothing. Where the file system cannot do that (some network
 * file systems) it is a temporary name, renamed at the end and removed on every orderly way out. */
#include "npy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_BYTES 128u

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FLOAT_TYPE "<f4"
#else
#define FLOAT_TYPE ">f4"
#endif

struct cli_npy {
    const char *path;
    int fd;
    bool named; /* temporary[] is a file */
    uint64_t row_count;
    uint32_t width;
    char temporary[PATH_MAX];
};

static cenote_status io_error(const struct cli_npy *npy, const char *what, cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_IO, "%s: %s: %s", npy->path, what, strerror(errno));
}

static cenote_status write_all(struct cli_npy *npy, const void *data, size_t size_bytes,
                               off_t offset, cenote_error *err)
{
    const char *from = data;
    while (size_bytes > 0) {
        ssize_t written = pwrite(npy->fd, from, size_bytes, offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return io_error(npy, "cannot write", err);
        from += written;
        offset += written;
        size_bytes -= (size_t)written;
    }
    return CENOTE_OK;
}

static cenote_status write_header(struct cli_npy *npy, cenote_error *err)
{
    static const unsigned char magic[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, HEADER_BYTES - 10,
                                            0};
    char header[HEADER_BYTES];
    memset(header, ' ', sizeof header);
    memcpy(header, magic, sizeof magic);
    int size =
        snprintf(header + sizeof magic, sizeof header - sizeof magic,
                 "{'descr': '" FLOAT_TYPE "', 'fortran_order': False, 'shape': (%llu, %u), }",
                 (unsigned long long)npy->row_count, npy->width);
    header[sizeof magic + (size_t)size] = ' '; /* over the end of the string */
    header[sizeof header - 1] = '\n';
    return write_all(npy, header, HEADER_BYTES, 0, err);
}

/* The directory part of @p path, "." without one. */
static bool directory_of(const char *path, char out[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    size_t size = slash == NULL ? 0 : (size_t)(slash - path) + 1;
    if (size + 2 > PATH_MAX)
        return false;
    memcpy(out, path, size);
    strcpy(out + size, ".");
    return true;
}

static bool temporary_name(struct cli_npy *npy)
{
    return snprintf(npy->temporary, sizeof npy->temporary, "%s.%ld.tmp", npy->path,
                    (long)getpid()) < (int)sizeof npy->temporary;
}

static cenote_status file_open(struct cli_npy *npy, cenote_error *err)
{
    if (npy->path[0] == '\0')
        return cenote_error_set(err, CENOTE_E_INVAL, "the path of the logits is empty");
    struct stat info;
    if (stat(npy->path, &info) == 0 && !S_ISREG(info.st_mode))
        return cenote_error_set(err, CENOTE_E_IO, "%s: not a regular file", npy->path);
    char directory[PATH_MAX];
    if (!directory_of(npy->path, directory) || !temporary_name(npy))
        return cenote_error_set(err, CENOTE_E_IO, "path of %zu bytes, at most %d",
                                strlen(npy->path), PATH_MAX - 32);
    npy->fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    if (npy->fd >= 0)
        return CENOTE_OK;
    npy->fd = open(npy->temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0666);
    if (npy->fd < 0)
        return io_error(npy, "cannot create", err);
    npy->named = true;
    return CENOTE_OK;
}

cenote_status cli_npy_create(const char *path, struct cli_npy **out_npy, cenote_error *err)
{
    struct cli_npy *npy = calloc(1, sizeof *npy);
    if (npy == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "%s: %zu bytes", path, sizeof *npy);
    npy->path = path;
    npy->fd = -1;
    cenote_status status = file_open(npy, err);
    if (status == CENOTE_OK)
        status = write_header(npy, err);
    if (status != CENOTE_OK) {
        cli_npy_destroy(npy);
        return status;
    }
    *out_npy = npy;
    return CENOTE_OK;
}

cenote_status cli_npy_append(struct cli_npy *npy, const float *row, uint32_t width,
                             cenote_error *err)
{
    if (npy->row_count > 0 && width != npy->width)
        return cenote_error_set(err, CENOTE_E_INVAL, "%s: a row of %u after rows of %u", npy->path,
                                width, npy->width);
    uint64_t row_bytes = (uint64_t)width * sizeof *row;
    off_t offset = (off_t)(HEADER_BYTES + npy->row_count * row_bytes);
    cenote_status status = write_all(npy, row, row_bytes, offset, err);
    if (status == CENOTE_OK) {
        npy->width = width;
        npy->row_count++;
    }
    return status;
}

/* Gives the nameless file its name. A link does not replace, so an old file needs a rename. */
static bool link_into_place(struct cli_npy *npy)
{
    if (!npy->named) {
        char self[64];
        snprintf(self, sizeof self, "/proc/self/fd/%d", npy->fd);
        if (linkat(AT_FDCWD, self, AT_FDCWD, npy->path, AT_SYMLINK_FOLLOW) == 0)
            return true;
        if (errno != EEXIST ||
            linkat(AT_FDCWD, self, AT_FDCWD, npy->temporary, AT_SYMLINK_FOLLOW) != 0)
            return false;
        npy->named = true;
    }
    if (rename(npy->temporary, npy->path) != 0)
        return false;
    npy->named = false;
    return true;
}

cenote_status cli_npy_commit(struct cli_npy *npy, cenote_error *err)
{
    cenote_status status = write_header(npy, err);
    if (status == CENOTE_OK && !link_into_place(npy))
        status = io_error(npy, "cannot put the file in place", err);
    return status;
}

void cli_npy_destroy(struct cli_npy *npy)
{
    if (npy == NULL)
        return;
    if (npy->fd >= 0)
        close(npy->fd);
    if (npy->named)
        unlink(npy->temporary);
    free(npy);
}
