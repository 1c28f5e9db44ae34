/* SPDX-License-Identifier: Apache-2.0 */
/* The reader's contract, kept by both engines on real files, buffered and direct, and on the fake
 * system; and what the ring engine makes of a kernel that refuses. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint.h"
#include "os/fake/fake.h"
#include "reader_fixture.h"
#include "shadow.h"
#include "weights/reader.h"

#define FILE_BYTES   ((uint64_t)12 << 20)
#define BLOCK        ((uint64_t)4096)
#define BUFFER_BYTES ((size_t)8 << 20)

/* On two file systems, of which the second keeps its files in memory. */
static char on_disk[] = TEST_SCRATCH_DIR "/reader_XXXXXX";
static char in_memory[] = "/dev/shm/cenote_reader_XXXXXX";
static const char *path = on_disk;
static char *buffers;

/* ---- a reader over one file ---- */

struct rig {
    struct cn_os *os;
    struct cn_reader *reader;
    int fd;
};

struct way {
    enum cn_reader_engine engine;
    int open_flags;
};
static const struct way ways[] = {
    {CN_READER_URING, 0},
    {CN_READER_URING, CN_OS_OPEN_DIRECT},
    {CN_READER_PREAD, 0},
    {CN_READER_PREAD, CN_OS_OPEN_DIRECT},
};
#define WAYS (sizeof ways / sizeof ways[0])

/* false: this machine does not have it, which the test says. */
static bool rig_open(struct rig *rig, struct cn_os *os, struct way way, uint32_t depth)
{
    cenote_error err;
    rig->os = os;
    int rc = os->ops->file_open(os, path, way.open_flags, &rig->fd);
    if (rc == -EINVAL && way.open_flags == CN_OS_OPEN_DIRECT) {
        print_message("no O_DIRECT for %s\n", path);
        return false;
    }
    assert_int_equal(rc, 0);
    struct cn_reader_options options = {.engine = way.engine,
                                        .depth = depth,
                                        .buffers = buffers,
                                        .buffers_bytes = BUFFER_BYTES,
                                        .fds = &rig->fd,
                                        .fd_count = 1};
    cenote_status status = cn_reader_create(os, &options, &rig->reader, &err);
    if (status == CENOTE_E_UNSUPPORTED) {
        print_message("%s\n", err.message);
        os->ops->file_close(os, rig->fd);
        return false;
    }
    assert_int_equal(status, CENOTE_OK);
    return true;
}

static void rig_close(struct rig *rig)
{
    cn_reader_destroy(rig->reader);
    rig->os->ops->file_close(rig->os, rig->fd);
}

static void submit(struct rig *rig, uint32_t tag, uint64_t offset, uint32_t size, void *data)
{
    struct cn_reader_request request = {tag, 0, offset, size, data};
    cn_reader_submit(rig->reader, &request);
}

static void expect_next(struct rig *rig, uint32_t tag, int64_t result)
{
    struct cn_reader_result got = {0};
    assert_true(cn_reader_next(rig->reader, true, &got));
    assert_int_equal(got.tag, tag);
    assert_int_equal(got.result, result);
}

static void expect_nothing(struct rig *rig)
{
    struct cn_reader_result got;
    assert_int_equal(cn_reader_under_way(rig->reader), 0);
    assert_false(cn_reader_next(rig->reader, false, &got));
    assert_false(cn_reader_next(rig->reader, true, &got));
}

static void expect_bytes(const void *data, uint64_t offset, size_t size)
{
    assert_int_equal(test_pattern_right(data, offset, size), size);
}

static bool all_equal(char value)
{
    return buffers[0] == value && memcmp(buffers, buffers + 1, BUFFER_BYTES - 1) == 0;
}

/* ---- the contract ---- */

static void one_by_one(struct rig *rig)
{
    expect_nothing(rig);
    submit(rig, 7, 0, 65536, buffers);
    assert_int_equal(cn_reader_under_way(rig->reader), 1);
    expect_next(rig, 7, 65536);
    expect_bytes(buffers, 0, 65536);
    submit(rig, UINT32_MAX, FILE_BYTES - BLOCK, BLOCK, buffers + BLOCK);
    expect_next(rig, UINT32_MAX, BLOCK);
    expect_bytes(buffers + BLOCK, FILE_BYTES - BLOCK, BLOCK);
    expect_nothing(rig);
}

