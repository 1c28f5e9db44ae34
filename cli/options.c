/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands' option tables and the parser over them.
 *
 * getopt_long() does the walking (permutation, --name=value, unique abbreviations, --); a table's
 * setter does the checking. Messages are our own, for getopt's are not in one form. */
#include "options.h"

#include <getopt.h>
#include <string.h>

#include "allocator.h"
#include "size.h"

#define TOKENS_MAX ((uint64_t)INT32_MAX)
#define SIDE_MAX   65500u
#define COUNT(a)   (sizeof(a) / sizeof((a)[0]))

/* ---- setters ---- */

static void *field(struct cli_options *options, const struct cli_option *option)
{
    return (char *)options + option->offset;
}

static cenote_status set_flag(struct cli_options *options, const struct cli_option *option,
                              const char *value, cenote_error *err)
{
    (void)value;
    (void)err;
    *(bool *)field(options, option) = true;
    return CENOTE_OK;
}

static cenote_status set_text(struct cli_options *options, const struct cli_option *option,
                              const char *value, cenote_error *err)
{
    (void)err;
    *(const char **)field(options, option) = value;
    return CENOTE_OK;
}

static cenote_status set_u64(struct cli_options *options, const struct cli_option *option,
                             const char *value, cenote_error *err)
{
    return cli_number_parse(value, option->min, option->max, field(options, option), err);
}

static cenote_status set_u32(struct cli_options *options, const struct cli_option *option,
                             const char *value, cenote_error *err)
{
    uint64_t number;
    cenote_status status = cli_number_parse(value, option->min, option->max, &number, err);
    if (status == CENOTE_OK)
        *(uint32_t *)field(options, option) = (uint32_t)number;
    return status;
}

static cenote_status image_room(const struct cli_options *options, cenote_error *err)
{
    if (options->image_count == QWEN_IMAGES_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL, "more than %u images", QWEN_IMAGES_MAX);
    return CENOTE_OK;
}

static cenote_status set_image(struct cli_options *options, const struct cli_option *option,
                               const char *value, cenote_error *err)
{
    (void)option;
    cenote_status status = image_room(options, err);
    if (status == CENOTE_OK)
        options->image_paths[options->image_count++] = value;
    return status;
}

static cenote_status set_image_size(struct cli_options *options, const struct cli_option *option,
                                    const char *value, cenote_error *err)
{
    (void)option;
    struct cli_pixels pixels;
    cenote_status status = image_room(options, err);
    if (status == CENOTE_OK)
        status = cli_pixels_parse(value, SIDE_MAX, &pixels.width, &pixels.height, err);
    if (status == CENOTE_OK)
        options->image_sizes[options->image_count++] = pixels;
    return status;
}

static cenote_status set_memory(struct cli_options *options, const struct cli_option *option,
                                const char *value, cenote_error *err)
{
    (void)option;
    options->memory_text = value;
    return cli_limit_parse(value, &options->memory_bytes, err);
}

static cenote_status set_kv_type(struct cli_options *options, const struct cli_option *option,
                                 const char *value, cenote_error *err)
{
    (void)option;
    if (strcmp(value, "f32") == 0)
        options->kv_dtype = CENOTE_DTYPE_F32;
    else if (strcmp(value, "bf16") == 0)
        options->kv_dtype = CENOTE_DTYPE_BF16;
    else
        return cenote_error_set(err, CENOTE_E_INVAL, "'%s' is neither f32 nor bf16", value);
    return CENOTE_OK;
}

static cenote_status set_io(struct cli_options *options, const struct cli_option *option,
                            const char *value, cenote_error *err)
{
    (void)option;
    if (strcmp(value, "auto") == 0)
        options->io_engine = CENOTE_ENGINE_AUTO;
    else if (strcmp(value, "uring") == 0)
        options->io_engine = CENOTE_ENGINE_URING;
    else if (strcmp(value, "pread") == 0)
        options->io_engine = CENOTE_ENGINE_PREAD;
    else
        return cenote_error_set(err, CENOTE_E_INVAL, "'%s' is none of auto, uring, pread", value);
    return CENOTE_OK;
}

