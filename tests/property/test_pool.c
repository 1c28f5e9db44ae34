/* SPDX-License-Identifier: Apache-2.0 */
/* Random allocs, frees and trims on two pools of one budget, against a naive model that only knows
 * which bytes belong to whom; once with runs of granules, whose cost is known to the byte, and once
 * with small blocks and caches. After every operation: the pools' own check, the budget's
 * arithmetic, and the contents of every block; and the same operations give the same offsets again.
 * CENOTE_TEST_SEED repeats a run; a failing sequence is cut down before it is printed. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/pool.h>

#include "pool/budget.h"
#include "random.h"
#include "script.h"

#define KIB           UINT64_C(1024)
#define MIB           (KIB * KIB)
#define BLOCKS_MAX    64
#define OPS_MAX       600
#define SCRIPTS       16
#define POOL_COUNT    2
#define PROCESS_BYTES MIB
/* The book-keeping of small blocks: five pieces and page tables. */
#define SMALL_METADATA_BYTES (5 * (64 * KIB + 128) + 12 * KIB)

enum op_kind { OP_ALLOC, OP_FREE, OP_TRIM, OP_LIMIT };

struct op {
    enum op_kind kind;
    unsigned pool;
    uint64_t argument; /* bytes, a block's number or a limit */
};

struct block {
    unsigned char *data; /* NULL: an empty place */
    uint64_t size_bytes;
    unsigned char mark;
};

struct world {
    cenote_budget *budget;
    cenote_pool *pools[POOL_COUNT];
    uint64_t overhead_bytes;
    struct block blocks[POOL_COUNT][BLOCKS_MAX];
    unsigned char next_mark;
    uint64_t digest; /* of all offsets */
};

static cenote_class class_id; /* of all pools */
static bool small;            /* it has small blocks */

/* Few sizes are large, many are around the edges of granules and chunks. */
static uint64_t random_size(uint64_t *state)
{
    static const uint64_t edges[] = {1, 1000, 9 * KIB, 64 * KIB, 128 * KIB, 2 * MIB, 4 * MIB};
    uint64_t edge = edges[random_below(state, sizeof edges / sizeof edges[0])];
    switch (random_below(state, 3)) {
    case 0:
        return edge + random_below(state, 3) - (edge > 1);
    case 1:
        return 1 + random_below(state, edge);
    default:
        return 1 + random_below(state, MIB);
    }
}

static void draw_op(uint64_t *state, uint8_t *step)
{
    struct op op = {OP_ALLOC, (unsigned)random_below(state, POOL_COUNT), 0};
    uint64_t dice = random_below(state, 100);
    if (dice < 50) {
        op.argument = random_size(state);
    } else if (dice < 94) {
        op.kind = OP_FREE;
        op.argument = random_below(state, BLOCKS_MAX);
    } else if (dice < 98) {
        op.kind = OP_TRIM;
    } else {
        op.kind = OP_LIMIT;
        op.argument = 8 * MIB + random_below(state, 24 * MIB);
    }
    memcpy(step, &op, sizeof op);
}

static const char *world_open(struct world *w)
{
    memset(w, 0, sizeof *w);
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    budget_options.limit_bytes = 24 * MIB;
    budget_options.process_bytes = PROCESS_BYTES;
    if (cenote_budget_create(&budget_options, &w->budget, NULL) != CENOTE_OK)
        return "no budget";
    static const uint64_t quotas[POOL_COUNT] = {0, 9 * MIB + 1};
    for (unsigned p = 0; p < POOL_COUNT; p++) {
        cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
        options.quota_bytes = quotas[p];
        options.class_id = class_id;
        if (cenote_pool_create(w->budget, &options, &w->pools[p], NULL) != CENOTE_OK)
            return "no pool";
        w->overhead_bytes += cenote_pool_overhead_bytes(quotas[p] ? quotas[p] : 24 * MIB);
    }
    return NULL;
}

