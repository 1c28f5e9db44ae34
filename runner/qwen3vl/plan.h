/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Plans of a session and of the turns on it; qwen_plan_make() is both at once. */
#ifndef QWEN_PLAN_H
#define QWEN_PLAN_H

#include "qwen3vl.h"

/** What a session takes for all turns, with room for a turn of text. Of @p shape only kv_dtype,
 *  thread_count and context_tokens count; 0 there means 4096 tokens, or as many as have room in
 *  half of what the least turn leaves, 512 at least. Errors: CENOTE_E_INVAL (more than the model
 * admits).
 */
CENOTE_MUST_CHECK cenote_status qwen_plan_session(const qwen_model *model, const qwen_shape *shape,
                                                  uint64_t limit_bytes, qwen_plan *out_plan,
                                                  cenote_error *err);

/** A turn of a session that was planned as @p held: what the session holds stays as it is.
 *  Errors: CENOTE_E_INVAL (the cache has no room for the prompt and one token). */
CENOTE_MUST_CHECK cenote_status qwen_plan_turn(const qwen_model *model, const qwen_shape *shape,
                                               const qwen_plan *held, uint64_t limit_bytes,
                                               qwen_plan *out_plan, cenote_error *err);

#endif
