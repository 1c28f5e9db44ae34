/* SPDX-License-Identifier: Apache-2.0 */
/* make_checkpoint: what it writes is what a reader of safetensors expects, the same for a seed
 * however it is cut into files, and whatever stops it leaves nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cenote/cenote.h>
#include <jansson.h>

#include "checkpoint.h"
#include "program.h"
#include "weights_fixture.h"

static const char *const tool = TEST_BIN_DIR "/tools/make_checkpoint";
static char parent[512];
static char said[1024];

static int setup(void **state)
{
    (void)state;
    test_folder_create(TEST_SCRATCH_DIR, parent, sizeof parent);
    return 0;
}

static size_t entries_of(const char *path)
{
    DIR *directory = opendir(path);
    size_t count = 0;
    while (directory && readdir(directory))
        count++;
    if (directory)
        closedir(directory);
    return count < 2 ? 0 : count - 2;
}

static int teardown(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "b", "c", "d"};
    char path[600];
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", parent, names[i]);
        if (access(path, F_OK) == 0)
            test_folder_remove(path);
    }
    size_t left = entries_of(parent); /* a partial folder would be one */
    test_folder_remove(parent);
    return left == 0 ? 0 : -1;
}

/* Runs the tool on parent/name with up to four more arguments, NULL-terminated. */
static int make(const char *name, const char *shape, const char *const more[])
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", parent, name);
    const char *argv[9] = {tool, shape, path, "--quiet"};
    for (int i = 0; more && more[i]; i++)
        argv[4 + i] = more[i];
    return test_program_run(argv, said, sizeof said);
}

static const char *path_of(const char *name)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", parent, name);
    return path;
}

static uint64_t tensor_sum(cenote_weights *weights, uint32_t index)
{
    const cenote_tensor_info *info = cenote_weights_tensor(weights, index);
    unsigned char *data = malloc(info->size_bytes);
    assert_non_null(data);
    cenote_error err = {0};
    if (cenote_weights_read(weights, index, 0, info->size_bytes, data, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    uint64_t sum = 0xcbf29ce484222325u;
    for (uint64_t i = 0; i < info->size_bytes; i++)
        sum = (sum ^ data[i]) * 0x100000001b3u;
    free(data);
    return sum;
}

/* Every tensor of the one is in the other with the same bytes. */
static void assert_same_values(cenote_weights *left, cenote_weights *right)
{
    for (uint32_t i = 0; i < cenote_weights_count(left); i++) {
        const cenote_tensor_info *info = cenote_weights_tensor(left, i);
        uint32_t other = test_weights_find(right, info->name);
        assert_int_equal(info->dtype, cenote_weights_tensor(right, other)->dtype);
        if (tensor_sum(left, i) != tensor_sum(right, other))
            fail_msg("%s differs", info->name);
    }
}

static void test_sharding_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(make("a", "tiny", NULL), 0);
    assert_int_equal(
        make("b", "tiny", (const char *const[]){"--shards", "3", "--odd-offsets", NULL}), 0);
    assert_int_equal(
        make("c", "tiny", (const char *const[]){"--seed", "1", "--threads", "1", NULL}), 0);
    assert_int_equal(
        make("d", "tiny", (const char *const[]){"--shard-size", "100KB", "--buffered", NULL}), 0);
    cenote_budget *budget = test_budget_create(1u << 30, NULL);
    cenote_weights *weights[4];
    for (int i = 0; i < 4; i++)
        weights[i] =
            test_weights_open(budget, path_of((const char[]){(char)('a' + i), 0}), CENOTE_IO_AUTO);
    assert_int_equal(cenote_weights_count(weights[0]), 132);
    assert_int_equal(cenote_weights_count(weights[1]), 133);
    assert_int_equal(cenote_weights_file_count(weights[0]), 1);
    assert_int_equal(cenote_weights_file_count(weights[1]), 3);
    assert_true(cenote_weights_file_count(weights[3]) > 8);
    assert_same_values(weights[0], weights[1]);
    assert_same_values(weights[0], weights[3]);
    /* Another seed, other values. */
    uint32_t embed = test_weights_find(weights[0], "model.language_model.embed_tokens.weight");
    assert_true(tensor_sum(weights[0], embed) != tensor_sum(weights[2], embed));
    /* Odd it said, and odd they are. */
    uint32_t odd = test_weights_find(weights[1], "model.language_model.norm.weight");
    assert_int_equal(cenote_weights_tensor(weights[1], odd)->offset_bytes % 2, 1);
    for (int i = 0; i < 4; i++)
        cenote_weights_close(weights[i]);
    cenote_budget_destroy(budget);
}

static float widen(cenote_dtype dtype, const unsigned char *data, uint64_t i)
{
    uint32_t bits = 0;
    float value;
    uint16_t half;
    if (dtype == CENOTE_DTYPE_F32) {
        memcpy(&value, data + 4 * i, 4);
        return value;
    }
    memcpy(&half, data + 2 * i, 2);
    if (dtype == CENOTE_DTYPE_BF16) {
        bits = (uint32_t)half << 16;
        memcpy(&value, &bits, 4);
        return value;
    }
    int exponent = half >> 10 & 31;
    float fraction = (float)(half & 1023) / 1024;
    value = exponent ? ldexpf(1 + fraction, exponent - 15) : ldexpf(fraction, -14);
    return half & 0x8000 ? -value : value;
}

static void assert_spread(cenote_weights *weights, const char *name, double mean, double deviation)
{
    uint32_t index = test_weights_find(weights, name);
    const cenote_tensor_info *info = cenote_weights_tensor(weights, index);
    unsigned char *data = malloc(info->size_bytes);
    assert_non_null(data);
    assert_int_equal(cenote_weights_read(weights, index, 0, info->size_bytes, data, NULL), 0);
    uint64_t count = info->size_bytes / cenote_dtype_bytes(info->dtype);
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < count; i++) {
        double value = widen(info->dtype, data, i);
        sum += value;
        squares += (value - mean) * (value - mean);
    }
    free(data);
    double found = sqrt(squares / (double)count), error = 5 / sqrt((double)count);
    if (fabs(sum / (double)count - mean) > error * deviation || fabs(found / deviation - 1) > error)
        fail_msg("%s: mean %g, deviation %g", name, sum / (double)count, found);
}

