/* SPDX-License-Identifier: Apache-2.0 */
/* Many short rounds on teams of many sizes, so that every interleaving of spinning, sleeping and
 * waking comes up. CENOTE_STRESS_SCALE multiplies the rounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/team.h>

#define RANKS_MAX 16

static unsigned scale(void)
{
    const char *text = getenv("CENOTE_STRESS_SCALE");
    int value = text != NULL ? atoi(text) : 1;
    return value > 0 ? (unsigned)value : 1;
}

/* Plain fields on purpose: the barrier alone must make them visible, or TSan speaks up. */
struct sums {
    unsigned long input;
    unsigned long parts[RANKS_MAX];
    unsigned calls[RANKS_MAX];
};

static void add_part(void *argument, unsigned rank, unsigned size)
{
    struct sums *sums = argument;
    sums->parts[rank] = sums->input * (rank + 1) + size;
    sums->calls[rank]++;
}

static void run_rounds(unsigned size, unsigned rounds, unsigned pause_every)
{
    cenote_team *team;
    struct sums sums = {0};
    assert_int_equal(cenote_team_create(size, &team, NULL), CENOTE_OK);
    assert_int_equal(cenote_team_size(team), size);
    for (unsigned round = 1; round <= rounds; round++) {
        sums.input = round;
        cenote_team_run(team, add_part, &sums);
        for (unsigned rank = 0; rank < size; rank++) {
            assert_int_equal(sums.parts[rank], (unsigned long)round * (rank + 1) + size);
            assert_int_equal(sums.calls[rank], round);
        }
        /* Around the time after which workers go to sleep. */
        if (pause_every > 0 && round % pause_every == 0)
            usleep(round % 40);
    }
    cenote_team_destroy(team);
}

static void test_rounds_back_to_back(void **state)
{
    (void)state;
    for (unsigned size = 1; size <= RANKS_MAX; size = size * 2 - size / 2)
        run_rounds(size, 1000 * scale(), 0);
}

static void test_rounds_with_pauses(void **state)
{
    (void)state;
    for (unsigned size = 1; size <= 4; size++)
        run_rounds(size, 1000 * scale(), 3);
}

static void late_rank(void *argument, unsigned rank, unsigned size)
{
    atomic_uint *count = argument;
    if (rank == size - 1)
        usleep(300); /* the caller has to sleep for this one */
    atomic_fetch_add(count, 1);
}

static void test_caller_sleeps(void **state)
{
    (void)state;
    cenote_team *team;
    atomic_uint count = 0;
    assert_int_equal(cenote_team_create(3, &team, NULL), CENOTE_OK);
    unsigned rounds = 100 * scale();
    for (unsigned round = 0; round < rounds; round++)
        cenote_team_run(team, late_rank, &count);
    assert_int_equal(count, 3 * rounds);
    cenote_team_destroy(team);
}

static void test_create_and_destroy(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 50 * scale(); i++)
        run_rounds(1 + i % 5, i % 3, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounds_back_to_back),
        cmocka_unit_test(test_rounds_with_pauses),
        cmocka_unit_test(test_caller_sleeps),
        cmocka_unit_test(test_create_and_destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
