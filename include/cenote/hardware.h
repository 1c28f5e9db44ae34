/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  What the machine has and what this process holds, read where it binds; and what follows from the
 *  sizes of its caches: blocks of a product, strides of rows, ways to copy.
 *  Threads: any. Cost: the calls named _get read some files under /proc and /sys. */
#ifndef CENOTE_HARDWARE_H
#define CENOTE_HARDWARE_H

#include <stddef.h>
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

/** Errors: CENOTE_E_IO when /proc cannot be read. */
CENOTE_MUST_CHECK CENOTE_API cenote_status
cenote_process_memory_get(cenote_process_memory *out_memory, cenote_error *err);

/** CPUs that this process may run on (affinity mask and cgroup CPU quota, rounded up); >= 1. */
CENOTE_API unsigned cenote_cpu_count(void);

/* ---- the shape of the machine ---- */

/** One level of cache, as a core sees it. All zero: there is none, or nobody says. */
typedef struct cenote_cache {
    uint64_t size_bytes;
    uint32_t line_bytes;
    uint32_t ways; /**< lines that one set holds; 0: unknown */
    uint32_t cpus; /**< of this process' CPUs, how many share one */
    uint32_t reserved;
} cenote_cache;

/** A GPU as a kernel sees it. All zero: none. */
typedef struct cenote_device_shape {
    uint32_t compute_capability; /**< major * 10 + minor */
    uint32_t warp_threads;
    uint32_t block_threads_max;
    uint32_t block_shared_bytes; /**< shared memory of one block */
} cenote_device_shape;

#define CENOTE_HARDWARE_NAME_BYTES 64

typedef struct cenote_hardware {
    char name[CENOTE_HARDWARE_NAME_BYTES]; /**< of the profile; empty: this machine */
    cenote_cache l1d, l2, l3;
    uint32_t cores; /**< physical ones that have a CPU in the affinity mask; >= 1 */
    uint32_t cpus;  /**< logical ones in the mask, >= cores */
    /** The widest vectors that every kernel here has a use for: 64 (AVX-512 F, BW, DQ, VL),
     *  32 (AVX2, FMA, F16C) or 16. */
    uint32_t vector_bytes;
    uint32_t reserved;
    uint64_t page_bytes;
    uint64_t huge_page_bytes; /**< that madvise() can ask for; 0: none */
    cenote_device_shape device;
} cenote_hardware;

/** This machine, or what the profile says that the environment's CENOTE_HARDWARE names (see
 *  cenote_hardware_load()); vector_bytes is then still at most what the machine can do. No result
 *  of this library depends on it, only its speed.
 *
 *  Where /sys is hidden the C library is asked (cpuid); what nobody says is zero. On a machine
 *  with cores of several kinds the caches are those of the lowest CPU in the mask.
 *  Errors: of cenote_hardware_load(); none without CENOTE_HARDWARE. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_hardware_get(cenote_hardware *out_hardware,
                                                               cenote_error *err);

/** Lays the profile at @p path over @p hardware: members that it does not name stay.
 *
 *  A profile is a text of lines `member = value`, with `#` before remarks: `name = ...`, or one of
 *  the members above and a decimal number, such as `l1d.size_bytes = 32768`. Two come with Cenote,
 *  in share/cenote/hardware: i5-10210u.conf and sm61.conf.
 *  Errors: CENOTE_E_IO, CENOTE_E_CORRUPT naming file, line, value and limit (an unknown member, one
 *  given twice, a number that no machine has, more than 16 KiB of text); hardware is untouched. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_hardware_load(const char *path,
                                                                cenote_hardware *hardware,
                                                                cenote_error *err);

/* ---- what follows from it ---- */

/** A product C[m][n] += A[m][k] * B[k][n] by a kernel whose registers hold tile_rows x tile_columns
 *  of C, all >= 1. */
typedef struct cenote_gemm_shape {
    uint64_t m, n, k;
    uint32_t tile_rows, tile_columns;
    uint32_t element_bytes;
    uint32_t threads; /**< that multiply at the same time; 0: one */
} cenote_gemm_shape;

/** Loops in the order of BLIS: for columns by nc, for k by kc (pack kc x nc of B, for L3), for rows
 *  by mc (pack mc x kc of A, for L2), for tile_columns (kc of them stay in L1), for tile_rows.
 *  mc is a multiple of tile_rows, nc of tile_columns, kc of 16, each but for rounding up at most
 *  the whole of its dimension. */
typedef struct cenote_gemm_blocks {
    uint64_t mc, nc, kc;
} cenote_gemm_blocks;

/** Block sizes from the caches alone, by the model of Low, Igual, Smith and Quintana-Orti
 *  ("Analytical modeling is enough for high-performance BLIS", ACM TOMS 43, 2016). An unknown cache
 *  is taken for that of an i5-10210U, without L3 for none. Threads share L1 and L2 where there are
 * more of them than cores, and L3 always. Cost: some divisions. */
CENOTE_API cenote_gemm_blocks cenote_gemm_blocks_get(const cenote_hardware *hardware,
                                                     const cenote_gemm_shape *shape);

/** The least distance of rows of @p row_bytes that is an odd number of cache lines: rows that lie
 *  one below another then begin in different sets of every cache, and a store to one row is not
 *  taken for one to another whose address is equal modulo 4 KiB.
 *  @param line_bytes  a power of two; 0 means 64
 *  @return at least row_bytes and less than 2 lines more; 0 when that does not fit 64 bits */
CENOTE_API uint64_t cenote_row_stride_bytes(uint64_t row_bytes, uint32_t line_bytes);

/** Rows of the square-ish tiles of an attention kernel on a GPU: the largest power of two, 8 to 64,
 *  for which fp32 tiles of queries, keys and values fill the shared memory of a block. With 48 KiB:
 *  64 up to a head dimension of 64, 32 up to 128, 16 up to 256, then 8 (of more than 512 elements a
 *  head must be cut). */
CENOTE_API uint32_t cenote_attention_tile_rows(const cenote_device_shape *device,
                                               uint32_t head_dim);

/* ---- moving bytes ---- */

/** Copies past the caches: @p to does not take the place of what lies in them. For blocks that
 *  nobody reads soon and that are large against L2; slower for small ones. The areas may have any
 *  address and may not overlap. When it returns, other threads may be told as after memcpy(). */
CENOTE_API void cenote_copy_nontemporal(void *to, const void *from, size_t size_bytes);

/** Copies @p rows rows of @p row_bytes from one stride to another and, while it copies a row, asks
 *  for the next: the processor's own prefetching ends with each row. For packing a block of a
 *  matrix. The areas may not overlap; strides are at least row_bytes. */
CENOTE_API void cenote_copy_rows(void *to, size_t to_stride_bytes, const void *from,
                                 size_t from_stride_bytes, size_t row_bytes, size_t rows);

/** Asks for the lines of @p size_bytes at @p data, to be there when they are read. Harmless for
 *  any address; a core has some ten such requests under way, so a few KiB at a time. */
CENOTE_API void cenote_prefetch(const void *data, size_t size_bytes);

#ifdef __cplusplus
}
#endif
#endif
