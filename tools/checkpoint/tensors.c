/* SPDX-License-Identifier: Apache-2.0 */
/* The tensors of a Qwen3-VL checkpoint, by name, with the deviation that keeps a random model
 * lively: matrices by fan-in (else logits are nearly flat), norms away from 1 and biases away
 * from 0 (else a runner that forgets them passes). */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "checkpoint.h"

struct maker {
    struct ckpt_tensors *list;
    enum ckpt_dtype dtype;
    bool failed;
};

/* Sizes fit: ckpt_shape_read() bounds every factor, and the product is checked here. */
static void add(struct maker *maker, float mean, float deviation, const char *name,
                const uint64_t *shape, uint32_t rank)
{
    struct ckpt_tensors *list = maker->list;
    if (maker->failed)
        return;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 256;
        void *items = realloc(list->items, capacity * sizeof(*list->items));
        if (!items) {
            maker->failed = true;
            ckpt_fail("no memory for the list of tensors");
            return;
        }
        list->items = items;
        list->capacity = capacity;
    }
    struct ckpt_tensor *item = &list->items[list->count];
    memset(item, 0, sizeof(*item));
    snprintf(item->name, sizeof(item->name), "%s", name);
    item->dtype = maker->dtype;
    if (item->dtype == CKPT_MIXED)
        item->dtype = (enum ckpt_dtype)(ckpt_key(0, name) % 3);
    item->rank = rank;
    item->mean = mean;
    item->deviation = deviation;
    item->size_bytes = ckpt_dtype_bytes(item->dtype);
    bool fits = true;
    for (uint32_t i = 0; i < rank; i++) {
        item->shape[i] = shape[i];
        fits = fits && cn_checked_mul(item->size_bytes, shape[i], &item->size_bytes);
    }
    if (!fits || !cn_checked_add(list->total_bytes, item->size_bytes, &list->total_bytes)) {
        maker->failed = true;
        ckpt_fail("tensor %s: its size does not fit 64 bits", name);
        return;
    }
    list->count++;
}

/* Deviations are for these kinds of tensor. */
enum kind { WEIGHT, GAIN, BIAS };

/* [rows, columns], or [rows] when columns is 0. */
static void tensor(struct maker *maker, enum kind kind, uint64_t rows, uint64_t columns,
                   const char *format, ...) __attribute__((format(printf, 5, 6)));
static void tensor(struct maker *maker, enum kind kind, uint64_t rows, uint64_t columns,
                   const char *format, ...)
{
    char name[96];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof(name), format, arguments);
    va_end(arguments);
    float mean = kind == GAIN ? 1.0f : 0.0f;
    float deviation = kind == GAIN ? 0.1f : kind == BIAS ? 0.02f : 1 / sqrtf((float)columns);
    add(maker, mean, deviation, name, (uint64_t[]){rows, columns}, columns ? 2 : 1);
}

static void layer_norm(struct maker *maker, uint64_t length, const char *prefix, const char *name)
{
    tensor(maker, GAIN, length, 0, "%s.%s.weight", prefix, name);
    tensor(maker, BIAS, length, 0, "%s.%s.bias", prefix, name);
}

static void linear(struct maker *maker, uint64_t rows, uint64_t columns, const char *prefix,
                   const char *name)
{
    tensor(maker, WEIGHT, rows, columns, "%s.%s.weight", prefix, name);
    tensor(maker, BIAS, rows, 0, "%s.%s.bias", prefix, name);
}

static void merger(struct maker *maker, const struct ckpt_shape *shape, uint64_t norm_length,
                   const char *prefix)
{
    uint64_t merged = shape->merge * shape->merge * shape->vision_hidden;
    layer_norm(maker, norm_length, prefix, "norm");
    linear(maker, merged, merged, prefix, "linear_fc1");
    linear(maker, shape->out_hidden, merged, prefix, "linear_fc2");
}

