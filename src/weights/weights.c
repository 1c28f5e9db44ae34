/* SPDX-License-Identifier: Apache-2.0 */
/* A checkpoint: files, the table of their tensors, and small reads.
 *
 *   path -> cn_shards_find -> cn_file_open each -> cn_safetensors_read each -> sort by name
 *        -> duplicates? -> cn_shards_check -> immutable from here on
 *
 * Everything, this struct included, lies in the table's arenas: one destroy frees it, and the
 * budget knows it to the byte. Small reads (norms, biases, a row of the embedding) go through one
 * aligned buffer behind a lock; whoever wants many bytes opens a stream. */
#include "weights/weights_impl.h"

#include <inttypes.h>
#include <string.h>

#include "weights/index.h"
#include "weights/json.h"
#include "weights/message.h"
#include "weights/safetensors.h"

/* ---- open ---- */

/* file_count grows as soon as the descriptor is open: whatever fails later, close_all closes it. */
static cenote_status open_file(struct cenote_weights *w, cenote_budget *budget,
                               const struct cn_shards *shards, cenote_io_mode io_mode,
                               cenote_error *err)
{
    uint32_t index = w->file_count;
    const char *path = cn_shards_path(shards, index, &w->table, err);
    if (path == NULL)
        return err->status;
    cenote_status status = cn_file_open(w->os, path, io_mode, w->buffer, &w->files[index], err);
    if (status == CENOTE_E_NOTFOUND && shards->has_index)
        return cn_weights_error(err, status, path, NULL, "no such file, but the index names it");
    if (status != CENOTE_OK)
        return status;
    w->fds[index] = w->files[index].fd;
    w->file_count++;
    struct cn_safetensors_source source = {
        .budget = budget, .file = &w->files[index], .file_index = index, .buffer = w->buffer};
    status = cn_safetensors_read(&source, &w->table, err);
    /* a buffered header leaves its pages behind, and so may a direct one that met an error */
    w->os->ops->file_drop_cache(w->os, w->files[index].fd, 0, w->files[index].opened.size_bytes);
    return status;
}

/* Equal names are neighbours now, whether they come from one file or from two shards. */
static cenote_status check_names_unique(const struct cenote_weights *w, cenote_error *err)
{
    const cenote_tensor_info *tensors = w->table.tensors;
    for (uint32_t i = 1; i < w->table.count; i++) {
        if (strcmp(tensors[i - 1].name, tensors[i].name) != 0)
            continue;
        const char *path = w->files[tensors[i].file_index].path;
        const char *other = w->files[tensors[i - 1].file_index].path;
        const char *slash = strrchr(other, '/');
        return cn_weights_error(err, CENOTE_E_CORRUPT, path, tensors[i].name,
                                "duplicate name: at bytes %" PRIu64 " and %" PRIu64 " (of %.80s)",
                                tensors[i].offset_bytes, tensors[i - 1].offset_bytes,
                                slash != NULL ? slash + 1 : other);
    }
    return CENOTE_OK;
}

/* The index is kept open between its two passes, so that both read the same file. */
static cenote_status open_all(struct cenote_weights *w, cenote_budget *budget, const char *path,
                              cenote_io_mode io_mode, cenote_error *err)
{
    struct cn_shards shards;
    cenote_status status = cn_shards_find(budget, path, w->buffer, &w->table, &shards, err);
    if (status != CENOTE_OK)
        return status;
    w->files = cn_arena_alloc(w->table.text_arena, shards.count * sizeof w->files[0],
                              _Alignof(struct cn_file), err);
    w->fds = cn_arena_alloc(w->table.text_arena, (shards.count + 1) * sizeof w->fds[0],
                            _Alignof(int), err);
    if (w->files == NULL || w->fds == NULL)
        status = err->status;
    while (status == CENOTE_OK && w->file_count < shards.count)
        status = open_file(w, budget, &shards, io_mode, err);
    if (status == CENOTE_OK) {
        cn_table_sort_names(&w->table);
        status = check_names_unique(w, err);
    }
    if (status == CENOTE_OK)
        status = cn_shards_check(budget, &shards, w->buffer, &w->table, err);
    cn_shards_close(&shards);
    return status;
}

static void close_all(struct cenote_weights *w)
{
    for (uint32_t i = 0; i < w->file_count; i++)
        cn_file_close(&w->files[i]);
    pthread_mutex_destroy(&w->buffer_lock);
    struct cn_table table = w->table; /* w itself lies in it */
    cn_table_fini(&table);
}

cenote_status cenote_weights_open(cenote_budget *budget, const char *path,
                                  const cenote_weights_options *options,
                                  cenote_weights **out_weights, cenote_error *err)
{
    static const cenote_weights_options defaults = CENOTE_WEIGHTS_OPTIONS_INIT;
    cenote_error unwanted;
    if (err == NULL)
        err = &unwanted;
    if (options == NULL)
        options = &defaults;
    if (options->version != CENOTE_WEIGHTS_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "weights options have version %u, not %u",
                                options->version, CENOTE_WEIGHTS_OPTIONS_VERSION);
    struct cn_table table;
    cenote_status status = cn_table_init(budget, &table, err);
    if (status != CENOTE_OK)
        return status;
    struct cenote_weights *w =
        cn_arena_alloc(table.text_arena, sizeof *w, _Alignof(struct cenote_weights), err);
    void *buffer =
        w == NULL ? NULL
                  : cn_arena_alloc(table.text_arena, CN_JSON_PIECE_BYTES, CN_FILE_ALIGN_MAX, err);
    if (buffer == NULL) {
        cn_table_fini(&table);
        return err->status;
    }
    w->os = cn_budget_os(budget);
    w->table = table;
    w->buffer = buffer;
    pthread_mutex_init(&w->buffer_lock, NULL);
    status = open_all(w, budget, path, options->io_mode, err);
    if (status != CENOTE_OK) {
        close_all(w);
        return status;
    }
    *out_weights = w;
    return CENOTE_OK;
}

