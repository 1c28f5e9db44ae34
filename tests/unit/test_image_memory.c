/* SPDX-License-Identifier: Apache-2.0 */
/* The heap of a load: never above what qwen_image_load_bytes() says, given back whole, and every
 * allocation may fail. This program's own malloc() counts, also for libpng, libjpeg and stdio. */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <png.h>

#include "image.h"
#include "image_files.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
int main(void)
{
    puts("skipped: the sanitizer owns malloc()");
    return 77;
}
#else

/* Visible, so that the shared libraries find it too. */
#define REPLACES __attribute__((visibility("default")))

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *block, size_t bytes);
void __libc_free(void *block);

static size_t held_bytes;
static size_t peak_bytes;
static long allocations_until_failure = -1; /* 0: all fail from now on; negative: none */

static bool must_fail(void)
{
    if (allocations_until_failure > 0)
        allocations_until_failure--;
    return allocations_until_failure == 0;
}

/* A block costs what can be used of it and its header. */
static size_t cost(void *block)
{
    return block != NULL ? malloc_usable_size(block) + sizeof(size_t) : 0;
}

static void *count(void *block)
{
    held_bytes += cost(block);
    if (held_bytes > peak_bytes)
        peak_bytes = held_bytes;
    return block;
}

REPLACES void *malloc(size_t bytes)
{
    return must_fail() ? NULL : count(__libc_malloc(bytes));
}

REPLACES void *calloc(size_t n, size_t bytes)
{
    return must_fail() ? NULL : count(__libc_calloc(n, bytes));
}

REPLACES void *realloc(void *block, size_t bytes)
{
    if (must_fail())
        return NULL;
    held_bytes -= cost(block);
    return count(__libc_realloc(block, bytes));
}

REPLACES void free(void *block)
{
    held_bytes -= cost(block);
    __libc_free(block);
}

/* The peak over what was held before, of one load. */
static size_t peak_of_load(const char *path, uint32_t out_w, uint32_t out_h, uint8_t *rgb,
                           cenote_status *out_status, cenote_error *err)
{
    size_t before = held_bytes;
    peak_bytes = before;
    *out_status = qwen_image_load(path, out_h, out_w, rgb, err);
    assert_int_equal(held_bytes, before);
    return peak_bytes - before;
}

/* @p slack_max: how far the bound may lie above the peak, beyond its fixed part. */
static void check_bound(const char *path, const char *what, double slack_max)
{
    static const uint32_t outs[][2] = {{512, 384}, {32, 1216}};
    uint8_t *rgb = malloc(512 * 384 * 3);
    assert_non_null(rgb);
    for (size_t i = 0; i < sizeof outs / sizeof outs[0]; i++) {
        uint32_t w = outs[i][0], h = outs[i][1];
        cenote_error err;
        cenote_status status;
        uint64_t bound;
        if (qwen_image_load_bytes(path, h, w, &bound, &err) != CENOTE_OK)
            fail_msg("%s", err.message);
        size_t peak = peak_of_load(path, w, h, rgb, &status, &err);
        if (status != CENOTE_OK)
            fail_msg("%s", err.message);
        if (peak > bound || (double)bound > 160 * 1024 + slack_max * (double)peak)
            fail_msg("%s to %ux%u: held %zu, bound %llu", what, w, h, peak,
                     (unsigned long long)bound);
    }
    free(rgb);
}

static void png_stays_below_its_bound(void **state)
{
    (void)state;
    const char *path = TEST_SCRATCH_DIR "/image_memory.png";
    static const int kinds[][2] = {
        {1, PNG_COLOR_TYPE_GRAY},    {2, PNG_COLOR_TYPE_GRAY},    {4, PNG_COLOR_TYPE_GRAY},
        {8, PNG_COLOR_TYPE_GRAY},    {16, PNG_COLOR_TYPE_GRAY},   {1, PNG_COLOR_TYPE_PALETTE},
        {2, PNG_COLOR_TYPE_PALETTE}, {4, PNG_COLOR_TYPE_PALETTE}, {8, PNG_COLOR_TYPE_PALETTE},
        {8, PNG_COLOR_TYPE_RGB},     {16, PNG_COLOR_TYPE_RGB},    {8, PNG_COLOR_TYPE_RGBA},
        {16, PNG_COLOR_TYPE_RGBA},   {8, PNG_COLOR_TYPE_GA},      {16, PNG_COLOR_TYPE_GA},
    };
    static const uint32_t sizes[][2] = {{9, 5}, {301, 203}, {3007, 21}, {30, 601}};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
            for (int interlaced = 0; interlaced < 2; interlaced++) {
                image_png_options o = {sizes[s][0], sizes[s][1], kinds[k][0], kinds[k][1],
                                       interlaced != 0};
                char what[96];
                snprintf(what, sizeof what, "PNG %ux%u depth %d type %d interlaced %d", o.width,
                         o.height, o.depth, o.color_type, interlaced);
                image_file_make_png(path, &o);
                check_bound(path, what, 1.5);
            }
    remove(path);
}

