/* SPDX-License-Identifier: Apache-2.0 */
/* From a trace to slots: what the text reader takes and refuses, what the table of live blocks
 * says, and what is counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "digest.h"
#include "histogram.h"
#include "trace.h"

static cenote_budget *budget;
static cenote_pool *memory;
static struct cli_trace trace;

static int setup(void **state)
{
    (void)state;
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    assert_int_equal(cli_budget_create(&budget, NULL), CENOTE_OK);
    assert_int_equal(cenote_pool_create(budget, &options, &memory, NULL), CENOTE_OK);
    cli_trace_init(&trace, memory);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)cenote_pool_destroy(memory);
    cenote_budget_destroy(budget);
    return 0;
}

/* From a block of the text's exact size. */
static cenote_status read_text(const char *text, cenote_error *err)
{
    size_t size = strlen(text);
    char *copy = malloc(size > 0 ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    cli_trace_init(&trace, memory);
    cenote_status status = cli_trace_read_text(&trace, copy, size, err);
    free(copy);
    return status;
}

static void takes(const char *text)
{
    cenote_error err;
    if (read_text(text, &err) != CENOTE_OK)
        fail_msg("%s: %s", text, err.message);
}

static void refuses(const char *text, const char *message)
{
    cenote_error err;
    if (read_text(text, &err) != CENOTE_E_CORRUPT)
        fail_msg("%s was taken", text);
    assert_string_equal(err.message, message);
}

static void test_text(void **state)
{
    (void)state;
    takes("");
    assert_int_equal(trace.op_count, 0);
    takes("# nothing\n\n   \r\n");
    assert_int_equal(trace.op_count, 0);
    takes("a 7 100 64\r\na 18446744073709551615 0\n\tf  7 # gone\na 8 5#five\nf 8\n"
          "f 18446744073709551615");
    assert_int_equal(trace.op_count, 6);
    assert_int_equal(trace.alloc_count, 3);
    assert_int_equal(trace.ops[0].size_bytes, 100);
    assert_int_equal(trace.ops[0].align_log2, 6);
    assert_int_equal(trace.ops[1].size_bytes, 0);
    assert_int_equal(trace.ops[2].kind, CLI_TRACE_FREE);
    assert_int_equal(trace.ops[2].size_bytes, 100);
    assert_int_equal(trace.ops[3].slot, trace.ops[0].slot); /* of the block that was freed */
    assert_int_equal(trace.slot_count, 2);
    assert_int_equal(trace.live_count_peak, 2);
    assert_int_equal(trace.live_bytes_peak, 100);
    assert_int_equal(trace.alloc_bytes, 105);
    assert_int_equal(trace.live_count, 0);
}

static void test_refused_text(void **state)
{
    (void)state;
    const char *form = "line 1: neither 'a ID SIZE [ALIGN]' nor 'f ID'";
    refuses("a", form);
    refuses("a 1", form);
    refuses("a 1 2 3 4", form);
    refuses("f", form);
    refuses("f 1 2", form);
    refuses("free 1", form);
    refuses("aa 1 2", form);
    refuses("a -1 2", "line 1: id: '-1' is not a number from 0 to 18446744073709551615");
    refuses("# x\n\na 1 0x10", "line 3: size: '0x10' is not a number from 0 to "
                               "18446744073709551615");
    refuses("a 1 18446744073709551616", "line 1: size: '18446744073709551616' is not a number "
                                        "from 0 to 18446744073709551615");
    refuses("a 11111111111111111111111111111 1",
            "line 1: id: '11111111111111111111111' is not a number from 0 to "
            "18446744073709551615");
    refuses("a 1 8 3", "line 1: an alignment of 3 is no power of two up to 4294967296");
    refuses("a 1 8 8589934592",
            "line 1: an alignment of 8589934592 is no power of two up to 4294967296");
    refuses("a 1 8\na 1 8\n", "line 2: block 1 lives already");
    refuses("a 1 8\nf 2", "line 2: block 2 does not live");
    refuses("a 1 0\nf 1\nf 1", "line 3: block 1 does not live");
    refuses("a 1 9223372036854775800\na 2 8",
            "line 2: a size of 8 brings what lives to 2^63 bytes or more");
}

static void test_pools(void **state)
{
    (void)state;
    cenote_error err;
    uint32_t first, second, again;
    cli_trace_init(&trace, memory);
    assert_int_equal(cli_trace_pool(&trace, 900, CENOTE_CLASS_KV_CACHE, &first, &err), CENOTE_OK);
    assert_int_equal(cli_trace_pool(&trace, 5, CENOTE_CLASS_GENERAL, &second, &err), CENOTE_OK);
    assert_int_equal(cli_trace_pool(&trace, 900, CENOTE_CLASS_KV_CACHE, &again, &err), CENOTE_OK);
    assert_int_equal(first, again);
    assert_int_not_equal(first, second);
    /* the same id twice, in two pools; one is destroyed with blocks in it */
    for (uint64_t id = 0; id < 3; id++) {
        assert_int_equal(cli_trace_alloc(&trace, first, id, 70000, 0, 0, &err), CENOTE_OK);
        assert_int_equal(cli_trace_alloc(&trace, second, id, 1, 0, 0, &err), CENOTE_OK);
    }
    assert_int_equal(trace.pools[first].granules_peak, 6);
    assert_int_equal(cli_trace_free(&trace, first, 1, &err), CENOTE_OK);
    assert_int_equal(cli_trace_trim(&trace, first, true, &err), CENOTE_OK);
    assert_int_equal(trace.op_count, 6 + 1 + 2 + 1);
    assert_int_equal(trace.ops[trace.op_count - 1].kind, CLI_TRACE_TRIM);
    for (uint64_t id = 0; id < 3; id++) {
        assert_false(cli_trace_lives(&trace, first, id));
        assert_true(cli_trace_lives(&trace, second, id));
    }
    assert_int_equal(trace.live_bytes, 3);
    for (uint64_t number = 1000; trace.pool_count < CLI_TRACE_POOLS_MAX; number++)
        assert_int_equal(cli_trace_pool(&trace, number, CENOTE_CLASS_GENERAL, &again, &err),
                         CENOTE_OK);
    assert_int_equal(cli_trace_pool(&trace, 1, CENOTE_CLASS_GENERAL, &again, &err),
                     CENOTE_E_CORRUPT);
    assert_string_equal(err.message, "there are more than 1024 pools");
}

/* The table against an array, with as many blocks as make it grow. */
static void test_table(void **state)
{
    (void)state;
    enum { IDS = 6000, STEPS = 100000 };
    static bool lives[IDS];
    uint64_t random = 7;
    uint32_t pool;
    cenote_error err;
    cli_trace_init(&trace, memory);
    assert_int_equal(cli_trace_pool(&trace, 0, CENOTE_CLASS_GENERAL, &pool, &err), CENOTE_OK);
    for (uint32_t step = 0; step < STEPS; step++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        uint64_t id = (random >> 33) % IDS;
        assert_int_equal(cli_trace_lives(&trace, 0, id), lives[id]);
        assert_int_equal(cli_trace_free(&trace, 0, id, &err),
                         lives[id] ? CENOTE_OK : CENOTE_E_CORRUPT);
        if (!lives[id])
            assert_int_equal(cli_trace_alloc(&trace, 0, id, id, 0, 0, &err), CENOTE_OK);
        lives[id] = !lives[id];
    }
    for (uint64_t id = 0; id < IDS; id++)
        assert_int_equal(cli_trace_lives(&trace, 0, id), lives[id]);
    assert_int_equal(trace.slot_count, trace.live_count_peak);
}

static void test_generate(void **state)
{
    (void)state;
    cenote_error err;
    struct cli_vlm vlm;
    assert_int_equal(cli_vlm_parse("vlm:9:5000:contiguous", &vlm, &err), CENOTE_OK);
    assert_int_equal(vlm.seed, 9);
    assert_int_equal(vlm.op_count, 5000);
    assert_false(vlm.chunked);
    static const char *const wrong[] = {"",
                                        "vlm",
                                        "vlm:1:2",
                                        "vlm:1:2:x",
                                        "vlm:1:0:chunked",
                                        "vlm::2:chunked",
                                        "vlm:a:2:chunked",
                                        "vlm:1:268435457:chunked",
                                        "vlm:1:2:chunked ",
                                        "llm:1:2:chunked"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(cli_vlm_parse(wrong[i], &vlm, &err), CENOTE_E_INVAL);
    for (int chunked = 0; chunked < 2; chunked++) {
        vlm = (struct cli_vlm){1, 30000, chunked != 0};
        cli_trace_init(&trace, memory);
        assert_int_equal(cli_trace_generate(&trace, &vlm, &err), CENOTE_OK);
        assert_int_equal(trace.op_count, 30000);
        assert_true(trace.live_bytes_peak > UINT64_C(1) << 30);
        assert_true(trace.live_count_peak > (chunked ? 500 : 30));
    }
}

static void test_histogram(void **state)
{
    (void)state;
    static struct cli_histogram histogram;
    assert_int_equal(cli_histogram_percentile(&histogram, 0.5), 0);
    for (uint64_t i = 0; i < 100000; i++)
        cli_histogram_add(&histogram, i * 7);
    for (double share = 0.1; share < 1; share += 0.1) {
        double exact = share * 700000, got = (double)cli_histogram_percentile(&histogram, share);
        assert_true(got <= exact + 7 && got > exact / 1.04);
    }
    assert_int_equal(cli_histogram_percentile(&histogram, 1), 99999 * 7);
    cli_histogram_add(&histogram, UINT64_MAX);
    assert_int_equal(cli_histogram_percentile(&histogram, 1), UINT64_MAX);
}

/* In pieces as in one. */
static void test_digest(void **state)
{
    (void)state;
    enum { PAIRS = 1000 };
    static uint8_t bytes[PAIRS * 16];
    struct cli_digest *digest;
    assert_int_equal(cli_digest_create(&digest, NULL), CENOTE_OK);
    for (uint64_t i = 0; i < PAIRS; i++) {
        uint64_t offset = i * UINT64_C(0x123456789abcdef);
        cli_digest_add(digest, i, offset);
        for (uint32_t k = 0; k < 8; k++) {
            bytes[i * 16 + k] = (uint8_t)(i >> 8 * k);
            bytes[i * 16 + 8 + k] = (uint8_t)(offset >> 8 * k);
        }
        if (i % 100 == 99)
            assert_int_equal(cli_digest_sum(digest), cn_hash64(bytes, (i + 1) * 16));
    }
    cli_digest_destroy(digest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),     cmocka_unit_test(test_refused_text),
        cmocka_unit_test(test_pools),    cmocka_unit_test(test_table),
        cmocka_unit_test(test_generate), cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_digest),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
