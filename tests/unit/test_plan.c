/* SPDX-License-Identifier: Apache-2.0 */
/* The plan: its parts add up, the smallest budget is sharp, and more memory never buys less. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "layout.h"
#include "model.h"
#include "qwen3vl.h"
#include "sample.h"

#define MIB (1u << 20)

struct fixture {
    cenote_budget *budget;
    qwen_model model; /* only what a plan looks at */
};

/* The 2B shapes, with the sums that binding a checkpoint would give. */
static int set_up(void **state)
{
    static struct fixture fixture;
    memset(&fixture, 0, sizeof fixture);
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = UINT64_C(1) << 40;
    options.process_bytes = QWEN_PROCESS_BYTES;
    assert_int_equal(cenote_budget_create(&options, &fixture.budget, NULL), CENOTE_OK);
    qwen_model *model = &fixture.model;
    model->budget = fixture.budget;
    model->config.text = (qwen_text_config){.vocab_size = 151936,
                                            .hidden = 2048,
                                            .ffn = 6144,
                                            .layer_count = 28,
                                            .head_count = 16,
                                            .kv_head_count = 8,
                                            .head_dim = 128,
                                            .position_max = 262144};
    model->config.vision = (qwen_vision_config){.depth = 24,
                                                .hidden = 1024,
                                                .ffn = 4096,
                                                .head_count = 16,
                                                .channels = 3,
                                                .patch_size = 16,
                                                .temporal_patch_size = 2,
                                                .merge_size = 2,
                                                .out_hidden = 2048,
                                                .position_side = 48,
                                                .deepstack_count = 3};
    model->embed_dtype = model->position_dtype = model->head.dtype = CENOTE_DTYPE_BF16;
    model->resident_floats = 500000;
    model->panel_bytes_max = MIB;
    model->k_max = 6144;
    model->layers_weight_bytes = UINT64_C(28) * 100663296;
    model->head_weight_bytes = 622329856;
    model->vision_weight_bytes = 808000000;
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    cenote_budget_destroy(fixture->budget);
    return 0;
}

static qwen_shape picture_shape(uint32_t grid, uint32_t max_tokens)
{
    qwen_shape shape = {.image_count = 1,
                        .prompt_tokens = grid * grid / 4 + 20,
                        .max_tokens = max_tokens,
                        .kv_dtype = CENOTE_DTYPE_F32,
                        .thread_count = 2};
    shape.grid_h[0] = shape.grid_w[0] = grid;
    shape.decode_bytes[0] = 3 * MIB;
    return shape;
}

static qwen_plan plan_for(const struct fixture *fixture, const qwen_shape *shape, uint64_t limit)
{
    qwen_plan plan;
    assert_int_equal(qwen_plan_make(&fixture->model, shape, limit, &plan, NULL), CENOTE_OK);
    return plan;
}

static uint64_t sum(const qwen_plan *plan)
{
    return plan->process_bytes + plan->tables_bytes + plan->books_bytes + plan->weights_bytes +
           plan->scratch_bytes + plan->staging_bytes + plan->kv_bytes + plan->image_bytes +
           plan->activation_bytes;
}

static void test_smallest_is_sharp(void **state)
{
    const struct fixture *fixture = *state;
    for (uint32_t grid = 8; grid <= 96; grid += 8) {
        qwen_shape shape = picture_shape(grid, grid % 16 == 0 ? 0 : 40);
        uint64_t smallest = plan_for(fixture, &shape, 1).smallest_bytes;
        qwen_plan below = plan_for(fixture, &shape, smallest - 1);
        qwen_plan exact = plan_for(fixture, &shape, smallest);
        assert_false(below.fits);
        assert_int_equal(below.smallest_bytes, smallest);
        assert_true(exact.fits);
        assert_true(sum(&exact) <= smallest);
        assert_int_equal(sum(&below), smallest);
    }
}

static void test_issue_bound(void **state)
{
    const struct fixture *fixture = *state;
    qwen_shape shape = picture_shape(16, 4);
    assert_true(plan_for(fixture, &shape, 1).smallest_bytes <= 192u * MIB);
}

static void test_more_memory_buys_more(void **state)
{
    const struct fixture *fixture = *state;
    qwen_shape shape = picture_shape(64, 0);
    shape.prompt_tokens = 3000;
    qwen_plan before = {0};
    for (uint64_t limit = 64 * MIB; limit <= 4096ull * MIB; limit += 16 * MIB) {
        qwen_plan plan = plan_for(fixture, &shape, limit);
        if (!plan.fits)
            continue;
        assert_true(sum(&plan) <= limit);
        assert_true(plan.max_tokens >= 16 && plan.max_tokens <= 512);
        assert_true(plan.slot_count >= 2);
        assert_true(plan.prefill_chunk_tokens * plan.prefill_weight_passes >= shape.prompt_tokens);
        if (before.fits)
            assert_true(plan.prefill_weight_passes <= before.prefill_weight_passes);
        before = plan;
    }
    assert_true(before.fits);
    assert_int_equal(before.prefill_weight_passes, 1);
    assert_int_equal(before.max_tokens, 512);
    assert_int_equal(before.slot_count, 8);
}

