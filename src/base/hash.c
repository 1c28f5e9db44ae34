/* SPDX-License-Identifier: Apache-2.0 */
/* xxhash as a header: nothing to link, and no symbol that a user's own copy could meet. */
#include "base/hash.h"

#include <assert.h>

#if defined(CENOTE_COVERAGE) || !defined(__OPTIMIZE__)
#define XXH_NO_INLINE_HINTS 1 /* its always_inline fails without the optimiser's help */
#endif
#define XXH_INLINE_ALL
#include <xxhash.h>

static_assert(sizeof(XXH3_state_t) <= sizeof(struct cn_hash), "the state has room");
static_assert(_Alignof(XXH3_state_t) <= _Alignof(struct cn_hash), "and lies as it must");

uint64_t cn_hash64(const void *data, size_t size_bytes)
{
    return XXH3_64bits(data, size_bytes);
}

void cn_hash_init(struct cn_hash *hash)
{
    XXH3_INITSTATE((XXH3_state_t *)(void *)hash->state);
    (void)XXH3_64bits_reset((XXH3_state_t *)(void *)hash->state);
}

void cn_hash_add(struct cn_hash *hash, const void *data, size_t size_bytes)
{
    (void)XXH3_64bits_update((XXH3_state_t *)(void *)hash->state, data, size_bytes);
}

uint64_t cn_hash_sum(const struct cn_hash *hash)
{
    return XXH3_64bits_digest((const XXH3_state_t *)(const void *)hash->state);
}
