/* SPDX-License-Identifier: Apache-2.0 */
/* The stream: reader threads fill slots with the panels of a program, one consumer takes them in
 * order.
 *
 *   program  item 0: p0 p1 p2 | item 1: p3 p4 | ... | item 0: p0 ...      (pass_count times over)
 *   panels     0     1     2     3     4     5  ...   numbered through, 64 bits
 *                                ^taken          ^issued
 *   order    ring of slot_count: panel number mod slot_count -> slot
 *   slots    FREE -> READING -> READY -> HELD -> FREE; any free slot takes the next panel
 *
 * A panel gets its number and its slot in one step under the lock. So slots go to panels in order:
 * a later panel never holds the last slot that an earlier one needs, and panels may be released in
 * any order. At most slot_count panels are issued and not taken, hence the ring.
 *
 * The first error ends the issuing; panels before it are still delivered, then the error is, and
 * the program is stopped. One block of the pool holds it all: slots first (they want alignment),
 * then the free list, the ring and this struct. Nothing is allocated after create.
 *
 * Lock: one mutex for every field below `lock`; reads run outside of it. */
#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include <cenote/weights.h>

#include "base/checked.h"
#include "weights/message.h"
#include "weights/weights_impl.h"

enum {
    THREADS_MAX = 16,
    THREADS_DEFAULT = 4,
    READER_STACK_BYTES = 128 * 1024,
    SLOT_BITS = 12, /* of cenote_panel.slot; the rest is the program's generation */
};

#define SLOT_MASK ((1u << SLOT_BITS) - 1)
static_assert(CENOTE_STREAM_SLOTS_MAX == 1u << SLOT_BITS, "a slot's number fits its bits");

enum slot_state { SLOT_FREE, SLOT_READING, SLOT_READY, SLOT_FAILED, SLOT_HELD };

struct slot {
    enum slot_state state;
    cenote_panel panel;
};

/* Where the next panel to be issued is. */
struct cursor {
    uint32_t item;
    uint64_t row;
};

struct cenote_stream {
    cenote_weights *weights;
    cenote_pool *pool;
    char *block;
    uint64_t slot_bytes;
    uint64_t panel_bytes_max;
    uint32_t slot_count;
    uint32_t thread_count; /* threads that run */
    struct slot *slots;

    pthread_mutex_t lock;
    pthread_cond_t work;  /* to readers: something to issue, or quit */
    pthread_cond_t ready; /* to the consumer: a panel is read, or a reader is done */
    bool quit;
    bool failed;
    uint32_t generation;
    const cenote_stream_item *items;
    uint32_t item_count;
    struct cursor cursor;
    uint64_t panel_count; /* of the whole program; 0: none runs */
    uint64_t issued;
    uint64_t taken;
    uint32_t reading_count;
    uint32_t free_count;
    uint32_t *free_slots; /* a stack */
    uint32_t *order;
    uint64_t error_panel; /* the first that failed */
    cenote_error error;
    pthread_t threads[THREADS_MAX];
};

/* ---- sizes ---- */

struct layout {
    uint64_t slot_bytes;
    uint64_t slots_at, free_at, order_at, stream_at, total_bytes;
};

static bool options_valid(const cenote_stream_options *options)
{
    bool slots = options->slot_count >= 2 && options->slot_count <= CENOTE_STREAM_SLOTS_MAX;
    return slots && options->panel_bytes_max > 0 && options->thread_count <= THREADS_MAX;
}

/* Every size in the block, checked: options come from a caller's arithmetic. */
static bool layout_get(const cenote_stream_options *options, struct layout *out_layout)
{
    struct layout l = {.slot_bytes = cn_file_slot_bytes(options->panel_bytes_max)};
    uint64_t count = options->slot_count;
    if (!options_valid(options) || l.slot_bytes == UINT64_MAX ||
        !cn_checked_mul(l.slot_bytes, count, &l.slots_at) ||
        !cn_checked_add(l.slots_at, count * sizeof(struct slot), &l.stream_at) ||
        !cn_checked_round_up(l.stream_at, _Alignof(struct cenote_stream), &l.stream_at) ||
        !cn_checked_add(l.stream_at, sizeof(struct cenote_stream), &l.free_at) ||
        !cn_checked_add(l.free_at, count * sizeof(uint32_t), &l.order_at) ||
        !cn_checked_add(l.order_at, count * sizeof(uint32_t), &l.total_bytes))
        return false;
    *out_layout = l;
    return true;
}

