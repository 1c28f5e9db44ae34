/* SPDX-License-Identifier: Apache-2.0 */
#include "demand_script.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <cenote/tensor_cache.h>

#define KIB     UINT64_C(1024)
#define MIB     (KIB * KIB)
#define GRANULE ((uint64_t)CENOTE_GRANULE_BYTES)
#define PROCESS MIB
#define POOLS   4
#define LIVE    24
#define CHUNK   (2 * MIB)

#define SMALL_FIRST 2 /* pools from here on have small blocks */
/* Their book-keeping may grow with a block: five pieces and page tables. */
#define SMALL_BOOKS_BYTES (5 * (64 * KIB + 128) + 12 * KIB)

#define STEP_BYTES ((size_t)DEMAND_SCRIPT_STEP_BYTES)

enum op {
    OP_ALLOC,
    OP_FREE,
    OP_GET,
    OP_RELEASE,
    OP_REBUILDABLE,
    OP_TRIM,
    OP_QUOTA,
    OP_LIMIT,
    OP_CHARGE,
    OP_COUNT
};
static const char *const op_names[OP_COUNT] = {
    "alloc", "free", "get", "release", "rebuildable", "trim", "quota", "limit", "charge",
};

/* Of sixteen dice. */
static const enum op dice[16] = {
    OP_ALLOC, OP_ALLOC, OP_ALLOC,   OP_FREE,    OP_FREE,    OP_GET,  OP_GET,         OP_GET,
    OP_GET,   OP_GET,   OP_RELEASE, OP_RELEASE, OP_RELEASE, OP_FREE, OP_REBUILDABLE, OP_COUNT,
};
/* The last of them, of eight. */
static const enum op seldom[8] = {
    OP_TRIM, OP_TRIM, OP_QUOTA, OP_QUOTA, OP_LIMIT, OP_LIMIT, OP_LIMIT, OP_CHARGE,
};

static const cenote_class classes[POOLS] = {CENOTE_CLASS_PARAMETERS, CENOTE_CLASS_ATTENTION,
                                            CENOTE_CLASS_IMAGE_FEATURES, CENOTE_CLASS_GENERAL};
static const uint64_t quotas[POOLS] = {8 * MIB, 4 * MIB, 5 * MIB, 16 * MIB};

/* Somebody's; all else may go. */
struct live {
    unsigned char *data;  /* a block; or */
    cenote_tensor tensor; /* lent */
    uint64_t size_bytes;  /* 0: an empty place */
    unsigned char mark;
};

struct world {
    cenote_budget *budget;
    cenote_pool *pools[POOLS];
    cenote_tensor_cache *cache; /* over all but the first */
    struct live live[POOLS][LIVE];
    cenote_tensor rebuildable[POOLS][LIVE]; /* live or dropped */
    uint64_t quota_bytes[POOLS];
    uint64_t limit_bytes, held_bytes;
    unsigned char next_mark;
    unsigned dropped;
};

/* ---- the model ---- */

static uint64_t granules_of(uint64_t size_bytes)
{
    return (size_bytes + GRANULE - 1) / GRANULE;
}

/* The most that a block takes: in pools with small blocks it may be rounded by an eighth, and keep
 * a granule alive that others have left. */
static uint64_t block_bytes(unsigned p, uint64_t size_bytes)
{
    return p < SMALL_FIRST ? size_bytes : size_bytes + size_bytes / 8 + GRANULE;
}

/* With a page table page for each chunk that it may touch. */
static uint64_t cost_of(unsigned p, uint64_t size_bytes)
{
    uint64_t bytes = block_bytes(p, size_bytes);
    return cenote_pool_charge_bytes(bytes) + (bytes / CHUNK + 2) * 4096;
}

static uint64_t live_granules(const struct world *w, unsigned p)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < LIVE; i++)
        if (w->live[p][i].size_bytes > 0)
            sum += granules_of(block_bytes(p, w->live[p][i].size_bytes));
    return sum;
}

/* What pools, tables and the cache charge for themselves. */
static uint64_t books_bytes(const struct world *w)
{
    uint64_t sum = 0;
    cenote_tensor_stats tensors;
    cenote_tensor_cache_stats cache;
    cenote_pool_stats pool;
    for (unsigned p = 0; p < POOLS; p++) {
        cenote_tensor_stats_get(w->pools[p], &tensors);
        cenote_pool_stats_get(w->pools[p], &pool);
        sum +=
            cenote_pool_overhead_bytes(quotas[p]) + tensors.table_bytes + pool.small_metadata_bytes;
    }
    cenote_tensor_cache_stats_get(w->cache, CENOTE_CLASS_COUNT, &cache);
    return sum + cache.metadata_bytes;
}

