/* SPDX-License-Identifier: Apache-2.0 */
/* The extent table: one array of tensor descriptions, in the budget, built once and then fixed.
 * Threads: one builder; readers any once it is built. */
#ifndef CN_WEIGHTS_TABLE_H
#define CN_WEIGHTS_TABLE_H

#include <cenote/weights.h>

#include "pool/budget.h"

#define CN_TABLE_TENSORS_MAX    1000000u
#define CN_TABLE_NAME_BYTES_MAX 1024u

struct cn_table {
    struct cn_arena *tensor_arena; /* holds the array and nothing else */
    struct cn_arena *text_arena;   /* names, paths, the rest of a checkpoint's state */
    cenote_tensor_info *tensors;
    uint32_t count;
};

CENOTE_MUST_CHECK cenote_status cn_table_init(cenote_budget *budget, struct cn_table *out_table,
                                              cenote_error *err);
void cn_table_fini(struct cn_table *table);

/* A terminated copy; NULL with err filled. */
char *cn_table_text(struct cn_table *table, const char *text, size_t length, cenote_error *err);

/* Appends a copy of @p tensor. Errors: CENOTE_E_BUDGET, CENOTE_E_NOMEM. The caller has checked
 * CN_TABLE_TENSORS_MAX. */
CENOTE_MUST_CHECK cenote_status cn_table_add(struct cn_table *table,
                                             const cenote_tensor_info *tensor, cenote_error *err);

/* By place in the file: tensors [first, count). */
void cn_table_sort_offsets(struct cn_table *table, uint32_t first);
/* All of them by name as bytes, for good. */
void cn_table_sort_names(struct cn_table *table);

/* The tensor of that name, or NULL; after cn_table_sort_names(). */
const cenote_tensor_info *cn_table_find(const struct cn_table *table, const char *name,
                                        size_t length);

#endif
