/* SPDX-License-Identifier: Apache-2.0 */
/* A checkpoint in the memory of a fake system, a resident set and a stream over it, and somebody at
 * the door to the disk: every read that is handed over, every one that completes, every wait. */
#ifndef SCHEDULE_FIXTURE_H
#define SCHEDULE_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/cenote.h>

#include "os/fake/fake.h"

#define SCHEDULE_MATRICES_MAX 8u
#define SCHEDULE_SHARDS       2u

struct schedule_matrix {
    uint32_t rows, columns; /* of bf16 */
    uint32_t rows_per_panel;
    uint32_t panels;
    unsigned char *bytes;
};

/* What happens at the disk; all optional. A read's place is that of its first byte. */
struct schedule_events {
    void *context;
    void (*taken)(void *context, const struct cn_os_ring_read *read);
    void (*completed)(void *context, uint32_t tag, int64_t result);
    void (*waits)(void *context);
    void (*pread)(void *context);
};

struct schedule {
    /* in */
    struct schedule_matrix matrices[SCHEDULE_MATRICES_MAX];
    uint32_t count;
    uint32_t resident_count; /* the first ones are of the resident set */
    bool two_shards;
    bool packs; /* reads from a packed copy; encoding is then BF12 */
    cenote_encoding encoding;
    cenote_stream_options options; /* panel_bytes_max, resident and pack are set here */
    struct schedule_events events;
    /* out */
    struct cn_fake *fake;
    cenote_budget *budget;
    cenote_weights *weights;
    cenote_pool *pool;
    cenote_pack *pack; /* or NULL */
    cenote_resident *resident;
    cenote_stream *stream;
    cenote_stream_item items[SCHEDULE_MATRICES_MAX];
    uint64_t budget_bytes; /* charged, the resident rows left out */
};

/* Rows, columns and rows_per_panel of every matrix are given. Fails the test itself. */
void schedule_open(struct schedule *s);
void schedule_open_stream(struct schedule *s);
/* Checks that nothing is left. */
void schedule_close(struct schedule *s);

/* Fails the test when a panel's bytes are not its matrix'. */
void schedule_check_bytes(const struct schedule *s, const cenote_panel *panel);
/* What a read reads: exactly one panel, plain or packed, or false. */
bool schedule_find(const struct schedule *s, uint32_t file_index, uint64_t offset_bytes,
                   uint64_t size_bytes, uint32_t *out_matrix, uint32_t *out_panel);
uint64_t schedule_panel_bytes(const struct schedule *s, uint32_t matrix, uint32_t panel);
uint64_t schedule_now_ns(const struct schedule *s);
/* The budget is charged for what there is, and the system holds no more than that. */
void schedule_check_books(const struct schedule *s);
cenote_resident_stats schedule_resident(const struct schedule *s);

#endif
