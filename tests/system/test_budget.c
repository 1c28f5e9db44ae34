/* SPDX-License-Identifier: Apache-2.0 */
/* The promise of --memory, held by the kernel: the random 2B checkpoint (4.26 GB) answers about a
 * picture inside memory cgroups of 256 MiB, 512 MiB and 1 GiB, and in its own smallest budget;
 * VmHWM
 * + VmPTE stay below, the logits are the same bytes, and the bytes read are the kernel's count.
 *
 * Writes the checkpoint once into the build directory and keeps it. Skips, and says why, where the
 * disk has no room. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#define MIB              (UINT64_C(1) << 20)
#define SKIP             77
#define CHECKPOINT       TEST_BIN_DIR "/checkpoints/2b"
#define CHECKPOINT_BYTES (UINT64_C(4300) * MIB)
#define TOOL             TEST_BIN_DIR "/tools/make_checkpoint"
#define COMMAND          TEST_BIN_DIR "/cli/cenote"
#define PICTURE          TEST_SOURCE_DIR "/examples/shapes.png"

/* ---- memory cgroups, v1 or v2 ---- */

struct cgroup {
    char path[1024];
    bool usable;
    bool v2;
};

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t written = write(fd, text, strlen(text));
    return close(fd) == 0 && written == (ssize_t)strlen(text);
}

static bool write_number(const struct cgroup *group, const char *file, uint64_t number)
{
    char path[1100], text[32];
    snprintf(path, sizeof path, "%s/%s", group->path, file);
    snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    return write_text(path, text);
}

/* The line of /proc/self/cgroup for v1's memory controller or for v2; false without one. */
static bool own_group(bool v2, char *out, size_t out_bytes)
{
    char line[1024];
    bool found = false;
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        char *controllers = strchr(line, ':'),
             *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL)
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        found = v2 ? strcmp(controllers + 1, "") == 0 : strcmp(controllers + 1, "memory") == 0;
        if (found)
            snprintf(out, out_bytes, "%s", path);
    }
    if (file != NULL)
        fclose(file);
    return found;
}

static struct cgroup cgroup_make(void)
{
    static const struct {
        bool v2;
        const char *mount, *limit;
    } kinds[] = {{false, "/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
                 {true, "/sys/fs/cgroup", "memory.max"}};
    struct cgroup group = {.usable = false};
    for (size_t i = 0; geteuid() == 0 && i < sizeof kinds / sizeof kinds[0]; i++) {
        char own[512], limit[1100];
        if (!own_group(kinds[i].v2, own, sizeof own))
            continue;
        /* v2 lets no group have both members and controlled children: a sibling then. */
        char *slash = strrchr(own, '/');
        if (kinds[i].v2 && slash != NULL)
            *slash = '\0';
        snprintf(group.path, sizeof group.path, "%s%s/cenote-test-%d", kinds[i].mount, own,
                 getpid());
        if (mkdir(group.path, 0755) != 0)
            continue;
        snprintf(limit, sizeof limit, "%s/%s", group.path, kinds[i].limit);
        group.v2 = kinds[i].v2;
        group.usable = access(limit, W_OK) == 0;
        if (group.usable)
            return group;
        rmdir(group.path);
    }
    return group;
}

static void cgroup_limit(const struct cgroup *group, uint64_t bytes)
{
    if (group->usable)
        assert_true(write_number(group, group->v2 ? "memory.max" : "memory.limit_in_bytes", bytes));
}

/* ---- running the command ---- */

struct run {
    int exit_code; /* -signal when killed */
    uint64_t kernel_read_bytes;
    json_t *json;
    char error_line[1024];
};

static uint64_t read_bytes_of(pid_t pid)
{
    char path[64], line[128];
    unsigned long long bytes = 0;
    snprintf(path, sizeof path, "/proc/%d/io", pid);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "read_bytes: %llu", &bytes) == 1)
            break;
    if (file != NULL)
        fclose(file);
    return bytes;
}

