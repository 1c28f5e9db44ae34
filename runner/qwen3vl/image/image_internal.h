/* SPDX-License-Identifier: Apache-2.0 */
/* What image.c shares with the two decoders, the EXIF reader and the fuzz target. */
#ifndef QWEN_IMAGE_INTERNAL_H
#define QWEN_IMAGE_INTERNAL_H

#include <stdint.h>
#include <stdio.h>

#include "image.h"
#include "resize.h"

#define QWEN_IMAGE_SIDE_MAX   65500u /* libjpeg's own limit, kept for both */
#define QWEN_IMAGE_PIXELS_MAX (1u << 28)

enum qwen_image_format { QWEN_IMAGE_PNG, QWEN_IMAGE_JPEG };

/* An open picture file and what its header says. */
typedef struct qwen_picture {
    FILE *stream; /* borrowed; seekable */
    const char *name;
    enum qwen_image_format format;
    uint32_t width; /* as stored, before turning */
    uint32_t height;
    int orientation;        /* EXIF, 1..8 */
    uint64_t decoder_bytes; /* the most heap that decoding holds, resizer aside */
} qwen_picture;

/* Fills all but stream and name, which the caller sets. */
CENOTE_MUST_CHECK cenote_status qwen_picture_open(qwen_picture *picture, cenote_error *err);
void qwen_picture_size(const qwen_picture *picture, qwen_image_info *out_info);
CENOTE_MUST_CHECK cenote_status qwen_picture_bytes(const qwen_picture *picture, uint32_t out_height,
                                                   uint32_t out_width, uint64_t *out_bytes,
                                                   cenote_error *err);
CENOTE_MUST_CHECK cenote_status qwen_picture_load(const qwen_picture *picture, uint32_t out_height,
                                                  uint32_t out_width, uint8_t *rgb,
                                                  cenote_error *err);

/* Refuses empty pictures and bombs, by what the header says. */
CENOTE_MUST_CHECK cenote_status qwen_picture_check_size(const char *name, uint32_t width,
                                                        uint32_t height, cenote_error *err);

/* The decoders. _header fills width, height and decoder_bytes; _decode pushes every row. */
CENOTE_MUST_CHECK cenote_status qwen_png_header(qwen_picture *picture, cenote_error *err);
CENOTE_MUST_CHECK cenote_status qwen_png_decode(const qwen_picture *picture, qwen_resizer *resizer,
                                                cenote_error *err);
CENOTE_MUST_CHECK cenote_status qwen_jpeg_header(qwen_picture *picture, cenote_error *err);
CENOTE_MUST_CHECK cenote_status qwen_jpeg_decode(const qwen_picture *picture, qwen_resizer *resizer,
                                                 cenote_error *err);

/* The orientation that Pillow's ImageOps.exif_transpose would apply, 1 where it is missing or
 * broken. Moves the file position. */
int qwen_png_orientation(FILE *stream);
int qwen_jpeg_orientation(FILE *stream);

#endif
