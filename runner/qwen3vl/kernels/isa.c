/* SPDX-License-Identifier: Apache-2.0 */
/* Names of the instruction sets that kernels are built for. */
#include "kernels.h"

const char *qwen_isa_text(qwen_isa isa)
{
    switch (isa) {
    case QWEN_ISA_AUTO:
        return "auto";
    case QWEN_ISA_PORTABLE:
        return "portable";
    case QWEN_ISA_AVX2:
        return "avx2";
    case QWEN_ISA_AVX512:
        return "avx512";
    }
    return "unknown";
}
