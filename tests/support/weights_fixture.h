/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of weights and streams share: a budget with nothing of the process in it, and
 * opening that fails loudly. */
#ifndef TEST_SUPPORT_WEIGHTS_FIXTURE_H
#define TEST_SUPPORT_WEIGHTS_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/cenote.h>

/* Only one byte is charged to begin with, so charges can be compared exactly. @p os may be NULL. */
cenote_budget *test_budget_create(uint64_t limit_bytes, struct cn_os *os);
uint64_t test_budget_charged(const cenote_budget *budget);

cenote_weights *test_weights_open(cenote_budget *budget, const char *path, cenote_io_mode io_mode);
uint32_t test_weights_find(const cenote_weights *weights, const char *name);

cenote_pool *test_pool_create(cenote_budget *budget);

/* Whether O_DIRECT works for files in @p folder. */
bool test_direct_works(cenote_budget *budget, const char *folder);

#endif