void cenote_weights_close(cenote_weights *weights)
{
    if (weights != NULL)
        close_all(weights);
}

/* ---- the table ---- */

uint32_t cenote_weights_count(const cenote_weights *weights)
{
    return weights->table.count;
}

const cenote_tensor_info *cenote_weights_tensor(const cenote_weights *weights, uint32_t index)
{
    return &weights->table.tensors[index];
}

cenote_status cenote_weights_find(const cenote_weights *weights, const char *name,
                                  uint32_t *out_index, cenote_error *err)
{
    const cenote_tensor_info *tensor = cn_table_find(&weights->table, name, strlen(name));
    if (tensor == NULL)
        return cenote_error_set(err, CENOTE_E_NOTFOUND,
                                "tensor `%.200s` is in none of the %u files", name,
                                weights->file_count);
    *out_index = (uint32_t)(tensor - weights->table.tensors);
    return CENOTE_OK;
}

uint32_t cenote_weights_file_count(const cenote_weights *weights)
{
    return weights->file_count;
}

const char *cenote_weights_file_path(const cenote_weights *weights, uint32_t file_index)
{
    return weights->files[file_index].path;
}

/* ---- small reads ---- */

cenote_status cenote_weights_read(cenote_weights *weights, uint32_t tensor_index,
                                  uint64_t offset_bytes, uint64_t size_bytes, void *data,
                                  cenote_error *err)
{
    if (tensor_index >= weights->table.count)
        return cenote_error_set(err, CENOTE_E_INVAL, "tensor %u of %u", tensor_index,
                                weights->table.count);
    const cenote_tensor_info *tensor = &weights->table.tensors[tensor_index];
    const struct cn_file *file = &weights->files[tensor->file_index];
    if (offset_bytes > tensor->size_bytes || size_bytes > tensor->size_bytes - offset_bytes)
        return cn_weights_error(err, CENOTE_E_INVAL, file->path, tensor->name,
                                "%" PRIu64 " bytes at %" PRIu64 " leave its %" PRIu64, size_bytes,
                                offset_bytes, tensor->size_bytes);
    cenote_status status = CENOTE_OK;
    pthread_mutex_lock(&weights->buffer_lock);
    for (uint64_t done = 0; done < size_bytes && status == CENOTE_OK;) {
        struct cn_file_span span = {.tensor = tensor->name,
                                    .offset_bytes = tensor->offset_bytes + offset_bytes + done};
        uint64_t room = CN_JSON_PIECE_BYTES - span.offset_bytes % CN_FILE_ALIGN_MAX;
        span.size_bytes = size_bytes - done < room ? size_bytes - done : room;
        const void *piece;
        status = cn_file_read(file, &weights->counters, &span, weights->buffer, &piece, err);
        if (status == CENOTE_OK)
            memcpy((char *)data + done, piece, span.size_bytes);
        done += span.size_bytes;
    }
    pthread_mutex_unlock(&weights->buffer_lock);
    if (status == CENOTE_OK)
        atomic_fetch_add_explicit(&weights->bytes_used, size_bytes, memory_order_relaxed);
    return status;
}

/* Reads check this too, file by file; a stream wants to know of all of them before it starts. */
cenote_status cenote_weights_verify_unchanged(cenote_weights *weights, cenote_error *err)
{
    for (uint32_t i = 0; i < weights->file_count; i++) {
        cenote_status status = cn_file_verify_unchanged(&weights->files[i], err);
        if (status != CENOTE_OK)
            return status;
    }
    return CENOTE_OK;
}

void cenote_weights_stats_get(const cenote_weights *weights, cenote_weights_stats *out_stats)
{
    const struct cn_file_counters *c = &weights->counters;
    bool direct = weights->file_count > 0;
    for (uint32_t i = 0; i < weights->file_count; i++)
        direct = direct && weights->files[i].direct;
    *out_stats = (cenote_weights_stats){
        .bytes_used = atomic_load_explicit(&weights->bytes_used, memory_order_relaxed),
        .bytes_read = atomic_load_explicit(&c->bytes_read, memory_order_relaxed),
        .read_count = atomic_load_explicit(&c->read_count, memory_order_relaxed),
        .retry_count = atomic_load_explicit(&c->retry_count, memory_order_relaxed),
        .wait_ns = atomic_load_explicit(&weights->wait_ns, memory_order_relaxed),
        .wait_start_ns = atomic_load_explicit(&weights->wait_start_ns, memory_order_relaxed),
        .pack_failures = atomic_load_explicit(&weights->pack_failures, memory_order_relaxed),
        .direct = direct,
        .engine = weights->engine != NULL ? weights->engine : "pread",
    };
}
