/* SPDX-License-Identifier: Apache-2.0 */
/* Antialiased bicubic on uint8, as PyTorch's F.interpolate(uint8, antialias=True) does it
 * (aten/src/ATen/native/cpu/UpSampleKernel.cpp, itself after Pillow's Resample.c): a table of
 * int16 weights per axis, the horizontal pass first, and uint8 between the passes.
 *
 * Rows come in stored order, one at a time, and only the rows that an output still needs are kept:
 *
 *      upright (EXIF 1-4)                          turned by a quarter (EXIF 5-8)
 *      row -> along pass -> ring of `taps` rows    row -> ring of `taps` rows
 *                             | across pass                 | across pass
 *                             v                             v
 *                          output row                    one line -> along pass -> output column
 *
 * "Along" runs along a stored row, "across" over stored rows. In a picture that is turned by a
 * quarter, the stored rows are the columns of the upright picture: its horizontal pass is the one
 * across stored rows, which is again the first. A mirrored axis has its table reversed. So all
 * eight orientations stream, the sums are the same integers in any order, and nobody holds the
 * whole decoded picture. The rings hold taps * row bytes, where taps is about 4 * max(in/out, 1).
 *
 * An axis that keeps its size has one tap of weight 1, which copies. */
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fault.h"
#include "resize.h"

#define CHANNELS 3
#define BLOCK    256 /* values that the across pass sums at a time, on the stack */

/* One axis. Entry e gives the output whose inputs start e-th in stored order. */
struct axis {
    uint32_t in;
    uint32_t out;
    uint32_t taps; /* the most inputs of one output; the stride of weights */
    bool mirrored;
    int precision; /* weights are fixed point with so many bits after the point */
    uint32_t *first;
    uint32_t *count;
    int16_t *weights;
};

struct qwen_resizer {
    struct axis along;
    struct axis across;
    bool across_first;
    uint32_t rows_seen;
    uint32_t entries_done; /* of across */
    uint32_t out_width;
    size_t ring_row_bytes;
    uint8_t *ring;
    uint8_t *line; /* between the passes when across goes first */
    uint8_t *rgb;
};

/* Keys' kernel with a = -0.5, in the order of operations of the original. */
static double cubic(double x)
{
    const double a = QWEN_FAULT(RESIZE_SHARPER) ? -0.75 : -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0)
        return ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    return 0.0;
}

static uint32_t taps_of(uint32_t in, uint32_t out)
{
    if (in == out)
        return 1;
    double scale = (double)in / out;
    double support = 2.0 * fmax(scale, 1.0);
    uint64_t taps = 2 * (uint64_t)ceil(support) + 1;
    return taps < in ? (uint32_t)taps : in;
}

/* The inputs of output i in upright order, and their weights when @p weights is not NULL.
 * Returns the largest weight. */
static double weigh(const struct axis *axis, uint32_t i, uint32_t *first, uint32_t *count,
                    double *weights)
{
    double scale = (double)axis->in / axis->out;
    double stretch = QWEN_FAULT(RESIZE_ALIASED) ? 1.0 : fmax(scale, 1.0);
    double support = 2.0 * stretch;
    double squeeze = 1.0 / stretch;
    double center = scale * (i + 0.5);
    int64_t low = (int64_t)(center - support + 0.5);
    int64_t high = (int64_t)(center + support + 0.5);
    if (low < 0)
        low = 0;
    if (high > axis->in)
        high = axis->in;
    int64_t n = high - low < axis->taps ? high - low : axis->taps;
    assert(n > 0);
    double sum = 0.0, largest = 0.0;
    for (int64_t j = 0; j < n; j++) {
        weights[j] = QWEN_FAULT(RESIZE_NEAREST)
                         ? low + j == (int64_t)center
                         : cubic(((double)(low + j) - center + 0.5) * squeeze);
        sum += weights[j];
    }
    for (int64_t j = 0; j < n; j++) {
        weights[j] /= sum;
        largest = fmax(largest, weights[j]);
    }
    *first = (uint32_t)low;
    *count = (uint32_t)n;
    return largest;
}

/* The most bits that keep the largest weight of the axis inside int16, at most 22. */
static int precision_of(double largest)
{
    int precision = 0;
    while (precision < 22 && (int)(0.5 + largest * (double)(1 << (precision + 1))) < (1 << 15))
        precision++;
    return precision;
}

/* The weights are computed twice, because their precision follows from the largest of all and the
 * doubles of a long axis would take four times the table. @p scratch has taps doubles. */
