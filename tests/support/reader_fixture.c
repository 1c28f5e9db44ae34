/* SPDX-License-Identifier: Apache-2.0 */
#include "reader_fixture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Byte `offset` is a byte of its word's hash: no run of the file looks like another. */
static uint64_t word_at(uint64_t index)
{
    uint64_t x = index * UINT64_C(0x9e3779b97f4a7c15) + 1;
    return (x ^ x >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
}

void test_pattern_fill(void *data, uint64_t offset, size_t size_bytes)
{
    unsigned char *at = data;
    for (size_t i = 0; i < size_bytes;) {
        uint64_t here = offset + i, word = word_at(here / 8);
        if (here % 8 == 0 && size_bytes - i >= 8) {
            memcpy(at + i, &word, 8);
            i += 8;
        } else {
            at[i++] = (unsigned char)(word >> here % 8 * 8);
        }
    }
}

size_t test_pattern_right(const void *data, uint64_t offset, size_t size_bytes)
{
    const unsigned char *at = data;
    unsigned char piece[256];
    for (size_t i = 0; i < size_bytes; i += sizeof piece) {
        size_t count = size_bytes - i < sizeof piece ? size_bytes - i : sizeof piece;
        test_pattern_fill(piece, offset + i, count);
        if (memcmp(piece, at + i, count) == 0)
            continue;
        size_t right = 0;
        while (piece[right] == at[i + right])
            right++;
        return i + right;
    }
    return size_bytes;
}

void test_pattern_file(char *path_template, uint64_t first, uint64_t size_bytes)
{
    static unsigned char piece[1 << 16];
    int fd = mkstemp(path_template);
    if (fd < 0) {
        perror(path_template);
        abort();
    }
    for (uint64_t at = 0; at < size_bytes; at += sizeof piece) {
        size_t count = size_bytes - at < sizeof piece ? (size_t)(size_bytes - at) : sizeof piece;
        test_pattern_fill(piece, first + at, count);
        if (write(fd, piece, count) != (ssize_t)count) {
            perror(path_template);
            abort();
        }
    }
    if (fsync(fd) != 0 || close(fd) != 0)
        abort();
}

static bool not_of_the_kernel(const char *name)
{
    char path[300], text[64] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", name);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false; /* it ended meanwhile */
    if (fgets(text, sizeof text, file) == NULL)
        text[0] = '\0';
    fclose(file);
    return strncmp(text, "iou-", 4) != 0;
}

unsigned test_thread_count(void)
{
    DIR *folder = opendir("/proc/self/task");
    struct dirent *entry;
    unsigned count = 0;
    if (folder == NULL)
        abort();
    while ((entry = readdir(folder)) != NULL)
        count += entry->d_name[0] != '.' && not_of_the_kernel(entry->d_name);
    closedir(folder);
    return count;
}
