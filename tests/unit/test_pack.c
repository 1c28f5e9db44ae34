/* SPDX-License-Identifier: Apache-2.0 */
/* The packed copy: what is written is found and decodes to the checkpoint; stale and corrupt ones
 * are told apart; whatever goes wrong while one is made leaves what was there before. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"
#include "checkpoint.h"
#include "os/fake/fake.h"
#include "pack_fixture.h"
#include "weights_fixture.h"

#define BUDGET_BYTES (64u << 20)

struct rig {
    char model[600], folder[600], path[700];
    struct cn_fake *fake;
    cenote_budget *budget;
    cenote_weights *weights;
    cenote_stream_item items[PACK_ITEMS];
    uint64_t charged;
};

static void rig_open_weights(struct rig *rig)
{
    rig->budget = test_budget_create(BUDGET_BYTES, cn_fake_os(rig->fake));
    rig->weights = test_weights_open(rig->budget, rig->model, CENOTE_IO_AUTO);
    rig->charged = test_budget_charged(rig->budget);
    pack_items(rig->weights, rig->items);
    assert_int_equal(cenote_pack_path(rig->weights, rig->folder, rig->path, sizeof rig->path, NULL),
                     CENOTE_OK);
}

static void rig_close_weights(struct rig *rig)
{
    assert_int_equal(test_budget_charged(rig->budget), rig->charged);
    cenote_weights_close(rig->weights);
    cenote_budget_destroy(rig->budget);
}

static int rig_open(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    assert_non_null(rig);
    test_folder_create(TEST_SCRATCH_DIR, rig->model, sizeof rig->model);
    test_folder_create(TEST_SCRATCH_DIR, rig->folder, sizeof rig->folder);
    pack_checkpoint_write(rig->model);
    rig->fake = cn_fake_create();
    rig_open_weights(rig);
    *state = rig;
    return 0;
}

static int rig_close(void **state)
{
    struct rig *rig = *state;
    rig_close_weights(rig);
    struct cn_fake_books books = cn_fake_books_get(rig->fake);
    assert_true(books.open_files == 0 && books.misuse_count == 0);
    cn_fake_destroy(rig->fake);
    test_folder_remove(rig->model);
    test_folder_remove(rig->folder);
    free(rig);
    return 0;
}

/* A fresh system and checkpoint, for tests that spoil theirs. */
static void rig_again(struct rig *rig)
{
    rig_close_weights(rig);
    cn_fake_destroy(rig->fake);
    rig->fake = cn_fake_create();
    rig_open_weights(rig);
}

static cenote_status write_copy(struct rig *rig, const cenote_pack_options *options,
                                cenote_pack_info *info, cenote_error *err)
{
    return cenote_pack_write(rig->weights, rig->budget, rig->items, PACK_ITEMS, rig->path, options,
                             info, err);
}