uint64_t cenote_stream_ring_bytes(const cenote_stream_options *options)
{
    struct layout layout;
    return layout_get(options, &layout) ? layout.total_bytes : UINT64_MAX;
}

/* The matrix that an item stands for. */
struct matrix {
    uint64_t rows;
    uint64_t row_bytes;
    uint64_t panels; /* 0 for an empty tensor */
};

static struct matrix item_matrix(const struct cenote_stream *s, const cenote_stream_item *item)
{
    const cenote_tensor_info *tensor = &s->weights->table.tensors[item->tensor_index];
    struct matrix m = {.rows = tensor->rank > 0 ? tensor->shape[0] : 1};
    if (tensor->size_bytes > 0) {
        m.row_bytes = tensor->size_bytes / m.rows;
        m.panels = (m.rows - 1) / item->rows_per_panel + 1;
    }
    return m;
}

/* ---- readers ---- */

/* The next panel of the program; the lock is held and issued < panel_count. */
static cenote_panel cursor_step(struct cenote_stream *s)
{
    struct cursor *c = &s->cursor;
    struct matrix m = item_matrix(s, &s->items[c->item]);
    while (m.panels == 0 || c->row == m.rows) {
        c->item = c->item + 1 == s->item_count ? 0 : c->item + 1;
        c->row = 0;
        m = item_matrix(s, &s->items[c->item]);
    }
    const cenote_stream_item *item = &s->items[c->item];
    uint64_t left = m.rows - c->row;
    cenote_panel panel = {.item_index = c->item,
                          .tensor_index = item->tensor_index,
                          .row_first = c->row,
                          .row_count = left < item->rows_per_panel ? left : item->rows_per_panel,
                          .row_bytes = m.row_bytes};
    c->row += panel.row_count;
    return panel;
}

/* After a failure nothing more is issued: the consumer will not get past the failed panel. */
static bool can_issue(const struct cenote_stream *s)
{
    return !s->failed && s->issued < s->panel_count && s->free_count > 0;
}

/* No overflow: the rows are inside of the tensor and the tensor inside of its file. */
static cenote_status panel_read(struct cenote_stream *s, uint32_t slot, cenote_panel *panel,
                                cenote_error *err)
{
    struct cenote_weights *w = s->weights;
    const cenote_tensor_info *tensor = &w->table.tensors[panel->tensor_index];
    struct cn_file_span span = {
        .tensor = tensor->name,
        .offset_bytes = tensor->offset_bytes + panel->row_first * panel->row_bytes,
        .size_bytes = panel->row_count * panel->row_bytes,
    };
    return cn_file_read(&w->files[tensor->file_index], &w->counters, &span,
                        s->block + slot * s->slot_bytes, &panel->data, err);
}

/* Issues one panel, reads it without the lock, and puts it up for the consumer. */
static void reader_step(struct cenote_stream *s)
{
    cenote_error err;
    uint64_t number = s->issued++;
    uint32_t slot = s->free_slots[--s->free_count];
    cenote_panel panel = cursor_step(s);
    panel.slot = s->generation << SLOT_BITS | slot;
    s->slots[slot].state = SLOT_READING;
    s->order[number % s->slot_count] = slot;
    s->reading_count++;

    pthread_mutex_unlock(&s->lock);
    cenote_status status = panel_read(s, slot, &panel, &err);
    pthread_mutex_lock(&s->lock);

    s->reading_count--;
    s->slots[slot].panel = panel;
    s->slots[slot].state = status == CENOTE_OK ? SLOT_READY : SLOT_FAILED;
    if (status != CENOTE_OK && (!s->failed || number < s->error_panel)) {
        s->failed = true;
        s->error_panel = number;
        s->error = err;
    }
    pthread_cond_signal(&s->ready);
}

