/* SPDX-License-Identifier: Apache-2.0 */
/* Every read, open, stat and commit of a whole use of a checkpoint (open, small reads, two passes
 * of a stream, close) fails once in every way that the fake system knows. The use must end with the
 * right bytes or with an error in words, and nothing may stay open, reserved or charged. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "checkpoint.h"
#include "os/fake/fake.h"
#include "weights_fixture.h"

enum { TENSORS = 3, PASSES = 2, PANEL_MAX = 5000 };

static const struct test_tensor tensors[TENSORS] = {
    {"a", "BF16", {21, 150}, 2, 1},
    {"b", "F32", {300}, 1, 2},
    {"c", "U8", {9, 1111}, 2, 3},
};
static const uint32_t rows_per_panel[TENSORS] = {16, 100, 4};

/* A file of the fake system, and the same one as the shard of a folder. The folder must be real and
 * have no checkpoint of its own. */
#define PATH   "/fake/model.safetensors"
#define FOLDER "/proc/self"
/* Spaces make it longer than where the faults cut a file. */
static char index_text[10000];
static const char *const paths[] = {PATH, FOLDER};

static void *image; /* the file */
static size_t image_bytes;

static int setup(void **state)
{
    (void)state;
    char folder[512], path[600];
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/m.safetensors", folder);
    test_checkpoint_write(path, tensors, TENSORS, 5);
    FILE *file = fopen(path, "rb");
    image = malloc(1 << 20);
    image_bytes = fread(image, 1, 1 << 20, file);
    fclose(file);
    test_folder_remove(folder);
    memset(index_text, ' ', sizeof index_text);
    static const char text[] = "{\"weight_map\":{\"a\":\"m.safetensors\",\"b\":\"m.safetensors\"}}";
    memcpy(index_text, text, strlen(text));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(image);
    return 0;
}

/* ---- one use ---- */

struct use {
    struct cn_fake *fake;
    const char *path;
    cenote_io_mode io_mode;
    cenote_weights_stats stats;
    cenote_error err;
};

static cenote_status read_small(cenote_weights *weights, cenote_error *err)
{
    for (uint32_t i = 0; i < TENSORS; i++) {
        uint64_t size = test_tensor_bytes(&tensors[i]) - 7;
        unsigned char *bytes = malloc(size);
        cenote_status status = cenote_weights_read(
            weights, test_weights_find(weights, tensors[i].name), 7, size, bytes, err);
        uint64_t good =
            status != CENOTE_OK ? size : test_tensor_mismatch(&tensors[i], 7, bytes, size);
        free(bytes);
        assert_int_equal(good, size);
        if (status != CENOTE_OK)
            return status;
    }
    return CENOTE_OK;
}

static cenote_status consume(cenote_stream *stream, cenote_error *err)
{
    for (;;) {
        cenote_panel panel;
        cenote_status status = cenote_stream_next(stream, &panel, err);
        if (status == CENOTE_E_NOTFOUND && strstr(err->message, "over") != NULL)
            return CENOTE_OK;
        if (status != CENOTE_OK)
            return status;
        uint64_t bytes = panel.row_count * panel.row_bytes;
        assert_int_equal(test_tensor_mismatch(&tensors[panel.item_index],
                                              panel.row_first * panel.row_bytes, panel.data, bytes),
                         bytes);
        cenote_stream_release(stream, &panel);
    }
}

static cenote_status use_stream(cenote_weights *weights, cenote_budget *budget, cenote_error *err)
{
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    cenote_pool *pool;
    cenote_status status = cenote_pool_create(budget, &pool_options, &pool, err);
    if (status != CENOTE_OK)
        return status;
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = PANEL_MAX;
    options.slot_count = 3;
    cenote_stream_item items[TENSORS];
    for (uint32_t i = 0; i < TENSORS; i++)
        items[i] =
            (cenote_stream_item){test_weights_find(weights, tensors[i].name), rows_per_panel[i]};
    cenote_stream *stream = NULL;
    status = cenote_stream_create(weights, pool, &options, &stream, err);
    if (status == CENOTE_OK)
        status = cenote_stream_start(stream, items, TENSORS, PASSES, err);
    if (status == CENOTE_OK)
        status = consume(stream, err);
    cenote_stream_destroy(stream);
    assert_int_equal(cenote_pool_destroy(pool), 0);
    return status;
}

