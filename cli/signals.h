/* SPDX-License-Identifier: Apache-2.0 */
/* Ctrl-C and its kin during a run. */
#ifndef CENOTE_CLI_SIGNALS_H
#define CENOTE_CLI_SIGNALS_H

#include <stdbool.h>

#include "qwen3vl.h"

/* From now on the first SIGINT, SIGTERM or SIGHUP cancels and the second kills. Signals that were
 * ignored when the process began (nohup, a background job) stay so. */
void cli_signals_catch(void);
/* The job that a signal cancels; NULL: none. A signal that came before counts. */
void cli_signals_job(qwen_job *job);
bool cli_signals_caught(void);

#endif