static cenote_status set_draft(struct cli_options *options, const struct cli_option *option,
                               const char *value, cenote_error *err)
{
    (void)option;
    if (strcmp(value, "auto") == 0)
        options->draft = QWEN_DRAFT_AUTO;
    else if (strcmp(value, "lookup") == 0)
        options->draft = QWEN_DRAFT_LOOKUP;
    else if (strcmp(value, "off") == 0)
        options->draft = QWEN_DRAFT_OFF;
    else
        return cenote_error_set(err, CENOTE_E_INVAL, "'%s' is none of auto, lookup, off", value);
    return CENOTE_OK;
}

static cenote_status set_time(struct cli_options *options, const struct cli_option *option,
                              const char *value, cenote_error *err)
{
    return cli_time_parse(value, field(options, option), err);
}

static cenote_status set_capacity(struct cli_options *options, const struct cli_option *option,
                                  const char *value, cenote_error *err)
{
    if (strchr(value, '%') != NULL)
        return cenote_error_set(err, CENOTE_E_INVAL, "'%s' is a share of nothing", value);
    return cli_size_parse(value, 0, field(options, option), err);
}

static cenote_status set_allocator(struct cli_options *options, const struct cli_option *option,
                                   const char *value, cenote_error *err)
{
    (void)option;
    if (cli_allocator_find(value) == NULL)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "'%s' is none of cenote, tensors, buddy, best-fit, first-fit",
                                value);
    options->allocator = value;
    return CENOTE_OK;
}

static cenote_status set_generate(struct cli_options *options, const struct cli_option *option,
                                  const char *value, cenote_error *err)
{
    (void)option;
    return cli_vlm_parse(value, &options->generate, err);
}

/* A positive real, or 0 where the table admits it. */
static cenote_status set_real(struct cli_options *options, const struct cli_option *option,
                              const char *value, cenote_error *err)
{
    double real;
    cenote_status status = cli_real_parse(value, (double)option->max, &real, err);
    if (status == CENOTE_OK && real <= 0 && option->min > 0)
        status = cenote_error_set(err, CENOTE_E_INVAL, "'%s' is not above 0", value);
    if (status == CENOTE_OK)
        *(float *)field(options, option) = (float)real;
    return status;
}

/* ---- tables ---- */

#define FIELD(name) offsetof(struct cli_options, name)
#define FLAG(name, f, help)                                                                        \
    {                                                                                              \
        name, NULL, help, set_flag, FIELD(f), 0, 0                                                 \
    }
#define COMMON_MEMORY                                                                              \
    {                                                                                              \
        "memory", "SIZE|PCT%",                                                                     \
            "most memory that the whole process may hold; default: what the machine can spare",    \
            set_memory, 0, 0, 0                                                                    \
    }
#define COMMON_MAX_TOKENS                                                                          \
    {                                                                                              \
        "max-tokens", "N", "most tokens to produce; default: 512, or as many as fit", set_u32,     \
            FIELD(max_tokens), 1, TOKENS_MAX                                                       \
    }
#define COMMON_IMAGE_TOKENS                                                                        \
    {                                                                                              \
        "max-image-tokens", "N",                                                                   \
            "shrink each image to at most N tokens; default: what the model admits", set_u32,      \
            FIELD(max_image_tokens), 1, TOKENS_MAX                                                 \
    }
#define COMMON_THREADS                                                                             \
    {                                                                                              \
        "threads", "N", "threads that compute; default: the CPUs that this process may use",       \
            set_u32, FIELD(thread_count), 1, CENOTE_TEAM_SIZE_MAX                                  \
    }
#define COMMON_KV_TYPE                                                                             \
    {                                                                                              \
        "kv-type", "f32|bf16", "how keys and values are kept; bf16 halves them; default: f32",     \
            set_kv_type, 0, 0, 0                                                                   \
    }
#define COMMON_UNPACKED                                                                            \
    FLAG("unpacked", unpacked, "hold resident weights as they are; default: bf16 ones in 12 bits")
