/* SPDX-License-Identifier: Apache-2.0 */
/* One file of a checkpoint: opened past the page cache where that works, read with every fault
 * handled, and compared with what it was at open.
 * Threads: a cn_file is immutable between open and close; reads from any thread. */
#ifndef CN_WEIGHTS_FILE_H
#define CN_WEIGHTS_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <cenote/weights.h>

#include "os/os.h"

/* Slots and buffers for reads are aligned to this, and no file's own alignment is larger: a ring's
 * size then depends on no file. Devices have 512 or 4096; a file that asks for more is read
 * through the page cache. */
#define CN_FILE_ALIGN_MAX 4096u

/* Counted with relaxed atomics: they order nothing, they only add up. */
struct cn_file_counters {
    _Atomic uint64_t bytes_read;
    _Atomic uint64_t read_count;
    _Atomic uint64_t retry_count;
};

struct cn_file {
    struct cn_os *os;
    const char *path; /* the caller's; must outlive the file */
    struct cn_os_file_stat opened;
    uint32_t align_bytes; /* of offsets and lengths; 1 when buffered */
    int fd;
    bool direct;
};

/* @param scratch  CN_FILE_ALIGN_MAX bytes, aligned so
 * Errors: CENOTE_E_NOTFOUND, CENOTE_E_IO, CENOTE_E_CORRUPT (no regular file), CENOTE_E_UNSUPPORTED
 * (CENOTE_IO_DIRECT where it does not work), CENOTE_E_CHANGED. */
CENOTE_MUST_CHECK cenote_status cn_file_open(struct cn_os *os, const char *path,
                                             cenote_io_mode io_mode, void *scratch,
                                             struct cn_file *out_file, cenote_error *err);
void cn_file_close(struct cn_file *file);

/* What a reader wants: bytes [offset, offset + size) of the file; the name is for messages. */
struct cn_file_span {
    const char *tensor; /* NULL: the header */
    uint64_t offset_bytes;
    uint64_t size_bytes;
};

/* Where the file is read through the page cache: nothing of @p span stays there. */
void cn_file_drop(const struct cn_file *file, const struct cn_file_span *span);

/* Room that a slot needs for a span of size_bytes at any offset; UINT64_MAX on overflow. */
uint64_t cn_file_slot_bytes(uint64_t size_bytes);

/* Reads @p span into @p slot (aligned to CN_FILE_ALIGN_MAX, at least cn_file_slot_bytes() long) and
 * points @p out_data at its first byte, which lies at the offset's residue.
 * @param counters  may be NULL
 * Errors: CENOTE_E_IO, CENOTE_E_CORRUPT (the file ends before the span), CENOTE_E_CHANGED. */
CENOTE_MUST_CHECK cenote_status cn_file_read(const struct cn_file *file,
                                             struct cn_file_counters *counters,
                                             const struct cn_file_span *span, void *slot,
                                             const void **out_data, cenote_error *err);

/* The same in two steps, for reads that go on by themselves: the blocks to read into the slot, and
 * what came of it. @p result is that of one pread: bytes, or -errno. What is missing after it is
 * read here and now, with all the tries of cn_file_read(). */
struct cn_file_blocks {
    uint64_t offset_bytes;
    uint64_t size_bytes;
};
struct cn_file_blocks cn_file_blocks_of(const struct cn_file *file,
                                        const struct cn_file_span *span);
CENOTE_MUST_CHECK cenote_status cn_file_read_finish(const struct cn_file *file,
                                                    struct cn_file_counters *counters,
                                                    const struct cn_file_span *span, void *slot,
                                                    int64_t result, const void **out_data,
                                                    cenote_error *err);

/* Errors: CENOTE_E_CHANGED, CENOTE_E_IO. */
CENOTE_MUST_CHECK cenote_status cn_file_verify_unchanged(const struct cn_file *file,
                                                         cenote_error *err);

#endif