static void must_write(struct rig *rig)
{
    cenote_error err;
    if (write_copy(rig, NULL, NULL, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
}

static cenote_status open_copy(struct rig *rig, cenote_error *err)
{
    cenote_pack *pack;
    cenote_status status =
        cenote_pack_open(rig->weights, rig->budget, rig->path, CENOTE_IO_AUTO, &pack, err);
    if (status == CENOTE_OK)
        cenote_pack_close(pack);
    return status;
}

/* ---- a good one ---- */

static void test_write_and_read(void **state)
{
    struct rig *rig = *state;
    cenote_pack_info info = {0};
    cenote_error err;
    assert_int_equal(open_copy(rig, &err), CENOTE_E_NOTFOUND);
    assert_int_equal(write_copy(rig, NULL, &info, &err), CENOTE_OK);
    assert_int_equal(pack_names(rig->folder, ""), 1);
    pack_assert_whole(rig->weights, rig->budget, rig->path);

    assert_int_equal(info.packed_panels, 4 + 1 + 2);
    assert_int_equal(info.plain_panels, 1 + 1);
    assert_int_equal(info.plain_weight_bytes, 10 * 20 * 4 + 16 * 128 * 2);
    assert_int_equal(info.packed_weight_bytes, 2 * (100 * 192 + 48 * 64 + 24 * 128));
    assert_true(info.packed_bytes < info.packed_weight_bytes * 8 / 10);
    struct stat file;
    assert_int_equal(stat(rig->path, &file), 0);
    assert_int_equal(file.st_size, info.file_bytes);
    assert_int_equal(file.st_mode & 0777, 0644 & ~umask(umask(0)));

    cenote_pack *pack;
    cenote_pack_info again;
    assert_int_equal(
        cenote_pack_open(rig->weights, rig->budget, rig->path, CENOTE_IO_AUTO, &pack, &err),
        CENOTE_OK);
    cenote_pack_info_get(pack, &again);
    /* the table has no matrix of which nothing is packed */
    assert_int_equal(again.packed_bytes, info.packed_bytes);
    assert_int_equal(again.file_bytes, info.file_bytes);
    assert_int_equal(again.plain_panels, 1);
    cenote_pack_close(pack);
}

/* In the order of the items, at multiples of 4096, and the same bytes every time. */
static void test_layout(void **state)
{
    struct rig *rig = *state;
    uint64_t bytes, bytes_again, end = 0;
    cenote_pack *pack;
    must_write(rig);
    unsigned char *first = pack_file_load(rig->path, &bytes);
    assert_int_equal(
        cenote_pack_open(rig->weights, rig->budget, rig->path, CENOTE_IO_AUTO, &pack, NULL),
        CENOTE_OK);
    static const struct {
        const char *name;
        uint64_t row, rows;
    } order[] = {{"d", 0, 16},  {"d", 32, 8}, {"a", 0, 32}, {"a", 32, 32},
                 {"a", 64, 32}, {"a", 96, 4}, {"c", 0, 48}};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        cenote_pack_panel panel;
        assert_true(cenote_pack_find(pack, test_weights_find(rig->weights, order[i].name),
                                     order[i].row, order[i].rows, &panel));
        assert_true(panel.offset_bytes % 4096 == 0 && panel.offset_bytes >= end);
        assert_true(panel.offset_bytes < end + 4096 || i == 0);
        assert_true(panel.size_bytes <= cenote_pack_panel_bytes_max(pack));
        end = panel.offset_bytes + panel.size_bytes;
    }
    cenote_pack_close(pack);
    must_write(rig);
    unsigned char *second = pack_file_load(rig->path, &bytes_again);
    assert_int_equal(bytes, bytes_again);
    assert_memory_equal(first, second, bytes);
    free(first);
    free(second);
}

static void test_find_wants_the_grid(void **state)
{
    struct rig *rig = *state;
    cenote_pack *pack;
    cenote_pack_panel panel;
    must_write(rig);
    assert_int_equal(
        cenote_pack_open(rig->weights, rig->budget, rig->path, CENOTE_IO_AUTO, &pack, NULL),
        CENOTE_OK);
    uint32_t a = test_weights_find(rig->weights, "a");
    static const uint64_t others[][2] = {{0, 31},  {0, 33},  {1, 32},      {16, 32},
                                         {96, 32}, {128, 4}, {0, 0},       {UINT64_MAX, 1},
                                         {96, 3},  {0, 100}, {1 << 30, 32}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(cenote_pack_find(pack, a, others[i][0], others[i][1], &panel));
    assert_false(cenote_pack_find(pack, 4, 0, 32, &panel));
    assert_false(cenote_pack_find(pack, UINT32_MAX, 0, 32, &panel));
    cenote_pack_close(pack);
}

static void test_paths(void **state)
{
    struct rig *rig = *state;
    char path[700], link[700], other[700];
    assert_int_equal(cenote_pack_path(rig->weights, "/x", path, sizeof path, NULL), CENOTE_OK);
    assert_true(strncmp(path, "/x/cenote-", 10) == 0 && strstr(path, ".pack") != NULL);
    assert_int_equal(cenote_pack_path(rig->weights, "/x", other, 20, NULL), CENOTE_E_INVAL);

    /* through a link it is the same checkpoint, elsewhere it is another */
    snprintf(link, sizeof link, "%s/link", rig->folder);
    assert_int_equal(symlink(rig->model, link), 0);
    cenote_weights *same = test_weights_open(rig->budget, link, CENOTE_IO_AUTO);
    assert_int_equal(cenote_pack_path(same, "/x", other, sizeof other, NULL), CENOTE_OK);
    assert_string_equal(path, other);
    cenote_weights_close(same);
    assert_int_equal(unlink(link), 0);
    pack_checkpoint_write(rig->folder);
    cenote_weights *copy = test_weights_open(rig->budget, rig->folder, CENOTE_IO_AUTO);
    assert_int_equal(cenote_pack_path(copy, "/x", other, sizeof other, NULL), CENOTE_OK);
    assert_string_not_equal(path, other);
    cenote_weights_close(copy);
}

static void test_bad_items(void **state)
{
    struct rig *rig = *state;
    cenote_error err;
    const cenote_stream_item kept = rig->items[1];
    rig->items[1] = rig->items[0];
    assert_int_equal(write_copy(rig, NULL, NULL, &err), CENOTE_E_INVAL);
    rig->items[1] = (cenote_stream_item){4, 32};
    assert_int_equal(write_copy(rig, NULL, NULL, &err), CENOTE_E_INVAL);
    rig->items[1] = (cenote_stream_item){kept.tensor_index, 0};
    assert_int_equal(write_copy(rig, NULL, NULL, &err), CENOTE_E_INVAL);
    rig->items[1] = kept;
    cenote_pack_options options = CENOTE_PACK_OPTIONS_INIT;
    options.version = 7;
    assert_int_equal(write_copy(rig, &options, NULL, &err), CENOTE_E_VERSION);
    /* b is f32; of d's second panel nothing fits */
    assert_int_equal(cenote_pack_write(rig->weights, rig->budget, &rig->items[2], 1, rig->path,
                                       NULL, NULL, &err),
                     CENOTE_E_UNSUPPORTED);
    assert_int_equal(pack_names(rig->folder, ""), 0);
}

/* ---- stale and corrupt ones ---- */

static void test_stale(void **state)
{
    struct rig *rig = *state;
    char shard[700];
    uint64_t bytes;
    cenote_error err;
    must_write(rig);
    snprintf(shard, sizeof shard, "%s/model-2.safetensors", rig->model);
    unsigned char *file = pack_file_load(shard, &bytes);

    struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 2000}};
    assert_int_equal(utimensat(AT_FDCWD, shard, times, 0), 0);
    rig_again(rig);
    assert_int_equal(open_copy(rig, &err), CENOTE_E_CHANGED);
    assert_non_null(strstr(err.message, "model-2.safetensors"));
    must_write(rig);
    pack_assert_whole(rig->weights, rig->budget, rig->path);

    /* another header with the same size and time: "c" and "d" are called otherwise */
    *(unsigned char *)memchr(file, 'c', 40) = 'e';
    pack_file_store(shard, file, bytes);
    assert_int_equal(utimensat(AT_FDCWD, shard, times, 0), 0);
    cenote_weights_close(rig->weights);
    rig->weights = test_weights_open(rig->budget, rig->model, CENOTE_IO_AUTO);
    assert_int_equal(open_copy(rig, &err), CENOTE_E_CHANGED);

    /* and a file more */
    char more[700];
    snprintf(more, sizeof more, "%s/model-3.safetensors", rig->model);
    const struct test_tensor tensor = {"z", "U8", {3}, 1, 1};
    test_checkpoint_write(more, &tensor, 1, 0);
    cenote_weights_close(rig->weights);
    rig->weights = test_weights_open(rig->budget, rig->model, CENOTE_IO_AUTO);
    assert_int_equal(open_copy(rig, &err), CENOTE_E_CHANGED);
    rig->charged = test_budget_charged(rig->budget);
    free(file);
}