/* A reader never waits while it could issue, so a lost wake-up cannot strand a panel. */
static void *reader_main(void *argument)
{
    struct cenote_stream *s = argument;
    pthread_mutex_lock(&s->lock);
    while (!s->quit) {
        if (can_issue(s))
            reader_step(s);
        else
            pthread_cond_wait(&s->work, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- create, destroy ---- */

/* Signals are the program's: readers block them all, so that a handler runs on its thread. */
static int reader_start(struct cenote_stream *s)
{
    pthread_attr_t attributes;
    sigset_t all;
    sigset_t before;
    int rc = pthread_attr_init(&attributes);
    if (rc != 0)
        return rc;
    pthread_attr_setstacksize(&attributes, READER_STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&s->threads[s->thread_count], &attributes, reader_main, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (rc == 0)
        s->thread_count++;
    return rc;
}

static void slots_reset(struct cenote_stream *s)
{
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
    s->slots = (void *)(s->block + layout->slots_at);
    s->free_slots = (void *)(s->block + layout->free_at);
    s->order = (void *)(s->block + layout->order_at);
    slots_reset(s);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->ready, NULL);
}

static cenote_status readers_start(struct cenote_stream *s, uint32_t wanted, cenote_error *err)
{
    if (wanted == 0)
        wanted = s->slot_count < THREADS_DEFAULT ? s->slot_count : THREADS_DEFAULT;
    while (s->thread_count < wanted) {
        int rc = reader_start(s);
        if (rc != 0)
            return cenote_error_set(err, CENOTE_E_NOMEM, "reader thread %u of %u: errno %d",
                                    s->thread_count + 1, wanted, rc);
    }
    return CENOTE_OK;
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
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "a stream of %u slots (2..%u) of panels of %" PRIu64
                                " bytes and %u threads (up to %d) cannot be",
                                options->slot_count, CENOTE_STREAM_SLOTS_MAX,
                                options->panel_bytes_max, options->thread_count, THREADS_MAX);
    void *block;
    cenote_status status = cenote_pool_alloc(pool, layout.total_bytes, &block, err);
    if (status != CENOTE_OK)
        return status;
    struct cenote_stream *s = (void *)((char *)block + layout.stream_at);
    stream_init(s, options, &layout, block);
    s->weights = weights;
    s->pool = pool;
    status = readers_start(s, options->thread_count, err);
    if (status != CENOTE_OK) {
        cenote_stream_destroy(s);
        return status;
    }
    *out_stream = s;
    return CENOTE_OK;
}

void cenote_stream_destroy(cenote_stream *stream)
{
    struct cenote_stream *s = stream;
    if (s == NULL)
        return;
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < s->thread_count; i++)
        pthread_join(s->threads[i], NULL);
    pthread_cond_destroy(&s->ready);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    cenote_pool_free(s->pool, s->block);
}

/* ---- the program ---- */

/* With the lock: nothing is issued any more, and reads under way are waited for. */
static void stop_locked(struct cenote_stream *s)
{
    s->panel_count = 0;
    s->issued = 0;
    while (s->reading_count > 0)
        pthread_cond_wait(&s->ready, &s->lock);
    s->taken = 0;
    s->failed = false;
    s->items = NULL;
    s->generation = (s->generation + 1) & (UINT32_MAX >> SLOT_BITS);
    slots_reset(s);
}

void cenote_stream_stop(cenote_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    stop_locked(stream);
    pthread_mutex_unlock(&stream->lock);
}

/* All that can be wrong with a program is found before it starts; readers then trust it. */
static cenote_status check_item(const struct cenote_stream *s, const cenote_stream_item *item,
                                uint32_t item_index, uint64_t *out_panels, cenote_error *err)
{
    const struct cn_table *table = &s->weights->table;
    if (item->tensor_index >= table->count)
        return cenote_error_set(err, CENOTE_E_INVAL, "item %u: tensor %u of %u", item_index,
                                item->tensor_index, table->count);
    const char *name = table->tensors[item->tensor_index].name;
    if (item->rows_per_panel == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "item %u (`%.200s`): no rows in a panel",
                                item_index, name);
    struct matrix m = item_matrix(s, item);
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

/* 64 bits hold any real program; a pass count of "for ever" must be refused, not wrapped. */
static cenote_status count_panels(const struct cenote_stream *s, const cenote_stream_item *items,
                                  uint32_t item_count, uint64_t pass_count, uint64_t *out_panels,
                                  cenote_error *err)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < item_count; i++) {
        uint64_t panels;
        cenote_status status = check_item(s, &items[i], i, &panels, err);
        if (status != CENOTE_OK)
            return status;
        if (!cn_checked_add(total, panels, &total))
            return cenote_error_set(err, CENOTE_E_INVAL, "more than 2^64 panels in a pass");
    }
    uint64_t per_pass = total;
    if (!cn_checked_mul(per_pass, pass_count, &total))
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "%" PRIu64 " passes of %" PRIu64 " panels overflow 64 bits",
                                pass_count, per_pass);
    if (total == 0)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "an empty program: %u items, %" PRIu64 " panels, %" PRIu64
                                " passes",
                                item_count, per_pass, pass_count);
    *out_panels = total;
    return CENOTE_OK;
}

