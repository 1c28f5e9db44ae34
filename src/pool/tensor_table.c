/* SPDX-License-Identifier: Apache-2.0 */
/* The table lies in an arena of its own, [ cn_tensors | owners | slots ... ], which reserves room
 * for CENOTE_TENSORS_MAX slots and commits them 256 at a time: they never move, so handles are
 * looked up without a lock. Free slots are a list through themselves, last in first out. */
#include <assert.h>
#include <inttypes.h>

#include "base/checked.h"
#include "pool/compact.h"

#define GROW_SLOTS  256u
#define ALIGN_BYTES 64u

static_assert(CENOTE_TENSORS_MAX % GROW_SLOTS == 0, "the table grows to its limit");
static_assert(GROW_SLOTS * sizeof(struct cn_tensor_slot) % ALIGN_BYTES == 0,
              "slots of two steps lie side by side");

static uint64_t owners_bytes(const cenote_pool *pool)
{
    return pool->runs.granule_count * sizeof(uint32_t);
}

/* tensors_lock held. */
static cenote_status table_create(cenote_pool *pool, struct cn_tensors **out_tensors,
                                  cenote_error *err)
{
    uint64_t reserve_bytes = cn_round_up(sizeof(struct cn_tensors), ALIGN_BYTES) +
                             cn_round_up(owners_bytes(pool), ALIGN_BYTES) +
                             CENOTE_TENSORS_MAX * sizeof(struct cn_tensor_slot);
    struct cn_arena *arena;
    cenote_status status = cn_arena_create(pool->budget, reserve_bytes, &arena, err);
    if (status != CENOTE_OK)
        return status;
    cenote_error detail;
    struct cn_tensors *tensors = cn_arena_alloc(arena, sizeof *tensors, ALIGN_BYTES, &detail);
    uint32_t *owners = NULL;
    if (tensors != NULL)
        owners = cn_arena_alloc(arena, owners_bytes(pool), ALIGN_BYTES, &detail);
    if (owners == NULL) {
        cn_arena_destroy(arena);
        return cenote_error_set(err, detail.status, "%s", detail.message);
    }
    tensors->arena = arena;
    tensors->owners = owners;
    *out_tensors = tensors;
    return CENOTE_OK;
}

/* tensors_lock held. */
static cenote_status table_grow(cenote_pool *pool, struct cn_tensors *tensors, cenote_error *err)
{
    uint32_t count = atomic_load_explicit(&tensors->slot_count, memory_order_relaxed);
    if (count == CENOTE_TENSORS_MAX)
        return cenote_error_set(err, CENOTE_E_NOMEM, "pool %s: more tensors than the limit of %u",
                                cenote_class_text(pool->class_id), CENOTE_TENSORS_MAX);
    cenote_error detail;
    struct cn_tensor_slot *slots = cn_arena_alloc(
        tensors->arena, GROW_SLOTS * sizeof(struct cn_tensor_slot), ALIGN_BYTES, &detail);
    if (slots == NULL)
        return cenote_error_set(err, detail.status, "%s", detail.message);
    if (tensors->slots == NULL)
        tensors->slots = slots;
    assert(slots == tensors->slots + count);
    uint64_t generation = (uint64_t)pool->class_id << CN_GENERATION_CLASS_BIT | 1;
    for (uint32_t i = 0; i < GROW_SLOTS; i++)
        atomic_init(&slots[i].state, generation * CN_STATE_GENERATION);
    atomic_store_explicit(&tensors->slot_count, count + GROW_SLOTS, memory_order_release);
    pthread_mutex_lock(&pool->lock);
    for (uint32_t i = GROW_SLOTS; i-- > 0;)
        cn_tensors_put_back(tensors, count + i);
    pthread_mutex_unlock(&pool->lock);
    return CENOTE_OK;
}

static bool pop_free(cenote_pool *pool, struct cn_tensors *tensors, uint32_t *out_index)
{
    pthread_mutex_lock(&pool->lock);
    uint32_t head = tensors->free_head;
    if (head != 0)
        tensors->free_head = tensors->slots[head - 1].next_free;
    pthread_mutex_unlock(&pool->lock);
    *out_index = head - 1;
    return head != 0;
}

