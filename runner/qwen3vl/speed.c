/* SPDX-License-Identifier: Apache-2.0 */
/* How fast a plan will be: the rates of this machine, and max(reads / disk, weights / kernels).
 *
 * The kernels' rate is measured as decoding uses them: panels of 1 MiB, several a call, one row,
 * all threads, over more memory than any common cache holds. */
#include <assert.h>
#include <string.h>

#include <cenote/bf12.h>

#include "kernels/kernels.h"
#include "layout.h"
#include "run.h"

#define PANEL_COLUMNS 2048u
#define PANEL_ROWS    256u
#define PANEL_BYTES   ((uint64_t)PANEL_ROWS * PANEL_COLUMNS * 2)
#define PANELS        96u
#define PASSES        3u
static_assert(PANELS % QWEN_DECODE_PANELS == 0, "whole calls");
/* Of the plain bytes, that 12 bits take. */
#define PACKED_SHARE 0.751
/* Of a plain loop's rate: products that reach it are waiting for memory. */
#define KEEPS_UP 0.8

/* ---- the kernels ---- */

struct course {
    qwen_kernels *kernels;
    cenote_team *team;
    unsigned char *plain;  /* PANELS panels */
    unsigned char *packed; /* the same in 12 bits, each at a multiple of packed_bytes */
    uint64_t packed_bytes;
    float *x;
    float *y;
};

/* Numbers as weights are: each smaller exponent half as likely, so that a few do not fit 12 bits.
 */
static void fill_panel(uint16_t *panel, uint32_t seed)
{
    uint32_t state = seed * 2654435761u + 1;
    for (uint64_t i = 0; i < PANEL_BYTES / 2; i++) {
        state = state * 1664525u + 1013904223u;
        uint32_t exponent = 121 - (uint32_t)__builtin_ctz(state >> 10 | 1u << 20);
        panel[i] = (uint16_t)((state >> 16 & 0x8000u) | exponent << 7 | (state >> 9 & 0x7fu));
    }
}

static cenote_status fill_course(struct course *course, cenote_error *err)
{
    for (uint32_t p = 0; p < PANELS; p++) {
        uint64_t bytes;
        void *panel = course->plain + p * PANEL_BYTES;
        fill_panel(panel, p);
        cenote_status status = cenote_bf12_encode(
            panel, PANEL_ROWS, PANEL_COLUMNS, course->packed + p * course->packed_bytes, &bytes);
        if (status != CENOTE_OK)
            return cenote_error_set(err, status, "a panel of weights does not pack");
    }
    for (uint32_t i = 0; i < PANEL_COLUMNS; i++)
        course->x[i] = (float)(i % 17) - 8;
    return CENOTE_OK;
}

static double now_s(void)
{
    return 1e-9 * (double)qwen_now_ns();
}

/* The products of a call of decoding, from @p first on. */
static void multiply(const struct course *course, const unsigned char *first, uint64_t panel_bytes,
                     cenote_encoding encoding)
{
    qwen_product products[QWEN_DECODE_PANELS];
    for (uint32_t i = 0; i < QWEN_DECODE_PANELS; i++)
        products[i] = (qwen_product){
            .a = course->x,
            .a_stride = PANEL_COLUMNS,
            .m = 1,
            .k = PANEL_COLUMNS,
            .w = first + i * panel_bytes,
            .w_dtype = CENOTE_DTYPE_BF16,
            .w_encoding = encoding,
            .n = PANEL_ROWS,
            .c = course->y + i * PANEL_ROWS,
            .c_stride = PANEL_ROWS,
        };
    qwen_gemv(course->kernels, products, QWEN_DECODE_PANELS);
}

static void multiply_plain(const struct course *course, uint32_t panel)
{
    multiply(course, course->plain + panel * PANEL_BYTES, PANEL_BYTES, CENOTE_ENCODING_PLAIN);
}

static void multiply_packed(const struct course *course, uint32_t panel)
{
    multiply(course, course->packed + panel * course->packed_bytes, course->packed_bytes,
             CENOTE_ENCODING_BF12);
}

typedef uint64_t words __attribute__((vector_size(32)));

/* A rank's share of as many panels, in four streams as the products have them. */
static void read_share(void *argument, unsigned rank, unsigned size)
{
    const words *panels = argument;
    unsigned long first, count;
    cenote_team_share(QWEN_DECODE_PANELS * PANEL_BYTES / sizeof(words), 4, rank, size, &first,
                      &count);
    words sums[4] = {0};
    unsigned long quarter = count / 4;
    for (unsigned long i = 0; i < quarter; i++)
        for (unsigned s = 0; s < 4; s++)
            sums[s] += panels[first + s * quarter + i];
    words sum = sums[0] + sums[1] + sums[2] + sums[3];
    __asm__ volatile("" : : "m"(sum)); /* somebody wants it */
}

static void read_plain(const struct course *course, uint32_t panel)
{
    cenote_team_run(course->team, read_share, course->plain + panel * PANEL_BYTES);
}

/* The best of some passes over all panels, in bytes of plain weights a second: a pass that
 * something disturbed says nothing of the machine. */
