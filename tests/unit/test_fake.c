/* SPDX-License-Identifier: Apache-2.0 */
/* The fake system does what a test orders, once, and counts what it should. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "os/fake/fake.h"

#define GRANULE 65536u
#define SIZE    4096u

static unsigned char content[SIZE];

struct rig {
    struct cn_fake *fake;
    struct cn_os *os;
    int fd;
};

static int open_fd(struct cn_os *os, const char *path, int flags)
{
    int fd = -1;
    int error = os->ops->file_open(os, path, flags, &fd);
    return error == 0 ? fd : error;
}

static int rig_up(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    rig->fake = cn_fake_create();
    rig->os = cn_fake_os(rig->fake);
    for (unsigned i = 0; i < SIZE; i++)
        content[i] = (unsigned char)(i * 7 + i / 256);
    assert_int_equal(cn_fake_file_add(rig->fake, "/model", content, SIZE), 0);
    rig->fd = open_fd(rig->os, "/model", 0);
    assert_int_equal(rig->fd, CN_FAKE_FD_FIRST);
    *state = rig;
    return 0;
}

static int rig_down(void **state)
{
    struct rig *rig = *state;
    cn_fake_destroy(rig->fake);
    free(rig);
    return 0;
}

static int64_t read_at(struct rig *rig, void *data, size_t size, uint64_t offset)
{
    return rig->os->ops->file_pread(rig->os, rig->fd, data, size, offset);
}

static void test_reads(void **state)
{
    struct rig *rig = *state;
    unsigned char data[SIZE + 100];
    assert_int_equal(read_at(rig, data, sizeof data, 0), SIZE);
    assert_memory_equal(data, content, SIZE);
    assert_int_equal(read_at(rig, data, 10, 1234), 10);
    assert_memory_equal(data, content + 1234, 10);
    assert_int_equal(read_at(rig, data, 10, SIZE), 0);
    assert_int_equal(read_at(rig, data, 10, UINT64_MAX), 0);
    assert_int_equal(cn_fake_books_get(rig->fake).read_bytes, SIZE + 10);
    rig->os->ops->file_close(rig->os, rig->fd);
    assert_int_equal(cn_fake_books_get(rig->fake).open_files, 0);
    assert_int_equal(read_at(rig, data, 10, 0), -EBADF);
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 1);
}

static void test_missing_file(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(open_fd(rig->os, "/no/such/file", 0), -ENOENT);
    assert_int_equal(cn_fake_books_get(rig->fake).open_files, 1);
}

static void test_read_faults(void **state)
{
    struct rig *rig = *state;
    unsigned char data[100];
    uint64_t before_ns = rig->os->ops->clock_ns(rig->os);
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_SHORT, 2, 1, 3});
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_ERROR, 3, 2, EIO});
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_DELAY, 4, 1, 5000});
    assert_int_equal(read_at(rig, data, 100, 0), 100);
    assert_int_equal(read_at(rig, data, 100, 0), 3);
    assert_memory_equal(data, content, 3);
    assert_memory_not_equal(data + 3, content + 3, 97);
    assert_int_equal(read_at(rig, data, 100, 0), -EIO);
    assert_int_equal(rig->os->ops->clock_ns(rig->os), before_ns);
    assert_int_equal(read_at(rig, data, 100, 0), -EIO);
    assert_int_equal(rig->os->ops->clock_ns(rig->os), before_ns + 5000);
    assert_int_equal(read_at(rig, data, 100, 0), 100);
    assert_int_equal(cn_fake_calls(rig->fake, CN_FAKE_READ), 5);
}

static void test_fault_always(void **state)
{
    struct rig *rig = *state;
    unsigned char data[8];
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_ERROR, 2, CN_FAKE_ALWAYS, EIO});
    assert_int_equal(read_at(rig, data, 8, 0), 8);
    for (int i = 0; i < 5; i++)
        assert_int_equal(read_at(rig, data, 8, 0), -EIO);
    cn_fake_faults_clear(rig->fake);
    assert_int_equal(read_at(rig, data, 8, 0), 8);
}

static void test_truncation_and_change(void **state)
{
    struct rig *rig = *state;
    unsigned char data[SIZE];
    struct cn_os_file_stat before, after;
    assert_int_equal(rig->os->ops->file_stat(rig->os, rig->fd, &before), 0);
    assert_int_equal(before.size_bytes, SIZE);
    assert_true(before.regular);
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_TRUNCATE, 2, 1, 1000});
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_CHANGE, 2, 1, 77});
    assert_int_equal(read_at(rig, data, SIZE, 0), SIZE);
    assert_int_equal(read_at(rig, data, SIZE, 0), 1000);
    assert_int_equal(read_at(rig, data, 10, 1000), 0);
    assert_int_equal(rig->os->ops->file_stat(rig->os, rig->fd, &after), 0);
    assert_int_equal(after.size_bytes, 1000);
    assert_int_equal(after.mtime_ns, before.mtime_ns + 77);
    cn_fake_faults_clear(rig->fake);
    assert_int_equal(read_at(rig, data, SIZE, 0), SIZE);
    cn_fake_file_truncate(rig->fake, "/model", 5);
    assert_int_equal(read_at(rig, data, SIZE, 0), 5);
}

static void test_replaced_file(void **state)
{
    struct rig *rig = *state;
    unsigned char data[16];
    struct cn_os_file_stat old_stat, new_stat;
    assert_int_equal(cn_fake_file_add(rig->fake, "/model", "new", 3), 0);
    assert_int_equal(read_at(rig, data, 16, 0), 16); /* the old descriptor, the old bytes */
    assert_memory_equal(data, content, 16);
    assert_int_equal(rig->os->ops->file_stat(rig->os, rig->fd, &old_stat), 0);
    rig->fd = open_fd(rig->os, "/model", 0);
    assert_int_equal(read_at(rig, data, 16, 0), 3);
    assert_int_equal(rig->os->ops->file_stat(rig->os, rig->fd, &new_stat), 0);
    assert_int_not_equal(old_stat.inode, new_stat.inode);
}

