/* SPDX-License-Identifier: Apache-2.0 */
/* Picture files for tests: those of tests/data/images, and larger ones made here. */
#ifndef TEST_IMAGE_FILES_H
#define TEST_IMAGE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The whole file in malloc'd memory, with its size; fails the test when it cannot be read. */
uint8_t *image_file_read(const char *path, size_t *out_bytes);
void image_file_write(const char *path, const void *bytes, size_t count);

typedef struct image_png_options {
    uint32_t width;
    uint32_t height;
    int depth;
    int color_type; /* libpng's PNG_COLOR_TYPE_ */
    bool interlaced;
} image_png_options;

/* A PNG of noise. */
void image_file_make_png(const char *path, const image_png_options *options);

typedef struct image_jpeg_options {
    uint32_t width;
    uint32_t height;
    int components; /* 1 to 4 */
    int h_samp;     /* of the first component; the others have 1 */
    int v_samp;
    bool progressive;
    bool separate_scans; /* baseline with a scan per component */
    bool many_scans;     /* grey progressive with more than 100 */
} image_jpeg_options;

/* A JPEG of soft noise. */
void image_file_make_jpeg(const char *path, const image_jpeg_options *options);

#endif
