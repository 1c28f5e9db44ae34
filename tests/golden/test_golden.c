/* SPDX-License-Identifier: Apache-2.0 */
/* The runner against transformers, stage by stage.
 *
 * cases/NAME.json says which random checkpoint to make, what to ask and what came out;
 * cases/NAME.f32 holds the values (make_goldens.py made both). Every case runs twice: with room
 * and the best instruction set, and in the smallest budget that works, where prefill goes in
 * chunks, with another number of threads and the portable kernels. Stages are compared one by one,
 * for one wrong stage hides in the noise of random weights when only the end is looked at. The
 * logits of both runs must be the same to the bit. CENOTE_GOLDEN_VERBOSE=1 prints every distance.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <jansson.h>

#include "checkpoint.h"
#include "image.h"
#include "program.h"
#include "qwen3vl.h"

#define GOLDEN_DIR   TEST_DATA_DIR "/../golden"
#define CASES_MAX    64
#define ARRAYS_MAX   256
#define IMAGES_MAX   8
#define RELATIVE_MAX 3e-5 /* of the RMS */

/* ---- a case as it lies on disk ---- */

/* Kept rows of one stage, and how far the runner's are from them. */
struct array {
    const char *stage;
    uint64_t index;
    uint64_t row_first, row_step, column_step, columns_total;
    uint64_t rows, columns;
    const float *values;
    uint64_t rows_seen;
    double difference, reference; /* sums of squares */
};

struct golden {
    json_t *manifest;
    float *values;
    struct array arrays[ARRAYS_MAX];
    size_t array_count;
    struct array *logits;
    uint64_t logits_step; /* of the run */
    uLong logits_sum;     /* of all bytes of all logits of the run */
    char folder[512], model[600];
};

static uint64_t number(const json_t *object, const char *key, uint64_t fallback)
{
    const json_t *value = json_object_get(object, key);
    return value ? (uint64_t)json_integer_value(value) : fallback;
}

static float *floats_read(const char *path)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long size = ftell(file);
    assert_true(size > 0);
    rewind(file);
    float *values = malloc((size_t)size);
    assert_non_null(values);
    assert_int_equal(fread(values, 1, (size_t)size, file), size);
    fclose(file);
    return values;
}

static void arrays_read(struct golden *golden)
{
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(golden->manifest, "arrays"), i, entry)
    {
        assert_true(i < ARRAYS_MAX);
        golden->arrays[i] = (struct array){
            .stage = json_string_value(json_object_get(entry, "stage")),
            .index = number(entry, "index", 0),
            .row_first = number(entry, "row_first", 0),
            .row_step = number(entry, "row_step", 1),
            .column_step = number(entry, "column_step", 1),
            .columns_total = number(entry, "columns_total", number(entry, "columns", 0)),
            .rows = number(entry, "rows", 0),
            .columns = number(entry, "columns", 0),
            .values = golden->values + number(entry, "offset", 0),
        };
        golden->array_count = i + 1;
        if (strcmp(golden->arrays[i].stage, "logits") == 0)
            golden->logits = &golden->arrays[i];
    }
    assert_non_null(golden->logits);
}

/* Writes the checkpoint that @p config and @p arguments describe. */
static void model_make(struct golden *golden, const char *config, const json_t *arguments)
{
    char config_path[512], said[1024];
    test_folder_create(TEST_SCRATCH_DIR, golden->folder, sizeof golden->folder);
    snprintf(golden->model, sizeof golden->model, "%s/model", golden->folder);
    snprintf(config_path, sizeof config_path, "%s/configs/%s.json", GOLDEN_DIR, config);
    const char *argv[24] = {TEST_BIN_DIR "/tools/make_checkpoint", "--config", config_path,
                            golden->model, "--quiet"};
    for (size_t i = 0; i < json_array_size(arguments); i++) {
        assert_true(i < 16);
        argv[5 + i] = json_string_value(json_array_get(arguments, i));
    }
    if (test_program_run(argv, said, sizeof said) != 0)
        fail_msg("%s", said);
}

static struct golden *golden_open(const char *name)
{
    char path[512];
    json_error_t error;
    struct golden *golden = calloc(1, sizeof *golden);
    assert_non_null(golden);
    snprintf(path, sizeof path, "%s/cases/%s.json", GOLDEN_DIR, name);
    golden->manifest = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!golden->manifest)
        fail_msg("%s: %s", path, error.text);
    snprintf(path, sizeof path, "%s/cases/%s.f32", GOLDEN_DIR, name);
    golden->values = floats_read(path);
    arrays_read(golden);
    const json_t *checkpoint = json_object_get(golden->manifest, "checkpoint");
    model_make(golden, json_string_value(json_object_get(checkpoint, "config")),
               json_object_get(checkpoint, "args"));
    return golden;
}