/* One byte after the other of header, sources and table is wrong: never opened, and never anything
 * worse. */
static void test_every_byte_of_the_table(void **state)
{
    struct rig *rig = *state;
    uint64_t bytes;
    must_write(rig);
    unsigned char *file = pack_file_load(rig->path, &bytes);
    const uint64_t table_end = 64 + 2 * 32 + 8 * 48;
    for (uint64_t i = 0; i < table_end; i++) {
        cenote_error err = {0};
        file[i] ^= 1u << i % 8;
        pack_file_store(rig->path, file, bytes);
        cenote_status status = open_copy(rig, &err);
        bool source = i >= 8 && i < 16;
        source = source || (i >= 64 && i < 64 + 2 * 32);
        if (status != CENOTE_E_CORRUPT && !(source && status == CENOTE_E_CHANGED))
            fail_msg("byte %u: status %d", (unsigned)i, (int)status);
        assert_true(err.message[0] != '\0');
        file[i] ^= 1u << i % 8;
    }
    pack_file_store(rig->path, file, bytes);
    pack_assert_whole(rig->weights, rig->budget, rig->path);
    static const uint64_t cuts[] = {0, 1, 63, 64, 100, 511, 4095, 4096};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        pack_file_store(rig->path, file, cuts[i]);
        assert_int_equal(open_copy(rig, NULL), CENOTE_E_CORRUPT);
    }
    pack_file_store(rig->path, file, bytes - 1);
    assert_int_equal(open_copy(rig, NULL), CENOTE_E_CORRUPT);
    free(file);
}

