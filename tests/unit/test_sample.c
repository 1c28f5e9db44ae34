/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling: greedy takes the first of the largest; penalty, temperature, top-k and top-p leave what
 * transformers' processors leave, to the bit (tests/data/sampling); draws follow the softmax. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <jansson.h>
#include <string.h>

#include "sample.h"

static qwen_sampler sampler_of(float temperature, uint64_t seed)
{
    const qwen_sampling sampling = {.temperature = temperature, .seed = seed};
    return qwen_sampler_make(&sampling);
}

/* qwen_sample() uses its logits up. */
static uint32_t sample(qwen_sampler *sampler, const float *logits, uint32_t count)
{
    float copy[16];
    assert_true(count <= 16);
    memcpy(copy, logits, count * sizeof *copy);
    return qwen_sample(sampler, copy, count);
}

static void test_greedy(void **state)
{
    (void)state;
    qwen_sampler greedy = sampler_of(0, 1);
    const float tie[] = {1, 3, 3, -INFINITY};
    assert_int_equal(sample(&greedy, tie, 4), 1);
    const float nan[] = {NAN, -5, NAN, -4};
    assert_int_equal(sample(&greedy, nan, 4), 3);
    assert_int_equal(greedy.state, 1); /* greedy uses up no random numbers */
}

static void test_same_seed_same_tokens(void **state)
{
    (void)state;
    const float logits[] = {0.1f, 0.2f, 0.3f, 0.4f};
    qwen_sampler a = sampler_of(1, 42), b = sampler_of(1, 42), c = sampler_of(1, 43);
    int differ = 0;
    for (int i = 0; i < 200; i++) {
        uint32_t x = sample(&a, logits, 4);
        assert_int_equal(x, sample(&b, logits, 4));
        differ += x != sample(&c, logits, 4);
    }
    assert_true(differ > 50);
}

/* Counts of 100,000 draws within five standard deviations of the softmax. */
static void test_distribution(void **state)
{
    (void)state;
    const float logits[] = {2, 0, -1, NAN, 1, -INFINITY};
    const float temperature = 0.7f;
    double weights[6], sum = 0;
    for (int i = 0; i < 6; i++) {
        weights[i] = isnan(logits[i]) ? 0 : exp((double)logits[i] / (double)temperature);
        sum += weights[i];
    }
    int counts[6] = {0};
    const int draws = 100000;
    qwen_sampler sampler = sampler_of(temperature, 7);
    for (int i = 0; i < draws; i++)
        counts[sample(&sampler, logits, 6)]++;
    for (int i = 0; i < 6; i++) {
        double p = weights[i] / sum;
        assert_true(fabs(counts[i] - p * draws) <= 5 * sqrt(p * (1 - p) * draws));
    }
}

static void test_odd_logits(void **state)
{
    (void)state;
    qwen_sampler sampler = sampler_of(0.5f, 3);
    const float all_nan[] = {NAN, NAN};
    assert_true(sample(&sampler, all_nan, 2) < 2);
    const float infinite[] = {0, INFINITY};
    assert_int_equal(sample(&sampler, infinite, 2), 1);
    const float one[] = {-3};
    assert_int_equal(sample(&sampler, one, 1), 0);
}

/* ---- transformers' processors ---- */

#define VOCAB_MAX 128u

static uint32_t floats_of(const json_t *array, float *out)
{
    size_t i;
    json_t *value;
    json_array_foreach(array, i, value) out[i] =
        json_is_null(value) ? -INFINITY : (float)json_number_value(value);
    return (uint32_t)i;
}

static float real_of(const json_t *object, const char *key)
{
    return (float)json_number_value(json_object_get(object, key));
}

static unsigned count_of(const float *values, uint32_t count, float value)
{
    unsigned found = 0;
    for (uint32_t i = 0; i < count; i++)
        found += values[i] == value;
    return found;
}

static void vector_check(const json_t *entry)
{
    float logits[VOCAB_MAX], scores[VOCAB_MAX];
    uint32_t ids[32], id_count = 0;
    const json_t *given = json_object_get(entry, "sampling");
    const qwen_sampling sampling = {
        .temperature = real_of(given, "temperature"),
        .top_k = (uint32_t)json_integer_value(json_object_get(given, "top_k")),
        .top_p = real_of(given, "top_p"),
    };
    uint32_t count = floats_of(json_object_get(entry, "logits"), logits);
    assert_int_equal(floats_of(json_object_get(entry, "scores"), scores), count);
    size_t i;
    json_t *id;
    json_array_foreach(json_object_get(entry, "ids"), i, id) ids[id_count++] =
        (uint32_t)json_integer_value(id);
    uint64_t seen[2] = {0};
    assert_int_equal(qwen_seen_bytes(count), sizeof seen);
    float penalty = real_of(given, "repetition_penalty");
    qwen_penalize(penalty, logits, count, ids, id_count / 2, seen); /* in two parts */
    qwen_penalize(penalty, logits, count, ids + id_count / 2, id_count - id_count / 2, seen);
    qwen_filter(&sampling, logits, count);
    /* Which of equal logits go is torch's sort's to say, and differs by machine; how many, not. */
    for (uint32_t k = 0; k < count; k++) {
        float kept = logits[k] > scores[k] ? logits[k] : scores[k];
        bool one_of_equals = (isinf(logits[k]) || isinf(scores[k])) &&
                             count_of(logits, count, kept) == count_of(scores, count, kept);
        if (logits[k] != scores[k] && !one_of_equals)
            fail_msg("%s, k %u, p %g: score %u is %.9g, not %.9g",
                     json_string_value(json_object_get(entry, "row")), sampling.top_k,
                     (double)sampling.top_p, k, (double)logits[k], (double)scores[k]);
    }
}