#define COMMON_SAMPLING                                                                            \
    FLAG(                                                                                          \
        "sample", sample,                                                                          \
        "draw tokens as the model's generation_config.json suggests; default: the likeliest one"), \
        {"temperature",                                                                            \
         "T",                                                                                      \
         "draw at this temperature; 0: the likeliest token",                                       \
         set_real,                                                                                 \
         FIELD(sampling.temperature),                                                              \
         0,                                                                                        \
         100},                                                                                     \
        {"top-k",                                                                                  \
         "K",                                                                                      \
         "draw among the K likeliest; 0: among all",                                               \
         set_u32,                                                                                  \
         FIELD(sampling.top_k),                                                                    \
         0,                                                                                        \
         TOKENS_MAX},                                                                              \
        {"top-p",                                                                                  \
         "P",                                                                                      \
         "draw among the likeliest that together have probability P",                              \
         set_real,                                                                                 \
         FIELD(sampling.top_p),                                                                    \
         1,                                                                                        \
         1},                                                                                       \
        {"repetition-penalty",                                                                     \
         "R",                                                                                      \
         "divide the logits of tokens that came before by R; 1: none",                             \
         set_real,                                                                                 \
         FIELD(sampling.repetition_penalty),                                                       \
         1,                                                                                        \
         100},                                                                                     \
    {                                                                                              \
        "seed", "S", "seed of the draws; default: 0", set_u64, FIELD(sampling.seed), 0, UINT64_MAX \
    }
#define COMMON_CACHE                                                                               \
    {                                                                                              \
        "cache", "DIR|none",                                                                       \
            "read a packed copy of the weights in DIR, a quarter fewer bytes; made when it is "    \
            "not there or not of these files; default: the one in MODEL_DIR, if there is one and " \
            "the budget has room for its table",                                                   \
            set_text, FIELD(cache_directory), 0, 0                                                 \
    }
#define COMMON_IO                                                                                  \
    {                                                                                              \
        "io", "auto|uring|pread",                                                                  \
            "how weights are read: by io_uring or by threads; default: auto, io_uring where it "   \
            "can be had",                                                                          \
            set_io, 0, 0, 0                                                                        \
    }
#define COMMON_DRAFT                                                                               \
    {                                                                                              \
        "draft", "auto|lookup|off",                                                                \
            "look at guesses of the next tokens, taken from the text so far, in the same pass "    \
            "over the weights; the answer is the same; default: auto, where weights are read for " \
            "a token",                                                                             \
            set_draft, 0, 0, 0                                                                     \
    }
#define COMMON_JSON(schema) FLAG("json", json, "print one JSON object, schema " schema)
#define COMMON_HELP         FLAG("help", help, "print this help")

static const struct cli_option run_options[] = {
    {"image", "PATH", "a PNG or JPEG file; may be repeated, images come before the text", set_image,
     0, 0, 0},
    {"prompt", "TEXT", "what to ask (required)", set_text, FIELD(prompt), 0, 0},
    {"system", "TEXT", "a system message", set_text, FIELD(system), 0, 0},
    COMMON_MEMORY,
    COMMON_MAX_TOKENS,
    COMMON_IMAGE_TOKENS,
    COMMON_THREADS,
    COMMON_SAMPLING,
    FLAG("raw-prompt", raw_prompt,
         "take the prompt as it is, without the chat template; control tokens in it count"),
    FLAG("parse-special", parse_special,
         "turn control-token text in the prompt into control tokens"),
    COMMON_KV_TYPE,
    COMMON_UNPACKED,
    COMMON_CACHE,
    COMMON_DRAFT,
    COMMON_IO,
    COMMON_JSON("cenote.run/1"),
    {"logits", "FILE.npy", "write each step's logits, float32 [steps, vocabulary]", set_text,
     FIELD(logits_path), 0, 0},
    FLAG("quiet", quiet, "no notes, no progress, no summary"),
    COMMON_HELP,
};

