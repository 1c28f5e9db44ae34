/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a file of buffers. What the reader takes, a layout takes too, and its layout holds.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cenote/cenote.h>

#include "layout_csv.h"

enum { STEPS = 300 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int condition)
{
    if (!condition)
        abort();
}

static void check_row(const struct cli_layout_row *row, const char *text, size_t size)
{
    check(row->id_bytes > 0 && row->id_offset <= size && row->id_bytes < size - row->id_offset);
    check(text[row->id_offset + row->id_bytes] == ',');
    check(memchr(text + row->id_offset, '\n', row->id_bytes) == NULL);
}

static void lay_out(const struct cli_layout_row *rows, uint64_t count)
{
    cenote_layout_buffer *buffers = malloc((count + 1) * sizeof *buffers);
    void *memory = malloc(cenote_layout_bytes(count));
    cenote_layout *layout;
    check(buffers != NULL && memory != NULL);
    for (uint64_t i = 0; i < count; i++)
        buffers[i] = rows[i].buffer;
    check(cenote_layout_init(buffers, count, memory, &layout, NULL) == CENOTE_OK);
    check(cenote_layout_check(layout) == NULL);
    (void)cenote_layout_improve(layout, STEPS);
    check(cenote_layout_check(layout) == NULL);
    free(memory);
    free(buffers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    check(text != NULL);
    memcpy(text, data, size);
    uint64_t rows_max = cli_layout_csv_rows_max(text, size), count = 0;
    struct cli_layout_row *rows = malloc((rows_max + 1) * sizeof *rows);
    check(rows != NULL && rows_max <= size);
    cenote_error err;
    cenote_status status = cli_layout_csv_read(text, size, rows, &count, &err);
    check(status == CENOTE_OK || status == CENOTE_E_CORRUPT);
    if (status == CENOTE_OK) {
        check(count <= rows_max);
        for (uint64_t i = 0; i < count; i++)
            check_row(&rows[i], text, size);
        lay_out(rows, count);
    }
    free(rows);
    free(text);
    return 0;
}
