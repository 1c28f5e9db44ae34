/* SPDX-License-Identifier: Apache-2.0 */
/* The handler does two things that are safe in one: it notes the signal, and it tells the job. A
 * signal's second coming finds the default action (SA_RESETHAND), so that a run which hangs in the
 * kernel can still be ended from the keyboard. */
#include "signals.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

static volatile sig_atomic_t caught;
/* Written by the main thread, read by the handler. */
static _Atomic(qwen_job *) current_job;
_Static_assert(ATOMIC_POINTER_LOCK_FREE == 2, "a handler may not wait for a lock");

static void on_signal(int number)
{
    (void)number;
    caught = 1;
    qwen_job *job = atomic_load(&current_job);
    if (job != NULL)
        qwen_job_cancel(job);
}

static void catch_one(int number)
{
    struct sigaction old;
    if (sigaction(number, NULL, &old) != 0 || old.sa_handler == SIG_IGN)
        return;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

void cli_signals_catch(void)
{
    catch_one(SIGINT);
    catch_one(SIGTERM);
    catch_one(SIGHUP);
}

void cli_signals_job(qwen_job *job)
{
    atomic_store(&current_job, job);
    if (job != NULL && caught)
        qwen_job_cancel(job);
}

bool cli_signals_caught(void)
{
    return caught != 0;
}
