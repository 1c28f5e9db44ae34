/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  The Qwen3-VL runner: a user of libcenote's public headers.
 *
 *  The way of a run: qwen_model_open() reads config.json, the safetensors headers and the
 *  tokenizer; qwen_job_create() reads the image headers and turns the request into token ids;
 *  qwen_plan_make() says where every byte of the budget goes, or the smallest budget that works;
 *  qwen_job_run() reads weights and produces tokens. No weight byte is read before that.
 *
 *  The way of a conversation: qwen_session_plan(), qwen_session_open(), then qwen_session_ask()
 *  for each message; what was read and said stays in the cache.
 *
 *  Threads: everything from one thread, except that qwen_job_cancel() and qwen_session_cancel()
 *  may be called from a signal handler. */
#ifndef QWEN3VL_H
#define QWEN3VL_H

#include <stdbool.h>
#include <stdint.h>

#include <cenote/cenote.h>

#define QWEN_IMAGES_MAX 64u

/** What the process itself comes to hold outside of pools: code, libraries, stacks, heap. A test
 *  holds every run to it. */
#define QWEN_PROCESS_BYTES (16u << 20)

/* ---- model ---- */

typedef struct qwen_model qwen_model;

/** Opens a Hugging Face directory. Everything that is kept is charged to @p budget.
 *  Errors: CENOTE_E_NOTFOUND (a file is missing), CENOTE_E_CORRUPT (a file lies; a tensor is
 *  missing or has another shape), CENOTE_E_UNSUPPORTED (MoE, another architecture). */
CENOTE_MUST_CHECK cenote_status qwen_model_open(cenote_budget *budget, const char *directory,
                                                qwen_model **out_model, cenote_error *err);
void qwen_model_close(qwen_model *model);

const cenote_weights *qwen_model_weights(const qwen_model *model);
/** For what reads them beside a run, such as making a packed copy. */
cenote_weights *qwen_model_weights_mutable(qwen_model *model);
/** Tensors in the files that the model does not use; accepted. */
uint32_t qwen_model_extra_count(const qwen_model *model);
/** The matrices that runs stream, cut as they are streamed: what a packed copy holds. */
const cenote_stream_item *qwen_model_matrices(const qwen_model *model, uint32_t *out_count);
/** The largest of their panels: a read of a stream. */
uint64_t qwen_model_panel_bytes(const qwen_model *model);
/** Weight bytes that one decoded token touches. */
uint64_t qwen_model_bytes_per_token(const qwen_model *model);
/** "vision", "embedding", "text" or "head"; "extra" for a tensor that the model does not use. */
const char *qwen_model_tensor_class(const qwen_model *model, uint32_t tensor_index);

/* ---- job ---- */

/** How tokens are chosen, with transformers' meaning of each. All zeros: the likeliest one. */
typedef struct qwen_sampling {
    float temperature;        /**< 0: no draw, the likeliest token */
    uint32_t top_k;           /**< draw among the k likeliest; 0: among all */
    float top_p;              /**< draw among the likeliest that together have this; 0 or 1: all */
    float repetition_penalty; /**< of tokens that came before; counts at temperature 0 too; 0 or 1:
                                   none */
    uint64_t seed;
} qwen_sampling;

/** What generation_config.json suggests; what it leaves open is transformers' default (temperature
 *  1, top-k 50, top-p 1, no penalty). Whether it asks for sampling at all (do_sample) is not looked
 *  at. Errors: CENOTE_E_CORRUPT for a value out of its range. */
CENOTE_MUST_CHECK cenote_status qwen_model_sampling(const qwen_model *model,
                                                    qwen_sampling *out_sampling, cenote_error *err);

/** Whether the next tokens are guessed from the text so far and looked at in one pass over the
 *  weights. The answer is the same. */
typedef enum qwen_draft {
    QWEN_DRAFT_AUTO = 0, /**< where weights have to be read for a token */
    QWEN_DRAFT_LOOKUP,
    QWEN_DRAFT_OFF,
} qwen_draft;

