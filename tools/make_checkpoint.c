/* SPDX-License-Identifier: Apache-2.0 */
/* make_checkpoint: writes a random Qwen3-VL checkpoint of any shape, at the speed of the disk.
 *
 * The directory is what a model hub would give: config, tokenizer, template, safetensors. Its
 * values depend on the seed and the tensors' names alone, never on sharding or dtype order, so two
 * runs with one seed agree. Its text is noise; it is there for tests, benches and trials. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "checkpoint/checkpoint.h"

static const char usage[] =
    "Usage: make_checkpoint SHAPE OUT_DIR [options]\n"
    "       make_checkpoint --config FILE.json OUT_DIR [options]\n"
    "Writes a random Qwen3-VL checkpoint in Hugging Face layout. OUT_DIR must not exist or be\n"
    "empty. Values depend on the seed and the tensors' names only.\n"
    "\n"
    "  SHAPE                  tiny, 2b, 4b, 8b or 32b\n"
    "  --config FILE.json     shape of this config.json, which is copied as it is\n"
    "  --seed N               default 0\n"
    "  --dtype TYPE           bf16 (default), f16, f32 or mixed\n"
    "  --shard-size SIZE      most bytes of tensors in a file, default 2GB\n"
    "  --shards N             this many files instead\n"
    "  --odd-offsets          data at odd offsets of the file, and one tensor no model knows\n"
    "  --tokenizer KIND       small (600 entries) or released (151,643); default: small for tiny\n"
    "  --image-pixels MIN:MAX limits of the image processor, default 65536:16777216\n"
    "  --keep-free SIZE       disk space to leave, default 256MiB\n"
    "  --threads N            writers, default: CPUs, at most 4\n"
    "  --buffered             through the page cache, as where O_DIRECT does not work\n"
    "  --quiet                no closing line\n"
    "  --help\n"
    "\n"
    "Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Nothing stays after a failure.\n";

struct options {
    const char *shape, *config, *out_dir;
    uint64_t seed, keep_free, pixels_min, pixels_max;
    enum ckpt_dtype dtype;
    struct ckpt_layout layout;
    const char *tokenizer;
    uint64_t threads;
    bool buffered, quiet, help;
};

static int bad_usage(const char *format, const char *value)
{
    char line[512];
    snprintf(line, sizeof(line), format, value);
    ckpt_fail("%s (--help lists the options)", line);
    return 2;
}

static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out_number)
{
    char *end;
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || number < min || number > max)
        return false;
    *out_number = number;
    return true;
}

/* 500, 64KiB, 2GB: decimal and binary units. */
static bool parse_size(const char *text, uint64_t *out_bytes)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } units[] = {{"", 1},
                 {"kB", 1000},
                 {"KB", 1000},
                 {"MB", 1000000},
                 {"GB", 1000000000},
                 {"TB", 1000000000000},
                 {"KiB", 1u << 10},
                 {"MiB", 1u << 20},
                 {"GiB", 1u << 30},
                 {"TiB", 1ull << 40}};
    char *end;
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || errno)
        return false;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strcmp(end, units[i].text) == 0)
            return cn_checked_mul(number, units[i].bytes, out_bytes);
    return false;
}

static bool parse_pixels(const char *text, struct options *options)
{
    char first[24];
    size_t length = strcspn(text, ":");
    if (text[length] != ':' || length >= sizeof(first))
        return false;
    memcpy(first, text, length);
    first[length] = 0;
    return parse_number(first, 1, UINT32_MAX, &options->pixels_min) &&
           parse_number(text + length + 1, options->pixels_min, UINT32_MAX, &options->pixels_max);
}

static bool parse_dtype(const char *text, enum ckpt_dtype *out_dtype)
{
    static const struct {
        const char *text;
        enum ckpt_dtype dtype;
    } names[] = {{"bf16", CKPT_BF16}, {"f16", CKPT_F16}, {"f32", CKPT_F32}, {"mixed", CKPT_MIXED}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i].text, text) == 0) {
            *out_dtype = names[i].dtype;
            return true;
        }
    }
    return false;
}

