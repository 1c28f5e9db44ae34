/* SPDX-License-Identifier: Apache-2.0 */
/* Rings by io_uring, through liburing.
 *
 *   enter   reads -> submission queue -> kernel       one system call for all of them, and the wait
 *   reap    completion queue -> results               none
 *
 * What the kernel does not take is never left in the submission queue, where it would start at some
 * later call and write into memory that has another use by then: it becomes a no-op there. So the
 * caller alone decides what becomes of a read that was refused.
 *
 * Everything beyond plain reads is an option that may be missing: registered files (else their
 * descriptors), a registered region (else its address). A ring asks for no polling thread, and for
 * none of the newer ways to run completions (COOP_TASKRUN, SINGLE_ISSUER with DEFER_TASKRUN): with
 * reads of 64 KiB to 4 MiB they took no less of the processor, and results would come only when the
 * caller enters the kernel. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include <liburing.h>

#include "os/linux/linux.h"

#define REGION_BYTES_MAX ((size_t)1 << 30) /* the kernel's limit of one registered buffer */
#define NOBODY           UINT64_MAX        /* user data of what no caller waits for */

struct ring_file {
    int fd;
    bool cached; /* read through the page cache */
};

struct cn_os_ring {
    struct io_uring uring;
    struct ring_file *files;
    uint32_t file_count;
    bool files_registered;
    char *region; /* NULL: none is registered */
    size_t region_bytes;
    struct io_uring_sqe *entered[]; /* as many as the queue has; those of the call that runs */
};

/* ---- open, register, close ---- */

/* Kernels before 5.6 have rings and no plain reads in them. */
static bool can_read(struct io_uring *uring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(uring);
    if (probe == NULL)
        return false;
    bool can = io_uring_opcode_supported(probe, IORING_OP_READ) != 0;
    io_uring_free_probe(probe);
    return can;
}

static int files_open(struct cn_os_ring *ring, const struct cn_os_ring_options *options)
{
    ring->files = calloc(options->fd_count, sizeof *ring->files);
    if (ring->files == NULL)
        return -ENOMEM;
    ring->file_count = options->fd_count;
    for (uint32_t i = 0; i < options->fd_count; i++) {
        int flags = fcntl(options->fds[i], F_GETFL);
        ring->files[i] = (struct ring_file){options->fds[i], !(flags & O_DIRECT)};
    }
    ring->files_registered =
        io_uring_register_files(&ring->uring, options->fds, options->fd_count) == 0;
    return 0;
}

int cn_linux_ring_open(struct cn_os *os, const struct cn_os_ring_options *options,
                       struct cn_os_ring **out_ring)
{
    (void)os;
    struct cn_os_ring *ring =
        calloc(1, sizeof *ring + options->depth * sizeof(struct io_uring_sqe *));
    if (ring == NULL)
        return -ENOMEM;
    int rc = io_uring_queue_init(options->depth, &ring->uring, 0);
    if (rc < 0)
        goto out_free;
    rc = can_read(&ring->uring) ? files_open(ring, options) : -ENOSYS;
    if (rc < 0)
        goto out_exit;
    *out_ring = ring;
    return 0;

out_exit:
    io_uring_queue_exit(&ring->uring);
out_free:
    free(ring);
    return rc;
}

int cn_linux_ring_register(struct cn_os *os, struct cn_os_ring *ring, void *base, size_t size_bytes)
{
    (void)os;
    struct iovec region = {base, size_bytes};
    if (size_bytes > REGION_BYTES_MAX)
        return -EFBIG;
    int rc = io_uring_register_buffers(&ring->uring, &region, 1);
    if (rc < 0)
        return rc;
    ring->region = base;
    ring->region_bytes = size_bytes;
    return 0;
}

/* The kernel takes a closed ring apart some time later. Pinned pages and the share of
 * RLIMIT_MEMLOCK must not wait for that: the caller gives the memory back next. */
void cn_linux_ring_close(struct cn_os *os, struct cn_os_ring *ring)
{
    (void)os;
    if (ring->region != NULL)
        io_uring_unregister_buffers(&ring->uring);
    if (ring->files_registered)
        io_uring_unregister_files(&ring->uring);
    io_uring_queue_exit(&ring->uring);
    free(ring->files);
    free(ring);
}

