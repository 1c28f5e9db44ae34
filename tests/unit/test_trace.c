/* SPDX-License-Identifier: Apache-2.0 */
/* Recording and reading: what comes back is what pools did; a file that is cut off anywhere gives
 * whole chunks, one with a flipped bit nothing that was not recorded; faults of the disk. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "base/hash.h"
#include "checkpoint.h"
#include "monitor/trace_record.h"
#include "os/fake/fake.h"

#define KIB         UINT64_C(1024)
#define OPS_MAX     20000u
#define FILE_MAX    (1u << 20)
#define CHUNK_WHOLE (24u + CENOTE_TRACE_CHUNK_BYTES)

static char folder[512], path[600];
static struct cn_fake *fake;
static cenote_budget *budget;
static cenote_pool *pool;

static unsigned char file[FILE_MAX];
static size_t file_bytes;
static cenote_trace_op ops[OPS_MAX];
static uint64_t op_count;

static int setup(void **state)
{
    (void)state;
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/trace", folder);
    fake = cn_fake_create();
    assert_non_null(fake);
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = 64 * KIB * KIB;
    options.process_bytes = 1;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    pool_options.class_id = CENOTE_CLASS_KV_CACHE;
    pool_options.quota_bytes = 1024 * KIB;
    assert_int_equal(cenote_budget_create(&options, &budget, NULL), CENOTE_OK);
    assert_int_equal(cenote_pool_create(budget, &pool_options, &pool, NULL), CENOTE_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)!cenote_trace_stop(NULL); /* of a test that failed */
    (void)cenote_pool_destroy(pool);
    cenote_budget_destroy(budget);
    cn_fake_destroy(fake);
    unlink(path);
    rmdir(folder);
    return 0;
}

