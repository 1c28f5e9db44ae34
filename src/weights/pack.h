/* SPDX-License-Identifier: Apache-2.0 */
/* The packed copy's format (cenote/pack.h draws it), for the files that write and read it. */
#ifndef CN_WEIGHTS_PACK_H
#define CN_WEIGHTS_PACK_H

#include <assert.h>

#include <cenote/pack.h>

#include "weights/file.h"

#define CN_PACK_MAGIC   "CENOTEPK"
#define CN_PACK_VERSION 1u
#define CN_PACK_PANELS_MAX                                                                         \
    (UINT64_C(1) << 22) /* 200 MB of table: 4 TB of weights in 1 MiB panels */

struct cn_pack_header {
    char magic[8];
    uint32_t version;
    uint32_t source_count;
    uint64_t panel_count;
    uint64_t table_end_bytes; /* header, sources and table */
    uint64_t file_bytes;
    uint64_t reserved[2];
    uint64_t checksum;
};

struct cn_pack_source {
    uint64_t size_bytes;
    int64_t mtime_ns;
    uint64_t header_hash;
    uint64_t reserved;
};

struct cn_pack_entry {
    uint32_t tensor_index;
    uint32_t encoding;
    uint64_t row_first;
    uint64_t row_count;
    uint64_t offset_bytes;
    uint64_t size_bytes;
    uint64_t checksum;
};

static_assert(sizeof(struct cn_pack_header) == 64, "as written");
static_assert(sizeof(struct cn_pack_source) == 32, "as written");
static_assert(sizeof(struct cn_pack_entry) == 48, "as written");
static_assert(CENOTE_PACK_ALIGN_BYTES == CN_FILE_ALIGN_MAX, "panels need no residue");

/* What file @p file_index of the checkpoint is now. Threads: any, one at a time.
 * Errors: as cn_file_read(). */
CENOTE_MUST_CHECK cenote_status cn_pack_source_of(cenote_weights *weights, uint32_t file_index,
                                                  struct cn_pack_source *out_source,
                                                  cenote_error *err);

/* The file of an open copy, for a stream that reads panels of it by itself. */
const struct cn_file *cn_pack_file(const cenote_pack *pack);

#endif
