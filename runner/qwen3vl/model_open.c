/* SPDX-License-Identifier: Apache-2.0 */
/* Binds the tensors of a checkpoint to their places in the model.
 *
 * Names and shapes follow from the configuration alone (research: transformers
 * models/qwen3_vl/modeling_qwen3_vl.py); each is looked up once, its shape and type are compared,
 * and a tensor that nobody asked for is counted as extra. Vectors get a place in the resident
 * block, matrices a panel height that depends on nothing but the matrix: about 1 MiB of whole
 * rows, a multiple of 16. The order of the matrices is that of the code which uses them (vision.c,
 * text.c). */
#include "model.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Panels of 1 MiB keep a disk busy; of a small model a 128th, so that a ring of them is a small
 * part of it. */
#define PANEL_BYTES_MOST  (1u << 20)
#define PANEL_BYTES_LEAST (64u << 10)
#define PANELS_AIM        128u
#define PANEL_ROWS_GRAIN  16u
/* The released tokenizer needs some 10 MiB; a hostile one must not have the machine. */
#define TABLES_BYTES_MAX (512u << 20)

/* ---- lookups ---- */

struct binder {
    qwen_model *model;
    uint64_t panel_bytes_aim;
    cenote_error *err;
    enum qwen_tensor_class class_id;
    cenote_status status; /* the first failure; later lookups do nothing */
};

static bool dtype_is_weight(cenote_dtype dtype)
{
    return dtype == CENOTE_DTYPE_F32 || dtype == CENOTE_DTYPE_F16 || dtype == CENOTE_DTYPE_BF16;
}

static void describe_shape(const uint64_t *shape, uint32_t rank, char *text, size_t text_bytes)
{
    size_t used = (size_t)snprintf(text, text_bytes, "[");
    for (uint32_t i = 0; i < rank && used < text_bytes; i++)
        used += (size_t)snprintf(text + used, text_bytes - used, i > 0 ? ", %llu" : "%llu",
                                 (unsigned long long)shape[i]);
    if (used < text_bytes)
        snprintf(text + used, text_bytes - used, "]");
}

static void bind_fail_shape(struct binder *binder, const cenote_tensor_info *info,
                            const uint64_t *shape, uint32_t rank)
{
    char has[128], needs[128];
    describe_shape(info->shape, info->rank, has, sizeof has);
    describe_shape(shape, rank, needs, sizeof needs);
    binder->status = cenote_error_set(
        binder->err, CENOTE_E_CORRUPT, "%s: tensor `%s` has shape %s, config.json needs %s",
        cenote_weights_file_path(binder->model->weights, info->file_index), info->name, has, needs);
}

/* The tensor of that name, with exactly that shape; NULL after a failure. */
static const cenote_tensor_info *bind_tensor(struct binder *binder, const char *name,
                                             const uint64_t *shape, uint32_t rank,
                                             uint32_t *out_index)
{
    if (binder->status != CENOTE_OK)
        return NULL;
    const cenote_weights *weights = binder->model->weights;
    uint32_t index;
    if (cenote_weights_find(weights, name, &index, NULL) != CENOTE_OK) {
        binder->status =
            cenote_error_set(binder->err, CENOTE_E_CORRUPT, "%s: tensor `%s` is missing",
                             cenote_weights_file_path(weights, 0), name);
        return NULL;
    }
    const cenote_tensor_info *info = cenote_weights_tensor(weights, index);
    bool same = info->rank == rank;
    for (uint32_t i = 0; same && i < rank; i++)
        same = info->shape[i] == shape[i];
    if (!same) {
        bind_fail_shape(binder, info, shape, rank);
        return NULL;
    }
    if (!dtype_is_weight(info->dtype)) {
        binder->status = cenote_error_set(binder->err, CENOTE_E_UNSUPPORTED,
                                          "%s: tensor `%s` is %s; supported: BF16, F16, F32",
                                          cenote_weights_file_path(weights, info->file_index), name,
                                          cenote_dtype_text(info->dtype));
        return NULL;
    }
    binder->model->tensor_classes[index] = (unsigned char)binder->class_id;
    *out_index = index;
    return info;
}

static void bind_vector(struct binder *binder, qwen_vector *vector, uint32_t count,
                        const char *format, ...) CENOTE_PRINTF(4, 5);