static void child(const struct cgroup *group, char *const argv[])
{
    if (group != NULL && group->usable && !write_number(group, "cgroup.procs", (uint64_t)getpid()))
        _exit(126);
    int out = open(TEST_SCRATCH_DIR "/budget.json", O_CREAT | O_TRUNC | O_WRONLY, 0644);
    int err = open(TEST_SCRATCH_DIR "/budget.err", O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (out < 0 || err < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(err, STDERR_FILENO) < 0)
        _exit(126);
    execv(argv[0], argv);
    _exit(127);
}

static void read_line(const char *path, char *line, size_t line_bytes)
{
    FILE *file = fopen(path, "r");
    if (file == NULL || fgets(line, (int)line_bytes, file) == NULL)
        line[0] = '\0';
    if (file != NULL)
        fclose(file);
}

static struct run run_command(const struct cgroup *group, char *const argv[])
{
    struct run run = {0};
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        child(group, argv);
    siginfo_t info;
    int rc;
    do
        rc = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    while (rc != 0 && errno == EINTR);
    run.kernel_read_bytes = read_bytes_of(pid); /* a zombie still has its counters */
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    run.json = json_load_file(TEST_SCRATCH_DIR "/budget.json", 0, NULL);
    read_line(TEST_SCRATCH_DIR "/budget.err", run.error_line, sizeof run.error_line);
    return run;
}

static uint64_t number(const struct run *run, const char *object, const char *key)
{
    json_t *value = json_object_get(json_object_get(run->json, object), key);
    if (!json_is_integer(value))
        fail_msg("no %s.%s in the output; stderr: %s", object, key, run->error_line);
    return (uint64_t)json_integer_value(value);
}

/* ---- the checkpoint ---- */

static bool have_checkpoint(void)
{
    if (access(CHECKPOINT "/config.json", R_OK) == 0)
        return true;
    struct statvfs disk;
    assert_int_equal(statvfs(TEST_BIN_DIR, &disk), 0);
    if ((uint64_t)disk.f_bavail * disk.f_frsize < CHECKPOINT_BYTES + 512 * MIB) {
        printf("SKIP: the 2B checkpoint needs %llu MiB of disk, %llu MiB are free\n",
               (unsigned long long)(CHECKPOINT_BYTES / MIB + 512),
               (unsigned long long)((uint64_t)disk.f_bavail * disk.f_frsize / MIB));
        return false;
    }
    mkdir(TEST_BIN_DIR "/checkpoints", 0755);
    char *const argv[] = {TOOL, "2b", CHECKPOINT, NULL};
    struct run made = run_command(NULL, argv);
    if (made.exit_code != 0)
        fail_msg("make_checkpoint: exit code %d: %s", made.exit_code, made.error_line);
    json_decref(made.json);
    return true;
}

/* ---- the runs ---- */

static struct run run_budget(const struct cgroup *group, uint64_t budget_bytes, const char *logits)
{
    char memory[32];
    snprintf(memory, sizeof memory, "%llu", (unsigned long long)budget_bytes);
    char *const argv[] = {COMMAND,
                          "run",
                          CHECKPOINT,
                          "--image",
                          PICTURE,
                          "--prompt",
                          "What is this?",
                          "--max-tokens",
                          "4",
                          "--memory",
                          memory,
                          "--json",
                          "--logits",
                          (char *)(uintptr_t)logits,
                          NULL};
    cgroup_limit(group, budget_bytes);
    return run_command(group, argv);
}

static void check_run(const struct run *run, uint64_t budget_bytes)
{
    if (run->exit_code != 0)
        fail_msg("budget of %llu bytes: exit code %d: %s", (unsigned long long)budget_bytes,
                 run->exit_code, run->error_line);
    uint64_t peak = number(run, "memory", "peak_bytes");
    uint64_t read = number(run, "io", "weight_bytes_read");
    printf("budget %4llu MiB: peak %.1f MiB, weights read %.3f GB, kernel %.3f GB\n",
           (unsigned long long)(budget_bytes / MIB), (double)peak / (double)MIB,
           1e-9 * (double)read, 1e-9 * (double)run->kernel_read_bytes);
    assert_true(peak <= budget_bytes);
    assert_int_equal(number(run, "memory", "budget_bytes"), budget_bytes);
    assert_int_equal(number(run, "io", "prefill_weight_passes"), 1);
    double ratio = (double)read / (double)run->kernel_read_bytes;
    if (json_is_true(json_object_get(json_object_get(run->json, "io"), "direct")))
        assert_true(ratio > 0.99 && ratio < 1.01);
    else
        printf("SKIP: no O_DIRECT here, the kernel counts read-ahead too\n");
}

static void assert_same_file(const char *a, const char *b)
{
    FILE *x = fopen(a, "rb"), *y = fopen(b, "rb");
    assert_non_null(x);
    assert_non_null(y);
    static char left[65536], right[65536];
    size_t got;
    uint64_t total = 0;
    do {
        got = fread(left, 1, sizeof left, x);
        assert_int_equal(fread(right, 1, sizeof right, y), got);
        assert_memory_equal(left, right, got);
        total += got;
    } while (got > 0);
    assert_true(total > 4u * 151936 * 4); /* four steps of logits */
    fclose(x);
    fclose(y);
}

static uint64_t smallest_budget(void)
{
    char *const argv[] = {
        COMMAND,        "run", CHECKPOINT, "--image", PICTURE,  "--prompt", "What is this?",
        "--max-tokens", "4",   "--memory", "1MiB",    "--json", NULL};
    struct run refused = run_command(NULL, argv);
    assert_int_equal(refused.exit_code, 3);
    unsigned long long mib = 0;
    const char *words = strstr(refused.error_line, "needs at least ");
    if (words == NULL || sscanf(words, "needs at least %llu MiB", &mib) != 1)
        fail_msg("no smallest budget in: %s", refused.error_line);
    /* Refused before any weight byte was read. */
    assert_true(refused.kernel_read_bytes < 64 * MIB);
    json_decref(refused.json);
    return mib * MIB;
}

static void test_budgets(void **state)
{
    (void)state;
    struct cgroup group = cgroup_make();
    if (!group.usable)
        printf("SKIP: no memory cgroup can be made here; VmHWM alone is checked\n");
    uint64_t smallest = smallest_budget();
    printf("smallest budget: %llu MiB\n", (unsigned long long)(smallest / MIB));
    assert_true(smallest <= 192 * MIB);
    const uint64_t budgets[] = {smallest, 256 * MIB, 512 * MIB, 1024 * MIB};
    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
        const char *logits =
            i == 0 ? TEST_SCRATCH_DIR "/budget-0.npy" : TEST_SCRATCH_DIR "/budget-n.npy";
        struct run run = run_budget(&group, budgets[i], logits);
        check_run(&run, budgets[i]);
        assert_true(number(&run, "memory", "smallest_budget_bytes") <= smallest);
        if (i > 0)
            assert_same_file(TEST_SCRATCH_DIR "/budget-0.npy", logits);
        json_decref(run.json);
    }
    if (group.usable)
        rmdir(group.path);
}

int main(void)
{
    if (!have_checkpoint())
        return SKIP;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_budgets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
