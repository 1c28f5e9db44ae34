/* SPDX-License-Identifier: Apache-2.0 */
/* The front of image decoding: opens a file, tells PNG from JPEG, limits sizes, and joins a decoder
 * that pushes stored rows to the resizer that turns and scales them:
 *
 *      file -> image_png.c | image_jpeg.c -> one RGB row -> resize.c -> rgb[out_height][out_width]
 *                  ^ image_exif.c: which way is up
 *
 * Everything that a stranger's file decides is limited before it is used: sides to 65,500, pixels
 * to 2^28. Below those limits no product here can leave 64 bits. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"
#include "image_internal.h"

#define STREAM_BUFFER_BYTES 8192

/* What a FILE takes beside its buffer, which is ours. */
#define STREAM_BYTES 1024

struct open_file {
    FILE *stream;
    char buffer[STREAM_BUFFER_BYTES]; /* stdio's own would follow st_blksize, up to megabytes */
};

static cenote_status file_open(const char *path, struct open_file *file, cenote_error *err)
{
    /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        bool missing = errno == ENOENT || errno == ENOTDIR;
        return cenote_error_set(err, missing ? CENOTE_E_NOTFOUND : CENOTE_E_IO, "%s: %s", path,
                                strerror(errno));
    }
    cenote_status status;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        status = cenote_error_set(err, CENOTE_E_IO, "%s: %s", path, strerror(errno));
        goto out_close;
    }
    if (!S_ISREG(st.st_mode)) {
        status = cenote_error_set(err, CENOTE_E_IO, "%s: not a regular file", path);
        goto out_close;
    }
    file->stream = fdopen(fd, "rb");
    if (file->stream == NULL) {
        status = cenote_error_set(err, CENOTE_E_NOMEM, "%s: no memory to open it", path);
        goto out_close;
    }
    setvbuf(file->stream, file->buffer, _IOFBF, sizeof file->buffer);
    return CENOTE_OK;

out_close:
    close(fd);
    return status;
}

static cenote_status picture_open_path(const char *path, struct open_file *file,
                                       qwen_picture *picture, cenote_error *err)
{
    cenote_status status = file_open(path, file, err);
    if (status != CENOTE_OK)
        return status;
    *picture = (qwen_picture){.stream = file->stream, .name = path};
    status = qwen_picture_open(picture, err);
    if (status != CENOTE_OK)
        fclose(file->stream);
    return status;
}

cenote_status qwen_picture_check_size(const char *name, uint32_t width, uint32_t height,
                                      cenote_error *err)
{
    if (width == 0 || height == 0)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: an empty picture, %ux%u", name, width,
                                height);
    if (width > QWEN_IMAGE_SIDE_MAX || height > QWEN_IMAGE_SIDE_MAX)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s: claims %ux%u pixels; the limit is %u a side", name, width,
                                height, QWEN_IMAGE_SIDE_MAX);
    uint64_t pixels = (uint64_t)width * height;
    if (pixels > QWEN_IMAGE_PIXELS_MAX)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s: claims %ux%u = %llu pixels; the limit is %u", name, width,
                                height, (unsigned long long)pixels, QWEN_IMAGE_PIXELS_MAX);
    return CENOTE_OK;
}

cenote_status qwen_picture_open(qwen_picture *picture, cenote_error *err)
{
    static const uint8_t png_magic[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    static const uint8_t jpeg_magic[3] = {0xff, 0xd8, 0xff};
    uint8_t magic[8] = {0};
    rewind(picture->stream);
    size_t got = fread(magic, 1, sizeof magic, picture->stream);
    if (ferror(picture->stream))
        return cenote_error_set(err, CENOTE_E_IO, "%s: %s", picture->name, strerror(errno));
    if (got == 0)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: empty, neither PNG nor JPEG",
                                picture->name);
    if (memcmp(magic, png_magic, sizeof png_magic) == 0) {
        picture->format = QWEN_IMAGE_PNG;
        picture->orientation = qwen_png_orientation(picture->stream);
        return qwen_png_header(picture, err);
    }
    if (memcmp(magic, jpeg_magic, sizeof jpeg_magic) == 0) {
        picture->format = QWEN_IMAGE_JPEG;
        picture->orientation = qwen_jpeg_orientation(picture->stream);
        return qwen_jpeg_header(picture, err);
    }
    return cenote_error_set(err, CENOTE_E_CORRUPT,
                            "%s: neither PNG nor JPEG (starts with %02x %02x %02x %02x)",
                            picture->name, magic[0], magic[1], magic[2], magic[3]);
}

void qwen_picture_size(const qwen_picture *picture, qwen_image_info *out_info)
{
    bool swap = picture->orientation >= 5;
    out_info->width = swap ? picture->height : picture->width;
    out_info->height = swap ? picture->width : picture->height;
}

static qwen_resize_spec spec_of(const qwen_picture *picture, uint32_t out_height,
                                uint32_t out_width)
{
    return (qwen_resize_spec){.source_width = picture->width,
                              .source_height = picture->height,
                              .out_width = out_width,
                              .out_height = out_height,
                              .orientation = picture->orientation};
}

cenote_status qwen_picture_bytes(const qwen_picture *picture, uint32_t out_height,
                                 uint32_t out_width, uint64_t *out_bytes, cenote_error *err)
{
    qwen_resize_spec spec = spec_of(picture, out_height, out_width);
    uint64_t resizer_bytes = qwen_resizer_bytes(&spec);
    if (resizer_bytes == 0)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "%s: cannot resize to %ux%u; sides are 1 to %u", picture->name,
                                out_width, out_height, QWEN_RESIZE_SIDE_MAX);
    *out_bytes = STREAM_BYTES + resizer_bytes + picture->decoder_bytes;
    return CENOTE_OK;
}

