/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  The antialiased bicubic resize of the released models' image processor, bit for bit, fed one
 *  decoded row at a time and turning the picture (EXIF) on the way.
 *
 *  Threads: any; a resizer belongs to one thread at a time. */
#ifndef QWEN_RESIZE_H
#define QWEN_RESIZE_H

#include <stdint.h>

#include <cenote/cenote.h>

/** A side longer than this is refused everywhere, so that sizes below fit 64 bits with room. */
#define QWEN_RESIZE_SIDE_MAX (1u << 20)

typedef struct qwen_resize_spec {
    uint32_t source_width; /**< as stored in the file, before turning; 1..QWEN_RESIZE_SIDE_MAX */
    uint32_t source_height;
    uint32_t out_width; /**< after turning */
    uint32_t out_height;
    int orientation; /**< EXIF: 1 (as stored) to 8; 5 to 8 swap the sides */
} qwen_resize_spec;

typedef struct qwen_resizer qwen_resizer;

/** The heap that qwen_resizer_create() takes. 0 when the spec is out of range. */
uint64_t qwen_resizer_bytes(const qwen_resize_spec *spec);

/** @param rgb  [out_height][out_width][3], written while rows arrive; the caller's
 *  @return NULL when the spec is out of range or there is no memory */
qwen_resizer *qwen_resizer_create(const qwen_resize_spec *spec, uint8_t *rgb);

/** Takes the next stored row [source_width][3], top to bottom; @p rgb is whole after the last.
 *  Rows after the last are ignored. */
void qwen_resizer_push(qwen_resizer *resizer, const uint8_t *row);

/** NULL is fine. */
void qwen_resizer_destroy(qwen_resizer *resizer);

#endif