static void axis_fill(struct axis *axis, double *scratch)
{
    if (axis->in == axis->out) {
        axis->precision = 14;
        for (uint32_t e = 0; e < axis->out; e++) {
            axis->first[e] = e;
            axis->count[e] = 1;
            axis->weights[e] = 1 << 14;
        }
        return;
    }
    double largest = 0.0;
    uint32_t first, count;
    for (uint32_t i = 0; i < axis->out; i++)
        largest = fmax(largest, weigh(axis, i, &first, &count, scratch));
    axis->precision = precision_of(largest);
    double unit = (double)(1 << axis->precision);
    for (uint32_t i = 0; i < axis->out; i++) {
        weigh(axis, i, &first, &count, scratch);
        uint32_t e = axis->mirrored ? axis->out - 1 - i : i;
        axis->first[e] = axis->mirrored ? axis->in - first - count : first;
        axis->count[e] = count;
        int16_t *weights = axis->weights + (size_t)e * axis->taps;
        for (uint32_t j = 0; j < count; j++) {
            double w = scratch[axis->mirrored ? count - 1 - j : j] * unit;
            weights[j] = (int16_t)(w < 0 ? w - 0.5 : w + 0.5);
        }
    }
}

static uint32_t axis_position(const struct axis *axis, uint32_t entry)
{
    return axis->mirrored ? axis->out - 1 - entry : entry;
}

