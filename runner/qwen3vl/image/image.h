/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  From a PNG or JPEG file to the pixels that the vision tower sees.
 *
 *  Decoding is by libpng and libjpeg-turbo, a row at a time where the format admits it; the
 *  resize is the antialiased bicubic of the released models' own (fast) processor, bit for bit
 *  (PyTorch aten/src/ATen/native/cpu/UpSampleKernel.cpp: int16 weights, uint8 between the passes,
 *  horizontal first).
 *
 *  Threads: any, no shared state. */
#ifndef QWEN_IMAGE_H
#define QWEN_IMAGE_H

#include <stdint.h>

#include <cenote/cenote.h>

/** From preprocessor_config.json (size.shortest_edge, size.longest_edge; or min_pixels and
 *  max_pixels) and the vision config. */
typedef struct qwen_image_limits {
    uint64_t pixels_min;
    uint64_t pixels_max;
    uint32_t factor; /**< patch_size * merge_size; sides are multiples of it */
} qwen_image_limits;

/** smart_resize of transformers. Errors: CENOTE_E_INVAL when the aspect ratio is above 200 or a
 *  side is 0. */
CENOTE_MUST_CHECK cenote_status qwen_smart_resize(const qwen_image_limits *limits, uint32_t height,
                                                  uint32_t width, uint32_t *out_height,
                                                  uint32_t *out_width, cenote_error *err);

typedef struct qwen_image_info {
    uint32_t width; /**< after EXIF orientation */
    uint32_t height;
} qwen_image_info;

/** Reads the header. Refuses (CENOTE_E_CORRUPT) what is neither PNG nor JPEG or is broken, and
 *  pictures of more than 2^28 pixels or 65,500 pixels a side (decompression bombs).
 *  Errors also: CENOTE_E_NOTFOUND, CENOTE_E_UNSUPPORTED, CENOTE_E_IO (also for what is not a
 *  regular file), CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK cenote_status qwen_image_probe(const char *path, qwen_image_info *out_info,
                                                 cenote_error *err);

/** The most heap that qwen_image_load() holds while it works on @p path to this size; an upper
 *  bound that follows from the header (interlaced PNG and progressive JPEG need the whole picture).
 */
CENOTE_MUST_CHECK cenote_status qwen_image_load_bytes(const char *path, uint32_t out_height,
                                                      uint32_t out_width, uint64_t *out_bytes,
                                                      cenote_error *err);

/** The same for a file of which only the size is known: enough for a baseline JPEG or a PNG that
 *  is not interlaced, which are decoded a row at a time. Errors: CENOTE_E_INVAL, as above. */
CENOTE_MUST_CHECK cenote_status qwen_image_size_bytes(const qwen_image_info *info,
                                                      uint32_t out_height, uint32_t out_width,
                                                      uint64_t *out_bytes, cenote_error *err);

/** Decodes, turns (EXIF), converts to RGB (alpha dropped, as PIL's convert("RGB") does) and resizes
 *  into @p rgb [out_height][out_width][3], which is filled row by row: on failure its contents are
 *  undefined. Errors: CENOTE_E_CORRUPT (truncated or broken data), CENOTE_E_UNSUPPORTED (JPEG of 12
 *  bits, lossless or of 2 components), CENOTE_E_NOMEM, CENOTE_E_IO, CENOTE_E_CHANGED,
 *  CENOTE_E_INVAL (a side of 0 or above 2^20 asked for). */
CENOTE_MUST_CHECK cenote_status qwen_image_load(const char *path, uint32_t out_height,
                                                uint32_t out_width, uint8_t *rgb,
                                                cenote_error *err);

/** Patch rows [first_row, first_row + row_count) of a picture [height][width][3], in block order:
 *  each row is 3 * temporal * patch * patch floats, (v - 127.5) / 127.5, channel, temporal, y, x.
 */
void qwen_image_patches(const uint8_t *rgb, uint32_t height, uint32_t width, uint32_t patch_size,
                        uint32_t temporal_patch_size, uint32_t merge_size, uint64_t first_row,
                        uint64_t row_count, float *out_rows);

#endif
