/* SPDX-License-Identifier: Apache-2.0 */
/* The header of one safetensors file into the extent table.
 * Threads: one at a time per table. */
#ifndef CN_WEIGHTS_SAFETENSORS_H
#define CN_WEIGHTS_SAFETENSORS_H

#include "weights/file.h"
#include "weights/table.h"

#define CN_SAFETENSORS_HEADER_BYTES_MAX 100000000u /* as the reference reader */

struct cn_safetensors_source {
    cenote_budget *budget;
    const struct cn_file *file;
    uint32_t file_index;
    void *buffer; /* CN_JSON_PIECE_BYTES, aligned to CN_FILE_ALIGN_MAX */
};

/* Adds every tensor of the file to @p table; on failure some may have been added.
 * Errors: CENOTE_E_CORRUPT, CENOTE_E_IO, CENOTE_E_CHANGED, CENOTE_E_BUDGET, CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK cenote_status cn_safetensors_read(const struct cn_safetensors_source *source,
                                                    struct cn_table *table, cenote_error *err);

#endif
