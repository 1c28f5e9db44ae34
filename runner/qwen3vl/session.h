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

#include "run.h"

struct qwen_session {
    qwen_run run; /* of a turn: plan, shape, events, image_paths, cancelled, activations, kernels,
                     features; the rest stays */
    uint64_t thread_bytes; /* charged for the stacks of threads */
    uint64_t context_tokens;
    bool text_loaded; /* the small weights of the decoder, of the tower */
    bool vision_loaded;
};
typedef struct qwen_session qwen_session;

/** Takes what @p plan gives to every turn. @p shape and @p plan are looked at only here.
 *  Errors: CENOTE_E_BUDGET (a plan that does not fit), CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK cenote_status qwen_session_open(qwen_model *model, const qwen_shape *shape,
                                                  const qwen_plan *plan, qwen_session **out_session,
                                                  cenote_error *err);
/** NULL is fine. */
void qwen_session_close(qwen_session *session);

/** The turn's own: pools, kernels, room for image features. run.plan, run.shape, run.events,
 *  run.image_paths and run.cancelled are set and must outlive the turn. End it also when this
 *  fails. */
CENOTE_MUST_CHECK cenote_status qwen_turn_begin(qwen_session *session, cenote_error *err);
void qwen_turn_end(qwen_session *session);
/** Gives the image features back before the turn's end: after prefill nobody looks at them. */
void qwen_turn_forget_images(qwen_session *session);

/** The small weights that the turn needs and the session does not hold yet; the tower's only when
 *  there is something to look at. */
CENOTE_MUST_CHECK cenote_status qwen_turn_load(qwen_session *session, cenote_error *err);

#endif
