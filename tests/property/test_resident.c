/* SPDX-License-Identifier: Apache-2.0 */
/* The resident set against a naive model: random matrices, random moves of the split line between
 * programs and in the middle of them. Every panel is handed out once a pass with the right bytes,
 * what is resident is never read, nothing is read twice for it, and the budget is charged exactly
 * what the line stands for. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/bf12.h>
#include <cenote/cenote.h>

#include "os/fake/fake.h"
#include "weights/resident.h"
#include "weights_fixture.h"

enum { ROUNDS = 120, PROGRAMS = 10, MATRICES_MAX = 7, ROWS_MAX = 150, COLUMNS_MAX = 200 };

struct matrix {
    uint32_t rows, columns;
    bool bf16;
    unsigned char *bytes;
    uint64_t size_bytes;
};

struct scene {
    struct cn_fake *fake;
    cenote_budget *budget;
    cenote_weights *weights;
    cenote_pool *pool;
    cenote_resident *resident;
    cenote_stream *stream;
    cenote_encoding encoding;
    struct matrix matrices[MATRICES_MAX];
    cenote_stream_item items[MATRICES_MAX];
    uint32_t count;
    bool wild; /* one of the matrices cannot be packed */
};

static uint64_t state_of_random;

static uint32_t pick(uint32_t n)
{
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state_of_random >> 33) % n;
}

/* ---- a checkpoint in memory ---- */

/* As trained weights are: exponents close together. Or any bits at all. */
static uint16_t element(bool wild)
{
    if (wild)
        return (uint16_t)pick(65536);
    return (uint16_t)(pick(2) << 15 | (118 + pick(6)) << 7 | pick(128));
}

static void matrix_fill(struct matrix *m, bool wild)
{
    m->size_bytes = (uint64_t)m->rows * m->columns * (m->bf16 ? 2 : 4);
    m->bytes = malloc(m->size_bytes + 1);
    for (uint64_t i = 0; i + 1 < m->size_bytes; i += 2) {
        uint16_t value = element(wild);
        memcpy(m->bytes + i, &value, sizeof value);
    }
}

static void write_checkpoint(struct scene *s)
{
    char header[4096];
    int length = 0;
    uint64_t offset = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        const struct matrix *m = &s->matrices[i];
        length +=
            snprintf(header + length, sizeof header - (size_t)length,
                     "%s\"m%u\":{\"dtype\":\"%s\",\"shape\":[%u,%u],\"data_offsets\":[%" PRIu64
                     ",%" PRIu64 "]}",
                     i == 0 ? "{" : ",", i, m->bf16 ? "BF16" : "F32", m->rows, m->columns, offset,
                     offset + m->size_bytes);
        offset += m->size_bytes;
    }
    header[length++] = '}';
    uint64_t header_bytes = (uint64_t)length;
    unsigned char *file = malloc(8 + header_bytes + offset);
    memcpy(file, &header_bytes, 8);
    memcpy(file + 8, header, header_bytes);
    uint64_t at = 8 + header_bytes;
    for (uint32_t i = 0; i < s->count; at += s->matrices[i++].size_bytes)
        memcpy(file + at, s->matrices[i].bytes, s->matrices[i].size_bytes);
    assert_int_equal(cn_fake_file_add(s->fake, "/m.safetensors", file, at), 0);
    free(file);
}

static uint64_t make_matrices(struct scene *s)
{
    uint64_t panel_bytes_max = 1;
    s->count = 1 + pick(MATRICES_MAX);
    s->wild = pick(4) == 0;
    for (uint32_t i = 0; i < s->count; i++) {
        struct matrix *m = &s->matrices[i];
        *m = (struct matrix){1 + pick(ROWS_MAX), 1 + pick(COLUMNS_MAX), pick(5) > 0, NULL, 0};
        matrix_fill(m, s->wild && i == 0);
        s->items[i].rows_per_panel = 1 + pick(24);
        uint64_t panel = (uint64_t)s->items[i].rows_per_panel * m->columns * (m->bf16 ? 2 : 4);
        panel_bytes_max = panel > panel_bytes_max ? panel : panel_bytes_max;
    }
    return panel_bytes_max;
}

