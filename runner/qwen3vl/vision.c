/* SPDX-License-Identifier: Apache-2.0 */
/* The vision tower: pixels of all images -> image features, each weight byte read once.
 *
 *   patch rows -> patch embed + interpolated positions -> depth x { LN, attention, LN, MLP }
 *   after chosen blocks: deepstack merger -> features[1 + j];  at the end: merger -> features[0]
 *
 * All images go through a layer together; attention stays inside one image (transformers
 * models/qwen3_vl/modeling_qwen3_vl.py, Qwen3VLVisionModel). Rows are in merge-block order from the
 * start, so that merging 2 x 2 patches is a view: rows [4t, 4t + 4) are token t. */
#include <math.h>

#include "fault.h"
#include "run.h"

#define LAYER_NORM_EPS    1e-6f
#define VISION_ROPE_THETA 10000.0f
#define NO_LINE           UINT32_MAX

struct tower {
    qwen_run *run;
    const qwen_vision_config *config;
    qwen_vision_layout layout;
    unsigned char *block;
    uint64_t patches; /* of all images */
    float *pixels, *residual, *normed, *wide, *cosines, *sines;
};

/* ---- program ---- */

static void add_merger(cenote_stream_item *items, uint32_t *count, const qwen_merger *merger)
{
    qwen_program_add(items, count, &merger->fc1);
    qwen_program_add(items, count, &merger->fc2);
}

static uint32_t deepstack_of_block(const qwen_vision_config *config, uint32_t block)
{
    for (uint32_t j = 0; j < config->deepstack_count; j++)
        if (config->deepstack_block[j] == block)
            return j;
    return UINT32_MAX;
}

uint32_t qwen_vision_program(const qwen_model *model, cenote_stream_item *out_items)
{
    const qwen_vision_config *config = &model->config.vision;
    uint32_t count = 0;
    if (out_items == NULL)
        return 1 + 4 * config->depth + 2 * (1 + config->deepstack_count);
    qwen_program_add(out_items, &count, &model->patch_embed);
    for (uint32_t i = 0; i < config->depth; i++) {
        qwen_program_add(out_items, &count, &model->blocks[i].qkv);
        qwen_program_add(out_items, &count, &model->blocks[i].proj);
        qwen_program_add(out_items, &count, &model->blocks[i].fc1);
        qwen_program_add(out_items, &count, &model->blocks[i].fc2);
        uint32_t j = deepstack_of_block(config, i);
        if (j != UINT32_MAX)
            add_merger(out_items, &count, &model->deepstack[j]);
    }
    add_merger(out_items, &count, &model->merger);
    return count;
}

/* ---- pixels ---- */

/* The file may have been replaced since it was planned for. */
static cenote_status check_picture(const qwen_run *run, uint32_t image, uint32_t height,
                                   uint32_t width, cenote_error *err)
{
    const char *path = run->image_paths[image];
    uint64_t needs_bytes, planned_bytes = run->shape->decode_bytes[image];
    cenote_status status = qwen_image_load_bytes(path, height, width, &needs_bytes, err);
    if (status == CENOTE_OK && needs_bytes > planned_bytes)
        status = cenote_error_set(err, CENOTE_E_CHANGED,
                                  "%.300s: changed since it was looked at: decoding takes %llu "
                                  "bytes now, %llu were planned",
                                  path, (unsigned long long)needs_bytes,
                                  (unsigned long long)planned_bytes);
    return status;
}

/* One image's pixels become patch rows; only one picture is decoded at a time. */
static cenote_status load_patches(struct tower *tower, uint32_t image, uint64_t first_patch,
                                  cenote_error *err)
{
    qwen_run *run = tower->run;
    const qwen_vision_config *config = tower->config;
    uint32_t height = run->shape->grid_h[image] * config->patch_size;
    uint32_t width = run->shape->grid_w[image] * config->patch_size;
    uint64_t decode_bytes = run->shape->decode_bytes[image];
    cenote_status status = check_picture(run, image, height, width, err);
    if (status == CENOTE_OK)
        status = cenote_budget_charge(run->model->budget, decode_bytes, "decoding a picture", err);
    if (status != CENOTE_OK)
        return status;
    void *rgb;
    status = cenote_pool_alloc(run->activations, (uint64_t)height * width * 3, &rgb, err);
    if (status == CENOTE_OK) {
        status = qwen_image_load(run->image_paths[image], height, width, rgb, err);
        uint32_t columns = qwen_patch_columns(config);
        if (status == CENOTE_OK)
            qwen_image_patches(rgb, height, width, config->patch_size, config->temporal_patch_size,
                               config->merge_size, 0,
                               (uint64_t)run->shape->grid_h[image] * run->shape->grid_w[image],
                               tower->pixels + first_patch * columns);
        qwen_run_note_page_tables(run);
        cenote_pool_free(run->activations, rgb);
        cenote_pool_trim(run->activations);
    }
    cenote_budget_uncharge(run->model->budget, decode_bytes);
    return status;
}