static void test_values_have_the_spread_asked_for(void **state)
{
    (void)state;
    static const char *const dtypes[] = {"bf16", "f16", "f32", "mixed"};
    cenote_budget *budget = test_budget_create(1u << 30, NULL);
    for (int i = 0; i < 4; i++) {
        const char name[2] = {(char)('a' + i), 0};
        assert_int_equal(make(name, "tiny", (const char *const[]){"--dtype", dtypes[i], NULL}), 0);
        cenote_weights *weights = test_weights_open(budget, path_of(name), CENOTE_IO_AUTO);
        assert_spread(weights, "model.language_model.embed_tokens.weight", 0, 0.02);
        assert_spread(weights, "model.visual.pos_embed.weight", 0, 0.5);
        assert_spread(weights, "model.visual.patch_embed.proj.weight", 0, 1 / sqrt(1536));
        assert_spread(weights, "model.language_model.layers.4.mlp.down_proj.weight", 0,
                      1 / sqrt(160));
        assert_spread(weights, "model.visual.deepstack_merger_list.2.norm.weight", 1, 0.1);
        assert_spread(weights, "model.visual.blocks.3.attn.qkv.bias", 0, 0.02);
        cenote_weights_close(weights);
    }
    cenote_budget_destroy(budget);
}

static void test_presets_have_the_published_sizes(void **state)
{
    (void)state;
    /* Disk that is not there: the refusal names the bytes without writing any. */
    static const struct {
        const char *shape;
        double megabytes;
    } sizes[] = {{"2b", 4255.064}, {"4b", 8875.632}, {"8b", 17534.247}, {"32b", 66714.780}};
    for (size_t i = 0; i < 4; i++) {
        const char *const more[] = {"--keep-free", "100000TiB", NULL};
        assert_int_equal(make("a", sizes[i].shape, more), 1);
        double takes = 0;
        const char *text = strstr(said, "takes ");
        assert_non_null(text);
        assert_int_equal(sscanf(text, "takes %lf MB", &takes), 1);
        /* tensors, tokenizer, headers and index */
        if (takes < sizes[i].megabytes + 12 || takes > sizes[i].megabytes + 14)
            fail_msg("%s takes %f MB", sizes[i].shape, takes);
    }
}