typedef struct qwen_request {
    const char *const *image_paths;
    uint32_t image_count;
    const char *prompt;  /**< UTF-8 */
    const char *system;  /**< NULL: none */
    bool raw_prompt;     /**< the prompt as it is, no template; control tokens in it count */
    bool parse_special;  /**< control-token text in prompt and system becomes control tokens */
    uint32_t max_tokens; /**< 0: min(512, what fits) */
    uint32_t max_image_tokens; /**< per image; 0: what the processor's config admits */
    cenote_dtype kv_dtype;     /**< CENOTE_DTYPE_F32 or CENOTE_DTYPE_BF16 */
    qwen_sampling sampling;
    uint32_t thread_count; /**< 0: cenote_cpu_count() */
    bool unpacked;         /**< resident weights never in 12 bits */
    cenote_io_engine io_engine;
    qwen_draft draft;
    uint32_t read_depth;     /**< panels read ahead, as the disk wants them, 8 to 16; 0: 8 */
    const cenote_pack *pack; /**< on the model's budget, read instead of the checkpoint where it
                                  can; NULL: none */
    bool pack_required;      /**< a plan does not go without it where there is no room for it */
} qwen_request;

typedef struct qwen_job qwen_job;

/** Reads the images' headers and makes the prompt's ids. @p request and what it points to must
 *  outlive the job. Errors: as for images and tokenizer; CENOTE_E_INVAL for a bad request. */
CENOTE_MUST_CHECK cenote_status qwen_job_create(qwen_model *model, const qwen_request *request,
                                                qwen_job **out_job, cenote_error *err);
void qwen_job_destroy(qwen_job *job);

const uint32_t *qwen_job_prompt_ids(const qwen_job *job, uint64_t *out_count);
/** [image_count][3]: t, h, w in patches. */
const uint32_t *qwen_job_grids(const qwen_job *job);

/* ---- plan ---- */

/** What decides the memory of a run. */
typedef struct qwen_shape {
    uint32_t image_count;
    uint32_t image_first;             /**< images before it lie in the cache already */
    uint32_t grid_h[QWEN_IMAGES_MAX]; /**< in patches */
    uint32_t grid_w[QWEN_IMAGES_MAX];
    uint64_t decode_bytes[QWEN_IMAGES_MAX]; /**< working memory of decoding and resizing */
    uint64_t prompt_tokens;
    uint64_t past_tokens;    /**< of the prompt, those that lie in the cache already */
    uint64_t context_tokens; /**< room of the cache; 0: the prompt and what is produced */
    uint32_t max_tokens;     /**< 0: min(512, what fits) */
    cenote_dtype kv_dtype;
    uint32_t thread_count; /**< 0: cenote_cpu_count() */
    bool unpacked;         /**< as qwen_request.unpacked */
    qwen_draft draft;
    cenote_io_engine io_engine;
    uint32_t read_depth;     /**< as qwen_request.read_depth */
    const cenote_pack *pack; /**< as in qwen_request, this and the next */
    bool pack_required;
} qwen_shape;

void qwen_job_shape(const qwen_job *job, qwen_shape *out_shape);

/** Grid that the model's processor gives a picture of @p width x @p height pixels. */
CENOTE_MUST_CHECK cenote_status qwen_model_image_grid(const qwen_model *model, uint32_t width,
                                                      uint32_t height, uint32_t max_image_tokens,
                                                      uint32_t *out_grid_h, uint32_t *out_grid_w,
                                                      cenote_error *err);

/** Tokens that the picture in the file at @p path would be. Reads its header only.
 *  Errors: those of images. */
CENOTE_MUST_CHECK cenote_status qwen_model_image_tokens(const qwen_model *model, const char *path,
                                                        uint32_t max_image_tokens,
                                                        uint64_t *out_tokens, cenote_error *err);

/** Adds a picture of which only the size is known: its grid, its tokens with their two markers, and
 *  the memory of a decoder that works a row at a time. @p shape begins as {0} or as a job's.
 *  Errors: CENOTE_E_INVAL (too many pictures, a size that the processor refuses). */
CENOTE_MUST_CHECK cenote_status qwen_shape_image_add(const qwen_model *model, uint32_t width,
                                                     uint32_t height, uint32_t max_image_tokens,
                                                     qwen_shape *shape, cenote_error *err);

