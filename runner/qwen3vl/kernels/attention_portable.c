/* SPDX-License-Identifier: Apache-2.0 */
/* Attention in plain C. */
#define QWEN_VEC_PORTABLE
#define ATTENTION_TILE qwen_attention_tile_portable
#include "attention_body.h"
