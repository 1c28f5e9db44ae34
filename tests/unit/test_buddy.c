/* SPDX-License-Identifier: Apache-2.0 */
/* The buddy allocator at the places where it could go wrong: ranges of every shape, the lowest
 * address, alignment, hostile numbers, frees of what is no block, reserved parts, figures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/buddy.h>

#include "alloc/buddy_tree.h"

enum { LEAF = 256 };

static cenote_buddy *make(uint64_t start, uint64_t size_bytes, uint64_t leaf_bytes)
{
    cenote_buddy_options options = CENOTE_BUDDY_OPTIONS_INIT;
    options.start = start;
    options.size_bytes = size_bytes;
    options.leaf_bytes = leaf_bytes;
    uint64_t bytes = cenote_buddy_metadata_bytes(&options);
    void *metadata = aligned_alloc(64, (bytes + 63) / 64 * 64);
    cenote_buddy *buddy = NULL;
    cenote_error err;
    assert_non_null(metadata);
    memset(metadata, 0xa5, bytes);
    assert_int_equal(cenote_buddy_init(&options, metadata, bytes, &buddy, &err), CENOTE_OK);
    assert_ptr_equal(buddy, metadata); /* so that free() knows it */
    assert_null(cenote_buddy_check(buddy));
    return buddy;
}

static uint64_t take(cenote_buddy *buddy, uint64_t size_bytes, uint64_t align_bytes)
{
    uint64_t address = 0;
    cenote_error err;
    assert_int_equal(cenote_buddy_alloc(buddy, size_bytes, align_bytes, &address, &err), CENOTE_OK);
    assert_null(cenote_buddy_check(buddy));
    return address;
}

static void give(cenote_buddy *buddy, uint64_t address, uint64_t size_bytes)
{
    cenote_error err;
    assert_int_equal(
        cenote_buddy_free(buddy, address, size_bytes, CENOTE_BUDDY_GENERATION_ANY, &err),
        CENOTE_OK);
    assert_null(cenote_buddy_check(buddy));
}

static cenote_buddy_stats stats_of(const cenote_buddy *buddy)
{
    cenote_buddy_stats stats;
    cenote_buddy_stats_get(buddy, &stats);
    return stats;
}

static void assert_free_refused(cenote_buddy *buddy, uint64_t address, uint64_t size_bytes,
                                const char *words)
{
    cenote_error err = {0};
    cenote_buddy_stats before = stats_of(buddy);
    assert_int_equal(
        cenote_buddy_free(buddy, address, size_bytes, CENOTE_BUDDY_GENERATION_ANY, &err),
        CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, words));
    assert_int_equal(
        cenote_buddy_free(buddy, address, size_bytes, CENOTE_BUDDY_GENERATION_ANY, NULL),
        CENOTE_E_INVAL);
    cenote_buddy_stats after = stats_of(buddy);
    assert_memory_equal(&before, &after, sizeof before);
    assert_null(cenote_buddy_check(buddy));
}

/* ---- set-up ---- */

