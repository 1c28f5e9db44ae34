/* SPDX-License-Identifier: Apache-2.0 */
/* Compaction of a pool: what moves, what stays, what is dropped, when it starts by itself, and that
 * no byte is lost whatever the system refuses. Small pictures by hand; random ones are
 * property.tensor's. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/tensor.h>
#include <cenote/trace.h>

#include "os/fake/fake.h"
#include "pool/pool_impl.h"

#define KIB     UINT64_C(1024)
#define MIB     (KIB * KIB)
#define PROCESS MIB
#define LIMIT   (64 * MIB)
#define COUNT   8u

struct rig {
    struct cn_fake *fake;
    cenote_budget *budget;
    cenote_pool *pool;
    cenote_tensor tensors[COUNT];
    uint64_t sizes[COUNT]; /* 0: released */
    unsigned dropped;      /* calls of on_drop */
    cenote_tensor dropped_last;
};

/* ---- tensors with marks in them ---- */

static void on_drop(void *context, cenote_tensor tensor)
{
    struct rig *rig = context;
    rig->dropped++;
    rig->dropped_last = tensor;
}

static cenote_status try_make(struct rig *rig, unsigned i, uint64_t size_bytes,
                              uint64_t rebuild_bytes, cenote_error *err)
{
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    options.dtype = CENOTE_DTYPE_U8;
    options.rank = 1;
    options.shape[0] = size_bytes;
    if (rebuild_bytes > 0) {
        options.dropped = on_drop;
        options.dropped_context = rig;
        options.rebuild_bytes = rebuild_bytes;
    }
    cenote_status status = cenote_tensor_create(rig->pool, &options, &rig->tensors[i], err);
    if (status == CENOTE_OK)
        rig->sizes[i] = size_bytes;
    return status;
}

static unsigned char *pin(struct rig *rig, unsigned i)
{
    void *data = NULL;
    assert_int_equal(cenote_tensor_pin(rig->pool, rig->tensors[i], &data, NULL), CENOTE_OK);
    return data;
}

static void unpin(struct rig *rig, unsigned i)
{
    assert_int_equal(cenote_tensor_unpin(rig->pool, rig->tensors[i], NULL), CENOTE_OK);
}

