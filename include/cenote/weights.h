/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Weights read in place from safetensors files, and the stream of panels that kernels consume.
 *
 *  cenote_weights is one immutable table of tensors over one or more files. A *panel* is a run of
 *  whole rows of one matrix: the unit that is read, waited for and handed to a kernel. A
 *  cenote_stream reads the panels of a given program (matrices in order of use, the whole list a
 *  given number of times) into a ring of slots, ahead of the consumer. A cenote_resident keeps the
 *  first rows of every matrix, so that only the rest is read.
 *
 *  Files come from strangers: every number in them is checked before it is used, and every fault
 *  is CENOTE_E_CORRUPT with the file, the tensor and the numbers in the message. Reads go past the
 *  page cache (O_DIRECT) or drop what they left there.
 *
 *  Threads: a cenote_weights may be read from any thread. A stream and its resident set have one
 *  owner thread. */
#ifndef CENOTE_WEIGHTS_H
#define CENOTE_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cenote/dtype.h>
#include <cenote/pool.h>
#include <cenote/status.h>
#include <cenote/tensor_cache.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The form of a panel's bytes. */
typedef enum cenote_encoding {
    CENOTE_ENCODING_PLAIN = 0, /**< rows of elements, as in the file */
    CENOTE_ENCODING_BF12 = 1,  /**< bf16 in 12 bits an element (cenote/bf12.h) */
} cenote_encoding;

/* ---- the table ---- */

typedef struct cenote_weights cenote_weights;

typedef enum cenote_io_mode {
    CENOTE_IO_AUTO = 0, /**< O_DIRECT where it works, returns the same bytes and wants no more than
                             4 KiB of alignment, else buffered */
    CENOTE_IO_DIRECT,   /**< refuse where O_DIRECT does not work */
    CENOTE_IO_BUFFERED, /**< page cache, dropped after use */
} cenote_io_mode;

typedef struct cenote_weights_options {
    uint32_t version; /**< CENOTE_WEIGHTS_OPTIONS_VERSION */
    cenote_io_mode io_mode;
} cenote_weights_options;
#define CENOTE_WEIGHTS_OPTIONS_VERSION 1u
#define CENOTE_WEIGHTS_OPTIONS_INIT                                                                \
    {                                                                                              \
        CENOTE_WEIGHTS_OPTIONS_VERSION, CENOTE_IO_AUTO                                             \
    }

typedef struct cenote_tensor_info {
    const char *name; /**< lives as long as the cenote_weights */
    cenote_dtype dtype;
    uint32_t rank; /**< 0 for a scalar */
    uint64_t shape[CENOTE_RANK_MAX];
    uint32_t file_index;
    uint64_t offset_bytes; /**< from the start of the file; any residue */
    uint64_t size_bytes;   /**< 0 for an empty tensor */
} cenote_tensor_info;

/** Opens one *.safetensors file, or a directory: the shards that model.safetensors.index.json
 *  names, or every *.safetensors in it when there is no index.
 *  Reads headers only. The table's memory is charged to @p budget.
 *  Errors: CENOTE_E_NOTFOUND, CENOTE_E_IO, CENOTE_E_CORRUPT, CENOTE_E_BUDGET. */
CENOTE_MUST_CHECK CENOTE_API cenote_status
cenote_weights_open(cenote_budget *budget, const char *path, const cenote_weights_options *options,
                    cenote_weights **out_weights, cenote_error *err);
/** Streams over it must be destroyed before. NULL is fine. */
CENOTE_API void cenote_weights_close(cenote_weights *weights);

CENOTE_API uint32_t cenote_weights_count(const cenote_weights *weights);

/** The tensors in order of their names as bytes; @p index < count. */
CENOTE_API const cenote_tensor_info *cenote_weights_tensor(const cenote_weights *weights,
                                                           uint32_t index);
