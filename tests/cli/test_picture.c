/* SPDX-License-Identifier: Apache-2.0 */
/* Half blocks: the right colours in the right characters, and silence about what is no picture. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "picture.h"

#define PATH TEST_SCRATCH_DIR "/picture.png"

static void write_png(uint32_t width, uint32_t height, const uint8_t *rgb)
{
    png_image png = {
        .version = PNG_IMAGE_VERSION, .width = width, .height = height, .format = PNG_FORMAT_RGB};
    assert_true(png_image_write_to_file(&png, PATH, 0, rgb, 0, NULL));
}

static char *printed(const char *path, enum cli_colours colours, uint32_t columns)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    cli_picture_print(path, colours, columns, out);
    fclose(out);
    return text;
}

static void test_two_by_four(void **state)
{
    (void)state;
    /* 4 x 4 pixels to 2 columns and one line: means of 2 x 2 pixels, all four different. */
    uint8_t rgb[4 * 4 * 3];
    for (unsigned y = 0; y < 4; y++)
        for (unsigned x = 0; x < 4; x++) {
            uint8_t *p = rgb + 3 * (4 * y + x);
            p[0] = (uint8_t)(x < 2 ? 10 : 20);
            p[1] = (uint8_t)(y < 2 ? 30 : 40);
            p[2] = (uint8_t)(x % 2 == 0 ? 50 : 60);
        }
    write_png(4, 4, rgb);
    char *text = printed(PATH, CLI_COLOURS_TRUE, 2);
    assert_string_equal(text, "\033[38;2;10;30;55m\033[48;2;10;40;55m\u2580"
                              "\033[38;2;20;30;55m\033[48;2;20;40;55m\u2580\033[0m\n");
    free(text);
}

static void test_larger_than_the_picture(void **state)
{
    (void)state;
    const uint8_t rgb[3] = {1, 2, 3};
    write_png(1, 1, rgb);
    char *text = printed(PATH, CLI_COLOURS_256, 5);
    unsigned blocks = 0;
    for (char *at = text; (at = strstr(at, "\u2580")) != NULL; at++)
        blocks++;
    assert_int_equal(blocks, 5 * 3);
    free(text);
}

static void test_no_picture(void **state)
{
    (void)state;
    char *text = printed("/nowhere.png", CLI_COLOURS_TRUE, 5);
    assert_string_equal(text, "");
    free(text);
    text = printed(TEST_SOURCE_DIR "/README.md", CLI_COLOURS_TRUE, 5);
    assert_string_equal(text, "");
    free(text);
    uint8_t *wide = calloc(1025, 3);
    assert_non_null(wide);
    write_png(1025, 1, wide);
    free(wide);
    text = printed(PATH, CLI_COLOURS_TRUE, 5);
    assert_string_equal(text, "");
    free(text);
}

static void test_colours_of_256(void **state)
{
    (void)state;
    const struct {
        uint8_t rgb[3];
        uint32_t code;
    } cases[] = {
        {{0, 0, 0}, 16},   {{255, 255, 255}, 231}, {{255, 0, 0}, 196},
        {{0, 255, 0}, 46}, {{0, 0, 255}, 21},      {{95, 135, 175}, 67},
        {{8, 8, 8}, 232},  {{238, 238, 238}, 255}, {{128, 128, 128}, 244},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(cli_colour_256(cases[i].rgb), cases[i].code);
}

static void test_terminals(void **state)
{
    (void)state;
    unsetenv("NO_COLOR");
    unsetenv("COLORTERM");
    setenv("LC_ALL", "C.UTF-8", 1);
    setenv("TERM", "xterm-256color", 1);
    assert_int_equal(cli_terminal_colours(true), CLI_COLOURS_256);
    assert_int_equal(cli_terminal_colours(false), CLI_COLOURS_NONE);
    setenv("COLORTERM", "truecolor", 1);
    assert_int_equal(cli_terminal_colours(true), CLI_COLOURS_TRUE);
    setenv("NO_COLOR", "1", 1);
    assert_int_equal(cli_terminal_colours(true), CLI_COLOURS_NONE);
    unsetenv("NO_COLOR");
    setenv("LC_ALL", "C", 1);
    assert_int_equal(cli_terminal_colours(true), CLI_COLOURS_NONE);
    setenv("LC_ALL", "en_GB.utf8", 1);
    unsetenv("COLORTERM");
    setenv("TERM", "dumb", 1);
    assert_int_equal(cli_terminal_colours(true), CLI_COLOURS_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_by_four), cmocka_unit_test(test_larger_than_the_picture),
        cmocka_unit_test(test_no_picture),  cmocka_unit_test(test_colours_of_256),
        cmocka_unit_test(test_terminals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
