/* SPDX-License-Identifier: Apache-2.0 */
/* The text of a hardware profile, apart from the file that it lies in. */
#ifndef CN_OS_HARDWARE_PROFILE_H
#define CN_OS_HARDWARE_PROFILE_H

#include <cenote/hardware.h>

/* As cenote_hardware_load(); @p path is for messages. */
cenote_status cn_hardware_profile_parse(const char *path, const char *text, size_t size_bytes,
                                        cenote_hardware *hardware, cenote_error *err);

#endif
