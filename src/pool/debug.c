/* SPDX-License-Identifier: Apache-2.0 */
/* Debug levels of pools, as <cenote/debug.h> draws them.
 *
 *   | the caller's size_bytes | zone: 0xa5 .. |       live
 *   | 0xdb ..                 |               |       in quarantine: still a block of the pool
 *
 * A block is followed by a zone and not preceded by one, so that it begins where the pool aligned
 * it; what is written in front of it lies in the zone of the block before, as a rule.
 *
 * Lock ranks: the pool's lock < debug's. It is not held while the pool allocates or frees, nor
 * while a finding is told. */
#include "pool/debug.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cenote/debug.h>

#include "alloc/size_class.h"
#include "base/poison.h"
#include "pool/budget_impl.h"
#include "pool/debug_table.h"
#include "pool/finding.h"
#include "pool/watch.h"

#define ZONE_BYTES           64u
#define ZONE_BYTE            0xa5
#define QUARANTINE_COUNT_MAX 64u
#define QUARANTINE_SHARE     16u /* of the quota */
#define REMEMBERED_COUNT_MAX 1024u
#define LEAKS_LISTED_MAX     16u

struct cn_debug {
    struct cn_budget_client client; /* for quarantine */
    cenote_pool *pool;
    uint32_t level;
    pthread_mutex_t lock;
    uint64_t op; /* lock, and what follows */
    struct cn_debug_table table;
    struct cn_debug_queue quarantine, remembered;
};

#define STRUCT_BYTES                                                                               \
    ((sizeof(struct cn_debug) + CENOTE_GRANULE_BYTES - 1) / CENOTE_GRANULE_BYTES *                 \
     CENOTE_GRANULE_BYTES)

/* ---- words ---- */

static const char *name_of(const cenote_pool *pool)
{
    return cenote_class_text(pool->class_id);
}

#define ENTRY_TEXT_BYTES 160
static const char *entry_text(const cenote_pool *pool, const struct cn_debug_entry *entry,
                              char text[ENTRY_TEXT_BYTES])
{
    int length = snprintf(text, ENTRY_TEXT_BYTES,
                          "%" PRIu64 " bytes at %p (tag %" PRIu32 ", made by operation %" PRIu64,
                          entry->size_bytes, (void *)(pool->base + entry->offset), entry->tag,
                          entry->alloc_op);
    if (entry->free_op != 0)
        length += snprintf(text + length, ENTRY_TEXT_BYTES - (size_t)length, ", freed by %" PRIu64,
                           entry->free_op);
    snprintf(text + length, ENTRY_TEXT_BYTES - (size_t)length, ")");
    return text;
}

static void tell(const cenote_pool *pool, cenote_finding finding,
                 const struct cn_debug_entry *entry)
{
    char text[ENTRY_TEXT_BYTES];
    cn_finding(finding, "pool %s: a block of %s: %s", name_of(pool), entry_text(pool, entry, text),
               cenote_finding_text(finding));
}

/* ---- patterns ---- */

static bool all_bytes(const char *data, uint64_t size_bytes, int byte)
{
    return size_bytes == 0 ||
           (data[0] == (char)byte && memcmp(data, data + 1, size_bytes - 1) == 0);
}

static bool is_small(const cenote_pool *pool, uint64_t size_bytes)
{
    return pool->small_blocks && size_bytes <= CN_CLASS_BYTES_MAX;
}

/* Where the charge is by the granule a zone must not take one more. */
static uint32_t zone_bytes_of(const cenote_pool *pool, uint64_t size_bytes)
{
    if (pool->debug->level < 2 || size_bytes == 0 || size_bytes > UINT64_MAX - ZONE_BYTES)
        return 0;
    uint64_t left = (GRANULE_BYTES - size_bytes % GRANULE_BYTES) % GRANULE_BYTES;
    return left < ZONE_BYTES && !is_small(pool, size_bytes) ? (uint32_t)left : ZONE_BYTES;
}

/* What to ask the pool for. A small block is aligned to the powers of two that divide its size, and
 * stays so with its zone. */
static uint64_t whole_bytes_of(const cenote_pool *pool, uint64_t size_bytes, uint32_t zone_bytes)
{
    uint64_t unit = size_bytes & (0 - size_bytes);
    if (zone_bytes == 0 || !is_small(pool, size_bytes) || unit <= zone_bytes)
        return size_bytes + zone_bytes;
    return size_bytes + (unit < GRANULE_BYTES ? unit : GRANULE_BYTES);
}

