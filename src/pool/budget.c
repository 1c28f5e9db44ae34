/* SPDX-License-Identifier: Apache-2.0 */
/* One number with a limit.
 *
 *   charge(n):  charged + n <= limit ?  yes: charged += n
 *                                       no:  climb the ladder (reclaim.c) until n fits; try again;
 *                                            nothing came back: refuse
 *
 * Charging comes before committing, so `charged` is at every moment an upper bound of what the
 * process holds. Whoever charges under its own lock uses cn_budget_try_charge(), which touches the
 * counters alone, and lets go of its lock before it asks for room: so a pool can make every pool
 * trim, itself included, without a cycle. */
#include <assert.h>
#include <inttypes.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include <cenote/hardware.h>

#include "pool/budget_impl.h"
#include "pool/thread_cache.h"
#include "pool/watch.h"

struct cn_os *cn_budget_os(const cenote_budget *budget)
{
    return budget->os;
}

#define CACHE_SHARE 100u /* a hundredth of the limit for all kinds together */

static void limit_caches(cenote_budget *budget)
{
    atomic_store_explicit(&budget->cache_most_bytes,
                          budget->limit_bytes / (CACHE_SHARE * CN_CACHE_KINDS),
                          memory_order_relaxed);
}

static bool caches_fit(const cenote_budget *budget)
{
    uint64_t most = atomic_load_explicit(&budget->cache_most_bytes, memory_order_relaxed);
    for (unsigned kind = 0; kind < CN_CACHE_KINDS; kind++)
        if (atomic_load_explicit(&budget->cache_bytes[kind], memory_order_relaxed) > most)
            return false;
    return true;
}

static cenote_status process_bytes_now(uint64_t *out_bytes, cenote_error *err)
{
    cenote_process_memory process;
    cenote_status status = cenote_process_memory_get(&process, err);
    if (status == CENOTE_OK)
        *out_bytes = process.resident_bytes + process.page_table_bytes;
    return status;
}

cenote_status cenote_budget_create(const cenote_budget_options *options, cenote_budget **out_budget,
                                   cenote_error *err)
{
    if (options->version != CENOTE_BUDGET_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "budget options: version %u, not %u",
                                options->version, CENOTE_BUDGET_OPTIONS_VERSION);
    if (options->limit_bytes == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "budget: a limit of 0 bytes");
    cenote_status watched = cn_watch_begin(err); /* what it takes is the process's */
    if (watched != CENOTE_OK)
        return watched;
    uint64_t process_bytes = options->process_bytes;
    if (process_bytes == 0) {
        cenote_status status = process_bytes_now(&process_bytes, err);
        if (status != CENOTE_OK)
            return status;
    }
    if (process_bytes > options->limit_bytes)
        return cenote_error_set(err, CENOTE_E_BUDGET,
                                "the process itself needs %" PRIu64
                                " bytes, more than the budget of %" PRIu64,
                                process_bytes, options->limit_bytes);
    cenote_budget *budget = aligned_alloc(alignof(cenote_budget), sizeof *budget);
    if (budget == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "budget: no memory for %zu bytes",
                                sizeof *budget);
    memset(budget, 0, sizeof *budget);
    budget->os = options->os != NULL ? options->os : cn_os_linux();
    pthread_mutex_init(&budget->clients_lock, NULL);
    pthread_mutex_init(&budget->lock, NULL);
    budget->limit_bytes = options->limit_bytes;
    limit_caches(budget);
    budget->charged_bytes = process_bytes;
    budget->charged_peak_bytes = process_bytes;
    *out_budget = budget;
    return CENOTE_OK;
}

void cenote_budget_destroy(cenote_budget *budget)
{
    if (budget == NULL)
        return;
    assert(budget->clients == NULL);
    pthread_mutex_destroy(&budget->lock);
    pthread_mutex_destroy(&budget->clients_lock);
    free(budget);
}

/* ---- charging ---- */

