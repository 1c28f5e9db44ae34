/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors: what a handle means, and what may be done with it. The drawing is in tensor_table.h.
 *
 * Everything but create, the last release and state_get is a loop around one compare-and-swap of
 * the slot's state word. The loop's memory orders pair as follows: unpin releases what was written
 * while pinned, and whoever sets *moving* acquires it; clearing *moving* releases the new address,
 * and pin acquires it. */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "pool/small.h"
#include "pool/tensor_table.h"

/* ---- shapes ---- */

static cenote_status refuse_shape(const cenote_pool *pool, const char *what, cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_INVAL, "a tensor of pool %s: %s",
                            cenote_class_text(pool->class_id), what);
}

/* Row-major, without gaps. */
static bool dense_strides(const cenote_tensor_options *options, uint64_t *strides)
{
    uint64_t stride = 1;
    for (uint32_t d = options->rank; d-- > 0;) {
        strides[d] = stride;
        if (!cn_checked_mul(stride, options->shape[d], &stride))
            return false;
    }
    return true;
}

/* Bytes from the first element to the end of the last. */
static bool extent_bytes(const cenote_tensor_options *options, const uint64_t *strides,
                         uint64_t *out_bytes)
{
    uint64_t last = 0, reach;
    for (uint32_t d = 0; d < options->rank; d++)
        if (!cn_checked_mul(options->shape[d] - 1, strides[d], &reach) ||
            !cn_checked_add(last, reach, &last))
            return false;
    return cn_checked_add(last, 1, &last) &&
           cn_checked_mul(last, cenote_dtype_bytes(options->dtype), out_bytes);
}

static cenote_status check_options(const cenote_pool *pool, const cenote_tensor_options *options,
                                   uint64_t *strides, uint64_t *out_bytes, cenote_error *err)
{
    if (options->version != CENOTE_TENSOR_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "tensor options: version %u, not %u",
                                options->version, CENOTE_TENSOR_OPTIONS_VERSION);
    if ((unsigned)options->dtype >= CENOTE_DTYPE_COUNT)
        return cenote_error_set(err, CENOTE_E_INVAL, "a tensor of dtype %u of %u",
                                (unsigned)options->dtype, (unsigned)CENOTE_DTYPE_COUNT);
    if (options->rank > CENOTE_RANK_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "a tensor of %u dimensions, %u are the limit",
                                options->rank, CENOTE_RANK_MAX);
    bool strided = false;
    for (uint32_t d = 0; d < options->rank; d++) {
        if (options->shape[d] == 0)
            return cenote_error_set(err, CENOTE_E_INVAL, "a tensor: dimension %u is 0", d);
        strided |= options->strides[d] != 0;
    }
    if (strided)
        memcpy(strides, options->strides, options->rank * sizeof *strides);
    else if (!dense_strides(options, strides))
        return refuse_shape(pool, "more than 2^64 elements", err);
    if (!extent_bytes(options, strides, out_bytes))
        return refuse_shape(pool, "more than 2^64 bytes", err);
    return CENOTE_OK;
}

/* ---- create, release ---- */

/* Enters the slot as the owner of its block, when that is one of its own. Pool locked. */
static void own_block(const cenote_pool *pool, struct cn_tensors *tensors, uint32_t index)
{
    uint64_t offset = (uint64_t)(tensors->slots[index].data - pool->base);
    struct cn_run run;
    if (offset % GRANULE_BYTES == 0 &&
        cn_page_runs_block(&pool->runs, offset / GRANULE_BYTES, &run) &&
        !cn_small_shares(pool, run.first))
        tensors->owners[run.first] = index + 1;
}

static cenote_tensor slot_open(cenote_pool *pool, uint32_t index,
                               const cenote_tensor_options *options, const uint64_t *strides,
                               uint64_t size_bytes, void *data)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_relaxed);
    struct cn_tensor_slot *slot = &tensors->slots[index];
    pthread_mutex_lock(&pool->lock);
    slot->data = data;
    slot->size_bytes = size_bytes;
    for (uint32_t d = 0; d < CENOTE_RANK_MAX; d++) {
        slot->shape[d] = d < options->rank ? options->shape[d] : 0;
        slot->strides[d] = d < options->rank ? strides[d] : 0;
    }
    slot->dropped = options->dropped;
    slot->dropped_context = options->dropped_context;
    slot->rebuild_bytes = options->rebuild_bytes;
    slot->dtype = (uint8_t)options->dtype;
    slot->rank = (uint8_t)options->rank;
    own_block(pool, tensors, index);
    tensors->live_count++;
    tensors->live_bytes += size_bytes;
    uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
    atomic_store_explicit(&slot->state, state + CN_STATE_REFERENCE, memory_order_release);
    pthread_mutex_unlock(&pool->lock);
    return state | index;
}

