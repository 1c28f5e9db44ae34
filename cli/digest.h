/* SPDX-License-Identifier: Apache-2.0 */
/* XXH3 of pairs of numbers, each as 8 bytes, lowest first: the same on every machine. */
#ifndef CENOTE_CLI_DIGEST_H
#define CENOTE_CLI_DIGEST_H

#include <cenote/status.h>

#include <stdint.h>

struct cli_digest;

CENOTE_MUST_CHECK cenote_status cli_digest_create(struct cli_digest **out_digest,
                                                  cenote_error *err);
void cli_digest_destroy(struct cli_digest *digest); /* NULL is fine */
void cli_digest_add(struct cli_digest *digest, uint64_t first, uint64_t second);
uint64_t cli_digest_sum(struct cli_digest *digest);

#endif
