/* SPDX-License-Identifier: Apache-2.0 */
/* The resident set: a stack of panels in one reservation, in one fixed order.
 *
 *   matrices   q: q0 q1 q2 q3     k: k0 k1     down: d0 d1 d2 d3 d4 d5
 *   order      by (j + 1/2) / panels of its matrix:  d0 q0 k0 d1 q1 d2 | d3 q2 d4 k1 q3 d5
 *   memory     | d0 | q0 | k0 | d1 | q1 | d2 |   address space only   |
 *              0                             ^ end: the split line, a panel's boundary
 *
 * Every panel has its place from the start, as large as its form may need, or as it is in a packed
 * copy where there is one; so moving the line is a commit or a decommit at the end and nothing else
 * moves. Whatever fraction f of the bytes fits,
 * about f of the rows of every matrix lie below the line: then reads and work interleave evenly,
 * and max((M - B)/D, M/C) is reached with little read-ahead, where whole layers take up to 1.9
 * times that (docs/streaming.md).
 *
 * A packed panel that does not fit its place (its exponents are spread too widely) is refused and
 * streamed as before; the place stays empty. */
#include "weights/resident.h"

#include <inttypes.h>
#include <string.h>

#include <cenote/bf12.h>
#include <cenote/pack.h>

#include "base/checked.h"
#include "pool/budget.h"
#include "weights/bf12_codec.h"
#include "weights/matrix.h"
#include "weights/weights_impl.h"

#define PLACE_ALIGN 64u
#define HUGE_BYTES  (2u << 20)

enum panel_state { PANEL_EMPTY = 0, PANEL_FRESH, PANEL_HELD, PANEL_REFUSED };

struct resident_matrix {
    struct cn_matrix cut;
    uint32_t tensor_index;
    uint32_t first_panel; /* its number in the set */
};

struct resident_panel {
    uint64_t offset_bytes; /* of its place in the stack */
    uint32_t size_units;   /* of PLACE_ALIGN bytes */
    uint32_t matrix;
    unsigned char state;
    bool packed; /* the form of the place */
};

struct cenote_resident {
    cenote_weights *weights;
    cenote_budget *budget;
    struct cn_arena *arena; /* this struct, the tables below */
    struct resident_matrix *matrices;
    uint32_t *matrix_of_tensor; /* CN_RESIDENT_NONE: not in the set */
    struct resident_panel *panels;
    uint32_t matrix_count;
    uint32_t panel_count;
    char *base;
    uint64_t reserved_bytes;
    uint64_t end_bytes; /* the split line */
    uint64_t held_weight_bytes;
    uint32_t refused_panels;
    cenote_encoding encoding;
};

/* ---- places ---- */

/* What decides the form of the places. */
struct forms {
    const cenote_weights *weights;
    cenote_encoding encoding; /* of bf16 matrices */
    const cenote_pack *pack;  /* where panels are packed already; NULL: they will be */
};

/* Room for a panel, and the form that it will have there. Of a packed copy the sizes are known, and
 * which panels 12 bits cannot hold; else there is room for as many escapes as a packed panel may
 * have. A packed form that would be no smaller is not used. */
static uint64_t room_of(const struct forms *forms, uint32_t tensor_index,
                        const struct cn_matrix *cut, uint32_t panel, bool *out_packed)
{
    uint64_t rows = cn_matrix_panel_rows(cut, panel);
    uint64_t plain = cn_round_up(rows * cut->row_bytes, PLACE_ALIGN);
    uint64_t packed = plain;
    cenote_pack_panel copy;
    if (forms->encoding == CENOTE_ENCODING_BF12 &&
        forms->weights->table.tensors[tensor_index].dtype == CENOTE_DTYPE_BF16) {
        packed = cenote_bf12_bytes_max(rows, cut->row_bytes / 2);
        if (forms->pack != NULL) {
            uint64_t first = (uint64_t)panel * cut->rows_per_panel;
            bool there = cenote_pack_find(forms->pack, tensor_index, first, rows, &copy) &&
                         copy.encoding == CENOTE_ENCODING_BF12 && copy.size_bytes <= packed;
            packed = there ? cn_round_up(copy.size_bytes, PLACE_ALIGN) : plain;
        }
    }
    *out_packed = packed < plain;
    return packed < plain ? packed : plain;
}

