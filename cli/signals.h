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
/* Whether one came that ends the command. */
bool cli_signals_caught(void);

/* ---- a conversation: Ctrl-C stops a reply and goes on ---- */

/* As above for SIGTERM and SIGHUP. SIGINT cancels the turn under way, or interrupts the wait for a
 * line; the third one in a turn ends the process, should the first have no effect.
 * Errors: CENOTE_E_IO. Once in a process. */
CENOTE_MUST_CHECK cenote_status cli_signals_catch_chat(cenote_error *err);
/* The session whose turn a signal cancels from now on; NULL: none. */
void cli_signals_session(qwen_session *session);
/* Whether SIGINT came since the last call. */
bool cli_signals_interrupted(void);
/* Can be read from (do not) when a signal came since the last cli_signals_interrupted(). */
int cli_signals_fd(void);

#endif
