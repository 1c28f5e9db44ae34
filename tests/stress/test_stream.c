/* SPDX-License-Identifier: Apache-2.0 */
/* Many reads under way, few slots, a consumer that dawdles, stops, restarts and meets faults, while
 * other threads read small things of the same checkpoint: run it under ThreadSanitizer. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "checkpoint.h"
#include "os/fake/fake.h"
#include "weights_fixture.h"

enum { TENSORS = 4, ROUNDS = 150, SLOTS = 5, SMALL_READERS = 2 };

static const struct test_tensor tensors[TENSORS] = {
    {"a", "BF16", {61, 40}, 2, 1},
    {"b", "F32", {33, 17}, 2, 2},
    {"c", "U8", {128, 129}, 2, 3},
    {"d", "F64", {0}, 0, 4},
};

struct scene {
    char folder[512];
    cenote_budget *budget;
    cenote_weights *weights;
    cenote_pool *pool;
    cenote_stream *stream;
    cenote_stream_item items[TENSORS];
    atomic_bool done;
    atomic_uint small_reads;
};

static void scene_make(struct scene *s, struct cn_os *os, cenote_io_engine engine)
{
    char path[600];
    test_folder_create(TEST_SCRATCH_DIR, s->folder, sizeof s->folder);
    snprintf(path, sizeof path, "%s/m.safetensors", s->folder);
    test_checkpoint_write(path, tensors, TENSORS, 9);
    s->budget = test_budget_create(64u << 20, os);
    s->weights = test_weights_open(s->budget, path, CENOTE_IO_AUTO);
    s->pool = test_pool_create(s->budget);
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = 4096;
    options.slot_count = SLOTS;
    options.engine = engine;
    cenote_error err;
    if (cenote_stream_create(s->weights, s->pool, &options, &s->stream, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    static const uint32_t rows[TENSORS] = {7, 5, 3, 1};
    for (uint32_t i = 0; i < TENSORS; i++)
        s->items[i] = (cenote_stream_item){test_weights_find(s->weights, tensors[i].name), rows[i]};
}

static void scene_end(struct scene *s)
{
    cenote_stream_destroy(s->stream);
    assert_int_equal(cenote_pool_destroy(s->pool), 0);
    cenote_weights_close(s->weights);
    assert_int_equal(test_budget_charged(s->budget), 1);
    cenote_budget_destroy(s->budget);
    test_folder_remove(s->folder);
}

/* Takes at most @p limit panels, holding some, and checks each. */
static cenote_status take(struct scene *s, uint32_t limit, uint32_t held_max, unsigned *random)
{
    cenote_panel held[SLOTS];
    uint32_t held_count = 0;
    cenote_status status = CENOTE_OK;
    for (uint32_t n = 0; n < limit; n++) {
        cenote_error err;
        cenote_panel *panel = &held[held_count];
        status = cenote_stream_next(s->stream, panel, &err);
        if (status != CENOTE_OK)
            break;
        uint64_t bytes = panel->row_count * panel->row_bytes;
        assert_int_equal(test_tensor_mismatch(&tensors[panel->item_index],
                                              panel->row_first * panel->row_bytes, panel->data,
                                              bytes),
                         bytes);
        held_count++;
        if (rand_r(random) % 4 == 0)
            sched_yield();
        if (held_count == held_max) {
            uint32_t give = (uint32_t)rand_r(random) % held_count;
            cenote_stream_release(s->stream, &held[give]);
            held[give] = held[--held_count];
        }
    }
    while (held_count > 0)
        cenote_stream_release(s->stream, &held[--held_count]);
    return status;
}

static void *small_reader(void *argument)
{
    struct scene *s = argument;
    unsigned random = 77;
    while (!atomic_load(&s->done)) {
        uint32_t t = (uint32_t)rand_r(&random) % TENSORS;
        uint64_t size = test_tensor_bytes(&tensors[t]);
        uint64_t at = (uint64_t)rand_r(&random) % size;
        uint64_t bytes = size - at < 300 ? size - at : 300;
        unsigned char data[300];
        cenote_status status =
            cenote_weights_read(s->weights, s->items[t].tensor_index, at, bytes, data, NULL);
        if (status != CENOTE_OK || test_tensor_mismatch(&tensors[t], at, data, bytes) != bytes)
            abort();
        cenote_weights_stats stats;
        cenote_weights_stats_get(s->weights, &stats);
        atomic_fetch_add(&s->small_reads, 1);
    }
    return NULL;
}

static void test_stop_and_start(void **state)
{
    (void)state;
    static struct scene s;
    scene_make(&s, NULL, CENOTE_ENGINE_PREAD);
    pthread_t threads[SMALL_READERS];
    for (int i = 0; i < SMALL_READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, small_reader, &s), 0);
    unsigned random = 5;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t passes = 1 + (uint64_t)rand_r(&random) % 3;
        assert_int_equal(cenote_stream_start(s.stream, s.items, TENSORS, passes, NULL), CENOTE_OK);
        uint32_t limit = round % 3 == 0 ? 1000 : (uint32_t)rand_r(&random) % 60;
        cenote_status status = take(&s, limit, 1 + round % SLOTS, &random);
        assert_int_equal(status, limit == 1000 ? CENOTE_E_NOTFOUND : CENOTE_OK);
        if (round % 2 == 0)
            cenote_stream_stop(s.stream);
    }
    atomic_store(&s.done, true);
    for (int i = 0; i < SMALL_READERS; i++)
        pthread_join(threads[i], NULL);
    assert_true(atomic_load(&s.small_reads) > 0);
    scene_end(&s);
}

/* Faults at random reads, with all readers at once: right bytes, or one error and a fresh start. */
static void test_faults_among_threads(void **state)
{
    (void)state;
    struct cn_fake *fake = cn_fake_create();
    static struct scene s;
    scene_make(&s, cn_fake_os(fake), CENOTE_ENGINE_PREAD);
    unsigned random = 9;
    unsigned errors = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t at = 1 + (uint64_t)rand_r(&random) % 80;
        bool fatal = round % 3 == 0;
        cn_fake_fault_add(fake,
                          (struct cn_fake_fault){CN_FAULT_ERROR, at, fatal ? CN_FAKE_ALWAYS : 1,
                                                 round % 2 == 0 ? EIO : EINTR});
        cn_fake_fault_add(fake, (struct cn_fake_fault){CN_FAULT_SHORT, at + 3, 2, 512});
        assert_int_equal(cenote_stream_start(s.stream, s.items, TENSORS, 1, NULL), CENOTE_OK);
        cenote_status status = take(&s, 1000, 1 + round % SLOTS, &random);
        assert_true(status == CENOTE_E_NOTFOUND || (fatal && status == CENOTE_E_IO));
        errors += status == CENOTE_E_IO;
        cn_fake_faults_clear(fake);
    }
    assert_true(errors > 0);
    scene_end(&s);
    assert_int_equal(cn_fake_books_get(fake).open_files, 0);
    assert_int_equal(cn_fake_books_get(fake).misuse_count, 0);
    cn_fake_destroy(fake);
}

/* Ends while readers are in the middle of their reads. */
static void test_destroy_at_once(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 40; round++) {
        static struct scene s;
        unsigned random = round;
        scene_make(&s, NULL, CENOTE_ENGINE_PREAD);
        assert_int_equal(cenote_stream_start(s.stream, s.items, TENSORS, 100, NULL), CENOTE_OK);
        assert_int_equal(take(&s, round % 7, 2, &random), CENOTE_OK);
        scene_end(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_and_start),
        cmocka_unit_test(test_faults_among_threads),
        cmocka_unit_test(test_destroy_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