static void fill_fresh(const cenote_pool *pool, const struct cn_debug_entry *entry)
{
    char *data = pool->base + entry->offset;
    memset(data, CN_POISON_FRESH, entry->size_bytes);
    memset(data + entry->size_bytes, ZONE_BYTE, entry->zone_bytes);
    cn_poison_hide(data, entry->size_bytes, entry->size_bytes + entry->zone_bytes);
}

static void fill_freed(const cenote_pool *pool, const struct cn_debug_entry *entry)
{
    char *data = pool->base + entry->offset;
    memset(data, CN_POISON_FREED, entry->size_bytes);
    cn_poison_hide(data, 0, entry->size_bytes + entry->zone_bytes);
}

/* Is the block as it should be? Leaves it in the caller's sight only when asked to. */
static bool intact(const cenote_pool *pool, const struct cn_debug_entry *entry, bool show)
{
    char *data = pool->base + entry->offset;
    uint64_t whole_bytes = entry->size_bytes + entry->zone_bytes;
    bool freed = entry->state == CN_DEBUG_QUARANTINED;
    cn_poison_forget(data, whole_bytes);
    bool fine = all_bytes(data + entry->size_bytes, entry->zone_bytes, ZONE_BYTE) &&
                (!freed || all_bytes(data, entry->size_bytes, CN_POISON_FREED));
    if (!show)
        cn_poison_hide(data, freed ? 0 : entry->size_bytes, whole_bytes);
    return fine;
}

/* As it should be again, so that what was told is told once. */
static void mend(const cenote_pool *pool, const struct cn_debug_entry *entry)
{
    char *data = pool->base + entry->offset;
    uint64_t whole_bytes = entry->size_bytes + entry->zone_bytes;
    cn_poison_forget(data, whole_bytes);
    memset(data + entry->size_bytes, ZONE_BYTE, entry->zone_bytes);
    if (entry->state == CN_DEBUG_QUARANTINED)
        fill_freed(pool, entry);
    else
        cn_poison_hide(data, entry->size_bytes, whole_bytes);
}

static cenote_finding damage_of(const struct cn_debug_entry *entry)
{
    return entry->state == CN_DEBUG_QUARANTINED ? CENOTE_FINDING_WRITE_AFTER_FREE
                                                : CENOTE_FINDING_OVERRUN;
}

/* The first block that is not as it should be. Pool and debug locked. */
static const struct cn_debug_entry *find_damage(const cenote_pool *pool)
{
    const struct cn_debug *debug = pool->debug;
    for (uint32_t i = 0; debug->level >= 2 && i < debug->table.entry_count; i++) {
        const struct cn_debug_entry *entry = &debug->table.entries[i];
        if ((entry->state == CN_DEBUG_LIVE || entry->state == CN_DEBUG_QUARANTINED) &&
            !intact(pool, entry, false))
            return entry;
    }
    return NULL;
}

const char *cn_debug_check(const cenote_pool *pool)
{
    pthread_mutex_lock(&pool->debug->lock);
    const struct cn_debug_entry *damaged = find_damage(pool);
    const char *words = damaged != NULL ? cenote_finding_text(damage_of(damaged)) : NULL;
    pthread_mutex_unlock(&pool->debug->lock);
    return words;
}

/* Level 3: all of it. */
static void check_all(cenote_pool *pool)
{
    struct cn_debug *debug = pool->debug;
    if (debug->level < 3)
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_mutex_lock(&debug->lock);
    const struct cn_debug_entry *damaged = find_damage(pool);
    struct cn_debug_entry entry = damaged != NULL ? *damaged : (struct cn_debug_entry){0};
    if (damaged != NULL)
        mend(pool, damaged);
    pthread_mutex_unlock(&debug->lock);
    pthread_mutex_unlock(&pool->lock);
    if (damaged != NULL)
        tell(pool, damage_of(&entry), &entry);
    const char *broken = damaged == NULL ? cenote_pool_check(pool) : NULL;
    if (broken != NULL)
        cn_finding(CENOTE_FINDING_BROKEN, "pool %s: %s", name_of(pool), broken);
}

/* ---- quarantine ---- */

