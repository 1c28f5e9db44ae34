/* SPDX-License-Identifier: Apache-2.0 */
#include "blocked_product.h"

/* A rectangle of the product. */
typedef struct product_part {
    uint64_t row, rows, column, columns, first, depth;
} product_part;

static uint64_t at_most(uint64_t value, uint64_t limit)
{
    return value < limit ? value : limit;
}

/* Keeps c in registers for all of depth, k ascending. */
static void add_tile(uint64_t depth, const float *a, uint64_t a_stride, const float *b,
                     uint64_t b_stride, float *c, uint64_t c_stride)
{
    typedef float line __attribute__((vector_size(64), aligned(4)));
    line sum[PRODUCT_TILE_ROWS];
    for (unsigned i = 0; i < PRODUCT_TILE_ROWS; i++)
        sum[i] = *(const line *)(c + i * c_stride);
    for (uint64_t k = 0; k < depth; k++) {
        line b_k = *(const line *)(b + k * b_stride);
        for (unsigned i = 0; i < PRODUCT_TILE_ROWS; i++)
            sum[i] += a[i * a_stride + k] * b_k;
    }
    for (unsigned i = 0; i < PRODUCT_TILE_ROWS; i++)
        *(line *)(c + i * c_stride) = sum[i];
}

void product_naive(const plain_product *p)
{
    for (uint64_t i = 0; i < p->m; i += PRODUCT_TILE_ROWS)
        for (uint64_t j = 0; j < p->n; j += PRODUCT_TILE_COLUMNS)
            add_tile(p->k, p->a + i * p->k, p->k, p->b + j, p->n, p->c + i * p->n + j, p->n);
}

/* ---- in blocks ---- */

static cenote_gemm_blocks blocks_of(const plain_product *p, const cenote_hardware *hardware)
{
    cenote_gemm_shape shape = {.m = p->m,
                               .n = p->n,
                               .k = p->k,
                               .tile_rows = PRODUCT_TILE_ROWS,
                               .tile_columns = PRODUCT_TILE_COLUMNS,
                               .element_bytes = sizeof(float)};
    return cenote_gemm_blocks_get(hardware, &shape);
}

static uint64_t a_stride_of(const cenote_gemm_blocks *blocks)
{
    return cenote_row_stride_bytes(blocks->kc * sizeof(float), 64) / sizeof(float);
}

uint64_t product_scratch_floats(const plain_product *p, const cenote_hardware *hardware)
{
    cenote_gemm_blocks blocks = blocks_of(p, hardware);
    return blocks.mc * a_stride_of(&blocks) + blocks.kc * blocks.nc;
}

/* b of the part as strips [columns / 16][depth][16]. */
static void pack_b(const plain_product *p, const product_part *part, float *to)
{
    const size_t strip_bytes = PRODUCT_TILE_COLUMNS * sizeof(float);
    for (uint64_t j = 0; j < part->columns; j += PRODUCT_TILE_COLUMNS)
        cenote_copy_rows(to + j * part->depth, strip_bytes,
                         p->b + part->first * p->n + part->column + j, p->n * sizeof(float),
                         strip_bytes, part->depth);
}

static void add_block(const plain_product *p, const product_part *part, const float *a,
                      uint64_t a_stride, const float *b)
{
    for (uint64_t j = 0; j < part->columns; j += PRODUCT_TILE_COLUMNS)
        for (uint64_t i = 0; i < part->rows; i += PRODUCT_TILE_ROWS)
            add_tile(part->depth, a + i * a_stride, a_stride, b + j * part->depth,
                     PRODUCT_TILE_COLUMNS, p->c + (part->row + i) * p->n + part->column + j, p->n);
}

void product_blocked(const plain_product *p, const cenote_hardware *hardware, float *scratch)
{
    cenote_gemm_blocks blocks = blocks_of(p, hardware);
    uint64_t a_stride = a_stride_of(&blocks);
    float *b = scratch, *a = scratch + blocks.kc * blocks.nc;
    product_part part;
    for (part.column = 0; part.column < p->n; part.column += blocks.nc) {
        part.columns = at_most(p->n - part.column, blocks.nc);
        for (part.first = 0; part.first < p->k; part.first += blocks.kc) {
            part.depth = at_most(p->k - part.first, blocks.kc);
            pack_b(p, &part, b);
            for (part.row = 0; part.row < p->m; part.row += blocks.mc) {
                part.rows = at_most(p->m - part.row, blocks.mc);
                cenote_copy_rows(a, a_stride * sizeof *a, p->a + part.row * p->k + part.first,
                                 p->k * sizeof *a, part.depth * sizeof *a, part.rows);
                add_block(p, &part, a, a_stride, b);
            }
        }
    }
}