typedef struct qwen_plan {
    bool fits;
    uint64_t limit_bytes;
    uint64_t smallest_bytes; /**< the smallest limit that works for this shape */
    /* where the bytes go; they add up to at most limit_bytes when fits */
    uint64_t process_bytes;
    uint64_t tables_bytes;  /**< tokenizer, extent table, configuration */
    uint64_t books_bytes;   /**< book-keeping of the pools */
    uint64_t weights_bytes; /**< norms, biases and other small tensors kept resident */
    uint64_t staging_bytes;
    uint64_t kv_bytes;           /**< for kv_tokens, with the table for context_tokens */
    uint64_t kv_quota_bytes;     /**< for context_tokens */
    uint64_t image_bytes;        /**< resized pixels and image features that outlive the tower */
    uint64_t decode_image_bytes; /**< largest decoder working memory */
    uint64_t scratch_bytes;      /**< of the kernels, all threads together */
    uint64_t vision_bytes;       /**< activations of the vision tower */
    uint64_t prefill_bytes;      /**< activations of prefill */
    uint64_t token_bytes;        /**< activations of decoding */
    uint64_t activation_bytes;   /**< the largest of the phases above */
    /* rows of the text program that stay in memory, page tables included; more of them once the
     * vision tower, and then prefill, have given back what they held */
    uint64_t resident_vision_bytes;
    uint64_t resident_prefill_bytes;
    uint64_t resident_bytes; /**< while decoding */
    cenote_encoding resident_encoding;
    uint64_t whole_bytes; /**< the smallest limit at which decoding reads no weights */
    /** The packed copy that the run reads. NULL: none, also where one was given whose table the
     *  limit has no room for: then the caller closes it before he sets the limit. */
    const cenote_pack *pack;
    bool pack_left_out; /**< the latter */
    /* what that buys */
    uint32_t max_tokens;
    uint64_t context_tokens; /**< that the cache of keys and values may come to hold */
    uint64_t kv_tokens;      /**< of those, prompt and what is produced: taken at once */
    uint32_t draft_rows;     /**< tokens that a pass may look at: the last and guesses; 1: none */
    uint32_t slot_count;
    uint64_t panel_bytes;
    uint32_t thread_count;
    uint64_t prefill_chunk_tokens;
    uint64_t prefill_weight_passes;
    uint64_t weight_bytes_per_token;   /**< that a decoded token touches */
    uint64_t streamed_bytes_per_token; /**< of them not resident, from the second token on */
    uint64_t bytes_per_token;          /**< read for them, fewer with a packed copy */
    uint64_t packed_bytes_per_token;   /**< what a packed copy would have to be read */
    uint64_t bytes_prefill;            /**< weight bytes read for vision and prefill */
    double flops_before_first_token;   /**< of the vision tower and prefill, for a time estimate */
} qwen_plan;

/** Never fails for want of memory: see fits. Errors: CENOTE_E_INVAL for a shape beyond the
 *  model's limits (max_position_embeddings). */
CENOTE_MUST_CHECK cenote_status qwen_plan_make(const qwen_model *model, const qwen_shape *shape,
                                               uint64_t limit_bytes, qwen_plan *out_plan,
                                               cenote_error *err);
/** "needs at least 143 MiB: 32 staging, 41 KV for 188 tokens, ..." into @p text. */
void qwen_plan_explain(const qwen_plan *plan, char *text, size_t text_bytes);

/* ---- speed ---- */

/** Rates of a machine, in bytes of weights a second, counted as in the files. */
typedef struct qwen_speed {
    double disk_bytes_per_s;   /**< of reads as a stream makes them */
    uint32_t disk_depth;       /**< so many at a time were the fastest */
    double plain_bytes_per_s;  /**< kernels of decoding on bf16 in memory */
    double packed_bytes_per_s; /**< the same held in 12 bits */
    double memory_bytes_per_s; /**< the same threads merely reading bf16 from memory */
} qwen_speed;

/** The disk's rate under the model's files, read in the model's panels by @p engine: a second, 16
 *  panels of its budget. The rest stays. */
CENOTE_MUST_CHECK cenote_status qwen_speed_measure_disk(qwen_model *model, cenote_io_engine engine,
                                                        qwen_speed *speed, cenote_error *err);
/** The kernels' rates: half a second, 180 MiB of @p budget. disk_bytes_per_s stays. */
CENOTE_MUST_CHECK cenote_status qwen_speed_measure_kernels(cenote_budget *budget,
                                                           uint32_t thread_count, qwen_speed *speed,
                                                           cenote_error *err);