/* Frees the oldest of quarantine while there is more than that. @return bytes */
static uint64_t release_above(cenote_pool *pool, uint32_t count, uint64_t size_bytes)
{
    struct cn_debug *debug = pool->debug;
    uint64_t released_bytes = 0;
    for (;;) {
        pthread_mutex_lock(&debug->lock);
        struct cn_debug_entry *oldest = NULL;
        if (debug->quarantine.count > count || debug->quarantine.size_bytes > size_bytes)
            oldest = cn_debug_pop(&debug->table, &debug->quarantine);
        struct cn_debug_entry entry = {0};
        if (oldest != NULL) {
            entry = *oldest;
            oldest->state = CN_DEBUG_FREED;
            cn_debug_push(&debug->table, &debug->remembered, oldest);
        }
        pthread_mutex_unlock(&debug->lock);
        if (oldest == NULL)
            return released_bytes;
        if (!intact(pool, &entry, true))
            tell(pool, CENOTE_FINDING_WRITE_AFTER_FREE, &entry);
        released_bytes += entry.size_bytes;
        cn_pool_block_free(pool, pool->base + entry.offset);
    }
}

uint64_t cn_debug_flush(cenote_pool *pool)
{
    return release_above(pool, 0, 0);
}

static uint64_t give_quarantine(struct cn_budget_client *client, uint64_t want_bytes)
{
    (void)want_bytes;
    return cn_debug_flush(client->pool);
}

static void report_quarantine(struct cn_budget_client *client, cenote_budget_holder *holder)
{
    struct cn_debug *debug = client->pool->debug;
    pthread_mutex_lock(&debug->lock);
    holder->cached_bytes += debug->quarantine.size_bytes;
    pthread_mutex_unlock(&debug->lock);
}

/* Lets go of what was remembered longest. Debug locked. */
static void forget_oldest(struct cn_debug *debug)
{
    while (debug->remembered.count > REMEMBERED_COUNT_MAX) {
        struct cn_debug_entry *entry = cn_debug_pop(&debug->table, &debug->remembered);
        cn_debug_entry_unlink(&debug->table, entry);
        cn_debug_entry_free(&debug->table, entry);
    }
}

/* ---- alloc, free ---- */

/* An entry for a block that is not there yet, so that one that cannot be watched is not made. */
static struct cn_debug_entry *entry_get(struct cn_debug *debug)
{
    pthread_mutex_lock(&debug->lock);
    forget_oldest(debug);
    struct cn_debug_entry *entry = cn_debug_entry_new(&debug->table);
    if (entry != NULL)
        entry->state = CN_DEBUG_HELD;
    pthread_mutex_unlock(&debug->lock);
    return entry;
}

static void entry_put_back(struct cn_debug *debug, struct cn_debug_entry *entry)
{
    pthread_mutex_lock(&debug->lock);
    cn_debug_entry_free(&debug->table, entry);
    pthread_mutex_unlock(&debug->lock);
}

static void enter(cenote_pool *pool, struct cn_debug_entry *entry, const char *data,
                  uint64_t size_bytes, uint32_t zone_bytes)
{
    struct cn_debug *debug = pool->debug;
    pthread_mutex_lock(&debug->lock);
    *entry = (struct cn_debug_entry){
        .offset = (uint64_t)(data - pool->base),
        .size_bytes = size_bytes,
        .alloc_op = ++debug->op,
        .tag = cn_watch_tag,
        .state = CN_DEBUG_LIVE,
        .zone_bytes = (uint8_t)zone_bytes,
    };
    if (debug->level >= 2)
        fill_fresh(pool, entry);
    cn_debug_entry_link(&debug->table, entry);
    pthread_mutex_unlock(&debug->lock);
}

cenote_status cn_debug_alloc(cenote_pool *pool, uint64_t size_bytes, void **out_data,
                             cenote_error *err)
{
    struct cn_debug *debug = pool->debug;
    uint32_t zone_bytes = zone_bytes_of(pool, size_bytes);
    uint64_t whole_bytes = whole_bytes_of(pool, size_bytes, zone_bytes);
    struct cn_debug_entry *entry = entry_get(debug);
    if (entry == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "pool %s: the entry of one more block: %s",
                                name_of(pool), strerror(ENOMEM));
    void *data;
    cenote_status status = cn_pool_block_alloc(pool, whole_bytes, &data, err);
    if (status != CENOTE_OK && cn_debug_flush(pool) > 0)
        status = cn_pool_block_alloc(pool, whole_bytes, &data, err);
    if (status != CENOTE_OK) {
        entry_put_back(debug, entry);
        return status;
    }
    enter(pool, entry, data, size_bytes, zone_bytes);
    *out_data = data;
    check_all(pool);
    return CENOTE_OK;
}