/** Cost: O(log count). Errors: CENOTE_E_NOTFOUND with the name in err. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_weights_find(const cenote_weights *weights,
                                                               const char *name,
                                                               uint32_t *out_index,
                                                               cenote_error *err);
CENOTE_API uint32_t cenote_weights_file_count(const cenote_weights *weights);
CENOTE_API const char *cenote_weights_file_path(const cenote_weights *weights, uint32_t file_index);

/** Reads bytes [offset, offset + size) of a tensor into @p data (any alignment). For small
 *  things: norms, biases, one row of the embedding. Threads: any, one read at a time.
 *  Errors: CENOTE_E_INVAL (out of the tensor), CENOTE_E_IO, CENOTE_E_CORRUPT (truncated),
 *  CENOTE_E_CHANGED. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_weights_read(cenote_weights *weights,
                                                               uint32_t tensor_index,
                                                               uint64_t offset_bytes,
                                                               uint64_t size_bytes, void *data,
                                                               cenote_error *err);

/** Compares size, mtime and inode of every file with what they were at open.
 *  Errors: CENOTE_E_CHANGED naming the file. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_weights_verify_unchanged(cenote_weights *weights,
                                                                           cenote_error *err);

typedef struct cenote_weights_stats {
    uint64_t bytes_used; /**< weight bytes handed out (panels and small reads), as in the files */
    uint64_t bytes_read; /**< bytes that the kernel read for them, alignment and what was read ahead
                              in vain included */
    uint64_t read_count;
    uint64_t retry_count;   /**< EIO and short reads that were tried again */
    uint64_t wait_ns;       /**< time that consumers of streams waited for a panel */
    uint64_t wait_start_ns; /**< of that: for the first panel after a start, when nothing could have
                                 been read ahead */
    uint64_t pack_failures; /**< panels of a packed copy that were bad and read from the original */
    bool direct;            /**< every file is read with O_DIRECT */
    const char *engine;     /**< of the last stream made: "io_uring" or "pread"; "pread" before */
} cenote_weights_stats;
CENOTE_API void cenote_weights_stats_get(const cenote_weights *weights,
                                         cenote_weights_stats *out_stats);

/* ---- what its layers give ---- */

/** Which matrices, and what becomes of what they give. */
typedef struct cenote_weights_outputs {
    const char *prefix; /**< of the matrices' names, as "model.language_model.layers."; NULL: all */
    cenote_class class_id; /**< of the pool that the outputs come from */
    cenote_dtype dtype;    /**< theirs */
    uint64_t tokens;       /**< that go through the model at one time, > 0 */
} cenote_weights_outputs;

/** The shapes of a loaded model to pre-warm a tensor cache with (cenote_tensor_cache_prewarm()):
 *  for each matrix [outputs, inputs] (1, tokens, outputs), each shape once, in order of the
 *  matrices' names. A tensor of more dimensions is taken as [shape[0], product of the rest].
 *  @param out_list  the first @p list_max of them; may be NULL when that is 0
 *  @return the number of shapes
 *  Threads: any.  Cost: O(tensors^2), no memory, nothing is read. */
CENOTE_API size_t cenote_weights_prewarm(const cenote_weights *weights,
                                         const cenote_weights_outputs *outputs,
                                         cenote_tensor_prewarm *out_list, size_t list_max);

/* ---- panels ---- */

/** One matrix of a program: all its rows, in panels of rows_per_panel (the last may be shorter).
 *  The tensor is taken as [shape[0], product of the rest]. */
typedef struct cenote_stream_item {
    uint32_t tensor_index;
    uint32_t rows_per_panel;
} cenote_stream_item;

/* ---- the resident set ---- */

/** The part of a list of matrices that stays in memory: the first rows of every one of them, as
 *  many as fit. Rows and not whole matrices, so that at every moment of a pass the reads of the
 *  rest have the work on the resident rows beside them.
 *
 *  All panels of the list have one fixed order, by their place in their own matrix (the first of
 *  every matrix, then the second of ..., in proportion). The set is a beginning of that order: the
 *  *split line*. Moving the line adds or drops whole panels at its end; dropped memory goes back to
 *  the system at once. Nothing is read for the set: a stream keeps what it reads anyway.
 *
 *  Threads: the owner of the stream that uses it. */
typedef struct cenote_resident cenote_resident;

/** Bytes that cenote_resident_create() charges for its books, to the byte; @p items as there. */
CENOTE_API uint64_t cenote_resident_overhead_bytes(const cenote_weights *weights,
                                                   const cenote_stream_item *items,
                                                   uint32_t item_count);
/** A packed copy of a checkpoint's matrices, see cenote/pack.h. */
struct cenote_pack;