/* What is left holds weights: all that a budget has above the smallest, but 8 MiB; in each phase
 * no more than there is room for. */
static void test_the_rest_is_resident(void **state)
{
    struct fixture *fixture = *state;
    qwen_shape shape = picture_shape(32, 64);
    qwen_model *model = &fixture->model;
    uint64_t weights = model->layers_weight_bytes + model->head_weight_bytes;
    model->whole_plain_bytes = weights + weights / 500;
    model->whole_packed_bytes = weights * 19 / 25;
    for (int unpacked = 0; unpacked < 2; unpacked++) {
        shape.unpacked = unpacked;
        uint64_t smallest = plan_for(fixture, &shape, 1).smallest_bytes;
        uint64_t read_before = UINT64_MAX;
        for (uint64_t limit = smallest; limit <= 5ull << 30; limit += 37 * MIB) {
            qwen_plan plan = plan_for(fixture, &shape, limit);
            uint64_t stays = sum(&plan) - plan.image_bytes - plan.activation_bytes;
            assert_true(sum(&plan) + plan.resident_vision_bytes <= limit);
            assert_true(stays + plan.image_bytes + plan.prefill_bytes +
                            plan.resident_prefill_bytes <=
                        limit);
            assert_true(stays + plan.token_bytes + plan.resident_bytes <= limit);
            assert_true(plan.resident_vision_bytes <= plan.resident_prefill_bytes);
            assert_true(plan.resident_prefill_bytes <= plan.resident_bytes);
            uint64_t held = plan.weight_bytes_per_token - plan.bytes_per_token;
            uint64_t promised = limit < smallest + 8 * MIB ? 0 : limit - smallest - 8 * MIB;
            uint64_t tables = unpacked ? promised / 400 : 0; /* page tables, 1/512 */
            assert_true(held >= (promised < weights ? promised - tables : weights));
            assert_true(plan.bytes_per_token <= read_before);
            read_before = plan.bytes_per_token;
            assert_int_equal(plan.resident_encoding,
                             unpacked ? CENOTE_ENCODING_PLAIN : CENOTE_ENCODING_BF12);
        }
        uint64_t whole = plan_for(fixture, &shape, smallest + 100 * MIB).whole_bytes;
        qwen_plan least = plan_for(fixture, &shape, whole);
        assert_int_equal(least.bytes_per_token, least.weight_bytes_per_token - weights);
        assert_true(plan_for(fixture, &shape, whole - 64 * MIB).bytes_per_token >
                    least.bytes_per_token);
        qwen_plan all = plan_for(fixture, &shape, 6ull << 30);
        assert_int_equal(all.resident_bytes,
                         unpacked ? model->whole_plain_bytes : model->whole_packed_bytes);
    }
}

static uint64_t places(uint64_t size_bytes)
{
    return (size_bytes + 63) / 64 * 64;
}

static uint64_t max_of(const uint64_t *values, unsigned count)
{
    uint64_t most = 0;
    for (unsigned i = 0; i < count; i++)
        most = values[i] > most ? values[i] : most;
    return most;
}

/* What each step of the decoder needs, by hand. */
static uint64_t decoder_needs(const qwen_model *model, uint64_t tokens, uint64_t rows,
                              uint64_t token_max)
{
    const qwen_text_config *text = &model->config.text;
    uint64_t floats = tokens * 4, residual = places(floats * text->hidden);
    uint64_t q = places(floats * text->head_count * text->head_dim);
    uint64_t kv = places(floats * text->kv_head_count * text->head_dim);
    uint64_t angles = 2 * places(floats * text->head_dim / 2);
    uint64_t pointers = 2 * places((token_max + 15) / 16 * sizeof(void *));
    uint64_t logits = places(rows * text->vocab_size * 4);
    const uint64_t steps[] = {
        residual + places(text->hidden * 2ull),                 /* embedding */
        2 * residual + angles + q + 2 * kv,                     /* q, k, v */
        2 * residual + angles + q + pointers,                   /* attention */
        2 * residual + angles + 2 * places(floats * text->ffn), /* MLP */
        2 * residual + logits,                                  /* head */
        logits + places(qwen_seen_bytes(text->vocab_size)),     /* choice */
    };
    return max_of(steps, 6);
}

static uint64_t tower_needs(const qwen_model *model, uint64_t patches)
{
    const qwen_vision_config *vision = &model->config.vision;
    uint64_t floats = patches * 4, residual = places(floats * vision->hidden);
    uint64_t pixels = places(floats * qwen_patch_columns(vision));
    uint64_t angles = 2 * places(floats * (vision->hidden / vision->head_count / 2));
    uint64_t line = vision->position_side * (uint64_t)vision->hidden;
    uint64_t pointers = 2 * places((patches + 15) / 16 * sizeof(void *));
    const uint64_t steps[] = {
        pixels + residual,
        residual + angles + places(8 * line) + places(2 * line),
        2 * residual + angles + places(floats * vision->ffn) + pointers,
    };
    return max_of(steps, 3);
}

