/* SPDX-License-Identifier: Apache-2.0 */
#include "compact_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "pool/pool_impl.h"

#define MIB (UINT64_C(1) << 20)

/* ---- tensors with marks in them ---- */

static void scene_on_drop(void *context, cenote_tensor tensor)
{
    struct scene *scene = context;
    scene->dropped++;
    scene->dropped_last = tensor;
}

cenote_status scene_try_make(struct scene *scene, unsigned i, uint64_t size_bytes,
                             uint64_t rebuild_bytes, cenote_error *err)
{
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    options.dtype = CENOTE_DTYPE_U8;
    options.rank = 1;
    options.shape[0] = size_bytes;
    if (rebuild_bytes > 0) {
        options.dropped = scene_on_drop;
        options.dropped_context = scene;
        options.rebuild_bytes = rebuild_bytes;
    }
    cenote_status status = cenote_tensor_create(scene->rig.pool, &options, &scene->tensors[i], err);
    if (status == CENOTE_OK)
        scene->sizes[i] = size_bytes;
    return status;
}

unsigned char *scene_pin(struct scene *scene, unsigned i)
{
    void *data = NULL;
    assert_int_equal(cenote_tensor_pin(scene->rig.pool, scene->tensors[i], &data, NULL), CENOTE_OK);
    return data;
}

void scene_unpin(struct scene *scene, unsigned i)
{
    assert_int_equal(cenote_tensor_unpin(scene->rig.pool, scene->tensors[i], NULL), CENOTE_OK);
}

void scene_make_rebuildable(struct scene *scene, unsigned i, uint64_t size_bytes,
                            uint64_t rebuild_bytes)
{
    cenote_error err = {0};
    if (scene_try_make(scene, i, size_bytes, rebuild_bytes, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    unsigned char *data = scene_pin(scene, i);
    for (uint64_t b = 0; b < size_bytes; b++)
        data[b] = (unsigned char)(b / 4096 + i * 37 + b);
    scene_unpin(scene, i);
}

void scene_make(struct scene *scene, unsigned i, uint64_t size_bytes)
{
    scene_make_rebuildable(scene, i, size_bytes, 0);
}

void scene_release(struct scene *scene, unsigned i)
{
    assert_int_equal(cenote_tensor_release(scene->rig.pool, scene->tensors[i], NULL), CENOTE_OK);
    scene->sizes[i] = 0;
}

static void scene_check_content(struct scene *scene, unsigned i)
{
    unsigned char *data = scene_pin(scene, i);
    uint64_t b = 0;
    while (b < scene->sizes[i] && data[b] == (unsigned char)(b / 4096 + i * 37 + b))
        b++;
    assert_int_equal(b, scene->sizes[i]);
    scene_unpin(scene, i);
}

/* Where it lies, in granules. */
uint64_t scene_place(struct scene *scene, unsigned i)
{
    uint64_t offset = (uint64_t)((char *)scene_pin(scene, i) - scene->rig.pool->base);
    scene_unpin(scene, i);
    return offset / CENOTE_GRANULE_BYTES;
}

cenote_tensor_stats scene_tensor_stats(const struct scene *scene)
{
    cenote_tensor_stats stats;
    cenote_tensor_stats_get(scene->rig.pool, &stats);
    return stats;
}

/* The pool, the system's books against the budget's, and every byte. */
void scene_check(struct scene *scene)
{
    const char *broken = cenote_pool_check(scene->rig.pool);
    if (broken != NULL)
        fail_msg("%s", broken);
    struct cn_fake_books books = cn_fake_books_get(scene->rig.fake);
    assert_int_equal(books.misuse_count, 0);
    assert_true(books.committed_bytes <= rig_charged(&scene->rig));
    for (unsigned i = 0; i < SCENE_TENSORS; i++)
        if (scene->sizes[i] != 0)
            scene_check_content(scene, i);
}

cenote_compact_result scene_compact(struct scene *scene, const cenote_compact_options *options)
{
    cenote_compact_result result;
    cenote_error err = {0};
    if (cenote_pool_compact(scene->rig.pool, options, &result, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    scene_check(scene);
    return result;
}

void scene_pool(struct scene *scene, uint64_t quota_bytes)
{
    scene->rig.pool = rig_pool(&scene->rig, CENOTE_CLASS_KV_CACHE, quota_bytes);
    /* Only when a test says so. */
    assert_int_equal(cenote_pool_compact_above(scene->rig.pool, 100, NULL, NULL), CENOTE_OK);
}

int scene_up(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    assert_non_null(scene);
    scene->rig = rig_open(cn_fake_create(), SCENE_LIMIT_BYTES);
    scene_pool(scene, 0);
    *state = scene;
    return 0;
}

int scene_down(void **state)
{
    struct scene *scene = *state;
    scene_check(scene);
    rig_close(&scene->rig);
    free(scene);
    return 0;
}

/* Four of 3 MiB, the first and the third released again: |....|111|....|333| */
void scene_two_holes(struct scene *scene)
{
    for (unsigned i = 0; i < 4; i++)
        scene_make(scene, i, 3 * MIB - 100);
    scene_release(scene, 0);
    scene_release(scene, 2);
}