/* The pool of the same budget whose range an address lies in. */
static const cenote_pool *pool_around(const cenote_pool *pool, uintptr_t address)
{
    cenote_budget *budget = pool->budget;
    const cenote_pool *found = NULL;
    pthread_mutex_lock(&budget->clients_lock);
    for (const struct cn_budget_client *client = budget->clients; client != NULL;
         client = client->next)
        if (client->step == CENOTE_RECLAIM_IDLE &&
            address - (uintptr_t)client->pool->base < client->pool->reserve_bytes)
            found = client->pool;
    pthread_mutex_unlock(&budget->clients_lock);
    return found;
}

/* What @p data is, when it is no live block. */
static void diagnose(const cenote_pool *pool, const void *data)
{
    uint64_t offset = (uint64_t)((uintptr_t)data - (uintptr_t)pool->base);
    struct cn_debug *debug = pool->debug;
    pthread_mutex_lock(&debug->lock);
    const struct cn_debug_entry *around = cn_debug_find_around(&debug->table, offset);
    const struct cn_debug_entry *freed = cn_debug_find_freed(&debug->table, offset);
    const struct cn_debug_entry *known = around != NULL ? around : freed;
    struct cn_debug_entry entry = known != NULL ? *known : (struct cn_debug_entry){0};
    pthread_mutex_unlock(&debug->lock);

    char text[ENTRY_TEXT_BYTES];
    const cenote_pool *owner = known == NULL ? pool_around(pool, (uintptr_t)data) : pool;
    if (around != NULL)
        cn_finding(CENOTE_FINDING_NO_BLOCK,
                   "pool %s: a free of %p, which is byte %" PRIu64 " of a block of %s",
                   name_of(pool), data, offset - entry.offset, entry_text(pool, &entry, text));
    else if (freed != NULL)
        tell(pool, CENOTE_FINDING_DOUBLE_FREE, &entry);
    else if (owner != NULL && owner != pool)
        cn_finding(CENOTE_FINDING_WRONG_POOL,
                   "pool %s: a free of %p, which lies in another pool, %s", name_of(pool), data,
                   name_of(owner));
    else
        cn_finding(CENOTE_FINDING_NO_BLOCK, "pool %s: a free of %p, where no block begins",
                   name_of(pool), data);
}

/* Takes the block from the caller; an entry in state *held* on success. */
static struct cn_debug_entry *take(struct cn_debug *debug, uint64_t offset)
{
    pthread_mutex_lock(&debug->lock);
    struct cn_debug_entry *entry = cn_debug_find_live(&debug->table, offset);
    if (entry != NULL) {
        entry->state = CN_DEBUG_HELD;
        entry->free_op = ++debug->op;
    }
    pthread_mutex_unlock(&debug->lock);
    return entry;
}

static void put(struct cn_debug *debug, struct cn_debug_queue *queue, struct cn_debug_entry *entry,
                enum cn_debug_state state)
{
    pthread_mutex_lock(&debug->lock);
    entry->state = (uint8_t)state;
    cn_debug_push(&debug->table, queue, entry);
    pthread_mutex_unlock(&debug->lock);
}

void cn_debug_free(cenote_pool *pool, void *data)
{
    struct cn_debug *debug = pool->debug;
    struct cn_debug_entry *entry = take(debug, (uint64_t)((uintptr_t)data - (uintptr_t)pool->base));
    if (entry == NULL) {
        diagnose(pool, data);
        return;
    }
    if (debug->level >= 2) {
        if (!intact(pool, entry, true))
            tell(pool, CENOTE_FINDING_OVERRUN, entry);
        memset((char *)data + entry->size_bytes, ZONE_BYTE, entry->zone_bytes); /* told once */
        fill_freed(pool, entry);
        put(debug, &debug->quarantine, entry, CN_DEBUG_QUARANTINED);
        (void)release_above(pool, QUARANTINE_COUNT_MAX,
                            pool->quota_granules * GRANULE_BYTES / QUARANTINE_SHARE);
    } else {
        cn_pool_block_free(pool, data);
        put(debug, &debug->remembered, entry, CN_DEBUG_FREED);
    }
    check_all(pool);
}

void cn_debug_moved(cenote_pool *pool, uint64_t from_offset, uint64_t to_offset)
{
    struct cn_debug *debug = pool->debug;
    pthread_mutex_lock(&debug->lock);
    struct cn_debug_entry *entry = cn_debug_find_live(&debug->table, from_offset);
    if (entry != NULL) {
        cn_debug_entry_unlink(&debug->table, entry);
        entry->offset = to_offset;
        cn_debug_entry_link(&debug->table, entry);
    }
    pthread_mutex_unlock(&debug->lock);
}

