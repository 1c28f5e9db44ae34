/* SPDX-License-Identifier: Apache-2.0 */
/* PNG through libpng, to the RGB that Pillow's convert("RGB") gives:
 *
 *   grey of 1, 2, 4, 8 bits   scaled to 0..255          16 bits   min(v, 255), as Pillow 13 does
 *   colour, alpha kinds       16 bits: the high byte    alpha dropped, tRNS ignored
 *   palette                   looked up; an index past its end is black
 *
 * Gamma, colour profiles and text are not even stored. libpng leaves one or three channels per
 * pixel; one-channel rows go through a table of 256 colours, so a palette and grey are one case.
 *
 * Rows stream, except in an interlaced picture, where the last pass completes every row: there the
 * whole picture is kept, in stored channels. All memory of libpng and zlib comes from an allocator
 * that counts against the bound that the header gave: a file that asks for more fails.
 *
 * libpng reports errors by longjmp. The reader struct outlives the jump and owns everything, so
 * one place frees it all. */
#include <errno.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include "image_internal.h"

/* zlib's inflate (under 48 KiB), libpng's structs, its chunk buffers and our allocation headers. */
#define LIBRARY_BYTES 98304

struct reader {
    const char *name;
    FILE *stream;
    png_structp png;
    png_infop info;
    uint64_t bytes_held;
    uint64_t bytes_max;
    bool memory_refused; /* by the system, not by our bound */
    uint8_t *pixels;     /* one row, or all rows of an interlaced picture */
    uint8_t *rgb;        /* one row where pixels are not RGB already */
    uint8_t colors[256][3];
    jmp_buf jump;
    cenote_status status;
    char message[128];
};

/* The size in front of a block, padded to keep malloc's alignment. */
union block_head {
    uint64_t bytes;
    max_align_t align;
};

static void *counted_alloc(struct reader *r, uint64_t bytes)
{
    uint64_t total = bytes + sizeof(union block_head);
    if (total < bytes || total > r->bytes_max - r->bytes_held)
        return NULL;
    union block_head *head = malloc(total);
    if (head == NULL) {
        r->memory_refused = true;
        return NULL;
    }
    head->bytes = total;
    r->bytes_held += total;
    return head + 1;
}

static void counted_free(struct reader *r, void *block)
{
    if (block == NULL)
        return;
    union block_head *head = (union block_head *)block - 1;
    r->bytes_held -= head->bytes;
    free(head);
}

static png_voidp on_alloc(png_structp png, png_alloc_size_t bytes)
{
    return counted_alloc(png_get_mem_ptr(png), bytes);
}

static void on_free(png_structp png, png_voidp block)
{
    counted_free(png_get_mem_ptr(png), block);
}

_Noreturn static void fail(struct reader *r, cenote_status status, const char *message)
{
    r->status = status;
    snprintf(r->message, sizeof r->message, "%s", message);
    longjmp(r->jump, 1);
}

_Noreturn static void on_error(png_structp png, png_const_charp message)
{
    struct reader *r = png_get_error_ptr(png);
    fail(r, r->memory_refused ? CENOTE_E_NOMEM : CENOTE_E_CORRUPT, message);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void on_read(png_structp png, png_bytep out, size_t bytes)
{
    struct reader *r = png_get_io_ptr(png);
    if (fread(out, 1, bytes, r->stream) == bytes)
        return;
    if (ferror(r->stream))
        fail(r, CENOTE_E_IO, strerror(errno));
    fail(r, CENOTE_E_CORRUPT, "the file ends early");
}

static void reader_fini(struct reader *r)
{
    counted_free(r, r->pixels);
    counted_free(r, r->rgb);
    png_destroy_read_struct(&r->png, &r->info, NULL);
}

/* Reads all up to the first pixel. Call with the jump set. */
static void reader_start(struct reader *r)
{
    r->png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, r, on_error, on_warning, r, on_alloc,
                                      on_free);
    if (r->png != NULL)
        r->info = png_create_info_struct(r->png);
    if (r->info == NULL)
        fail(r, CENOTE_E_NOMEM, "no memory for libpng");
    png_set_read_fn(r->png, r, on_read);
    png_set_user_limits(r->png, QWEN_IMAGE_SIDE_MAX, QWEN_IMAGE_SIDE_MAX);
    png_set_crc_action(r->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    /* Skip every chunk but IHDR, PLTE, tRNS, IDAT and IEND, after checking its CRC. */
    png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    rewind(r->stream);
    png_read_info(r->png, r->info);
}

static bool interlaced(const struct reader *r)
{
    return png_get_interlace_type(r->png, r->info) != PNG_INTERLACE_NONE;
}

/* Sets what libpng shall do to each pixel, and colors[] where rows keep one channel. */
static void reader_transform(struct reader *r)
{
    int type = png_get_color_type(r->png, r->info);
    int depth = png_get_bit_depth(r->png, r->info);
    png_set_packing(r->png);
    png_set_strip_alpha(r->png);
    if (!(type == PNG_COLOR_TYPE_GRAY && depth == 16))
        png_set_strip_16(r->png);
    if (interlaced(r))
        png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);

    png_colorp palette = NULL;
    int count = 0;
    if (type == PNG_COLOR_TYPE_PALETTE)
        png_get_PLTE(r->png, r->info, &palette, &count);
    int step = depth < 8 ? 255 / ((1 << depth) - 1) : 1;
    memset(r->colors, 0, sizeof r->colors);
    for (int i = 0; i < 256; i++) {
        if (type != PNG_COLOR_TYPE_PALETTE) {
            memset(r->colors[i], i * step, 3);
        } else if (i < count) {
            r->colors[i][0] = palette[i].red;
            r->colors[i][1] = palette[i].green;
            r->colors[i][2] = palette[i].blue;
        }
    }
}

