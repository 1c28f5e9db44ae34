/* SPDX-License-Identifier: Apache-2.0 */
/* Random owners of a reader: they submit, take, drain and compute in any order, over two files, on
 * disks whose reads overtake each other, fail, come short and slow down; every byte is compared.
 * Memory that has no read under way must stay as it is. Thousands of seeds on the fake system,
 * where a seed also gives the same run again; some on real files, for both engines and the
 * sanitizers.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint.h"
#include "os/fake/fake.h"
#include "random.h"
#include "reader_fixture.h"
#include "shadow.h"
#include "weights/reader.h"

enum {
    FILES = 2,
    FILE_BYTES = 1 << 18,
    BLOCK = 4096,
    PLACES = 40, /* more than a depth, so that memory is left alone too */
    PLACE_BYTES = 8 * BLOCK,
    CANARY = 0xc3,
};
#define FILE_SHIFT ((uint64_t)1 << 32) /* the second file's pattern is another */

static char paths[FILES][256];
static unsigned char contents[FILES][FILE_BYTES];
static unsigned char *memory; /* PLACES places; a reader is told of the first half */

struct place {
    bool busy;
    uint32_t file;
    uint64_t offset;
    uint32_t size;
};

struct session {
    struct cn_os *os;
    struct cn_reader *reader;
    int fds[FILES];
    uint32_t depth;
    uint32_t block; /* granularity of offsets and sizes */
    bool may_fail, may_be_short;
    uint64_t random;
    uint64_t trace; /* a hash of all results in their order */
    uint64_t overtaken;
    uint64_t last_number;
    uint64_t submitted;
    uint64_t numbers[PLACES];
    struct place places[PLACES];
};

static uint64_t totals_overtaken, totals_errors, totals_short, totals_drained;

static unsigned char *place_memory(uint32_t index)
{
    return memory + (size_t)index * PLACE_BYTES;
}

static void place_seal(uint32_t index)
{
    memset(place_memory(index), CANARY, PLACE_BYTES);
}

static bool all_canary(const unsigned char *at, size_t size_bytes)
{
    return size_bytes == 0 || (at[0] == CANARY && memcmp(at, at + 1, size_bytes - 1) == 0);
}

static void expect_sealed(uint32_t index)
{
    if (!all_canary(place_memory(index), PLACE_BYTES))
        fail_msg("memory of place %u was written to without a read under way", index);
}

/* ---- what an owner does ---- */

static void do_submit(struct session *s)
{
    uint32_t index = (uint32_t)random_below(&s->random, PLACES);
    struct place *place = &s->places[index];
    if (place->busy || cn_reader_under_way(s->reader) == s->depth)
        return;
    expect_sealed(index);
    place->busy = true;
    place->file = (uint32_t)random_below(&s->random, FILES);
    place->size = s->block * (uint32_t)(1 + random_below(&s->random, PLACE_BYTES / s->block));
    place->offset = s->block * random_below(&s->random, FILE_BYTES / s->block + 2);
    s->numbers[index] = s->submitted++;
    struct cn_reader_request request = {index, place->file, place->offset, place->size,
                                        place_memory(index)};
    cn_reader_submit(s->reader, &request);
}

static void check_result(struct session *s, const struct cn_reader_result *got)
{
    assert_true(got->tag < PLACES);
    struct place *place = &s->places[got->tag];
    assert_true(place->busy);
    const unsigned char *data = place_memory(got->tag);
    if (got->result < 0) {
        assert_true(s->may_fail);
        assert_int_equal(got->result, -EIO);
        totals_errors++;
    } else {
        uint64_t left = place->offset < FILE_BYTES ? FILE_BYTES - place->offset : 0;
        uint64_t whole = place->size < left ? place->size : left;
        assert_true((uint64_t)got->result <= whole);
        if ((uint64_t)got->result < whole) {
            assert_true(s->may_be_short && got->result > 0);
            totals_short++;
        }
        assert_int_equal(
            test_pattern_right(data, place->offset + place->file * FILE_SHIFT, (size_t)got->result),
            got->result);
        if (!all_canary(data + place->size, PLACE_BYTES - place->size))
            fail_msg("place %u was written to behind its read", got->tag);
    }
    s->overtaken += s->numbers[got->tag] < s->last_number;
    if (s->numbers[got->tag] > s->last_number)
        s->last_number = s->numbers[got->tag];
    place->busy = false;
    place_seal(got->tag);
    s->trace = (s->trace ^ (got->tag + 1) ^ (uint64_t)got->result << 20 ^
                s->os->ops->clock_ns(s->os) << 32) *
               UINT64_C(0x100000001b3);
}

static bool do_next(struct session *s, bool wait)
{
    struct cn_reader_result got;
    uint32_t before = cn_reader_under_way(s->reader);
    bool any = cn_reader_next(s->reader, wait, &got);
    assert_int_equal(cn_reader_under_way(s->reader), before - any);
    if (wait)
        assert_int_equal(any, before > 0);
    if (any)
        check_result(s, &got);
    return any;
}