static void test_as_transformers(void **state)
{
    (void)state;
    json_t *all = json_load_file(TEST_DATA_DIR "/sampling/vectors.json", 0, NULL);
    assert_non_null(all);
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(all, "cases"), i, entry) vector_check(entry);
    assert_true(i >= 40);
    json_decref(all);
}

/* Against sorting, on rows of every kind of float; equal ones too. */
static uint32_t random_word(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static int by_value(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static void test_against_sorting(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 2000; round++) {
        float logits[VOCAB_MAX], sorted[VOCAB_MAX], kept[VOCAB_MAX];
        uint32_t count = 1 + random_word() % VOCAB_MAX, kinds = 1 + random_word() % 200;
        for (uint32_t i = 0; i < count; i++) {
            logits[i] = ((float)(random_word() % kinds) - (float)kinds / 2) / 8;
            if (round % 3 == 0)
                logits[i] *= 1 + (float)random_word() * 0x1p-32f;
        }
        memcpy(sorted, logits, count * sizeof *sorted);
        qsort(sorted, count, sizeof *sorted, by_value);
        qwen_sampling sampling = {.temperature = 1, .top_k = 1 + random_word() % count};
        memcpy(kept, logits, count * sizeof *kept);
        qwen_filter(&sampling, kept, count);
        float kth = sorted[count - sampling.top_k];
        for (uint32_t i = 0; i < count; i++)
            assert_true(kept[i] == (logits[i] >= kth ? logits[i] : -INFINITY));

        sampling =
            (qwen_sampling){.temperature = 1, .top_p = (1 + (float)(random_word() % 998)) / 1000};
        memcpy(kept, logits, count * sizeof *kept);
        qwen_filter(&sampling, kept, count);
        double sum = 0, gone = 0, least = INFINITY;
        for (uint32_t i = 0; i < count; i++) {
            double w = exp((double)logits[i]);
            sum += w;
            if (isinf(kept[i]))
                gone += w;
            else
                least = w < least ? w : least;
        }
        /* No more goes than may, and one more would be too much. */
        double most = (1 - (double)sampling.top_p) * sum;
        assert_true(gone <= most * (1 + 1e-12));
        assert_true(gone + least > most * (1 - 1e-12));
        for (uint32_t i = 0; i < count; i++)
            assert_true(!isinf(kept[i]) || exp((double)logits[i]) <= least);
    }
}

/* However little is asked for, the likeliest stays. */
static void test_one_stays(void **state)
{
    (void)state;
    float logits[] = {1, 3, 3, 2};
    const qwen_sampling sampling = {.temperature = 1, .top_p = FLT_MIN};
    qwen_filter(&sampling, logits, 4);
    assert_int_equal(count_of(logits, 4, 3), 1);
    assert_int_equal(count_of(logits, 4, -INFINITY), 3);
}

/* Draws stay among what is left. */
static void test_draws_what_is_left(void **state)
{
    (void)state;
    const float logits[] = {1, 2, 3, 4, 5, 6, 7, NAN};
    const qwen_sampling sampling = {.temperature = 3, .top_k = 4, .top_p = 0.85f, .seed = 9};
    qwen_sampler sampler = qwen_sampler_make(&sampling);
    unsigned counts[8] = {0};
    for (int i = 0; i < 4000; i++)
        counts[sample(&sampler, logits, 8)]++;
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(counts[i] > 0, i >= 4 && i <= 6);
}

static void test_out_of_range(void **state)
{
    (void)state;
    cenote_error err;
    const qwen_sampling fine[] = {{0}, {.temperature = 5, .top_k = 7, .top_p = 1}};
    const qwen_sampling bad[] = {
        {.temperature = -1},
        {.temperature = NAN},
        {.temperature = INFINITY},
        {.top_p = 1.5f},
        {.top_p = -0.5f},
        {.top_p = NAN},
        {.repetition_penalty = -1},
        {.repetition_penalty = NAN},
        {.repetition_penalty = INFINITY},
    };
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(qwen_sampling_check(&fine[i], &err), CENOTE_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(qwen_sampling_check(&bad[i], &err), CENOTE_E_INVAL);
    /* An id that the logits have no place for, as an image pad of a small vocabulary. */
    float logits[2] = {1, -1};
    const uint32_t ids[] = {7, 1, UINT32_MAX, 0, 1};
    uint64_t seen[1] = {0};
    qwen_penalize(2, logits, 2, ids, 5, seen);
    assert_true(logits[0] == 0.5f && logits[1] == -2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),          cmocka_unit_test(test_same_seed_same_tokens),
        cmocka_unit_test(test_distribution),    cmocka_unit_test(test_odd_logits),
        cmocka_unit_test(test_as_transformers), cmocka_unit_test(test_against_sorting),
        cmocka_unit_test(test_one_stays),       cmocka_unit_test(test_draws_what_is_left),
        cmocka_unit_test(test_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
