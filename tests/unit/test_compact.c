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

#include "compact_fixture.h"
#include "pool/pool_impl.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)

/* ---- what moves ---- */

static void test_moves_down(void **state)
{
    struct scene *scene = *state;
    scene_two_holes(scene);
    assert_int_equal(scene_place(scene, 3), 3 * 48);
    uint64_t committed = rig_stats(scene->rig.pool).committed_bytes;
    cenote_compact_result result = scene_compact(scene, NULL);
    assert_true(result.done);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.moved_bytes, 3 * MIB - 100);
    assert_int_equal(result.remapped_bytes, result.moved_bytes);
    assert_int_equal(result.dropped_bytes, 0);
    assert_int_equal(scene_place(scene, 3), 0);
    assert_int_equal(scene_place(scene, 1), 48);
    /* The pages moved: what was idle at the new place went back, and the old place did. */
    assert_int_equal(rig_stats(scene->rig.pool).committed_bytes, committed - 3 * MIB);
    assert_true(rig_stats(scene->rig.pool).external_fragmentation == 0);
    result = scene_compact(scene, NULL);
    assert_true(result.done);
    assert_int_equal(result.moves, 0);
    assert_int_equal(scene_tensor_stats(scene).moved_bytes, 3 * MIB - 100);
    assert_int_equal(scene_tensor_stats(scene).remapped_bytes, 3 * MIB - 100);
}

/* Four of 4 MiB, which lie alike in their chunks, the first and the third released again. */
static void two_even_holes(struct scene *scene)
{
    for (unsigned i = 0; i < 4; i++)
        scene_make(scene, i, 4 * MIB - 100);
    scene_release(scene, 0);
    scene_release(scene, 2);
}

/* What is idle at the new place goes to the old one, and serves the next block there. */
static void test_idle_changes_places(void **state)
{
    struct scene *scene = *state;
    two_even_holes(scene);
    cenote_pool_stats before = rig_stats(scene->rig.pool);
    cenote_compact_result result = scene_compact(scene, NULL);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.remapped_bytes, 4 * MIB - 100);
    assert_int_equal(scene_place(scene, 3), 0);
    assert_int_equal(rig_stats(scene->rig.pool).committed_bytes, before.committed_bytes);
    scene_make(scene, 0, 8 * MIB);
    assert_int_equal(scene_place(scene, 0), 128);
    cenote_pool_stats after = rig_stats(scene->rig.pool);
    assert_int_equal(after.committed_total_bytes, before.committed_total_bytes);
}

static void test_nothing_to_do(void **state)
{
    struct scene *scene = *state;
    cenote_compact_result result = scene_compact(scene, NULL); /* not even a table */
    assert_true(result.done);
    void *raw[3];
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(cenote_pool_alloc(scene->rig.pool, 3 * MIB, &raw[i], NULL), CENOTE_OK);
    scene_make(scene, 0, MIB);
    memset(raw[2], 7, 3 * MIB);
    cenote_pool_free(scene->rig.pool, raw[0]);
    scene_release(scene, 0);
    result = scene_compact(scene, NULL); /* raw blocks stay */
    assert_true(result.done);
    assert_int_equal(result.moves, 0);
    assert_int_equal(((char *)raw[2])[3 * MIB - 1], 7);
    cenote_pool_free(scene->rig.pool, raw[1]);
    cenote_pool_free(scene->rig.pool, raw[2]);
}

static void test_pinned_stay(void **state)
{
    struct scene *scene = *state;
    scene_two_holes(scene);
    unsigned char *data = scene_pin(scene, 3);
    scene_pin(scene, 3);
    assert_int_equal(scene_compact(scene, NULL).moves, 1); /* the other one */
    assert_int_equal(scene_place(scene, 1), 0);
    scene_unpin(scene, 3);
    assert_int_equal(scene_compact(scene, NULL).moves, 0);
    assert_ptr_equal(scene_pin(scene, 3), data);
    scene_unpin(scene, 3);
    scene_unpin(scene, 3);
    assert_int_equal(scene_compact(scene, NULL).moves, 1);
    assert_int_equal(scene_place(scene, 3), 48);
}

