/* SPDX-License-Identifier: Apache-2.0 */
/* Ids become slots: an open-addressing table of live (pool, id), with linear probing and removal
 * that moves later entries up, so that it holds live blocks and nothing else. Each pool's live
 * blocks are a list, for the pool that is destroyed with blocks in it. */
#include "trace.h"

#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#define FIRST_COUNT    1024u
#define LIVE_BYTES_MAX ((uint64_t)INT64_MAX)

struct cli_trace_slot {
    uint64_t id;
    uint64_t size_bytes;
    uint32_t newer, older; /* neighbours in the pool's list + 1; older: the next free slot too */
    uint16_t pool;
    uint8_t align_log2;
};

void cli_trace_init(struct cli_trace *trace, cenote_pool *memory)
{
    *trace = (struct cli_trace){.memory = memory};
    /* Places in the table, and nothing else, follow from the seed: any will do. */
    if (getrandom(&trace->index_seed, sizeof trace->index_seed, GRND_NONBLOCK) < 0)
        trace->index_seed = 0;
}

static cenote_status corrupt(cenote_error *err, const char *what, uint64_t number)
{
    return cenote_error_set(err, CENOTE_E_CORRUPT, what, number);
}

/* @return the array @p data with twice the room, NULL when there is no memory for it. */
static void *grow(struct cli_trace *trace, void *data, uint64_t *capacity, uint64_t element_bytes,
                  cenote_error *err)
{
    void *larger;
    uint64_t count = *capacity > 0 ? 2 * *capacity : FIRST_COUNT;
    if (cenote_pool_alloc(trace->memory, count * element_bytes, &larger, err) != CENOTE_OK)
        return NULL;
    if (*capacity > 0)
        memcpy(larger, data, *capacity * element_bytes);
    cenote_pool_free(trace->memory, data);
    *capacity = count;
    return larger;
}

/* ---- the table of what lives ---- */

static uint64_t place_of(const struct cli_trace *trace, uint32_t pool, uint64_t id)
{
    uint64_t x = (id ^ trace->index_seed) + pool * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (x ^ (x >> 31)) & trace->index_mask;
}

/* Where the block is, or the empty place where it would be. */
static uint64_t find(const struct cli_trace *trace, uint32_t pool, uint64_t id)
{
    uint64_t at = place_of(trace, pool, id);
    for (; trace->index[at] != 0; at = (at + 1) & trace->index_mask) {
        const struct cli_trace_slot *slot = &trace->slots[trace->index[at] - 1];
        if (slot->id == id && slot->pool == pool)
            break;
    }
    return at;
}

bool cli_trace_lives(const struct cli_trace *trace, uint32_t pool, uint64_t id)
{
    return trace->live_count > 0 && trace->index[find(trace, pool, id)] != 0;
}

static void erase(struct cli_trace *trace, uint64_t hole)
{
    uint64_t mask = trace->index_mask;
    for (uint64_t at = (hole + 1) & mask; trace->index[at] != 0; at = (at + 1) & mask) {
        const struct cli_trace_slot *slot = &trace->slots[trace->index[at] - 1];
        uint64_t home = place_of(trace, slot->pool, slot->id);
        if (((at - home) & mask) < ((at - hole) & mask))
            continue; /* it lies between its home and here: the hole is none of its way */
        trace->index[hole] = trace->index[at];
        hole = at;
    }
    trace->index[hole] = 0;
}

/* Twice the places, at most half of them taken. */
static cenote_status widen(struct cli_trace *trace, cenote_error *err)
{
    uint64_t count = trace->index_mask > 0 ? 2 * (trace->index_mask + 1) : 2 * FIRST_COUNT;
    void *index;
    cenote_status status = cenote_pool_alloc(trace->memory, count * sizeof(uint32_t), &index, err);
    if (status != CENOTE_OK)
        return status;
    memset(index, 0, count * sizeof(uint32_t));
    cenote_pool_free(trace->memory, trace->index);
    trace->index = index;
    trace->index_mask = count - 1;
    for (uint32_t p = 0; p < trace->pool_count; p++)
        for (uint32_t at = trace->pools[p].live; at != 0; at = trace->slots[at - 1].older)
            trace->index[find(trace, p, trace->slots[at - 1].id)] = at;
    return CENOTE_OK;
}

/* ---- slots ---- */