/* Gives every panel its place, in the set's order. */
static uint64_t assign_places(struct cenote_resident *r, const struct forms *forms)
{
    uint64_t most = 0;
    for (uint32_t m = 0; m < r->matrix_count; m++)
        most = r->matrices[m].cut.panels > most ? r->matrices[m].cut.panels : most;
    uint64_t end = 0;
    for (uint64_t bucket = 0; bucket < most; bucket++)
        for (uint32_t m = 0; m < r->matrix_count; m++) {
            /* The panels j with (j + 1/2) / panels in [bucket, bucket + 1) / most: one or none. */
            const struct resident_matrix *matrix = &r->matrices[m];
            uint64_t panels = matrix->cut.panels;
            uint64_t j = bucket * panels / most;
            if (panels == 0 || (2 * j + 1) * most / (2 * panels) < bucket)
                j++;
            if (j >= panels || (2 * j + 1) * most / (2 * panels) != bucket)
                continue;
            struct resident_panel *panel = &r->panels[matrix->first_panel + j];
            uint64_t size =
                room_of(forms, matrix->tensor_index, &matrix->cut, (uint32_t)j, &panel->packed);
            panel->offset_bytes = end;
            panel->size_units = (uint32_t)(size / PLACE_ALIGN);
            end += size;
        }
    return end;
}

/* Granules up to @p end, and their page tables. */
static uint64_t charge_of(uint64_t end)
{
    uint64_t granules = (end + CENOTE_GRANULE_BYTES - 1) / CENOTE_GRANULE_BYTES;
    return granules > 0 ? granules * CN_GRANULE_CHARGE_BYTES + CN_RANGE_CHARGE_BYTES : 0;
}

/* ---- create, destroy ---- */

struct sizes {
    uint64_t panels;
    uint64_t place_bytes;
    uint64_t books_bytes;
};

static cenote_status check_item(const cenote_weights *w, const cenote_stream_item *item,
                                struct cn_matrix *out_cut, cenote_error *err)
{
    if (item->tensor_index >= w->table.count || item->rows_per_panel == 0)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "a resident matrix: tensor %u of %u, %u rows in a panel",
                                item->tensor_index, w->table.count, item->rows_per_panel);
    const cenote_tensor_info *tensor = &w->table.tensors[item->tensor_index];
    if (!cn_matrix_make(tensor, item->rows_per_panel, out_cut))
        return cenote_error_set(err, CENOTE_E_INVAL, "tensor `%.200s`: more than 2^32 panels",
                                tensor->name);
    return CENOTE_OK;
}

static cenote_status sizes_get(const struct forms *forms, const cenote_stream_item *items,
                               uint32_t count, struct sizes *out_sizes, cenote_error *err)
{
    const cenote_weights *w = forms->weights;
    struct sizes s = {0};
    for (uint32_t i = 0; i < count; i++) {
        struct cn_matrix cut;
        cenote_status status = check_item(w, &items[i], &cut, err);
        if (status != CENOTE_OK)
            return status;
        bool packed;
        s.panels += cut.panels;
        for (uint32_t j = 0; j < cut.panels; j++)
            s.place_bytes += room_of(forms, items[i].tensor_index, &cut, j, &packed);
    }
    if (s.panels >= UINT32_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "%" PRIu64 " panels in a resident set",
                                s.panels);
    s.books_bytes = sizeof(struct cenote_resident) + count * sizeof(struct resident_matrix) +
                    w->table.count * sizeof(uint32_t) + s.panels * sizeof(struct resident_panel) +
                    4 * PLACE_ALIGN;
    *out_sizes = s;
    return CENOTE_OK;
}

uint64_t cenote_resident_overhead_bytes(const cenote_weights *weights,
                                        const cenote_stream_item *items, uint32_t item_count)
{
    const struct forms forms = {weights, CENOTE_ENCODING_PLAIN, NULL};
    struct sizes sizes;
    if (sizes_get(&forms, items, item_count, &sizes, NULL) != CENOTE_OK)
        return UINT64_MAX;
    return cn_arena_charge_bytes(sizes.books_bytes);
}