/* Small blocks are copied: what they leave is idle memory. */
static void test_copies_small(void **state)
{
    struct scene *scene = *state;
    scene_make(scene, 0, MIB - 5);
    scene_make(scene, 1, 3 * 64 * KIB - 5);
    scene_release(scene, 0);
    uint64_t committed = rig_stats(scene->rig.pool).committed_bytes;
    cenote_compact_result result = scene_compact(scene, NULL);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.remapped_bytes, 0);
    assert_int_equal(scene_place(scene, 1), 0);
    assert_int_equal(rig_stats(scene->rig.pool).committed_bytes, committed);
}

/* ---- limits and veto ---- */

static void test_limits(void **state)
{
    struct scene *scene = *state;
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    for (unsigned i = 0; i < SCENE_TENSORS; i++)
        scene_make(scene, i, 2 * MIB);
    for (unsigned i = 0; i < 4; i++)
        scene_release(scene, i);
    options.max_moves = 1;
    cenote_compact_result result = scene_compact(scene, &options);
    assert_false(result.done);
    assert_int_equal(result.moves, 1);
    assert_int_equal(scene_place(scene, 7), 0);
    options.max_moves = 0;
    options.max_bytes = 3 * MIB;
    result = scene_compact(scene, &options);
    assert_false(result.done);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.moved_bytes, 2 * MIB);
    options.max_bytes = MIB; /* nothing fits this, so nothing is left to do */
    result = scene_compact(scene, &options);
    assert_true(result.done);
    assert_int_equal(result.moves, 0);
    result = scene_compact(scene, NULL);
    assert_true(result.done);
    assert_int_equal(result.moves, 2);
    assert_true(rig_stats(scene->rig.pool).external_fragmentation == 0);
    options.version = 9;
    cenote_error err = {0};
    assert_int_equal(cenote_pool_compact(scene->rig.pool, &options, NULL, &err), CENOTE_E_VERSION);
    assert_non_null(strstr(err.message, "version 9"));
}

/* |.1.23| : 2 goes down and makes room for 3, which only a second round finds. */
static void test_stopped_in_the_second_round(void **state)
{
    struct scene *scene = *state;
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    static const uint64_t granules[] = {1, 1, 1, 1, 2};
    for (unsigned i = 0; i < 5; i++)
        scene_make(scene, i, granules[i] * 64 * KIB);
    scene_release(scene, 0);
    scene_release(scene, 2);
    options.max_moves = 1;
    cenote_compact_result result = scene_compact(scene, &options);
    assert_false(result.done);
    assert_int_equal(result.moves, 1);
    assert_int_equal(scene_place(scene, 3), 0);
    result = scene_compact(scene, &options);
    assert_true(result.done);
    assert_int_equal(result.moves, 1);
    assert_int_equal(scene_place(scene, 4), 2);
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
    struct scene *scene = *state;
    scene_two_holes(scene);
    struct judge judge = {.kept = scene->tensors[3]};
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    options.veto = judge_one;
    options.veto_context = &judge;
    cenote_compact_result result = scene_compact(scene, &options);
    assert_true(result.done);
    assert_int_equal(result.moves, 1);
    assert_int_equal(judge.asked, 2); /* once for each, over several rounds */
    assert_int_equal(judge.size_bytes, 3 * MIB - 100);
    assert_int_equal(scene_place(scene, 3), 3 * 48);
    assert_int_equal(scene_place(scene, 1), 0);

    judge = (struct judge){.stop_after = 1};
    result = scene_compact(scene, &options);
    assert_false(result.done);
    assert_int_equal(result.moves, 0);
    assert_int_equal(judge.asked, 1);
    assert_int_equal(scene_compact(scene, &options).moves, 1); /* gone on with */
}

/* ---- at the same time ---- */

/* What another thread might do between the plan and the move: a pin takes no lock. */
static cenote_compact_answer pin_it(void *context, cenote_tensor tensor, uint64_t size_bytes)
{
    struct scene *scene = context;
    void *data;
    (void)size_bytes;
    return cenote_tensor_pin(scene->rig.pool, tensor, &data, NULL) == CENOTE_OK
               ? CENOTE_COMPACT_MOVE
               : CENOTE_COMPACT_STOP;
}

