/* SPDX-License-Identifier: Apache-2.0 */
/* Where every byte of a budget goes, before any weight byte is read.
 *
 *   process + tables + books + small weights + scratch + staging ring + KV
 *     + the largest of { image features + picture decoding + vision tower,
 *                        image features + a chunk of prefill,
 *                        one token }
 *     + resident rows: the rest of the budget, in each of the three phases
 *
 * Three things can give: the staging ring (2 slots at least), the chunk of prefill (16 tokens at
 * least; fewer chunks read the weights fewer times), and the default of max_tokens (16 at least).
 * They are filled by worth: as large a chunk as fits, 8 slots, max_tokens; every byte beyond holds
 * weights. The smallest budget is the sum with all three at their least and nothing resident. A
 * packed copy's table is in `tables`; a limit that is too small for it alone does without the copy.
 */
#include <stdio.h>

#include "kernels/kernels.h"
#include "layout.h"
#include "plan.h"

#define SLOTS_MIN              2u
#define SLOTS_GOOD             8u
#define SLOTS_GOOD_MOST        16u
#define STAGING_BYTES_AIM      (8u << 20)
#define READERS_MAX            4u
#define CHUNK_TOKENS_MIN       16u
#define DRAFT_SHARE            20u
#define MAX_TOKENS_DEFAULT     512u
#define MAX_TOKENS_DEFAULT_MIN 16u
#define CONTEXT_DEFAULT        4096u
#define CONTEXT_DEFAULT_MIN    512u
/* New text of a turn that a session is made for; longer ones go in chunks. */
#define TURN_TOKENS 256u
/* Stack and descriptor pages that a thread touches. */
#define THREAD_BYTES (64u << 10)

/* What the search varies. */
struct choice {
    uint64_t chunk_tokens;
    uint32_t slot_count;
    uint32_t max_tokens;
    uint64_t context_tokens; /* 0: the prompt and max_tokens */
    uint32_t draft_rows;     /* 0 is 1 */
};

