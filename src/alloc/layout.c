/* SPDX-License-Identifier: Apache-2.0 */
/* A layout lies in one block of the caller's, carved once:
 *
 *   cenote_layout | items | best, offsets, load, floor, rest | keys | moves | indices
 *
 * Init makes items of the buffers, counts the bytes that live in each section, and places the items
 * by each of the greedy orders. By size is the best single order in the literature on arenas for
 * tensors (Pisarchyk and Lee, 2020), by area and by time win on other shapes, and together they
 * cost less than a millisecond a thousand buffers. The first fit is in layout_fit.c; what improves
 * on it in layout_search.c. */
#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "alloc/layout.h"
#include "base/checked.h"

#define NO_ITEM UINT32_MAX

const char *cenote_layout_order_text(cenote_layout_order order)
{
    static const char *const texts[] = {
#define ORDER_TEXT(name, text) text,
        CENOTE_LAYOUT_ORDER_TABLE(ORDER_TEXT)
#undef ORDER_TEXT
    };
    return (unsigned)order < CENOTE_LAYOUT_ORDER_COUNT ? texts[order] : "unknown";
}

/* ---- sorting ---- */

static bool key_less(const struct cn_layout_key *a, const struct cn_layout_key *b)
{
    return a->key != b->key ? a->key < b->key : a->value < b->value;
}

/* The heap's root is the first by @p sign: 1 the least, -1 the greatest. */
static inline void heap_down(struct cn_layout_key *keys, uint64_t count, uint64_t at, int sign)
{
    struct cn_layout_key moving = keys[at];
    for (;;) {
        uint64_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && (sign > 0 ? key_less(&keys[child + 1], &keys[child])
                                           : key_less(&keys[child], &keys[child + 1])))
            child++;
        if (sign > 0 ? !key_less(&keys[child], &moving) : !key_less(&moving, &keys[child]))
            break;
        keys[at] = keys[child];
        at = child;
    }
    keys[at] = moving;
}

void cn_layout_heap_down(struct cn_layout_key *keys, uint64_t count, uint64_t at)
{
    heap_down(keys, count, at, 1);
}

void cn_layout_sort(struct cn_layout_key *keys, uint64_t count)
{
    for (uint64_t i = count / 2; i > 0; i--)
        heap_down(keys, count, i - 1, -1);
    for (uint64_t end = count; end > 1; end--) {
        struct cn_layout_key greatest = keys[0];
        keys[0] = keys[end - 1];
        keys[end - 1] = greatest;
        heap_down(keys, end - 1, 0, -1);
    }
}

/* ---- the block ---- */

/* The next @p count elements of a block; counts only while base is NULL. */
struct carver {
    char *base;
    uint64_t end;
};

static void *carve(struct carver *carver, uint64_t count, uint64_t element_bytes)
{
    void *at = carver->base != NULL ? carver->base + carver->end : NULL;
    carver->end = cn_round_up(carver->end + count * element_bytes, 8);
    return at;
}

#define CARVE(carver, pointer, count) ((pointer) = carve(carver, count, sizeof *(pointer)))

static uint32_t leaf_count(uint64_t count)
{
    uint32_t leaves = 1;
    while (leaves < count)
        leaves *= 2;
    return leaves;
}

static void carve_all(struct carver *carver, uint64_t count, cenote_layout *layout)
{
    uint64_t sections = 2 * count; /* one less at most, and never none */
    carve(carver, 1, sizeof *layout);
    CARVE(carver, layout->items, count);
    CARVE(carver, layout->best, count);
    CARVE(carver, layout->fit.offsets, count);
    CARVE(carver, layout->load, sections);
    layout->floor_leaves = leaf_count(sections);
    CARVE(carver, layout->floor, 2 * (uint64_t)layout->floor_leaves);
    CARVE(carver, layout->rest, sections);
    CARVE(carver, layout->keys, 2 * count);
    CARVE(carver, layout->moves, cn_layout_move_count(count));
    CARVE(carver, layout->first, sections + 1);
    CARVE(carver, layout->choices, count);
    CARVE(carver, layout->order, count);
    CARVE(carver, layout->item_of, count);
    CARVE(carver, layout->fit.by_offset, count);
    layout->fit.leaf_count = leaf_count(count);
    CARVE(carver, layout->fit.upper_max, 2 * (uint64_t)layout->fit.leaf_count);
}

uint64_t cenote_layout_bytes(uint64_t count)
{
    if (count > CENOTE_LAYOUT_BUFFERS_MAX)
        return UINT64_MAX;
    cenote_layout layout;
    struct carver carver = {NULL, 0};
    carve_all(&carver, count, &layout);
    return carver.end;
}

/* ---- from buffers to items ---- */

