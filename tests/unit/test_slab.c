/* SPDX-License-Identifier: Apache-2.0 */
/* Size classes, and what slabs make of them: how much is lost, where blocks lie, what comes back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/slab.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)

/* ---- classes ---- */

static void test_every_size_has_its_class(void **state)
{
    (void)state;
    uint64_t below = 0;
    for (uint32_t c = 1; c <= CN_CLASS_LAST; c++) {
        uint64_t bytes = cn_class_bytes(c);
        assert_true(bytes > below);
        assert_int_equal(cn_size_class(bytes), c);
        assert_int_equal(cn_size_class(below + 1), c); /* all between: it is monotonic */
        below = bytes;
    }
    assert_int_equal(below, CN_CLASS_BYTES_MAX);
    for (uint64_t size = 1; size < CN_CLASS_BYTES_MAX; size += 1 + size / 777) {
        uint32_t c = cn_size_class(size);
        assert_true(cn_class_bytes(c) >= size && (c == 1 || cn_class_bytes(c - 1) < size));
    }
    assert_int_equal(cn_class_bytes(1), CN_CLASS_BYTES_MIN);
    assert_int_equal(cn_class_bytes(CN_CLASS_RUN_FIRST), 512 * KIB);
    assert_int_equal(cn_class_bytes(CN_CLASS_LAST), MIB);
}

/* Eight for each doubling: an eighth at most is lost, and never an alignment. */
static void test_classes_fit(void **state)
{
    (void)state;
    unsigned in_doubling = 0;
    for (uint32_t c = 2; c <= CN_CLASS_LAST; c++) {
        uint64_t bytes = cn_class_bytes(c), below = cn_class_bytes(c - 1);
        if (bytes > 512)
            assert_true((bytes - below) * 8 <= below);
        in_doubling += bytes > 4 * KIB && bytes <= 8 * KIB;
        if (c >= CN_CLASS_RUN_FIRST)
            assert_int_equal(bytes % (64 * KIB), 0);
    }
    assert_int_equal(in_doubling, 8);
    for (uint64_t power = 64; power <= 64 * KIB; power *= 2)
        for (uint64_t size = power; size <= CN_CLASS_BYTES_MAX; size += power * (1 + size / 65536))
            assert_int_equal(cn_class_bytes(cn_size_class(size)) % power, 0);
}

/* ---- slabs ---- */

enum { GRANULES = 256, PAGES = GRANULES * CN_SLAB_GRANULE_PAGES };

struct rig {
    struct cn_slabs slabs;
    uint8_t classes[PAGES];
    uint64_t free_pages[PAGES / 64];
    uint8_t reach[PAGES / 64 + 7];
    struct cn_slab_page pages[PAGES];
    uint64_t next_granule; /* the owner's bump pointer */
};

static int rig_up(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    cn_slabs_init(&rig->slabs, rig->classes, rig->free_pages, rig->reach, rig->pages);
    rig->slabs.covered_granules = GRANULES;
    *state = rig;
    return 0;
}

static int rig_down(void **state)
{
    free(*state);
    return 0;
}

static uint32_t take(struct rig *rig, uint64_t size_bytes)
{
    uint32_t id = 0, size_class = cn_size_class(size_bytes);
    if (cn_slabs_take(&rig->slabs, size_class, 1, &id) == 0) {
        struct cn_run run = {rig->next_granule, cn_slabs_granules_for(&rig->slabs, size_class)};
        uint32_t count = 0;
        run = cn_slabs_lend(&rig->slabs, size_class, run, 1, &id, &count);
        assert_int_equal(count, 1);
        rig->next_granule += run.count;
    }
    assert_null(cn_slabs_check(&rig->slabs));
    return id;
}

/* What classes are good for: many blocks of one size take little more than their bytes. */
static void test_blocks_of_one_size_pack(void **state)
{
    static const uint64_t sizes[] = {256,      320,      1000,      4096,     9 * KIB,
                                     40 * KIB, 72 * KIB, 144 * KIB, 288 * KIB};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        (void)rig_up(state);
        struct rig *rig = *state;
        uint64_t count = 4 * MIB / sizes[i];
        for (uint64_t n = 0; n < count; n++)
            (void)take(rig, sizes[i]);
        uint64_t asked = count * sizes[i], lent = rig->slabs.lent_granules * 64 * KIB;
        if ((double)lent > 1.06 * (double)asked)
            fail_msg("%llu blocks of %llu bytes take %llu", (unsigned long long)count,
                     (unsigned long long)sizes[i], (unsigned long long)lent);
        (void)rig_down(state);
    }
}

static void test_runs_cross_granules_and_are_aligned(void **state)
{
    struct rig *rig = *state;
    /* Nine pages, then nine more, from the tenth on. */
    assert_int_equal(take(rig, 72 * KIB), 0);
    assert_int_equal(take(rig, 72 * KIB), 9 * 128);
    /* The tail of what those lie in holds smaller ones. */
    assert_int_equal(take(rig, 8 * KIB), 18 * 128);
    assert_int_equal(take(rig, 100), 19 * 128);
    assert_int_equal(take(rig, 256), 19 * 128 + 4);
    /* A power of two is aligned to itself, and to a granule at most. */
    assert_int_equal(take(rig, 16 * KIB), 20 * 128);
    assert_int_equal(take(rig, 32 * KIB), 24 * 128 - 0);
    assert_int_equal(take(rig, 128 * KIB) % 1024, 0);
    assert_int_equal(take(rig, 64 * KIB) % 1024, 0);
}

