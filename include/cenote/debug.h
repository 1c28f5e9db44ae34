/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Finding mistakes in the use of pools.
 *
 *  A pool has a debug level: its options', or the environment's CENOTE_DEBUG where these say 0.
 *
 *      0  none: a pointer that is no block asserts where that is seen at once
 *      1  every free is checked, and says what is wrong: freed twice, another pool's, inside of a
 *         block; blocks that live when the pool is destroyed are listed. Addresses and charges are
 *         those of level 0, except that no thread keeps blocks at hand
 *      2  fresh memory is filled with 0xff (a NaN in f32, f16 and bf16) and freed memory with 0xdb.
 *         64 bytes behind a block, or what its last granule has left where it is charged by
 *         the granule, must stay as they are, and so must a freed block, which is kept from reuse
 *         for a while: until 64 later ones, 1/16 of the quota, or anybody's need for room
 *         (cenote_budget_explain() counts it as cached)
 *      3  cenote_pool_check() and all of that after every operation
 *
 *  What the levels themselves hold (56 bytes for each live block, and 1024 that were freed) is not
 *  charged, so that a plan fits as it does without. Handles of tensors are checked at every level
 *  (cenote/tensor.h).
 *
 *  Threads: any. */
#ifndef CENOTE_DEBUG_H
#define CENOTE_DEBUG_H

#include <cenote/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CENOTE_DEBUG_LEVEL_MAX 3u

#define CENOTE_FINDING_TABLE(X)                                                                    \
    X(CENOTE_FINDING_DOUBLE_FREE, "freed twice")                                                   \
    X(CENOTE_FINDING_WRONG_POOL, "freed to the wrong pool")                                        \
    X(CENOTE_FINDING_NO_BLOCK, "freed, and no block")                                              \
    X(CENOTE_FINDING_OVERRUN, "written beyond its end")                                            \
    X(CENOTE_FINDING_WRITE_AFTER_FREE, "written after it was freed")                               \
    X(CENOTE_FINDING_BROKEN, "broken book-keeping")                                                \
    X(CENOTE_FINDING_LEAK, "never freed")

typedef enum cenote_finding {
#define CENOTE_FINDING_ENUM(name, text) name,
    CENOTE_FINDING_TABLE(CENOTE_FINDING_ENUM)
#undef CENOTE_FINDING_ENUM
        CENOTE_FINDING_COUNT
} cenote_finding;

CENOTE_API const char *cenote_finding_text(cenote_finding finding);

/** Is given each finding: one line with the pool, the block, its size, its tag (cenote/trace.h) and
 *  the numbers of the pool's operations that made and freed it. When it returns, a bad free has no
 *  effect. It may not use pools or budgets, for one may be locked. */
typedef void (*cenote_finding_fn)(void *context, cenote_finding finding, const char *message);

/** Of the process, from now on. @p handler NULL, as at first: the line goes to standard error, and
 *  all but leaks abort, as an assertion does. */
CENOTE_API void cenote_finding_handler_set(cenote_finding_fn handler, void *context);

#ifdef __cplusplus
}
#endif
#endif
