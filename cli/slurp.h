/* SPDX-License-Identifier: Apache-2.0 */
/* All of a file, or of a pipe, whose size is known at its end. */
#ifndef CENOTE_CLI_SLURP_H
#define CENOTE_CLI_SLURP_H

#include "cli.h"

/* @p path "-" is standard input. The bytes lie in a block of @p pool, which is the caller's to
 * free. Errors: CENOTE_E_NOTFOUND, CENOTE_E_IO, CENOTE_E_CORRUPT (neither a recording nor text with
 * lines), CENOTE_E_BUDGET (1 GiB or more), and those of the pool. */
CENOTE_MUST_CHECK cenote_status cli_slurp(cenote_pool *pool, const char *path, char **out_bytes,
                                          uint64_t *out_count, cenote_error *err);

#endif
