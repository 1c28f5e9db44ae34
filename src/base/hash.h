/* SPDX-License-Identifier: Apache-2.0 */
/* XXH3 with 64 bits, of what is there at once or comes in pieces: against accidents of disks and
 * for keys, not against anybody who wants a collision.
 * Threads: pure, or touching their state only. */
#ifndef CN_BASE_HASH_H
#define CN_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

uint64_t cn_hash64(const void *data, size_t size_bytes);

/* Bytes in pieces: the sum is that of all of them in one. Caller's memory; no cleanup. */
struct cn_hash {
    CN_ALIGNED(64) unsigned char state[576];
};
void cn_hash_init(struct cn_hash *hash);
void cn_hash_add(struct cn_hash *hash, const void *data, size_t size_bytes);
uint64_t cn_hash_sum(const struct cn_hash *hash);

#endif
