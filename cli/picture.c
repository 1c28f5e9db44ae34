/* SPDX-License-Identifier: Apache-2.0 */
/* A picture as half blocks: U+2580 fills the upper half of a character in the foreground colour
 * and leaves the lower half to the background, so one character is two pixels. The picture is
 * shrunk by taking the mean of the pixels that fall into each. */
#include "picture.h"

#include <stdlib.h>
#include <string.h>

#include <png.h>

#define SIDE_MAX 1024u

enum cli_colours cli_terminal_colours(bool is_terminal)
{
    const char *no = getenv("NO_COLOR"), *depth = getenv("COLORTERM"), *term = getenv("TERM");
    const char *locale = getenv("LC_ALL");
    if (locale == NULL || locale[0] == '\0')
        locale = getenv("LC_CTYPE");
    if (locale == NULL || locale[0] == '\0')
        locale = getenv("LANG");
    if (!is_terminal || (no != NULL && no[0] != '\0') || term == NULL || locale == NULL ||
        (strcasestr(locale, "utf-8") == NULL && strcasestr(locale, "utf8") == NULL))
        return CLI_COLOURS_NONE;
    if (depth != NULL && (strcmp(depth, "truecolor") == 0 || strcmp(depth, "24bit") == 0))
        return CLI_COLOURS_TRUE;
    return strstr(term, "256color") != NULL ? CLI_COLOURS_256 : CLI_COLOURS_NONE;
}

static uint32_t square(int difference)
{
    return (uint32_t)(difference * difference);
}

/* The 6 x 6 x 6 cube has the levels 0, 95, 135, ... 255; the 24 greys are 8, 18, ... 238. */
uint32_t cli_colour_256(const uint8_t rgb[3])
{
    static const int levels[6] = {0, 95, 135, 175, 215, 255};
    uint32_t cube = 16, cube_error = 0, scale = 36;
    for (int c = 0; c < 3; c++, scale /= 6) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < 6; i++)
            if (square(rgb[c] - levels[i]) < square(rgb[c] - levels[best]))
                best = i;
        cube += scale * best;
        cube_error += square(rgb[c] - levels[best]);
    }
    int mean = (rgb[0] + rgb[1] + rgb[2]) / 3;
    int grey = mean < 8 ? 0 : mean > 238 ? 23 : (mean - 3) / 10;
    uint32_t grey_error = 0;
    for (int c = 0; c < 3; c++)
        grey_error += square(rgb[c] - (8 + 10 * grey));
    return grey_error < cube_error ? 232 + (uint32_t)grey : cube;
}

struct picture {
    uint32_t width, height;
    uint8_t *rgb;
};

static bool picture_read(const char *path, struct picture *picture)
{
    png_image png = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_file(&png, path))
        return false;
    png.format = PNG_FORMAT_RGB;
    if (png.width <= SIDE_MAX && png.height <= SIDE_MAX) {
        uint8_t *rgb = malloc(PNG_IMAGE_SIZE(png));
        if (rgb != NULL && png_image_finish_read(&png, NULL, rgb, 0, NULL)) {
            *picture = (struct picture){png.width, png.height, rgb};
            return true;
        }
        free(rgb);
    }
    png_image_free(&png);
    return false;
}

/* Mean colour of cell (@p x, @p y) of @p columns x @p rows. */
static void cell_colour(const struct picture *picture, uint32_t x, uint32_t y, uint32_t columns,
                        uint32_t rows, uint8_t out[3])
{
    uint32_t x0 = x * picture->width / columns, x1 = (x + 1) * picture->width / columns;
    uint32_t y0 = y * picture->height / rows, y1 = (y + 1) * picture->height / rows;
    uint32_t sum[3] = {0}, count = 0;
    for (uint32_t j = y0; j < y1 || j == y0; j++)
        for (uint32_t i = x0; i < x1 || i == x0; i++, count++)
            for (uint32_t c = 0; c < 3; c++)
                sum[c] += picture->rgb[3 * ((size_t)j * picture->width + i) + c];
    for (uint32_t c = 0; c < 3; c++)
        out[c] = (uint8_t)(sum[c] / count);
}

static void print_colour(uint32_t code, const uint8_t rgb[3], enum cli_colours colours, FILE *out)
{
    if (colours == CLI_COLOURS_TRUE)
        fprintf(out, "\033[%u;2;%u;%u;%um", code, rgb[0], rgb[1], rgb[2]);
    else
        fprintf(out, "\033[%u;5;%um", code, cli_colour_256(rgb));
}

void cli_picture_print(const char *path, enum cli_colours colours, uint32_t columns, FILE *out)
{
    struct picture picture;
    if (columns == 0 || !picture_read(path, &picture))
        return;
    uint32_t lines = (columns * picture.height / picture.width + 1) / 2;
    if (lines == 0)
        lines = 1;
    for (uint32_t line = 0; line < lines; line++) {
        for (uint32_t x = 0; x < columns; x++) {
            uint8_t upper[3], lower[3];
            cell_colour(&picture, x, 2 * line, columns, 2 * lines, upper);
            cell_colour(&picture, x, 2 * line + 1, columns, 2 * lines, lower);
            print_colour(38, upper, colours, out);
            print_colour(48, lower, colours, out);
            fputs("\u2580", out);
        }
        fputs("\033[0m\n", out);
    }
    free(picture.rgb);
}