static void test_options(void **state)
{
    (void)state;
    static const struct {
        uint64_t start, size_bytes, leaf_bytes;
    } refused[] = {
        {0, 0, 256},
        {0, 255, 256},
        {1, 256, 256}, /* the only leaf would begin at 256 */
        {0, 4096, 0},
        {0, 4096, 8},
        {0, 4096, 48},
        {0, 4096, UINT64_C(1) << 63},
        {UINT64_MAX, 1, 16},
        {UINT64_MAX - 15, 16, 16},
        {UINT64_MAX - 3, 2, 16},
        {1, UINT64_MAX, 16},
    };
    char metadata[64];
    cenote_buddy *buddy = NULL;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        cenote_error err = {0};
        cenote_buddy_options options = {CENOTE_BUDDY_OPTIONS_VERSION, refused[i].start,
                                        refused[i].size_bytes, refused[i].leaf_bytes};
        assert_true(cenote_buddy_metadata_bytes(&options) == UINT64_MAX);
        assert_int_equal(cenote_buddy_init(&options, metadata, UINT64_MAX, &buddy, &err),
                         CENOTE_E_INVAL);
        bool passes = refused[i].start > UINT64_MAX - refused[i].size_bytes;
        bool is_power = refused[i].leaf_bytes == 16 || refused[i].leaf_bytes == 256;
        if (is_power)
            assert_non_null(strstr(err.message, passes ? "passes 2^64" : "no whole leaf"));
        else if (refused[i].leaf_bytes < 256)
            assert_non_null(strstr(err.message, "a power of two"));
    }
    cenote_buddy_options options = CENOTE_BUDDY_OPTIONS_INIT;
    options.size_bytes = 4096;
    options.version = 9;
    assert_true(cenote_buddy_metadata_bytes(&options) == UINT64_MAX);
    assert_int_equal(cenote_buddy_init(&options, metadata, 64, &buddy, NULL), CENOTE_E_VERSION);
    assert_null(buddy);
}

static void test_metadata(void **state)
{
    (void)state;
    cenote_buddy_options options = CENOTE_BUDDY_OPTIONS_INIT;
    options.size_bytes = 100 * UINT64_C(4096);
    uint64_t bytes = cenote_buddy_metadata_bytes(&options);
    unsigned char *metadata = aligned_alloc(64, (bytes + 128) / 64 * 64);
    cenote_buddy *buddy = NULL;
    cenote_error err;
    assert_int_equal(cenote_buddy_init(&options, NULL, bytes, &buddy, &err), CENOTE_E_INVAL);
    assert_int_equal(cenote_buddy_init(&options, metadata, bytes - 1, &buddy, &err),
                     CENOTE_E_INVAL);
    assert_int_equal(cenote_buddy_init(&options, metadata + 4, bytes, &buddy, &err),
                     CENOTE_E_INVAL);
    assert_null(buddy);
    memset(metadata + bytes, 0x5a, 8);
    assert_int_equal(cenote_buddy_init(&options, metadata, bytes, &buddy, &err), CENOTE_OK);
    while (cenote_buddy_alloc(buddy, 1, 0, &bytes, NULL) == CENOTE_OK)
        continue;
    assert_int_equal(stats_of(buddy).block_count, 100);
    bytes = cenote_buddy_metadata_bytes(&options);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(metadata[bytes + i], 0x5a);
    free(metadata);
}

/* The promise: 0.1 % at 4 KiB, 0.25 % at 256 B; at any start, and for small ranges less than 1 KiB
 * beside it. */
static void test_metadata_share(void **state)
{
    (void)state;
    static const uint64_t starts[] = {0, 12345, (UINT64_C(1) << 47) - 4096 * 77};
    for (unsigned order = 12; order < 46; order++)
        for (size_t i = 0; i < 3; i++) {
            cenote_buddy_options options = CENOTE_BUDDY_OPTIONS_INIT;
            options.start = starts[i];
            options.size_bytes = (UINT64_C(3) << order) + 8191;
            double size = (double)options.size_bytes;
            assert_true((double)cenote_buddy_metadata_bytes(&options) < 0.000555 * size + 1024);
            options.leaf_bytes = LEAF;
            assert_true((double)cenote_buddy_metadata_bytes(&options) < 0.00203 * size + 1024);
        }
}