static void many(struct rig *rig, uint32_t depth)
{
    bool seen[256] = {false};
    size_t size = BUFFER_BYTES / depth / BLOCK * BLOCK;
    memset(buffers, 0, BUFFER_BYTES);
    for (uint32_t i = 0; i < depth; i++)
        submit(rig, i, (depth - i) * 3 * BLOCK, (uint32_t)size, buffers + i * size);
    assert_int_equal(cn_reader_under_way(rig->reader), depth);
    for (uint32_t i = 0; i < depth; i++) {
        struct cn_reader_result got;
        assert_true(cn_reader_next(rig->reader, true, &got));
        assert_true(got.tag < depth && !seen[got.tag]);
        seen[got.tag] = true;
        assert_int_equal(got.result, size);
        expect_bytes(buffers + got.tag * size, (depth - got.tag) * 3 * BLOCK, size);
    }
    expect_nothing(rig);
}

/* The file's end, past it, a file that does not exist in the kernel's eyes, memory that is not
 * there: as one pread. */
static void ends_and_errors(struct rig *rig)
{
    submit(rig, 1, FILE_BYTES - BLOCK, 4 * BLOCK, buffers);
    expect_next(rig, 1, BLOCK);
    expect_bytes(buffers, FILE_BYTES - BLOCK, BLOCK);
    submit(rig, 2, FILE_BYTES, BLOCK, buffers);
    expect_next(rig, 2, 0);
    submit(rig, 3, FILE_BYTES + 100 * BLOCK, BLOCK, buffers);
    expect_next(rig, 3, 0);
}

static void outside_of_the_region(struct rig *rig)
{
    void *other;
    assert_int_equal(posix_memalign(&other, BLOCK, 4 * BLOCK), 0);
    submit(rig, 1, BLOCK, 4 * BLOCK, other);
    submit(rig, 2, 0, BLOCK, buffers + BUFFER_BYTES - BLOCK);
    struct cn_reader_result got;
    assert_true(cn_reader_next(rig->reader, true, &got));
    assert_true(cn_reader_next(rig->reader, true, &got));
    expect_bytes(other, BLOCK, 4 * BLOCK);
    expect_bytes(buffers + BUFFER_BYTES - BLOCK, 0, BLOCK);
    free(other);
}

/* Larger than any device takes at once. */
static void large(struct rig *rig)
{
    memset(buffers, 0, BUFFER_BYTES);
    submit(rig, 1, BLOCK, (uint32_t)BUFFER_BYTES, buffers);
    struct cn_reader_result got;
    uint64_t have = 0;
    while (cn_reader_next(rig->reader, true, &got)) {
        assert_true(got.result > 0 && got.result % BLOCK == 0);
        have += (uint64_t)got.result;
        if (have < BUFFER_BYTES)
            submit(rig, 1, BLOCK + have, (uint32_t)(BUFFER_BYTES - have), buffers + have);
    }
    assert_int_equal(have, BUFFER_BYTES);
    expect_bytes(buffers, BLOCK, BUFFER_BYTES);
}

static void polled(struct rig *rig)
{
    struct cn_reader_result got;
    for (uint32_t i = 0; i < 4; i++)
        submit(rig, i, i * BLOCK, BLOCK, buffers + i * BLOCK);
    for (uint32_t done = 0; done < 4;) {
        if (cn_reader_next(rig->reader, false, &got)) {
            assert_int_equal(got.result, BLOCK);
            done++;
        } else {
            rig->os->ops->sleep_ns(rig->os, 100000);
        }
    }
    expect_nothing(rig);
}

