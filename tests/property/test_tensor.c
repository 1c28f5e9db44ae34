/* SPDX-License-Identifier: Apache-2.0 */
/* Random lives of tensors beside raw blocks on a pool of a budget that is a bit too small, with
 * compactions in between that are limited, vetoed and refused by the system, against a naive model
 * that only knows which bytes belong to whom. After every operation: the pool's own check, what the
 * system has committed against what the budget was charged, and the content of every block,
 * wherever it lies now. CENOTE_TEST_SEED repeats a run; a failing sequence is cut down before it is
 * printed. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/tensor.h>

#include "os/fake/fake.h"
#include "random.h"
#include "script.h"

#define KIB           UINT64_C(1024)
#define MIB           (KIB * KIB)
#define TENSORS_MAX   32u
#define OPS_MAX       400u
#define SCRIPTS       12u
#define PROCESS_BYTES MIB
#define LIMIT_BYTES   (32 * MIB)

enum op_kind {
    OP_CREATE,
    OP_RAW,
    OP_RETAIN,
    OP_RELEASE,
    OP_PIN,
    OP_UNPIN,
    OP_COMPACT,
    OP_TRIM,
    OP_REFUSE,
    OP_KIND_COUNT
};

struct op {
    enum op_kind kind;
    unsigned place;
    uint64_t argument; /* bytes; limits of a compaction; which call of the system fails */
};

struct model {
    cenote_tensor tensor; /* 0: a raw block */
    unsigned char *data;  /* where it was when last seen; NULL: an empty place */
    uint64_t size_bytes;
    uint32_t references, pins;
    bool rebuildable, dropped;
    unsigned char mark;
};

struct world {
    struct cn_fake *fake;
    cenote_budget *budget;
    cenote_pool *pool;
    struct model models[TENSORS_MAX];
    cenote_tensor dead; /* released last */
    uint64_t veto;
    unsigned char next_mark;
    const char *broken; /* what a callback saw */
};

static cenote_class pool_class; /* of the round: runs of granules, or small blocks too */

static uint64_t random_size(uint64_t *state)
{
    static const uint64_t edges[] = {64 * KIB, MIB, 2 * MIB, 4 * MIB};
    uint64_t edge = edges[random_below(state, 4)];
    return random_below(state, 2) == 0 ? edge + random_below(state, 3) - 1
                                       : 1 + random_below(state, edge);
}

static void draw_op(uint64_t *state, uint8_t *step)
{
    static const unsigned weights[OP_KIND_COUNT] = {32, 4, 4, 26, 8, 8, 12, 3, 3};
    struct op op = {OP_CREATE, (unsigned)random_below(state, TENSORS_MAX),
                    random_below(state, UINT64_MAX)};
    unsigned dice = (unsigned)random_below(state, 100);
    while (dice >= weights[op.kind])
        dice -= weights[op.kind++];
    if (op.kind == OP_CREATE || op.kind == OP_RAW)
        op.argument = random_size(state) | random_below(state, 3)
                                               << 32; /* above: what kind of tensor */
    memcpy(step, &op, sizeof op);
}

/* ---- the world ---- */

static struct model *find(struct world *w, cenote_tensor tensor)
{
    for (unsigned i = 0; i < TENSORS_MAX; i++)
        if (w->models[i].tensor == tensor && w->models[i].references > 0)
            return &w->models[i];
    return NULL;
}

static void on_drop(void *context, cenote_tensor tensor)
{
    struct world *w = context;
    struct model *m = find(w, tensor);
    if (m == NULL || !m->rebuildable || m->dropped || m->pins > 0)
        w->broken = "dropped what may not be dropped";
    else
        m->dropped = true;
}

