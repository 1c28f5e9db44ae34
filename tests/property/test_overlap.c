/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and work at the same time, on the fake clock: whatever a panel costs to compute and to read
 * and however much is resident, some passes take max(bytes read / disk, work), and at the start the
 * first read; and what they take is work or counted as waiting, to the nanosecond. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "schedule_fixture.h"

/* Sanitizers and coverage, where a run takes several times as long, see every STRIDE-th. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(CENOTE_COVERAGE)
#define STRIDE 4u
#else
#define STRIDE 1u
#endif

enum { MATRICES = 6, ROWS = 512, COLUMNS = 256, PANEL_ROWS = 16, PASSES = 3, PANEL_BYTES = 8192 };

/* Reading a panel at the disk's full speed takes this long. */
#define READ_NS 100000u

struct load {
    uint32_t slots, depth;
    double compute;          /* of a panel, in reads of one */
    double share;            /* resident */
    uint32_t latency;        /* of a read, in reads at full speed */
    uint32_t latency_random; /* up to so much more */
    bool two_lanes;          /* and no bus: two reads at a time, each takes its latency */
    double slack;            /* over the bound */
};

static void set_disk(struct schedule *s, const struct load *load)
{
    struct cn_fake_disk disk = {.seed = 7,
                                .latency_ns = load->latency * UINT64_C(1) * READ_NS,
                                .latency_random_ns = load->latency_random * UINT64_C(1) * READ_NS,
                                .bytes_per_s = UINT64_C(1000000000) * PANEL_BYTES / READ_NS};
    if (load->two_lanes) {
        disk.lanes = 2;
        disk.bytes_per_s = 0;
        disk.latency_ns = 2 * READ_NS;
    }
    cn_fake_disk_set(s->fake, &disk);
}

static void open_with(struct schedule *s, const struct load *load)
{
    memset(s, 0, sizeof *s);
    s->count = s->resident_count = MATRICES;
    for (uint32_t i = 0; i < MATRICES; i++) /* not all alike: 32, 24, 16, 32, .. panels */
        s->matrices[i] = (struct schedule_matrix){
            .rows = ROWS - i % 3 * ROWS / 4, .columns = COLUMNS, .rows_per_panel = PANEL_ROWS};
    s->options.slot_count = load->slots;
    s->options.depth = load->depth;
    s->options.engine = CENOTE_ENGINE_URING;
    schedule_open(s);
}

/* @return bytes that were read */
static uint64_t run(struct schedule *s, uint64_t passes, uint64_t compute_ns, uint64_t *out_panels)
{
    cenote_panel panel;
    cenote_weights_stats before, after;
    cenote_weights_stats_get(s->weights, &before);
    assert_int_equal(cenote_stream_start(s->stream, s->items, s->count, passes, NULL), CENOTE_OK);
    for (*out_panels = 0; cenote_stream_next(s->stream, &panel, NULL) == CENOTE_OK;
         (*out_panels)++) {
        cn_fake_work(s->fake, compute_ns);
        cenote_stream_release(s->stream, &panel);
    }
    cenote_weights_stats_get(s->weights, &after);
    return after.bytes_read - before.bytes_read;
}

static void check(const struct load *load)
{
    static struct schedule s;
    cenote_weights_stats before, after;
    cenote_error err;
    uint64_t panels;
    open_with(&s, load);
    uint64_t whole =
        cenote_resident_whole_bytes(s.weights, s.items, s.count, CENOTE_ENCODING_PLAIN, NULL);
    assert_int_equal(
        cenote_resident_resize(s.resident, (uint64_t)((double)whole * load->share), &err),
        CENOTE_OK);
    run(&s, 1, 0, &panels); /* fills the set */
    set_disk(&s, load);
    uint64_t compute_ns = (uint64_t)(load->compute * READ_NS);
    uint64_t begin_ns = schedule_now_ns(&s);
    cenote_weights_stats_get(s.weights, &before);
    uint64_t bytes = run(&s, PASSES, compute_ns, &panels);
    cenote_weights_stats_get(s.weights, &after);
    uint64_t took_ns = schedule_now_ns(&s) - begin_ns;
    uint64_t work_ns = panels * compute_ns, read_ns = bytes / PANEL_BYTES * READ_NS;
    uint64_t start_ns =
        ((load->two_lanes ? 2 : load->latency) + load->latency_random + 1) * READ_NS;
    uint64_t bound_ns = work_ns > read_ns ? work_ns : read_ns;
    assert_int_equal(took_ns, work_ns + after.wait_ns - before.wait_ns);
    if ((double)took_ns > (double)bound_ns * (1 + load->slack) + (double)(start_ns + compute_ns))
        fail_msg("compute %.2f, share %.2f, slots %u, depth %u, latency %u+%u: %.3f of the bound",
                 load->compute, load->share, load->slots, load->depth, load->latency,
                 load->latency_random, (double)took_ns / (double)bound_ns);
    assert_true(took_ns >= bound_ns * 99 / 100); /* the clock is honest */
    schedule_close(&s);
}

static void check_all(struct load load)
{
    static const double computes[] = {0, 0.1, 0.3, 0.5, 0.8, 0.95, 1, 1.05, 1.5, 3};
    static const double shares[] = {0, 0.1, 0.25, 0.5, 0.75, 0.9, 1};
    for (size_t c = 0; c < sizeof computes / sizeof computes[0]; c++)
        for (size_t h = c % STRIDE; h < sizeof shares / sizeof shares[0]; h += STRIDE) {
            load.compute = computes[c];
            load.share = shares[h];
            check(&load);
        }
}

static void test_steady_disk(void **state)
{
    (void)state;
    check_all((struct load){.slots = 16, .latency = 2, .slack = 0.02});
}

/* Reads overtake each other. */
static void test_uneven_disk(void **state)
{
    (void)state;
    check_all((struct load){.slots = 16, .latency = 1, .latency_random = 6, .slack = 0.05});
}

/* More slots than reads at a time: what is read waits in slots, and the disk goes on. */
static void test_shallow_queue(void **state)
{
    (void)state;
    check_all((struct load){.slots = 32, .depth = 8, .latency = 1, .slack = 0.02});
}

/* A disk that is quick only with two reads at a time. */
static void test_two_lanes(void **state)
{
    (void)state;
    check_all((struct load){.slots = 12, .two_lanes = true, .slack = 0.03});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steady_disk),
        cmocka_unit_test(test_uneven_disk),
        cmocka_unit_test(test_shallow_queue),
        cmocka_unit_test(test_two_lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