static cenote_status slot_take(struct cli_trace *trace, uint32_t *out_slot, cenote_error *err)
{
    if (trace->slot_free != 0) {
        *out_slot = trace->slot_free - 1;
        trace->slot_free = trace->slots[*out_slot].older;
        return CENOTE_OK;
    }
    if (trace->slot_count == trace->slot_capacity) {
        void *slots = grow(trace, trace->slots, &trace->slot_capacity, sizeof *trace->slots, err);
        if (slots == NULL)
            return err->status;
        trace->slots = slots;
    }
    *out_slot = (uint32_t)trace->slot_count++;
    return CENOTE_OK;
}

static void list_add(struct cli_trace *trace, uint32_t slot, uint32_t pool)
{
    uint32_t older = trace->pools[pool].live;
    trace->slots[slot].older = older;
    trace->slots[slot].newer = 0;
    if (older != 0)
        trace->slots[older - 1].newer = slot + 1;
    trace->pools[pool].live = slot + 1;
}

static void list_remove(struct cli_trace *trace, uint32_t slot)
{
    const struct cli_trace_slot *s = &trace->slots[slot];
    if (s->older != 0)
        trace->slots[s->older - 1].newer = s->newer;
    if (s->newer != 0)
        trace->slots[s->newer - 1].older = s->older;
    else
        trace->pools[s->pool].live = s->older;
}

/* ---- what blocks take ---- */

/* Pools align to granules; for more a larger block is asked for. */
static uint64_t granules_of(uint64_t size_bytes, unsigned align_log2)
{
    uint64_t align = UINT64_C(1) << align_log2;
    uint64_t spare = align > CENOTE_GRANULE_BYTES ? align / CENOTE_GRANULE_BYTES - 1 : 0;
    return size_bytes / CENOTE_GRANULE_BYTES + (size_bytes % CENOTE_GRANULE_BYTES != 0) + spare;
}

uint64_t cli_trace_rounded_bytes(uint64_t size_bytes, unsigned align_log2)
{
    uint64_t power = UINT64_C(1) << align_log2;
    if (power < CLI_TRACE_ROUND_BYTES)
        power = CLI_TRACE_ROUND_BYTES;
    while (power < size_bytes && power < UINT64_C(1) << 62)
        power *= 2;
    return size_bytes > 0 ? power : 0;
}

static void peak(uint64_t value, uint64_t *highest)
{
    if (value > *highest)
        *highest = value;
}

/* ---- operations ---- */

static cenote_status op_add(struct cli_trace *trace, struct cli_trace_op op, cenote_error *err)
{
    if (trace->op_count == CLI_TRACE_OPS_MAX)
        return corrupt(err, "there are more than %" PRIu64 " operations", CLI_TRACE_OPS_MAX);
    if (trace->op_count == trace->op_capacity) {
        void *ops = grow(trace, trace->ops, &trace->op_capacity, sizeof *trace->ops, err);
        if (ops == NULL)
            return err->status;
        trace->ops = ops;
    }
    trace->ops[trace->op_count++] = op;
    return CENOTE_OK;
}

static cenote_status check_alloc(const struct cli_trace *trace, uint32_t pool, uint64_t id,
                                 uint64_t size_bytes, uint64_t align_bytes, cenote_error *err)
{
    if ((align_bytes & (align_bytes - 1)) != 0 || align_bytes > CLI_TRACE_ALIGN_MAX)
        return corrupt(err, "an alignment of %" PRIu64 " is no power of two up to 4294967296",
                       align_bytes);
    if (size_bytes > LIVE_BYTES_MAX - trace->live_bytes)
        return corrupt(err, "a size of %" PRIu64 " brings what lives to 2^63 bytes or more",
                       size_bytes);
    if (cli_trace_lives(trace, pool, id))
        return corrupt(err, "block %" PRIu64 " lives already", id);
    return CENOTE_OK;
}

static void count_alloc(struct cli_trace *trace, uint32_t pool, uint64_t size_bytes,
                        unsigned align_log2)
{
    struct cli_trace_pool *p = &trace->pools[pool];
    trace->alloc_count++;
    trace->alloc_bytes += size_bytes;
    trace->live_count++;
    trace->live_bytes += size_bytes;
    trace->rounded_bytes += cli_trace_rounded_bytes(size_bytes, align_log2);
    p->granules += granules_of(size_bytes, align_log2);
    peak(trace->live_count, &trace->live_count_peak);
    peak(trace->live_bytes, &trace->live_bytes_peak);
    peak(trace->rounded_bytes, &trace->rounded_bytes_peak);
    peak(p->granules, &p->granules_peak);
}