static void test_refuses_to_overwrite(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path_of("a"), 0777), 0);
    char file[700];
    snprintf(file, sizeof file, "%s/precious", path_of("a"));
    test_text_write(file, "x", 1);
    assert_int_equal(make("a", "tiny", NULL), 1);
    assert_non_null(strstr(said, "not empty (it has precious)"));
    assert_int_equal(entries_of(path_of("a")), 1);
    /* An empty folder is as good as none. */
    assert_int_equal(mkdir(path_of("b"), 0777), 0);
    assert_int_equal(make("b", "tiny", NULL), 0);
    assert_true(entries_of(path_of("b")) >= 7);
}

static void test_usage_is_told(void **state)
{
    (void)state;
    static const struct {
        const char *shape;
        const char *more[3];
        int code;
        const char *words;
    } cases[] = {
        {"3b", {NULL}, 2, "unknown shape 3b"},
        {"tiny", {"--dtype", "f8", NULL}, 2, "'f8' for --dtype"},
        {"tiny", {"--seed", "-1", NULL}, 2, "'-1' for --seed"},
        {"tiny", {"--shards", "0", NULL}, 2, "'0' for --shards"},
        {"tiny", {"--shard-size", "20XB", NULL}, 2, "'20XB' for --shard-size"},
        {"tiny", {"--shard-size", "99999999TiB", NULL}, 2, "for --shard-size"},
        {"tiny", {"--image-pixels", "9:3", NULL}, 2, "for --image-pixels"},
        {"tiny", {"--frobnicate", NULL}, 2, "--frobnicate"},
        {"tiny", {"--seed", NULL}, 2, "--seed needs a value"},
        {"tiny", {"more", NULL}, 2, "give SHAPE and OUT_DIR"},
        {"tiny", {"--shards", "5000", NULL}, 1, "5000 shards for 132 tensors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(make("a", cases[i].shape, cases[i].more), cases[i].code);
        if (!strstr(said, cases[i].words) || strchr(said, '\n') != said + strlen(said) - 1)
            fail_msg("case %zu: %s", i, said);
        assert_int_equal(entries_of(parent), 0);
    }
    assert_int_equal(test_program_run((const char *const[]){tool, "tiny", "/nonexistent/x", NULL},
                                      said, sizeof said),
                     1);
    assert_non_null(strstr(said, "No such file"));
    assert_int_equal(
        test_program_run((const char *const[]){tool, "--help", NULL}, said, sizeof said), 0);
}

static int make_from(const char *config, json_t *tree)
{
    assert_int_equal(json_dump_file(tree, config, 0), 0);
    return test_program_run(
        (const char *const[]){tool, "--config", config, path_of("b"), "--quiet", NULL}, said,
        sizeof said);
}

static void test_configs_are_checked(void **state)
{
    (void)state;
    assert_int_equal(make("a", "tiny", NULL), 0);
    char source[700], config[700];
    snprintf(source, sizeof source, "%s/config.json", path_of("a"));
    snprintf(config, sizeof config, "%s/wrong.json", path_of("a"));
    static const struct {
        const char *section, *key;
        const char *value; /* JSON */
        const char *words;
    } cases[] = {
        {"text_config", "hidden_size", "0", "text_config.hidden_size must be an integer in 1.."},
        {"text_config", "num_hidden_layers", "1e3", "num_hidden_layers"},
        {"vision_config", "depth", "\"4\"", "vision_config.depth"},
        {"text_config", "num_key_value_heads", "3", "4 attention heads are no multiple of 3"},
        {"text_config", "vocab_size", "620", "no room for the 26 added tokens"},
        {"vision_config", "deepstack_visual_indexes", "7", "deepstack_visual_indexes"},
        {NULL, "image_token_id", "100", "image_token_id must be an integer in 268.."},
        {NULL, "vision_end_token_id", "611", "must be 610"},
        {NULL, "model_type", "\"qwen3_vl_moe\"", "not qwen3_vl_moe"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *tree = json_load_file(source, 0, NULL);
        json_t *object = cases[i].section ? json_object_get(tree, cases[i].section) : tree;
        json_object_set_new(object, cases[i].key,
                            json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        assert_int_equal(make_from(config, tree), 1);
        if (!strstr(said, cases[i].words))
            fail_msg("case %zu: %s", i, said);
        json_decref(tree);
    }
    test_text_write(config, "{\n\"a\": ]", 9);
    assert_int_equal(
        test_program_run((const char *const[]){tool, "--config", config, path_of("b"), NULL}, said,
                         sizeof said),
        1);
    assert_non_null(strstr(said, "wrong.json, line 2"));
    /* And the untouched one gives the same checkpoint again. */
    json_t *tree = json_load_file(source, 0, NULL);
    assert_int_equal(make_from(config, tree), 0);
    json_decref(tree);
    cenote_budget *budget = test_budget_create(1u << 30, NULL);
    unlink(config); /* a is a model folder again */
    cenote_weights *left = test_weights_open(budget, path_of("a"), CENOTE_IO_AUTO);
    cenote_weights *right = test_weights_open(budget, path_of("b"), CENOTE_IO_AUTO);
    assert_same_values(left, right);
    cenote_weights_close(left);
    cenote_weights_close(right);
    cenote_budget_destroy(budget);
}

/* Every merge joins two entries into one that is there, with a higher id. */
static void test_tokenizer_is_closed(void **state)
{
    (void)state;
    assert_int_equal(make("a", "tiny", NULL), 0);
    char path[700];
    snprintf(path, sizeof path, "%s/tokenizer.json", path_of("a"));
    json_error_t error;
    json_t *tree = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!tree)
        fail_msg("%s", error.text);
    json_t *model = json_object_get(tree, "model");
    json_t *vocabulary = json_object_get(model, "vocab"),
           *merges = json_object_get(model, "merges");
    assert_int_equal(json_object_size(vocabulary), 600);
    assert_int_equal(json_array_size(merges), 600 - 256);
    assert_int_equal(json_array_size(json_object_get(tree, "added_tokens")), 26);
    size_t i;
    json_t *merge;
    json_array_foreach(merges, i, merge)
    {
        char both[64];
        snprintf(both, sizeof both, "%s", json_string_value(merge));
        char *space = strchr(both, ' ');
        assert_non_null(space);
        *space = 0;
        json_int_t left = json_integer_value(json_object_get(vocabulary, both));
        json_int_t right = json_integer_value(json_object_get(vocabulary, space + 1));
        memmove(space, space + 1, strlen(space + 1) + 1);
        json_int_t joined = json_integer_value(json_object_get(vocabulary, both));
        assert_int_equal(joined, 256 + (json_int_t)i);
        assert_true(left < joined && right < joined);
    }
    json_decref(tree);
}

static void test_interrupt_leaves_nothing(void **state)
{
    (void)state;
    struct statvfs disk;
    assert_int_equal(statvfs(parent, &disk), 0);
    if ((uint64_t)disk.f_bavail * disk.f_frsize < 10000000000u) {
        print_message("[  SKIPPED ] less than 10 GB of disk\n");
        skip();
    }
    const char *const argv[] = {tool, "4b", path_of("a"), NULL};
    pid_t pid = test_program_start(argv, -1);
    assert_true(pid > 0);
    for (int waited = 0; entries_of(parent) == 0 && waited < 30000; waited++)
        usleep(1000);
    assert_int_equal(entries_of(parent), 1);
    usleep(50000); /* into the writing */
    kill(pid, SIGINT);
    assert_int_equal(test_program_wait(pid), 130);
    assert_int_equal(entries_of(parent), 0);
}

/* A disk that refuses, here by a limit on the size of files: first for the blocks of a shard, then
 * already for a small file. */
static void test_refused_write_leaves_nothing(void **state)
{
    (void)state;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN); /* inherited: the writer sees EFBIG */
    static const rlim_t limits[] = {1u << 20, 1024};
    for (int i = 0; i < 2; i++) {
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){limits[i], before.rlim_max});
        int code = make("a", "tiny", NULL);
        setrlimit(RLIMIT_FSIZE, &before);
        assert_int_equal(code, 1);
        assert_non_null(strstr(said, "File too large"));
        assert_int_equal(entries_of(parent), 0);
    }
    signal(SIGXFSZ, SIG_DFL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sharding_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_values_have_the_spread_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_presets_have_the_published_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refuses_to_overwrite, setup, teardown),
        cmocka_unit_test_setup_teardown(test_usage_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_configs_are_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tokenizer_is_closed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_write_leaves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupt_leaves_nothing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
