/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler of the stream against a model, on a disk whose reads take random times, overtake
 * each other and fail: random programs, started, stopped, cut short and resumed at random, some
 * thousand times. The model stands at the door to the disk and knows of every read when it is
 * handed over, and of every slot who has it.
 *
 *   reads     in the order of use, none for what is resident, none past the last pass, no more at a
 *             time than the depth, into no slot that somebody still has
 *   idle      never: when next() returns, the disk has all the work that it may have
 *   panels    the matrices of a pass in order, every panel once, its own bytes
 *   set       what becomes resident has been read once and is never read again
 *   waits     only when nothing could be handed out, and counted to the nanosecond
 *   after     a stop, an error or the end nothing is under way, charged or committed
 *   copy      where there is a packed one it is read, and its faults cost nothing but time
 *
 * CENOTE_TEST_SEED repeats one seed. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "random.h"
#include "reader_fixture.h"
#include "schedule_fixture.h"
#include "weights/resident.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(CENOTE_COVERAGE)
#define SEEDS 200u
#else
#define SEEDS 2500u
#endif

enum { STEPS = 60, PANELS_MAX = 128, SLOTS_MAX = 24, RESIDENT_SLOT = 511, FOR_THE_NEXT = 40 };

enum state { IDLE, UNDER_WAY, AGAIN, THERE, HELD };

struct slot {
    enum state state;
    const void *data; /* NULL: not met yet */
    uint64_t visit;
    uint32_t panel;
    uint32_t size_bytes;
    bool doubtful; /* its read did not bring all */
    bool after;    /* its file had changed when it came */
};

struct held {
    cenote_panel panel;
    bool stale; /* of a program that is over */
};

struct sim {
    struct schedule s;
    uint64_t random;
    bool faulty, refusing;
    bool threads;        /* read: nobody is at the door, and only what is handed out is looked at */
    bool fatal;          /* the fault is none that a stream gets over */
    bool suspect;        /* the program has met such a fault */
    bool broken;         /* a file that changes, at the end of that read */
    uint64_t break_read; /* of all that were made */
    uint32_t depth, slot_count;

    cenote_stream_item program[SCHEDULE_MATRICES_MAX];
    uint32_t matrix_of[SCHEDULE_MATRICES_MAX];
    uint32_t item_count;
    uint64_t visit_count, pass_count;
    bool whole;           /* from the first panel on, undisturbed, with all matrices of the set */
    uint64_t not_counted; /* read by the system before the first program */

    uint64_t visit; /* where the consumer is */
    uint32_t left;
    bool taken[PANELS_MAX];
    uint64_t cursor_visit; /* the next panel to be read */
    uint32_t cursor_panel;
    bool in_next;

    struct slot slots[SLOTS_MAX];
    struct slot *by_tag[CENOTE_STREAM_SLOTS_MAX];
    struct held held[2 * SLOTS_MAX];
    uint32_t held_count;
    uint32_t reads[SCHEDULE_MATRICES_MAX][PANELS_MAX]; /* handed out, since the line moved */
};

/* What all seeds together have met. */
static struct {
    uint64_t reads, over_matrices, over_passes, waits, kept, errors, repaired, cuts, full;
    uint64_t packed, originals,
        together; /* reads of a packed copy; panels that it failed to give */
} met;

static uint64_t current_seed;
static bool finished;

static uint32_t pick(struct sim *m, uint32_t count)
{
    return (uint32_t)random_below(&m->random, count);
}

/* ---- the model ---- */

static const struct schedule_matrix *matrix_at(const struct sim *m, uint64_t visit)
{
    return &m->s.matrices[m->matrix_of[visit % m->item_count]];
}

static bool is_resident(const struct sim *m, uint32_t matrix, uint32_t panel)
{
    cenote_encoding encoding;
    if (matrix >= m->s.resident_count)
        return false;
    uint32_t first = cn_resident_first_panel(m->s.resident, &m->s.items[matrix]);
    return cn_resident_get(m->s.resident, first + panel, &encoding) != NULL;
}

static uint32_t count_slots(const struct sim *m, enum state state)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->slot_count; i++)
        count += m->slots[i].state == state;
    return count;
}

static struct slot *slot_of(struct sim *m, const void *data)
{
    for (uint32_t i = 0; i < m->slot_count; i++) {
        if (m->slots[i].data == NULL)
            m->slots[i].data = data;
        if (m->slots[i].data == data)
            return &m->slots[i];
    }
    fail_msg("a read into memory that is no slot");
    return NULL;
}

