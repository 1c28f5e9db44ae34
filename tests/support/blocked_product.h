/* SPDX-License-Identifier: Apache-2.0 */
/* One product of floats, row-major, in two layouts with the same arithmetic and the same bits: as
 * the matrices lie, and in blocks that <cenote/hardware.h> chooses and copies. What differs is what
 * the caches see. */
#ifndef BLOCKED_PRODUCT_H
#define BLOCKED_PRODUCT_H

#include <cenote/hardware.h>

#define PRODUCT_TILE_ROWS    4u
#define PRODUCT_TILE_COLUMNS 16u

/* c[m][n] += a[m][k] * b[k][n]; m and n are multiples of the tile's sides. */
typedef struct plain_product {
    uint64_t m, n, k;
    const float *a, *b;
    float *c;
} plain_product;

void product_naive(const plain_product *p);

/* Floats that product_blocked() wants for its two blocks, at a multiple of 64 bytes. */
uint64_t product_scratch_floats(const plain_product *p, const cenote_hardware *hardware);
void product_blocked(const plain_product *p, const cenote_hardware *hardware, float *scratch);

#endif
