/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  What the machine has and what this process holds, read where it binds.
 *  Threads: any. Cost: each call reads some files under /proc and /sys. */
#ifndef CENOTE_HARDWARE_H
#define CENOTE_HARDWARE_H

#include <stdint.h>

#include <cenote/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cenote_machine_memory {
    uint64_t total_bytes;           /**< MemTotal */
    uint64_t available_bytes;       /**< MemAvailable */
    uint64_t cgroup_limit_bytes;    /**< the lowest limit of all cgroup ancestors, v1 and v2;
                                         UINT64_MAX without one */
    uint64_t cgroup_headroom_bytes; /**< the least (limit - use without file cache) of all
                                         ancestors; UINT64_MAX without one */
    uint64_t reserve_bytes; /**< left to the rest of the system: max(1 GiB, 10 % of total), but at
                                 most half of what is available */
    uint64_t spare_bytes;   /**< what a process may use here without a word from the user:
                                 min(headroom, available - reserve) plus what it holds already,
                                 at most the cgroup's limit */
} cenote_machine_memory;

/** Errors: CENOTE_E_IO when /proc cannot be read. */
CENOTE_MUST_CHECK CENOTE_API cenote_status
cenote_machine_memory_get(cenote_machine_memory *out_memory, cenote_error *err);

typedef struct cenote_process_memory {
    uint64_t resident_bytes;      /**< VmRSS */
    uint64_t resident_peak_bytes; /**< VmHWM */
    uint64_t page_table_bytes;    /**< VmPTE */
    uint64_t disk_read_bytes;     /**< read_bytes of /proc/self/io, 0 where it is hidden */
} cenote_process_memory;

CENOTE_MUST_CHECK CENOTE_API cenote_status
cenote_process_memory_get(cenote_process_memory *out_memory, cenote_error *err);

/** CPUs that this process may run on (affinity mask and cgroup CPU quota, rounded up); >= 1. */
CENOTE_API unsigned cenote_cpu_count(void);

#ifdef __cplusplus
}
#endif
#endif
