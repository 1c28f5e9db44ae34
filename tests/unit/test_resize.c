/* SPDX-License-Identifier: Apache-2.0 */
/* The resize against torch's results (tests/data/images/resize.txt), and the eight orientations
 * against turning first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pixels.h"
#include "resize.h"

#define GUARD 64

/* The result in new memory, with a guard after it that must stay. */
static uint8_t *resized(const qwen_resize_spec *spec, const uint8_t *pixels)
{
    size_t bytes = (size_t)spec->out_width * spec->out_height * 3;
    uint8_t *out = malloc(bytes + GUARD);
    assert_non_null(out);
    memset(out, 0xa5, bytes + GUARD);
    qwen_resizer *resizer = qwen_resizer_create(spec, out);
    assert_non_null(resizer);
    for (uint32_t y = 0; y < spec->source_height; y++)
        qwen_resizer_push(resizer, pixels + (size_t)y * spec->source_width * 3);
    /* One row too many does nothing. */
    qwen_resizer_push(resizer, pixels);
    qwen_resizer_destroy(resizer);
    for (size_t i = 0; i < GUARD; i++)
        assert_int_equal(out[bytes + i], 0xa5);
    return out;
}

static void equals_torch(void **state)
{
    (void)state;
    FILE *list = fopen(TEST_DATA_DIR "/images/resize.txt", "r");
    assert_non_null(list);
    unsigned w, h, out_w, out_h, seed, hard, mark;
    int cases = 0;
    while (fscanf(list, "%u %u %u %u %u %u %x", &w, &h, &out_w, &out_h, &seed, &hard, &mark) == 7) {
        size_t count = (size_t)w * h * 3;
        uint8_t *pixels = malloc(count);
        assert_non_null(pixels);
        pixels_noise(pixels, count, seed, hard != 0);
        qwen_resize_spec spec = {w, h, out_w, out_h, 1};
        uint8_t *out = resized(&spec, pixels);
        if (pixels_adler32(out, (size_t)out_w * out_h * 3) != mark)
            fail_msg("%ux%u to %ux%u, seed %u, hard %u differs from torch", w, h, out_w, out_h,
                     seed, hard);
        free(out);
        free(pixels);
        cases++;
    }
    fclose(list);
    assert_true(cases >= 80);
}

/* Pixel (x, y) of the upright picture, by the meaning of the EXIF tag: where its row 0 and column 0
 * are in the stored one. */
static const uint8_t *upright_pixel(const uint8_t *stored, uint32_t w, uint32_t h, int orientation,
                                    uint32_t x, uint32_t y)
{
    uint32_t sx = 0, sy = 0;
    switch (orientation) {
    case 1: /* row 0 is the top, column 0 the left */
        sx = x, sy = y;
        break;
    case 2: /* top, right */
        sx = w - 1 - x, sy = y;
        break;
    case 3: /* bottom, right */
        sx = w - 1 - x, sy = h - 1 - y;
        break;
    case 4: /* bottom, left */
        sx = x, sy = h - 1 - y;
        break;
    case 5: /* left, top */
        sx = y, sy = x;
        break;
    case 6: /* right, top */
        sx = y, sy = h - 1 - x;
        break;
    case 7: /* right, bottom */
        sx = w - 1 - y, sy = h - 1 - x;
        break;
    case 8: /* left, bottom */
        sx = w - 1 - y, sy = x;
        break;
    default:
        fail();
    }
    return stored + ((size_t)sy * w + sx) * 3;
}

static void turns_then_resizes(void **state)
{
    (void)state;
    static const uint32_t sizes[][4] = {{7, 5, 7, 5},    {5, 7, 32, 16},  {40, 31, 32, 32},
                                        {31, 40, 9, 64}, {1, 9, 5, 5},    {64, 2, 3, 100},
                                        {90, 70, 7, 70}, {90, 70, 90, 7}, {300, 3, 32, 2}};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        uint32_t w = sizes[k][0], h = sizes[k][1], out_w = sizes[k][2], out_h = sizes[k][3];
        size_t count = (size_t)w * h * 3;
        uint8_t *stored = malloc(count), *upright = malloc(count);
        assert_true(stored != NULL && upright != NULL);
        pixels_noise(stored, count, (uint32_t)k, k % 2 != 0);
        for (int o = 1; o <= 8; o++) {
            uint32_t up_w = o >= 5 ? h : w, up_h = o >= 5 ? w : h;
            for (uint32_t y = 0; y < up_h; y++)
                for (uint32_t x = 0; x < up_w; x++)
                    memcpy(upright + ((size_t)y * up_w + x) * 3,
                           upright_pixel(stored, w, h, o, x, y), 3);
            qwen_resize_spec plain = {up_w, up_h, out_w, out_h, 1};
            qwen_resize_spec turned = {w, h, out_w, out_h, o};
            uint8_t *want = resized(&plain, upright), *got = resized(&turned, stored);
            assert_memory_equal(got, want, (size_t)out_w * out_h * 3);
            free(want);
            free(got);
        }
        free(stored);
        free(upright);
    }
}

/* A ring of rows, not the picture: ten times the rows must not take more memory. */
static void memory_follows_the_window(void **state)
{
    (void)state;
    qwen_resize_spec low = {4000, 300, 320, 240, 1};
    qwen_resize_spec high = {4000, 3000, 320, 2400, 1};
    uint64_t tables = 2400 * (4 + 4 + 2 * 7);
    assert_true(qwen_resizer_bytes(&high) <= qwen_resizer_bytes(&low) + tables);
    assert_true(qwen_resizer_bytes(&low) < 64 * 1024);
}

static void refuses_bad_specs(void **state)
{
    (void)state;
    static const qwen_resize_spec bad[] = {
        {0, 1, 1, 1, 1},
        {1, 0, 1, 1, 1},
        {1, 1, 0, 1, 1},
        {1, 1, 1, 0, 1},
        {1, 1, 1, 1, 0},
        {1, 1, 1, 1, 9},
        {QWEN_RESIZE_SIDE_MAX + 1, 1, 1, 1, 1},
        {1, 1, 1, QWEN_RESIZE_SIDE_MAX + 1, 1},
    };
    uint8_t rgb[3];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(qwen_resizer_bytes(&bad[i]), 0);
        assert_null(qwen_resizer_create(&bad[i], rgb));
    }
    qwen_resizer_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_torch),
        cmocka_unit_test(turns_then_resizes),
        cmocka_unit_test(memory_follows_the_window),
        cmocka_unit_test(refuses_bad_specs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
