/* SPDX-License-Identifier: Apache-2.0 */
/* A float32 matrix written row by row to a NumPy file. */
#ifndef CENOTE_CLI_NPY_H
#define CENOTE_CLI_NPY_H

#include <cenote/cenote.h>

struct cli_npy;

/* Begins a file that will be called @p path. Errors: CENOTE_E_IO (the directory cannot be written,
 * @p path is something other than a regular file), CENOTE_E_NOMEM. @p path must stay. */
CENOTE_MUST_CHECK cenote_status cli_npy_create(const char *path, struct cli_npy **out_npy,
                                               cenote_error *err);
/* Appends a row; all rows have the first one's width. */
CENOTE_MUST_CHECK cenote_status cli_npy_append(struct cli_npy *npy, const float *row,
                                               uint32_t width, cenote_error *err);
/* Puts the finished file at its path, over what was there. Only then is it to be seen. */
CENOTE_MUST_CHECK cenote_status cli_npy_commit(struct cli_npy *npy, cenote_error *err);
/* Without a commit nothing is left behind. NULL is fine. */
void cli_npy_destroy(struct cli_npy *npy);

#endif