static bool option_read(int option, const char *value, struct options *options)
{
    switch (option) {
    case 'c':
        options->config = value;
        return true;
    case 's':
        return parse_number(value, 0, UINT64_MAX, &options->seed);
    case 'd':
        return parse_dtype(value, &options->dtype);
    case 'z':
        return parse_size(value, &options->layout.shard_bytes_max) &&
               options->layout.shard_bytes_max > 0;
    case 'n':
        return parse_number(value, 1, 99999, &options->layout.shard_count);
    case 'o':
        options->layout.odd_offsets = true;
        return true;
    case 't':
        options->tokenizer = value;
        return strcmp(value, "small") == 0 || strcmp(value, "released") == 0;
    case 'p':
        return parse_pixels(value, options);
    case 'f':
        return parse_size(value, &options->keep_free);
    case 'j':
        return parse_number(value, 1, 16, &options->threads);
    case 'b':
        options->buffered = true;
        return true;
    case 'q':
        options->quiet = true;
        return true;
    default:
        options->help = true;
        return true;
    }
}

/* @return 0, or the exit code. */
static int options_read(int argc, char **argv, struct options *options)
{
    static const struct option table[] = {
        {"config", required_argument, NULL, 'c'},
        {"seed", required_argument, NULL, 's'},
        {"dtype", required_argument, NULL, 'd'},
        {"shard-size", required_argument, NULL, 'z'},
        {"shards", required_argument, NULL, 'n'},
        {"odd-offsets", no_argument, NULL, 'o'},
        {"tokenizer", required_argument, NULL, 't'},
        {"image-pixels", required_argument, NULL, 'p'},
        {"keep-free", required_argument, NULL, 'f'},
        {"threads", required_argument, NULL, 'j'},
        {"buffered", no_argument, NULL, 'b'},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option, place = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", table, &place)) != -1) {
        if (option == '?' || option == ':')
            return bad_usage(option == '?' ? "unknown option %s" : "%s needs a value",
                             argv[optind - 1]);
        if (!option_read(option, optarg, options)) {
            ckpt_fail("bad value '%s' for --%s (--help lists the options)", optarg,
                      table[place].name);
            return 2;
        }
    }
    if (options->help)
        return 0;
    int wanted = options->config ? 1 : 2;
    if (argc - optind != wanted)
        return bad_usage(options->config ? "with --config give OUT_DIR alone%s"
                                         : "give SHAPE and OUT_DIR%s",
                         "");
    options->shape = options->config ? NULL : argv[optind];
    options->out_dir = argv[argc - 1];
    if (options->config && options->tokenizer)
        return bad_usage("--tokenizer %s: the config's image_token_id decides the vocabulary",
                         options->tokenizer);
    return 0;
}

/* ---- the run ---- */

struct small_file {
    const char *name;
    char *text;
    size_t size;
};

enum { SMALL_FILES_MAX = 8 };

struct content {
    json_t *config;
    struct ckpt_shape shape;
    struct ckpt_tensors tensors;
    struct ckpt_shards shards;
    struct small_file files[SMALL_FILES_MAX];
    size_t file_count;
    uint64_t total_bytes;
};

static int file_add(struct content *content, const char *name, char *text)
{
    if (!text)
        return ckpt_fail("no memory for %s", name);
    struct small_file *file = &content->files[content->file_count++];
    *file = (struct small_file){name, text, strlen(text)};
    content->total_bytes += file->size;
    return 0;
}

/* @return 0, or the exit code. */
static int config_load(const struct options *options, struct content *content)
{
    if (!options->config) {
        bool small = options->tokenizer ? strcmp(options->tokenizer, "small") == 0
                                        : ckpt_preset_is_small(options->shape);
        content->config = ckpt_preset(options->shape, small, options->dtype);
        if (!content->config)
            return bad_usage("unknown shape %s; there are tiny, 2b, 4b, 8b and 32b",
                             options->shape);
    } else {
        json_error_t error;
        content->config = json_load_file(options->config, JSON_REJECT_DUPLICATES, &error);
        if (!content->config) {
            if (error.line > 0)
                ckpt_fail("%s, line %d: %s", options->config, error.line, error.text);
            else
                ckpt_fail("%s", error.text); /* names the file itself */
            return 1;
        }
    }
    return ckpt_shape_read(content->config, &content->shape) == 0 ? 0 : 1;
}

