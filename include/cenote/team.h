/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  A small fork-join team of threads for kernels.
 *
 *  Own threads and not OpenMP: libgomp's barriers look like races to ThreadSanitizer. The caller
 *  is rank 0. Between runs the workers spin for some microseconds and then sleep.
 *
 *  Threads: one run at a time per team; create, run and destroy from one thread. */
#ifndef CENOTE_TEAM_H
#define CENOTE_TEAM_H

#include <cenote/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CENOTE_TEAM_SIZE_MAX 256u

typedef struct cenote_team cenote_team;

/** Work of one rank; must not call cenote_team_run() on the same team. */
typedef void (*cenote_team_fn)(void *argument, unsigned rank, unsigned size);

/** Starts @p size - 1 threads (1..CENOTE_TEAM_SIZE_MAX; 0 means the CPUs this process may use).
 *  Worker stacks are 256 KiB each. Errors: CENOTE_E_INVAL, CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_team_create(unsigned size, cenote_team **out_team,
                                                              cenote_error *err);

/** Joins the threads. NULL is fine. */
CENOTE_API void cenote_team_destroy(cenote_team *team);

CENOTE_API unsigned cenote_team_size(const cenote_team *team);

/** Calls @p fn once on every rank and returns when all are done (a full barrier: what a rank
 *  wrote is visible to the caller). Cost: about a microsecond while the workers spin. */
CENOTE_API void cenote_team_run(cenote_team *team, cenote_team_fn fn, void *argument);

/** The half-open share [first, first + count) of @p items that @p rank of @p size works on;
 *  shares are multiples of @p grain (the last may be shorter) and differ by one grain at most. */
static inline void cenote_team_share(unsigned long items, unsigned long grain, unsigned rank,
                                     unsigned size, unsigned long *out_first,
                                     unsigned long *out_count)
{
    unsigned long grains = (items + grain - 1) / grain;
    unsigned long first = grains * rank / size * grain;
    unsigned long last = grains * (rank + 1ul) / size * grain;
    if (last > items)
        last = items;
    if (first > last)
        first = last;
    *out_first = first;
    *out_count = last - first;
}

#ifdef __cplusplus
}
#endif
#endif
