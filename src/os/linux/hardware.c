/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's memory and this process's share of it, as <cenote/hardware.h> tells it. */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include <cenote/hardware.h>

#include "os/linux/limits.h"
#include "os/linux/text_file.h"

#define RESERVE_BYTES_MIN (UINT64_C(1) << 30)

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* A file whose every field must be there. */
static cenote_status read_fields(const char *root, const char *path, struct cn_text_field *fields,
                                 unsigned count, cenote_error *err)
{
    int error = cn_text_file_fields(root, path, fields, count);
    if (error != 0)
        return cenote_error_set(err, CENOTE_E_IO, "%s%s: %s", root, path, strerror(-error));
    for (unsigned i = 0; i < count; i++)
        if (!fields[i].found)
            return cenote_error_set(err, CENOTE_E_IO, "%s%s: no %s in it", root, path,
                                    fields[i].key);
    return CENOTE_OK;
}

cenote_status cn_process_memory_read(const char *root, cenote_process_memory *out_memory,
                                     cenote_error *err)
{
    struct cn_text_field status_fields[] = {
        {"VmRSS", 0, false}, {"VmHWM", 0, false}, {"VmPTE", 0, false}};
    cenote_status status = read_fields(root, "/proc/self/status", status_fields, 3, err);
    if (status != CENOTE_OK)
        return status;
    /* Hidden from some containers; then the figure is missing, not the call. */
    struct cn_text_field io_field = {"read_bytes", 0, false};
    (void)cn_text_file_fields(root, "/proc/self/io", &io_field, 1);
    *out_memory = (cenote_process_memory){
        .resident_bytes = status_fields[0].value,
        .resident_peak_bytes = status_fields[1].value,
        .page_table_bytes = status_fields[2].value,
        .disk_read_bytes = io_field.value,
    };
    return CENOTE_OK;
}

cenote_status cn_machine_memory_read(const char *root, cenote_machine_memory *out_memory,
                                     cenote_error *err)
{
    struct cn_text_field fields[] = {{"MemTotal", 0, false}, {"MemAvailable", 0, false}};
    cenote_status status = read_fields(root, "/proc/meminfo", fields, 2, err);
    if (status != CENOTE_OK)
        return status;
    cenote_process_memory process;
    status = cn_process_memory_read(root, &process, err);
    if (status != CENOTE_OK)
        return status;
    struct cn_cgroup_limits limits;
    cn_cgroup_limits_read(root, &limits);

    cenote_machine_memory memory = {
        .total_bytes = fields[0].value,
        .available_bytes = fields[1].value,
        .cgroup_limit_bytes = limits.memory_limit_bytes,
        .cgroup_headroom_bytes = limits.memory_headroom_bytes,
    };
    uint64_t reserve = memory.total_bytes / 10;
    if (reserve < RESERVE_BYTES_MIN)
        reserve = RESERVE_BYTES_MIN;
    memory.reserve_bytes = min_u64(reserve, memory.available_bytes / 2);
    uint64_t free_bytes =
        min_u64(memory.cgroup_headroom_bytes, memory.available_bytes - memory.reserve_bytes);
    uint64_t held_bytes = process.resident_bytes + process.page_table_bytes;
    /* Pages of libraries that others had read first are held but not charged to the cgroup. */
    memory.spare_bytes = min_u64(free_bytes + held_bytes, memory.cgroup_limit_bytes);
    *out_memory = memory;
    return CENOTE_OK;
}

cenote_status cenote_machine_memory_get(cenote_machine_memory *out_memory, cenote_error *err)
{
    return cn_machine_memory_read("", out_memory, err);
}

cenote_status cenote_process_memory_get(cenote_process_memory *out_memory, cenote_error *err)
{
    return cn_process_memory_read("", out_memory, err);
}

/* CPUs of the affinity mask. The kernel refuses a mask that is too short for its CPU count, so the
 * mask grows until it fits. */
static unsigned affinity_cpu_count(void)
{
    for (int cpu_max = 1024; cpu_max <= 1 << 20; cpu_max *= 2) {
        cpu_set_t *set = CPU_ALLOC(cpu_max);
        if (set == NULL)
            break;
        size_t set_bytes = CPU_ALLOC_SIZE(cpu_max);
        int result = sched_getaffinity(0, set_bytes, set);
        int error = errno;
        int count = result == 0 ? CPU_COUNT_S(set_bytes, set) : 0;
        CPU_FREE(set);
        if (result == 0)
            return count > 0 ? (unsigned)count : 1;
        if (error != EINVAL)
            break;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}

unsigned cenote_cpu_count(void)
{
    struct cn_cgroup_limits limits;
    cn_cgroup_limits_read("", &limits);
    return (unsigned)min_u64(limits.cpus, affinity_cpu_count());
}
