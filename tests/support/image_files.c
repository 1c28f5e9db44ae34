/* SPDX-License-Identifier: Apache-2.0 */
#include "image_files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jpeglib.h>
#include <png.h>

#include "pixels.h"

uint8_t *image_file_read(const char *path, size_t *out_bytes)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("cannot open %s", path);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f);
    assert_true(size >= 0);
    rewind(f);
    uint8_t *bytes = malloc((size_t)size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, (size_t)size, f), size);
    fclose(f);
    *out_bytes = (size_t)size;
    return bytes;
}

void image_file_write(const char *path, const void *bytes, size_t count)
{
    FILE *f = fopen(path, "wb");
    if (f == NULL)
        fail_msg("cannot create %s", path);
    assert_int_equal(fwrite(bytes, 1, count, f), count);
    assert_int_equal(fclose(f), 0);
}

void image_file_make_png(const char *path, const image_png_options *o)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    assert_non_null(info);
    png_init_io(png, f);
    png_set_compression_level(png, 1);
    png_set_IHDR(png, info, o->width, o->height, o->depth, o->color_type,
                 o->interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, 0, 0);
    png_color palette[256] = {{1, 2, 3}};
    if (o->color_type == PNG_COLOR_TYPE_PALETTE)
        png_set_PLTE(png, info, palette, 1 << o->depth);
    png_write_info(png, info);
    int passes = png_set_interlace_handling(png);
    size_t row_bytes = png_get_rowbytes(png, info);
    uint8_t *row = malloc(row_bytes);
    assert_non_null(row);
    for (int pass = 0; pass < passes; pass++)
        for (uint32_t y = 0; y < o->height; y++) {
            pixels_noise(row, row_bytes, y, false);
            png_write_row(png, row);
        }
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    free(row);
    assert_int_equal(fclose(f), 0);
}

/* DC, then each AC coefficient alone, in two steps: 1 + 63 + 63 scans. */
static int script_many_scans(jpeg_scan_info *scans)
{
    int count = 0;
    scans[count++] = (jpeg_scan_info){.comps_in_scan = 1};
    for (int al = 1; al >= 0; al--)
        for (int k = 1; k < 64; k++)
            scans[count++] =
                (jpeg_scan_info){.comps_in_scan = 1, .Ss = k, .Se = k, .Ah = al ? 0 : 1, .Al = al};
    return count;
}

void image_file_make_jpeg(const char *path, const image_jpeg_options *o)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr errors;
    jpeg_scan_info scans[128];
    c.err = jpeg_std_error(&errors);
    jpeg_create_compress(&c);
    jpeg_stdio_dest(&c, f);
    c.image_width = o->width;
    c.image_height = o->height;
    c.input_components = o->components;
    static const J_COLOR_SPACE spaces[] = {JCS_UNKNOWN, JCS_GRAYSCALE, JCS_UNKNOWN, JCS_RGB,
                                           JCS_CMYK};
    c.in_color_space = spaces[o->components];
    jpeg_set_defaults(&c);
    c.comp_info[0].h_samp_factor = o->h_samp;
    c.comp_info[0].v_samp_factor = o->v_samp;
    if (o->progressive)
        jpeg_simple_progression(&c);
    if (o->separate_scans)
        for (int i = 0; i < o->components; i++)
            scans[i] =
                (jpeg_scan_info){.comps_in_scan = 1, .component_index = {i}, .Ss = 0, .Se = 63};
    if (o->separate_scans || o->many_scans) {
        c.num_scans = o->many_scans ? script_many_scans(scans) : o->components;
        c.scan_info = scans;
    }
    jpeg_start_compress(&c, TRUE);
    size_t row_bytes = (size_t)o->width * (size_t)o->components;
    uint8_t *row = malloc(row_bytes);
    assert_non_null(row);
    for (uint32_t y = 0; y < o->height; y++) {
        pixels_noise(row, row_bytes, y, false);
        for (size_t x = 0; x < row_bytes; x++)
            row[x] = (uint8_t)(x / 7 + y + row[x] / 16);
        JSAMPROW rows[1] = {row};
        jpeg_write_scanlines(&c, rows, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    free(row);
    assert_int_equal(fclose(f), 0);
}
