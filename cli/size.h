/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers that a user writes, read strictly: all of the text counts, nothing wraps around. */
#ifndef CENOTE_CLI_SIZE_H
#define CENOTE_CLI_SIZE_H

#include <cenote/cenote.h>

/* "2GiB", "512MiB", "1.5G", "700MB", "123456", "60%" (of @p whole_bytes). K, M, G, T and KiB..TiB
 * are powers of 1024, KB..TB powers of 1000, as in GNU coreutils; case does not matter.
 * Fractions are exact and rounded down. Errors: CENOTE_E_INVAL naming the text and the limit: not
 * a size, 0, negative, above 100 %, 2^63 bytes and more. */
CENOTE_MUST_CHECK cenote_status cli_size_parse(const char *text, uint64_t whole_bytes,
                                               uint64_t *out_bytes, cenote_error *err);

/* A plain decimal number in [min, max]. */
CENOTE_MUST_CHECK cenote_status cli_number_parse(const char *text, uint64_t min, uint64_t max,
                                                 uint64_t *out_number, cenote_error *err);

/* "640x480", each side in 1..max. */
CENOTE_MUST_CHECK cenote_status cli_pixels_parse(const char *text, uint32_t max,
                                                 uint32_t *out_width, uint32_t *out_height,
                                                 cenote_error *err);

/* A decimal fraction in [0, max]; always with a point, whatever the locale says. */
CENOTE_MUST_CHECK cenote_status cli_real_parse(const char *text, double max, double *out_real,
                                               cenote_error *err);

/* "10s", "500ms", "1.5min", "2h"; seconds without a unit; at most a year. */
CENOTE_MUST_CHECK cenote_status cli_time_parse(const char *text, double *out_s, cenote_error *err);

#endif
