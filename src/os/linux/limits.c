/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup limits, v1, v2 and both at once (hybrid: memory still in a v1 hierarchy next to an empty
 * v2 mount is a real configuration).
 *
 * A limit of any ancestor binds, so every directory from the process's own cgroup up to the
 * hierarchy's mount point is read and the tightest wins. Where the directory is comes from two
 * files:
 *
 *   /proc/self/cgroup      4:memory:/a/b          path inside the hierarchy
 *   /proc/self/mountinfo   ... /a /sys/fs/cgroup/memory ... - cgroup cgroup rw,memory
 *                              |  where it is mounted
 *                              the part of the hierarchy that is mounted there
 *
 *   directory = mount point + (path without the mounted part)
 *
 * Use is counted without file pages: the kernel drops them before it refuses memory, and a process
 * that has just read a checkpoint through the page cache has not used anything. Anonymous shared
 * memory is not on the file lists, so it counts. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "os/linux/limits.h"
#include "os/linux/text_file.h"

/* A v1 hierarchy without a limit says LONG_MAX rounded down to a page; nothing real is as large. */
#define UNLIMITED_FROM_BYTES (UINT64_C(1) << 62)

/* One mounted hierarchy that may hold a limit of this process. */
struct hierarchy {
    const char *controller; /* "memory", "cpu"; "" for v2 */
    bool found_path, found_mount;
    char path[PATH_MAX];     /* inside the hierarchy, from /proc/self/cgroup */
    char mounted[PATH_MAX];  /* the part of it that is mounted */
    char mount_at[PATH_MAX]; /* and where */
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Is word one of the comma-separated words of list? */
static bool list_has(const char *list, size_t list_length, const char *word)
{
    size_t word_length = strlen(word);
    const char *end = list + list_length;
    while (list <= end) {
        const char *comma = memchr(list, ',', (size_t)(end - list));
        size_t length = (size_t)((comma ? comma : end) - list);
        if (length == word_length && memcmp(list, word, length) == 0)
            return true;
        if (comma == NULL)
            break;
        list = comma + 1;
    }
    return false;
}

static bool copy_text(char *to, size_t capacity, const char *from, size_t length)
{
    if (length >= capacity)
        return false;
    memcpy(to, from, length);
    to[length] = '\0';
    return true;
}

/* "4:memory,hugetlb:/a/b", or "0::/a/b" for v2. */
static bool take_cgroup_line(void *argument, const char *line)
{
    struct hierarchy *h = argument;
    const char *controllers = strchr(line, ':');
    if (controllers == NULL)
        return true;
    controllers++;
    const char *path = strchr(controllers, ':');
    if (path == NULL)
        return true;
    size_t length = (size_t)(path - controllers);
    bool mine = h->controller[0] == '\0' ? length == 0 && line[0] == '0'
                                         : list_has(controllers, length, h->controller);
    if (!mine)
        return true;
    path++;
    h->found_path = copy_text(h->path, sizeof h->path, path, strlen(path));
    return !h->found_path;
}

/* mountinfo writes blanks, tabs, newlines and backslashes of a path as \ooo. */
static void unescape_octal(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; to++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' &&
            from[2] <= '7' && from[3] >= '0' && from[3] <= '7') {
            *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* The blank-separated word number @p index of text; its length in *out_length. */
static const char *word_at(const char *text, unsigned index, size_t *out_length)
{
    for (; index > 0; index--) {
        text = strchr(text, ' ');
        if (text == NULL)
            return NULL;
        text++;
    }
    *out_length = strcspn(text, " ");
    return text;
}

/* "32 31 0:29 ROOT MOUNT_POINT options [optional]... - TYPE SOURCE SUPER_OPTIONS" */
static bool take_mount_line(void *argument, const char *line)
{
    struct hierarchy *h = argument;
    const char *separator = strstr(line, " - ");
    if (separator == NULL)
        return true;
    size_t type_length = 0, options_length = 0, mounted_length = 0, at_length = 0;
    const char *type = word_at(separator + 3, 0, &type_length);
    const char *options = word_at(separator + 3, 2, &options_length);
    bool mine;
    if (h->controller[0] == '\0')
        mine = type_length == 7 && memcmp(type, "cgroup2", 7) == 0;
    else
        mine = type_length == 6 && memcmp(type, "cgroup", 6) == 0 && options != NULL &&
               list_has(options, options_length, h->controller);
    const char *mounted = word_at(line, 3, &mounted_length);
    const char *at = word_at(line, 4, &at_length);
    if (!mine || mounted == NULL || at == NULL)
        return true;
    if (!copy_text(h->mounted, sizeof h->mounted, mounted, mounted_length) ||
        !copy_text(h->mount_at, sizeof h->mount_at, at, at_length))
        return true;
    unescape_octal(h->mounted);
    unescape_octal(h->mount_at);
    h->found_mount = true;
    return false; /* the first mount is as good as any other of the same hierarchy */
}

/* The part of the process's path below the mounted part; "" when the process is at the top of what
 * it can see. A path that is not below it ("/../x" in a cgroup namespace) is outside of what is
 * mounted: then the mount point is the closest ancestor that can be read. */
static const char *path_below_mount(const struct hierarchy *h)
{
    const char *mounted = strcmp(h->mounted, "/") == 0 ? "" : h->mounted;
    size_t length = strlen(mounted);
    if (strncmp(h->path, mounted, length) != 0)
        return "";
    const char *below = h->path + length;
    if (*below != '/' || strncmp(below, "/..", 3) == 0 || strcmp(below, "/") == 0)
        return "";
    return below;
}

typedef void (*directory_fn)(const char *root, const char *directory,
                             struct cn_cgroup_limits *limits);

/* Calls @p fn for the process's directory and every ancestor up to the mount point. */
static void walk_ancestors(const char *root, const char *controller, directory_fn fn,
                           struct cn_cgroup_limits *limits)
{
    struct hierarchy *h = calloc(1, sizeof *h); /* three paths: too much for a small stack */
    if (h == NULL)
        return;
    h->controller = controller;
    (void)cn_text_file_lines(root, "/proc/self/cgroup", take_cgroup_line, h);
    (void)cn_text_file_lines(root, "/proc/self/mountinfo", take_mount_line, h);
    char directory[PATH_MAX];
    int length = -1;
    if (h->found_path && h->found_mount)
        length = snprintf(directory, sizeof directory, "%s%s", h->mount_at, path_below_mount(h));
    size_t top_length = strlen(h->mount_at);
    free(h);
    if (length < 0 || (size_t)length >= sizeof directory)
        return;
    for (;;) {
        fn(root, directory, limits);
        char *slash = strrchr(directory, '/');
        if (slash == NULL || (size_t)(slash - directory) < top_length)
            break;
        *slash = '\0';
    }
}

/* A number in a file of a cgroup directory; CN_UNLIMITED for "max", nonsense and no file. */
static uint64_t limit_in(const char *root, const char *directory, const char *name)
{
    char path[PATH_MAX];
    uint64_t value;
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof path || !cn_text_file_number(root, path, &value))
        return CN_UNLIMITED;
    return value >= UNLIMITED_FROM_BYTES ? CN_UNLIMITED : value;
}

/* File pages of a cgroup and its children. v1 has the sum with children as total_*. */
static uint64_t file_cache_bytes(const char *root, const char *directory)
{
    struct cn_text_field fields[] = {
        {"inactive_file", 0, false},
        {"active_file", 0, false},
        {"total_inactive_file", 0, false},
        {"total_active_file", 0, false},
    };
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/memory.stat", directory);
    if (length < 0 || (size_t)length >= sizeof path)
        return 0;
    (void)cn_text_file_fields(root, path, fields, 4);
    const struct cn_text_field *pair = fields[2].found ? &fields[2] : &fields[0];
    uint64_t sum;
    return cn_checked_add(pair[0].value, pair[1].value, &sum) ? sum : 0;
}

static void take_memory(const char *root, const char *directory, uint64_t limit,
                        const char *use_name, struct cn_cgroup_limits *limits)
{
    if (limit == CN_UNLIMITED)
        return;
    limits->memory_limit_bytes = min_u64(limits->memory_limit_bytes, limit);
    uint64_t use = limit_in(root, directory, use_name);
    if (use == CN_UNLIMITED)
        use = 0;
    uint64_t cache = file_cache_bytes(root, directory);
    use = use > cache ? use - cache : 0;
    uint64_t headroom = limit > use ? limit - use : 0;
    limits->memory_headroom_bytes = min_u64(limits->memory_headroom_bytes, headroom);
}

static void take_memory_v1(const char *root, const char *directory, struct cn_cgroup_limits *limits)
{
    take_memory(root, directory, limit_in(root, directory, "memory.limit_in_bytes"),
                "memory.usage_in_bytes", limits);
}

static void take_cpu(uint64_t quota_us, uint64_t period_us, struct cn_cgroup_limits *limits)
{
    if (quota_us == CN_UNLIMITED || period_us == CN_UNLIMITED || period_us == 0)
        return;
    uint64_t cpus = quota_us / period_us + (quota_us % period_us != 0);
    limits->cpus = min_u64(limits->cpus, cpus > 0 ? cpus : 1);
}

static void take_cpu_v1(const char *root, const char *directory, struct cn_cgroup_limits *limits)
{
    /* No quota is written as -1, which is no number here and so no limit. */
    take_cpu(limit_in(root, directory, "cpu.cfs_quota_us"),
             limit_in(root, directory, "cpu.cfs_period_us"), limits);
}

struct cpu_max {
    uint64_t quota_us, period_us;
};

/* "max 100000" or "150000 100000" */
static bool take_cpu_max(void *argument, const char *line)
{
    struct cpu_max *max = argument;
    if (sscanf(line, "%" SCNu64 " %" SCNu64, &max->quota_us, &max->period_us) != 2)
        max->quota_us = CN_UNLIMITED;
    return false;
}

static void take_v2(const char *root, const char *directory, struct cn_cgroup_limits *limits)
{
    /* Above memory.high the kernel throttles a process to a crawl: it binds like memory.max. */
    uint64_t limit =
        min_u64(limit_in(root, directory, "memory.max"), limit_in(root, directory, "memory.high"));
    take_memory(root, directory, limit, "memory.current", limits);

    struct cpu_max max = {CN_UNLIMITED, CN_UNLIMITED};
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/cpu.max", directory);
    if (length < 0 || (size_t)length >= sizeof path)
        return;
    (void)cn_text_file_lines(root, path, take_cpu_max, &max);
    take_cpu(max.quota_us, max.period_us, limits);
}

void cn_cgroup_limits_read(const char *root, struct cn_cgroup_limits *out_limits)
{
    struct cn_cgroup_limits limits = {CN_UNLIMITED, CN_UNLIMITED, CN_UNLIMITED};
    walk_ancestors(root, "", take_v2, &limits);
    walk_ancestors(root, "memory", take_memory_v1, &limits);
    walk_ancestors(root, "cpu", take_cpu_v1, &limits);
    *out_limits = limits;
}
