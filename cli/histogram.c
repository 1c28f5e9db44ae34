/* SPDX-License-Identifier: Apache-2.0 */
#include "histogram.h"

#include <stddef.h>

uint64_t cli_histogram_percentile(const struct cli_histogram *histogram, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)histogram->count);
    if (wanted >= histogram->count)
        return histogram->largest;
    uint64_t seen = 0, bucket = 0;
    while ((seen += histogram->buckets[bucket]) <= wanted)
        bucket++;
    if (bucket < CLI_HISTOGRAM_PARTS)
        return bucket;
    uint64_t shift = bucket / CLI_HISTOGRAM_PARTS - 1;
    return (CLI_HISTOGRAM_PARTS + bucket % CLI_HISTOGRAM_PARTS) << shift;
}
