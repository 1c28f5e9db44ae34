/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of make_checkpoint share.
 *
 * The way of a run: a preset becomes a config.json tree, or a file is read into one (shape.c); the
 * tree gives the shape, the shape the list of tensors (tensors.c); shards.c lays them out and
 * writes them with the values of values.c; tokenizer.c and files.c make the small files; output.c
 * owns the directory that all of this goes into. */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* Prints "make_checkpoint: ..." as one line on stderr. Always -1, so that a failing function can
 * return it. */
int ckpt_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- shape.c ---- */

enum {
    CKPT_DEEPSTACK_MAX = 64,
    CKPT_SPECIAL_COUNT = 26, /* added tokens, in the order of the releases */
    CKPT_SPECIAL_IM_END = 2, /* their places in that order */
    CKPT_SPECIAL_VISION_START = 9,
    CKPT_SPECIAL_VISION_END = 10,
    CKPT_SPECIAL_IMAGE_PAD = 12,
    CKPT_SPECIAL_VIDEO_PAD = 13,
};

enum ckpt_dtype { CKPT_BF16, CKPT_F16, CKPT_F32, CKPT_U8, CKPT_MIXED };

struct ckpt_shape {
    uint64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim;
    uint64_t vision_depth, vision_hidden, vision_intermediate, out_hidden, positions;
    uint64_t channels, patch, temporal_patch, merge;
    uint64_t deepstack_count;
    bool tied;
    uint64_t special_first; /* id of the first added token = entries of the base vocabulary */
};

/* The config.json of a published shape (or "tiny"), with the small or the released vocabulary.
 * NULL for an unknown name; the caller owns the tree. */
json_t *ckpt_preset(const char *name, bool small_vocabulary, enum ckpt_dtype dtype);
/* Whether the preset comes with the small vocabulary when nothing else is asked for. */
bool ckpt_preset_is_small(const char *name);
/* Checks every number that the tensors depend on. */
int ckpt_shape_read(const json_t *config, struct ckpt_shape *out_shape);

/* ---- values.c ---- */

/* Key of a tensor's values. */
uint64_t ckpt_key(uint64_t seed, const char *name);
/* @count values mean + deviation * n from element @first on, n nearly normal. */
void ckpt_values(uint64_t key, uint64_t first, size_t count, float mean, float deviation,
                 float *out_values);
size_t ckpt_dtype_bytes(enum ckpt_dtype dtype);
const char *ckpt_dtype_text(enum ckpt_dtype dtype); /* as in safetensors */
/* Rounds to nearest even. */
void ckpt_encode(enum ckpt_dtype dtype, const float *values, size_t count, unsigned char *out);

/* ---- tensors.c ---- */

struct ckpt_tensor {
    char name[96];
    enum ckpt_dtype dtype;
    uint32_t rank;
    uint64_t shape[5];
    uint64_t size_bytes;
    float mean, deviation;
    uint32_t shard;
    uint64_t offset; /* in the shard's data */
};

struct ckpt_tensors {
    struct ckpt_tensor *items;
    size_t count, capacity;
    uint64_t total_bytes;
};

/* @p extra_tensor: also one of odd size that no model knows. */
int ckpt_tensors_make(const struct ckpt_shape *shape, enum ckpt_dtype dtype, bool extra_tensor,
                      struct ckpt_tensors *out_tensors);
void ckpt_tensors_fini(struct ckpt_tensors *tensors);
/* Bytes [offset, offset + size) of a tensor's data. */
void ckpt_tensor_bytes(const struct ckpt_tensor *tensor, uint64_t seed, uint64_t offset,
                       size_t size, unsigned char *out);

/* ---- output.c ---- */

struct ckpt_output {
    const char *target;   /* what the directory is called in the end */
    char partial[4096];   /* what it is called until then */
    uint64_t total_bytes; /* of everything, for the progress line */
    uint64_t done_bytes;
    double started, shown; /* seconds of the monotonic clock */
    bool terminal;
    bool buffered; /* the caller's: large files go through the page cache */
};

/* Refuses a target that exists with something in it, and a disk with less than @p size_bytes +
 * @p keep_free_bytes left; then makes the partial directory. */
int ckpt_output_open(const char *target, uint64_t size_bytes, uint64_t keep_free_bytes,
                     struct ckpt_output *out_output);
/* Path of a file in the partial directory; buffer of 4352 bytes. */
void ckpt_output_path(const struct ckpt_output *output, const char *name, char *out_path);
int ckpt_output_file(struct ckpt_output *output, const char *name, const char *data, size_t size);
/* The progress line, when stderr is a terminal; at most ten times a second. */
void ckpt_output_progress(struct ckpt_output *output, const char *phase, uint64_t done_bytes);
/* Gives the directory its name. */
int ckpt_output_commit(struct ckpt_output *output);
/* Removes what was written. */
void ckpt_output_discard(struct ckpt_output *output);

/* SIGINT, SIGTERM and SIGHUP set a flag that the writers look at. */
void ckpt_interrupt_catch(void);
bool ckpt_interrupted(void);
double ckpt_seconds(void);

/* ---- shards.c ---- */

struct ckpt_layout {
    uint64_t shard_bytes_max; /* used when shard_count is 0 */
    uint64_t shard_count;
    bool odd_offsets; /* data starts at an odd offset of the file */
};

struct ckpt_shard {
    char name[64];
    size_t tensor_first, tensor_count;
    char *header; /* the file up to its data */
    size_t header_bytes;
    uint64_t file_bytes;
};

struct ckpt_shards {
    struct ckpt_shard *items;
    size_t count;
    uint64_t total_bytes; /* of the files */
};

/* Sorts @p tensors into files and makes the headers. */
int ckpt_shards_plan(const struct ckpt_layout *layout, struct ckpt_tensors *tensors,
                     struct ckpt_shards *out_shards);
void ckpt_shards_fini(struct ckpt_shards *shards);
/* model.safetensors.index.json; NULL when memory is short. */
char *ckpt_shards_index(const struct ckpt_shards *shards, const struct ckpt_tensors *tensors);
int ckpt_shards_write(const struct ckpt_shards *shards, const struct ckpt_tensors *tensors,
                      uint64_t seed, unsigned thread_count, struct ckpt_output *output);

/* ---- tokenizer.c, files.c: texts from malloc; NULL when memory is short ---- */

extern const char *const ckpt_special_tokens[CKPT_SPECIAL_COUNT];

/* @p entries: the base vocabulary, 256 bytes included. @p merge_pairs: merges as ["a","b"], as the
 * newest releases write them, instead of "a b". */
char *ckpt_tokenizer_json(uint32_t entries, bool merge_pairs, size_t *out_size);
char *ckpt_tokenizer_config(uint32_t special_first);
char *ckpt_generation_config(uint32_t special_first);
char *ckpt_preprocessor_config(const struct ckpt_shape *shape, uint64_t pixels_min,
                               uint64_t pixels_max);
char *ckpt_chat_template(void);

#endif