/* ---- enter, reap, cancel ---- */

static void mark(struct io_uring_sqe *sqe, uint64_t user_data)
{
    io_uring_sqe_set_data(sqe, (void *)(uintptr_t)user_data);
}

static bool in_region(const struct cn_os_ring *ring, const struct cn_os_ring_read *read)
{
    if (ring->region == NULL)
        return false;
    uintptr_t at = (uintptr_t)read->data - (uintptr_t)ring->region; /* below it: a huge number */
    return at <= ring->region_bytes && read->size_bytes <= ring->region_bytes - at;
}

/* Through the page cache the kernel would copy on the caller's thread (0.49 s a GiB in
 * bench_reader, of which its workers leave 0.13, for the dropping); workers copy beside the caller,
 * as a pool of readers would. */
static void prepare(struct cn_os_ring *ring, struct io_uring_sqe *sqe,
                    const struct cn_os_ring_read *read)
{
    const struct ring_file *file = &ring->files[read->file_index];
    int fd = ring->files_registered ? (int)read->file_index : file->fd;
    if (in_region(ring, read))
        io_uring_prep_read_fixed(sqe, fd, read->data, read->size_bytes, read->offset_bytes, 0);
    else
        io_uring_prep_read(sqe, fd, read->data, read->size_bytes, read->offset_bytes);
    unsigned flags = ring->files_registered ? IOSQE_FIXED_FILE : 0;
    if (file->cached || read->patient)
        flags |= IOSQE_ASYNC;
    io_uring_sqe_set_flags(sqe, flags);
    mark(sqe, read->tag);
}

/* Submits the @p count entries of this call. @return how many the kernel took, else its error. */
static int submit(struct cn_os_ring *ring, uint32_t count, bool wait)
{
    int rc = wait ? io_uring_submit_and_wait(&ring->uring, 1) : io_uring_submit(&ring->uring);
    uint32_t left = io_uring_sq_ready(&ring->uring); /* the kernel takes from the front */
    uint32_t taken = left < count ? count - left : 0;
    for (uint32_t i = taken; i < count; i++) {
        io_uring_prep_nop(ring->entered[i]);
        mark(ring->entered[i], NOBODY);
    }
    if (taken > 0)
        return (int)taken;
    if (rc >= 0 && count > 0)
        return -EAGAIN;
    return rc < 0 ? rc : 0;
}

int cn_linux_ring_enter(struct cn_os *os, struct cn_os_ring *ring,
                        const struct cn_os_ring_read *reads, uint32_t read_count, bool wait)
{
    (void)os;
    uint32_t count = 0;
    while (count < read_count) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
        if (sqe == NULL) /* no-ops of refused reads are still in the queue */
            break;
        prepare(ring, sqe, &reads[count]);
        ring->entered[count++] = sqe;
    }
    if (count == 0 && read_count > 0) {
        (void)submit(ring, 0, false);
        return -EAGAIN;
    }
    return submit(ring, count, wait);
}

uint32_t cn_linux_ring_reap(struct cn_os *os, struct cn_os_ring *ring, struct cn_os_ring_done *out,
                            uint32_t out_max)
{
    (void)os;
    uint32_t count = 0;
    struct io_uring_cqe *cqe;
    while (count < out_max && io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
        uint64_t user_data = (uint64_t)(uintptr_t)io_uring_cqe_get_data(cqe);
        if (user_data != NOBODY)
            out[count++] = (struct cn_os_ring_done){(uint32_t)user_data, cqe->res};
        io_uring_cqe_seen(&ring->uring, cqe);
    }
    return count;
}

void cn_linux_ring_cancel(struct cn_os *os, struct cn_os_ring *ring, const uint32_t *tags,
                          uint32_t tag_count)
{
    (void)os;
    uint32_t count = 0;
    while (count < tag_count) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
        if (sqe == NULL)
            break;
        io_uring_prep_cancel(sqe, (void *)(uintptr_t)tags[count], 0);
        mark(sqe, NOBODY);
        ring->entered[count++] = sqe;
    }
    (void)submit(ring, count, false);
}
