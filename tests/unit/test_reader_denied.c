/* SPDX-License-Identifier: Apache-2.0 */
/* What a reader becomes where the kernel is less generous than to root: an unprivileged user with
 * small limits of locked memory, and seccomp filters that deny io_uring, at setup or
 * at each call. Each in a child. */
#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "program.h"
#include "reader_fixture.h"
#include "weights/reader.h"

#define FILE_BYTES ((uint64_t)1 << 20)
#define NOBODY     65534u
#define KIB        ((uint64_t)1024)

enum child { HELD = 0, BROKEN = 1, NOT_HERE = 2 };

static char path[] = "/tmp/cenote_reader_XXXXXX"; /* where a stranger may read it */

/* ---- in the child; says on stderr what is wrong ---- */

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            return BROKEN;                                                                         \
        }                                                                                          \
    } while (0)

static struct cn_reader_options options_of(enum cn_reader_engine engine, const int *fd,
                                           void *buffers, size_t buffers_bytes)
{
    return (struct cn_reader_options){.engine = engine,
                                      .depth = 8,
                                      .buffers = buffers,
                                      .buffers_bytes = buffers_bytes,
                                      .fds = fd,
                                      .fd_count = 1};
}

/* The whole file, eight reads at a time. */
static enum child reads_all(struct cn_reader *reader, unsigned char *buffers)
{
    const uint32_t size = FILE_BYTES / 16;
    struct cn_reader_result got;
    uint32_t asked = 0, had = 0;
    while (had < 16) {
        while (asked < 16 && cn_reader_under_way(reader) < 8) {
            struct cn_reader_request request = {asked, 0, (uint64_t)asked * size, size,
                                                buffers + (uint64_t)asked * size};
            cn_reader_submit(reader, &request);
            asked++;
        }
        EXPECT(cn_reader_next(reader, true, &got));
        EXPECT(got.result == size);
        had++;
    }
    EXPECT(test_pattern_right(buffers, 0, FILE_BYTES) == FILE_BYTES);
    return HELD;
}

/* A reader of that engine reads the file, and its buffers of so many bytes are registered or not.
 */
static enum child expect_reader(enum cn_reader_engine engine, size_t buffers_bytes,
                                const char *engine_text, bool registered)
{
    struct cn_os *os = cn_os_linux();
    struct cn_reader *reader;
    cenote_error err;
    void *buffers;
    int fd;
    EXPECT(posix_memalign(&buffers, 4096, buffers_bytes) == 0);
    memset(buffers, 0, buffers_bytes);
    EXPECT(os->ops->file_open(os, path, 0, &fd) == 0);
    struct cn_reader_options options = options_of(engine, &fd, buffers, buffers_bytes);
    cenote_status status = cn_reader_create(os, &options, &reader, &err);
    if (status != CENOTE_OK)
        fprintf(stderr, "%s\n", err.message);
    EXPECT(status == CENOTE_OK);
    EXPECT(strcmp(cn_reader_engine_text(reader), engine_text) == 0);
    EXPECT(cn_reader_registered(reader) == registered);
    enum child result = reads_all(reader, buffers);
    cn_reader_destroy(reader);
    os->ops->file_close(os, fd);
    free(buffers);
    return result;
}

static enum child expect_refusal(void)
{
    struct cn_reader *reader = NULL;
    cenote_error err;
    int fd = 0;
    struct cn_reader_options options = options_of(CN_READER_URING, &fd, NULL, 0);
    EXPECT(cn_reader_create(cn_os_linux(), &options, &reader, &err) == CENOTE_E_UNSUPPORTED);
    EXPECT(reader == NULL);
    EXPECT(strstr(err.message, "io_uring") != NULL && strstr(err.message, "seccomp") != NULL);
    return HELD;
}

static bool ring_here(void)
{
    struct cn_reader *reader;
    int fd = 0;
    struct cn_reader_options options = options_of(CN_READER_URING, &fd, NULL, 0);
    if (cn_reader_create(cn_os_linux(), &options, &reader, NULL) != CENOTE_OK)
        return false;
    cn_reader_destroy(reader);
    return true;
}

/* Newer kernels count a ring's own pages too: there is none at all then without such memory.
 * Twice each: what the first reader registered must count no more when the second comes. */
