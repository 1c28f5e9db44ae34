/* SPDX-License-Identifier: Apache-2.0 */
/* `cenote inspect`: the tensors of a checkpoint, from its headers alone. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "json.h"

#define CLASSES_MAX 8u

struct checkpoint {
    const struct cli_options *options;
    cenote_budget *budget;
    qwen_model *model;            /* NULL for a single file and for an unknown architecture */
    cenote_weights *file_weights; /* opened without a model */
    const cenote_weights *weights;
};

struct class_sum {
    const char *name;
    uint64_t count;
    uint64_t size_bytes;
};

struct summary {
    struct class_sum classes[CLASSES_MAX];
    uint32_t class_count;
    uint64_t size_bytes;
    uint32_t largest; /* valid when there are tensors */
};

static const char *class_of(const struct checkpoint *checkpoint, uint32_t index)
{
    return checkpoint->model != NULL ? qwen_model_tensor_class(checkpoint->model, index)
                                     : "unknown";
}

static struct class_sum *find_class(struct summary *summary, const char *name)
{
    for (uint32_t i = 0; i < summary->class_count; i++)
        if (strcmp(summary->classes[i].name, name) == 0)
            return &summary->classes[i];
    if (summary->class_count == CLASSES_MAX)
        return &summary->classes[CLASSES_MAX - 1];
    struct class_sum *sum = &summary->classes[summary->class_count++];
    *sum = (struct class_sum){.name = name};
    return sum;
}

static void summarize(const struct checkpoint *checkpoint, struct summary *summary)
{
    *summary = (struct summary){0};
    uint64_t largest_bytes = 0;
    for (uint32_t i = 0; i < cenote_weights_count(checkpoint->weights); i++) {
        const cenote_tensor_info *info = cenote_weights_tensor(checkpoint->weights, i);
        struct class_sum *sum = find_class(summary, class_of(checkpoint, i));
        sum->count++;
        sum->size_bytes += info->size_bytes;
        summary->size_bytes += info->size_bytes;
        if (info->size_bytes > largest_bytes) {
            largest_bytes = info->size_bytes;
            summary->largest = i;
        }
    }
}

/* ---- text ---- */

static void print_shape(const cenote_tensor_info *info)
{
    putchar('[');
    for (uint32_t d = 0; d < info->rank; d++)
        printf("%s%llu", d > 0 ? ", " : "", (unsigned long long)info->shape[d]);
    putchar(']');
}

static void print_text(const struct checkpoint *checkpoint, const struct summary *summary)
{
    char size[CLI_BYTES_TEXT];
    uint32_t count = cenote_weights_count(checkpoint->weights);
    uint32_t files = cenote_weights_file_count(checkpoint->weights);
    printf("%u tensor%s in %u file%s, %s\n\n", count, count == 1 ? "" : "s", files,
           files == 1 ? "" : "s", cli_disk_text(summary->size_bytes, size));
    printf("  %-12s %8s %18s\n", "class", "tensors", "bytes");
    for (uint32_t i = 0; i < summary->class_count; i++)
        printf("  %-12s %8llu %18llu\n", summary->classes[i].name,
               (unsigned long long)summary->classes[i].count,
               (unsigned long long)summary->classes[i].size_bytes);
    if (checkpoint->model != NULL)
        printf("\n  each token touches %s\n",
               cli_disk_text(qwen_model_bytes_per_token(checkpoint->model), size));
    if (count == 0)
        return;
    const cenote_tensor_info *largest =
        cenote_weights_tensor(checkpoint->weights, summary->largest);
    char name[256];
    size_t name_bytes = strlen(largest->name);
    name_bytes = cli_text_clean(largest->name, name_bytes < 255 ? name_bytes : 255, name);
    printf("  the largest is %.*s %s ", (int)name_bytes, name, cenote_dtype_text(largest->dtype));
    print_shape(largest);
    printf(", %s\n", cli_disk_text(largest->size_bytes, size));
}

/* ---- JSON ---- */

