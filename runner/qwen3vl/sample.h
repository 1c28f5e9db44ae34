/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Choosing the next token, as transformers' generate() does: repetition penalty, temperature,
 *  top-k, top-p, in this order, then a draw. */
#ifndef QWEN_SAMPLE_H
#define QWEN_SAMPLE_H

#include "qwen3vl.h"

/** Random numbers of one generation; the same seed gives the same tokens. */
typedef struct qwen_sampler {
    qwen_sampling sampling;
    uint64_t state;
} qwen_sampler;

static inline qwen_sampler qwen_sampler_make(const qwen_sampling *sampling)
{
    return (qwen_sampler){*sampling, sampling->seed};
}

/** Errors: CENOTE_E_INVAL for a value out of its range. */
CENOTE_MUST_CHECK cenote_status qwen_sampling_check(const qwen_sampling *sampling,
                                                    cenote_error *err);

/** Bytes of a set of the vocabulary, for qwen_penalize(). */
static inline uint64_t qwen_seen_bytes(uint32_t vocab_size)
{
    return (vocab_size + 63u) / 64u * 8u;
}

/** The logits of the ids that were @p seen (qwen_seen_bytes() of zeros at first) are divided by
 *  the penalty, or multiplied by it when they are negative; each once, however often it comes.
 *  Call it for each list of ids, with the same set. */
void qwen_penalize(float penalty, float *logits, uint32_t vocab_size, const uint32_t *ids,
                   uint64_t id_count, uint64_t *seen);

/** Temperature, top-k and top-p in place: what is not to be drawn becomes -INFINITY. NaN goes
 *  first. Does nothing at temperature 0. Cost: a few passes over the vocabulary. */
void qwen_filter(const qwen_sampling *sampling, float *logits, uint32_t vocab_size);

/** At temperature 0 the first of the largest logits; else filters, and draws from their softmax in
 *  double precision. NaN is never chosen. @p logits are used up. */
uint32_t qwen_sample(qwen_sampler *sampler, float *logits, uint32_t vocab_size);

#endif