static void make_rebuildable(struct rig *rig, unsigned i, uint64_t size_bytes,
                             uint64_t rebuild_bytes)
{
    cenote_error err = {0};
    if (try_make(rig, i, size_bytes, rebuild_bytes, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    unsigned char *data = pin(rig, i);
    for (uint64_t b = 0; b < size_bytes; b++)
        data[b] = (unsigned char)(b / 4096 + i * 37 + b);
    unpin(rig, i);
}

static void make(struct rig *rig, unsigned i, uint64_t size_bytes)
{
    make_rebuildable(rig, i, size_bytes, 0);
}

static void release(struct rig *rig, unsigned i)
{
    assert_int_equal(cenote_tensor_release(rig->pool, rig->tensors[i], NULL), CENOTE_OK);
    rig->sizes[i] = 0;
}

static void check_content(struct rig *rig, unsigned i)
{
    unsigned char *data = pin(rig, i);
    uint64_t b = 0;
    while (b < rig->sizes[i] && data[b] == (unsigned char)(b / 4096 + i * 37 + b))
        b++;
    assert_int_equal(b, rig->sizes[i]);
    unpin(rig, i);
}

/* Where it lies, in granules. */
static uint64_t place(struct rig *rig, unsigned i)
{
    uint64_t offset = (uint64_t)((char *)pin(rig, i) - rig->pool->base);
    unpin(rig, i);
    return offset / CENOTE_GRANULE_BYTES;
}

static cenote_pool_stats pool_stats(const struct rig *rig)
{
    cenote_pool_stats stats;
    cenote_pool_stats_get(rig->pool, &stats);
    return stats;
}

static cenote_tensor_stats tensor_stats(const struct rig *rig)
{
    cenote_tensor_stats stats;
    cenote_tensor_stats_get(rig->pool, &stats);
    return stats;
}

static uint64_t charged(const struct rig *rig)
{
    cenote_budget_stats stats;
    cenote_budget_stats_get(rig->budget, &stats);
    return stats.charged_bytes - PROCESS;
}

/* The pool, the system's books against the budget's, and every byte. */
static void check(struct rig *rig)
{
    const char *broken = cenote_pool_check(rig->pool);
    if (broken != NULL)
        fail_msg("%s", broken);
    struct cn_fake_books books = cn_fake_books_get(rig->fake);
    assert_int_equal(books.misuse_count, 0);
    assert_true(books.committed_bytes <= charged(rig));
    for (unsigned i = 0; i < COUNT; i++)
        if (rig->sizes[i] != 0)
            check_content(rig, i);
}

static cenote_compact_result compact(struct rig *rig, const cenote_compact_options *options)
{
    cenote_compact_result result;
    cenote_error err = {0};
    if (cenote_pool_compact(rig->pool, options, &result, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    check(rig);
    return result;
}

static void rig_pool(struct rig *rig, uint64_t quota_bytes)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.class_id = CENOTE_CLASS_KV_CACHE;
    options.quota_bytes = quota_bytes;
    assert_int_equal(cenote_pool_create(rig->budget, &options, &rig->pool, NULL), CENOTE_OK);
    /* Only when a test says so. */
    assert_int_equal(cenote_pool_compact_above(rig->pool, 100, NULL, NULL), CENOTE_OK);
}

static int rig_up(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    rig->fake = cn_fake_create();
    options.os = cn_fake_os(rig->fake);
    options.limit_bytes = LIMIT;
    options.process_bytes = PROCESS;
    assert_int_equal(cenote_budget_create(&options, &rig->budget, NULL), CENOTE_OK);
    rig_pool(rig, 0);
    *state = rig;
    return 0;
}

static int rig_down(void **state)
{
    struct rig *rig = *state;
    check(rig);
    cenote_pool_destroy(rig->pool);
    struct cn_fake_books books = cn_fake_books_get(rig->fake);
    assert_int_equal(books.reservations, 0);
    assert_int_equal(books.committed_bytes, 0);
    assert_int_equal(books.misuse_count, 0);
    assert_int_equal(charged(rig), 0);
    cenote_budget_destroy(rig->budget);
    cn_fake_destroy(rig->fake);
    free(rig);
    return 0;
}

/* Four of 3 MiB, the first and the third released again: |....|111|....|333| */
static void two_holes(struct rig *rig)
{
    for (unsigned i = 0; i < 4; i++)
        make(rig, i, 3 * MIB - 100);
    release(rig, 0);
    release(rig, 2);
}

/* ---- what moves ---- */

static void test_moves_down(void **state)
{
    struct rig *rig = *state;
    two_holes(rig);
    assert_int_equal(place(rig, 3), 3 * 48);
    uint64_t committed = pool_stats(rig).committed_bytes;
    cenote_compact_result result = compact(rig, NULL);
    assert_true(result.done);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.moved_bytes, 3 * MIB - 100);
    assert_int_equal(result.remapped_bytes, result.moved_bytes);
    assert_int_equal(result.dropped_bytes, 0);
    assert_int_equal(place(rig, 3), 0);
    assert_int_equal(place(rig, 1), 48);
    /* The pages moved: what was idle at the new place went back, and the old place did. */
    assert_int_equal(pool_stats(rig).committed_bytes, committed - 3 * MIB);
    assert_true(pool_stats(rig).external_fragmentation == 0);
    result = compact(rig, NULL);
    assert_true(result.done);
    assert_int_equal(result.moves, 0);
    assert_int_equal(tensor_stats(rig).moved_bytes, 3 * MIB - 100);
    assert_int_equal(tensor_stats(rig).remapped_bytes, 3 * MIB - 100);
}

static void test_nothing_to_do(void **state)
{
    struct rig *rig = *state;
    cenote_compact_result result = compact(rig, NULL); /* not even a table */
    assert_true(result.done);
    void *raw[3];
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(cenote_pool_alloc(rig->pool, 3 * MIB, &raw[i], NULL), CENOTE_OK);
    make(rig, 0, MIB);
    memset(raw[2], 7, 3 * MIB);
    cenote_pool_free(rig->pool, raw[0]);
    release(rig, 0);
    result = compact(rig, NULL); /* raw blocks stay */
    assert_true(result.done);
    assert_int_equal(result.moves, 0);
    assert_int_equal(((char *)raw[2])[3 * MIB - 1], 7);
    cenote_pool_free(rig->pool, raw[1]);
    cenote_pool_free(rig->pool, raw[2]);
}

static void test_pinned_stay(void **state)
{
    struct rig *rig = *state;
    two_holes(rig);
    unsigned char *data = pin(rig, 3);
    pin(rig, 3);
    assert_int_equal(compact(rig, NULL).moves, 1); /* the other one */
    assert_int_equal(place(rig, 1), 0);
    unpin(rig, 3);
    assert_int_equal(compact(rig, NULL).moves, 0);
    assert_ptr_equal(pin(rig, 3), data);
    unpin(rig, 3);
    unpin(rig, 3);
    assert_int_equal(compact(rig, NULL).moves, 1);
    assert_int_equal(place(rig, 3), 48);
}

/* Small blocks are copied: what they leave is idle memory. */
static void test_copies_small(void **state)
{
    struct rig *rig = *state;
    make(rig, 0, MIB - 5);
    make(rig, 1, 3 * 64 * KIB - 5);
    release(rig, 0);
    uint64_t committed = pool_stats(rig).committed_bytes;
    cenote_compact_result result = compact(rig, NULL);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.remapped_bytes, 0);
    assert_int_equal(place(rig, 1), 0);
    assert_int_equal(pool_stats(rig).committed_bytes, committed);
}

/* ---- limits and veto ---- */

static void test_limits(void **state)
{
    struct rig *rig = *state;
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    for (unsigned i = 0; i < COUNT; i++)
        make(rig, i, 2 * MIB);
    for (unsigned i = 0; i < 4; i++)
        release(rig, i);
    options.max_moves = 1;
    cenote_compact_result result = compact(rig, &options);
    assert_false(result.done);
    assert_int_equal(result.moves, 1);
    assert_int_equal(place(rig, 7), 0);
    options.max_moves = 0;
    options.max_bytes = 3 * MIB;
    result = compact(rig, &options);
    assert_false(result.done);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.moved_bytes, 2 * MIB);
    options.max_bytes = MIB; /* nothing fits this, so nothing is left to do */
    result = compact(rig, &options);
    assert_true(result.done);
    assert_int_equal(result.moves, 0);
    result = compact(rig, NULL);
    assert_true(result.done);
    assert_int_equal(result.moves, 2);
    assert_true(pool_stats(rig).external_fragmentation == 0);
    options.version = 9;
    cenote_error err = {0};
    assert_int_equal(cenote_pool_compact(rig->pool, &options, NULL, &err), CENOTE_E_VERSION);
    assert_non_null(strstr(err.message, "version 9"));
}

