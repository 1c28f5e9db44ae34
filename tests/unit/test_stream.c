/* SPDX-License-Identifier: Apache-2.0 */
/* The stream's promises: every panel once, matrix after matrix, over the seams of the passes,
 * whatever the order of release; stop and start again at any point; misuse refused in words. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "checkpoint.h"
#include "os/fake/fake.h"
#include "weights_fixture.h"

enum { TENSORS = 5, PANEL_MAX = 6000, SLOTS = 4 };

static const struct test_tensor tensors[TENSORS] = {
    {"a", "BF16", {37, 50}, 2, 1},    {"b", "F32", {1000}, 1, 2},   {"empty", "F32", {0, 9}, 2, 3},
    {"m", "U8", {11, 3, 5, 7}, 4, 4}, {"scalar", "F64", {0}, 0, 5},
};

static char folder[512];
static char path[600];
static cenote_budget *budget;
static cenote_weights *weights;
static cenote_pool *pool;
static cenote_stream *stream;
static cenote_stream_item items[TENSORS];

static int setup(void **state)
{
    (void)state;
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    test_checkpoint_write(path, tensors, TENSORS, 1);
    budget = test_budget_create(64u << 20, NULL);
    weights = test_weights_open(budget, path, CENOTE_IO_AUTO);
    pool = test_pool_create(budget);
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = PANEL_MAX;
    options.slot_count = SLOTS;
    cenote_error err;
    if (cenote_stream_create(weights, pool, &options, &stream, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    static const uint32_t rows[TENSORS] = {10, 333, 2, 4, 1};
    for (uint32_t i = 0; i < TENSORS; i++)
        items[i] = (cenote_stream_item){test_weights_find(weights, tensors[i].name), rows[i]};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cenote_stream_destroy(stream);
    assert_int_equal(cenote_pool_destroy(pool), 0);
    cenote_weights_close(weights);
    assert_int_equal(test_budget_charged(budget), 1);
    cenote_budget_destroy(budget);
    test_folder_remove(folder);
    return 0;
}

static void start(uint32_t item_count, uint64_t pass_count)
{
    cenote_error err;
    if (cenote_stream_start(stream, items, item_count, pass_count, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
}

static cenote_panel next(void)
{
    cenote_panel panel;
    cenote_error err;
    if (cenote_stream_next(stream, &panel, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    return panel;
}

/* A panel of @p item, at any of its places; @return which. */
static uint32_t check_panel(const cenote_panel *panel, uint32_t item)
{
    const struct test_tensor *t = &tensors[item];
    uint64_t rows = t->rank > 0 ? t->shape[0] : 1;
    uint64_t row = panel->row_first;
    uint64_t left = rows - row;
    assert_int_equal(row % items[item].rows_per_panel, 0);
    assert_int_equal(panel->encoding, CENOTE_ENCODING_PLAIN);
    assert_int_equal(panel->item_index, item);
    assert_int_equal(panel->tensor_index, items[item].tensor_index);
    assert_int_equal(panel->row_bytes, test_tensor_bytes(t) / rows);
    assert_int_equal(panel->row_count,
                     left < items[item].rows_per_panel ? left : items[item].rows_per_panel);
    uint64_t bytes = panel->row_count * panel->row_bytes;
    assert_int_equal(test_tensor_mismatch(t, row * panel->row_bytes, panel->data, bytes), bytes);
    return (uint32_t)(row / items[item].rows_per_panel);
}

/* Consumes a whole program with up to @p held panels in hand, the oldest or newest given back. */
static void consume(uint32_t item_count, uint64_t pass_count, uint32_t held_max, bool newest_first)
{
    cenote_panel held[SLOTS];
    uint32_t held_count = 0;
    for (uint64_t pass = 0; pass < pass_count; pass++) {
        for (uint32_t i = 0; i < item_count; i++) {
            uint64_t rows = tensors[i].rank > 0 ? tensors[i].shape[0] : 1;
            bool seen[64] = {false};
            for (uint64_t row = 0; test_tensor_bytes(&tensors[i]) > 0 && row < rows;) {
                if (held_count == held_max) {
                    uint32_t give = newest_first ? held_count - 1 : 0;
                    cenote_stream_release(stream, &held[give]);
                    memmove(&held[give], &held[give + 1], (held_count - give - 1) * sizeof held[0]);
                    held_count--;
                }
                held[held_count] = next();
                uint32_t place = check_panel(&held[held_count], i);
                assert_false(seen[place]);
                seen[place] = true;
                row += held[held_count++].row_count;
            }
        }
    }
    cenote_panel panel;
    cenote_error err;
    assert_int_equal(cenote_stream_next(stream, &panel, &err), CENOTE_E_NOTFOUND);
    assert_non_null(strstr(err.message, "over"));
    while (held_count > 0)
        cenote_stream_release(stream, &held[--held_count]);
}