static cenote_status use_weights(struct use *use, cenote_budget *budget)
{
    cenote_weights_options options = CENOTE_WEIGHTS_OPTIONS_INIT;
    options.io_mode = use->io_mode;
    cenote_weights *weights = NULL;
    cenote_status status = cenote_weights_open(budget, use->path, &options, &weights, &use->err);
    if (status != CENOTE_OK)
        return status;
    status = read_small(weights, &use->err);
    if (status == CENOTE_OK)
        status = use_stream(weights, budget, &use->err);
    cenote_weights_stats_get(weights, &use->stats);
    cenote_weights_close(weights);
    return status;
}

/* Orders to fail are placed before; the budget of the use is made first, so that they hit the
 * library's part. */
static cenote_status use_all(struct use *use, cenote_budget *budget)
{
    memset(&use->err, 0, sizeof use->err);
    uint64_t charged = test_budget_charged(budget);
    struct cn_fake_books before = cn_fake_books_get(use->fake);
    cenote_status status = use_weights(use, budget);
    struct cn_fake_books after = cn_fake_books_get(use->fake);
    assert_int_equal(after.open_files, 0);
    assert_int_equal(after.misuse_count, 0);
    assert_int_equal(after.reservations, before.reservations);
    assert_int_equal(after.committed_bytes, before.committed_bytes);
    assert_int_equal(test_budget_charged(budget), charged);
    if (status != CENOTE_OK) {
        assert_int_equal(use->err.status, status);
        assert_true(strlen(use->err.message) > 20);
    }
    return status;
}

struct world {
    struct use use;
    cenote_budget *budget;
};

static void world_make(struct world *w, const char *path, enum cn_fake_direct direct,
                       cenote_io_mode io_mode)
{
    struct cn_fake *fake = cn_fake_create();
    w->use = (struct use){.fake = fake, .path = path, .io_mode = io_mode};
    assert_int_equal(cn_fake_file_add(fake, PATH, image, image_bytes), 0);
    assert_int_equal(cn_fake_file_add(fake, FOLDER "/m.safetensors", image, image_bytes), 0);
    assert_int_equal(cn_fake_file_add(fake, FOLDER "/model.safetensors.index.json", index_text,
                                      sizeof index_text),
                     0);
    cn_fake_direct_set(fake, direct);
    w->budget = test_budget_create(16u << 20, cn_fake_os(fake));
}

static void world_end(struct world *w)
{
    cenote_budget_destroy(w->budget);
    cn_fake_destroy(w->use.fake);
}

/* ---- faults of reads ---- */

enum outcome { SAME_BYTES, FAILS };

static const struct {
    const char *label;
    struct cn_fake_fault fault;
    enum outcome outcome;
    cenote_status status; /* of a failure */
} faults[] = {
    {"1 byte", {CN_FAULT_SHORT, 0, 1, 1}, SAME_BYTES, 0},
    {"513 bytes", {CN_FAULT_SHORT, 0, 1, 513}, SAME_BYTES, 0},
    {"half a block twice", {CN_FAULT_SHORT, 0, 2, 256}, SAME_BYTES, 0},
    {"a block at a time", {CN_FAULT_SHORT, 0, CN_FAKE_ALWAYS, 512}, SAME_BYTES, 0},
    {"EIO once", {CN_FAULT_ERROR, 0, 1, EIO}, SAME_BYTES, 0},
    {"EIO twice", {CN_FAULT_ERROR, 0, 2, EIO}, SAME_BYTES, 0},
    {"EIO forever", {CN_FAULT_ERROR, 0, CN_FAKE_ALWAYS, EIO}, FAILS, CENOTE_E_IO},
    {"EINVAL once", {CN_FAULT_ERROR, 0, 1, EINVAL}, SAME_BYTES, 0},
    {"EINTR once", {CN_FAULT_ERROR, 0, 1, EINTR}, SAME_BYTES, 0},
    {"EINTR 300 times", {CN_FAULT_ERROR, 0, 300, EINTR}, SAME_BYTES, 0},
    {"EINTR forever", {CN_FAULT_ERROR, 0, CN_FAKE_ALWAYS, EINTR}, FAILS, CENOTE_E_IO},
    {"EAGAIN 20 times", {CN_FAULT_ERROR, 0, 20, EAGAIN}, SAME_BYTES, 0},
    {"delay", {CN_FAULT_DELAY, 0, 1, 5000000000}, SAME_BYTES, 0},
    {"cut to nothing", {CN_FAULT_TRUNCATE, 0, 1, 0}, FAILS, CENOTE_E_CHANGED},
    {"cut in the middle", {CN_FAULT_TRUNCATE, 0, 1, 9000}, FAILS, CENOTE_E_CHANGED},
    {"change", {CN_FAULT_CHANGE, 0, 1, 1}, FAILS, CENOTE_E_CHANGED},
};

