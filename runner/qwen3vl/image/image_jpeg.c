/* SPDX-License-Identifier: Apache-2.0 */
/* JPEG through libjpeg(-turbo), with its default slow integer transform and smooth upsampling,
 * which are what Pillow uses: the pixels are the same bytes. Grey, YCbCr and RGB come out as RGB;
 * CMYK and YCCK are taken as inverted (Adobe's way, which Pillow assumes always) and converted by
 * Pillow's formula.
 *
 * Rows stream in a baseline picture with all components in one scan. Progressive pictures and
 * those of several scans keep all coefficients, 2 bytes a sample: libjpeg's virtual arrays, capped
 * by max_memory_to_use, since it is built without a backing store.
 *
 * Warnings that mean lost data are errors here. A picture of 2^28 pixels and ten thousand tiny
 * scans would cost hours, so scans are limited too (encoders write about ten).
 *
 * libjpeg reports errors by longjmp. The reader struct outlives the jump and owns everything. */
#include <errno.h>
#include <setjmp.h>
#include <stdio.h> /* jpeglib.h needs it first */
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#include "image_internal.h"

#define SCANS_MAX 100

/* libjpeg's structs, tables, pools' slop and input buffer; measured at 40 KiB or less. */
#define LIBRARY_BYTES 65536

struct reader {
    struct jpeg_decompress_struct codec;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    const char *name;
    uint8_t *samples; /* one row as libjpeg gives it */
    uint8_t *rgb;     /* one row where samples are not RGB already */
    jmp_buf jump;
    cenote_status status;
    char message[JMSG_LENGTH_MAX];
};

static struct reader *reader_of(j_common_ptr codec)
{
    return codec->client_data;
}

_Noreturn static void fail(struct reader *r, cenote_status status, const char *message)
{
    r->status = status;
    snprintf(r->message, sizeof r->message, "%s", message);
    longjmp(r->jump, 1);
}

static cenote_status status_of(int code)
{
    switch (code) {
    case JERR_OUT_OF_MEMORY:
        return CENOTE_E_NOMEM;
    case JERR_SOF_UNSUPPORTED:
    case JERR_BAD_PRECISION:
    case JERR_CONVERSION_NOTIMPL:
    case JERR_FRACT_SAMPLE_NOTIMPL:
    case JERR_CCIR601_NOTIMPL:
    case JERR_ARITH_NOTIMPL:
    case JERR_NOT_COMPILED:
    case JERR_NOTIMPL:
        return CENOTE_E_UNSUPPORTED;
    default:
        return CENOTE_E_CORRUPT;
    }
}

_Noreturn static void on_error(j_common_ptr codec)
{
    struct reader *r = reader_of(codec);
    r->status = status_of(codec->err->msg_code);
    codec->err->format_message(codec, r->message);
    longjmp(r->jump, 1);
}

/* Level -1 is a warning, others are traces. Three warnings tell of nothing lost. */
static void on_message(j_common_ptr codec, int level)
{
    if (level >= 0)
        return;
    switch (codec->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_JFIF_MAJOR:
    case JWRN_ADOBE_XFORM:
        return;
    default:
        on_error(codec);
    }
}

static void on_output(j_common_ptr codec)
{
    (void)codec;
}

static void on_progress(j_common_ptr codec)
{
    const struct jpeg_decompress_struct *d = &reader_of(codec)->codec;
    if (d->input_scan_number <= SCANS_MAX)
        return;
    struct reader *r = reader_of(codec);
    r->status = CENOTE_E_CORRUPT;
    snprintf(r->message, sizeof r->message, "more than %d scans", SCANS_MAX);
    longjmp(r->jump, 1);
}

static void reader_fini(struct reader *r)
{
    free(r->samples);
    free(r->rgb);
    jpeg_destroy_decompress(&r->codec);
}

static void choose_colors(struct reader *r)
{
    struct jpeg_decompress_struct *d = &r->codec;
    switch (d->num_components) {
    case 1:
        d->out_color_space = JCS_GRAYSCALE;
        return;
    case 3:
        d->out_color_space = JCS_RGB;
        return;
    case 4:
        d->out_color_space = JCS_CMYK;
        return;
    default:
        fail(r, CENOTE_E_UNSUPPORTED, "neither 1, 3 nor 4 components");
    }
}

