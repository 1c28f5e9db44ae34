/* SPDX-License-Identifier: Apache-2.0 */
/* Writes safetensors files the plain way, sharing no code with the reader. */
#include "checkpoint.h"

#include <assert.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t dtype_bytes(const char *dtype)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } dtypes[] = {{"F64", 8}, {"F32", 4},  {"F16", 2}, {"BF16", 2}, {"I64", 8},     {"I32", 4},
                  {"U8", 1},  {"BOOL", 1}, {"I8", 1},  {"I16", 2},  {"F8_E4M3", 1}, {"F8_E5M2", 1}};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtypes[i].text, dtype) == 0)
            return dtypes[i].bytes;
    assert(!"a dtype that the writer knows");
    return 0;
}

uint64_t test_tensor_bytes(const struct test_tensor *tensor)
{
    uint64_t bytes = dtype_bytes(tensor->dtype);
    for (uint32_t d = 0; d < tensor->rank; d++)
        bytes *= tensor->shape[d];
    return bytes;
}

uint64_t test_tensor_mismatch(const struct test_tensor *tensor, uint64_t offset, const void *data,
                              uint64_t size)
{
    const unsigned char *bytes = data;
    for (uint64_t i = 0; i < size; i++)
        if (bytes[i] != test_tensor_byte(tensor->seed, offset + i))
            return i;
    return size;
}

static void put(FILE *file, const void *data, size_t bytes)
{
    if (bytes > 0 && fwrite(data, 1, bytes, file) != bytes) {
        perror("write of a test file");
        abort();
    }
}

static FILE *open_new(const char *path)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL) {
        perror(path);
        abort();
    }
    return file;
}

static void put_length(FILE *file, uint64_t length)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(length >> 8 * i);
    put(file, bytes, sizeof bytes);
}

/* To the disk: reads past the page cache must see it, and DONTNEED spares dirty pages. */
static void close_synced(FILE *file)
{
    if (fflush(file) != 0 || fsync(fileno(file)) != 0 || fclose(file) != 0) {
        perror("end of a test file");
        abort();
    }
}

static char *header_make(const struct test_tensor *tensors, size_t count, size_t pad)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert(out != NULL);
    uint64_t at = 0;
    fputc('{', out);
    for (size_t i = 0; i < count; i++) {
        const struct test_tensor *t = &tensors[i];
        uint64_t size = test_tensor_bytes(t);
        fprintf(out, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i == 0 ? "" : ",", t->name,
                t->dtype);
        for (uint32_t d = 0; d < t->rank; d++)
            fprintf(out, "%s%llu", d == 0 ? "" : ",", (unsigned long long)t->shape[d]);
        fprintf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                (unsigned long long)(at + size));
        at += size;
    }
    fputc('}', out);
    for (size_t i = 0; i < pad; i++)
        fputc(' ', out);
    fclose(out);
    return text;
}

void test_checkpoint_write(const char *path, const struct test_tensor *tensors, size_t count,
                           size_t pad)
{
    char *header = header_make(tensors, count, pad);
    FILE *file = open_new(path);
    put_length(file, strlen(header));
    put(file, header, strlen(header));
    free(header);
    for (size_t i = 0; i < count; i++) {
        uint64_t size = test_tensor_bytes(&tensors[i]);
        unsigned char chunk[4096];
        for (uint64_t at = 0; at < size;) {
            uint64_t part = size - at < sizeof chunk ? size - at : sizeof chunk;
            for (uint64_t b = 0; b < part; b++)
                chunk[b] = test_tensor_byte(tensors[i].seed, at + b);
            put(file, chunk, part);
            at += part;
        }
    }
    close_synced(file);
}

void test_header_write(const char *path, const char *header, size_t header_bytes, uint64_t length,
                       size_t data_bytes)
{
    FILE *file = open_new(path);
    put_length(file, length);
    put(file, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++)
        fputc((int)(i & 0xff), file);
    close_synced(file);
}

void test_text_write(const char *path, const void *text, size_t bytes)
{
    FILE *file = open_new(path);
    put(file, text, bytes);
    close_synced(file);
}

void test_folder_create(const char *parent, char *out_path, size_t path_bytes)
{
    snprintf(out_path, path_bytes, "%s/cn-XXXXXX", parent);
    if (mkdtemp(out_path) == NULL) {
        perror(out_path);
        abort();
    }
}

void test_folder_remove(const char *path)
{
    DIR *folder = opendir(path);
    assert(folder != NULL);
    struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        char name[4096];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (remove(name) != 0)
            perror(name);
    }
    closedir(folder);
    rmdir(path);
}

size_t test_fd_count(void)
{
    DIR *folder = opendir("/proc/self/fd");
    assert(folder != NULL);
    size_t count = 0;
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}
