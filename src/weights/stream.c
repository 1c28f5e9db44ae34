/* SPDX-License-Identifier: Apache-2.0 */
/* The stream: keeps reads under way ahead of one consumer, and hands it panels.
 *
 *   program     q: q0 q1 q2 q3 | k: k0 k1 | v ... | q: q0 ...        (pass_count times over)
 *                  ^^^^^ resident  ^^                    matrices in order, panels in any
 *                      ^ taken here         ^ cursor: the next panel to read
 *   queue       slots of panels read or being read, in order of their issue: q2 q3 k1 v1 ...
 *   slots       FREE -> READING -> READY -> HELD -> FREE
 *
 * The consumer gets, of the matrix that it is in: a panel that was read, if one is there (its slot
 * comes free sooner, and the disk goes on); else a resident one (work while reads are under way);
 * else it waits. A panel that belongs into the resident set is put there when it is handed out:
 * the pass that reads it anyway fills the set, and the consumer finds its bytes in a cache.
 *
 * The cursor skips panels that are resident. It never gets into a matrix of which the consumer has
 * panels to take in an earlier pass, so what it skips is there when its turn comes: a panel changes
 * its state only while the consumer is in its matrix.
 *
 * The first error ends the issuing; panels that are there are still delivered, then the error is,
 * and the program is stopped. One block of the pool holds it all: slots first (they want
 * alignment), then the tables and this struct. Nothing is allocated after create; one thread. */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include <cenote/weights.h>

#include "base/checked.h"
#include "weights/matrix.h"
#include "weights/message.h"
#include "weights/pack.h"
#include "weights/reader.h"
#include "weights/resident.h"
#include "weights/weights_impl.h"

enum {
    DEPTH_DEFAULT = 16,
    SLOT_BITS = 9, /* of cenote_panel.slot; the rest is the program's generation */
};

#define SLOT_MASK     ((1u << SLOT_BITS) - 1)
#define SLOT_RESIDENT SLOT_MASK /* a panel that lies in no slot */
static_assert(CENOTE_STREAM_SLOTS_MAX < SLOT_RESIDENT, "a slot's number fits its bits");

enum slot_state { SLOT_FREE, SLOT_READING, SLOT_READY, SLOT_FAILED, SLOT_HELD };

struct slot {
    enum slot_state state;
    uint64_t visit;
    uint32_t panel_number; /* in its matrix */
    cenote_panel panel;
    cenote_pack_panel packed; /* where it lies in the packed copy; PLAIN: it is read as it is */
};

/* A matrix of the program in one of its passes, and the next of its panels to look at. */
struct place {
    uint64_t visit; /* pass * item_count + item */
    struct cn_matrix cut;
    uint32_t item;
    uint32_t resident_first; /* CN_RESIDENT_NONE: not in the set */
    uint32_t panel;
};

struct cenote_stream {
    cenote_weights *weights;
    cenote_pool *pool;
    cenote_resident *resident;
    const cenote_pack *pack; /* NULL: everything is read from the checkpoint */
    struct cn_reader *reader;
    char *block;
    uint64_t slot_bytes;
    uint64_t panel_bytes_max;
    uint32_t slot_count;
    uint32_t depth;
    uint32_t generation;
    struct slot *slots;
    uint32_t *free_slots; /* a stack */
    uint32_t *queue;      /* slots issued and not taken, in order of issue */
    uint32_t free_count;
    uint32_t queue_count;

    const cenote_stream_item *items;
    uint32_t item_count;
    uint64_t visit_count; /* of the whole program; 0: none runs */
    struct place cursor;
    struct place taking;  /* .panel: the next resident one */
    uint32_t taking_left; /* panels of that matrix still to be taken */
    bool started;         /* a panel was read since the start */
    bool failed;
    cenote_error error;
};

/* ---- sizes ---- */

struct layout {
    uint64_t slot_bytes;
    uint64_t slots_at, free_at, queue_at, stream_at, total_bytes;
};