/** What keeps decoding from being faster. */
typedef enum qwen_bound {
    QWEN_BOUND_DISK,
    QWEN_BOUND_MEMORY, /**< products that keep up with what memory gives */
    QWEN_BOUND_COMPUTE,
} qwen_bound;

/** Of products with weights in this form. */
qwen_bound qwen_speed_bound(const qwen_speed *speed, cenote_encoding encoding);

typedef struct qwen_forecast {
    double disk_s;    /**< reads of one token */
    double compute_s; /**< products with all weights, in memory by then */
    double seconds_per_token;
    qwen_bound bound;
} qwen_forecast;

/** Seconds of a decoded token, after the second: reads and work beside each other, so the longer of
 *  the two. Attention over a long context comes on top. */
void qwen_plan_forecast(const qwen_plan *plan, const qwen_speed *speed,
                        qwen_forecast *out_forecast);

/* ---- run ---- */

typedef enum qwen_phase {
    QWEN_PHASE_LOAD,
    QWEN_PHASE_VISION,
    QWEN_PHASE_PREFILL,
    QWEN_PHASE_DECODE,
} qwen_phase;

/** Calls during a run, all from the calling thread, all optional. */
typedef struct qwen_events {
    void *context;
    /** A piece of the answer: whole UTF-8 characters. */
    void (*text)(void *context, const char *text, size_t text_bytes);
    /** About ten times a second at most: done of total units of the phase. */
    void (*progress)(void *context, qwen_phase phase, uint64_t done, uint64_t total);
    /** Each step's logits [vocab_size] before sampling. */
    cenote_status (*logits)(void *context, const float *logits, uint32_t vocab_size,
                            cenote_error *err);
    /** Intermediate values for comparison with a reference: "patch_embed", "vision.N", "merger",
     *  "deepstack.N", "layer.N"; @p index is the image or the chunk's first token. */
    void (*stage)(void *context, const char *name, uint64_t index, const float *values,
                  uint64_t rows, uint64_t columns);
} qwen_events;

typedef struct qwen_result {
    const uint32_t *token_ids; /**< the job's; end token included */
    uint32_t token_count;
    const char *stop_reason; /**< "end", "length", "context" (a session's is full), "cancelled",
                                  "error" */
    const char *text;        /**< the job's; NUL-terminated, invalid bytes replaced by U+FFFD */
    double load_s, vision_s, prefill_s, decode_s, seconds_per_token;
    uint64_t weight_bytes_read;    /**< whole run, as asked of the kernel */
    uint64_t bytes_read_per_token; /**< decode only: mean over the decoded tokens after the first */
    uint64_t bytes_read_decode;    /**< while decoding, the pass that fills what prefill freed
                                        included */
    uint64_t prefill_weight_passes;
    uint32_t decode_passes;         /**< over the weights, for the tokens after the first */
    uint32_t draft_guessed;         /**< tokens that were guessed and looked at */
    uint32_t draft_accepted;        /**< of them the answer's */
    uint64_t resident_weight_bytes; /**< held at the end, counted as in the files */
    cenote_encoding resident_encoding;
    uint32_t resident_refused_panels; /**< that 12 bits could not hold */
    double seconds_waiting;           /**< for reads, whole run */
    double seconds_waiting_decode;
    double seconds_waiting_start;  /**< whole run: for first reads, before any could be ahead */
    const double *layer_waiting_s; /**< the job's: decode, by layer; the head is the last */
    uint32_t layer_waiting_count;
    uint64_t page_table_peak_bytes; /**< most VmPTE at the end of a phase */
    uint64_t prompt_tokens;         /**< of the whole conversation in a session */
    uint64_t past_tokens;           /**< of those, what lay in the cache */
} qwen_result;

/** Runs the job as planned; once per job. @p out_result is filled as far as the run came also
 *  when it is cancelled (CENOTE_E_CANCELLED). */
CENOTE_MUST_CHECK cenote_status qwen_job_run(qwen_job *job, const qwen_plan *plan,
                                             const qwen_events *events, qwen_result *out_result,
                                             cenote_error *err);
/** Makes the run return CENOTE_E_CANCELLED soon (within a panel's or a strip of attention's
 *  work). Async-signal-safe. */
void qwen_job_cancel(qwen_job *job);

