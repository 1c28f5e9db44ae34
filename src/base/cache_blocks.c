/* SPDX-License-Identifier: Apache-2.0 */
/* What follows from the sizes of caches, as <cenote/hardware.h> promises it.
 *
 *               nc                     Each block of a product lives in a cache of its own while
 *          +---------+                 the loops around it run:
 *       kc |  B   |nr|   L3
 *          +---------+                   a B micro panel, kc x nr   L1, whole, beside the lines
 *      kc  .                                                        of A's that passes by
 *    +----+.  +----+                     an A block,      mc x kc   L2, beside one B micro panel
 * mc | A  |.  | C  |                     a B panel,       kc x nc   L3, beside the A block
 *    |    |.  |    | mr
 *    +----+   +----+                   A cache is counted in ways, for what shares a set pushes
 *      L2    registers                 itself out long before the bytes are full. One way of each
 * is left to what passes through (C, and the next A).
 *
 * Low, Igual, Smith, Quintana-Orti: Analytical Modeling Is Enough for High-Performance BLIS, ACM
 * Transactions on Mathematical Software 43(2), 2016; sections 4.1 to 4.4. */
#include <stdbool.h>

#include <cenote/hardware.h>

#define K_STEP     16u /* floats: a line of them */
#define LINE_BYTES 64u

/* One core's share of a cache. */
struct share {
    uint64_t way_bytes;
    uint64_t ways;
};

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t divide_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

/* Users take ways from each other: a thread that shares with others has the fewer, of the full
 * length. Unknown sizes are an i5-10210U's. */
static struct share share_of(const cenote_cache *cache, uint64_t users, uint64_t usual_bytes,
                             uint32_t usual_ways)
{
    bool known = cache->size_bytes > 0;
    uint64_t size_bytes = known ? cache->size_bytes : usual_bytes;
    uint64_t ways = known && cache->ways > 0 ? cache->ways : usual_ways;
    struct share share = {
        .way_bytes = max_u64(size_bytes / ways, LINE_BYTES),
        .ways = max_u64(ways / users, 1),
    };
    return share;
}

/* Equal parts of @p whole, none above @p most (a multiple of @p unit), rounded up to units. */
static uint64_t part(uint64_t whole, uint64_t most, uint64_t unit)
{
    most = max_u64(most / unit, 1) * unit;
    if (whole <= most)
        return divide_up(whole, unit) * unit;
    return divide_up(divide_up(whole, divide_up(whole, most)), unit) * unit;
}

/* Ways left of a share when @p taken_bytes lie beside and one way is for what passes. */
static uint64_t bytes_left(const struct share *share, uint64_t taken_bytes)
{
    uint64_t taken = divide_up(taken_bytes, share->way_bytes) + 1;
    return share->ways > taken ? (share->ways - taken) * share->way_bytes : share->way_bytes / 2;
}

/* Bytes of L1 for A's micro panel: whole ways w, so that those of B's, w * nr / mr, fit beside
 * them; where not even one does, its share of the bytes. */
static uint64_t a_panel_bytes(const struct share *l1, uint64_t mr, uint64_t nr)
{
    uint64_t ways = (l1->ways - 1) * mr / (mr + nr);
    return ways > 0 ? ways * l1->way_bytes : bytes_left(l1, 0) * mr / (mr + nr);
}

cenote_gemm_blocks cenote_gemm_blocks_get(const cenote_hardware *hardware,
                                          const cenote_gemm_shape *shape)
{
    /* threads beyond the number of CPUs take turns, each with all that its CPU has */
    uint64_t cores = max_u64(hardware->cores, 1), cpus = max_u64(hardware->cpus, 1);
    uint64_t threads = min_u64(max_u64(shape->threads, 1), cpus);
    uint64_t per_core = divide_up(threads, cores);
    struct share l1 = share_of(&hardware->l1d, per_core, 32768, 8);
    struct share l2 = share_of(&hardware->l2, per_core, 262144, 4);
    uint64_t mr = shape->tile_rows, nr = shape->tile_columns, element = shape->element_bytes;

    cenote_gemm_blocks blocks = {
        .kc = part(shape->k, a_panel_bytes(&l1, mr, nr) / (mr * element), K_STEP)};
    uint64_t line_bytes = blocks.kc * element; /* of one row of A, or one column of B */
    blocks.mc = part(shape->m, bytes_left(&l2, nr * line_bytes) / line_bytes, mr);
    blocks.nc = divide_up(shape->n, nr) * nr;
    if (hardware->l3.size_bytes > 0) {
        struct share l3 = share_of(&hardware->l3, threads, 0, 16);
        blocks.nc = part(shape->n, bytes_left(&l3, blocks.mc * line_bytes) / line_bytes, nr);
    }
    return blocks;
}

uint64_t cenote_row_stride_bytes(uint64_t row_bytes, uint32_t line_bytes)
{
    uint64_t line = line_bytes != 0 ? line_bytes : LINE_BYTES;
    if (row_bytes > UINT64_MAX - 2 * line)
        return 0;
    uint64_t lines = max_u64(divide_up(row_bytes, line), 1);
    return (lines | 1) * line;
}

/* tile x head_dim floats of each of queries, keys and values. */
uint32_t cenote_attention_tile_rows(const cenote_device_shape *device, uint32_t head_dim)
{
    uint32_t tile = 64;
    uint64_t row_bytes = 3ull * sizeof(float) * head_dim;
    while (tile > 8 && tile * row_bytes > device->block_shared_bytes)
        tile /= 2;
    return tile;
}
