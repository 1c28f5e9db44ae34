/* SPDX-License-Identifier: Apache-2.0 */
/* The shape of the machine below a root directory ("" is the machine; tests give a tree). */
#ifndef CN_OS_LINUX_HARDWARE_SHAPE_H
#define CN_OS_LINUX_HARDWARE_SHAPE_H

#include <stdbool.h>

#include <cenote/hardware.h>

/* Linux has no more. */
#define CN_CPUS_MAX 8192u

struct cn_cpus {
    unsigned char bits[CN_CPUS_MAX / 8];
};

static inline bool cn_cpus_has(const struct cn_cpus *cpus, uint64_t cpu)
{
    return cpu < CN_CPUS_MAX && (cpus->bits[cpu / 8] >> cpu % 8 & 1) != 0;
}

static inline void cn_cpus_add(struct cn_cpus *cpus, unsigned cpu)
{
    cpus->bits[cpu / 8] |= (unsigned char)(1u << cpu % 8);
}

/* The caches, cores and huge pages for a process that may run on @p cpus (one at least). What
 * the tree does not say, or says like no machine, is zero; a core for each CPU. */
void cn_hardware_shape_read(const char *root, const struct cn_cpus *cpus,
                            cenote_hardware *out_hardware);

#endif
