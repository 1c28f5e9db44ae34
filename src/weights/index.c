/* SPDX-License-Identifier: Apache-2.0 */
/* Sharded checkpoints: model.safetensors.index.json names a shard for each tensor.
 *
 *   pass 1: index -> the set of shard names (sorted array, binary search)
 *           ... the caller opens the shards and sorts the table by name ...
 *   pass 2: index -> each (tensor, shard) must be what the table says
 *
 * Reading the index twice costs milliseconds; keeping its map would cost a second table in memory.
 * A shard's name is a stranger's word: it must be a plain name, so it cannot lead out of the
 * folder. Symbolic links inside the folder are the user's own and are followed (a Hugging Face
 * cache is made of them). */
#include "weights/index.h"

#include <inttypes.h>
#include <string.h>

#include "weights/json.h"
#include "weights/message.h"

#define SUFFIX ".safetensors"
enum { SHARD_NAME_BYTES_MAX = 255 };

/* ---- the set of shards ---- */

static bool ends_with_suffix(const char *name, size_t length)
{
    size_t suffix = strlen(SUFFIX);
    return length > suffix && memcmp(name + length - suffix, SUFFIX, suffix) == 0;
}

/* What a shard may be called. Without a slash it cannot leave the folder; the rest keeps names out
 * that no writer makes and some tool would trip over. */
static bool shard_name_plain(const char *name, size_t length)
{
    if (length > SHARD_NAME_BYTES_MAX || !ends_with_suffix(name, length))
        return false;
    if (!cn_json_name_clean(name, length) || memchr(name, '/', length) != NULL)
        return false;
    return memmem(name, length, "..", 2) == NULL;
}

