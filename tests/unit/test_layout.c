/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts by hand: what is refused, what is defined at the edges, and instances small enough to
 * know. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "alloc/layout.h"
#include "layout_instances.h"

/* Memory of exactly the stated size, of any content, so that a sanitizer sees a byte too far. */
static void *memory_of(uint64_t count)
{
    uint64_t size = cenote_layout_bytes(count);
    void *memory = malloc(size);
    assert_non_null(memory);
    memset(memory, 0xa5, size);
    return memory;
}

static cenote_layout *layout_of(const cenote_layout_buffer *buffers, uint64_t count)
{
    cenote_layout *layout = NULL;
    cenote_error err;
    assert_int_equal(cenote_layout_init(buffers, count, memory_of(count), &layout, &err),
                     CENOTE_OK);
    assert_null(cenote_layout_check(layout));
    return layout;
}

static cenote_layout_report report_of(const cenote_layout *layout)
{
    cenote_layout_report report;
    cenote_layout_report_get(layout, &report);
    return report;
}

/* ---- what is refused ---- */

static void expect_refused(const cenote_layout_buffer *second, const char *message)
{
    cenote_layout_buffer buffers[2] = {{0, 1, 8, 0}, *second};
    cenote_layout *layout = NULL;
    cenote_error err;
    void *memory = memory_of(2);
    assert_int_equal(cenote_layout_init(buffers, 2, memory, &layout, &err), CENOTE_E_INVAL);
    assert_string_equal(err.message, message);
    assert_null(layout);
    free(memory);
}

static void test_refusals(void **state)
{
    (void)state;
    expect_refused(&(cenote_layout_buffer){3, 3, 8, 0}, "buffer 1: no life in [3, 3)");
    expect_refused(&(cenote_layout_buffer){4, 3, 0, 0}, "buffer 1: no life in [4, 3)");
    expect_refused(&(cenote_layout_buffer){0, 1, 8, 48},
                   "buffer 1: alignment 48 is no power of two up to 4294967296");
    expect_refused(&(cenote_layout_buffer){0, 1, 8, UINT64_C(1) << 33},
                   "buffer 1: alignment 8589934592 is no power of two up to 4294967296");
    expect_refused(&(cenote_layout_buffer){0, 1, INT64_MAX, 0},
                   "buffer 1: its 9223372036854775807 bytes bring the sum to 2^63 or more");
    expect_refused(&(cenote_layout_buffer){0, 1, INT64_MAX - 1000, 4096},
                   "buffer 1: its 9223372036854774807 bytes bring the sum to 2^63 or more");
    expect_refused(&(cenote_layout_buffer){0, 1, UINT64_MAX, 64},
                   "buffer 1: its 18446744073709551615 bytes bring the sum to 2^63 or more");
    cenote_layout *layout;
    assert_int_equal(cenote_layout_init(NULL, CENOTE_LAYOUT_BUFFERS_MAX + 1, NULL, &layout, NULL),
                     CENOTE_E_INVAL);
}

static void test_memory(void **state)
{
    (void)state;
    assert_true(cenote_layout_bytes(0) > 0);
    for (uint64_t count = 1; count < 100; count++)
        assert_true(cenote_layout_bytes(count) > cenote_layout_bytes(count - 1));
    assert_true(cenote_layout_bytes(20000) < 20000 * 350);
    assert_true(cenote_layout_bytes(CENOTE_LAYOUT_BUFFERS_MAX) < UINT64_MAX);
    assert_true(cenote_layout_bytes(CENOTE_LAYOUT_BUFFERS_MAX + 1) == UINT64_MAX);
}

/* ---- edges ---- */

static void test_nothing(void **state)
{
    (void)state;
    cenote_layout *layout = layout_of(NULL, 0);
    assert_int_equal(report_of(layout).peak_bytes, 0);
    assert_false(cenote_layout_improve(layout, 1000));
    free(layout);

    const cenote_layout_buffer empty[] = {{0, 5, 0, 64}, {5, UINT64_MAX, 0, 0}};
    layout = layout_of(empty, 2);
    assert_int_equal(report_of(layout).peak_bytes, 0);
    assert_int_equal(cenote_layout_offset(layout, 0), 0);
    assert_int_equal(cenote_layout_offset(layout, 1), 0);
    free(layout);
}

static void test_edges(void **state)
{
    (void)state;
    /* A life ends before the next begins: they share a place. The last moments of time count. */
    const cenote_layout_buffer chain[] = {
        {0, 7, 100, 0}, {7, UINT64_MAX - 1, 100, 0}, {UINT64_MAX - 1, UINT64_MAX, 60, 16}};
    cenote_layout *layout = layout_of(chain, 3);
    assert_int_equal(report_of(layout).peak_bytes, 100);
    assert_int_equal(report_of(layout).lower_bound_bytes, 100);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(cenote_layout_offset(layout, i), 0);
    free(layout);

    /* Equal lives: side by side, and a buffer of no bytes among them. */
    const cenote_layout_buffer equal[] = {
        {2, 3, 10, 0}, {2, 3, 10, 0}, {2, 3, 0, 0}, {2, 3, 10, 0}};
    layout = layout_of(equal, 4);
    assert_int_equal(report_of(layout).peak_bytes, 30);
    free(layout);

    const cenote_layout_buffer large[] = {{0, 2, INT64_MAX / 2, 0}, {1, 3, INT64_MAX / 2, 0}};
    layout = layout_of(large, 2);
    assert_int_equal(report_of(layout).peak_bytes, INT64_MAX - 1);
    free(layout);

    /* An area of more than 2^64 is the largest, and goes first. */
    const cenote_layout_buffer areas[] = {{0, 5, 8, 0}, {0, UINT64_MAX, 10, 16}};
    layout = layout_of(areas, 2);
    assert_int_equal(report_of(layout).greedy_bytes[CENOTE_LAYOUT_BY_AREA], 18);
    free(layout);
}