/* Starts and lengths around every edge of words, groups and levels. */
static void test_ranges(void **state)
{
    (void)state;
    static const uint64_t counts[] = {1, 2, 63, 64, 65, 127, 128, 511, 512, 513, 4095, 4096, 4097};
    static const uint64_t origins[] = {0, 1, 63, 64, 511, 513, (UINT64_C(1) << 52) - 3};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++)
        for (size_t o = 0; o < sizeof origins / sizeof origins[0]; o++)
            for (unsigned residue = 0; residue < 2; residue++) {
                uint64_t start = origins[o] * LEAF - (origins[o] > 0 ? residue : 0);
                cenote_buddy *buddy = make(start, counts[c] * LEAF + 2 * residue, LEAF);
                assert_int_equal(stats_of(buddy).usable_bytes, counts[c] * LEAF);
                cenote_error err;
                uint64_t leaves = 0, address, last = 0;
                while (cenote_buddy_alloc(buddy, LEAF, 0, &address, &err) == CENOTE_OK) {
                    assert_true(leaves == 0 || address == last + LEAF);
                    last = address;
                    leaves++;
                }
                assert_int_equal(leaves, counts[c]);
                assert_int_equal(stats_of(buddy).largest_block_bytes, 0);
                assert_null(cenote_buddy_check(buddy));
                for (; leaves > 0; leaves--, last -= LEAF)
                    assert_int_equal(
                        cenote_buddy_free(buddy, last, 1, CENOTE_BUDDY_GENERATION_ANY, &err),
                        CENOTE_OK);
                assert_null(cenote_buddy_check(buddy));
                assert_int_equal(stats_of(buddy).free_bytes, counts[c] * LEAF);
                free(buddy);
            }
}

/* All 64 bits of addresses but what the metadata would cost: blocks of half of it and of a leaf. */
static void test_huge(void **state)
{
    (void)state;
    uint64_t leaf = UINT64_C(1) << 44, half = UINT64_C(1) << 63;
    cenote_buddy *buddy = make(0, UINT64_MAX, leaf);
    assert_int_equal(stats_of(buddy).usable_bytes, UINT64_MAX - leaf + 1);
    assert_int_equal(take(buddy, half, 0), 0);
    assert_int_equal(take(buddy, half / 2 + 1 - 1, 0), half);
    uint64_t address;
    cenote_error err;
    assert_int_equal(cenote_buddy_alloc(buddy, half, 0, &address, &err), CENOTE_E_BUDGET);
    assert_int_equal(cenote_buddy_alloc(buddy, UINT64_MAX, 0, &address, &err), CENOTE_E_BUDGET);
    assert_int_equal(cenote_buddy_alloc(buddy, 1, half, &address, &err), CENOTE_E_BUDGET);
    assert_int_equal(take(buddy, leaf, 0), half + half / 2);
    assert_free_refused(buddy, UINT64_MAX, 1, "not among");
    give(buddy, 0, half);
    give(buddy, half, half / 2);
    free(buddy);

    buddy = make(UINT64_MAX - 4096, 4096, 16);
    uint64_t last = UINT64_MAX - 4096;
    while (cenote_buddy_alloc(buddy, 16, 0, &last, NULL) == CENOTE_OK)
        continue;
    assert_true(last == UINT64_MAX - 31);
    assert_free_refused(buddy, UINT64_MAX - 15, 16, "not among");
    free(buddy);
}

/* ---- blocks ---- */

static void test_lowest(void **state)
{
    (void)state;
    cenote_buddy *buddy = make(0, 1 << 20, LEAF);
    assert_int_equal(take(buddy, 1, 0), 0);
    assert_int_equal(take(buddy, 2 * LEAF, 0), 2 * LEAF);
    assert_int_equal(take(buddy, LEAF, 0), LEAF);
    assert_int_equal(take(buddy, 3 * LEAF, 0), 4 * LEAF);
    assert_int_equal(take(buddy, 65536, 0), 65536);
    assert_int_equal(take(buddy, 4 * LEAF, 0), 8 * LEAF);
    give(buddy, 2 * LEAF, 2 * LEAF);
    assert_int_equal(take(buddy, LEAF, 0), 2 * LEAF); /* the lower half of the lower hole */
    assert_int_equal(take(buddy, 2 * LEAF, 0), 12 * LEAF);
    assert_int_equal(take(buddy, 1 << 19, 0), 1 << 19);
    free(buddy);
}

