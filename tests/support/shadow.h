/* SPDX-License-Identifier: Apache-2.0 */
/* Is this build under a sanitizer with shadow memory? Then what the kernel says of the process's
 * memory, stacks and address space is not what the code under test did. */
#ifndef TEST_SUPPORT_SHADOW_H
#define TEST_SUPPORT_SHADOW_H

#include <stdbool.h>

#include "base/poison.h"

#if defined(CN_ASAN) || defined(__SANITIZE_THREAD__)
#define SHADOW_MEMORY true
#else
#define SHADOW_MEMORY false
#endif

#endif
