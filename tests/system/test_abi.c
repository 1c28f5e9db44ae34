/* SPDX-License-Identifier: Apache-2.0 */
/* What programs that were compiled against version 0.1 rely on: the sizes and offsets of structs
 * that cross the border, the values of enums, the versions of options. A change here needs a new
 * version of the options struct or of the library. Only where long and pointers have 64 bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#define SIZE(type, bytes)        assert_int_equal(sizeof(type), bytes)
#define AT(type, member, offset) assert_int_equal(offsetof(type, member), offset)

static void test_options(void **state)
{
    (void)state;
    SIZE(cenote_budget_options, 32);
    AT(cenote_budget_options, limit_bytes, 8);
    AT(cenote_budget_options, os, 24);
    SIZE(cenote_pool_options, 32);
    AT(cenote_pool_options, class_id, 4);
    AT(cenote_pool_options, quota_bytes, 8);
    AT(cenote_pool_options, priority, 16);
    AT(cenote_pool_options, debug_level, 20);
    AT(cenote_pool_options, exact_runs, 24);
    SIZE(cenote_kv_options, 32);
    AT(cenote_kv_options, token_count_max, 16);
    AT(cenote_kv_options, dtype, 24);
    SIZE(cenote_weights_options, 8);
    AT(cenote_weights_options, io_mode, 4);
    SIZE(cenote_stream_options, 48);
    AT(cenote_stream_options, panel_bytes_max, 8);
    AT(cenote_stream_options, depth, 20);
    SIZE(cenote_stream_item, 8);
    SIZE(cenote_tensor_options, 168);
    AT(cenote_tensor_options, shape, 16);
    AT(cenote_tensor_options, dropped, 144);
    AT(cenote_tensor_options, rebuild_bytes, 160);
    SIZE(cenote_compact_options, 40);
    AT(cenote_compact_options, max_bytes, 8);
    AT(cenote_compact_options, veto_context, 32);
    SIZE(cenote_buddy_options, 32);
    AT(cenote_buddy_options, start, 8);
    AT(cenote_buddy_options, leaf_bytes, 24);
    SIZE(cenote_tensor_spec, 72);
    AT(cenote_tensor_spec, shape, 8);
    SIZE(cenote_tensor_cache_options, 24);
    AT(cenote_tensor_cache_options, pools, 8);
    SIZE(cenote_tensor_prewarm, 80);
    assert_int_equal(CENOTE_BUDGET_OPTIONS_VERSION, 1);
    assert_int_equal(CENOTE_TENSOR_CACHE_OPTIONS_VERSION, 1);
    assert_int_equal(CENOTE_TENSOR_OPTIONS_VERSION, 1);
    assert_int_equal(CENOTE_COMPACT_OPTIONS_VERSION, 1);
    assert_int_equal(CENOTE_POOL_OPTIONS_VERSION, 2);
    assert_int_equal(CENOTE_KV_OPTIONS_VERSION, 1);
    assert_int_equal(CENOTE_WEIGHTS_OPTIONS_VERSION, 1);
    assert_int_equal(CENOTE_STREAM_OPTIONS_VERSION, 2);
    assert_int_equal(CENOTE_BUDDY_OPTIONS_VERSION, 1);
}

static void test_reports(void **state)
{
    (void)state;
    SIZE(cenote_error, 4 + CENOTE_ERROR_MESSAGE_BYTES);
    AT(cenote_error, message, 4);
    SIZE(cenote_machine_memory, 48);
    SIZE(cenote_process_memory, 32);
    SIZE(cenote_cache, 24);
    SIZE(cenote_device_shape, 16);
    SIZE(cenote_hardware, 184);
    AT(cenote_hardware, l3, 112);
    AT(cenote_hardware, vector_bytes, 144);
    AT(cenote_hardware, device, 168);
    SIZE(cenote_gemm_shape, 40);
    SIZE(cenote_gemm_blocks, 24);
    SIZE(cenote_reclaim_stats, 24);
    SIZE(cenote_budget_stats, 152);
    AT(cenote_budget_stats, reclaim, 32);
    SIZE(cenote_budget_holder, 72);
    AT(cenote_budget_holder, quota_bytes, 8);
    SIZE(cenote_pool_stats, 200);
    SIZE(cenote_tensor_cache_stats, 88);
    AT(cenote_tensor_cache_stats, hit_rate, 80);
    SIZE(cenote_tensor_cache_shape, 112);
    AT(cenote_tensor_cache_shape, spec, 16);
    AT(cenote_pool_stats, miss_count, 112);
    AT(cenote_pool_stats, internal_fragmentation, 168);
    SIZE(cenote_tensor_info, 104);
    AT(cenote_tensor_info, shape, 16);
    AT(cenote_tensor_info, offset_bytes, 88);
    AT(cenote_tensor_info, size_bytes, 96);
    SIZE(cenote_tensor, 8);
    SIZE(cenote_tensor_state, 160);
    AT(cenote_tensor_state, dropped, 21);
    AT(cenote_tensor_state, size_bytes, 152);
    SIZE(cenote_tensor_stats, 64);
    SIZE(cenote_compact_result, 40);
    AT(cenote_compact_result, done, 32);
    SIZE(cenote_weights_stats, 72);
    AT(cenote_weights_stats, engine, 64);
    SIZE(cenote_panel, 56);
    AT(cenote_panel, row_first, 24);
    AT(cenote_panel, slot, 48);
    SIZE(cenote_resident_stats, 40);
    SIZE(cenote_trace_op, 56);
    AT(cenote_trace_op, kind, 8);
    AT(cenote_trace_op, tag, 24);
    AT(cenote_trace_op, id, 32);
    SIZE(cenote_buddy_block, 24);
    AT(cenote_buddy_block, kind, 16);
    SIZE(cenote_buddy_stats, 96);
    AT(cenote_buddy_stats, largest_block_bytes, 48);
    AT(cenote_buddy_stats, occupancy, 72);
}

static void test_values(void **state)
{
    (void)state;
    assert_int_equal(CENOTE_E_INVAL, -1);
    assert_int_equal(CENOTE_E_BUDGET, -4);
    assert_int_equal(CENOTE_E_CORRUPT, -7);
    assert_int_equal(CENOTE_E_CANCELLED, -10);
    assert_int_equal(CENOTE_TRACE_DESTROY, 4);
    assert_int_equal(CENOTE_CLASS_PARAMETERS, 0);
    assert_int_equal(CENOTE_CLASS_GENERAL, 7);
    assert_int_equal(CENOTE_CLASS_COUNT, 8);
    assert_int_equal(CENOTE_FINDING_LEAK, 6);
    assert_int_equal(CENOTE_DEBUG_LEVEL_MAX, 3);
    assert_int_equal(CENOTE_RECLAIM_IDLE, 1);
    assert_int_equal(CENOTE_RECLAIM_COUNT, 5);
    assert_int_equal(CENOTE_MISS_RECLAIM, 1);
    assert_int_equal(CENOTE_MISS_COUNT, 6);
    assert_int_equal(CENOTE_DTYPE_F64, 0);
    assert_int_equal(CENOTE_DTYPE_BF16, 3);
    assert_int_equal(CENOTE_DTYPE_F8_E5M2, 14);
    assert_int_equal(CENOTE_GRANULE_BYTES, 65536);
    assert_int_equal(CENOTE_KV_BLOCK_TOKENS, 16);
    assert_int_equal(CENOTE_BUDDY_RESERVED, 2);
    assert_int_equal(CENOTE_BUDDY_LEAF_BYTES_MIN, 16);
    assert_int_equal(CENOTE_BUDDY_METADATA_ALIGN, 8);
}

int main(void)
{
    if (sizeof(long) != 8 || sizeof(void *) != 8)
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_reports),
        cmocka_unit_test(test_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