static void test_order_and_bytes(void **state)
{
    (void)state;
    for (uint32_t held = 1; held <= SLOTS; held++) {
        start(TENSORS, 3);
        consume(TENSORS, 3, held, false);
        start(TENSORS, 3);
        consume(TENSORS, 3, held, true);
    }
}

static void test_counts(void **state)
{
    (void)state;
    uint64_t bytes = 0;
    for (size_t i = 0; i < TENSORS; i++)
        bytes += test_tensor_bytes(&tensors[i]);
    start(TENSORS, 2);
    consume(TENSORS, 2, 1, false);
    cenote_weights_stats stats;
    cenote_weights_stats_get(weights, &stats);
    assert_int_equal(stats.bytes_used, 2 * bytes);
    assert_true(stats.bytes_read >= stats.bytes_used);
    /* a block at each end of a panel is all that alignment may cost */
    assert_true(stats.bytes_read <= stats.bytes_used + stats.read_count * 2 * 4096);
    assert_int_equal(stats.retry_count, 0);
    assert_true(strcmp(stats.engine, "pread") == 0 || strcmp(stats.engine, "io_uring") == 0);
}

static void test_stop_in_the_middle(void **state)
{
    (void)state;
    for (uint32_t taken = 0; taken < 12; taken++) {
        start(TENSORS, 5);
        cenote_panel last = {0};
        for (uint32_t i = 0; i < taken; i++) {
            last = next();
            if (i + 1 < taken)
                cenote_stream_release(stream, &last);
        }
        cenote_stream_stop(stream);
        cenote_panel panel;
        assert_int_equal(cenote_stream_next(stream, &panel, NULL), CENOTE_E_NOTFOUND);
        start(2, 1);
        if (taken > 0)
            cenote_stream_release(stream, &last); /* of the old program: no effect on this one */
        consume(2, 1, SLOTS, false);
    }
    cenote_stream_stop(stream);
    cenote_stream_stop(stream);
}

/* Programs over 8 MiB that are stopped in the middle.
 * @return the bytes that the weights have counted meanwhile. */
static uint64_t stop_often(cenote_weights *of, cenote_pool *ring, cenote_io_engine engine)
{
    const cenote_stream_item item = {test_weights_find(of, "big"), 64};
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = 64 * 4096;
    options.slot_count = 8;
    options.engine = engine;
    cenote_stream *other;
    cenote_weights_stats before, after;
    cenote_panel panel;
    cenote_weights_stats_get(of, &before);
    if (cenote_stream_create(of, ring, &options, &other, NULL) != CENOTE_OK)
        return 0; /* no rings here */
    for (uint32_t taken = 0; taken < 12; taken++) {
        assert_int_equal(cenote_stream_start(other, &item, 1, 2, NULL), CENOTE_OK);
        for (uint32_t i = 0; i < taken; i++) {
            assert_int_equal(cenote_stream_next(other, &panel, NULL), CENOTE_OK);
            cenote_stream_release(other, &panel);
        }
        cenote_stream_stop(other);
    }
    cenote_stream_destroy(other);
    cenote_weights_stats_get(of, &after);
    return after.bytes_read - before.bytes_read;
}

static const struct test_tensor big = {"big", "U8", {2048, 4096}, 2, 9};

/* What was read ahead in vain counts: the kernel has read it too. */
static void test_stopped_reads_count(void **state)
{
    (void)state;
    char big_path[600];
    cenote_process_memory before, after;
    snprintf(big_path, sizeof big_path, "%s/big.safetensors", folder);
    test_checkpoint_write(big_path, &big, 1, 0);
    int fd = open(big_path, O_RDONLY);
    assert_true(fd >= 0 && fsync(fd) == 0 && close(fd) == 0);
    cenote_weights *own = test_weights_open(budget, big_path, CENOTE_IO_AUTO);
    cenote_weights_stats stats;
    cenote_weights_stats_get(own, &stats);
    static const cenote_io_engine engines[] = {CENOTE_ENGINE_URING, CENOTE_ENGINE_PREAD};
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(cenote_process_memory_get(&before, NULL), CENOTE_OK);
        uint64_t counted = stop_often(own, pool, engines[i]);
        assert_int_equal(cenote_process_memory_get(&after, NULL), CENOTE_OK);
        uint64_t kernels = after.disk_read_bytes - before.disk_read_bytes;
        if (!stats.direct || kernels == 0)
            print_message("SKIP: no direct reads of a disk here\n");
        else if (counted > 0)
            assert_int_equal(counted, kernels);
    }
    cenote_weights_close(own);
}

