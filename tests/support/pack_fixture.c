/* SPDX-License-Identifier: Apache-2.0 */
#include "pack_fixture.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bf12_support.h"
#include "checkpoint.h"
#include "weights_fixture.h"

void pack_file_store(const char *path, const void *data, uint64_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

unsigned char *pack_file_load(const char *path, uint64_t *out_bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *out_bytes = (uint64_t)ftell(file);
    rewind(file);
    unsigned char *data = malloc(*out_bytes + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *out_bytes, file), *out_bytes);
    fclose(file);
    return data;
}

/* Puts normal values over elements [first, first + count) of a tensor. */
static void make_normal(const char *folder, const char *name, uint64_t first, uint64_t count)
{
    cenote_budget *budget = test_budget_create(1u << 24, NULL);
    cenote_weights *weights = test_weights_open(budget, folder, CENOTE_IO_BUFFERED);
    const cenote_tensor_info *t = cenote_weights_tensor(weights, test_weights_find(weights, name));
    uint16_t *values = malloc(count * 2);
    uint64_t state = first + count, bytes;
    assert_non_null(values);
    bf12_fill_normal(values, 1, count, 0, &state);
    const char *path = cenote_weights_file_path(weights, t->file_index);
    unsigned char *file = pack_file_load(path, &bytes);
    memcpy(file + t->offset_bytes + first * 2, values, count * 2);
    pack_file_store(path, file, bytes);
    free(file);
    free(values);
    cenote_weights_close(weights);
    cenote_budget_destroy(budget);
}

void pack_checkpoint_write(const char *folder)
{
    const struct test_tensor first[] = {{"a", "BF16", {100, 192}, 2, 1},
                                        {"b", "F32", {10, 20}, 2, 2}};
    const struct test_tensor second[] = {{"c", "BF16", {48, 8, 8}, 3, 3},
                                         {"d", "BF16", {40, 128}, 2, 4}};
    char path[700];
    snprintf(path, sizeof path, "%s/model-1.safetensors", folder);
    test_checkpoint_write(path, first, 2, 3);
    snprintf(path, sizeof path, "%s/model-2.safetensors", folder);
    test_checkpoint_write(path, second, 2, 0);
    make_normal(folder, "a", 0, 100 * 192);
    make_normal(folder, "c", 0, 48 * 64);
    make_normal(folder, "d", 0, 16 * 128);
    make_normal(folder, "d", 32 * 128, 8 * 128);
}

void pack_items(const cenote_weights *weights, cenote_stream_item items[PACK_ITEMS])
{
    items[0] = (cenote_stream_item){test_weights_find(weights, "d"), 16};
    items[1] = (cenote_stream_item){test_weights_find(weights, "a"), 32};
    items[2] = (cenote_stream_item){test_weights_find(weights, "b"), 100};
    items[3] = (cenote_stream_item){test_weights_find(weights, "c"), 48};
}

unsigned pack_names(const char *folder, const char *prefix)
{
    unsigned count = 0;
    DIR *names = opendir(folder);
    assert_non_null(names);
    for (struct dirent *entry = readdir(names); entry != NULL; entry = readdir(names))
        if (entry->d_name[0] != '.' && strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
            count++;
    closedir(names);
    return count;
}

static void assert_panel(cenote_weights *weights, cenote_pack *pack, uint32_t tensor,
                         uint64_t first, uint64_t rows)
{
    const cenote_tensor_info *t = cenote_weights_tensor(weights, tensor);
    uint64_t row_bytes = t->size_bytes / t->shape[0];
    cenote_pack_panel panel;
    assert_true(cenote_pack_find(pack, tensor, first, rows, &panel));
    assert_true(panel.tensor_index == tensor && panel.row_first == first &&
                panel.row_count == rows && panel.encoding == CENOTE_ENCODING_BF12);
    unsigned char *packed = malloc(panel.size_bytes), *plain = malloc(rows * row_bytes);
    unsigned char *row = malloc(row_bytes);
    assert_true(packed != NULL && plain != NULL && row != NULL);
    cenote_error err;
    assert_int_equal(cenote_pack_read(pack, &panel, packed, &err), CENOTE_OK);
    assert_int_equal(
        cenote_weights_read(weights, tensor, first * row_bytes, rows * row_bytes, plain, &err),
        CENOTE_OK);
    for (uint64_t i = 0; i < rows; i++) {
        cenote_bf12_decode(packed, row_bytes / 2, i, 0, row_bytes / 2, row);
        assert_memory_equal(row, plain + i * row_bytes, row_bytes);
    }
    free(row);
    free(plain);
    free(packed);
}

void pack_assert_whole(cenote_weights *weights, cenote_budget *budget, const char *path)
{
    cenote_pack *pack;
    cenote_pack_panel panel;
    cenote_error err = {0};
    if (cenote_pack_open(weights, budget, path, CENOTE_IO_AUTO, &pack, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    uint32_t a = test_weights_find(weights, "a"), c = test_weights_find(weights, "c");
    uint32_t d = test_weights_find(weights, "d");
    for (uint64_t first = 0; first < 96; first += 32)
        assert_panel(weights, pack, a, first, 32);
    assert_panel(weights, pack, a, 96, 4);
    assert_panel(weights, pack, c, 0, 48);
    assert_panel(weights, pack, d, 0, 16);
    assert_panel(weights, pack, d, 32, 8);
    assert_false(cenote_pack_find(pack, d, 16, 16, &panel));
    assert_false(cenote_pack_find(pack, test_weights_find(weights, "b"), 0, 10, &panel));
    assert_int_equal(cenote_pack_verify(pack, budget, NULL, &err), CENOTE_OK);
    cenote_pack_close(pack);
}