cenote_status qwen_picture_load(const qwen_picture *picture, uint32_t out_height,
                                uint32_t out_width, uint8_t *rgb, cenote_error *err)
{
    uint64_t bytes;
    cenote_status status = qwen_picture_bytes(picture, out_height, out_width, &bytes, err);
    if (status != CENOTE_OK)
        return status;
    qwen_resize_spec spec = spec_of(picture, out_height, out_width);
    qwen_resizer *resizer = qwen_resizer_create(&spec, rgb);
    if (resizer == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "%s: no memory to resize %ux%u to %ux%u",
                                picture->name, picture->width, picture->height, out_width,
                                out_height);
    if (picture->format == QWEN_IMAGE_PNG)
        status = qwen_png_decode(picture, resizer, err);
    else
        status = qwen_jpeg_decode(picture, resizer, err);
    qwen_resizer_destroy(resizer);
    return status;
}

cenote_status qwen_image_probe(const char *path, qwen_image_info *out_info, cenote_error *err)
{
    struct open_file file;
    qwen_picture picture;
    cenote_status status = picture_open_path(path, &file, &picture, err);
    if (status != CENOTE_OK)
        return status;
    qwen_picture_size(&picture, out_info);
    fclose(file.stream);
    return CENOTE_OK;
}

cenote_status qwen_image_load_bytes(const char *path, uint32_t out_height, uint32_t out_width,
                                    uint64_t *out_bytes, cenote_error *err)
{
    struct open_file file;
    qwen_picture picture;
    cenote_status status = picture_open_path(path, &file, &picture, err);
    if (status != CENOTE_OK)
        return status;
    status = qwen_picture_bytes(&picture, out_height, out_width, out_bytes, err);
    fclose(file.stream);
    return status;
}

/* Rows of a baseline JPEG with halved chroma: 20 of luma, 2 x 10 halves of chroma, 6 upsampled and
 * 7 of ours; a PNG of 16-bit RGBA holds 19. */
#define ROW_DECODER_ROWS  48u
#define ROW_DECODER_BYTES (128u << 10)

cenote_status qwen_image_size_bytes(const qwen_image_info *info, uint32_t out_height,
                                    uint32_t out_width, uint64_t *out_bytes, cenote_error *err)
{
    cenote_status status = qwen_picture_check_size("picture", info->width, info->height, err);
    if (status != CENOTE_OK)
        return cenote_error_set(err, CENOTE_E_INVAL, "a picture of %ux%u is too large or empty",
                                info->width, info->height);
    const qwen_picture picture = {
        .name = "picture",
        .width = info->width,
        .height = info->height,
        .orientation = 1,
        .decoder_bytes = ROW_DECODER_BYTES + ROW_DECODER_ROWS * ((uint64_t)info->width + 64),
    };
    return qwen_picture_bytes(&picture, out_height, out_width, out_bytes, err);
}

cenote_status qwen_image_load(const char *path, uint32_t out_height, uint32_t out_width,
                              uint8_t *rgb, cenote_error *err)
{
    struct open_file file;
    qwen_picture picture;
    cenote_status status = picture_open_path(path, &file, &picture, err);
    if (status != CENOTE_OK)
        return status;
    status = qwen_picture_load(&picture, out_height, out_width, rgb, err);
    fclose(file.stream);
    return status;
}

/* Rounds half to even, as Python's round() does, whatever the thread's rounding mode is. */
static double round_even(double x)
{
    double low = floor(x);
    double rest = x - low;
    if (rest != 0.5)
        return rest < 0.5 ? low : low + 1.0;
    return fmod(low, 2.0) == 0.0 ? low : low + 1.0;
}

cenote_status qwen_smart_resize(const qwen_image_limits *limits, uint32_t height, uint32_t width,
                                uint32_t *out_height, uint32_t *out_width, cenote_error *err)
{
    if (limits->factor == 0 || limits->pixels_max == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "image limits: factor %u, at most %llu pixels",
                                limits->factor, (unsigned long long)limits->pixels_max);
    if (height == 0 || width == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "a picture of %ux%u is empty", width, height);
    double h = height, w = QWEN_FAULT(RESIZE_SQUARE) ? height : width, factor = limits->factor;
    double aspect = fmax(h, w) / fmin(h, w);
    if (aspect > 200.0)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "a picture of %ux%u has aspect ratio %.1f; the limit is 200", width,
                                height, aspect);

    double new_h = round_even(h / factor) * factor;
    double new_w = round_even(w / factor) * factor;
    if (new_h * new_w > (double)limits->pixels_max) {
        double beta = sqrt(h * w / (double)limits->pixels_max);
        new_h = fmax(factor, floor(h / beta / factor) * factor);
        new_w = fmax(factor, floor(w / beta / factor) * factor);
    } else if (new_h * new_w < (double)limits->pixels_min) {
        double beta = sqrt((double)limits->pixels_min / (h * w));
        new_h = ceil(h * beta / factor) * factor;
        new_w = ceil(w * beta / factor) * factor;
    }
    if (new_h < 1.0 || new_w < 1.0 || new_h > UINT32_MAX || new_w > UINT32_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "a picture of %ux%u would become %.0fx%.0f",
                                width, height, new_w, new_h);
    *out_height = (uint32_t)new_h;
    *out_width = (uint32_t)new_w;
    return CENOTE_OK;
}
