/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers with their lives, from a stranger's text:
 *
 *   id,lower,upper,size[,alignment]     this header, first
 *   relu_1,0,3,65536,64                 live in [lower, upper)
 *
 * Lines end with LF or CRLF; empty ones are passed over. An id is not empty and has no quotes and
 * no control characters; ids need not differ. */
#ifndef CENOTE_CLI_LAYOUT_CSV_H
#define CENOTE_CLI_LAYOUT_CSV_H

#include <cenote/cenote.h>

struct cli_layout_row {
    cenote_layout_buffer buffer;
    uint64_t id_offset; /* of the id in the text */
    uint32_t id_bytes;
};

/* Rows that the text has at most. */
uint64_t cli_layout_csv_rows_max(const char *text, uint64_t size_bytes);

/* @param rows  room for cli_layout_csv_rows_max(); cenote_layout_init() takes what is read
 * Errors: CENOTE_E_CORRUPT naming line and field; rows hold rubbish then. */
CENOTE_MUST_CHECK cenote_status cli_layout_csv_read(const char *text, uint64_t size_bytes,
                                                    struct cli_layout_row *rows,
                                                    uint64_t *out_count, cenote_error *err);

#endif