struct planner {
    const qwen_model *model;
    const qwen_shape *shape;
    const qwen_plan *held; /* of the session that the turn is on; NULL: nothing is held yet */
    uint64_t fresh_tokens; /* of the prompt, not in the cache yet */
    uint64_t patches;
    uint64_t patches_of_largest;
    unsigned threads;
    const cenote_pack *pack;     /* NULL: the checkpoint is read */
    uint64_t whole_packed_bytes; /* as model->whole_packed_bytes, or less: of the packed copy */
};

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t ceil_div(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

static uint64_t pool_bytes(uint64_t size_bytes)
{
    return size_bytes > 0 ? cenote_pool_charge_bytes(size_bytes) : 0;
}

/* ---- the parts of the sum ---- */

static void fill_vision(const struct planner *planner, qwen_plan *plan)
{
    const qwen_model *model = planner->model;
    const qwen_shape *shape = planner->shape;
    if (shape->image_first == shape->image_count)
        return;
    qwen_vision_layout layout;
    qwen_vision_layout_make(model, planner->patches, planner->patches_of_largest, &layout);
    plan->vision_bytes = pool_bytes(layout.size_bytes);
    plan->image_bytes = pool_bytes(qwen_features_bytes(model, planner->patches));
    uint64_t patch = model->config.vision.patch_size;
    for (uint32_t i = shape->image_first; i < shape->image_count; i++) {
        uint64_t pixels = shape->grid_h[i] * patch * shape->grid_w[i] * patch;
        plan->decode_image_bytes =
            max_u64(plan->decode_image_bytes, pool_bytes(pixels * 3) + shape->decode_bytes[i]);
    }
}

static cenote_kv_options kv_options(const struct planner *planner, uint64_t token_max)
{
    const qwen_text_config *text = &planner->model->config.text;
    cenote_kv_options options = CENOTE_KV_OPTIONS_INIT;
    options.layer_count = text->layer_count;
    options.head_count = text->kv_head_count;
    options.head_dim = text->head_dim;
    options.token_count_max = token_max;
    options.dtype = planner->shape->kv_dtype;
    return options;
}

static uint64_t ring_bytes(const struct planner *planner, uint32_t slot_count)
{
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = planner->model->panel_bytes_max;
    options.slot_count = slot_count;
    return pool_bytes(cenote_stream_ring_bytes(&options));
}

/* What the pools cost themselves; their quotas are what the run will give them. */
static uint64_t books_bytes(const struct planner *planner, const qwen_plan *plan)
{
    uint64_t books = planner->model->resident_book_bytes +
                     cenote_pool_overhead_bytes(qwen_plan_parameters_quota(plan)) +
                     cenote_pool_overhead_bytes(plan->kv_quota_bytes) +
                     cenote_pool_overhead_bytes(qwen_plan_activations_quota(plan));
    return plan->image_bytes > 0 ? books + cenote_pool_overhead_bytes(plan->image_bytes) : books;
}

static uint64_t total_bytes(const qwen_plan *plan)
{
    return plan->process_bytes + plan->books_bytes + plan->tables_bytes + plan->weights_bytes +
           plan->scratch_bytes + plan->staging_bytes + plan->kv_bytes + plan->image_bytes +
           plan->activation_bytes;
}

/* Everything that follows from a choice. @return the sum. */
static uint64_t fill(const struct planner *planner, struct choice choice, qwen_plan *plan)
{
    const qwen_model *model = planner->model;
    uint64_t token_max = choice.context_tokens > 0
                             ? choice.context_tokens
                             : planner->shape->prompt_tokens + choice.max_tokens;
    cenote_kv_options kv = kv_options(planner, token_max);
    uint64_t kv_tokens =
        planner->held != NULL ? planner->shape->prompt_tokens + choice.max_tokens : token_max;
    qwen_text_layout prefill, token;
    plan->draft_rows = choice.draft_rows > 0 ? choice.draft_rows : 1;
    qwen_text_layout_make(model, choice.chunk_tokens, 1, token_max, &prefill);
    qwen_text_layout_make(model, plan->draft_rows, plan->draft_rows, token_max, &token);
    plan->kv_quota_bytes = cenote_kv_charge_bytes(&kv, token_max);
    plan->kv_bytes = cenote_kv_charge_bytes(&kv, kv_tokens);
    plan->prefill_bytes = pool_bytes(prefill.size_bytes);
    plan->token_bytes = pool_bytes(token.size_bytes);
    plan->staging_bytes = ring_bytes(planner, choice.slot_count);
    plan->activation_bytes = max_u64(plan->vision_bytes + plan->decode_image_bytes,
                                     max_u64(plan->prefill_bytes, plan->token_bytes));
    plan->books_bytes = books_bytes(planner, plan);
    plan->max_tokens = choice.max_tokens;
    plan->context_tokens = token_max;
    plan->kv_tokens = kv_tokens;
    plan->slot_count = choice.slot_count;
    plan->prefill_chunk_tokens = choice.chunk_tokens;
    plan->prefill_weight_passes = ceil_div(planner->fresh_tokens, choice.chunk_tokens);
    return total_bytes(plan);
}

/* ---- the search ---- */

/* The largest value in [low, high] whose sum stays within the limit; low must. */
static uint64_t largest_fit(const struct planner *planner, struct choice choice, qwen_plan *plan,
                            uint64_t low, uint64_t high, void (*set)(struct choice *, uint64_t))
{
    while (low < high) {
        uint64_t middle = low + (high - low + 1) / 2;
        set(&choice, middle);
        if (fill(planner, choice, plan) <= plan->limit_bytes)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static void set_chunk(struct choice *choice, uint64_t value)
{
    choice->chunk_tokens = value;
}

static void set_slots(struct choice *choice, uint64_t value)
{
    choice->slot_count = (uint32_t)value;
}

static void set_max_tokens(struct choice *choice, uint64_t value)
{
    choice->max_tokens = (uint32_t)value;
}

static void set_context(struct choice *choice, uint64_t value)
{
    choice->context_tokens = value;
}

static void set_draft(struct choice *choice, uint64_t value)
{
    choice->draft_rows = (uint32_t)value;
}

/* As many as the disk wants at a time. */
static uint32_t slots_good(const struct planner *planner)
{
    uint32_t depth = planner->shape->read_depth;
    if (depth <= SLOTS_GOOD)
        return SLOTS_GOOD;
    return depth < SLOTS_GOOD_MOST ? depth : SLOTS_GOOD_MOST;
}

/* 8 MiB ahead, 3 ms of a quick disk: more would be memory that holds no weights. Small panels take
 * more slots for that, up to an eighth of the longest program. */
static uint32_t slots_wanted(const struct planner *planner)
{
    const qwen_model *model = planner->model;
    uint64_t longest =
        max_u64(model->vision_weight_bytes, model->layers_weight_bytes + model->head_weight_bytes);
    uint64_t aim = longest / 8 < STAGING_BYTES_AIM ? longest / 8 : STAGING_BYTES_AIM;
    uint64_t slots = aim / max_u64(1, model->panel_bytes_max);
    if (slots > CENOTE_STREAM_SLOTS_MAX)
        slots = CENOTE_STREAM_SLOTS_MAX;
    return slots > slots_good(planner) ? (uint32_t)slots : slots_good(planner);
}

/* As few chunks as fit, of equal size. */
static void choose_chunk(const struct planner *planner, struct choice *choice, qwen_plan *plan)
{
    uint64_t fresh = planner->fresh_tokens;
    set_chunk(choice, largest_fit(planner, *choice, plan, choice->chunk_tokens, fresh, set_chunk));
    set_chunk(choice, ceil_div(fresh, ceil_div(fresh, choice->chunk_tokens)));
}

static struct choice choose(const struct planner *planner, struct choice least, uint32_t tokens_top,
                            qwen_plan *plan)
{
    struct choice choice = least;
    choose_chunk(planner, &choice, plan);
    set_slots(&choice,
              largest_fit(planner, choice, plan, SLOTS_MIN, slots_good(planner), set_slots));
    set_max_tokens(
        &choice, largest_fit(planner, choice, plan, choice.max_tokens, tokens_top, set_max_tokens));
    set_slots(&choice, largest_fit(planner, choice, plan, choice.slot_count, slots_wanted(planner),
                                   set_slots));
    return choice;
}

/* The rest of a session's memory is for the turns: pictures are the largest part of them. */
static struct choice choose_session(const struct planner *planner, struct choice least,
                                    uint64_t context_top, qwen_plan *plan)
{
    struct choice choice = least;
    set_slots(&choice,
              largest_fit(planner, choice, plan, SLOTS_MIN, slots_good(planner), set_slots));
    uint64_t limit_bytes = plan->limit_bytes;
    plan->limit_bytes -= (limit_bytes - fill(planner, choice, plan)) / 2;
    set_context(&choice, largest_fit(planner, choice, plan, choice.context_tokens, context_top,
                                     set_context));
    plan->limit_bytes = limit_bytes;
    set_slots(&choice, largest_fit(planner, choice, plan, choice.slot_count, slots_wanted(planner),
                                   set_slots));
    choose_chunk(planner, &choice, plan);
    return choice;
}

/* ---- resident rows ---- */

/* What a budget has left in each phase. In 12 bits a third more rows fit, and the kernels get
 * through them faster even when all would fit as they are: there is less to fetch from memory. */
static void fill_resident(const struct planner *planner, qwen_plan *plan)
{
    const qwen_model *model = planner->model;
    uint64_t stays = total_bytes(plan) - plan->image_bytes - plan->activation_bytes;
    uint64_t tower = plan->image_bytes + plan->vision_bytes + plan->decode_image_bytes;
    uint64_t prompt = plan->image_bytes + max_u64(plan->prefill_bytes, plan->token_bytes);
    uint64_t left = plan->limit_bytes - stays;
    bool packed = !planner->shape->unpacked;
    if (planner->held != NULL) /* a session's rows keep their form */
        packed = planner->held->resident_encoding == CENOTE_ENCODING_BF12;
    uint64_t whole = packed ? planner->whole_packed_bytes : model->whole_plain_bytes;
    plan->resident_encoding = packed ? CENOTE_ENCODING_BF12 : CENOTE_ENCODING_PLAIN;
    plan->resident_vision_bytes = min_u64(whole, left - max_u64(tower, prompt));
    plan->resident_prefill_bytes = min_u64(whole, left - prompt);
    plan->resident_bytes = min_u64(whole, left - plan->token_bytes);
    plan->whole_bytes = stays + plan->token_bytes + whole;
}

/* Whether enough is read for a token that reading it for several at once is worth the work. */
static bool draft_pays(const struct planner *planner, const qwen_plan *plan)
{
    const qwen_model *model = planner->model;
    bool packed = plan->resident_encoding == CENOTE_ENCODING_BF12;
    uint64_t whole = packed ? planner->whole_packed_bytes : model->whole_plain_bytes;
    if (planner->shape->draft != QWEN_DRAFT_AUTO)
        return planner->shape->draft == QWEN_DRAFT_LOOKUP;
    return whole - plan->resident_bytes > whole / DRAFT_SHARE;
}

/* The choice with what is left: resident rows, and before them room for guesses, where they pay. */
static void fill_rest(const struct planner *planner, struct choice choice, qwen_plan *plan)
{
    fill(planner, choice, plan);
    fill_resident(planner, plan);
    if (!draft_pays(planner, plan))
        return;
    set_draft(&choice, largest_fit(planner, choice, plan, 1, QWEN_GEMV_M_MAX, set_draft));
    fill(planner, choice, plan);
    fill_resident(planner, plan);
}

/* Bytes of weights that @p resident_bytes stand for. */
static uint64_t resident_weights(const struct planner *planner, const qwen_plan *plan,
                                 uint64_t resident_bytes)
{
    const qwen_model *model = planner->model;
    bool packed = plan->resident_encoding == CENOTE_ENCODING_BF12;
    uint64_t whole = packed ? planner->whole_packed_bytes : model->whole_plain_bytes;
    double share = whole > 0 ? (double)resident_bytes / (double)whole : 0;
    return (uint64_t)(share * (double)(model->layers_weight_bytes + model->head_weight_bytes));
}

/* ---- bytes read and work ---- */

static uint64_t linear_work(const qwen_model *model, uint64_t weight_bytes)
{
    return weight_bytes / cenote_dtype_bytes(model->head.dtype);
}

/* Of streamed weights, the share that is read. */
static double read_share(const cenote_pack *pack)
{
    if (pack == NULL)
        return 1;
    cenote_pack_info info;
    cenote_pack_info_get(pack, &info);
    double weights = (double)(info.packed_weight_bytes + info.plain_weight_bytes);
    return weights > 0 ? (double)(info.packed_bytes + info.plain_weight_bytes) / weights : 1;
}

static void fill_costs(const struct planner *planner, qwen_plan *plan)
{
    const qwen_model *model = planner->model;
    const qwen_shape *shape = planner->shape;
    const qwen_vision_config *vision = &model->config.vision;
    const qwen_text_config *text = &model->config.text;
    uint64_t embed_row = text->hidden * cenote_dtype_bytes(model->embed_dtype);
    plan->weight_bytes_per_token = qwen_model_bytes_per_token(model);
    double share = read_share(planner->pack);
    plan->streamed_bytes_per_token =
        plan->weight_bytes_per_token - resident_weights(planner, plan, plan->resident_bytes);
    plan->bytes_per_token = (uint64_t)(share * (double)plan->streamed_bytes_per_token);
    double packed = model->whole_plain_bytes > 0
                        ? (double)model->whole_packed_bytes / (double)model->whole_plain_bytes
                        : 1;
    plan->packed_bytes_per_token =
        min_u64(plan->bytes_per_token, (uint64_t)(packed * (double)plan->streamed_bytes_per_token));
    plan->bytes_prefill =
        model->layers_weight_bytes + model->head_weight_bytes + planner->fresh_tokens * embed_row;
    plan->bytes_prefill += (plan->prefill_weight_passes - 1) *
                           (model->layers_weight_bytes -
                            min_u64(model->layers_weight_bytes,
                                    resident_weights(planner, plan, plan->resident_prefill_bytes)));
    double fresh = (double)planner->fresh_tokens;
    double work = fresh * (double)linear_work(model, model->layers_weight_bytes);
    work += fresh * (fresh + 2 * (double)shape->past_tokens) * text->layer_count *
            text->head_count * text->head_dim;
    if (shape->image_first < shape->image_count) {
        uint64_t table_bytes = (uint64_t)vision->position_side * vision->position_side *
                               vision->hidden * cenote_dtype_bytes(model->position_dtype);
        plan->bytes_prefill +=
            model->vision_weight_bytes + table_bytes * (shape->image_count - shape->image_first);
        work += (double)planner->patches * (double)linear_work(model, model->vision_weight_bytes);
        for (uint32_t i = shape->image_first; i < shape->image_count; i++) {
            double patches = (double)shape->grid_h[i] * shape->grid_w[i];
            work += 2 * patches * patches * vision->hidden * vision->depth;
        }
    }
    plan->bytes_prefill = (uint64_t)(share * (double)plan->bytes_prefill);
    plan->flops_before_first_token = 2 * work;
}

/* ---- public ---- */

static cenote_status check_shape(const qwen_model *model, const qwen_shape *shape,
                                 cenote_error *err)
{
    if (shape->prompt_tokens == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "the prompt has no tokens");
    if (shape->image_count > QWEN_IMAGES_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "%u images, at most %u", shape->image_count,
                                QWEN_IMAGES_MAX);
    uint64_t wanted = shape->prompt_tokens + (shape->max_tokens > 0 ? shape->max_tokens : 1);
    if (wanted > model->config.text.position_max)
        return cenote_error_set(
            err, CENOTE_E_INVAL,
            "%llu prompt tokens and %u to produce: the model admits %u together",
            (unsigned long long)shape->prompt_tokens, shape->max_tokens > 0 ? shape->max_tokens : 1,
            model->config.text.position_max);
    return CENOTE_OK;
}

static uint64_t tables_bytes(const qwen_model *model)
{
    cenote_budget_stats stats;
    cenote_budget_stats_get(model->budget, &stats);
    return stats.charged_bytes > QWEN_PROCESS_BYTES ? stats.charged_bytes - QWEN_PROCESS_BYTES : 0;
}

static uint32_t min_u32(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

static uint64_t whole_packed(const qwen_model *model, const cenote_pack *pack)
{
    if (pack == NULL)
        return model->whole_packed_bytes;
    return cenote_resident_whole_bytes(model->weights, model->text_items, model->text_item_count,
                                       CENOTE_ENCODING_BF12, pack);
}

static void planner_init(struct planner *planner, const qwen_model *model, const qwen_shape *shape,
                         const qwen_plan *held)
{
    *planner = (struct planner){.model = model, .shape = shape, .held = held};
    planner->fresh_tokens = shape->prompt_tokens - shape->past_tokens;
    for (uint32_t i = shape->image_first; i < shape->image_count; i++) {
        uint64_t patches = (uint64_t)shape->grid_h[i] * shape->grid_w[i];
        planner->patches += patches;
        planner->patches_of_largest = max_u64(planner->patches_of_largest, patches);
    }
    planner->threads = shape->thread_count > 0 ? shape->thread_count : cenote_cpu_count();
    planner->pack = shape->unpacked ? NULL : shape->pack;
    if (held != NULL)
        planner->pack = held->pack;
    planner->whole_packed_bytes = whole_packed(model, planner->pack);
}

/* What does not depend on a choice. */
static qwen_plan plan_init(const struct planner *planner, uint64_t limit_bytes)
{
    const qwen_model *model = planner->model;
    const qwen_plan *held = planner->held;
    qwen_plan plan = {.limit_bytes = limit_bytes};
    plan.thread_count = planner->threads;
    plan.panel_bytes = model->panel_bytes_max;
    plan.process_bytes = QWEN_PROCESS_BYTES + (planner->threads + READERS_MAX) * THREAD_BYTES;
    plan.tables_bytes = held != NULL ? held->tables_bytes : tables_bytes(model);
    plan.weights_bytes = pool_bytes(model->resident_floats * sizeof(float));
    plan.scratch_bytes = pool_bytes(qwen_kernels_scratch_bytes(planner->threads, model->k_max));
    plan.pack = planner->pack;
    fill_vision(planner, &plan);
    return plan;
}

/* Whether the least fits, without the packed copy if need be. */
static void fit(struct planner *planner, struct choice least, qwen_plan *plan)
{
    bool may_go = planner->pack != NULL && !planner->shape->pack_required;
    uint64_t copy = may_go ? cenote_pack_memory_bytes(planner->pack) : 0;
    uint64_t with_copy = fill(planner, least, plan);
    plan->smallest_bytes = with_copy - copy;
    plan->fits = plan->smallest_bytes <= plan->limit_bytes;
    if (!may_go || with_copy <= plan->limit_bytes)
        return;
    plan->pack = planner->pack = NULL;
    plan->pack_left_out = true;
    plan->tables_bytes -= copy;
    planner->whole_packed_bytes = whole_packed(planner->model, NULL);
    fill(planner, least, plan);
}

cenote_status qwen_plan_make(const qwen_model *model, const qwen_shape *shape, uint64_t limit_bytes,
                             qwen_plan *out_plan, cenote_error *err)
{
    cenote_status status = check_shape(model, shape, err);
    if (status != CENOTE_OK)
        return status;
    struct planner planner;
    planner_init(&planner, model, shape, NULL);
    qwen_plan plan = plan_init(&planner, limit_bytes);
    uint64_t room = model->config.text.position_max - shape->prompt_tokens;
    struct choice least = {
        .chunk_tokens = min_u32(shape->prompt_tokens, CHUNK_TOKENS_MIN),
        .slot_count = SLOTS_MIN,
        .max_tokens =
            shape->max_tokens > 0 ? shape->max_tokens : min_u32(room, MAX_TOKENS_DEFAULT_MIN),
    };
    uint32_t tokens_top =
        shape->max_tokens > 0 ? shape->max_tokens : min_u32(room, MAX_TOKENS_DEFAULT);
    fit(&planner, least, &plan);
    if (plan.fits) {
        struct choice choice = choose(&planner, least, tokens_top, &plan);
        fill_rest(&planner, choice, &plan);
    }
    fill_costs(&planner, &plan);
    *out_plan = plan;
    return CENOTE_OK;
}

cenote_status qwen_plan_session(const qwen_model *model, const qwen_shape *shape,
                                uint64_t limit_bytes, qwen_plan *out_plan, cenote_error *err)
{
    uint64_t position_max = model->config.text.position_max;
    if (shape->context_tokens > position_max)
        return cenote_error_set(
            err, CENOTE_E_INVAL, "a context of %llu tokens: the model admits %llu",
            (unsigned long long)shape->context_tokens, (unsigned long long)position_max);
    bool given = shape->context_tokens > 0;
    struct choice least = {
        .slot_count = SLOTS_MIN,
        .max_tokens = 1,
        .context_tokens =
            given ? shape->context_tokens : min_u32(position_max, CONTEXT_DEFAULT_MIN),
    };
    const qwen_shape typical = {
        .prompt_tokens = min_u32(least.context_tokens, TURN_TOKENS),
        .kv_dtype = shape->kv_dtype,
        .thread_count = shape->thread_count,
        .unpacked = shape->unpacked,
        .draft = shape->draft,
        .read_depth = shape->read_depth,
        .pack = shape->pack,
        .pack_required = shape->pack_required,
    };
    least.chunk_tokens = min_u32(typical.prompt_tokens, CHUNK_TOKENS_MIN);
    struct planner planner;
    planner_init(&planner, model, &typical, NULL);
    qwen_plan plan = plan_init(&planner, limit_bytes);
    uint64_t context_top = given ? shape->context_tokens : min_u32(position_max, CONTEXT_DEFAULT);
    fit(&planner, least, &plan);
    if (plan.fits) {
        struct choice choice = choose_session(&planner, least, context_top, &plan);
        fill_rest(&planner, choice, &plan);
    }
    fill_costs(&planner, &plan);
    *out_plan = plan;
    return CENOTE_OK;
}

cenote_status qwen_plan_turn(const qwen_model *model, const qwen_shape *shape,
                             const qwen_plan *held, uint64_t limit_bytes, qwen_plan *out_plan,
                             cenote_error *err)
{
    if (shape->prompt_tokens >= held->context_tokens)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "the conversation has %llu tokens with this message, and there is "
                                "room for %llu",
                                (unsigned long long)shape->prompt_tokens,
                                (unsigned long long)held->context_tokens);
    struct planner planner;
    planner_init(&planner, model, shape, held);
    qwen_plan plan = plan_init(&planner, limit_bytes);
    uint64_t room = held->context_tokens - shape->prompt_tokens;
    bool given = shape->max_tokens > 0;
    struct choice choice = {
        .chunk_tokens = min_u32(planner.fresh_tokens, CHUNK_TOKENS_MIN),
        .slot_count = held->slot_count,
        .max_tokens = min_u32(room, given ? shape->max_tokens : MAX_TOKENS_DEFAULT_MIN),
        .context_tokens = held->context_tokens,
    };
    uint32_t tokens_top = min_u32(room, given ? shape->max_tokens : MAX_TOKENS_DEFAULT);
    plan.smallest_bytes = fill(&planner, choice, &plan);
    plan.fits = plan.smallest_bytes <= limit_bytes;
    if (plan.fits) {
        choose_chunk(&planner, &choice, &plan);
        set_max_tokens(&choice, largest_fit(&planner, choice, &plan, choice.max_tokens, tokens_top,
                                            set_max_tokens));
        fill_rest(&planner, choice, &plan);
    }
    fill_costs(&planner, &plan);
    *out_plan = plan;
    return CENOTE_OK;
}

static unsigned long long mib(uint64_t bytes)
{
    return (unsigned long long)ceil_div(bytes, 1u << 20);
}

void qwen_plan_explain(const qwen_plan *plan, char *text, size_t text_bytes)
{
    uint64_t pictures = plan->image_bytes;
    uint64_t phase = plan->activation_bytes;
    const char *phase_name = "for activations";
    if (plan->vision_bytes > 0 && phase == plan->vision_bytes + plan->decode_image_bytes)
        phase_name = "for the vision tower";
    int used =
        snprintf(text, text_bytes,
                 "needs at least %llu MiB: %llu process, %llu tokenizer and tables, %llu staging, "
                 "%llu KV for %llu tokens, %llu small weights and scratch, %llu %s",
                 mib(plan->smallest_bytes), mib(plan->process_bytes),
                 mib(plan->tables_bytes + plan->books_bytes), mib(plan->staging_bytes),
                 mib(plan->kv_bytes), (unsigned long long)plan->kv_tokens,
                 mib(plan->weights_bytes + plan->scratch_bytes), mib(phase), phase_name);
    if (pictures > 0 && used > 0 && (size_t)used < text_bytes)
        snprintf(text + used, text_bytes - (size_t)used, ", %llu image features", mib(pictures));
}
