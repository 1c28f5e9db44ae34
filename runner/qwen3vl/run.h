/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  What a run holds, and its one way to multiply by a streamed matrix and to attend. Shared by
 *  vision.c, text.c and generate.c. */
#ifndef QWEN_RUN_H
#define QWEN_RUN_H

#include <signal.h>

#include "kernels/kernels.h"
#include "layout.h"
#include "model.h"

/* Panels of one product while decoding: a few hundred microseconds' work, so that the disk is
 * looked after in between. */
#define QWEN_DECODE_PANELS 16u

/** A run of prompt tokens that share a rule for their positions. */
typedef struct qwen_span {
    uint64_t first; /**< token index */
    uint64_t count;
    uint64_t position;    /**< of the span's first token, all axes */
    uint32_t image_index; /**< or QWEN_SPAN_TEXT */
} qwen_span;
#define QWEN_SPAN_TEXT UINT32_MAX

typedef struct qwen_run {
    qwen_model *model;
    const qwen_plan *plan;
    const qwen_shape *shape;
    const qwen_events *events;
    const char *const *image_paths;
    const volatile sig_atomic_t *cancelled;

    cenote_pool *parameters;
    cenote_pool *kv_pool;
    cenote_pool *features_pool;
    cenote_pool *activations;
    cenote_team *team;
    qwen_kernels *kernels;
    cenote_stream *stream;
    cenote_resident *resident_rows; /**< of the text program */
    cenote_kv *kv;
    float *resident;
    float *features;       /**< [1 + deepstack][image tokens][d]; NULL without images */
    uint64_t feature_rows; /**< image tokens of all images */

    qwen_phase phase;
    uint64_t progress_done; /**< weight bytes of this phase */
    uint64_t progress_total;
    uint64_t progress_last_ns;
    uint64_t page_table_peak_bytes;
    double *layer_waiting_s; /**< [layers + 1] of decoding; NULL outside of it */
    uint64_t waited_ns;      /**< when a layer was last charged its waits */
} qwen_run;

/** The right-hand side of one product: rows a [m][k], result c [m][n]. */
typedef struct qwen_rows {
    const float *a;
    size_t a_stride;
    float *c;
    size_t c_stride;
    uint64_t m;
    bool accumulate;
    bool decode; /**< a few rows, by qwen_gemv */
} qwen_rows;

/** Consumes the panels of @p linear from the stream, which must be at its first panel. */
CENOTE_MUST_CHECK cenote_status qwen_run_linear(qwen_run *run, const qwen_linear *linear,
                                                const qwen_rows *rows, cenote_error *err);

/** qwen_attend() in strips of queries: all queries of a large picture would keep a signal waiting
 *  for minutes. */
CENOTE_MUST_CHECK cenote_status qwen_run_attend(qwen_run *run, const qwen_attention *attention,
                                                cenote_error *err);

/** CENOTE_E_CANCELLED once the run is to end; asked wherever work of a second could begin. */
CENOTE_MUST_CHECK cenote_status qwen_run_go_on(const qwen_run *run, cenote_error *err);

static inline const float *qwen_run_vector(const qwen_run *run, const qwen_vector *vector)
{
    return run->resident + vector->offset;
}

/** Monotonic. */
uint64_t qwen_now_ns(void);
/** Begins a phase for the progress callback. */
void qwen_run_phase(qwen_run *run, qwen_phase phase, uint64_t total);
/** Counts @p step units; calls the callback about ten times a second. */
void qwen_run_advance(qwen_run *run, uint64_t step);
/** Charges what was waited for reads since the last call to a layer; the head is the last one. */
void qwen_run_note_waits(qwen_run *run, uint32_t layer);
/** Looks at the page tables; called where a phase holds the most. The kernel keeps a peak of the
 *  resident set (VmHWM) and none of them. */
void qwen_run_note_page_tables(qwen_run *run);
void qwen_run_stage(const qwen_run *run, const char *name, int number, uint64_t index,
                    const float *values, uint64_t rows, uint64_t columns);

/** Encodes all images into run->features. Weights are read once for all of them. */
CENOTE_MUST_CHECK cenote_status qwen_vision_run(qwen_run *run, cenote_error *err);

/** The text decoder's activations, carved from one block. */
typedef struct qwen_text_buffers {
    void *block;
    qwen_text_layout layout;
} qwen_text_buffers;

static inline void *qwen_text_at(const qwen_text_buffers *buffers, uint64_t offset)
{
    return (unsigned char *)buffers->block + offset;
}

/** Tokens [first, first + count) of a sequence: ids and where their positions come from. */
typedef struct qwen_chunk {
    const uint32_t *ids; /**< [count] */
    uint64_t first;
    uint64_t count;
    const qwen_span *spans;
    uint32_t span_count;
    bool decode;
} qwen_chunk;

/** Runs @p chunk through all layers; the stream must be at the first layer. The residual rows
 *  stay in the buffers. */
CENOTE_MUST_CHECK cenote_status qwen_text_chunk(qwen_run *run, const qwen_text_buffers *buffers,
                                                const qwen_chunk *chunk, cenote_error *err);
/** Logits of @p count residual rows from @p row on into the buffers, at most QWEN_GEMV_M_MAX; the
 *  stream must be at the head. */
CENOTE_MUST_CHECK cenote_status qwen_text_logits(qwen_run *run, const qwen_text_buffers *buffers,
                                                 uint64_t row, uint64_t count, cenote_error *err);

#endif
