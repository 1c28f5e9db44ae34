/* SPDX-License-Identifier: Apache-2.0 */
/* Attention in strips: the same bits as one call, and an end between two strips when a signal asks
 * for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dense_support.h"
#include "run.h"

#define QUERIES  600u /* three strips, the last a short one */
#define HEADS    2u
#define HEAD_DIM 32u
#define BEFORE   5u /* keys before the first query */
#define KEYS     (QUERIES + BEFORE)
#define BLOCKS   ((KEYS + CENOTE_KV_BLOCK_TOKENS - 1) / CENOTE_KV_BLOCK_TOKENS)
#define MARK     12345.0f

static float q[QUERIES * HEADS * HEAD_DIM];
static float kv[2][BLOCKS * CENOTE_KV_BLOCK_TOKENS * HEAD_DIM]; /* one head of keys and values */
static const void *keys[BLOCKS], *values[BLOCKS];

static int set_up(void **state)
{
    (void)state;
    uint32_t random = 1;
    float *const all[] = {q, kv[0], kv[1]};
    const size_t counts[] = {sizeof q / sizeof *q, sizeof kv[0] / sizeof *kv[0],
                             sizeof kv[1] / sizeof *kv[1]};
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < counts[i]; j++) {
            random = random * 1664525u + 1013904223u;
            all[i][j] = (float)(random >> 8) * 0x1p-23f - 1.0f;
        }
    for (size_t b = 0; b < BLOCKS; b++) {
        keys[b] = kv[0] + b * CENOTE_KV_BLOCK_TOKENS * HEAD_DIM;
        values[b] = kv[1] + b * CENOTE_KV_BLOCK_TOKENS * HEAD_DIM;
    }
    return 0;
}

static qwen_attention attention_into(float *out, bool causal)
{
    for (size_t i = 0; i < sizeof q / sizeof *q; i++)
        out[i] = MARK;
    return (qwen_attention){
        .q = q,
        .q_stride = (size_t)HEADS * HEAD_DIM,
        .out = out,
        .out_stride = (size_t)HEADS * HEAD_DIM,
        .query_count = QUERIES,
        .head_count = HEADS,
        .kv_head_count = 1,
        .head_dim = HEAD_DIM,
        .keys = keys,
        .values = values,
        .row_stride = HEAD_DIM,
        .kv_dtype = CENOTE_DTYPE_F32,
        .key_count = KEYS,
        .causal = causal,
        .first_position = BEFORE,
        .scale = 0.2f,
    };
}

static void test_strips_change_no_bit(void **state)
{
    (void)state;
    static float whole[QUERIES * HEADS * HEAD_DIM], strips[QUERIES * HEADS * HEAD_DIM];
    static const qwen_events no_events = {0};
    volatile sig_atomic_t cancelled = 0;
    dense_rig rig;
    assert_true(dense_rig_open(&rig, QWEN_ISA_AUTO, 2, HEAD_DIM));
    qwen_run run = {.kernels = rig.kernels, .events = &no_events, .cancelled = &cancelled};
    for (int causal = 0; causal < 2; causal++) {
        qwen_attention attention = attention_into(whole, causal);
        qwen_attend(rig.kernels, &attention);
        attention = attention_into(strips, causal);
        assert_int_equal(qwen_run_attend(&run, &attention, NULL), CENOTE_OK);
        assert_memory_equal(whole, strips, sizeof whole);
    }
    dense_rig_close(&rig);
}

static void cancel(void *context, qwen_phase phase, uint64_t done, uint64_t total)
{
    (void)phase;
    (void)done;
    (void)total;
    *(volatile sig_atomic_t *)context = 1;
}

static void test_ends_between_strips(void **state)
{
    (void)state;
    static float out[QUERIES * HEADS * HEAD_DIM];
    volatile sig_atomic_t cancelled = 0;
    const qwen_events events = {.context = (void *)(uintptr_t)&cancelled, .progress = cancel};
    cenote_error err;
    dense_rig rig;
    assert_true(dense_rig_open(&rig, QWEN_ISA_AUTO, 2, HEAD_DIM));
    /* progress_last_ns is long ago: the first strip reports. */
    qwen_run run = {.kernels = rig.kernels, .events = &events, .cancelled = &cancelled};
    qwen_attention attention = attention_into(out, false);
    assert_int_equal(qwen_run_attend(&run, &attention, &err), CENOTE_E_CANCELLED);
    assert_true(out[0] != MARK);                              /* one strip was done */
    assert_true(out[QUERIES * HEADS * HEAD_DIM - 1] == MARK); /* the last one was not */
    attention = attention_into(out, false);
    assert_int_equal(qwen_run_attend(&run, &attention, &err), CENOTE_E_CANCELLED);
    assert_true(out[0] == MARK);
    dense_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strips_change_no_bit),
        cmocka_unit_test(test_ends_between_strips),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
