/* SPDX-License-Identifier: Apache-2.0 */
/* cache_product naive|blocked SIDE: one product of squares, for cachegrind to count; prints a
 * digest of the result. The machine is what CENOTE_HARDWARE says. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "blocked_product.h"

static float *matrix(uint64_t floats, uint32_t seed)
{
    float *m = aligned_alloc(64, (floats * sizeof *m + 63) / 64 * 64);
    if (m == NULL)
        exit(1);
    for (uint64_t i = 0; i < floats; i++) {
        seed = seed * 1664525u + 1013904223u;
        m[i] = (float)(seed >> 16) / 65536.0f - 0.5f;
    }
    return m;
}

int main(int argc, char **argv)
{
    cenote_hardware hardware;
    cenote_error err;
    if (argc != 3 || cenote_hardware_get(&hardware, &err) != CENOTE_OK)
        return 2;
    uint64_t side = strtoul(argv[2], NULL, 10);
    float *a = matrix(side * side, 1), *b = matrix(side * side, 2), *c = matrix(side * side, 3);
    plain_product p = {side, side, side, a, b, c};
    if (strcmp(argv[1], "naive") == 0) {
        product_naive(&p);
    } else {
        float *scratch = matrix(product_scratch_floats(&p, &hardware), 0);
        product_blocked(&p, &hardware, scratch);
        free(scratch);
    }
    printf("%016" PRIx64 "\n", cn_hash64(c, side * side * sizeof *c));
    free(a);
    free(b);
    free(c);
    return 0;
}
