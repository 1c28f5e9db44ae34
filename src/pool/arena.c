/* SPDX-License-Identifier: Apache-2.0 */
/* The library's own metadata: a bump pointer over a reservation.
 *
 *   | header | handed out ............ | free | not committed .............. |
 *   0                          used_bytes     committed_bytes    reserve_bytes
 *
 * Nothing is freed before the whole arena is, so there is nothing to keep books about; addresses
 * never change, because growth commits more of the same reservation. The arena's header is its
 * first allocation: what it costs is charged like the rest. */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "pool/budget.h"

struct cn_arena {
    cenote_budget *budget;
    uint64_t reserve_bytes;
    uint64_t committed_bytes;
    uint64_t used_bytes;
};

/* Keeps the first allocation on a cache line of its own. */
#define HEADER_BYTES 64u
static_assert(sizeof(struct cn_arena) <= HEADER_BYTES, "the arena's header outgrew its place");

/* Charges and commits [from, to), both multiples of a granule. */
static cenote_status grow(cenote_budget *budget, char *base, uint64_t from, uint64_t to,
                          cenote_error *err)
{
    struct cn_os *os = cn_budget_os(budget);
    uint64_t charge = (to - from) / CENOTE_GRANULE_BYTES * CN_GRANULE_CHARGE_BYTES;
    cenote_status status = cenote_budget_charge(budget, charge, "metadata", err);
    if (status != CENOTE_OK)
        return status;
    int error = os->ops->memory_commit(os, base + from, to - from, false);
    if (error == 0)
        return CENOTE_OK;
    cenote_budget_uncharge(budget, charge);
    return cenote_error_set(err, CENOTE_E_NOMEM, "metadata: commit of %" PRIu64 " bytes: %s",
                            to - from, strerror(-error));
}

cenote_status cn_arena_create(cenote_budget *budget, uint64_t reserve_bytes,
                              struct cn_arena **out_arena, cenote_error *err)
{
    struct cn_os *os = cn_budget_os(budget);
    uint64_t size;
    if (!cn_checked_add(reserve_bytes, HEADER_BYTES, &size) ||
        !cn_checked_round_up(size, CENOTE_GRANULE_BYTES, &size))
        return cenote_error_set(err, CENOTE_E_NOMEM, "metadata: %" PRIu64 " bytes", reserve_bytes);
    cenote_status status = cenote_budget_charge(budget, CN_RANGE_CHARGE_BYTES, "metadata", err);
    if (status != CENOTE_OK)
        return status;
    void *base;
    int error = os->ops->memory_reserve(os, size, &base);
    if (error != 0) {
        status =
            cenote_error_set(err, CENOTE_E_NOMEM, "metadata: reservation of %" PRIu64 " bytes: %s",
                             size, strerror(-error));
        goto out_uncharge;
    }
    status = grow(budget, base, 0, CENOTE_GRANULE_BYTES, err);
    if (status != CENOTE_OK)
        goto out_release;
    struct cn_arena *arena = base;
    *arena = (struct cn_arena){budget, size, CENOTE_GRANULE_BYTES, HEADER_BYTES};
    *out_arena = arena;
    return CENOTE_OK;

out_release:
    os->ops->memory_release(os, base, size);
out_uncharge:
    cenote_budget_uncharge(budget, CN_RANGE_CHARGE_BYTES);
    return status;
}

void cn_arena_destroy(struct cn_arena *arena)
{
    if (arena == NULL)
        return;
    struct cn_arena copy = *arena; /* the header goes with the rest */
    struct cn_os *os = cn_budget_os(copy.budget);
    os->ops->memory_release(os, arena, copy.reserve_bytes);
    cenote_budget_uncharge(copy.budget, cn_arena_charged_bytes(&copy));
}

void *cn_arena_alloc(struct cn_arena *arena, uint64_t size_bytes, uint64_t align_bytes,
                     cenote_error *err)
{
    assert(align_bytes > 0 && align_bytes <= 4096 && (align_bytes & (align_bytes - 1)) == 0);
    char *base = (char *)arena;
    uint64_t first, end, committed;
    if (!cn_checked_round_up(arena->used_bytes, align_bytes, &first) ||
        !cn_checked_add(first, size_bytes, &end) || end > arena->reserve_bytes) {
        (void)cenote_error_set(err, CENOTE_E_NOMEM,
                               "metadata: %" PRIu64 " bytes more than %" PRIu64
                               " of a reservation of %" PRIu64,
                               size_bytes, arena->used_bytes, arena->reserve_bytes);
        return NULL;
    }
    if (!cn_checked_round_up(end, CENOTE_GRANULE_BYTES, &committed))
        return NULL; /* unreachable: end <= reserve_bytes, a multiple of a granule */
    if (committed > arena->committed_bytes) {
        if (grow(arena->budget, base, arena->committed_bytes, committed, err) != CENOTE_OK)
            return NULL;
        arena->committed_bytes = committed;
    }
    arena->used_bytes = end;
    return base + first; /* never handed out before: still zero from the system */
}

uint64_t cn_arena_used_bytes(const struct cn_arena *arena)
{
    return arena->used_bytes;
}

uint64_t cn_arena_charged_bytes(const struct cn_arena *arena)
{
    return CN_RANGE_CHARGE_BYTES +
           arena->committed_bytes / CENOTE_GRANULE_BYTES * CN_GRANULE_CHARGE_BYTES;
}

uint64_t cn_arena_charge_bytes(uint64_t size_bytes)
{
    uint64_t size;
    if (!cn_checked_add(size_bytes, HEADER_BYTES, &size) ||
        !cn_checked_round_up(size, CENOTE_GRANULE_BYTES, &size) ||
        !cn_checked_mul(size / CENOTE_GRANULE_BYTES, CN_GRANULE_CHARGE_BYTES, &size) ||
        !cn_checked_add(size, CN_RANGE_CHARGE_BYTES, &size))
        return UINT64_MAX;
    return size;
}
