/* SPDX-License-Identifier: Apache-2.0 */
/* The handlers do what is safe in one: they note the signal, and tell the job or the session, and
 * whoever waits for the keyboard, through a pipe: a signal that comes just before a read would not
 * end it. A signal's second coming finds the default action (SA_RESETHAND), so that a run which
 * hangs in the kernel can still be ended from the keyboard; in a conversation that is Ctrl-C's
 * third coming. */
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

#define INTERRUPTS_MAX 3

static volatile sig_atomic_t caught;
static volatile sig_atomic_t interrupted;
static volatile sig_atomic_t interrupts_in_turn;
static int news[2] = {-1, -1}; /* a byte for each signal in a conversation */
/* Written by the main thread, read by the handlers. */
static _Atomic(qwen_job *) current_job;
static _Atomic(qwen_session *) current_session;
_Static_assert(ATOMIC_POINTER_LOCK_FREE == 2, "a handler may not wait for a lock");

static void cancel(void)
{
    qwen_job *job = atomic_load(&current_job);
    if (job != NULL)
        qwen_job_cancel(job);
    qwen_session *session = atomic_load(&current_session);
    if (session != NULL)
        qwen_session_cancel(session);
}

static void on_signal(int number)
{
    (void)number;
    caught = 1;
    cancel();
}

/* A full pipe says it all; errno is whoever's was interrupted. */
static void spread_news(void)
{
    int before = errno;
    ssize_t written = write(news[1], "", 1);
    (void)written;
    errno = before;
}

static void on_end(int number)
{
    on_signal(number);
    spread_news();
}

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
    if (atomic_load(&current_session) != NULL && ++interrupts_in_turn >= INTERRUPTS_MAX)
        _exit(CLI_EXIT_INTERRUPTED);
    cancel();
    spread_news();
}

static void catch_one(int number, void (*handler)(int), int flags)
{
    struct sigaction old;
    if (sigaction(number, NULL, &old) != 0 || old.sa_handler == SIG_IGN)
        return;
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

void cli_signals_catch(void)
{
    const int flags = (int)SA_RESETHAND | SA_RESTART;
    catch_one(SIGINT, on_signal, flags);
    catch_one(SIGTERM, on_signal, flags);
    catch_one(SIGHUP, on_signal, flags);
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

cenote_status cli_signals_catch_chat(cenote_error *err)
{
    const int flags = (int)SA_RESETHAND | SA_RESTART;
    if (pipe2(news, O_CLOEXEC | O_NONBLOCK) != 0)
        return cenote_error_set(err, CENOTE_E_IO, "no pipe for signals: %s", strerror(errno));
    catch_one(SIGINT, on_interrupt, SA_RESTART);
    catch_one(SIGTERM, on_end, flags);
    catch_one(SIGHUP, on_end, flags);
    return CENOTE_OK;
}

void cli_signals_session(qwen_session *session)
{
    interrupts_in_turn = 0;
    atomic_store(&current_session, session);
}

bool cli_signals_interrupted(void)
{
    char byte;
    while (read(news[0], &byte, 1) == 1)
        ;
    bool was = interrupted != 0;
    interrupted = 0;
    return was;
}

int cli_signals_fd(void)
{
    return news[0];
}