/* Moves the cursor to that panel; all that it passes must be resident. */
static void cursor_reach(struct sim *m, uint32_t matrix, uint32_t panel)
{
    for (;;) {
        if (m->cursor_visit >= m->visit_count)
            fail_msg("matrix %u panel %u: read out of order, or past the last pass", matrix, panel);
        uint32_t here = m->matrix_of[m->cursor_visit % m->item_count];
        if (here == matrix && m->cursor_panel == panel)
            return;
        if (m->cursor_panel == m->s.matrices[here].panels) {
            m->cursor_visit++;
            m->cursor_panel = 0;
            continue;
        }
        if (!is_resident(m, here, m->cursor_panel))
            fail_msg("matrix %u panel %u is read before matrix %u panel %u", matrix, panel, here,
                     m->cursor_panel);
        m->cursor_panel++;
    }
}

/* Whether there is anything to read: up to the matrix that the consumer is in, a pass later. */
static bool more_to_read(const struct sim *m)
{
    uint64_t end = m->visit + m->item_count;
    end = end < m->visit_count ? end : m->visit_count;
    uint32_t panel = m->cursor_panel;
    for (uint64_t visit = m->cursor_visit; visit < end; visit++, panel = 0)
        for (; panel < matrix_at(m, visit)->panels; panel++)
            if (!is_resident(m, m->matrix_of[visit % m->item_count], panel))
                return true;
    return false;
}

static void forget_reads(struct sim *m, bool held_too)
{
    for (uint32_t i = 0; i < m->slot_count; i++)
        if (held_too || m->slots[i].state != HELD)
            m->slots[i].state = IDLE;
    assert_int_equal(cn_fake_books_get(m->s.fake).ring_reads, 0);
}

static void forget_faults(struct sim *m)
{
    cn_fake_faults_clear(m->s.fake);
    m->suspect = m->suspect || m->fatal;
    m->broken = m->fatal = false;
}

static void program_over(struct sim *m)
{
    m->visit_count = 0;
    m->visit = 0;
    m->left = 0;
    m->suspect = false;
    forget_reads(m, true);
    for (uint32_t i = 0; i < m->held_count; i++)
        m->held[i].stale = true;
}

static void enter_matrix(struct sim *m, uint64_t visit)
{
    m->visit = visit;
    m->left = visit < m->visit_count ? matrix_at(m, visit)->panels : 0;
    memset(m->taken, 0, sizeof m->taken);
}

/* ---- at the door ---- */

static void on_taken(void *context, const struct cn_os_ring_read *read)
{
    struct sim *m = context;
    uint32_t matrix, panel;
    struct slot *slot = slot_of(m, read->data);
    m->by_tag[read->tag] = slot;
    if (slot->state == AGAIN) {
        slot->state = UNDER_WAY;
        return;
    }
    assert_int_equal(slot->state, IDLE);
    assert_int_equal(count_slots(m, AGAIN), 0); /* they are needed sooner */
    assert_true(schedule_find(&m->s, read->file_index, read->offset_bytes, read->size_bytes,
                              &matrix, &panel));
    cursor_reach(m, matrix, panel);
    assert_false(is_resident(m, matrix, panel));
    *slot = (struct slot){.state = UNDER_WAY,
                          .data = read->data,
                          .visit = m->cursor_visit,
                          .panel = panel,
                          .size_bytes = read->size_bytes};
    m->cursor_panel++;
    assert_true(count_slots(m, UNDER_WAY) <= m->depth);
    met.reads++;
    met.packed += read->file_index == cenote_weights_file_count(m->s.weights);
    met.over_matrices += slot->visit > m->visit;
    met.over_passes += slot->visit / m->item_count > m->visit / m->item_count;
}

static void on_completed(void *context, uint32_t tag, int64_t result)
{
    struct sim *m = context;
    struct slot *slot = m->by_tag[tag];
    assert_int_equal(slot->state, UNDER_WAY);
    bool again = result == -EINTR || result == -EAGAIN;
    slot->doubtful = result < slot->size_bytes;
    slot->state = again ? AGAIN : THERE;
    slot->after = m->broken && cn_fake_calls(m->s.fake, CN_FAKE_READ) >= m->break_read;
    met.repaired += slot->doubtful;
}