/* ---- positions ---- */

/* Grid row and column of row `index` of an image, rows in merge-block order. */
static void patch_place(const qwen_vision_config *config, uint32_t grid_w, uint64_t index,
                        uint32_t *out_row, uint32_t *out_column)
{
    uint32_t merge = config->merge_size;
    uint32_t inside = (uint32_t)(index % (merge * merge));
    uint64_t block = index / (merge * merge);
    uint32_t blocks_w = grid_w / merge;
    *out_row = (uint32_t)(block / blocks_w) * merge + inside / merge;
    *out_column = (uint32_t)(block % blocks_w) * merge + inside % merge;
}

/* The other way round. */
static uint64_t patch_index(const qwen_vision_config *config, uint32_t grid_w, uint32_t row,
                            uint32_t column)
{
    uint32_t merge = config->merge_size;
    uint64_t block = (uint64_t)(row / merge) * (grid_w / merge) + column / merge;
    return block * merge * merge + (row % merge) * merge + column % merge;
}

/* torch.linspace(0, side - 1, count)[i] in fp32: from the nearer end. */
static float grid_coordinate(uint32_t side, uint32_t count, uint32_t i)
{
    if (count == 1)
        return 0;
    float step = (float)(side - 1) / (float)(count - 1);
    if (i < count / 2)
        return step * (float)i;
    return (float)(side - 1) - step * (float)(count - 1 - i);
}

/* The two lines of the position table that a grid row needs, read from the file by the line. */
struct position_lines {
    uint32_t line[2]; /* which line lies in slot 0 and 1 */
    float *slot[2];   /* [side][hidden] */
    void *raw;
};

static cenote_status fetch_line(struct tower *tower, struct position_lines *lines, uint32_t line,
                                uint32_t keep, uint32_t *out_slot, cenote_error *err)
{
    for (uint32_t s = 0; s < 2; s++)
        if (lines->line[s] == line) {
            *out_slot = s;
            return CENOTE_OK;
        }
    uint32_t s = lines->line[0] == keep ? 1 : 0;
    const qwen_model *model = tower->run->model;
    uint64_t count = (uint64_t)tower->config->position_side * tower->config->hidden;
    uint64_t line_bytes = count * cenote_dtype_bytes(model->position_dtype);
    cenote_status status = cenote_weights_read(model->weights, model->position_tensor,
                                               line * line_bytes, line_bytes, lines->raw, err);
    if (status != CENOTE_OK)
        return status;
    qwen_widen(model->position_dtype, lines->raw, count, lines->slot[s]);
    lines->line[s] = line;
    *out_slot = s;
    return CENOTE_OK;
}

/* Adds the bilinear mean of four table rows to one patch. */
static void add_position(const struct tower *tower, float *x, const float *top, const float *bottom,
                         float row_fraction, float column)
{
    uint32_t hidden = tower->config->hidden, side = tower->config->position_side;
    uint32_t c0 = (uint32_t)column;
    uint32_t c1 = c0 + 1 < side ? c0 + 1 : side - 1;
    float dc = column - (float)c0, dr = row_fraction;
    if (QWEN_FAULT(TABLE_NEAREST))
        dc = roundf(dc), dr = roundf(dr);
    float w00 = (1 - dr) * (1 - dc), w01 = (1 - dr) * dc, w10 = dr * (1 - dc), w11 = dr * dc;
    const float *t00 = top + (size_t)c0 * hidden, *t01 = top + (size_t)c1 * hidden;
    const float *t10 = bottom + (size_t)c0 * hidden, *t11 = bottom + (size_t)c1 * hidden;
    for (uint32_t i = 0; i < hidden; i++)
        x[i] += w00 * t00[i] + w01 * t01[i] + w10 * t10[i] + w11 * t11[i];
}