/* A phase's block is what its neediest step needs, and not a byte more: it grows with the tokens,
 * as the search for a plan takes for granted. */
static void test_activations_share_places(void **state)
{
    const struct fixture *fixture = *state;
    const qwen_model *model = &fixture->model;
    qwen_text_layout text;
    qwen_vision_layout vision;
    uint64_t before = 0;
    for (uint64_t tokens = 1; tokens < 5000; tokens += 1 + tokens / 9)
        for (uint64_t rows = 1; rows <= 8; rows += 7) {
            qwen_text_layout_make(model, tokens, rows, 262144, &text);
            assert_int_equal(text.size_bytes, decoder_needs(model, tokens, rows, 262144));
        }
    for (uint64_t patches = 16; patches < 50000; patches += 4 + patches / 9) {
        qwen_vision_layout_make(model, patches, patches, &vision);
        assert_int_equal(vision.size_bytes, tower_needs(model, patches));
        assert_true(vision.size_bytes >= before);
        before = vision.size_bytes;
    }
    /* the logits of 512 tokens lie where gate and up were, 600 KB that once came on top */
    qwen_text_layout_make(model, 512, 1, 600, &text);
    assert_true(text.size_bytes < 512 * 4 * (2 * 2048 + 2 * 6144 + 128) + 4096);
}

static void test_bytes_follow_the_passes(void **state)
{
    const struct fixture *fixture = *state;
    qwen_shape shape = picture_shape(64, 8);
    shape.prompt_tokens = 3000;
    uint64_t smallest = plan_for(fixture, &shape, 1).smallest_bytes;
    qwen_plan tight = plan_for(fixture, &shape, smallest);
    qwen_plan roomy = plan_for(fixture, &shape, UINT64_C(8) << 30);
    assert_true(tight.prefill_weight_passes > 1);
    assert_int_equal(tight.bytes_prefill - roomy.bytes_prefill,
                     (tight.prefill_weight_passes - 1) * fixture->model.layers_weight_bytes);
    assert_int_equal(tight.bytes_per_token, roomy.bytes_per_token);
}

static void test_kv_type_halves_the_cache(void **state)
{
    const struct fixture *fixture = *state;
    qwen_shape shape = picture_shape(16, 1000);
    qwen_plan full = plan_for(fixture, &shape, 1);
    shape.kv_dtype = CENOTE_DTYPE_BF16;
    qwen_plan half = plan_for(fixture, &shape, 1);
    assert_true(half.kv_bytes < full.kv_bytes * 11 / 20);
}

static void test_refusals(void **state)
{
    const struct fixture *fixture = *state;
    qwen_plan plan;
    cenote_error err = {0};
    qwen_shape shape = picture_shape(16, 300000);
    assert_int_equal(qwen_plan_make(&fixture->model, &shape, 1, &plan, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "262144"));
    shape.prompt_tokens = 0;
    assert_int_equal(qwen_plan_make(&fixture->model, &shape, 1, &plan, &err), CENOTE_E_INVAL);
}

/* Each thread's stack is counted, the readers' too. */
static void test_threads_are_paid_for(void **state)
{
    const struct fixture *fixture = *state;
    qwen_shape shape = picture_shape(16, 4);
    shape.thread_count = 1;
    qwen_plan one = plan_for(fixture, &shape, UINT64_C(4096) * MIB);
    shape.thread_count = 9;
    qwen_plan nine = plan_for(fixture, &shape, UINT64_C(4096) * MIB);
    assert_true(one.process_bytes >= QWEN_PROCESS_BYTES + (64u << 10));
    assert_int_equal(nine.process_bytes - one.process_bytes, 8 * (64u << 10));
    assert_true(nine.smallest_bytes > one.smallest_bytes);
}

static void test_explain(void **state)
{
    const struct fixture *fixture = *state;
    qwen_shape shape = picture_shape(16, 8);
    qwen_plan plan = plan_for(fixture, &shape, 1);
    char text[512], wanted[64];
    qwen_plan_explain(&plan, text, sizeof text);
    snprintf(wanted, sizeof wanted, "needs at least %llu MiB: ",
             (unsigned long long)((plan.smallest_bytes + MIB - 1) / MIB));
    assert_memory_equal(text, wanted, strlen(wanted));
    assert_non_null(strstr(text, "KV for 92 tokens"));
    char cut[20]; /* must not write past a short buffer */
    qwen_plan_explain(&plan, cut, sizeof cut);
    assert_true(memchr(cut, '\0', sizeof cut) != NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_smallest_is_sharp, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_issue_bound, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_more_memory_buys_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_rest_is_resident, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_activations_share_places, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bytes_follow_the_passes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_kv_type_halves_the_cache, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads_are_paid_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_explain, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