static json_t *shape_json(const cenote_tensor_info *info)
{
    json_t *shape = json_array();
    for (uint32_t d = 0; d < info->rank; d++)
        if (json_array_append_new(shape, cli_json_count(info->shape[d])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return shape;
}

static json_t *tensor_json(const struct checkpoint *checkpoint, uint32_t index)
{
    const cenote_tensor_info *info = cenote_weights_tensor(checkpoint->weights, index);
    const char *path = cenote_weights_file_path(checkpoint->weights, info->file_index);
    const char *slash = strrchr(path, '/');
    return json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:s}", "name", cli_json_text(info->name),
                     "dtype", cenote_dtype_text(info->dtype), "shape", shape_json(info), "file",
                     cli_json_text(slash != NULL ? slash + 1 : path), "offset",
                     cli_json_count(info->offset_bytes), "bytes", cli_json_count(info->size_bytes),
                     "class", class_of(checkpoint, index));
}

static json_t *tensors_json(const struct checkpoint *checkpoint)
{
    json_t *tensors = json_array();
    for (uint32_t i = 0; i < cenote_weights_count(checkpoint->weights); i++)
        if (json_array_append_new(tensors, tensor_json(checkpoint, i)) != 0) {
            json_decref(tensors);
            return NULL;
        }
    return tensors;
}

static json_t *classes_json(const struct summary *summary)
{
    json_t *classes = json_object();
    for (uint32_t i = 0; i < summary->class_count; i++) {
        const struct class_sum *sum = &summary->classes[i];
        json_t *value = json_pack("{s:o, s:o}", "tensors", cli_json_count(sum->count), "bytes",
                                  cli_json_count(sum->size_bytes));
        if (json_object_set_new(classes, sum->name, value) != 0) {
            json_decref(classes);
            return NULL;
        }
    }
    return classes;
}

static json_t *inspect_json(const struct checkpoint *checkpoint, const struct summary *summary)
{
    uint32_t count = cenote_weights_count(checkpoint->weights);
    json_t *largest = json_null();
    if (count > 0)
        largest = cli_json_text(cenote_weights_tensor(checkpoint->weights, summary->largest)->name);
    json_t *per_token = json_null();
    if (checkpoint->model != NULL)
        per_token = cli_json_count(qwen_model_bytes_per_token(checkpoint->model));
    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "schema",
                     "cenote.inspect/1", "version", cenote_version(), "path",
                     cli_json_text(checkpoint->options->path), "files",
                     cli_json_count(cenote_weights_file_count(checkpoint->weights)), "tensor_count",
                     cli_json_count(count), "bytes", cli_json_count(summary->size_bytes),
                     "bytes_per_token", per_token, "largest_tensor", largest, "classes",
                     classes_json(summary), "tensors", tensors_json(checkpoint));
}

/* ---- the command ---- */

static cenote_status open_table(struct checkpoint *checkpoint, cenote_error *err)
{
    cenote_weights_options options = CENOTE_WEIGHTS_OPTIONS_INIT;
    cenote_status status = cenote_weights_open(checkpoint->budget, checkpoint->options->path,
                                               &options, &checkpoint->file_weights, err);
    if (status == CENOTE_OK)
        checkpoint->weights = checkpoint->file_weights;
    return status;
}

/* A directory is taken for a model. One of another architecture still has tensors to list. */
static cenote_status open_checkpoint(struct checkpoint *checkpoint, cenote_error *err)
{
    struct stat info;
    const char *path = checkpoint->options->path;
    cenote_status status = cli_budget_create(&checkpoint->budget, err);
    if (status != CENOTE_OK)
        return status;
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        return open_table(checkpoint, err);
    status = qwen_model_open(checkpoint->budget, path, &checkpoint->model, err);
    if (status == CENOTE_OK)
        checkpoint->weights = qwen_model_weights(checkpoint->model);
    if (status != CENOTE_E_UNSUPPORTED)
        return status;
    if (!checkpoint->options->quiet)
        cli_say("note: %s", err->message);
    return open_table(checkpoint, err);
}

int cli_inspect(const struct cli_options *options)
{
    cenote_error err;
    struct checkpoint checkpoint = {.options = options};
    int code = CLI_EXIT_OK;
    if (open_checkpoint(&checkpoint, &err) == CENOTE_OK) {
        struct summary summary;
        summarize(&checkpoint, &summary);
        if (!options->json)
            print_text(&checkpoint, &summary);
        else if (!cli_json_print(inspect_json(&checkpoint, &summary)))
            code = CLI_EXIT_FAILURE;
    } else {
        code = cli_fail(&err);
    }
    cenote_weights_close(checkpoint.file_weights);
    qwen_model_close(checkpoint.model);
    cenote_budget_destroy(checkpoint.budget);
    return code;
}
