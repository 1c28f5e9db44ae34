/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Offsets ahead of time, for buffers whose lifetimes are known.
 *
 *  Given buffers that live in [lower, upper), with sizes and alignments, finds an offset for each
 * so that no two that live at the same time overlap, and the peak, the largest offset + size, is
 *  small. No layout is below the most bytes that live at one time: the lower bound.
 *
 *      cenote_layout *layout;
 *      void *memory = malloc(cenote_layout_bytes(count));
 *      status = cenote_layout_init(buffers, count, memory, &layout, &err);
 *      cenote_layout_improve(layout, 1000000);
 *      for (i = 0; i < count; i++)
 *          place(i, cenote_layout_offset(layout, i));
 *
 *  Init puts the buffers in three orders at the lowest offset that is free for their whole life,
 *  and keeps the best of the three. Improve searches on for as many steps as it is told, and never
 *  makes it worse. A layout depends on the buffers and the number of steps, on nothing else.
 *
 *  Time may count anything: operations, microseconds. A buffer of no bytes has offset 0 and
 * overlaps nothing. Buffers may be equal; a life of no time is refused.
 *
 *  Threads: none; a layout belongs to one thread at a time. */
#ifndef CENOTE_LAYOUT_H
#define CENOTE_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CENOTE_LAYOUT_BUFFERS_MAX (UINT64_C(1) << 22)
#define CENOTE_LAYOUT_ALIGN_MAX   (UINT64_C(1) << 32)

typedef struct cenote_layout_buffer {
    uint64_t lower; /**< the first moment at which it lives */
    uint64_t upper; /**< the first at which it does not; > lower */
    uint64_t size_bytes;
    uint64_t align_bytes; /**< a power of two up to CENOTE_LAYOUT_ALIGN_MAX; 0 means 1 */
} cenote_layout_buffer;

/** The greedy orders: name, name in reports. */
#define CENOTE_LAYOUT_ORDER_TABLE(X)                                                               \
    X(CENOTE_LAYOUT_BY_SIZE, "size") /**< largest first */                                         \
    X(CENOTE_LAYOUT_BY_AREA, "area") /**< most bytes x time first */                               \
    X(CENOTE_LAYOUT_BY_TIME, "time") /**< by lower, the longest life first among equals */

typedef enum cenote_layout_order {
#define CENOTE_LAYOUT_ORDER_ENUM(name, text) name,
    CENOTE_LAYOUT_ORDER_TABLE(CENOTE_LAYOUT_ORDER_ENUM)
#undef CENOTE_LAYOUT_ORDER_ENUM
        CENOTE_LAYOUT_ORDER_COUNT
} cenote_layout_order;

CENOTE_API const char *cenote_layout_order_text(cenote_layout_order order);

typedef struct cenote_layout cenote_layout;

/** The memory that a layout of @p count buffers needs, some 350 bytes a buffer; UINT64_MAX for more
 *  than CENOTE_LAYOUT_BUFFERS_MAX. */
CENOTE_API uint64_t cenote_layout_bytes(uint64_t count);

/** Lays out by the three greedy orders.
 *  @param buffers  read here and not again
 *  @param memory   cenote_layout_bytes(count) of any content, aligned to 8
 *  Ownership: @p memory is the caller's; a layout needs no end.
 *  Errors: CENOTE_E_INVAL: too many buffers, a life of no time, an alignment that is none, or sizes
 *  that, each with its alignment, add up to 2^63; naming buffer and value.
 *  Cost: O(n (log n + k)) where k buffers live at the same time as one, in O(n) memory. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_layout_init(const cenote_layout_buffer *buffers,
                                                              uint64_t count, void *memory,
                                                              cenote_layout **out_layout,
                                                              cenote_error *err);

/** Searches on until @p step_count more steps are done, or nothing can be gained. A step is a
 *  buffer placed, or some thousand looked at for its place, so that its time has a bound; the
 *  attempt that crosses the count is ended first. One call with a + b steps
 *  gives what a call with a and one with b give.
 *  @return whether more steps might gain something: false when the peak is known to be the least */
CENOTE_API bool cenote_layout_improve(cenote_layout *layout, uint64_t step_count);

/** Of buffer @p index, which is below the count: a multiple of its alignment. */
CENOTE_API uint64_t cenote_layout_offset(const cenote_layout *layout, uint64_t index);

typedef struct cenote_layout_report {
    uint64_t buffer_count;
    uint64_t lower_bound_bytes; /**< the most bytes that live at one time */
    uint64_t peak_bytes;
    uint64_t least_bytes; /**< no layout has a lower peak: the lower bound, or what was proved */
    uint64_t greedy_bytes[CENOTE_LAYOUT_ORDER_COUNT]; /**< the peak of each order */
    cenote_layout_order greedy_best; /**< the first of the orders with the least peak */
    uint64_t step_count;             /**< of the search, so far */
    uint64_t improvement_count;
} cenote_layout_report;
CENOTE_API void cenote_layout_report_get(const cenote_layout *layout,
                                         cenote_layout_report *out_report);

/** @return NULL, or the first broken invariant in words: two buffers that overlap, an alignment,
 *  a peak that is not theirs. Writes its scratch. Cost: O(n^2). */
CENOTE_API const char *cenote_layout_check(cenote_layout *layout);

#ifdef __cplusplus
}
#endif
#endif
