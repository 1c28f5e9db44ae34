/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts of random instances: nothing that lives together overlaps, alignments hold, the peak is
 * between the lower bound and every greedy order, the greedy orders are those of a naive first fit,
 * and what is called the least is the least by trying everything. Then how near the lower bound
 * instances come that can reach it. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "layout_instances.h"
#include "random.h"

enum { COUNT_MAX = 20000, NAIVE_MAX = 200, TINY_MAX = 6 };

static cenote_layout_buffer buffers[COUNT_MAX];
static uint64_t offsets[COUNT_MAX];
static void *memory;

static uint64_t align_of(uint64_t i)
{
    return buffers[i].align_bytes > 0 ? buffers[i].align_bytes : 1;
}

static bool meet(uint64_t a, uint64_t b)
{
    return buffers[a].lower < buffers[b].upper && buffers[b].lower < buffers[a].upper &&
           buffers[a].size_bytes > 0 && buffers[b].size_bytes > 0;
}

static cenote_layout *begin(uint64_t count)
{
    cenote_layout *layout;
    cenote_error err;
    assert_int_equal(cenote_layout_init(buffers, count, memory, &layout, &err), CENOTE_OK);
    return layout;
}

/* ---- naive models ---- */

static uint64_t naive_bound(uint64_t count)
{
    uint64_t most = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t live = 0;
        for (uint64_t k = 0; k < count; k++)
            if (buffers[k].lower <= buffers[i].lower && buffers[i].lower < buffers[k].upper)
                live += buffers[k].size_bytes;
        if (live > most)
            most = live;
    }
    return most;
}

static bool is_free(const uint64_t *placed, uint64_t placed_count, uint64_t i, uint64_t at)
{
    for (uint64_t k = 0; k < placed_count; k++) {
        uint64_t other = placed[k];
        if (meet(i, other) && at < offsets[other] + buffers[other].size_bytes &&
            offsets[other] < at + buffers[i].size_bytes)
            return false;
    }
    return true;
}

/* The lowest offset is 0 or the top of another, aligned. */
static uint64_t naive_fit(const uint64_t *placed, uint64_t placed_count, uint64_t i)
{
    uint64_t best = is_free(placed, placed_count, i, 0) ? 0 : UINT64_MAX;
    for (uint64_t k = 0; k < placed_count && best > 0; k++) {
        uint64_t top = offsets[placed[k]] + buffers[placed[k]].size_bytes;
        uint64_t at = (top + align_of(i) - 1) / align_of(i) * align_of(i);
        if (at < best && is_free(placed, placed_count, i, at))
            best = at;
    }
    return best;
}

/* What decides between two of an order; before: a comes first. */
static bool before(cenote_layout_order order, uint64_t a, uint64_t b)
{
    uint64_t life_a = buffers[a].upper - buffers[a].lower;
    uint64_t life_b = buffers[b].upper - buffers[b].lower;
    uint64_t size_a = buffers[a].size_bytes, size_b = buffers[b].size_bytes;
    if (order == CENOTE_LAYOUT_BY_SIZE && size_a != size_b)
        return size_a > size_b;
    if (order == CENOTE_LAYOUT_BY_AREA && size_a * life_a != size_b * life_b)
        return size_a * life_a > size_b * life_b;
    if (buffers[a].lower != buffers[b].lower)
        return buffers[a].lower < buffers[b].lower;
    if (life_a != life_b)
        return life_a > life_b;
    return size_a != size_b ? size_a > size_b : a < b;
}

static uint64_t naive_greedy(cenote_layout_order order, uint64_t count)
{
    static uint64_t placed[NAIVE_MAX];
    uint64_t peak = 0, placed_count = 0;
    static bool done[NAIVE_MAX];
    memset(done, 0, sizeof done);
    for (uint64_t n = 0; n < count; n++) {
        uint64_t next = count;
        for (uint64_t i = 0; i < count; i++)
            if (!done[i] && (next == count || before(order, i, next)))
                next = i;
        done[next] = true;
        if (buffers[next].size_bytes == 0)
            continue;
        offsets[next] = naive_fit(placed, placed_count, next);
        placed[placed_count++] = next;
        if (offsets[next] + buffers[next].size_bytes > peak)
            peak = offsets[next] + buffers[next].size_bytes;
    }
    return peak;
}

/* The least peak of all orders in which buffers are dropped onto what lies there: one of them is
 * that of the best layout. */
static uint64_t least_of_all(uint64_t count, uint64_t *placed, uint64_t depth, uint64_t peak)
{
    uint64_t least = UINT64_MAX;
    if (depth == count)
        return peak;
    for (uint64_t i = 0; i < count; i++) {
        bool used = false;
        uint64_t at = 0;
        for (uint64_t k = 0; k < depth; k++) {
            used |= placed[k] == i;
            uint64_t top = offsets[placed[k]] + buffers[placed[k]].size_bytes;
            if (meet(placed[k], i) && top > at)
                at = top;
        }
        if (used)
            continue;
        offsets[i] = (at + align_of(i) - 1) / align_of(i) * align_of(i);
        placed[depth] = i;
        uint64_t top = buffers[i].size_bytes > 0 ? offsets[i] + buffers[i].size_bytes : 0;
        uint64_t found = least_of_all(count, placed, depth + 1, top > peak ? top : peak);
        if (found < least)
            least = found;
    }
    return least;
}

/* ---- what holds for every layout ---- */