static void test_pinned_just_then(void **state)
{
    struct scene *scene = *state;
    scene_two_holes(scene);
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    options.veto = pin_it;
    options.veto_context = scene;
    cenote_compact_result result = scene_compact(scene, &options);
    assert_true(result.done);
    assert_int_equal(result.moves, 0);
    assert_int_equal(scene_place(scene, 3), 3 * 48);
    scene_unpin(scene, 1);
    scene_unpin(scene, 3);
    assert_int_equal(scene_compact(scene, NULL).moves, 1);
}

static struct {
    struct scene *scene;
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
    slow.data = scene_pin(slow.scene, 3);
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
    struct scene *scene = *state;
    struct cn_os *os = cn_fake_os(scene->rig.fake);
    scene_two_holes(scene);
    slow.scene = scene;
    slow.ops = os->ops;
    slow.slow_ops = *os->ops;
    slow.slow_ops.memory_remap = slow_remap;
    os->ops = &slow.slow_ops;
    assert_int_equal(cenote_pool_compact(scene->rig.pool, NULL, NULL, NULL), CENOTE_OK);
    os->ops = slow.ops;
    pthread_join(slow.thread, NULL);
    assert_false(slow.pinned_early);
    assert_int_equal(scene_place(scene, 3), 0);
    assert_ptr_equal(scene_pin(scene, 3), slow.data);
    scene_unpin(scene, 3);
    scene_unpin(scene, 3);
}

/* ---- dropped instead ---- */

static void test_drops_rather_than_copies(void **state)
{
    struct scene *scene = *state;
    scene_make(scene, 0, 3 * MIB);
    scene_make_rebuildable(scene, 1, 3 * MIB, 100);         /* cheap to build, but free to remap */
    scene_make_rebuildable(scene, 2, 512 * KIB, 100);       /* copied, if not dropped */
    scene_make_rebuildable(scene, 3, 512 * KIB, 512 * KIB); /* as dear as the copy */
    scene_release(scene, 0);
    cenote_tensor dropped = scene->tensors[2];
    scene->sizes[2] = 0; /* not to be looked into */
    cenote_compact_result result = scene_compact(scene, NULL);
    assert_int_equal(result.dropped_bytes, 512 * KIB);
    assert_int_equal(scene->dropped, 1);
    assert_int_equal(scene->dropped_last, dropped);
    void *data = NULL;
    cenote_error err = {0};
    assert_int_equal(cenote_tensor_pin(scene->rig.pool, dropped, &data, &err), CENOTE_E_NOTFOUND);
    assert_non_null(strstr(err.message, "was dropped"));
    cenote_tensor_state s;
    assert_int_equal(cenote_tensor_state_get(scene->rig.pool, dropped, &s, NULL), CENOTE_OK);
    assert_true(s.dropped);
    assert_true(s.rebuildable);
    assert_int_equal(scene_tensor_stats(scene).dropped_count, 1);
    assert_int_equal(scene_tensor_stats(scene).live_count, 3);
    assert_int_equal(scene_tensor_stats(scene).live_bytes, 3 * MIB + 512 * KIB);
    assert_int_equal(rig_stats(scene->rig.pool).block_count, 2);
    assert_int_equal(cenote_tensor_release(scene->rig.pool, dropped, NULL), CENOTE_OK);
    assert_int_equal(cenote_tensor_release(scene->rig.pool, dropped, NULL), CENOTE_E_INVAL);
    scene_check(scene);
}

/* The budget's ladder drops what is rebuildable: not pinned, not lately used, and no more than it
 * needs. */
