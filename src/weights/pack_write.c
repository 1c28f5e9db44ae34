/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a packed copy: reads the matrices panel by panel, packs each, and appends it.
 *
 *   checkpoint --> slot --> bf12 --> PATH.N.tmp  | (header) | panel | panel | ..
 *                                                     ^ header and table, when all panels are
 * there; sync, are the sources what they were?, rename to PATH, sync of the folder
 *
 * One panel at a time: the page cache writes meanwhile, and reading, packing and writing are each
 * several times faster than most disks. Every FLUSH_BYTES what was written is synced and dropped
 * from the cache, so that gigabytes of dirty pages push nobody out.
 *
 * The temporary file is locked as long as it is written; one without a lock was left by a process
 * that died, and the next that writes the same copy removes it. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <cenote/bf12.h>

#include "base/checked.h"
#include "base/hash.h"
#include "pool/budget.h"
#include "weights/matrix.h"
#include "weights/message.h"
#include "weights/pack.h"
#include "weights/weights_impl.h"

#define FLUSH_BYTES (64u << 20)
#define NAMES_MAX   100u
/* The arena's own header and the alignment of a few allocations. */
#define ARENA_ROOM_BYTES 8192u

struct pack_writer {
    struct cenote_weights *weights;
    struct cn_os *os;
    const cenote_stream_item *items;
    uint32_t item_count;
    const char *path;
    const cenote_pack_options *options;
    char temporary[PATH_MAX];
    char folder[PATH_MAX];
    int fd;                 /* -1: nothing is open */
    struct cn_arena *arena; /* sources, entries */
    struct cn_pack_source *sources;
    struct cn_pack_entry *entries;
    uint64_t entry_count;
    cenote_pool *pool;
    void *slot;
    unsigned char *packed;
    uint64_t panels_max;
    uint64_t slot_bytes, packed_bytes_max; /* of the largest panel */
    uint64_t file_bytes_max;
    uint64_t end_bytes; /* of what is written */
    uint64_t flushed_bytes;
    uint64_t done_bytes, total_bytes;
    cenote_pack_info info;
};

/* ---- what there is to do ---- */

static bool packs(const cenote_tensor_info *tensor)
{
    return tensor->dtype == CENOTE_DTYPE_BF16 && tensor->size_bytes > 0;
}

static uint64_t aligned(uint64_t bytes)
{
    return cn_round_up(bytes, CENOTE_PACK_ALIGN_BYTES);
}

static uint64_t table_end_of(const struct pack_writer *w, uint64_t panels)
{
    return sizeof(struct cn_pack_header) + w->weights->file_count * sizeof(struct cn_pack_source) +
           panels * sizeof(struct cn_pack_entry);
}

static cenote_status measure_item(struct pack_writer *w, const cenote_stream_item *item,
                                  cenote_error *err)
{
    struct cn_matrix cut;
    if (item->tensor_index >= w->weights->table.count || item->rows_per_panel == 0)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "tensor %u of %u in panels of %u rows is no item to pack",
                                item->tensor_index, w->weights->table.count, item->rows_per_panel);
    const cenote_tensor_info *tensor = &w->weights->table.tensors[item->tensor_index];
    const char *path = w->weights->files[tensor->file_index].path;
    if (!cn_matrix_make(tensor, item->rows_per_panel, &cut) ||
        cut.panels > CN_PACK_PANELS_MAX - w->panels_max)
        return cn_weights_error(err, CENOTE_E_INVAL, path, tensor->name,
                                "panels of %u rows are more than a packed copy takes",
                                item->rows_per_panel);
    if (!packs(tensor))
        return CENOTE_OK;
    w->total_bytes += tensor->size_bytes;
    w->panels_max += cut.panels;
    for (uint32_t panel = 0; panel < cut.panels; panel++) {
        uint64_t rows = cn_matrix_panel_rows(&cut, panel);
        uint64_t slot_bytes = cn_file_slot_bytes(rows * cut.row_bytes);
        uint64_t packed_bytes = cenote_bf12_bytes_max(rows, cut.row_bytes / 2);
        if (packed_bytes > UINT32_MAX || slot_bytes > UINT32_MAX)
            return cn_weights_error(err, CENOTE_E_INVAL, path, tensor->name,
                                    "panels of %u rows are too large to pack",
                                    item->rows_per_panel);
        w->slot_bytes = slot_bytes > w->slot_bytes ? slot_bytes : w->slot_bytes;
        if (packed_bytes > w->packed_bytes_max)
            w->packed_bytes_max = packed_bytes;
        w->file_bytes_max += aligned(packed_bytes);
    }
    return CENOTE_OK;
}

