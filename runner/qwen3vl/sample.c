/* SPDX-License-Identifier: Apache-2.0 */
/* Greedy and temperature sampling. Random bits are SplitMix64 (Steele, Lea, Flood 2014): one word
 * of state, seeded by the user. */
#include "sample.h"

#include <math.h>

static uint32_t argmax(const float *logits, uint32_t vocab_size)
{
    uint32_t best = 0;
    float best_logit = -INFINITY;
    for (uint32_t i = 0; i < vocab_size; i++)
        if (logits[i] > best_logit) {
            best_logit = logits[i];
            best = i;
        }
    return best;
}

static double uniform(qwen_sampler *sampler)
{
    uint64_t z = sampler->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

static double weight(float logit, float top, float temperature)
{
    double w = exp(((double)logit - (double)top) / (double)temperature);
    return w >= 0 ? w : 0; /* NaN weighs nothing */
}

uint32_t qwen_sample(qwen_sampler *sampler, const float *logits, uint32_t vocab_size)
{
    uint32_t best = argmax(logits, vocab_size);
    if (sampler->temperature <= 0)
        return best;
    double sum = 0;
    for (uint32_t i = 0; i < vocab_size; i++)
        sum += weight(logits[i], logits[best], sampler->temperature);
    double left = uniform(sampler) * sum;
    for (uint32_t i = 0; i < vocab_size; i++) {
        left -= weight(logits[i], logits[best], sampler->temperature);
        if (left < 0)
            return i;
    }
    return best; /* rounding used up the last crumb, or every logit is NaN */
}
