/* SPDX-License-Identifier: Apache-2.0 */
/* What binds this process, read below a root directory ("" is the machine; tests give a tree). */
#ifndef CN_OS_LINUX_LIMITS_H
#define CN_OS_LINUX_LIMITS_H

#include <cenote/hardware.h>

#define CN_UNLIMITED UINT64_MAX

/* The tightest of every cgroup ancestor in every hierarchy; CN_UNLIMITED where nothing binds. */
struct cn_cgroup_limits {
    uint64_t memory_limit_bytes;
    uint64_t memory_headroom_bytes;
    uint64_t cpus; /* whole CPUs of CPU quota, rounded up */
};
void cn_cgroup_limits_read(const char *root, struct cn_cgroup_limits *out_limits);

cenote_status cn_machine_memory_read(const char *root, cenote_machine_memory *out_memory,
                                     cenote_error *err);
cenote_status cn_process_memory_read(const char *root, cenote_process_memory *out_memory,
                                     cenote_error *err);

#endif