static bool options_valid(const cenote_stream_options *options)
{
    bool slots = options->slot_count >= 2 && options->slot_count <= CENOTE_STREAM_SLOTS_MAX;
    return slots && options->panel_bytes_max > 0 && options->panel_bytes_max <= INT32_MAX;
}

/* Every size in the block, checked: options come from a caller's arithmetic. */
static bool layout_get(const cenote_stream_options *options, struct layout *out_layout)
{
    struct layout l = {.slot_bytes = cn_file_slot_bytes(options->panel_bytes_max)};
    uint64_t count = options->slot_count;
    if (!options_valid(options) || !cn_checked_mul(l.slot_bytes, count, &l.slots_at))
        return false;
    l.stream_at =
        cn_round_up(l.slots_at + count * sizeof(struct slot), _Alignof(struct cenote_stream));
    l.free_at = l.stream_at + sizeof(struct cenote_stream);
    l.queue_at = l.free_at + count * sizeof(uint32_t);
    l.total_bytes = l.queue_at + count * sizeof(uint32_t);
    *out_layout = l;
    return true;
}

uint64_t cenote_stream_ring_bytes(const cenote_stream_options *options)
{
    struct layout layout;
    return layout_get(options, &layout) ? layout.total_bytes : UINT64_MAX;
}

/* ---- places in the program ---- */

/* The first matrix with panels at @p visit or after; visit_count when there is none. */
static void place_enter(const struct cenote_stream *s, struct place *place, uint64_t visit)
{
    for (; visit < s->visit_count; visit++) {
        uint32_t item = (uint32_t)(visit % s->item_count);
        const cenote_stream_item *named = &s->items[item];
        *place = (struct place){.visit = visit, .item = item, .resident_first = CN_RESIDENT_NONE};
        cn_matrix_make(&s->weights->table.tensors[named->tensor_index], named->rows_per_panel,
                       &place->cut); /* checked at start */
        if (place->cut.panels == 0)
            continue;
        if (s->resident != NULL)
            place->resident_first = cn_resident_first_panel(s->resident, named);
        return;
    }
    *place = (struct place){.visit = s->visit_count};
}

static const void *resident_panel(const struct cenote_stream *s, const struct place *place,
                                  uint32_t panel, cenote_encoding *out_encoding)
{
    if (place->resident_first == CN_RESIDENT_NONE)
        return NULL;
    return cn_resident_get(s->resident, place->resident_first + panel, out_encoding);
}

static cenote_panel describe(const struct cenote_stream *s, const struct place *place,
                             uint32_t panel, uint32_t slot)
{
    return (cenote_panel){.encoding = CENOTE_ENCODING_PLAIN,
                          .item_index = place->item,
                          .tensor_index = s->items[place->item].tensor_index,
                          .row_first = (uint64_t)panel * place->cut.rows_per_panel,
                          .row_count = cn_matrix_panel_rows(&place->cut, panel),
                          .row_bytes = place->cut.row_bytes,
                          .slot = s->generation << SLOT_BITS | slot};
}

/* ---- reading ahead ---- */

/* What a read is about. */
struct source {
    const struct cn_file *file;
    uint32_t file_index; /* the reader's: the checkpoint's files, then the packed copy */
    struct cn_file_span span;
};

/* No overflow: the rows are inside of the tensor and the tensor inside of its file. */
static struct source plain_source(const struct cenote_stream *s, const cenote_panel *panel)
{
    const cenote_tensor_info *tensor = &s->weights->table.tensors[panel->tensor_index];
    return (struct source){
        .file = &s->weights->files[tensor->file_index],
        .file_index = tensor->file_index,
        .span = {.tensor = tensor->name,
                 .offset_bytes = tensor->offset_bytes + panel->row_first * panel->row_bytes,
                 .size_bytes = panel->row_count * panel->row_bytes}};
}