/** What cenote_resident_resize() must be given for all panels to be held in @p encoding; @p pack as
 *  for create. */
CENOTE_API uint64_t cenote_resident_whole_bytes(const cenote_weights *weights,
                                                const cenote_stream_item *items,
                                                uint32_t item_count, cenote_encoding encoding,
                                                const struct cenote_pack *pack);

/** An empty set over the matrices of @p items (each named once). bf16 matrices are held in
 *  @p encoding, others as they are in the file; with @p pack (NULL: none) just those panels that
 * are packed there, in places of their size, for a stream that reads them from it. Address space
 * only; nothing is committed but the books, which @p budget is charged for. Errors: CENOTE_E_INVAL
 * (a bad item, a tensor named twice), CENOTE_E_BUDGET, CENOTE_E_NOMEM. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_resident_create(
    cenote_weights *weights, cenote_budget *budget, const cenote_stream_item *items,
    uint32_t item_count, cenote_encoding encoding, const struct cenote_pack *pack,
    cenote_resident **out_resident, cenote_error *err);
/** The stream that uses it must be gone. NULL is fine. */
CENOTE_API void cenote_resident_destroy(cenote_resident *resident);

/** Moves the split line: the most panels whose memory, page tables included, charges at most
 *  @p charge_bytes. Panels above the line are dropped; new ones are filled by the next pass of a
 *  stream. A stream that uses the set must be stopped, or fresh from
 *  cenote_stream_forget_ahead().
 *  Errors: CENOTE_E_BUDGET, CENOTE_E_NOMEM; the line then stays. Cost: O(panels). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_resident_resize(cenote_resident *resident,
                                                                  uint64_t charge_bytes,
                                                                  cenote_error *err);

typedef struct cenote_resident_stats {
    uint64_t charged_bytes;       /**< memory below the split line, page tables included */
    uint64_t held_weight_bytes;   /**< weights that are there, counted as in the files */
    uint64_t target_weight_bytes; /**< weights below the split line */
    uint64_t whole_weight_bytes;  /**< of all panels */
    uint32_t refused_panels; /**< did not fit their place in the packed form: streamed always */
    cenote_encoding encoding;
} cenote_resident_stats;
CENOTE_API void cenote_resident_stats_get(const cenote_resident *resident,
                                          cenote_resident_stats *out_stats);

/* ---- the stream ---- */

typedef struct cenote_stream cenote_stream;

typedef enum cenote_io_engine {
    CENOTE_ENGINE_AUTO = 0, /**< io_uring, or preads in threads where the kernel denies it */
    CENOTE_ENGINE_URING,
    CENOTE_ENGINE_PREAD,
} cenote_io_engine;

typedef struct cenote_stream_options {
    uint32_t version;         /**< CENOTE_STREAM_OPTIONS_VERSION */
    uint64_t panel_bytes_max; /**< the largest panel of any program to come */
    uint32_t slot_count;      /**< panels read ahead, 2..CENOTE_STREAM_SLOTS_MAX */
    uint32_t depth;           /**< most reads under way; 0 means slot_count or 16, the less */
    cenote_io_engine engine;
    cenote_resident *resident;      /**< NULL: everything is read every time */
    const struct cenote_pack *pack; /**< read instead of the checkpoint where it has the panel (see
                                         cenote/pack.h); NULL: none */
} cenote_stream_options;
#define CENOTE_STREAM_SLOTS_MAX       256u
#define CENOTE_STREAM_OPTIONS_VERSION 2u
#define CENOTE_STREAM_OPTIONS_INIT                                                                 \
    {                                                                                              \
        CENOTE_STREAM_OPTIONS_VERSION, 0, 0, 0, CENOTE_ENGINE_AUTO, NULL, NULL                     \
    }

/** What a stream with CENOTE_ENGINE_AUTO would get here, CENOTE_ENGINE_URING or _PREAD; another
 *  @p engine is returned as it is. Cost: it opens a ring and closes it. */
CENOTE_API cenote_io_engine cenote_weights_engine(cenote_weights *weights, cenote_io_engine engine);

typedef struct cenote_disk_speed {
    double bytes_per_s;
    uint32_t depth; /**< so many reads at a time were the fastest: 8 or 16 */
} cenote_disk_speed;