static double best_rate(const struct course *course,
                        void (*work)(const struct course *course, uint32_t panel))
{
    double best = 0;
    for (uint32_t pass = 0; pass < PASSES; pass++) {
        double start = now_s();
        for (uint32_t p = 0; p < PANELS; p += QWEN_DECODE_PANELS)
            work(course, p);
        double rate = (double)(PANELS * PANEL_BYTES) / (now_s() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

static cenote_status run_course(cenote_pool *pool, cenote_team *team, qwen_speed *out_speed,
                                cenote_error *err)
{
    struct course course = {.team = team,
                            .packed_bytes = cenote_bf12_bytes_max(PANEL_ROWS, PANEL_COLUMNS)};
    uint64_t rows_bytes = (PANEL_COLUMNS + QWEN_DECODE_PANELS * PANEL_ROWS) * sizeof(float);
    void *block;
    cenote_status status =
        qwen_kernels_create(QWEN_ISA_AUTO, team, pool, PANEL_COLUMNS, &course.kernels, err);
    if (status != CENOTE_OK)
        return status;
    status = cenote_pool_alloc(pool, PANELS * (PANEL_BYTES + course.packed_bytes) + rows_bytes,
                               &block, err);
    if (status == CENOTE_OK) {
        course.plain = block;
        course.packed = course.plain + PANELS * PANEL_BYTES;
        course.x = (float *)(void *)(course.packed + PANELS * course.packed_bytes);
        course.y = course.x + PANEL_COLUMNS;
        status = fill_course(&course, err);
        if (status == CENOTE_OK) {
            out_speed->plain_bytes_per_s = best_rate(&course, multiply_plain);
            out_speed->packed_bytes_per_s = best_rate(&course, multiply_packed);
            double read = best_rate(&course, read_plain);
            out_speed->memory_bytes_per_s =
                read > out_speed->plain_bytes_per_s ? read : out_speed->plain_bytes_per_s;
        }
        cenote_pool_free(pool, block);
    }
    qwen_kernels_destroy(course.kernels);
    return status;
}

cenote_status qwen_speed_measure_disk(qwen_model *model, cenote_io_engine engine, qwen_speed *speed,
                                      cenote_error *err)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.quota_bytes = (16u << 20) + 32 * model->panel_bytes_max;
    options.class_id = CENOTE_CLASS_ACTIVATIONS;
    cenote_pool *pool;
    cenote_disk_speed disk;
    cenote_status status = cenote_pool_create(model->budget, &options, &pool, err);
    if (status != CENOTE_OK)
        return status;
    status = cenote_weights_measure_disk(model->weights, pool, model->panel_bytes_max, engine,
                                         &disk, err);
    if (status == CENOTE_OK) {
        speed->disk_bytes_per_s = disk.bytes_per_s;
        speed->disk_depth = disk.depth;
    }
    cenote_pool_destroy(pool);
    return status;
}

cenote_status qwen_speed_measure_kernels(cenote_budget *budget, uint32_t thread_count,
                                         qwen_speed *speed, cenote_error *err)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.class_id = CENOTE_CLASS_ACTIVATIONS;
    options.quota_bytes = 2 * PANELS * PANEL_BYTES + (16u << 20);
    cenote_pool *pool;
    cenote_team *team = NULL;
    cenote_status status = cenote_pool_create(budget, &options, &pool, err);
    if (status != CENOTE_OK)
        return status;
    status = cenote_team_create(thread_count, &team, err);
    if (status == CENOTE_OK)
        status = run_course(pool, team, speed, err);
    cenote_team_destroy(team);
    cenote_pool_destroy(pool);
    return status;
}

/* ---- a plan's seconds ---- */

qwen_bound qwen_speed_bound(const qwen_speed *speed, cenote_encoding encoding)
{
    double fetched = speed->plain_bytes_per_s;
    if (encoding == CENOTE_ENCODING_BF12)
        fetched = speed->packed_bytes_per_s * PACKED_SHARE;
    return fetched >= KEEPS_UP * speed->memory_bytes_per_s ? QWEN_BOUND_MEMORY : QWEN_BOUND_COMPUTE;
}

void qwen_plan_forecast(const qwen_plan *plan, const qwen_speed *speed, qwen_forecast *out_forecast)
{
    double streamed = (double)plan->streamed_bytes_per_token;
    double resident = (double)plan->weight_bytes_per_token - streamed;
    bool packed = plan->resident_encoding == CENOTE_ENCODING_BF12;
    double resident_rate = packed ? speed->packed_bytes_per_s : speed->plain_bytes_per_s;
    bool copy = plan->bytes_per_token < plan->streamed_bytes_per_token;
    double streamed_rate = copy ? speed->packed_bytes_per_s : speed->plain_bytes_per_s;
    qwen_forecast forecast = {
        .disk_s = (double)plan->bytes_per_token / speed->disk_bytes_per_s,
        .compute_s = resident / resident_rate + streamed / streamed_rate,
    };
    bool disk = forecast.disk_s > forecast.compute_s;
    forecast.seconds_per_token = disk ? forecast.disk_s : forecast.compute_s;
    forecast.bound = disk ? QWEN_BOUND_DISK : qwen_speed_bound(speed, plan->resident_encoding);
    *out_forecast = forecast;
}
