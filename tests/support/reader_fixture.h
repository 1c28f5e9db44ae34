/* SPDX-License-Identifier: Apache-2.0 */
/* Files whose every byte follows from its offset, so that what was read can be checked anywhere,
 * and the threads of a process. */
#ifndef READER_FIXTURE_H
#define READER_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void test_pattern_fill(void *data, uint64_t offset, size_t size_bytes);
/* How many bytes from the front are right; size_bytes when all are. */
size_t test_pattern_right(const void *data, uint64_t offset, size_t size_bytes);

/* Writes a file of that pattern from offset first on, synced, and gives its path (a template ending
 * in XXXXXX). */
void test_pattern_file(char *path_template, uint64_t first, uint64_t size_bytes);

/* Threads of this process; workers of the kernel (named iou-) left out. */
unsigned test_thread_count(void);

#endif
