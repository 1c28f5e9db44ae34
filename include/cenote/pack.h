/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  A packed copy of a checkpoint's matrices: their panels in 12 bits an element (cenote/bf12.h), to
 * be read instead of the original ones with a quarter fewer bytes.
 *
 *  A copy is one file and a pure cache. It belongs to the checkpoint that it was made of, by size,
 *  modification time and header of every file; when one of them differs it is *stale*, which is
 *  not an error but a reason to make it anew. It is written under another name, synced and renamed:
 *  there is a whole copy or none. Every panel has a checksum of its own; a panel that fails it is
 * read from the original.
 *
 *  Only bf16 matrices are in it, and of them only panels that 12 bits can hold: the rest stays
 * where it is.
 *
 *      byte 0    header, 64 bytes; all numbers little-endian
 *                   0  8 bytes  "CENOTEPK"
 *                   8  u32      version, 1
 *                  12  u32      source files
 *                  16  u64      panels
 *                  24  u64      bytes of header, sources and table
 *                  32  u64      bytes of the file
 *                  40  16 bytes 0
 *                  56  u64      XXH3-64 of header, sources and table, this field taken as 0
 *      then      sources, 32 bytes each: u64 size, i64 modification time in ns, u64 XXH3-64 of the
 *                safetensors header (its length included), u64 0
 *      then      table, 48 bytes a panel: u32 tensor (by the order of names), u32 cenote_encoding,
 * u64 first row, u64 rows, u64 offset, u64 bytes, u64 XXH3-64 of them. PLAIN: not here, and the
 *                last three are 0
 *      then      panels in the order of the table, each at a multiple of 4096
 *
 *  Threads: a cenote_pack may be used from any thread; each other call belongs to its caller. */
#ifndef CENOTE_PACK_H
#define CENOTE_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cenote/weights.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CENOTE_PACK_ALIGN_BYTES 4096u

/** Where the packed copy of @p weights lies in @p directory: a name that depends on where the
 *  checkpoint lies, so that copies of several can share a directory and a stale one is replaced.
 *  Errors: CENOTE_E_IO, CENOTE_E_INVAL (longer than @p path_bytes). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_pack_path(const cenote_weights *weights,
                                                            const char *directory, char *path,
                                                            size_t path_bytes, cenote_error *err);

/* ---- making one ---- */

typedef struct cenote_pack_options {
    uint32_t version; /**< CENOTE_PACK_OPTIONS_VERSION */
    /** After every panel, and once before the first: weight bytes of all that are done. False
     *  ends the work with CENOTE_E_CANCELLED. May be NULL. */
    bool (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes);
    void *context;
} cenote_pack_options;
#define CENOTE_PACK_OPTIONS_VERSION 1u
#define CENOTE_PACK_OPTIONS_INIT                                                                   \
    {                                                                                              \
        CENOTE_PACK_OPTIONS_VERSION, NULL, NULL                                                    \
    }

typedef struct cenote_pack_info {
    uint64_t file_bytes;
    uint64_t packed_panels;
    uint64_t plain_panels;        /**< of the matrices asked for, those that are not in it */
    uint64_t packed_bytes;        /**< of the panels in it */
    uint64_t packed_weight_bytes; /**< the same as they are in the checkpoint */
    uint64_t plain_weight_bytes;
} cenote_pack_info;

/** Writes the packed copy of the matrices of @p items (each named once), cut into panels as there
 * and in their order, to @p path, replacing what is there. Whatever happens, nothing half-made is
 * left at
 *  @p path; nothing is left beside it but by a death of the process, and that goes with the next
 * write. Memory: a panel of each form and the table, charged to @p budget. Errors: CENOTE_E_IO (a
 * disk with too little room is refused first, with both numbers), CENOTE_E_CANCELLED,
 * CENOTE_E_UNSUPPORTED (no panel that 12 bits could hold), CENOTE_E_CHANGED (the checkpoint,
 * meanwhile), CENOTE_E_INVAL, CENOTE_E_CORRUPT, CENOTE_E_BUDGET. */
CENOTE_MUST_CHECK CENOTE_API cenote_status
cenote_pack_write(cenote_weights *weights, cenote_budget *budget, const cenote_stream_item *items,
                  uint32_t item_count, const char *path, const cenote_pack_options *options,
                  cenote_pack_info *out_info, cenote_error *err);

/* ---- reading one ---- */

typedef struct cenote_pack cenote_pack;

/** Opens the packed copy at @p path. Its table's memory is charged to @p budget; @p weights must
 *  outlive it. Reads no panel.
 *  Errors: CENOTE_E_NOTFOUND (there is none), CENOTE_E_CHANGED (stale: made of other files),
 *  CENOTE_E_CORRUPT, CENOTE_E_IO, CENOTE_E_BUDGET. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_pack_open(cenote_weights *weights,
                                                            cenote_budget *budget, const char *path,
                                                            cenote_io_mode io_mode,
                                                            cenote_pack **out_pack,
                                                            cenote_error *err);
/** NULL is fine. */
CENOTE_API void cenote_pack_close(cenote_pack *pack);

CENOTE_API void cenote_pack_info_get(const cenote_pack *pack, cenote_pack_info *out_info);

/** What @p pack is charged for: its table. */
CENOTE_API uint64_t cenote_pack_memory_bytes(const cenote_pack *pack);

/** Bytes of the largest panel in it. */
CENOTE_API uint64_t cenote_pack_panel_bytes_max(const cenote_pack *pack);

typedef struct cenote_pack_panel {
    uint32_t tensor_index;
    cenote_encoding encoding;
    uint64_t row_first;
    uint64_t row_count;
    uint64_t offset_bytes; /**< in the packed copy, a multiple of CENOTE_PACK_ALIGN_BYTES */
    uint64_t size_bytes;
    uint64_t checksum;
} cenote_pack_panel;

/** Where rows [row_first, row_first + row_count) of a tensor lie; false when the copy has no panel
 * of just these rows. Cost: O(1). */
CENOTE_API bool cenote_pack_find(const cenote_pack *pack, uint32_t tensor_index, uint64_t row_first,
                                 uint64_t row_count, cenote_pack_panel *out_panel);

/** Whether @p data, panel->size_bytes long, is what was written and safe to decode.
 *  Errors: CENOTE_E_CORRUPT, naming file, tensor, rows and offset. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_pack_check(const cenote_pack *pack,
                                                             const cenote_pack_panel *panel,
                                                             const void *data, cenote_error *err);

/** Reads the panel into @p data (size_bytes, any alignment) and checks it.
 *  Errors: CENOTE_E_IO, CENOTE_E_CORRUPT, CENOTE_E_CHANGED (the copy's file, while open). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_pack_read(cenote_pack *pack,
                                                            const cenote_pack_panel *panel,
                                                            void *data, cenote_error *err);

/** Reads and checks every panel; @p options as for writing. One panel of memory is charged to @p
 * budget. Errors: as cenote_pack_read() for the first bad panel; CENOTE_E_CANCELLED,
 * CENOTE_E_BUDGET. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_pack_verify(cenote_pack *pack,
                                                              cenote_budget *budget,
                                                              const cenote_pack_options *options,
                                                              cenote_error *err);

#ifdef __cplusplus
}
#endif
#endif
