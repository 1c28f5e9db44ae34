/* SPDX-License-Identifier: Apache-2.0 */
/* First fit and best fit against a walk over all holes, and every invariant after every step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fit.h"

#define BLOCKS      64u
#define RANGE_UNITS 1024u
#define UNIT        CLI_FIT_UNIT_BYTES
#define STEPS       20000u

/* The range as units, each taken or not. */
struct model {
    bool taken[RANGE_UNITS];
};

static uint64_t random_u64(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* The unit where a block of @p units goes; RANGE_UNITS: nowhere. A hole must have room for the
 * worst alignment. */
static uint32_t expected(const struct model *model, enum cli_fit_order order, uint32_t units,
                         uint32_t align_units)
{
    uint32_t best = RANGE_UNITS, best_length = RANGE_UNITS + 1;
    for (uint32_t first = 0, end; first < RANGE_UNITS; first = end + 1) {
        for (end = first; end < RANGE_UNITS && !model->taken[end]; end++)
            ;
        uint32_t length = end - first;
        bool better = order == CLI_FIT_BEST ? length < best_length : best == RANGE_UNITS;
        if (length >= units + align_units - 1 && better) {
            best = (first + align_units - 1) / align_units * align_units;
            best_length = length;
        }
    }
    return best;
}

static void mark(struct model *model, uint64_t first, uint64_t count, bool taken)
{
    for (uint64_t i = first; i < first + count; i++) {
        assert_true(model->taken[i] != taken);
        model->taken[i] = taken;
    }
}

static void run(enum cli_fit_order order, uint64_t seed)
{
    static struct cli_fit_node nodes[2 * BLOCKS + 2];
    struct model model = {{false}};
    struct cli_fit fit;
    uint32_t blocks[BLOCKS] = {0}, units[BLOCKS] = {0};
    uint64_t highest = 0;
    assert_int_equal(cli_fit_nodes(BLOCKS), 2 * BLOCKS + 2);
    cli_fit_init(&fit, order, RANGE_UNITS * UNIT + 17, nodes, 2 * BLOCKS + 2);
    for (uint32_t step = 0; step < STEPS; step++) {
        uint64_t bits = random_u64(&seed);
        uint32_t i = (uint32_t)(bits % BLOCKS);
        if (blocks[i] != 0) {
            mark(&model, nodes[blocks[i]].start / UNIT, units[i], false);
            cli_fit_free(&fit, blocks[i]);
            blocks[i] = 0;
        } else {
            uint64_t size = 1 + (bits >> 8) % (40 * UNIT);
            uint32_t align = 1u << (bits >> 40) % 5;
            units[i] = (uint32_t)((size + UNIT - 1) / UNIT);
            uint32_t place = expected(&model, order, units[i], align);
            blocks[i] = cli_fit_alloc(&fit, size, (uint64_t)align * UNIT);
            if (place == RANGE_UNITS) {
                assert_int_equal(blocks[i], 0);
                continue;
            }
            assert_int_not_equal(blocks[i], 0);
            assert_int_equal(nodes[blocks[i]].start, (uint64_t)place * UNIT);
            mark(&model, place, units[i], true);
            if (place + units[i] > highest)
                highest = place + units[i];
        }
        const char *broken = cli_fit_check(&fit);
        if (broken != NULL)
            fail_msg("step %u: %s", step, broken);
    }
    assert_int_equal(fit.end_peak, highest * UNIT);
}

static void test_against_a_walk(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        run(CLI_FIT_FIRST, seed);
        run(CLI_FIT_BEST, seed);
    }
}

static void test_no_room(void **state)
{
    (void)state;
    struct cli_fit_node nodes[4];
    struct cli_fit fit;
    cli_fit_init(&fit, CLI_FIT_FIRST, UNIT - 1, nodes, 4);
    assert_int_equal(cli_fit_alloc(&fit, 1, 1), 0);
    cli_fit_init(&fit, CLI_FIT_FIRST, UNIT, nodes, 4);
    assert_int_equal(cli_fit_alloc(&fit, UNIT + 1, 1), 0);
    assert_int_equal(cli_fit_alloc(&fit, INT64_MAX, UINT64_C(1) << 32), 0);
    uint32_t all = cli_fit_alloc(&fit, UNIT, 1);
    assert_int_not_equal(all, 0);
    assert_int_equal(cli_fit_alloc(&fit, 1, 1), 0);
    cli_fit_free(&fit, all);
    assert_null(cli_fit_check(&fit));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_a_walk),
        cmocka_unit_test(test_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