static void on_waits(void *context)
{
    struct sim *m = context;
    if (!m->in_next)
        return;
    met.waits++;
    for (uint32_t i = 0; i < m->slot_count; i++) {
        const struct slot *slot = &m->slots[i];
        bool there = slot->state == THERE && slot->visit == m->visit;
        if (there && !slot->doubtful && !m->broken && !m->suspect)
            fail_msg("waits while panel %u of its matrix is there", slot->panel);
    }
    for (uint32_t p = 0; p < matrix_at(m, m->visit)->panels; p++)
        if (!m->taken[p] && is_resident(m, m->matrix_of[m->visit % m->item_count], p))
            fail_msg("waits while panel %u is resident", p);
}

/* ---- the consumer ---- */

static void release(struct sim *m, uint32_t index)
{
    struct held *held = &m->held[index];
    bool in_slot = (held->panel.slot & RESIDENT_SLOT) != RESIDENT_SLOT;
    if (!held->stale) {
        schedule_check_bytes(&m->s, &held->panel); /* nobody wrote over it */
        if (in_slot && !m->threads)
            slot_of(m, held->panel.data)->state = IDLE;
    }
    cenote_stream_release(m->s.stream, &held->panel);
    *held = m->held[--m->held_count];
}

static void release_all(struct sim *m)
{
    while (m->held_count > 0)
        release(m, m->held_count - 1);
}

static void took_slot(struct sim *m, const cenote_panel *panel, uint32_t number)
{
    struct slot *slot = slot_of(m, panel->data);
    assert_int_equal(slot->state, THERE);
    assert_int_equal(slot->visit, m->visit);
    assert_int_equal(slot->panel, number);
    /* of two files one may be as it was */
    assert_false(slot->after && !m->s.two_shards && !m->s.packs);
    slot->state = HELD;
}

static void took(struct sim *m, const cenote_panel *panel)
{
    assert_true(m->visit < m->visit_count);
    assert_int_equal(panel->item_index, m->visit % m->item_count);
    uint32_t matrix = m->matrix_of[panel->item_index];
    uint32_t number = (uint32_t)(panel->row_first / m->s.matrices[matrix].rows_per_panel);
    if (m->taken[number])
        fail_msg("matrix %u panel %u comes a second time", matrix, number);
    m->taken[number] = true;
    m->left--;
    schedule_check_bytes(&m->s, panel);
    if ((panel->slot & RESIDENT_SLOT) == RESIDENT_SLOT) {
        assert_true(is_resident(m, matrix, number));
        assert_int_equal(m->reads[matrix][number], 1);
        met.kept++;
    } else {
        if (!m->threads)
            took_slot(m, panel, number);
        m->reads[matrix][number]++;
    }
    m->held[m->held_count++] = (struct held){*panel, false};
}

static void took_several(struct sim *m, const cenote_panel *panels, uint32_t count, uint32_t most)
{
    uint32_t slots = 0, slots_most = m->slot_count / 4 > 1 ? m->slot_count / 4 : 1;
    assert_in_range(count, 1, most);
    for (uint32_t i = 0; i < count; i++) {
        took(m, &panels[i]);
        slots += (panels[i].slot & RESIDENT_SLOT) != RESIDENT_SLOT;
    }
    assert_in_range(slots, 0, slots_most);
    met.together += count > 1;
}

static void check_busy(struct sim *m)
{
    if (m->faulty || m->refusing || m->threads)
        return;
    bool room = count_slots(m, IDLE) > 0 && count_slots(m, UNDER_WAY) < m->depth;
    if (room && more_to_read(m))
        fail_msg("the disk has %u reads of %u while %u slots are free", count_slots(m, UNDER_WAY),
                 m->depth, count_slots(m, IDLE));
}

static uint64_t waited_ns(const struct sim *m)
{
    cenote_weights_stats stats;
    cenote_weights_stats_get(m->s.weights, &stats);
    return stats.wait_ns;
}

/* Panels of the program that lie in slots. */
static uint32_t count_held(const struct sim *m)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->held_count; i++)
        count += !m->held[i].stale && (m->held[i].panel.slot & RESIDENT_SLOT) != RESIDENT_SLOT;
    return count;
}