static cenote_status check_buffer(const cenote_layout_buffer *buffer, uint64_t index,
                                  uint64_t *total, cenote_error *err)
{
    unsigned long long number = index, align = buffer->align_bytes;
    if (buffer->lower >= buffer->upper)
        return cenote_error_set(err, CENOTE_E_INVAL, "buffer %llu: no life in [%llu, %llu)", number,
                                (unsigned long long)buffer->lower,
                                (unsigned long long)buffer->upper);
    if ((align & (align - 1)) != 0 || align > CENOTE_LAYOUT_ALIGN_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "buffer %llu: alignment %llu is no power of two up to %llu", number,
                                align, (unsigned long long)CENOTE_LAYOUT_ALIGN_MAX);
    if (!cn_checked_add(*total, buffer->size_bytes, total) ||
        !cn_checked_add(*total, align, total) || *total > INT64_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "buffer %llu: its %llu bytes bring the sum to 2^63 or more", number,
                                (unsigned long long)buffer->size_bytes);
    return CENOTE_OK;
}

static cenote_status check_buffers(const cenote_layout_buffer *buffers, uint64_t count,
                                   cenote_error *err)
{
    uint64_t total = 0;
    if (count > CENOTE_LAYOUT_BUFFERS_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "%llu buffers are more than %llu",
                                (unsigned long long)count,
                                (unsigned long long)CENOTE_LAYOUT_BUFFERS_MAX);
    for (uint64_t i = 0; i < count; i++) {
        cenote_status status = check_buffer(&buffers[i], i, &total, err);
        if (status != CENOTE_OK)
            return status;
    }
    return CENOTE_OK;
}

/* Both ends of every buffer with bytes, in order of time: key is the moment, value 2 * buffer, + 1
 * for the upper end. */
static uint64_t sort_ends(cenote_layout *layout, const cenote_layout_buffer *buffers)
{
    uint64_t ends = 0;
    for (uint64_t i = 0; i < layout->buffer_count; i++) {
        if (buffers[i].size_bytes == 0)
            continue;
        layout->keys[ends++] = (struct cn_layout_key){buffers[i].lower, 2 * i};
        layout->keys[ends++] = (struct cn_layout_key){buffers[i].upper, 2 * i + 1};
    }
    cn_layout_sort(layout->keys, ends);
    return ends;
}

/* Walks the ends: numbers the sections, sums what lives in each. Afterwards the item of a buffer is
 * known by its lower section in order[] and its upper one in item_of[], both indexed by buffer. */
static void make_sections(cenote_layout *layout, const cenote_layout_buffer *buffers)
{
    uint64_t ends = sort_ends(layout, buffers), live = 0;
    uint32_t section = 0;
    for (uint64_t i = 0; i < ends; i++) {
        uint64_t buffer = layout->keys[i].value / 2;
        if (i > 0 && layout->keys[i].key != layout->keys[i - 1].key)
            section++;
        if (layout->keys[i].value % 2 == 0) {
            live += buffers[buffer].size_bytes;
            layout->order[buffer] = section;
        } else {
            live -= buffers[buffer].size_bytes;
            layout->item_of[buffer] = section;
        }
        layout->load[section] = live;
        if (live > layout->report.lower_bound_bytes && i + 1 < ends &&
            layout->keys[i + 1].key != layout->keys[i].key)
            layout->report.lower_bound_bytes = live;
    }
    layout->section_count = section; /* after the last end nothing lives */
    layout->item_count = (uint32_t)(ends / 2);
}

/* Items by lower section, the longest first, then the largest. Two sorts, for a key has room for
 * two sections or for a size. */
static void make_items(cenote_layout *layout, const cenote_layout_buffer *buffers)
{
    struct cn_layout_key *keys = layout->keys;
    uint64_t count = 0;
    for (uint64_t i = 0; i < layout->buffer_count; i++)
        if (buffers[i].size_bytes > 0)
            keys[count++] = (struct cn_layout_key){~buffers[i].size_bytes, i};
    cn_layout_sort(keys, count);
    for (uint64_t rank = 0; rank < count; rank++) {
        uint64_t buffer = keys[rank].value;
        uint64_t lower = layout->order[buffer], upper = layout->item_of[buffer];
        keys[rank] =
            (struct cn_layout_key){lower << 32 | (UINT32_MAX - upper), rank << 32 | buffer};
    }
    cn_layout_sort(keys, count);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t buffer = (uint32_t)keys[i].value;
        layout->items[i] = (struct cn_layout_item){
            .size = buffers[buffer].size_bytes,
            .align = buffers[buffer].align_bytes > 0 ? buffers[buffer].align_bytes : 1,
            .lower = (uint32_t)(keys[i].key >> 32),
            .upper = UINT32_MAX - (uint32_t)keys[i].key,
            .buffer = buffer,
        };
    }
}

