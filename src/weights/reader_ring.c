/* SPDX-License-Identifier: Apache-2.0 */
/* Reads by a ring of the system.
 *
 *   submit -> queue -> [ ring_enter ] -> in the kernel -> [ ring_reap ] -> results -> next
 *               ^                                              |
 *               '------------- interrupted: again -------------'
 *
 * When to enter. Each entry is a system call, and one call may carry many reads; but a read that
 * sits in the queue while the owner computes is a disk that idles. So the queue waits for company
 * (a quarter of the depth) only as long as the kernel has at least half the depth to do, and never
 * past the next cn_reader_next(). What is complete is reaped before each decision, from memory, so
 * "has to do" is exact.
 *
 * A kernel that takes no reads (it has no memory for them just now) gets time, then the owner's
 * thread reads by itself: slow, and never stuck.
 *
 * Nothing here is shared; the kernel writes to the buffers and to its own queues only. */
#include <stdlib.h>
#include <string.h>

#include "weights/reader_impl.h"

enum {
    QUEUE_SHARE = 4,      /* of the depth: as many wait for each other at most */
    REFUSED_BUSY_MAX = 4, /* entries in vain before it sleeps between them */
    REFUSED_MAX = 100,    /* before it reads by itself */
    REFUSED_SLEEP_NS = 1000000,
    REAP_MAX = 32,
    PAGE_BYTES = 4096,
};

enum place { FREE, QUEUED, IN_KERNEL };

struct ring_request {
    uint32_t tag; /* the owner's; the ring's own tag is the index */
    uint32_t tries;
    enum place place;
    struct cn_os_ring_read read;
};

struct ring_reader {
    struct cn_reader base;
    struct cn_os_ring *ring;
    uint32_t refused; /* entries in a row that the kernel took nothing of */
    uint32_t in_kernel;
    uint32_t queue_count;
    uint32_t free_count;
    uint32_t free[CN_READER_DEPTH_MAX]; /* a stack of indices of requests */
    struct cn_os_ring_read queue[CN_READER_DEPTH_MAX];
    struct ring_request requests[CN_READER_DEPTH_MAX];
    struct reader_results results;
    int fds[];
};

static struct ring_reader *ring_reader(struct cn_reader *reader)
{
    return (struct ring_reader *)reader;
}

/* ---- between the queue, the kernel and the results ---- */

static void queue_push(struct ring_reader *r, uint32_t index)
{
    r->requests[index].place = QUEUED;
    r->queue[r->queue_count++] = r->requests[index].read;
}

/* What was interrupted is needed sooner than what was never begun. */
static void queue_push_front(struct ring_reader *r, uint32_t index)
{
    memmove(r->queue + 1, r->queue, r->queue_count++ * sizeof r->queue[0]);
    r->requests[index].place = QUEUED;
    r->queue[0] = r->requests[index].read;
}

static void queue_drop_front(struct ring_reader *r, uint32_t count)
{
    r->queue_count -= count;
    for (uint32_t i = 0; i < r->queue_count; i++)
        r->queue[i] = r->queue[i + count];
}

static void request_end(struct ring_reader *r, uint32_t index, int64_t result)
{
    struct ring_request *request = &r->requests[index];
    reader_results_push(&r->results, (struct cn_reader_result){request->tag, result});
    request->place = FREE;
    r->free[r->free_count++] = index;
}

static void request_complete(struct ring_reader *r, struct cn_os_ring_done done)
{
    struct ring_request *request = &r->requests[done.tag];
    r->in_kernel--;
    if (reader_interrupted(done.result) && request->tries < READER_TRIES_MAX) {
        request->tries++;
        request->read.patient = true;
        queue_push_front(r, done.tag);
        return;
    }
    request_end(r, done.tag, done.result);
}

static void reap(struct ring_reader *r)
{
    struct cn_os_ring_done done[REAP_MAX];
    struct cn_os *os = r->base.os;
    uint32_t count;
    do {
        count = os->ops->ring_reap(os, r->ring, done, REAP_MAX);
        for (uint32_t i = 0; i < count; i++)
            request_complete(r, done[i]);
    } while (count == REAP_MAX);
}

static void enter(struct ring_reader *r, bool wait)
{
    struct cn_os *os = r->base.os;
    int taken = os->ops->ring_enter(os, r->ring, r->queue, r->queue_count, wait);
    if (taken < 0) {
        r->refused += r->queue_count > 0 && taken != -EINTR;
        return;
    }
    r->refused = 0;
    for (int i = 0; i < taken; i++)
        r->requests[r->queue[i].tag].place = IN_KERNEL;
    r->in_kernel += (uint32_t)taken;
    queue_drop_front(r, (uint32_t)taken);
}

/* ---- a kernel that takes nothing ---- */

static void read_here(struct ring_reader *r)
{
    struct cn_os *os = r->base.os;
    struct cn_os_ring_read read = r->queue[0];
    queue_drop_front(r, 1);
    r->in_kernel++; /* as request_complete() expects */
    int64_t result = os->ops->file_pread(os, r->base.fds[read.file_index], read.data,
                                         read.size_bytes, read.offset_bytes);
    request_complete(r, (struct cn_os_ring_done){read.tag, result});
}