struct judge {
    cenote_tensor kept;
    unsigned stop_after, asked;
    uint64_t size_bytes;
};

static cenote_compact_answer judge_one(void *context, cenote_tensor tensor, uint64_t size_bytes)
{
    struct judge *judge = context;
    judge->size_bytes = size_bytes;
    if (++judge->asked == judge->stop_after)
        return CENOTE_COMPACT_STOP;
    return tensor == judge->kept ? CENOTE_COMPACT_KEEP : CENOTE_COMPACT_MOVE;
}

static void test_veto(void **state)
{
    struct rig *rig = *state;
    two_holes(rig);
    struct judge judge = {.kept = rig->tensors[3]};
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    options.veto = judge_one;
    options.veto_context = &judge;
    cenote_compact_result result = compact(rig, &options);
    assert_true(result.done);
    assert_int_equal(result.moves, 1);
    assert_int_equal(judge.asked, 2); /* once for each, over several rounds */
    assert_int_equal(judge.size_bytes, 3 * MIB - 100);
    assert_int_equal(place(rig, 3), 3 * 48);
    assert_int_equal(place(rig, 1), 0);

    judge = (struct judge){.stop_after = 1};
    result = compact(rig, &options);
    assert_false(result.done);
    assert_int_equal(result.moves, 0);
    assert_int_equal(judge.asked, 1);
    assert_int_equal(compact(rig, &options).moves, 1); /* gone on with */
}

/* ---- at the same time ---- */

/* What another thread might do between the plan and the move: a pin takes no lock. */
static cenote_compact_answer pin_it(void *context, cenote_tensor tensor, uint64_t size_bytes)
{
    struct rig *rig = context;
    void *data;
    (void)size_bytes;
    return cenote_tensor_pin(rig->pool, tensor, &data, NULL) == CENOTE_OK ? CENOTE_COMPACT_MOVE
                                                                          : CENOTE_COMPACT_STOP;
}