static inline uint8_t to_byte(int32_t value)
{
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

/* One line of pixels to axis->out pixels that lie stride_bytes apart. */
static void pass_along(const struct axis *axis, const uint8_t *line, uint8_t *out,
                       size_t stride_bytes)
{
    for (uint32_t e = 0; e < axis->out; e++) {
        const uint8_t *v = line + (size_t)axis->first[e] * CHANNELS;
        const int16_t *w = axis->weights + (size_t)e * axis->taps;
        int32_t r = 1 << (axis->precision - 1), g = r, b = r;
        for (uint32_t j = 0; j < axis->count[e]; j++, v += CHANNELS) {
            r += w[j] * v[0];
            g += w[j] * v[1];
            b += w[j] * v[2];
        }
        uint8_t *pixel = out + axis_position(axis, e) * stride_bytes;
        pixel[0] = to_byte(r >> axis->precision);
        pixel[1] = to_byte(g >> axis->precision);
        pixel[2] = to_byte(b >> axis->precision);
    }
}

/* Entry e of the ring's rows to one line. */
static void pass_across(const qwen_resizer *r, uint32_t e, uint8_t *out)
{
    const struct axis *axis = &r->across;
    const int16_t *weights = axis->weights + (size_t)e * axis->taps;
    for (size_t start = 0; start < r->ring_row_bytes; start += BLOCK) {
        size_t left = r->ring_row_bytes - start;
        size_t n = left < BLOCK ? left : BLOCK;
        int32_t sums[BLOCK];
        for (size_t x = 0; x < n; x++)
            sums[x] = 1 << (axis->precision - 1);
        for (uint32_t j = 0; j < axis->count[e]; j++) {
            size_t slot = (axis->first[e] + j) % axis->taps;
            const uint8_t *v = r->ring + slot * r->ring_row_bytes + start;
            for (size_t x = 0; x < n; x++)
                sums[x] += weights[j] * v[x];
        }
        for (size_t x = 0; x < n; x++)
            out[start + x] = to_byte(sums[x] >> axis->precision);
    }
}

static bool side_ok(uint32_t side)
{
    return side > 0 && side <= QWEN_RESIZE_SIDE_MAX;
}

/* Sets the axes' sizes; false when the spec is out of range. */
static bool plan(const qwen_resize_spec *spec, struct axis *along, struct axis *across)
{
    if (!side_ok(spec->source_width) || !side_ok(spec->source_height))
        return false;
    if (!side_ok(spec->out_width) || !side_ok(spec->out_height))
        return false;
    int o = spec->orientation;
    if (o < 1 || o > 8)
        return false;
    bool swap = o >= 5;
    along->in = spec->source_width;
    along->out = swap ? spec->out_height : spec->out_width;
    along->mirrored = o == 2 || o == 3 || o == 7 || o == 8;
    across->in = spec->source_height;
    across->out = swap ? spec->out_width : spec->out_height;
    across->mirrored = o == 3 || o == 4 || o == 6 || o == 7;
    along->taps = taps_of(along->in, along->out);
    across->taps = taps_of(across->in, across->out);
    return true;
}

/* One block holds everything, in order of falling alignment. Each term is below 2^20 * 2^22 * 4,
 * so 64 bits cannot wrap. */
struct layout {
    uint64_t scratch; /* offsets */
    uint64_t first[2];
    uint64_t count[2];
    uint64_t weights[2];
    uint64_t ring;
    uint64_t line;
    uint64_t bytes;
    uint64_t ring_row_bytes;
};

static uint64_t take(uint64_t *end, uint64_t bytes)
{
    uint64_t start = *end;
    *end += bytes;
    return start;
}

static struct layout lay_out(const struct axis *along, const struct axis *across, bool swap)
{
    struct layout l;
    uint64_t end = sizeof(qwen_resizer);
    const struct axis *axes[2] = {along, across};
    uint32_t taps_max = along->taps > across->taps ? along->taps : across->taps;
    l.ring_row_bytes = (uint64_t)CHANNELS * (swap ? along->in : along->out);
    l.scratch = take(&end, (uint64_t)taps_max * sizeof(double));
    for (int k = 0; k < 2; k++) {
        l.first[k] = take(&end, (uint64_t)axes[k]->out * sizeof(uint32_t));
        l.count[k] = take(&end, (uint64_t)axes[k]->out * sizeof(uint32_t));
    }
    for (int k = 0; k < 2; k++)
        l.weights[k] = take(&end, (uint64_t)axes[k]->out * axes[k]->taps * sizeof(int16_t));
    l.ring = take(&end, across->taps * l.ring_row_bytes);
    l.line = take(&end, swap ? l.ring_row_bytes : 0);
    l.bytes = end;
    return l;
}

uint64_t qwen_resizer_bytes(const qwen_resize_spec *spec)
{
    struct axis along, across;
    if (!plan(spec, &along, &across))
        return 0;
    return lay_out(&along, &across, spec->orientation >= 5).bytes;
}

qwen_resizer *qwen_resizer_create(const qwen_resize_spec *spec, uint8_t *rgb)
{
    qwen_resizer init = {.across_first = spec->orientation >= 5, .out_width = spec->out_width};
    if (!plan(spec, &init.along, &init.across))
        return NULL;
    struct layout l = lay_out(&init.along, &init.across, init.across_first);
    uint8_t *block = malloc(l.bytes);
    if (block == NULL)
        return NULL;
    struct axis *axes[2] = {&init.along, &init.across};
    for (int k = 0; k < 2; k++) {
        axes[k]->first = (uint32_t *)(block + l.first[k]);
        axes[k]->count = (uint32_t *)(block + l.count[k]);
        axes[k]->weights = (int16_t *)(block + l.weights[k]);
        axis_fill(axes[k], (double *)(block + l.scratch));
    }
    init.ring_row_bytes = l.ring_row_bytes;
    init.ring = block + l.ring;
    init.line = block + l.line;
    init.rgb = rgb;
    memcpy(block, &init, sizeof init);
    return (qwen_resizer *)block;
}

/* Writes entry e of the across axis to its place in the output. */
static void emit(qwen_resizer *r, uint32_t e)
{
    size_t position = axis_position(&r->across, e);
    size_t out_row_bytes = (size_t)r->out_width * CHANNELS;
    if (r->across_first) {
        pass_across(r, e, r->line);
        pass_along(&r->along, r->line, r->rgb + position * CHANNELS, out_row_bytes);
    } else {
        pass_across(r, e, r->rgb + position * out_row_bytes);
    }
}

void qwen_resizer_push(qwen_resizer *r, const uint8_t *row)
{
    if (r->rows_seen == r->across.in)
        return;
    uint8_t *slot = r->ring + (size_t)(r->rows_seen % r->across.taps) * r->ring_row_bytes;
    if (r->across_first)
        memcpy(slot, row, r->ring_row_bytes);
    else
        pass_along(&r->along, row, slot, CHANNELS);
    r->rows_seen++;
    /* An entry needs at most `taps` rows and none starts before its predecessor, so its rows are
     * all in the ring at the moment that the last of them arrives. */
    const struct axis *across = &r->across;
    while (r->entries_done < across->out) {
        uint32_t e = r->entries_done;
        if (across->first[e] + across->count[e] > r->rows_seen)
            break;
        emit(r, e);
        r->entries_done++;
    }
}

void qwen_resizer_destroy(qwen_resizer *resizer)
{
    free(resizer);
}