cenote_status cenote_tensor_create(cenote_pool *pool, const cenote_tensor_options *options,
                                   cenote_tensor *out_tensor, cenote_error *err)
{
    uint64_t strides[CENOTE_RANK_MAX], size_bytes;
    cenote_status status = check_options(pool, options, strides, &size_bytes, err);
    if (status != CENOTE_OK)
        return status;
    uint32_t index;
    status = cn_tensors_obtain(pool, &index, err);
    if (status != CENOTE_OK)
        return status;
    void *data;
    status = cenote_pool_alloc(pool, size_bytes, &data, err);
    if (status != CENOTE_OK) {
        pthread_mutex_lock(&pool->lock);
        cn_tensors_put_back(atomic_load_explicit(&pool->tensors, memory_order_relaxed), index);
        pthread_mutex_unlock(&pool->lock);
        return status;
    }
    *out_tensor = slot_open(pool, index, options, strides, size_bytes, data);
    return CENOTE_OK;
}

/* The next generation, without references; 0 when there is none. */
static uint64_t state_after(uint64_t state)
{
    uint64_t next = (state & ~(CN_STATE_GENERATION - 1)) + CN_STATE_GENERATION;
    uint64_t count_mask = (UINT64_C(1) << CN_GENERATION_CLASS_BIT) - 1;
    return (next >> 32 & count_mask) != 0 ? next : 0;
}

/* What the last release leaves: nobody else can reach the slot any more. */
static void bury(cenote_pool *pool, struct cn_tensor_slot *slot)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_relaxed);
    pthread_mutex_lock(&pool->lock);
    char *data = slot->data;
    struct cn_run run;
    if (data != NULL)
        tensors->live_bytes -= slot->size_bytes;
    if (cn_tensor_run(pool, slot, &run))
        tensors->owners[run.first] = 0;
    tensors->live_count--;
    if (atomic_load_explicit(&slot->state, memory_order_relaxed) != 0)
        cn_tensors_put_back(tensors, (uint32_t)(slot - tensors->slots));
    pthread_mutex_unlock(&pool->lock);
    cenote_pool_free(pool, data);
}

/* ---- the state word ---- */

/* Was it one of this pool's once? */
static bool was_released(const cenote_pool *pool, cenote_tensor tensor)
{
    struct cn_tensor_slot *slot = cn_tensors_slot(pool, tensor);
    if (slot == NULL)
        return false;
    uint32_t now = (uint32_t)(atomic_load_explicit(&slot->state, memory_order_relaxed) >> 32);
    uint32_t then = (uint32_t)(tensor >> 32);
    return tensor >> 32 != 0 && then < now &&
           then >> CN_GENERATION_CLASS_BIT == now >> CN_GENERATION_CLASS_BIT;
}

static cenote_status refuse_dead(const cenote_pool *pool, cenote_tensor tensor, cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_INVAL, "0x%016" PRIx64 " is no live tensor of pool %s%s",
                            tensor, cenote_class_text(pool->class_id),
                            was_released(pool, tensor) ? ": it was released" : "");
}

static cenote_status refuse(const cenote_pool *pool, cenote_tensor tensor, const char *what,
                            cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_INVAL, "tensor 0x%016" PRIx64 " of pool %s: %s", tensor,
                            cenote_class_text(pool->class_id), what);
}