static void test_pinned_just_then(void **state)
{
    struct rig *rig = *state;
    two_holes(rig);
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    options.veto = pin_it;
    options.veto_context = rig;
    cenote_compact_result result = compact(rig, &options);
    assert_true(result.done);
    assert_int_equal(result.moves, 0);
    assert_int_equal(place(rig, 3), 3 * 48);
    unpin(rig, 1);
    unpin(rig, 3);
    assert_int_equal(compact(rig, NULL).moves, 1);
}

static struct {
    struct rig *rig;
    const struct cn_os_ops *ops;
    struct cn_os_ops slow_ops;
    pthread_t thread;
    void *data; /* what the thread got */
    atomic_bool pinned, moved;
    bool pinned_early;
} slow;

static void *pin_late(void *unused)
{
    (void)unused;
    slow.data = pin(slow.rig, 3);
    slow.pinned_early = !atomic_load(&slow.moved);
    atomic_store(&slow.pinned, true);
    return NULL;
}

static int64_t slow_remap(struct cn_os *os, void *from, void *to, size_t size_bytes)
{
    pthread_create(&slow.thread, NULL, pin_late, NULL);
    for (unsigned i = 0; i < 20 && !atomic_load(&slow.pinned); i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    int64_t result = slow.ops->memory_remap(os, from, to, size_bytes);
    atomic_store(&slow.moved, true);
    return result;
}

/* Who pins a tensor that is on the move waits, and gets its new address. */
static void test_pin_waits_for_the_move(void **state)
{
    struct rig *rig = *state;
    struct cn_os *os = cn_fake_os(rig->fake);
    two_holes(rig);
    slow.rig = rig;
    slow.ops = os->ops;
    slow.slow_ops = *os->ops;
    slow.slow_ops.memory_remap = slow_remap;
    os->ops = &slow.slow_ops;
    assert_int_equal(cenote_pool_compact(rig->pool, NULL, NULL, NULL), CENOTE_OK);
    os->ops = slow.ops;
    pthread_join(slow.thread, NULL);
    assert_false(slow.pinned_early);
    assert_int_equal(place(rig, 3), 0);
    assert_ptr_equal(pin(rig, 3), slow.data);
    unpin(rig, 3);
    unpin(rig, 3);
}

/* ---- dropped instead ---- */

static void test_drops_rather_than_copies(void **state)
{
    struct rig *rig = *state;
    make(rig, 0, 3 * MIB);
    make_rebuildable(rig, 1, 3 * MIB, 100);   /* cheap to build, but free to remap */
    make_rebuildable(rig, 2, 512 * KIB, 100); /* copied, if not dropped */
    make_rebuildable(rig, 3, 512 * KIB, MIB); /* dearer than the copy */
    release(rig, 0);
    cenote_tensor dropped = rig->tensors[2];
    rig->sizes[2] = 0; /* not to be looked into */
    cenote_compact_result result = compact(rig, NULL);
    assert_int_equal(result.dropped_bytes, 512 * KIB);
    assert_int_equal(rig->dropped, 1);
    assert_int_equal(rig->dropped_last, dropped);
    void *data = NULL;
    cenote_error err = {0};
    assert_int_equal(cenote_tensor_pin(rig->pool, dropped, &data, &err), CENOTE_E_NOTFOUND);
    assert_non_null(strstr(err.message, "was dropped"));
    cenote_tensor_state s;
    assert_int_equal(cenote_tensor_state_get(rig->pool, dropped, &s, NULL), CENOTE_OK);
    assert_true(s.dropped);
    assert_true(s.rebuildable);
    assert_int_equal(tensor_stats(rig).dropped_count, 1);
    assert_int_equal(tensor_stats(rig).live_count, 3);
    assert_int_equal(tensor_stats(rig).live_bytes, 3 * MIB + 512 * KIB);
    assert_int_equal(pool_stats(rig).block_count, 2);
    assert_int_equal(cenote_tensor_release(rig->pool, dropped, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_release(rig->pool, dropped, NULL), CENOTE_E_INVAL);
    check(rig);
}

/* The budget's ladder drops what is rebuildable: not pinned, not lately used, and no more than it
 * needs. */
static void test_drops_for_the_budget(void **state)
{
    struct rig *rig = *state;
    for (unsigned i = 0; i < 5; i++)
        make_rebuildable(rig, i, 10 * MIB, 1);
    pin(rig, 0);
    cenote_error err = {0};
    uint64_t forty = 40 * MIB;
    assert_int_equal(try_make(rig, 5, 60 * MIB, 0, &err), CENOTE_E_BUDGET);
    assert_int_equal(rig->dropped, 0); /* it would not have helped */
    cenote_budget_holder holder;
    assert_int_equal(cenote_budget_explain(rig->budget, &holder, 1), 1);
    assert_int_equal(holder.rebuildable_bytes, forty);
    for (unsigned i = 1; i < 5; i++)
        rig->sizes[i] = 0;
    make(rig, 5, 20 * MIB);
    assert_int_equal(rig->dropped, 1);
    make(rig, 6, 10 * MIB);
    assert_int_equal(rig->dropped, 2);
    unpin(rig, 0);
    check(rig); /* the pinned one has its bytes */
    for (unsigned i = 1; i < 5; i++)
        assert_int_equal(cenote_tensor_release(rig->pool, rig->tensors[i], NULL), CENOTE_OK);
}

/* A clock with a second chance: what was pinned since the hand came by goes last. */
static void test_drops_the_unused_first(void **state)
{
    struct rig *rig = *state;
    for (unsigned i = 0; i < 5; i++)
        make_rebuildable(rig, i, 10 * MIB, 1);
    rig->sizes[0] = 0;
    make(rig, 5, 15 * MIB); /* the hand took all marks away, and dropped the first */
    assert_int_equal(rig->dropped_last, rig->tensors[0]);
    unpin(rig, (pin(rig, 1), 1));
    rig->sizes[2] = 0;
    make(rig, 6, 9 * MIB);
    assert_int_equal(rig->dropped, 2);
    assert_int_equal(rig->dropped_last, rig->tensors[2]);
    check(rig);
    for (unsigned i = 0; i < 3; i += 2)
        assert_int_equal(cenote_tensor_release(rig->pool, rig->tensors[i], NULL), CENOTE_OK);
}

/* ---- of itself ---- */

/* Five tensors of a granule, 47 free ones before each: no hole for 7 MiB, though 8 are allowed. */
static void scatter(struct rig *rig)
{
    void *raw[5];
    cenote_pool_destroy(rig->pool);
    rig_pool(rig, 8 * MIB); /* a range of 16, and as much for a while: */
    assert_int_equal(cenote_pool_quota_set(rig->pool, 16 * MIB, NULL), CENOTE_OK);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(cenote_pool_alloc(rig->pool, 47 * 64 * KIB, &raw[i], NULL), CENOTE_OK);
        make(rig, i, 64 * KIB - 3);
    }
    for (unsigned i = 0; i < 5; i++)
        cenote_pool_free(rig->pool, raw[i]);
    assert_int_equal(cenote_pool_quota_set(rig->pool, 8 * MIB, NULL), CENOTE_OK);
    assert_int_equal(pool_stats(rig).largest_hole_bytes, 47 * 64 * KIB);
}

static uint64_t compacted_hole(struct rig *rig)
{
    cenote_budget_holder holder;
    assert_int_equal(cenote_budget_explain(rig->budget, &holder, 1), 1);
    return holder.compacted_hole_bytes / (64 * KIB);
}

static void test_makes_a_hole(void **state)
{
    struct rig *rig = *state;
    scatter(rig);
    assert_int_equal(compacted_hole(rig), 256 - 5);
    make(rig, 5, 7 * MIB);
    assert_int_equal(tensor_stats(rig).compact_count, 1);
    assert_int_equal(tensor_stats(rig).moved_bytes, 2 * (64 * KIB - 3)); /* no window has fewer */
    assert_int_equal(pool_stats(rig).miss_count[CENOTE_MISS_HOLE], 0);
    cenote_budget_stats stats;
    cenote_budget_stats_get(rig->budget, &stats);
    assert_int_equal(stats.reclaim[CENOTE_RECLAIM_COMPACTION].gave_count, 1);
    check(rig);
}

static void test_makes_no_hole(void **state)
{
    struct rig *rig = *state;
    scatter(rig);
    pin(rig, 2);
    assert_int_equal(compacted_hole(rig), 2 * 48 + 47);
    pin(rig, 1);
    pin(rig, 3);
    pin(rig, 4);
    cenote_error err = {0};
    assert_int_equal(try_make(rig, 5, 7 * MIB, 0, &err), CENOTE_E_BUDGET);
    assert_non_null(strstr(err.message, "the largest hole is 3080192"));
    assert_int_equal(tensor_stats(rig).compact_count, 0);
    /* A veto binds here too. */
    for (unsigned i = 1; i < 5; i++)
        unpin(rig, i);
    struct judge judge = {.stop_after = 1};
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    options.veto = judge_one;
    options.veto_context = &judge;
    assert_int_equal(cenote_pool_compact_above(rig->pool, 100, &options, NULL), CENOTE_OK);
    assert_int_equal(try_make(rig, 5, 7 * MIB, 0, &err), CENOTE_E_BUDGET);
    assert_int_equal(judge.asked, 1);
    assert_non_null(
        strstr(err.message, "the largest hole is 3080192, compaction could make one of"));
    judge = (struct judge){.kept = rig->tensors[1]};
    make(rig, 5, 7 * MIB);
    assert_int_equal(place(rig, 1), 48 + 47);
    check(rig);
}

/* Half of the range up to the last block is free, in two holes that a block is too long for. */
static void test_starts_by_itself(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(cenote_pool_compact_above(rig->pool, 50, NULL, NULL), CENOTE_OK);
    two_holes(rig);
    make(rig, 4, 4 * MIB); /* 50 is not above 50 */
    assert_int_equal(place(rig, 4), 4 * 48);
    release(rig, 4);
    assert_int_equal(cenote_pool_compact_above(rig->pool, 49, NULL, NULL), CENOTE_OK);
    make(rig, 4, 2 * MIB); /* fits into a hole */
    release(rig, 4);
    make(rig, 4, 4 * MIB); /* fits into idle memory above the last block */
    release(rig, 4);
    make(rig, 4, 30 * MIB); /* idle memory is not enough for it */
    release(rig, 4);
    cenote_pool_trim(rig->pool);
    make(rig, 4, 4 * MIB); /* there is no idle memory */
    release(rig, 4);
    assert_int_equal(tensor_stats(rig).compact_count, 0);
    for (unsigned i = 1; i < 4; i += 2)
        release(rig, i);
    two_holes(rig);
    make(rig, 4, 3 * MIB + 64 * KIB); /* moving 3 MiB for that would be more */
    release(rig, 4);
    cenote_pool_trim(rig->pool);
    make(rig, 5, 3 * MIB);
    make(rig, 6, 3 * MIB);
    release(rig, 5);
    release(rig, 6);
    assert_int_equal(tensor_stats(rig).compact_count, 0);
    uint64_t committed = pool_stats(rig).committed_bytes;
    make(rig, 4, 5 * MIB);
    assert_int_equal(tensor_stats(rig).compact_count, 1);
    assert_int_equal(tensor_stats(rig).moved_bytes, 3 * MIB - 100);
    assert_int_equal(place(rig, 4), 0);
    assert_int_equal(place(rig, 1), 2 * 48);
    assert_true(pool_stats(rig).committed_bytes < committed);
}

/* Not when as much would move as would be committed, nor when idle memory is not enough: both would
 * have moved far more than they save on a serving trace. */
static void test_not_worth_it(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(cenote_pool_compact_above(rig->pool, 30, NULL, NULL), CENOTE_OK);
    for (unsigned i = 0; i < 4; i++)
        make(rig, i, (i % 2 == 0 ? 3 : 4) * MIB);
    release(rig, 0);
    release(rig, 2);
    make(rig, 4, 4 * MIB); /* 4 MiB lie in its way */
    assert_int_equal(tensor_stats(rig).compact_count, 0);
    for (unsigned i = 1; i < 5; i++)
        if (rig->sizes[i] != 0)
            release(rig, i);
    cenote_pool_trim(rig->pool);
    two_holes(rig); /* 6 MiB */
    make(rig, 4, 6 * MIB + 1);
    assert_int_equal(tensor_stats(rig).compact_count, 0);
    release(rig, 4);
    cenote_pool_trim(rig->pool);
}

/* What failed is not tried again before as much as is live was allocated. */
static void test_gives_up_for_a_while(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(cenote_pool_compact_above(rig->pool, 20, NULL, NULL), CENOTE_OK);
    two_holes(rig);
    pin(rig, 1);
    pin(rig, 3);
    make(rig, 4, 4 * MIB); /* tried: 6 MiB are live, and two thirds of that are allocated now */
    unpin(rig, 1);
    unpin(rig, 3);
    make(rig, 5, 4 * MIB);
    assert_int_equal(tensor_stats(rig).compact_count, 0);
    make(rig, 6, 4 * MIB);
    assert_int_equal(tensor_stats(rig).compact_count, 1);
    assert_int_equal(place(rig, 6), 0);

    cenote_error err = {0};
    assert_int_equal(cenote_pool_compact_above(rig->pool, 101, NULL, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "101 percent"));
    cenote_compact_options options = {.version = 3};
    assert_int_equal(cenote_pool_compact_above(rig->pool, 30, &options, &err), CENOTE_E_VERSION);
}

/* A hole that takes two moves: the veto is asked for both before the first, and limits hold for the
 * sum. */
static void test_all_or_nothing(void **state)
{
    struct rig *rig = *state;
    scatter(rig); /* 7 MiB want two of five moved */
    struct judge judge = {.stop_after = 2};
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    cenote_error err = {0};
    options.veto = judge_one;
    options.veto_context = &judge;
    assert_int_equal(cenote_pool_compact_above(rig->pool, 100, &options, NULL), CENOTE_OK);
    assert_int_equal(try_make(rig, 5, 7 * MIB, 0, &err), CENOTE_E_BUDGET);
    assert_int_equal(judge.asked, 2);
    assert_int_equal(tensor_stats(rig).moved_bytes, 0);
    options = (cenote_compact_options)CENOTE_COMPACT_OPTIONS_INIT;
    options.max_moves = 1;
    assert_int_equal(cenote_pool_compact_above(rig->pool, 100, &options, NULL), CENOTE_OK);
    assert_int_equal(try_make(rig, 5, 7 * MIB, 0, &err), CENOTE_E_BUDGET);
    options.max_moves = 2;
    options.max_bytes = 100 * KIB;
    assert_int_equal(cenote_pool_compact_above(rig->pool, 100, &options, NULL), CENOTE_OK);
    assert_int_equal(try_make(rig, 5, 7 * MIB, 0, &err), CENOTE_E_BUDGET);
    assert_int_equal(tensor_stats(rig).moved_bytes, 0);
    options.max_bytes = 128 * KIB;
    assert_int_equal(cenote_pool_compact_above(rig->pool, 100, &options, NULL), CENOTE_OK);
    make(rig, 5, 7 * MIB);
}

/* ---- recorded ---- */

struct places {
    bool taken[256];
    unsigned moves, wrong;
};

static cenote_status follow(void *context, const cenote_trace_op *op, cenote_error *err)
{
    struct places *places = context;
    (void)err;
    bool *place = &places->taken[op->id / CENOTE_GRANULE_BYTES];
    if (op->kind == CENOTE_TRACE_ALLOC || op->kind == CENOTE_TRACE_FREE) {
        places->wrong += *place == (op->kind == CENOTE_TRACE_ALLOC);
        *place = op->kind == CENOTE_TRACE_ALLOC;
        places->moves += op->kind == CENOTE_TRACE_ALLOC && op->id == 0;
    }
    return CENOTE_OK;
}

/* Who reads a trace always knows what lies where. */
static void test_trace_follows(void **state)
{
    struct rig *rig = *state;
    static const char path[] = TEST_SCRATCH_DIR "/compact.trace";
    static unsigned char bytes[4096];
    unlink(path);
    assert_int_equal(cenote_trace_start(path, NULL), CENOTE_OK);
    two_holes(rig);
    compact(rig, NULL);
    release(rig, 1);
    release(rig, 3);
    assert_int_equal(cenote_trace_stop(NULL), CENOTE_OK);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t size_bytes = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    unlink(path);
    struct places places = {0};
    uint64_t torn_bytes;
    assert_int_equal(cenote_trace_read(bytes, size_bytes, follow, &places, &torn_bytes, NULL),
                     CENOTE_OK);
    assert_int_equal(places.wrong, 0);
    assert_int_equal(places.moves, 2); /* the first one, and what moved there */
    for (unsigned i = 0; i < 256; i++)
        assert_false(places.taken[i]);
}

/* ---- faults ---- */

/* The kernel refuses, after half of the way where there is one: the bytes go back, and are copied.
 */
static void test_remap_fails(void **state)
{
    struct rig *rig = *state;
    two_holes(rig);
    cn_fake_fail(rig->fake, CN_FAKE_REMAP, 1, ENOMEM);
    cenote_compact_result result = compact(rig, NULL);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.moved_bytes, 3 * MIB - 100);
    assert_int_equal(result.remapped_bytes, 0);
    assert_int_equal(place(rig, 3), 0);
}

