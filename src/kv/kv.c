/* SPDX-License-Identifier: Apache-2.0 */
/* A paged KV cache.
 *
 *   table   [slab 0][slab 1][slab 2][  -  ][  -  ]      one pointer for each slab there may be
 *              |       |
 *   slab    [block][block]...                           one block of the pool, whole granules
 *   block   [layer 0: keys | values][layer 1: ...]...   16 tokens, all layers
 *
 * A block holds all layers because it is the unit that will be spilled, copied and shared: one
 * record instead of one for each layer. Blocks of real models are megabytes and a slab is one of
 * them; those of tiny models are kilobytes, and then a slab is as many as fill a granule, so that
 * 64 KiB are not paid for 2. */
#include <assert.h>
#include <inttypes.h>

#include <cenote/kv.h>

#include "base/checked.h"
#include "pool/budget.h"

struct geometry {
    uint64_t part_bytes;  /* keys, or values, of one layer */
    uint64_t block_bytes; /* all layers */
    uint64_t blocks_per_slab;
    uint64_t slab_bytes;
    uint64_t slab_count_max;
    uint64_t metadata_bytes;
};

struct cenote_kv {
    cenote_pool *pool;
    struct cn_arena *arena; /* holds this struct too */
    struct geometry geometry;
    uint32_t layer_count;
    uint64_t token_count_max;
    uint64_t slab_count; /* slabs taken from the pool */
    char *slabs[];
};

static uint64_t divide_up(uint64_t a, uint64_t unit)
{
    return a / unit + (a % unit != 0);
}

static uint64_t slabs_for(const struct geometry *g, uint64_t token_count)
{
    return divide_up(divide_up(token_count, CENOTE_KV_BLOCK_TOKENS), g->blocks_per_slab);
}

/* Sizes that follow from the options; false when one of them does not fit 64 bits. */
static bool geometry_of(const cenote_kv_options *options, struct geometry *out_geometry)
{
    struct geometry g;
    uint64_t part = options->dtype == CENOTE_DTYPE_F32 ? 4 : 2;
    if (!cn_checked_mul(part, CENOTE_KV_BLOCK_TOKENS, &part) ||
        !cn_checked_mul(part, options->head_dim, &part) ||
        !cn_checked_mul(part, options->head_count, &part))
        return false;
    g.part_bytes = part;
    if (!cn_checked_mul(part, 2, &g.block_bytes) ||
        !cn_checked_mul(g.block_bytes, options->layer_count, &g.block_bytes) || g.block_bytes == 0)
        return false;
    g.blocks_per_slab =
        g.block_bytes < CENOTE_GRANULE_BYTES ? CENOTE_GRANULE_BYTES / g.block_bytes : 1;
    g.slab_bytes = g.blocks_per_slab * g.block_bytes;
    g.slab_count_max = slabs_for(&g, options->token_count_max);
    if (!cn_checked_mul(g.slab_count_max, sizeof(char *), &g.metadata_bytes) ||
        !cn_checked_add(g.metadata_bytes, sizeof(cenote_kv), &g.metadata_bytes))
        return false;
    *out_geometry = g;
    return true;
}

uint64_t cenote_kv_charge_bytes(const cenote_kv_options *options, uint64_t token_count)
{
    struct geometry g = {0};
    uint64_t charge;
    if (!geometry_of(options, &g) ||
        !cn_checked_mul(cenote_pool_charge_bytes(g.slab_bytes), slabs_for(&g, token_count),
                        &charge) ||
        !cn_checked_add(charge, cn_arena_charge_bytes(g.metadata_bytes), &charge))
        return UINT64_MAX;
    return charge;
}

static cenote_status check_options(const cenote_kv_options *options, struct geometry *out_geometry,
                                   cenote_error *err)
{
    if (options->version != CENOTE_KV_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "kv options: version %u, not %u",
                                options->version, CENOTE_KV_OPTIONS_VERSION);
    if (options->dtype != CENOTE_DTYPE_F32 && options->dtype != CENOTE_DTYPE_BF16)
        return cenote_error_set(err, CENOTE_E_INVAL, "kv: dtype %d is neither F32 nor BF16",
                                (int)options->dtype);
    if (options->layer_count == 0 || options->head_count == 0 || options->head_dim == 0 ||
        options->token_count_max == 0 || !geometry_of(options, out_geometry))
        return cenote_error_set(
            err, CENOTE_E_INVAL, "kv: %u layers x %u heads x %u values x %" PRIu64 " tokens",
            options->layer_count, options->head_count, options->head_dim, options->token_count_max);
    return CENOTE_OK;
}

cenote_status cenote_kv_create(cenote_pool *pool, const cenote_kv_options *options,
                               cenote_kv **out_kv, cenote_error *err)
{
    struct geometry g = {0};
    cenote_status status = check_options(options, &g, err);
    if (status != CENOTE_OK)
        return status;
    struct cn_arena *arena;
    cenote_error detail;
    status = cn_arena_create(cn_pool_budget(pool), g.metadata_bytes, &arena, err);
    if (status != CENOTE_OK)
        return status;
    cenote_kv *kv = cn_arena_alloc(arena, g.metadata_bytes, 64, &detail);
    if (kv == NULL) {
        cn_arena_destroy(arena);
        return cenote_error_set(err, detail.status, "%s", detail.message);
    }
    kv->pool = pool;
    kv->arena = arena;
    kv->geometry = g;
    kv->layer_count = options->layer_count;
    kv->token_count_max = options->token_count_max;
    *out_kv = kv;
    return CENOTE_OK;
}

static void drop_slabs(cenote_kv *kv, uint64_t slab_count)
{
    while (kv->slab_count > slab_count)
        cenote_pool_free(kv->pool, kv->slabs[--kv->slab_count]);
}

void cenote_kv_destroy(cenote_kv *kv)
{
    if (kv == NULL)
        return;
    drop_slabs(kv, 0);
    cn_arena_destroy(kv->arena); /* the cache is gone with it */
}

cenote_status cenote_kv_reserve(cenote_kv *kv, uint64_t token_count, cenote_error *err)
{
    if (token_count > kv->token_count_max)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "kv: %" PRIu64 " tokens, the cache was made for %" PRIu64,
                                token_count, kv->token_count_max);
    uint64_t had = kv->slab_count;
    uint64_t want = slabs_for(&kv->geometry, token_count);
    while (kv->slab_count < want) {
        void *slab;
        cenote_status status = cenote_pool_alloc(kv->pool, kv->geometry.slab_bytes, &slab, err);
        if (status != CENOTE_OK) {
            drop_slabs(kv, had);
            return status;
        }
        kv->slabs[kv->slab_count++] = slab;
    }
    return CENOTE_OK;
}

void cenote_kv_truncate(cenote_kv *kv, uint64_t token_count)
{
    drop_slabs(kv, slabs_for(&kv->geometry, token_count));
}

static char *layer_of(const cenote_kv *kv, uint32_t layer, uint64_t block)
{
    const struct geometry *g = &kv->geometry;
    uint64_t slab = block / g->blocks_per_slab;
    assert(layer < kv->layer_count && slab < kv->slab_count);
    return kv->slabs[slab] + block % g->blocks_per_slab * g->block_bytes +
           layer * 2 * g->part_bytes;
}

void *cenote_kv_keys(const cenote_kv *kv, uint32_t layer, uint64_t block)
{
    return layer_of(kv, layer, block);
}

void *cenote_kv_values(const cenote_kv *kv, uint32_t layer, uint64_t block)
{
    return layer_of(kv, layer, block) + kv->geometry.part_bytes;
}
