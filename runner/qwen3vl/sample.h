/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Choosing the next token. */
#ifndef QWEN_SAMPLE_H
#define QWEN_SAMPLE_H

#include <stdint.h>

/** Random numbers of one generation; the same seed gives the same tokens. */
typedef struct qwen_sampler {
    float temperature; /**< 0: greedy */
    uint64_t state;
} qwen_sampler;

/** Greedy: the first of the largest logits. Else a draw from softmax(logits / temperature) in
 *  double precision. NaN is never chosen. Cost: two or three passes over the vocabulary. */
uint32_t qwen_sample(qwen_sampler *sampler, const float *logits, uint32_t vocab_size);

#endif
