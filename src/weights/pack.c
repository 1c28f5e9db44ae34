/* SPDX-License-Identifier: Apache-2.0 */
/* Reads packed copies: opens one with every number in it checked, finds panels, checks their bytes.
 *
 * In memory: a place of 24 bytes for each panel, and for each tensor of the checkpoint where its
 * places begin and how many rows a panel has, so that finding one is two lookups. What a stranger's
 * table can do is limited by its own file's size and by the budget: nothing is allocated for what
 * is not there. */
#include <cenote/pack.h>

#include <inttypes.h>
#include <string.h>

#include <cenote/bf12.h>

#include "base/checked.h"
#include "base/hash.h"
#include "pool/budget.h"
#include "weights/json.h"
#include "weights/matrix.h"
#include "weights/message.h"
#include "weights/pack.h"
#include "weights/weights_impl.h"

/* Table entries read at a time: with the residue less than a piece of the small reads' buffer. */
#define ENTRIES_AT_ONCE 1024u
/* The arena's own header and the alignment of a few allocations. */
#define ARENA_ROOM_BYTES 8192u

static_assert(ENTRIES_AT_ONCE * sizeof(struct cn_pack_entry) + CN_FILE_ALIGN_MAX <=
                  CN_JSON_PIECE_BYTES,
              "a piece of the table fits the buffer");

struct pack_place {
    uint64_t offset_bytes;
    uint64_t checksum;
    uint32_t size_bytes; /* 0: not in the copy */
};

struct pack_matrix {
    uint32_t rows_per_panel;
    uint32_t panels; /* 0: not in the copy */
    uint32_t first;  /* of its places */
};

struct cenote_pack {
    struct cenote_weights *weights;
    struct cn_arena *arena; /* this struct, path and tables */
    struct cn_file file;
    struct pack_matrix *matrices; /* by tensor */
    struct pack_place *places;
    uint64_t panel_bytes_max;
    cenote_pack_info info;
};

/* ---- small reads ---- */

/* Bytes at @p offset, in the weights' buffer, which is locked; few enough for it. */
static cenote_status read_piece(struct cenote_weights *w, const struct cn_file *file,
                                uint64_t offset, uint64_t size_bytes, const void **out_data,
                                cenote_error *err)
{
    struct cn_file_span span = {.offset_bytes = offset, .size_bytes = size_bytes};
    return cn_file_read(file, &w->counters, &span, w->buffer, out_data, err);
}

static cenote_status corrupt(const struct cn_file *file, const char *what, uint64_t value,
                             uint64_t limit, cenote_error *err)
{
    return cn_weights_error(err, CENOTE_E_CORRUPT, file->path, NULL,
                            "not a sound packed copy: %s %" PRIu64 ", limit %" PRIu64, what, value,
                            limit);
}

/* ---- the header ---- */

static cenote_status check_header(const struct cenote_weights *w, const struct cn_file *file,
                                  const struct cn_pack_header *h, cenote_error *err)
{
    if (memcmp(h->magic, CN_PACK_MAGIC, sizeof h->magic) != 0)
        return cn_weights_error(err, CENOTE_E_CORRUPT, file->path, NULL, "not a packed copy");
    if (h->version != CN_PACK_VERSION)
        return cn_weights_error(err, CENOTE_E_CHANGED, file->path, NULL,
                                "a packed copy of version %" PRIu32 ", known is %u", h->version,
                                CN_PACK_VERSION);
    if (h->file_bytes != file->opened.size_bytes)
        return corrupt(file, "bytes of the file", file->opened.size_bytes, h->file_bytes, err);
    if (h->panel_count == 0 || h->panel_count > CN_PACK_PANELS_MAX)
        return corrupt(file, "panels", h->panel_count, CN_PACK_PANELS_MAX, err);
    uint64_t sources_bytes = h->source_count * (uint64_t)sizeof(struct cn_pack_source);
    uint64_t end = sizeof *h + sources_bytes + h->panel_count * sizeof(struct cn_pack_entry);
    if (h->table_end_bytes != end || end > h->file_bytes)
        return corrupt(file, "bytes of the table", end, h->file_bytes, err);
    if (h->reserved[0] != 0 || h->reserved[1] != 0)
        return corrupt(file, "reserved", h->reserved[0] | h->reserved[1], 0, err);
    if (h->source_count != w->file_count)
        return cn_weights_error(err, CENOTE_E_CHANGED, file->path, NULL,
                                "made of %" PRIu32 " files, the checkpoint has %" PRIu32,
                                h->source_count, w->file_count);
    return CENOTE_OK;
}