/* Whoever forges a table gets its checksum right. */
static void test_forged_tables(void **state)
{
    struct rig *rig = *state;
    uint64_t bytes;
    must_write(rig);
    unsigned char *file = pack_file_load(rig->path, &bytes), *forged = malloc(bytes);
    assert_non_null(forged);
    const uint64_t entries = 64 + 2 * 32, none = UINT64_MAX;
    const uint32_t a = test_weights_find(rig->weights, "a");
    const uint32_t b = test_weights_find(rig->weights, "b");
    const uint32_t d = test_weights_find(rig->weights, "d");
    /* entries: d 0-2, a 3-6, c 7; a field of an entry is given by its place in it */
    const struct {
        uint64_t panels, entry, field, field_bytes, value;
        uint64_t rows; /* of that entry as well, when not 0 */
    } forgeries[] = {
        {1, none, 0, 0, 0, 0}, /* ends within d */
        {2, none, 0, 0, 0, 0},
        {4, none, 0, 0, 0, 0}, /* within a */
        {0, none, 0, 0, 0, 0},
        {8, 0, 0, 4, a, 0},
        {8, 0, 0, 4, b, 0},
        {8, 7, 0, 4, d, 40}, /* d is there twice */
        {8, 7, 0, 4, b, 10}, /* b is f32 */
        {8, 0, 0, 4, 4, 0},
        {8, 0, 0, 4, UINT32_MAX, 0},
        {8, 1, 0, 4, a, 0}, /* another tensor in the middle of one */
        {8, 0, 4, 4, 2, 0}, /* a form that there is not */
        {8, 0, 4, 4, 0, 0}, /* plain, with a place */
        {8, 0, 8, 8, 16, 0},
        {8, 3, 8, 8, 1, 0},
        {8, 0, 16, 8, 0, 0},
        {8, 0, 16, 8, 17, 0},
        {8, 0, 16, 8, 41, 0}, /* more rows than the tensor has */
        {8, 0, 16, 8, UINT64_MAX, 0},
        {8, 2, 16, 8, 16, 0}, /* a whole panel where a part is left */
        {8, 0, 24, 8, 4097, 0},
        {8, 0, 24, 8, 0, 0}, /* in the table */
        {8, 7, 24, 8, 4096, 0},
        {8, 7, 24, 8, bytes, 0},
        {8, 7, 24, 8, UINT64_MAX - 4095, 0},
        {8, 0, 32, 8, 0, 0},
        {8, 0, 32, 8, 1 << 20, 0},
        {8, 7, 32, 8, UINT64_MAX, 0},
    };
    for (size_t i = 0; i < sizeof forgeries / sizeof *forgeries; i++) {
        cenote_error err = {0};
        memcpy(forged, file, bytes);
        uint64_t end = entries + forgeries[i].panels * 48, sum;
        memcpy(forged + 16, &forgeries[i].panels, 8);
        memcpy(forged + 24, &end, 8);
        if (forgeries[i].entry != none)
            memcpy(forged + entries + forgeries[i].entry * 48 + forgeries[i].field,
                   &forgeries[i].value, forgeries[i].field_bytes);
        if (forgeries[i].rows != 0)
            memcpy(forged + entries + forgeries[i].entry * 48 + 16, &forgeries[i].rows, 8);
        memset(forged + 56, 0, 8);
        sum = cn_hash64(forged, end);
        memcpy(forged + 56, &sum, 8);
        pack_file_store(rig->path, forged, bytes);
        if (open_copy(rig, &err) != CENOTE_E_CORRUPT)
            fail_msg("forgery %u was taken", (unsigned)i);
        assert_null(strstr(err.message, "checksum"));
    }
    free(forged);
    free(file);
}