static const char *world_close(struct world *w)
{
    const char *broken = NULL;
    for (unsigned p = 0; p < POOL_COUNT; p++) {
        size_t live = 0;
        for (unsigned i = 0; i < BLOCKS_MAX; i++)
            live += w->blocks[p][i].data != NULL;
        if (cenote_pool_destroy(w->pools[p]) != live)
            broken = "destroy miscounted the live blocks";
    }
    cenote_budget_stats stats;
    cenote_budget_stats_get(w->budget, &stats);
    if (stats.charged_bytes != PROCESS_BYTES)
        broken = "something stayed charged";
    cenote_budget_destroy(w->budget);
    return broken;
}

/* What a block takes at most, its share of page tables and of a slab included. */
static uint64_t block_cost(uint64_t size_bytes)
{
    return cenote_pool_charge_bytes(size_bytes +
                                    (small ? size_bytes / 8 + CENOTE_GRANULE_BYTES : 0)) +
           8 * KIB;
}

static const char *do_alloc(struct world *w, unsigned p, uint64_t size_bytes)
{
    struct block *place = NULL;
    for (unsigned i = 0; i < BLOCKS_MAX && place == NULL; i++)
        if (w->blocks[p][i].data == NULL)
            place = &w->blocks[p][i];
    if (place == NULL)
        return NULL;
    void *data = NULL;
    cenote_error err = {0};
    cenote_status status = cenote_pool_alloc(w->pools[p], size_bytes, &data, &err);
    if (status != CENOTE_OK) {
        /* Refused although live blocks leave room? Then idle memory was not given back. */
        uint64_t live_bytes = 0;
        for (unsigned q = 0; q < POOL_COUNT; q++)
            for (unsigned i = 0; i < BLOCKS_MAX; i++)
                if (w->blocks[q][i].data != NULL)
                    live_bytes += block_cost(w->blocks[q][i].size_bytes);
        cenote_budget_stats stats;
        cenote_budget_stats_get(w->budget, &stats);
        uint64_t need = PROCESS_BYTES + w->overhead_bytes + live_bytes + block_cost(size_bytes) +
                        (small ? POOL_COUNT * SMALL_METADATA_BYTES : 0);
        cenote_pool_stats pool;
        cenote_pool_stats_get(w->pools[p], &pool);
        bool in_quota = pool.used_bytes + block_cost(size_bytes) <= pool.quota_bytes;
        if (in_quota && p == 0 && need <= stats.limit_bytes)
            return "a block that fits was refused";
        return status == CENOTE_E_BUDGET && err.message[0] != '\0' && data == NULL
                   ? NULL
                   : "refused in the wrong way";
    }
    uint64_t align = small ? size_bytes & (0 - size_bytes) : CENOTE_GRANULE_BYTES;
    align = align < 64 ? 64 : align;
    if ((uintptr_t)data % (align < CENOTE_GRANULE_BYTES ? align : CENOTE_GRANULE_BYTES) != 0)
        return "a block is not aligned";
    w->digest = (w->digest + cenote_pool_offset(w->pools[p], data)) * UINT64_C(0x9e3779b97f4a7c15);
    *place = (struct block){data, size_bytes, w->next_mark++};
    memset(data, place->mark, size_bytes);
    return NULL;
}

static const char *check_block(const struct block *b)
{
    /* All of it would be slow: both ends and a stride show an overlap of whole granules. */
    for (uint64_t i = 0; i < b->size_bytes; i += 4093)
        if (b->data[i] != b->mark)
            return "a block's bytes changed";
    return b->data[b->size_bytes - 1] == b->mark ? NULL : "a block's last byte changed";
}

