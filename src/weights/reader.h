/* SPDX-License-Identifier: Apache-2.0 */
/* Reads under way: up to `depth` at a time, completing in any order, by one of two engines.
 *
 *   io_uring   one ring; the kernel reads while the owner computes. No thread of ours.
 *   pread      a few threads that read synchronously, where the kernel denies rings.
 *
 * A result is that of one pread: short reads and errors are the caller's to answer, but for
 * interruptions, which are tried again here. Both engines work on every cn_os.
 *
 * Threads: one owner thread makes all calls. */
#ifndef CN_WEIGHTS_READER_H
#define CN_WEIGHTS_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cenote/weights.h>

#include "os/os.h"

#define CN_READER_DEPTH_MAX   256u
#define CN_READER_THREADS_MAX 16u

enum cn_reader_engine {
    CN_READER_AUTO = 0, /* io_uring where it can be had, else pread */
    CN_READER_URING,
    CN_READER_PREAD
};

static inline enum cn_reader_engine cn_reader_engine_of(cenote_io_engine engine)
{
    return engine == CENOTE_ENGINE_URING   ? CN_READER_URING
           : engine == CENOTE_ENGINE_PREAD ? CN_READER_PREAD
                                           : CN_READER_AUTO;
}

struct cn_reader;

struct cn_reader_options {
    enum cn_reader_engine engine;
    uint32_t depth;        /* most reads under way, 1..CN_READER_DEPTH_MAX */
    uint32_t thread_count; /* of the pread pool, up to CN_READER_THREADS_MAX; 0: 4. Never more than
                              depth */
    /* Where the data goes. Registered with the kernel where RLIMIT_MEMLOCK allows and it has no
     * more than 1 GiB: then all of it becomes resident at create, and stays so until destroy. Reads
     * to other addresses work as well, unregistered. NULL: nothing is registered. */
    void *buffers;
    size_t buffers_bytes;
    const int *fds; /* of the cn_os; copied; they stay open as long as the reader */
    uint32_t fd_count;
};

/* Errors: CENOTE_E_INVAL, CENOTE_E_UNSUPPORTED (CN_READER_URING where rings are denied),
 * CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK cenote_status cn_reader_create(struct cn_os *os,
                                                 const struct cn_reader_options *options,
                                                 struct cn_reader **out_reader, cenote_error *err);
/* Drains first. NULL is fine. */
void cn_reader_destroy(struct cn_reader *reader);

/* An upper bound of the resident bytes that a reader takes beside its buffers, whichever engine it
 * gets: its own structs, the queues that the kernel maps into the process, pages of stacks. Nothing
 * is allocated after create. */
uint64_t cn_reader_memory_bytes(const struct cn_reader_options *options);

struct cn_reader_request {
    uint32_t tag; /* comes back with the result */
    uint32_t file_index;
    uint64_t offset_bytes;
    uint32_t size_bytes;
    void *data;
};

/* Puts a read under way; at most `depth` are. Never waits for a read. The kernel gets it at once
 * when it has little else to do, else together with the next ones, at the latest at the next
 * cn_reader_next(). */
void cn_reader_submit(struct cn_reader *reader, const struct cn_reader_request *request);

struct cn_reader_result {
    uint32_t tag;
    int64_t result; /* bytes, 0 at the end of the file, or a negative errno */
};

/* Takes one complete read; with @p wait, waits for it. Also what hands over reads that were
 * submitted: call it now and then.
 * @return false when none is complete; with @p wait only when none is under way. */
bool cn_reader_next(struct cn_reader *reader, bool wait, struct cn_reader_result *out_result);

/* Reads submitted whose results were not taken. */
uint32_t cn_reader_under_way(const struct cn_reader *reader);

/* Of reads whose results nobody took, what was read all the same. */
struct cn_reader_dropped {
    uint64_t bytes, count;
};

/* Cancels what can be, waits for the rest, drops all results: afterwards nothing is under way and
 * nobody writes to the buffers. */
struct cn_reader_dropped cn_reader_drain(struct cn_reader *reader);

/* "io_uring" or "pread" */
const char *cn_reader_engine_text(const struct cn_reader *reader);

/* The buffers are registered. */
bool cn_reader_registered(const struct cn_reader *reader);

#endif
