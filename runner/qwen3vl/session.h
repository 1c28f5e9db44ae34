/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  What stays between the turns of a conversation, and what each turn takes beside it.
 *
 *  A *session* holds the threads, the pools of parameters and of keys and values, the small
 *  weights, the ring of the stream and the cache. A *turn* is one request on it: it brings its own
 *  pools of activations and of image features and gives them back, so that what a turn holds is
 *  what its plan says, whatever the turns before it held. qwen_job_run() is a session of one turn.
 */
#ifndef QWEN_SESSION_H
#define QWEN_SESSION_H

#include "job.h"
#include "run.h"
#include "sample.h"

/** A message and its reply. */
typedef struct qwen_exchange {
    char *text;
    uint32_t image_first; /**< of the session's */
    uint32_t image_count;
    qwen_ids reply; /**< as produced */
} qwen_exchange;

struct qwen_session {
    qwen_run run; /* of a turn: plan, shape, events, image_paths, cancelled, activations, kernels,
                     features; the rest stays */
    uint64_t thread_bytes; /* charged for the stacks of threads */
    bool text_loaded;      /* the small weights of the decoder, of the tower */
    bool vision_loaded;
    volatile sig_atomic_t cancelled;

    /* the conversation; nothing of it in qwen_job_run() */
    qwen_session_options options;
    char *system;
    qwen_plan held;      /* of the session */
    qwen_plan turn_plan; /* of the last turn */
    qwen_exchange *exchanges;
    uint32_t exchange_count;
    qwen_shape images; /* of all exchanges: image_count, grids, decode_bytes */
    char *image_paths[QWEN_IMAGES_MAX];
    uint64_t image_tokens[QWEN_IMAGES_MAX];
    qwen_ids kept;        /* the ids whose keys and values lie in the cache */
    qwen_request request; /* of the last turn, which `job` points into */
    qwen_job *job;
    qwen_sampler sampler;
};

/** Takes what @p plan gives to every turn; release with qwen_session_close(). Of @p shape kv_dtype
 *  and io_engine count; both are looked at only here. Errors: CENOTE_E_BUDGET (a plan that does not
 *  fit), CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK cenote_status qwen_session_create(qwen_model *model, const qwen_shape *shape,
                                                    const qwen_plan *plan,
                                                    qwen_session **out_session, cenote_error *err);
/** Frees the conversation (conversation.c). */
void qwen_session_forget(qwen_session *session);

/** The turn's own: pools, kernels, room for image features. run.plan, run.shape, run.events,
 *  run.image_paths and run.cancelled are set and must outlive the turn. End it also when this
 *  fails. */
CENOTE_MUST_CHECK cenote_status qwen_turn_begin(qwen_session *session, cenote_error *err);
void qwen_turn_end(qwen_session *session);
/** Gives the image features back before the turn's end: after prefill nobody looks at them. */
void qwen_turn_forget_images(qwen_session *session);

/** Runs a turn: the job's prompt from shape.past_tokens on, then the reply. @p out_result is filled
 *  however it ends. */
CENOTE_MUST_CHECK cenote_status qwen_turn_run(qwen_session *session, qwen_job *job,
                                              const qwen_plan *plan, const qwen_events *events,
                                              const volatile sig_atomic_t *cancelled,
                                              qwen_sampler *sampler, qwen_result *out_result,
                                              cenote_error *err);

/** The small weights that the turn needs and the session does not hold yet; the tower's only when
 *  there is something to look at. */
CENOTE_MUST_CHECK cenote_status qwen_turn_load(qwen_session *session, cenote_error *err);

#endif