static void test_align(void **state)
{
    (void)state;
    uint64_t start = (UINT64_C(7) << 40) + 3 * LEAF;
    cenote_buddy *buddy = make(start, 1 << 20, LEAF);
    for (uint64_t size = LEAF; size <= 1 << 18; size *= 2) {
        uint64_t address = take(buddy, size, size);
        assert_int_equal(address % size, 0);
        give(buddy, address, size);
    }
    uint64_t address = take(buddy, LEAF, 65536);
    assert_int_equal(address, (UINT64_C(7) << 40) + 65536);
    assert_int_equal(stats_of(buddy).used_bytes, LEAF);
    assert_int_equal(take(buddy, LEAF, 2 * LEAF), start + LEAF); /* 4 leaves in */
    assert_int_equal(take(buddy, LEAF, 65536), (UINT64_C(7) << 40) + 131072);
    give(buddy, address, LEAF);
    uint64_t unused = 42;
    cenote_error err;
    assert_int_equal(cenote_buddy_alloc(buddy, 1, 3, &unused, &err), CENOTE_E_INVAL);
    assert_int_equal(cenote_buddy_alloc(buddy, 0, 0, &unused, &err), CENOTE_E_INVAL);
    assert_int_equal(cenote_buddy_alloc(buddy, 1 << 20, 0, &unused, &err), CENOTE_E_BUDGET);
    assert_non_null(strstr(err.message, "the largest block is 524288"));
    assert_int_equal(unused, 42);
    free(buddy);
}

static void test_wild_free(void **state)
{
    (void)state;
    cenote_buddy *buddy = make(4096, 1 << 20, LEAF);
    uint64_t small = take(buddy, 4 * LEAF, 0), large = take(buddy, 256 * 1024, 0);
    assert_free_refused(buddy, small + LEAF, LEAF, "in use");
    assert_free_refused(buddy, small + 1, 4 * LEAF, "in use");
    assert_free_refused(buddy, small, 2 * LEAF, "in use");
    assert_free_refused(buddy, small, 5 * LEAF, "in use");
    assert_free_refused(buddy, small, 0, "in use");
    assert_free_refused(buddy, small, UINT64_MAX, "in use");
    assert_free_refused(buddy, large + LEAF, LEAF, "in use");
    assert_free_refused(buddy, large + 65536, 65536, "in use");
    assert_free_refused(buddy, large, 128 * 1024, "in use");
    assert_free_refused(buddy, large + 128 * 1024, 128 * 1024, "in use");
    assert_free_refused(buddy, large, 512 * 1024, "in use");
    assert_free_refused(buddy, 0, 4 * LEAF, "not among");
    assert_free_refused(buddy, 4096 - LEAF, LEAF, "not among");
    assert_free_refused(buddy, 4096 + (1 << 20), LEAF, "not among");
    assert_free_refused(buddy, UINT64_MAX, LEAF, "not among");
    give(buddy, small, 4 * LEAF);
    give(buddy, large, 256 * 1024);
    assert_free_refused(buddy, small, 4 * LEAF, "are free");
    assert_free_refused(buddy, large, 256 * 1024, "are free");
    free(buddy);
}

/* Sizes that give the same block but were never asked for make one figure wrong, within bounds. */
/* A block is freed twice while another one begins where it did: without generations that one would
 * go. */