static cenote_status check_source(const struct cn_file *file, const struct cn_file *source,
                                  const struct cn_pack_source *then,
                                  const struct cn_pack_source *now, cenote_error *err)
{
    if (memcmp(then, now, sizeof *then) == 0)
        return CENOTE_OK;
    const char *slash = strrchr(source->path, '/');
    return cn_weights_error(err, CENOTE_E_CHANGED, file->path, NULL,
                            "stale: %.80s had %" PRIu64 " bytes, modified at %" PRId64
                            " ns, header %016" PRIx64 "; now %" PRIu64 ", %" PRId64 ", %016" PRIx64,
                            slash != NULL ? slash + 1 : source->path, then->size_bytes,
                            then->mtime_ns, then->header_hash, now->size_bytes, now->mtime_ns,
                            now->header_hash);
}

/* Sources first: of another checkpoint's table nothing need be sound. */
static cenote_status check_sources(struct cenote_weights *w, const struct cn_file *file,
                                   struct cn_hash *hash, cenote_error *err)
{
    for (uint32_t i = 0; i < w->file_count; i++) {
        struct cn_pack_source now, then;
        const void *piece;
        cenote_status status = cn_pack_source_of(w, i, &now, err);
        if (status != CENOTE_OK)
            return status;
        pthread_mutex_lock(&w->buffer_lock);
        status = read_piece(w, file, sizeof(struct cn_pack_header) + i * sizeof then, sizeof then,
                            &piece, err);
        if (status == CENOTE_OK)
            memcpy(&then, piece, sizeof then);
        pthread_mutex_unlock(&w->buffer_lock);
        if (status == CENOTE_OK)
            status = check_source(file, &w->files[i], &then, &now, err);
        if (status != CENOTE_OK)
            return status;
        cn_hash_add(hash, &then, sizeof then);
    }
    return CENOTE_OK;
}

/* ---- the table ---- */

/* Where the table stands while it is read. */
struct table_reader {
    struct cenote_pack *pack;
    const struct cn_pack_header *header;
    uint64_t next;      /* entry */
    uint64_t end_bytes; /* of the panels so far */
    uint32_t tensor;    /* whose panels come, UINT32_MAX before the first */
    uint32_t panels;    /* of it, so far */
};

static cenote_status bad_entry(const struct table_reader *r, const struct cn_pack_entry *e,
                               const char *what, cenote_error *err)
{
    return cn_weights_error(err, CENOTE_E_CORRUPT, r->pack->file.path, NULL,
                            "entry %" PRIu64 " of the table (tensor %" PRIu32 ", rows %" PRIu64
                            " + %" PRIu64 ", %" PRIu64 " bytes at %" PRIu64 "): %s",
                            r->next, e->tensor_index, e->row_first, e->row_count, e->size_bytes,
                            e->offset_bytes, what);
}

/* The first panel of a tensor says how it is cut. */
static const char *begin_matrix(struct table_reader *r, const struct cn_pack_entry *e)
{
    const struct cn_table *table = &r->pack->weights->table;
    if (e->tensor_index >= table->count)
        return "no such tensor";
    struct pack_matrix *matrix = &r->pack->matrices[e->tensor_index];
    const cenote_tensor_info *tensor = &table->tensors[e->tensor_index];
    struct cn_matrix cut;
    if (matrix->panels != 0)
        return "the tensor was there before";
    if (tensor->dtype != CENOTE_DTYPE_BF16 || e->row_count == 0 || e->row_count > UINT32_MAX ||
        !cn_matrix_make(tensor, (uint32_t)e->row_count, &cut) || cut.panels == 0 ||
        e->row_count > cut.rows)
        return "no panels of this tensor";
    if (cut.panels > r->header->panel_count - r->next)
        return "the table ends within the tensor";
    *matrix = (struct pack_matrix){cut.rows_per_panel, cut.panels, (uint32_t)r->next};
    r->tensor = e->tensor_index;
    r->panels = 0;
    return NULL;
}

