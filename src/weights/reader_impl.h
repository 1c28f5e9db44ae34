/* SPDX-License-Identifier: Apache-2.0 */
/* What the engines of reader.h have in common. */
#ifndef CN_WEIGHTS_READER_IMPL_H
#define CN_WEIGHTS_READER_IMPL_H

#include <errno.h>

#include "weights/reader.h"

/* Interruptions (EINTR, EAGAIN) of one read that are tried again; then they are its result, and the
 * caller's way of reading synchronously has more patience. */
#define READER_TRIES_MAX 16u

/* First in each engine's state. Calls come with under_way already right: submit after it was
 * raised, next before it is lowered. */
struct cn_reader {
    const struct cn_reader_engine_ops *ops;
    struct cn_os *os;
    const int *fds; /* in the engine's allocation */
    uint32_t fd_count;
    uint32_t depth;
    uint32_t under_way;
    bool registered;
};

struct cn_reader_engine_ops {
    const char *text;
    void (*submit)(struct cn_reader *reader, const struct cn_reader_request *request);
    bool (*next)(struct cn_reader *reader, bool wait, struct cn_reader_result *out_result);
    struct cn_reader_dropped (*drain)(struct cn_reader *reader);
    void (*destroy)(struct cn_reader *reader); /* nothing is under way */
};

/* Both take options that are valid. A ring that is refused is a negative errno: what to make of it
 * is the caller's. */
int cn_reader_ring_create(struct cn_os *os, const struct cn_reader_options *options,
                          struct cn_reader **out_reader);
uint64_t cn_reader_ring_bytes(const struct cn_reader_options *options);
int cn_reader_pread_create(struct cn_os *os, const struct cn_reader_options *options,
                           struct cn_reader **out_reader);
uint64_t cn_reader_pread_bytes(const struct cn_reader_options *options);

/* Results that wait to be taken: a queue in a ring of CN_READER_DEPTH_MAX. */
struct reader_results {
    uint32_t first, count;
    struct cn_reader_result items[CN_READER_DEPTH_MAX];
};

static inline void reader_results_push(struct reader_results *results,
                                       struct cn_reader_result result)
{
    results->items[(results->first + results->count++) % CN_READER_DEPTH_MAX] = result;
}

static inline struct cn_reader_result reader_results_pop(struct reader_results *results)
{
    struct cn_reader_result result = results->items[results->first];
    results->first = (results->first + 1) % CN_READER_DEPTH_MAX;
    results->count--;
    return result;
}

static inline struct cn_reader_dropped reader_results_drop(struct reader_results *results)
{
    struct cn_reader_dropped dropped = {0};
    while (results->count > 0) {
        int64_t result = reader_results_pop(results).result;
        dropped.bytes += result > 0 ? (uint64_t)result : 0;
        dropped.count += result > 0;
    }
    return dropped;
}

static inline bool reader_interrupted(int64_t result)
{
    return result == -EAGAIN || result == -EINTR;
}

#endif