void cn_debug_lost(cenote_pool *pool, uint64_t offset)
{
    struct cn_debug *debug = pool->debug;
    pthread_mutex_lock(&debug->lock);
    struct cn_debug_entry *entry = cn_debug_find_live(&debug->table, offset);
    if (entry != NULL) {
        cn_debug_entry_unlink(&debug->table, entry);
        cn_debug_entry_free(&debug->table, entry);
    }
    pthread_mutex_unlock(&debug->lock);
}

/* ---- open, close ---- */

/* The environment's level; 0 without one. */
static cenote_status level_from_environment(uint32_t *out_level, cenote_error *err)
{
    const char *text = secure_getenv("CENOTE_DEBUG");
    *out_level = 0;
    if (text == NULL || text[0] == '\0')
        return CENOTE_OK;
    if (text[0] < '0' || text[0] > '0' + (int)CENOTE_DEBUG_LEVEL_MAX || text[1] != '\0')
        return cenote_error_set(err, CENOTE_E_INVAL, "CENOTE_DEBUG is \"%s\"; it may be 0 to %u",
                                text, CENOTE_DEBUG_LEVEL_MAX);
    *out_level = (uint32_t)(text[0] - '0');
    return CENOTE_OK;
}

cenote_status cn_debug_open(cenote_pool *pool, uint32_t level, cenote_error *err)
{
    if (level > CENOTE_DEBUG_LEVEL_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "pool %s: debug level %u, %u is the highest",
                                name_of(pool), level, CENOTE_DEBUG_LEVEL_MAX);
    cenote_status status = CENOTE_OK;
    if (level == 0)
        status = level_from_environment(&level, err);
    if (status != CENOTE_OK || level == 0)
        return status;
    struct cn_os *os = pool->os;
    void *base;
    int error = os->ops->memory_reserve(os, STRUCT_BYTES, &base);
    if (error != 0)
        goto out_nothing;
    error = os->ops->memory_commit(os, base, STRUCT_BYTES, false);
    if (error != 0)
        goto out_release;
    struct cn_debug *debug = base;
    error = cn_debug_table_init(&debug->table, os);
    if (error != 0)
        goto out_release;
    debug->client = (struct cn_budget_client){.step = CENOTE_RECLAIM_CACHE,
                                              .pool = pool,
                                              .give = give_quarantine,
                                              .report = report_quarantine};
    debug->pool = pool;
    debug->level = level;
    pthread_mutex_init(&debug->lock, NULL);
    pool->debug = debug;
    cn_budget_register(pool->budget, &debug->client);
    return CENOTE_OK;

out_release:
    os->ops->memory_release(os, base, STRUCT_BYTES);
out_nothing:
    return cenote_error_set(err, CENOTE_E_NOMEM, "pool %s: debug level %u: %s", name_of(pool),
                            level, strerror(-error));
}

static void list_leaks(const cenote_pool *pool)
{
    const struct cn_debug_table *table = &pool->debug->table;
    uint64_t count = 0, size_bytes = 0;
    for (uint32_t i = 0; i < table->entry_count; i++) {
        const struct cn_debug_entry *entry = &table->entries[i];
        if (entry->state != CN_DEBUG_LIVE)
            continue;
        if (count++ < LEAKS_LISTED_MAX)
            tell(pool, CENOTE_FINDING_LEAK, entry);
        size_bytes += entry->size_bytes;
    }
    if (count > 0)
        cn_finding(CENOTE_FINDING_LEAK, "pool %s: %" PRIu64 " blocks of %" PRIu64 " bytes: %s",
                   name_of(pool), count, size_bytes, cenote_finding_text(CENOTE_FINDING_LEAK));
}

void cn_debug_close(cenote_pool *pool)
{
    struct cn_debug *debug = pool->debug;
    struct cn_os *os = pool->os;
    cn_budget_unregister(pool->budget, &debug->client);
    (void)cn_debug_flush(pool);
    const struct cn_debug_entry *damaged = find_damage(pool);
    if (damaged != NULL)
        tell(pool, damage_of(damaged), damaged);
    list_leaks(pool);
    for (uint32_t i = 0; i < debug->table.entry_count; i++)
        if (debug->table.entries[i].state == CN_DEBUG_LIVE)
            (void)intact(pool, &debug->table.entries[i], true); /* the address is somebody's next */
    cn_debug_table_fini(&debug->table);
    pthread_mutex_destroy(&debug->lock);
    pool->debug = NULL;
    os->ops->memory_release(os, debug, STRUCT_BYTES);
}
