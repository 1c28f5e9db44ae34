/* SPDX-License-Identifier: Apache-2.0 */
/* Binding: a checkpoint that lacks a tensor, bends a shape or a type, or disagrees with its
 * tokenizer is refused by name; tensors that nobody asked for are counted and accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "qwen3vl.h"
#include "runner_fixture.h"

#define DOWN  "model.language_model.layers.1.mlp.down_proj.weight"
#define QNORM "model.language_model.layers.0.self_attn.q_norm.weight"
#define EMBED "model.language_model.embed_tokens.weight"

static char directory[256];
static json_t *header; /* of the tiny checkpoint */
static unsigned char *data;
static size_t data_bytes;

static void read_checkpoint(void)
{
    char path[512];
    snprintf(path, sizeof path, "%s/model.safetensors", fixture_checkpoint());
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    uint64_t header_bytes;
    assert_int_equal(fread(&header_bytes, sizeof header_bytes, 1, file), 1);
    char *text = malloc(header_bytes);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, header_bytes, file), header_bytes);
    header = json_loadb(text, header_bytes, 0, NULL);
    assert_non_null(header);
    free(text);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    data_bytes = (size_t)ftell(file) - 8 - header_bytes;
    data = malloc(data_bytes);
    assert_non_null(data);
    assert_int_equal(fseek(file, 8 + (long)header_bytes, SEEK_SET), 0);
    assert_int_equal(fread(data, 1, data_bytes, file), data_bytes);
    fclose(file);
}

static int group_set_up(void **state)
{
    (void)state;
    read_checkpoint();
    snprintf(directory, sizeof directory, "%s/model.XXXXXX", TEST_SCRATCH_DIR);
    assert_non_null(mkdtemp(directory));
    return 0;
}

static int group_tear_down(void **state)
{
    (void)state;
    json_decref(header);
    free(data);
    char command[512];
    snprintf(command, sizeof command, "rm -r '%s'", directory);
    return system(command);
}

/* A fresh copy of everything but the weights. */
static int set_up(void **state)
{
    (void)state;
    char command[1024];
    snprintf(command, sizeof command, "cp '%s'/*.json '%s'", fixture_checkpoint(), directory);
    return system(command);
}

static void write_weights(json_t *changed)
{
    char path[512], *text = json_dumps(changed, JSON_COMPACT);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    uint64_t header_bytes = strlen(text);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(&header_bytes, sizeof header_bytes, 1, file), 1);
    assert_int_equal(fwrite(text, 1, header_bytes, file), header_bytes);
    assert_int_equal(fwrite(data, 1, data_bytes, file), data_bytes);
    assert_int_equal(fclose(file), 0);
    free(text);
    json_decref(changed);
}

static cenote_status open_model(uint32_t *out_extra, cenote_error *err)
{
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = UINT64_C(1) << 30;
    options.process_bytes = QWEN_PROCESS_BYTES;
    cenote_budget *budget;
    assert_int_equal(cenote_budget_create(&options, &budget, NULL), CENOTE_OK);
    qwen_model *model = NULL;
    cenote_status status = qwen_model_open(budget, directory, &model, err);
    if (status == CENOTE_OK)
        *out_extra = qwen_model_extra_count(model);
    qwen_model_close(model);
    cenote_budget_stats stats;
    cenote_budget_stats_get(budget, &stats);
    assert_int_equal(stats.charged_bytes, QWEN_PROCESS_BYTES);
    cenote_budget_destroy(budget);
    return status;
}

static void expect(cenote_status wanted, const char *words, const char *more_words)
{
    uint32_t extra = 0;
    cenote_error err = {0};
    cenote_status status = open_model(&extra, &err);
    if (status != wanted || strstr(err.message, words) == NULL ||
        strstr(err.message, more_words) == NULL)
        fail_msg("status %d, \"%s\"; wanted %d with \"%s\" and \"%s\"", status, err.message, wanted,
                 words, more_words);
}

static void rename_tensor(json_t *changed, const char *from, const char *to)
{
    json_t *entry = json_incref(json_object_get(changed, from));
    assert_non_null(entry);
    json_object_del(changed, from);
    assert_int_equal(json_object_set_new(changed, to, entry), 0);
}

static void test_extra_tensors(void **state)
{
    (void)state;
    uint32_t extra = 99;
    cenote_error err = {0};
    write_weights(json_deep_copy(header));
    assert_int_equal(open_model(&extra, &err), CENOTE_OK);
    assert_int_equal(extra, 0);
    json_t *changed = json_deep_copy(header);
    json_t *offsets = json_pack("[I, I]", (json_int_t)data_bytes, (json_int_t)data_bytes);
    json_object_set_new(
        changed, "somebody.elses",
        json_pack("{s:s, s:[i], s:o}", "dtype", "I64", "shape", 0, "data_offsets", offsets));
    write_weights(changed);
    assert_int_equal(open_model(&extra, &err), CENOTE_OK);
    assert_int_equal(extra, 1);
}

static void test_missing(void **state)
{
    (void)state;
    const char *const names[] = {DOWN,
                                 QNORM,
                                 EMBED,
                                 "model.visual.pos_embed.weight",
                                 "model.visual.merger.linear_fc2.bias",
                                 "model.visual.deepstack_merger_list.1.norm.weight"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *changed = json_deep_copy(header);
        rename_tensor(changed, names[i], "lost");
        write_weights(changed);
        expect(CENOTE_E_CORRUPT, names[i], "missing");
    }
}

static void test_shapes_and_types(void **state)
{
    (void)state;
    json_t *changed = json_deep_copy(header);
    json_t *shape = json_object_get(json_object_get(changed, DOWN), "shape");
    json_t *first = json_incref(json_array_get(shape, 0));
    json_array_remove(shape, 0);
    json_array_append_new(shape, first);
    write_weights(changed); /* transposed: as many elements, another matrix */
    expect(CENOTE_E_CORRUPT, DOWN, "shape");

    changed = json_deep_copy(header);
    json_object_set_new(json_object_get(changed, DOWN), "dtype", json_string("I16"));
    write_weights(changed);
    expect(CENOTE_E_UNSUPPORTED, DOWN, "I16");
}

static void set_config(const char *key, json_int_t value)
{
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", directory);
    json_t *config = json_load_file(path, 0, NULL);
    assert_non_null(config);
    json_t *holder = json_object_get(config, key) ? config : json_object_get(config, "text_config");
    json_object_set_new(holder, key, json_integer(value));
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
}

static void test_config_against_the_rest(void **state)
{
    (void)state;
    write_weights(json_deep_copy(header));
    set_config("image_token_id", 3);
    expect(CENOTE_E_CORRUPT, "<|image_pad|>", "image_token_id");
    assert_int_equal(set_up(state), 0);
    set_config("num_hidden_layers", 6); /* one more than there are */
    expect(CENOTE_E_CORRUPT, "layers.5.", "missing");
    assert_int_equal(set_up(state), 0);
    set_config("vocab_size", 700);
    expect(CENOTE_E_CORRUPT, EMBED, "700");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_extra_tensors, set_up),
        cmocka_unit_test_setup(test_missing, set_up),
        cmocka_unit_test_setup(test_shapes_and_types, set_up),
        cmocka_unit_test_setup(test_config_against_the_rest, set_up),
    };
    return cmocka_run_group_tests(tests, group_set_up, group_tear_down);
}