uint64_t cenote_resident_whole_bytes(const cenote_weights *weights, const cenote_stream_item *items,
                                     uint32_t item_count, cenote_encoding encoding,
                                     const cenote_pack *pack)
{
    const struct forms forms = {weights, encoding, pack};
    struct sizes sizes;
    if (sizes_get(&forms, items, item_count, &sizes, NULL) != CENOTE_OK)
        return UINT64_MAX;
    return charge_of(sizes.place_bytes);
}

/* The tables, carved one after the other out of an arena that was made large enough. */
static cenote_status make_books(struct cn_arena *arena, const cenote_weights *w,
                                uint32_t matrix_count, const struct sizes *sizes,
                                struct cenote_resident **out_resident, cenote_error *err)
{
    const struct {
        uint64_t bytes, align;
    } parts[] = {{sizeof(struct cenote_resident), _Alignof(struct cenote_resident)},
                 {matrix_count * sizeof(struct resident_matrix), _Alignof(struct resident_matrix)},
                 {w->table.count * sizeof(uint32_t), _Alignof(uint32_t)},
                 {sizes->panels * sizeof(struct resident_panel), _Alignof(struct resident_panel)}};
    void *places[4];
    for (unsigned i = 0; i < 4; i++) {
        places[i] =
            cn_arena_alloc(arena, parts[i].bytes > 0 ? parts[i].bytes : 1, parts[i].align, err);
        if (places[i] == NULL)
            return err->status;
    }
    struct cenote_resident *r = places[0];
    r->matrices = places[1];
    r->matrix_of_tensor = places[2];
    r->panels = places[3];
    *out_resident = r;
    return CENOTE_OK;
}

static cenote_status add_matrices(struct cenote_resident *r, const cenote_stream_item *items,
                                  uint32_t count, cenote_error *err)
{
    const struct cn_table *table = &r->weights->table;
    memset(r->matrix_of_tensor, 0xff, table->count * sizeof *r->matrix_of_tensor);
    for (uint32_t i = 0; i < count; i++) {
        struct resident_matrix *matrix = &r->matrices[i];
        const cenote_tensor_info *tensor = &table->tensors[items[i].tensor_index];
        uint32_t *of_tensor = &r->matrix_of_tensor[items[i].tensor_index];
        if (*of_tensor != CN_RESIDENT_NONE)
            return cenote_error_set(err, CENOTE_E_INVAL,
                                    "tensor `%.200s` is named twice in a resident set",
                                    tensor->name);
        *of_tensor = i;
        cn_matrix_make(tensor, items[i].rows_per_panel, &matrix->cut); /* checked in sizes_get */
        matrix->tensor_index = items[i].tensor_index;
        matrix->first_panel = r->panel_count;
        for (uint32_t j = 0; j < matrix->cut.panels; j++)
            r->panels[r->panel_count++].matrix = i;
        r->matrix_count++;
    }
    return CENOTE_OK;
}

static cenote_status reserve(struct cenote_resident *r, uint64_t size_bytes, cenote_error *err)
{
    struct cn_os *os = r->weights->os;
    uint64_t rounded;
    void *base = NULL;
    if (size_bytes == 0)
        return CENOTE_OK;
    if (!cn_checked_round_up(size_bytes, HUGE_BYTES, &rounded))
        return cenote_error_set(err, CENOTE_E_NOMEM, "a resident set of %" PRIu64 " bytes",
                                size_bytes);
    int rc = os->ops->memory_reserve(os, rounded, &base);
    if (rc != 0)
        return cenote_error_set(err, CENOTE_E_NOMEM,
                                "resident set: reservation of %" PRIu64 " bytes: %s", rounded,
                                strerror(-rc));
    r->base = base;
    r->reserved_bytes = rounded;
    return CENOTE_OK;
}

cenote_status cenote_resident_create(cenote_weights *weights, cenote_budget *budget,
                                     const cenote_stream_item *items, uint32_t item_count,
                                     cenote_encoding encoding, const cenote_pack *pack,
                                     cenote_resident **out_resident, cenote_error *err)
{
    const struct forms forms = {weights, encoding, pack};
    cenote_error local;
    struct sizes sizes;
    struct cn_arena *arena;
    struct cenote_resident *r;
    err = err != NULL ? err : &local;
    cenote_status status = sizes_get(&forms, items, item_count, &sizes, err);
    if (status == CENOTE_OK)
        status = cn_arena_create(budget, sizes.books_bytes, &arena, err);
    if (status != CENOTE_OK)
        return status;
    status = make_books(arena, weights, item_count, &sizes, &r, err);
    if (status == CENOTE_OK) {
        r->weights = weights;
        r->budget = budget;
        r->arena = arena;
        r->encoding = encoding;
        status = add_matrices(r, items, item_count, err);
    }
    if (status == CENOTE_OK)
        status = reserve(r, assign_places(r, &forms), err);
    if (status != CENOTE_OK) {
        cn_arena_destroy(arena);
        return status;
    }
    *out_resident = r;
    return CENOTE_OK;
}