static cenote_layout_report check(cenote_layout *layout, uint64_t count)
{
    cenote_layout_report report;
    cenote_layout_report_get(layout, &report);
    uint64_t peak = 0;
    for (uint64_t i = 0; i < count; i++) {
        offsets[i] = cenote_layout_offset(layout, i);
        assert_int_equal(offsets[i] % align_of(i), 0);
        uint64_t top = buffers[i].size_bytes > 0 ? offsets[i] + buffers[i].size_bytes : 0;
        peak = top > peak ? top : peak;
        for (uint64_t k = 0; k < i; k++)
            assert_false(meet(i, k) && offsets[i] < offsets[k] + buffers[k].size_bytes &&
                         offsets[k] < offsets[i] + buffers[i].size_bytes);
    }
    assert_int_equal(report.peak_bytes, peak);
    assert_true(report.lower_bound_bytes <= report.least_bytes && report.least_bytes <= peak);
    for (int order = 0; order < CENOTE_LAYOUT_ORDER_COUNT; order++)
        assert_true(peak <= report.greedy_bytes[order]);
    assert_null(cenote_layout_check(layout));
    return report;
}

static void test_random(void **state)
{
    (void)state;
    uint64_t seed = 1, gained = 0;
    for (unsigned round = 0; round < 150; round++) {
        uint64_t count = 1 + random_next(&seed) % NAIVE_MAX;
        uint64_t moments = 1 + random_next(&seed) % 100;
        unsigned align_log2 = (unsigned)(random_next(&seed) % 8);
        layout_make_random(buffers, count, moments, 1 + random_next(&seed) % 5000, align_log2,
                           round);
        cenote_layout *layout = begin(count);
        cenote_layout_report first = check(layout, count);
        assert_int_equal(first.lower_bound_bytes, naive_bound(count));
        for (int order = 0; order < CENOTE_LAYOUT_ORDER_COUNT; order++)
            assert_int_equal(first.greedy_bytes[order],
                             naive_greedy((cenote_layout_order)order, count));
        (void)cenote_layout_improve(layout, 4000);
        cenote_layout_report second = check(layout, count);
        assert_true(second.peak_bytes <= first.peak_bytes);
        gained += first.peak_bytes > second.peak_bytes;
    }
    print_message("better than greedy in %" PRIu64 " of 150\n", gained);
    assert_true(gained > 50);
}

/* False from improve means that no layout is better; tiny instances must come to that. */
static void test_least(void **state)
{
    (void)state;
    uint64_t seed = 2, placed[TINY_MAX], above = 0;
    for (unsigned round = 0; round < 12000; round++) {
        uint64_t count = 2 + random_next(&seed) % (TINY_MAX - 1);
        unsigned align_log2 = (unsigned)(random_next(&seed) % 6);
        layout_make_random(buffers, count, 8, 24, round % 2 == 0 ? 0 : align_log2, round);
        cenote_layout *layout = begin(count);
        assert_false(cenote_layout_improve(layout, 5000000));
        cenote_layout_report report = check(layout, count);
        assert_int_equal(report.peak_bytes, report.least_bytes);
        assert_int_equal(report.least_bytes, least_of_all(count, placed, 0, 0));
        above += report.least_bytes > report.lower_bound_bytes;
    }
    print_message("the least is above the lower bound in %" PRIu64 " of 12000\n", above);
    assert_true(above > 800);
}

/* ---- how near ---- */

static void test_perfect(void **state)
{
    (void)state;
    unsigned solved = 0;
    for (unsigned i = 0; i < 20; i++) {
        uint64_t count = 150 + i * 300 / 19;
        layout_make_perfect(buffers, count, i + 1);
        cenote_layout *layout = begin(count);
        (void)cenote_layout_improve(layout, 1000000);
        cenote_layout_report report = check(layout, count);
        assert_int_equal(report.lower_bound_bytes, 1 << 20);
        solved += report.peak_bytes == report.lower_bound_bytes;
    }
    print_message("%u of 20 perfect packings found in a million steps each\n", solved);
    assert_int_equal(solved, 20);
}

static void test_transformers(void **state)
{
    (void)state;
    static const struct {
        uint64_t count;
        bool training;
    } cases[] = {{1000, false}, {1000, true}, {4000, true}, {20000, false}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        layout_make_transformer(buffers, cases[i].count, cases[i].training, i);
        cenote_layout *layout = begin(cases[i].count);
        (void)cenote_layout_improve(layout, 50000);
        cenote_layout_report report;
        cenote_layout_report_get(layout, &report);
        assert_null(cenote_layout_check(layout));
        double ratio = (double)report.peak_bytes / (double)report.lower_bound_bytes;
        print_message("%" PRIu64 " buffers%s: %.4f of the lower bound\n", cases[i].count,
                      cases[i].training ? " of training" : "", ratio);
        assert_true(ratio <= 1.01);
    }
}

/* Those of the runner are met exactly. */
static void test_runner(void **state)
{
    (void)state;
    for (uint64_t size = 1; size <= 8192; size *= 2)
        for (int vision = 0; vision < 2; vision++) {
            uint64_t count = vision != 0 ? layout_make_runner_vision(buffers, size)
                                         : layout_make_runner_text(buffers, size);
            cenote_layout *layout = begin(count);
            assert_false(cenote_layout_improve(layout, 10000));
            cenote_layout_report report = check(layout, count);
            assert_int_equal(report.peak_bytes, report.lower_bound_bytes);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),  cmocka_unit_test(test_least),
        cmocka_unit_test(test_perfect), cmocka_unit_test(test_transformers),
        cmocka_unit_test(test_runner),
    };
    memory = malloc(cenote_layout_bytes(COUNT_MAX));
    int failed = memory == NULL ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
    free(memory);
    return failed;
}
