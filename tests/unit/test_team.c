/* SPDX-License-Identifier: Apache-2.0 */
/* The team's contract: sizes, shares, signals, stacks, and a machine that has no thread left. The
 * interleavings are in stress/test_team.c. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/hardware.h>
#include <cenote/team.h>

#include "shadow.h"

struct seen {
    atomic_uint calls[CENOTE_TEAM_SIZE_MAX];
    atomic_uint sizes;
    pthread_t caller;
    atomic_bool rank_0_elsewhere;
    atomic_bool signals_open;
    atomic_ullong stack_bytes_max;
};

static void look(void *argument, unsigned rank, unsigned size)
{
    struct seen *seen = argument;
    atomic_fetch_add(&seen->calls[rank], 1);
    atomic_fetch_add(&seen->sizes, size);
    if (rank == 0) {
        if (!pthread_equal(pthread_self(), seen->caller))
            atomic_store(&seen->rank_0_elsewhere, true);
        return;
    }
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    if (!sigismember(&blocked, SIGINT))
        atomic_store(&seen->signals_open, true);
    pthread_attr_t attributes;
    size_t stack_bytes = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstacksize(&attributes, &stack_bytes);
        pthread_attr_destroy(&attributes);
    }
    if (stack_bytes > atomic_load(&seen->stack_bytes_max))
        atomic_store(&seen->stack_bytes_max, stack_bytes);
}

static void run_size(unsigned size)
{
    struct seen *seen = calloc(1, sizeof *seen);
    cenote_team *team = NULL;
    seen->caller = pthread_self();
    assert_int_equal(cenote_team_create(size, &team, NULL), CENOTE_OK);
    unsigned real = cenote_team_size(team);
    assert_int_equal(real, size > 0 ? size : cenote_cpu_count());
    cenote_team_run(team, look, seen);
    for (unsigned rank = 0; rank < CENOTE_TEAM_SIZE_MAX; rank++)
        assert_int_equal(seen->calls[rank], rank < real);
    assert_int_equal(seen->sizes, real * real);
    assert_false(seen->rank_0_elsewhere);
    assert_false(seen->signals_open);
    if (!SHADOW_MEMORY) /* TSan makes stacks larger */
        assert_true(seen->stack_bytes_max <= 256 * 1024);
    cenote_team_destroy(team);
    free(seen);
}

static void test_every_rank_once(void **state)
{
    (void)state;
    static const unsigned sizes[] = {0, 1, 2, 3, 7, 64};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        run_size(sizes[i]);
}

static void test_bad_size(void **state)
{
    (void)state;
    cenote_team *team = NULL;
    cenote_error err;
    assert_int_equal(cenote_team_create(CENOTE_TEAM_SIZE_MAX + 1, &team, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "257"));
    assert_non_null(strstr(err.message, "256"));
    assert_null(team);
    cenote_team_destroy(NULL);
}

/* Shares cover everything once, in whole grains, and differ by one grain at most. */
static void test_shares(void **state)
{
    (void)state;
    for (unsigned long items = 0; items < 70; items++) {
        for (unsigned long grain = 1; grain < 9; grain++) {
            for (unsigned size = 1; size < 9; size++) {
                unsigned long next = 0, least = ~0ul, most = 0, first, count;
                for (unsigned rank = 0; rank < size; rank++) {
                    cenote_team_share(items, grain, rank, size, &first, &count);
                    unsigned long grains = (count + grain - 1) / grain;
                    if (count > 0)
                        assert_int_equal(first, next);
                    assert_true(count % grain == 0 || first + count == items);
                    next += count;
                    least = grains < least ? grains : least;
                    most = grains > most ? grains : most;
                }
                assert_int_equal(next, items);
                assert_true(most - least <= 1);
            }
        }
    }
}

static void child_without_room(void)
{
    /* What is mapped already (stacks of earlier threads that glibc keeps are) plus a few stacks:
     * some workers start, then one cannot. */
    struct rlimit limit;
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu", &pages) != 1)
        _exit(2);
    fclose(file);
    limit.rlim_cur = limit.rlim_max = pages * 4096 + 5 * 300 * 1024;
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        _exit(2);
    cenote_team *team = NULL;
    cenote_error err = {0};
    cenote_status status = cenote_team_create(CENOTE_TEAM_SIZE_MAX, &team, &err);
    bool ok = status == CENOTE_E_NOMEM && team == NULL && strstr(err.message, "of 256") != NULL;
    _exit(ok ? 0 : 1);
}

static void test_no_thread_left(void **state)
{
    (void)state;
    if (SHADOW_MEMORY) {
        print_message("a sanitizer cannot live under RLIMIT_AS\n");
        skip();
    }
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        child_without_room();
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_rank_once),
        cmocka_unit_test(test_bad_size),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_no_thread_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