/* Until the move under way has ended: *moving* is only set under the lock. */
static void wait_for_move(cenote_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

/* One try; @p state is what the slot was last seen to be, and is seen anew on failure. */
static bool swap(struct cn_tensor_slot *slot, uint64_t *state, uint64_t next)
{
    return atomic_compare_exchange_weak_explicit(&slot->state, state, next, memory_order_acq_rel,
                                                 memory_order_relaxed);
}

static uint64_t look(struct cn_tensor_slot *slot)
{
    return atomic_load_explicit(&slot->state, memory_order_relaxed);
}

cenote_status cenote_tensor_retain(cenote_pool *pool, cenote_tensor tensor, cenote_error *err)
{
    struct cn_tensor_slot *slot = cn_tensors_slot(pool, tensor);
    if (slot == NULL)
        return refuse_dead(pool, tensor, err);
    uint64_t state = look(slot);
    do {
        if (!cn_tensor_is_live(state, tensor))
            return refuse_dead(pool, tensor, err);
        if ((state & CN_STATE_REFERENCES) == CN_STATE_REFERENCES)
            return refuse(pool, tensor, "has as many references as it may have", err);
    } while (!swap(slot, &state, state + CN_STATE_REFERENCE));
    return CENOTE_OK;
}

cenote_status cenote_tensor_release(cenote_pool *pool, cenote_tensor tensor, cenote_error *err)
{
    struct cn_tensor_slot *slot = cn_tensors_slot(pool, tensor);
    if (slot == NULL)
        return refuse_dead(pool, tensor, err);
    uint64_t next, state = look(slot);
    bool last;
    do {
        while (cn_tensor_is_live(state, tensor) && (state & CN_STATE_MOVING)) {
            wait_for_move(pool);
            state = look(slot);
        }
        if (!cn_tensor_is_live(state, tensor))
            return refuse_dead(pool, tensor, err);
        last = (state & CN_STATE_REFERENCES) == CN_STATE_REFERENCE;
        if (last && (state & CN_STATE_PINS) != 0)
            return refuse(pool, tensor, "the last reference while it is pinned", err);
        next = last ? state_after(state) : state - CN_STATE_REFERENCE;
    } while (!swap(slot, &state, next));
    if (last)
        bury(pool, slot);
    return CENOTE_OK;
}

cenote_tensor cn_tensor_renew(cenote_pool *pool, cenote_tensor tensor)
{
    struct cn_tensor_slot *slot = cn_tensors_slot(pool, tensor);
    uint64_t next, state = look(slot);
    do {
        while (cn_tensor_is_live(state, tensor) && (state & CN_STATE_MOVING)) {
            wait_for_move(pool);
            state = look(slot);
        }
        next = state_after(state);
        if (!cn_tensor_is_live(state, tensor) || next == 0)
            return tensor;
    } while (!swap(slot, &state, next + CN_STATE_REFERENCE));
    return next | (uint32_t)tensor;
}

cenote_status cenote_tensor_pin(cenote_pool *pool, cenote_tensor tensor, void **out_data,
                                cenote_error *err)
{
    struct cn_tensor_slot *slot = cn_tensors_slot(pool, tensor);
    if (slot == NULL)
        return refuse_dead(pool, tensor, err);
    uint64_t state = look(slot);
    do {
        while (cn_tensor_is_live(state, tensor) && (state & CN_STATE_MOVING)) {
            wait_for_move(pool);
            state = look(slot);
        }
        if (!cn_tensor_is_live(state, tensor))
            return refuse_dead(pool, tensor, err);
        if (state & CN_STATE_DROPPED)
            return cenote_error_set(err, CENOTE_E_NOTFOUND,
                                    "tensor 0x%016" PRIx64 " of pool %s was dropped", tensor,
                                    cenote_class_text(pool->class_id));
        if ((state & CN_STATE_PINS) == CENOTE_TENSOR_PINS_MAX)
            return refuse(pool, tensor, "has as many pins as it may have", err);
    } while (!swap(slot, &state, (state | CN_STATE_USED) + 1));
    *out_data = slot->data;
    return CENOTE_OK;
}

cenote_status cenote_tensor_unpin(cenote_pool *pool, cenote_tensor tensor, cenote_error *err)
{
    struct cn_tensor_slot *slot = cn_tensors_slot(pool, tensor);
    if (slot == NULL)
        return refuse_dead(pool, tensor, err);
    uint64_t state = look(slot);
    do {
        if (!cn_tensor_is_live(state, tensor))
            return refuse_dead(pool, tensor, err);
        if ((state & CN_STATE_PINS) == 0)
            return refuse(pool, tensor, "is not pinned", err);
    } while (!swap(slot, &state, state - 1));
    return CENOTE_OK;
}

/* ---- looking ---- */

cenote_status cenote_tensor_state_get(cenote_pool *pool, cenote_tensor tensor,
                                      cenote_tensor_state *out_state, cenote_error *err)
{
    struct cn_tensor_slot *slot = cn_tensors_slot(pool, tensor);
    if (slot == NULL)
        return refuse_dead(pool, tensor, err);
    pthread_mutex_lock(&pool->lock); /* what the slot says is written under it */
    uint64_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
    bool live = cn_tensor_is_live(state, tensor);
    if (live) {
        *out_state = (cenote_tensor_state){
            .class_id = pool->class_id,
            .dtype = (cenote_dtype)slot->dtype,
            .rank = slot->rank,
            .references = (uint32_t)((state & CN_STATE_REFERENCES) / CN_STATE_REFERENCE),
            .pins = (uint32_t)(state & CN_STATE_PINS),
            .rebuildable = slot->dropped != NULL,
            .dropped = (state & CN_STATE_DROPPED) != 0,
            .size_bytes = slot->size_bytes,
        };
        memcpy(out_state->shape, slot->shape, sizeof slot->shape);
        memcpy(out_state->strides, slot->strides, sizeof slot->strides);
    }
    pthread_mutex_unlock(&pool->lock);
    return live ? CENOTE_OK : refuse_dead(pool, tensor, err);
}

void cenote_tensor_stats_get(const cenote_pool *pool, cenote_tensor_stats *out_stats)
{
    struct cn_tensors *tensors = atomic_load_explicit(&pool->tensors, memory_order_acquire);
    *out_stats = (cenote_tensor_stats){0};
    if (tensors == NULL)
        return;
    /* The locks are no part of what const promises. */
    pthread_mutex_t *growing = (pthread_mutex_t *)(uintptr_t)&pool->tensors_lock;
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&pool->lock;
    pthread_mutex_lock(growing);
    pthread_mutex_lock(lock);
    *out_stats = (cenote_tensor_stats){
        .live_count = tensors->live_count,
        .live_bytes = tensors->live_bytes,
        .dropped_count = tensors->dropped_count,
        .dropped_bytes = tensors->dropped_bytes,
        .table_bytes = cn_arena_charged_bytes(tensors->arena),
        .compact_count = tensors->compact_count,
        .moved_bytes = tensors->moved_bytes,
        .remapped_bytes = tensors->remapped_bytes,
    };
    pthread_mutex_unlock(lock);
    pthread_mutex_unlock(growing);
}