static void do_drain(struct session *s)
{
    cn_reader_drain(s->reader);
    assert_int_equal(cn_reader_under_way(s->reader), 0);
    for (uint32_t i = 0; i < PLACES; i++)
        if (s->places[i].busy) {
            s->places[i].busy = false;
            place_seal(i);
            totals_drained++;
        }
}

static void play(struct session *s, unsigned steps)
{
    uint64_t eager = 1 + random_below(&s->random, 90); /* how much of its time it submits */
    for (unsigned i = 0; i < steps; i++) {
        uint64_t what = random_below(&s->random, 100);
        if (what < eager)
            do_submit(s);
        else if (what < 97)
            do_next(s, random_below(&s->random, 2) == 0);
        else if (what < 98)
            do_drain(s);
        else
            s->os->ops->sleep_ns(s->os, random_below(&s->random, 200000));
    }
    if (random_below(&s->random, 2) == 0)
        while (do_next(s, true))
            ;
}

/* ---- sessions ---- */

static void session_open(struct session *s, struct cn_os *os, enum cn_reader_engine engine,
                         int open_flags)
{
    cenote_error err;
    s->os = os;
    s->depth = (uint32_t)(1 + random_below(&s->random, 32));
    s->block = open_flags == 0 ? 1 : BLOCK;
    for (uint32_t i = 0; i < FILES; i++)
        assert_int_equal(os->ops->file_open(os, paths[i], open_flags, &s->fds[i]), 0);
    struct cn_reader_options options = {.engine = engine,
                                        .depth = s->depth,
                                        .thread_count = (uint32_t)random_below(&s->random, 9),
                                        .buffers = memory,
                                        .buffers_bytes = PLACES / 2 * PLACE_BYTES,
                                        .fds = s->fds,
                                        .fd_count = FILES};
    if (cn_reader_create(os, &options, &s->reader, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    for (uint32_t i = 0; i < PLACES; i++)
        place_seal(i);
}

static void session_close(struct session *s)
{
    cn_reader_destroy(s->reader);
    for (uint32_t i = 0; i < PLACES; i++)
        if (s->places[i].busy)
            place_seal(i);
    for (uint32_t i = 0; i < PLACES; i++)
        expect_sealed(i);
    for (uint32_t i = 0; i < FILES; i++)
        s->os->ops->file_close(s->os, s->fds[i]);
    totals_overtaken += s->overtaken;
}

static void plan_disk(struct session *s, struct cn_fake *fake)
{
    static const uint64_t rates[] = {0, 100000000, 3000000000};
    struct cn_fake_disk disk = {
        .seed = s->random,
        .latency_ns = random_below(&s->random, 100000),
        .latency_random_ns = random_below(&s->random, 3) * 400000,
        .bytes_per_s = rates[random_below(&s->random, 3)],
        .lanes = (uint32_t)random_below(&s->random, 9),
        .refuse_per_mille = (uint32_t)(random_below(&s->random, 3) * 250),
        .interrupt_per_mille = (uint32_t)(random_below(&s->random, 3) * 250),
    };
    cn_fake_disk_set(fake, &disk);
}

/* Interruptions are in every plan: the reader hides them. */
static void plan_faults(struct session *s, struct cn_fake *fake)
{
    for (unsigned i = 0; i < 4; i++)
        cn_fake_fault_add(fake,
                          (struct cn_fake_fault){CN_FAULT_ERROR, 1 + random_below(&s->random, 100),
                                                 4, i % 2 == 0 ? EINTR : EAGAIN});
    s->may_fail = random_below(&s->random, 3) == 0;
    if (s->may_fail)
        cn_fake_fault_add(fake,
                          (struct cn_fake_fault){CN_FAULT_ERROR, 1 + random_below(&s->random, 100),
                                                 1 + random_below(&s->random, 9), EIO});
    s->may_be_short = random_below(&s->random, 3) == 0;
    if (s->may_be_short)
        cn_fake_fault_add(fake,
                          (struct cn_fake_fault){CN_FAULT_SHORT, 1 + random_below(&s->random, 100),
                                                 1 + random_below(&s->random, 9),
                                                 1 + random_below(&s->random, PLACE_BYTES)});
    if (random_below(&s->random, 3) == 0) /* it slows down */
        cn_fake_fault_add(fake,
                          (struct cn_fake_fault){CN_FAULT_DELAY, 1 + random_below(&s->random, 100),
                                                 CN_FAKE_ALWAYS, 2000000});
}

static uint64_t fake_session(uint64_t seed, enum cn_reader_engine engine, unsigned steps)
{
    static struct session s;
    s = (struct session){.random = seed};
    struct cn_fake *fake = cn_fake_create();
    for (uint32_t i = 0; i < FILES; i++) {
        assert_int_equal(cn_fake_file_add(fake, paths[i], contents[i], FILE_BYTES), 0);
    }
    plan_disk(&s, fake);
    plan_faults(&s, fake);
    session_open(&s, cn_fake_os(fake), engine, seed % 3 == 0 ? CN_OS_OPEN_DIRECT : 0);
    play(&s, steps);
    session_close(&s);
    struct cn_fake_books books = cn_fake_books_get(fake);
    assert_int_equal(books.open_files, 0);
    assert_int_equal(books.open_rings, 0);
    assert_int_equal(books.ring_reads, 0);
    assert_int_equal(books.misuse_count, 0);
    cn_fake_destroy(fake);
    return s.trace;
}

static void test_seeds_on_fake_ring(void **state)
{
    (void)state;
    totals_overtaken = totals_errors = totals_short = totals_drained = 0;
    for (unsigned seed = 0; seed < (SHADOW_MEMORY ? 600 : 4000); seed++)
        fake_session(seed, CN_READER_URING, 150);
    /* it happened what was to be shown harmless */
    assert_true(totals_overtaken > 1000);
    assert_true(totals_errors > 100);
    assert_true(totals_short > 100);
    assert_true(totals_drained > 1000);
}

static void test_same_seed_same_run(void **state)
{
    (void)state;
    uint64_t different = 0;
    for (unsigned seed = 0; seed < 50; seed++) {
        uint64_t trace = fake_session(seed, CN_READER_URING, 150);
        assert_int_equal(fake_session(seed, CN_READER_URING, 150), trace);
        different += trace != fake_session(seed + 1, CN_READER_URING, 150);
    }
    assert_int_equal(different, 50);
}

static void test_seeds_on_fake_pool(void **state)
{
    (void)state;
    totals_overtaken = totals_errors = totals_short = totals_drained = 0;
    for (unsigned seed = 0; seed < (SHADOW_MEMORY ? 100 : 400); seed++)
        fake_session(seed, CN_READER_PREAD, 150);
    assert_true(totals_errors > 0 && totals_short > 0 && totals_drained > 0);
}

static void on_linux(enum cn_reader_engine engine, int open_flags)
{
    static struct session s;
    struct cn_os *os = cn_os_linux();
    size_t fds = test_fd_count();
    unsigned threads = test_thread_count();
    int fd;
    if (os->ops->file_open(os, paths[0], open_flags, &fd) != 0) {
        print_message("no O_DIRECT under %s\n", TEST_SCRATCH_DIR);
        skip();
    }
    struct cn_reader *probe;
    struct cn_reader_options options = {.engine = engine, .depth = 1, .fds = &fd, .fd_count = 1};
    cenote_error err;
    cenote_status status = cn_reader_create(os, &options, &probe, &err);
    if (status == CENOTE_E_UNSUPPORTED) {
        os->ops->file_close(os, fd);
        print_message("%s\n", err.message);
        skip();
    }
    assert_int_equal(status, CENOTE_OK);
    cn_reader_destroy(probe);
    os->ops->file_close(os, fd);
    for (unsigned seed = 0; seed < 40; seed++) {
        s = (struct session){.random = seed};
        session_open(&s, os, engine, open_flags);
        play(&s, 300);
        session_close(&s);
    }
    assert_int_equal(test_fd_count(), fds);
    assert_int_equal(test_thread_count(), threads);
}

static void test_ring_cached(void **state)
{
    (void)state;
    on_linux(CN_READER_URING, 0);
}

static void test_ring_direct(void **state)
{
    (void)state;
    on_linux(CN_READER_URING, CN_OS_OPEN_DIRECT);
}

static void test_pool_cached(void **state)
{
    (void)state;
    on_linux(CN_READER_PREAD, 0);
}

static void test_pool_direct(void **state)
{
    (void)state;
    on_linux(CN_READER_PREAD, CN_OS_OPEN_DIRECT);
}

static int group_up(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < FILES; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/reader_XXXXXX", TEST_SCRATCH_DIR);
        test_pattern_fill(contents[i], i * FILE_SHIFT, FILE_BYTES);
        test_pattern_file(paths[i], i * FILE_SHIFT, FILE_BYTES);
    }
    return posix_memalign((void **)&memory, BLOCK, (size_t)PLACES * PLACE_BYTES);
}

static int group_down(void **state)
{
    (void)state;
    free(memory);
    for (uint32_t i = 0; i < FILES; i++)
        unlink(paths[i]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seeds_on_fake_ring), cmocka_unit_test(test_same_seed_same_run),
        cmocka_unit_test(test_seeds_on_fake_pool), cmocka_unit_test(test_ring_cached),
        cmocka_unit_test(test_ring_direct),        cmocka_unit_test(test_pool_cached),
        cmocka_unit_test(test_pool_direct),
    };
    return cmocka_run_group_tests(tests, group_up, group_down);
}
