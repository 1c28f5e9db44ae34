/* SPDX-License-Identifier: Apache-2.0 */
/* What all kernels need: an instruction set, a team of threads, and scratch memory.
 *
 *     block from the pool:   | qwen_kernels | scratch of rank 0 | rank 1 | ... |
 *
 * All of it is one block, so that the budget sees every byte and no call allocates. The choice of
 * the instruction set is a matter of speed only: all of them give the same bits. */
#include "kernels.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "gemm_impl.h"
#include "gemv_impl.h"
#include "kernels_impl.h"

/* Rows longer than this are no model's; it keeps the sizes below far from overflow. */
#define K_MAX_LIMIT  ((uint64_t)1 << 28)
#define HEADER_BYTES 256u

static_assert(sizeof(struct qwen_kernels) <= HEADER_BYTES, "the header has whole cache lines");

static bool has(const cenote_hardware *hardware, qwen_isa isa)
{
    static const uint32_t vector_bytes[] = {
        [QWEN_ISA_PORTABLE] = 0, [QWEN_ISA_AVX2] = 32, [QWEN_ISA_AVX512] = 64};
    return hardware->vector_bytes >= vector_bytes[isa];
}

static cenote_status isa_from_environment(qwen_isa *out_isa, cenote_error *err)
{
    const char *text = getenv("CENOTE_ISA");
    if (text == NULL || text[0] == '\0' || strcmp(text, qwen_isa_text(QWEN_ISA_AUTO)) == 0) {
        *out_isa = QWEN_ISA_AUTO;
        return CENOTE_OK;
    }
    for (qwen_isa isa = QWEN_ISA_PORTABLE; isa <= QWEN_ISA_AVX512; isa++)
        if (strcmp(text, qwen_isa_text(isa)) == 0) {
            *out_isa = isa;
            return CENOTE_OK;
        }
    return cenote_error_set(err, CENOTE_E_INVAL,
                            "CENOTE_ISA is \"%s\"; it may be auto, portable, avx2 or avx512", text);
}

static cenote_status isa_resolve(const cenote_hardware *hardware, qwen_isa asked, qwen_isa *out_isa,
                                 cenote_error *err)
{
    qwen_isa isa = asked;
    if (isa == QWEN_ISA_AUTO) {
        cenote_status status = isa_from_environment(&isa, err);
        if (status != CENOTE_OK)
            return status;
    }
    if (isa == QWEN_ISA_AUTO) {
        isa = QWEN_ISA_AVX512;
        while (!has(hardware, isa))
            isa--;
    }
    if (!has(hardware, isa))
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                "this CPU lacks the instructions of the %s kernels",
                                qwen_isa_text(isa));
    *out_isa = isa;
    return CENOTE_OK;
}

static size_t scratch_bytes_per_thread(uint64_t k_max)
{
    size_t dense_bytes = qwen_dense_scratch_bytes(k_max);
    size_t attention_bytes = qwen_attention_scratch_bytes();
    return dense_bytes > attention_bytes ? dense_bytes : attention_bytes;
}

size_t qwen_dense_scratch_bytes(uint64_t k_max)
{
    size_t gemm_bytes = qwen_gemm_scratch_bytes();
    size_t gemv_bytes = qwen_gemv_scratch_bytes(k_max);
    return gemm_bytes > gemv_bytes ? gemm_bytes : gemv_bytes;
}

uint64_t qwen_kernels_scratch_bytes(unsigned thread_count, uint64_t k_max)
{
    if (k_max > K_MAX_LIMIT || thread_count > CENOTE_TEAM_SIZE_MAX)
        return UINT64_MAX; /* create refuses it */
    return HEADER_BYTES + thread_count * (uint64_t)scratch_bytes_per_thread(k_max);
}

cenote_status qwen_kernels_create(qwen_isa isa, cenote_team *team, cenote_pool *pool,
                                  uint64_t k_max, qwen_kernels **out_kernels, cenote_error *err)
{
    if (k_max > K_MAX_LIMIT)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "rows of %" PRIu64 " weights are longer than the %" PRIu64
                                " that kernels take",
                                k_max, K_MAX_LIMIT);
    cenote_hardware hardware;
    cenote_status status = cenote_hardware_get(&hardware, err);
    if (status != CENOTE_OK)
        return status;
    qwen_isa resolved = isa;
    status = isa_resolve(&hardware, isa, &resolved, err);
    if (status != CENOTE_OK)
        return status;

    void *block;
    unsigned thread_count = cenote_team_size(team);
    status = cenote_pool_alloc(pool, qwen_kernels_scratch_bytes(thread_count, k_max), &block, err);
    if (status != CENOTE_OK)
        return status;
    qwen_kernels *kernels = block;
    *kernels = (qwen_kernels){
        .isa = resolved,
        .team = team,
        .pool = pool,
        .scratch = (unsigned char *)block + HEADER_BYTES,
        .scratch_bytes = scratch_bytes_per_thread(k_max),
        .k_max = k_max,
        .hardware = hardware,
    };
    *out_kernels = kernels;
    return CENOTE_OK;
}

void qwen_kernels_destroy(qwen_kernels *kernels)
{
    if (kernels != NULL)
        cenote_pool_free(kernels->pool, kernels);
}

qwen_isa qwen_kernels_isa(const qwen_kernels *kernels)
{
    return kernels->isa;
}