static int content_make(const struct options *options, struct content *content)
{
    const struct ckpt_shape *shape = &content->shape;
    uint32_t special_first = (uint32_t)shape->special_first;
    if (ckpt_tensors_make(shape, options->dtype, options->layout.odd_offsets, &content->tensors) ||
        ckpt_shards_plan(&options->layout, &content->tensors, &content->shards))
        return -1;
    size_t tokenizer_size;
    /* Both ways to write merges are in use; the large vocabularies of today have pairs. */
    bool merge_pairs = special_first > 100000;
    if (file_add(content, "config.json", json_dumps(content->config, JSON_INDENT(2))) ||
        file_add(content, "generation_config.json", ckpt_generation_config(special_first)) ||
        file_add(content, "preprocessor_config.json",
                 ckpt_preprocessor_config(shape, options->pixels_min, options->pixels_max)) ||
        file_add(content, "chat_template.json", ckpt_chat_template()) ||
        file_add(content, "tokenizer_config.json", ckpt_tokenizer_config(special_first)) ||
        file_add(content, "tokenizer.json",
                 ckpt_tokenizer_json(special_first, merge_pairs, &tokenizer_size)))
        return -1;
    if (content->shards.count > 1 &&
        file_add(content, "model.safetensors.index.json",
                 ckpt_shards_index(&content->shards, &content->tensors)))
        return -1;
    content->total_bytes += content->shards.total_bytes;
    return 0;
}

static void content_fini(struct content *content)
{
    for (size_t i = 0; i < content->file_count; i++)
        free(content->files[i].text);
    ckpt_shards_fini(&content->shards);
    ckpt_tensors_fini(&content->tensors);
    json_decref(content->config);
}

static int content_write(const struct options *options, const struct content *content)
{
    struct ckpt_output output;
    ckpt_interrupt_catch();
    if (ckpt_output_open(options->out_dir, content->total_bytes, options->keep_free, &output) != 0)
        return -1;
    output.buffered = options->buffered;
    double started = ckpt_seconds();
    for (size_t i = 0; i < content->file_count; i++)
        if (ckpt_output_file(&output, content->files[i].name, content->files[i].text,
                             content->files[i].size) != 0)
            goto out_discard;
    if (ckpt_shards_write(&content->shards, &content->tensors, options->seed,
                          (unsigned)options->threads, &output) != 0 ||
        ckpt_interrupted() || ckpt_output_commit(&output) != 0)
        goto out_discard;
    double seconds = ckpt_seconds() - started;
    if (!options->quiet)
        printf("%s: %zu tensors, %" PRIu64 " bytes in %zu file%s, %.1f s, %.0f MB/s\n",
               options->out_dir, content->tensors.count, content->tensors.total_bytes,
               content->shards.count, content->shards.count == 1 ? "" : "s", seconds,
               1e-6 * (double)content->total_bytes / seconds);
    return 0;
out_discard:
    ckpt_output_discard(&output);
    return -1;
}

int main(int argc, char **argv)
{
    struct options options = {.keep_free = 256u << 20,
                              .pixels_min = 65536,
                              .pixels_max = 16777216,
                              .layout.shard_bytes_max = 2000000000};
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    options.threads = cpus < 1 ? 1 : cpus > 4 ? 4 : (uint64_t)cpus;
    int code = options_read(argc, argv, &options);
    if (code != 0)
        return code;
    if (options.help)
        return fputs(usage, stdout) < 0;
    struct content content = {0};
    code = config_load(&options, &content);
    if (code == 0 &&
        (content_make(&options, &content) != 0 || content_write(&options, &content) != 0))
        code = 1;
    content_fini(&content);
    if (ckpt_interrupted() && code != 0) {
        ckpt_fail("interrupted; nothing was left behind");
        return 130;
    }
    return code;
}
