/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  One request against a model: what job.c makes and generate.c runs. */
#ifndef QWEN_JOB_H
#define QWEN_JOB_H

#include <signal.h>

#include "run.h"

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
    qwen_detokenizer detokenizer;
    const qwen_events *events; /* of the run under way */
    char *text;
    size_t text_bytes;
    size_t text_capacity;
    bool text_failed; /* the heap gave no room for the kept copy of the text */
};

#endif
