/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/debug_table.h"

#include <assert.h>

#include <cenote/pool.h>

#define ENTRIES_MAX   (UINT32_C(1) << 22)
#define TABLE_BYTES   ((uint64_t)ENTRIES_MAX * sizeof(struct cn_debug_entry))
#define PIECE_BYTES   ((uint64_t)CENOTE_GRANULE_BYTES)
#define RESERVE_BYTES ((TABLE_BYTES + PIECE_BYTES - 1) / PIECE_BYTES * PIECE_BYTES)

int cn_debug_table_init(struct cn_debug_table *table, struct cn_os *os)
{
    *table = (struct cn_debug_table){.os = os};
    void *base;
    int error = os->ops->memory_reserve(os, RESERVE_BYTES, &base);
    if (error == 0)
        table->entries = base;
    return error;
}

void cn_debug_table_fini(struct cn_debug_table *table)
{
    table->os->ops->memory_release(table->os, table->entries, RESERVE_BYTES);
}

static uint32_t index_of(const struct cn_debug_table *table, const struct cn_debug_entry *entry)
{
    return (uint32_t)(entry - table->entries);
}

/* Offsets of blocks are multiples of 64 at least. */
static uint32_t *bucket_of(struct cn_debug_table *table, uint64_t offset)
{
    uint64_t mixed = (offset >> 6) * UINT64_C(0x9e3779b97f4a7c15);
    return &table->buckets[mixed >> 52];
}

static_assert(CN_DEBUG_BUCKETS == 1u << (64 - 52), "the upper 12 bits choose a bucket");

/* ---- entries ---- */

static bool grow(struct cn_debug_table *table)
{
    uint64_t committed_bytes = (uint64_t)table->committed_count * sizeof *table->entries;
    uint64_t from = (committed_bytes + PIECE_BYTES - 1) / PIECE_BYTES * PIECE_BYTES;
    if (from == RESERVE_BYTES ||
        table->os->ops->memory_commit(table->os, (char *)table->entries + from, PIECE_BYTES, false))
        return false;
    table->committed_count = (uint32_t)((from + PIECE_BYTES) / sizeof *table->entries);
    return true;
}

struct cn_debug_entry *cn_debug_entry_new(struct cn_debug_table *table)
{
    if (table->unused != 0) {
        struct cn_debug_entry *entry = &table->entries[table->unused - 1];
        table->unused = entry->queue_next;
        return entry;
    }
    if (table->entry_count == table->committed_count && !grow(table))
        return NULL;
    return &table->entries[table->entry_count++];
}

void cn_debug_entry_free(struct cn_debug_table *table, struct cn_debug_entry *entry)
{
    *entry = (struct cn_debug_entry){.queue_next = table->unused, .state = CN_DEBUG_UNUSED};
    table->unused = index_of(table, entry) + 1;
}

void cn_debug_entry_link(struct cn_debug_table *table, struct cn_debug_entry *entry)
{
    uint32_t *bucket = bucket_of(table, entry->offset);
    entry->bucket_next = *bucket;
    *bucket = index_of(table, entry) + 1;
}

void cn_debug_entry_unlink(struct cn_debug_table *table, struct cn_debug_entry *entry)
{
    uint32_t *link = bucket_of(table, entry->offset);
    while (&table->entries[*link - 1] != entry)
        link = &table->entries[*link - 1].bucket_next;
    *link = entry->bucket_next;
}

/* ---- finding ---- */

static struct cn_debug_entry *chain(const struct cn_debug_table *table, uint32_t link)
{
    return link != 0 ? &table->entries[link - 1] : NULL;
}

static struct cn_debug_entry *chain_of(const struct cn_debug_table *table, uint64_t offset)
{
    /* const is of the table's fields; what they lead to is the caller's to change */
    return chain(table, *bucket_of((struct cn_debug_table *)(uintptr_t)table, offset));
}

struct cn_debug_entry *cn_debug_find_live(const struct cn_debug_table *table, uint64_t offset)
{
    struct cn_debug_entry *entry = chain_of(table, offset);
    while (entry != NULL && (entry->offset != offset || entry->state != CN_DEBUG_LIVE))
        entry = chain(table, entry->bucket_next);
    return entry;
}

const struct cn_debug_entry *cn_debug_find_freed(const struct cn_debug_table *table,
                                                 uint64_t offset)
{
    const struct cn_debug_entry *newest = NULL;
    for (const struct cn_debug_entry *entry = chain_of(table, offset); entry != NULL;
         entry = chain(table, entry->bucket_next))
        if (entry->offset == offset && entry->state != CN_DEBUG_LIVE &&
            (newest == NULL || entry->free_op > newest->free_op))
            newest = entry;
    return newest;
}

const struct cn_debug_entry *cn_debug_find_around(const struct cn_debug_table *table,
                                                  uint64_t offset)
{
    for (uint32_t i = 0; i < table->entry_count; i++) {
        const struct cn_debug_entry *entry = &table->entries[i];
        if (entry->state == CN_DEBUG_LIVE && offset > entry->offset &&
            offset - entry->offset < entry->size_bytes)
            return entry;
    }
    return NULL;
}

/* ---- queues ---- */

void cn_debug_push(struct cn_debug_table *table, struct cn_debug_queue *queue,
                   struct cn_debug_entry *entry)
{
    uint32_t link = index_of(table, entry) + 1;
    entry->queue_next = 0;
    if (queue->last != 0)
        table->entries[queue->last - 1].queue_next = link;
    else
        queue->first = link;
    queue->last = link;
    queue->count++;
    queue->size_bytes += entry->size_bytes;
}

struct cn_debug_entry *cn_debug_pop(struct cn_debug_table *table, struct cn_debug_queue *queue)
{
    struct cn_debug_entry *entry = chain(table, queue->first);
    if (entry == NULL)
        return NULL;
    queue->first = entry->queue_next;
    if (queue->first == 0)
        queue->last = 0;
    queue->count--;
    queue->size_bytes -= entry->size_bytes;
    return entry;
}