static cenote_compact_answer on_move(void *context, cenote_tensor tensor, uint64_t size_bytes)
{
    struct world *w = context;
    struct model *m = find(w, tensor);
    if (m == NULL || m->dropped || m->pins > 0 || m->size_bytes != size_bytes)
        w->broken = "would move what may not be moved";
    w->veto = w->veto * UINT64_C(6364136223846793005) + 1442695040888963407;
    uint64_t dice = (w->veto >> 33) % 8;
    return dice == 0 ? CENOTE_COMPACT_STOP : dice <= 2 ? CENOTE_COMPACT_KEEP : CENOTE_COMPACT_MOVE;
}

static const char *world_open(struct world *w)
{
    memset(w, 0, sizeof *w);
    w->fake = cn_fake_create();
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    budget_options.os = cn_fake_os(w->fake);
    budget_options.limit_bytes = LIMIT_BYTES;
    budget_options.process_bytes = PROCESS_BYTES;
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.class_id = pool_class;
    options.quota_bytes = 20 * MIB;
    return cenote_budget_create(&budget_options, &w->budget, NULL) == CENOTE_OK &&
                   cenote_pool_create(w->budget, &options, &w->pool, NULL) == CENOTE_OK
               ? NULL
               : "no pool";
}

static const char *world_close(struct world *w)
{
    size_t live = 0;
    for (unsigned i = 0; i < TENSORS_MAX; i++)
        live += w->models[i].data != NULL && !w->models[i].dropped;
    const char *broken = NULL;
    if (cenote_pool_destroy(w->pool) != live)
        broken = "destroy miscounted the live blocks";
    cenote_budget_stats stats;
    cenote_budget_stats_get(w->budget, &stats);
    struct cn_fake_books books = cn_fake_books_get(w->fake);
    if (stats.charged_bytes != PROCESS_BYTES)
        broken = "something stayed charged";
    if (books.reservations != 0 || books.committed_bytes != 0 || books.misuse_count != 0)
        broken = "something stayed committed";
    cenote_budget_destroy(w->budget);
    cn_fake_destroy(w->fake);
    return broken;
}

/* ---- operations ---- */

static const char *do_create(struct world *w, struct model *m, const struct op *op)
{
    uint64_t size_bytes = op->argument & UINT32_MAX, kind = op->argument >> 32;
    struct model young = {.size_bytes = size_bytes, .references = 1, .mark = w->next_mark++};
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    options.dtype = CENOTE_DTYPE_U8;
    options.rank = 1;
    options.shape[0] = size_bytes;
    if (op->kind == OP_CREATE && kind > 0) {
        young.rebuildable = true;
        options.dropped = on_drop;
        options.dropped_context = w;
        options.rebuild_bytes = kind == 1 ? 0 : size_bytes / 2;
    }
    void *data = NULL;
    cenote_error err = {0};
    cenote_status status;
    if (op->kind == OP_CREATE)
        status = cenote_tensor_create(w->pool, &options, &young.tensor, &err);
    else
        status = cenote_pool_alloc(w->pool, size_bytes, &data, &err);
    if (status != CENOTE_OK)
        return (status == CENOTE_E_BUDGET || status == CENOTE_E_NOMEM) && err.message[0] != '\0'
                   ? NULL
                   : "refused in the wrong way";
    if (op->kind == OP_CREATE &&
        (cenote_tensor_pin(w->pool, young.tensor, &data, NULL) != CENOTE_OK ||
         cenote_tensor_unpin(w->pool, young.tensor, NULL) != CENOTE_OK))
        return "a new tensor cannot be pinned";
    young.data = data;
    memset(data, young.mark, size_bytes);
    *m = young;
    return NULL;
}

static const char *do_release(struct world *w, struct model *m)
{
    if (m->tensor == CENOTE_TENSOR_NONE) {
        cenote_pool_free(w->pool, m->data);
        *m = (struct model){0};
        return NULL;
    }
    bool may = m->references > 1 || m->pins == 0;
    cenote_status status = cenote_tensor_release(w->pool, m->tensor, NULL);
    if (status != (may ? CENOTE_OK : CENOTE_E_INVAL))
        return "release said the wrong thing";
    if (may && --m->references == 0) {
        w->dead = m->tensor;
        *m = (struct model){0};
    }
    return NULL;
}

