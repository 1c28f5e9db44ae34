/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  A paged KV cache of one sequence: blocks of 16 tokens, all layers of a block together.
 *
 *  Inside a block: [layer][keys | values][kv head][16 tokens][head_dim] of the cache's dtype.
 *  Blocks come from a pool as the sequence grows; they never move.
 *
 *  Threads: one writer; readers of filled blocks any. */
#ifndef CENOTE_KV_H
#define CENOTE_KV_H

#include <stdint.h>

#include <cenote/pool.h>
#include <cenote/weights.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CENOTE_KV_BLOCK_TOKENS 16u

typedef struct cenote_kv cenote_kv;

typedef struct cenote_kv_options {
    uint32_t version; /**< CENOTE_KV_OPTIONS_VERSION */
    uint32_t layer_count;
    uint32_t head_count; /**< kv heads */
    uint32_t head_dim;
    uint64_t token_count_max;
    cenote_dtype dtype; /**< CENOTE_DTYPE_F32 or CENOTE_DTYPE_BF16 */
} cenote_kv_options;
#define CENOTE_KV_OPTIONS_VERSION 1u
#define CENOTE_KV_OPTIONS_INIT                                                                     \
    {                                                                                              \
        CENOTE_KV_OPTIONS_VERSION, 0, 0, 0, 0, CENOTE_DTYPE_F32                                    \
    }

/** What a cache with these options charges when @p token_count tokens are reserved, its table of
 *  blocks included, to the byte; UINT64_MAX on overflow. Small blocks share granules. */
CENOTE_API uint64_t cenote_kv_charge_bytes(const cenote_kv_options *options, uint64_t token_count);

CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_kv_create(cenote_pool *pool,
                                                            const cenote_kv_options *options,
                                                            cenote_kv **out_kv, cenote_error *err);
CENOTE_API void cenote_kv_destroy(cenote_kv *kv);

/** Makes room for tokens [0, token_count). Errors: CENOTE_E_INVAL above token_count_max,
 *  CENOTE_E_BUDGET, CENOTE_E_NOMEM; then nothing has changed. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_kv_reserve(cenote_kv *kv, uint64_t token_count,
                                                             cenote_error *err);

/** Gives back to the pool what lies behind tokens [0, token_count); those keep their keys and
 *  values. What small blocks share with them stays. */
CENOTE_API void cenote_kv_truncate(cenote_kv *kv, uint64_t token_count);

/** The part of block @p block that holds @p layer: keys [kv head][16][head_dim], then values
 *  alike. The block must be reserved. */
CENOTE_API void *cenote_kv_keys(const cenote_kv *kv, uint32_t layer, uint64_t block);
CENOTE_API void *cenote_kv_values(const cenote_kv *kv, uint32_t layer, uint64_t block);

#ifdef __cplusplus
}
#endif
#endif
