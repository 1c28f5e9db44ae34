/* SPDX-License-Identifier: Apache-2.0 */
/* What jansson lacks for our reports. */
#ifndef CENOTE_CLI_JSON_H
#define CENOTE_CLI_JSON_H

#include <stdint.h>

#include <jansson.h>

#include "cli.h"

/* A string of bytes that may not be UTF-8 (file names); what is not becomes U+FFFD. */
json_t *cli_json_text(const char *text);
/* A count; what JSON readers keep exactly ends at 2^53, jansson's integers at 2^63. */
json_t *cli_json_count(uint64_t count);
/* A time or a rate; null for what is not a number. */
json_t *cli_json_real(double real);
json_t *cli_json_ids(const uint32_t *ids, uint64_t count);

/* Prints @p object and a newline to stdout and releases it. NULL means that something above ran
 * out of memory. @return false after saying why not. */
bool cli_json_print(json_t *object);

#endif