/* And every commit after that fails in its turn: 24 on the way back, one for the copy. */
static void test_fault_sweep(void **state)
{
    struct rig *rig = *state;
    unsigned lost = 0, stayed = 0, copied = 0;
    for (uint64_t nth = 1; copied == 0; nth++) {
        two_holes(rig);
        cenote_pool_trim(rig->pool); /* the copy must commit */
        uint64_t size_bytes = rig->sizes[3];
        cn_fake_fail(rig->fake, CN_FAKE_REMAP, 1, EAGAIN);
        cn_fake_fail(rig->fake, CN_FAKE_COMMIT, nth, ENOMEM);
        cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
        options.max_moves = 1;
        struct judge judge = {.kept = rig->tensors[1]};
        options.veto = judge_one;
        options.veto_context = &judge;
        rig->sizes[3] = 0; /* to be looked into only when it is there */
        cenote_compact_result result = compact(rig, &options);
        cn_fake_fail(rig->fake, CN_FAKE_COMMIT, 0, 0);
        if (result.dropped_bytes > 0) {
            void *data = NULL;
            assert_int_equal(result.dropped_bytes, size_bytes);
            assert_int_equal(cenote_tensor_pin(rig->pool, rig->tensors[3], &data, NULL),
                             CENOTE_E_NOTFOUND);
            lost++;
        } else {
            rig->sizes[3] = size_bytes;
            check(rig);
            copied += result.moves == 1;
            stayed += result.moves == 0;
        }
        release(rig, 1);
        release(rig, 3);
        check(rig);
    }
    assert_int_equal(lost, 24);
    assert_int_equal(stayed, 1);
}

