/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax attention over keys and values that lie in blocks of 16 tokens.
 *
 *     tasks:   kv head 0 | kv head 1 | ...        each cut into tiles of query rows
 *     rows:    query 0 head 0, query 0 head 1, ..., query 1 head 0, ...   of the kv head's group
 *
 * The heads of a group read the same keys, so they share a tile's rows: a tile of keys is packed
 * once for all of them. A task belongs to one thread, and no two tasks write the same output;
 * threads take tasks as they become free, since causal tasks differ in length and bits do not
 * depend on who does them. The arithmetic of a task is in attention_body.h. */
#include "attention_impl.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

typedef struct attend_job {
    const qwen_kernels *kernels;
    const qwen_attention *attention;
    qwen_attention_tile_fn tile;
    uint64_t row_count;        /* of one kv head */
    uint64_t tile_count;       /* of one kv head */
    unsigned tile_rows;        /* rows of a tile; the last of a kv head may have fewer */
    atomic_uint_fast64_t next; /* task; ordered by nothing but the team's barrier */
} attend_job;

static qwen_attention_tile_fn tile_fn(const qwen_kernels *kernels)
{
#if defined(__x86_64__)
    if (kernels->isa == QWEN_ISA_AVX512)
        return qwen_attention_tile_avx512;
    if (kernels->isa == QWEN_ISA_AVX2)
        return qwen_attention_tile_avx2;
#endif
    (void)kernels;
    return qwen_attention_tile_portable;
}

static void attend_rank(void *argument, unsigned rank, unsigned size)
{
    (void)size;
    attend_job *job = argument;
    uint64_t kv_heads = job->attention->kv_head_count;
    qwen_attention_scratch *scratch = qwen_kernels_scratch(job->kernels, rank);
    for (;;) {
        uint64_t task = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (task >= job->tile_count * kv_heads)
            return;
        /* Causal tiles grow with the query: the longest first, so that all end together. */
        uint64_t first = (job->tile_count - 1 - task / kv_heads) * job->tile_rows;
        uint64_t left = job->row_count - first;
        job->tile(job->attention, (uint32_t)(task % kv_heads), first,
                  left < job->tile_rows ? (unsigned)left : job->tile_rows, scratch);
    }
}

void qwen_attend(qwen_kernels *kernels, const qwen_attention *attention)
{
    assert(attention->head_dim > 0 && attention->head_dim <= HEAD_DIM_MAX);
    assert(attention->head_dim % 4 == 0);
    assert(attention->kv_head_count > 0);
    assert(attention->head_count % attention->kv_head_count == 0);
    assert(attention->kv_dtype == CENOTE_DTYPE_F32 || attention->kv_dtype == CENOTE_DTYPE_BF16);
    assert(attention->key_count > 0);
    if (attention->query_count == 0)
        return;

    uint64_t group = attention->head_count / attention->kv_head_count;
    attend_job job = {
        .kernels = kernels,
        .attention = attention,
        .tile = tile_fn(kernels),
        .row_count = attention->query_count * group,
        .tile_rows = qwen_attention_tile_rows(attention->head_dim),
    };
    job.tile_count = (job.row_count + job.tile_rows - 1) / job.tile_rows;
    atomic_init(&job.next, 0);
    cenote_team_run(kernels->team, attend_rank, &job);
}

size_t qwen_attention_scratch_bytes(void)
{
    return (sizeof(qwen_attention_scratch) + 63) / 64 * 64;
}

/* Rounds to the nearest bf16, ties to even. A NaN keeps its sign and upper bits and becomes quiet:
 * rounding could carry it into the exponent, or to an infinity. */
static uint16_t bf16_round(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void qwen_kv_store(cenote_dtype kv_dtype, void *block_part, uint32_t slot, uint32_t kv_head_count,
                   uint32_t head_dim, const float *from)
{
    assert(slot < BLOCK_KEYS);
    for (uint32_t head = 0; head < kv_head_count; head++, from += head_dim) {
        size_t to = ((size_t)head * BLOCK_KEYS + slot) * head_dim;
        if (kv_dtype == CENOTE_DTYPE_F32) {
            memcpy((float *)block_part + to, from, head_dim * sizeof(float));
            continue;
        }
        for (uint32_t i = 0; i < head_dim; i++)
            ((uint16_t *)block_part)[to + i] = bf16_round(from[i]);
    }
}
