/* SPDX-License-Identifier: Apache-2.0 */
/* The table of dtypes as texts and sizes. */
#include <cenote/dtype.h>

const char *cenote_dtype_text(cenote_dtype dtype)
{
    switch (dtype) {
#define DTYPE_CASE(name, text, bytes)                                                              \
    case name:                                                                                     \
        return text;
        CENOTE_DTYPE_TABLE(DTYPE_CASE)
#undef DTYPE_CASE
    case CENOTE_DTYPE_COUNT:
        break;
    }
    return "unknown";
}

size_t cenote_dtype_bytes(cenote_dtype dtype)
{
    switch (dtype) {
#define DTYPE_CASE(name, text, bytes)                                                              \
    case name:                                                                                     \
        return bytes;
        CENOTE_DTYPE_TABLE(DTYPE_CASE)
#undef DTYPE_CASE
    case CENOTE_DTYPE_COUNT:
        break;
    }
    return 0;
}
