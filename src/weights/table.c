/* SPDX-License-Identifier: Apache-2.0 */
/* The extent table.
 *
 *   tensor_arena  | info | info | info | ...        104 bytes each, sorted by name at the end
 *   text_arena    | "model.embed..." | "model.la..." | ...
 *
 * How many tensors there are is known only when the last header has been read. The arena's
 * addresses never change and it gives consecutive bytes, so the array grows in place without the
 * copy (and the double memory) of a realloc.
 *
 * Heapsort, not qsort: glibc's qsort takes up to a quarter of the machine's memory from malloc
 * behind the budget's back, and a quicksort would hand its worst case to strangers. 1058 tensors
 * take about 0.3 ms. */
#include "weights/table.h"

#include <assert.h>
#include <string.h>

#include "weights/message.h"

static_assert(sizeof(cenote_tensor_info) % _Alignof(cenote_tensor_info) == 0,
              "consecutive infos form an array");

#define TEXT_RESERVE_BYTES (512ull << 20)

cenote_status cn_table_init(cenote_budget *budget, struct cn_table *out_table, cenote_error *err)
{
    struct cn_table table = {0};
    cenote_status status = cn_arena_create(
        budget, CN_TABLE_TENSORS_MAX * sizeof(cenote_tensor_info), &table.tensor_arena, err);
    if (status != CENOTE_OK)
        return status;
    status = cn_arena_create(budget, TEXT_RESERVE_BYTES, &table.text_arena, err);
    if (status != CENOTE_OK) {
        cn_arena_destroy(table.tensor_arena);
        return status;
    }
    *out_table = table;
    return CENOTE_OK;
}

void cn_table_fini(struct cn_table *table)
{
    cn_arena_destroy(table->tensor_arena);
    cn_arena_destroy(table->text_arena);
}

char *cn_table_text(struct cn_table *table, const char *text, size_t length, cenote_error *err)
{
    char *copy = cn_arena_alloc(table->text_arena, length + 1, 1, err);
    if (copy != NULL)
        memcpy(copy, text, length); /* the arena gives zeroes: it ends itself */
    return copy;
}

cenote_status cn_table_add(struct cn_table *table, const cenote_tensor_info *tensor,
                           cenote_error *err)
{
    assert(table->count < CN_TABLE_TENSORS_MAX);
    cenote_tensor_info *slot =
        cn_arena_alloc(table->tensor_arena, sizeof *slot, _Alignof(cenote_tensor_info), err);
    if (slot == NULL)
        return err->status;
    if (table->count == 0)
        table->tensors = slot;
    assert(slot == table->tensors + table->count);
    *slot = *tensor;
    table->count++;
    return CENOTE_OK;
}

/* ---- order ---- */

typedef bool (*less_fn)(const cenote_tensor_info *a, const cenote_tensor_info *b);

static bool less_offset(const cenote_tensor_info *a, const cenote_tensor_info *b)
{
    /* an empty tensor stands before the one that begins at the same byte */
    if (a->offset_bytes != b->offset_bytes)
        return a->offset_bytes < b->offset_bytes;
    return a->size_bytes < b->size_bytes;
}

static bool less_name(const cenote_tensor_info *a, const cenote_tensor_info *b)
{
    int order = strcmp(a->name, b->name);
    return order != 0 ? order < 0 : a->file_index < b->file_index;
}

static void swap(cenote_tensor_info *a, cenote_tensor_info *b)
{
    cenote_tensor_info kept = *a;
    *a = *b;
    *b = kept;
}

/* Moves an item down until both of its children are smaller. */
static void sift_down(cenote_tensor_info *heap, size_t root, size_t count, less_fn less)
{
    for (;;) {
        size_t child = 2 * root + 1;
        if (child >= count)
            return;
        if (child + 1 < count && less(&heap[child], &heap[child + 1]))
            child++;
        if (!less(&heap[root], &heap[child]))
            return;
        swap(&heap[root], &heap[child]);
        root = child;
    }
}

static void heap_sort(cenote_tensor_info *items, size_t count, less_fn less)
{
    for (size_t root = count / 2; root-- > 0;)
        sift_down(items, root, count, less);
    for (size_t end = count; end > 1; end--) {
        swap(&items[0], &items[end - 1]);
        sift_down(items, 0, end - 1, less);
    }
}

void cn_table_sort_offsets(struct cn_table *table, uint32_t first)
{
    if (first < table->count)
        heap_sort(table->tensors + first, table->count - first, less_offset);
}

void cn_table_sort_names(struct cn_table *table)
{
    if (table->count > 0)
        heap_sort(table->tensors, table->count, less_name);
}

/* Names compare as bytes with an end, as strcmp does, without needing one after @p name. */
const cenote_tensor_info *cn_table_find(const struct cn_table *table, const char *name,
                                        size_t length)
{
    size_t low = 0;
    size_t high = table->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *there = table->tensors[middle].name;
        int order = strncmp(there, name, length);
        if (order == 0 && there[length] == '\0')
            return &table->tensors[middle];
        /* equal so far but longer: it stands behind */
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