/* Nobody writes to the buffers after it, and the reader goes on. */
static void drained(struct rig *rig, uint32_t depth)
{
    size_t size = BUFFER_BYTES / depth / BLOCK * BLOCK;
    for (uint32_t round = 0; round < 8; round++) {
        for (uint32_t i = 0; i < depth; i++)
            submit(rig, i, i * BLOCK, (uint32_t)size, buffers + i * size);
        struct cn_reader_result got;
        if (round % 2 == 1)
            assert_true(cn_reader_next(rig->reader, true, &got));
        cn_reader_drain(rig->reader);
        expect_nothing(rig);
        memset(buffers, (int)round, BUFFER_BYTES);
        rig->os->ops->sleep_ns(rig->os, 2000000);
        assert_true(all_equal((char)round));
    }
    one_by_one(rig);
}

static void keep_contract(struct cn_os *os, struct way way)
{
    static const uint32_t depths[] = {1, 3, 16, 256};
    for (unsigned i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        struct rig rig;
        if (!rig_open(&rig, os, way, depths[i]))
            return;
        one_by_one(&rig);
        many(&rig, depths[i]);
        ends_and_errors(&rig);
        large(&rig);
        if (depths[i] >= 4) {
            outside_of_the_region(&rig);
            polled(&rig);
        }
        drained(&rig, depths[i]);
        rig_close(&rig);
    }
}

static void test_contract_linux(void **state)
{
    (void)state;
    unsigned fds = test_fd_count(), threads = test_thread_count();
    for (unsigned i = 0; i < WAYS; i++)
        keep_contract(cn_os_linux(), ways[i]);
    if (access("/dev/shm", W_OK) == 0) {
        test_pattern_file(in_memory, 0, FILE_BYTES);
        path = in_memory;
        for (unsigned i = 0; i < WAYS; i++)
            keep_contract(cn_os_linux(), ways[i]);
        path = on_disk;
        unlink(in_memory);
    }
    assert_int_equal(test_fd_count(), fds);
    assert_int_equal(test_thread_count(), threads);
}

static void expect_clean(struct cn_fake *fake)
{
    struct cn_fake_books books = cn_fake_books_get(fake);
    assert_int_equal(books.open_files, 0);
    assert_int_equal(books.open_rings, 0);
    assert_int_equal(books.ring_reads, 0);
    assert_int_equal(books.misuse_count, 0);
}

static void test_contract_fake(void **state)
{
    (void)state;
    struct cn_fake *fake = cn_fake_create();
    struct cn_fake_disk disk = {.seed = 1, .latency_ns = 80000, .latency_random_ns = 500000};
    for (unsigned i = 0; i < WAYS; i++) {
        keep_contract(cn_fake_os(fake), ways[i]);
        cn_fake_disk_set(fake, &disk);
        keep_contract(cn_fake_os(fake), ways[i]);
    }
    expect_clean(fake);
    cn_fake_destroy(fake);
}

/* Destroyed with reads in every state: nothing leaks, nothing is written later. */
static void test_destroy_under_way(void **state)
{
    (void)state;
    unsigned fds = test_fd_count(), threads = test_thread_count();
    for (unsigned i = 0; i < WAYS; i++) {
        struct rig rig;
        if (!rig_open(&rig, cn_os_linux(), ways[i], 16))
            continue;
        for (uint32_t j = 0; j < 16; j++)
            submit(&rig, j, j * BLOCK, 256 * 1024, buffers + j * 262144);
        rig_close(&rig);
        memset(buffers, 1, BUFFER_BYTES);
        usleep(2000);
        assert_true(all_equal(1));
    }
    cn_reader_destroy(NULL);
    assert_int_equal(test_fd_count(), fds);
    assert_int_equal(test_thread_count(), threads);
}

/* ---- signals ---- */

static pthread_t owner;
static volatile sig_atomic_t rings, elsewhere;

static void on_alarm(int number)
{
    (void)number;
    rings++;
    elsewhere += !pthread_equal(pthread_self(), owner);
}

/* A program with a timer: its handler runs on its own thread, waits go on after it. */
static void test_signals(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = on_alarm}, before; /* no SA_RESTART */
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    owner = pthread_self();
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    for (unsigned i = 0; i < WAYS; i++) {
        struct rig rig;
        if (!rig_open(&rig, cn_os_linux(), ways[i], 4))
            continue;
        rings = 0;
        assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
        for (unsigned round = 0; round < 2000 && rings < 50; round++)
            many(&rig, 4);
        assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
        assert_true(rings >= 50);
        rig_close(&rig);
    }
    assert_int_equal(elsewhere, 0);
    assert_int_equal(sigaction(SIGALRM, &before, NULL), 0);
}