static void index_items(cenote_layout *layout)
{
    memset(layout->item_of, 0xff, layout->buffer_count * sizeof *layout->item_of);
    uint32_t item = 0;
    for (uint32_t section = 0; section <= layout->section_count; section++) {
        layout->first[section] = item;
        while (item < layout->item_count && layout->items[item].lower == section) {
            layout->item_of[layout->items[item].buffer] = item;
            item++;
        }
    }
}

/* ---- the greedy orders ---- */

uint64_t cn_layout_by_keys(cenote_layout *layout)
{
    uint64_t peak = 0;
    cn_layout_fit_reset(layout);
    for (uint32_t i = 0; i < layout->item_count; i++)
        layout->order[i] = (uint32_t)layout->keys[i].value;
    for (uint32_t i = 0; i < layout->item_count; i++) {
        uint64_t top = cn_layout_fit_place(layout, layout->order[i]);
        if (top > peak)
            peak = top;
    }
    return peak;
}

/* Descending orders by a complement; equals stay in order of time. */
static void sort_items(cenote_layout *layout, const cenote_layout_buffer *buffers,
                       cenote_layout_order order)
{
    for (uint32_t i = 0; i < layout->item_count; i++) {
        const struct cn_layout_item *item = &layout->items[i];
        const cenote_layout_buffer *buffer = &buffers[item->buffer];
        uint64_t key = i;
        if (order == CENOTE_LAYOUT_BY_SIZE)
            key = ~item->size;
        else if (order == CENOTE_LAYOUT_BY_AREA &&
                 cn_checked_mul(item->size, buffer->upper - buffer->lower, &key))
            key = ~key;
        else if (order == CENOTE_LAYOUT_BY_AREA)
            key = 0; /* 2^64 and more */
        layout->keys[i] = (struct cn_layout_key){key, i};
    }
    cn_layout_sort(layout->keys, layout->item_count);
}

static void greedy(cenote_layout *layout, const cenote_layout_buffer *buffers)
{
    cenote_layout_report *report = &layout->report;
    report->peak_bytes = UINT64_MAX;
    for (int order = 0; order < CENOTE_LAYOUT_ORDER_COUNT; order++) {
        sort_items(layout, buffers, (cenote_layout_order)order);
        report->greedy_bytes[order] = cn_layout_by_keys(layout);
        if (report->greedy_bytes[order] < report->peak_bytes) {
            report->peak_bytes = report->greedy_bytes[order];
            report->greedy_best = (cenote_layout_order)order;
            memcpy(layout->best, layout->fit.offsets, layout->item_count * sizeof *layout->best);
        }
    }
}

/* ---- public ---- */

cenote_status cenote_layout_init(const cenote_layout_buffer *buffers, uint64_t count, void *memory,
                                 cenote_layout **out_layout, cenote_error *err)
{
    cenote_status status = check_buffers(buffers, count, err);
    if (status != CENOTE_OK)
        return status;
    cenote_layout *layout = memory;
    *layout = (cenote_layout){.buffer_count = (uint32_t)count, .report.buffer_count = count};
    struct carver carver = {memory, 0};
    carve_all(&carver, count, layout);
    make_sections(layout, buffers);
    make_items(layout, buffers);
    index_items(layout);
    layout->report.least_bytes = layout->report.lower_bound_bytes;
    greedy(layout, buffers);
    cn_layout_search_init(layout);
    *out_layout = layout;
    return CENOTE_OK;
}

uint64_t cenote_layout_offset(const cenote_layout *layout, uint64_t index)
{
    assert(index < layout->buffer_count);
    uint32_t item = layout->item_of[index];
    return item == NO_ITEM ? 0 : layout->best[item];
}

void cenote_layout_report_get(const cenote_layout *layout, cenote_layout_report *out_report)
{
    *out_report = layout->report;
}

const char *cenote_layout_check(cenote_layout *layout)
{
    uint64_t peak = 0;
    cn_layout_fit_reset(layout);
    for (uint32_t i = 0; i < layout->item_count; i++) {
        const struct cn_layout_item *item = &layout->items[i];
        if (layout->best[i] % item->align != 0)
            return "an offset is not a multiple of its alignment";
        if (layout->best[i] + item->size > peak)
            peak = layout->best[i] + item->size;
        if (cn_layout_fit_clashes(layout, i, layout->best[i]))
            return "two buffers that live at the same time overlap";
        cn_layout_fit_put(layout, i, layout->best[i]);
    }
    if (peak != layout->report.peak_bytes)
        return "the peak is not the largest offset + size";
    if (layout->report.least_bytes < layout->report.lower_bound_bytes)
        return "the least peak is below the lower bound";
    if (peak < layout->report.least_bytes)
        return "the peak is below the least";
    for (int order = 0; order < CENOTE_LAYOUT_ORDER_COUNT; order++)
        if (peak > layout->report.greedy_bytes[order])
            return "the peak is above that of a greedy order";
    return NULL;
}