/* Rows [32, 64) of a: what was in their place. */
static cenote_pack_panel damage_panel(struct rig *rig)
{
    uint64_t bytes;
    cenote_pack *pack;
    cenote_pack_panel panel;
    assert_int_equal(
        cenote_pack_open(rig->weights, rig->budget, rig->path, CENOTE_IO_AUTO, &pack, NULL),
        CENOTE_OK);
    assert_true(cenote_pack_find(pack, test_weights_find(rig->weights, "a"), 32, 32, &panel));
    cenote_pack_close(pack);
    unsigned char *file = pack_file_load(rig->path, &bytes);
    file[panel.offset_bytes + panel.size_bytes / 2] ^= 4;
    pack_file_store(rig->path, file, bytes);
    free(file);
    return panel;
}

static void test_corrupt_panel(void **state)
{
    struct rig *rig = *state;
    cenote_pack *pack;
    cenote_pack_panel panel;
    cenote_error err;
    must_write(rig);
    uint32_t a = test_weights_find(rig->weights, "a");
    panel = damage_panel(rig);

    assert_int_equal(
        cenote_pack_open(rig->weights, rig->budget, rig->path, CENOTE_IO_AUTO, &pack, NULL),
        CENOTE_OK);
    unsigned char *data = malloc(panel.size_bytes);
    assert_non_null(data);
    assert_int_equal(cenote_pack_read(pack, &panel, data, &err), CENOTE_E_CORRUPT);
    assert_non_null(strstr(err.message, "tensor `a`"));
    assert_non_null(strstr(err.message, "[32, 64)"));
    assert_int_equal(cenote_pack_verify(pack, rig->budget, NULL, &err), CENOTE_E_CORRUPT);
    assert_true(cenote_pack_find(pack, a, 0, 32, &panel));
    free(data);
    data = malloc(panel.size_bytes);
    assert_int_equal(cenote_pack_read(pack, &panel, data, &err), CENOTE_OK);
    /* right bytes, but no panel: a checksum proves nothing about a stranger's */
    cenote_pack_panel forged = panel;
    memset(data, 0, panel.size_bytes);
    forged.checksum = 0;
    assert_int_equal(cenote_pack_check(pack, &forged, data, &err), CENOTE_E_CORRUPT);
    free(data);
    cenote_pack_close(pack);
}

/* ---- a damaged one and the resident set ---- */

/* Exponents that the panel's table has no code for, over rows [32, 64) of a, behind the file's
 * time's back. */
static void make_wild(struct rig *rig)
{
    const cenote_tensor_info *t =
        cenote_weights_tensor(rig->weights, test_weights_find(rig->weights, "a"));
    const char *path = cenote_weights_file_path(rig->weights, t->file_index);
    struct stat before;
    assert_int_equal(stat(path, &before), 0);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < 30; i++) {
        uint16_t wild = (uint16_t)((0x60 + i % 5) << 8);
        off_t at = (off_t)(t->offset_bytes + 2 * (32 * 192 + i * 201));
        assert_int_equal(pwrite(fd, &wild, 2, at), 2);
    }
    const struct timespec times[2] = {before.st_atim, before.st_mtim};
    assert_int_equal(futimens(fd, times), 0);
    assert_int_equal(close(fd), 0);
}

static void assert_rows(cenote_weights *weights, const cenote_panel *panel)
{
    unsigned char plain[1024], row[1024];
    for (uint64_t i = 0; i < panel->row_count; i++) {
        uint64_t at = (panel->row_first + i) * panel->row_bytes;
        assert_int_equal(
            cenote_weights_read(weights, panel->tensor_index, at, panel->row_bytes, plain, NULL),
            CENOTE_OK);
        const unsigned char *got = (const unsigned char *)panel->data + i * panel->row_bytes;
        if (panel->encoding == CENOTE_ENCODING_BF12) {
            cenote_bf12_decode(panel->data, panel->row_bytes / 2, i, 0, panel->row_bytes / 2, row);
            got = row;
        }
        assert_memory_equal(got, plain, panel->row_bytes);
    }
}

