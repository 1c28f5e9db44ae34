/* SPDX-License-Identifier: Apache-2.0 */
/* The packed copy of a model's matrices in a directory of the user's choice: opened, or made. */
#ifndef CENOTE_CLI_CACHE_H
#define CENOTE_CLI_CACHE_H

#include "cli.h"

/* Writes the copy into @p directory (made when it is not there), replacing what is there, with a
 * progress line on a terminal.
 * Ctrl-C ends it with CENOTE_E_CANCELLED and leaves nothing behind. @p path is PATH_MAX long. */
CENOTE_MUST_CHECK cenote_status cli_cache_make(qwen_model *model, cenote_budget *budget,
                                               const char *directory, bool quiet, char *path,
                                               cenote_pack_info *out_info, cenote_error *err);

/* Opens the copy in options->cache_directory; one that is not there, or is of other files, is made
 * first. Without a directory the one beside the model, if there is one; none for "none" or where
 * weights are to stay as they are. */
CENOTE_MUST_CHECK cenote_status cli_cache_open(const struct cli_options *options, qwen_model *model,
                                               cenote_budget *budget, cenote_pack **out_pack,
                                               cenote_error *err);

/* Whether a copy was named, and not only looked for. */
bool cli_cache_is_named(const struct cli_options *options);

/* Says, unless quiet, that @p plan has no room for @p pack, if so. */
void cli_cache_note_left_out(const struct cli_options *options, const qwen_plan *plan,
                             const cenote_pack *pack);

/* Opens the copy in @p directory. Errors: as cenote_pack_open(). */
CENOTE_MUST_CHECK cenote_status cli_cache_look(qwen_model *model, cenote_budget *budget,
                                               const char *directory, cenote_pack **out_pack,
                                               cenote_error *err);

/* Reads all of @p pack and compares checksums; progress and Ctrl-C as in making. */
CENOTE_MUST_CHECK cenote_status cli_cache_verify(qwen_model *model, cenote_budget *budget,
                                                 cenote_pack *pack, bool quiet, cenote_error *err);

#endif