static struct source slot_source(const struct cenote_stream *s, const struct slot *slot)
{
    struct source source = plain_source(s, &slot->panel);
    if (slot->packed.encoding == CENOTE_ENCODING_PLAIN)
        return source;
    source.file = cn_pack_file(s->pack);
    source.file_index = s->weights->file_count;
    source.span.offset_bytes = slot->packed.offset_bytes;
    source.span.size_bytes = slot->packed.size_bytes;
    return source;
}

/* Looks for the panel in the packed copy. */
static void find_packed(const struct cenote_stream *s, struct slot *slot)
{
    const cenote_panel *panel = &slot->panel;
    slot->packed.encoding = CENOTE_ENCODING_PLAIN;
    if (s->pack == NULL || !cenote_pack_find(s->pack, panel->tensor_index, panel->row_first,
                                             panel->row_count, &slot->packed))
        return;
    if (slot->packed.size_bytes > s->panel_bytes_max)
        slot->packed.encoding = CENOTE_ENCODING_PLAIN;
}

static void issue(struct cenote_stream *s, const struct place *place)
{
    uint32_t index = s->free_slots[--s->free_count];
    struct slot *slot = &s->slots[index];
    slot->state = SLOT_READING;
    slot->visit = place->visit;
    slot->panel_number = place->panel;
    slot->panel = describe(s, place, place->panel, index);
    s->queue[s->queue_count++] = index;
    find_packed(s, slot);
    struct source source = slot_source(s, slot);
    struct cn_file_blocks blocks = cn_file_blocks_of(source.file, &source.span);
    struct cn_reader_request request = {.tag = index,
                                        .file_index = source.file_index,
                                        .offset_bytes = blocks.offset_bytes,
                                        .size_bytes = (uint32_t)blocks.size_bytes,
                                        .data = s->block + index * s->slot_bytes};
    cn_reader_submit(s->reader, &request);
}

/* Moves the cursor to a panel that must be read; false when there is none for now. */
static bool cursor_seek(struct cenote_stream *s)
{
    struct place *c = &s->cursor;
    cenote_encoding encoding;
    while (c->visit < s->visit_count) {
        for (; c->panel < c->cut.panels; c->panel++)
            if (resident_panel(s, c, c->panel, &encoding) == NULL)
                return true;
        struct place next;
        place_enter(s, &next, c->visit + 1);
        if (next.visit >= s->taking.visit + s->item_count)
            return false; /* the consumer is in this matrix, or before it, in the pass before */
        *c = next;
    }
    return false;
}

/* After a failure nothing more is issued: the consumer will not get past it. */
static void read_ahead(struct cenote_stream *s)
{
    while (!s->failed && s->free_count > 0 && cn_reader_under_way(s->reader) < s->depth &&
           cursor_seek(s)) {
        issue(s, &s->cursor);
        s->cursor.panel++;
    }
}

/* Whatever is wrong with a packed panel: the original has the same rows. */
static cenote_status finish_packed(struct cenote_stream *s, struct slot *slot, void *buffer,
                                   int64_t result, cenote_error *err)
{
    struct cenote_weights *w = s->weights;
    struct source source = slot_source(s, slot);
    cenote_status status = cn_file_read_finish(source.file, &w->counters, &source.span, buffer,
                                               result, &slot->panel.data, err);
    if (status == CENOTE_OK)
        status = cenote_pack_check(s->pack, &slot->packed, slot->panel.data, err);
    if (status == CENOTE_OK) {
        slot->panel.encoding = slot->packed.encoding;
        return CENOTE_OK;
    }
    atomic_fetch_add_explicit(&w->pack_failures, 1, memory_order_relaxed);
    slot->packed.encoding = CENOTE_ENCODING_PLAIN;
    source = slot_source(s, slot);
    return cn_file_read(source.file, &w->counters, &source.span, buffer, &slot->panel.data, err);
}

static cenote_status finish_read(struct cenote_stream *s, struct slot *slot, void *buffer,
                                 int64_t result, cenote_error *err)
{
    if (slot->packed.encoding != CENOTE_ENCODING_PLAIN)
        return finish_packed(s, slot, buffer, result, err);
    struct source source = slot_source(s, slot);
    return cn_file_read_finish(source.file, &s->weights->counters, &source.span, buffer, result,
                               &slot->panel.data, err);
}

