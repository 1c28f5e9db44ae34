/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  What elements are made of, by the names of safetensors; for weights in files and for tensors in
 *  memory alike.
 *
 *  Threads: all functions here are pure. */
#ifndef CENOTE_DTYPE_H
#define CENOTE_DTYPE_H

#include <stddef.h>

#include <cenote/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The most dimensions of a tensor. */
#define CENOTE_RANK_MAX 8u

/** name, text in safetensors, bytes per element */
#define CENOTE_DTYPE_TABLE(X)                                                                      \
    X(CENOTE_DTYPE_F64, "F64", 8)                                                                  \
    X(CENOTE_DTYPE_F32, "F32", 4)                                                                  \
    X(CENOTE_DTYPE_F16, "F16", 2)                                                                  \
    X(CENOTE_DTYPE_BF16, "BF16", 2)                                                                \
    X(CENOTE_DTYPE_I64, "I64", 8)                                                                  \
    X(CENOTE_DTYPE_I32, "I32", 4)                                                                  \
    X(CENOTE_DTYPE_I16, "I16", 2)                                                                  \
    X(CENOTE_DTYPE_I8, "I8", 1)                                                                    \
    X(CENOTE_DTYPE_U64, "U64", 8)                                                                  \
    X(CENOTE_DTYPE_U32, "U32", 4)                                                                  \
    X(CENOTE_DTYPE_U16, "U16", 2)                                                                  \
    X(CENOTE_DTYPE_U8, "U8", 1)                                                                    \
    X(CENOTE_DTYPE_BOOL, "BOOL", 1)                                                                \
    X(CENOTE_DTYPE_F8_E4M3, "F8_E4M3", 1)                                                          \
    X(CENOTE_DTYPE_F8_E5M2, "F8_E5M2", 1)

typedef enum cenote_dtype {
#define CENOTE_DTYPE_ENUM(name, text, bytes) name,
    CENOTE_DTYPE_TABLE(CENOTE_DTYPE_ENUM)
#undef CENOTE_DTYPE_ENUM
        CENOTE_DTYPE_COUNT
} cenote_dtype;

/** The name in safetensors; "unknown" for a value that is none. */
CENOTE_API const char *cenote_dtype_text(cenote_dtype dtype);
/** Bytes of one element; 0 for a value that is none. */
CENOTE_API size_t cenote_dtype_bytes(cenote_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