static const struct cli_option chat_options[] = {
    {"image", "PATH", "a PNG or JPEG file for the first message; may be repeated", set_image, 0, 0,
     0},
    {"system", "TEXT", "a system message", set_text, FIELD(system), 0, 0},
    COMMON_MEMORY,
    {"max-context", "N",
     "most tokens of the conversation; default: 4096, or as many as half of the memory that is "
     "left has room for",
     set_u64, FIELD(context_tokens), 1, TOKENS_MAX},
    {"max-tokens", "N", "most tokens of a reply; default: 512, or as many as fit", set_u32,
     FIELD(max_tokens), 1, TOKENS_MAX},
    COMMON_IMAGE_TOKENS,
    COMMON_THREADS,
    COMMON_SAMPLING,
    FLAG("parse-special", parse_special, "turn control-token text in messages into control tokens"),
    COMMON_KV_TYPE,
    COMMON_UNPACKED,
    COMMON_CACHE,
    COMMON_DRAFT,
    COMMON_IO,
    {"history", "FILE", "keep the lines that were typed in FILE, for the next time", set_text,
     FIELD(history_path), 0, 0},
    FLAG("json", json, "print one JSON object for each message, schema cenote.chat/1"),
    FLAG("quiet", quiet, "no notes, no progress, no summary"),
    COMMON_HELP,
};

static const struct cli_option plan_options[] = {
    COMMON_MEMORY,
    {"image", "WxH", "an image of so many pixels; may be repeated", set_image_size, 0, 0, 0},
    {"prompt-tokens", "N", "tokens of the prompt besides the images'; default: 32", set_u64,
     FIELD(prompt_tokens), 1, TOKENS_MAX},
    COMMON_MAX_TOKENS,
    COMMON_IMAGE_TOKENS,
    COMMON_THREADS,
    COMMON_KV_TYPE,
    COMMON_UNPACKED,
    COMMON_CACHE,
    COMMON_IO,
    FLAG("sweep", sweep, "also say what other budgets would buy, up to holding all weights"),
    FLAG("measure", measure, "measure disk and kernels anew; default: once, then from the cache"),
    COMMON_JSON("cenote.plan/1"),
    FLAG("quiet", quiet, "no notes"),
    COMMON_HELP,
};

static const struct cli_option inspect_options[] = {
    COMMON_JSON("cenote.inspect/1"),
    FLAG("quiet", quiet, "no notes"),
    COMMON_HELP,
};

static const struct cli_option doctor_options[] = {
    COMMON_JSON("cenote.doctor/1"),
    COMMON_HELP,
};

static const struct cli_option pack_options[] = {
    {"out", "DIR",
     "folder of the packed copy, made when it is not there (its parent must be); default: "
     "MODEL_DIR",
     set_text, FIELD(cache_directory), 0, 0},
    {"cache", "DIR", "the same, as other subcommands call it", set_text, FIELD(cache_directory), 0,
     0},
    FLAG("force", force, "write it anew, also when there is a good one"),
    FLAG("verify", verify, "read all of it and compare checksums; write nothing"),
    COMMON_JSON("cenote.pack/1"),
    FLAG("quiet", quiet, "no notes, no progress, no summary"),
    COMMON_HELP,
};

static const struct cli_option demo_options[] = {
    {"memory", "SIZE|PCT%",
     "most memory that the whole process may hold; default: the least that works", set_memory, 0, 0,
     0},
    {"threads", "N", "threads that compute; default: 2", set_u32, FIELD(thread_count), 1,
     CENOTE_TEAM_SIZE_MAX},
    FLAG("quiet", quiet, "no notes, no progress, no summary"),
    COMMON_HELP,
};

static const struct cli_option layout_options[] = {
    {"time-limit", "TIME",
     "search for a better layout for so long (10s, 500ms, 2min); default: 10s, or none with "
     "--steps",
     set_time, FIELD(time_limit_s), 0, 0},
    {"steps", "N", "search for so many steps: the same offsets on every machine", set_u64,
     FIELD(step_count), 1, UINT64_MAX},
    {"capacity", "SIZE",
     "what the layout must fit; the search ends when it does, and the exit code is 3 when it does "
     "not",
     set_capacity, FIELD(capacity_bytes), 0, 0},
    COMMON_JSON("cenote.layout/1"),
    FLAG("quiet", quiet, "no notes, no progress, no summary"),
    COMMON_HELP,
};

