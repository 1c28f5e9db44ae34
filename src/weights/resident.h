/* SPDX-License-Identifier: Apache-2.0 */
/* What the stream asks of a resident set; the rest is in <cenote/weights.h>. */
#ifndef CN_WEIGHTS_RESIDENT_H
#define CN_WEIGHTS_RESIDENT_H

#include <cenote/weights.h>

#define CN_RESIDENT_NONE UINT32_MAX

/* The first panel's number in the set of the matrix that an item names, or CN_RESIDENT_NONE when
 * the set does not hold that matrix cut so. Panels of a matrix follow each other. */
uint32_t cn_resident_first_panel(const cenote_resident *resident, const cenote_stream_item *item);

/* Where a panel's bytes are; NULL when they are not there, or only since the last settling. */
const void *cn_resident_get(const cenote_resident *resident, uint32_t panel,
                            cenote_encoding *out_encoding);

/* Keeps a panel that was read, if it lies below the split line and fits its place; of a packed one
 * @p packed_bytes. cn_resident_get() does not know it before it settles: this pass has read the
 * panel and must not be handed it a second time. */
void cn_resident_put(cenote_resident *resident, uint32_t panel, const cenote_panel *read,
                     uint64_t packed_bytes);

/* A pass has left the matrix whose panels are [first, first + count): what was put stays. */
void cn_resident_settle(cenote_resident *resident, uint32_t first_panel, uint32_t count);

#endif