static void test_late_free(void **state)
{
    (void)state;
    static const uint64_t leaves[] = {LEAF, 4096};
    for (size_t i = 0; i < 2; i++) {
        cenote_buddy *buddy = make(5 * leaves[i], 77 * leaves[i], leaves[i]);
        uint64_t beside = take(buddy, 1, 0), size = 3 * leaves[i], address = take(buddy, size, 0);
        uint32_t first = cenote_buddy_generation(buddy, address);
        cenote_error err;
        for (unsigned later = 1; later < 4; later++) {
            uint32_t generation = cenote_buddy_generation(buddy, address);
            assert_int_equal(cenote_buddy_free(buddy, address, size, generation, &err), CENOTE_OK);
            assert_int_equal(cenote_buddy_free(buddy, address, size, generation, &err),
                             CENOTE_E_INVAL);
            assert_non_null(strstr(err.message, "are free"));
            assert_int_equal(take(buddy, size, 0), address);
            assert_int_equal(cenote_buddy_free(buddy, address, size, generation, &err),
                             CENOTE_E_INVAL);
            assert_non_null(strstr(err.message, "was freed before"));
            assert_int_equal(cenote_buddy_free(buddy, address, size, first, NULL), CENOTE_E_INVAL);
            assert_null(cenote_buddy_check(buddy));
        }
        assert_int_equal(stats_of(buddy).block_count, 2);
        assert_int_equal(cenote_buddy_generation(buddy, beside), 0); /* a neighbour's stays */
        assert_int_equal(cenote_buddy_generation(buddy, address + leaves[i]), 0);
        assert_int_equal(cenote_buddy_generation(buddy, 0), 0);
        uint64_t most = leaves[i] < 4096 ? 4 : 65536, rounds = 0;
        do {
            give(buddy, beside, 1);
            assert_int_equal(take(buddy, 1, 0), beside);
        } while (cenote_buddy_generation(buddy, beside) != 0 && ++rounds < most);
        assert_int_equal(rounds, most - 1);
        free(buddy);
    }
}

static void test_untrue_sizes(void **state)
{
    (void)state;
    cenote_buddy *buddy = make(0, 1 << 16, LEAF);
    uint64_t a = take(buddy, 3 * LEAF, 0), b = take(buddy, 3 * LEAF, 0), c = take(buddy, 1, 0);
    give(buddy, a, 4 * LEAF);
    give(buddy, b, 4 * LEAF);
    assert_int_equal(stats_of(buddy).requested_bytes, 1);
    give(buddy, c, 1);
    a = take(buddy, LEAF, 0), b = take(buddy, LEAF, 0);
    give(buddy, a, 1);
    assert_int_equal(stats_of(buddy).requested_bytes, LEAF);
    give(buddy, b, 1);
    assert_int_equal(stats_of(buddy).requested_bytes, 0);
    free(buddy);
}

/* ---- reserved parts ---- */

static void assert_kind(const cenote_buddy *buddy, uint64_t address, cenote_buddy_kind kind)
{
    cenote_buddy_block block;
    assert_true(cenote_buddy_next(buddy, address, &block));
    assert_int_equal(block.kind, kind);
    assert_true(block.address <= address && address - block.address < block.size_bytes);
}

