/* SPDX-License-Identifier: Apache-2.0 */
/* What a pool's debug level remembers of its blocks.
 *
 *   offset ──hash──▶ buckets ──▶ [ offset, size, operations, tag, state ] ──▶ [ .. ]
 *                                          │
 *   live ──free──▶ held ──▶ kept in quarantine (level 2) ──▶ remembered ──▶ entry of another block
 *                                      queue                    queue
 *
 * Entries lie in a reservation of their own, committed as it fills and not charged: what is being
 * looked for should not go away because somebody looks. Threads: the caller locks. */
#ifndef CN_POOL_DEBUG_TABLE_H
#define CN_POOL_DEBUG_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "os/os.h"

enum cn_debug_state {
    CN_DEBUG_UNUSED,
    CN_DEBUG_LIVE,
    CN_DEBUG_HELD, /* on its way from live to one of the next two */
    CN_DEBUG_QUARANTINED,
    CN_DEBUG_FREED,
};

struct cn_debug_entry {
    uint64_t offset, size_bytes;
    uint64_t alloc_op, free_op; /* numbers of the pool's operations */
    uint32_t tag;
    uint32_t bucket_next, queue_next; /* index + 1 */
    uint8_t state;
    uint8_t zone_bytes; /* behind the caller's */
};

struct cn_debug_queue {
    uint32_t first, last; /* index + 1 */
    uint32_t count;
    uint64_t size_bytes;
};

#define CN_DEBUG_BUCKETS 4096u

struct cn_debug_table {
    struct cn_os *os;
    struct cn_debug_entry *entries;
    uint32_t entry_count, committed_count;
    uint32_t unused; /* index + 1 */
    uint32_t buckets[CN_DEBUG_BUCKETS];
};

/* @return 0 or a negative errno */
int cn_debug_table_init(struct cn_debug_table *table, struct cn_os *os);
void cn_debug_table_fini(struct cn_debug_table *table);

/* An entry in no bucket and no queue; NULL without memory. */
struct cn_debug_entry *cn_debug_entry_new(struct cn_debug_table *table);
void cn_debug_entry_free(struct cn_debug_table *table, struct cn_debug_entry *entry);

void cn_debug_entry_link(struct cn_debug_table *table, struct cn_debug_entry *entry);
void cn_debug_entry_unlink(struct cn_debug_table *table, struct cn_debug_entry *entry);

/* The live block that begins at @p offset, or NULL. */
struct cn_debug_entry *cn_debug_find_live(const struct cn_debug_table *table, uint64_t offset);
/* The last that began there and was freed. */
const struct cn_debug_entry *cn_debug_find_freed(const struct cn_debug_table *table,
                                                 uint64_t offset);
/* The live block that @p offset lies inside of; looks at all. */
const struct cn_debug_entry *cn_debug_find_around(const struct cn_debug_table *table,
                                                  uint64_t offset);

void cn_debug_push(struct cn_debug_table *table, struct cn_debug_queue *queue,
                   struct cn_debug_entry *entry);
/* The oldest; NULL from an empty queue. */
struct cn_debug_entry *cn_debug_pop(struct cn_debug_table *table, struct cn_debug_queue *queue);

#endif
