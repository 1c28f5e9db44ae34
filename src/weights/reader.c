/* SPDX-License-Identifier: Apache-2.0 */
/* Reads under way: which engine, and what holds for both. The engines are reader_ring.c and
 * reader_pread.c. */
#include "weights/reader.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "weights/reader_impl.h"

static cenote_status check_options(const struct cn_reader_options *options, cenote_error *err)
{
    if (options->depth == 0 || options->depth > CN_READER_DEPTH_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "a depth of %u reads, not 1..%u",
                                options->depth, CN_READER_DEPTH_MAX);
    if (options->thread_count > CN_READER_THREADS_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "%u threads that read, the most is %u",
                                options->thread_count, CN_READER_THREADS_MAX);
    if (options->fd_count == 0 || options->fds == NULL)
        return cenote_error_set(err, CENOTE_E_INVAL, "no files to read");
    return CENOTE_OK;
}

static cenote_status ring_refused(int code, cenote_error *err)
{
    const char *why = "";
    if (code == ENOSYS)
        why = " (this kernel has none, or a filter hides it)";
    else if (code == EPERM || code == EACCES)
        why = " (denied by a seccomp filter or by kernel.io_uring_disabled)";
    else if (code == ENOMEM)
        why = " (the limit of locked memory, `ulimit -l`, or memory itself)";
    return cenote_error_set(err, CENOTE_E_UNSUPPORTED, "io_uring cannot be had: %s%s",
                            strerror(code), why);
}

cenote_status cn_reader_create(struct cn_os *os, const struct cn_reader_options *options,
                               struct cn_reader **out_reader, cenote_error *err)
{
    cenote_status status = check_options(options, err);
    if (status != CENOTE_OK)
        return status;
    int rc = -ENOSYS;
    if (options->engine != CN_READER_PREAD)
        rc = cn_reader_ring_create(os, options, out_reader);
    if (rc < 0 && options->engine == CN_READER_URING)
        return ring_refused(-rc, err);
    if (rc < 0)
        rc = cn_reader_pread_create(os, options, out_reader);
    if (rc < 0)
        return cenote_error_set(err, CENOTE_E_NOMEM, "threads that read did not start: %s",
                                strerror(-rc));
    return CENOTE_OK;
}

void cn_reader_destroy(struct cn_reader *reader)
{
    if (reader == NULL)
        return;
    (void)cn_reader_drain(reader);
    reader->ops->destroy(reader);
}

uint64_t cn_reader_memory_bytes(const struct cn_reader_options *options)
{
    uint64_t ring = 0, pool = 0;
    if (options->engine != CN_READER_PREAD)
        ring = cn_reader_ring_bytes(options);
    if (options->engine != CN_READER_URING)
        pool = cn_reader_pread_bytes(options);
    return ring > pool ? ring : pool;
}

void cn_reader_submit(struct cn_reader *reader, const struct cn_reader_request *request)
{
    assert(reader->under_way < reader->depth && request->file_index < reader->fd_count);
    reader->under_way++;
    reader->ops->submit(reader, request);
}

bool cn_reader_next(struct cn_reader *reader, bool wait, struct cn_reader_result *out_result)
{
    if (reader->under_way == 0 || !reader->ops->next(reader, wait, out_result))
        return false;
    reader->under_way--;
    return true;
}

uint32_t cn_reader_under_way(const struct cn_reader *reader)
{
    return reader->under_way;
}

struct cn_reader_dropped cn_reader_drain(struct cn_reader *reader)
{
    struct cn_reader_dropped dropped = {0};
    if (reader->under_way > 0)
        dropped = reader->ops->drain(reader);
    reader->under_way = 0;
    return dropped;
}

const char *cn_reader_engine_text(const struct cn_reader *reader)
{
    return reader->ops->text;
}

bool cn_reader_registered(const struct cn_reader *reader)
{
    return reader->registered;
}