static const struct {
    const char *label;
    enum cn_fake_direct direct;
    cenote_io_mode io_mode;
} modes[] = {
    {"direct", CN_FAKE_DIRECT_WORKS, CENOTE_IO_AUTO},
    {"open refused", CN_FAKE_DIRECT_FAILS_OPEN, CENOTE_IO_AUTO},
    {"read refused", CN_FAKE_DIRECT_FAILS_READ, CENOTE_IO_AUTO},
    {"buffered", CN_FAKE_DIRECT_WORKS, CENOTE_IO_BUFFERED},
};

static void check_outcome(size_t f, const char *mode, uint64_t at, const struct use *use,
                          cenote_status status)
{
    cenote_status wanted = faults[f].outcome == SAME_BYTES ? CENOTE_OK : faults[f].status;
    if (status != wanted)
        fail_msg("%s, %s at read %llu: status %d, wanted %d: %s", mode, faults[f].label,
                 (unsigned long long)at, status, wanted, use->err.message);
}

static void fault_every_read(size_t m, const char *path)
{
    struct world w;
    world_make(&w, path, modes[m].direct, modes[m].io_mode);
    assert_int_equal(use_all(&w.use, w.budget), CENOTE_OK);
    bool direct = m == 0;
    assert_int_equal(w.use.stats.direct, direct);
    assert_int_equal(w.use.stats.retry_count, 0);
    uint64_t reads = cn_fake_calls(w.use.fake, CN_FAKE_READ);
    print_message("%s, %s: %llu reads\n", modes[m].label, path, (unsigned long long)reads);
    assert_true(reads > 20);
    for (size_t f = 0; f < sizeof faults / sizeof faults[0]; f++) {
        for (uint64_t at = 1; at <= reads; at++) {
            struct cn_fake_fault fault = faults[f].fault;
            fault.at_read = at;
            cn_fake_fault_add(w.use.fake, fault);
            cenote_status status = use_all(&w.use, w.budget);
            cn_fake_faults_clear(w.use.fake);
            check_outcome(f, modes[m].label, at, &w.use, status);
        }
    }
    world_end(&w);
}

static void test_every_read_every_fault(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof modes / sizeof modes[0]; m++)
        for (size_t p = 0; p < 2; p++)
            fault_every_read(m, paths[p]);
}

/* ---- calls that fail ---- */

/* The nth call of a kind fails, for every n that the use has. */
static void sweep_path(const char *path, enum cn_fake_call call, int error, cenote_status status,
                       bool may_recover)
{
    struct world w;
    world_make(&w, path, CN_FAKE_DIRECT_WORKS, CENOTE_IO_AUTO);
    uint64_t before = cn_fake_calls(w.use.fake, call);
    assert_int_equal(use_all(&w.use, w.budget), CENOTE_OK);
    uint64_t calls = cn_fake_calls(w.use.fake, call) - before;
    assert_true(calls > 0);
    uint64_t failed = 0;
    for (uint64_t n = 1; n <= calls; n++) {
        cn_fake_fail(w.use.fake, call, n, error);
        cenote_status got = use_all(&w.use, w.budget);
        cn_fake_faults_clear(w.use.fake);
        if (got != status && !(may_recover && got == CENOTE_OK))
            fail_msg("call %llu of %llu: status %d: %s", (unsigned long long)n,
                     (unsigned long long)calls, got, w.use.err.message);
        failed += got != CENOTE_OK;
    }
    assert_true(failed > 0);
    assert_int_equal(use_all(&w.use, w.budget), CENOTE_OK);
    world_end(&w);
}

static void sweep(enum cn_fake_call call, int error, cenote_status status, bool may_recover)
{
    for (size_t p = 0; p < 2; p++)
        sweep_path(paths[p], call, error, status, may_recover);
}

static void test_every_open_fails(void **state)
{
    (void)state;
    sweep(CN_FAKE_OPEN, EMFILE, CENOTE_E_IO, true); /* the second open of a file is O_DIRECT's */
    sweep(CN_FAKE_OPEN, EACCES, CENOTE_E_IO, true);
}

static void test_every_stat_fails(void **state)
{
    (void)state;
    sweep(CN_FAKE_STAT, EIO, CENOTE_E_IO, true);
}