static const char *do_pin(struct world *w, struct model *m)
{
    void *data = NULL;
    cenote_status status = cenote_tensor_pin(w->pool, m->tensor, &data, NULL);
    if (status != (m->dropped ? CENOTE_E_NOTFOUND : CENOTE_OK))
        return "pin said the wrong thing";
    if (status != CENOTE_OK)
        return NULL;
    if (m->pins > 0 && data != m->data)
        return "a pinned tensor moved";
    m->data = data;
    m->pins++;
    return NULL;
}

static const char *do_unpin(struct world *w, struct model *m)
{
    cenote_status status = cenote_tensor_unpin(w->pool, m->tensor, NULL);
    if (status != (m->pins > 0 ? CENOTE_OK : CENOTE_E_INVAL))
        return "unpin said the wrong thing";
    m->pins -= m->pins > 0;
    return NULL;
}

static const char *do_compact(struct world *w, uint64_t argument)
{
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    options.max_moves = argument % 4;
    options.max_bytes = argument / 4 % 4 == 0 ? argument / 16 % (4 * MIB) : 0;
    if (argument / 64 % 2 == 0) {
        options.veto = on_move;
        options.veto_context = w;
        w->veto = argument;
    }
    cenote_compact_result result;
    if (cenote_pool_compact(w->pool, &options, &result, NULL) != CENOTE_OK)
        return "compaction was refused";
    if (options.max_moves != 0 && result.moves > options.max_moves)
        return "more moves than the limit";
    if (options.max_bytes != 0 && result.moved_bytes > options.max_bytes)
        return "more bytes than the limit";
    return result.remapped_bytes <= result.moved_bytes ? NULL : "remapped more than it moved";
}

static const char *do_op(struct world *w, const struct op *op)
{
    struct model *m = &w->models[op->place];
    bool is_tensor = m->data != NULL && m->tensor != CENOTE_TENSOR_NONE;
    switch (op->kind) {
    case OP_CREATE:
    case OP_RAW:
        return m->data == NULL ? do_create(w, m, op) : NULL;
    case OP_RETAIN:
        if (!is_tensor)
            return NULL;
        m->references++;
        return cenote_tensor_retain(w->pool, m->tensor, NULL) == CENOTE_OK ? NULL
                                                                           : "retain was refused";
    case OP_RELEASE:
        return m->data != NULL ? do_release(w, m) : NULL;
    case OP_PIN:
        return is_tensor ? do_pin(w, m) : NULL;
    case OP_UNPIN:
        return is_tensor ? do_unpin(w, m) : NULL;
    case OP_COMPACT:
        return do_compact(w, op->argument);
    case OP_TRIM:
        cenote_pool_trim(w->pool);
        return NULL;
    case OP_REFUSE:
        /* A remap soon, and with it perhaps a commit that is neither the first nor on its way
         * back, for then bytes may be lost: that is unit.compact's. */
        cn_fake_fail(w->fake, CN_FAKE_REMAP, 1 + op->argument % 3, ENOMEM);
        return NULL;
    case OP_KIND_COUNT:
        break;
    }
    return NULL;
}

/* ---- what must hold after each of them ---- */