/* Three passes with room for all panels, every row compared.
 * @return panels of the copy that were bad, over all passes. */
static uint64_t stream_thrice(struct rig *rig, cenote_resident_stats *out_stats)
{
    cenote_pack *pack;
    cenote_resident *resident;
    cenote_stream *stream;
    cenote_pool *pool = test_pool_create(rig->budget);
    assert_int_equal(
        cenote_pack_open(rig->weights, rig->budget, rig->path, CENOTE_IO_AUTO, &pack, NULL),
        CENOTE_OK);
    assert_int_equal(cenote_resident_create(rig->weights, rig->budget, rig->items, PACK_ITEMS,
                                            CENOTE_ENCODING_BF12, pack, &resident, NULL),
                     CENOTE_OK);
    uint64_t whole = cenote_resident_whole_bytes(rig->weights, rig->items, PACK_ITEMS,
                                                 CENOTE_ENCODING_BF12, pack);
    assert_int_equal(cenote_resident_resize(resident, whole, NULL), CENOTE_OK);
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = 16384;
    options.slot_count = 4;
    options.resident = resident;
    options.pack = pack;
    assert_int_equal(cenote_stream_create(rig->weights, pool, &options, &stream, NULL), CENOTE_OK);
    assert_int_equal(cenote_stream_start(stream, rig->items, PACK_ITEMS, 3, NULL), CENOTE_OK);
    cenote_panel panel;
    while (cenote_stream_next(stream, &panel, NULL) == CENOTE_OK) {
        assert_rows(rig->weights, &panel);
        cenote_stream_release(stream, &panel);
    }
    cenote_stream_destroy(stream);
    cenote_resident_stats_get(resident, out_stats);
    cenote_resident_destroy(resident);
    cenote_pack_close(pack);
    assert_int_equal(cenote_pool_destroy(pool), CENOTE_OK);
    cenote_weights_stats stats;
    cenote_weights_stats_get(rig->weights, &stats);
    return stats.pack_failures;
}

/* Its original is kept in its place: it is bad once, and not in every pass. */
static void test_corrupt_panel_becomes_resident(void **state)
{
    struct rig *rig = *state;
    cenote_resident_stats stats;
    must_write(rig);
    damage_panel(rig);
    assert_int_equal(stream_thrice(rig, &stats), 1);
    assert_int_equal(stats.refused_panels, 0);
    assert_int_equal(stats.held_weight_bytes, stats.whole_weight_bytes);
}

/* An original that wants more than the copy's place stays in the stream; the places beside it are
 * as they were. */
static void test_place_too_small_for_the_original(void **state)
{
    struct rig *rig = *state;
    cenote_resident_stats stats;
    must_write(rig);
    damage_panel(rig);
    make_wild(rig);
    assert_int_equal(stream_thrice(rig, &stats), 3);
    assert_int_equal(stats.refused_panels, 1);
    assert_int_equal(stats.held_weight_bytes, stats.whole_weight_bytes - 32 * 192 * 2);
}

/* ---- faults while it is made ---- */

static void test_full_disk(void **state)
{
    struct rig *rig = *state;
    cenote_error err;
    cn_fake_write_set(rig->fake, 0, 50000);
    assert_int_equal(write_copy(rig, NULL, NULL, &err), CENOTE_E_IO);
    assert_non_null(strstr(err.message, "50000 are free"));
    assert_non_null(strstr(err.message, "takes up to"));
    assert_int_equal(pack_names(rig->folder, ""), 0);
    cn_fake_write_set(rig->fake, 777, UINT64_MAX);
    must_write(rig);
    pack_assert_whole(rig->weights, rig->budget, rig->path);
}

struct cancel {
    unsigned calls, at;
    uint64_t last;
};

static bool cancel_at(void *context, uint64_t done, uint64_t total)
{
    struct cancel *cancel = context;
    assert_true(done <= total && done >= cancel->last);
    cancel->last = done;
    return ++cancel->calls < cancel->at;
}

