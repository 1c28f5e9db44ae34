/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of products, strides and tiles that follow from caches, against the paper's figures, the
 * promises of the header and what the blocks take; and the copies, byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/copy.h"
#include "blocked_product.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static uint64_t random_state = 1;

static uint64_t below(uint64_t limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (random_state >> 33) % limit;
}

static cenote_hardware laptop(void)
{
    cenote_hardware hardware = {.cores = 1, .cpus = 1};
    assert_int_equal(
        cenote_hardware_load(TEST_SOURCE_DIR "/share/hardware/i5-10210u.conf", &hardware, NULL),
        CENOTE_OK);
    return hardware;
}

/* ---- blocks ---- */

/* Table 2 of the paper: Sandy Bridge in double precision, 8 x 4 tiles: kc 256, mc 96. */
static void test_figures_of_the_paper(void **state)
{
    (void)state;
    cenote_hardware sandy_bridge = {
        .l1d = {32768, 64, 8, 1, 0}, .l2 = {262144, 64, 8, 1, 0}, .cores = 1, .cpus = 1};
    cenote_gemm_shape shape = {96 * 256, 1 << 12, 1 << 12, 8, 4, 8, 1};
    cenote_gemm_blocks blocks = cenote_gemm_blocks_get(&sandy_bridge, &shape);
    assert_int_equal(blocks.kc, 256);
    assert_int_equal(blocks.mc, 96);
    assert_int_equal(blocks.nc, 1 << 12); /* without L3 all of it */
}

static void test_laptop(void **state)
{
    (void)state;
    cenote_hardware hardware = laptop();
    cenote_gemm_shape shape = {6144, 1 << 14, 2560, 16, 6, 4, 1};
    cenote_gemm_blocks one = cenote_gemm_blocks_get(&hardware, &shape);
    /* 5 of 8 ways for 16 rows: 5 * 4 KiB / 64 B = 320; 2 of 4 ways of L2: 128 KiB / 1280 B */
    assert_int_equal(one.kc, 320);
    assert_int_equal(one.mc, 96);
    /* 10 ways of 512 KiB / 1280 B, 4092 in whole tiles: five equal parts */
    assert_int_equal(one.nc, 3282);
    /* Two threads a core share its L1 and L2, and all share L3; more than CPUs take turns. */
    shape.threads = 8;
    cenote_gemm_blocks eight = cenote_gemm_blocks_get(&hardware, &shape);
    assert_true(eight.kc < one.kc && eight.nc < one.nc);
    assert_true(eight.mc * eight.kc < one.mc * one.kc);
    shape.threads = 800;
    cenote_gemm_blocks many = cenote_gemm_blocks_get(&hardware, &shape);
    assert_memory_equal(&many, &eight, sizeof many);
    /* Nothing known: the same, without L3. */
    shape.threads = 0;
    cenote_hardware unknown = {0};
    cenote_gemm_blocks blind = cenote_gemm_blocks_get(&unknown, &shape);
    assert_int_equal(blind.kc, one.kc);
    assert_int_equal(blind.mc, one.mc);
    assert_int_equal(blind.nc, 16386);
}

static void assert_block(uint64_t block, uint64_t whole, uint64_t unit)
{
    assert_true(block >= unit && block % unit == 0);
    assert_true(block < whole + unit);
}

/* Any caches, any shape: whole units, no more than there is, and they fit what they are for,
 * unless the cache cannot hold a unit. */