static const char *check_model(struct world *w, struct model *m)
{
    if (m->tensor != CENOTE_TENSOR_NONE) {
        cenote_tensor_state state;
        if (cenote_tensor_state_get(w->pool, m->tensor, &state, NULL) != CENOTE_OK)
            return "a live tensor is not known";
        if (state.references != m->references || state.pins != m->pins ||
            state.dropped != m->dropped || state.size_bytes != m->size_bytes)
            return "a tensor's state is not the model's";
        if (m->dropped)
            return NULL;
        void *data;
        if (cenote_tensor_pin(w->pool, m->tensor, &data, NULL) != CENOTE_OK ||
            cenote_tensor_unpin(w->pool, m->tensor, NULL) != CENOTE_OK)
            return "a live tensor cannot be pinned";
        if (m->pins > 0 && data != m->data)
            return "a pinned tensor moved";
        m->data = data;
    }
    for (uint64_t i = 0; i < m->size_bytes; i += 4093)
        if (m->data[i] != m->mark)
            return "a block's bytes changed";
    return m->data[m->size_bytes - 1] == m->mark ? NULL : "a block's last byte changed";
}

static const char *check_world(struct world *w)
{
    const char *broken = w->broken != NULL ? w->broken : cenote_pool_check(w->pool);
    uint64_t requested = 0, count = 0, tensors = 0;
    for (unsigned i = 0; i < TENSORS_MAX && broken == NULL; i++) {
        struct model *m = &w->models[i];
        if (m->data == NULL)
            continue;
        broken = check_model(w, m);
        tensors += m->tensor != CENOTE_TENSOR_NONE;
        count += !m->dropped;
        requested += m->dropped ? 0 : m->size_bytes;
    }
    cenote_pool_stats stats;
    cenote_tensor_stats handles;
    cenote_budget_stats budget;
    cenote_pool_stats_get(w->pool, &stats);
    cenote_tensor_stats_get(w->pool, &handles);
    cenote_budget_stats_get(w->budget, &budget);
    struct cn_fake_books books = cn_fake_books_get(w->fake);
    bool exact = pool_class == CENOTE_CLASS_KV_CACHE; /* of small blocks it is an estimate */
    if (broken == NULL &&
        (stats.block_count != count || (exact && stats.requested_bytes != requested) ||
         handles.live_count != tensors))
        broken = "the statistics disagree with the model";
    if (broken == NULL && (budget.charged_bytes > budget.limit_bytes ||
                           books.committed_bytes > budget.charged_bytes - PROCESS_BYTES))
        broken = "more is committed than is charged";
    if (broken == NULL && w->dead != 0 && find(w, w->dead) == NULL &&
        cenote_tensor_release(w->pool, w->dead, NULL) != CENOTE_E_INVAL)
        broken = "a dead handle was taken";
    return broken;
}

static const char *run_ops(const uint8_t *bytes, size_t size, size_t *out_step)
{
    const struct op *ops = (const void *)bytes;
    const unsigned count = (unsigned)(size / sizeof *ops);
    struct world w;
    const char *broken = world_open(&w);
    for (unsigned i = 0; i < count && broken == NULL; i++) {
        broken = do_op(&w, &ops[i]);
        if (broken == NULL)
            broken = check_world(&w);
        if (broken != NULL && out_step != NULL)
            *out_step = i;
    }
    const char *left = world_close(&w);
    return broken != NULL ? broken : left;
}

static void print_ops(const uint8_t *bytes, size_t size)
{
    static const char *const names[OP_KIND_COUNT] = {
        "create", "raw", "retain", "release", "pin", "unpin", "compact", "trim", "refuse"};
    const struct op *ops = (const void *)bytes;
    for (size_t i = 0; i < size / sizeof *ops; i++)
        printf("  %s %u %" PRIu64 "\n", names[ops[i].kind], ops[i].place, ops[i].argument);
}

static const struct script_form form = {0, sizeof(struct op), OPS_MAX, run_ops, print_ops, draw_op};

static void test_runs(void **state)
{
    (void)state;
    pool_class = CENOTE_CLASS_KV_CACHE;
    script_run_random(&form, SCRIPTS, 20241121);
}

static void test_small_blocks(void **state)
{
    (void)state;
    pool_class = CENOTE_CLASS_IMAGE_FEATURES;
    script_run_random(&form, SCRIPTS, 20241121);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_small_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