static void test_direct(void **state)
{
    struct rig *rig = *state;
    _Alignas(CN_FAKE_DIRECT_BYTES) unsigned char data[2 * CN_FAKE_DIRECT_BYTES];
    rig->fd = open_fd(rig->os, "/model", CN_OS_OPEN_DIRECT);
    assert_true(rig->fd >= CN_FAKE_FD_FIRST);
    assert_int_equal(read_at(rig, data, CN_FAKE_DIRECT_BYTES, CN_FAKE_DIRECT_BYTES),
                     CN_FAKE_DIRECT_BYTES);
    assert_memory_equal(data, content + CN_FAKE_DIRECT_BYTES, CN_FAKE_DIRECT_BYTES);
    assert_int_equal(read_at(rig, data, CN_FAKE_DIRECT_BYTES, 1), -EINVAL);
    assert_int_equal(read_at(rig, data, 100, 0), -EINVAL);
    assert_int_equal(read_at(rig, data + 1, CN_FAKE_DIRECT_BYTES, 0), -EINVAL);
    /* A short read may have any length. */
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_SHORT, 1, 1, 3});
    assert_int_equal(read_at(rig, data, CN_FAKE_DIRECT_BYTES, 0), 3);
    cn_fake_direct_set(rig->fake, CN_FAKE_DIRECT_FAILS_READ);
    assert_int_equal(read_at(rig, data, CN_FAKE_DIRECT_BYTES, 0), -EINVAL);
    cn_fake_direct_set(rig->fake, CN_FAKE_DIRECT_FAILS_OPEN);
    assert_int_equal(open_fd(rig->os, "/model", CN_OS_OPEN_DIRECT), -EINVAL);
    assert_true(open_fd(rig->os, "/model", 0) >= CN_FAKE_FD_FIRST);
}

