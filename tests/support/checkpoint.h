/* SPDX-License-Identifier: Apache-2.0 */
/* Safetensors files for tests: well-formed ones whose every byte can be told from its tensor and
 * place, and headers of any text. Everything here asserts on failure. */
#ifndef TEST_SUPPORT_CHECKPOINT_H
#define TEST_SUPPORT_CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>

struct test_tensor {
    const char *name;
    const char *dtype; /* as in the file: "BF16" */
    uint64_t shape[8];
    uint32_t rank;
    uint32_t seed; /* of its bytes */
};

uint64_t test_tensor_bytes(const struct test_tensor *tensor);

/* The byte at @p offset of a tensor with @p seed. */
static inline unsigned char test_tensor_byte(uint32_t seed, uint64_t offset)
{
    uint64_t x = (offset / 8 + 1) * 0x9e3779b97f4a7c15u + seed * 0xd1b54a32d192ed03u;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 32;
    return (unsigned char)(x >> (offset % 8 * 8));
}

/* The first place in [0, size) where @p data is not what the tensor has at offset + place;
 * size when it all is. */
uint64_t test_tensor_mismatch(const struct test_tensor *tensor, uint64_t offset, const void *data,
                              uint64_t size);

/* Writes the tensors in the order given; @p pad spaces end the header, so that the data can begin
 * at any residue. */
void test_checkpoint_write(const char *path, const struct test_tensor *tensors, size_t count,
                           size_t pad);

/* Writes length, header and data_bytes arbitrary bytes, whatever the header says. */
void test_header_write(const char *path, const char *header, size_t header_bytes, uint64_t length,
                       size_t data_bytes);

void test_text_write(const char *path, const void *text, size_t bytes);

/* A fresh folder under @p parent; test_folder_remove() empties (one level) and removes it. */
void test_folder_create(const char *parent, char *out_path, size_t path_bytes);
void test_folder_remove(const char *path);

/* Open file descriptors of this process. */
size_t test_fd_count(void);

#endif
