/* SPDX-License-Identifier: Apache-2.0 */
/* The recorder: one for the process, for pools of all budgets share their threads and their order.
 *
 *   pool ──cn_watch──▶ | header | op | op | op | .... |──full──▶ pwrite at the end of the file
 *                        a chunk of 16 KiB, in memory
 *
 * A chunk is encoded in place and written in one call, header and all: what a crash leaves is whole
 * chunks and at most a piece of one. Nothing is allocated, so recording cannot fail for want of
 * memory. The lock is taken last of all locks. */
#include "monitor/trace_record.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/hash.h"
#include "monitor/trace_format.h"
#include "pool/thread_cache.h"

#define PATH_BYTES_MAX 4096u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* lock, all of it */
static struct {
    bool on;
    bool hooked; /* exit and fork know of us */
    struct cn_os *os;
    int fd;
    int error; /* of the first write that failed; nothing is written after it */
    uint64_t file_bytes;
    uint64_t seq, first_seq;
    uint32_t thread_count;
    uint32_t number; /* of the recording, from 1: what threads know of an older one is void */
    struct cn_trace_before before;
    uint32_t payload_bytes;
    unsigned char chunk[CN_TRACE_HEADER_BYTES + CENOTE_TRACE_CHUNK_BYTES];
} recorder;

static _Thread_local struct {
    uint32_t recording; /* that the ordinal is of */
    uint32_t ordinal;
} self;

/* ---- the file ---- */

static void write_all(const void *data, uint64_t size_bytes)
{
    for (uint64_t done = 0; done < size_bytes && recorder.error == 0;) {
        int64_t got =
            recorder.os->ops->file_pwrite(recorder.os, recorder.fd, (const char *)data + done,
                                          size_bytes - done, recorder.file_bytes + done);
        if (got == 0)
            recorder.error = ENOSPC;
        else if (got < 0 && got != -EINTR)
            recorder.error = (int)-got;
        else
            done += got > 0 ? (uint64_t)got : 0;
    }
    if (recorder.error == 0)
        recorder.file_bytes += size_bytes;
}

static void chunk_end(void)
{
    unsigned char *chunk = recorder.chunk;
    if (recorder.payload_bytes == 0)
        return;
    cn_trace_put(chunk, recorder.payload_bytes, 4);
    cn_trace_put(chunk + 4, recorder.seq - recorder.first_seq, 4);
    cn_trace_put(chunk + 8, recorder.first_seq, 8);
    struct cn_hash hash;
    cn_hash_init(&hash);
    cn_hash_add(&hash, chunk, CN_TRACE_SUMMED_BYTES);
    cn_hash_add(&hash, chunk + CN_TRACE_HEADER_BYTES, recorder.payload_bytes);
    cn_trace_put(chunk + CN_TRACE_SUMMED_BYTES, cn_hash_sum(&hash), 8);
    write_all(chunk, CN_TRACE_HEADER_BYTES + recorder.payload_bytes);
    recorder.first_seq = recorder.seq;
    recorder.payload_bytes = 0;
    recorder.before = (struct cn_trace_before){0};
}

/* ---- operations ---- */

static void put_byte(uint32_t byte)
{
    recorder.chunk[CN_TRACE_HEADER_BYTES + recorder.payload_bytes++] = (unsigned char)byte;
}

static void put_varint(uint64_t number)
{
    for (; number >= 0x80; number >>= 7)
        put_byte(0x80 | (uint32_t)(number & 0x7f));
    put_byte((uint32_t)number);
}

static void put_op(const cenote_trace_op *op)
{
    struct cn_trace_before *before = &recorder.before;
    uint64_t pool = (uint64_t)op->pool * CN_TRACE_CLASS_COUNT + op->class_id;
    bool align = op->align_bytes > 0 && cn_trace_has_size(op->kind);
    put_byte(op->kind | (op->thread != before->thread ? CN_TRACE_THREAD : 0) |
             (pool != before->pool ? CN_TRACE_POOL : 0) |
             (op->tag != before->tag ? CN_TRACE_TAG : 0) | (align ? CN_TRACE_ALIGN : 0));
    if (op->thread != before->thread)
        put_varint(op->thread);
    if (pool != before->pool)
        put_varint(pool);
    if (op->tag != before->tag)
        put_varint(op->tag);
    if (cn_trace_has_id(op->kind)) {
        uint64_t step = op->id - before->id;
        put_varint(step << 1 ^ -(step >> 63)); /* zigzag */
        before->id = op->id;
    }
    if (cn_trace_has_size(op->kind))
        put_varint(op->size_bytes);
    if (align)
        put_byte((uint32_t)__builtin_ctzll(op->align_bytes));
    before->thread = op->thread;
    before->pool = pool;
    before->tag = op->tag;
}

