/* SPDX-License-Identifier: Apache-2.0 */
/* Greedy choice, and sampling over what temperature, top-k and top-p leave.
 *
 * transformers sorts the vocabulary for the last two. Here nothing is sorted and nothing allocated:
 * both want a *cut*, a logit below which all goes, and a cut is found digit by digit. A float's
 * bits, put into an order that integers have, are three digits of 11, 11 and 10 bits:
 *
 *   weigh all of a digit's values (one pass), walk up the digit's values until too much would go,
 *   look into that one value with the next digit
 *
 * For top-k a logit weighs one, for top-p it weighs its probability. Of equal logits at the cut of
 * top-p the ones with the lower ids go first; which ones torch's sort takes differs by machine.
 *
 * Random bits are SplitMix64 (Steele, Lea, Flood 2014): one word of state, seeded by the user. */
#include "sample.h"

#include <math.h>
#include <string.h>

#define DIGITS      3
#define DIGIT_COUNT 2048u /* values of the widest digit */

static const unsigned digit_shift[DIGITS] = {21, 10, 0};
static const unsigned digit_bits[DIGITS] = {11, 11, 10};

cenote_status qwen_sampling_check(const qwen_sampling *sampling, cenote_error *err)
{
    if (!(sampling->temperature >= 0) || isinf(sampling->temperature))
        return cenote_error_set(err, CENOTE_E_INVAL, "temperature %g is not 0 or above",
                                (double)sampling->temperature);
    if (!(sampling->top_p >= 0 && sampling->top_p <= 1))
        return cenote_error_set(err, CENOTE_E_INVAL, "top-p %g is not within 0 and 1",
                                (double)sampling->top_p);
    if (!(sampling->repetition_penalty >= 0) || isinf(sampling->repetition_penalty))
        return cenote_error_set(err, CENOTE_E_INVAL, "repetition penalty %g is not above 0",
                                (double)sampling->repetition_penalty);
    return CENOTE_OK;
}

/* ---- repetition ---- */

void qwen_penalize(float penalty, float *logits, uint32_t vocab_size, const uint32_t *ids,
                   uint64_t id_count, uint64_t *seen)
{
    for (uint64_t i = 0; i < id_count; i++) {
        uint32_t id = ids[i];
        if (id >= vocab_size || (seen[id / 64] >> id % 64 & 1) != 0)
            continue;
        seen[id / 64] |= UINT64_C(1) << id % 64;
        logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
    }
}

/* ---- cuts ---- */

/* Smaller floats have smaller keys; -INFINITY has the smallest of all numbers. */
static uint32_t key_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

/* What a logit weighs: its probability, up to a factor; or one. */
struct scale {
    bool count;
    float top; /* the largest logit */
};

static double weigh(const struct scale *scale, float logit)
{
    return scale->count ? 1 : exp((double)logit - (double)scale->top);
}

struct cut {
    uint32_t key;
    double below; /* what those with smaller keys weigh */
};

/* The largest key such that what lies below it weighs at most @p most. */
static struct cut find_cut(const float *logits, uint32_t vocab_size, const struct scale *scale,
                           double most)
{
    double weights[DIGIT_COUNT];
    bool there[DIGIT_COUNT];
    struct cut cut = {0, 0};
    for (int d = 0; d < DIGITS; d++) {
        unsigned shift = digit_shift[d], top_shift = shift + digit_bits[d];
        uint32_t values = 1u << digit_bits[d], last = 0;
        memset(weights, 0, sizeof weights);
        memset(there, 0, sizeof there);
        for (uint32_t i = 0; i < vocab_size; i++) {
            uint32_t key = key_of(logits[i]);
            if (d > 0 && key >> top_shift != cut.key >> top_shift)
                continue;
            uint32_t digit = key >> shift & (values - 1);
            weights[digit] += weigh(scale, logits[i]);
            there[digit] = true;
            last = digit > last ? digit : last;
        }
        uint32_t digit = 0;
        while (digit < last && (!there[digit] || cut.below + weights[digit] <= most))
            cut.below += weights[digit++];
        cut.key |= digit << shift;
    }
    return cut;
}

static void drop_below(float *logits, uint32_t vocab_size, uint32_t key)
{
    for (uint32_t i = 0; i < vocab_size; i++)
        if (key_of(logits[i]) < key)
            logits[i] = -INFINITY;
}

/* All that equal the k-th largest stay. */
static void keep_top_k(float *logits, uint32_t vocab_size, uint32_t k)
{
    const struct scale scale = {.count = true};
    if (k >= vocab_size)
        return;
    drop_below(logits, vocab_size, find_cut(logits, vocab_size, &scale, vocab_size - k).key);
}

/* Removes the least likely ones as long as they make up 1 - p at most; one stays. */
static void keep_top_p(float *logits, uint32_t vocab_size, float top, float p)
{
    const struct scale scale = {.top = top};
    double sum = 0;
    for (uint32_t i = 0; i < vocab_size; i++)
        sum += weigh(&scale, logits[i]);
    const double most = (1 - (double)p) * sum;
    const struct cut cut = find_cut(logits, vocab_size, &scale, most);
    drop_below(logits, vocab_size, cut.key);
    uint32_t equals = 0;
    double each = 0;
    for (uint32_t i = 0; i < vocab_size; i++)
        if (key_of(logits[i]) == cut.key) {
            equals++;
            each = weigh(&scale, logits[i]);
        }
    double gone = each > 0 ? floor((most - cut.below) / each) : 0;
    bool largest = cut.key == key_of(top);
    if (largest && gone >= equals)
        gone = equals - 1;
    for (uint32_t i = 0; i < vocab_size && gone >= 1; i++)
        if (key_of(logits[i]) == cut.key) {
            logits[i] = -INFINITY;
            gone--;
        }
}

/* ---- public ---- */

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

void qwen_filter(const qwen_sampling *sampling, float *logits, uint32_t vocab_size)
{
    if (sampling->temperature <= 0)
        return;
    float top = -INFINITY;
    for (uint32_t i = 0; i < vocab_size; i++) {
        float logit = logits[i] / sampling->temperature;
        logits[i] = isnan(logit) ? -INFINITY : logit;
        top = logits[i] > top ? logits[i] : top;
    }
    if (isinf(top))
        return; /* nothing to weigh: all are -INFINITY, or one is certain */
    if (sampling->top_k > 0)
        keep_top_k(logits, vocab_size, sampling->top_k);
    if (sampling->top_p > 0 && sampling->top_p < 1)
        keep_top_p(logits, vocab_size, top, sampling->top_p);
}

static double uniform(qwen_sampler *sampler)
{
    uint64_t z = sampler->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

uint32_t qwen_sample(qwen_sampler *sampler, float *logits, uint32_t vocab_size)
{
    if (sampler->sampling.temperature <= 0)
        return argmax(logits, vocab_size);
    qwen_filter(&sampler->sampling, logits, vocab_size);
    uint32_t best = argmax(logits, vocab_size);
    const struct scale scale = {.top = logits[best]};
    if (isinf(scale.top))
        return best;
    double sum = 0;
    for (uint32_t i = 0; i < vocab_size; i++)
        sum += weigh(&scale, logits[i]);
    double left = uniform(sampler) * sum;
    for (uint32_t i = 0; i < vocab_size; i++) {
        left -= weigh(&scale, logits[i]);
        if (left < 0)
            return i;
    }
    return best; /* rounding used up the last crumb */
}
