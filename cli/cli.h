/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the command share: exit codes, the options of a call, and how it speaks.
 *
 * The way of a call: main.c finds the subcommand, options.c fills a cli_options from the
 * subcommand's table, and the subcommand's file does the work and returns an exit code. Data goes
 * to stdout; everything else is one line each on stderr. */
#ifndef CENOTE_CLI_H
#define CENOTE_CLI_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include <cenote/cenote.h>

#include "qwen3vl.h"

/* Documented in cenote(1); scripts rely on them. 4 is kept for "no device". */
enum cli_exit {
    CLI_EXIT_OK = 0,
    CLI_EXIT_FAILURE = 1,
    CLI_EXIT_USAGE = 2,
    CLI_EXIT_BUDGET = 3,
    CLI_EXIT_CORRUPT = 5,
    CLI_EXIT_INTERRUPTED = 130,
};

#define CLI_NOT_GIVEN       (-1.0f)
#define CLI_TOP_K_NOT_GIVEN UINT32_MAX

struct cli_pixels {
    uint32_t width;
    uint32_t height;
};

/* --generate vlm:SEED:OPS:chunked|contiguous */
struct cli_vlm {
    uint64_t seed;
    uint64_t op_count; /* 0: not given */
    bool chunked;
};

/* Every option of every subcommand; a table in options.c says which subcommand takes which. */
struct cli_options {
    const char *path; /* MODEL_DIR, or FILE.safetensors; NULL: not given */
    const char *image_paths[QWEN_IMAGES_MAX];
    struct cli_pixels image_sizes[QWEN_IMAGES_MAX];
    uint32_t image_count;
    const char *prompt;
    const char *system;
    uint64_t memory_bytes;   /* 0: what the machine can spare */
    const char *memory_text; /* as the user wrote it */
    bool memory_least;       /* cenote demo: the smallest budget that works */
    uint64_t prompt_tokens;
    uint32_t max_tokens;
    uint32_t max_image_tokens;
    uint32_t thread_count;
    bool sample;             /* as the model suggests, but for what is given here */
    qwen_sampling sampling;  /* CLI_NOT_GIVEN, CLI_TOP_K_NOT_GIVEN in what is not */
    double time_limit_s;     /* CLI_NOT_GIVEN */
    uint64_t step_count;     /* 0: not given */
    uint64_t capacity_bytes; /* 0: not given */
    bool unpacked;
    bool sweep;
    bool measure;
    cenote_io_engine io_engine;
    qwen_draft draft;
    const char *cache_directory;
    cenote_dtype kv_dtype;
    const char *logits_path;
    bool force;
    bool verify;
    uint64_t context_tokens;
    const char *allocator;
    const char *memory_viz_path;
    struct cli_vlm generate;
    const char *history_path;
    bool raw_prompt;
    bool parse_special;
    bool json;
    bool quiet;
    bool help;
};

/* ---- subcommands ---- */

int cli_run(const struct cli_options *options);
int cli_chat(const struct cli_options *options);
int cli_plan(const struct cli_options *options);
int cli_inspect(const struct cli_options *options);
int cli_pack(const struct cli_options *options);
int cli_demo(const struct cli_options *options);
int cli_layout(const struct cli_options *options);
int cli_replay(const struct cli_options *options);
int cli_doctor(const struct cli_options *options);

/* ---- the model that comes with the command (model.c) ---- */

/* @p command is named in the error. Errors: CENOTE_E_NOTFOUND, CENOTE_E_INVAL. */
CENOTE_MUST_CHECK cenote_status cli_model_find(const char *command, char directory[PATH_MAX],
                                               cenote_error *err);

/* ---- sampling (sampling.c) ---- */

/* Greedy, or what --sample and the options beside it ask for.
 * Errors: CENOTE_E_CORRUPT (what the model suggests makes no sense). */
CENOTE_MUST_CHECK cenote_status cli_sampling_get(const struct cli_options *options,
                                                 const qwen_model *model,
                                                 qwen_sampling *out_sampling, cenote_error *err);

/* ---- how it speaks (say.c) ---- */

/* "cenote: ..." on stderr in one line; control characters are replaced. */
void cli_say(const char *format, ...) CENOTE_PRINTF(1, 2);
/* Says the error and gives the exit code that belongs to its status. */
int cli_fail(const cenote_error *err);
/* What guesses have saved, if anything. */
void cli_say_draft(const qwen_result *result);
enum cli_exit cli_exit_of(cenote_status status);

/* Bytes as "251.3 MiB" into @p text; decimal units (4.26 GB) for what is read, binary ones for
 * memory, as disks and memory are sold. Both return @p text. */
#define CLI_BYTES_TEXT 32
const char *cli_memory_text(uint64_t size_bytes, char text[CLI_BYTES_TEXT]);
const char *cli_disk_text(uint64_t size_bytes, char text[CLI_BYTES_TEXT]);

/* Copies @p size_bytes of UTF-8 to @p out (at least as large) with what could command a terminal
 * (C0 but \n and \t, DEL, C1) replaced by '?'. @return the bytes written; never more. */
size_t cli_text_clean(const char *text, size_t size_bytes, char *out);
/* How many of the first @p most_bytes (2 or more) of @p text can be cleaned on their own. */
size_t cli_text_piece(const char *text, size_t size_bytes, size_t most_bytes);

/* ---- the budget of a call (limit.c) ---- */

/* "2GiB", or "60%" of the machine's memory or of the lowest cgroup limit when that is less. */
cenote_status cli_limit_parse(const char *text, uint64_t *out_bytes, cenote_error *err);
/* --memory, or what the machine can spare. A number above what the machine (or its cgroup) has is
 * lowered to that, with a note unless quiet. */
cenote_status cli_limit_get(const struct cli_options *options, uint64_t *out_limit_bytes,
                            cenote_error *err);
/* A budget that does not bind yet: the plan decides before the limit is set. */
cenote_status cli_budget_create(cenote_budget **out_budget, cenote_error *err);
/* The one line of a plan that does not fit. @return CLI_EXIT_BUDGET */
int cli_refuse(const struct cli_options *options, const qwen_plan *plan, const qwen_shape *shape);

#endif