/* A pool's event. It may come from a thread that saw the watcher just before it was taken away. */
static void record(const cenote_trace_op *event)
{
    cenote_trace_op op = *event;
    pthread_mutex_lock(&lock);
    if (recorder.on && recorder.error == 0) {
        if (self.recording != recorder.number) {
            self.recording = recorder.number;
            self.ordinal = recorder.thread_count++;
        }
        op.thread = self.ordinal;
        op.tag = cn_watch_tag;
        put_op(&op);
        recorder.seq++;
        if (recorder.payload_bytes + CN_TRACE_OP_BYTES_MAX > CENOTE_TRACE_CHUNK_BYTES)
            chunk_end();
    }
    pthread_mutex_unlock(&lock);
}

uint32_t cenote_trace_tag(uint32_t tag)
{
    uint32_t before = cn_watch_tag;
    cn_watch_tag = tag;
    return before;
}

/* ---- beginning and end ---- */

/* The path with each %p made the number of the process. */
static bool expand(const char *path, char out[PATH_BYTES_MAX])
{
    size_t size = 0;
    for (; *path != '\0' && size < PATH_BYTES_MAX; path++) {
        if (path[0] == '%' && path[1] == 'p') {
            size += (size_t)snprintf(out + size, PATH_BYTES_MAX - size, "%ld", (long)getpid());
            path++;
        } else {
            out[size++] = *path;
        }
    }
    if (size >= PATH_BYTES_MAX)
        return false;
    out[size] = '\0';
    return true;
}

static void stop_at_exit(void)
{
    (void)!cenote_trace_stop(NULL);
}

/* The file is the parent's, and its lock may have been taken by a thread that is not here. */
static void forget_in_child(void)
{
    atomic_store(&cn_watch, NULL); /* alone: pools stay on the slow way, which asks */
    pthread_mutex_init(&lock, NULL);
    recorder.on = false;
}

static cenote_status open_file(struct cn_os *os, const char *path, cenote_error *err)
{
    char expanded[PATH_BYTES_MAX];
    if (!expand(path, expanded))
        return cenote_error_set(err, CENOTE_E_INVAL, "trace: a path of more than %u bytes",
                                PATH_BYTES_MAX - 1);
    int error = os->ops->file_create(os, expanded, &recorder.fd);
    if (error == 0)
        return CENOTE_OK;
    return cenote_error_set(
        err, error == -ENOENT ? CENOTE_E_NOTFOUND : CENOTE_E_IO, "trace %s: %s%s", expanded,
        strerror(-error), error == -EEXIST ? " (%p in the name is the number of the process)" : "");
}

/* Locked. */
static cenote_status start(struct cn_os *os, const char *path, cenote_error *err)
{
    if (recorder.on)
        return cenote_error_set(err, CENOTE_E_INVAL, "trace %s: a recording is under way", path);
    cenote_status status = open_file(os, path, err);
    if (status != CENOTE_OK)
        return status;
    if (!recorder.hooked) {
        (void)atexit(stop_at_exit);
        (void)pthread_atfork(NULL, NULL, forget_in_child);
        recorder.hooked = true;
    }
    recorder.os = os;
    recorder.error = 0;
    recorder.file_bytes = 0;
    recorder.seq = recorder.first_seq = 0;
    recorder.thread_count = 0;
    recorder.number++;
    recorder.payload_bytes = 0;
    recorder.before = (struct cn_trace_before){0};
    memset(recorder.chunk, 0, sizeof recorder.chunk); /* here now, and so counted by a budget */
    write_all(CN_TRACE_MAGIC, CN_TRACE_MAGIC_BYTES);
    recorder.on = true;
    cn_thread_cache_watch(record);
    return CENOTE_OK;
}

cenote_status cn_trace_start(struct cn_os *os, const char *path, cenote_error *err)
{
    pthread_mutex_lock(&lock);
    cenote_status status = start(os, path, err);
    pthread_mutex_unlock(&lock);
    return status;
}

cenote_status cenote_trace_start(const char *path, cenote_error *err)
{
    return cn_trace_start(cn_os_linux(), path, err);
}

cenote_status cenote_trace_stop(cenote_error *err)
{
    if (atomic_load(&cn_watch) != NULL) /* a child must not wait for locks that its parent held */
        cn_thread_cache_watch(NULL);
    pthread_mutex_lock(&lock);
    bool on = recorder.on;
    if (on) {
        chunk_end();
        recorder.os->ops->file_close(recorder.os, recorder.fd);
        recorder.on = false;
    }
    int error = recorder.error;
    uint64_t written = recorder.file_bytes;
    pthread_mutex_unlock(&lock);
    if (!on)
        return cenote_error_set(err, CENOTE_E_INVAL, "trace: no recording is under way");
    if (error != 0)
        return cenote_error_set(err, CENOTE_E_IO, "trace: %s; it ends after %llu bytes",
                                strerror(error), (unsigned long long)written);
    return CENOTE_OK;
}

cenote_status cn_watch_begin(cenote_error *err)
{
    static bool begun; /* lock */
    cenote_status status = CENOTE_OK;
    pthread_mutex_lock(&lock);
    const char *path = begun ? NULL : secure_getenv("CENOTE_TRACE");
    if (path != NULL && path[0] != '\0' && !recorder.on)
        status = start(cn_os_linux(), path, err);
    begun = begun || status == CENOTE_OK;
    pthread_mutex_unlock(&lock);
    return status;
}