void cenote_resident_destroy(cenote_resident *resident)
{
    struct cenote_resident *r = resident;
    if (r == NULL)
        return;
    if (r->base != NULL)
        r->weights->os->ops->memory_release(r->weights->os, r->base, r->reserved_bytes);
    cenote_budget_uncharge(r->budget, charge_of(r->end_bytes));
    cn_arena_destroy(r->arena);
}

/* ---- the split line ---- */

static uint64_t place_end(const struct resident_panel *panel)
{
    return panel->offset_bytes + (uint64_t)panel->size_units * PLACE_ALIGN;
}

static uint64_t weight_bytes(const struct cenote_resident *r, uint32_t panel)
{
    const struct resident_matrix *matrix = &r->matrices[r->panels[panel].matrix];
    return cn_matrix_panel_rows(&matrix->cut, panel - matrix->first_panel) * matrix->cut.row_bytes;
}

/* The last panel's boundary that a charge pays for. */
static uint64_t line_for(const struct cenote_resident *r, uint64_t charge_bytes)
{
    uint64_t line = 0;
    for (uint32_t p = 0; p < r->panel_count; p++) {
        uint64_t end = place_end(&r->panels[p]);
        if (end > line && charge_of(end) <= charge_bytes)
            line = end;
    }
    return line;
}

static void drop_above(struct cenote_resident *r, uint64_t line)
{
    for (uint32_t p = 0; p < r->panel_count; p++) {
        if (place_end(&r->panels[p]) <= line || r->panels[p].state == PANEL_EMPTY)
            continue;
        if (r->panels[p].state == PANEL_REFUSED)
            r->refused_panels--;
        else
            r->held_weight_bytes -= weight_bytes(r, p);
        r->panels[p].state = PANEL_EMPTY;
    }
}

/* Whole huge pages where the range has them. */
static int commit(struct cenote_resident *r, uint64_t from, uint64_t to)
{
    struct cn_os *os = r->weights->os;
    uint64_t huge_from = cn_round_up(from, HUGE_BYTES);
    uint64_t huge_to = to / HUGE_BYTES * HUGE_BYTES;
    if (huge_from >= huge_to)
        return os->ops->memory_commit(os, r->base + from, to - from, false);
    int rc = os->ops->memory_commit(os, r->base + huge_from, huge_to - huge_from, true);
    if (rc == 0 && from < huge_from)
        rc = os->ops->memory_commit(os, r->base + from, huge_from - from, false);
    if (rc == 0 && huge_to < to)
        rc = os->ops->memory_commit(os, r->base + huge_to, to - huge_to, false);
    if (rc != 0)
        os->ops->memory_decommit(os, r->base + from, to - from);
    return rc;
}

static cenote_status grow(struct cenote_resident *r, uint64_t line, cenote_error *err)
{
    uint64_t charge = charge_of(line) - charge_of(r->end_bytes);
    uint64_t from = cn_round_up(r->end_bytes, CENOTE_GRANULE_BYTES);
    uint64_t to = cn_round_up(line, CENOTE_GRANULE_BYTES);
    cenote_status status = cenote_budget_charge(r->budget, charge, "resident weights", err);
    if (status != CENOTE_OK)
        return status;
    int rc = from < to ? commit(r, from, to) : 0;
    if (rc == 0)
        return CENOTE_OK;
    cenote_budget_uncharge(r->budget, charge);
    return cenote_error_set(err, CENOTE_E_NOMEM, "resident set: commit of %" PRIu64 " bytes: %s",
                            to - from, strerror(-rc));
}

