/* SPDX-License-Identifier: Apache-2.0 */
/* Recording on a system of one's choice, for tests. */
#ifndef CN_MONITOR_TRACE_RECORD_H
#define CN_MONITOR_TRACE_RECORD_H

#include <cenote/trace.h>

#include "os/os.h"

CENOTE_MUST_CHECK cenote_status cn_trace_start(struct cn_os *os, const char *path,
                                               cenote_error *err);

#endif
