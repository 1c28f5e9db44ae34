/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a budget share.
 *
 *   budget.c    the number and its limit
 *   reclaim.c   who can give something up: the ladder, and who holds what */
#ifndef CN_POOL_BUDGET_IMPL_H
#define CN_POOL_BUDGET_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/compiler.h"
#include "pool/budget.h"

struct cenote_budget {
    struct cn_os *os;
    _Atomic uint64_t cache_epoch;      /* grows when somebody needs what caches of threads hold */
    _Atomic uint64_t cache_most_bytes; /* what caches of a kind may hold; lock to write */
    pthread_mutex_t clients_lock;
    struct cn_budget_client *clients; /* clients_lock; by step, then priority, then age */
    pthread_mutex_t lock;
    uint64_t limit_bytes; /* lock, and what follows */
    uint64_t charged_bytes;
    uint64_t charged_peak_bytes;
    uint64_t mark_bytes; /* charges of pools above it look for idle memory first */
    uint64_t refused_count;
    cenote_reclaim_stats reclaim[CENOTE_RECLAIM_COUNT];
    /* As bought, by kind. On a line of their own: who misses looks at what is above. */
    CN_ALIGNED(CN_CACHE_LINE_BYTES) _Atomic uint64_t cache_bytes[CN_CACHE_KINDS];
};

#endif