static void test_real_file(void **state)
{
    struct rig *rig = *state;
    unsigned char data[SIZE];
    char path[] = TEST_SCRATCH_DIR "/fake_XXXXXX";
    int raw = mkstemp(path);
    assert_true(raw >= 0);
    assert_int_equal(write(raw, content, SIZE), SIZE);
    close(raw);
    rig->fd = open_fd(rig->os, path, 0);
    unlink(path);
    assert_true(rig->fd >= CN_FAKE_FD_FIRST);
    assert_int_equal(read_at(rig, data, SIZE, 0), SIZE);
    assert_memory_equal(data, content, SIZE);
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_SHORT, 1, 1, 9});
    assert_int_equal(read_at(rig, data, 100, 50), 9);
    assert_memory_equal(data, content + 50, 9);
    assert_memory_not_equal(data + 9, content + 59, 91);
    cn_fake_file_truncate(rig->fake, path, 60);
    assert_int_equal(read_at(rig, data, 100, 50), 10);
    struct cn_os_file_stat stat;
    assert_int_equal(rig->os->ops->file_stat(rig->os, rig->fd, &stat), 0);
    assert_int_equal(stat.size_bytes, 60);
}

static int collect_name(void *context, const char *name)
{
    char *names = context;
    strcat(strcat(names, name), " ");
    return strcmp(name, "stop") == 0;
}

static void test_folder(void **state)
{
    struct rig *rig = *state;
    const struct cn_os_ops *ops = rig->os->ops;
    char names[256] = "";
    assert_int_equal(cn_fake_file_add(rig->fake, "/no/dir/a", "", 0), 0);
    assert_int_equal(cn_fake_file_add(rig->fake, "/no/dir/deep/b", "", 0), 0);
    assert_int_equal(cn_fake_file_add(rig->fake, "/no/dir/stop", "", 0), 0);
    assert_int_equal(cn_fake_file_add(rig->fake, "/no/dir/c", "", 0), 0);
    assert_int_equal(ops->directory_each(rig->os, "/no/dir/", collect_name, names), 0);
    assert_string_equal(names, "a stop ");
    assert_int_equal(ops->directory_each(rig->os, "/no/such/dir", collect_name, names), -ENOENT);
    cn_fake_fail(rig->fake, CN_FAKE_LIST, 1, EIO);
    assert_int_equal(ops->directory_each(rig->os, "/no/dir", collect_name, names), -EIO);
    char real[] = TEST_SCRATCH_DIR "/folder_XXXXXX";
    assert_non_null(mkdtemp(real));
    names[0] = '\0';
    assert_int_equal(ops->directory_each(rig->os, real, collect_name, names), 0);
    assert_string_equal(names, "");
    rmdir(real);
}

static void test_orders(void **state)
{
    struct rig *rig = *state;
    struct cn_os_file_stat stat;
    cn_fake_fail(rig->fake, CN_FAKE_OPEN, 2, EACCES);
    cn_fake_fail(rig->fake, CN_FAKE_STAT, 1, EIO);
    assert_true(open_fd(rig->os, "/model", 0) >= CN_FAKE_FD_FIRST);
    assert_int_equal(open_fd(rig->os, "/model", 0), -EACCES);
    assert_true(open_fd(rig->os, "/model", 0) >= CN_FAKE_FD_FIRST);
    assert_int_equal(rig->os->ops->file_stat(rig->os, rig->fd, &stat), -EIO);
    assert_int_equal(rig->os->ops->file_stat(rig->os, rig->fd, &stat), 0);
}

