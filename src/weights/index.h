/* SPDX-License-Identifier: Apache-2.0 */
/* Which files make up a checkpoint: the file itself, the shards of an index, or all of a folder.
 * Threads: one at a time per table. */
#ifndef CN_WEIGHTS_INDEX_H
#define CN_WEIGHTS_INDEX_H

#include "weights/file.h"
#include "weights/table.h"

#define CN_INDEX_FILE_NAME "model.safetensors.index.json"
#define CN_INDEX_BYTES_MAX 100000000u
/* Each file of a checkpoint is open while the checkpoint is; most systems give a process 1024. */
#define CN_SHARDS_MAX 960u

struct cn_shards {
    const char **names; /* in order as bytes, each once; in the table's text arena */
    uint32_t count;
    const char *folder;   /* NULL: names[0] is the whole path */
    struct cn_file index; /* open while has_index */
    bool has_index;
};

/* @param path   a file or a folder
 * @param buffer CN_JSON_PIECE_BYTES, aligned to CN_FILE_ALIGN_MAX
 * Errors: CENOTE_E_NOTFOUND, CENOTE_E_CORRUPT, CENOTE_E_IO, CENOTE_E_BUDGET, CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK cenote_status cn_shards_find(cenote_budget *budget, const char *path,
                                               void *buffer, struct cn_table *table,
                                               struct cn_shards *out_shards, cenote_error *err);
void cn_shards_close(struct cn_shards *shards);

/* folder/name, or the name alone. NULL with err filled. */
const char *cn_shards_path(const struct cn_shards *shards, uint32_t shard, struct cn_table *table,
                           cenote_error *err);

/* Checks that each tensor that the index names lies in the shard that it names; the table is sorted
 * by name and its file_index counts as shards->names does. Tensors that no index names are fine.
 * Errors: CENOTE_E_CORRUPT naming both. */
CENOTE_MUST_CHECK cenote_status cn_shards_check(cenote_budget *budget, struct cn_shards *shards,
                                                void *buffer, const struct cn_table *table,
                                                cenote_error *err);

#endif