static cenote_status add_position_row(struct tower *tower, struct position_lines *lines,
                                      uint32_t image, uint64_t first_patch, uint32_t row,
                                      cenote_error *err)
{
    const qwen_vision_config *config = tower->config;
    uint32_t grid_h = tower->run->shape->grid_h[image], grid_w = tower->run->shape->grid_w[image];
    float at = grid_coordinate(config->position_side, grid_h, row);
    uint32_t r0 = (uint32_t)at;
    uint32_t r1 = r0 + 1 < config->position_side ? r0 + 1 : r0;
    uint32_t top, bottom;
    cenote_status status = fetch_line(tower, lines, r0, r1, &top, err);
    if (status == CENOTE_OK)
        status = fetch_line(tower, lines, r1, r0, &bottom, err);
    if (status != CENOTE_OK)
        return status;
    for (uint32_t column = 0; column < grid_w; column++) {
        uint64_t index = patch_index(config, grid_w, row, column);
        if (QWEN_FAULT(TABLE_TURNED) && grid_h == grid_w)
            index = patch_index(config, grid_w, column, row);
        add_position(tower, tower->residual + (first_patch + index) * config->hidden,
                     lines->slot[top], lines->slot[bottom], at - (float)r0,
                     grid_coordinate(config->position_side, grid_w, column));
    }
    return CENOTE_OK;
}

static cenote_status add_positions(struct tower *tower, uint32_t image, uint64_t first_patch,
                                   cenote_error *err)
{
    float *slots = (float *)(tower->block + tower->layout.position_lines);
    struct position_lines lines = {
        .line = {NO_LINE, NO_LINE},
        .slot = {slots, slots + (size_t)tower->config->position_side * tower->config->hidden},
        .raw = tower->block + tower->layout.position_raw,
    };
    if (QWEN_FAULT(TABLE_LEFT_OUT))
        return CENOTE_OK;
    for (uint32_t row = 0; row < tower->run->shape->grid_h[image]; row++) {
        cenote_status status = add_position_row(tower, &lines, image, first_patch, row, err);
        if (status != CENOTE_OK)
            return status;
    }
    return CENOTE_OK;
}

/* Angles of the 2-D rotary form: first quarter of a head turns with the row, second with the
 * column; fp32 throughout. */
static void fill_rotary(struct tower *tower, uint32_t image, uint64_t first_patch)
{
    const qwen_vision_config *config = tower->config;
    uint32_t grid_h = tower->run->shape->grid_h[image], grid_w = tower->run->shape->grid_w[image];
    uint32_t half = config->hidden / config->head_count / 2, quarter = half / 2;
    for (uint64_t index = 0; index < (uint64_t)grid_h * grid_w; index++) {
        uint32_t place[2];
        patch_place(config, grid_w, index, &place[0], &place[1]);
        float *cosines = tower->cosines + (first_patch + index) * half;
        float *sines = tower->sines + (first_patch + index) * half;
        for (uint32_t i = 0; i < half; i++) {
            uint32_t pair = i % quarter;
            float inverse = 1.0f / powf(VISION_ROPE_THETA, (float)(2 * pair) / (float)half);
            uint32_t axis = QWEN_FAULT(TOWER_ROTARY_TURNED) ? 1 - i / quarter : i / quarter;
            float angle = (float)place[axis] * inverse;
            cosines[i] = cosf(angle);
            sines[i] = sinf(angle);
        }
    }
}

/* ---- blocks ---- */

static cenote_status linear(struct tower *tower, const qwen_linear *matrix, const float *a,
                            uint64_t m, float *c, bool accumulate, cenote_error *err)
{
    const qwen_rows rows = {
        .a = a,
        .a_stride = matrix->k,
        .c = c,
        .c_stride = matrix->n,
        .m = m,
        .accumulate = accumulate,
    };
    return qwen_run_linear(tower->run, matrix, &rows, err);
}

static void layer_norm(struct tower *tower, const qwen_vector *gain, const qwen_vector *bias,
                       uint64_t rows, uint64_t n)
{
    qwen_layer_norm(tower->run->kernels, tower->normed, n, tower->residual, n, rows, n,
                    qwen_run_vector(tower->run, gain), qwen_run_vector(tower->run, bias),
                    LAYER_NORM_EPS);
}