static void golden_close(struct golden *golden)
{
    test_folder_remove(golden->model);
    test_folder_remove(golden->folder);
    json_decref(golden->manifest);
    free(golden->values);
    free(golden);
}

/* ---- comparing ---- */

static void row_compare(struct array *array, uint64_t kept, const float *row)
{
    const float *golden = array->values + kept * array->columns;
    for (uint64_t i = 0; i < array->columns; i++) {
        double difference = (double)row[i * array->column_step] - (double)golden[i];
        array->difference += difference * difference;
        array->reference += (double)golden[i] * (double)golden[i];
    }
    array->rows_seen++;
}

/* Rows [first, first + rows) of a stage. */
static void rows_compare(struct array *array, uint64_t first, const float *values, uint64_t rows,
                         uint64_t columns)
{
    assert_int_equal(columns, array->columns_total);
    for (uint64_t kept = 0; kept < array->rows; kept++) {
        uint64_t row = array->row_first + kept * array->row_step;
        if (row >= first && row - first < rows)
            row_compare(array, kept, values + (row - first) * columns);
    }
}

static void on_stage(void *context, const char *name, uint64_t index, const float *values,
                     uint64_t rows, uint64_t columns)
{
    struct golden *golden = context;
    bool by_token = strncmp(name, "layer.", 6) == 0;
    for (size_t i = 0; i < golden->array_count; i++) {
        struct array *array = &golden->arrays[i];
        if (strcmp(array->stage, name) != 0 || (!by_token && array->index != index))
            continue;
        rows_compare(array, by_token ? index : 0, values, rows, columns);
    }
}

static cenote_status on_logits(void *context, const float *logits, uint32_t vocab_size,
                               cenote_error *err)
{
    struct golden *golden = context;
    (void)err;
    rows_compare(golden->logits, golden->logits_step++, logits, 1, vocab_size);
    golden->logits_sum = crc32(golden->logits_sum, (const Bytef *)logits, 4 * vocab_size);
    return CENOTE_OK;
}

/* Every stage near, and every kept row of it seen exactly once. */
static void arrays_check(struct golden *golden, const char *name, const char *how)
{
    bool verbose = getenv("CENOTE_GOLDEN_VERBOSE") != NULL;
    double worst = 0;
    const char *worst_stage = "";
    unsigned failures = 0;
    for (size_t i = 0; i < golden->array_count; i++) {
        struct array *array = &golden->arrays[i];
        double distance = sqrt(array->difference / array->reference);
        bool near = distance <= RELATIVE_MAX && array->rows_seen == array->rows;
        failures += !near;
        if (verbose || !near)
            print_message("%s, %s: %s [%llu]: %.2e, %llu of %llu rows%s\n", name, how, array->stage,
                          (unsigned long long)array->index, distance,
                          (unsigned long long)array->rows_seen, (unsigned long long)array->rows,
                          near ? "" : "  <-- FAR");
        if (!(distance <= worst)) {
            worst = distance;
            worst_stage = array->stage;
        }
        array->rows_seen = 0;
        array->difference = array->reference = 0;
    }
    print_message("%s, %s: at most %.2e of the RMS away (%s)\n", name, how, worst, worst_stage);
    if (failures > 0)
        fail_msg("%s, %s: %u arrays are far", name, how, failures);
}

static void ids_check(const json_t *wanted, const uint32_t *ids, uint64_t count, const char *what)
{
    for (uint64_t i = 0; i < count && i < json_array_size(wanted); i++)
        if (ids[i] != (uint64_t)json_integer_value(json_array_get(wanted, i)))
            fail_msg("%s %llu is %u, not %lld", what, (unsigned long long)i, ids[i],
                     (long long)json_integer_value(json_array_get(wanted, i)));
    if (count != json_array_size(wanted))
        fail_msg("%llu %ss, not %zu", (unsigned long long)count, what, json_array_size(wanted));
}