static void test_reserve(void **state)
{
    (void)state;
    cenote_buddy *buddy = make(0, 1 << 20, LEAF);
    cenote_error err;
    uint64_t all = 1 << 20;
    /* everything, in one part; then a hole of one leaf in its middle, and a block into it */
    assert_int_equal(cenote_buddy_reserve(buddy, 0, all, &err), CENOTE_OK);
    assert_null(cenote_buddy_check(buddy));
    assert_int_equal(stats_of(buddy).free_bytes, 0);
    assert_int_equal(cenote_buddy_release(buddy, 5000, 1, &err), CENOTE_OK);
    assert_null(cenote_buddy_check(buddy));
    assert_int_equal(stats_of(buddy).free_bytes, LEAF);
    assert_int_equal(take(buddy, 1, 0), 5000 / LEAF * LEAF);
    assert_kind(buddy, 5000, CENOTE_BUDDY_USED);
    assert_kind(buddy, 5000 - LEAF, CENOTE_BUDDY_RESERVED);
    assert_int_equal(cenote_buddy_release(buddy, 0, all, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "in use"));
    assert_free_refused(buddy, 0, LEAF, "reserved");
    give(buddy, 5000 / LEAF * LEAF, 1);
    /* back together, leaf by leaf, and released at once */
    assert_int_equal(cenote_buddy_reserve(buddy, 5000, 1, &err), CENOTE_OK);
    assert_null(cenote_buddy_check(buddy));
    assert_int_equal(cenote_buddy_reserve(buddy, 5000, 1, &err), CENOTE_E_INVAL);
    assert_int_equal(cenote_buddy_release(buddy, 0, all, &err), CENOTE_OK);
    assert_null(cenote_buddy_check(buddy));
    assert_int_equal(stats_of(buddy).largest_block_bytes, all);
    for (uint64_t at = 0; at < all; at += LEAF)
        assert_int_equal(cenote_buddy_reserve(buddy, at, LEAF, &err), CENOTE_OK);
    assert_null(cenote_buddy_check(buddy));
    cenote_buddy_block block;
    assert_true(cenote_buddy_next(buddy, 12345, &block));
    assert_int_equal(block.size_bytes, all); /* one piece again */
    for (uint64_t at = 0; at < all; at += LEAF)
        assert_int_equal(cenote_buddy_release(buddy, at, LEAF, &err), CENOTE_OK);
    assert_null(cenote_buddy_check(buddy));
    free(buddy);
}

static void test_reserve_hostile(void **state)
{
    (void)state;
    cenote_buddy *buddy = make(4096, 1 << 20, LEAF);
    uint64_t end = 4096 + (1 << 20);
    const uint64_t parts[][2] = {
        {4096, 0},
        {4095, 2},
        {end - 1, 2},
        {end, 1},
        {0, 4096},
        {0, UINT64_MAX},
        {UINT64_MAX, 1},
        {UINT64_MAX, UINT64_MAX},
        {4096, end},
        {4096, UINT64_MAX},
        {4096, 0 - (uint64_t)4096},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        cenote_error err = {0};
        assert_int_equal(cenote_buddy_reserve(buddy, parts[i][0], parts[i][1], &err),
                         CENOTE_E_INVAL);
        assert_int_equal(cenote_buddy_release(buddy, parts[i][0], parts[i][1], &err),
                         CENOTE_E_INVAL);
        assert_true(err.message[0] != '\0');
    }
    uint64_t block = take(buddy, 1, 0);
    assert_int_equal(cenote_buddy_reserve(buddy, block, 65536, NULL), CENOTE_E_INVAL);
    assert_int_equal(cenote_buddy_release(buddy, block, 1, NULL), CENOTE_E_INVAL);
    assert_int_equal(stats_of(buddy).reserved_bytes, 0);
    assert_null(cenote_buddy_check(buddy));
    free(buddy);
}

/* ---- looking ---- */

static void test_walk(void **state)
{
    (void)state;
    cenote_buddy *buddy = make(1000, 16 * LEAF + 100, LEAF); /* leaves from 1024 to 4864 */
    uint64_t a = take(buddy, 2 * LEAF, 0);
    assert_int_equal(a, 1024);
    assert_int_equal(cenote_buddy_reserve(buddy, 2048, 1, NULL), CENOTE_OK);
    const cenote_buddy_block expected[] = {
        {1024, 512, CENOTE_BUDDY_USED},     {1536, 512, CENOTE_BUDDY_FREE},
        {2048, 256, CENOTE_BUDDY_RESERVED}, {2304, 256, CENOTE_BUDDY_FREE},
        {2560, 512, CENOTE_BUDDY_FREE},     {3072, 1024, CENOTE_BUDDY_FREE},
        {4096, 1024, CENOTE_BUDDY_FREE},
    };
    cenote_buddy_block block;
    size_t count = 0;
    for (uint64_t at = 0; cenote_buddy_next(buddy, at, &block);
         at = block.address + block.size_bytes, count++) {
        assert_int_equal(block.address, expected[count].address);
        assert_int_equal(block.size_bytes, expected[count].size_bytes);
        assert_int_equal(block.kind, expected[count].kind);
    }
    assert_int_equal(count, 7);
    free(buddy);
}