/* Takes what reads have come to; waits for one first if told to. @return whether any had. */
static bool collect(struct cenote_stream *s, bool wait)
{
    struct cn_reader_result done;
    bool any = false;
    for (; cn_reader_next(s->reader, wait, &done); wait = false) {
        any = true;
        struct slot *slot = &s->slots[done.tag];
        cenote_error err;
        cenote_status status =
            finish_read(s, slot, s->block + done.tag * s->slot_bytes, done.result, &err);
        slot->state = status == CENOTE_OK ? SLOT_READY : SLOT_FAILED;
        if (status == CENOTE_OK)
            continue;
        if (!s->failed)
            s->error = err;
        s->failed = true;
    }
    return any;
}

/* Gives the disk all that it may have. Reads that have come make room for others, also where there
 * are more slots than reads may be under way. */
static void keep_reading(struct cenote_stream *s)
{
    do
        read_ahead(s);
    while (collect(s, false)); /* it hands the reads to the kernel: they begin now */
}

/* ---- create, destroy ---- */

static void slots_reset(struct cenote_stream *s)
{
    s->queue_count = 0;
    s->free_count = s->slot_count;
    for (uint32_t i = 0; i < s->slot_count; i++) {
        s->slots[i].state = SLOT_FREE;
        s->free_slots[i] = s->slot_count - 1 - i; /* slot 0 on top */
    }
}

static void stream_init(struct cenote_stream *s, const cenote_stream_options *options,
                        const struct layout *layout, void *block)
{
    memset(s, 0, sizeof *s);
    s->block = block;
    s->slot_bytes = layout->slot_bytes;
    s->panel_bytes_max = options->panel_bytes_max;
    s->slot_count = options->slot_count;
    s->depth = options->depth > 0 ? options->depth : DEPTH_DEFAULT;
    s->depth = s->depth < s->slot_count ? s->depth : s->slot_count;
    s->resident = options->resident;
    s->pack = options->pack;
    s->slots = (void *)(s->block + layout->slots_at);
    s->free_slots = (void *)(s->block + layout->free_at);
    s->queue = (void *)(s->block + layout->queue_at);
    slots_reset(s);
}

static cenote_status open_reader(struct cenote_stream *s, cenote_io_engine engine,
                                 cenote_error *err)
{
    struct cenote_weights *w = s->weights;
    if (s->pack != NULL)
        w->fds[w->file_count] = cn_pack_file(s->pack)->fd;
    struct cn_reader_options options = {
        .engine = cn_reader_engine_of(engine),
        .depth = s->depth,
        .buffers = s->block,
        .buffers_bytes = s->slot_count * s->slot_bytes,
        .fds = w->fds,
        .fd_count = w->file_count + (s->pack != NULL),
    };
    cenote_status status = cn_reader_create(s->weights->os, &options, &s->reader, err);
    if (status == CENOTE_OK)
        s->weights->engine = cn_reader_engine_text(s->reader);
    return status;
}

cenote_status cenote_stream_create(cenote_weights *weights, cenote_pool *pool,
                                   const cenote_stream_options *options, cenote_stream **out_stream,
                                   cenote_error *err)
{
    if (options->version != CENOTE_STREAM_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "stream options have version %u, not %u",
                                options->version, CENOTE_STREAM_OPTIONS_VERSION);
    struct layout layout;
    if (!layout_get(options, &layout))
        return cenote_error_set(
            err, CENOTE_E_INVAL,
            "a stream of %u slots (2..%u) of panels of %" PRIu64 " bytes (up to %d) cannot be",
            options->slot_count, CENOTE_STREAM_SLOTS_MAX, options->panel_bytes_max, INT32_MAX);
    void *block;
    cenote_status status = cenote_pool_alloc(pool, layout.total_bytes, &block, err);
    if (status != CENOTE_OK)
        return status;
    struct cenote_stream *s = (void *)((char *)block + layout.stream_at);
    stream_init(s, options, &layout, block);
    s->weights = weights;
    s->pool = pool;
    status = open_reader(s, options->engine, err);
    if (status != CENOTE_OK) {
        cenote_stream_destroy(s);
        return status;
    }
    *out_stream = s;
    return CENOTE_OK;
}

