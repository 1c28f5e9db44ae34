/* SPDX-License-Identifier: Apache-2.0 */
/* Running a program of the build and looking at how it ended. */
#ifndef TEST_SUPPORT_PROGRAM_H
#define TEST_SUPPORT_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Starts argv[0] with stdout closed off and stderr on @p stderr_fd (-1: off as well). */
pid_t test_program_start(const char *const argv[], int stderr_fd);
/* @return the exit code, or 128 + the signal. */
int test_program_wait(pid_t pid);
/* Both; @p out_text gets what it said on stderr, cut to fit and NUL-terminated. */
int test_program_run(const char *const argv[], char *out_text, size_t text_bytes);

/* From now on that system call of this process fails with that errno, all else goes on; also across
 * exec.
 * @return false where there are no seccomp filters */
bool test_deny_call(uint32_t call, unsigned error);

#endif
