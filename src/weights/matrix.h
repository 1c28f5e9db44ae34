/* SPDX-License-Identifier: Apache-2.0 */
/* A tensor as a matrix cut into panels: runs of whole rows, the last of which may be shorter. */
#ifndef CN_WEIGHTS_MATRIX_H
#define CN_WEIGHTS_MATRIX_H

#include <cenote/weights.h>

struct cn_matrix {
    uint64_t rows;
    uint64_t row_bytes;
    uint32_t rows_per_panel;
    uint32_t panels; /* 0 for an empty tensor */
};

/* How a tensor is cut; false when it has 2^32 panels or more. rows_per_panel > 0. */
static inline bool cn_matrix_make(const cenote_tensor_info *tensor, uint32_t rows_per_panel,
                                  struct cn_matrix *out_matrix)
{
    struct cn_matrix m = {.rows = tensor->rank > 0 ? tensor->shape[0] : 1,
                          .rows_per_panel = rows_per_panel};
    if (tensor->size_bytes > 0) {
        m.row_bytes = tensor->size_bytes / m.rows;
        uint64_t panels = (m.rows - 1) / rows_per_panel + 1;
        if (panels > UINT32_MAX)
            return false;
        m.panels = (uint32_t)panels;
    }
    *out_matrix = m;
    return true;
}

static inline uint64_t cn_matrix_panel_rows(const struct cn_matrix *m, uint32_t panel)
{
    uint64_t left = m->rows - (uint64_t)panel * m->rows_per_panel;
    return left < m->rows_per_panel ? left : m->rows_per_panel;
}

#endif
