/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  All of libcenote. */
#ifndef CENOTE_CENOTE_H
#define CENOTE_CENOTE_H

#include <cenote/bf12.h>
#include <cenote/buddy.h>
#include <cenote/debug.h>
#include <cenote/dtype.h>
#include <cenote/hardware.h>
#include <cenote/kv.h>
#include <cenote/layout.h>
#include <cenote/pack.h>
#include <cenote/pool.h>
#include <cenote/status.h>
#include <cenote/team.h>
#include <cenote/tensor.h>
#include <cenote/tensor_cache.h>
#include <cenote/trace.h>
#include <cenote/weights.h>

#define CENOTE_VERSION_MAJOR 0
#define CENOTE_VERSION_MINOR 1
#define CENOTE_VERSION_PATCH 0
#define CENOTE_VERSION_TEXT  "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/** The version of the library that is loaded, as CENOTE_VERSION_TEXT. */
CENOTE_API const char *cenote_version(void);

#ifdef __cplusplus
}
#endif
#endif
