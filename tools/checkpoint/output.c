/* SPDX-License-Identifier: Apache-2.0 */
/* The directory that is being made: everything goes into TARGET.partial.XXXXXX beside the target
 * and gets its name by one rename at the end, so a name that exists is a checkpoint that is whole.
 * Whatever stops the program before, short of kill -9, removes what was written. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "checkpoint.h"

static atomic_int interrupted; /* set by the handler, read by every writer */

int ckpt_fail(const char *format, ...)
{
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    fprintf(stderr, "make_checkpoint: %s\n", line);
    return -1;
}

static void on_signal(int number)
{
    (void)number;
    atomic_store(&interrupted, 1);
}

void ckpt_interrupt_catch(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

bool ckpt_interrupted(void)
{
    return atomic_load(&interrupted) != 0;
}

double ckpt_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The directory may be there if nothing is in it. */
static int target_check(const char *target)
{
    DIR *directory = opendir(target);
    if (!directory)
        return errno == ENOENT ? 0 : ckpt_fail("%s: %s", target, strerror(errno));
    struct dirent *entry;
    int result = 0;
    while (result == 0 && (entry = readdir(directory)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            result = ckpt_fail("%s: exists and is not empty (it has %s); nothing was written",
                               target, entry->d_name);
    closedir(directory);
    return result;
}

static int disk_check(const char *partial, uint64_t size_bytes, uint64_t keep_free_bytes)
{
    struct statvfs disk;
    if (statvfs(partial, &disk) != 0)
        return ckpt_fail("%s: %s", partial, strerror(errno));
    uint64_t free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize, need_bytes;
    if (!cn_checked_add(size_bytes, keep_free_bytes, &need_bytes) || need_bytes > free_bytes)
        return ckpt_fail("the checkpoint takes %.1f MB and %.1f MB shall stay free, but the disk "
                         "has %.1f MB left; nothing was written",
                         1e-6 * (double)size_bytes, 1e-6 * (double)keep_free_bytes,
                         1e-6 * (double)free_bytes);
    return 0;
}

int ckpt_output_open(const char *target, uint64_t size_bytes, uint64_t keep_free_bytes,
                     struct ckpt_output *out_output)
{
    struct ckpt_output output = {.target = target};
    size_t length = strlen(target);
    while (length > 1 && target[length - 1] == '/')
        length--;
    int printed = snprintf(output.partial, sizeof(output.partial), "%.*s.partial.XXXXXX",
                           (int)length, target);
    if (length == 0 || length > 4000 || printed >= (int)sizeof(output.partial))
        return ckpt_fail("OUT_DIR must have 1 to 4000 bytes, not %zu", length);
    if (target_check(target) != 0)
        return -1;
    if (!mkdtemp(output.partial))
        return ckpt_fail("%s: no directory can be made there: %s", target, strerror(errno));
    /* mkdtemp makes it private; the finished directory is like any other. */
    mode_t mask = umask(0);
    umask(mask);
    if (disk_check(output.partial, size_bytes, keep_free_bytes) != 0 ||
        (chmod(output.partial, 0777 & ~mask) != 0 &&
         ckpt_fail("%s: %s", output.partial, strerror(errno)) != 0)) {
        rmdir(output.partial);
        return -1;
    }
    output.total_bytes = size_bytes;
    output.started = ckpt_seconds();
    output.terminal = isatty(STDERR_FILENO);
    *out_output = output;
    return 0;
}

void ckpt_output_path(const struct ckpt_output *output, const char *name, char *out_path)
{
    snprintf(out_path, 4352, "%s/%s", output->partial, name);
}

int ckpt_output_file(struct ckpt_output *output, const char *name, const char *data, size_t size)
{
    char path[4352];
    ckpt_output_path(output, name, path);
    FILE *file = fopen(path, "wx");
    if (!file)
        return ckpt_fail("%s: %s", path, strerror(errno));
    size_t written = fwrite(data, 1, size, file);
    int close_result = fclose(file);
    if (written != size || close_result != 0)
        return ckpt_fail("%s: %s", path, strerror(errno));
    output->done_bytes += size;
    return 0;
}

void ckpt_output_progress(struct ckpt_output *output, const char *phase, uint64_t done_bytes)
{
    double now = ckpt_seconds();
    if (!output->terminal || now - output->shown < 0.1)
        return;
    output->shown = now;
    double done = (double)(output->done_bytes + done_bytes);
    double share = output->total_bytes ? done / (double)output->total_bytes : 1;
    double rate = now > output->started ? 1e-6 * done / (now - output->started) : 0;
    char bar[31];
    for (int i = 0; i < 30; i++)
        bar[i] = i < (int)(30 * share) ? '#' : '.';
    bar[30] = 0;
    fprintf(stderr, "\r%-28.28s [%s] %3.0f %%  %5.0f MB/s  %.1f of %.1f GB\033[K", phase, bar,
            100 * share, rate, 1e-9 * done, 1e-9 * (double)output->total_bytes);
}

static void progress_clear(const struct ckpt_output *output)
{
    if (output->terminal)
        fputs("\r\033[K", stderr);
}

int ckpt_output_commit(struct ckpt_output *output)
{
    progress_clear(output);
    /* rename() replaces an empty directory and refuses any other. */
    if (rename(output->partial, output->target) != 0)
        return ckpt_fail("%s: %s", output->target, strerror(errno));
    return 0;
}

void ckpt_output_discard(struct ckpt_output *output)
{
    progress_clear(output);
    DIR *directory = opendir(output->partial);
    struct dirent *entry;
    while (directory && (entry = readdir(directory)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(directory), entry->d_name, 0);
    if (directory)
        closedir(directory);
    if (rmdir(output->partial) != 0)
        ckpt_fail("%s: could not be removed: %s", output->partial, strerror(errno));
}
