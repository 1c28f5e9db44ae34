/* SPDX-License-Identifier: Apache-2.0 */
/* Instances for layouts: shared by tests and bench. Each is a function of its arguments. */
#ifndef TEST_SUPPORT_LAYOUT_INSTANCES_H
#define TEST_SUPPORT_LAYOUT_INSTANCES_H

#include <cenote/layout.h>

/** A rectangle of 10,000 moments x 1 MiB, cut into @p count pieces at random, as if with a
 * guillotine, and shuffled: there is a layout whose peak is the lower bound, 1 MiB, at every
 * moment. */
void layout_make_perfect(cenote_layout_buffer *buffers, uint64_t count, uint64_t seed);

/** What the layers of a decoder hold: residuals, norms, q, k, v, scores, gate, up, and scratch,
 * each from the operation that writes it to the last that reads it. Sizes are those of a batch
 * whose length differs from layer group to layer group. With @p training what backward needs lives
 * until then, and gradients follow. Writes @p count buffers, aligned to 64. */
void layout_make_transformer(cenote_layout_buffer *buffers, uint64_t count, bool training,
                             uint64_t seed);

/** What the runner's decoder holds in a pass over @p tokens tokens of Qwen3-VL-2B
 * (runner/qwen3vl/text.c): a chunk of prefill with one row of logits. @return the count, below 20
 */
uint64_t layout_make_runner_text(cenote_layout_buffer *buffers, uint64_t tokens);
/** What its vision tower holds for @p patches patches of one picture (vision.c). */
uint64_t layout_make_runner_vision(cenote_layout_buffer *buffers, uint64_t patches);

/** Lives in [0, moments), sizes up to size_max (0 too), alignments of 1 to 2^align_log2_max. */
void layout_make_random(cenote_layout_buffer *buffers, uint64_t count, uint64_t moments,
                        uint64_t size_max, unsigned align_log2_max, uint64_t seed);

#endif