static void test_every_commit_fails(void **state)
{
    (void)state;
    sweep(CN_FAKE_MEMORY, ENOMEM, CENOTE_E_NOMEM, true); /* a chunk refused, its block may be had */
}

/* The budget instead of the machine says no, at every size. */
static void test_every_budget(void **state)
{
    (void)state;
    for (size_t p = 0; p < 2; p++) {
        struct world w;
        world_make(&w, paths[p], CN_FAKE_DIRECT_WORKS, CENOTE_IO_AUTO);
        uint64_t needed = 0;
        for (uint64_t limit = 4096; needed == 0; limit += 12000) {
            cenote_budget *budget = test_budget_create(limit, cn_fake_os(w.use.fake));
            cenote_status status = use_all(&w.use, budget);
            if (status == CENOTE_OK)
                needed = limit;
            else
                assert_int_equal(status, CENOTE_E_BUDGET);
            cenote_budget_destroy(budget);
        }
        print_message("%s runs in %llu bytes\n", paths[p], (unsigned long long)needed);
        world_end(&w);
    }
}

/* ---- single cases ---- */

/* A stream that failed starts again and gives the right bytes. */
static void test_restart_after_error(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, PATH, CN_FAKE_DIRECT_WORKS, CENOTE_IO_AUTO);
    cenote_weights *weights = test_weights_open(w.budget, PATH, CENOTE_IO_AUTO);
    cenote_pool *pool = test_pool_create(w.budget);
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = PANEL_MAX;
    options.slot_count = 3;
    cenote_stream *stream;
    cenote_error err;
    assert_int_equal(cenote_stream_create(weights, pool, &options, &stream, &err), CENOTE_OK);
    cenote_stream_item item = {test_weights_find(weights, "a"), 2};
    for (uint64_t at = 1; at <= 11; at++) {
        cn_fake_fault_add(w.use.fake,
                          (struct cn_fake_fault){CN_FAULT_ERROR, at, CN_FAKE_ALWAYS, EIO});
        assert_int_equal(cenote_stream_start(stream, &item, 1, 1, &err), CENOTE_OK);
        assert_int_equal(consume(stream, &err), CENOTE_E_IO);
        assert_non_null(strstr(err.message, PATH ": tensor `a`: read of"));
        assert_non_null(strstr(err.message, "errno 5"));
        cenote_panel panel;
        assert_int_equal(cenote_stream_next(stream, &panel, &err), CENOTE_E_NOTFOUND);
        cn_fake_faults_clear(w.use.fake);
        assert_int_equal(cenote_stream_start(stream, &item, 1, 1, &err), CENOTE_OK);
        assert_int_equal(consume(stream, &err), CENOTE_OK);
    }
    cenote_stream_destroy(stream);
    assert_int_equal(cenote_pool_destroy(pool), 0);
    cenote_weights_close(weights);
    world_end(&w);
}

static void test_retries_are_counted(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, PATH, CN_FAKE_DIRECT_WORKS, CENOTE_IO_AUTO);
    cenote_weights *weights = test_weights_open(w.budget, PATH, CENOTE_IO_AUTO);
    unsigned char bytes[100];
    cenote_weights_stats stats;
    uint32_t a = test_weights_find(weights, "a");
    assert_int_equal(cenote_weights_read(weights, a, 0, 100, bytes, NULL), CENOTE_OK);
    cenote_weights_stats_get(weights, &stats);
    assert_int_equal(stats.retry_count, 0);
    assert_int_equal(stats.bytes_used, 100);
    assert_in_range(stats.bytes_read, 512, 1024);
    cn_fake_fault_add(w.use.fake, (struct cn_fake_fault){CN_FAULT_ERROR, 1, 1, EIO});
    assert_int_equal(cenote_weights_read(weights, a, 0, 100, bytes, NULL), CENOTE_OK);
    cn_fake_fault_add(w.use.fake, (struct cn_fake_fault){CN_FAULT_SHORT, 1, 1, 10});
    assert_int_equal(cenote_weights_read(weights, a, 0, 100, bytes, NULL), CENOTE_OK);
    cenote_weights_stats_get(weights, &stats);
    assert_in_range(stats.retry_count, 2, 3);
    cenote_weights_close(weights);
    world_end(&w);
}

