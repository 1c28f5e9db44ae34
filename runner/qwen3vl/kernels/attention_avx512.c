/* SPDX-License-Identifier: Apache-2.0 */
/* Attention with AVX-512; nothing on other processors. */
#include "attention_impl.h"

#if defined(__AVX512F__)
#define QWEN_VEC_AVX512
#define ATTENTION_TILE qwen_attention_tile_avx512
#include "attention_body.h"
#endif
