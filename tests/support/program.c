/* SPDX-License-Identifier: Apache-2.0 */
/* Plain fork and exec; the text comes through a pipe that is read to its end before waiting, so a
 * program that says much does not block. */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t test_program_start(const char *const argv[], int stderr_fd)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    int off = open("/dev/null", O_WRONLY);
    dup2(off, STDOUT_FILENO);
    dup2(stderr_fd >= 0 ? stderr_fd : off, STDERR_FILENO);
    union { /* execv's type is older than const */
        const char *const *given;
        char *const *wanted;
    } arguments = {argv};
    execv(argv[0], arguments.wanted);
    dprintf(STDERR_FILENO, "%s: cannot be run\n", argv[0]);
    _exit(127);
}

int test_program_wait(pid_t pid)
{
    int status = 0;
    if (pid < 0)
        return 127;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return 127;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int test_program_run(const char *const argv[], char *out_text, size_t text_bytes)
{
    int ends[2];
    out_text[0] = 0;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return 127;
    pid_t pid = test_program_start(argv, ends[1]);
    close(ends[1]);
    size_t filled = 0;
    char piece[512];
    ssize_t count;
    while ((count = read(ends[0], piece, sizeof piece)) > 0)
        for (ssize_t i = 0; i < count && filled + 1 < text_bytes; i++)
            out_text[filled++] = piece[i];
    out_text[filled] = 0;
    close(ends[0]);
    return test_program_wait(pid);
}

bool test_deny_call(uint32_t call, unsigned error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}