/* The alignment of the second of two costs 54 bytes whatever one does, or none. */
static void test_alignment(void **state)
{
    (void)state;
    const cenote_layout_buffer both[] = {{0, 2, 10, 64}, {1, 3, 10, 64}};
    cenote_layout *layout = layout_of(both, 2);
    assert_false(cenote_layout_improve(layout, 10000));
    assert_int_equal(report_of(layout).lower_bound_bytes, 20);
    assert_int_equal(report_of(layout).least_bytes, 74);
    assert_int_equal(report_of(layout).peak_bytes, 74);
    free(layout);

    const cenote_layout_buffer one[] = {{0, 2, 10, 0}, {1, 3, 10, 64}};
    layout = layout_of(one, 2);
    assert_false(cenote_layout_improve(layout, 10000));
    assert_int_equal(report_of(layout).peak_bytes, 20);
    assert_int_equal(cenote_layout_offset(layout, 1), 0);
    assert_int_equal(cenote_layout_offset(layout, 0), 10);
    free(layout);
}

/* ---- searching ---- */

static void test_search(void **state)
{
    (void)state;
    enum { COUNT = 40 };
    cenote_layout_buffer buffers[COUNT];
    layout_make_perfect(buffers, COUNT, 5);
    cenote_layout *layout = layout_of(buffers, COUNT);
    cenote_layout_report before = report_of(layout);
    assert_true(before.peak_bytes > before.lower_bound_bytes);
    assert_int_equal(before.step_count, 0);
    assert_int_equal(before.greedy_bytes[before.greedy_best] >= before.peak_bytes, 1);
    assert_false(cenote_layout_improve(layout, 1000000));
    cenote_layout_report after = report_of(layout);
    assert_null(cenote_layout_check(layout));
    assert_int_equal(after.peak_bytes, 1 << 20);
    assert_int_equal(after.lower_bound_bytes, 1 << 20);
    assert_true(after.improvement_count > 0 && after.step_count > 0);
    free(layout);
}

/* The same steps in one call and in many, and in memory that held something else. */
static void test_steps(void **state)
{
    (void)state;
    enum { COUNT = 120 };
    cenote_layout_buffer buffers[COUNT];
    layout_make_random(buffers, COUNT, 50, 1000, 4, 9);
    cenote_layout *one = layout_of(buffers, COUNT), *many = layout_of(buffers, COUNT);
    (void)cenote_layout_improve(one, 30000);
    for (unsigned i = 0; i < 300; i++)
        (void)cenote_layout_improve(many, 100);
    assert_int_equal(report_of(one).step_count, report_of(many).step_count);
    for (uint64_t i = 0; i < COUNT; i++)
        assert_int_equal(cenote_layout_offset(one, i), cenote_layout_offset(many, i));
    free(one);
    free(many);
}

/* Thousands of buffers that all live at one moment: what a step costs grows with them, and would
 * make an attempt take 20 times what all of the greedy orders do. */
static void test_time_of_an_attempt(void **state)
{
    (void)state;
    enum { COUNT = 4000 };
    cenote_layout_buffer *buffers = malloc(COUNT * sizeof *buffers);
    assert_non_null(buffers);
    for (uint64_t i = 0; i < COUNT; i++)
        buffers[i] = (cenote_layout_buffer){0, 1 + i * 7919 % 1000, 1 + i * 104729 % (1u << 20),
                                            UINT64_C(1) << i % 13};
    clock_t begin = clock();
    cenote_layout *layout = layout_of(buffers, COUNT);
    clock_t greedy = clock() - begin;
    assert_true(cenote_layout_improve(layout, 1));
    clock_t attempt = clock() - begin - greedy;
    if (attempt > 5 * greedy)
        fail_msg("an attempt took %.2f s after %.2f s of greedy", (double)attempt / CLOCKS_PER_SEC,
                 (double)greedy / CLOCKS_PER_SEC);
    free(layout);
    free(buffers);
}

static void test_check(void **state)
{
    (void)state;
    const cenote_layout_buffer buffers[] = {{0, 2, 64, 64}, {1, 3, 64, 64}};
    cenote_layout *layout = layout_of(buffers, 2);
    layout->best[0] = 1;
    assert_string_equal(cenote_layout_check(layout),
                        "an offset is not a multiple of its alignment");
    layout->best[0] = layout->best[1];
    assert_string_equal(cenote_layout_check(layout),
                        "two buffers that live at the same time overlap");
    layout->best[0] = 256;
    assert_string_equal(cenote_layout_check(layout), "the peak is not the largest offset + size");
    free(layout);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(cenote_layout_order_text(CENOTE_LAYOUT_BY_SIZE), "size");
    assert_string_equal(cenote_layout_order_text(CENOTE_LAYOUT_BY_AREA), "area");
    assert_string_equal(cenote_layout_order_text(CENOTE_LAYOUT_BY_TIME), "time");
    assert_string_equal(cenote_layout_order_text(CENOTE_LAYOUT_ORDER_COUNT), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_memory),
        cmocka_unit_test(test_nothing),   cmocka_unit_test(test_edges),
        cmocka_unit_test(test_alignment), cmocka_unit_test(test_search),
        cmocka_unit_test(test_steps),     cmocka_unit_test(test_time_of_an_attempt),
        cmocka_unit_test(test_check),     cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
