/* SPDX-License-Identifier: Apache-2.0 */
/* A mutex for sections that are shorter than falling asleep and being woken: who finds it taken
 * looks again for a while first. */
#ifndef CN_BASE_LOCK_H
#define CN_BASE_LOCK_H

#include <pthread.h>

static inline void cn_lock_init(pthread_mutex_t *lock)
{
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
    *lock = (pthread_mutex_t)PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
#else
    *lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
#endif
}

#endif
