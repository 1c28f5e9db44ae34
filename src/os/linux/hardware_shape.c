/* SPDX-License-Identifier: Apache-2.0 */
/* Caches, cores and pages of the machine, as <cenote/hardware.h> tells them.
 *
 *   /sys/devices/system/cpu/cpu0/cache/index0/   level             1
 *                                                type              Data
 *                                                size              32K
 *                                                coherency_line_size, ways_of_associativity
 *                                                shared_cpu_list   0-1,8
 *   /sys/devices/system/cpu/cpu7/topology/thread_siblings_list     3,7
 *   /sys/kernel/mm/transparent_hugepage/{enabled, hpage_pmd_size}
 *
 * Containers hide parts of that, virtual machines invent some: each value is checked by itself and
 * is zero when it is missing or absurd. */
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "os/hardware_limits.h"
#include "os/linux/hardware_shape.h"
#include "os/linux/text_file.h"

#define CPU_DIRECTORY "/sys/devices/system/cpu/cpu"
#define THP_DIRECTORY "/sys/kernel/mm/transparent_hugepage/"
/* Caches of one core in /sys: data, instructions, L2, L3, perhaps L4 and one more. */
#define CACHES_MAX 8u

struct text_line {
    char text[256];
    bool found;
};

static bool take_line(void *argument, const char *line)
{
    struct text_line *first = argument;
    size_t length = strlen(line);
    first->found = length < sizeof first->text;
    if (first->found)
        memcpy(first->text, line, length + 1);
    return false;
}

/* The first line of a file; "" where there is none that could be meant. */
static struct text_line read_line(const char *root, const char *directory, const char *name)
{
    char path[128];
    struct text_line line = {.found = false};
    int length = snprintf(path, sizeof path, "%s%s", directory, name);
    if (length > 0 && (size_t)length < sizeof path)
        (void)cn_text_file_lines(root, path, take_line, &line);
    if (!line.found)
        line.text[0] = '\0';
    return line;
}

/* A number of the kernel's, with K or M behind it or not, up to @p max; else 0. */
static uint64_t number_of(const struct text_line *line, uint64_t max)
{
    char digits[32];
    size_t length = strcspn(line->text, "KM");
    if (length >= sizeof digits || (line->text[length] != '\0' && line->text[length + 1] != '\0'))
        return 0;
    memcpy(digits, line->text, length);
    digits[length] = '\0';
    uint64_t number;
    if (!cn_text_number(digits, &number) || number > UINT64_MAX >> 20)
        return 0;
    if (line->text[length] == 'K')
        number <<= 10;
    else if (line->text[length] == 'M')
        number <<= 20;
    return number <= max ? number : 0;
}

static uint64_t read_number(const char *root, const char *directory, const char *name, uint64_t max)
{
    struct text_line line = read_line(root, directory, name);
    return number_of(&line, max);
}

/* Of a list such as "0-3,8": how many are in @p cpus, and the lowest of these. A list that is cut
 * short or garbled ends where it stops making sense. */
static uint32_t list_count(const char *list, const struct cn_cpus *cpus, uint64_t *out_lowest)
{
    uint32_t count = 0;
    uint64_t first, last;
    int used;
    for (; sscanf(list, "%7" SCNu64 "%n", &first, &used) == 1; list += *list == ',') {
        list += used;
        last = first;
        if (*list == '-') {
            if (sscanf(list, "-%7" SCNu64 "%n", &last, &used) != 1)
                break;
            list += used;
        }
        for (uint64_t cpu = first; cpu <= last && cpu < CN_CPUS_MAX; cpu++)
            if (cn_cpus_has(cpus, cpu) && count++ == 0)
                *out_lowest = cpu;
        if (*list != ',')
            break;
    }
    return count;
}

static cenote_cache read_cache(const char *root, const char *directory, const struct cn_cpus *cpus)
{
    cenote_cache cache = {
        .size_bytes = read_number(root, directory, "size", CN_CACHE_BYTES_MAX),
        .line_bytes =
            (uint32_t)read_number(root, directory, "coherency_line_size", CN_LINE_BYTES_MAX),
        .ways = (uint32_t)read_number(root, directory, "ways_of_associativity", CN_WAYS_MAX),
    };
    if (!cn_line_bytes_valid(cache.line_bytes))
        cache.line_bytes = 0;
    uint64_t lowest;
    struct text_line list = read_line(root, directory, "shared_cpu_list");
    cache.cpus = list_count(list.text, cpus, &lowest);
    if (cache.cpus == 0)
        cache.cpus = 1;
    return cache.size_bytes > 0 ? cache : (cenote_cache){0};
}

