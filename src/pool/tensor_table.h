/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a pool's tensors: what a handle's index leads to, and what a block's place leads to.
 *
 *   handle   generation │ index                      block's first granule
 *                            │                                 │
 *   slots   [  ][  ][  ][ state, data, shape, ... ][  ]   owners [0][0][index + 1][0] ...
 *
 * A slot's life is one word, so that who pins, releases and moves can never disagree:
 *
 *   state    63        32    31        30      29    28        15 14   0
 *           [ generation │ dropped │ moving │ used │ references │ pins ]
 *
 * pin, unpin, retain and release are one compare-and-swap each. Who wants to move a block sets
 * *moving* first, which succeeds only while there are no pins; it is set and cleared under the
 * pool's lock, so whoever meets it takes that lock once to wait. The last release makes the next
 * generation, with no references: from then on the handle matches nothing. The upper three bits of
 * a generation are the pool's class. A slot whose generations are used up is never used again. */
#ifndef CN_POOL_TENSOR_TABLE_H
#define CN_POOL_TENSOR_TABLE_H

#include <assert.h>
#include <stdatomic.h>

#include <cenote/tensor.h>

#include "pool/pool_impl.h"

#define CN_STATE_PINS           UINT64_C(0x7fff)
#define CN_STATE_REFERENCE      (UINT64_C(1) << 15)
#define CN_STATE_REFERENCES     (UINT64_C(0x3fff) << 15)
#define CN_STATE_USED           (UINT64_C(1) << 29)
#define CN_STATE_MOVING         (UINT64_C(1) << 30)
#define CN_STATE_DROPPED        (UINT64_C(1) << 31)
#define CN_STATE_GENERATION     (UINT64_C(1) << 32)
#define CN_GENERATION_CLASS_BIT 29u

static_assert(CENOTE_TENSOR_PINS_MAX == CN_STATE_PINS, "pins fill their field");
static_assert(CENOTE_TENSOR_REFERENCES_MAX == CN_STATE_REFERENCES / CN_STATE_REFERENCE,
              "references fill their field");
static_assert(CENOTE_CLASS_COUNT <= 8, "a class has three bits of the generation");

struct cn_tensor_slot {
    _Atomic uint64_t state;
    char *data; /* may be read while pinned, moving or under the pool's lock */
    uint64_t size_bytes;
    uint64_t shape[CENOTE_RANK_MAX];
    uint64_t strides[CENOTE_RANK_MAX];
    cenote_tensor_dropped_fn dropped;
    void *dropped_context;
    uint64_t rebuild_bytes;
    uint32_t next_free; /* index + 1; pool's lock */
    uint32_t kept_by;   /* the last pass that may not move it; pool's lock */
    uint8_t dtype, rank;
};

struct cn_tensors {
    struct cn_arena *arena;       /* holds all of this */
    struct cn_tensor_slot *slots; /* they never move */
    _Atomic uint32_t slot_count;  /* written under tensors_lock; release, for readers of slots */
    uint32_t *owners;             /* pool's lock, and what follows; 0: no tensor */
    uint32_t free_head;           /* index + 1 */
    uint64_t live_count, live_bytes;
    uint64_t dropped_count, dropped_bytes;
    uint64_t compact_count, moved_bytes, remapped_bytes;
    uint32_t pass;       /* of compaction, counted from 1 */
    uint32_t drop_hand;  /* the slot that dropping looks at next */
    uint64_t compact_at; /* allocations, before which the pool does not compact itself again */
    struct cn_budget_client dropper, compactor;
};

/* A free slot, its generation set and without references; makes and grows the table as needed. No
 * lock may be held. */
CENOTE_MUST_CHECK cenote_status cn_tensors_obtain(cenote_pool *pool, uint32_t *out_index,
                                                  cenote_error *err);
/* Back to the free ones. Pool locked. */
void cn_tensors_put_back(struct cn_tensors *tensors, uint32_t index);

/* NULL when the pool never had that many. */
struct cn_tensor_slot *cn_tensors_slot(const cenote_pool *pool, cenote_tensor tensor);

/* The run that the tensor's block has for itself. False for one inside of a run for small blocks,
 * and for a dropped one. Pool locked. */
bool cn_tensor_run(const cenote_pool *pool, const struct cn_tensor_slot *slot,
                   struct cn_run *out_run);

/* Is @p state one of a live @p tensor? */
static inline bool cn_tensor_is_live(uint64_t state, cenote_tensor tensor)
{
    return state >> 32 == tensor >> 32 && (state & CN_STATE_REFERENCES) != 0;
}

/* Has a live tensor but one reference and no pin? It may be on the move. */
static inline bool cn_tensor_is_idle(const cenote_pool *pool, cenote_tensor tensor)
{
    struct cn_tensor_slot *slot = cn_tensors_slot(pool, tensor);
    if (slot == NULL)
        return false;
    uint64_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
    return (state & ~(CN_STATE_MOVING | CN_STATE_USED)) ==
           ((tensor >> 32) << 32 | CN_STATE_REFERENCE);
}

/* The same idle tensor under a new handle; the old one is dead. The old one when its generations
 * are used up. */
cenote_tensor cn_tensor_renew(cenote_pool *pool, cenote_tensor tensor);

/* The first broken invariant of the table. Pool locked. */
const char *cn_tensors_check(const cenote_pool *pool);

/* With the pool; live tensors go too. */
void cn_tensors_destroy(cenote_pool *pool);

#endif