static void shrink(struct cenote_resident *r, uint64_t line)
{
    struct cn_os *os = r->weights->os;
    uint64_t from = cn_round_up(line, CENOTE_GRANULE_BYTES);
    uint64_t to = cn_round_up(r->end_bytes, CENOTE_GRANULE_BYTES);
    drop_above(r, line);
    if (from < to)
        os->ops->memory_decommit(os, r->base + from, to - from);
    cenote_budget_uncharge(r->budget, charge_of(r->end_bytes) - charge_of(line));
}

cenote_status cenote_resident_resize(cenote_resident *resident, uint64_t charge_bytes,
                                     cenote_error *err)
{
    struct cenote_resident *r = resident;
    uint64_t line = line_for(r, charge_bytes);
    cenote_status status = CENOTE_OK;
    if (line < r->end_bytes)
        shrink(r, line);
    else if (line > r->end_bytes)
        status = grow(r, line, err);
    if (status == CENOTE_OK)
        r->end_bytes = line;
    return status;
}

void cenote_resident_stats_get(const cenote_resident *resident, cenote_resident_stats *out_stats)
{
    const struct cenote_resident *r = resident;
    cenote_resident_stats stats = {.charged_bytes = charge_of(r->end_bytes),
                                   .held_weight_bytes = r->held_weight_bytes,
                                   .refused_panels = r->refused_panels,
                                   .encoding = r->encoding};
    for (uint32_t p = 0; p < r->panel_count; p++) {
        uint64_t bytes = weight_bytes(r, p);
        stats.whole_weight_bytes += bytes;
        if (place_end(&r->panels[p]) <= r->end_bytes)
            stats.target_weight_bytes += bytes;
    }
    *out_stats = stats;
}

/* ---- panels ---- */

uint32_t cn_resident_first_panel(const cenote_resident *resident, const cenote_stream_item *item)
{
    uint32_t m = resident->matrix_of_tensor[item->tensor_index];
    if (m == CN_RESIDENT_NONE || resident->matrices[m].cut.rows_per_panel != item->rows_per_panel)
        return CN_RESIDENT_NONE;
    return resident->matrices[m].first_panel;
}

const void *cn_resident_get(const cenote_resident *resident, uint32_t panel,
                            cenote_encoding *out_encoding)
{
    const struct cenote_resident *r = resident;
    if (r->panels[panel].state != PANEL_HELD)
        return NULL;
    const struct resident_panel *p = &r->panels[panel];
    *out_encoding = p->packed ? CENOTE_ENCODING_BF12 : CENOTE_ENCODING_PLAIN;
    return r->base + p->offset_bytes;
}

/* Into its place, in the form of the place; false when it does not fit. */
static bool store(const struct resident_panel *panel, char *place, const cenote_panel *read,
                  uint64_t packed_bytes)
{
    uint64_t room = (uint64_t)panel->size_units * PLACE_ALIGN;
    if (read->encoding != CENOTE_ENCODING_PLAIN) {
        bool fits = panel->packed && packed_bytes <= room;
        if (fits)
            memcpy(place, read->data, packed_bytes);
        return fits;
    }
    /* Of a panel that was bad in the packed copy just the copy's bytes have room; they are what the
     * original gives, unless it was changed behind its time's back. */
    if (panel->packed)
        return cn_bf12_encode_by(cn_bf12_ops_best(), read->data, read->row_count,
                                 read->row_bytes / 2, place, room, &packed_bytes) == CENOTE_OK;
    memcpy(place, read->data, read->row_count * read->row_bytes);
    return true;
}

void cn_resident_put(cenote_resident *resident, uint32_t panel, const cenote_panel *read,
                     uint64_t packed_bytes)
{
    struct cenote_resident *r = resident;
    struct resident_panel *p = &r->panels[panel];
    if (p->state != PANEL_EMPTY || place_end(p) > r->end_bytes)
        return;
    if (!store(p, r->base + p->offset_bytes, read, packed_bytes)) {
        p->state = PANEL_REFUSED;
        r->refused_panels++;
        return;
    }
    p->state = PANEL_FRESH;
    r->held_weight_bytes += read->row_count * read->row_bytes;
}

void cn_resident_settle(cenote_resident *resident, uint32_t first_panel, uint32_t count)
{
    for (uint32_t p = first_panel; p < first_panel + count; p++)
        if (resident->panels[p].state == PANEL_FRESH)
            resident->panels[p].state = PANEL_HELD;
}