void cenote_stream_destroy(cenote_stream *stream)
{
    if (stream == NULL)
        return;
    if (stream->reader != NULL)
        cenote_stream_stop(stream); /* what it put into the resident set is of use to the next */
    cn_reader_destroy(stream->reader);
    cenote_pool_free(stream->pool, stream->block);
}

/* ---- the program ---- */

/* What was put into the resident set while the consumer was in this matrix may be used from now. */
static void leave_matrix(struct cenote_stream *s)
{
    if (s->visit_count > 0 && s->taking.resident_first != CN_RESIDENT_NONE)
        cn_resident_settle(s->resident, s->taking.resident_first, s->taking.cut.panels);
}

static void enter_matrix(struct cenote_stream *s, uint64_t visit)
{
    place_enter(s, &s->taking, visit);
    s->taking_left = s->taking.cut.panels;
}

/* Ends all reads. What they brought is of no use, but it was read: it counts, and leaves no pages
 * behind. */
static void drop_reads(struct cenote_stream *s)
{
    struct cn_file_counters *counters = &s->weights->counters;
    struct cn_reader_dropped dropped = cn_reader_drain(s->reader);
    atomic_fetch_add_explicit(&counters->bytes_read, dropped.bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&counters->read_count, dropped.count, memory_order_relaxed);
    for (uint32_t i = 0; i < s->queue_count; i++) {
        const struct slot *slot = &s->slots[s->queue[i]];
        if (slot->state != SLOT_READING)
            continue;
        struct source source = slot_source(s, slot);
        cn_file_drop(source.file, &source.span);
    }
}

void cenote_stream_stop(cenote_stream *stream)
{
    struct cenote_stream *s = stream;
    drop_reads(s);
    leave_matrix(s);
    s->visit_count = 0;
    s->started = false;
    s->taking = (struct place){0};
    s->taking_left = 0;
    s->failed = false;
    s->items = NULL;
    s->generation = (s->generation + 1) & (UINT32_MAX >> SLOT_BITS);
    slots_reset(s);
}

void cenote_stream_forget_ahead(cenote_stream *stream)
{
    struct cenote_stream *s = stream;
    drop_reads(s);
    if (s->taking_left == 0 && s->taking.visit < s->visit_count) {
        leave_matrix(s);
        enter_matrix(s, s->taking.visit + 1);
    }
    assert(s->taking_left == s->taking.cut.panels);
    assert(s->queue_count + s->free_count == s->slot_count);
    slots_reset(s);
    s->started = false;
    s->taking.panel = 0;
    s->cursor = s->taking;
}

/* All that can be wrong with a program is found before it starts. */
static cenote_status check_item(const struct cenote_stream *s, const cenote_stream_item *item,
                                uint32_t item_index, uint32_t *out_panels, cenote_error *err)
{
    const struct cn_table *table = &s->weights->table;
    if (item->tensor_index >= table->count)
        return cenote_error_set(err, CENOTE_E_INVAL, "item %u: tensor %u of %u", item_index,
                                item->tensor_index, table->count);
    const char *name = table->tensors[item->tensor_index].name;
    if (item->rows_per_panel == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "item %u (`%.200s`): no rows in a panel",
                                item_index, name);
    struct cn_matrix m;
    if (!cn_matrix_make(&table->tensors[item->tensor_index], item->rows_per_panel, &m))
        return cenote_error_set(err, CENOTE_E_INVAL, "item %u (`%.200s`): more than 2^32 panels",
                                item_index, name);
    uint64_t rows = item->rows_per_panel < m.rows ? item->rows_per_panel : m.rows;
    /* no overflow: at most the tensor's size */
    if (rows * m.row_bytes > s->panel_bytes_max)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "item %u (`%.200s`): a panel of %" PRIu64 " rows has %" PRIu64
                                " bytes, the stream's limit is %" PRIu64,
                                item_index, name, rows, rows * m.row_bytes, s->panel_bytes_max);
    *out_panels = m.panels;
    return CENOTE_OK;
}