/* Panels follow each other in the file as in the table. */
static const char *check_place(struct table_reader *r, const struct cn_pack_entry *e,
                               const struct cn_matrix *cut)
{
    if (e->encoding == CENOTE_ENCODING_PLAIN)
        return e->offset_bytes == 0 && e->size_bytes == 0 && e->checksum == 0
                   ? NULL
                   : "bytes of a panel that is not here";
    if (e->encoding != CENOTE_ENCODING_BF12)
        return "an unknown form";
    uint64_t most = cenote_bf12_bytes_max(e->row_count, cut->row_bytes / 2);
    uint64_t file_bytes = r->header->file_bytes;
    if (e->size_bytes == 0 || e->size_bytes > most || e->size_bytes > UINT32_MAX)
        return "a size that the form cannot have";
    if (e->offset_bytes % CENOTE_PACK_ALIGN_BYTES != 0 || e->offset_bytes < r->end_bytes ||
        e->offset_bytes > file_bytes || e->size_bytes > file_bytes - e->offset_bytes)
        return "a place outside, or in another panel";
    r->end_bytes = e->offset_bytes + e->size_bytes;
    return NULL;
}

static const char *take_entry(struct table_reader *r, const struct cn_pack_entry *e)
{
    struct cenote_pack *pack = r->pack;
    bool begins = r->tensor == UINT32_MAX || r->panels == pack->matrices[r->tensor].panels;
    const char *fault = begins ? begin_matrix(r, e) : NULL;
    if (fault != NULL)
        return fault;
    struct cn_matrix cut;
    const cenote_tensor_info *tensor = &pack->weights->table.tensors[r->tensor];
    if (e->tensor_index != r->tensor ||
        !cn_matrix_make(tensor, pack->matrices[r->tensor].rows_per_panel, &cut) ||
        e->row_first != (uint64_t)r->panels * cut.rows_per_panel ||
        e->row_count != cn_matrix_panel_rows(&cut, r->panels))
        return "not the tensor's next rows";
    fault = check_place(r, e, &cut);
    if (fault != NULL)
        return fault;
    uint64_t weight_bytes = e->row_count * cut.row_bytes;
    pack->places[r->next] =
        (struct pack_place){e->offset_bytes, e->checksum, (uint32_t)e->size_bytes};
    if (e->size_bytes > 0) {
        pack->info.packed_panels++;
        pack->info.packed_bytes += e->size_bytes;
        pack->info.packed_weight_bytes += weight_bytes;
    } else {
        pack->info.plain_panels++;
        pack->info.plain_weight_bytes += weight_bytes;
    }
    if (e->size_bytes > pack->panel_bytes_max)
        pack->panel_bytes_max = e->size_bytes;
    r->panels++;
    return NULL;
}

static cenote_status read_entries(struct table_reader *r, struct cn_hash *hash, cenote_error *err)
{
    struct cenote_pack *pack = r->pack;
    struct cenote_weights *w = pack->weights;
    uint64_t offset = sizeof *r->header + r->header->source_count * sizeof(struct cn_pack_source);
    while (r->next < r->header->panel_count) {
        uint64_t count = r->header->panel_count - r->next;
        count = count < ENTRIES_AT_ONCE ? count : ENTRIES_AT_ONCE;
        uint64_t bytes = count * sizeof(struct cn_pack_entry);
        const void *piece;
        pthread_mutex_lock(&w->buffer_lock);
        cenote_status status = read_piece(w, &pack->file, offset, bytes, &piece, err);
        if (status == CENOTE_OK)
            cn_hash_add(hash, piece, bytes);
        for (uint64_t i = 0; i < count && status == CENOTE_OK; i++, r->next++) {
            struct cn_pack_entry entry;
            memcpy(&entry, (const char *)piece + i * sizeof entry, sizeof entry);
            const char *fault = take_entry(r, &entry);
            if (fault != NULL)
                status = bad_entry(r, &entry, fault, err);
        }
        pthread_mutex_unlock(&w->buffer_lock);
        if (status != CENOTE_OK)
            return status;
        offset += bytes;
    }
    return CENOTE_OK;
}