static cenote_status measure(struct pack_writer *w, cenote_error *err)
{
    for (uint32_t i = 0; i < w->item_count; i++) {
        for (uint32_t j = 0; j < i; j++)
            if (w->items[j].tensor_index == w->items[i].tensor_index)
                return cenote_error_set(err, CENOTE_E_INVAL, "tensor %u is to be packed twice",
                                        w->items[i].tensor_index);
        cenote_status status = measure_item(w, &w->items[i], err);
        if (status != CENOTE_OK)
            return status;
    }
    w->file_bytes_max += aligned(table_end_of(w, w->panels_max));
    if (w->panels_max == 0)
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                "there is no bf16 matrix that could be packed");
    return CENOTE_OK;
}

static cenote_status take_memory(struct pack_writer *w, cenote_budget *budget, cenote_error *err)
{
    uint64_t sources_bytes = w->weights->file_count * sizeof *w->sources;
    uint64_t entries_bytes = w->panels_max * sizeof *w->entries;
    cenote_pool_options pool = CENOTE_POOL_OPTIONS_INIT;
    void *packed;
    cenote_status status =
        cn_arena_create(budget, sources_bytes + entries_bytes + ARENA_ROOM_BYTES, &w->arena, err);
    if (status != CENOTE_OK)
        return status;
    w->sources = cn_arena_alloc(w->arena, sources_bytes, 8, err);
    w->entries = cn_arena_alloc(w->arena, entries_bytes, 8, err);
    if (w->sources == NULL || w->entries == NULL)
        return err->status;
    pool.class_id = CENOTE_CLASS_PARAMETERS;
    status = cenote_pool_create(budget, &pool, &w->pool, err);
    if (status == CENOTE_OK)
        status = cenote_pool_alloc(w->pool, w->slot_bytes, &w->slot, err);
    if (status == CENOTE_OK)
        status = cenote_pool_alloc(w->pool, aligned(w->packed_bytes_max), &packed, err);
    if (status == CENOTE_OK)
        w->packed = packed;
    return status;
}

/* ---- the temporary file ---- */

/* Leftovers of processes that died: PATH.N.tmp without a lock. */
static int remove_leftover(void *context, const char *name)
{
    const struct pack_writer *w = context;
    const char *own = strrchr(w->path, '/');
    own = own != NULL ? own + 1 : w->path;
    size_t own_length = strlen(own), length = strlen(name);
    if (length < own_length + 5 || strncmp(name, own, own_length) != 0 || name[own_length] != '.' ||
        strcmp(name + length - 4, ".tmp") != 0)
        return 0;
    char path[PATH_MAX];
    int needed = snprintf(path, sizeof path, "%s/%s", w->folder, name);
    if (needed > 0 && (size_t)needed < sizeof path)
        (void)w->os->ops->file_remove_abandoned(w->os, path); /* others' files are not our error */
    return 0;
}

static cenote_status check_room(const struct pack_writer *w, cenote_error *err)
{
    uint64_t free_bytes;
    int rc = w->os->ops->directory_free(w->os, w->folder, &free_bytes);
    if (rc != 0)
        return cn_weights_error_errno(err, w->folder, NULL, "room left", -rc);
    if (free_bytes < w->file_bytes_max)
        return cn_weights_error(err, CENOTE_E_IO, w->folder, NULL,
                                "a packed copy takes up to %" PRIu64 " bytes, %" PRIu64
                                " are free there",
                                w->file_bytes_max, free_bytes);
    return CENOTE_OK;
}

static cenote_status create_temporary(struct pack_writer *w, cenote_error *err)
{
    const char *slash = strrchr(w->path, '/');
    if (strlen(w->path) + 8 >= PATH_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "%.100s...: a path of %zu bytes", w->path,
                                strlen(w->path));
    snprintf(w->folder, sizeof w->folder, "%.*s", slash != NULL ? (int)(slash - w->path + 1) : 1,
             slash != NULL ? w->path : ".");
    (void)w->os->ops->directory_each(w->os, w->folder, remove_leftover, w);
    cenote_status status = check_room(w, err);
    if (status != CENOTE_OK)
        return status;
    int rc = -EEXIST;
    for (unsigned n = 0; n < NAMES_MAX && rc == -EEXIST; n++) {
        snprintf(w->temporary, sizeof w->temporary, "%.*s.%u.tmp", PATH_MAX - 8, w->path, n);
        rc = w->os->ops->file_create(w->os, w->temporary, &w->fd);
    }
    if (rc != 0) {
        w->fd = -1;
        return cn_weights_error_errno(err, w->temporary, NULL, "create", -rc);
    }
    return CENOTE_OK;
}

