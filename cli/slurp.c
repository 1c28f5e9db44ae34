/* SPDX-License-Identifier: Apache-2.0 */
#include "slurp.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define FIRST_READ_BYTES (UINT64_C(1) << 16)
#define READ_BYTES_MAX   (UINT64_C(1) << 30)

struct slurp {
    cenote_pool *pool;
    char *bytes;
    uint64_t count, capacity;
};

/* Is it worth to read on? A device may never end. */
static cenote_status check(const struct slurp *slurp, cenote_error *err)
{
    if (slurp->count == READ_BYTES_MAX)
        return cenote_error_set(err, CENOTE_E_BUDGET, "%" PRIu64 " bytes or more", READ_BYTES_MAX);
    if (slurp->count == FIRST_READ_BYTES && !cenote_trace_is(slurp->bytes, slurp->count) &&
        memchr(slurp->bytes, '\n', slurp->count) == NULL)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "no line ends in its first %" PRIu64 " bytes", FIRST_READ_BYTES);
    return CENOTE_OK;
}

static cenote_status grow(struct slurp *slurp, cenote_error *err)
{
    void *larger;
    uint64_t capacity = slurp->capacity > 0 ? 2 * slurp->capacity : FIRST_READ_BYTES;
    cenote_status status = check(slurp, err);
    if (status == CENOTE_OK)
        status = cenote_pool_alloc(slurp->pool, capacity, &larger, err);
    if (status != CENOTE_OK)
        return status;
    if (slurp->count > 0)
        memcpy(larger, slurp->bytes, slurp->count);
    cenote_pool_free(slurp->pool, slurp->bytes);
    slurp->bytes = larger;
    slurp->capacity = capacity;
    return CENOTE_OK;
}

static cenote_status read_to_end(struct slurp *slurp, int fd, cenote_error *err)
{
    for (;;) {
        if (slurp->count == slurp->capacity && grow(slurp, err) != CENOTE_OK)
            return err->status;
        ssize_t got = read(fd, slurp->bytes + slurp->count, slurp->capacity - slurp->count);
        if (got == 0)
            return CENOTE_OK;
        if (got < 0 && errno != EINTR)
            return cenote_error_set(err, CENOTE_E_IO, "%s", strerror(errno));
        slurp->count += got > 0 ? (uint64_t)got : 0;
    }
}

cenote_status cli_slurp(cenote_pool *pool, const char *path, char **out_bytes, uint64_t *out_count,
                        cenote_error *err)
{
    cenote_error detail;
    struct slurp slurp = {.pool = pool};
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cenote_error_set(err, errno == ENOENT ? CENOTE_E_NOTFOUND : CENOTE_E_IO, "%s: %s",
                                path, strerror(errno));
    cenote_status status = read_to_end(&slurp, fd, &detail);
    if (!standard)
        close(fd);
    if (status != CENOTE_OK) {
        cenote_pool_free(pool, slurp.bytes);
        return cenote_error_set(err, status, "%s: %s", path, detail.message);
    }
    *out_bytes = slurp.bytes;
    *out_count = slurp.count;
    return CENOTE_OK;
}