/* The old program is stopped first, also when the new one is refused: its items may be gone. */
cenote_status cenote_stream_start(cenote_stream *stream, const cenote_stream_item *items,
                                  uint32_t item_count, uint64_t pass_count, cenote_error *err)
{
    cenote_stream_stop(stream);
    uint64_t panels;
    cenote_status status = count_panels(stream, items, item_count, pass_count, &panels, err);
    if (status == CENOTE_OK)
        status = cenote_weights_verify_unchanged(stream->weights, err);
    if (status != CENOTE_OK)
        return status;
    pthread_mutex_lock(&stream->lock);
    stream->items = items;
    stream->item_count = item_count;
    stream->cursor = (struct cursor){0};
    stream->panel_count = panels;
    pthread_cond_broadcast(&stream->work);
    pthread_mutex_unlock(&stream->lock);
    return CENOTE_OK;
}

/* ---- the consumer ---- */

/* With the lock: waits until the panel to be taken is there; its slot, or an error. */
static cenote_status wait_for_panel(struct cenote_stream *s, struct slot **out_slot,
                                    cenote_error *err)
{
    if (s->taken == s->panel_count)
        return cenote_error_set(err, CENOTE_E_NOTFOUND, "the program is over");
    for (;;) {
        if (s->taken < s->issued) {
            struct slot *slot = &s->slots[s->order[s->taken % s->slot_count]];
            if (slot->state != SLOT_READING) {
                *out_slot = slot;
                return CENOTE_OK;
            }
        } else if (s->free_count == 0) {
            /* nothing is under way and nothing can be: waiting would never end */
            return cenote_error_set(err, CENOTE_E_INVAL,
                                    "all %u slots are held: release a panel before the next one",
                                    s->slot_count);
        }
        pthread_cond_wait(&s->ready, &s->lock);
    }
}

/* The clock runs around the wait only; reading it twice costs less than the lock. */
static cenote_status next_locked(struct cenote_stream *s, cenote_panel *out_panel,
                                 cenote_error *err)
{
    struct cn_os *os = s->weights->os;
    struct slot *slot;
    uint64_t begin_ns = os->ops->clock_ns(os);
    cenote_status status = wait_for_panel(s, &slot, err);
    atomic_fetch_add_explicit(&s->weights->wait_ns, os->ops->clock_ns(os) - begin_ns,
                              memory_order_relaxed);
    if (status != CENOTE_OK)
        return status;
    if (slot->state == SLOT_FAILED) {
        /* panels are taken in order and the first error is kept: this is the one */
        assert(s->failed && s->error_panel == s->taken);
        status = s->error.status;
        if (err != NULL)
            *err = s->error;
        stop_locked(s);
        return status;
    }
    slot->state = SLOT_HELD;
    s->taken++;
    *out_panel = slot->panel;
    return CENOTE_OK;
}

cenote_status cenote_stream_next(cenote_stream *stream, cenote_panel *out_panel, cenote_error *err)
{
    cenote_panel panel;
    pthread_mutex_lock(&stream->lock);
    cenote_status status = next_locked(stream, &panel, err);
    pthread_mutex_unlock(&stream->lock);
    if (status != CENOTE_OK)
        return status;
    atomic_fetch_add_explicit(&stream->weights->bytes_used, panel.row_count * panel.row_bytes,
                              memory_order_relaxed);
    *out_panel = panel;
    return CENOTE_OK;
}

void cenote_stream_release(cenote_stream *stream, const cenote_panel *panel)
{
    struct cenote_stream *s = stream;
    uint32_t index = panel->slot & SLOT_MASK;
    pthread_mutex_lock(&s->lock);
    /* a panel of a program that was stopped: its slot is free already, or another's */
    if (panel->slot >> SLOT_BITS == s->generation) {
        assert(index < s->slot_count && s->slots[index].state == SLOT_HELD);
        s->slots[index].state = SLOT_FREE;
        s->free_slots[s->free_count++] = index;
        pthread_cond_signal(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
}