static void start(void)
{
    cenote_error err;
    if (cenote_trace_start(path, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
}

static void stop(void)
{
    assert_int_equal(cenote_trace_stop(NULL), CENOTE_OK);
}

static void *take(uint64_t size_bytes)
{
    void *data;
    assert_int_equal(cenote_pool_alloc(pool, size_bytes, &data, NULL), CENOTE_OK);
    return data;
}

static void load(void)
{
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t got = read(fd, file, sizeof file);
    assert_true(got >= 0 && got < (ssize_t)sizeof file);
    file_bytes = (size_t)got;
    close(fd);
}

static cenote_status keep(void *context, const cenote_trace_op *op, cenote_error *err)
{
    (void)context;
    (void)err;
    assert_true(op_count < OPS_MAX);
    assert_int_equal(op->seq, op_count);
    ops[op_count++] = *op;
    return CENOTE_OK;
}

/* Of a copy of exactly that size. */
static cenote_status read_back(const unsigned char *bytes, size_t size, uint64_t *torn,
                               cenote_error *err)
{
    unsigned char *copy = malloc(size > 0 ? size : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    op_count = 0;
    cenote_status status = cenote_trace_read(copy, size, keep, NULL, torn, err);
    free(copy);
    return status;
}

static void read_whole(void)
{
    uint64_t torn;
    cenote_error err;
    load();
    if (read_back(file, file_bytes, &torn, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    assert_int_equal(torn, 0);
}

/* Blocks come and go until there are so many operations. */
static void churn(uint64_t count)
{
    void *blocks[8] = {NULL};
    for (uint64_t i = 0; i < count; i++) {
        void **block = &blocks[i * 5 % 8];
        if (*block != NULL)
            cenote_pool_free(pool, *block);
        *block = *block == NULL ? take(1 + i % 3 * 60000) : NULL;
    }
    for (int i = 0; i < 8; i++)
        cenote_pool_free(pool, blocks[i]);
}

static void expect(const cenote_trace_op *op, cenote_trace_kind kind, uint64_t id, uint64_t size)
{
    assert_int_equal(op->kind, kind);
    assert_int_equal(op->class_id, CENOTE_CLASS_KV_CACHE);
    assert_int_equal(op->id, id);
    assert_int_equal(op->size_bytes, size);
    assert_int_equal(op->align_bytes, 0);
}

static void test_operations(void **state)
{
    (void)state;
    void *before = take(64 * KIB);
    start();
    void *first = take(100000), *second = take(1);
    assert_int_equal(cenote_trace_tag(77), 0);
    cenote_pool_free(pool, first);
    void *third = NULL;
    assert_int_equal(cenote_pool_alloc(pool, 4096 * KIB, &third, NULL), CENOTE_E_BUDGET);
    assert_int_equal(cenote_trace_tag(0), 77);
    assert_true(cenote_pool_trim(pool) > 0);
    cenote_pool_free(pool, before);
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.quota_bytes = 64 * KIB;
    cenote_pool *other;
    assert_int_equal(cenote_pool_create(budget, &options, &other, NULL), CENOTE_OK);
    assert_int_equal(cenote_pool_destroy(other), 0);
    stop();
    cenote_pool_free(pool, second); /* and nobody watches */
    read_whole();
    assert_int_equal(op_count, 7);
    expect(&ops[0], CENOTE_TRACE_ALLOC, 64 * KIB, 100000);
    expect(&ops[1], CENOTE_TRACE_ALLOC, 192 * KIB, 1);
    expect(&ops[2], CENOTE_TRACE_FREE, 64 * KIB, 0);
    expect(&ops[3], CENOTE_TRACE_REFUSED, 0, 4096 * KIB);
    expect(&ops[4], CENOTE_TRACE_TRIM, 0, 0);
    expect(&ops[5], CENOTE_TRACE_FREE, 0, 0);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(ops[i].tag, i == 2 || i == 3 ? 77 : 0);
        assert_int_equal(ops[i].pool, ops[0].pool);
        assert_int_equal(ops[i].thread, 0);
    }
    assert_int_equal(ops[6].kind, CENOTE_TRACE_DESTROY);
    assert_int_equal(ops[6].class_id, CENOTE_CLASS_GENERAL);
    assert_true(ops[6].pool > ops[0].pool);
    assert_true(file_bytes < 24 + 8 + 7 * 12);
}

static void test_torn_anywhere(void **state)
{
    (void)state;
    start();
    churn(18000);
    stop();
    read_whole();
    uint64_t all = op_count, torn;
    assert_true(file_bytes > 3 * CENOTE_TRACE_CHUNK_BYTES);
    static cenote_trace_op whole[OPS_MAX];
    memcpy(whole, ops, all * sizeof ops[0]);
    size_t boundary = 8; /* the last end of a chunk that is not above the size */
    uint64_t at_boundary = 0;
    for (size_t size = 8; size < file_bytes; size += size < 2000 ? 1 : 509) {
        assert_int_equal(read_back(file, size, &torn, NULL), CENOTE_OK);
        assert_true(op_count >= at_boundary && op_count < all && torn < CHUNK_WHOLE);
        if (op_count > at_boundary)
            boundary = size - torn;
        at_boundary = op_count;
        assert_int_equal(size - torn, boundary);
        assert_memory_equal(ops, whole, op_count * sizeof ops[0]);
    }
    assert_true(at_boundary > 0);
    cenote_error err;
    for (size_t size = 0; size < 8; size++)
        assert_int_equal(read_back(file, size, &torn, &err), CENOTE_E_CORRUPT);
    assert_string_equal(err.message, "it does not begin with CNTRACE1");
}

static void test_flipped_bits(void **state)
{
    (void)state;
    start();
    churn(60);
    stop();
    read_whole();
    static cenote_trace_op whole[OPS_MAX];
    memcpy(whole, ops, op_count * sizeof ops[0]);
    uint64_t torn = 0, torn_count = 0;
    for (size_t bit = 0; bit < file_bytes * 8; bit++) {
        file[bit / 8] ^= (unsigned char)(1u << bit % 8);
        cenote_status status = read_back(file, file_bytes, &torn, NULL);
        /* A longer length runs past the end, as one that was cut off does; nothing is visited. */
        assert_true(status == CENOTE_E_CORRUPT || (status == CENOTE_OK && torn > 0));
        assert_int_equal(op_count, 0);
        torn_count += status == CENOTE_OK;
        file[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    assert_true(torn_count > 0 && torn_count < 16); /* bits of the length, and no others */
    /* A chunk that is there twice, or not at all. */
    size_t chunk = file_bytes - 8;
    memcpy(file + file_bytes, file + 8, chunk);
    cenote_error err;
    assert_int_equal(read_back(file, file_bytes + chunk, &torn, &err), CENOTE_E_CORRUPT);
    assert_non_null(strstr(err.message, "it does not follow the one before"));
}

/* ---- what no recorder writes, with a checksum that is right ---- */

static void put(unsigned char *at, uint64_t number, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        at[i] = (unsigned char)(number >> 8 * i);
}

static cenote_status read_payload(const char *payload, size_t size, uint32_t count,
                                  cenote_error *err)
{
    unsigned char bytes[256], summed[256];
    uint64_t torn;
    memcpy(bytes, "CNTRACE1", 8);
    put(bytes + 8, size, 4);
    put(bytes + 12, count, 4);
    put(bytes + 16, 0, 8);
    memcpy(bytes + 32, payload, size);
    memcpy(summed, bytes + 8, 16);
    memcpy(summed + 16, payload, size);
    put(bytes + 24, cn_hash64(summed, 16 + size), 8);
    return read_back(bytes, 32 + size, &torn, err);
}

#define TAKES(payload, count)                                                                      \
    assert_int_equal(read_payload(payload, sizeof(payload) - 1, count, NULL), CENOTE_OK)
#define REFUSES(payload, count, words)                                                             \
    do {                                                                                           \
        cenote_error refused;                                                                      \
        assert_int_equal(read_payload(payload, sizeof(payload) - 1, count, &refused),              \
                         CENOTE_E_CORRUPT);                                                        \
        assert_string_equal(refused.message, "the chunk at byte 8: " words);                       \
    } while (0)

static void test_hostile_operations(void **state)
{
    (void)state;
    TAKES("\x00\x02\x05", 1); /* an allocation: id 1, 5 bytes */
    assert_int_equal(ops[0].id, 1);
    assert_int_equal(ops[0].size_bytes, 5);
    TAKES("\x01\x01", 1); /* a free of what is one below 0 */
    assert_int_equal(ops[0].id, UINT64_MAX);
    TAKES("\x78\x03\x17\x09\x02\x05\x06", 1);
    assert_int_equal(ops[0].thread, 3);
    assert_int_equal(ops[0].pool, 1);
    assert_int_equal(ops[0].class_id, 7);
    assert_int_equal(ops[0].tag, 9);
    assert_int_equal(ops[0].align_bytes, 64);
    TAKES("\x00\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1);
    assert_int_equal(ops[0].size_bytes, UINT64_MAX);
    TAKES("\x03\x03", 2);
    REFUSES("\x05", 1, "an operation in it is none");
    REFUSES("\x83", 1, "an operation in it is none");
    REFUSES("\x13\x08", 1, "an operation in it is none"); /* a class that there is not */
    REFUSES("\x13\x0f", 1, "an operation in it is none");
    REFUSES("\x13\x80\x80\x80\x80\x80\x02", 1, "an operation in it is none"); /* pool 2^32 */
    REFUSES("\x0b\x80\x80\x80\x80\x10", 1, "an operation in it is none");     /* thread 2^32 */
    REFUSES("\x23\x80\x80\x80\x80\x10", 1, "an operation in it is none");     /* tag 2^32 */
    REFUSES("\x00\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 1,
            "an operation in it is none"); /* a size of 2^65 */
    REFUSES("\x00\x02\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 1,
            "an operation in it is none");                        /* a number of 11 bytes */
    REFUSES("\x40\x02\x05\x40", 1, "an operation in it is none"); /* an alignment of 2^64 */
    REFUSES("\x41\x02\x05", 1, "an operation in it is none");     /* one of a free */
    REFUSES("\x00\x02", 1, "an operation in it is none");
    REFUSES("\x40\x02\x05", 1, "an operation in it is none");
    REFUSES("\x03\x03", 3, "an operation in it is none");
    REFUSES("\x03\x03", 1, "bytes are left over in it");
    REFUSES("\x03", 0, "bytes are left over in it");
}

/* The disk is full after so many writes: the program goes on, the trace ends. */
static void test_full_disk(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth <= 4; nth++) {
        cenote_error err;
        uint64_t torn;
        assert_int_equal(cn_trace_start(cn_fake_os(fake), path, NULL), CENOTE_OK);
        /* the magic is written; chunks follow */
        cn_fake_fail(fake, CN_FAKE_WRITE, nth, ENOSPC);
        churn(18000);
        assert_int_equal(cenote_trace_stop(&err), CENOTE_E_IO);
        assert_non_null(strstr(err.message, "No space left"));
        cn_fake_fail(fake, CN_FAKE_WRITE, 0, 0);
        load();
        assert_int_equal(read_back(file, file_bytes, &torn, NULL), CENOTE_OK);
        assert_int_equal(torn, 0);
        assert_true(nth == 1 ? op_count == 0 : op_count > 0);
        unlink(path);
    }
    /* pieces are put together */
    cn_fake_write_set(fake, 1000, UINT64_MAX);
    assert_int_equal(cn_trace_start(cn_fake_os(fake), path, NULL), CENOTE_OK);
    churn(18000);
    stop();
    read_whole();
    assert_true(op_count >= 18000);
    assert_int_equal(cn_fake_books_get(fake).open_files, 0);
    cn_fake_fail(fake, CN_FAKE_CREATE, 1, EACCES);
    assert_int_equal(cn_trace_start(cn_fake_os(fake), path, NULL), CENOTE_E_IO);
}

static void test_refused(void **state)
{
    (void)state;
    cenote_error err;
    assert_int_equal(cenote_trace_stop(&err), CENOTE_E_INVAL);
    assert_string_equal(err.message, "trace: no recording is under way");
    start();
    assert_int_equal(cenote_trace_start("elsewhere", &err), CENOTE_E_INVAL);
    assert_string_equal(err.message, "trace elsewhere: a recording is under way");
    stop();
    assert_int_equal(cenote_trace_start(path, &err), CENOTE_E_IO); /* it is not written over */
    assert_non_null(strstr(err.message, "File exists (%p in the name"));
    assert_int_equal(cenote_trace_start("/nowhere/trace", &err), CENOTE_E_NOTFOUND);
    char numbered[640], with_p[640];
    snprintf(numbered, sizeof numbered, "%s.%ld.%%q", path, (long)getpid());
    snprintf(with_p, sizeof with_p, "%s.%%p.%%q", path);
    assert_int_equal(cenote_trace_start(with_p, NULL), CENOTE_OK);
    stop();
    assert_int_equal(unlink(numbered), 0);
    static char long_path[5000];
    memset(long_path, 'x', sizeof long_path - 1);
    assert_int_equal(cenote_trace_start(long_path, &err), CENOTE_E_INVAL);
}

static cenote_status end_at_three(void *context, const cenote_trace_op *op, cenote_error *err)
{
    ++*(int *)context;
    return op->seq == 3 ? cenote_error_set(err, CENOTE_E_CANCELLED, "enough") : CENOTE_OK;
}

static void test_visitor_ends_it(void **state)
{
    (void)state;
    int count = 0;
    uint64_t torn;
    cenote_error err;
    start();
    churn(20);
    stop();
    load();
    assert_int_equal(cenote_trace_read(file, file_bytes, end_at_three, &count, &torn, &err),
                     CENOTE_E_CANCELLED);
    assert_int_equal(count, 4);
    assert_string_equal(err.message, "enough");
}

/* The child's operations are its own affair, and so is its exit. */
static void test_fork(void **state)
{
    (void)state;
    start();
    void *first = take(1);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        for (int i = 0; i < 5000; i++)
            cenote_pool_free(pool, take(1));
        bool idle = cenote_trace_stop(NULL) == CENOTE_E_INVAL;
        _exit(idle ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cenote_pool_free(pool, first);
    stop();
    read_whole();
    assert_int_equal(op_count, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_operations, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flipped_bits, setup, teardown),
        cmocka_unit_test(test_hostile_operations),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_visitor_ends_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fork, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