/* ---- options and engines ---- */

static void test_options(void **state)
{
    (void)state;
    int fd = 0;
    struct cn_reader *reader = NULL;
    cenote_error err;
    struct cn_reader_options good = {
        .engine = CN_READER_PREAD, .depth = 4, .fds = &fd, .fd_count = 1};
    struct cn_reader_options bad = good;
    bad.depth = 0;
    assert_int_equal(cn_reader_create(cn_os_linux(), &bad, &reader, &err), CENOTE_E_INVAL);
    bad.depth = 257;
    assert_int_equal(cn_reader_create(cn_os_linux(), &bad, &reader, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "257"));
    bad = good;
    bad.thread_count = 17;
    assert_int_equal(cn_reader_create(cn_os_linux(), &bad, &reader, &err), CENOTE_E_INVAL);
    bad = good;
    bad.fd_count = 0;
    assert_int_equal(cn_reader_create(cn_os_linux(), &bad, &reader, &err), CENOTE_E_INVAL);
    assert_null(reader);
    unsigned threads = test_thread_count();
    assert_int_equal(cn_reader_create(cn_os_linux(), &good, &reader, NULL), CENOTE_OK);
    assert_string_equal(cn_reader_engine_text(reader), "pread");
    assert_false(cn_reader_registered(reader));
    assert_int_equal(test_thread_count(), threads + 4);
    cn_reader_destroy(reader);
    good.depth = 2; /* no more threads than reads */
    assert_int_equal(cn_reader_create(cn_os_linux(), &good, &reader, NULL), CENOTE_OK);
    assert_int_equal(test_thread_count(), threads + 2);
    cn_reader_destroy(reader);
}

/* The kernel says no in each of its ways: AUTO takes the pool, URING says why. */
static void test_ring_refused(void **state)
{
    (void)state;
    static const int codes[] = {ENOSYS, EPERM, EACCES, ENOMEM, EMFILE, EINVAL};
    struct cn_fake *fake = cn_fake_create();
    struct rig rig;
    for (unsigned i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        cn_fake_fail(fake, CN_FAKE_RING_OPEN, 1, codes[i]);
        assert_true(rig_open(&rig, cn_fake_os(fake), (struct way){CN_READER_AUTO, 0}, 4));
        assert_string_equal(cn_reader_engine_text(rig.reader), "pread");
        one_by_one(&rig);
        rig_close(&rig);
        struct cn_reader *none = NULL;
        cenote_error err;
        struct cn_reader_options options = {
            .engine = CN_READER_URING, .depth = 4, .fds = &rig.fd, .fd_count = 1};
        cn_fake_fail(fake, CN_FAKE_RING_OPEN, 1, codes[i]);
        assert_int_equal(cn_reader_create(cn_fake_os(fake), &options, &none, &err),
                         CENOTE_E_UNSUPPORTED);
        assert_non_null(strstr(err.message, "io_uring"));
        assert_non_null(strstr(err.message, strerror(codes[i])));
        assert_null(none);
    }
    assert_true(rig_open(&rig, cn_fake_os(fake), (struct way){CN_READER_AUTO, 0}, 4));
    assert_string_equal(cn_reader_engine_text(rig.reader), "io_uring");
    assert_true(cn_reader_registered(rig.reader));
    rig_close(&rig);
    cn_fake_fail(fake, CN_FAKE_RING_REGISTER, 1, ENOMEM);
    assert_true(rig_open(&rig, cn_fake_os(fake), (struct way){CN_READER_AUTO, 0}, 4));
    assert_string_equal(cn_reader_engine_text(rig.reader), "io_uring");
    assert_false(cn_reader_registered(rig.reader));
    one_by_one(&rig);
    rig_close(&rig);
    expect_clean(fake);
    cn_fake_destroy(fake);
}

/* ---- faults ---- */