/* What cannot go. */
static uint64_t needed_bytes(const struct world *w)
{
    uint64_t sum = PROCESS + w->held_bytes + books_bytes(w);
    for (unsigned p = 0; p < POOLS; p++)
        for (unsigned i = 0; i < LIVE; i++)
            if (w->live[p][i].size_bytes > 0)
                sum += cost_of(p, w->live[p][i].size_bytes);
    return sum;
}

/* A block of that size was refused: should it have been? */
static const char *judge_refusal(const struct world *w, unsigned p, uint64_t size_bytes,
                                 cenote_status status, const cenote_error *err)
{
    if (status != CENOTE_E_BUDGET || err->message[0] == '\0')
        return "refused in the wrong way";
    cenote_pool_stats stats;
    cenote_pool_stats_get(w->pools[p], &stats);
    uint64_t more_bytes = p < SMALL_FIRST ? 0 : SMALL_BOOKS_BYTES;
    if (live_granules(w, p) + granules_of(block_bytes(p, size_bytes)) >
            granules_of(w->quota_bytes[p]) ||
        needed_bytes(w) + cost_of(p, size_bytes) + more_bytes > w->limit_bytes)
        return NULL;
    return stats.largest_hole_bytes < size_bytes ? NULL : "what fits was refused";
}

/* ---- operations ---- */

static struct live *place_of(struct world *w, unsigned p, bool empty, unsigned number, bool tensor)
{
    for (unsigned i = 0; i < LIVE; i++) {
        struct live *live = &w->live[p][(number + i) % LIVE];
        if (empty ? live->size_bytes == 0
                  : live->size_bytes > 0 && (live->tensor != CENOTE_TENSOR_NONE) == tensor)
            return live;
    }
    return NULL;
}

static void write_mark(struct live *live, unsigned char *data)
{
    for (uint64_t i = 0; i < live->size_bytes; i += 4091)
        data[i] = live->mark;
    data[live->size_bytes - 1] = live->mark;
}

static const char *read_mark(const struct live *live, const unsigned char *data)
{
    for (uint64_t i = 0; i < live->size_bytes; i += 4091)
        if (data[i] != live->mark)
            return "somebody else wrote into a live block";
    return data[live->size_bytes - 1] == live->mark ? NULL : "a live block's last byte changed";
}

static const char *do_alloc(struct world *w, unsigned p, uint64_t size_bytes)
{
    struct live *live = place_of(w, p, true, 0, false);
    cenote_error err = {0};
    void *data;
    if (live == NULL)
        return NULL;
    cenote_status status = cenote_pool_alloc(w->pools[p], size_bytes, &data, &err);
    if (status != CENOTE_OK)
        return judge_refusal(w, p, size_bytes, status, &err);
    *live = (struct live){.data = data, .size_bytes = size_bytes, .mark = w->next_mark++};
    write_mark(live, data);
    return NULL;
}

static const char *do_free(struct world *w, unsigned p, unsigned number)
{
    struct live *live = place_of(w, p, false, number, false);
    if (live == NULL)
        return NULL;
    const char *broken = read_mark(live, live->data);
    cenote_pool_free(w->pools[p], live->data);
    *live = (struct live){0};
    return broken;
}

static const char *do_get(struct world *w, unsigned p, uint64_t size_bytes)
{
    struct live *live = place_of(w, p, true, 0, false);
    cenote_error err = {0};
    cenote_tensor tensor;
    void *data;
    if (live == NULL || p == 0)
        return NULL;
    cenote_tensor_spec spec = {CENOTE_DTYPE_U8, 1, {size_bytes}};
    cenote_status status = cenote_tensor_cache_get(w->cache, w->pools[p], &spec, &tensor, &err);
    if (status != CENOTE_OK)
        return judge_refusal(w, p, size_bytes, status, &err);
    for (unsigned i = 0; i < LIVE; i++)
        if (w->live[p][i].tensor == tensor)
            return "a tensor was lent twice";
    *live = (struct live){.tensor = tensor, .size_bytes = size_bytes, .mark = w->next_mark++};
    if (cenote_tensor_pin(w->pools[p], tensor, &data, NULL) != CENOTE_OK)
        return "what was lent cannot be pinned";
    write_mark(live, data);
    return cenote_tensor_unpin(w->pools[p], tensor, NULL) == CENOTE_OK ? NULL : "unpin";
}

