/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling: greedy takes the first of the largest; temperature draws follow the softmax. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sample.h"

static void test_greedy(void **state)
{
    (void)state;
    qwen_sampler greedy = {0, 1};
    const float tie[] = {1, 3, 3, -INFINITY};
    assert_int_equal(qwen_sample(&greedy, tie, 4), 1);
    const float nan[] = {NAN, -5, NAN, -4};
    assert_int_equal(qwen_sample(&greedy, nan, 4), 3);
    assert_int_equal(greedy.state, 1); /* greedy uses up no random numbers */
}

static void test_same_seed_same_tokens(void **state)
{
    (void)state;
    const float logits[] = {0.1f, 0.2f, 0.3f, 0.4f};
    qwen_sampler a = {1, 42}, b = {1, 42}, c = {1, 43};
    int differ = 0;
    for (int i = 0; i < 200; i++) {
        uint32_t x = qwen_sample(&a, logits, 4);
        assert_int_equal(x, qwen_sample(&b, logits, 4));
        differ += x != qwen_sample(&c, logits, 4);
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
    qwen_sampler sampler = {temperature, 7};
    for (int i = 0; i < draws; i++)
        counts[qwen_sample(&sampler, logits, 6)]++;
    for (int i = 0; i < 6; i++) {
        double p = weights[i] / sum;
        assert_true(fabs(counts[i] - p * draws) <= 5 * sqrt(p * (1 - p) * draws));
    }
}

static void test_odd_logits(void **state)
{
    (void)state;
    qwen_sampler sampler = {0.5f, 3};
    const float all_nan[] = {NAN, NAN};
    assert_true(qwen_sample(&sampler, all_nan, 2) < 2);
    const float infinite[] = {0, INFINITY};
    assert_int_equal(qwen_sample(&sampler, infinite, 2), 1);
    const float one[] = {-3};
    assert_int_equal(qwen_sample(&sampler, one, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_same_seed_same_tokens),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_odd_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