static void test_interruptions(void **state)
{
    (void)state;
    static const int codes[] = {EINTR, EAGAIN};
    struct cn_fake *fake = cn_fake_create();
    for (unsigned i = 0; i < WAYS; i++) {
        struct rig rig;
        assert_true(rig_open(&rig, cn_fake_os(fake), ways[i], 4));
        for (unsigned j = 0; j < 2; j++) {
            cn_fake_fault_add(fake,
                              (struct cn_fake_fault){CN_FAULT_ERROR, 1, 16, (uint64_t)codes[j]});
            submit(&rig, 1, 0, BLOCK, buffers);
            expect_next(&rig, 1, BLOCK);
            expect_bytes(buffers, 0, BLOCK);
            cn_fake_faults_clear(fake);
            /* not for ever */
            cn_fake_fault_add(fake, (struct cn_fake_fault){CN_FAULT_ERROR, 1, CN_FAKE_ALWAYS,
                                                           (uint64_t)codes[j]});
            submit(&rig, 2, 0, BLOCK, buffers);
            expect_next(&rig, 2, -codes[j]);
            cn_fake_faults_clear(fake);
        }
        cn_fake_fault_add(fake, (struct cn_fake_fault){CN_FAULT_ERROR, 1, 1, EIO});
        cn_fake_fault_add(fake, (struct cn_fake_fault){CN_FAULT_SHORT, 2, 1, 100});
        submit(&rig, 3, 0, BLOCK, buffers);
        expect_next(&rig, 3, -EIO);
        submit(&rig, 4, 0, BLOCK, buffers);
        expect_next(&rig, 4, 100);
        cn_fake_faults_clear(fake);
        rig_close(&rig);
    }
    expect_clean(fake);
    cn_fake_destroy(fake);
}

/* A kernel that takes nothing for a while, and one that never does again. */
static void test_nothing_taken(void **state)
{
    (void)state;
    struct cn_fake *fake = cn_fake_create();
    struct rig rig;
    assert_true(rig_open(&rig, cn_fake_os(fake), ways[0], 4));
    cn_fake_fail(fake, CN_FAKE_RING_ENTER, 1, EAGAIN);
    submit(&rig, 1, 0, BLOCK, buffers);
    expect_next(&rig, 1, BLOCK);
    expect_bytes(buffers, 0, BLOCK);
    struct cn_fake_disk disk = {.refuse_per_mille = 1000};
    cn_fake_disk_set(fake, &disk);
    uint64_t entered = cn_fake_calls(fake, CN_FAKE_RING_ENTER);
    for (uint32_t i = 0; i < 3; i++) /* with three, one or two are taken at times */
        submit(&rig, i, i * BLOCK, BLOCK, buffers + i * BLOCK);
    struct cn_reader_result got;
    while (cn_reader_next(rig.reader, true, &got)) {
        assert_int_equal(got.result, BLOCK);
        expect_bytes(buffers + got.tag * BLOCK, got.tag * BLOCK, BLOCK);
    }
    uint64_t tries = cn_fake_calls(fake, CN_FAKE_RING_ENTER) - entered;
    assert_true(tries > 100 && tries < 1000);
    rig_close(&rig);
    expect_clean(fake);
    cn_fake_destroy(fake);
}

/* ---- when the kernel is entered ---- */

/* Reads come to the kernel at once while it has little to do, in company when it has much, and at
 * the latest at next. */