static void check_error(struct sim *m, cenote_status status, const cenote_error *err)
{
    bool known = status == CENOTE_E_IO || status == CENOTE_E_CORRUPT || status == CENOTE_E_CHANGED;
    bool named =
        strstr(err->message, "shard-") != NULL && strstr(err->message, "tensor `m") != NULL;
    bool placed = strstr(err->message, " at ") != NULL || strstr(err->message, "bytes [") != NULL;
    if (!(m->fatal || m->suspect) || !known || !named || !placed)
        fail_msg("status %d: %s", status, err->message);
    met.errors++;
    program_over(m);
    forget_faults(m);
    cenote_panel panel;
    assert_int_equal(cenote_stream_next(m->s.stream, &panel, NULL), CENOTE_E_NOTFOUND);
}

/* @return whether there was a panel. */
static bool next(struct sim *m)
{
    cenote_panel panels[SLOTS_MAX];
    uint32_t count, most = pick(m, 2) == 0 ? 1 : 1 + pick(m, SLOTS_MAX);
    cenote_error err;
    if (m->left == 0 && m->visit < m->visit_count)
        enter_matrix(m, m->visit + 1);
    uint64_t begin_ns = schedule_now_ns(&m->s), waited = waited_ns(m);
    m->in_next = true;
    cenote_status status = cenote_stream_next_several(m->s.stream, most, panels, &count, &err);
    m->in_next = false;
    waited = waited_ns(m) - waited;
    if (m->faulty || m->threads) /* what is read once more is no wait */
        assert_true(waited <= schedule_now_ns(&m->s) - begin_ns);
    else
        assert_int_equal(waited, schedule_now_ns(&m->s) - begin_ns);
    if (status == CENOTE_OK) {
        took_several(m, panels, count, most);
        check_busy(m);
    } else if (status == CENOTE_E_NOTFOUND) {
        assert_true(m->visit >= m->visit_count);
        assert_int_equal(cn_fake_books_get(m->s.fake).ring_reads, 0);
        cenote_resident_stats stats = schedule_resident(&m->s);
        if (m->whole && m->visit_count > 0)
            assert_int_equal(stats.held_weight_bytes, stats.target_weight_bytes);
        assert_int_equal(stats.refused_panels, 0);
    } else if (status == CENOTE_E_INVAL) {
        assert_non_null(strstr(err.message, "slots are held"));
        assert_int_equal(m->threads ? count_held(m) : count_slots(m, HELD), m->slot_count);
        met.full++;
        release(m, pick(m, m->held_count));
    } else {
        check_error(m, status, &err);
    }
    return status == CENOTE_OK;
}

/* ---- what may happen ---- */

static void compute(struct sim *m)
{
    cn_fake_work(m->s.fake, pick(m, 4) == 0 ? pick(m, 4000000) : pick(m, 30000));
}

static void consume(struct sim *m)
{
    uint32_t hold = pick(m, m->slot_count + 1);
    for (uint32_t i = pick(m, FOR_THE_NEXT); i > 0 && next(m); i--) {
        compute(m);
        while (m->held_count > hold)
            release(m, pick(m, m->held_count));
        while (m->held_count >= SLOTS_MAX) /* resident ones take no slot */
            release(m, pick(m, m->held_count));
    }
}

static void set_disk(struct sim *m)
{
    struct cn_fake_disk disk = {
        .seed = m->random,
        .latency_ns = pick(m, 3) == 0 ? 0 : pick(m, 200000),
        .latency_random_ns = pick(m, 3) == 0 ? 0 : pick(m, 2000000),
        .bytes_per_s = pick(m, 3) == 0 ? 0 : 1000000 + pick(m, 100000000),
        .lanes = pick(m, 9),
        .refuse_per_mille = m->refusing ? pick(m, 300) : 0,
        .interrupt_per_mille = m->refusing ? pick(m, 300) : 0,
    };
    cn_fake_disk_set(m->s.fake, &disk);
}

static void add_fault(struct sim *m)
{
    static const struct cn_fake_fault kinds[] = {
        {CN_FAULT_SHORT, 0, 1, 1},
        {CN_FAULT_SHORT, 0, 3, 700},
        {CN_FAULT_ERROR, 0, 1, EIO},
        {CN_FAULT_ERROR, 0, 3, EINTR},
        {CN_FAULT_ERROR, 0, 2, EAGAIN},
        {CN_FAULT_DELAY, 0, 2, 50000000},
        {CN_FAULT_ERROR, 0, CN_FAKE_ALWAYS, EIO},
        {CN_FAULT_TRUNCATE, 0, 1, 100},
        {CN_FAULT_CHANGE, 0, 1, 7},
    };
    struct cn_fake_fault fault = kinds[pick(m, sizeof kinds / sizeof kinds[0])];
    fault.at_read = 1 + pick(m, 30);
    forget_faults(m);
    cn_fake_fault_add(m->s.fake, fault);
    m->broken = fault.kind == CN_FAULT_TRUNCATE || fault.kind == CN_FAULT_CHANGE;
    m->fatal = fault.count == CN_FAKE_ALWAYS || m->broken;
    m->break_read = cn_fake_calls(m->s.fake, CN_FAKE_READ) + fault.at_read;
}