/* A resident matrix comes once in a pass: its panels may change their state while it is used. */
static cenote_status check_once(const struct cenote_stream *s, const cenote_stream_item *items,
                                uint32_t index, cenote_error *err)
{
    if (cn_resident_first_panel(s->resident, &items[index]) == CN_RESIDENT_NONE)
        return CENOTE_OK;
    for (uint32_t i = 0; i < index; i++)
        if (items[i].tensor_index == items[index].tensor_index)
            return cenote_error_set(err, CENOTE_E_INVAL,
                                    "items %u and %u name the same resident tensor `%.200s`", i,
                                    index, s->weights->table.tensors[items[i].tensor_index].name);
    return CENOTE_OK;
}

/* 64 bits hold any real program; a pass count of "for ever" must be refused, not wrapped. */
static cenote_status count_visits(const struct cenote_stream *s, const cenote_stream_item *items,
                                  uint32_t item_count, uint64_t pass_count, uint64_t *out_visits,
                                  cenote_error *err)
{
    bool any = false;
    for (uint32_t i = 0; i < item_count; i++) {
        uint32_t panels;
        cenote_status status = check_item(s, &items[i], i, &panels, err);
        if (status == CENOTE_OK && s->resident != NULL)
            status = check_once(s, items, i, err);
        if (status != CENOTE_OK)
            return status;
        any = any || panels > 0;
    }
    if (!cn_checked_mul(item_count, pass_count, out_visits) || *out_visits > UINT64_MAX / 2)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "%" PRIu64 " passes of %u items overflow 64 bits", pass_count,
                                item_count);
    if (!any || pass_count == 0)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "an empty program: %u items, %s, %" PRIu64 " passes", item_count,
                                any ? "with panels" : "no panels", pass_count);
    return CENOTE_OK;
}

/* The old program is stopped first, also when the new one is refused: its items may be gone. */
cenote_status cenote_stream_start(cenote_stream *stream, const cenote_stream_item *items,
                                  uint32_t item_count, uint64_t pass_count, cenote_error *err)
{
    struct cenote_stream *s = stream;
    uint64_t visits;
    cenote_stream_stop(s);
    cenote_status status = count_visits(s, items, item_count, pass_count, &visits, err);
    if (status == CENOTE_OK)
        status = cenote_weights_verify_unchanged(s->weights, err);
    if (status != CENOTE_OK)
        return status;
    s->items = items;
    s->item_count = item_count;
    s->visit_count = visits;
    enter_matrix(s, 0);
    s->cursor = s->taking;
    keep_reading(s);
    return CENOTE_OK;
}

/* ---- the consumer ---- */

static void free_slot(struct cenote_stream *s, uint32_t index)
{
    s->slots[index].state = SLOT_FREE;
    s->free_slots[s->free_count++] = index;
}

/* A panel of this matrix that was read, if one is there. */
static bool take_read(struct cenote_stream *s, cenote_panel *out_panel)
{
    uint32_t at = 0;
    while (at < s->queue_count && s->slots[s->queue[at]].state != SLOT_READY)
        at++;
    if (at == s->queue_count || s->slots[s->queue[at]].visit != s->taking.visit)
        return false;
    uint32_t index = s->queue[at];
    struct slot *slot = &s->slots[index];
    s->queue_count--;
    memmove(&s->queue[at], &s->queue[at + 1], (s->queue_count - at) * sizeof *s->queue);
    slot->state = SLOT_HELD;
    s->started = true;
    *out_panel = slot->panel;
    if (s->taking.resident_first != CN_RESIDENT_NONE)
        cn_resident_put(s->resident, s->taking.resident_first + slot->panel_number, &slot->panel,
                        slot->packed.size_bytes);
    return true;
}