/* The place of the name in shards->names, or where it belongs. */
static uint32_t shard_place(const struct cn_shards *shards, const char *name, size_t length,
                            bool *out_found)
{
    uint32_t low = 0;
    uint32_t high = shards->count;
    *out_found = false;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const char *there = shards->names[middle];
        int order = strncmp(there, name, length);
        if (order == 0 && there[length] == '\0') {
            *out_found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* A set, kept in order by insertion: a thousand shards at most, but a million entries name them. */
static cenote_status shard_add(struct cn_shards *shards, struct cn_table *table, const char *where,
                               const char *name, size_t length, cenote_error *err)
{
    bool found;
    uint32_t place = shard_place(shards, name, length, &found);
    if (found)
        return CENOTE_OK;
    if (shards->count == CN_SHARDS_MAX)
        return cn_weights_error(err, CENOTE_E_CORRUPT, where, NULL,
                                "more shards than the limit of %u", CN_SHARDS_MAX);
    const char *copy = cn_table_text(table, name, length, err);
    if (copy == NULL)
        return err->status;
    memmove(shards->names + place + 1, shards->names + place,
            (shards->count - place) * sizeof shards->names[0]);
    shards->names[place] = copy;
    shards->count++;
    return CENOTE_OK;
}

/* ---- the index as events ---- */

enum state { AT_START, IN_TOP, AT_MAP, IN_MAP, AT_SHARD, IN_OTHER, AT_END };

struct index_parse {
    struct cn_shards *shards;
    struct cn_table *table;
    bool checking; /* pass 2 */
    enum state state;
    uint32_t other_depth;
    bool map_seen;
    size_t name_length;
    char name[CN_TABLE_NAME_BYTES_MAX + 1];
};

#define BAD(p, tensor, err, ...)                                                                   \
    cn_weights_error(err, CENOTE_E_CORRUPT, (p)->shards->index.path, tensor, __VA_ARGS__)

/* One line of the index. Pass 1 only wants the shard's name; pass 2 believes nothing of the line.
 */
static cenote_status entry(struct index_parse *p, const char *shard, size_t length,
                           cenote_error *err)
{
    int shown = length < 80 ? (int)length : 80;
    if (!shard_name_plain(shard, length))
        return BAD(p, p->name, err, "shard \"%.*s\" is no plain file name ending in " SUFFIX, shown,
                   shard);
    if (!p->checking)
        return shard_add(p->shards, p->table, p->shards->index.path, shard, length, err);
    bool found;
    uint32_t place = shard_place(p->shards, shard, length, &found);
    const cenote_tensor_info *tensor = cn_table_find(p->table, p->name, p->name_length);
    if (tensor == NULL)
        return BAD(p, p->name, err, "the index puts it in shard %.*s, which does not have it",
                   shown, shard);
    if (!found || tensor->file_index != place)
        return BAD(p, p->name, err, "the index puts it in shard %.*s, it is in %.80s", shown, shard,
                   p->shards->names[tensor->file_index]);
    return CENOTE_OK;
}

/* Other keys ("metadata", "total_size") vary between writers and decide nothing. */
static cenote_status top_key(struct index_parse *p, const struct cn_json_event *event,
                             cenote_error *err)
{
    static const char map[] = "weight_map";
    if (event->kind == CN_JSON_MAP_END) {
        p->state = AT_END;
        return p->map_seen ? CENOTE_OK : BAD(p, NULL, err, "key `weight_map` is missing");
    }
    p->other_depth = 0;
    p->state = IN_OTHER;
    if (event->length != strlen(map) || memcmp(event->text, map, event->length) != 0)
        return CENOTE_OK;
    if (p->map_seen)
        return BAD(p, NULL, err, "duplicate key `weight_map`");
    p->map_seen = true;
    p->state = AT_MAP;
    return CENOTE_OK;
}

/* A tensor's name waits in the parser until its shard comes: the event's text is gone by then. */
static cenote_status map_key(struct index_parse *p, const struct cn_json_event *event,
                             cenote_error *err)
{
    p->state = AT_SHARD;
    if (event->kind == CN_JSON_MAP_END) {
        p->state = IN_TOP;
        return CENOTE_OK;
    }
    if (event->length > CN_TABLE_NAME_BYTES_MAX)
        return BAD(p, NULL, err, "a tensor's name of %zu bytes is over the limit of %u",
                   event->length, CN_TABLE_NAME_BYTES_MAX);
    if (!cn_json_name_clean(event->text, event->length))
        return BAD(p, NULL, err, "control character in the tensor name \"%.*s\"",
                   event->length < 80 ? (int)event->length : 80, event->text);
    memcpy(p->name, event->text, event->length);
    p->name[event->length] = '\0';
    p->name_length = event->length;
    return CENOTE_OK;
}

/* Skips the value of a key that is not the map. */
static void other_value(struct index_parse *p, const struct cn_json_event *event)
{
    if (event->kind == CN_JSON_MAP_BEGIN || event->kind == CN_JSON_ARRAY_BEGIN)
        p->other_depth++;
    if (event->kind == CN_JSON_MAP_END || event->kind == CN_JSON_ARRAY_END)
        p->other_depth--;
    if (p->other_depth == 0)
        p->state = IN_TOP;
}

static cenote_status on_event(void *context, const struct cn_json_event *event, cenote_error *err)
{
    struct index_parse *p = context;
    switch (p->state) {
    case AT_START:
        p->state = IN_TOP;
        if (event->kind != CN_JSON_MAP_BEGIN)
            return BAD(p, NULL, err, "the index must be an object");
        return CENOTE_OK;
    case IN_TOP:
        return top_key(p, event, err);
    case AT_MAP:
        p->state = IN_MAP;
        if (event->kind != CN_JSON_MAP_BEGIN)
            return BAD(p, NULL, err, "`weight_map` must be an object");
        return CENOTE_OK;
    case IN_MAP:
        return map_key(p, event, err);
    case AT_SHARD:
        p->state = IN_MAP;
        if (event->kind != CN_JSON_STRING)
            return BAD(p, p->name, err, "its shard must be a string");
        return entry(p, event->text, event->length, err);
    case IN_OTHER:
        other_value(p, event);
        return CENOTE_OK;
    case AT_END:
        break;
    }
    return BAD(p, NULL, err, "more than one JSON value");
}

static cenote_status index_parse(cenote_budget *budget, struct index_parse *p, void *buffer,
                                 cenote_error *err)
{
    struct cn_json_source source = {.budget = budget,
                                    .file = &p->shards->index,
                                    .size_bytes = p->shards->index.opened.size_bytes,
                                    .buffer = buffer};
    return cn_json_parse(&source, on_event, p, err);
}

static cenote_status index_read(cenote_budget *budget, struct cn_shards *shards, void *buffer,
                                struct cn_table *table, cenote_error *err)
{
    uint64_t size = shards->index.opened.size_bytes;
    if (size > CN_INDEX_BYTES_MAX)
        return cn_weights_error(err, CENOTE_E_CORRUPT, shards->index.path, NULL,
                                "an index of %" PRIu64 " bytes is over the limit of %u", size,
                                CN_INDEX_BYTES_MAX);
    struct index_parse p = {.shards = shards, .table = table};
    cenote_status status = index_parse(budget, &p, buffer, err);
    if (status == CENOTE_OK && shards->count == 0)
        status = cn_weights_error(err, CENOTE_E_CORRUPT, shards->index.path, NULL,
                                  "`weight_map` names no shard");
    return status;
}

cenote_status cn_shards_check(cenote_budget *budget, struct cn_shards *shards, void *buffer,
                              const struct cn_table *table, cenote_error *err)
{
    if (!shards->has_index)
        return CENOTE_OK;
    /* checking reads the table only; the parse struct serves both passes */
    struct cn_table view = *table;
    struct index_parse p = {.shards = shards, .table = &view, .checking = true};
    return index_parse(budget, &p, buffer, err);
}

/* ---- finding the files ---- */

struct listing {
    struct cn_shards *shards;
    struct cn_table *table;
    cenote_error *err;
    cenote_status status;
};

/* Without an index a folder's files are its shards; the set puts them into an order that does not
 * depend on the file system. */
static int list_name(void *context, const char *name)
{
    struct listing *l = context;
    size_t length = strlen(name);
    /* hidden files: other systems leave "._model.safetensors" beside the real one */
    if (name[0] == '.' || !ends_with_suffix(name, length))
        return 0;
    l->status = shard_add(l->shards, l->table, l->shards->folder, name, length, l->err);
    return l->status != CENOTE_OK;
}

static cenote_status folder_list(struct cn_os *os, struct cn_shards *shards, struct cn_table *table,
                                 cenote_error *err)
{
    struct listing l = {.shards = shards, .table = table, .err = err, .status = CENOTE_OK};
    int rc = os->ops->directory_each(os, shards->folder, list_name, &l);
    if (l.status != CENOTE_OK)
        return l.status;
    if (rc < 0)
        return cn_weights_error_errno(err, shards->folder, NULL, "list", -rc);
    if (shards->count == 0)
        return cn_weights_error(err, CENOTE_E_NOTFOUND, shards->folder, NULL,
                                "no *" SUFFIX " file in this folder");
    return CENOTE_OK;
}

static const char *join(const char *folder, const char *name, struct cn_table *table,
                        cenote_error *err)
{
    size_t folder_length = strlen(folder);
    while (folder_length > 0 && folder[folder_length - 1] == '/')
        folder_length--; /* "model/" is how shells complete it */
    size_t name_length = strlen(name);
    char *path = cn_arena_alloc(table->text_arena, folder_length + name_length + 2, 1, err);
    if (path == NULL)
        return NULL;
    memcpy(path, folder, folder_length);
    path[folder_length] = '/';
    memcpy(path + folder_length + 1, name, name_length);
    return path;
}

/* An index decides; a folder without one is taken whole. An index that is there but broken is an
 * error, never a reason to guess. */
static cenote_status folder_find(cenote_budget *budget, void *buffer, struct cn_table *table,
                                 struct cn_shards *shards, cenote_error *err)
{
    struct cn_os *os = cn_budget_os(budget);
    const char *index_path = join(shards->folder, CN_INDEX_FILE_NAME, table, err);
    if (index_path == NULL)
        return err->status;
    cenote_status status =
        cn_file_open(os, index_path, CENOTE_IO_BUFFERED, buffer, &shards->index, err);
    if (status == CENOTE_E_NOTFOUND)
        return folder_list(os, shards, table, err);
    if (status != CENOTE_OK)
        return status;
    shards->has_index = true;
    status = index_read(budget, shards, buffer, table, err);
    if (status != CENOTE_OK)
        cn_shards_close(shards);
    return status;
}

/* A folder opens like a file and is no regular one. */
static cenote_status is_folder(struct cn_os *os, const char *path, bool *out_folder,
                               cenote_error *err)
{
    int fd;
    struct cn_os_file_stat stat;
    int rc = os->ops->file_open(os, path, 0, &fd);
    if (rc < 0)
        return cn_weights_error_errno(err, path, NULL, "open", -rc);
    rc = os->ops->file_stat(os, fd, &stat);
    os->ops->file_close(os, fd);
    if (rc < 0)
        return cn_weights_error_errno(err, path, NULL, "stat", -rc);
    *out_folder = !stat.regular;
    return CENOTE_OK;
}

cenote_status cn_shards_find(cenote_budget *budget, const char *path, void *buffer,
                             struct cn_table *table, struct cn_shards *out_shards,
                             cenote_error *err)
{
    bool folder;
    cenote_status status = is_folder(cn_budget_os(budget), path, &folder, err);
    if (status != CENOTE_OK)
        return status;
    struct cn_shards shards = {0};
    shards.names = cn_arena_alloc(table->text_arena, CN_SHARDS_MAX * sizeof shards.names[0],
                                  _Alignof(const char *), err);
    const char *copy = cn_table_text(table, path, strlen(path), err);
    if (shards.names == NULL || copy == NULL)
        return err->status;
    if (folder) {
        shards.folder = copy;
        status = folder_find(budget, buffer, table, &shards, err);
    } else {
        shards.names[0] = copy;
        shards.count = 1;
    }
    if (status == CENOTE_OK)
        *out_shards = shards;
    return status;
}

void cn_shards_close(struct cn_shards *shards)
{
    if (shards->has_index)
        cn_file_close(&shards->index);
    shards->has_index = false;
}

const char *cn_shards_path(const struct cn_shards *shards, uint32_t shard, struct cn_table *table,
                           cenote_error *err)
{
    const char *name = shards->names[shard];
    return shards->folder == NULL ? name : join(shards->folder, name, table, err);
}