static const struct cli_option replay_options[] = {
    {"allocator", "cenote|tensors|buddy|best-fit|first-fit",
     "who is asked for the blocks; tensors: Cenote's pools, in tensors that compaction may move; "
     "default: cenote, a pool for each pool of the trace",
     set_allocator, 0, 0, 0},
    {"budget", "SIZE",
     "the most that the allocator may take; what does not fit is left out, and the exit code is 3; "
     "default: no limit",
     set_capacity, FIELD(capacity_bytes), 0, 0},
    {"generate", "vlm:SEED:OPS:chunked|contiguous",
     "in place of TRACE: what a server of a vision-language model allocates, with keys and values "
     "in chunks or in one piece a sequence",
     set_generate, 0, 0, 0},
    {"memory-viz", "FILE",
     "also write the replay as PyTorch's memory snapshots are, in JSON (tools/traces/convert.py "
     "pickle makes what pytorch.org/memory_viz draws)",
     set_text, FIELD(memory_viz_path), 0, 0},
    COMMON_JSON("cenote.replay/1"),
    FLAG("quiet", quiet, "no notes, no progress"),
    COMMON_HELP,
};

const struct cli_command cli_commands[] = {
    {"run", "[MODEL_DIR]", "answer a prompt about images, inside a memory budget",
     "MODEL_DIR is a Hugging Face directory as downloaded; without it the demo model answers. The "
     "answer streams to standard output "
     "as it is produced. When standard error is a terminal a progress line shows there; a "
     "summary of two lines follows the answer: what it took, and what bound the speed.\n\n"
     "--memory is a promise about the whole process: its peak resident set and its page tables "
     "(VmHWM + VmPTE) stay at or below it. A budget that cannot work is refused before any weight "
     "is read, with the smallest budget that does.\n\n"
     "Tokens are the likeliest ones unless a draw is asked for. --sample follows the model's "
     "generation_config.json: temperature, top_k, top_p and repetition_penalty, in transformers' "
     "meaning and with its defaults where the file says nothing; --temperature, --top-k, --top-p "
     "and --repetition-penalty say otherwise, or ask for a draw without --sample, from all tokens "
     "at temperature 1 but for what they say.\n\n"
     "Control-token text in --prompt is ordinary text unless --parse-special is given. FILE.npy "
     "appears when the run has ended well and not before.",
     "cenote run Qwen3-VL-2B-Instruct --image cat.jpg --prompt 'What is this?' --memory 1GiB",
     cli_run, run_options, COUNT(run_options)},
    {"chat", "[MODEL_DIR]", "talk with a model, inside a memory budget",
     "Each line of standard input is a message, each reply streams to standard output. What was "
     "read and said stays in the cache: a message costs what is new in it. On a terminal lines can "
     "be edited and called back; a backslash at the end of a line goes on with the next.\n\n"
     "Lines that begin with a slash are commands: /image PATH attaches a picture to the next "
     "message, /stats says what is held, read and used and what bounds the speed, /memory SIZE "
     "moves the budget, /reset forgets the conversation, /help lists them, /quit ends (as Ctrl-D "
     "does). A message that is to begin with a slash begins with two. At the end the whole "
     "conversation's speed and its bound are said.\n\n"
     "Ctrl-C stops the reply, and what came of it stays in the conversation; three of them in one "
     "reply end the process. The conversation has a most number of tokens (--max-context): then a "
     "message is refused, and /reset makes room. --memory is the promise that it is for cenote "
     "run; a message that does not fit into it (a large picture) is refused, and the conversation "
     "goes on.",
     "cenote chat Qwen3-VL-2B-Instruct --image cat.jpg --memory 1GiB", cli_chat, chat_options,
     COUNT(chat_options)},
    {"plan", "MODEL_DIR", "say whether a run fits a budget, and where each byte goes",
     "The same code as the refusal of cenote run. The seconds of a token are the longer of what "
     "the "
     "disk takes to read it and what the processors take to multiply it; both rates are measured "
     "once, in some two seconds, and kept in $XDG_CACHE_HOME/cenote/speed.json (~/.cache). "
     "Pictures "
     "are taken to be upright and decoded a row at a time (an interlaced PNG, a progressive JPEG "
     "or one that "
     "EXIF turns may take more).\n\nThe exit code is 0 when the run fits and 3 when it does not.",
     "cenote plan Qwen3-VL-2B-Instruct --memory 512MiB --image 1024x768 --max-tokens 64", cli_plan,
     plan_options, COUNT(plan_options)},
    {"inspect", "MODEL_DIR|FILE.safetensors", "list the tensors of a checkpoint",
     "By class: how many, how many bytes, and the bytes that each token touches. Classes are known "
     "for a model directory; in a single file every tensor is of class unknown.",
     "cenote inspect Qwen3-VL-2B-Instruct --json", cli_inspect, inspect_options,
     COUNT(inspect_options)},
    {"doctor", "", "say what this machine is: caches, cores, pages, memory",
     "Kernels are cut for these caches, and a run without --memory and --threads takes what is "
     "said "
     "here. Of CPUs only those count that the process may use. With CENOTE_HARDWARE it is what "
     "that profile says.",
     "cenote doctor --json", cli_doctor, doctor_options, COUNT(doctor_options)},
    {"pack", "MODEL_DIR", "write a copy of the matrices that is a quarter smaller",
     "The copy holds bf16 matrices in 12 bits an element, without loss: the same numbers, from "
     "three quarters of the bytes. cenote run reads one that lies in MODEL_DIR, and with --cache "
     "one elsewhere. It is one file, cenote-<16 digits>.pack, and a pure cache: it belongs to the "
     "files that it was made of, by their sizes, times and headers, and may be deleted at any "
     "time.\n\n"
     "A copy that is there and fits the checkpoint is left alone; a stale one, or one whose table "
     "is damaged, is written anew. It is written beside its place and renamed when it is whole "
     "and on the disk, so an interrupted call leaves nothing behind. A disk with too little room "
     "is refused first.\n\n"
     "--verify exits with 5 when the copy is stale or a part of it is damaged, and with 1 when "
     "there is none.",
     "cenote pack Qwen3-VL-2B-Instruct --out /var/cache/cenote", cli_pack, pack_options,
     COUNT(pack_options)},
    {"demo", "", "ask the demo model about three of its pictures",
     "Shows each picture (in colours where the terminal has them), the question, what the picture "
     "shows and what the model says. Each question gets the smallest budget that works, in "
     "which the weights do not fit: they stream.\n\n"
     "The model is tiny, trained on drawn shapes, numbers and words, and knows nothing else; its "
     "README.md says how often it is right.",
     "cenote demo", cli_demo, demo_options, COUNT(demo_options)},
    {"layout", "FILE.csv", "find offsets for buffers whose lifetimes are known",
     "The file (- is standard input) begins with the line id,lower,upper,size or "
     "id,lower,upper,size,alignment. Each further line is a buffer that lives in [lower, upper); "
     "time may count anything, sizes and alignments are in bytes, an alignment is a power of "
     "two.\n\n"
     "Written are lines id,offset, in the order of the file, such that no two buffers that live at "
     "the same time overlap. The peak, the largest offset + size, is at most that of three greedy "
     "orders, by size, by area and in time; a search improves on the best of them until the time "
     "is "
     "over, the steps are done or nothing can be gained. Ctrl-C writes the best so far. An attempt "
     "is ended before the clock is looked at: with many thousands of buffers that may take a "
     "second and more.",
     "cenote layout buffers.csv --capacity 512MiB --time-limit 1min", cli_layout, layout_options,
     COUNT(layout_options)},
    {"replay", "[TRACE]", "ask an allocator for what a trace says, and report how it did",
     "TRACE (- is standard input) is what CENOTE_TRACE or cenote_trace_start() recorded, or text: "
     "a "
     "line 'a ID SIZE [ALIGN]' for each allocation and 'f ID' for each free, numbers in decimal; "
     "what follows a # is a comment. A recording that was cut off is replayed as far as it "
     "goes.\n\n"
     "Printed are a digest of all offsets, which is the same on every machine; the footprint, the "
     "most memory that was held, over what lived at most; and how long allocations and frees "
     "took, the clock's own time included. Blocks are not touched. The footprint of cenote is what "
     "its budget was charged, page tables included; that of the others is the highest end of a "
     "block.",
     "cenote replay --generate vlm:1:1000000:chunked --allocator best-fit", cli_replay,
     replay_options, COUNT(replay_options)},
};
const size_t cli_command_count = COUNT(cli_commands);