static void test_drops_for_the_budget(void **state)
{
    struct scene *scene = *state;
    for (unsigned i = 0; i < 5; i++)
        scene_make_rebuildable(scene, i, 10 * MIB, 1);
    scene_pin(scene, 0);
    cenote_error err = {0};
    uint64_t forty = 40 * MIB;
    assert_int_equal(scene_try_make(scene, 5, 60 * MIB, 0, &err), CENOTE_E_BUDGET);
    assert_int_equal(scene->dropped, 0); /* it would not have helped */
    cenote_budget_holder holder;
    assert_int_equal(cenote_budget_explain(scene->rig.budget, &holder, 1), 1);
    assert_int_equal(holder.rebuildable_bytes, forty);
    for (unsigned i = 1; i < 5; i++)
        scene->sizes[i] = 0;
    scene_make(scene, 5, 20 * MIB);
    assert_int_equal(scene->dropped, 1);
    scene_make(scene, 6, 10 * MIB);
    assert_int_equal(scene->dropped, 2);
    scene_unpin(scene, 0);
    scene_check(scene); /* the pinned one has its bytes */
    for (unsigned i = 1; i < 5; i++)
        assert_int_equal(cenote_tensor_release(scene->rig.pool, scene->tensors[i], NULL),
                         CENOTE_OK);
}

/* A clock with a second chance: what was pinned since the hand came by goes last. */
static void test_drops_the_unused_first(void **state)
{
    struct scene *scene = *state;
    for (unsigned i = 0; i < 5; i++)
        scene_make_rebuildable(scene, i, 10 * MIB, 1);
    scene->sizes[0] = 0;
    scene_make(scene, 5, 15 * MIB); /* the hand took all marks away, and dropped the first */
    assert_int_equal(scene->dropped_last, scene->tensors[0]);
    scene_unpin(scene, (scene_pin(scene, 1), 1));
    scene->sizes[2] = 0;
    scene_make(scene, 6, 9 * MIB);
    assert_int_equal(scene->dropped, 2);
    assert_int_equal(scene->dropped_last, scene->tensors[2]);
    scene_check(scene);
    for (unsigned i = 0; i < 3; i += 2)
        assert_int_equal(cenote_tensor_release(scene->rig.pool, scene->tensors[i], NULL),
                         CENOTE_OK);
}

/* ---- of itself ---- */

/* Five tensors of a granule, 47 free ones before each: no hole for 7 MiB, though 8 are allowed. */
static void scatter(struct scene *scene)
{
    void *raw[5];
    cenote_pool_destroy(scene->rig.pool);
    scene_pool(scene, 8 * MIB); /* a range of 16, and as much for a while: */
    assert_int_equal(cenote_pool_quota_set(scene->rig.pool, 16 * MIB, NULL), CENOTE_OK);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(cenote_pool_alloc(scene->rig.pool, 47 * 64 * KIB, &raw[i], NULL),
                         CENOTE_OK);
        scene_make(scene, i, 64 * KIB - 3);
    }
    for (unsigned i = 0; i < 5; i++)
        cenote_pool_free(scene->rig.pool, raw[i]);
    assert_int_equal(cenote_pool_quota_set(scene->rig.pool, 8 * MIB, NULL), CENOTE_OK);
    assert_int_equal(rig_stats(scene->rig.pool).largest_hole_bytes, 47 * 64 * KIB);
}

static uint64_t compacted_hole(struct scene *scene)
{
    cenote_budget_holder holder;
    assert_int_equal(cenote_budget_explain(scene->rig.budget, &holder, 1), 1);
    return holder.compacted_hole_bytes / (64 * KIB);
}

static void test_makes_a_hole(void **state)
{
    struct scene *scene = *state;
    scatter(scene);
    assert_int_equal(compacted_hole(scene), 256 - 5);
    scene_make(scene, 5, 7 * MIB);
    assert_int_equal(scene_tensor_stats(scene).compact_count, 1);
    assert_int_equal(scene_tensor_stats(scene).moved_bytes,
                     2 * (64 * KIB - 3)); /* no window has fewer */
    assert_int_equal(rig_stats(scene->rig.pool).miss_count[CENOTE_MISS_HOLE], 0);
    assert_int_equal(rig_budget_stats(&scene->rig).reclaim[CENOTE_RECLAIM_COMPACTION].gave_count,
                     1);
    scene_check(scene);
}