/* The end of a read gives the kernel room; without one to wait for there is only time. */
static void wait_refused(struct ring_reader *r)
{
    struct cn_os *os = r->base.os;
    if (r->in_kernel > 0)
        (void)os->ops->ring_enter(os, r->ring, NULL, 0, true);
    else if (r->refused > REFUSED_MAX)
        read_here(r);
    else if (r->refused > REFUSED_BUSY_MAX)
        os->ops->sleep_ns(os, REFUSED_SLEEP_NS);
}

/* ---- the engine ---- */

static void ring_submit(struct cn_reader *reader, const struct cn_reader_request *request)
{
    struct ring_reader *r = ring_reader(reader);
    uint32_t index = r->free[--r->free_count];
    r->requests[index] = (struct ring_request){
        .tag = request->tag,
        .read = {.tag = index,
                 .file_index = request->file_index,
                 .offset_bytes = request->offset_bytes,
                 .size_bytes = request->size_bytes,
                 .data = request->data},
    };
    queue_push(r, index);
    reap(r);
    bool busy = r->in_kernel >= (reader->depth + 1) / 2;
    bool alone = r->queue_count < reader->depth / QUEUE_SHARE;
    if (!(busy && alone))
        enter(r, false);
}

static bool ring_next(struct cn_reader *reader, bool wait, struct cn_reader_result *out_result)
{
    struct ring_reader *r = ring_reader(reader);
    reap(r);
    while (r->queue_count > 0 || (wait && r->results.count == 0)) {
        enter(r, wait && r->results.count == 0);
        reap(r);
        if (!wait || r->results.count > 0)
            break;
        if (r->refused > 0)
            wait_refused(r);
    }
    if (r->results.count == 0)
        return false;
    *out_result = reader_results_pop(&r->results);
    return true;
}

static void cancel(struct ring_reader *r)
{
    uint32_t tags[CN_READER_DEPTH_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < r->base.depth; i++)
        if (r->requests[i].place == IN_KERNEL)
            tags[count++] = i;
    r->base.os->ops->ring_cancel(r->base.os, r->ring, tags, count);
}

static void reset(struct ring_reader *r)
{
    r->queue_count = 0;
    r->refused = 0;
    r->results.count = 0;
    r->free_count = r->base.depth;
    for (uint32_t i = 0; i < r->base.depth; i++) {
        r->requests[i].place = FREE;
        r->free[i] = r->base.depth - 1 - i;
    }
}

/* The queue is emptied first and again: what was interrupted comes back to it. */
static struct cn_reader_dropped ring_drain(struct cn_reader *reader)
{
    struct ring_reader *r = ring_reader(reader);
    struct cn_os *os = reader->os;
    reap(r);
    if (r->in_kernel > 0)
        cancel(r);
    while (r->in_kernel > 0) {
        int rc = os->ops->ring_enter(os, r->ring, NULL, 0, true);
        if (rc < 0 && rc != -EINTR)
            os->ops->sleep_ns(os, REFUSED_SLEEP_NS);
        reap(r);
    }
    struct cn_reader_dropped dropped = reader_results_drop(&r->results);
    reset(r);
    return dropped;
}

static void ring_destroy(struct cn_reader *reader)
{
    struct ring_reader *r = ring_reader(reader);
    reader->os->ops->ring_close(reader->os, r->ring);
    free(r);
}

/* ---- create ---- */

int cn_reader_ring_create(struct cn_os *os, const struct cn_reader_options *options,
                          struct cn_reader **out_reader)
{
    static const struct cn_reader_engine_ops ops = {
        .text = "io_uring",
        .submit = ring_submit,
        .next = ring_next,
        .drain = ring_drain,
        .destroy = ring_destroy,
    };
    struct cn_os_ring_options ring = {options->depth, options->fds, options->fd_count};
    struct ring_reader *r = calloc(1, sizeof *r + options->fd_count * sizeof r->fds[0]);
    if (r == NULL)
        return -ENOMEM;
    int rc = os->ops->ring_open(os, &ring, &r->ring);
    if (rc < 0) {
        free(r);
        return rc;
    }
    memcpy(r->fds, options->fds, options->fd_count * sizeof r->fds[0]);
    r->base = (struct cn_reader){.ops = &ops,
                                 .os = os,
                                 .fds = r->fds,
                                 .fd_count = options->fd_count,
                                 .depth = options->depth};
    if (options->buffers_bytes > 0)
        r->base.registered =
            os->ops->ring_register(os, r->ring, options->buffers, options->buffers_bytes) == 0;
    reset(r);
    *out_reader = &r->base;
    return 0;
}

/* The kernel's queues: entries of 64 bytes in one mapping; in the other an index of 4 for each,
 * twice as many results of 16, and a header. */
uint64_t cn_reader_ring_bytes(const struct cn_reader_options *options)
{
    uint64_t entries = 1;
    while (entries < options->depth)
        entries *= 2;
    uint64_t submissions = entries * 64;
    uint64_t completions = entries * (4 + 2 * 16) + 1024;
    uint64_t own = sizeof(struct ring_reader) + options->fd_count * sizeof(int);
    uint64_t in_linux_ring = entries * sizeof(void *) + options->fd_count * 2 * sizeof(int) + 1024;
    return own + in_linux_ring + submissions + completions + 4 * PAGE_BYTES;
}