/* A row as libpng leaves it to RGB; gives the row back where it is RGB already. */
static const uint8_t *to_rgb(struct reader *r, const uint8_t *row, uint32_t width)
{
    if (r->rgb == NULL)
        return row;
    bool wide = png_get_bit_depth(r->png, r->info) == 16;
    for (uint32_t x = 0; x < width; x++) {
        uint8_t value;
        if (wide)
            value = row[2 * (size_t)x] != 0 ? 255 : row[2 * (size_t)x + 1];
        else
            value = row[x];
        memcpy(r->rgb + 3 * (size_t)x, r->colors[value], 3);
    }
    return r->rgb;
}

/* Reads the pixels and the rest of the file. Call with the jump set. */
static void reader_rows(struct reader *r, const qwen_picture *picture, qwen_resizer *resizer)
{
    if (png_get_image_width(r->png, r->info) != picture->width ||
        png_get_image_height(r->png, r->info) != picture->height)
        fail(r, CENOTE_E_CHANGED, "the header changed while the file was open");
    reader_transform(r);
    size_t row_bytes = png_get_rowbytes(r->png, r->info);
    bool whole = interlaced(r);
    r->pixels = counted_alloc(r, (uint64_t)row_bytes * (whole ? picture->height : 1));
    if (png_get_channels(r->png, r->info) == 1)
        r->rgb = counted_alloc(r, (uint64_t)picture->width * 3);
    if (r->pixels == NULL || (r->rgb == NULL && png_get_channels(r->png, r->info) == 1))
        fail(r, CENOTE_E_NOMEM, "no memory for its rows");

    /* Adam7: seven passes, each fills in some pixels of some rows; libpng keeps the others. */
    for (int pass = 0; whole && pass < 7; pass++)
        for (uint32_t y = 0; y < picture->height; y++)
            png_read_row(r->png, r->pixels + y * row_bytes, NULL);
    for (uint32_t y = 0; y < picture->height; y++) {
        uint8_t *row = whole ? r->pixels + y * row_bytes : r->pixels;
        if (!whole)
            png_read_row(r->png, row, NULL);
        qwen_resizer_push(resizer, to_rgb(r, row, picture->width));
    }
    png_read_end(r->png, NULL);
}

/* The first chunk, before libpng sees the file: its error would not name the numbers. */
static cenote_status read_ihdr(qwen_picture *picture, uint8_t ihdr[13], cenote_error *err)
{
    uint8_t head[8 + 8 + 13];
    rewind(picture->stream);
    if (fread(head, 1, sizeof head, picture->stream) != sizeof head)
        return cenote_error_set(err, ferror(picture->stream) ? CENOTE_E_IO : CENOTE_E_CORRUPT,
                                "%s: PNG: the file ends in its header", picture->name);
    if (memcmp(head + 8, "\0\0\0\rIHDR", 8) != 0)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: PNG: the first chunk is not IHDR",
                                picture->name);
    memcpy(ihdr, head + 16, 13);
    picture->width = png_get_uint_32(ihdr);
    picture->height = png_get_uint_32(ihdr + 4);
    return qwen_picture_check_size(picture->name, picture->width, picture->height, err);
}

/* libpng holds the current and the previous row, at most 8 bytes a pixel; ours have at most 3 bytes
 * a pixel, and there is one of them, or all when interlaced. */
static uint64_t decoder_bytes_of(const qwen_picture *picture, const uint8_t ihdr[13])
{
    static const uint8_t channels_of[7] = {1, 0, 3, 1, 2, 0, 4};
    uint32_t depth = ihdr[8], type = ihdr[9] < 7 ? ihdr[9] : 6;
    uint64_t padded = (uint64_t)picture->width + 8; /* libpng rounds a row up to 8 pixels */
    uint64_t library_pixel = channels_of[type] * (depth == 16 ? 2u : 1u);
    uint64_t stored_pixel = channels_of[type] >= 3 ? 3 : depth == 16 && type == 0 ? 2 : 1;
    uint64_t rows = ihdr[12] != 0 ? picture->height : 1;
    return sizeof(struct reader) + LIBRARY_BYTES + 2 * padded * library_pixel +
           rows * picture->width * stored_pixel + (stored_pixel == 3 ? 0 : 3 * padded);
}

/* The frame that longjmp returns to. The reader lives in the caller's, so that its contents are
 * defined after a jump. Decodes when @p resizer is not NULL. */
static bool reader_run(struct reader *r, const qwen_picture *picture, qwen_resizer *resizer)
{
    if (setjmp(r->jump) != 0)
        return false;
    reader_start(r);
    if (resizer != NULL)
        reader_rows(r, picture, resizer);
    return true;
}

static cenote_status picture_read(const qwen_picture *picture, uint64_t bytes_max,
                                  qwen_resizer *resizer, cenote_error *err)
{
    struct reader r = {.name = picture->name, .stream = picture->stream, .bytes_max = bytes_max};
    bool done = reader_run(&r, picture, resizer);
    reader_fini(&r);
    if (!done)
        return cenote_error_set(err, r.status, "%s: PNG: %s", r.name, r.message);
    return CENOTE_OK;
}

cenote_status qwen_png_header(qwen_picture *picture, cenote_error *err)
{
    uint8_t ihdr[13] = {0};
    cenote_status status = read_ihdr(picture, ihdr, err);
    if (status != CENOTE_OK)
        return status;
    picture->decoder_bytes = decoder_bytes_of(picture, ihdr);
    return picture_read(picture, picture->decoder_bytes, NULL, err);
}

cenote_status qwen_png_decode(const qwen_picture *picture, qwen_resizer *resizer, cenote_error *err)
{
    return picture_read(picture, picture->decoder_bytes, resizer, err);
}