/** Reads parts of the checkpoint for a second, as a stream with panels of @p panel_bytes would, to
 *  learn how fast they come. Takes 16 panels of @p pool meanwhile. bytes_per_s is 0 where the files
 *  are smaller than a panel. Errors: CENOTE_E_INVAL, CENOTE_E_IO, CENOTE_E_BUDGET, CENOTE_E_NOMEM,
 *  CENOTE_E_UNSUPPORTED (the engine is denied). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_weights_measure_disk(
    cenote_weights *weights, cenote_pool *pool, uint64_t panel_bytes, cenote_io_engine engine,
    cenote_disk_speed *out_speed, cenote_error *err);

/** Bytes of the ring: what create takes from the pool. A slot is one panel plus room for the file
 *  offset's residue and the last block's end. */
CENOTE_API uint64_t cenote_stream_ring_bytes(const cenote_stream_options *options);

/** Takes the ring from @p pool and opens the engine.
 *  Errors: CENOTE_E_INVAL, CENOTE_E_BUDGET, CENOTE_E_UNSUPPORTED (the engine asked for is denied
 *  here). */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_stream_create(
    cenote_weights *weights, cenote_pool *pool, const cenote_stream_options *options,
    cenote_stream **out_stream, cenote_error *err);
/** Waits for reads under way and gives the ring back. NULL is fine. */
CENOTE_API void cenote_stream_destroy(cenote_stream *stream);

/** Begins to read @p items in order, the whole list @p pass_count times over, across the seams.
 *  @p items must stay until the next start, stop or destroy. A program that runs is stopped first.
 *  Errors: CENOTE_E_INVAL (an empty program, a panel larger than panel_bytes_max, a bad tensor),
 *  CENOTE_E_CHANGED. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_stream_start(cenote_stream *stream,
                                                               const cenote_stream_item *items,
                                                               uint32_t item_count,
                                                               uint64_t pass_count,
                                                               cenote_error *err);
/** Forgets the rest of the program: waits for reads under way and frees all slots. */
CENOTE_API void cenote_stream_stop(cenote_stream *stream);

/** Between two matrices: forgets what was read ahead, so that the resident set may be resized; the
 *  program goes on where it is. Asserts that every panel of the matrix that was begun has been
 *  taken and released. Cost: the bytes read ahead are read again. */
CENOTE_API void cenote_stream_forget_ahead(cenote_stream *stream);

typedef struct cenote_panel {
    const void *data; /**< row_count whole rows in the form of encoding; any alignment if plain */
    cenote_encoding encoding;
    uint32_t item_index;
    uint32_t tensor_index;
    uint64_t row_first;
    uint64_t row_count;
    uint64_t row_bytes; /**< of a row as in the file */
    uint32_t slot;      /**< the stream's own */
} cenote_panel;

/** The next panel: matrices in order of the program, the panels of one matrix in whatever order
 *  they are there (resident ones while reads are under way). Waits when there is none. Release each
 *  one before the ring's slots run out, in any order.
 *  Errors: CENOTE_E_NOTFOUND (the program is over), CENOTE_E_INVAL (all slots are held, so waiting
 *  would never end: release one and go on); CENOTE_E_IO, CENOTE_E_CORRUPT (truncated) and
 *  CENOTE_E_CHANGED stop the program, and the stream can be started again. */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_stream_next(cenote_stream *stream,
                                                              cenote_panel *out_panel,
                                                              cenote_error *err);

/** The same with more than one at a time, for kernels whose threads meet once a call: all panels of
 *  the matrix that are there, at most @p most (> 0) and, of those that hold a slot, at most a
 * quarter of the ring. Waits only when there is none.
 *  @param out_panels  room for @p most; release each of the first *out_count */
CENOTE_MUST_CHECK CENOTE_API cenote_status cenote_stream_next_several(cenote_stream *stream,
                                                                      uint32_t most,
                                                                      cenote_panel *out_panels,
                                                                      uint32_t *out_count,
                                                                      cenote_error *err);
/** Panels of a program that was stopped may be released as well; that does nothing. */
CENOTE_API void cenote_stream_release(cenote_stream *stream, const cenote_panel *panel);

#ifdef __cplusplus
}
#endif
#endif
