/* SPDX-License-Identifier: Apache-2.0 */
/* Lines with AVX2's non-temporal stores. */
#include "base/copy.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AHEAD_BYTES 1024u /* of the reads; their lines should not stay either */

void cn_copy_steps_avx2(unsigned char *to, const unsigned char *from, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i += CN_COPY_STEP) {
        _mm_prefetch((const char *)from + i + AHEAD_BYTES, _MM_HINT_NTA);
        __m256i low = _mm256_loadu_si256((const void *)(from + i));
        __m256i high = _mm256_loadu_si256((const void *)(from + i + 32));
        _mm256_stream_si256((void *)(to + i), low);
        _mm256_stream_si256((void *)(to + i + 32), high);
    }
    _mm_sfence(); /* stores of this kind are not ordered otherwise */
}
#endif
