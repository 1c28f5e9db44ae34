/* SPDX-License-Identifier: Apache-2.0 */
/* Random valid checkpoints against the bytes that were written: tensors of any shape and dtype over
 * several shards, data beginning at any residue, programs with random panels, slots, threads and
 * orders of release; direct and buffered. CENOTE_TEST_SEED repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "checkpoint.h"
#include "random.h"
#include "weights_fixture.h"

enum {
    ROUNDS = 60,
    TENSORS_MAX = 40,
    SHARDS_MAX = 5,
    ITEMS_MAX = 12,
    HELD_MAX = 6,
    PANELS_MAX = 4096
};

static uint64_t random_state;

/* [0, count) */
static uint32_t pick(uint32_t count)
{
    return (uint32_t)(random_next(&random_state) % count);
}

struct model {
    struct test_tensor tensors[TENSORS_MAX];
    char names[TENSORS_MAX][64];
    uint32_t tensor_count;
    uint32_t shard_of[TENSORS_MAX];
    uint32_t shard_count;
};

static void model_make(struct model *m)
{
    static const char *const dtypes[] = {"F32", "BF16", "F16", "U8", "F64", "I64", "BOOL"};
    m->tensor_count = 1 + pick(TENSORS_MAX);
    m->shard_count = 1 + pick(SHARDS_MAX);
    for (uint32_t i = 0; i < m->tensor_count; i++) {
        struct test_tensor *t = &m->tensors[i];
        snprintf(m->names[i], sizeof m->names[i], "m.%u.t%u", pick(1000), i);
        *t = (struct test_tensor){.name = m->names[i], .dtype = dtypes[pick(7)], .seed = i + 1};
        t->rank = pick(5);
        for (uint32_t d = 0; d < t->rank; d++)
            t->shape[d] = pick(12) == 0 ? 0 : 1 + pick(d == 0 ? 90 : 12);
        m->shard_of[i] = pick(m->shard_count);
    }
}

static void shard_name(const struct model *m, uint32_t shard, char *name, size_t bytes)
{
    snprintf(name, bytes, "model-%05u-of-%05u.safetensors", shard + 1, m->shard_count);
}

