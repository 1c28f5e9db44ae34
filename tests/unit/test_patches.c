/* SPDX-License-Identifier: Apache-2.0 */
/* Patch rows against a direct reading of their definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image.h"
#include "pixels.h"

/* As numpy's reshape(3, H/pm, m, p, W/pm, m, p).transpose(1, 4, 2, 5, 0, 3, 6), time repeated:
 * walks over pixels, where the code under test walks over rows. */
static void patches_by_pixel(const uint8_t *rgb, uint32_t height, uint32_t width, uint32_t p,
                             uint32_t frames, uint32_t m, float *out)
{
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t x = 0; x < width; x++)
            for (uint32_t c = 0; c < 3; c++)
                for (uint32_t t = 0; t < frames; t++) {
                    size_t block = (size_t)(y / (p * m)) * (width / (p * m)) + x / (p * m);
                    size_t row = (block * m + y / p % m) * m + x / p % m;
                    size_t column = ((c * frames + t) * p + y % p) * p + x % p;
                    float v = rgb[((size_t)y * width + x) * 3 + c];
                    out[row * 3 * frames * p * p + column] = (v - 127.5f) / 127.5f;
                }
}

static void check(uint32_t height, uint32_t width, uint32_t p, uint32_t frames, uint32_t m)
{
    size_t pixels = (size_t)height * width, floats = pixels * 3 * frames;
    size_t row_floats = (size_t)3 * frames * p * p, rows = floats / row_floats;
    uint8_t *rgb = malloc(pixels * 3);
    float *want = malloc(floats * sizeof *want), *got = malloc(floats * sizeof *got);
    assert_true(rgb != NULL && want != NULL && got != NULL);
    pixels_noise(rgb, pixels * 3, height * 7 + width, false);
    patches_by_pixel(rgb, height, width, p, frames, m, want);

    memset(got, 0, floats * sizeof *got);
    qwen_image_patches(rgb, height, width, p, frames, m, 0, rows, got);
    assert_memory_equal(got, want, floats * sizeof *got);

    /* In slices that respect neither blocks nor rows of the grid. */
    memset(got, 0, floats * sizeof *got);
    for (size_t first = 0; first < rows; first += 3) {
        size_t n = rows - first < 3 ? rows - first : 3;
        qwen_image_patches(rgb, height, width, p, frames, m, first, n, got + first * row_floats);
    }
    assert_memory_equal(got, want, floats * sizeof *got);
    free(rgb);
    free(want);
    free(got);
}

static void equal_the_definition(void **state)
{
    (void)state;
    check(32, 32, 16, 2, 2);
    check(64, 96, 16, 2, 2);
    check(96, 32, 16, 2, 2);
    check(12, 18, 2, 1, 3);
    check(14, 28, 14, 3, 1);
}

/* The ends and the middle, where a float that was rounded another way would show. */
static void values_are_exact(void **state)
{
    (void)state;
    uint8_t rgb[4 * 3] = {0, 255, 127, 128, 1, 254, 64, 191, 2, 3, 5, 7};
    float out[4 * 3];
    qwen_image_patches(rgb, 2, 2, 1, 1, 1, 0, 4, out);
    assert_true(out[0] == -1.0f && out[1] == 1.0f);
    assert_true(out[2] == -0.5f / 127.5f && out[3] == 0.5f / 127.5f);
    for (int i = 0; i < 12; i++)
        assert_true(out[i] == ((float)rgb[i] - 127.5f) / 127.5f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_the_definition),
        cmocka_unit_test(values_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