static const char *check_pool(struct world *w, unsigned p, uint64_t *out_committed_bytes)
{
    const char *broken = cenote_pool_check(w->pools[p]);
    uint64_t requested = 0, used = 0, count = 0;
    for (unsigned i = 0; i < BLOCKS_MAX && broken == NULL; i++) {
        const struct block *b = &w->blocks[p][i];
        if (b->data == NULL)
            continue;
        broken = check_block(b);
        count++;
        requested += b->size_bytes;
        used += (b->size_bytes + CENOTE_GRANULE_BYTES - 1) / CENOTE_GRANULE_BYTES *
                CENOTE_GRANULE_BYTES;
    }
    if (broken != NULL)
        return broken;
    cenote_pool_stats stats;
    cenote_pool_stats_get(w->pools[p], &stats);
    *out_committed_bytes += stats.committed_bytes;
    if (stats.block_count != count || stats.committed_bytes > stats.quota_bytes)
        return "the statistics disagree with the model";
    if (small)
        return stats.requested_bytes > stats.used_bytes || stats.committed_bytes < stats.used_bytes
                   ? "more is asked for than used, or more used than committed"
                   : NULL;
    return stats.requested_bytes != requested || stats.used_bytes != used ||
                   stats.committed_bytes < used
               ? "the statistics disagree with the model"
               : NULL;
}

static const char *do_op(struct world *w, struct op op)
{
    const char *broken = NULL;
    struct block *b = &w->blocks[op.pool][op.argument % BLOCKS_MAX];
    cenote_pool_stats stats;
    switch (op.kind) {
    case OP_ALLOC:
        broken = do_alloc(w, op.pool, op.argument);
        break;
    case OP_FREE:
        cenote_pool_free(w->pools[op.pool], b->data);
        b->data = NULL;
        break;
    case OP_TRIM:
        cenote_pool_trim(w->pools[op.pool]);
        cenote_pool_stats_get(w->pools[op.pool], &stats);
        if (stats.committed_bytes != stats.used_bytes)
            broken = "trim left idle memory";
        break;
    case OP_LIMIT:
        (void)!cenote_budget_limit_set(w->budget, op.argument, NULL);
        break;
    }
    uint64_t committed = 0;
    for (unsigned p = 0; p < POOL_COUNT && broken == NULL; p++)
        broken = check_pool(w, p, &committed);
    cenote_budget_stats budget;
    cenote_budget_stats_get(w->budget, &budget);
    if (broken == NULL && budget.charged_bytes > budget.limit_bytes)
        broken = "more is charged than the limit";
    if (broken == NULL && budget.charged_bytes < PROCESS_BYTES + w->overhead_bytes + committed)
        broken = "less is charged than is committed";
    return broken;
}

static const char *run_once(const struct op *ops, unsigned count, uint64_t *out_digest,
                            size_t *out_step)
{
    static struct world w;
    const char *broken = world_open(&w);
    for (unsigned i = 0; i < count && broken == NULL; i++) {
        broken = do_op(&w, ops[i]);
        if (broken != NULL && out_step != NULL)
            *out_step = i;
    }
    const char *left = world_close(&w);
    *out_digest = w.digest;
    return broken != NULL ? broken : left;
}

static const char *run_twice(const uint8_t *bytes, size_t size, size_t *out_step)
{
    const struct op *ops = (const void *)bytes;
    const unsigned count = (unsigned)(size / sizeof *ops);
    uint64_t digest, again;
    const char *broken = run_once(ops, count, &digest, out_step);
    if (broken == NULL)
        broken = run_once(ops, count, &again, out_step);
    return broken == NULL && digest != again ? "other offsets the second time" : broken;
}

static void print_ops(const uint8_t *bytes, size_t size)
{
    static const char *const names[] = {"alloc", "free", "trim", "limit"};
    const struct op *ops = (const void *)bytes;
    for (size_t i = 0; i < size / sizeof *ops; i++)
        printf("  %s pool %u %" PRIu64 "\n", names[ops[i].kind], ops[i].pool, ops[i].argument);
}

static const struct script_form form = {0,         sizeof(struct op), OPS_MAX,
                                        run_twice, print_ops,         draw_op};

static void test_runs(void **state)
{
    (void)state;
    class_id = CENOTE_CLASS_ACTIVATIONS;
    small = false;
    script_run_random(&form, SCRIPTS, 20240607);
}

static void test_small_blocks(void **state)
{
    (void)state;
    class_id = CENOTE_CLASS_GENERAL;
    small = true;
    script_run_random(&form, SCRIPTS, 20240607);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_small_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
