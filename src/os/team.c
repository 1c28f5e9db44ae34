/* SPDX-License-Identifier: Apache-2.0 */
/* Fork-join over POSIX threads.
 *
 *   caller   fn, argument, pending = size-1 | round++ ...... works as rank 0 ....... pending == 0
 *   worker   waits for round to change ......| works | pending-- .. waits for the next round
 *
 * Both waits spin for some microseconds, because kernels follow each other at that distance, and
 * then sleep on a condition variable, because reads from disk do not. A team that is larger than
 * the CPUs it may use never spins: it would only keep the others from working.
 * Spinners yield now and then: when other processes have left two of the team on one CPU, a round
 * took 46 us (two spins that were in vain) without it and takes 4.4 us with it.
 *
 * Going to sleep is Dekker's problem (I announce myself, then look for work; you publish work, then
 * look for sleepers): both sides do their store and their load with seq_cst, so at least one of
 * them sees the other. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cenote/hardware.h>
#include <cenote/team.h>

#include "base/compiler.h"
#include "os/os.h"

#define SPIN_NS        20000u
#define SPINS_PER_LOOK 32u
#define STACK_BYTES    (256u * 1024u)

struct worker {
    struct cenote_team *team;
    pthread_t thread;
    unsigned rank;
};

struct cenote_team {
    unsigned size;
    bool may_spin;
    cenote_team_fn fn; /* NULL tells the workers to end; published by round */
    void *argument;    /* published by round */

    /* Release by the caller in publish(), acquire by workers in wait_round(). */
    CN_ALIGNED(CN_CACHE_LINE_BYTES) atomic_uint round;
    /* Release by workers in finish(), acquire by the caller in wait_finished(). */
    CN_ALIGNED(CN_CACHE_LINE_BYTES) atomic_uint pending;

    CN_ALIGNED(CN_CACHE_LINE_BYTES) pthread_mutex_t lock;
    pthread_cond_t work_came, work_done;
    atomic_uint sleepers;      /* pairs with round: see above */
    atomic_bool caller_sleeps; /* pairs with pending: see above */

    struct worker workers[]; /* size - 1 */
};

/* Spins until *value is (or is no longer) @p mark; false when that takes too long. */
static bool spin_until(const cenote_team *team, atomic_uint *value, unsigned mark, bool equal)
{
    if ((atomic_load_explicit(value, memory_order_acquire) == mark) == equal)
        return true;
    if (!team->may_spin)
        return false;
    struct cn_os *os = cn_os_linux();
    uint64_t end_ns = os->ops->clock_ns(os) + SPIN_NS;
    do {
        for (unsigned i = 0; i < SPINS_PER_LOOK; i++) {
            if ((atomic_load_explicit(value, memory_order_acquire) == mark) == equal)
                return true;
            CN_SPIN_HINT();
        }
        sched_yield(); /* on a busy machine the thread we wait for may share this CPU */
    } while (os->ops->clock_ns(os) < end_ns);
    return false;
}

/* ---- workers ---- */

static void wait_round(cenote_team *team, unsigned seen)
{
    if (spin_until(team, &team->round, seen, false))
        return;
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(&team->round) == seen)
        pthread_cond_wait(&team->work_came, &team->lock);
    atomic_fetch_sub(&team->sleepers, 1);
    pthread_mutex_unlock(&team->lock);
}

static void finish(cenote_team *team)
{
    if (atomic_fetch_sub(&team->pending, 1) != 1 || !atomic_load(&team->caller_sleeps))
        return;
    pthread_mutex_lock(&team->lock);
    pthread_cond_signal(&team->work_done);
    pthread_mutex_unlock(&team->lock);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    cenote_team *team = worker->team;
    for (unsigned round = 0;; round++) {
        wait_round(team, round);
        if (team->fn == NULL)
            return NULL;
        team->fn(team->argument, worker->rank, team->size);
        finish(team);
    }
}

