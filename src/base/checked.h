/* SPDX-License-Identifier: Apache-2.0 */
/* Size arithmetic that cannot wrap. All return true on success and leave *out alone otherwise. */
#ifndef CN_BASE_CHECKED_H
#define CN_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

static inline bool cn_checked_add(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

static inline bool cn_checked_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

/* a rounded up to a multiple of unit (> 0). */
static inline bool cn_checked_round_up(uint64_t a, uint64_t unit, uint64_t *out)
{
    uint64_t sum;
    if (!cn_checked_add(a, unit - 1, &sum))
        return false;
    *out = sum - sum % unit;
    return true;
}

/* The same for a value that the caller knows to be far from 2^64. */
static inline uint64_t cn_round_up(uint64_t a, uint64_t unit)
{
    return (a + unit - 1) / unit * unit;
}

#endif
