/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a packed copy of a small checkpoint. The first byte says what is put right before,
 * so that mutations get past the first door: 1 the sources, 2 the number of bytes, 4 the checksum.
 *
 * What opens must hold panels inside the file that are read or refused; nothing may leak. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cenote/cenote.h>

#include "base/hash.h"
#include "os/fake/fake.h"
#include "weights/pack.h"

#define BUDGET_BYTES (4u << 20)
#define MODEL        "/proc/self/m.safetensors"
#define COPY         "/proc/self/m.pack"
#define HEADER                                                                                     \
    "{\"a\":{\"dtype\":\"BF16\",\"shape\":[40,128],\"data_offsets\":[0,10240]},"                   \
    "\"b\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[10240,10252]},"                      \
    "\"c\":{\"dtype\":\"BF16\",\"shape\":[16,64],\"data_offsets\":[10252,12300]}}"
#define DATA_BYTES 12300u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int condition)
{
    if (!condition)
        abort();
}

/* bf16 that 12 bits hold, whatever is read of it. */
static void add_model(struct cn_fake *fake)
{
    static uint8_t file[8 + sizeof HEADER - 1 + DATA_BYTES];
    size_t header_bytes = sizeof HEADER - 1;
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)header_bytes >> 8 * i);
    memcpy(file + 8, HEADER, header_bytes);
    for (size_t i = 0; i < DATA_BYTES; i++)
        file[8 + header_bytes + i] = i % 2 == 0 ? (uint8_t)(i * 7) : (uint8_t)(0x38 + i % 11 / 2);
    check(cn_fake_file_add(fake, MODEL, file, sizeof file) == 0);
}

/* Puts right what the flags say; the rest is the input's. */
static void mend(cenote_weights *weights, uint8_t flags, uint8_t *file, size_t size)
{
    struct cn_pack_header header;
    if (size < sizeof header)
        return;
    memcpy(&header, file, sizeof header);
    if ((flags & 1) != 0 && size >= sizeof header + sizeof(struct cn_pack_source)) {
        struct cn_pack_source source;
        check(cn_pack_source_of(weights, 0, &source, NULL) == CENOTE_OK);
        memcpy(file + sizeof header, &source, sizeof source);
        header.source_count = 1;
    }
    if ((flags & 2) != 0)
        header.file_bytes = size;
    header.checksum = 0;
    memcpy(file, &header, sizeof header - ((flags & 4) != 0 ? 0 : sizeof header.checksum));
    if ((flags & 4) == 0)
        return;
    uint64_t end = header.table_end_bytes < size ? header.table_end_bytes : size;
    header.checksum = cn_hash64(file, end);
    memcpy(file, &header, sizeof header);
}

static void walk(cenote_pack *pack, cenote_weights *weights, size_t size)
{
    cenote_pack_info info;
    cenote_pack_info_get(pack, &info);
    uint64_t found = 0;
    for (uint32_t tensor = 0; tensor < cenote_weights_count(weights) + 1; tensor++)
        for (uint64_t first = 0; first < 40; first++)
            for (uint64_t rows = 1; rows <= 40; rows++) {
                cenote_pack_panel panel;
                if (!cenote_pack_find(pack, tensor, first, rows, &panel))
                    continue;
                check(panel.size_bytes <= cenote_pack_panel_bytes_max(pack));
                check(panel.offset_bytes + panel.size_bytes <= size);
                uint8_t *bytes = malloc(panel.size_bytes);
                check(bytes != NULL);
                cenote_error err = {0};
                cenote_status status = cenote_pack_read(pack, &panel, bytes, &err);
                check(status == CENOTE_OK || (status == CENOTE_E_CORRUPT && err.message[0] != 0));
                free(bytes);
                found++;
            }
    check(found == info.packed_panels);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct cn_fake *fake = cn_fake_create();
    check(fake != NULL);
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = BUDGET_BYTES;
    options.process_bytes = 1;
    options.os = cn_fake_os(fake);
    cenote_budget *budget;
    cenote_weights *weights;
    cenote_pack *pack = NULL;
    check(cenote_budget_create(&options, &budget, NULL) == CENOTE_OK);
    add_model(fake);
    check(cenote_weights_open(budget, MODEL, NULL, &weights, NULL) == CENOTE_OK);

    uint8_t *file = malloc(size);
    check(file != NULL);
    memcpy(file, data + 1, size - 1);
    mend(weights, data[0], file, size - 1);
    check(cn_fake_file_add(fake, COPY, file, size - 1) == 0);
    cenote_error err = {0};
    cenote_status status = cenote_pack_open(weights, budget, COPY, CENOTE_IO_AUTO, &pack, &err);
    if (status == CENOTE_OK)
        walk(pack, weights, size - 1);
    else
        check(pack == NULL && err.status == status && err.message[0] != '\0' &&
              (status == CENOTE_E_CORRUPT || status == CENOTE_E_CHANGED ||
               status == CENOTE_E_BUDGET));
    cenote_pack_close(pack);
    free(file);
    cenote_weights_close(weights);
    cenote_budget_stats stats;
    cenote_budget_stats_get(budget, &stats);
    check(stats.charged_bytes == 1);
    cenote_budget_destroy(budget);
    struct cn_fake_books books = cn_fake_books_get(fake);
    check(books.open_files == 0 && books.reservations == 0 && books.misuse_count == 0);
    cn_fake_destroy(fake);
    return 0;
}
