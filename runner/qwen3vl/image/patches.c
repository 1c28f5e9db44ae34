/* SPDX-License-Identifier: Apache-2.0 */
/* Cuts a resized picture into the vision tower's input rows. A row is one patch; rows follow the
 * merger's blocks, so that merge * merge neighbours lie together:
 *
 *      grid of patches, merge 2:   0 1 | 4 5     row = block * merge^2 + y in block * merge + x
 *                                  2 3 | 6 7
 *                                  ----+----
 *                                  8 9 | ..
 *
 * The processor fuses rescale and normalise into (v - 127.5) / 127.5 in float. There are only 256
 * such values, so they come from a table. */
#include <assert.h>
#include <stddef.h>

#include "fault.h"
#include "image.h"

#define CHANNELS 3

/* One patch: channel, temporal, y, x. A still picture repeats itself in time. */
static void patch_fill(const uint8_t *corner, size_t stride_bytes, uint32_t side, uint32_t frames,
                       const float *value_of, float *out)
{
    for (uint32_t c = 0; c < CHANNELS; c++)
        for (uint32_t t = 0; t < frames; t++)
            for (uint32_t y = 0; y < side; y++) {
                const uint8_t *pixel =
                    corner + y * stride_bytes + (QWEN_FAULT(PIXELS_BGR) ? 2 - c : c);
                for (uint32_t x = 0; x < side; x++)
                    *out++ = QWEN_FAULT(PATCHES_ONE_FRAME) && t > 0
                                 ? 0
                                 : value_of[pixel[(size_t)x * CHANNELS]];
            }
}

void qwen_image_patches(const uint8_t *rgb, uint32_t height, uint32_t width, uint32_t patch_size,
                        uint32_t temporal_patch_size, uint32_t merge_size, uint64_t first_row,
                        uint64_t row_count, float *out_rows)
{
    assert(patch_size > 0 && merge_size > 0 && temporal_patch_size > 0);
    assert(height % (patch_size * merge_size) == 0 && width % (patch_size * merge_size) == 0);
    float value_of[256];
    for (int v = 0; v < 256; v++)
        value_of[v] = QWEN_FAULT(PIXELS_0_TO_1) ? (float)v / 255 : ((float)v - 127.5f) / 127.5f;

    if (QWEN_FAULT(PATCHES_RASTER))
        merge_size = 1;
    uint64_t block_rows = (uint64_t)merge_size * merge_size;
    uint64_t blocks_wide = width / (patch_size * merge_size);
    size_t stride_bytes = (size_t)width * CHANNELS;
    size_t row_floats = (size_t)CHANNELS * temporal_patch_size * patch_size * patch_size;
    assert(first_row + row_count <= (uint64_t)(height / patch_size) * (width / patch_size));
    for (uint64_t row = first_row; row < first_row + row_count; row++) {
        uint64_t block = row / block_rows, inner = row % block_rows;
        size_t y = (size_t)((block / blocks_wide) * merge_size + inner / merge_size) * patch_size;
        size_t x = (size_t)((block % blocks_wide) * merge_size + inner % merge_size) * patch_size;
        patch_fill(rgb + y * stride_bytes + x * CHANNELS, stride_bytes, patch_size,
                   temporal_patch_size, value_of, out_rows + (row - first_row) * row_floats);
    }
}