static void test_memory(void **state)
{
    struct rig *rig = *state;
    const struct cn_os_ops *ops = rig->os->ops;
    void *base = NULL;
    cn_fake_fail(rig->fake, CN_FAKE_MEMORY, 3, ENOMEM);
    assert_int_equal(ops->memory_reserve(rig->os, 4 * GRANULE, &base), 0);
    assert_int_equal(ops->memory_commit(rig->os, base, GRANULE, false), 0);
    char *second = (char *)base + GRANULE;
    assert_int_equal(ops->memory_commit(rig->os, second, GRANULE, false), -ENOMEM);
    assert_int_equal(cn_fake_books_get(rig->fake).committed_bytes, GRANULE);
    assert_int_equal(ops->memory_commit(rig->os, second, 3 * GRANULE, false), 0);
    assert_int_equal(cn_fake_books_get(rig->fake).committed_bytes, 4 * GRANULE);
    memset(base, 1, 4 * GRANULE);
    ops->memory_decommit(rig->os, second, GRANULE);
    assert_int_equal(cn_fake_books_get(rig->fake).committed_bytes, 3 * GRANULE);
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 0);
    /* A remap that fails gets half way; what it takes the place of is not counted any more. */
    char *base_bytes = base;
    base_bytes[GRANULE * 2] = 7, base_bytes[GRANULE * 3] = 8;
    cn_fake_fail(rig->fake, CN_FAKE_REMAP, 1, ENOMEM);
    assert_int_equal(ops->memory_remap(rig->os, second + GRANULE, base, 2 * GRANULE), GRANULE);
    assert_int_equal(base_bytes[0], 7);
    assert_int_equal(base_bytes[3 * GRANULE], 8);
    assert_int_equal(cn_fake_books_get(rig->fake).committed_bytes, 2 * GRANULE);
    cn_fake_fail(rig->fake, CN_FAKE_REMAP, 1, ENOMEM);
    assert_int_equal(ops->memory_remap(rig->os, base, second, GRANULE), -ENOMEM);
    assert_int_equal(ops->memory_remap(rig->os, base, second, GRANULE), GRANULE);
    assert_int_equal(second[0], 7);
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 0);
    assert_int_equal(ops->memory_remap(rig->os, second, second, GRANULE), -EINVAL);
    assert_int_equal(ops->memory_remap(rig->os, base, base_bytes + 3 * GRANULE, GRANULE), -EINVAL);
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 2);
    assert_int_equal(ops->memory_commit(rig->os, base, GRANULE, false), 0);
    assert_int_equal(ops->memory_commit(rig->os, second + GRANULE, GRANULE, false), 0);
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 2);
    /* Twice, and past the end. */
    assert_int_equal(ops->memory_commit(rig->os, base, GRANULE, false), 0);
    assert_int_equal(ops->memory_commit(rig->os, second, 4 * GRANULE, false), -EINVAL);
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 4);
    ops->memory_release(rig->os, base, 4 * GRANULE);
    struct cn_fake_books books = cn_fake_books_get(rig->fake);
    assert_int_equal(books.committed_bytes, 0);
    assert_int_equal(books.committed_peak_bytes, 4 * GRANULE);
    assert_int_equal(books.reservations, 0);
    assert_int_equal(books.reserved_bytes, 0);
}

static void test_clock(void **state)
{
    struct rig *rig = *state;
    uint64_t before_ns = rig->os->ops->clock_ns(rig->os);
    rig->os->ops->sleep_ns(rig->os, UINT64_C(3600000000000));
    assert_int_equal(rig->os->ops->clock_ns(rig->os) - before_ns, UINT64_C(3600000000000));
}

/* ---- the disk and its rings ---- */

#define US 1000u

static struct cn_os_ring *ring_of(struct rig *rig)
{
    struct cn_os_ring *ring = NULL;
    struct cn_os_ring_options options = {.depth = 4, .fds = &rig->fd, .fd_count = 1};
    assert_int_equal(rig->os->ops->ring_open(rig->os, &options, &ring), 0);
    return ring;
}

