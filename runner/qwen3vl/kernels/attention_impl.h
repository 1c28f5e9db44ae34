/* SPDX-License-Identifier: Apache-2.0 */
/* What attention.c asks of an instruction set, and the memory that it does it in. */
#ifndef QWEN_ATTENTION_IMPL_H
#define QWEN_ATTENTION_IMPL_H

#include "kernels_impl.h"

#define HEAD_DIM_MAX 256u
/* Keys between two steps of the softmax: part of the result's definition. */
#define TILE_KEYS  64u
#define BLOCK_KEYS 16u
/* Query rows that share a packed tile of keys, and how many of them go through the registers
 * together: matters of speed only. */
#define TILE_FLOATS   (96u * 128u)
#define TILE_ROWS_MAX 96u
#define STRIP_ROWS    6u

/* One thread's; a query row is one head of one query. */
typedef struct qwen_attention_scratch {
    float keys[HEAD_DIM_MAX * TILE_KEYS];   /* [4 blocks][head_dim][16 keys] */
    float values[HEAD_DIM_MAX * TILE_KEYS]; /* [head_dim / 16 up][64 keys][16] */
    float queries[TILE_FLOATS];             /* [row][head_dim], scaled */
    float outputs[TILE_FLOATS];             /* [row][head_dim up to 16] */
    float sums[TILE_ROWS_MAX * 16];         /* [row][16 lanes] of exp(score - maximum) */
    float maxima[TILE_ROWS_MAX];            /* of the scores so far */
    float weights[STRIP_ROWS * TILE_KEYS];  /* scores, then exp(score - maximum) */
    float products[STRIP_ROWS * HEAD_DIM_MAX];
} qwen_attention_scratch;

static inline unsigned qwen_attention_tile_rows(uint32_t head_dim)
{
    return head_dim <= 128 ? TILE_ROWS_MAX : TILE_FLOATS / HEAD_DIM_MAX;
}

/* Computes query rows [row_first, row_first + row_count) of one kv head. Row r is head r % group
 * of that kv head's group, and query r / group. */
typedef void (*qwen_attention_tile_fn)(const qwen_attention *attention, uint32_t kv_head,
                                       uint64_t row_first, unsigned row_count,
                                       qwen_attention_scratch *scratch);

void qwen_attention_tile_portable(const qwen_attention *attention, uint32_t kv_head,
                                  uint64_t row_first, unsigned row_count,
                                  qwen_attention_scratch *scratch);
void qwen_attention_tile_avx2(const qwen_attention *attention, uint32_t kv_head, uint64_t row_first,
                              unsigned row_count, qwen_attention_scratch *scratch);
void qwen_attention_tile_avx512(const qwen_attention *attention, uint32_t kv_head,
                                uint64_t row_first, unsigned row_count,
                                qwen_attention_scratch *scratch);

#endif