static void model_write(const struct model *m, const char *folder, bool with_index)
{
    char path[700], name[80];
    for (uint32_t s = 0; s < m->shard_count; s++) {
        struct test_tensor in_shard[TENSORS_MAX];
        size_t count = 0;
        for (uint32_t i = 0; i < m->tensor_count; i++)
            if (m->shard_of[i] == s)
                in_shard[count++] = m->tensors[i];
        shard_name(m, s, name, sizeof name);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        test_checkpoint_write(path, in_shard, count, pick(5000));
    }
    if (!with_index)
        return;
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    FILE *index = fopen(path, "w");
    fprintf(index, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (uint32_t i = 0; i < m->tensor_count; i++) {
        shard_name(m, m->shard_of[i], name, sizeof name);
        fprintf(index, "%s\"%s\":\"%s\"", i == 0 ? "" : ",", m->names[i], name);
    }
    fprintf(index, "}}");
    fclose(index);
}

static void check_table(const struct model *m, cenote_weights *weights, bool with_index)
{
    assert_int_equal(cenote_weights_count(weights), m->tensor_count);
    if (!with_index)
        assert_int_equal(cenote_weights_file_count(weights), m->shard_count);
    for (uint32_t i = 0; i < m->tensor_count; i++) {
        const struct test_tensor *t = &m->tensors[i];
        uint32_t index = test_weights_find(weights, t->name);
        const cenote_tensor_info *info = cenote_weights_tensor(weights, index);
        uint64_t size = test_tensor_bytes(t);
        assert_int_equal(info->size_bytes, size);
        assert_memory_equal(info->shape, t->shape, t->rank * sizeof t->shape[0]);
        if (index > 0)
            assert_true(strcmp(cenote_weights_tensor(weights, index - 1)->name, info->name) < 0);
        unsigned char *bytes = malloc(size + 1);
        assert_int_equal(cenote_weights_read(weights, index, 0, size, bytes, NULL), CENOTE_OK);
        assert_int_equal(test_tensor_mismatch(t, 0, bytes, size), size);
        free(bytes);
    }
}

/* The naive model of a program: matrix by matrix, the panels of one in any order. */
struct walk {
    const struct model *m;
    const cenote_stream_item *items;
    const uint32_t *item_tensors;
    uint32_t item_count;
    uint32_t item;
    uint64_t rows_taken;
    bool seen[PANELS_MAX];
};

static uint64_t rows_of(const struct test_tensor *t)
{
    return t->rank == 0 ? 1 : t->shape[0];
}

static void walk_check(struct walk *w, const cenote_panel *panel)
{
    const struct test_tensor *t = &w->m->tensors[w->item_tensors[w->item]];
    while (test_tensor_bytes(t) == 0 || w->rows_taken == rows_of(t)) {
        w->item = (w->item + 1) % w->item_count;
        w->rows_taken = 0;
        memset(w->seen, 0, sizeof w->seen);
        t = &w->m->tensors[w->item_tensors[w->item]];
    }
    uint64_t left = rows_of(t) - panel->row_first;
    uint32_t rows = w->items[w->item].rows_per_panel;
    assert_int_equal(panel->item_index, w->item);
    assert_int_equal(panel->row_first % rows, 0);
    assert_in_range(panel->row_first / rows, 0, PANELS_MAX - 1);
    assert_false(w->seen[panel->row_first / rows]);
    w->seen[panel->row_first / rows] = true;
    assert_int_equal(panel->row_count, left < rows ? left : rows);
    uint64_t bytes = panel->row_count * panel->row_bytes;
    assert_int_equal(panel->row_bytes * rows_of(t), test_tensor_bytes(t));
    assert_int_equal(
        test_tensor_mismatch(t, panel->row_first * panel->row_bytes, panel->data, bytes), bytes);
    w->rows_taken += panel->row_count;
}

static uint64_t program_make(const struct model *m, cenote_weights *weights,
                             cenote_stream_item *items, uint32_t *item_tensors, uint32_t count,
                             uint64_t *out_panels)
{
    uint64_t largest = 1;
    *out_panels = 0;
    for (uint32_t i = 0; i < count; i++) {
        item_tensors[i] = pick(m->tensor_count);
        const struct test_tensor *t = &m->tensors[item_tensors[i]];
        items[i] = (cenote_stream_item){test_weights_find(weights, t->name), 1 + pick(20)};
        uint64_t size = test_tensor_bytes(t);
        if (size == 0)
            continue;
        uint64_t rows = items[i].rows_per_panel < rows_of(t) ? items[i].rows_per_panel : rows_of(t);
        uint64_t bytes = size / rows_of(t) * rows;
        largest = bytes > largest ? bytes : largest;
        *out_panels += (rows_of(t) + items[i].rows_per_panel - 1) / items[i].rows_per_panel;
    }
    return largest;
}

static void run_program(cenote_stream *stream, struct walk *walk, uint64_t panels,
                        uint32_t slot_count)
{
    cenote_panel held[HELD_MAX];
    uint32_t held_count = 0;
    uint32_t held_max = 1 + pick(slot_count < HELD_MAX ? slot_count : HELD_MAX);
    cenote_error err;
    for (uint64_t n = 0; n < panels; n++) {
        if (held_count == held_max) {
            uint32_t give = pick(held_count);
            cenote_stream_release(stream, &held[give]);
            held[give] = held[--held_count];
        }
        if (cenote_stream_next(stream, &held[held_count], &err) != CENOTE_OK)
            fail_msg("panel %llu of %llu: %s", (unsigned long long)n, (unsigned long long)panels,
                     err.message);
        walk_check(walk, &held[held_count++]);
    }
    cenote_panel panel;
    assert_int_equal(cenote_stream_next(stream, &panel, &err), CENOTE_E_NOTFOUND);
    while (held_count > 0)
        cenote_stream_release(stream, &held[--held_count]);
}

static void check_stream(const struct model *m, cenote_weights *weights, cenote_budget *budget)
{
    cenote_stream_item items[ITEMS_MAX];
    uint32_t item_tensors[ITEMS_MAX];
    uint32_t count = 1 + pick(ITEMS_MAX);
    uint64_t per_pass;
    uint64_t passes = 1 + pick(3);
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = program_make(m, weights, items, item_tensors, count, &per_pass);
    options.slot_count = 2 + pick(8);
    options.depth = pick(5);
    options.engine = pick(2) == 0 ? CENOTE_ENGINE_AUTO : CENOTE_ENGINE_PREAD;
    if (per_pass == 0)
        return;
    cenote_pool *pool = test_pool_create(budget);
    cenote_stream *stream;
    cenote_error err;
    assert_int_equal(cenote_stream_create(weights, pool, &options, &stream, &err), CENOTE_OK);
    assert_int_equal(cenote_stream_start(stream, items, count, passes, &err), CENOTE_OK);
    struct walk walk = {.m = m, .items = items, .item_tensors = item_tensors, .item_count = count};
    run_program(stream, &walk, per_pass * passes, options.slot_count);
    cenote_stream_destroy(stream);
    assert_int_equal(cenote_pool_destroy(pool), 0);
}

static void test_random_checkpoints(void **state)
{
    (void)state;
    const char *seed_text = getenv("CENOTE_TEST_SEED");
    uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : 20261121;
    print_message("CENOTE_TEST_SEED=%llu\n", (unsigned long long)seed);
    cenote_budget *budget = test_budget_create(256u << 20, NULL);
    static struct model m;
    uint64_t direct_count = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        char folder[512];
        random_state = seed + round;
        test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
        model_make(&m);
        bool with_index = pick(2) == 0;
        model_write(&m, folder, with_index);
        for (int mode = 0; mode < 2; mode++) {
            cenote_weights *weights =
                test_weights_open(budget, folder, mode == 0 ? CENOTE_IO_AUTO : CENOTE_IO_BUFFERED);
            cenote_weights_stats stats;
            cenote_weights_stats_get(weights, &stats);
            direct_count += stats.direct;
            check_table(&m, weights, with_index);
            check_stream(&m, weights, budget);
            cenote_weights_close(weights);
        }
        test_folder_remove(folder);
        assert_int_equal(test_budget_charged(budget), 1);
    }
    print_message("%llu of %u opened with O_DIRECT\n", (unsigned long long)direct_count, ROUNDS);
    cenote_budget_destroy(budget);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_checkpoints)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
