/* SPDX-License-Identifier: Apache-2.0 */
/* The measurement of a disk, on disks of which it is known how fast they are: virtual ones. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "checkpoint.h"
#include "os/fake/fake.h"
#include "weights_fixture.h"

#define MIB ((uint64_t)1 << 20)
#define MS  1000000u
#define US  1000u

static char folder[512];

struct rig {
    struct cn_fake *fake;
    cenote_budget *budget;
    cenote_pool *pool;
    cenote_weights *weights;
};

/* Two shards of which the second is large; or one small file. */
static void rig_open(struct rig *rig, const char *name, cenote_io_mode io_mode)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    rig->fake = cn_fake_create();
    rig->budget = test_budget_create(128 * MIB, cn_fake_os(rig->fake));
    rig->weights = test_weights_open(rig->budget, path, io_mode);
    rig->pool = test_pool_create(rig->budget);
}

/* Nothing of the measurement is left. */
static void rig_close(struct rig *rig)
{
    struct cn_fake_books books = cn_fake_books_get(rig->fake);
    assert_int_equal(books.open_rings, 0);
    assert_int_equal(books.ring_reads, 0);
    assert_int_equal(cenote_pool_destroy(rig->pool), 0);
    cenote_weights_close(rig->weights);
    assert_int_equal(test_budget_charged(rig->budget), 1);
    cenote_budget_destroy(rig->budget);
    books = cn_fake_books_get(rig->fake);
    assert_int_equal(books.open_files, 0);
    assert_int_equal(books.misuse_count, 0);
    cn_fake_destroy(rig->fake);
}

static cenote_status try_measure(struct rig *rig, cenote_disk_speed *speed, cenote_error *err)
{
    return cenote_weights_measure_disk(rig->weights, rig->pool, MIB, CENOTE_ENGINE_AUTO, speed,
                                       err);
}