static void test_cancel(void **state)
{
    struct rig *rig = *state;
    struct cancel cancel = {.at = UINT32_MAX};
    cenote_pack_options options = {CENOTE_PACK_OPTIONS_VERSION, cancel_at, &cancel};
    assert_int_equal(write_copy(rig, &options, NULL, NULL), CENOTE_OK);
    const unsigned calls = cancel.calls;
    assert_int_equal(calls, 1 + 8); /* before the first, after each bf16 panel */
    assert_int_equal(cancel.last, 2 * (100 * 192 + 48 * 64 + 40 * 128));
    assert_int_equal(unlink(rig->path), 0);
    for (unsigned at = 1; at <= calls; at++) {
        cancel = (struct cancel){.at = at};
        assert_int_equal(write_copy(rig, &options, NULL, NULL), CENOTE_E_CANCELLED);
        assert_int_equal(pack_names(rig->folder, ""), 0);
    }
    must_write(rig);
    cancel = (struct cancel){.at = 3};
    assert_int_equal(write_copy(rig, &options, NULL, NULL), CENOTE_E_CANCELLED);
    assert_int_equal(pack_names(rig->folder, ""), 1);
    pack_assert_whole(rig->weights, rig->budget, rig->path);
    cenote_pack *pack;
    assert_int_equal(
        cenote_pack_open(rig->weights, rig->budget, rig->path, CENOTE_IO_AUTO, &pack, NULL),
        CENOTE_OK);
    cancel = (struct cancel){.at = 2};
    assert_int_equal(cenote_pack_verify(pack, rig->budget, &options, NULL), CENOTE_E_CANCELLED);
    cenote_pack_close(pack);
}

/* Every call of every kind fails once, beside a copy that is there already and without one. Only a
 * failed sync of the folder may come when the new copy already has its name. */
static void sweep(struct rig *rig, enum cn_fake_call call, int error, bool there)
{
    unsigned failed = 0;
    for (uint64_t nth = 1;; nth++) {
        cenote_error err = {0};
        (void)unlink(rig->path);
        rig_again(rig);
        if (there)
            must_write(rig);
        cn_fake_fail(rig->fake, call, nth, error);
        cenote_status status = write_copy(rig, NULL, NULL, &err);
        cn_fake_faults_clear(rig->fake);
        assert_int_equal(test_budget_charged(rig->budget), rig->charged);
        assert_int_equal(pack_names(rig->folder, ""), pack_names(rig->folder, "cenote-"));
        unsigned names = pack_names(rig->folder, "");
        if (names == 1)
            pack_assert_whole(rig->weights, rig->budget, rig->path);
        if (status == CENOTE_OK) {
            assert_int_equal(names, 1);
            break;
        }
        assert_true(err.message[0] != '\0');
        assert_true(names == (there ? 1 : 0) || call == CN_FAKE_SYNC);
        failed++;
        assert_true(nth < 200);
    }
    /* a bad read or an open is tried again, and a folder need not be listed */
    bool heals = call == CN_FAKE_READ || call == CN_FAKE_OPEN || call == CN_FAKE_LIST ||
                 call == CN_FAKE_REMOVE;
    assert_true(failed > 0 || heals);
}

static void test_every_fault(void **state)
{
    static const struct {
        enum cn_fake_call call;
        int error;
    } faults[] = {{CN_FAKE_CREATE, EACCES}, {CN_FAKE_WRITE, ENOSPC},  {CN_FAKE_SYNC, EIO},
                  {CN_FAKE_RENAME, EIO},    {CN_FAKE_MEMORY, ENOMEM}, {CN_FAKE_READ, EIO},
                  {CN_FAKE_STAT, EIO},      {CN_FAKE_LIST, EACCES}};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        sweep(*state, faults[i].call, faults[i].error, false);
        sweep(*state, faults[i].call, faults[i].error, true);
    }
}

static void test_checkpoint_changes_meanwhile(void **state)
{
    struct rig *rig = *state;
    for (uint64_t read = 1; read < 40; read += 3) {
        rig_again(rig);
        struct cn_fake_fault fault = {CN_FAULT_CHANGE, read, 1, 5000};
        cn_fake_fault_add(rig->fake, fault);
        cenote_status status = write_copy(rig, NULL, NULL, NULL);
        assert_true(status == CENOTE_OK || status == CENOTE_E_CHANGED);
        assert_int_equal(pack_names(rig->folder, ""), status == CENOTE_OK ? 1 : 0);
        (void)unlink(rig->path);
        cn_fake_faults_clear(rig->fake);
    }
}