/* ---- the caller ---- */

/* Starts a round: everything written before is visible to the workers. */
static void publish(cenote_team *team, cenote_team_fn fn, void *argument)
{
    team->fn = fn;
    team->argument = argument;
    atomic_store_explicit(&team->pending, team->size - 1, memory_order_relaxed);
    atomic_fetch_add(&team->round, 1);
    if (atomic_load(&team->sleepers) == 0)
        return;
    pthread_mutex_lock(&team->lock);
    pthread_cond_broadcast(&team->work_came);
    pthread_mutex_unlock(&team->lock);
}

static void wait_finished(cenote_team *team)
{
    if (spin_until(team, &team->pending, 0, true))
        return;
    pthread_mutex_lock(&team->lock);
    atomic_store(&team->caller_sleeps, true);
    while (atomic_load(&team->pending) != 0)
        pthread_cond_wait(&team->work_done, &team->lock);
    atomic_store(&team->caller_sleeps, false);
    pthread_mutex_unlock(&team->lock);
}

void cenote_team_run(cenote_team *team, cenote_team_fn fn, void *argument)
{
    if (team->size > 1)
        publish(team, fn, argument);
    fn(argument, 0, team->size);
    if (team->size > 1)
        wait_finished(team);
}

unsigned cenote_team_size(const cenote_team *team)
{
    return team->size;
}

/* ---- create, destroy ---- */

static void stop(cenote_team *team, unsigned started)
{
    publish(team, NULL, NULL);
    for (unsigned i = 0; i < started; i++)
        pthread_join(team->workers[i].thread, NULL);
    pthread_cond_destroy(&team->work_done);
    pthread_cond_destroy(&team->work_came);
    pthread_mutex_destroy(&team->lock);
    free(team);
}

/* Starts the workers with all signals blocked: signals are the caller's business. @return how many
 * run. */
static unsigned start(cenote_team *team, int *out_error)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    unsigned started = 0;
    int error = pthread_attr_init(&attributes);
    if (error == 0) {
        /* Small, so that a system that backs every stack with huge pages cannot inflate them. */
        error = pthread_attr_setstacksize(&attributes, STACK_BYTES);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        for (; started < team->size - 1 && error == 0; started += error == 0) {
            struct worker *worker = &team->workers[started];
            *worker = (struct worker){.team = team, .rank = started + 1};
            error = pthread_create(&worker->thread, &attributes, worker_main, worker);
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
    }
    *out_error = error;
    return started;
}

cenote_status cenote_team_create(unsigned size, cenote_team **out_team, cenote_error *err)
{
    unsigned cpus = cenote_cpu_count();
    if (size > CENOTE_TEAM_SIZE_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "team: %u threads, the most is %u", size,
                                CENOTE_TEAM_SIZE_MAX);
    if (size == 0)
        size = cpus < CENOTE_TEAM_SIZE_MAX ? cpus : CENOTE_TEAM_SIZE_MAX;
    size_t team_bytes = sizeof(cenote_team) + (size - 1) * sizeof(struct worker);
    void *memory;
    if (posix_memalign(&memory, CN_CACHE_LINE_BYTES, team_bytes) != 0)
        return cenote_error_set(err, CENOTE_E_NOMEM, "team: no memory for %zu bytes", team_bytes);
    memset(memory, 0, team_bytes);
    cenote_team *team = memory;
    team->size = size;
    team->may_spin = size <= cpus;
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->work_came, NULL);
    pthread_cond_init(&team->work_done, NULL);
    int error;
    unsigned started = start(team, &error);
    if (error != 0) {
        stop(team, started);
        return cenote_error_set(err, CENOTE_E_NOMEM, "team: thread %u of %u did not start: %s",
                                started + 1, size, strerror(error));
    }
    *out_team = team;
    return CENOTE_OK;
}

void cenote_team_destroy(cenote_team *team)
{
    if (team != NULL)
        stop(team, team->size - 1);
}
