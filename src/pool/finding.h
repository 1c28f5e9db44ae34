/* SPDX-License-Identifier: Apache-2.0 */
/* Telling a mistake of the program's. */
#ifndef CN_POOL_FINDING_H
#define CN_POOL_FINDING_H

#include <cenote/debug.h>

/* One line to the handler; without one to standard error, and all but leaks abort. No lock of a
 * pool may be held. */
void cn_finding(cenote_finding finding, const char *format, ...) CENOTE_PRINTF(2, 3);

#endif