const struct cli_command *cli_command_find(const char *name)
{
    for (size_t i = 0; i < cli_command_count; i++)
        if (strcmp(cli_commands[i].name, name) == 0)
            return &cli_commands[i];
    return NULL;
}

/* ---- parser ---- */

#define OPTION_COUNT_MAX 32u
/* getopt_long() returns this plus the option's index; above every character. */
#define OPTION_BASE 256

static cenote_status usage(const struct cli_command *command, cenote_error *err, const char *what,
                           const char *name)
{
    return cenote_error_set(err, CENOTE_E_INVAL, "%s: %s%s (see 'cenote %s --help')", command->name,
                            what, name, command->name);
}

static void long_options(const struct cli_command *command, struct option *out)
{
    memset(out, 0, (OPTION_COUNT_MAX + 1) * sizeof *out);
    for (size_t i = 0; i < command->option_count && i < OPTION_COUNT_MAX; i++) {
        out[i].name = command->options[i].name;
        out[i].has_arg = command->options[i].value_name != NULL ? required_argument : no_argument;
        out[i].val = OPTION_BASE + (int)i;
    }
}

static cenote_status set_option(const struct cli_command *command, size_t index,
                                struct cli_options *options, cenote_error *err)
{
    const struct cli_option *option = &command->options[index];
    cenote_error detail;
    cenote_status status = option->set(options, option, optarg, &detail);
    if (status != CENOTE_OK)
        return cenote_error_set(err, status, "%s: --%s: %s", command->name, option->name,
                                detail.message);
    return CENOTE_OK;
}