static void test_figures(void **state)
{
    (void)state;
    cenote_buddy *buddy = make(0, 1 << 20, LEAF);
    cenote_buddy_stats stats = stats_of(buddy);
    assert_true(stats.occupancy == 0.0 && stats.internal_fragmentation == 0.0 &&
                stats.external_fragmentation == 0.0);
    assert_int_equal(stats.largest_block_bytes, 1 << 20);
    uint64_t a = take(buddy, 3 * LEAF, 0);
    take(buddy, 1 << 19, 0);
    assert_int_equal(cenote_buddy_reserve(buddy, 1 << 18, 1 << 18, NULL), CENOTE_OK);
    stats = stats_of(buddy);
    assert_int_equal(stats.used_bytes, (1 << 19) + 4 * LEAF);
    assert_int_equal(stats.requested_bytes, (1 << 19) + 3 * LEAF);
    assert_int_equal(stats.reserved_bytes, 1 << 18);
    assert_int_equal(stats.free_bytes, (1 << 18) - 4 * LEAF);
    assert_int_equal(stats.largest_block_bytes, 1 << 17);
    assert_true(stats.occupancy == (768.0 * 1024 + 4 * LEAF) / (1 << 20));
    assert_true(stats.internal_fragmentation == 1.0 - (524288.0 + 768) / (524288.0 + 1024));
    assert_true(stats.external_fragmentation == 1.0 - 131072.0 / (262144.0 - 1024));
    give(buddy, a, 3 * LEAF);
    stats = stats_of(buddy);
    assert_int_equal(stats.used_peak_bytes, (1 << 19) + 4 * LEAF);
    assert_int_equal(stats.block_count, 1);
    assert_int_equal(stats.alloc_count, 2);
    free(buddy);
}

/* Every single bit of the tree matters: whichever is flipped, check says so. */
static void test_check(void **state)
{
    (void)state;
    enum { LEAVES = 1500, FIRST = 37 };
    cenote_buddy *buddy = make(FIRST * LEAF, LEAVES * LEAF, LEAF);
    static const unsigned leaves[] = {1, 2, 1, 64, 7, 130, 1, 512, 3};
    for (size_t i = 0; i < sizeof leaves / sizeof leaves[0]; i++)
        take(buddy, leaves[i] * LEAF, 0);
    assert_int_equal(cenote_buddy_reserve(buddy, 1300 * LEAF, 150 * LEAF, NULL), CENOTE_OK);
    cenote_buddy_options options = CENOTE_BUDDY_OPTIONS_INIT;
    options.start = FIRST * LEAF;
    options.size_bytes = LEAVES * LEAF;
    options.leaf_bytes = LEAF;
    uint64_t end = cenote_buddy_metadata_bytes(&options);
    unsigned char *metadata = (unsigned char *)buddy;
    for (uint64_t at = end - cn_buddy_tree_bytes(FIRST, LEAVES); at < end; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            metadata[at] ^= (unsigned char)(1u << bit);
            if (cenote_buddy_check(buddy) == NULL)
                fail_msg("bit %u of byte %llu may be anything", bit, (unsigned long long)at);
            metadata[at] ^= (unsigned char)(1u << bit);
        }
    assert_null(cenote_buddy_check(buddy));
    free(buddy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_metadata_share), cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_huge),           cmocka_unit_test(test_lowest),
        cmocka_unit_test(test_align),          cmocka_unit_test(test_wild_free),
        cmocka_unit_test(test_late_free),      cmocka_unit_test(test_untrue_sizes),
        cmocka_unit_test(test_reserve),        cmocka_unit_test(test_reserve_hostile),
        cmocka_unit_test(test_walk),           cmocka_unit_test(test_figures),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
