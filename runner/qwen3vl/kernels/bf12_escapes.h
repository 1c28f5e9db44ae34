/* SPDX-License-Identifier: Apache-2.0 */
/* The escapes of a row in the 12-bit form, for the kernels that decode it: they run on to the next
 * group that has one, and give such a group its high bytes afterwards. */
#ifndef QWEN_BF12_ESCAPES_H
#define QWEN_BF12_ESCAPES_H

#include <stdbool.h>
#include <string.h>

#include <cenote/cenote.h>

#define QWEN_BF12_NO_GROUP UINT64_MAX

/* Those that are still ahead. */
typedef struct qwen_bf12_escapes {
    const unsigned char *next, *end;
} qwen_bf12_escapes;

static inline const unsigned char *qwen_bf12_escapes_at(const cenote_bf12_view *panel, uint64_t row)
{
    uint16_t start;
    memcpy(&start, panel->starts + row * sizeof start, sizeof start);
    return panel->escapes + (size_t)start * 4;
}

static inline qwen_bf12_escapes qwen_bf12_escapes_of(const cenote_bf12_view *panel, uint64_t row)
{
    return (qwen_bf12_escapes){qwen_bf12_escapes_at(panel, row),
                               qwen_bf12_escapes_at(panel, row + 1)};
}

static inline uint32_t qwen_bf12_escape(const qwen_bf12_escapes *escapes)
{
    uint32_t entry;
    memcpy(&entry, escapes->next, sizeof entry);
    return entry;
}

/* The group of the row in which the next one is. */
static inline uint64_t qwen_bf12_escape_group(const qwen_bf12_escapes *escapes)
{
    if (escapes->next == escapes->end)
        return QWEN_BF12_NO_GROUP;
    return (qwen_bf12_escape(escapes) >> 8) / CENOTE_BF12_GROUP;
}

/* Takes the next one if it is among the @p count columns from @p first on. */
static inline bool qwen_bf12_take(qwen_bf12_escapes *escapes, uint64_t first, unsigned count,
                                  unsigned *out_column, unsigned *out_high)
{
    if (escapes->next == escapes->end)
        return false;
    uint32_t entry = qwen_bf12_escape(escapes);
    uint64_t column = (entry >> 8) - first;
    if (column >= count)
        return false;
    escapes->next += 4;
    *out_column = (unsigned)column;
    *out_high = entry & 0xff;
    return true;
}

/* Where element @p column of a group lies when of each 32 the even ones come first (gemv_impl.h).
 */
static inline unsigned qwen_bf12_place(unsigned column)
{
    return (column & 32) | (column & 1) << 4 | (column & 31) >> 1;
}

/* Puts the high bytes of @p group into its floats, and goes on behind it. */
static inline void qwen_bf12_patch(qwen_bf12_escapes *escapes, uint64_t group, float *floats)
{
    for (; qwen_bf12_escape_group(escapes) == group; escapes->next += 4) {
        uint32_t bits, entry = qwen_bf12_escape(escapes);
        float *at = floats + qwen_bf12_place(entry >> 8 & (CENOTE_BF12_GROUP - 1));
        memcpy(&bits, at, sizeof bits);
        bits |= entry << 24;
        memcpy(at, &bits, sizeof bits);
    }
}

#endif
