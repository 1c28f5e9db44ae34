/* SPDX-License-Identifier: Apache-2.0 */
/* Error texts about checkpoints: file, tensor, numbers. */
#ifndef CN_WEIGHTS_MESSAGE_H
#define CN_WEIGHTS_MESSAGE_H

#include <stddef.h>

#include <cenote/status.h>

/* "PATH: tensor `NAME`: detail" into @p err; without the middle part when @p tensor is NULL. Long
 * paths lose their front, long names their end, so that the numbers always fit. */
cenote_status cn_weights_error(cenote_error *err, cenote_status status, const char *path,
                               const char *tensor, const char *format, ...) CENOTE_PRINTF(5, 6);

/* "not found" for a missing file, else an input/output error with the system's words; @p code is
 * a positive errno. */
cenote_status cn_weights_error_errno(cenote_error *err, const char *path, const char *tensor,
                                     const char *what, int code);

#endif
