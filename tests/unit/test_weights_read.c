/* SPDX-License-Identifier: Apache-2.0 */
/* Small reads: any piece of any tensor, at any residue, both ways; what is asked of the kernel; and
 * that nothing stays in the page cache. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "checkpoint.h"
#include "weights_fixture.h"

enum { TENSORS = 5 };

static const struct test_tensor tensors[TENSORS] = {
    {"big", "BF16", {300, 1000}, 2, 1}, {"byte", "U8", {1}, 1, 2},    {"empty", "F32", {0}, 1, 3},
    {"norm", "F32", {1024}, 1, 4},      {"last", "U8", {4099}, 1, 5},
};

static char folder[512];
static char path[600];
static cenote_budget *budget;
static bool direct_works;

static int setup(void **state)
{
    (void)state;
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    budget = test_budget_create(64u << 20, NULL);
    direct_works = test_direct_works(budget, folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(test_budget_charged(budget), 1);
    cenote_budget_destroy(budget);
    test_folder_remove(folder);
    return 0;
}

static void check_read(cenote_weights *weights, const struct test_tensor *tensor, uint64_t offset,
                       uint64_t size)
{
    unsigned char *bytes = malloc(size + 2);
    bytes[0] = 0xa5;
    bytes[size + 1] = 0x5a;
    cenote_error err;
    uint32_t index = test_weights_find(weights, tensor->name);
    if (cenote_weights_read(weights, index, offset, size, bytes + 1, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    assert_int_equal(test_tensor_mismatch(tensor, offset, bytes + 1, size), size);
    assert_int_equal(bytes[0], 0xa5);
    assert_int_equal(bytes[size + 1], 0x5a);
    free(bytes);
}

static void check_mode(cenote_io_mode io_mode)
{
    for (size_t pad = 0; pad < 4; pad++) {
        test_checkpoint_write(path, tensors, TENSORS, pad * 1237);
        cenote_weights *weights = test_weights_open(budget, path, io_mode);
        for (size_t i = 0; i < TENSORS; i++) {
            uint64_t size = test_tensor_bytes(&tensors[i]);
            check_read(weights, &tensors[i], 0, size);
            check_read(weights, &tensors[i], size, 0);
            for (uint64_t piece = 1; piece < size; piece = piece * 5 + 3) {
                check_read(weights, &tensors[i], 0, piece);
                check_read(weights, &tensors[i], size - piece, piece);
                check_read(weights, &tensors[i], (size - piece) / 2, piece);
            }
        }
        cenote_weights_close(weights);
    }
}

static void test_any_piece(void **state)
{
    (void)state;
    check_mode(CENOTE_IO_BUFFERED);
    check_mode(CENOTE_IO_AUTO);
    if (direct_works)
        check_mode(CENOTE_IO_DIRECT);
}

static void test_out_of_the_tensor(void **state)
{
    (void)state;
    test_checkpoint_write(path, tensors, TENSORS, 0);
    cenote_weights *weights = test_weights_open(budget, path, CENOTE_IO_AUTO);
    uint32_t norm = test_weights_find(weights, "norm");
    static const uint64_t bad[][2] = {{0, 4097},       {4096, 1},       {4097, 0},
                                      {UINT64_MAX, 2}, {2, UINT64_MAX}, {1, 4096}};
    unsigned char byte = 7;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cenote_error err;
        assert_int_equal(cenote_weights_read(weights, norm, bad[i][0], bad[i][1], &byte, &err),
                         CENOTE_E_INVAL);
        assert_non_null(strstr(err.message, "tensor `norm`"));
        assert_non_null(strstr(err.message, "leave its 4096"));
        assert_int_equal(byte, 7);
    }
    assert_int_equal(cenote_weights_read(weights, TENSORS, 0, 1, &byte, NULL), CENOTE_E_INVAL);
    cenote_weights_close(weights);
    cenote_weights_close(NULL);
}

/* Buffered reads ask for exactly the bytes wanted, direct ones for the blocks around them. */
static void test_what_is_asked_for(void **state)
{
    (void)state;
    test_checkpoint_write(path, tensors, TENSORS, 0);
    for (int mode = 0; mode < 2; mode++) {
        cenote_io_mode io_mode = mode == 0 ? CENOTE_IO_BUFFERED : CENOTE_IO_DIRECT;
        if (io_mode == CENOTE_IO_DIRECT && !direct_works)
            continue;
        cenote_weights *weights = test_weights_open(budget, path, io_mode);
        cenote_weights_stats stats;
        cenote_weights_stats_get(weights, &stats);
        assert_int_equal(stats.bytes_read, 0); /* headers are not weights */
        assert_int_equal(stats.direct, io_mode == CENOTE_IO_DIRECT);
        check_read(weights, &tensors[0], 100, 200000);
        check_read(weights, &tensors[3], 0, 4096);
        cenote_weights_stats_get(weights, &stats);
        assert_int_equal(stats.bytes_used, 204096);
        if (io_mode == CENOTE_IO_BUFFERED)
            assert_int_equal(stats.bytes_read, 204096);
        else
            assert_in_range(stats.bytes_read, 204096, 204096 + 2 * 8192);
        assert_int_equal(stats.retry_count, 0);
        cenote_weights_close(weights);
    }
}