/* The second try opens the path again; another file that lies there by now must not be read. */
static void test_replaced_file_is_not_read(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, PATH, CN_FAKE_DIRECT_WORKS, CENOTE_IO_AUTO);
    cenote_weights *weights = test_weights_open(w.budget, PATH, CENOTE_IO_AUTO);
    uint32_t a = test_weights_find(weights, "a");
    void *other = calloc(1, image_bytes);
    assert_int_equal(cn_fake_file_add(w.use.fake, PATH, other, image_bytes), 0);
    free(other);
    unsigned char bytes[100];
    cenote_error err;
    assert_int_equal(cenote_weights_read(weights, a, 0, 100, bytes, &err), CENOTE_OK);
    assert_int_equal(test_tensor_mismatch(&tensors[0], 0, bytes, 100), 100);
    cn_fake_fault_add(w.use.fake, (struct cn_fake_fault){CN_FAULT_ERROR, 1, 2, EIO});
    assert_int_equal(cenote_weights_read(weights, a, 0, 100, bytes, &err), CENOTE_E_IO);
    cenote_weights_close(weights);
    world_end(&w);
}

/* O_DIRECT that lies: the probe compares, and the file is read through the cache instead. */
static struct cn_os_ops lying_ops;
static const struct cn_os_ops *true_ops;
static int64_t lie_from; /* reads before are true */

static int64_t lying_pread(struct cn_os *os, int fd, void *data, size_t size_bytes, uint64_t offset)
{
    int64_t got = true_ops->file_pread(os, fd, data, size_bytes, offset);
    if (lie_from-- == 0 && got > 0)
        ((char *)data)[got / 2] ^= 1;
    return got;
}

static int64_t ending_pread(struct cn_os *os, int fd, void *data, size_t size_bytes,
                            uint64_t offset)
{
    return lie_from-- <= 0 ? 0 : true_ops->file_pread(os, fd, data, size_bytes, offset);
}

static void lie_begin(struct cn_os *os,
                      int64_t (*pread_fn)(struct cn_os *, int, void *, size_t, uint64_t),
                      int64_t from)
{
    true_ops = os->ops;
    lying_ops = *os->ops;
    lying_ops.file_pread = pread_fn;
    lie_from = from;
    os->ops = &lying_ops;
}

static void test_direct_that_lies_is_not_used(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, PATH, CN_FAKE_DIRECT_WORKS, CENOTE_IO_AUTO);
    struct cn_os *os = cn_fake_os(w.use.fake);
    /* read 0 is the probe's first block; the next is the cache's, which it is compared with */
    lie_begin(os, lying_pread, 0);
    cenote_weights *weights = NULL;
    cenote_error err;
    cenote_weights_options options = CENOTE_WEIGHTS_OPTIONS_INIT;
    options.io_mode = CENOTE_IO_DIRECT;
    cenote_status status = cenote_weights_open(w.budget, PATH, &options, &weights, &err);
    os->ops = true_ops;
    assert_int_equal(status, CENOTE_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "O_DIRECT"));
    assert_int_equal(cn_fake_books_get(w.use.fake).open_files, 0);
    world_end(&w);
}

/* The size says that the bytes are there, the reads say that they are not. */
static void test_end_too_early(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, PATH, CN_FAKE_DIRECT_WORKS, CENOTE_IO_AUTO);
    struct cn_os *os = cn_fake_os(w.use.fake);
    cenote_weights *weights = test_weights_open(w.budget, PATH, CENOTE_IO_AUTO);
    uint32_t c = test_weights_find(weights, "c");
    unsigned char bytes[5000];
    cenote_error err;
    lie_begin(os, ending_pread, 0);
    cenote_status status = cenote_weights_read(weights, c, 0, sizeof bytes, bytes, &err);
    os->ops = true_ops;
    assert_int_equal(status, CENOTE_E_CORRUPT);
    char words[100];
    uint64_t at = cenote_weights_tensor(weights, c)->offset_bytes;
    snprintf(words, sizeof words, "tensor `c`: truncated: bytes [%llu, %llu)",
             (unsigned long long)at, (unsigned long long)at + sizeof bytes);
    assert_non_null(strstr(err.message, words));
    cenote_weights_close(weights);
    world_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_read_every_fault),
        cmocka_unit_test(test_every_open_fails),
        cmocka_unit_test(test_every_stat_fails),
        cmocka_unit_test(test_every_commit_fails),
        cmocka_unit_test(test_every_budget),
        cmocka_unit_test(test_restart_after_error),
        cmocka_unit_test(test_retries_are_counted),
        cmocka_unit_test(test_replaced_file_is_not_read),
        cmocka_unit_test(test_direct_that_lies_is_not_used),
        cmocka_unit_test(test_end_too_early),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