/* Attention of one image over its rows of the qkv matrix, into `normed`. */
static cenote_status attend_image(struct tower *tower, uint64_t first_patch, uint64_t count,
                                  cenote_error *err)
{
    const qwen_vision_config *config = tower->config;
    uint32_t hidden = config->hidden, head_dim = hidden / config->head_count;
    size_t stride = 3 * (size_t)hidden;
    float *qkv = tower->wide + first_patch * stride;
    const void **keys = (const void **)(void *)(tower->block + tower->layout.keys);
    const void **values = (const void **)(void *)(tower->block + tower->layout.values);
    for (uint64_t b = 0; b * CENOTE_KV_BLOCK_TOKENS < count; b++) {
        keys[b] = qkv + b * CENOTE_KV_BLOCK_TOKENS * stride + hidden;
        values[b] = qkv + b * CENOTE_KV_BLOCK_TOKENS * stride + 2 * hidden;
    }
    const qwen_attention attention = {
        .q = qkv,
        .q_stride = stride,
        .out = tower->normed + first_patch * hidden,
        .out_stride = hidden,
        .query_count = count,
        .head_count = config->head_count,
        .kv_head_count = config->head_count,
        .head_dim = head_dim,
        .keys = keys,
        .values = values,
        .head_stride = head_dim,
        .row_stride = stride,
        .kv_dtype = CENOTE_DTYPE_F32,
        .key_count = count,
        .causal = false,
        .scale = 1.0f / sqrtf((float)head_dim),
    };
    return qwen_run_attend(tower->run, &attention, err);
}

static cenote_status run_block(struct tower *tower, const qwen_vision_block *block,
                               cenote_error *err)
{
    const qwen_vision_config *config = tower->config;
    const qwen_shape *shape = tower->run->shape;
    uint32_t hidden = config->hidden;
    layer_norm(tower, &block->norm1_gain, &block->norm1_bias, tower->patches, hidden);
    cenote_status status =
        linear(tower, &block->qkv, tower->normed, tower->patches, tower->wide, false, err);
    if (status != CENOTE_OK)
        return status;
    /* q and k lie side by side: one call turns the heads of both. */
    if (!QWEN_FAULT(TOWER_NO_ROTARY))
        qwen_rope(tower->run->kernels, tower->wide, 3 * (size_t)hidden, tower->patches,
                  2 * config->head_count, hidden / config->head_count, tower->cosines,
                  tower->sines);
    uint64_t first = 0;
    for (uint32_t image = shape->image_first; status == CENOTE_OK && image < shape->image_count;
         image++) {
        uint64_t count = (uint64_t)shape->grid_h[image] * shape->grid_w[image];
        status = attend_image(tower, first, count, err);
        first += count;
    }
    if (status == CENOTE_OK)
        status =
            linear(tower, &block->proj, tower->normed, tower->patches, tower->residual, true, err);
    if (status != CENOTE_OK)
        return status;
    layer_norm(tower, &block->norm2_gain, &block->norm2_bias, tower->patches, hidden);
    status = linear(tower, &block->fc1, tower->normed, tower->patches, tower->wide, false, err);
    if (status != CENOTE_OK)
        return status;
    qwen_gelu_tanh(tower->run->kernels, tower->wide, tower->patches * config->ffn);
    return linear(tower, &block->fc2, tower->wide, tower->patches, tower->residual, true, err);
}

/* norm_width is hidden (norm, then merge) or the merged width (merge, then norm): the same rows
 * seen wider. */
static cenote_status run_merger(struct tower *tower, const qwen_merger *merger, float *out,
                                cenote_error *err)
{
    uint32_t merge = qwen_merge_count(tower->config);
    uint64_t tokens = tower->patches / merge;
    uint64_t norm_width = merger->norm_gain.count;
    layer_norm(tower, &merger->norm_gain, &merger->norm_bias,
               tower->patches * tower->config->hidden / norm_width, norm_width);
    cenote_status status =
        linear(tower, &merger->fc1, tower->normed, tokens, tower->wide, false, err);
    if (status != CENOTE_OK)
        return status;
    (QWEN_FAULT(MERGER_GELU_TANH) ? qwen_gelu_tanh : qwen_gelu_erf)(
        tower->run->kernels, tower->wide, tokens * merger->fc1.n);
    return linear(tower, &merger->fc2, tower->wide, tokens, out, false, err);
}

/* ---- the whole ---- */

