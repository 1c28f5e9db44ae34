/* SPDX-License-Identifier: Apache-2.0 */
/* What a number about a machine may be, whether its kernel or a file says it. */
#ifndef CN_OS_HARDWARE_LIMITS_H
#define CN_OS_HARDWARE_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/hardware.h>

#define CN_CACHE_BYTES_MAX (UINT64_C(1) << 40)
#define CN_LINE_BYTES_MAX  1024u
#define CN_WAYS_MAX        1024u
#define CN_PAGE_BYTES_MAX  (UINT64_C(1) << 40)

static inline bool cn_line_bytes_valid(uint64_t line_bytes)
{
    return line_bytes >= 16 && line_bytes <= CN_LINE_BYTES_MAX &&
           (line_bytes & (line_bytes - 1)) == 0;
}

/* This machine, without a profile. */
void cn_hardware_machine(cenote_hardware *out_hardware);

#endif
