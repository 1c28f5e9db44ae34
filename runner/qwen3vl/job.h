/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  One request against a model: what job.c makes and generate.c runs. */
#ifndef QWEN_JOB_H
#define QWEN_JOB_H

#include <signal.h>

#include "run.h"

/** The conversation that a request goes on with. */
typedef struct qwen_job_past {
    const qwen_chat_turn *turns;
    uint32_t turn_count;
    const qwen_shape *images; /**< image_count, grids and decode_bytes of all turns' images; the
                                   request's paths begin with theirs */
} qwen_job_past;

struct qwen_job {
    qwen_model *model;
    const qwen_request *request;
    qwen_shape shape;
    uint32_t grids[QWEN_IMAGES_MAX][3];
    qwen_ids prompt;
    qwen_span spans[2 * QWEN_IMAGES_MAX + 2]; /* the last one is text and goes on */
    uint32_t span_count;
    volatile sig_atomic_t cancelled;

    double *layer_waiting_s; /* [layers + 1], of decoding */
    qwen_ids produced;
    uint32_t decode_passes, draft_guessed, draft_accepted;
    qwen_detokenizer detokenizer;
    const qwen_events *events; /* of the run under way */
    char *text;
    size_t text_bytes;
    size_t text_capacity;
    bool text_failed; /* the heap gave no room for the kept copy of the text */
};

/** qwen_job_create() in a conversation; @p past is looked at only here. */
CENOTE_MUST_CHECK cenote_status qwen_job_create_after(qwen_model *model,
                                                      const qwen_request *request,
                                                      const qwen_job_past *past, qwen_job **out_job,
                                                      cenote_error *err);
/** Tokens of image @p i. */
uint64_t qwen_job_image_tokens(const qwen_job *job, uint32_t i);

#endif