bool cn_budget_try_charge(cenote_budget *budget, uint64_t size_bytes)
{
    pthread_mutex_lock(&budget->lock);
    bool fits = size_bytes <= budget->limit_bytes - budget->charged_bytes;
    if (fits) {
        budget->charged_bytes += size_bytes;
        if (budget->charged_bytes > budget->charged_peak_bytes)
            budget->charged_peak_bytes = budget->charged_bytes;
    }
    pthread_mutex_unlock(&budget->lock);
    return fits;
}

void cenote_budget_uncharge(cenote_budget *budget, uint64_t size_bytes)
{
    pthread_mutex_lock(&budget->lock);
    assert(size_bytes <= budget->charged_bytes);
    budget->charged_bytes -= size_bytes;
    pthread_mutex_unlock(&budget->lock);
}

/* ---- caches of threads ---- */

/* Nothing is published with these numbers, so no order is needed. */
bool cn_budget_cache_take(cenote_budget *budget, enum cn_cache_kind kind, uint64_t size_bytes)
{
    _Atomic uint64_t *sum = &budget->cache_bytes[kind];
    uint64_t most = atomic_load_explicit(&budget->cache_most_bytes, memory_order_relaxed);
    uint64_t have = atomic_load_explicit(sum, memory_order_relaxed);
    do
        if (have + size_bytes > most)
            return false;
    while (!atomic_compare_exchange_weak_explicit(sum, &have, have + size_bytes,
                                                  memory_order_relaxed, memory_order_relaxed));
    return true;
}

void cn_budget_cache_give(cenote_budget *budget, enum cn_cache_kind kind, uint64_t size_bytes)
{
    uint64_t had =
        atomic_fetch_sub_explicit(&budget->cache_bytes[kind], size_bytes, memory_order_relaxed);
    assert(size_bytes <= had);
    (void)had;
}

/* Nothing is published with it: a cache that sees it late gives up late. */
void cn_budget_cache_call(cenote_budget *budget)
{
    atomic_fetch_add_explicit(&budget->cache_epoch, 1, memory_order_relaxed);
}

uint64_t cn_budget_cache_epoch(const cenote_budget *budget)
{
    return atomic_load_explicit(&budget->cache_epoch, memory_order_relaxed);
}

cenote_status cenote_budget_charge(cenote_budget *budget, uint64_t size_bytes, const char *what,
                                   cenote_error *err)
{
    while (!cn_budget_try_charge(budget, size_bytes))
        if (!cn_budget_make_room(budget, NULL, 0, size_bytes))
            return cn_budget_refuse(budget, size_bytes, what, NULL, err);
    return CENOTE_OK;
}

cenote_status cenote_budget_limit_set(cenote_budget *budget, uint64_t limit_bytes,
                                      cenote_error *err)
{
    for (;;) {
        pthread_mutex_lock(&budget->lock);
        uint64_t charged = budget->charged_bytes;
        uint64_t old_left = budget->limit_bytes - charged;
        bool fits = charged <= limit_bytes && limit_bytes > 0;
        if (fits) {
            budget->limit_bytes = limit_bytes;
            limit_caches(budget);
        }
        pthread_mutex_unlock(&budget->lock);
        if (fits && !caches_fit(budget))
            (void)cn_thread_cache_give_up_all(budget);
        if (fits)
            return CENOTE_OK;
        /* Room for what is left under the old limit and for what is above the new one. */
        uint64_t above = charged - limit_bytes;
        if (!cn_budget_make_room(budget, NULL, 0, old_left + above))
            return cenote_error_set(err, CENOTE_E_BUDGET,
                                    "%" PRIu64 " bytes are charged, more than a limit of %" PRIu64,
                                    charged, limit_bytes);
    }
}

void cenote_budget_stats_get(const cenote_budget *budget, cenote_budget_stats *out_stats)
{
    /* The lock is not part of what const promises. */
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&budget->lock;
    pthread_mutex_lock(lock);
    *out_stats = (cenote_budget_stats){
        .limit_bytes = budget->limit_bytes,
        .charged_bytes = budget->charged_bytes,
        .charged_peak_bytes = budget->charged_peak_bytes,
        .refused_count = budget->refused_count,
    };
    memcpy(out_stats->reclaim, budget->reclaim, sizeof budget->reclaim);
    pthread_mutex_unlock(lock);
}
