/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Where each activation lies in its phase's one block. The plan counts with these and the run
 *  carves by these, so that what was promised is what is taken. Offsets in bytes, multiples of 64.
 *  What is never needed at the same time shares a place: layout.c draws when each is.
 */
#ifndef QWEN_LAYOUT_H
#define QWEN_LAYOUT_H

#include <stdint.h>

#include "model.h"

/** The vision tower over all images of a prompt; N patches, D hidden, columns of patch rows P. */
typedef struct qwen_vision_layout {
    uint64_t pixels;   /**< float [N][P]: patch rows, until they are embedded */
    uint64_t residual; /**< float [N][D] */
    uint64_t normed;   /**< float [N][D]: norm output, attention output */
    uint64_t wide;     /**< float [N][max(3D, F, D)]: qkv, fc1 and merger output */
    uint64_t cosines;  /**< float [N][head_dim/2] */
    uint64_t sines;
    uint64_t position_lines; /**< float [2][side][D]: two lines of the position table */
    uint64_t position_raw;   /**< [side][D] as in the file */
    uint64_t keys;           /**< pointers to blocks of 16 patches of one image */
    uint64_t values;
    uint64_t size_bytes;
} qwen_vision_layout;

void qwen_vision_layout_make(const qwen_model *model, uint64_t patches, uint64_t patches_of_largest,
                             qwen_vision_layout *out_layout);

/** A chunk of T tokens in the text decoder, and logits of R rows; blocks of a cache of token_max.
 */
typedef struct qwen_text_layout {
    uint64_t residual; /**< float [T][d] */
    uint64_t normed;   /**< float [T][d] */
    uint64_t q;        /**< float [T][heads * head_dim] */
    uint64_t k;        /**< float [T][kv heads * head_dim] */
    uint64_t v;
    uint64_t gate;    /**< float [T][f] */
    uint64_t up;      /**< float [T][f] */
    uint64_t cosines; /**< float [T][head_dim/2] */
    uint64_t sines;
    uint64_t row;    /**< one row of the embedding as in the file */
    uint64_t logits; /**< float [R][vocab] */
    uint64_t seen;   /**< a set of the vocabulary */
    uint64_t keys;   /**< pointers to blocks of the cache */
    uint64_t values;
    uint64_t size_bytes;
} qwen_text_layout;

void qwen_text_layout_make(const qwen_model *model, uint64_t tokens, uint64_t logit_rows,
                           uint64_t token_max, qwen_text_layout *out_layout);

/** Quotas of the pools of a run. */
static inline uint64_t qwen_plan_parameters_quota(const qwen_plan *plan)
{
    return plan->weights_bytes + plan->staging_bytes;
}
static inline uint64_t qwen_plan_activations_quota(const qwen_plan *plan)
{
    return plan->scratch_bytes + plan->activation_bytes;
}

/** Image features that outlive the tower: e, then each deepstack output, float [tokens][d] each. */
uint64_t qwen_features_bytes(const qwen_model *model, uint64_t patches);

#endif
