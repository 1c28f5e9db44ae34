/* SPDX-License-Identifier: Apache-2.0 */
/* A system for tests behind the same table as linux: its memory can be refused, its reads can go
 * wrong at a given number, its clock moves only when somebody sleeps or works, and it counts what
 * is still open or committed.
 *
 * Files are real ones unless cn_fake_file_add() put bytes under that path. File descriptors start
 * at CN_FAKE_FD_FIRST, so that code which goes around the table fails at once.
 *
 * Threads: every function from any thread. */
#ifndef CN_OS_FAKE_FAKE_H
#define CN_OS_FAKE_FAKE_H

#include "os/os.h"

#define CN_FAKE_FD_FIRST     100000
#define CN_FAKE_DIRECT_BYTES 512u /* what O_DIRECT asks for on added files, and checks */

struct cn_fake;

/* NULL when there is no memory. */
struct cn_fake *cn_fake_create(void);
/* Closes and releases what was left over. */
void cn_fake_destroy(struct cn_fake *fake);
/* The table to hand to a budget; lives as long as the fake. */
struct cn_os *cn_fake_os(struct cn_fake *fake);

/* Time passes while the caller works; a sleep lets other threads run as well. */
void cn_fake_work(struct cn_fake *fake, uint64_t duration_ns);

/* ---- failing calls ---- */

enum cn_fake_call {
    CN_FAKE_RESERVE,
    CN_FAKE_COMMIT,
    CN_FAKE_MEMORY, /* reserve or commit, whichever comes */
    CN_FAKE_REMAP,
    CN_FAKE_OPEN,
    CN_FAKE_STAT,
    CN_FAKE_READ,
    CN_FAKE_LIST,
    CN_FAKE_CREATE,
    CN_FAKE_WRITE,
    CN_FAKE_SYNC, /* of a file or a folder */
    CN_FAKE_RENAME,
    CN_FAKE_REMOVE,
    CN_FAKE_RING_OPEN,
    CN_FAKE_RING_REGISTER,
    CN_FAKE_RING_ENTER, /* takes nothing then, and does not wait */
    CN_FAKE_CALL_COUNT
};

/* The @p nth call of that kind from now (1: the next) fails with @p error (a positive errno) and
 * does nothing; 0 takes the order back. One order a kind. */
void cn_fake_fail(struct cn_fake *fake, enum cn_fake_call call, uint64_t nth, int error);

/* Calls of that kind so far, failed ones included. */
uint64_t cn_fake_calls(struct cn_fake *fake, enum cn_fake_call call);

/* ---- faults of reads ---- */

enum cn_fake_fault_kind {
    CN_FAULT_SHORT,    /* gives at most `argument` bytes (> 0; 0 would mean the end of the file) */
    CN_FAULT_ERROR,    /* fails with errno `argument`: EIO, EINTR, EAGAIN */
    CN_FAULT_DELAY,    /* takes `argument` ns longer; file_pread moves the clock by as much */
    CN_FAULT_TRUNCATE, /* from here on the file that is read ends at `argument` */
    CN_FAULT_CHANGE,   /* from here on its mtime is `argument` ns later */
};

#define CN_FAKE_ALWAYS UINT64_MAX

struct cn_fake_fault {
    enum cn_fake_fault_kind kind;
    uint64_t at_read; /* 1: the next read */
    uint64_t count;   /* how many reads in a row; CN_FAKE_ALWAYS */
    uint64_t argument;
};

/* At most 64 plans; reads are counted over all files. */
void cn_fake_fault_add(struct cn_fake *fake, struct cn_fake_fault fault);
/* Forgets all plans and orders to fail, and what truncation and change did. */
void cn_fake_faults_clear(struct cn_fake *fake);

enum cn_fake_direct { CN_FAKE_DIRECT_WORKS, CN_FAKE_DIRECT_FAILS_OPEN, CN_FAKE_DIRECT_FAILS_READ };
/* How O_DIRECT is refused, if at all: EINVAL at open, or at each read. */
void cn_fake_direct_set(struct cn_fake *fake, enum cn_fake_direct direct);

/* Writes take at most @p most_bytes at a time (0: no limit), and folders say that they have at most
 * @p free_bytes left (UINT64_MAX at first). What is written goes to real files. */
void cn_fake_write_set(struct cn_fake *fake, uint64_t most_bytes, uint64_t free_bytes);

/* ---- the disk ---- */

/* What reads cost in virtual time. Each waits for a lane and for its turn on the bus, which carries
 * one read at a time, and then takes the latency. Reads of a ring complete when the clock
 * gets there: it moves when somebody sleeps or waits, and waiting costs nothing else. Until then
 * the memory that is read into holds rubbish. Calls of file_pread move the clock to their end. All
 * zero, as at first: reads take no time. */
struct cn_fake_disk {
    uint64_t seed; /* of all that is random */
    uint64_t latency_ns;
    uint64_t latency_random_ns; /* up to so many more: reads overtake each other */
    uint64_t bytes_per_s;       /* of the bus; 0: no limit */
    uint32_t lanes;             /* 1..CN_FAKE_LANES_MAX; 0: no limit */
    /* how often of 1000 ring_enter takes only some of its reads, or none and -EAGAIN; and how often
     * its wait ends with -EINTR */
    uint32_t refuse_per_mille, interrupt_per_mille;
};
#define CN_FAKE_LANES_MAX 64u

/* From the next read on; reads under way keep the time they have. */
void cn_fake_disk_set(struct cn_fake *fake, const struct cn_fake_disk *disk);

/* ---- files ---- */

/* A copy of @p data under @p path, listed in that path's folder too; replaces the bytes of an
 * earlier one, for later opens only.
 * @return 0 or -ENOMEM. */
int cn_fake_file_add(struct cn_fake *fake, const char *path, const void *data, size_t size_bytes);
/* Now, for open descriptors too: the file ends at @p size_bytes; its mtime moves. */
void cn_fake_file_truncate(struct cn_fake *fake, const char *path, uint64_t size_bytes);

/* ---- books ---- */

struct cn_fake_books {
    uint64_t open_files;
    uint64_t open_rings;
    uint64_t ring_reads; /* that rings have under way */
    uint64_t reservations;
    uint64_t reserved_bytes;
    uint64_t committed_bytes;
    uint64_t committed_peak_bytes;
    uint64_t huge_count;    /* commits that asked for huge pages */
    uint64_t read_bytes;    /* given to callers */
    uint64_t dropped_bytes; /* asked to be dropped from the cache */
    uint64_t misuse_count;  /* commits outside of reservations, closes of what is not open, a
                               ring that is given a tag twice or closed with reads under way, ... */
};
struct cn_fake_books cn_fake_books_get(struct cn_fake *fake);

#endif