/* ---- open ---- */

static cenote_status take_memory(struct cenote_weights *w, cenote_budget *budget,
                                 const struct cn_file *file, uint64_t panel_count,
                                 struct cenote_pack **out_pack, cenote_error *err)
{
    struct cn_arena *arena;
    uint64_t path_bytes = strlen(file->path) + 1;
    uint64_t matrices_bytes = w->table.count * sizeof(struct pack_matrix);
    uint64_t places_bytes = panel_count * sizeof(struct pack_place);
    cenote_status status = cn_arena_create(
        budget, path_bytes + matrices_bytes + places_bytes + ARENA_ROOM_BYTES, &arena, err);
    if (status != CENOTE_OK)
        return status;
    struct cenote_pack *pack = cn_arena_alloc(arena, sizeof *pack, 8, err);
    char *path = pack != NULL ? cn_arena_alloc(arena, path_bytes, 1, err) : NULL;
    void *matrices = path != NULL ? cn_arena_alloc(arena, matrices_bytes, 8, err) : NULL;
    void *places = matrices != NULL ? cn_arena_alloc(arena, places_bytes, 8, err) : NULL;
    if (places == NULL) {
        cn_arena_destroy(arena);
        return err->status;
    }
    memcpy(path, file->path, path_bytes);
    *pack = (struct cenote_pack){
        .weights = w, .arena = arena, .file = *file, .matrices = matrices, .places = places};
    pack->file.path = path;
    *out_pack = pack;
    return CENOTE_OK;
}

/* The file is open; on failure the caller closes it. */
static cenote_status read_table(struct cenote_weights *w, cenote_budget *budget,
                                const struct cn_file *file, struct cenote_pack **out_pack,
                                cenote_error *err)
{
    struct cn_pack_header header;
    const void *piece;
    if (file->opened.size_bytes < sizeof header)
        return corrupt(file, "bytes of the file", file->opened.size_bytes, sizeof header, err);
    pthread_mutex_lock(&w->buffer_lock);
    cenote_status status = read_piece(w, file, 0, sizeof header, &piece, err);
    if (status == CENOTE_OK)
        memcpy(&header, piece, sizeof header);
    pthread_mutex_unlock(&w->buffer_lock);
    if (status == CENOTE_OK)
        status = check_header(w, file, &header, err);
    if (status != CENOTE_OK)
        return status;

    struct cn_hash hash;
    uint64_t checksum = header.checksum;
    header.checksum = 0;
    cn_hash_init(&hash);
    cn_hash_add(&hash, &header, sizeof header);
    struct cenote_pack *pack;
    status = check_sources(w, file, &hash, err);
    if (status == CENOTE_OK)
        status = take_memory(w, budget, file, header.panel_count, &pack, err);
    if (status != CENOTE_OK)
        return status;
    struct table_reader reader = {
        .pack = pack, .header = &header, .end_bytes = header.table_end_bytes, .tensor = UINT32_MAX};
    status = read_entries(&reader, &hash, err);
    if (status == CENOTE_OK && cn_hash_sum(&hash) != checksum)
        status = cn_weights_error(err, CENOTE_E_CORRUPT, file->path, NULL,
                                  "the table's checksum is %016" PRIx64 ", expected %016" PRIx64,
                                  cn_hash_sum(&hash), checksum);
    if (status != CENOTE_OK) {
        cn_arena_destroy(pack->arena);
        return status;
    }
    pack->info.file_bytes = header.file_bytes;
    *out_pack = pack;
    return CENOTE_OK;
}

