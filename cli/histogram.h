/* SPDX-License-Identifier: Apache-2.0 */
/* Counts of numbers in buckets of 1/32 of a factor of two: any percentile within 3 %, in memory
 * that does not depend on how many numbers there are. */
#ifndef CENOTE_CLI_HISTOGRAM_H
#define CENOTE_CLI_HISTOGRAM_H

#include <stdint.h>

#define CLI_HISTOGRAM_PARTS 32u

struct cli_histogram {
    uint64_t count, largest;
    uint64_t buckets[60 * CLI_HISTOGRAM_PARTS];
};

static inline void cli_histogram_add(struct cli_histogram *histogram, uint64_t number)
{
    /* Below 32 each number has its bucket; above, the five bits behind the first one tell. */
    uint64_t bucket = number;
    if (number >= CLI_HISTOGRAM_PARTS) {
        uint32_t shift = 58 - (uint32_t)__builtin_clzll(number);
        bucket = (shift + 1) * CLI_HISTOGRAM_PARTS + (number >> shift) - CLI_HISTOGRAM_PARTS;
    }
    histogram->buckets[bucket]++;
    histogram->count++;
    if (number > histogram->largest)
        histogram->largest = number;
}

/* The least number of the bucket that @p share (0 to 1) of all numbers do not exceed; 0 for none.
 */
uint64_t cli_histogram_percentile(const struct cli_histogram *histogram, double share);

#endif
