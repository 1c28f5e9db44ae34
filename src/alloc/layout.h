/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a layout share (include/cenote/layout.h says what one is).
 *
 *   layout.c          the block of memory, the three greedy orders, what the public sees
 *   layout_fit.c      first fit among the neighbours in time
 *   layout_search.c   which attempt comes next, and the search over orders
 *   layout_skyline.c  the search that fills a given height
 *
 * Moments are renumbered: the k + 1 different ends of lives bound k *sections*, in each of which
 * the same buffers live. *Items* are the buffers that have bytes, in order of time. */
#ifndef CN_ALLOC_LAYOUT_H
#define CN_ALLOC_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/layout.h>

struct cn_layout_item {
    uint64_t size;
    uint64_t align;
    uint32_t lower, upper; /* sections */
    uint32_t buffer;       /* index of the caller's */
};

/* What is sorted: by key, then by value. */
struct cn_layout_key {
    uint64_t key;
    uint64_t value;
};

/* A decision of the skyline search (layout_skyline.c). */
struct cn_layout_move {
    uint64_t level;  /* the floor of its sections before it */
    uint32_t lower;  /* the leftmost of the lowest sections */
    uint32_t run;    /* its level ends there */
    uint32_t choice; /* how many of the items that begin there were tried */
    uint32_t upper;  /* end of what was raised, or of the item */
    uint32_t item;   /* UINT32_MAX: raised */
};

/* Items that are placed, and where. */
struct cn_layout_fit {
    uint64_t *offsets; /* [items] */
    uint32_t
        *upper_max; /* tree over the items: the latest upper of those placed, 0 where none is */
    uint32_t leaf_count; /* power of two */
    uint32_t *by_offset; /* [placed] */
    uint32_t placed;
};

struct cenote_layout {
    uint32_t buffer_count, item_count, section_count;
    struct cn_layout_item *items; /* by lower, then the longest, then the largest */
    uint32_t *first;              /* [sections + 1] the first item that begins there or later */
    uint64_t *load;               /* [sections] bytes that live */
    struct cn_layout_fit fit;
    struct cn_layout_key *keys; /* [2 buffers] scratch */
    uint64_t *best;             /* [items] offsets */
    uint32_t *order;            /* [items] one that gives `best` by first fit */
    uint32_t *choices;     /* [items] scratch of the skyline: the order in which they are tried */
    uint64_t *rest;        /* [sections] scratch of the skyline */
    uint64_t *floor;       /* [2 floor_leaves] its tree */
    uint32_t floor_leaves; /* power of two */
    struct cn_layout_move *moves;            /* [cn_layout_move_count(items)] its stack */
    uint32_t *item_of;                       /* [buffers] UINT32_MAX: of no bytes */
    uint64_t step_target, attempt, failures; /* of the search (layout_search.c) */
    uint64_t state;                          /* of its random numbers */
    uint64_t looks; /* at items and sections, since they were last made steps */
    cenote_layout_report report;
};

/* The skyline's stack: more raises than three for each item are no way to a layout, but for a few.
 */
static inline uint64_t cn_layout_move_count(uint64_t item_count)
{
    return 4 * item_count + 64;
}

/* A step more, and those for what was looked at for it: an attempt's time has a bound, however many
 * buffers live at the same time. */
#define CN_LAYOUT_STEP_LOOKS 16384u
static inline void cn_layout_count_step(cenote_layout *layout)
{
    layout->report.step_count += 1 + layout->looks / CN_LAYOUT_STEP_LOOKS;
    layout->looks = 0;
}

/* ---- layout.c ---- */

/* Ascending, in place: heapsort, which needs no memory. */
void cn_layout_sort(struct cn_layout_key *keys, uint64_t count);
/* A heap of the least first: down() mends it below @p at. */
void cn_layout_heap_down(struct cn_layout_key *keys, uint64_t count, uint64_t at);
/* Puts the items in the order of the keys' values. @return the peak */
uint64_t cn_layout_by_keys(cenote_layout *layout);

/* ---- layout_fit.c ---- */

void cn_layout_fit_reset(cenote_layout *layout);
/* Puts an item at the lowest offset that is free for its life. @return offset + size */
uint64_t cn_layout_fit_place(cenote_layout *layout, uint32_t item);
/* Puts an item where it is known to fit. */
void cn_layout_fit_put(cenote_layout *layout, uint32_t item, uint64_t offset);
/* Would an item at @p offset overlap one that is placed, in time and in bytes? */
bool cn_layout_fit_clashes(const cenote_layout *layout, uint32_t item, uint64_t offset);

/* ---- layout_search.c ---- */

/* After the greedy orders: `best` is set. It may still sink. */
void cn_layout_search_init(cenote_layout *layout);

/* ---- layout_skyline.c ---- */

enum cn_skyline_end {
    CN_SKYLINE_FOUND,    /* in fit.offsets */
    CN_SKYLINE_NONE,     /* there is none; report.least_bytes says more */
    CN_SKYLINE_GIVEN_UP, /* the steps ran out */
};

/* Looks for a layout of at most @p height bytes. @p seed 0 tries long lives first, others
 * shuffle. Adds its steps to report.step_count. */
enum cn_skyline_end cn_layout_skyline(cenote_layout *layout, uint64_t height, uint64_t seed,
                                      uint64_t step_max);

#endif