static void test_small_budget(void **state)
{
    struct rig *rig = *state;
    cenote_budget *small = test_budget_create(100000, cn_fake_os(rig->fake));
    cenote_error err;
    assert_int_equal(
        cenote_pack_write(rig->weights, small, rig->items, PACK_ITEMS, rig->path, NULL, NULL, &err),
        CENOTE_E_BUDGET);
    assert_int_equal(pack_names(rig->folder, ""), 0);
    must_write(rig);
    cenote_pack *pack;
    cenote_budget *tiny = test_budget_create(10000, cn_fake_os(rig->fake));
    assert_int_equal(cenote_pack_open(rig->weights, tiny, rig->path, CENOTE_IO_AUTO, &pack, &err),
                     CENOTE_E_BUDGET);
    cenote_budget_destroy(tiny);
    cenote_budget_destroy(small);
}

/* ---- leftovers ---- */

static void test_leftovers(void **state)
{
    struct rig *rig = *state;
    char left[710], held[710], foreign[710];
    snprintf(left, sizeof left, "%s.0.tmp", rig->path);
    snprintf(held, sizeof held, "%s.1.tmp", rig->path);
    snprintf(foreign, sizeof foreign, "%s/other.0.tmp", rig->folder);
    pack_file_store(left, "x", 1);
    pack_file_store(held, "y", 1);
    pack_file_store(foreign, "z", 1);
    FILE *file = fopen(held, "r+");
    assert_int_equal(flock(fileno(file), LOCK_EX | LOCK_NB), 0);
    must_write(rig);
    pack_assert_whole(rig->weights, rig->budget, rig->path);
    assert_int_equal(access(left, F_OK), -1);
    assert_int_equal(access(held, F_OK), 0);
    assert_int_equal(access(foreign, F_OK), 0);
    fclose(file);
    must_write(rig);
    assert_int_equal(access(held, F_OK), -1);
    assert_int_equal(pack_names(rig->folder, ""), 2);
}

/* Killed at some moment or other: a whole copy or none, and what is left beside it goes with the
 * next write. */
static bool slowly(void *context, uint64_t done, uint64_t total)
{
    (void)context;
    (void)done;
    (void)total;
    usleep(300);
    return true;
}

static void test_killed(void **state)
{
    struct rig *rig = *state;
    unsigned whole = 0, none = 0;
    for (unsigned i = 0; i < 24; i++) {
        fflush(stdout);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            cenote_pack_options options = {CENOTE_PACK_OPTIONS_VERSION, slowly, NULL};
            for (;;)
                if (write_copy(rig, &options, NULL, NULL) != CENOTE_OK)
                    _exit(1);
        }
        usleep(500 + i * 700);
        assert_int_equal(kill(child, SIGKILL), 0);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        if (access(rig->path, F_OK) == 0) {
            pack_assert_whole(rig->weights, rig->budget, rig->path);
            whole++;
            assert_int_equal(unlink(rig->path), 0);
        } else {
            none++;
        }
        assert_true(pack_names(rig->folder, "") <= i + 1);
    }
    must_write(rig);
    assert_int_equal(pack_names(rig->folder, ""), 1);
    print_message("killed 24 times: %u whole copies, %u times none\n", whole, none);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_open, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_write_and_read),
        TEST(test_layout),
        TEST(test_find_wants_the_grid),
        TEST(test_paths),
        TEST(test_bad_items),
        TEST(test_stale),
        TEST(test_every_byte_of_the_table),
        TEST(test_forged_tables),
        TEST(test_corrupt_panel),
        TEST(test_corrupt_panel_becomes_resident),
        TEST(test_place_too_small_for_the_original),
        TEST(test_full_disk),
        TEST(test_cancel),
        TEST(test_every_fault),
        TEST(test_checkpoint_changes_meanwhile),
        TEST(test_small_budget),
        TEST(test_leftovers),
        TEST(test_killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
