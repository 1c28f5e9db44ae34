/* SPDX-License-Identifier: Apache-2.0 */
/* A checkpoint that packs, and folders whose contents tests ask about. Everything here asserts on
 * failure. */
#ifndef TESTS_PACK_FIXTURE_H
#define TESTS_PACK_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/cenote.h>

/* Two shards below @p folder: "a" (100 x 192) and "c" (48 x 64) are bf16 of a normal distribution,
 * "b" (10 x 20) is f32, "d" (40 x 128) is bf16 whose rows [16, 32) no 12 bits can hold. */
void pack_checkpoint_write(const char *folder);

enum { PACK_ITEMS = 4 };
/* d in panels of 16 rows, a of 32, b and c whole. */
void pack_items(const cenote_weights *weights, cenote_stream_item items[PACK_ITEMS]);

/* How many names a folder has that begin so; "" counts all. */
unsigned pack_names(const char *folder, const char *prefix);

/* A whole file; free() it. */
unsigned char *pack_file_load(const char *path, uint64_t *out_bytes);
void pack_file_store(const char *path, const void *data, uint64_t bytes);

/* Every panel of a and c is in the copy and decodes to what the checkpoint has; so are two of d's
 * three; b is not. */
void pack_assert_whole(cenote_weights *weights, cenote_budget *budget, const char *path);

#endif
