/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products: how a panel is shared between threads and cut into tiles that stay in cache.
 *
 *                 k            strip: 16 rows of w
 *            +----------+      +--+--+--+-..       A group of strips is widened and transposed
 *          n |    w     |  ->  |  |  |  |   depth  for depth elements of k into scratch (L2); a
 *            +----------+      +--+--+--+-..       tile of a's rows is copied beside it (L1), and
 *                 k                                a register tile of c runs over both. Sums of
 *            +----------+      +--+--+--+-..       as many rows as there is room for wait in
 *          m |    a     |  ->  | c tile |          scratch for the next depth elements of k, then
 *            +----------+      +--+--+--+-..       get bias and c.
 *
 * This is the order of loops of Goto and van de Geijn ("Anatomy of high-performance matrix
 * multiplication", 2008) with the roles of a and b changed: the weights are the small operand.
 * depth and the strips of a group follow from the caches (cenote_gemm_blocks_get), as far as the
 * scratch goes, which is the same on every machine so that a plan holds on all of them.
 *
 * Each element of c is one accumulator that takes k in ascending order by fma, whether it sits in
 * a register or waits in scratch. So neither threads, m, panels, tiles nor blocks can change a bit;
 * docs/kernels.md has the measurements. */
#include "gemm_impl.h"

#include <assert.h>

#include "widen_impl.h"

/* How a product is cut. */
typedef struct gemm_blocks {
    size_t depth; /* elements of k */
    size_t width; /* columns of c, whole strips: the group that is packed at a time */
    size_t rows;  /* of c, whose partial sums are kept; their stride is width */
} gemm_blocks;

typedef struct gemm_job {
    const qwen_kernels *kernels;
    const qwen_gemm_ops *ops;
    const qwen_product *product;
    gemm_blocks blocks;
} gemm_job;

/* A rank's scratch. */
typedef struct gemm_room {
    float packed[QWEN_GEMM_PACKED]; /* [strip][depth][QWEN_GEMM_STRIP] */
    float sums[QWEN_GEMM_SUMS];     /* [rows][width] */
    union {
        float a[QWEN_GEMM_TILE_ROWS_MAX * QWEN_GEMM_A_STRIDE];
        uint16_t halves[QWEN_GEMM_STRIP]
                       [QWEN_GEMM_DEPTH_MAX]; /* a strip to pack, before a is copied */
    };
} gemm_room;

/* A part of c. */
typedef struct gemm_area {
    uint64_t row, rows;
    uint64_t column, columns;
} gemm_area;

static_assert(sizeof(gemm_room) % 64 == 0, "ranks' scratch is aligned to cache lines");
static_assert(QWEN_GEMM_DEPTH_MAX * QWEN_GEMM_STRIP <= QWEN_GEMM_PACKED, "a strip can be packed");
/* The least depth is 16, so no group is wider than QWEN_GEMM_PACKED / 16. */
static_assert(QWEN_GEMM_SUMS / (QWEN_GEMM_PACKED / 16) >= QWEN_GEMM_TILE_ROWS_MAX,
              "a tile of the widest group has its sums");

static inline uint64_t at_most(uint64_t value, uint64_t limit)
{
    return value < limit ? value : limit;
}

static void pack_plain(const gemm_job *job, uint64_t row, unsigned rows, uint64_t k_first,
                       size_t depth, float *packed)
{
    const qwen_product *product = job->product;
    size_t element_bytes = qwen_weight_bytes(product->w_dtype);
    size_t row_bytes = product->k * element_bytes;
    const unsigned char *w =
        (const unsigned char *)product->w + row * row_bytes + k_first * element_bytes;
    job->ops->pack(product->w_dtype, w, row_bytes, rows, depth, packed);
}

/* The 12-bit form becomes bf16 that stays in L1: next to the product itself that is nothing. */
static void pack_bf12(const gemm_job *job, uint64_t row, unsigned rows, uint64_t k_first,
                      size_t depth, gemm_room *room, float *packed)
{
    const qwen_product *product = job->product;
    for (unsigned i = 0; i < rows; i++)
        cenote_bf12_decode(product->w, product->k, row + i, k_first, depth, room->halves[i]);
    job->ops->pack(CENOTE_DTYPE_BF16, (const unsigned char *)room->halves, sizeof room->halves[0],
                   rows, depth, packed);
}

static void pack_group(const gemm_job *job, const gemm_area *area, uint64_t k_first, size_t depth,
                       gemm_room *room)
{
    for (uint64_t j = 0; j < area->columns; j += QWEN_GEMM_STRIP) {
        unsigned rows = (unsigned)at_most(area->columns - j, QWEN_GEMM_STRIP);
        float *packed = room->packed + j * job->blocks.depth;
        if (job->product->w_encoding == CENOTE_ENCODING_BF12)
            pack_bf12(job, area->column + j, rows, k_first, depth, room, packed);
        else
            pack_plain(job, area->column + j, rows, k_first, depth, packed);
    }
}

/* One tile's height of the area's sums, for one step of k. While strips of this tile are summed,
 * the rows of the next come near: a of a long prompt is larger than the caches. */
static void add_tile(const gemm_job *job, const gemm_area *area, uint64_t k_first, size_t depth,
                     uint64_t next_rows, gemm_room *room, float *sums)
{
    const qwen_product *product = job->product;
    const float *a = product->a + area->row * product->a_stride + k_first;
    job->ops->copy((unsigned)area->rows, depth, a, product->a_stride, room->a);
    const float *next = a + area->rows * product->a_stride;
    size_t strip_stride = job->blocks.depth * QWEN_GEMM_STRIP;
    unsigned strips = (unsigned)((area->columns + QWEN_GEMM_STRIP - 1) / QWEN_GEMM_STRIP);
    for (unsigned s = 0, end; s < strips; s = end) {
        end = s + (unsigned)at_most(strips - s, job->ops->tile_strips);
        uint64_t ahead = next_rows * s / strips;
        qwen_gemm_tile tile = {
            .rows = (unsigned)area->rows,
            .strips = end - s,
            .depth = depth,
            .a = room->a,
            .packed = room->packed + s * strip_stride,
            .strip_stride = strip_stride,
            .sums = sums + s * QWEN_GEMM_STRIP,
            .sums_stride = job->blocks.width,
            .first = k_first == 0,
            .ahead = next + ahead * product->a_stride,
            .ahead_rows = (unsigned)(next_rows * end / strips - ahead),
            .ahead_stride = product->a_stride,
        };
        job->ops->tile(&tile);
    }
}

/* One step of depth elements of k for all sums of the area. Its tiles are of nearly equal height:
 * a last tile of one row would cost as much as one of six. */
static void add_step(const gemm_job *job, const gemm_area *area, uint64_t k_first, size_t depth,
                     gemm_room *room)
{
    uint64_t tiles = (area->rows + job->ops->tile_rows - 1) / job->ops->tile_rows;
    for (uint64_t tile = 0; tile < tiles; tile++) {
        uint64_t row = area->rows * tile / tiles;
        uint64_t end = area->rows * (tile + 1) / tiles;
        uint64_t next_end = tile + 1 < tiles ? area->rows * (tile + 2) / tiles : end;
        gemm_area rows = {area->row + row, end - row, area->column, area->columns};
        add_tile(job, &rows, k_first, depth, next_end - end, room,
                 room->sums + row * job->blocks.width);
    }
}

static void write_sums(const gemm_job *job, const gemm_area *area, const float *sums)
{
    const qwen_product *product = job->product;
    for (uint64_t i = 0; i < area->rows; i++) {
        const float *sum = sums + i * job->blocks.width;
        float *c = product->c + (area->row + i) * product->c_stride + area->column;
        const float *bias = product->bias != NULL ? product->bias + area->column : NULL;
        for (uint64_t j = 0; j < area->columns; j++) {
            float value = bias != NULL ? sum[j] + bias[j] : sum[j];
            c[j] = product->accumulate ? c[j] + value : value;
        }
    }
}

/* All of k for an area whose sums fit scratch. */
static void multiply_group(const gemm_job *job, const gemm_area *area, gemm_room *room)
{
    uint64_t k = job->product->k;
    for (uint64_t k_first = 0; k_first < k; k_first += job->blocks.depth) {
        size_t depth = (size_t)at_most(k - k_first, job->blocks.depth);
        pack_group(job, area, k_first, depth, room);
        add_step(job, area, k_first, depth, room);
    }
    write_sums(job, area, room->sums);
}

static void multiply_area(const gemm_job *job, const gemm_area *area, gemm_room *room)
{
    uint64_t chunks = (area->rows + job->blocks.rows - 1) / job->blocks.rows;
    for (uint64_t j = 0; j < area->columns; j += job->blocks.width)
        for (uint64_t chunk = 0; chunk < chunks; chunk++) {
            uint64_t row = area->rows * chunk / chunks;
            gemm_area group = {
                .row = area->row + row,
                .rows = area->rows * (chunk + 1) / chunks - row,
                .column = area->column + j,
                .columns = at_most(area->columns - j, job->blocks.width),
            };
            multiply_group(job, &group, room);
        }
}

/* Fewer rows than columns: the work is a row of units, a unit being one tile's height of one strip,
 * strip after strip, and each rank takes an equal run of it: part of a strip, whole strips, part
 * of a strip. So a panel of five strips keeps two threads equally busy. */
static void multiply_units(const gemm_job *job, unsigned rank, unsigned size, gemm_room *room)
{
    const qwen_product *product = job->product;
    uint64_t blocks = (product->m + job->ops->tile_rows - 1) / job->ops->tile_rows;
    uint64_t units = blocks * ((product->n + QWEN_GEMM_STRIP - 1) / QWEN_GEMM_STRIP);
    uint64_t last = units * (rank + 1ul) / size;
    for (uint64_t unit = units * rank / size, next; unit < last; unit = next) {
        uint64_t strip = unit / blocks;
        uint64_t block = unit % blocks;
        uint64_t strips = block == 0 ? (last - unit) / blocks : 0;
        uint64_t block_end = strips > 0 ? blocks : at_most(blocks, block + last - unit);
        next = strips > 0 ? unit + strips * blocks : strip * blocks + block_end;
        uint64_t row = product->m * block / blocks;
        uint64_t column = strip * QWEN_GEMM_STRIP;
        gemm_area area = {
            .row = row,
            .rows = product->m * block_end / blocks - row,
            .column = column,
            .columns = at_most((strips > 0 ? strips : 1) * QWEN_GEMM_STRIP, product->n - column),
        };
        multiply_area(job, &area, room);
    }
}

/* More rows than columns: every rank packs the whole panel, which is cheaper than for every rank
 * to read all of a. */
static void multiply_rows(const gemm_job *job, unsigned rank, unsigned size, gemm_room *room)
{
    unsigned long row, rows;
    cenote_team_share(job->product->m, 1, rank, size, &row, &rows);
    gemm_area area = {.row = row, .rows = rows, .column = 0, .columns = job->product->n};
    multiply_area(job, &area, room);
}

static void multiply_share(void *argument, unsigned rank, unsigned size)
{
    const gemm_job *job = argument;
    gemm_room *room = qwen_kernels_scratch(job->kernels, rank);
    if (job->product->m > job->product->n)
        multiply_rows(job, rank, size, room);
    else
        multiply_units(job, rank, size, room);
}

static const qwen_gemm_ops *gemm_ops(qwen_isa isa)
{
#if defined(__x86_64__)
    if (isa == QWEN_ISA_AVX512)
        return &qwen_gemm_avx512;
    if (isa == QWEN_ISA_AVX2)
        return &qwen_gemm_avx2;
#endif
    (void)isa;
    return &qwen_gemm_portable;
}

/* In the words of BLIS the weights are its A, in strips, and a is its B. Tiles of two strips count
 * as one: the depth for one is 2 to 4 % faster for them (bench_cache), for what passes through L1
 * need not stay there. */
static gemm_blocks blocks_of(const qwen_kernels *kernels, const qwen_gemm_ops *ops,
                             const qwen_product *product)
{
    cenote_gemm_shape shape = {
        .m = product->n,
        .n = product->m,
        .k = product->k,
        .tile_rows = QWEN_GEMM_STRIP,
        .tile_columns = ops->tile_rows,
        .element_bytes = sizeof(float),
        .threads = cenote_team_size(kernels->team),
    };
    cenote_gemm_blocks best = cenote_gemm_blocks_get(&kernels->hardware, &shape);
    size_t depth = (size_t)at_most(best.kc, QWEN_GEMM_DEPTH_MAX);
    size_t packed = (size_t)at_most(best.mc * best.kc, QWEN_GEMM_PACKED);
    size_t width = packed / depth / QWEN_GEMM_STRIP * QWEN_GEMM_STRIP;
    return (gemm_blocks){depth, width, (size_t)at_most(best.nc, QWEN_GEMM_SUMS / width)};
}

void qwen_gemm(qwen_kernels *kernels, const qwen_product *product)
{
    const qwen_gemm_ops *ops = gemm_ops(kernels->isa);
    gemm_job job = {kernels, ops, product, blocks_of(kernels, ops, product)};
    cenote_team_run(kernels->team, multiply_share, &job);
}

size_t qwen_gemm_scratch_bytes(void)
{
    return sizeof(gemm_room);
}