static void scene_make(struct scene *s)
{
    cenote_error err = {0};
    memset(s, 0, sizeof *s);
    s->fake = cn_fake_create();
    cenote_stream_options options = CENOTE_STREAM_OPTIONS_INIT;
    options.panel_bytes_max = make_matrices(s);
    write_checkpoint(s);
    s->budget = test_budget_create(64u << 20, cn_fake_os(s->fake));
    s->weights = test_weights_open(s->budget, "/m.safetensors", CENOTE_IO_BUFFERED);
    s->pool = test_pool_create(s->budget);
    for (uint32_t i = 0; i < s->count; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        s->items[i].tensor_index = test_weights_find(s->weights, name);
    }
    s->encoding = pick(2) == 0 ? CENOTE_ENCODING_PLAIN : CENOTE_ENCODING_BF12;
    uint64_t before = test_budget_charged(s->budget);
    if (cenote_resident_create(s->weights, s->budget, s->items, s->count, s->encoding, NULL,
                               &s->resident, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    assert_int_equal(test_budget_charged(s->budget) - before,
                     cenote_resident_overhead_bytes(s->weights, s->items, s->count));
    options.slot_count = 2 + pick(10);
    options.engine = pick(2) == 0 ? CENOTE_ENGINE_AUTO : CENOTE_ENGINE_PREAD;
    options.resident = s->resident;
    if (cenote_stream_create(s->weights, s->pool, &options, &s->stream, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
}

static void scene_end(struct scene *s)
{
    cenote_stream_destroy(s->stream);
    cenote_resident_destroy(s->resident);
    assert_int_equal(cenote_pool_destroy(s->pool), 0);
    cenote_weights_close(s->weights);
    assert_int_equal(test_budget_charged(s->budget), 1);
    cenote_budget_destroy(s->budget);
    assert_int_equal(cn_fake_books_get(s->fake).open_files, 0);
    assert_int_equal(cn_fake_books_get(s->fake).reservations, 0);
    assert_int_equal(cn_fake_books_get(s->fake).misuse_count, 0);
    cn_fake_destroy(s->fake);
    for (uint32_t i = 0; i < s->count; i++)
        free(s->matrices[i].bytes);
}

/* ---- checks ---- */

static void check_bytes(const struct scene *s, const cenote_panel *panel)
{
    const struct matrix *m = &s->matrices[panel->item_index];
    const unsigned char *want = m->bytes + panel->row_first * panel->row_bytes;
    assert_int_equal(panel->row_bytes, m->size_bytes / m->rows);
    if (panel->encoding == CENOTE_ENCODING_PLAIN) {
        assert_memory_equal(panel->data, want, panel->row_count * panel->row_bytes);
        return;
    }
    assert_true(m->bf16 && s->encoding == CENOTE_ENCODING_BF12);
    for (uint64_t row = 0; row < panel->row_count; row++) {
        uint16_t decoded[COLUMNS_MAX];
        cenote_bf12_decode(panel->data, m->columns, row, 0, m->columns, decoded);
        assert_memory_equal(decoded, want + row * panel->row_bytes, panel->row_bytes);
    }
}

static cenote_resident_stats resident_stats(const struct scene *s)
{
    cenote_resident_stats stats;
    cenote_resident_stats_get(s->resident, &stats);
    return stats;
}

static uint64_t bytes_read(const struct scene *s)
{
    cenote_weights_stats stats;
    cenote_weights_stats_get(s->weights, &stats);
    return stats.bytes_read;
}

static void move_line(struct scene *s)
{
    uint64_t whole = cenote_resident_whole_bytes(s->weights, s->items, s->count, s->encoding, NULL);
    uint64_t charge = pick(6) == 0 ? whole : pick((uint32_t)whole + 100000);
    uint64_t before = test_budget_charged(s->budget) - resident_stats(s).charged_bytes;
    cenote_error err;
    if (cenote_resident_resize(s->resident, charge, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    cenote_resident_stats stats = resident_stats(s);
    assert_true(stats.charged_bytes <= charge);
    assert_int_equal(test_budget_charged(s->budget) - before, stats.charged_bytes);
    assert_true(stats.held_weight_bytes <= stats.target_weight_bytes);
    if (charge >= whole)
        assert_int_equal(stats.target_weight_bytes, stats.whole_weight_bytes);
}

/* All panels of one matrix, in any order, some held for a while. */
static void take_matrix(struct scene *s, uint32_t index)
{
    bool seen[ROWS_MAX] = {false};
    uint64_t taken = 0;
    cenote_panel held = {0};
    bool holds = false;
    while (taken < s->matrices[index].rows) {
        cenote_panel panel;
        cenote_error err;
        if (cenote_stream_next(s->stream, &panel, &err) != CENOTE_OK)
            fail_msg("matrix %u after %" PRIu64 " rows: %s", index, taken, err.message);
        assert_int_equal(panel.item_index, index);
        assert_false(seen[panel.row_first / s->items[index].rows_per_panel]);
        seen[panel.row_first / s->items[index].rows_per_panel] = true;
        taken += panel.row_count;
        if (holds) {
            check_bytes(s, &held); /* nobody wrote over it meanwhile */
            cenote_stream_release(s->stream, &held);
        }
        held = panel;
        check_bytes(s, &held);
        holds = pick(2) == 0;
        if (!holds)
            cenote_stream_release(s->stream, &held);
    }
    if (holds)
        cenote_stream_release(s->stream, &held);
}

/* One pass that nobody disturbs reads what was not there, once. */
static void check_quiet_pass(struct scene *s)
{
    cenote_resident_stats before = resident_stats(s);
    uint64_t read = bytes_read(s);
    assert_int_equal(cenote_stream_start(s->stream, s->items, s->count, 1, NULL), CENOTE_OK);
    for (uint32_t i = 0; i < s->count; i++)
        take_matrix(s, i);
    cenote_panel panel;
    assert_int_equal(cenote_stream_next(s->stream, &panel, NULL), CENOTE_E_NOTFOUND);
    cenote_stream_stop(s->stream);
    assert_int_equal(bytes_read(s) - read, before.whole_weight_bytes - before.held_weight_bytes);
    cenote_resident_stats after = resident_stats(s);
    if (!s->wild || s->encoding == CENOTE_ENCODING_PLAIN)
        assert_int_equal(after.held_weight_bytes, after.target_weight_bytes);
}

/* Some passes, left at any point, with the line moved between matrices. */
static void disturb(struct scene *s)
{
    uint64_t passes = 1 + pick(3);
    assert_int_equal(cenote_stream_start(s->stream, s->items, s->count, passes, NULL), CENOTE_OK);
    uint32_t visits = pick((uint32_t)passes * s->count + 1);
    for (uint32_t visit = 0; visit < visits; visit++) {
        take_matrix(s, visit % s->count);
        if (pick(3) == 0) {
            cenote_stream_forget_ahead(s->stream);
            move_line(s);
        }
    }
    cenote_stream_stop(s->stream);
}

static void test_against_the_model(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        static struct scene s;
        state_of_random = round * 7919 + 1;
        scene_make(&s);
        for (uint32_t i = 0; i < PROGRAMS; i++) {
            move_line(&s);
            if (pick(2) == 0)
                disturb(&s);
            else
                check_quiet_pass(&s);
            check_quiet_pass(&s);
        }
        scene_end(&s);
    }
}

/* Below the line lies nearly the same share of the rows of every matrix. */
static void test_shares_are_even(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        static struct scene s;
        state_of_random = round * 104729 + 5;
        scene_make(&s);
        move_line(&s);
        check_quiet_pass(&s);
        double lowest = 1, highest = 0;
        uint32_t most = 1;
        for (uint32_t i = 0; i < s.count && !s.wild; i++) {
            uint32_t first = cn_resident_first_panel(s.resident, &s.items[i]);
            uint32_t rows = s.items[i].rows_per_panel;
            uint32_t panels = (s.matrices[i].rows + rows - 1) / rows, held = 0;
            cenote_encoding encoding;
            while (held < panels && cn_resident_get(s.resident, first + held, &encoding) != NULL)
                held++;
            for (uint32_t j = held; j < panels; j++)
                assert_null(cn_resident_get(s.resident, first + j, &encoding));
            most = panels > most ? panels : most;
            /* half a panel of its own either way, and the order's step */
            lowest = fmin(lowest, (held + 0.5) / panels);
            highest = fmax(highest, (held - 0.5) / panels);
        }
        assert_true(s.wild || highest <= lowest + 1.0 / most + 1e-9);
        scene_end(&s);
    }
}

static void test_bad_sets(void **state)
{
    (void)state;
    static struct scene s;
    state_of_random = 3;
    scene_make(&s);
    cenote_error err;
    cenote_resident *none = NULL;
    cenote_stream_item twice[2] = {s.items[0], s.items[0]};
    assert_int_equal(cenote_resident_create(s.weights, s.budget, twice, 2, CENOTE_ENCODING_PLAIN,
                                            NULL, &none, &err),
                     CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "named twice"));
    assert_int_equal(cenote_stream_start(s.stream, twice, 2, 1, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "the same resident tensor `m0`"));
    cenote_stream_item bad = {1000, 1};
    assert_int_equal(cenote_resident_create(s.weights, s.budget, &bad, 1, CENOTE_ENCODING_PLAIN,
                                            NULL, &none, &err),
                     CENOTE_E_INVAL);
    uint64_t charged = test_budget_charged(s.budget);
    assert_int_equal(cenote_budget_limit_set(s.budget, charged + 65536, NULL), CENOTE_OK);
    cenote_resident_stats before = resident_stats(&s);
    uint64_t whole = cenote_resident_whole_bytes(s.weights, s.items, s.count, s.encoding, NULL);
    if (whole > 65536)
        assert_int_equal(cenote_resident_resize(s.resident, whole, &err), CENOTE_E_BUDGET);
    assert_int_equal(resident_stats(&s).charged_bytes, before.charged_bytes);
    assert_int_equal(test_budget_charged(s.budget), charged);
    cenote_resident_destroy(NULL);
    scene_end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_the_model),
        cmocka_unit_test(test_shares_are_even),
        cmocka_unit_test(test_bad_sets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