/* Resized picture and patch rows, bit for bit. */
static void pixels_check(const struct golden *golden, const qwen_request *request,
                         const uint32_t *grids)
{
    const json_t *all = json_object_get(golden->manifest, "grids");
    assert_int_equal(json_array_size(all), request->image_count);
    for (uint32_t i = 0; i < request->image_count; i++) {
        ids_check(json_array_get(all, i), grids + 3 * i, 3, "grid side");
        const json_t *pixels = json_array_get(json_object_get(golden->manifest, "pixels"), i);
        uint64_t rows = number(pixels, "rows", 0), columns = number(pixels, "columns", 0);
        uint32_t patch = (uint32_t)lround(sqrt((double)columns / 6));
        uint32_t height = grids[3 * i + 1] * patch, width = grids[3 * i + 2] * patch;
        assert_int_equal(rows, grids[3 * i + 1] * grids[3 * i + 2]);
        uint8_t *rgb = malloc((size_t)height * width * 3);
        float *patches = malloc(rows * columns * sizeof *patches);
        assert_true(rgb && patches);
        cenote_error err = {0};
        if (qwen_image_load(request->image_paths[i], height, width, rgb, &err) != CENOTE_OK)
            fail_msg("%s", err.message);
        uLong sum = crc32(0, rgb, (uInt)(height * width * 3));
        if (sum != number(pixels, "picture_crc32", 0))
            fail_msg("%s: another picture than PIL and torch make", request->image_paths[i]);
        qwen_image_patches(rgb, height, width, patch, 2, 2, 0, rows, patches);
        sum = crc32(0, (const Bytef *)patches, (uInt)(rows * columns * sizeof *patches));
        if (sum != number(pixels, "crc32", 0))
            fail_msg("%s: other patch rows", request->image_paths[i]);
        free(rgb);
        free(patches);
    }
}

/* ---- running ---- */

static void request_fill(const json_t *from, qwen_request *request)
{
    *request = (qwen_request){
        .prompt = json_string_value(json_object_get(from, "prompt")),
        .system = json_string_value(json_object_get(from, "system")),
        .raw_prompt = json_is_true(json_object_get(from, "raw_prompt")),
        .parse_special = json_is_true(json_object_get(from, "parse_special")),
        .max_tokens = (uint32_t)number(from, "max_tokens", 1),
        .kv_dtype = CENOTE_DTYPE_F32,
        .thread_count = 2,
    };
}