static void test_any_machine(void **state)
{
    (void)state;
    static const uint32_t ways[] = {0, 1, 2, 4, 8, 11, 12, 16, 20};
    for (unsigned turn = 0; turn < 20000; turn++) {
        cenote_hardware hardware = {
            .l1d = {below(4) == 0 ? 0 : 1 + below(1 << 18), 64, ways[below(COUNT(ways))], 1, 0},
            .l2 = {below(4) == 0 ? 0 : 1 + below(1 << 22), 64, ways[below(COUNT(ways))], 1, 0},
            .l3 = {below(4) == 0 ? 0 : 1 + below(1 << 26), 64, ways[below(COUNT(ways))], 1, 0},
            .cores = (uint32_t)below(16),
            .cpus = (uint32_t)below(32)};
        cenote_gemm_shape shape = {1 + below(1 << 15),      1 + below(1 << 15),
                                   1 + below(1 << 15),      1 + (uint32_t)below(32),
                                   1 + (uint32_t)below(32), UINT32_C(1) << below(4),
                                   (uint32_t)below(64)};
        cenote_gemm_blocks blocks = cenote_gemm_blocks_get(&hardware, &shape);
        assert_block(blocks.kc, shape.k, 16);
        assert_block(blocks.mc, shape.m, shape.tile_rows);
        assert_block(blocks.nc, shape.n, shape.tile_columns);
        uint64_t line = blocks.kc * shape.element_bytes;
        if (hardware.l1d.size_bytes >= 4096 && blocks.kc > 16)
            assert_true(line * (shape.tile_rows + shape.tile_columns) <= hardware.l1d.size_bytes);
        if (hardware.l2.size_bytes > 0 && blocks.mc > shape.tile_rows)
            assert_true(blocks.mc * line <= hardware.l2.size_bytes);
        if (hardware.l3.size_bytes > 0 && blocks.nc > shape.tile_columns)
            assert_true(blocks.nc * line <= hardware.l3.size_bytes);
    }
}

/* The blocked product is the plain one, to the bit, in any machine's blocks. */
static void test_blocks_change_no_bit(void **state)
{
    (void)state;
    const plain_product shape = {.m = 44, .n = 112, .k = 150};
    float *a = malloc(shape.m * shape.k * sizeof *a), *b = malloc(shape.k * shape.n * sizeof *b);
    float *c[2] = {malloc(shape.m * shape.n * sizeof *a), malloc(shape.m * shape.n * sizeof *a)};
    for (uint64_t i = 0; i < shape.m * shape.k; i++)
        a[i] = (float)below(1000) / 999.0f - 0.5f;
    for (uint64_t i = 0; i < shape.k * shape.n; i++)
        b[i] = (float)below(1000) / 999.0f - 0.5f;
    for (unsigned turn = 0; turn < 40; turn++) {
        cenote_hardware hardware = {.l1d = {256 + below(1 << 13), 64, 4, 1, 0},
                                    .l2 = {1024 + below(1 << 14), 64, 4, 1, 0},
                                    .l3 = {1024 + below(1 << 15), 64, 4, 1, 0}};
        for (unsigned i = 0; i < 2; i++)
            for (uint64_t j = 0; j < shape.m * shape.n; j++)
                c[i][j] = (float)(j % 7);
        plain_product naive = shape, blocked = shape;
        naive.a = blocked.a = a;
        naive.b = blocked.b = b;
        naive.c = c[0];
        blocked.c = c[1];
        float *scratch = malloc(product_scratch_floats(&blocked, &hardware) * sizeof *scratch);
        product_naive(&naive);
        product_blocked(&blocked, &hardware, scratch);
        assert_memory_equal(c[0], c[1], shape.m * shape.n * sizeof **c);
        free(scratch);
    }
    free(a);
    free(b);
    free(c[0]);
    free(c[1]);
}

/* ---- strides and tiles ---- */

static void test_strides(void **state)
{
    (void)state;
    static const uint32_t lines[] = {0, 16, 64, 128, 1024};
    for (size_t l = 0; l < COUNT(lines); l++)
        for (uint64_t row_bytes = 0; row_bytes < 9000; row_bytes += 1 + row_bytes % 5) {
            uint64_t line = lines[l] != 0 ? lines[l] : 64;
            uint64_t stride = cenote_row_stride_bytes(row_bytes, lines[l]);
            assert_true(stride >= row_bytes && stride <= row_bytes + 2 * line);
            assert_int_equal(stride / line % 2, 1);
            assert_int_equal(stride % line, 0);
        }
    assert_int_equal(cenote_row_stride_bytes(4096, 64), 4160);
    assert_int_equal(cenote_row_stride_bytes(4160, 64), 4160);
    assert_int_equal(cenote_row_stride_bytes(UINT64_MAX - 100, 64), 0);
}

/* 64 rows of 4 KiB: one set of a 32 KiB cache of 8 ways without padding, all of them with it; and
 * no two rows are equal modulo 4 KiB. */
static void test_padding_spreads_rows(void **state)
{
    (void)state;
    for (uint64_t row_bytes = 4096; row_bytes <= 3 * 4096; row_bytes += 512) {
        uint64_t stride = cenote_row_stride_bytes(row_bytes, 64), sets = 0;
        for (uint64_t row = 0; row < 64; row++)
            sets |= UINT64_C(1) << row * stride / 64 % 64;
        assert_true(sets == UINT64_MAX);
    }
}