static bool take_resident(struct cenote_stream *s, cenote_panel *out_panel)
{
    struct place *t = &s->taking;
    for (; t->panel < t->cut.panels; t->panel++) {
        cenote_encoding encoding;
        const void *data = resident_panel(s, t, t->panel, &encoding);
        if (data == NULL)
            continue;
        *out_panel = describe(s, t, t->panel++, SLOT_RESIDENT);
        out_panel->data = data;
        out_panel->encoding = encoding;
        return true;
    }
    return false;
}

static cenote_status wait_for_read(struct cenote_stream *s, cenote_error *err)
{
    struct cn_os *os = s->weights->os;
    if (cn_reader_under_way(s->reader) == 0 && s->failed) {
        cenote_status status = s->error.status;
        if (err != NULL)
            *err = s->error;
        cenote_stream_stop(s);
        return status;
    }
    if (cn_reader_under_way(s->reader) == 0)
        /* nothing is under way and nothing can be: waiting would never end */
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "all %u slots are held: release a panel before the next one",
                                s->slot_count);
    uint64_t begin_ns = os->ops->clock_ns(os);
    collect(s, true);
    uint64_t waited_ns = os->ops->clock_ns(os) - begin_ns;
    atomic_fetch_add_explicit(&s->weights->wait_ns, waited_ns, memory_order_relaxed);
    if (!s->started)
        atomic_fetch_add_explicit(&s->weights->wait_start_ns, waited_ns, memory_order_relaxed);
    return CENOTE_OK;
}

/* One more panel of the matrix that the consumer is in; false when none is there. */
static bool take(struct cenote_stream *s, bool may_hold_slot, cenote_panel *out_panel)
{
    if (!(may_hold_slot && take_read(s, out_panel)) && !take_resident(s, out_panel))
        return false;
    s->taking_left--;
    atomic_fetch_add_explicit(&s->weights->bytes_used, out_panel->row_count * out_panel->row_bytes,
                              memory_order_relaxed);
    return true;
}

cenote_status cenote_stream_next_several(cenote_stream *stream, uint32_t most,
                                         cenote_panel *out_panels, uint32_t *out_count,
                                         cenote_error *err)
{
    struct cenote_stream *s = stream;
    if (s->taking_left == 0 && s->taking.visit < s->visit_count) {
        leave_matrix(s);
        enter_matrix(s, s->taking.visit + 1);
    }
    if (s->taking.visit >= s->visit_count)
        return cenote_error_set(err, CENOTE_E_NOTFOUND, "the program is over");
    uint32_t count = 0, slots = s->slot_count / 4 + 1;
    for (keep_reading(s); !take(s, true, out_panels); keep_reading(s)) {
        cenote_status status = wait_for_read(s, err);
        if (status != CENOTE_OK)
            return status;
    }
    do
        slots -= (out_panels[count++].slot & SLOT_MASK) != SLOT_RESIDENT;
    while (count < most && s->taking_left > 0 && take(s, slots > 1, &out_panels[count]));
    *out_count = count;
    return CENOTE_OK;
}

cenote_status cenote_stream_next(cenote_stream *stream, cenote_panel *out_panel, cenote_error *err)
{
    uint32_t count;
    return cenote_stream_next_several(stream, 1, out_panel, &count, err);
}

void cenote_stream_release(cenote_stream *stream, const cenote_panel *panel)
{
    uint32_t index = panel->slot & SLOT_MASK;
    /* a panel of a program that was stopped: its slot is free already, or another's */
    if (panel->slot >> SLOT_BITS != stream->generation || index == SLOT_RESIDENT)
        return;
    assert(index < stream->slot_count && stream->slots[index].state == SLOT_HELD);
    free_slot(stream, index);
}