static void read_caches(const char *root, unsigned cpu, const struct cn_cpus *cpus,
                        cenote_hardware *hardware)
{
    for (unsigned index = 0; index < CACHES_MAX; index++) {
        char directory[96];
        snprintf(directory, sizeof directory, CPU_DIRECTORY "%u/cache/index%u/", cpu, index);
        struct text_line type = read_line(root, directory, "type");
        if (strcmp(type.text, "Data") != 0 && strcmp(type.text, "Unified") != 0)
            continue;
        cenote_cache *const levels[] = {&hardware->l1d, &hardware->l2, &hardware->l3};
        uint64_t level = read_number(root, directory, "level", 3);
        if (level > 0)
            *levels[level - 1] = read_cache(root, directory, cpus);
    }
}

/* A core is counted at the lowest of its CPUs that the process may use. */
static void count_cores(const char *root, const struct cn_cpus *cpus, cenote_hardware *hardware)
{
    for (unsigned cpu = 0; cpu < CN_CPUS_MAX; cpu++) {
        if (!cn_cpus_has(cpus, cpu))
            continue;
        hardware->cpus++;
        char directory[96];
        snprintf(directory, sizeof directory, CPU_DIRECTORY "%u/topology/", cpu);
        struct text_line list = read_line(root, directory, "thread_siblings_list");
        uint64_t lowest = cpu;
        (void)list_count(list.text, cpus, &lowest);
        hardware->cores += lowest >= cpu;
    }
}

static uint64_t read_huge_page_bytes(const char *root)
{
    struct text_line enabled = read_line(root, THP_DIRECTORY, "enabled");
    if (!enabled.found || strstr(enabled.text, "[never]") != NULL)
        return 0;
    uint64_t size_bytes = read_number(root, THP_DIRECTORY, "hpage_pmd_size", CN_PAGE_BYTES_MAX);
    return (size_bytes & (size_bytes - 1)) == 0 ? size_bytes : 0;
}

void cn_hardware_shape_read(const char *root, const struct cn_cpus *cpus,
                            cenote_hardware *out_hardware)
{
    cenote_hardware hardware = {.huge_page_bytes = read_huge_page_bytes(root)};
    unsigned first = 0;
    while (first + 1 < CN_CPUS_MAX && !cn_cpus_has(cpus, first))
        first++;
    read_caches(root, first, cpus, &hardware);
    count_cores(root, cpus, &hardware);
    *out_hardware = hardware;
}

/* ---- this machine ---- */

static void read_affinity(struct cn_cpus *out_cpus)
{
    *out_cpus = (struct cn_cpus){{0}};
    if (sched_getaffinity(0, sizeof out_cpus->bits, (cpu_set_t *)(void *)out_cpus->bits) == 0)
        return;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    for (unsigned cpu = 0; cpu == 0 || (cpu < CN_CPUS_MAX && cpu < online); cpu++)
        cn_cpus_add(out_cpus, cpu);
}

/* The C library asks the processor, where /sys says nothing. */
static void ask_library(cenote_cache *cache, int size_name, int line_name, int ways_name)
{
    long size_bytes = sysconf(size_name), line_bytes = sysconf(line_name),
         ways = sysconf(ways_name);
    if (cache->size_bytes != 0 || size_bytes <= 0 || (uint64_t)size_bytes > CN_CACHE_BYTES_MAX)
        return;
    cache->size_bytes = (uint64_t)size_bytes;
    cache->line_bytes =
        line_bytes > 0 && cn_line_bytes_valid((uint64_t)line_bytes) ? (uint32_t)line_bytes : 0;
    cache->ways = ways > 0 && ways <= (long)CN_WAYS_MAX ? (uint32_t)ways : 0;
    cache->cpus = 1;
}

static uint32_t vector_bytes(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
    if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 16;
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 ? 64 : 32;
#else
    return 16;
#endif
}

void cn_hardware_machine(cenote_hardware *out_hardware)
{
    struct cn_cpus cpus;
    read_affinity(&cpus);
    cn_hardware_shape_read("", &cpus, out_hardware);
    ask_library(&out_hardware->l1d, _SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL1_DCACHE_LINESIZE,
                _SC_LEVEL1_DCACHE_ASSOC);
    ask_library(&out_hardware->l2, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL2_CACHE_LINESIZE,
                _SC_LEVEL2_CACHE_ASSOC);
    ask_library(&out_hardware->l3, _SC_LEVEL3_CACHE_SIZE, _SC_LEVEL3_CACHE_LINESIZE,
                _SC_LEVEL3_CACHE_ASSOC);
    out_hardware->vector_bytes = vector_bytes();
    out_hardware->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
}
