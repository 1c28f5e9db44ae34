/* SPDX-License-Identifier: Apache-2.0 */
/* What a checkpoint is made of, for the modules of this folder. */
#ifndef CN_WEIGHTS_WEIGHTS_IMPL_H
#define CN_WEIGHTS_WEIGHTS_IMPL_H

#include <pthread.h>

#include "weights/file.h"
#include "weights/table.h"

struct cenote_weights {
    struct cn_os *os;
    struct cn_table table; /* holds this struct as well, in its text arena */
    struct cn_file *files;
    uint32_t file_count; /* files that are open */
    int *fds;            /* of the files, and room for a packed copy's */
    void *buffer;        /* headers at open, then small reads: CN_JSON_PIECE_BYTES */
    pthread_mutex_t buffer_lock;
    struct cn_file_counters counters;
    _Atomic uint64_t bytes_used;
    _Atomic uint64_t wait_ns;
    _Atomic uint64_t wait_start_ns;
    _Atomic uint64_t pack_failures;
    const char *engine; /* of the last stream made */
};

#endif
