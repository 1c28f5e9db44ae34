/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a checkpoint. The first byte says what the rest is:
 *
 *   'F'  a whole file
 *   'H'  a header's text: its length is put before it and the second byte x 4 bytes of data behind
 *   'I'  an index, over two good shards
 *
 * Whatever opens must be a sound table; whatever does not must say so; nothing may leak. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cenote/cenote.h>

#include "os/fake/fake.h"

#define BUDGET_BYTES (4u << 20)
#define FOLDER       "/proc/self" /* a real folder without any such file */
#define SHARD_ONE    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"
#define SHARD_TWO    "{\"b\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[0,2]}}"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int condition)
{
    if (!condition)
        abort();
}

static void add_header(struct cn_fake *fake, const char *path, const void *header, size_t size,
                       size_t data_bytes)
{
    uint8_t *file = calloc(1, 8 + size + data_bytes);
    check(file != NULL);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)size >> 8 * i);
    memcpy(file + 8, header, size);
    check(cn_fake_file_add(fake, path, file, 8 + size + data_bytes) == 0);
    free(file);
}

/* What the table says must be true of itself and readable. */
static void check_table(cenote_weights *weights)
{
    uint32_t count = cenote_weights_count(weights);
    for (uint32_t i = 0; i < count; i++) {
        const cenote_tensor_info *t = cenote_weights_tensor(weights, i);
        uint64_t bytes = cenote_dtype_bytes(t->dtype);
        check(t->rank <= CENOTE_RANK_MAX && t->file_index < cenote_weights_file_count(weights));
        for (uint32_t d = 0; d < t->rank; d++)
            check(!__builtin_mul_overflow(bytes, t->shape[d], &bytes));
        check(bytes == t->size_bytes);
        check(i == 0 || strcmp(cenote_weights_tensor(weights, i - 1)->name, t->name) < 0);
        uint32_t found;
        check(cenote_weights_find(weights, t->name, &found, NULL) == CENOTE_OK && found == i);
        uint8_t ends[2];
        if (bytes == 0 || i > 64)
            continue;
        check(cenote_weights_read(weights, i, 0, 1, &ends[0], NULL) == CENOTE_OK);
        check(cenote_weights_read(weights, i, bytes - 1, 1, &ends[1], NULL) == CENOTE_OK);
    }
}

static const char *place(struct cn_fake *fake, const uint8_t *data, size_t size)
{
    static const char file[] = FOLDER "/m.safetensors";
    switch (data[0]) {
    case 'I':
        check(cn_fake_file_add(fake, FOLDER "/model.safetensors.index.json", data + 1, size - 1) ==
              0);
        add_header(fake, FOLDER "/1.safetensors", SHARD_ONE, strlen(SHARD_ONE), 4);
        add_header(fake, FOLDER "/2.safetensors", SHARD_TWO, strlen(SHARD_TWO), 2);
        return FOLDER;
    case 'H':
        if (size < 2)
            return NULL;
        add_header(fake, file, data + 2, size - 2, data[1] * 4u);
        return file;
    case 'F':
        check(cn_fake_file_add(fake, file, data + 1, size - 1) == 0);
        return file;
    default:
        return NULL;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cn_fake *fake = cn_fake_create();
    check(fake != NULL);
    const char *path = size > 0 ? place(fake, data, size) : NULL;
    if (path == NULL)
        goto out_destroy;
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = BUDGET_BYTES;
    options.process_bytes = 1;
    options.os = cn_fake_os(fake);
    cenote_budget *budget;
    check(cenote_budget_create(&options, &budget, NULL) == CENOTE_OK);

    cenote_weights *weights = NULL;
    cenote_error err = {0};
    cenote_status status = cenote_weights_open(budget, path, NULL, &weights, &err);
    if (status == CENOTE_OK) {
        check_table(weights);
        cenote_weights_close(weights);
    } else {
        check(weights == NULL && err.status == status && err.message[0] != '\0');
        /* nothing is wrong with this machine */
        check(status != CENOTE_E_IO && status != CENOTE_E_CHANGED && status != CENOTE_E_NOMEM);
    }
    cenote_budget_stats stats;
    cenote_budget_stats_get(budget, &stats);
    check(stats.charged_bytes == 1);
    cenote_budget_destroy(budget);
    struct cn_fake_books books = cn_fake_books_get(fake);
    check(books.open_files == 0 && books.reservations == 0 && books.misuse_count == 0);
out_destroy:
    cn_fake_destroy(fake);
    return 0;
}