static void test_granules_come_back(void **state)
{
    struct rig *rig = *state;
    uint32_t first = take(rig, 72 * KIB), second = take(rig, 72 * KIB), small = take(rig, 256);
    assert_int_equal(rig->slabs.lent_granules, 3);
    struct cn_run run = cn_slabs_give(&rig->slabs, first);
    assert_int_equal(run.first, 0);
    assert_int_equal(run.count, 1); /* the second block has a page of the next one */
    run = cn_slabs_give(&rig->slabs, second);
    assert_int_equal(run.first, 1);
    assert_int_equal(run.count, 1); /* the small one lies in the third */
    run = cn_slabs_give(&rig->slabs, small);
    assert_int_equal(run.first, 2);
    assert_int_equal(run.count, 1);
    assert_int_equal(rig->slabs.lent_granules, 0);
    assert_int_equal(rig->slabs.free_page_count, 0);
}

static void test_what_is_no_block_is_known(void **state)
{
    struct rig *rig = *state;
    uint32_t run = take(rig, 72 * KIB), small = take(rig, 320);
    cn_slabs_enter_run(&rig->slabs, 8, CN_CLASS_RUN_FIRST);
    assert_true(cn_slabs_holds(&rig->slabs, run));
    assert_true(cn_slabs_holds(&rig->slabs, small));
    assert_false(cn_slabs_holds(&rig->slabs, run + 128)); /* inside */
    assert_false(cn_slabs_holds(&rig->slabs, small + 1)); /* inside */
    assert_false(cn_slabs_holds(&rig->slabs, small + 5)); /* free */
    assert_false(cn_slabs_holds(&rig->slabs, 8 * 1024));  /* a run of the owner's */
    assert_false(cn_slabs_holds(&rig->slabs, GRANULES * 1024));
    assert_false(cn_slabs_lent(&rig->slabs, 8));
    (void)cn_slabs_give(&rig->slabs, small);
    assert_false(cn_slabs_holds(&rig->slabs, small));
    cn_slabs_remove_run(&rig->slabs, 8);
    assert_null(cn_slabs_check(&rig->slabs));
}

/* The check sees what it is for: each field of the metadata, put wrong. */
static void test_check_sees(void **state)
{
    struct rig *rig = *state;
    uint32_t small = take(rig, 256);
    (void)take(rig, 72 * KIB);
    struct rig *wrong = malloc(sizeof *wrong);
    for (unsigned i = 0; i < 9; i++) {
        *wrong = *rig;
        wrong->slabs.classes = wrong->classes;
        wrong->slabs.free_pages = wrong->free_pages;
        wrong->slabs.reach = wrong->reach;
        wrong->slabs.pages = wrong->pages;
        assert_null(cn_slabs_check(&wrong->slabs));
        switch (i) {
        case 0:
            wrong->classes[small / 128] = 2;
            break;
        case 1:
            wrong->classes[3] = 0;
            break;
        case 2:
            wrong->free_pages[0] ^= 1;
            break;
        case 3:
            wrong->pages[small / 128].free_blocks = 0;
            break;
        case 4:
            wrong->slabs.with_room[1] = UINT32_MAX;
            break;
        case 5:
            wrong->slabs.lent_granules++;
            break;
        case 6:
            wrong->slabs.taken[1]++;
            break;
        case 7:
            wrong->slabs.word_hint[1] = 9;
            break;
        case 8:
            wrong->reach[0]++;
            break;
        }
        if (cn_slabs_check(&wrong->slabs) == NULL)
            fail_msg("fault %u was not seen", i);
    }
    free(wrong);
}

static void test_metadata(void **state)
{
    (void)state;
    double bytes = CN_SLAB_CLASSES_BYTES + CN_SLAB_FREE_PAGES_BYTES + CN_SLAB_PAGES_BYTES;
    assert_true(bytes / 65536 <= 0.0025);
    /* Runs of pages do without the largest of the three. */
    assert_true((bytes - CN_SLAB_PAGES_BYTES) / 65536 <= 0.001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_size_has_its_class),
        cmocka_unit_test(test_classes_fit),
        cmocka_unit_test(test_blocks_of_one_size_pack),
        cmocka_unit_test_setup_teardown(test_runs_cross_granules_and_are_aligned, rig_up, rig_down),
        cmocka_unit_test_setup_teardown(test_granules_come_back, rig_up, rig_down),
        cmocka_unit_test_setup_teardown(test_what_is_no_block_is_known, rig_up, rig_down),
        cmocka_unit_test_setup_teardown(test_check_sees, rig_up, rig_down),
        cmocka_unit_test(test_metadata),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