/* Reads all up to the first scan. Call with the jump set. */
static void reader_start(struct reader *r, FILE *stream)
{
    r->codec.err = jpeg_std_error(&r->errors);
    r->errors.error_exit = on_error;
    r->errors.emit_message = on_message;
    r->errors.output_message = on_output;
    r->codec.client_data = r;
    jpeg_create_decompress(&r->codec);
    r->progress.progress_monitor = on_progress;
    r->codec.progress = &r->progress;
    rewind(stream);
    jpeg_stdio_src(&r->codec, stream);
    jpeg_read_header(&r->codec, TRUE);
    if (r->codec.data_precision != 8)
        fail(r, CENOTE_E_UNSUPPORTED, "samples are not of 8 bits");
    choose_colors(r);
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* An upper bound from libjpeg-turbo's sources: per component, rows of samples around the row in
 * work (jdmainct.c: 10 row groups), the upsampled rows (jdsample.c), and all blocks where there
 * are several scans (jdcoefct.c). A row is an allocation's share: padded, with a pointer. */
static uint64_t decoder_bytes_of(struct reader *r)
{
    const struct jpeg_decompress_struct *d = &r->codec;
    uint64_t row_extra = 64 + sizeof(JSAMPROW) * 3;
    uint64_t upsampled_row = round_up(d->image_width, (uint64_t)d->max_h_samp_factor) + row_extra;
    uint64_t bytes = sizeof *r + LIBRARY_BYTES;
    bool all_blocks = jpeg_has_multiple_scans(&r->codec);
    for (int i = 0; i < d->num_components; i++) {
        const jpeg_component_info *c = &d->comp_info[i];
        uint64_t h = (uint64_t)c->h_samp_factor, v = (uint64_t)c->v_samp_factor;
        uint64_t blocks_wide = round_up(c->width_in_blocks, h);
        uint64_t blocks_high = round_up(c->height_in_blocks, v);
        bytes += 10 * v * (blocks_wide * DCTSIZE + row_extra);
        bytes += (uint64_t)d->max_v_samp_factor * upsampled_row;
        if (all_blocks)
            bytes += blocks_high * (blocks_wide * sizeof(JBLOCK) + row_extra);
    }
    /* Our rows: samples of up to 4 components, and RGB. */
    return bytes + (uint64_t)d->image_width * (4 + 3);
}

static uint8_t product_over_255(int a, int b)
{
    int t = a * b + 128;
    return (uint8_t)(((t >> 8) + t) >> 8);
}

/* Stored inverted, so that a stored sample is how much of the light is left. */
static void cmyk_to_rgb(const uint8_t *cmyk, uint8_t *rgb)
{
    int light = cmyk[3];
    for (int i = 0; i < 3; i++) {
        int value = light - product_over_255(255 - cmyk[i], light);
        rgb[i] = (uint8_t)(value < 0 ? 0 : value);
    }
}

/* A row as libjpeg gives it to RGB; gives the row back where it is RGB already. */
static const uint8_t *to_rgb(struct reader *r)
{
    size_t width = r->codec.output_width;
    switch (r->codec.out_color_space) {
    case JCS_GRAYSCALE:
        for (size_t x = 0; x < width; x++)
            memset(r->rgb + 3 * x, r->samples[x], 3);
        return r->rgb;
    case JCS_CMYK:
        for (size_t x = 0; x < width; x++)
            cmyk_to_rgb(r->samples + 4 * x, r->rgb + 3 * x);
        return r->rgb;
    default:
        return r->samples;
    }
}

/* Reads the pixels and the rest of the file. Call with the jump set. */
static void reader_rows(struct reader *r, const qwen_picture *picture, qwen_resizer *resizer)
{
    struct jpeg_decompress_struct *d = &r->codec;
    if (d->image_width != picture->width || d->image_height != picture->height)
        fail(r, CENOTE_E_CHANGED, "the header changed while the file was open");
    d->mem->max_memory_to_use = (long)picture->decoder_bytes;
    r->samples = malloc((size_t)picture->width * 4);
    r->rgb = malloc((size_t)picture->width * 3);
    if (r->samples == NULL || r->rgb == NULL)
        fail(r, CENOTE_E_NOMEM, "no memory for its rows");
    jpeg_start_decompress(d);
    while (d->output_scanline < d->output_height) {
        JSAMPROW row = r->samples;
        jpeg_read_scanlines(d, &row, 1);
        qwen_resizer_push(resizer, to_rgb(r));
    }
    jpeg_finish_decompress(d);
}

/* The frame that longjmp returns to. The reader lives in the caller's, so that its contents are
 * defined after a jump. Reads the header only when @p resizer is NULL. */
static bool reader_run(struct reader *r, const qwen_picture *picture, qwen_resizer *resizer)
{
    if (setjmp(r->jump) != 0)
        return false;
    reader_start(r, picture->stream);
    if (resizer != NULL)
        reader_rows(r, picture, resizer);
    return true;
}

static cenote_status reader_report(const struct reader *r, const qwen_picture *picture,
                                   cenote_error *err)
{
    if (ferror(picture->stream))
        return cenote_error_set(err, CENOTE_E_IO, "%s: JPEG: cannot be read", picture->name);
    return cenote_error_set(err, r->status, "%s: JPEG: %s", picture->name, r->message);
}

cenote_status qwen_jpeg_header(qwen_picture *picture, cenote_error *err)
{
    struct reader r = {0};
    cenote_status status;
    if (reader_run(&r, picture, NULL)) {
        picture->width = r.codec.image_width;
        picture->height = r.codec.image_height;
        status = qwen_picture_check_size(picture->name, picture->width, picture->height, err);
        picture->decoder_bytes = status == CENOTE_OK ? decoder_bytes_of(&r) : 0;
    } else {
        status = reader_report(&r, picture, err);
    }
    reader_fini(&r);
    return status;
}

cenote_status qwen_jpeg_decode(const qwen_picture *picture, qwen_resizer *resizer,
                               cenote_error *err)
{
    struct reader r = {0};
    bool done = reader_run(&r, picture, resizer);
    cenote_status status = done ? CENOTE_OK : reader_report(&r, picture, err);
    reader_fini(&r);
    return status;
}