/* Not a byte is left in the budget: page tables cannot move, idle memory can still be copied to. */
static void test_budget_is_full(void **state)
{
    struct rig *rig = *state;
    two_holes(rig);
    cenote_budget_stats stats;
    cenote_budget_stats_get(rig->budget, &stats);
    uint64_t left = stats.limit_bytes - stats.charged_bytes;
    assert_int_equal(cenote_budget_charge(rig->budget, left, "the rest", NULL), CENOTE_OK);
    cenote_compact_result result = compact(rig, NULL);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.remapped_bytes, 0);
    release(rig, 3);
    release(rig, 1);
    cenote_budget_uncharge(rig->budget, left);

    two_holes(rig);
    cenote_pool_trim(rig->pool);
    cenote_budget_stats_get(rig->budget, &stats);
    left = stats.limit_bytes - stats.charged_bytes;
    assert_int_equal(cenote_budget_charge(rig->budget, left, "the rest", NULL), CENOTE_OK);
    result = compact(rig, NULL);
    assert_int_equal(result.moves, 0);
    cenote_budget_uncharge(rig->budget, left);
    result = compact(rig, NULL);
    assert_int_equal(result.remapped_bytes, 3 * MIB - 100);
}

int main(void)
{
#define COMPACT_TEST(name) cmocka_unit_test_setup_teardown(name, rig_up, rig_down)
    const struct CMUnitTest tests[] = {
        COMPACT_TEST(test_moves_down),
        COMPACT_TEST(test_nothing_to_do),
        COMPACT_TEST(test_pinned_stay),
        COMPACT_TEST(test_copies_small),
        COMPACT_TEST(test_limits),
        COMPACT_TEST(test_veto),
        COMPACT_TEST(test_pinned_just_then),
        COMPACT_TEST(test_pin_waits_for_the_move),
        COMPACT_TEST(test_drops_rather_than_copies),
        COMPACT_TEST(test_drops_for_the_budget),
        COMPACT_TEST(test_drops_the_unused_first),
        COMPACT_TEST(test_makes_a_hole),
        COMPACT_TEST(test_makes_no_hole),
        COMPACT_TEST(test_starts_by_itself),
        COMPACT_TEST(test_not_worth_it),
        COMPACT_TEST(test_gives_up_for_a_while),
        COMPACT_TEST(test_all_or_nothing),
        COMPACT_TEST(test_trace_follows),
        COMPACT_TEST(test_remap_fails),
        COMPACT_TEST(test_fault_sweep),
        COMPACT_TEST(test_budget_is_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
