/* SPDX-License-Identifier: Apache-2.0 */
/* Attention with AVX2 and FMA; nothing on other processors. */
#include "attention_impl.h"

#if defined(__AVX2__)
#define QWEN_VEC_AVX2
#define ATTENTION_TILE qwen_attention_tile_avx2
#include "attention_body.h"
#endif