static void test_makes_no_hole(void **state)
{
    struct scene *scene = *state;
    scatter(scene);
    scene_pin(scene, 2);
    assert_int_equal(compacted_hole(scene), 2 * 48 + 47);
    scene_pin(scene, 1);
    scene_pin(scene, 3);
    scene_pin(scene, 4);
    cenote_error err = {0};
    assert_int_equal(scene_try_make(scene, 5, 7 * MIB, 0, &err), CENOTE_E_BUDGET);
    assert_non_null(strstr(err.message, "the largest hole is 3080192"));
    assert_int_equal(scene_tensor_stats(scene).compact_count, 0);
    /* A veto binds here too. */
    for (unsigned i = 1; i < 5; i++)
        scene_unpin(scene, i);
    struct judge judge = {.stop_after = 1};
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    options.veto = judge_one;
    options.veto_context = &judge;
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 100, &options, NULL), CENOTE_OK);
    assert_int_equal(scene_try_make(scene, 5, 7 * MIB, 0, &err), CENOTE_E_BUDGET);
    assert_int_equal(judge.asked, 1);
    assert_non_null(
        strstr(err.message, "the largest hole is 3080192, compaction could make one of"));
    judge = (struct judge){.kept = scene->tensors[1]};
    scene_make(scene, 5, 7 * MIB);
    assert_int_equal(scene_place(scene, 1), 48 + 47);
    scene_check(scene);
}

/* Half of the range up to the last block is free, in two holes that a block is too long for. */
static void test_starts_by_itself(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 50, NULL, NULL), CENOTE_OK);
    scene_two_holes(scene);
    scene_make(scene, 4, 4 * MIB); /* 50 is not above 50 */
    assert_int_equal(scene_place(scene, 4), 4 * 48);
    scene_release(scene, 4);
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 49, NULL, NULL), CENOTE_OK);
    scene_make(scene, 4, 2 * MIB); /* fits into a hole */
    scene_release(scene, 4);
    scene_make(scene, 4, 4 * MIB); /* fits into idle memory above the last block */
    scene_release(scene, 4);
    scene_make(scene, 4, 30 * MIB); /* idle memory is not enough for it */
    scene_release(scene, 4);
    cenote_pool_trim(scene->rig.pool);
    scene_make(scene, 4, 4 * MIB); /* there is no idle memory */
    scene_release(scene, 4);
    assert_int_equal(scene_tensor_stats(scene).compact_count, 0);
    for (unsigned i = 1; i < 4; i += 2)
        scene_release(scene, i);
    scene_two_holes(scene);
    scene_make(scene, 4, 3 * MIB + 64 * KIB); /* moving 3 MiB for that would be more */
    scene_release(scene, 4);
    cenote_pool_trim(scene->rig.pool);
    scene_make(scene, 5, 3 * MIB);
    scene_make(scene, 6, 3 * MIB);
    scene_release(scene, 5);
    scene_release(scene, 6);
    assert_int_equal(scene_tensor_stats(scene).compact_count, 0);
    uint64_t committed = rig_stats(scene->rig.pool).committed_bytes;
    scene_make(scene, 4, 5 * MIB);
    assert_int_equal(scene_tensor_stats(scene).compact_count, 1);
    assert_int_equal(scene_tensor_stats(scene).moved_bytes, 3 * MIB - 100);
    assert_int_equal(scene_place(scene, 4), 0);
    assert_int_equal(scene_place(scene, 1), 2 * 48);
    assert_true(rig_stats(scene->rig.pool).committed_bytes < committed);
}

/* Not when as much would move as would be committed, nor when idle memory is not enough: both would
 * have moved far more than they save on a serving trace. */
static void test_not_worth_it(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 30, NULL, NULL), CENOTE_OK);
    for (unsigned i = 0; i < 4; i++)
        scene_make(scene, i, (i % 2 == 0 ? 3 : 4) * MIB);
    scene_release(scene, 0);
    scene_release(scene, 2);
    scene_make(scene, 4, 4 * MIB); /* 4 MiB lie in its way */
    assert_int_equal(scene_tensor_stats(scene).compact_count, 0);
    for (unsigned i = 1; i < 5; i++)
        if (scene->sizes[i] != 0)
            scene_release(scene, i);
    cenote_pool_trim(scene->rig.pool);
    scene_two_holes(scene); /* 6 MiB */
    scene_make(scene, 4, 6 * MIB + 1);
    assert_int_equal(scene_tensor_stats(scene).compact_count, 0);
    scene_release(scene, 4);
    cenote_pool_trim(scene->rig.pool);
}