/* Where reads go through the page cache they leave nothing there either. */
static void test_stopped_reads_leave_no_pages(void **state)
{
    (void)state;
    char big_path[600];
    snprintf(big_path, sizeof big_path, "%s/big.safetensors", folder);
    test_checkpoint_write(big_path, &big, 1, 0);
    struct cn_fake *fake = cn_fake_create();
    cn_fake_disk_set(fake, &(struct cn_fake_disk){.latency_ns = 100000, .bytes_per_s = 1000000000});
    cenote_budget *own_budget = test_budget_create(64u << 20, cn_fake_os(fake));
    cenote_pool *own_pool = test_pool_create(own_budget);
    cenote_weights *own = test_weights_open(own_budget, big_path, CENOTE_IO_BUFFERED);
    struct cn_fake_books before = cn_fake_books_get(fake);
    uint64_t counted = stop_often(own, own_pool, CENOTE_ENGINE_URING);
    struct cn_fake_books after = cn_fake_books_get(fake);
    assert_int_equal(counted, after.read_bytes - before.read_bytes);
    assert_true(after.dropped_bytes - before.dropped_bytes >= counted);
    cenote_weights_close(own);
    assert_int_equal(cenote_pool_destroy(own_pool), 0);
    cenote_budget_destroy(own_budget);
    cn_fake_destroy(fake);
}

static void test_start_over_a_running_program(void **state)
{
    (void)state;
    start(TENSORS, UINT64_MAX / 100);
    cenote_panel panel = next();
    check_panel(&panel, 0);
    start(TENSORS, 1);
    consume(TENSORS, 1, 2, false);
}

static void test_all_slots_held_is_no_deadlock(void **state)
{
    (void)state;
    start(TENSORS, 9);
    cenote_panel held[SLOTS];
    for (uint32_t i = 0; i < SLOTS; i++)
        held[i] = next();
    cenote_panel panel;
    cenote_error err;
    assert_int_equal(cenote_stream_next(stream, &panel, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "all 4 slots are held"));
    cenote_stream_release(stream, &held[2]);
    panel = next(); /* the program goes on as if nothing had been */
    check_panel(&panel, 1);
}

static void refuse_start(const cenote_stream_item *program, uint32_t count, uint64_t passes,
                         const char *words)
{
    cenote_error err = {0};
    cenote_status status = cenote_stream_start(stream, program, count, passes, &err);
    if (status != CENOTE_E_INVAL || strstr(err.message, words) == NULL)
        fail_msg("status %d, wanted \"%s\": %s", status, words, err.message);
    cenote_panel panel;
    assert_int_equal(cenote_stream_next(stream, &panel, &err), CENOTE_E_NOTFOUND);
}

static void test_bad_programs(void **state)
{
    (void)state;
    refuse_start(items, 0, 1, "an empty program");
    refuse_start(items, TENSORS, 0, "an empty program");
    refuse_start(&items[2], 1, 5, "an empty program"); /* only the empty tensor */
    cenote_stream_item bad = {TENSORS, 1};
    refuse_start(&bad, 1, 1, "tensor 5 of 5");
    bad = (cenote_stream_item){items[0].tensor_index, 0};
    refuse_start(&bad, 1, 1, "no rows");
    bad = (cenote_stream_item){items[0].tensor_index, 37};
    start(1, 1);
    assert_int_equal(cenote_stream_start(stream, &bad, 1, 1, NULL), CENOTE_OK);
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = 1000;
    options.slot_count = 2;
    cenote_stream *small;
    assert_int_equal(cenote_stream_create(weights, pool, &options, &small, NULL), CENOTE_OK);
    cenote_error err;
    assert_int_equal(cenote_stream_start(small, items, 1, 1, NULL), CENOTE_OK);
    assert_int_equal(cenote_stream_start(small, &bad, 1, 1, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "37 rows has 3700 bytes, the stream's limit is 1000"));
    cenote_stream_destroy(small);
    refuse_start(items, TENSORS, UINT64_MAX, "overflow 64 bits");
}