static void stage_images(const struct tower *tower, const char *name, int number,
                         const float *values, uint64_t columns, uint32_t patches_per_row)
{
    const qwen_shape *shape = tower->run->shape;
    uint64_t first = 0;
    for (uint32_t image = shape->image_first; image < shape->image_count; image++) {
        uint64_t rows = (uint64_t)shape->grid_h[image] * shape->grid_w[image] / patches_per_row;
        qwen_run_stage(tower->run, name, number, image, values + first * columns, rows, columns);
        first += rows;
    }
}

static cenote_status embed_patches(struct tower *tower, cenote_error *err)
{
    const qwen_shape *shape = tower->run->shape;
    uint64_t first = 0;
    for (uint32_t image = shape->image_first; image < shape->image_count; image++) {
        cenote_status status = load_patches(tower, image, first, err);
        if (status != CENOTE_OK)
            return status;
        first += (uint64_t)shape->grid_h[image] * shape->grid_w[image];
    }
    cenote_status status = linear(tower, &tower->run->model->patch_embed, tower->pixels,
                                  tower->patches, tower->residual, false, err);
    if (status != CENOTE_OK)
        return status;
    stage_images(tower, "patch_embed", -1, tower->residual, tower->config->hidden, 1);
    first = 0;
    for (uint32_t image = shape->image_first; image < shape->image_count; image++) {
        fill_rotary(tower, image, first);
        status = add_positions(tower, image, first, err);
        if (status != CENOTE_OK)
            return status;
        first += (uint64_t)shape->grid_h[image] * shape->grid_w[image];
    }
    return CENOTE_OK;
}

static cenote_status run_tower(struct tower *tower, cenote_error *err)
{
    qwen_run *run = tower->run;
    const qwen_model *model = run->model;
    uint32_t merge = qwen_merge_count(tower->config);
    uint64_t feature_floats = run->feature_rows * model->config.text.hidden;
    cenote_status status = embed_patches(tower, err);
    for (uint32_t i = 0; status == CENOTE_OK && i < tower->config->depth; i++) {
        status = run_block(tower, &model->blocks[i], err);
        if (status != CENOTE_OK)
            break;
        stage_images(tower, "vision", (int)i, tower->residual, tower->config->hidden, 1);
        uint32_t j = deepstack_of_block(tower->config, i);
        if (j == UINT32_MAX)
            continue;
        float *out = run->features + (1 + j) * feature_floats;
        status = run_merger(tower, &model->deepstack[j], out, err);
        if (status == CENOTE_OK)
            stage_images(tower, "deepstack", (int)j, out, model->config.text.hidden, merge);
    }
    if (status == CENOTE_OK)
        status = run_merger(tower, &model->merger, run->features, err);
    if (status == CENOTE_OK)
        stage_images(tower, "merger", -1, run->features, model->config.text.hidden, merge);
    return status;
}

cenote_status qwen_vision_run(qwen_run *run, cenote_error *err)
{
    struct tower tower = {.run = run, .config = &run->model->config.vision};
    uint64_t largest = 0;
    for (uint32_t image = run->shape->image_first; image < run->shape->image_count; image++) {
        uint64_t count = (uint64_t)run->shape->grid_h[image] * run->shape->grid_w[image];
        tower.patches += count;
        largest = count > largest ? count : largest;
    }
    qwen_vision_layout_make(run->model, tower.patches, largest, &tower.layout);
    void *block;
    cenote_status status =
        cenote_pool_alloc(run->activations, tower.layout.size_bytes, &block, err);
    if (status != CENOTE_OK)
        return status;
    tower.block = block;
    tower.pixels = (float *)(tower.block + tower.layout.pixels);
    tower.residual = (float *)(tower.block + tower.layout.residual);
    tower.normed = (float *)(tower.block + tower.layout.normed);
    tower.wide = (float *)(tower.block + tower.layout.wide);
    tower.cosines = (float *)(tower.block + tower.layout.cosines);
    tower.sines = (float *)(tower.block + tower.layout.sines);

    qwen_run_phase(run, QWEN_PHASE_VISION, run->model->vision_weight_bytes);
    status = cenote_stream_start(run->stream, run->model->vision_items,
                                 run->model->vision_item_count, 1, err);
    if (status == CENOTE_OK)
        status = run_tower(&tower, err);
    cenote_stream_stop(run->stream);
    qwen_run_note_page_tables(run);
    cenote_pool_free(run->activations, block);
    cenote_pool_trim(run->activations);
    return status;
}