static const char *do_release(struct world *w, unsigned p, unsigned number)
{
    struct live *live = place_of(w, p, false, number, true);
    void *data;
    if (live == NULL)
        return NULL;
    if (cenote_tensor_pin(w->pools[p], live->tensor, &data, NULL) != CENOTE_OK)
        return "a lent tensor cannot be pinned";
    const char *broken = read_mark(live, data);
    if (cenote_tensor_unpin(w->pools[p], live->tensor, NULL) != CENOTE_OK ||
        cenote_tensor_cache_release(w->cache, w->pools[p], live->tensor, NULL) != CENOTE_OK)
        broken = "a lent tensor is not taken back";
    *live = (struct live){0};
    return broken;
}

static void was_dropped(void *context, cenote_tensor tensor)
{
    (void)tensor;
    ++*(unsigned *)context;
}

/* The place's next tensor that may be dropped, instead of its last one. */
static const char *do_rebuildable(struct world *w, unsigned p, unsigned number, uint64_t size_bytes)
{
    cenote_tensor *tensor = &w->rebuildable[p][number % LIVE];
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    cenote_error err = {0};
    options.dtype = CENOTE_DTYPE_U8;
    options.rank = 1;
    options.shape[0] = size_bytes;
    options.dropped = was_dropped;
    options.dropped_context = &w->dropped;
    if (p == 0)
        return NULL;
    if (*tensor != CENOTE_TENSOR_NONE &&
        cenote_tensor_release(w->pools[p], *tensor, NULL) != CENOTE_OK)
        return "a rebuildable tensor is not taken back";
    *tensor = CENOTE_TENSOR_NONE;
    cenote_status status = cenote_tensor_create(w->pools[p], &options, tensor, &err);
    return status == CENOTE_OK ? NULL : judge_refusal(w, p, size_bytes, status, &err);
}

static const char *do_quota(struct world *w, unsigned p, uint64_t quota_bytes)
{
    cenote_status status = cenote_pool_quota_set(w->pools[p], quota_bytes, NULL);
    bool fits = live_granules(w, p) <= granules_of(quota_bytes);
    if (status == CENOTE_OK)
        w->quota_bytes[p] = quota_bytes;
    else if (fits)
        return "a quota that fits was refused";
    return NULL;
}

static const char *do_limit(struct world *w, uint64_t limit_bytes)
{
    cenote_status status = cenote_budget_limit_set(w->budget, limit_bytes, NULL);
    if (status == CENOTE_OK)
        w->limit_bytes = limit_bytes;
    else if (needed_bytes(w) <= limit_bytes)
        return "a limit that fits was refused";
    return NULL;
}

static const char *do_charge(struct world *w, uint64_t size_bytes)
{
    cenote_budget_uncharge(w->budget, w->held_bytes);
    w->held_bytes = 0;
    cenote_status status = cenote_budget_charge(w->budget, size_bytes, "model", NULL);
    if (status == CENOTE_OK)
        w->held_bytes = size_bytes;
    else if (needed_bytes(w) + size_bytes <= w->limit_bytes)
        return "a charge that fits was refused";
    return NULL;
}

/* ---- after each step ---- */

static const char *check(struct world *w)
{
    cenote_budget_holder holders[POOLS];
    cenote_budget_stats stats;
    const char *broken = cenote_tensor_cache_check(w->cache);
    for (unsigned p = 0; p < POOLS && broken == NULL; p++)
        broken = cenote_pool_check(w->pools[p]);
    if (broken != NULL)
        return broken;
    if (cenote_budget_explain(w->budget, holders, POOLS) != POOLS)
        return "a pool is missing in the explanation";
    uint64_t sum = PROCESS + w->held_bytes + books_bytes(w);
    for (unsigned i = 0; i < POOLS; i++)
        sum += holders[i].charged_bytes;
    cenote_budget_stats_get(w->budget, &stats);
    if (stats.charged_bytes != sum)
        return "the explanation does not add up to what is charged";
    return stats.charged_bytes <= stats.limit_bytes ? NULL : "more is charged than the limit";
}