static qwen_model *model_open(cenote_budget *budget, const char *path)
{
    qwen_model *model = NULL;
    cenote_error err = {0};
    if (qwen_model_open(budget, path, &model, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    return model;
}

static cenote_budget *budget_create(uint64_t limit_bytes)
{
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = limit_bytes;
    options.process_bytes = QWEN_PROCESS_BYTES;
    cenote_budget *budget = NULL;
    assert_int_equal(cenote_budget_create(&options, &budget, NULL), CENOTE_OK);
    return budget;
}

static void job_run(struct golden *golden, qwen_job *job, const qwen_plan *plan)
{
    const qwen_events events = {.context = golden, .logits = on_logits, .stage = on_stage};
    qwen_result result;
    cenote_error err = {0};
    golden->logits_step = 0;
    golden->logits_sum = crc32(0, NULL, 0);
    if (qwen_job_run(job, plan, &events, &result, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    ids_check(json_object_get(golden->manifest, "token_ids"), result.token_ids, result.token_count,
              "token");
}

/* The portable kernels, or what the environment of the test asks for. */
static void isa_choose(bool portable)
{
    static char given[16];
    const char *now = getenv("CENOTE_ISA");
    if (portable) {
        snprintf(given, sizeof given, "%s", now ? now : "");
        setenv("CENOTE_ISA", "portable", 1);
    } else if (given[0]) {
        setenv("CENOTE_ISA", given, 1);
    } else {
        unsetenv("CENOTE_ISA");
    }
}

/* @p tight: the smallest budget that works, one thread more, and the portable kernels. */
static void case_run(struct golden *golden, const char *name, bool tight)
{
    const json_t *asked = json_object_get(golden->manifest, "request");
    const json_t *images = json_object_get(asked, "images");
    char paths[IMAGES_MAX][512];
    const char *image_paths[IMAGES_MAX];
    qwen_request request;
    request_fill(asked, &request);
    request.image_count = (uint32_t)json_array_size(images);
    request.image_paths = image_paths;
    assert_true(request.image_count <= IMAGES_MAX);
    for (uint32_t i = 0; i < request.image_count; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/images/%s", GOLDEN_DIR,
                 json_string_value(json_array_get(images, i)));
        image_paths[i] = paths[i];
    }
    if (tight) {
        isa_choose(true);
        request.thread_count++;
    }
    uint64_t limit_bytes = 1u << 30;
    cenote_budget *budget = budget_create(limit_bytes);
    qwen_model *model = model_open(budget, golden->model);
    qwen_job *job = NULL;
    cenote_error err = {0};
    if (qwen_job_create(model, &request, &job, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    uint64_t count;
    const uint32_t *ids = qwen_job_prompt_ids(job, &count);
    ids_check(json_object_get(golden->manifest, "prompt_ids"), ids, count, "prompt id");
    pixels_check(golden, &request, qwen_job_grids(job));
    qwen_shape shape;
    qwen_plan plan;
    qwen_job_shape(job, &shape);
    assert_int_equal(qwen_plan_make(model, &shape, limit_bytes, &plan, &err), CENOTE_OK);
    if (tight)
        assert_int_equal(qwen_plan_make(model, &shape, plan.smallest_bytes, &plan, &err),
                         CENOTE_OK);
    assert_true(plan.fits);
    assert_int_equal(cenote_budget_limit_set(budget, plan.limit_bytes, &err), CENOTE_OK);
    job_run(golden, job, &plan);
    char how[64];
    snprintf(how, sizeof how, "%s, %llu pass%s", tight ? "least memory, portable" : "ample memory",
             (unsigned long long)plan.prefill_weight_passes,
             plan.prefill_weight_passes == 1 ? "" : "es");
    arrays_check(golden, name, how);
    qwen_job_destroy(job);
    qwen_model_close(model);
    cenote_budget_destroy(budget);
    if (tight)
        isa_choose(false);
}

static void test_case(void **state)
{
    const char *name = *state;
    struct golden *golden = golden_open(name);
    case_run(golden, name, false);
    uLong sum = golden->logits_sum;
#ifdef __SANITIZE_THREAD__
    /* Minutes for the long prompt, and no other code than the short ones run. */
    if (json_array_size(json_object_get(golden->manifest, "prompt_ids")) > 1000) {
        print_message("%s: the tight run is skipped under ThreadSanitizer\n", name);
        golden_close(golden);
        return;
    }
#endif
    case_run(golden, name, true);
    assert_int_equal(golden->logits_sum, sum); /* the same to the bit */
    golden_close(golden);
}

/* Ids of awkward prompts, nothing run. */
static void test_prompts(void **state)
{
    (void)state;
    json_t *all = json_load_file(GOLDEN_DIR "/prompts.json", 0, NULL);
    assert_non_null(all);
    size_t i, j;
    json_t *vocabulary, *prompt;
    unsigned seen = 0;
    json_array_foreach(json_object_get(all, "vocabularies"), i, vocabulary)
    {
        struct golden golden = {0};
        model_make(&golden, json_string_value(json_object_get(vocabulary, "config")), NULL);
        cenote_budget *budget = budget_create(1u << 30);
        qwen_model *model = model_open(budget, golden.model);
        json_array_foreach(json_object_get(vocabulary, "prompts"), j, prompt)
        {
            qwen_request request;
            request_fill(prompt, &request);
            qwen_job *job = NULL;
            cenote_error err = {0};
            if (qwen_job_create(model, &request, &job, &err) != CENOTE_OK)
                fail_msg("prompt %zu: %s", j, err.message);
            char what[64];
            snprintf(what, sizeof what, "prompt %zu: id", j);
            uint64_t count;
            const uint32_t *ids = qwen_job_prompt_ids(job, &count);
            ids_check(json_object_get(prompt, "prompt_ids"), ids, count, what);
            qwen_job_destroy(job);
            seen++;
        }
        qwen_model_close(model);
        cenote_budget_destroy(budget);
        test_folder_remove(golden.model);
        test_folder_remove(golden.folder);
    }
    json_decref(all);
    assert_true(seen >= 40);
}

/* ---- the list ---- */

static int by_name(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* Names of cases, without ".json", sorted. */
static size_t cases_find(char *names[CASES_MAX])
{
    DIR *directory = opendir(GOLDEN_DIR "/cases");
    size_t count = 0;
    struct dirent *entry;
    while (directory && count < CASES_MAX && (entry = readdir(directory)) != NULL) {
        size_t length = strlen(entry->d_name);
        if (length > 5 && strcmp(entry->d_name + length - 5, ".json") == 0)
            names[count++] = strndup(entry->d_name, length - 5);
    }
    if (directory)
        closedir(directory);
    qsort(names, count, sizeof *names, by_name);
    return count;
}

/* Arguments: the cases to run; none: all. */
int main(int argc, char **argv)
{
    char *names[CASES_MAX];
    struct CMUnitTest tests[CASES_MAX + 1];
    size_t count = cases_find(names), test_count = 0;
    if (count < 8) {
        fprintf(stderr, "only %zu cases in %s\n", count, GOLDEN_DIR "/cases");
        return 1;
    }
    for (size_t i = 0; i < count; i++) {
        bool wanted = argc == 1;
        for (int k = 1; k < argc; k++)
            wanted = wanted || strcmp(argv[k], names[i]) == 0;
        if (wanted)
            tests[test_count++] = (struct CMUnitTest){names[i], test_case, NULL, NULL, names[i]};
    }
    if (argc == 1)
        tests[test_count++] = (struct CMUnitTest)cmocka_unit_test(test_prompts);
    int failed = _cmocka_run_group_tests("golden", tests, test_count, NULL, NULL);
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    return failed;
}