static size_t pages_cached(const char *file_path)
{
    int fd = open(file_path, O_RDONLY);
    struct stat st;
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    size_t pages = ((size_t)st.st_size + 4095) / 4096;
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    unsigned char *resident = calloc(pages, 1);
    assert_int_equal(mincore(map, (size_t)st.st_size, resident), 0);
    size_t count = 0;
    for (size_t i = 0; i < pages; i++)
        count += resident[i] & 1;
    free(resident);
    munmap(map, (size_t)st.st_size);
    close(fd);
    return count;
}

static void stream_all(cenote_weights *weights)
{
    cenote_pool *pool = test_pool_create(budget);
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = 50000;
    options.slot_count = 4;
    cenote_stream *stream;
    cenote_error err;
    assert_int_equal(cenote_stream_create(weights, pool, &options, &stream, &err), CENOTE_OK);
    cenote_stream_item items[TENSORS];
    for (uint32_t i = 0; i < TENSORS; i++)
        items[i] = (cenote_stream_item){test_weights_find(weights, tensors[i].name), 17};
    assert_int_equal(cenote_stream_start(stream, items, TENSORS, 2, &err), CENOTE_OK);
    cenote_panel panel;
    while (cenote_stream_next(stream, &panel, &err) == CENOTE_OK)
        cenote_stream_release(stream, &panel);
    assert_int_equal(err.status, CENOTE_E_NOTFOUND);
    cenote_stream_destroy(stream);
    assert_int_equal(cenote_pool_destroy(pool), 0);
}

static void test_no_page_cache_left(void **state)
{
    (void)state;
    if (!direct_works) {
        print_message("skipped: O_DIRECT does not work in %s\n", folder);
        skip();
    }
    for (int mode = 0; mode < 2; mode++) {
        test_checkpoint_write(path, tensors, TENSORS, 77);
        cenote_weights *weights =
            test_weights_open(budget, path, mode == 0 ? CENOTE_IO_DIRECT : CENOTE_IO_BUFFERED);
        assert_int_equal(pages_cached(path), 0); /* the writer's pages and the header's are gone */
        for (size_t i = 0; i < TENSORS; i++)
            check_read(weights, &tensors[i], 0, test_tensor_bytes(&tensors[i]));
        stream_all(weights);
        assert_int_equal(pages_cached(path), 0);
        cenote_weights_close(weights);
    }
    /* the check itself can see pages */
    char byte;
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, &byte, 1, 5000), 1);
    close(fd);
    assert_true(pages_cached(path) > 0);
}

static void test_dtypes(void **state)
{
    (void)state;
    assert_string_equal(cenote_dtype_text(CENOTE_DTYPE_BF16), "BF16");
    assert_int_equal(cenote_dtype_bytes(CENOTE_DTYPE_BF16), 2);
    assert_int_equal(cenote_dtype_bytes(CENOTE_DTYPE_F64), 8);
    assert_string_equal(cenote_dtype_text(CENOTE_DTYPE_COUNT), "unknown");
    assert_int_equal(cenote_dtype_bytes(CENOTE_DTYPE_COUNT), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_any_piece),
        TEST(test_out_of_the_tensor),
        TEST(test_what_is_asked_for),
        TEST(test_no_page_cache_left),
        TEST(test_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
