/* SPDX-License-Identifier: Apache-2.0 */
/* The row kernels in plain C. */
#define QWEN_VEC_PORTABLE
#define ROWS_OPS qwen_rows_portable
#include "rows_body.h"