static cenote_status write_all(struct pack_writer *w, const void *data, uint64_t size_bytes,
                               uint64_t offset, cenote_error *err)
{
    for (uint64_t done = 0; done < size_bytes;) {
        int64_t n = w->os->ops->file_pwrite(w->os, w->fd, (const char *)data + done,
                                            size_bytes - done, offset + done);
        if (n == -EINTR)
            continue;
        if (n <= 0)
            return cn_weights_error_errno(err, w->temporary, NULL, "write", n == 0 ? EIO : (int)-n);
        done += (uint64_t)n;
    }
    return CENOTE_OK;
}

/* Synced pages are clean, and only clean ones can be dropped. */
static cenote_status flush(struct pack_writer *w, cenote_error *err)
{
    int rc = w->os->ops->file_sync(w->os, w->fd);
    if (rc != 0)
        return cn_weights_error_errno(err, w->temporary, NULL, "sync", -rc);
    w->os->ops->file_drop_cache(w->os, w->fd, w->flushed_bytes, w->end_bytes - w->flushed_bytes);
    w->flushed_bytes = w->end_bytes;
    return CENOTE_OK;
}

/* ---- panels ---- */

static cenote_status append(struct pack_writer *w, uint64_t bytes, struct cn_pack_entry *entry,
                            cenote_error *err)
{
    uint64_t room = aligned(bytes);
    memset(w->packed + bytes, 0, room - bytes);
    *entry = (struct cn_pack_entry){.tensor_index = entry->tensor_index,
                                    .encoding = CENOTE_ENCODING_BF12,
                                    .row_first = entry->row_first,
                                    .row_count = entry->row_count,
                                    .offset_bytes = w->end_bytes,
                                    .size_bytes = bytes,
                                    .checksum = cn_hash64(w->packed, bytes)};
    cenote_status status = write_all(w, w->packed, room, w->end_bytes, err);
    w->end_bytes += room;
    if (status == CENOTE_OK && w->end_bytes - w->flushed_bytes >= FLUSH_BYTES)
        status = flush(w, err);
    return status;
}

static cenote_status report(const struct pack_writer *w, cenote_error *err)
{
    const cenote_pack_options *options = w->options;
    if (options->progress == NULL ||
        options->progress(options->context, w->done_bytes, w->total_bytes))
        return CENOTE_OK;
    return cenote_error_set(err, CENOTE_E_CANCELLED, "cancelled");
}

static cenote_status pack_panel(struct pack_writer *w, const cenote_tensor_info *tensor,
                                const struct cn_matrix *cut, uint32_t panel, cenote_error *err)
{
    struct cn_pack_entry *entry = &w->entries[w->entry_count++];
    *entry = (struct cn_pack_entry){.tensor_index = (uint32_t)(tensor - w->weights->table.tensors),
                                    .encoding = CENOTE_ENCODING_PLAIN,
                                    .row_first = (uint64_t)panel * cut->rows_per_panel,
                                    .row_count = cn_matrix_panel_rows(cut, panel)};
    uint64_t weight_bytes = entry->row_count * cut->row_bytes, bytes = 0;
    struct cn_file_span span = {.tensor = tensor->name,
                                .offset_bytes =
                                    tensor->offset_bytes + entry->row_first * cut->row_bytes,
                                .size_bytes = weight_bytes};
    const void *data;
    cenote_status status = cn_file_read(&w->weights->files[tensor->file_index],
                                        &w->weights->counters, &span, w->slot, &data, err);
    if (status != CENOTE_OK)
        return status;
    /* Short rows may cost more packed than they save. */
    bool fits = cenote_bf12_encode(data, entry->row_count, cut->row_bytes / 2, w->packed, &bytes) ==
                    CENOTE_OK &&
                bytes < weight_bytes;
    if (fits) {
        status = append(w, bytes, entry, err);
        w->info.packed_panels++;
        w->info.packed_bytes += bytes;
        w->info.packed_weight_bytes += weight_bytes;
    } else {
        w->info.plain_panels++;
        w->info.plain_weight_bytes += weight_bytes;
    }
    w->done_bytes += weight_bytes;
    return status == CENOTE_OK ? report(w, err) : status;
}

static cenote_status pack_items(struct pack_writer *w, cenote_error *err)
{
    cenote_status status = report(w, err);
    for (uint32_t i = 0; i < w->item_count && status == CENOTE_OK; i++) {
        const cenote_tensor_info *tensor = &w->weights->table.tensors[w->items[i].tensor_index];
        struct cn_matrix cut = {0};
        bool cuts = cn_matrix_make(tensor, w->items[i].rows_per_panel, &cut);
        if (!cuts || !packs(tensor)) {
            w->info.plain_panels += cut.panels;
            w->info.plain_weight_bytes += tensor->size_bytes;
            continue;
        }
        for (uint32_t panel = 0; panel < cut.panels && status == CENOTE_OK; panel++)
            status = pack_panel(w, tensor, &cut, panel, err);
    }
    if (status == CENOTE_OK && w->info.packed_panels == 0)
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                "none of %" PRIu64 " panels can be held in 12 bits",
                                w->info.plain_panels);
    return status;
}