static void test_batches(void **state)
{
    (void)state;
    struct cn_fake *fake = cn_fake_create();
    struct cn_fake_disk disk = {.latency_ns = 1000000};
    cn_fake_disk_set(fake, &disk);
    struct rig rig;
    struct cn_reader_result got;
    assert_true(rig_open(&rig, cn_fake_os(fake), ways[0], 16));
    for (uint32_t i = 0; i < 8; i++) {
        submit(&rig, i, 0, BLOCK, buffers + i * BLOCK);
        assert_int_equal(cn_fake_books_get(fake).ring_reads, i + 1);
    }
    for (uint32_t i = 8; i < 11; i++)
        submit(&rig, i, 0, BLOCK, buffers + i * BLOCK);
    assert_int_equal(cn_fake_books_get(fake).ring_reads, 8);
    assert_false(cn_reader_next(rig.reader, false, &got));
    assert_int_equal(cn_fake_books_get(fake).ring_reads, 11);
    uint64_t entered = cn_fake_calls(fake, CN_FAKE_RING_ENTER);
    for (uint32_t i = 11; i < 15; i++)
        submit(&rig, i, 0, BLOCK, buffers + i * BLOCK);
    assert_int_equal(cn_fake_books_get(fake).ring_reads, 15);
    assert_int_equal(cn_fake_calls(fake, CN_FAKE_RING_ENTER), entered + 1);
    /* Most of it ends while the owner computes: the disk must not wait for company. */
    rig.os->ops->sleep_ns(rig.os, 1000000);
    submit(&rig, 15, 0, BLOCK, buffers + 15 * BLOCK);
    assert_int_equal(cn_fake_books_get(fake).ring_reads, 1);
    rig_close(&rig);
    expect_clean(fake);
    cn_fake_destroy(fake);
}

/* ---- memory ---- */

static uint64_t resident_bytes(void)
{
    unsigned long long kib = 0, value;
    char line[256];
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "Rss: %llu kB", &value) == 1)
            kib = value;
    fclose(file);
    return kib * 1024;
}

/* In a child, and before other tests, for threads that ended leave their stacks to the next ones.
 * The first round is for code and such, touched for the first time; its one read needs one thread.
 */
static int measure(struct way way, uint32_t depth)
{
    struct rig rig;
    uint64_t before = 0;
    for (unsigned round = 0; round < 2; round++) {
        uint32_t now = round == 0 ? 1 : depth;
        before = resident_bytes();
        if (!rig_open(&rig, cn_os_linux(), way, now))
            return 0;
        many(&rig, now);
        if (round == 0)
            rig_close(&rig);
    }
    uint64_t during = resident_bytes();
    struct cn_reader_options options = {
        .engine = way.engine, .depth = depth, .fds = &rig.fd, .fd_count = 1};
    uint64_t bound = cn_reader_memory_bytes(&options);
    if (getenv("READER_MEMORY") != NULL)
        print_message("%s depth %u: %lld bytes, bound %llu\n", cn_reader_engine_text(rig.reader),
                      depth, (long long)(during - before), (unsigned long long)bound);
    rig_close(&rig);
    return during > before && during - before > bound;
}

/* The bound holds against what the kernel says of the process. */
static void test_memory(void **state)
{
    (void)state;
    if (SHADOW_MEMORY) {
        print_message("a sanitizer's memory is not the reader's\n");
        skip();
    }
    memset(buffers, 0, BUFFER_BYTES);
    for (unsigned i = 0; i < WAYS; i++)
        for (uint32_t depth = 1; depth <= 256; depth *= 16) {
            fflush(NULL);
            pid_t child = fork();
            assert_true(child >= 0);
            if (child == 0) {
                int failed = measure(ways[i], depth);
                fflush(NULL);
                _exit(failed);
            }
            int status;
            assert_int_equal(waitpid(child, &status, 0), child);
            assert_int_equal(status, 0);
        }
}

static void *nothing(void *argument)
{
    return argument;
}

static int group_up(void **state)
{
    (void)state;
    pthread_t thread; /* so that a sanitizer's own thread is there already, and counted */
    if (pthread_create(&thread, NULL, nothing, NULL) != 0 || pthread_join(thread, NULL) != 0)
        return -1;
    test_pattern_file(on_disk, 0, FILE_BYTES);
    return posix_memalign((void **)&buffers, BLOCK, BUFFER_BYTES);
}

static int group_down(void **state)
{
    (void)state;
    free(buffers);
    return unlink(on_disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory), /* first: see measure() */
        cmocka_unit_test(test_contract_linux),
        cmocka_unit_test(test_contract_fake),
        cmocka_unit_test(test_destroy_under_way),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_ring_refused),
        cmocka_unit_test(test_interruptions),
        cmocka_unit_test(test_nothing_taken),
        cmocka_unit_test(test_batches),
    };
    return cmocka_run_group_tests(tests, group_up, group_down);
}