static void vision(struct maker *maker, const struct ckpt_shape *shape)
{
    uint64_t d = shape->vision_hidden, f = shape->vision_intermediate;
    uint64_t patch[5] = {d, shape->channels, shape->temporal_patch, shape->patch, shape->patch};
    float fan_in = (float)(patch[1] * patch[2] * patch[3] * patch[4]);
    add(maker, 0, 1 / sqrtf(fan_in), "model.visual.patch_embed.proj.weight", patch, 5);
    tensor(maker, BIAS, d, 0, "model.visual.patch_embed.proj.bias");
    add(maker, 0, 0.5f, "model.visual.pos_embed.weight", (uint64_t[]){shape->positions, d}, 2);
    char prefix[64];
    for (uint64_t i = 0; i < shape->vision_depth; i++) {
        snprintf(prefix, sizeof(prefix), "model.visual.blocks.%lu", (unsigned long)i);
        layer_norm(maker, d, prefix, "norm1");
        layer_norm(maker, d, prefix, "norm2");
        linear(maker, 3 * d, d, prefix, "attn.qkv");
        linear(maker, d, d, prefix, "attn.proj");
        linear(maker, f, d, prefix, "mlp.linear_fc1");
        linear(maker, d, f, prefix, "mlp.linear_fc2");
    }
    merger(maker, shape, d, "model.visual.merger");
    for (uint64_t j = 0; j < shape->deepstack_count; j++) {
        snprintf(prefix, sizeof(prefix), "model.visual.deepstack_merger_list.%lu",
                 (unsigned long)j);
        merger(maker, shape, shape->merge * shape->merge * d, prefix);
    }
}

static void text_layer(struct maker *maker, const struct ckpt_shape *shape, uint64_t layer)
{
    uint64_t d = shape->hidden, f = shape->intermediate;
    uint64_t q = shape->heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim;
    char prefix[64];
    snprintf(prefix, sizeof(prefix), "model.language_model.layers.%lu", (unsigned long)layer);
    tensor(maker, GAIN, d, 0, "%s.input_layernorm.weight", prefix);
    tensor(maker, GAIN, d, 0, "%s.post_attention_layernorm.weight", prefix);
    tensor(maker, GAIN, shape->head_dim, 0, "%s.self_attn.q_norm.weight", prefix);
    tensor(maker, GAIN, shape->head_dim, 0, "%s.self_attn.k_norm.weight", prefix);
    tensor(maker, WEIGHT, q, d, "%s.self_attn.q_proj.weight", prefix);
    tensor(maker, WEIGHT, kv, d, "%s.self_attn.k_proj.weight", prefix);
    tensor(maker, WEIGHT, kv, d, "%s.self_attn.v_proj.weight", prefix);
    tensor(maker, WEIGHT, d, q, "%s.self_attn.o_proj.weight", prefix);
    tensor(maker, WEIGHT, f, d, "%s.mlp.gate_proj.weight", prefix);
    tensor(maker, WEIGHT, f, d, "%s.mlp.up_proj.weight", prefix);
    tensor(maker, WEIGHT, d, f, "%s.mlp.down_proj.weight", prefix);
}

int ckpt_tensors_make(const struct ckpt_shape *shape, enum ckpt_dtype dtype, bool extra_tensor,
                      struct ckpt_tensors *out_tensors)
{
    struct ckpt_tensors list = {0};
    struct maker maker = {&list, dtype, false};
    vision(&maker, shape);
    add(&maker, 0, 0.02f, "model.language_model.embed_tokens.weight",
        (uint64_t[]){shape->vocab, shape->hidden}, 2);
    for (uint64_t i = 0; i < shape->layers; i++)
        text_layer(&maker, shape, i);
    tensor(&maker, GAIN, shape->hidden, 0, "model.language_model.norm.weight");
    if (!shape->tied)
        tensor(&maker, WEIGHT, shape->vocab, shape->hidden, "lm_head.weight");
    if (extra_tensor) {
        maker.dtype = CKPT_U8;
        add(&maker, 128, 0, "unknown.bytes", (uint64_t[]){2}, 1);
    }
    if (maker.failed) {
        ckpt_tensors_fini(&list);
        return -1;
    }
    *out_tensors = list;
    return 0;
}

void ckpt_tensors_fini(struct ckpt_tensors *tensors)
{
    free(tensors->items);
    *tensors = (struct ckpt_tensors){0};
}

void ckpt_tensor_bytes(const struct ckpt_tensor *tensor, uint64_t seed, uint64_t offset,
                       size_t size, unsigned char *out)
{
    enum { BLOCK = 1024 }; /* elements; both buffers stay in the first-level cache */
    float values[BLOCK];
    unsigned char encoded[4 * BLOCK];
    uint64_t key = ckpt_key(seed, tensor->name);
    size_t width = ckpt_dtype_bytes(tensor->dtype);
    while (size > 0) {
        /* A piece may begin and end inside an element: chunks of a file know nothing of dtypes. */
        size_t skip = offset % width;
        size_t count = (skip + size + width - 1) / width;
        count = count < BLOCK ? count : BLOCK;
        ckpt_values(key, offset / width, count, tensor->mean, tensor->deviation, values);
        ckpt_encode(tensor->dtype, values, count, encoded);
        size_t take = count * width - skip;
        take = take < size ? take : size;
        memcpy(out, encoded + skip, take);
        out += take;
        offset += take;
        size -= take;
    }
}