cenote_status cenote_pack_open(cenote_weights *weights, cenote_budget *budget, const char *path,
                               cenote_io_mode io_mode, cenote_pack **out_pack, cenote_error *err)
{
    cenote_error unwanted;
    struct cn_file file;
    if (err == NULL)
        err = &unwanted;
    pthread_mutex_lock(&weights->buffer_lock);
    cenote_status status = cn_file_open(weights->os, path, io_mode, weights->buffer, &file, err);
    pthread_mutex_unlock(&weights->buffer_lock);
    if (status != CENOTE_OK)
        return status;
    status = read_table(weights, budget, &file, out_pack, err);
    weights->os->ops->file_drop_cache(weights->os, file.fd, 0, file.opened.size_bytes);
    if (status != CENOTE_OK)
        cn_file_close(&file);
    return status;
}

void cenote_pack_close(cenote_pack *pack)
{
    if (pack == NULL)
        return;
    cn_file_close(&pack->file);
    cn_arena_destroy(pack->arena);
}

/* ---- panels ---- */

const struct cn_file *cn_pack_file(const cenote_pack *pack)
{
    return &pack->file;
}

void cenote_pack_info_get(const cenote_pack *pack, cenote_pack_info *out_info)
{
    *out_info = pack->info;
}

uint64_t cenote_pack_memory_bytes(const cenote_pack *pack)
{
    return cn_arena_charged_bytes(pack->arena);
}

uint64_t cenote_pack_panel_bytes_max(const cenote_pack *pack)
{
    return pack->panel_bytes_max;
}

static bool find_panel(const cenote_pack *pack, uint32_t tensor_index, uint32_t panel,
                       cenote_pack_panel *out_panel)
{
    const struct pack_matrix *matrix = &pack->matrices[tensor_index];
    const struct pack_place *place = &pack->places[matrix->first + panel];
    const cenote_tensor_info *tensor = &pack->weights->table.tensors[tensor_index];
    struct cn_matrix cut;
    if (place->size_bytes == 0 || !cn_matrix_make(tensor, matrix->rows_per_panel, &cut))
        return false;
    *out_panel = (cenote_pack_panel){.tensor_index = tensor_index,
                                     .encoding = CENOTE_ENCODING_BF12,
                                     .row_first = (uint64_t)panel * matrix->rows_per_panel,
                                     .row_count = cn_matrix_panel_rows(&cut, panel),
                                     .offset_bytes = place->offset_bytes,
                                     .size_bytes = place->size_bytes,
                                     .checksum = place->checksum};
    return true;
}

bool cenote_pack_find(const cenote_pack *pack, uint32_t tensor_index, uint64_t row_first,
                      uint64_t row_count, cenote_pack_panel *out_panel)
{
    if (tensor_index >= pack->weights->table.count)
        return false;
    const struct pack_matrix *matrix = &pack->matrices[tensor_index];
    if (matrix->panels == 0 || row_first % matrix->rows_per_panel != 0 ||
        row_first / matrix->rows_per_panel >= matrix->panels)
        return false;
    cenote_pack_panel panel;
    if (!find_panel(pack, tensor_index, (uint32_t)(row_first / matrix->rows_per_panel), &panel) ||
        panel.row_count != row_count)
        return false;
    *out_panel = panel;
    return true;
}

static cenote_status bad_panel(const cenote_pack *pack, const cenote_pack_panel *panel,
                               const char *what, cenote_error *err)
{
    const char *name = pack->weights->table.tensors[panel->tensor_index].name;
    return cn_weights_error(err, CENOTE_E_CORRUPT, pack->file.path, name,
                            "rows [%" PRIu64 ", %" PRIu64 "), %" PRIu64 " bytes at %" PRIu64 ": %s",
                            panel->row_first, panel->row_first + panel->row_count,
                            panel->size_bytes, panel->offset_bytes, what);
}

cenote_status cenote_pack_check(const cenote_pack *pack, const cenote_pack_panel *panel,
                                const void *data, cenote_error *err)
{
    cenote_error detail = {0};
    const cenote_tensor_info *tensor = &pack->weights->table.tensors[panel->tensor_index];
    uint64_t columns = tensor->size_bytes / 2 / (tensor->rank > 0 ? tensor->shape[0] : 1);
    if (cn_hash64(data, panel->size_bytes) != panel->checksum)
        return bad_panel(pack, panel, "the checksum differs", err);
    /* A checksum says that nothing happened to the bytes, not that they are sound. */
    if (cenote_bf12_check(data, panel->size_bytes, panel->row_count, columns, &detail) != CENOTE_OK)
        return bad_panel(pack, panel, detail.message, err);
    return CENOTE_OK;
}

