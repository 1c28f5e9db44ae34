/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration files: what transformers 4.57 and 5 write is read alike, and every value that a
 * stranger could bend is refused with its name. */
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "config.h"
#include "json_file.h"

static const char base_config[] =
    "{\"model_type\": \"qwen3_vl\", \"image_token_id\": 90, \"video_token_id\": 91,"
    " \"vision_start_token_id\": 92, \"vision_end_token_id\": 93,"
    " \"text_config\": {\"vocab_size\": 100, \"hidden_size\": 64, \"intermediate_size\": 160,"
    "  \"num_hidden_layers\": 5, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    "  \"head_dim\": 32, \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-6, \"rope_theta\": 5000000,"
    "  \"rope_scaling\": {\"rope_type\": \"default\", \"mrope_section\": [6, 5, 5]},"
    "  \"tie_word_embeddings\": true, \"eos_token_id\": 7},"
    " \"vision_config\": {\"depth\": 4, \"hidden_size\": 48, \"intermediate_size\": 112,"
    "  \"num_heads\": 4, \"patch_size\": 16, \"out_hidden_size\": 64,"
    "  \"num_position_embeddings\": 2304, \"hidden_act\": \"gelu_pytorch_tanh\","
    "  \"deepstack_visual_indexes\": [2, 0, 1]}}";
static const char base_processor[] =
    "{\"size\": {\"shortest_edge\": 65536, \"longest_edge\": 16777216}, \"patch_size\": 16,"
    " \"merge_size\": 2, \"temporal_patch_size\": 2, \"image_mean\": [0.5, 0.5, 0.5],"
    " \"image_std\": [0.5, 0.5, 0.5]}";

static char directory[256];