/* ---- session ---- */

typedef struct qwen_session_options {
    uint64_t context_tokens;   /**< most tokens of a conversation; 0: 4096, or as many as half of
                                    what a turn needs not has room for, 512 at least */
    uint32_t max_image_tokens; /**< per image; 0: what the processor's config admits */
    cenote_dtype kv_dtype;     /**< CENOTE_DTYPE_F32 or CENOTE_DTYPE_BF16 */
    uint32_t thread_count;     /**< 0: cenote_cpu_count() */
    const char *system;        /**< NULL: none; copied */
    bool parse_special;        /**< control-token text in messages becomes control tokens */
    bool unpacked;             /**< resident weights never in 12 bits */
    cenote_io_engine io_engine;
    uint32_t read_depth; /**< as in qwen_request, this and the next three */
    const cenote_pack *pack;
    bool pack_required;
    qwen_draft draft;
    qwen_sampling sampling;
} qwen_session_options;

typedef struct qwen_message {
    const char *text; /**< UTF-8 */
    const char *const *image_paths;
    uint32_t image_count;
    uint32_t max_tokens; /**< of the reply; 0: min(512, what the context has room for) */
} qwen_message;

/** A conversation: what was read and said stays in the cache, and each message costs only what is
 *  new in it. */
typedef struct qwen_session qwen_session;

/** What a session takes, with a turn of text: context_tokens, and whether it fits. Never fails for
 *  want of memory. Errors: CENOTE_E_INVAL (a bad option, a context beyond the model's). */
CENOTE_MUST_CHECK cenote_status qwen_session_plan(const qwen_model *model,
                                                  const qwen_session_options *options,
                                                  uint64_t limit_bytes, qwen_plan *out_plan,
                                                  cenote_error *err);

/** Takes what every turn needs; the model must stay open. The caller has set the budget's limit to
 *  the plan's. Errors: CENOTE_E_BUDGET (a plan that does not fit), CENOTE_E_NOMEM; the model's chat
 *  form cannot be used. */
CENOTE_MUST_CHECK cenote_status qwen_session_open(qwen_model *model,
                                                  const qwen_session_options *options,
                                                  const qwen_plan *plan, qwen_session **out_session,
                                                  cenote_error *err);
/** NULL is fine. */
void qwen_session_close(qwen_session *session);

/** Puts the whole conversation into chat form, finds what of it lies in the cache, reads the rest
 *  and answers. @p out_result is set when the turn was run, however it ended; its pointers live
 *  until the next call. A reply that was cut short (CENOTE_E_CANCELLED, an error of the disk) stays
 *  in the conversation as far as it came; a message that got no token of a reply does not.
 *  Errors: CENOTE_E_INVAL (a bad message; the context is full), CENOTE_E_BUDGET (the turn does not
 *  fit; err says what it needs), those of images and of reading; the session can go on after each.
 */
CENOTE_MUST_CHECK cenote_status qwen_session_ask(qwen_session *session, const qwen_message *message,
                                                 const qwen_events *events, qwen_result *out_result,
                                                 cenote_error *err);
/** Makes the turn under way return CENOTE_E_CANCELLED soon. Async-signal-safe. */
void qwen_session_cancel(qwen_session *session);
/** Forgets the conversation; system text and cache stay. */
void qwen_session_reset(qwen_session *session);
/** Moves the limit for the turns to come. Errors: CENOTE_E_BUDGET when the session holds more. */
CENOTE_MUST_CHECK cenote_status qwen_session_limit_set(qwen_session *session, uint64_t limit_bytes,
                                                       cenote_error *err);

typedef struct qwen_session_stats {
    uint64_t limit_bytes;
    uint64_t held_bytes; /**< charged between the turns, the process included */
    uint64_t context_tokens;
    uint64_t used_tokens; /**< in the cache */
    uint32_t turn_count;
    uint32_t image_count;
} qwen_session_stats;
void qwen_session_stats_get(const qwen_session *session, qwen_session_stats *out_stats);

/** Of the last turn; valid until the next. NULL when there is none. */
const uint32_t *qwen_session_prompt_ids(const qwen_session *session, uint64_t *out_count);
/** Of the last turn that was run. */
const qwen_plan *qwen_session_turn_plan(const qwen_session *session);

#endif
