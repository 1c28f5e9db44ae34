/* SPDX-License-Identifier: Apache-2.0 */
/* What a packed copy is known by: the state of the files that it was made of, and its own name. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "weights/json.h"
#include "weights/message.h"
#include "weights/pack.h"
#include "weights/weights_impl.h"

/* Adds bytes [offset, offset + size) of the file to the sum, through the buffer of small reads. */
static cenote_status hash_span(cenote_weights *w, const struct cn_file *file, uint64_t offset,
                               uint64_t size, struct cn_hash *hash, cenote_error *err)
{
    while (size > 0) {
        struct cn_file_span span = {.offset_bytes = offset};
        uint64_t room = CN_JSON_PIECE_BYTES - offset % CN_FILE_ALIGN_MAX;
        span.size_bytes = size < room ? size : room;
        const void *piece;
        cenote_status status = cn_file_read(file, &w->counters, &span, w->buffer, &piece, err);
        if (status != CENOTE_OK)
            return status;
        cn_hash_add(hash, piece, span.size_bytes);
        offset += span.size_bytes;
        size -= span.size_bytes;
    }
    return CENOTE_OK;
}

/* The header's length stands before it. It was checked when the checkpoint was opened, and a file
 * that changed since then is an error of the read. */
static cenote_status header_bytes_of(cenote_weights *w, const struct cn_file *file,
                                     uint64_t *out_bytes, cenote_error *err)
{
    struct cn_file_span span = {.size_bytes = 8};
    const void *piece;
    cenote_status status = cn_file_read(file, &w->counters, &span, w->buffer, &piece, err);
    if (status != CENOTE_OK)
        return status;
    uint64_t text_bytes;
    memcpy(&text_bytes, piece, sizeof text_bytes);
    if (text_bytes > file->opened.size_bytes - 8)
        return cn_weights_error(err, CENOTE_E_CHANGED, file->path, NULL,
                                "the header grew to %" PRIu64 " bytes", text_bytes);
    *out_bytes = 8 + text_bytes;
    return CENOTE_OK;
}

cenote_status cn_pack_source_of(cenote_weights *weights, uint32_t file_index,
                                struct cn_pack_source *out_source, cenote_error *err)
{
    const struct cn_file *file = &weights->files[file_index];
    struct cn_hash hash;
    uint64_t header_bytes = 0;
    cn_hash_init(&hash);
    pthread_mutex_lock(&weights->buffer_lock);
    cenote_status status = header_bytes_of(weights, file, &header_bytes, err);
    if (status == CENOTE_OK)
        status = hash_span(weights, file, 0, header_bytes, &hash, err);
    pthread_mutex_unlock(&weights->buffer_lock);
    if (status == CENOTE_OK)
        *out_source = (struct cn_pack_source){.size_bytes = file->opened.size_bytes,
                                              .mtime_ns = file->opened.mtime_ns,
                                              .header_hash = cn_hash_sum(&hash)};
    return status;
}

/* The folder without its links, then the first file's name as it is there: a hub's cache has links
 * for files, and the folder's name says which revision they are. */
cenote_status cenote_pack_path(const cenote_weights *weights, const char *directory, char *path,
                               size_t path_bytes, cenote_error *err)
{
    const char *first = weights->files[0].path;
    const char *slash = strrchr(first, '/');
    char folder[PATH_MAX] = ".", resolved[PATH_MAX];
    if (slash != NULL)
        snprintf(folder, sizeof folder, "%.*s", (int)(slash - first + 1), first);
    int rc = weights->os->ops->path_resolve(weights->os, folder, resolved, sizeof resolved);
    if (rc != 0)
        return cn_weights_error_errno(err, folder, NULL, "resolve", -rc);
    struct cn_hash hash;
    cn_hash_init(&hash);
    cn_hash_add(&hash, resolved, strlen(resolved) + 1);
    const char *name = slash != NULL ? slash + 1 : first;
    cn_hash_add(&hash, name, strlen(name));
    int length =
        snprintf(path, path_bytes, "%s/cenote-%016" PRIx64 ".pack", directory, cn_hash_sum(&hash));
    if (length < 0 || (size_t)length >= path_bytes)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "the path of a packed copy in %.200s is %d "
                                "bytes, %zu are there",
                                directory, length, path_bytes);
    return CENOTE_OK;
}