static void test_attention_tiles(void **state)
{
    (void)state;
    static const uint32_t cases[][2] = {{1, 64},   {64, 64},  {65, 32}, {80, 32}, {128, 32},
                                        {129, 16}, {256, 16}, {257, 8}, {512, 8}, {4096, 8}};
    cenote_hardware hardware = {.cores = 1, .cpus = 1};
    assert_int_equal(
        cenote_hardware_load(TEST_SOURCE_DIR "/share/hardware/sm61.conf", &hardware, NULL),
        CENOTE_OK);
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(cenote_attention_tile_rows(&hardware.device, cases[i][0]), cases[i][1]);
    hardware.device.block_shared_bytes *= 2; /* twice the memory, one size up */
    assert_int_equal(cenote_attention_tile_rows(&hardware.device, 128), 64);
}

/* ---- copies ---- */

#define AREA_BYTES 1024u
#define GUARD      0xeeu

static void check_copy(cn_copy_steps_fn steps, size_t to_at, size_t from_at, size_t size_bytes)
{
    static unsigned char from[AREA_BYTES], to[AREA_BYTES] __attribute__((aligned(64)));
    for (size_t i = 0; i < AREA_BYTES; i++)
        from[i] = (unsigned char)(i * 7 + i / 256);
    memset(to, GUARD, sizeof to);
    cn_copy_nontemporal_by(steps, to + to_at, from + from_at, size_bytes);
    assert_memory_equal(to + to_at, from + from_at, size_bytes);
    for (size_t i = 0; i < AREA_BYTES; i++)
        if (i < to_at || i >= to_at + size_bytes)
            assert_int_equal(to[i], GUARD);
}

static void test_nontemporal_copy(void **state)
{
    (void)state;
    cn_copy_steps_fn steps[] = {cn_copy_steps_portable, cn_copy_steps_portable};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        steps[1] = cn_copy_steps_avx2;
#endif
    for (size_t s = 0; s < COUNT(steps); s++)
        for (size_t at = 0; at < 66; at++)
            for (size_t size_bytes = 0; size_bytes < 400; size_bytes += 1 + size_bytes / 70)
                check_copy(steps[s], at, at * 5 % 67, size_bytes);
    cenote_copy_nontemporal(NULL, NULL, 0);
    const size_t large = (3u << 20) + 5;
    unsigned char *from = malloc(large), *to = malloc(large + 1);
    for (size_t i = 0; i < large; i++)
        from[i] = (unsigned char)(i ^ i >> 9);
    cenote_copy_nontemporal(to + 1, from, large);
    assert_memory_equal(to + 1, from, large);
    free(from);
    free(to);
}

static void test_row_copy(void **state)
{
    (void)state;
    static unsigned char from[8192], to[8192];
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (unsigned char)(i * 11 + i / 100);
    for (size_t row_bytes = 0; row_bytes <= 200; row_bytes++)
        for (size_t rows = 0; rows <= 5; rows++) {
            size_t from_stride = row_bytes + row_bytes % 13, to_stride = row_bytes + rows;
            memset(to, GUARD, sizeof to);
            cenote_copy_rows(to, to_stride, from + 3, from_stride, row_bytes, rows);
            for (size_t i = 0; i < 1300; i++) {
                size_t row = to_stride > 0 ? i / to_stride : rows;
                bool inside = row < rows && i % to_stride < row_bytes;
                assert_int_equal(to[i],
                                 inside ? from[3 + row * from_stride + i % to_stride] : GUARD);
            }
        }
}

static void test_prefetch_harms_nobody(void **state)
{
    (void)state;
    char some[100];
    cenote_prefetch(NULL, 0);
    cenote_prefetch(NULL, 4096);
    cenote_prefetch((const void *)(uintptr_t)0x7777777777777, 300);
    cenote_prefetch(some, sizeof some);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures_of_the_paper),
        cmocka_unit_test(test_laptop),
        cmocka_unit_test(test_any_machine),
        cmocka_unit_test(test_blocks_change_no_bit),
        cmocka_unit_test(test_strides),
        cmocka_unit_test(test_padding_spreads_rows),
        cmocka_unit_test(test_attention_tiles),
        cmocka_unit_test(test_nontemporal_copy),
        cmocka_unit_test(test_row_copy),
        cmocka_unit_test(test_prefetch_harms_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