static void jpeg_stays_below_its_bound(void **state)
{
    (void)state;
    const char *path = TEST_SCRATCH_DIR "/image_memory.jpg";
    static const int shapes[][3] = {{1, 1, 1}, {1, 2, 2}, {3, 1, 1}, {3, 2, 1},
                                    {3, 1, 2}, {3, 2, 2}, {3, 4, 1}, {3, 1, 4},
                                    {3, 4, 2}, {4, 1, 1}, {4, 2, 2}};
    static const uint32_t sizes[][2] = {{9, 5}, {301, 203}, {3007, 21}, {30, 601}};
    for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
            for (int order = 0; order < 3; order++) {
                image_jpeg_options o = {.width = sizes[s][0],
                                        .height = sizes[s][1],
                                        .components = shapes[k][0],
                                        .h_samp = shapes[k][1],
                                        .v_samp = shapes[k][2],
                                        .progressive = order == 1,
                                        .separate_scans = order == 2};
                char what[96];
                snprintf(what, sizeof what, "JPEG %ux%u, %d components %dx%d, order %d", o.width,
                         o.height, o.components, o.h_samp, o.v_samp, order);
                image_file_make_jpeg(path, &o);
                check_bound(path, what, 1.5);
            }
    remove(path);
}

/* Other sampling factors, sizes, scans and tables than an encoder writes: bytes of the header are
 * replaced at random. Most are refused; whatever is read must stay below its bound, and telling
 * the bound must itself be cheap. */
static void mutated_headers_stay_below(void **state)
{
    (void)state;
    static const char *const names[] = {"ycc420.jpg", "ycc422_progressive.jpg", "cmyk.jpg"};
    const char *path = TEST_SCRATCH_DIR "/image_mutant.jpg";
    uint8_t *rgb = malloc(64 * 48 * 3);
    uint32_t random = 1, decoded = 0;
    for (int round = 0; round < 1500; round++) {
        char original[512];
        snprintf(original, sizeof original, TEST_DATA_DIR "/images/%s", names[round % 3]);
        size_t bytes;
        uint8_t *file = image_file_read(original, &bytes);
        /* Half of the time one of the frame header's bytes: size, sampling factors, tables. */
        uint8_t *frame = file;
        while (!(frame[0] == 0xff && (frame[1] == 0xc0 || frame[1] == 0xc2)))
            frame++;
        for (int i = 0; i < 2; i++) {
            random = random * 1664525u + 1013904223u;
            uint8_t *at = round % 2 ? frame + 6 + (random >> 8) % 15 : file + (random >> 8) % 600;
            *at = (uint8_t)(random % 3 ? 0x11 * (1 + random / 3 % 4) : random >> 24);
        }
        image_file_write(path, file, bytes);
        free(file);
        size_t before = held_bytes;
        peak_bytes = before;
        uint64_t bound = 0;
        cenote_status status = qwen_image_load_bytes(path, 48, 64, &bound, NULL);
        assert_int_equal(held_bytes, before);
        assert_true(peak_bytes - before < 64 * 1024);
        if (status != CENOTE_OK || bound > 64 << 20)
            continue;
        cenote_error err;
        size_t peak = peak_of_load(path, 64, 48, rgb, &status, &err);
        if (peak > bound)
            fail_msg("round %d held %zu, bound %llu", round, peak, (unsigned long long)bound);
        decoded += status == CENOTE_OK;
    }
    assert_true(decoded > 50);
    free(rgb);
    remove(path);
}

/* What streaming is for: a photo of 36 MB of pixels in less than 2 MB. */
static void a_photo_is_not_held_whole(void **state)
{
    (void)state;
    const char *path = TEST_SCRATCH_DIR "/image_photo.jpg";
    image_jpeg_options o = {
        .width = 4000, .height = 3000, .components = 3, .h_samp = 2, .v_samp = 2};
    image_file_make_jpeg(path, &o);
    uint64_t bound = 0;
    assert_int_equal(qwen_image_load_bytes(path, 768, 1024, &bound, NULL), CENOTE_OK);
    assert_true(bound < 1 << 20);
    uint8_t *rgb = malloc(1024 * 768 * 3);
    cenote_status status;
    assert_true(peak_of_load(path, 1024, 768, rgb, &status, NULL) <= bound);
    assert_int_equal(status, CENOTE_OK);
    free(rgb);
    remove(path);
}

/* No memory from the first allocation on, then from the second, until the load succeeds: reported
 * as what it is, and nothing stays allocated. (libjpeg tries a refused size again, smaller, so a
 * single refusal would not do.) */
static void every_allocation_may_fail(void **state)
{
    (void)state;
    static const char *const names[] = {
        "rgb8.png",   "grey16_interlaced.png", "palette4.png", "turn6.png", "cmyk.jpg",
        "ycc420.jpg", "turn7_progressive.jpg", "grey.jpg"};
    uint8_t *rgb = malloc(32 * 32 * 3);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, TEST_DATA_DIR "/images/%s", names[i]);
        cenote_status status = CENOTE_E_NOMEM;
        long n;
        for (n = 0; status != CENOTE_OK; n++) {
            cenote_error err = {.status = CENOTE_OK};
            allocations_until_failure = n;
            peak_of_load(path, 32, 32, rgb, &status, &err);
            allocations_until_failure = -1;
            if (status != CENOTE_OK) {
                assert_int_equal(status, CENOTE_E_NOMEM);
                assert_non_null(strstr(err.message, names[i]));
            }
            assert_true(n < 500);
        }
        assert_true(n > 6); /* or the sweep swept nothing */
    }
    free(rgb);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(png_stays_below_its_bound),  cmocka_unit_test(jpeg_stays_below_its_bound),
        cmocka_unit_test(mutated_headers_stay_below), cmocka_unit_test(a_photo_is_not_held_whole),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
