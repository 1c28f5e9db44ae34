/* SPDX-License-Identifier: Apache-2.0 */
/* What happens to a checkpoint while `cenote run` reads it for every token, and a machine that
 * denies what is asked of it: the whole answer, or a beginning of it and one clear line; never a
 * wrong word. Real files, real signals, a real filter of system calls. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "checkpoint.h"
#include "program.h"

#define COMMAND     TEST_BIN_DIR "/cli/cenote"
#define TOOL        TEST_BIN_DIR "/tools/make_checkpoint"
#define LONG        "1600" /* tokens */
#define SHORT       "48"
#define TEXT_BYTES  (1u << 18)
#define RESIDENT    (256u << 10) /* about half of the tiny model's */
#define PIPE_BYTES  4096
#define NOBODY      65534
#define SOON_S      20 /* a command that was told to end; sanitizers are slow */
#define SHARD       "model.safetensors"
#define NOT_ALLOWED 126

/* Sanitizers take several times as long: fewer of each kind. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(CENOTE_COVERAGE)
#define STRIDE 3u
#else
#define STRIDE 1u
#endif

static char folder[512]; /* holds model/ and all that a test leaves */
static char memory[32];  /* so little that some weights are read for every token */

struct text {
    char bytes[TEXT_BYTES];
    size_t count;
};
static struct text long_answer, short_answer;

static bool packed; /* runs read a packed copy */

struct run {
    pid_t pid;
    int text_fd;
    char words_path[600]; /* where stderr goes */
    char *text;           /* TEXT_BYTES */
    size_t text_bytes;
    int code;
    char words[2048];
};