static void test_bad_options(void **state)
{
    (void)state;
    static const struct {
        uint32_t version;
        uint64_t panel_bytes;
        uint32_t slots;
        cenote_status status;
    } bad[] = {
        {1, 4096, 4, CENOTE_E_VERSION},         {2, 0, 4, CENOTE_E_INVAL},
        {2, 4096, 1, CENOTE_E_INVAL},           {2, 4096, 257, CENOTE_E_INVAL},
        {2, 1ull << 31, 4, CENOTE_E_INVAL},     {2, UINT64_MAX - 5, 4, CENOTE_E_INVAL},
        {2, UINT64_MAX / 4, 4, CENOTE_E_INVAL}, {2, INT32_MAX, 256, CENOTE_E_BUDGET},
    };
    uint64_t before = test_budget_charged(budget);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
        options.version = bad[i].version;
        options.panel_bytes_max = bad[i].panel_bytes;
        options.slot_count = bad[i].slots;
        cenote_stream *none = NULL;
        cenote_error err;
        assert_int_equal(cenote_stream_create(weights, pool, &options, &none, &err), bad[i].status);
        assert_null(none);
        assert_int_equal(test_budget_charged(budget), before);
        if (bad[i].status == CENOTE_E_INVAL)
            assert_true(cenote_stream_ring_bytes(&options) == UINT64_MAX);
    }
    cenote_stream_destroy(NULL);
}

/* What a plan adds up is what create takes. */
static void test_ring_bytes(void **state)
{
    (void)state;
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = 1u << 20;
    options.slot_count = 8;
    cenote_pool *own = test_pool_create(budget);
    uint64_t before = test_budget_charged(budget);
    cenote_stream *other;
    assert_int_equal(cenote_stream_create(weights, own, &options, &other, NULL), CENOTE_OK);
    uint64_t ring = cenote_stream_ring_bytes(&options);
    assert_in_range(ring, 8u << 20, (8u << 20) + 8 * 8192 + 8192);
    cenote_pool_stats stats;
    cenote_pool_stats_get(own, &stats);
    assert_int_equal(stats.requested_bytes, ring);
    assert_int_equal(test_budget_charged(budget), before + cenote_pool_charge_bytes(ring));
    cenote_stream_destroy(other);
    assert_int_equal(cenote_pool_destroy(own), 0);
}

/* A file that changed is found at the start of a program. */
static void test_changed_file(void **state)
{
    (void)state;
    start(TENSORS, 1);
    consume(TENSORS, 1, 1, false);
    static const struct timespec times[2] = {{0, UTIME_OMIT}, {1000, 5}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    cenote_error err;
    assert_int_equal(cenote_stream_start(stream, items, 1, 1, &err), CENOTE_E_CHANGED);
    assert_non_null(strstr(err.message, "model.safetensors: the file changed while open"));
    assert_int_equal(cenote_weights_verify_unchanged(weights, &err), CENOTE_E_CHANGED);
    unsigned char byte;
    assert_int_equal(cenote_weights_read(weights, items[0].tensor_index, 0, 1, &byte, &err),
                     CENOTE_E_CHANGED);
    assert_non_null(strstr(err.message, "tensor `a`"));
}

static void test_truncated_file(void **state)
{
    (void)state;
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    start(TENSORS, 1000);
    cenote_panel panel = next();
    cenote_stream_release(stream, &panel);
    assert_int_equal(truncate(path, st.st_size - 100), 0);
    cenote_status status;
    cenote_error err;
    while ((status = cenote_stream_next(stream, &panel, &err)) == CENOTE_OK)
        cenote_stream_release(stream, &panel);
    assert_int_equal(status, CENOTE_E_CHANGED);
    assert_int_equal(cenote_stream_next(stream, &panel, &err), CENOTE_E_NOTFOUND);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_order_and_bytes),
        TEST(test_counts),
        TEST(test_stop_in_the_middle),
        TEST(test_stopped_reads_count),
        TEST(test_stopped_reads_leave_no_pages),
        TEST(test_start_over_a_running_program),
        TEST(test_all_slots_held_is_no_deadlock),
        TEST(test_bad_programs),
        TEST(test_bad_options),
        TEST(test_ring_bytes),
        TEST(test_changed_file),
        TEST(test_truncated_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