static int enter(struct rig *rig, struct cn_os_ring *ring, uint32_t tag_count, unsigned char *data,
                 bool wait)
{
    struct cn_os_ring_read reads[4];
    for (uint32_t i = 0; i < tag_count; i++)
        reads[i] = (struct cn_os_ring_read){.tag = i,
                                            .offset_bytes = i * 1000,
                                            .size_bytes = 1000,
                                            .data = data + (size_t)i * 1000};
    return rig->os->ops->ring_enter(rig->os, ring, reads, tag_count, wait);
}

/* The bus carries a read after the other, then each takes the latency; nothing is there before. */
static void test_ring_times(void **state)
{
    struct rig *rig = *state;
    const struct cn_os_ops *ops = rig->os->ops;
    struct cn_fake_disk disk = {.latency_ns = 500 * US, .bytes_per_s = 10000000};
    struct cn_os_ring_done done[4];
    unsigned char data[4000] = {0};
    cn_fake_disk_set(rig->fake, &disk); /* 100 us for 1000 bytes */
    struct cn_os_ring *ring = ring_of(rig);
    uint64_t start_ns = ops->clock_ns(rig->os);
    assert_int_equal(enter(rig, ring, 4, data, false), 4);
    assert_int_equal(cn_fake_books_get(rig->fake).ring_reads, 4);
    assert_int_equal(ops->ring_reap(rig->os, ring, done, 4), 0);
    assert_memory_not_equal(data, content, 1000);
    assert_int_equal(ops->ring_enter(rig->os, ring, NULL, 0, true), 0);
    assert_int_equal(ops->clock_ns(rig->os) - start_ns, 600 * US);
    assert_int_equal(ops->ring_reap(rig->os, ring, done, 4), 1);
    assert_int_equal(done[0].tag, 0);
    assert_int_equal(done[0].result, 1000);
    assert_memory_equal(data, content, 1000);
    assert_memory_not_equal(data + 1000, content + 1000, 1000);
    ops->sleep_ns(rig->os, 200 * US);
    assert_int_equal(ops->ring_reap(rig->os, ring, done, 4), 2);
    assert_int_equal(ops->ring_enter(rig->os, ring, NULL, 0, true), 0);
    assert_int_equal(ops->clock_ns(rig->os) - start_ns, 900 * US);
    assert_int_equal(ops->ring_reap(rig->os, ring, done, 4), 1);
    assert_memory_equal(data, content, 4000);
    /* one lane: bus and latency of one read after the other */
    disk.lanes = 1;
    cn_fake_disk_set(rig->fake, &disk);
    start_ns = ops->clock_ns(rig->os);
    assert_int_equal(enter(rig, ring, 2, data, false), 2);
    ops->sleep_ns(rig->os, 1200 * US - 1);
    assert_int_equal(ops->ring_reap(rig->os, ring, done, 4), 1);
    ops->sleep_ns(rig->os, 1);
    assert_int_equal(ops->ring_reap(rig->os, ring, done, 4), 1);
    /* a synchronous read takes its time as well */
    start_ns = ops->clock_ns(rig->os);
    assert_int_equal(read_at(rig, data, 1000, 0), 1000);
    assert_int_equal(ops->clock_ns(rig->os) - start_ns, 600 * US);
    ops->ring_close(rig->os, ring);
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 0);
}