cenote_status cli_trace_alloc(struct cli_trace *trace, uint32_t pool, uint64_t id,
                              uint64_t size_bytes, uint64_t align_bytes, uint32_t tag,
                              cenote_error *err)
{
    uint32_t slot = 0;
    cenote_status status = check_alloc(trace, pool, id, size_bytes, align_bytes, err);
    if (status == CENOTE_OK && 2 * (trace->live_count + 1) > trace->index_mask)
        status = widen(trace, err);
    if (status == CENOTE_OK)
        status = slot_take(trace, &slot, err);
    if (status != CENOTE_OK)
        return status;
    uint8_t align_log2 = align_bytes > 1 ? (uint8_t)__builtin_ctzll(align_bytes) : 0;
    struct cli_trace_op op = {size_bytes,      id,        slot, tag, (uint16_t)pool,
                              CLI_TRACE_ALLOC, align_log2};
    status = op_add(trace, op, err);
    if (status != CENOTE_OK)
        return status;
    trace->slots[slot].id = id;
    trace->slots[slot].size_bytes = size_bytes;
    trace->slots[slot].pool = (uint16_t)pool;
    trace->index[find(trace, pool, id)] = slot + 1;
    list_add(trace, slot, pool);
    trace->slots[slot].align_log2 = align_log2;
    count_alloc(trace, pool, size_bytes, align_log2);
    return CENOTE_OK;
}

cenote_status cli_trace_free(struct cli_trace *trace, uint32_t pool, uint64_t id, cenote_error *err)
{
    if (!cli_trace_lives(trace, pool, id))
        return corrupt(err, "block %" PRIu64 " does not live", id);
    uint64_t at = find(trace, pool, id);
    uint32_t slot = trace->index[at] - 1;
    uint64_t size_bytes = trace->slots[slot].size_bytes;
    struct cli_trace_op op = {size_bytes, id, slot, 0, (uint16_t)pool, CLI_TRACE_FREE, 0};
    cenote_status status = op_add(trace, op, err);
    if (status != CENOTE_OK)
        return status;
    erase(trace, at);
    list_remove(trace, slot);
    unsigned align_log2 = trace->slots[slot].align_log2;
    trace->slots[slot].older = trace->slot_free;
    trace->slot_free = slot + 1;
    trace->live_count--;
    trace->live_bytes -= size_bytes;
    trace->rounded_bytes -= cli_trace_rounded_bytes(size_bytes, align_log2);
    trace->pools[pool].granules -= granules_of(size_bytes, align_log2);
    return CENOTE_OK;
}

cenote_status cli_trace_trim(struct cli_trace *trace, uint32_t pool, bool destroy,
                             cenote_error *err)
{
    cenote_status status = CENOTE_OK;
    while (status == CENOTE_OK && destroy && trace->pools[pool].live != 0)
        status = cli_trace_free(trace, pool, trace->slots[trace->pools[pool].live - 1].id, err);
    if (status != CENOTE_OK)
        return status;
    struct cli_trace_op op = {.pool = (uint16_t)pool, .kind = CLI_TRACE_TRIM};
    return op_add(trace, op, err);
}

cenote_status cli_trace_pool(struct cli_trace *trace, uint64_t number, cenote_class class_id,
                             uint32_t *out_pool, cenote_error *err)
{
    uint32_t pool = trace->pool_last; /* mostly the same again */
    if (pool >= trace->pool_count || trace->pools[pool].number != number)
        for (pool = 0; pool < trace->pool_count && trace->pools[pool].number != number; pool++)
            ;
    if (pool == CLI_TRACE_POOLS_MAX)
        return corrupt(err, "there are more than %" PRIu64 " pools", CLI_TRACE_POOLS_MAX);
    if (pool == trace->pool_count)
        trace->pools[trace->pool_count++] =
            (struct cli_trace_pool){.class_id = class_id, .number = number};
    trace->pool_last = pool;
    *out_pool = pool;
    return CENOTE_OK;
}