static enum child as_nobody(uint64_t limit_bytes)
{
    struct rlimit limit = {limit_bytes, limit_bytes};
    EXPECT(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    EXPECT(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    EXPECT(setuid(0) != 0);
    enum child result = HELD;
    if (!ring_here())
        return limit_bytes > 0 ? NOT_HERE
                               : expect_reader(CN_READER_AUTO, FILE_BYTES, "pread", false);
    for (unsigned i = 0; i < 2 && result == HELD; i++) {
        /* what is larger than the limit is read as well */
        result = expect_reader(CN_READER_AUTO, limit_bytes + FILE_BYTES, "io_uring", false);
        if (result == HELD && limit_bytes > 2 * FILE_BYTES)
            result = expect_reader(CN_READER_AUTO, limit_bytes - FILE_BYTES, "io_uring", true);
    }
    return result;
}

static enum child as_nobody_64_kib(void)
{
    return as_nobody(64 * KIB);
}

static enum child as_nobody_8_mib(void)
{
    return as_nobody(8 * KIB * KIB);
}

static enum child as_nobody_with_none(void)
{
    return as_nobody(0);
}

/* io_uring_enter fails with EAGAIN when it is to submit just so many. */
static bool deny_enter_of(uint32_t count)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, count, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static enum child filtered(unsigned error)
{
    if (!test_deny_call(SYS_io_uring_setup, error))
        return NOT_HERE;
    enum child result = expect_reader(CN_READER_AUTO, FILE_BYTES, "pread", false);
    return result == HELD ? expect_refusal() : result;
}

static enum child filtered_eperm(void)
{
    return filtered(EPERM);
}

/* A kernel that takes no read, ever: the owner's thread reads. */
static enum child nothing_entered(void)
{
    if (!ring_here() || !test_deny_call(SYS_io_uring_enter, EAGAIN))
        return NOT_HERE;
    return expect_reader(CN_READER_URING, FILE_BYTES, "io_uring", true);
}

/* Reads that were refused must not start when the next ones are taken. */
static enum child refused_stays_refused(void)
{
    static unsigned char data[4][4096];
    struct cn_os *os = cn_os_linux();
    struct cn_os_ring *ring;
    int fd;
    EXPECT(os->ops->file_open(os, path, 0, &fd) == 0);
    struct cn_os_ring_options options = {.depth = 4, .fds = &fd, .fd_count = 1};
    if (os->ops->ring_open(os, &options, &ring) != 0 || !deny_enter_of(3))
        return NOT_HERE;
    struct cn_os_ring_read reads[4];
    for (uint32_t i = 0; i < 4; i++)
        reads[i] = (struct cn_os_ring_read){
            .tag = i, .offset_bytes = i * UINT64_C(4096), .size_bytes = 4096, .data = data[i]};
    EXPECT(os->ops->ring_enter(os, ring, reads, 3, false) == -EAGAIN);
    struct cn_os_ring_done done[4];
    EXPECT(os->ops->ring_enter(os, ring, reads + 3, 1, false) == 1);
    uint32_t count = 0;
    while ((count = os->ops->ring_reap(os, ring, done, 4)) == 0)
        os->ops->sleep_ns(os, 100000);
    EXPECT(count == 1 && done[0].tag == 3 && done[0].result == 4096);
    EXPECT(test_pattern_right(data[3], 3 * 4096, 4096) == 4096);
    os->ops->sleep_ns(os, 10000000);
    EXPECT(os->ops->ring_reap(os, ring, done, 4) == 0);
    EXPECT(data[0][0] == 0 && memcmp(data[0], data[0] + 1, 3 * 4096 - 1) == 0);
    /* and the ring goes on */
    EXPECT(os->ops->ring_enter(os, ring, reads, 2, false) == 2);
    for (count = 0; count < 2; count += os->ops->ring_reap(os, ring, done, 4))
        os->ops->sleep_ns(os, 100000);
    EXPECT(test_pattern_right(data, 0, 2 * 4096) == 2 * 4096);
    os->ops->ring_close(os, ring);
    os->ops->file_close(os, fd);
    return HELD;
}

/* Rings that answer no question about themselves are not trusted with reads. */
static enum child nothing_registered(void)
{
    if (!test_deny_call(SYS_io_uring_register, ENOSYS))
        return NOT_HERE;
    return expect_reader(CN_READER_AUTO, FILE_BYTES, "pread", false);
}

/* ---- the tests ---- */

static void in_child(enum child (*body)(void), const char *missing)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        enum child result = body();
        fflush(NULL);
        _exit((int)result);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == NOT_HERE) {
        print_message("%s\n", missing);
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), HELD);
}

static void nobody(enum child (*body)(void))
{
    if (geteuid() != 0) {
        print_message("only root can become another user\n");
        skip();
    }
    in_child(body, "this kernel gives such a user no io_uring");
}

static void test_memlock_64_kib(void **state)
{
    (void)state;
    nobody(as_nobody_64_kib);
}

static void test_memlock_8_mib(void **state)
{
    (void)state;
    nobody(as_nobody_8_mib);
}

static void test_memlock_none(void **state)
{
    (void)state;
    nobody(as_nobody_with_none);
}

static void test_seccomp(void **state)
{
    (void)state;
    in_child(filtered_eperm, "no seccomp filters here");
}

static void test_nothing_registered(void **state)
{
    (void)state;
    in_child(nothing_registered, "no seccomp filters here");
}

static void test_nothing_entered(void **state)
{
    (void)state;
    in_child(nothing_entered, "no io_uring or no seccomp filters here");
}

static void test_refused_stays_refused(void **state)
{
    (void)state;
    in_child(refused_stays_refused, "no io_uring or no seccomp filters here");
}

static int group_up(void **state)
{
    (void)state;
    test_pattern_file(path, 0, FILE_BYTES);
    return chmod(path, 0644);
}

static int group_down(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memlock_64_kib),        cmocka_unit_test(test_memlock_8_mib),
        cmocka_unit_test(test_memlock_none),          cmocka_unit_test(test_seccomp),
        cmocka_unit_test(test_nothing_registered),    cmocka_unit_test(test_nothing_entered),
        cmocka_unit_test(test_refused_stays_refused),
    };
    return cmocka_run_group_tests(tests, group_up, group_down);
}