static void test_ring_faults(void **state)
{
    struct rig *rig = *state;
    const struct cn_os_ops *ops = rig->os->ops;
    struct cn_os_ring_done done[4];
    unsigned char data[4000] = {0};
    struct cn_os_ring *ring = ring_of(rig);
    uint64_t start_ns = ops->clock_ns(rig->os);
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_ERROR, 1, 1, EIO});
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_SHORT, 2, 1, 10});
    cn_fake_fault_add(rig->fake, (struct cn_fake_fault){CN_FAULT_DELAY, 3, 1, 700});
    assert_int_equal(enter(rig, ring, 3, data, false), 3);
    assert_int_equal(ops->clock_ns(rig->os), start_ns);
    assert_int_equal(ops->ring_reap(rig->os, ring, done, 4), 2);
    assert_int_equal(done[0].result, -EIO);
    assert_int_equal(done[1].result, 10);
    assert_memory_equal(data + 1000, content + 1000, 10);
    assert_memory_not_equal(data + 1010, content + 1010, 990);
    assert_int_equal(ops->ring_enter(rig->os, ring, NULL, 0, true), 0);
    assert_int_equal(ops->clock_ns(rig->os), start_ns + 700);
    assert_int_equal(ops->ring_reap(rig->os, ring, done, 4), 1);
    cn_fake_fail(rig->fake, CN_FAKE_RING_ENTER, 1, EAGAIN);
    assert_int_equal(enter(rig, ring, 1, data, true), -EAGAIN);
    assert_int_equal(cn_fake_books_get(rig->fake).ring_reads, 0);
    struct cn_fake_disk often = {.interrupt_per_mille = 1000, .latency_ns = 50};
    cn_fake_disk_set(rig->fake, &often);
    assert_int_equal(enter(rig, ring, 1, data, true), 1);
    assert_int_equal(ops->ring_reap(rig->os, ring, done, 4), 0);
    assert_int_equal(ops->ring_enter(rig->os, ring, NULL, 0, true), -EINTR);
    /* what a caller must not do */
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 0);
    assert_int_equal(enter(rig, ring, 1, data, false), -EINVAL); /* the tag is under way */
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 1);
    ops->ring_close(rig->os, ring); /* and so is its read */
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 2);
    assert_int_equal(cn_fake_books_get(rig->fake).open_rings, 0);
}

static void test_ring_overtaking(void **state)
{
    struct rig *rig = *state;
    const struct cn_os_ops *ops = rig->os->ops;
    struct cn_fake_disk disk = {.latency_random_ns = 1000 * US};
    struct cn_os_ring_done done[4];
    unsigned char data[4000];
    unsigned overtaken = 0, cancelled = 0;
    struct cn_os_ring *ring = ring_of(rig);
    for (disk.seed = 0; disk.seed < 100; disk.seed++) {
        cn_fake_disk_set(rig->fake, &disk);
        assert_int_equal(enter(rig, ring, 2, data, false), 2);
        if (disk.seed % 2 == 0)
            ops->ring_cancel(rig->os, ring, (const uint32_t[]){0, 1}, 2);
        ops->sleep_ns(rig->os, 1000 * US);
        assert_int_equal(ops->ring_reap(rig->os, ring, done, 4), 2);
        overtaken += done[0].tag == 1;
        cancelled += done[0].result == -ECANCELED;
        assert_true(disk.seed % 2 == 0 || done[0].result == 1000);
    }
    assert_true(overtaken > 20 && overtaken < 80);
    assert_true(cancelled > 10 && cancelled < 50);
    ops->ring_close(rig->os, ring);
    cn_fake_fail(rig->fake, CN_FAKE_RING_OPEN, 1, EPERM);
    struct cn_os_ring_options options = {.depth = 4, .fds = &rig->fd, .fd_count = 1};
    assert_int_equal(ops->ring_open(rig->os, &options, &ring), -EPERM);
    assert_int_equal(cn_fake_books_get(rig->fake).misuse_count, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_up, rig_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reads),
        TEST(test_missing_file),
        TEST(test_read_faults),
        TEST(test_fault_always),
        TEST(test_truncation_and_change),
        TEST(test_replaced_file),
        TEST(test_direct),
        TEST(test_real_file),
        TEST(test_folder),
        TEST(test_orders),
        TEST(test_memory),
        TEST(test_clock),
        TEST(test_ring_times),
        TEST(test_ring_faults),
        TEST(test_ring_overtaking),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