static void shell(const char *format, ...)
{
    char command[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (system(command) != 0)
        fail_msg("%s", command);
}

static const char *in_folder(const char *name)
{
    static char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* ---- a command under way ---- */

/* Between fork and exec; false: the machine does not allow it. */
typedef bool (*preparation)(void);

static struct run start(preparation prepare, const char *engine, const char *tokens)
{
    struct run run = {.text = calloc(1, TEXT_BYTES)};
    int ends[2];
    assert_non_null(run.text);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    /* nobody reads on for a while, and the answer does not fit: the run waits with us */
    assert_true(fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES) > 0);
    snprintf(run.words_path, sizeof run.words_path, "%s/words", folder);
    fflush(NULL);
    run.pid = fork();
    if (run.pid == 0) {
        int words = open(run.words_path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        if (words < 0 || dup2(ends[1], STDOUT_FILENO) < 0 || dup2(words, STDERR_FILENO) < 0 ||
            chdir(folder) != 0 || (prepare != NULL && !prepare()))
            _exit(NOT_ALLOWED);
        execl(COMMAND, COMMAND, "run", "model", "--prompt", "hi", "--max-tokens", tokens,
              "--memory", memory, "--threads", "1", "--io", engine, "--cache",
              packed ? "copies" : "none", "--quiet", (char *)NULL);
        _exit(NOT_ALLOWED);
    }
    close(ends[1]);
    run.text_fd = ends[0];
    return run;
}

static bool read_piece(struct run *run, size_t bytes_max)
{
    size_t room = TEXT_BYTES - 1 - run->text_bytes;
    ssize_t got =
        read(run->text_fd, run->text + run->text_bytes, room < bytes_max ? room : bytes_max);
    run->text_bytes += got > 0 ? (size_t)got : 0;
    return got > 0;
}

/* Some of the answer is there, and more to come. */
static void wait_for_text(struct run *run)
{
    while (run->text_bytes < 40)
        if (!read_piece(run, 40))
            fail_msg("the run ended before its answer");
}

static void finish(struct run *run)
{
    while (read_piece(run, TEXT_BYTES))
        ;
    close(run->text_fd);
    run->code = test_program_wait(run->pid);
    FILE *file = fopen(run->words_path, "r");
    assert_non_null(file);
    run->words[fread(run->words, 1, sizeof run->words - 1, file)] = '\0';
    fclose(file);
}

/* ---- how it may end ---- */

static void assert_beginning(const struct run *run)
{
    assert_true(run->text_bytes <= long_answer.count);
    assert_memory_equal(run->text, long_answer.bytes, run->text_bytes);
}

static void assert_answers(struct run *run, const struct text *expected)
{
    finish(run);
    if (run->code != 0)
        fail_msg("exit code %d: %s", run->code, run->words);
    assert_int_equal(run->text_bytes, expected->count);
    assert_memory_equal(run->text, expected->bytes, expected->count);
    free(run->text);
}

/* A sanitizer's own memory is more than the run was given, and the command says so. */
static void forget_sanitizer(char *words)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    char *line = strstr(words, "cenote: bug: the process held ");
    char *end = line != NULL ? strchr(line, '\n') : NULL;
    if (end != NULL)
        memmove(line, end + 1, strlen(end + 1) + 1);
#else
    (void)words;
#endif
}

/* One line, that says so; what was printed before is right. The answer's own line may be ended. */
static void assert_refuses(struct run *run, int code, const char *saying)
{
    finish(run);
    forget_sanitizer(run->words);
    char *newline = strchr(run->words, '\n');
    bool one_line = newline != NULL && newline[1] == '\0';
    if (run->code != code || !one_line || strncmp(run->words, "cenote: ", 8) != 0 ||
        strstr(run->words, saying) == NULL)
        fail_msg("exit code %d, wanted %d and \"%s\": %s", run->code, code, saying, run->words);
    if (run->text_bytes > 0 && run->text[run->text_bytes - 1] == '\n')
        run->text_bytes--;
    assert_true(run->text_bytes < long_answer.count);
    assert_beginning(run);
    free(run->text);
}

/* ---- a file that somebody works on ---- */

typedef void (*accident)(const char *shard);

static void cut_in_half(const char *shard)
{
    struct stat st;
    assert_int_equal(stat(shard, &st), 0);
    assert_int_equal(truncate(shard, st.st_size / 2), 0);
}

static void empty(const char *shard)
{
    assert_int_equal(truncate(shard, 0), 0);
}

static void touch(const char *shard)
{
    assert_int_equal(utimensat(AT_FDCWD, shard, NULL, 0), 0);
}

static void write_over(const char *shard)
{
    char wrong[4096];
    struct stat st;
    memset(wrong, 0x3c, sizeof wrong);
    int fd = open(shard, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    for (off_t at = st.st_size / 4; at + 4096 < st.st_size; at += 4096)
        assert_int_equal(pwrite(fd, wrong, sizeof wrong, at), sizeof wrong);
    close(fd);
}

static void rename_other_over(const char *shard)
{
    assert_int_equal(rename(in_folder("other/" SHARD), shard), 0);
}

static void remove_it(const char *shard)
{
    assert_int_equal(unlink(shard), 0);
}

static void remove_all(const char *shard)
{
    (void)shard;
    shell("rm -r '%s/model'", folder);
}

static void damage_the_copy(const char *shard)
{
    (void)shard;
    shell("dd if=/dev/zero of=\"$(echo '%s'/copies/*)\" bs=4096 count=40 conv=notrunc status=none",
          folder);
}

static void cut_the_copy(const char *shard)
{
    (void)shard;
    shell("truncate -s 8192 \"$(echo '%s'/copies/*)\"", folder);
}

static struct run run_with(accident happens, const char *engine)
{
    char shard[700];
    snprintf(shard, sizeof shard, "%s", in_folder("model/" SHARD));
    struct run run = start(NULL, engine, LONG);
    wait_for_text(&run);
    happens(shard);
    return run;
}

static void fresh_model(void)
{
    shell("cd '%s' && rm -rf model other && cp -r kept model && cp -r wrong other", folder);
}

static void test_changed_files(void **state)
{
    (void)state;
    static const accident accidents[] = {cut_in_half, empty, touch, write_over};
    static const char *const engines[] = {"auto", "pread"};
    for (size_t a = 0; a < sizeof accidents / sizeof accidents[0]; a++)
        for (size_t e = STRIDE > 1 ? a % 2 : 0; e < 2; e += STRIDE) {
            fresh_model();
            struct run run = run_with(accidents[a], engines[e]);
            assert_refuses(&run, 5, SHARD ": tensor `model.language_model.");
        }
}

/* The file that was opened is still whole, whatever its name now means. */
static void test_files_that_stay_whole(void **state)
{
    (void)state;
    static const accident accidents[] = {rename_other_over, remove_it, remove_all};
    static const char *const engines[] = {"auto", "pread"};
    for (size_t a = 0; a < sizeof accidents / sizeof accidents[0]; a += STRIDE) {
        fresh_model();
        struct run run = run_with(accidents[a], engines[a % 2]);
        assert_answers(&run, &long_answer);
    }
    fresh_model();
}

/* A packed copy is a cache: what happens to it, the original has the same weights. */
static void test_packed_copies(void **state)
{
    (void)state;
    static const accident accidents[] = {damage_the_copy, cut_the_copy, remove_it};
    packed = true;
    for (size_t a = 0; a < sizeof accidents / sizeof accidents[0]; a += STRIDE) {
        fresh_model();
        shell("cd '%s' && rm -rf copies && '" COMMAND "' pack model --out copies --quiet >packed",
              folder);
        struct run run = run_with(accidents[a], "auto");
        assert_answers(&run, &long_answer);
    }
    packed = false;
    fresh_model();
}

/* ---- a machine that denies ---- */

static bool without_rings(void)
{
    return test_deny_call(SYS_io_uring_setup, EPERM);
}

static bool without_rings_in_the_kernel(void)
{
    return test_deny_call(SYS_io_uring_setup, ENOSYS);
}

/* A kernel that opens rings and takes nothing. */
static bool without_entries(void)
{
    return test_deny_call(SYS_io_uring_enter, EAGAIN);
}

static bool nobody_with(rlim_t locked_bytes)
{
    struct rlimit limit = {locked_bytes, locked_bytes};
    return setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && setgroups(0, NULL) == 0 &&
           setgid(NOBODY) == 0 && setuid(NOBODY) == 0;
}

static bool nobody_with_64_kib(void)
{
    return nobody_with(65536);
}

static bool nobody_with_none(void)
{
    return nobody_with(0);
}

static void answers_under(preparation prepare)
{
    struct run run = start(prepare, "auto", SHORT);
    int first = read_piece(&run, 1);
    if (first == 0 && test_program_wait(run.pid) == NOT_ALLOWED) {
        close(run.text_fd);
        free(run.text);
        print_message("this machine does not allow that\n");
        skip();
    }
    assert_answers(&run, &short_answer);
}

static void test_seccomp(void **state)
{
    (void)state;
    answers_under(without_rings);
    answers_under(without_rings_in_the_kernel);
    struct run run = start(without_rings, "uring", SHORT);
    assert_refuses(&run, 1, "io_uring cannot be had");
}

static void test_ring_that_takes_nothing(void **state)
{
    (void)state;
    answers_under(without_entries);
}

static void test_nobody(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        print_message("only root can become another user\n");
        skip();
    }
    answers_under(nobody_with_64_kib);
    answers_under(nobody_with_none);
}

/* ---- Ctrl-C ---- */

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void test_interrupts(void **state)
{
    (void)state;
    static const char *const engines[] = {"auto", "pread"};
    for (unsigned i = 0; i < 8; i += STRIDE) {
        struct run run = start(NULL, engines[i % 2], LONG);
        wait_for_text(&run);
        struct timespec pause = {0, i * 3000000};
        nanosleep(&pause, NULL);
        double begin_s = now_s();
        assert_int_equal(kill(run.pid, SIGINT), 0);
        assert_refuses(&run, 130, "interrupted");
        assert_true(now_s() - begin_s < SOON_S);
    }
}

/* ---- */

static uint64_t smallest_bytes(void)
{
    char command[1400];
    snprintf(command, sizeof command,
             "'" COMMAND "' plan '%s/model' --prompt-tokens 40 --max-tokens " LONG
             " --threads 1 --json",
             folder);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    json_t *plan = json_loadf(pipe, 0, NULL);
    pclose(pipe);
    json_t *bytes = json_object_get(json_object_get(plan, "memory"), "smallest_budget_bytes");
    assert_true(json_is_integer(bytes));
    uint64_t value = (uint64_t)json_integer_value(bytes);
    json_decref(plan);
    return value;
}

static void answer_calmly(const char *tokens, struct text *out_text)
{
    struct run run = start(NULL, "auto", tokens);
    finish(&run);
    if (run.code != 0)
        fail_msg("%s", run.words);
    memcpy(out_text->bytes, run.text, run.text_bytes);
    out_text->count = run.text_bytes;
    free(run.text);
}

static int set_up(void **state)
{
    (void)state;
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    assert_int_equal(chmod(folder, 0755), 0);
    setenv("XDG_CACHE_HOME", folder, 1);
    shell("cd '%s' && umask 022 && '" TOOL "' tiny kept --quiet --shards 1 && '" TOOL
          "' tiny wrong --quiet --shards 1 --seed 99",
          folder);
    fresh_model();
    snprintf(memory, sizeof memory, "%llu", (unsigned long long)smallest_bytes() + RESIDENT);
    answer_calmly(LONG, &long_answer);
    answer_calmly(SHORT, &short_answer);
    assert_true(long_answer.count > PIPE_BYTES + 1024);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    shell("rm -rf '%s'", folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changed_files),
        cmocka_unit_test(test_files_that_stay_whole),
        cmocka_unit_test(test_packed_copies),
        cmocka_unit_test(test_seccomp),
        cmocka_unit_test(test_ring_that_takes_nothing),
        cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_interrupts),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
