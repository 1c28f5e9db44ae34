/* SPDX-License-Identifier: Apache-2.0 */
/* The row kernels with AVX2 and FMA; nothing on other processors. */
#include "rows_impl.h"

#if defined(__AVX2__)
#define QWEN_VEC_AVX2
#define ROWS_OPS qwen_rows_avx2
#include "rows_body.h"
#endif