/* ---- header and end ---- */

static cenote_status write_table(struct pack_writer *w, cenote_error *err)
{
    uint64_t sources_bytes = w->weights->file_count * sizeof *w->sources;
    uint64_t entries_bytes = w->entry_count * sizeof *w->entries;
    struct cn_pack_header header = {.version = CN_PACK_VERSION,
                                    .source_count = w->weights->file_count,
                                    .panel_count = w->entry_count,
                                    .table_end_bytes = table_end_of(w, w->entry_count),
                                    .file_bytes = w->end_bytes};
    memcpy(header.magic, CN_PACK_MAGIC, sizeof header.magic);
    struct cn_hash hash;
    cn_hash_init(&hash);
    cn_hash_add(&hash, &header, sizeof header);
    cn_hash_add(&hash, w->sources, sources_bytes);
    cn_hash_add(&hash, w->entries, entries_bytes);
    header.checksum = cn_hash_sum(&hash);
    cenote_status status = write_all(w, &header, sizeof header, 0, err);
    if (status == CENOTE_OK)
        status = write_all(w, w->sources, sources_bytes, sizeof header, err);
    if (status == CENOTE_OK)
        status = write_all(w, w->entries, entries_bytes, sizeof header + sources_bytes, err);
    return status;
}

static cenote_status publish(struct pack_writer *w, cenote_error *err)
{
    w->flushed_bytes = 0;
    cenote_status status = flush(w, err);
    if (status == CENOTE_OK)
        status = cenote_weights_verify_unchanged(w->weights, err);
    if (status != CENOTE_OK)
        return status;
    int rc = w->os->ops->file_rename(w->os, w->temporary, w->path);
    if (rc != 0)
        return cn_weights_error_errno(err, w->path, NULL, "rename", -rc);
    w->temporary[0] = '\0';
    rc = w->os->ops->directory_sync(w->os, w->folder);
    if (rc != 0)
        return cn_weights_error_errno(err, w->folder, NULL, "sync", -rc);
    return CENOTE_OK;
}

static cenote_status write_copy(struct pack_writer *w, cenote_budget *budget, cenote_error *err)
{
    cenote_status status = measure(w, err);
    if (status == CENOTE_OK)
        status = take_memory(w, budget, err);
    for (uint32_t i = 0; i < w->weights->file_count && status == CENOTE_OK; i++)
        status = cn_pack_source_of(w->weights, i, &w->sources[i], err);
    if (status == CENOTE_OK)
        status = create_temporary(w, err);
    if (status != CENOTE_OK)
        return status;
    w->end_bytes = w->flushed_bytes = aligned(table_end_of(w, w->panels_max));
    status = pack_items(w, err);
    if (status == CENOTE_OK)
        status = write_table(w, err);
    if (status == CENOTE_OK)
        status = publish(w, err);
    return status;
}

cenote_status cenote_pack_write(cenote_weights *weights, cenote_budget *budget,
                                const cenote_stream_item *items, uint32_t item_count,
                                const char *path, const cenote_pack_options *options,
                                cenote_pack_info *out_info, cenote_error *err)
{
    static const cenote_pack_options defaults = CENOTE_PACK_OPTIONS_INIT;
    cenote_error unwanted;
    if (err == NULL)
        err = &unwanted;
    if (options == NULL)
        options = &defaults;
    if (options->version != CENOTE_PACK_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "pack options have version %u, not %u",
                                options->version, CENOTE_PACK_OPTIONS_VERSION);
    struct pack_writer w = {.weights = weights,
                            .os = weights->os,
                            .items = items,
                            .item_count = item_count,
                            .path = path,
                            .options = options,
                            .fd = -1};
    cenote_status status = write_copy(&w, budget, err);
    /* While it is locked nobody else gives this name to a file. */
    if (w.fd >= 0 && w.temporary[0] != '\0')
        (void)w.os->ops->file_remove(w.os, w.temporary);
    if (w.fd >= 0)
        w.os->ops->file_close(w.os, w.fd);
    if (w.pool != NULL) {
        cenote_pool_free(w.pool, w.packed);
        cenote_pool_free(w.pool, w.slot);
        (void)cenote_pool_destroy(w.pool);
    }
    if (w.arena != NULL)
        cn_arena_destroy(w.arena);
    w.info.file_bytes = w.end_bytes;
    if (status == CENOTE_OK && out_info != NULL)
        *out_info = w.info;
    return status;
}
