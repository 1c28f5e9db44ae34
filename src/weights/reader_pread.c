/* SPDX-License-Identifier: Apache-2.0 */
/* Reads by a pool of threads, one file_pread each: where the kernel denies rings, and the peer that
 * the ring is measured against.
 *
 *   submit -> queue -> a thread -> results -> next
 *
 * Lock: one mutex for every field below `lock`; reads run outside of it. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "weights/reader_impl.h"

enum {
    THREADS_DEFAULT = 4,
    STACK_BYTES = 128 * 1024,
    STACK_TOUCHED_BYTES = 16 * 1024, /* of a thread that reads; 9 KiB were measured */
    INTERRUPTED_SLEEP_NS = 1000000,  /* between tries: whoever sends signals gets the processor */
};

struct pread_reader {
    struct cn_reader base;
    uint32_t thread_count; /* threads that run */
    pthread_t threads[CN_READER_THREADS_MAX];

    pthread_mutex_t lock;
    pthread_cond_t work;  /* to threads: something is queued, or quit */
    pthread_cond_t ready; /* to the owner: a read is complete */
    bool quit;
    uint32_t reading;
    uint32_t queue_first, queue_count;
    struct cn_reader_request queue[CN_READER_DEPTH_MAX]; /* a ring */
    struct reader_results results;

    int fds[]; /* never changes */
};

static struct pread_reader *pread_reader(struct cn_reader *reader)
{
    return (struct pread_reader *)reader;
}

/* ---- threads ---- */

static int64_t read_once(struct pread_reader *p, const struct cn_reader_request *request)
{
    struct cn_os *os = p->base.os;
    for (uint32_t tries = 0;; tries++) {
        int64_t result = os->ops->file_pread(os, p->fds[request->file_index], request->data,
                                             request->size_bytes, request->offset_bytes);
        if (!reader_interrupted(result) || tries == READER_TRIES_MAX)
            return result;
        os->ops->sleep_ns(os, INTERRUPTED_SLEEP_NS);
    }
}

/* With the lock, which it gives up while it reads. */
static void read_next(struct pread_reader *p)
{
    struct cn_reader_request request = p->queue[p->queue_first];
    p->queue_first = (p->queue_first + 1) % CN_READER_DEPTH_MAX;
    p->queue_count--;
    p->reading++;
    pthread_mutex_unlock(&p->lock);
    struct cn_reader_result result = {request.tag, read_once(p, &request)};
    pthread_mutex_lock(&p->lock);
    p->reading--;
    reader_results_push(&p->results, result);
    pthread_cond_signal(&p->ready);
}

static void *thread_main(void *argument)
{
    struct pread_reader *p = argument;
    pthread_mutex_lock(&p->lock);
    while (!p->quit) {
        if (p->queue_count > 0)
            read_next(p);
        else
            pthread_cond_wait(&p->work, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- the engine ---- */

static void pread_submit(struct cn_reader *reader, const struct cn_reader_request *request)
{
    struct pread_reader *p = pread_reader(reader);
    pthread_mutex_lock(&p->lock);
    p->queue[(p->queue_first + p->queue_count++) % CN_READER_DEPTH_MAX] = *request;
    bool somebody_idle = p->reading < p->thread_count;
    pthread_mutex_unlock(&p->lock);
    if (somebody_idle)
        pthread_cond_signal(&p->work);
}

static bool pread_next(struct cn_reader *reader, bool wait, struct cn_reader_result *out_result)
{
    struct pread_reader *p = pread_reader(reader);
    pthread_mutex_lock(&p->lock);
    while (wait && p->results.count == 0)
        pthread_cond_wait(&p->ready, &p->lock);
    bool any = p->results.count > 0;
    if (any)
        *out_result = reader_results_pop(&p->results);
    pthread_mutex_unlock(&p->lock);
    return any;
}

static struct cn_reader_dropped pread_drain(struct cn_reader *reader)
{
    struct pread_reader *p = pread_reader(reader);
    pthread_mutex_lock(&p->lock);
    p->queue_count = 0;
    while (p->reading > 0)
        pthread_cond_wait(&p->ready, &p->lock);
    struct cn_reader_dropped dropped = reader_results_drop(&p->results);
    pthread_mutex_unlock(&p->lock);
    return dropped;
}

static void pread_destroy(struct cn_reader *reader)
{
    struct pread_reader *p = pread_reader(reader);
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->thread_count; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->ready);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* ---- create ---- */

static uint32_t threads_wanted(const struct cn_reader_options *options)
{
    uint32_t wanted = options->thread_count > 0 ? options->thread_count : THREADS_DEFAULT;
    return wanted < options->depth ? wanted : options->depth;
}

/* Signals are the program's: threads block them all, so that a handler runs on its thread. */
static int threads_start(struct pread_reader *p, uint32_t wanted)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int rc = pthread_attr_init(&attributes);
    if (rc != 0)
        return -rc;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (p->thread_count < wanted && rc == 0) {
        rc = pthread_create(&p->threads[p->thread_count], &attributes, thread_main, p);
        p->thread_count += rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return -rc;
}

int cn_reader_pread_create(struct cn_os *os, const struct cn_reader_options *options,
                           struct cn_reader **out_reader)
{
    static const struct cn_reader_engine_ops ops = {
        .text = "pread",
        .submit = pread_submit,
        .next = pread_next,
        .drain = pread_drain,
        .destroy = pread_destroy,
    };
    struct pread_reader *p = calloc(1, sizeof *p + options->fd_count * sizeof p->fds[0]);
    if (p == NULL)
        return -ENOMEM;
    memcpy(p->fds, options->fds, options->fd_count * sizeof p->fds[0]);
    p->base = (struct cn_reader){.ops = &ops,
                                 .os = os,
                                 .fds = p->fds,
                                 .fd_count = options->fd_count,
                                 .depth = options->depth};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->ready, NULL);
    int rc = threads_start(p, threads_wanted(options));
    if (rc < 0) {
        pread_destroy(&p->base);
        return rc;
    }
    *out_reader = &p->base;
    return 0;
}

uint64_t cn_reader_pread_bytes(const struct cn_reader_options *options)
{
    uint64_t own = sizeof(struct pread_reader) + options->fd_count * sizeof(int);
    return own + threads_wanted(options) * (uint64_t)STACK_TOUCHED_BYTES;
}