/* ---- reading ---- */

static cenote_status read_and_check(cenote_pack *pack, const cenote_pack_panel *panel, void *slot,
                                    const void **out_data, cenote_error *err)
{
    struct cn_file_span span = {.tensor = pack->weights->table.tensors[panel->tensor_index].name,
                                .offset_bytes = panel->offset_bytes,
                                .size_bytes = panel->size_bytes};
    cenote_status status =
        cn_file_read(&pack->file, &pack->weights->counters, &span, slot, out_data, err);
    return status == CENOTE_OK ? cenote_pack_check(pack, panel, *out_data, err) : status;
}

cenote_status cenote_pack_read(cenote_pack *pack, const cenote_pack_panel *panel, void *data,
                               cenote_error *err)
{
    struct cenote_weights *w = pack->weights;
    const char *name = w->table.tensors[panel->tensor_index].name;
    cenote_status status = CENOTE_OK;
    pthread_mutex_lock(&w->buffer_lock);
    for (uint64_t done = 0; done < panel->size_bytes && status == CENOTE_OK;) {
        uint64_t left = panel->size_bytes - done;
        struct cn_file_span span = {.tensor = name,
                                    .offset_bytes = panel->offset_bytes + done,
                                    .size_bytes =
                                        left < CN_JSON_PIECE_BYTES ? left : CN_JSON_PIECE_BYTES};
        const void *piece;
        status = cn_file_read(&pack->file, &w->counters, &span, w->buffer, &piece, err);
        if (status == CENOTE_OK)
            memcpy((char *)data + done, piece, span.size_bytes);
        done += span.size_bytes;
    }
    pthread_mutex_unlock(&w->buffer_lock);
    return status == CENOTE_OK ? cenote_pack_check(pack, panel, data, err) : status;
}

static bool go_on(const cenote_pack_options *options, uint64_t done, uint64_t total)
{
    return options->progress == NULL || options->progress(options->context, done, total);
}

static cenote_status verify_all(cenote_pack *pack, const cenote_pack_options *options, void *slot,
                                cenote_error *err)
{
    uint64_t done = 0, total = pack->info.packed_bytes;
    for (uint32_t i = 0; i < pack->weights->table.count; i++)
        for (uint32_t j = 0; j < pack->matrices[i].panels; j++) {
            cenote_pack_panel panel;
            const void *data;
            if (!find_panel(pack, i, j, &panel))
                continue;
            if (!go_on(options, done, total))
                return cenote_error_set(err, CENOTE_E_CANCELLED, "cancelled");
            cenote_status status = read_and_check(pack, &panel, slot, &data, err);
            if (status != CENOTE_OK)
                return status;
            done += panel.size_bytes;
        }
    return go_on(options, done, total) ? CENOTE_OK
                                       : cenote_error_set(err, CENOTE_E_CANCELLED, "cancelled");
}

cenote_status cenote_pack_verify(cenote_pack *pack, cenote_budget *budget,
                                 const cenote_pack_options *options, cenote_error *err)
{
    static const cenote_pack_options defaults = CENOTE_PACK_OPTIONS_INIT;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    cenote_pool *pool;
    void *slot;
    if (options == NULL)
        options = &defaults;
    pool_options.class_id = CENOTE_CLASS_PARAMETERS;
    cenote_status status = cenote_pool_create(budget, &pool_options, &pool, err);
    if (status != CENOTE_OK)
        return status;
    status = cenote_pool_alloc(pool, cn_file_slot_bytes(pack->panel_bytes_max), &slot, err);
    if (status == CENOTE_OK) {
        status = verify_all(pack, options, slot, err);
        cenote_pool_free(pool, slot);
    }
    (void)cenote_pool_destroy(pool);
    return status;
}
