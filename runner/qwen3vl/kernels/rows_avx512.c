/* SPDX-License-Identifier: Apache-2.0 */
/* The row kernels with AVX-512; nothing on other processors. */
#include "rows_impl.h"

#if defined(__AVX512F__)
#define QWEN_VEC_AVX512
#define ROWS_OPS qwen_rows_avx512
#include "rows_body.h"
#endif
