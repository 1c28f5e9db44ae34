/* SPDX-License-Identifier: Apache-2.0 */
/* A class says how long its bytes live and what losing them costs; that is the policy.
 *
 *   parameters       as long as the model; whole matrices           runs whose charge a plan knows
 *   kv_cache         as long as a conversation; equal chunks        the same: equal runs fit each
 *                                                                   other's holes
 *   activations,     planned ahead (cenote/layout.h), one block;    the same: last in, first out
 *   attention,       what is not planned comes and goes in turn     meets first fit at the top of
 *   gradients                                                       the pool, nothing is between
 *   image_features,  until the image or text is asked about no      small blocks, movable, and
 *   text_embeddings  more; can be encoded again                     dropped before anybody fails
 *   general          anything                                       small blocks
 *
 * Memory is committed by whole chunks, but for the two classes whose charge a plan wants to know to
 * the byte while it fills the rest of the budget.
 *
 * Priority is the order of loss, and goes by what it takes to get the bytes back: nothing is known
 * of general memory and the first touch is all it costs, gradients and features are computed again,
 * weights are read from a disk. Each class has a pool of its own, so lifetimes do not mix within a
 * range, and no range needs two ends. */
#include <assert.h>

#include "pool/class_policy.h"

const struct cn_class_policy *cn_class_policy(cenote_class class_id)
{
    static const struct cn_class_policy policies[] = {
        /*                               small blocks, whole chunks, priority */
        [CENOTE_CLASS_PARAMETERS] = {false, false, 80},
        [CENOTE_CLASS_KV_CACHE] = {false, false, 70},
        [CENOTE_CLASS_ACTIVATIONS] = {false, true, 60},
        [CENOTE_CLASS_ATTENTION] = {false, true, 50},
        [CENOTE_CLASS_TEXT_EMBEDDINGS] = {true, true, 40},
        [CENOTE_CLASS_IMAGE_FEATURES] = {true, true, 30},
        [CENOTE_CLASS_GRADIENTS] = {false, true, 20},
        [CENOTE_CLASS_GENERAL] = {true, true, 10},
    };
    static_assert(sizeof policies / sizeof policies[0] == CENOTE_CLASS_COUNT, "a class is missing");
    assert((unsigned)class_id < CENOTE_CLASS_COUNT);
    return &policies[class_id];
}