cenote_status cn_tensors_obtain(cenote_pool *pool, uint32_t *out_index, cenote_error *err)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_acquire);
    if (tensors != NULL && pop_free(pool, tensors, out_index))
        return CENOTE_OK;
    cenote_status status = CENOTE_OK;
    pthread_mutex_lock(&pool->tensors_lock);
    tensors = atomic_load_explicit(&pool->tensors, memory_order_relaxed);
    if (tensors == NULL) {
        status = table_create(pool, &tensors, err);
        if (status == CENOTE_OK) {
            atomic_store_explicit(&pool->tensors, tensors, memory_order_release);
            cn_compact_join(pool);
        }
    }
    while (status == CENOTE_OK && !pop_free(pool, tensors, out_index))
        status = table_grow(pool, tensors, err);
    pthread_mutex_unlock(&pool->tensors_lock);
    return status;
}

void cn_tensors_put_back(struct cn_tensors *tensors, uint32_t index)
{
    tensors->slots[index].next_free = tensors->free_head;
    tensors->free_head = index + 1;
}

struct cn_tensor_slot *cn_tensors_slot(const cenote_pool *pool, cenote_tensor tensor)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_acquire);
    if (tensors == NULL)
        return NULL;
    uint32_t index = (uint32_t)tensor;
    uint32_t count = atomic_load_explicit(&tensors->slot_count, memory_order_acquire);
    return index < count ? &tensors->slots[index] : NULL;
}

bool cn_tensor_run(const cenote_pool *pool, const struct cn_tensor_slot *slot,
                   struct cn_run *out_run)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_relaxed);
    uint64_t offset = slot->data != NULL ? (uint64_t)(slot->data - pool->base) : 1;
    uint64_t granule = offset / GRANULE_BYTES;
    return offset % GRANULE_BYTES == 0 &&
           tensors->owners[granule] == (uint32_t)(slot - tensors->slots) + 1 &&
           cn_page_runs_block(&pool->runs, granule, out_run);
}

/* ---- check ---- */

static const char *check_slot(const cenote_pool *pool, const struct cn_tensor_slot *slot,
                              uint64_t *out_owned_count)
{
    uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
    struct cn_run run;
    if (state & CN_STATE_MOVING)
        return "a tensor is on the move while nobody moves it";
    if ((state & CN_STATE_DROPPED) != 0)
        return slot->data == NULL ? NULL : "a dropped tensor has a block";
    if (!cn_tensor_run(pool, slot, &run))
        return NULL;
    ++*out_owned_count;
    return run.count * GRANULE_BYTES >= slot->size_bytes ? NULL : "a tensor outgrew its block";
}

const char *cn_tensors_check(const cenote_pool *pool)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_acquire);
    if (tensors == NULL)
        return NULL;
    uint64_t live = 0, owned = 0, owners = 0;
    const char *broken = NULL;
    uint32_t count = atomic_load_explicit(&tensors->slot_count, memory_order_acquire);
    for (uint32_t i = 0; i < count && broken == NULL; i++) {
        uint64_t state = atomic_load_explicit(&tensors->slots[i].state, memory_order_relaxed);
        if ((state & CN_STATE_REFERENCES) == 0)
            continue;
        live++;
        broken = check_slot(pool, &tensors->slots[i], &owned);
    }
    for (uint64_t g = 0; g < pool->runs.granule_count; g++)
        owners += tensors->owners[g] != 0;
    if (broken == NULL && live > tensors->live_count)
        broken = "live tensors miscounted"; /* fewer: one is being released just now */
    if (broken == NULL && owners - owned > tensors->live_count - live)
        broken = "a block's owner is no live tensor";
    return broken;
}

void cn_tensors_destroy(cenote_pool *pool)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_acquire);
    if (tensors == NULL)
        return;
    cn_compact_leave(pool);
    cn_arena_destroy(tensors->arena);
}