static void bind_vector(struct binder *binder, qwen_vector *vector, uint32_t count,
                        const char *format, ...)
{
    char name[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    const uint64_t shape[1] = {count};
    if (bind_tensor(binder, name, shape, 1, &vector->tensor_index) == NULL)
        return;
    vector->count = count;
    vector->offset = binder->model->resident_floats;
    binder->model->resident_floats += (count + 15u) / 16u * 16u;
}

static uint64_t panel_bytes_aim(const cenote_weights *weights)
{
    uint64_t total_bytes = 0; /* no overflow: of files that exist */
    for (uint32_t i = 0; i < cenote_weights_count(weights); i++)
        total_bytes += cenote_weights_tensor(weights, i)->size_bytes;
    uint64_t aim = PANEL_BYTES_LEAST;
    while (aim < PANEL_BYTES_MOST && aim < total_bytes / PANELS_AIM)
        aim *= 2;
    return aim;
}

static void set_panel(struct binder *binder, qwen_linear *linear)
{
    uint64_t row_bytes = linear->k * cenote_dtype_bytes(linear->dtype);
    uint64_t rows = binder->panel_bytes_aim / row_bytes / PANEL_ROWS_GRAIN * PANEL_ROWS_GRAIN;
    if (rows < PANEL_ROWS_GRAIN)
        rows = PANEL_ROWS_GRAIN;
    if (rows > linear->n)
        rows = linear->n;
    linear->rows_per_panel = (uint32_t)rows;
    if (linear->k > binder->model->k_max)
        binder->model->k_max = linear->k;
    if (rows * row_bytes > binder->model->panel_bytes_max)
        binder->model->panel_bytes_max = rows * row_bytes;
}

static void bind_matrix(struct binder *binder, qwen_linear *linear, const char *name,
                        const uint64_t *shape, uint32_t rank)
{
    const cenote_tensor_info *info = bind_tensor(binder, name, shape, rank, &linear->tensor_index);
    if (info == NULL)
        return;
    linear->dtype = info->dtype;
    linear->n = (uint32_t)shape[0];
    linear->k = (uint32_t)(info->size_bytes / cenote_dtype_bytes(info->dtype) / shape[0]);
    set_panel(binder, linear);
}

/* PREFIX.weight [n, k], and PREFIX.bias [n] when asked for. */
static void bind_linear(struct binder *binder, qwen_linear *linear, uint32_t n, uint32_t k,
                        bool bias, const char *format, ...) CENOTE_PRINTF(6, 7);
static void bind_linear(struct binder *binder, qwen_linear *linear, uint32_t n, uint32_t k,
                        bool bias, const char *format, ...)
{
    char prefix[200], name[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(prefix, sizeof prefix, format, arguments);
    va_end(arguments);
    const uint64_t shape[2] = {n, k};
    snprintf(name, sizeof name, "%s.weight", prefix);
    bind_matrix(binder, linear, name, shape, 2);
    linear->has_bias = bias;
    if (bias)
        bind_vector(binder, &linear->bias, n, "%s.bias", prefix);
}

/* ---- the vision tower ---- */

static void bind_patch_embed(struct binder *binder)
{
    const qwen_vision_config *vision = &binder->model->config.vision;
    qwen_linear *patch = &binder->model->patch_embed;
    const uint64_t shape[5] = {vision->hidden, vision->channels, vision->temporal_patch_size,
                               vision->patch_size, vision->patch_size};
    bind_matrix(binder, patch, "model.visual.patch_embed.proj.weight", shape, 5);
    patch->has_bias = true;
    bind_vector(binder, &patch->bias, vision->hidden, "model.visual.patch_embed.proj.bias");

    const uint64_t table[2] = {(uint64_t)vision->position_side * vision->position_side,
                               vision->hidden};
    const cenote_tensor_info *info = bind_tensor(binder, "model.visual.pos_embed.weight", table, 2,
                                                 &binder->model->position_tensor);
    if (info != NULL)
        binder->model->position_dtype = info->dtype;
}

static void bind_vision_block(struct binder *binder, uint32_t i)
{
    const qwen_vision_config *vision = &binder->model->config.vision;
    qwen_vision_block *block = &binder->model->blocks[i];
    uint32_t d = vision->hidden;
    bind_vector(binder, &block->norm1_gain, d, "model.visual.blocks.%u.norm1.weight", i);
    bind_vector(binder, &block->norm1_bias, d, "model.visual.blocks.%u.norm1.bias", i);
    bind_vector(binder, &block->norm2_gain, d, "model.visual.blocks.%u.norm2.weight", i);
    bind_vector(binder, &block->norm2_bias, d, "model.visual.blocks.%u.norm2.bias", i);
    bind_linear(binder, &block->qkv, 3 * d, d, true, "model.visual.blocks.%u.attn.qkv", i);
    bind_linear(binder, &block->proj, d, d, true, "model.visual.blocks.%u.attn.proj", i);
    bind_linear(binder, &block->fc1, vision->ffn, d, true, "model.visual.blocks.%u.mlp.linear_fc1",
                i);
    bind_linear(binder, &block->fc2, d, vision->ffn, true, "model.visual.blocks.%u.mlp.linear_fc2",
                i);
}

static void bind_merger(struct binder *binder, qwen_merger *merger, uint32_t norm_width,
                        const char *prefix)
{
    const qwen_vision_config *vision = &binder->model->config.vision;
    uint32_t merged = vision->hidden * qwen_merge_count(vision);
    bind_vector(binder, &merger->norm_gain, norm_width, "%s.norm.weight", prefix);
    bind_vector(binder, &merger->norm_bias, norm_width, "%s.norm.bias", prefix);
    bind_linear(binder, &merger->fc1, merged, merged, true, "%s.linear_fc1", prefix);
    bind_linear(binder, &merger->fc2, vision->out_hidden, merged, true, "%s.linear_fc2", prefix);
}

static void bind_vision(struct binder *binder)
{
    const qwen_vision_config *vision = &binder->model->config.vision;
    binder->class_id = QWEN_TENSOR_VISION;
    bind_patch_embed(binder);
    for (uint32_t i = 0; i < vision->depth; i++)
        bind_vision_block(binder, i);
    bind_merger(binder, &binder->model->merger, vision->hidden, "model.visual.merger");
    for (uint32_t j = 0; j < vision->deepstack_count; j++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.visual.deepstack_merger_list.%u", j);
        bind_merger(binder, &binder->model->deepstack[j], vision->hidden * qwen_merge_count(vision),
                    prefix);
    }
}

/* ---- the text decoder ---- */

#define LAYER_NAME "model.language_model.layers.%u."

static void bind_text_layer(struct binder *binder, uint32_t i)
{
    const qwen_text_config *text = &binder->model->config.text;
    qwen_text_layer *layer = &binder->model->layers[i];
    uint32_t d = text->hidden, f = text->ffn;
    uint32_t q = text->head_count * text->head_dim, kv = text->kv_head_count * text->head_dim;
    bind_vector(binder, &layer->norm1_gain, d, LAYER_NAME "input_layernorm.weight", i);
    bind_vector(binder, &layer->norm2_gain, d, LAYER_NAME "post_attention_layernorm.weight", i);
    bind_vector(binder, &layer->q_norm_gain, text->head_dim, LAYER_NAME "self_attn.q_norm.weight",
                i);
    bind_vector(binder, &layer->k_norm_gain, text->head_dim, LAYER_NAME "self_attn.k_norm.weight",
                i);
    bind_linear(binder, &layer->q, q, d, false, LAYER_NAME "self_attn.q_proj", i);
    bind_linear(binder, &layer->k, kv, d, false, LAYER_NAME "self_attn.k_proj", i);
    bind_linear(binder, &layer->v, kv, d, false, LAYER_NAME "self_attn.v_proj", i);
    bind_linear(binder, &layer->o, d, q, false, LAYER_NAME "self_attn.o_proj", i);
    bind_linear(binder, &layer->gate, f, d, false, LAYER_NAME "mlp.gate_proj", i);
    bind_linear(binder, &layer->up, f, d, false, LAYER_NAME "mlp.up_proj", i);
    bind_linear(binder, &layer->down, d, f, false, LAYER_NAME "mlp.down_proj", i);
}

static void bind_embedding_and_head(struct binder *binder)
{
    static const char embed_name[] = "model.language_model.embed_tokens.weight";
    static const char head_name[] = "lm_head.weight";
    qwen_model *model = binder->model;
    const uint64_t shape[2] = {model->config.text.vocab_size, model->config.text.hidden};
    binder->class_id = QWEN_TENSOR_EMBEDDING;
    const cenote_tensor_info *info =
        bind_tensor(binder, embed_name, shape, 2, &model->embed_tensor);
    if (info == NULL)
        return;
    model->embed_dtype = info->dtype;
    /* Tied when the flag says so, even if the file holds a head; and when it holds none. */
    uint32_t head_index;
    bool tied = model->config.text.tied ||
                cenote_weights_find(model->weights, head_name, &head_index, NULL) != CENOTE_OK;
    if (!tied)
        binder->class_id = QWEN_TENSOR_HEAD;
    bind_matrix(binder, &model->head, tied ? embed_name : head_name, shape, 2);
}

static void bind_text(struct binder *binder)
{
    qwen_model *model = binder->model;
    bind_embedding_and_head(binder);
    binder->class_id = QWEN_TENSOR_TEXT;
    for (uint32_t i = 0; i < model->config.text.layer_count; i++)
        bind_text_layer(binder, i);
    bind_vector(binder, &model->final_norm_gain, model->config.text.hidden,
                "model.language_model.norm.weight");
}

/* ---- sums ---- */

static uint64_t merger_bytes(const qwen_merger *merger)
{
    return qwen_linear_bytes(&merger->fc1) + qwen_linear_bytes(&merger->fc2);
}

static void add_up_bytes(qwen_model *model)
{
    const qwen_vision_config *vision = &model->config.vision;
    model->vision_weight_bytes =
        qwen_linear_bytes(&model->patch_embed) + merger_bytes(&model->merger);
    for (uint32_t i = 0; i < vision->depth; i++) {
        const qwen_vision_block *block = &model->blocks[i];
        model->vision_weight_bytes +=
            qwen_linear_bytes(&block->qkv) + qwen_linear_bytes(&block->proj) +
            qwen_linear_bytes(&block->fc1) + qwen_linear_bytes(&block->fc2);
    }
    for (uint32_t j = 0; j < vision->deepstack_count; j++)
        model->vision_weight_bytes += merger_bytes(&model->deepstack[j]);
    for (uint32_t i = 0; i < model->config.text.layer_count; i++) {
        const qwen_text_layer *layer = &model->layers[i];
        model->layers_weight_bytes += qwen_linear_bytes(&layer->q) + qwen_linear_bytes(&layer->k) +
                                      qwen_linear_bytes(&layer->v) + qwen_linear_bytes(&layer->o) +
                                      qwen_linear_bytes(&layer->gate) +
                                      qwen_linear_bytes(&layer->up) +
                                      qwen_linear_bytes(&layer->down);
    }
    model->head_weight_bytes = qwen_linear_bytes(&model->head);
    for (uint32_t i = 0; i < cenote_weights_count(model->weights); i++)
        model->extra_count += model->tensor_classes[i] == QWEN_TENSOR_EXTRA;
}

/* ---- open and close ---- */

static cenote_status alloc_tables(qwen_model *model, cenote_error *err)
{
    const qwen_config *config = &model->config;
    size_t blocks_bytes = config->vision.depth * sizeof *model->blocks;
    size_t layers_bytes = config->text.layer_count * sizeof *model->layers;
    model->vision_item_count = qwen_vision_program(model, NULL);
    model->text_item_count = qwen_text_program(model, NULL);
    size_t items = (size_t)model->vision_item_count + model->text_item_count;
    size_t items_bytes = items * sizeof *model->text_items;
    size_t total_bytes =
        blocks_bytes + layers_bytes + items_bytes + cenote_weights_count(model->weights);
    void *tables;
    cenote_status status = cenote_pool_alloc(model->pool, total_bytes, &tables, err);
    if (status != CENOTE_OK)
        return status;
    memset(tables, 0, total_bytes);
    model->blocks = tables;
    model->layers = (qwen_text_layer *)((unsigned char *)tables + blocks_bytes);
    model->vision_items = (void *)((unsigned char *)tables + blocks_bytes + layers_bytes);
    model->text_items = model->vision_items + model->vision_item_count;
    model->tensor_classes = (void *)(model->vision_items + items);
    return CENOTE_OK;
}

static cenote_status open_tokenizer(qwen_model *model, const char *directory, cenote_error *err)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    if (length < 0 || (size_t)length >= sizeof path)
        return cenote_error_set(err, CENOTE_E_INVAL, "path longer than %zu bytes", sizeof path - 1);
    cenote_status status = qwen_tokenizer_open(model->pool, path, &model->tokenizer, err);
    if (status != CENOTE_OK)
        return status;
    if (qwen_tokenizer_id_limit(model->tokenizer) > model->config.text.vocab_size)
        return cenote_error_set(
            err, CENOTE_E_CORRUPT, "%s: ids up to %u, config.json has `vocab_size` %u", path,
            qwen_tokenizer_id_limit(model->tokenizer) - 1, model->config.text.vocab_size);
    uint32_t pad = qwen_tokenizer_special(model->tokenizer, "<|image_pad|>");
    if (pad != QWEN_TOKEN_NONE && pad != model->config.image_token_id)
        return cenote_error_set(
            err, CENOTE_E_CORRUPT,
            "%s: `<|image_pad|>` has id %u, config.json has `image_token_id` %u", path, pad,
            model->config.image_token_id);
    model->chat_status = qwen_chat_style_read(directory, &model->chat_style, &model->chat_error);
    return CENOTE_OK;
}

/* The programs, and what it would take to hold all of what a token touches. */
static void make_programs(qwen_model *model)
{
    qwen_vision_program(model, model->vision_items);
    qwen_text_program(model, model->text_items);
    model->whole_plain_bytes = cenote_resident_whole_bytes(
        model->weights, model->text_items, model->text_item_count, CENOTE_ENCODING_PLAIN, NULL);
    model->whole_packed_bytes = cenote_resident_whole_bytes(
        model->weights, model->text_items, model->text_item_count, CENOTE_ENCODING_BF12, NULL);
    model->resident_book_bytes =
        cenote_resident_overhead_bytes(model->weights, model->text_items, model->text_item_count);
}

static cenote_status bind_all(qwen_model *model, cenote_error *err)
{
    cenote_status status = alloc_tables(model, err);
    if (status != CENOTE_OK)
        return status;
    struct binder binder = {.model = model,
                            .panel_bytes_aim = panel_bytes_aim(model->weights),
                            .err = err,
                            .status = CENOTE_OK};
    bind_text(&binder);
    bind_vision(&binder);
    if (binder.status == CENOTE_OK) {
        add_up_bytes(model);
        make_programs(model);
    }
    return binder.status;
}

cenote_status qwen_model_open(cenote_budget *budget, const char *directory, qwen_model **out_model,
                              cenote_error *err)
{
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    pool_options.quota_bytes = TABLES_BYTES_MAX;
    pool_options.class_id = CENOTE_CLASS_PARAMETERS;
    cenote_pool *pool;
    cenote_status status = cenote_pool_create(budget, &pool_options, &pool, err);
    if (status != CENOTE_OK)
        return status;
    void *memory;
    status = cenote_pool_alloc(pool, sizeof(qwen_model), &memory, err);
    if (status != CENOTE_OK) {
        cenote_pool_destroy(pool);
        return status;
    }
    qwen_model *model = memset(memory, 0, sizeof *model);
    model->budget = budget;
    model->pool = pool;
    cenote_weights_options weights_options = CENOTE_WEIGHTS_OPTIONS_INIT;
    status = qwen_config_read(directory, &model->config, err);
    if (status == CENOTE_OK)
        status = cenote_weights_open(budget, directory, &weights_options, &model->weights, err);
    if (status == CENOTE_OK)
        status = bind_all(model, err);
    if (status == CENOTE_OK)
        status = open_tokenizer(model, directory, err);
    if (status != CENOTE_OK) {
        qwen_model_close(model);
        return status;
    }
    cenote_pool_trim(pool); /* plans count what is charged from here on: none of it may go later */
    *out_model = model;
    return CENOTE_OK;
}

void qwen_model_close(qwen_model *model)
{
    if (model == NULL)
        return;
    cenote_pool *pool = model->pool;
    qwen_tokenizer_close(model->tokenizer);
    cenote_weights_close(model->weights);
    cenote_pool_free(pool, model->blocks);
    cenote_pool_free(pool, model);
    cenote_pool_destroy(pool);
}