/* What failed is not tried again before as much as is live was allocated. */
static void test_gives_up_for_a_while(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 20, NULL, NULL), CENOTE_OK);
    scene_two_holes(scene);
    scene_pin(scene, 1);
    scene_pin(scene, 3);
    scene_make(scene, 4,
               4 * MIB); /* tried: 6 MiB are live, and two thirds of that are allocated now */
    scene_unpin(scene, 1);
    scene_unpin(scene, 3);
    scene_make(scene, 5, 4 * MIB);
    assert_int_equal(scene_tensor_stats(scene).compact_count, 0);
    scene_make(scene, 6, 4 * MIB);
    assert_int_equal(scene_tensor_stats(scene).compact_count, 1);
    assert_int_equal(scene_place(scene, 6), 0);

    cenote_error err = {0};
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 101, NULL, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "101 percent"));
    cenote_compact_options options = {.version = 3};
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 30, &options, &err),
                     CENOTE_E_VERSION);
}

/* A hole that takes two moves: the veto is asked for both before the first, and limits hold for the
 * sum. */
static void test_all_or_nothing(void **state)
{
    struct scene *scene = *state;
    scatter(scene); /* 7 MiB want two of five moved */
    struct judge judge = {.stop_after = 2};
    cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
    cenote_error err = {0};
    options.veto = judge_one;
    options.veto_context = &judge;
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 100, &options, NULL), CENOTE_OK);
    assert_int_equal(scene_try_make(scene, 5, 7 * MIB, 0, &err), CENOTE_E_BUDGET);
    assert_int_equal(judge.asked, 2);
    assert_int_equal(scene_tensor_stats(scene).moved_bytes, 0);
    options = (cenote_compact_options)CENOTE_COMPACT_OPTIONS_INIT;
    options.max_moves = 1;
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 100, &options, NULL), CENOTE_OK);
    assert_int_equal(scene_try_make(scene, 5, 7 * MIB, 0, &err), CENOTE_E_BUDGET);
    options.max_moves = 2;
    options.max_bytes = 100 * KIB;
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 100, &options, NULL), CENOTE_OK);
    assert_int_equal(scene_try_make(scene, 5, 7 * MIB, 0, &err), CENOTE_E_BUDGET);
    assert_int_equal(scene_tensor_stats(scene).moved_bytes, 0);
    options.max_bytes = 128 * KIB;
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 100, &options, NULL), CENOTE_OK);
    scene_make(scene, 5, 7 * MIB);
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
    struct scene *scene = *state;
    static const char path[] = TEST_SCRATCH_DIR "/compact.trace";
    static unsigned char bytes[4096];
    unlink(path);
    assert_int_equal(cenote_trace_start(path, NULL), CENOTE_OK);
    scene_two_holes(scene);
    scene_compact(scene, NULL);
    scene_release(scene, 1);
    scene_release(scene, 3);
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
    struct scene *scene = *state;
    scene_two_holes(scene);
    cn_fake_fail(scene->rig.fake, CN_FAKE_REMAP, 1, ENOMEM);
    cenote_compact_result result = scene_compact(scene, NULL);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.moved_bytes, 3 * MIB - 100);
    assert_int_equal(result.remapped_bytes, 0);
    assert_int_equal(scene_place(scene, 3), 0);
}

/* And every commit after that fails in its turn: 24 on the way back, one for the copy. */
static void test_fault_sweep(void **state)
{
    struct scene *scene = *state;
    unsigned lost = 0, stayed = 0, copied = 0;
    for (uint64_t nth = 1; copied == 0; nth++) {
        scene_two_holes(scene);
        cenote_pool_trim(scene->rig.pool); /* the copy must commit */
        uint64_t size_bytes = scene->sizes[3];
        cn_fake_fail(scene->rig.fake, CN_FAKE_REMAP, 1, EAGAIN);
        cn_fake_fail(scene->rig.fake, CN_FAKE_COMMIT, nth, ENOMEM);
        cenote_compact_options options = CENOTE_COMPACT_OPTIONS_INIT;
        options.max_moves = 1;
        struct judge judge = {.kept = scene->tensors[1]};
        options.veto = judge_one;
        options.veto_context = &judge;
        scene->sizes[3] = 0; /* to be looked into only when it is there */
        cenote_compact_result result = scene_compact(scene, &options);
        cn_fake_fail(scene->rig.fake, CN_FAKE_COMMIT, 0, 0);
        if (result.dropped_bytes > 0) {
            void *data = NULL;
            assert_int_equal(result.dropped_bytes, size_bytes);
            assert_int_equal(cenote_tensor_pin(scene->rig.pool, scene->tensors[3], &data, NULL),
                             CENOTE_E_NOTFOUND);
            lost++;
        } else {
            scene->sizes[3] = size_bytes;
            scene_check(scene);
            copied += result.moves == 1;
            stayed += result.moves == 0;
        }
        scene_release(scene, 1);
        scene_release(scene, 3);
        scene_check(scene);
    }
    assert_int_equal(lost, 24);
    assert_int_equal(stayed, 1);
}