static const char *do_step(struct world *w, const uint8_t *step)
{
    /* Sizes of each factor of two from 1 B to 2 MiB; eight shapes. */
    uint64_t power = UINT64_C(1) << step[2] % 21, size_bytes = power + power * step[3] / 256;
    uint64_t shape_bytes = (UINT64_C(300) << 2 * (step[2] % 7)) + step[3] % 2;
    unsigned p = step[1] % POOLS;
    enum op op = dice[step[0] % 16];
    if (op == OP_COUNT)
        op = seldom[step[0] / 16 % 8];
    switch (op) {
    case OP_ALLOC:
        return do_alloc(w, p, size_bytes);
    case OP_FREE:
        return do_free(w, p, step[2]);
    case OP_GET:
        return do_get(w, p, shape_bytes);
    case OP_RELEASE:
        return do_release(w, p, step[2]);
    case OP_REBUILDABLE:
        return do_rebuildable(w, p, step[2], size_bytes);
    case OP_TRIM:
        (void)(step[2] % 2 ? cenote_pool_trim(w->pools[p])
                           : cenote_tensor_cache_trim(w->cache, step[3] * 16 * KIB));
        return NULL;
    case OP_QUOTA:
        return do_quota(w, p, quotas[p] / 4 + step[2] * quotas[p] / 256);
    case OP_LIMIT:
        return do_limit(w, 8 * MIB + step[2] * 32 * KIB);
    default:
        return do_charge(w, step[2] * 8 * KIB);
    }
}

/* ---- the world ---- */

static const char *world_open(struct world *w)
{
    memset(w, 0, sizeof *w);
    cenote_budget_options budget = CENOTE_BUDGET_OPTIONS_INIT;
    w->limit_bytes = budget.limit_bytes = 12 * MIB;
    budget.process_bytes = PROCESS;
    if (cenote_budget_create(&budget, &w->budget, NULL) != CENOTE_OK)
        return "no budget";
    for (unsigned p = 0; p < POOLS; p++) {
        cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
        options.class_id = classes[p];
        w->quota_bytes[p] = options.quota_bytes = quotas[p];
        if (cenote_pool_create(w->budget, &options, &w->pools[p], NULL) != CENOTE_OK)
            return "no pool";
    }
    cenote_tensor_cache_options options = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
    options.pools = w->pools + 1;
    options.pool_count = POOLS - 1;
    options.limit_bytes = 2 * MIB;
    if (cenote_tensor_cache_create(&options, &w->cache, NULL) != CENOTE_OK)
        return "no cache";
    /* The tables of tensors, so that nothing but blocks is charged from here on. */
    const char *broken = NULL;
    for (unsigned p = 1; p < POOLS && broken == NULL; p++)
        if ((broken = do_get(w, p, 1)) == NULL)
            broken = do_release(w, p, 0);
    return broken;
}

static const char *world_close(struct world *w)
{
    const char *broken = NULL;
    size_t lent = 0, live[POOLS] = {0};
    for (unsigned p = 0; p < POOLS; p++)
        for (unsigned i = 0; i < LIVE; i++) {
            if (w->rebuildable[p][i] != CENOTE_TENSOR_NONE &&
                cenote_tensor_release(w->pools[p], w->rebuildable[p][i], NULL) != CENOTE_OK)
                broken = "a rebuildable tensor is not taken back";
            lent += w->live[p][i].tensor != CENOTE_TENSOR_NONE;
            live[p] += w->live[p][i].size_bytes > 0;
        }
    if (cenote_tensor_cache_destroy(w->cache) != lent)
        broken = "the cache miscounted what is lent";
    for (unsigned p = 0; p < POOLS; p++)
        if (cenote_pool_destroy(w->pools[p]) != live[p])
            broken = "a pool miscounted what is live";
    cenote_budget_stats stats;
    cenote_budget_stats_get(w->budget, &stats);
    if (stats.charged_bytes != PROCESS + w->held_bytes)
        broken = "something stayed charged";
    cenote_budget_destroy(w->budget);
    return broken;
}

const char *demand_script_run(const uint8_t *bytes, size_t size, size_t *out_step)
{
    static struct world w;
    const char *broken = world_open(&w);
    for (size_t at = 0; at + STEP_BYTES <= size && broken == NULL; at += STEP_BYTES) {
        if (out_step != NULL)
            *out_step = at / STEP_BYTES;
        broken = do_step(&w, bytes + at);
        if (broken == NULL)
            broken = check(&w);
    }
    const char *left = world_close(&w);
    return broken != NULL ? broken : left;
}

void demand_script_print(const uint8_t *bytes, size_t size)
{
    for (size_t at = 0; at + STEP_BYTES <= size; at += STEP_BYTES) {
        enum op op = dice[bytes[at] % 16];
        if (op == OP_COUNT)
            op = seldom[bytes[at] / 16 % 8];
        printf("  %s pool %u %u %u\n", op_names[op], bytes[at + 1] % POOLS, bytes[at + 2],
               bytes[at + 3]);
    }
}