static cenote_disk_speed measure(struct rig *rig, const struct cn_fake_disk *disk)
{
    cenote_disk_speed speed = {0};
    cenote_error err;
    cn_fake_disk_set(rig->fake, disk);
    if (try_measure(rig, &speed, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    return speed;
}

static void expect_rate(const cenote_disk_speed *speed, double rate, double tolerance)
{
    double off = speed->bytes_per_s / rate - 1;
    if (off < -tolerance || off > tolerance)
        fail_msg("%.0f bytes a second with %u reads, expected %.0f", speed->bytes_per_s,
                 speed->depth, rate);
}

/* ---- the figure and the depth ---- */

/* The bus is the bound: either depth gives its rate, and the least memory in flight is taken. */
static void test_bound_by_the_bus(void **state)
{
    (void)state;
    static const double rates[] = {50e6, 200e6, 800e6};
    for (unsigned i = 0; i < 3; i++) {
        struct rig rig;
        struct cn_fake_disk disk = {.seed = i,
                                    .latency_ns = 80 * US,
                                    .latency_random_ns = 40 * US,
                                    .bytes_per_s = (uint64_t)rates[i]};
        rig_open(&rig, "two", CENOTE_IO_AUTO);
        uint64_t before_ns = cn_fake_os(rig.fake)->ops->clock_ns(cn_fake_os(rig.fake));
        cenote_disk_speed speed = measure(&rig, &disk);
        uint64_t took_ns = cn_fake_os(rig.fake)->ops->clock_ns(cn_fake_os(rig.fake)) - before_ns;
        expect_rate(&speed, rates[i], 0.01);
        assert_int_equal(speed.depth, 8);
        /* two short trials and a long one, and what the last reads take */
        assert_true(took_ns > 1000 * MS && took_ns < 1000 * MS + 6 * (uint64_t)(17e15 / rates[i]));
        rig_close(&rig);
    }
}

/* A far disk: only bytes in flight help, and 16 reads are the most. */
static void test_bound_by_bytes_in_flight(void **state)
{
    (void)state;
    struct rig rig;
    struct cn_fake_disk disk = {
        .latency_ns = 20 * MS, .latency_random_ns = 20 * MS, .bytes_per_s = 2000000000};
    rig_open(&rig, "two", CENOTE_IO_AUTO);
    cenote_disk_speed speed = measure(&rig, &disk);
    assert_int_equal(speed.depth, 16);
    expect_rate(&speed, 16.0 * MIB / 30e-3, 0.1);
    rig_close(&rig);
}

/* One read at a time: they follow each other, each pays the latency, and company does not help. */
static void test_bound_by_latency(void **state)
{
    (void)state;
    struct rig rig;
    struct cn_fake_disk disk = {.latency_ns = 4 * MS, .lanes = 1, .bytes_per_s = 400000000};
    rig_open(&rig, "two", CENOTE_IO_AUTO);
    cenote_disk_speed speed = measure(&rig, &disk);
    assert_int_equal(speed.depth, 8);
    expect_rate(&speed, MIB / (4e-3 + MIB / 400e6), 0.02);
    rig_close(&rig);
}

/* Small reads pay the latency more often. A panel's bytes need not be a multiple of anything. */
static void test_panels(void **state)
{
    (void)state;
    struct rig rig;
    struct cn_fake_disk disk = {.latency_ns = 4 * MS, .lanes = 1, .bytes_per_s = 400000000};
    cenote_disk_speed speed = {0};
    cenote_error err;
    rig_open(&rig, "two", CENOTE_IO_AUTO);
    cn_fake_disk_set(rig.fake, &disk);
    assert_int_equal(cenote_weights_measure_disk(rig.weights, rig.pool, MIB / 4 - 100,
                                                 CENOTE_ENGINE_URING, &speed, &err),
                     CENOTE_OK);
    expect_rate(&speed, MIB / 4 / (4e-3 + MIB / 4 / 400e6), 0.02);
    assert_int_equal(
        cenote_weights_measure_disk(rig.weights, rig.pool, 0, CENOTE_ENGINE_URING, &speed, &err),
        CENOTE_E_INVAL);
    rig_close(&rig);
}

/* Which engine there is, and that it is the one asked for that is measured. */
static void test_engine(void **state)
{
    (void)state;
    struct rig rig;
    struct cn_fake_disk disk = {.latency_ns = 10 * US, .bytes_per_s = 100000000};
    cenote_disk_speed speed;
    cenote_error err;
    rig_open(&rig, "two", CENOTE_IO_AUTO);
    cn_fake_disk_set(rig.fake, &disk);
    assert_int_equal(cenote_weights_engine(rig.weights, CENOTE_ENGINE_AUTO), CENOTE_ENGINE_URING);
    uint64_t opened = cn_fake_calls(rig.fake, CN_FAKE_RING_OPEN);
    assert_int_equal(
        cenote_weights_measure_disk(rig.weights, rig.pool, MIB, CENOTE_ENGINE_PREAD, &speed, &err),
        CENOTE_OK);
    assert_int_equal(cn_fake_calls(rig.fake, CN_FAKE_RING_OPEN), opened);
    cn_fake_fail(rig.fake, CN_FAKE_RING_OPEN, 1, EPERM);
    assert_int_equal(cenote_weights_engine(rig.weights, CENOTE_ENGINE_AUTO), CENOTE_ENGINE_PREAD);
    cn_fake_fail(rig.fake, CN_FAKE_RING_OPEN, 1, EPERM);
    assert_int_equal(
        cenote_weights_measure_disk(rig.weights, rig.pool, MIB, CENOTE_ENGINE_URING, &speed, &err),
        CENOTE_E_UNSUPPORTED);
    rig_close(&rig);
}

/* What the threads of a pool measure where rings are denied. Their turns are the scheduler's, so
 * the clock may be ahead of what the owner has seen: a rough figure. */
static void test_pool(void **state)
{
    (void)state;
    struct rig rig;
    struct cn_fake_disk disk = {.latency_ns = 10 * US, .bytes_per_s = 100000000};
    rig_open(&rig, "two", CENOTE_IO_AUTO);
    cn_fake_fail(rig.fake, CN_FAKE_RING_OPEN, 1, EPERM);
    cenote_disk_speed speed = measure(&rig, &disk);
    assert_true(speed.bytes_per_s > 70e6 && speed.bytes_per_s < 110e6);
    rig_close(&rig);
}

/* ---- the page cache ---- */

/* Small files come round many times in a trial; what they left must not be what is measured. */
static void test_drops_behind(void **state)
{
    (void)state;
    struct rig rig;
    struct cn_fake_disk disk = {.latency_ns = 10 * US, .bytes_per_s = 100000000};
    rig_open(&rig, "two", CENOTE_IO_BUFFERED);
    struct cn_fake_books before = cn_fake_books_get(rig.fake);
    cenote_disk_speed speed = measure(&rig, &disk);
    expect_rate(&speed, 100e6, 0.01);
    struct cn_fake_books after = cn_fake_books_get(rig.fake);
    assert_true(after.read_bytes - before.read_bytes > 90000000);
    assert_true(after.dropped_bytes - before.dropped_bytes >= after.read_bytes - before.read_bytes);
    rig_close(&rig);
}

/* ---- faults ---- */

static void test_small_files(void **state)
{
    (void)state;
    struct rig rig;
    struct cn_fake_disk disk = {.bytes_per_s = 100000000};
    rig_open(&rig, "small/m.safetensors", CENOTE_IO_AUTO);
    cenote_disk_speed speed = measure(&rig, &disk);
    assert_true(speed.bytes_per_s == 0);
    rig_close(&rig);
}

/* A read that fails is named by its file, and ends it; the pool gets everything back. */
static void test_errors(void **state)
{
    (void)state;
    struct rig rig;
    struct cn_fake_disk disk = {.latency_ns = 80 * US, .bytes_per_s = 100000000};
    cenote_disk_speed speed = {.depth = 77};
    cenote_error err;
    rig_open(&rig, "two", CENOTE_IO_AUTO);
    cn_fake_disk_set(rig.fake, &disk);
    for (unsigned nth = 1; nth <= 40; nth += 3) {
        cn_fake_fault_add(rig.fake, (struct cn_fake_fault){CN_FAULT_ERROR, nth, 1, EIO});
        assert_int_equal(try_measure(&rig, &speed, &err), CENOTE_E_IO);
        assert_int_equal(speed.depth, 77);
        assert_non_null(strstr(err.message, "safetensors"));
        assert_non_null(strstr(err.message, strerror(EIO)));
        cn_fake_faults_clear(rig.fake);
    }
    /* the first shard has one MiB, the next ones are the second's */
    cn_fake_fault_add(rig.fake, (struct cn_fake_fault){CN_FAULT_ERROR, 1, 1, EIO});
    assert_int_equal(try_measure(&rig, &speed, &err), CENOTE_E_IO);
    assert_non_null(strstr(err.message, "a.safetensors"));
    cn_fake_faults_clear(rig.fake);
    cn_fake_fault_add(rig.fake, (struct cn_fake_fault){CN_FAULT_ERROR, 2, 1, EIO});
    assert_int_equal(try_measure(&rig, &speed, &err), CENOTE_E_IO);
    assert_non_null(strstr(err.message, "b.safetensors"));
    cn_fake_faults_clear(rig.fake);
    /* memory that the budget has not */
    void *rest;
    assert_int_equal(cenote_pool_alloc(rig.pool, 112 * MIB, &rest, &err), CENOTE_OK);
    assert_int_equal(try_measure(&rig, &speed, &err), CENOTE_E_BUDGET);
    cenote_pool_free(rig.pool, rest);
    assert_int_equal(speed.depth, 77);
    rig_close(&rig);
}

/* A file that was cut short meanwhile. */
static void test_truncated(void **state)
{
    (void)state;
    struct rig rig;
    cenote_disk_speed speed;
    cenote_error err;
    rig_open(&rig, "two", CENOTE_IO_AUTO);
    cn_fake_fault_add(rig.fake, (struct cn_fake_fault){CN_FAULT_TRUNCATE, 5, 1, MIB});
    assert_int_equal(try_measure(&rig, &speed, &err), CENOTE_E_IO);
    assert_non_null(strstr(err.message, "end"));
    rig_close(&rig);
}

/* Reads that come short count as what they gave. */
static void test_short_reads(void **state)
{
    (void)state;
    struct rig rig;
    struct cn_fake_disk disk = {.latency_ns = 80 * US, .bytes_per_s = 100000000};
    rig_open(&rig, "two", CENOTE_IO_AUTO);
    cn_fake_fault_add(rig.fake, (struct cn_fake_fault){CN_FAULT_SHORT, 1, CN_FAKE_ALWAYS, MIB / 4});
    cenote_disk_speed speed = measure(&rig, &disk);
    assert_true(speed.bytes_per_s > 0 && speed.bytes_per_s < 51e6);
    rig_close(&rig);
}

/* ---- the files ---- */

static void write_tensor(const char *name, const char *tensor, uint64_t bytes)
{
    char path[700];
    struct test_tensor t = {tensor, "U8", {bytes}, 1, 1};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    test_checkpoint_write(path, &t, 1, 0);
}

static char *in_folder(const char *name)
{
    static char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int group_up(void **state)
{
    (void)state;
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    if (mkdir(in_folder("two"), 0700) != 0 || mkdir(in_folder("small"), 0700) != 0)
        return -1;
    write_tensor("two/a.safetensors", "a", MIB + 4096);
    write_tensor("two/b.safetensors", "b", 9 * MIB + 123);
    write_tensor("small/m.safetensors", "m", MIB / 4);
    return 0;
}

static int group_down(void **state)
{
    (void)state;
    char path[700];
    snprintf(path, sizeof path, "%s/two", folder);
    test_folder_remove(path);
    snprintf(path, sizeof path, "%s/small", folder);
    test_folder_remove(path);
    test_folder_remove(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bound_by_the_bus), cmocka_unit_test(test_bound_by_bytes_in_flight),
        cmocka_unit_test(test_bound_by_latency), cmocka_unit_test(test_panels),
        cmocka_unit_test(test_engine),           cmocka_unit_test(test_pool),
        cmocka_unit_test(test_drops_behind),     cmocka_unit_test(test_small_files),
        cmocka_unit_test(test_errors),           cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_short_reads),
    };
    return cmocka_run_group_tests(tests, group_up, group_down);
}