/* Putting idle memory aside may fail, or bringing it back: it is lost then, the block is not. */
static void test_exchange_fails(void **state)
{
    struct scene *scene = *state;
    static const struct {
        enum cn_fake_call call;
        unsigned nth;
        uint64_t remapped_bytes, lost_bytes;
    } cases[] = {
        {CN_FAKE_RESERVE, 1, 4 * MIB - 100, 4 * MIB},
        {CN_FAKE_REMAP, 1, 4 * MIB - 100, 4 * MIB},
        {CN_FAKE_REMAP, 2, 0, 0}, /* the block itself: it is copied, to memory that is committed */
        {CN_FAKE_REMAP, 3, 4 * MIB - 100, 4 * MIB},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        two_even_holes(scene);
        uint64_t committed_bytes = rig_stats(scene->rig.pool).committed_bytes;
        cn_fake_fail(scene->rig.fake, cases[i].call, cases[i].nth, ENOMEM);
        cenote_compact_result result = scene_compact(scene, NULL);
        cn_fake_fail(scene->rig.fake, cases[i].call, 0, 0);
        assert_int_equal(result.moves, 1);
        assert_int_equal(result.remapped_bytes, cases[i].remapped_bytes);
        assert_int_equal(rig_stats(scene->rig.pool).committed_bytes,
                         committed_bytes - cases[i].lost_bytes);
        scene_release(scene, 1);
        scene_release(scene, 3);
    }
}

/* Not a byte is left in the budget: page tables cannot move, idle memory can still be copied to. */
static void test_budget_is_full(void **state)
{
    struct scene *scene = *state;
    scene_two_holes(scene);
    uint64_t left = rig_room(&scene->rig);
    assert_int_equal(cenote_budget_charge(scene->rig.budget, left, "the rest", NULL), CENOTE_OK);
    cenote_compact_result result = scene_compact(scene, NULL);
    assert_int_equal(result.moves, 1);
    assert_int_equal(result.remapped_bytes, 0);
    scene_release(scene, 3);
    scene_release(scene, 1);
    cenote_budget_uncharge(scene->rig.budget, left);

    scene_two_holes(scene);
    cenote_pool_trim(scene->rig.pool);
    left = rig_room(&scene->rig);
    assert_int_equal(cenote_budget_charge(scene->rig.budget, left, "the rest", NULL), CENOTE_OK);
    result = scene_compact(scene, NULL);
    assert_int_equal(result.moves, 0);
    cenote_budget_uncharge(scene->rig.budget, left);
    result = scene_compact(scene, NULL);
    assert_int_equal(result.remapped_bytes, 3 * MIB - 100);
}

int main(void)
{
#define COMPACT_TEST(name) cmocka_unit_test_setup_teardown(name, scene_up, scene_down)
    const struct CMUnitTest tests[] = {
        COMPACT_TEST(test_moves_down),
        COMPACT_TEST(test_idle_changes_places),
        COMPACT_TEST(test_nothing_to_do),
        COMPACT_TEST(test_pinned_stay),
        COMPACT_TEST(test_copies_small),
        COMPACT_TEST(test_limits),
        COMPACT_TEST(test_stopped_in_the_second_round),
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
        COMPACT_TEST(test_exchange_fails),
        COMPACT_TEST(test_budget_is_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
