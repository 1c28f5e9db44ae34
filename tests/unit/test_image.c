/* SPDX-License-Identifier: Apache-2.0 */
/* Loading pictures, against what transformers makes of the same files
 * (tests/data/images/expected.txt), and the size rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image.h"
#include "image_files.h"
#include "pixels.h"

#define IMAGES TEST_DATA_DIR "/images/"

static uint8_t *load(const char *path, uint32_t w, uint32_t h)
{
    uint8_t *rgb = malloc((size_t)w * h * 3);
    assert_non_null(rgb);
    cenote_error err;
    if (qwen_image_load(path, h, w, rgb, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    return rgb;
}

static void equals_transformers(void **state)
{
    (void)state;
    FILE *list = fopen(IMAGES "expected.txt", "r");
    assert_non_null(list);
    char name[64], path[512];
    unsigned w, h, out_w, out_h, mark;
    int cases = 0, wrong = 0;
    while (fscanf(list, "%63s %u %u %u %u %x", name, &w, &h, &out_w, &out_h, &mark) == 6) {
        snprintf(path, sizeof path, IMAGES "%s", name);
        qwen_image_info info;
        cenote_error err;
        if (qwen_image_probe(path, &info, &err) != CENOTE_OK)
            fail_msg("%s", err.message);
        assert_int_equal(info.width, w);
        assert_int_equal(info.height, h);
        uint8_t *rgb = load(path, out_w, out_h);
        if (pixels_adler32(rgb, (size_t)out_w * out_h * 3) != mark) {
            print_error("%s at %ux%u differs\n", name, out_w, out_h);
            wrong++;
        }
        free(rgb);
        cases++;
    }
    fclose(list);
    assert_int_equal(wrong, 0);
    assert_true(cases >= 250);
}

/* The same for three pictures, byte by byte, to see where they differ when they do. */
static void equals_whole_outputs(void **state)
{
    (void)state;
    static const char *const names[] = {"rgb8.png", "turn6.jpg", "ycc420_progressive.jpg"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, IMAGES "%s.16x12.rgb", names[i]);
        size_t bytes;
        uint8_t *want = image_file_read(path, &bytes);
        assert_int_equal(bytes, 16 * 12 * 3);
        snprintf(path, sizeof path, IMAGES "%s", names[i]);
        uint8_t *got = load(path, 16, 12);
        assert_memory_equal(got, want, bytes);
        free(want);
        free(got);
    }
}

/* Decoded pixels may not depend on what the display should do with them. */
static void ignores_gamma(void **state)
{
    (void)state;
    uint8_t *plain = load(IMAGES "rgb8.png", 45, 37);
    uint8_t *gamma = load(IMAGES "rgb8_gamma.png", 45, 37);
    assert_memory_equal(plain, gamma, 45 * 37 * 3);
    free(plain);
    free(gamma);
}

static void ignores_trailing_bytes(void **state)
{
    (void)state;
    static const char *const names[] = {"rgb8.png", "rgb8_interlaced.png", "ycc420.jpg",
                                        "ycc420_progressive.jpg"};
    const char *path = TEST_SCRATCH_DIR "/image_trailing";
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char original[512];
        snprintf(original, sizeof original, IMAGES "%s", names[i]);
        size_t bytes;
        uint8_t *file = image_file_read(original, &bytes);
        file = realloc(file, bytes + 5000);
        assert_non_null(file);
        memset(file + bytes, 0xff, 5000);
        image_file_write(path, file, bytes + 5000);
        uint8_t *want = load(original, 40, 40), *got = load(path, 40, 40);
        assert_memory_equal(got, want, 40 * 40 * 3);
        free(want);
        free(got);
        free(file);
    }
    remove(path);
}

struct size_case {
    uint32_t height, width, out_height, out_width;
};

static void check_sizes(const qwen_image_limits *limits, const struct size_case *cases,
                        size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t h = 0, w = 0;
        assert_int_equal(qwen_smart_resize(limits, cases[i].height, cases[i].width, &h, &w, NULL),
                         CENOTE_OK);
        assert_int_equal(h, cases[i].out_height);
        assert_int_equal(w, cases[i].out_width);
    }
}

/* Results of transformers' smart_resize. */
static void smart_resize_vectors(void **state)
{
    (void)state;
    static const struct size_case released[] = {
        {1080, 1920, 1088, 1920}, {224, 224, 256, 256},     {336, 336, 320, 320},
        {272, 272, 256, 256},     {80, 1000, 96, 928},      {16, 3200, 32, 3648},
        {1, 1, 256, 256},         {4100, 4100, 4096, 4096}, {3000, 6000, 2880, 5792},
        {480, 640, 480, 640},     {200, 1, 3648, 32},       {65500, 65500, 4096, 4096},
        {3000, 4000, 3008, 4000}, {48, 1400, 64, 1408},     {304, 304, 320, 320},
    };
    qwen_image_limits limits = {65536, 16777216, 32};
    check_sizes(&limits, released, sizeof released / sizeof released[0]);

    static const struct size_case small[] = {{1000, 1000, 252, 252},
                                             {10, 10, 56, 56},
                                             {70, 70, 56, 56},
                                             {98, 42, 112, 56},
                                             {9, 1800, 28, 812}};
    qwen_image_limits tight = {3136, 65536, 28};
    check_sizes(&tight, small, sizeof small / sizeof small[0]);
}

static void smart_resize_refuses(void **state)
{
    (void)state;
    qwen_image_limits limits = {65536, 16777216, 32};
    uint32_t h = 7, w = 8;
    cenote_error err;
    assert_int_equal(qwen_smart_resize(&limits, 1, 201, &h, &w, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "201x1"));
    assert_non_null(strstr(err.message, "200"));
    assert_int_equal(qwen_smart_resize(&limits, 201, 1, &h, &w, NULL), CENOTE_E_INVAL);
    assert_int_equal(qwen_smart_resize(&limits, 0, 5, &h, &w, NULL), CENOTE_E_INVAL);
    assert_int_equal(qwen_smart_resize(&limits, 5, 0, &h, &w, NULL), CENOTE_E_INVAL);
    limits.factor = 0;
    assert_int_equal(qwen_smart_resize(&limits, 5, 5, &h, &w, NULL), CENOTE_E_INVAL);
    limits = (qwen_image_limits){0, 100, 32}; /* rounds to 0 and has no minimum */
    assert_int_equal(qwen_smart_resize(&limits, 5, 5, &h, &w, NULL), CENOTE_E_INVAL);
    limits = (qwen_image_limits){UINT64_MAX, UINT64_MAX, 32}; /* beyond 32 bits */
    assert_int_equal(qwen_smart_resize(&limits, 100, 1, &h, &w, NULL), CENOTE_E_INVAL);
    assert_int_equal(h, 7);
    assert_int_equal(w, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_transformers),  cmocka_unit_test(equals_whole_outputs),
        cmocka_unit_test(ignores_gamma),        cmocka_unit_test(ignores_trailing_bytes),
        cmocka_unit_test(smart_resize_vectors), cmocka_unit_test(smart_resize_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