/* getopt says '?' for an option that nobody knows, an abbreviation of several and a value that the
 * option does not take; only the last leaves its code in optopt. */
static cenote_status refuse_option(const struct cli_command *command, int code, const char *word,
                                   cenote_error *err)
{
    if (code == ':')
        return usage(command, err, "a value is missing after ", word);
    if (optopt >= OPTION_BASE)
        return usage(command, err, "no value belongs to --",
                     command->options[optopt - OPTION_BASE].name);
    return usage(command, err, "unknown or ambiguous option ", word);
}

static cenote_status take_path(const struct cli_command *command, int argc, char **argv,
                               struct cli_options *options, cenote_error *err)
{
    int most = command->argument[0] != '\0' ? 1 : 0;
    bool optional = most == 0 || command->argument[0] == '[';
    if (optind + most < argc)
        return usage(command, err, "one argument too many: ", argv[optind + most]);
    if (optind == argc)
        return optional ? CENOTE_OK : usage(command, err, command->argument, " is missing");
    options->path = argv[optind];
    if (options->path[0] == '\0')
        return usage(command, err, command->argument, " is empty");
    return CENOTE_OK;
}

cenote_status cli_options_parse(const struct cli_command *command, int argc, char **argv,
                                struct cli_options *out_options, cenote_error *err)
{
    struct cli_options options = {
        .kv_dtype = CENOTE_DTYPE_F32,
        .time_limit_s = CLI_NOT_GIVEN,
        .sampling = {CLI_NOT_GIVEN, CLI_TOP_K_NOT_GIVEN, CLI_NOT_GIVEN, CLI_NOT_GIVEN, 0},
    };
    struct option table[OPTION_COUNT_MAX + 1];
    long_options(command, table);
    optind = 0; /* 0 and not 1: GNU getopt forgets an earlier scan */
    opterr = 0;
    for (;;) {
        int word = optind > 0 ? optind : 1;
        int code = getopt_long(argc, argv, ":", table, NULL);
        if (code == -1)
            break;
        cenote_status status;
        if (code >= OPTION_BASE)
            status = set_option(command, (size_t)(code - OPTION_BASE), &options, err);
        else
            status = refuse_option(command, code, argv[optind > word ? optind - 1 : word], err);
        if (status != CENOTE_OK)
            return status;
    }
    cenote_status status = CENOTE_OK;
    if (!options.help)
        status = take_path(command, argc, argv, &options, err);
    if (status == CENOTE_OK)
        *out_options = options;
    return status;
}