static void move_line(struct sim *m)
{
    uint64_t whole = cenote_resident_whole_bytes(m->s.weights, m->s.items, m->s.resident_count,
                                                 m->s.encoding, m->s.pack);
    uint64_t charge = pick(m, 6) == 0 ? whole : pick(m, (uint32_t)whole + 70000);
    cenote_error err;
    if (cenote_resident_resize(m->s.resident, charge, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    assert_true(schedule_resident(&m->s).charged_bytes <= charge);
    m->whole = false;
    for (uint32_t i = 0; i < m->s.count; i++)
        for (uint32_t p = 0; p < m->s.matrices[i].panels; p++)
            if (!is_resident(m, i, p))
                m->reads[i][p] = 0;
}

/* With nothing under way what is counted is what the system has read, of no use or not. */
static void check_counts(const struct sim *m)
{
    cenote_weights_stats stats;
    cenote_weights_stats_get(m->s.weights, &stats);
    struct cn_fake_books books = cn_fake_books_get(m->s.fake);
    assert_int_equal(books.ring_reads, 0);
    assert_int_equal(books.read_bytes - stats.bytes_read, m->not_counted);
}

static void stop(struct sim *m)
{
    cenote_stream_stop(m->s.stream);
    program_over(m);
    check_counts(m);
}

/* Matrices in any order; those that are not of the set come once or twice. */
static void make_program(struct sim *m)
{
    uint32_t order[SCHEDULE_MATRICES_MAX], all_of_set = 0;
    for (uint32_t i = 0; i < m->s.count; i++)
        order[i] = i;
    for (uint32_t i = m->s.count; i > 1; i--) {
        uint32_t j = pick(m, i), kept = order[i - 1];
        order[i - 1] = order[j];
        order[j] = kept;
    }
    m->item_count = pick(m, 3) > 0 ? m->s.count : 1 + pick(m, m->s.count);
    for (uint32_t i = 0; i < m->item_count; i++) {
        m->matrix_of[i] = order[i];
        all_of_set += order[i] < m->s.resident_count;
    }
    if (m->s.resident_count < m->s.count && m->item_count < SCHEDULE_MATRICES_MAX)
        m->matrix_of[m->item_count++] = m->s.count - 1;
    for (uint32_t i = 0; i < m->item_count; i++)
        m->program[i] = m->s.items[m->matrix_of[i]];
    m->whole = all_of_set == m->s.resident_count;
}

static cenote_status start_once(struct sim *m)
{
    stop(m);
    make_program(m);
    m->pass_count = 1 + pick(m, 4);
    m->visit_count = m->pass_count * m->item_count;
    m->cursor_visit = 0;
    m->cursor_panel = 0;
    enter_matrix(m, 0);
    return cenote_stream_start(m->s.stream, m->program, m->item_count, m->pass_count, NULL);
}

static void start(struct sim *m)
{
    cenote_status status = start_once(m);
    if (status != CENOTE_OK) {
        assert_true(m->broken && status == CENOTE_E_CHANGED);
        forget_faults(m);
        assert_int_equal(start_once(m), CENOTE_OK);
    }
    check_busy(m);
}

/* To the end of a matrix; there the line moves. */
static void cut(struct sim *m)
{
    while (m->visit < m->visit_count && m->left > 0)
        if (next(m))
            release_all(m);
    release_all(m);
    cenote_stream_forget_ahead(m->s.stream);
    check_counts(m);
    if (m->left == 0 && m->visit < m->visit_count)
        enter_matrix(m, m->visit + 1);
    m->cursor_visit = m->visit;
    m->cursor_panel = 0;
    forget_reads(m, true);
    if (pick(m, 2) == 0)
        move_line(m);
    met.cuts++;
}

static void replace_stream(struct sim *m)
{
    release_all(m);
    cenote_stream_destroy(m->s.stream);
    program_over(m);
    check_counts(m);
    memset(m->slots, 0, sizeof m->slots);
    schedule_open_stream(&m->s);
}

/* ---- a seed ---- */

static void sim_open(struct sim *m, uint64_t seed)
{
    memset(m, 0, sizeof *m);
    m->random = seed;
    m->faulty = seed % 3 == 0;
    m->refusing = seed % 4 == 0;
    m->s.count = 1 + pick(m, 6);
    m->s.resident_count = pick(m, 4) == 0 ? pick(m, m->s.count + 1) : m->s.count;
    for (uint32_t i = 0; i < m->s.count; i++)
        m->s.matrices[i] = (struct schedule_matrix){.rows = 1 + pick(m, 120),
                                                    .columns = 1 + pick(m, 500),
                                                    .rows_per_panel = 1 + pick(m, 16)};
    m->s.two_shards = pick(m, 2) == 0;
    m->s.encoding = pick(m, 2) == 0 ? CENOTE_ENCODING_PLAIN : CENOTE_ENCODING_BF12;
    m->s.packs = seed % 5 == 0;
    if (m->s.packs)
        m->s.encoding = CENOTE_ENCODING_BF12;
    m->slot_count = 2 + pick(m, SLOTS_MAX - 1);
    m->s.options.slot_count = m->slot_count;
    m->s.options.depth = pick(m, 2) == 0 ? 0 : 1 + pick(m, m->slot_count);
    m->threads = seed % 16 == 7;
    m->s.options.engine = m->threads ? CENOTE_ENGINE_PREAD : CENOTE_ENGINE_URING;
    m->depth = m->s.options.depth > 0 ? m->s.options.depth : 16;
    m->depth = m->depth < m->slot_count ? m->depth : m->slot_count;
    m->s.events = (struct schedule_events){
        .context = m, .taken = on_taken, .completed = on_completed, .waits = on_waits};
    schedule_open(&m->s);
    cenote_weights_stats stats;
    cenote_weights_stats_get(m->s.weights, &stats);
    m->not_counted = cn_fake_books_get(m->s.fake).read_bytes - stats.bytes_read;
    set_disk(m);
}

static void step(struct sim *m)
{
    uint32_t what = pick(m, 100);
    if (what < 55)
        consume(m);
    else if (what < 65 && m->held_count > 0)
        release(m, pick(m, m->held_count));
    else if (what < 80)
        start(m);
    else if (what < 84)
        stop(m);
    else if (what < 92)
        cut(m);
    else if (what < 94)
        replace_stream(m);
    else if (what < 97)
        set_disk(m);
    else if (m->faulty)
        add_fault(m);
    schedule_check_books(&m->s);
}

static void run_seed(uint64_t seed)
{
    static struct sim m;
    current_seed = seed;
    finished = false;
    sim_open(&m, seed);
    if (pick(&m, 4) > 0)
        move_line(&m);
    start(&m);
    for (uint32_t i = 0; i < STEPS; i++)
        step(&m);
    cenote_weights_stats stats;
    cenote_weights_stats_get(m.s.weights, &stats);
    met.originals += stats.pack_failures;
    schedule_close(&m.s);
    finished = true;
}

static void test_seeds(void **state)
{
    (void)state;
    const char *given = getenv("CENOTE_TEST_SEED");
    if (given != NULL) {
        run_seed(strtoull(given, NULL, 10));
        return;
    }
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        run_seed(seed);
    print_message("%" PRIu64 " reads, %" PRIu64 " of them in a later matrix and %" PRIu64
                  " in a later pass; %" PRIu64 " waits, %" PRIu64 " resident panels, %" PRIu64
                  " errors, %" PRIu64 " reads repaired, %" PRIu64 " cuts, %" PRIu64
                  " full; %" PRIu64 " reads packed, %" PRIu64 " from the original\n",
                  met.reads, met.over_matrices, met.over_passes, met.waits, met.kept, met.errors,
                  met.repaired, met.cuts, met.full, met.packed, met.originals);
    assert_true(met.over_matrices > 0 && met.over_passes > 0 && met.waits > 0 && met.kept > 0);
    assert_true(met.errors > 0 && met.repaired > 0 && met.cuts > 0 && met.full > 0);
    assert_true(met.packed > 0 && met.originals > 0 && met.together > 0);
}

static int tell_seed(void **state)
{
    (void)state;
    if (!finished)
        print_message("CENOTE_TEST_SEED=%" PRIu64 "\n", current_seed);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(test_seeds, tell_seed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
