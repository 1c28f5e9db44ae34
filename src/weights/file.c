/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a span of a file so that nothing stays in the page cache and every fault has an answer.
 *
 *        offset, any residue                     The slot keeps the residue: blocks land where the
 *            v                                   device wants them, and the consumer starts at
 *   |--------[=====span=====]-----|              slot + residue. Copying a panel to realign it
 *   ^ slot, begin                 ^ end          would cost as much as reading it from memory.
 *   `- multiples of align_bytes --'
 *
 * O_DIRECT is used where a probe at open finds that it returns the same first and last block as a
 * buffered read: some file systems accept the flag and fail the read, and nobody should learn that
 * in the middle of a model. Elsewhere the page cache is used and what a read left there is dropped.
 *
 * Faults of one read, in this order: interrupted -> again (bounded); short -> goes on from the last
 * whole block; an error -> once more, then once through a buffered descriptor (a bad O_DIRECT path
 * with a good cache behind it), then CENOTE_E_IO; the file's end too early -> CENOTE_E_CORRUPT.
 * After every read the file's size, times and identity are compared with those at open, so bytes of
 * a file that was rewritten meanwhile are never handed out: CENOTE_E_CHANGED. */
#include "weights/file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "weights/message.h"

enum {
    PAGE_BYTES = 4096,
    DIRECT_ALIGN_DEFAULT = 4096,
    INTERRUPTED_MAX = 1000,    /* per read; a signal storm ends some day, or the read fails */
    INTERRUPTED_BUSY_MAX = 16, /* tries before it sleeps between them */
    INTERRUPTED_SLEEP_NS = 1000000,
};

static void count(_Atomic uint64_t *counter, uint64_t amount)
{
    atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

/* ---- identity ---- */

static bool stat_same(const struct cn_os_file_stat *a, const struct cn_os_file_stat *b)
{
    bool same_file = a->inode == b->inode && a->device == b->device;
    return same_file && a->size_bytes == b->size_bytes && a->mtime_ns == b->mtime_ns;
}

static cenote_status verify_span(const struct cn_file *file, int fd,
                                 const struct cn_file_span *span, cenote_error *err)
{
    struct cn_os_file_stat now;
    const char *tensor = span != NULL ? span->tensor : NULL;
    int rc = file->os->ops->file_stat(file->os, fd, &now);
    if (rc < 0)
        return cn_weights_error_errno(err, file->path, tensor, "stat", -rc);
    if (stat_same(&now, &file->opened))
        return CENOTE_OK;
    char where[64] = "";
    if (span != NULL)
        snprintf(where, sizeof where, ", seen at offset %" PRIu64, span->offset_bytes);
    return cn_weights_error(err, CENOTE_E_CHANGED, file->path, tensor,
                            "the file changed while open: %" PRIu64 " bytes then, %" PRIu64
                            " now, modified at %" PRId64 " ns then, %" PRId64 " now%s",
                            file->opened.size_bytes, now.size_bytes, file->opened.mtime_ns,
                            now.mtime_ns, where);
}

cenote_status cn_file_verify_unchanged(const struct cn_file *file, cenote_error *err)
{
    return verify_span(file, file->fd, NULL, err);
}

/* ---- the reading loop ---- */

enum { READ_DONE = 0, READ_AT_END = 1, READ_MORE = 2 }; /* or a negative errno */

struct reading {
    struct cn_os *os;
    struct cn_file_counters *counters;
    int fd;
    uint32_t align_bytes;
    uint64_t begin; /* multiple of align_bytes */
    uint64_t need;  /* done when so many bytes from begin are there */
    uint64_t span;  /* need, rounded up to align_bytes */
    uint64_t filled;
    unsigned interrupted;
    char *slot;
};

/* One read that was not interrupted. The first tries come at once; then it sleeps between them, so
 * that whoever sends the signals gets the processor. */
static int64_t read_some(struct reading *r)
{
    for (;;) {
        int64_t n = r->os->ops->file_pread(r->os, r->fd, r->slot + r->filled, r->span - r->filled,
                                           r->begin + r->filled);
        if (n != -EINTR && n != -EAGAIN)
            return n;
        if (++r->interrupted > INTERRUPTED_MAX)
            return n;
        if (r->interrupted > INTERRUPTED_BUSY_MAX)
            r->os->ops->sleep_ns(r->os, INTERRUPTED_SLEEP_NS);
    }
}

/* Takes what one read brought; r->filled stays a multiple of the alignment until it is done. */
static int take_result(struct reading *r, int64_t n)
{
    if (n == -EINTR || n == -EAGAIN)
        return READ_MORE;
    if (n < 0)
        return (int)n;
    if (n == 0)
        return READ_AT_END;
    if (r->counters != NULL) {
        count(&r->counters->bytes_read, (uint64_t)n);
        count(&r->counters->read_count, 1);
    }
    uint64_t reached = r->filled + (uint64_t)n;
    if (reached < r->need) {
        if (r->counters != NULL)
            count(&r->counters->retry_count, 1);
        /* the next offset must be aligned as well: the broken block is read again */
        reached -= reached % r->align_bytes;
        if (reached == r->filled)
            return -EIO;
    }
    r->filled = reached;
    return reached < r->need ? READ_MORE : READ_DONE;
}

static int read_rest(struct reading *r)
{
    int rc = READ_MORE;
    while (rc == READ_MORE) {
        int64_t n = read_some(r);
        rc = n == -EINTR || n == -EAGAIN ? (int)n : take_result(r, n);
    }
    return rc;
}

/* ---- open ---- */

/* Compares through a small buffer on the stack: the scratch holds only one block. */
static bool probe_block(struct cn_os *os, const struct cn_file *direct, int buffered_fd,
                        uint64_t begin, void *scratch)
{
    uint64_t size = direct->opened.size_bytes - begin;
    if (size > direct->align_bytes)
        size = direct->align_bytes;
    struct reading through_direct = {.os = os,
                                     .fd = direct->fd,
                                     .align_bytes = direct->align_bytes,
                                     .begin = begin,
                                     .need = size,
                                     .span = direct->align_bytes,
                                     .slot = scratch};
    if (read_rest(&through_direct) != READ_DONE)
        return false;
    char piece[512];
    for (uint64_t at = 0; at < size; at += sizeof piece) {
        uint64_t part = size - at < sizeof piece ? size - at : sizeof piece;
        struct reading through_cache = {.os = os,
                                        .fd = buffered_fd,
                                        .align_bytes = 1,
                                        .begin = begin + at,
                                        .need = part,
                                        .span = part,
                                        .slot = piece};
        if (read_rest(&through_cache) != READ_DONE)
            return false;
        if (memcmp(piece, (const char *)scratch + at, part) != 0)
            return false;
    }
    return true;
}

/* The first and the last block: the second shows that a read across the file's end works. */
static bool probe_direct(struct cn_os *os, const struct cn_file *direct, int buffered_fd,
                         void *scratch)
{
    uint64_t size = direct->opened.size_bytes;
    if (size == 0)
        return true;
    uint64_t last = (size - 1) - (size - 1) % direct->align_bytes;
    return probe_block(os, direct, buffered_fd, 0, scratch) &&
           (last == 0 || probe_block(os, direct, buffered_fd, last, scratch));
}

/* Turns @p file, open and buffered, into a direct one; false leaves it as it was. */
static bool go_direct(struct cn_file *file, void *scratch)
{
    struct cn_os *os = file->os;
    struct cn_file direct = *file;
    uint32_t align = file->opened.direct_align_bytes;
    direct.align_bytes = align != 0 ? align : DIRECT_ALIGN_DEFAULT;
    bool power_of_two = (direct.align_bytes & (direct.align_bytes - 1)) == 0;
    if (!power_of_two || direct.align_bytes > CN_FILE_ALIGN_MAX)
        return false;
    if (os->ops->file_open(os, file->path, CN_OS_OPEN_DIRECT, &direct.fd) < 0)
        return false;
    direct.direct = true;
    bool works = os->ops->file_stat(os, direct.fd, &direct.opened) == 0 &&
                 stat_same(&direct.opened, &file->opened) &&
                 probe_direct(os, &direct, file->fd, scratch);
    os->ops->file_drop_cache(os, file->fd, 0, file->opened.size_bytes);
    os->ops->file_close(os, works ? file->fd : direct.fd);
    if (works)
        *file = direct;
    return works;
}

cenote_status cn_file_open(struct cn_os *os, const char *path, cenote_io_mode io_mode,
                           void *scratch, struct cn_file *out_file, cenote_error *err)
{
    cenote_status status;
    struct cn_file file = {.os = os, .path = path, .align_bytes = 1, .fd = -1};
    int rc = os->ops->file_open(os, path, 0, &file.fd);
    if (rc < 0)
        return cn_weights_error_errno(err, path, NULL, "open", -rc);
    rc = os->ops->file_stat(os, file.fd, &file.opened);
    if (rc < 0) {
        status = cn_weights_error_errno(err, path, NULL, "stat", -rc);
        goto out_close;
    }
    if (!file.opened.regular) {
        status = cn_weights_error(err, CENOTE_E_CORRUPT, path, NULL, "not a regular file");
        goto out_close;
    }
    bool direct = io_mode != CENOTE_IO_BUFFERED && go_direct(&file, scratch);
    if (io_mode == CENOTE_IO_DIRECT && !direct) {
        status = cn_weights_error(err, CENOTE_E_UNSUPPORTED, path, NULL,
                                  "reads past the page cache (O_DIRECT) do not work here");
        goto out_close;
    }
    *out_file = file;
    return CENOTE_OK;

out_close:
    os->ops->file_close(os, file.fd);
    return status;
}

void cn_file_close(struct cn_file *file)
{
    file->os->ops->file_close(file->os, file->fd);
    file->fd = -1;
}

/* ---- read ---- */

uint64_t cn_file_slot_bytes(uint64_t size_bytes)
{
    uint64_t rounded;
    if (!cn_checked_round_up(size_bytes, CN_FILE_ALIGN_MAX, &rounded) ||
        !cn_checked_add(rounded, CN_FILE_ALIGN_MAX, &rounded))
        return UINT64_MAX;
    return rounded;
}

/* DONTNEED spares pages that a range covers in part, so the range grows to whole pages. */
static void drop_span(const struct cn_file *file, int fd, const struct cn_file_span *span)
{
    uint64_t begin = span->offset_bytes - span->offset_bytes % PAGE_BYTES;
    uint64_t end = span->offset_bytes + span->size_bytes;
    end += (PAGE_BYTES - end % PAGE_BYTES) % PAGE_BYTES;
    file->os->ops->file_drop_cache(file->os, fd, begin, end - begin);
}

void cn_file_drop(const struct cn_file *file, const struct cn_file_span *span)
{
    if (!file->direct)
        drop_span(file, file->fd, span);
}

/* The last resort after two errors: the whole span again through a descriptor of its own. */
static int read_through_cache(const struct cn_file *file, struct reading *failed,
                              const struct cn_file_span *span)
{
    struct cn_os *os = file->os;
    int fd;
    int rc = os->ops->file_open(os, file->path, 0, &fd);
    if (rc < 0)
        return rc;
    struct cn_os_file_stat now;
    rc = os->ops->file_stat(os, fd, &now);
    /* another file may lie at the path by now; its bytes are not wanted */
    if (rc == 0 && !stat_same(&now, &file->opened))
        rc = -EIO;
    if (rc == 0) {
        struct reading again = {.os = os,
                                .counters = failed->counters,
                                .fd = fd,
                                .align_bytes = 1,
                                .begin = span->offset_bytes,
                                .need = span->size_bytes,
                                .span = span->size_bytes,
                                .slot = failed->slot + (span->offset_bytes - failed->begin)};
        rc = read_rest(&again);
        drop_span(file, fd, span);
    }
    os->ops->file_close(os, fd);
    return rc;
}

/* What a failed read is called: a file that changed explains any error, so that is asked first. */
static cenote_status read_failed(const struct cn_file *file, const struct cn_file_span *span,
                                 int rc, cenote_error *err)
{
    cenote_status status = verify_span(file, file->fd, span, err);
    if (status != CENOTE_OK)
        return status;
    if (rc == READ_AT_END)
        return cn_weights_error(
            err, CENOTE_E_CORRUPT, file->path, span->tensor,
            "truncated: bytes [%" PRIu64 ", %" PRIu64 ") end early; the file should have %" PRIu64,
            span->offset_bytes, span->offset_bytes + span->size_bytes, file->opened.size_bytes);
    char what[64];
    snprintf(what, sizeof what, "read of %" PRIu64 " bytes at %" PRIu64, span->size_bytes,
             span->offset_bytes);
    return cn_weights_error_errno(err, file->path, span->tensor, what, -rc);
}

static struct reading reading_of(const struct cn_file *file, struct cn_file_counters *counters,
                                 const struct cn_file_span *span, void *slot)
{
    uint64_t residue = span->offset_bytes % file->align_bytes;
    uint64_t need = residue + span->size_bytes;
    return (struct reading){.os = file->os,
                            .counters = counters,
                            .fd = file->fd,
                            .align_bytes = file->align_bytes,
                            .begin = span->offset_bytes - residue,
                            .need = need,
                            .span = cn_round_up(need, file->align_bytes),
                            .slot = slot};
}

/* The ladder of tries after the first; see the top of this file. Progress is kept between the
 * first two. */
static cenote_status finish(const struct cn_file *file, struct reading *r,
                            const struct cn_file_span *span, int rc, const void **out_data,
                            cenote_error *err)
{
    if (rc < 0) {
        if (r->counters != NULL)
            count(&r->counters->retry_count, 1);
        rc = read_rest(r);
    }
    if (rc < 0) {
        if (r->counters != NULL)
            count(&r->counters->retry_count, 1);
        int second = read_through_cache(file, r, span);
        rc = second < 0 ? rc : second; /* the first error says more */
    }
    cn_file_drop(file, span);
    if (rc != READ_DONE)
        return read_failed(file, span, rc, err);
    cenote_status status = verify_span(file, file->fd, span, err);
    if (status != CENOTE_OK)
        return status;
    *out_data = r->slot + (span->offset_bytes - r->begin);
    return CENOTE_OK;
}

cenote_status cn_file_read(const struct cn_file *file, struct cn_file_counters *counters,
                           const struct cn_file_span *span, void *slot, const void **out_data,
                           cenote_error *err)
{
    struct reading r = reading_of(file, counters, span, slot);
    return finish(file, &r, span, read_rest(&r), out_data, err);
}

struct cn_file_blocks cn_file_blocks_of(const struct cn_file *file, const struct cn_file_span *span)
{
    struct reading r = reading_of(file, NULL, span, NULL);
    return (struct cn_file_blocks){.offset_bytes = r.begin, .size_bytes = r.span};
}

cenote_status cn_file_read_finish(const struct cn_file *file, struct cn_file_counters *counters,
                                  const struct cn_file_span *span, void *slot, int64_t result,
                                  const void **out_data, cenote_error *err)
{
    struct reading r = reading_of(file, counters, span, slot);
    int rc = take_result(&r, result);
    if (rc == READ_MORE)
        rc = read_rest(&r);
    return finish(file, &r, span, rc, out_data, err);
}