static void write_file(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void remove_file(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    unlink(path);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(directory, sizeof directory, "%s/config.XXXXXX", TEST_SCRATCH_DIR);
    assert_non_null(mkdtemp(directory));
    write_file("config.json", base_config);
    write_file("preprocessor_config.json", base_processor);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    const char *const names[] = {"config.json", "preprocessor_config.json",
                                 "generation_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        remove_file(names[i]);
    return rmdir(directory);
}

/* The base with `path` ("a.b") set to the JSON value `value`, or removed when value is NULL. */
static void write_changed(const char *name, const char *base, const char *path, const char *value)
{
    json_t *root = json_loads(base, 0, NULL);
    assert_non_null(root);
    char key[128];
    snprintf(key, sizeof key, "%s", path);
    json_t *holder = root;
    char *last = key;
    for (char *dot; (dot = strchr(last, '.')) != NULL; last = dot + 1) {
        *dot = '\0';
        holder = json_object_get(holder, last);
        assert_non_null(holder);
    }
    if (value != NULL)
        assert_int_equal(
            json_object_set_new(holder, last, json_loads(value, JSON_DECODE_ANY, NULL)), 0);
    else
        assert_int_equal(json_object_del(holder, last), 0);
    char *text = json_dumps(root, 0);
    write_file(name, text);
    free(text);
    json_decref(root);
}

static void test_base(void **state)
{
    (void)state;
    qwen_config config;
    assert_int_equal(qwen_config_read(directory, &config, NULL), CENOTE_OK);
    assert_int_equal(config.text.head_dim, 32);
    assert_int_equal(config.text.mrope_section[1], 5);
    assert_true(config.text.tied);
    assert_true(config.text.rope_theta == 5e6f);
    assert_int_equal(config.vision.position_side, 48);
    /* Blocks 2, 0, 1 in list order feed text layers 2, 0, 1: by rank, not by place. */
    assert_int_equal(config.vision.deepstack_layer[0], 2);
    assert_int_equal(config.vision.deepstack_layer[1], 0);
    assert_int_equal(config.vision.deepstack_layer[2], 1);
    assert_int_equal(config.eos_count, 1);
    assert_int_equal(config.eos_ids[0], 7);
    assert_int_equal(config.image_limits.factor, 32);
}

static void test_transformers_5_spelling(void **state)
{
    (void)state;
    write_changed(
        "config.json", base_config, "text_config.rope_parameters",
        "{\"rope_type\": \"default\", \"rope_theta\": 10000, \"mrope_section\": [8, 8, 8]}");
    write_file("generation_config.json", "{\"eos_token_id\": [3, 4]}");
    write_changed("preprocessor_config.json", base_processor, "min_pixels", "9216");
    qwen_config config;
    assert_int_equal(qwen_config_read(directory, &config, NULL), CENOTE_OK);
    assert_true(config.text.rope_theta == 10000.0f);
    assert_int_equal(config.text.mrope_section[0], 8);
    assert_int_equal(config.eos_count, 2);
    assert_int_equal(config.eos_ids[1], 4);
    assert_int_equal(config.image_limits.pixels_min, 9216);
    assert_int_equal(config.image_limits.pixels_max, 16777216);
}

/* What is suggested, transformers' defaults for the rest; nonsense is an error for those who ask.
 */
static void test_sampling(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        qwen_sampling expected;
        const char *words; /* of the error; NULL: none */
    } cases[] = {
        {"{}", {1, 50, 1, 1, 0}, NULL},
        {"{\"do_sample\": true, \"temperature\": 0.7, \"top_p\": 0.8, \"top_k\": 20}",
         {0.7f, 20, 0.8f, 1, 0},
         NULL},
        {"{\"temperature\": null, \"top_k\": 0, \"repetition_penalty\": 1.05}",
         {1, 0, 1, 1.05f, 0},
         NULL},
        {"{\"temperature\": 0, \"top_p\": 0}", {0, 50, FLT_MIN, 1, 0}, NULL},
        {"{\"temperature\": -1}", {0, 0, 0, 0, 0}, "temperature"},
        {"{\"temperature\": \"hot\"}", {0, 0, 0, 0, 0}, "temperature"},
        {"{\"top_p\": 1.01}", {0, 0, 0, 0, 0}, "top_p"},
        {"{\"top_k\": 2.5}", {0, 0, 0, 0, 0}, "top_k"},
        {"{\"top_k\": -3}", {0, 0, 0, 0, 0}, "top_k"},
        {"{\"repetition_penalty\": 0}", {0, 0, 0, 0, 0}, "repetition_penalty"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_file("generation_config.json", cases[i].json);
        qwen_config config;
        assert_int_equal(qwen_config_read(directory, &config, NULL), CENOTE_OK);
        if (cases[i].words != NULL) {
            assert_int_equal(config.sampling_status, CENOTE_E_CORRUPT);
            assert_non_null(strstr(config.sampling_error.message, cases[i].words));
            continue;
        }
        assert_int_equal(config.sampling_status, CENOTE_OK);
        const qwen_sampling *a = &config.sampling, *b = &cases[i].expected;
        assert_true(a->temperature == b->temperature && a->top_p == b->top_p);
        assert_true(a->repetition_penalty == b->repetition_penalty);
        assert_int_equal(a->top_k, b->top_k);
    }
}

struct refusal {
    const char *file, *path, *value;
    cenote_status status;
    const char *words; /* that the message must hold */
};

static const struct refusal refusals[] = {
    {"config.json", "model_type", "\"qwen3_vl_moe\"", CENOTE_E_UNSUPPORTED, "not supported yet"},
    {"config.json", "model_type", "\"llama\"", CENOTE_E_UNSUPPORTED, "llama"},
    {"config.json", "model_type", NULL, CENOTE_E_UNSUPPORTED, "(none)"},
    {"config.json", "text_config", "[]", CENOTE_E_CORRUPT, "text_config"},
    {"config.json", "text_config.hidden_size", "0", CENOTE_E_CORRUPT, "hidden_size"},
    {"config.json", "text_config.hidden_size", "-4", CENOTE_E_CORRUPT, "-4"},
    {"config.json", "text_config.hidden_size", "9223372036854775807", CENOTE_E_CORRUPT, "65536"},
    {"config.json", "text_config.hidden_size", "64.5", CENOTE_E_CORRUPT, "not an integer"},
    {"config.json", "text_config.hidden_size", "\"64\"", CENOTE_E_CORRUPT, "not an integer"},
    {"config.json", "text_config.hidden_size", NULL, CENOTE_E_CORRUPT, "missing"},
    {"config.json", "text_config.num_key_value_heads", "3", CENOTE_E_CORRUPT, "divide"},
    {"config.json", "text_config.head_dim", "30", CENOTE_E_UNSUPPORTED, "multiple of 4"},
    {"config.json", "text_config.head_dim", "512", CENOTE_E_CORRUPT, "256"},
    {"config.json", "text_config.hidden_act", "\"gelu\"", CENOTE_E_UNSUPPORTED, "gelu"},
    {"config.json", "text_config.rms_norm_eps", "0", CENOTE_E_CORRUPT, "rms_norm_eps"},
    {"config.json", "text_config.rope_theta", "-1", CENOTE_E_CORRUPT, "rope_theta"},
    {"config.json", "text_config.rope_scaling.rope_type", "\"yarn\"", CENOTE_E_UNSUPPORTED, "yarn"},
    {"config.json", "text_config.rope_scaling.mrope_section", "[1, 2]", CENOTE_E_CORRUPT,
     "2 entries"},
    {"config.json", "text_config.rope_scaling.mrope_section", "[1, 2, -3]", CENOTE_E_CORRUPT,
     "[2]"},
    {"config.json", "text_config.attention_bias", "true", CENOTE_E_UNSUPPORTED, "attention_bias"},
    {"config.json", "text_config.eos_token_id", "100", CENOTE_E_CORRUPT, "below 100"},
    {"config.json", "vision_config.depth", "0", CENOTE_E_CORRUPT, "depth"},
    {"config.json", "vision_config.num_heads", "5", CENOTE_E_UNSUPPORTED, "48 / 5"},
    {"config.json", "vision_config.num_position_embeddings", "2305", CENOTE_E_CORRUPT, "square"},
    {"config.json", "vision_config.out_hidden_size", "32", CENOTE_E_CORRUPT, "32"},
    {"config.json", "vision_config.deepstack_visual_indexes", "[4]", CENOTE_E_CORRUPT, "0 to 3"},
    {"config.json", "vision_config.deepstack_visual_indexes", "[1, 1]", CENOTE_E_CORRUPT, "twice"},
    {"config.json", "vision_config.deepstack_visual_indexes", "[0,1,2,3,0,1]", CENOTE_E_CORRUPT,
     "6 entries"},
    {"config.json", "image_token_id", "100", CENOTE_E_CORRUPT, "image_token_id"},
    {"preprocessor_config.json", "image_mean", "[0.48, 0.5, 0.5]", CENOTE_E_UNSUPPORTED,
     "image_mean"},
    {"preprocessor_config.json", "patch_size", "14", CENOTE_E_CORRUPT, "14"},
    {"preprocessor_config.json", "max_pixels", "100", CENOTE_E_CORRUPT, "65536"},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *r = &refusals[i];
        bool model = strcmp(r->file, "config.json") == 0;
        write_changed(r->file, model ? base_config : base_processor, r->path, r->value);
        qwen_config config;
        cenote_error err = {0};
        cenote_status status = qwen_config_read(directory, &config, &err);
        if (status != r->status || strstr(err.message, r->words) == NULL)
            fail_msg("%s = %s: status %d, \"%s\"; wanted %d with \"%s\"", r->path,
                     r->value ? r->value : "(removed)", status, err.message, r->status, r->words);
        write_file("config.json", base_config);
        write_file("preprocessor_config.json", base_processor);
    }
}

static void test_files(void **state)
{
    (void)state;
    qwen_config config;
    cenote_error err = {0};
    write_file("config.json", "{\"a\": ");
    assert_int_equal(qwen_config_read(directory, &config, &err), CENOTE_E_CORRUPT);
    assert_non_null(strstr(err.message, "config.json"));
    write_file("config.json", "[]");
    assert_int_equal(qwen_config_read(directory, &config, &err), CENOTE_E_CORRUPT);
    remove_file("config.json");
    assert_int_equal(qwen_config_read(directory, &config, &err), CENOTE_E_NOTFOUND);
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", directory);
    assert_int_equal(mkfifo(path, 0600), 0); /* must not wait for a writer */
    assert_int_equal(qwen_config_read(directory, &config, &err), CENOTE_E_CORRUPT);
    unlink(path);
    write_file("config.json", base_config);
    assert_int_equal(truncate(path, (off_t)QWEN_JSON_FILE_BYTES_MAX + 1), 0);
    assert_int_equal(qwen_config_read(directory, &config, &err), CENOTE_E_CORRUPT);
    remove_file("preprocessor_config.json");
    write_file("config.json", base_config);
    assert_int_equal(qwen_config_read(directory, &config, &err), CENOTE_E_NOTFOUND);
    assert_non_null(strstr(err.message, "preprocessor_config.json"));
}

/* A tree takes up to a hundred times its text, outside of every budget. */
static void test_values_are_bounded(void **state)
{
    (void)state;
    enum { OBJECTS = QWEN_JSON_VALUES_MAX / 2 };
    char *text = malloc(strlen(base_config) + 3 * OBJECTS + 32);
    assert_non_null(text);
    char *end = text + sprintf(text, "{\"junk\": [");
    for (unsigned i = 0; i < OBJECTS; i++)
        end += sprintf(end, "{},");
    sprintf(end, "0], %s", strchr(base_config, '{') + 1);
    write_file("config.json", text);
    qwen_config config;
    cenote_error err = {0};
    assert_int_equal(qwen_config_read(directory, &config, &err), CENOTE_E_CORRUPT);
    assert_non_null(strstr(err.message, "config.json: over 32768 values"));
    /* A tenth of it is only odd. */
    sprintf(text + 10 + 3 * (OBJECTS / 10), "0], %s", strchr(base_config, '{') + 1);
    write_file("config.json", text);
    assert_int_equal(qwen_config_read(directory, &config, &err), CENOTE_OK);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_base, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_transformers_5_spelling, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sampling, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_values_are_bounded, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
