/* SPDX-License-Identifier: Apache-2.0 */
/* Copies that say what they do to the caches.
 *
 * An ordinary store reads the line that it writes to and leaves it in the cache; a non-temporal one
 * gathers a whole line in a buffer of the core and sends it to memory. So the aligned middle goes
 * line by line, and only the ends, parts of lines, go the ordinary way. */
#include "base/copy.h"

#include <stdint.h>
#include <string.h>

#include <cenote/hardware.h>

#define LINE_BYTES 64u

void cn_copy_steps_portable(unsigned char *to, const unsigned char *from, size_t size_bytes)
{
    memcpy(to, from, size_bytes);
}

void cn_copy_nontemporal_by(cn_copy_steps_fn steps, void *to, const void *from, size_t size_bytes)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    size_t head = (0 - (uintptr_t)out) % CN_COPY_STEP;
    if (head > size_bytes)
        head = size_bytes;
    size_t middle = (size_bytes - head) / CN_COPY_STEP * CN_COPY_STEP;
    if (size_bytes == 0)
        return; /* both may be NULL then */
    memcpy(out, in, head);
    if (middle > 0)
        steps(out + head, in + head, middle);
    memcpy(out + head + middle, in + head + middle, size_bytes - head - middle);
}

void cenote_copy_nontemporal(void *to, const void *from, size_t size_bytes)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        cn_copy_nontemporal_by(cn_copy_steps_avx2, to, from, size_bytes);
        return;
    }
#endif
    cn_copy_nontemporal_by(cn_copy_steps_portable, to, from, size_bytes);
}

/* A line of the next row is asked for with each line of this one: all at once they would wait for
 * the few misses that a core can have under way. */
static void copy_row(unsigned char *to, const unsigned char *from, const unsigned char *next,
                     size_t row_bytes)
{
    size_t i = 0;
    for (; i + LINE_BYTES <= row_bytes; i += LINE_BYTES) {
        __builtin_prefetch(next + i);
        memcpy(to + i, from + i, LINE_BYTES);
    }
    __builtin_prefetch(next + i);
    memcpy(to + i, from + i, row_bytes - i);
}

void cenote_copy_rows(void *to, size_t to_stride_bytes, const void *from, size_t from_stride_bytes,
                      size_t row_bytes, size_t rows)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    for (; row_bytes > 0 && rows > 0; rows--, out += to_stride_bytes, in += from_stride_bytes)
        copy_row(out, in, rows > 1 ? in + from_stride_bytes : in, row_bytes);
}

void cenote_prefetch(const void *data, size_t size_bytes)
{
    const unsigned char *at = data;
    for (size_t i = 0; i < size_bytes; i += LINE_BYTES)
        __builtin_prefetch(at + i);
    if (size_bytes > 0)
        __builtin_prefetch(at + size_bytes - 1);
}
