/* SPDX-License-Identifier: Apache-2.0 */
/* What every allocator of this house promises, whatever it is made of: the contract that buddy,
 * page runs, pools of each class, tensors and the tensor cache all pass. Addresses are integers;
 * what they stand for is never touched. */
#ifndef TEST_ALLOC_CONTRACT_H
#define TEST_ALLOC_CONTRACT_H

#include <stdbool.h>
#include <stdint.h>

struct contract_subject {
    const char *name;
    void *(*open)(const struct contract_subject *subject); /* empty */
    void (*close)(void *self);
    /* false: refused */
    bool (*alloc)(void *self, uint64_t size_bytes, uint64_t *out_address);
    /* false: that is no live block; @p size_bytes is what was asked for */
    bool (*free)(void *self, uint64_t address, uint64_t size_bytes);
    uint64_t (*used_bytes)(void *self); /* in live blocks, as rounded */
    const char *(*check)(void *self);
    uint64_t align_bytes;     /* of each block's address */
    uint64_t range_bytes;     /* live blocks together are never more */
    uint64_t block_bytes_max; /* fits when nothing is live */
    bool names_bad_frees; /* a free of what is no live block is refused, not a bug that asserts */
    int detail;           /* the subject's own: a class and a debug level, a leaf */
};

/* All promises, one after the other; fails the running test at the first that is broken. */
void contract_run(const struct contract_subject *subject);

#endif
