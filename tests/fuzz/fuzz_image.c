/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a picture file: the header, the bound, and the pixels of pictures that are not too
 * large to be quick. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "image_internal.h"

#define PIXELS_MAX (1u << 18)
#define OUT_SIDE   24

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    /* Opened for reading, so that the bytes stay as they are. */
    FILE *stream = fmemopen((void *)(uintptr_t)data, size, "rb");
    if (stream == NULL)
        return 0;
    qwen_picture picture = {.stream = stream, .name = "fuzz"};
    cenote_error err;
    if (qwen_picture_open(&picture, &err) != CENOTE_OK)
        goto out_close;
    qwen_image_info info;
    qwen_picture_size(&picture, &info);
    uint64_t bytes;
    if (qwen_picture_bytes(&picture, OUT_SIDE, OUT_SIDE, &bytes, &err) != CENOTE_OK)
        abort(); /* every size that open admits can be resized */
    if ((uint64_t)info.width * info.height > PIXELS_MAX)
        goto out_close;
    uint8_t rgb[OUT_SIDE * OUT_SIDE * 3];
    if (qwen_picture_load(&picture, OUT_SIDE, OUT_SIDE, rgb, &err) == CENOTE_E_INVAL)
        abort();

out_close:
    fclose(stream);
    return 0;
}
