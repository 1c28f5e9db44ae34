/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json: ids as `tokenizers` gives them, every form the file may have, and what it must
 * not have. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <yajl/yajl_parse.h>

#include "token_fixture.h"
#include "unicode.h"

#define ID_LIMIT 600
#define IDS_MAX  (64u << 20)

static qwen_ids encode(qwen_tokenizer *tokenizer, const char *text, size_t count, bool special)
{
    cenote_error err;
    qwen_ids ids = {.count_max = IDS_MAX};
    if (qwen_tokenizer_encode(tokenizer, text, count, special, &ids, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    return ids;
}

static void assert_ids(qwen_tokenizer *tokenizer, const char *text, bool special, size_t count,
                       const uint32_t *expected)
{
    qwen_ids ids = encode(tokenizer, text, strlen(text), special);
    assert_int_equal(ids.count, count);
    assert_memory_equal(ids.ids, expected, count * sizeof(*expected));
    qwen_ids_fini(&ids);
}

/* ---- ids ---- */

static void test_goldens(void **state)
{
    (void)state;
    token_fixture fixture;
    token_fixture_init(&fixture, 0);
    qwen_tokenizer *tokenizer = token_fixture_open(&fixture);
    json_t *golden = token_golden_load();
    json_t *cases = json_object_get(golden, "encode");
    size_t i;
    json_t *entry;
    assert_true(json_array_size(cases) > 400);
    json_array_foreach(cases, i, entry)
    {
        const json_t *text = json_array_get(entry, 0);
        const json_t *expected = json_array_get(entry, 2);
        qwen_ids ids = encode(tokenizer, json_string_value(text), json_string_length(text),
                              json_is_true(json_array_get(entry, 1)));
        bool same = ids.count == json_array_size(expected);
        for (size_t k = 0; same && k < ids.count; k++)
            same = ids.ids[k] == (uint32_t)json_integer_value(json_array_get(expected, k));
        if (!same)
            fail_msg("case %zu: \"%s\"", i, json_string_value(text));
        qwen_ids_fini(&ids);
    }
    json_decref(golden);
    qwen_tokenizer_close(tokenizer);
    token_fixture_fini(&fixture);
}

static void test_lookups(void **state)
{
    (void)state;
    token_fixture fixture;
    const unsigned char *bytes;
    bool special;
    token_fixture_init(&fixture, 0);
    qwen_tokenizer *tokenizer = token_fixture_open(&fixture);
    assert_int_equal(qwen_tokenizer_id_limit(tokenizer), ID_LIMIT);
    assert_int_equal(qwen_tokenizer_special(tokenizer, "<|endoftext|>"), 588);
    assert_int_equal(qwen_tokenizer_special(tokenizer, "</think>"), 599);
    assert_int_equal(qwen_tokenizer_special(tokenizer, "</think"), QWEN_TOKEN_NONE);
    assert_int_equal(qwen_tokenizer_special(tokenizer, "</think>x"), QWEN_TOKEN_NONE);
    assert_int_equal(qwen_tokenizer_special(tokenizer, ""), QWEN_TOKEN_NONE);
    assert_int_equal(qwen_tokenizer_special(tokenizer, "a"), QWEN_TOKEN_NONE);

    assert_int_equal(qwen_tokenizer_token_bytes(tokenizer, 590, &bytes, &special), 10);
    assert_memory_equal(bytes, "<|im_end|>", 10);
    assert_true(special);
    assert_int_equal(qwen_tokenizer_token_bytes(tokenizer, 598, &bytes, &special), 7);
    assert_memory_equal(bytes, "<think>", 7);
    assert_false(special);
    assert_int_equal(qwen_tokenizer_token_bytes(tokenizer, 220, &bytes, &special), 1);
    assert_int_equal(bytes[0], ' ');
    assert_int_equal(qwen_tokenizer_token_bytes(tokenizer, ID_LIMIT, &bytes, &special), 0);
    assert_int_equal(qwen_tokenizer_token_bytes(tokenizer, QWEN_TOKEN_NONE, &bytes, &special), 0);
    qwen_tokenizer_close(tokenizer);
    qwen_tokenizer_close(NULL);
    token_fixture_fini(&fixture);
}

/* ---- property: the bytes of the ids are the NFC of the text ---- */

static uint64_t random_next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static uint32_t random_character(uint64_t *seed)
{
    static const uint32_t begins[] = {0x20, 0x41, 0x61, 0xa0, 0x300, 0x1100, 0x4e00, 0x1f600, 0};
    const uint64_t kind = random_next(seed) % 10;
    uint32_t c = kind < 9 ? begins[kind] + (uint32_t)(random_next(seed) % 96)
                          : (uint32_t)(random_next(seed) % 0x110000);
    return c >= 0xd800 && c < 0xe000 ? '?' : c;
}

static size_t ids_to_bytes(const qwen_tokenizer *tokenizer, const qwen_ids *ids, char *out)
{
    size_t count = 0;
    for (uint64_t i = 0; i < ids->count; i++) {
        const unsigned char *bytes;
        bool special;
        const size_t n = qwen_tokenizer_token_bytes(tokenizer, ids->ids[i], &bytes, &special);
        assert_true(n > 0);
        memcpy(out + count, bytes, n);
        count += n;
    }
    return count;
}

static void test_round_trip(void **state)
{
    (void)state;
    token_fixture fixture;
    uint64_t seed = 0x9e3779b97f4a7c15u;
    token_fixture_init(&fixture, 0);
    qwen_tokenizer *tokenizer = token_fixture_open(&fixture);
    qwen_scratch work = {fixture.pool, NULL, 0};
    qwen_scratch normal = {fixture.pool, NULL, 0};
    for (int round = 0; round < 3000; round++) {
        const uint64_t round_seed = seed;
        char text[512];
        char back[2048];
        char *end = text;
        size_t normal_bytes;
        const uint64_t length = random_next(&seed) % 60;
        for (uint64_t i = 0; i < length; i++)
            token_put_char(&end, random_character(&seed));
        const size_t count = (size_t)(end - text);
        qwen_ids ids = encode(tokenizer, text, count, false);
        const size_t back_bytes = ids_to_bytes(tokenizer, &ids, back);
        assert_int_equal(qwen_nfc(text, count, &work, &normal, &normal_bytes, NULL), CENOTE_OK);
        if (back_bytes != normal_bytes ||
            (normal_bytes > 0 && memcmp(back, normal.data, normal_bytes) != 0))
            fail_msg("seed 0x%llx", (unsigned long long)round_seed);
        qwen_ids_fini(&ids);
    }
    qwen_scratch_shrink(&work, 0);
    qwen_scratch_shrink(&normal, 0);
    qwen_tokenizer_close(tokenizer);
    token_fixture_fini(&fixture);
}

/* ---- forms of the file ---- */

/* The same ids whatever the order and form of the sections. */
static void assert_variant_encodes(const char *json)
{
    static const char text[] = "What is<|im_end|> this image?";
    token_fixture fixture;
    cenote_error err;
    qwen_tokenizer *plain;
    qwen_tokenizer *variant;
    token_fixture_init(&fixture, 0);
    plain = token_fixture_open(&fixture);
    if (token_fixture_open_bytes(&fixture, json, strlen(json), &variant, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    qwen_ids expected = encode(plain, text, strlen(text), true);
    assert_ids(variant, text, true, expected.count, expected.ids);
    qwen_ids_fini(&expected);
    qwen_tokenizer_close(plain);
    qwen_tokenizer_close(variant);
    token_fixture_fini(&fixture);
}

static json_t *small_tree(void)
{
    json_t *tree = json_load_file(TEST_DATA_DIR "/tokenizer/tokenizer.json", 0, NULL);
    assert_non_null(tree);
    return tree;
}

static char *tree_text(json_t *tree, size_t flags)
{
    char *text = json_dumps(tree, flags);
    assert_non_null(text);
    json_decref(tree);
    return text;
}

static void test_file_forms(void **state)
{
    (void)state;
    /* Sorted keys: merges before vocab, so three passes. */
    char *text = tree_text(small_tree(), JSON_SORT_KEYS);
    assert_true(strstr(text, "\"merges\"") < strstr(text, "\"vocab\""));
    assert_variant_encodes(text);
    free(text);
    /* Indented, all characters escaped. */
    text = tree_text(small_tree(), JSON_INDENT(4) | JSON_ENSURE_ASCII);
    assert_variant_encodes(text);
    free(text);
    /* Added tokens behind the model. */
    json_t *tree = small_tree();
    json_t *added = json_incref(json_object_get(tree, "added_tokens"));
    json_object_del(tree, "added_tokens");
    json_object_set_new(tree, "added_tokens", added);
    text = tree_text(tree, JSON_PRESERVE_ORDER);
    assert_true(strstr(text, "\"merges\"") < strstr(text, "\"added_tokens\""));
    assert_variant_encodes(text);
    free(text);
    /* Merges as lines of two tokens. */
    tree = small_tree();
    json_t *merges = json_object_get(json_object_get(tree, "model"), "merges");
    size_t i;
    json_t *merge;
    json_array_foreach(merges, i, merge)
    {
        char line[128];
        snprintf(line, sizeof(line), "%s %s", json_string_value(json_array_get(merge, 0)),
                 json_string_value(json_array_get(merge, 1)));
        json_array_set_new(merges, i, json_string(line));
    }
    text = tree_text(tree, 0);
    assert_variant_encodes(text);
    free(text);
}

static void replace_and_check(const char *from, const char *to)
{
    char *text = token_file_variant(from, to);
    assert_variant_encodes(text);
    free(text);
}

static void test_tolerated(void **state)
{
    (void)state;
    replace_and_check("\"continuing_subword_prefix\":null", "\"continuing_subword_prefix\":\"\"");
    replace_and_check("\"byte_fallback\":false,", "");
    replace_and_check("\"truncation\":null", "\"truncation\":{\"max_length\":[1,{\"x\":null}]}");
    replace_and_check("\"post_processor\":{", "\"post_processor\":{\"more\":[[],{}],");
    replace_and_check("\"single_word\":false",
                      "\"single_word\":false,\"other\":{\"id\":[3,\"x\"]}");
    replace_and_check("\"id\":599,", "\"id\":610,"); /* a hole, before the last id */
    replace_and_check("\"version\":\"1.0\"", "\"model.type\":\"WordPiece\",\"added_tokens[0]\":1");
}

/* No added tokens at all, and added tokens that are looked for after NFC. */
static void test_added_forms(void **state)
{
    (void)state;
    token_fixture fixture;
    cenote_error err;
    qwen_tokenizer *tokenizer;
    token_fixture_init(&fixture, 0);
    json_t *tree = small_tree();
    json_object_set_new(tree, "added_tokens", json_null());
    char *text = tree_text(tree, 0);
    assert_int_equal(token_fixture_open_bytes(&fixture, text, strlen(text), &tokenizer, &err),
                     CENOTE_OK);
    assert_int_equal(qwen_tokenizer_id_limit(tokenizer), 588);
    assert_int_equal(qwen_tokenizer_special(tokenizer, "<think>"), QWEN_TOKEN_NONE);
    qwen_tokenizer_close(tokenizer);
    free(text);

    /* "é" typed as two characters is found; the longest wins; an earlier one wins over a longer. */
    text = token_file_variant("\"added_tokens\":[",
                              "\"added_tokens\":["
                              "{\"id\":600,\"content\":\"caf\xc3\xa9\",\"normalized\":true},"
                              "{\"id\":601,\"content\":\"caf\xc3\xa9-bar\"},"
                              "{\"id\":602,\"content\":\"f\xc3\xa9-bar-long\"},"
                              "{\"id\":603,\"content\":\"<think>x\",\"special\":true},");
    assert_int_equal(token_fixture_open_bytes(&fixture, text, strlen(text), &tokenizer, &err),
                     CENOTE_OK);
    assert_ids(tokenizer, "cafe\xcc\x81", true, 1, (uint32_t[]){600});
    assert_ids(tokenizer, "cafe\xcc\x81-bar-long", true, 6, (uint32_t[]){601, 12, 75, 78, 77, 70});
    assert_ids(tokenizer, "<think><think>x<think>", true, 3, (uint32_t[]){598, 603, 598});
    assert_int_equal(qwen_tokenizer_special(tokenizer, "caf\xc3\xa9-bar"), 601);
    free(text);
    qwen_tokenizer_close(tokenizer);
    token_fixture_fini(&fixture);
}

/* ---- files that are refused ---- */

static void assert_refused_bytes(const char *text, size_t count, cenote_status status,
                                 const char *message)
{
    token_fixture fixture;
    cenote_error err = {0};
    qwen_tokenizer *tokenizer = NULL;
    token_fixture_init(&fixture, 0);
    const cenote_status got = token_fixture_open_bytes(&fixture, text, count, &tokenizer, &err);
    if (got != status || strstr(err.message, message) == NULL)
        fail_msg("%d, not %d: \"%s\" lacks \"%s\"", got, status, err.message, message);
    assert_null(tokenizer);
    assert_int_equal(err.status, status);
    assert_non_null(strstr(err.message, "/proc/self/fd/")); /* the file is named */
    token_fixture_fini(&fixture);
}

static void assert_refused(const char *from, const char *to, cenote_status status,
                           const char *message)
{
    char *text = token_file_variant(from, to);
    assert_refused_bytes(text, strlen(text), status, message);
    free(text);
}

static void test_unsupported(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        const char *to;
        const char *message;
    } cases[] = {
        {"\"type\":\"BPE\"", "\"type\":\"WordPiece\"", "model.type is \"WordPiece\""},
        {"\"type\":\"BPE\",", "", "has no model.type"},
        {"\"byte_fallback\":false", "\"byte_fallback\":true", "model.byte_fallback is true"},
        {"\"ignore_merges\":false", "\"ignore_merges\":true", "model.ignore_merges is true"},
        {"\"unk_token\":null", "\"unk_token\":\"<unk>\"", "model.unk_token is \"<unk>\""},
        {"\"dropout\":null", "\"dropout\":0.1", "model.dropout is 0.1"},
        {"\"continuing_subword_prefix\":null", "\"continuing_subword_prefix\":\"##\"", "\"##\""},
        {"\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", "\"</w>\""},
        {"\"type\":\"NFC\"", "\"type\":\"NFKC\"", "normalizer.type is \"NFKC\""},
        {"\"normalizer\":{\"type\":\"NFC\"}", "\"normalizer\":null", "has no normalizer.type"},
        {"\\\\p{N}|", "\\\\p{N}{1,3}|", "pattern.Regex is \"(?i:'s"},
        {"\"behavior\":\"Isolated\"", "\"behavior\":\"Removed\"", "behavior is \"Removed\""},
        {"\"invert\":false", "\"invert\":true", "invert is true"},
        {"\"use_regex\":false}]", "\"use_regex\":true}]", "pretokenizers[1].use_regex is true"},
        {"\"use_regex\":false}]", "\"use_regex\":false},{\"type\":\"Digits\"}]", "no third step"},
        {"\"add_prefix_space\":false", "\"add_prefix_space\":true", "add_prefix_space is true"},
        {"\"type\":\"Sequence\"", "\"type\":\"ByteLevel\"", "pre_tokenizer.type is \"ByteLevel\""},
        {"\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"Metaspace\"", "Metaspace"},
        {"\"lstrip\":false", "\"lstrip\":true", "lstrip is true"},
        {"\"rstrip\":false", "\"rstrip\":true", "rstrip is true"},
        {"\"single_word\":false", "\"single_word\":true", "single_word is true"},
        {"\"vocab\":{", "\"vocab\":[],\"x\":{", "model.vocab is a list"},
        {"\"merges\":[", "\"merges\":{},\"x\":[", "model.merges is an object"},
        {"\"id\":588,\"content\":\"<|endoftext|>\",\"single_word\":false,\"lstrip\":false,"
         "\"rstrip\":false,\"normalized\":false",
         "\"id\":588,\"content\":\"e\xcc\x81\",\"normalized\":true", "not in NFC"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_refused(cases[i].from, cases[i].to, CENOTE_E_UNSUPPORTED, cases[i].message);
}

static void test_corrupt(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        const char *to;
        const char *message;
    } cases[] = {
        {"\"id\":588", "\"id\":-1", "\"<|endoftext|>\": id -1 is outside"},
        {"\"id\":588", "\"id\":16777217", "id 16777217 is outside 0 to 16777216"},
        {"\"id\":588", "\"id\":99999999999999999999999", "is outside"},
        {"\"id\":588", "\"id\":16777216", "the largest id is 16777216, for 600 tokens"},
        {"\"id\":588", "\"id\":5.5", "without id or content"},
        {"\"id\":588,", "", "without id or content"},
        {"\"id\":588", "\"id\":589", "given to another added token"},
        {"\"id\":588", "\"id\":587", "given to another token"},
        {"\"content\":\"<|im_start|>\"", "\"content\":\"<|endoftext|>\"", "given twice"},
        {"\"content\":\"<|im_start|>\"", "\"content\":\"\"", "is empty"},
        {"\"content\":\"<|im_start|>\"", "\"content\":7", "without id or content"},
        {"\"content\":\"<|im_start|>\"", "\"content\":\"!\"", "has another id in model.vocab"},
        {"\"added_tokens\":[", "\"added_tokens\":[3,", "another form"},
        {"\"added_tokens\":[", "\"added_tokens\":[[],", "another form"},
        {"\"added_tokens\":[", "\"added_tokens\":[],\"added_tokens\":[", "given twice"},
        {"\"!\":0", "\"!\":-5", "model.vocab \"!\": id -5 is outside"},
        {"\"!\":0", "\"!\":1e3", "id is no integer"},
        {"\"!\":0", "\"!\":\"0\"", "id is no integer"},
        {"\"!\":0", "\"!\":{}", "another form"},
        {"\"!\":0", "\"!\":1", "\"\"\": its id is given to another token"},
        {"\"!\":0", "\"!\":0,\"!\":604", "model.vocab \"!\": given twice"},
        /* The bytes of the first are the name of the second: still two tokens. */
        {"\"!\":0", "\"!\":0,\"\\u00c3\\u00b6\":700,\"\\u00f6\":700", "given to another token"},
        {"\"!\":0", "\"\":0", "an empty token"},
        {"\"!\":0", "\"! \":0", "stands for no byte"},
        {"\"!\":0", "\"\xe4\xbd\xa0\":0", "stands for no byte"},
        {"\"!\":0", "\"\\u0144\":0", "stands for no byte"},
        {"\"!\":0", "\"!!!!!!\":0", "no token for the byte 0x21"},
        {"\"vocab\":{", "\"vocab\":{},\"vocab\":{", "given twice"},
        {"\"vocab\":{", "\"words\":{", "has no model.vocab"},
        {"\"merges\":[", "\"pairs\":[", "has no model.merges"},
        {"\"merges\":[", "\"merges\":[[\"!\"],", "model.merges[0]: a merge of fewer"},
        {"\"merges\":[", "\"merges\":[[\"!\",\"!\",\"!\"],", "a merge of more than two"},
        {"\"merges\":[", "\"merges\":[[\"!\",3],", "a merge that is not text"},
        {"\"merges\":[", "\"merges\":[[\"!\",[]],", "another form"},
        {"\"merges\":[", "\"merges\":[\"!!\",", "\"!!\": not two tokens"},
        {"\"merges\":[", "\"merges\":[\"! ! !\",", "\"! ! !\": not two tokens"},
        {"\"merges\":[", "\"merges\":[\" !\",", "an empty token"},
        {"\"merges\":[", "\"merges\":[[\"zqzq\",\"!\"],", "the left token is not in model.vocab"},
        {"\"merges\":[", "\"merges\":[[\"!\",\"zqzq\"],", "the right token is not in model.vocab"},
        {"\"merges\":[", "\"merges\":[[\"!\",\"!\"],", "the merged token is not in model.vocab"},
        {"\"merges\":[", "\"merges\":[[\"!\",\" \"],", "stands for no byte"},
        {"\"merges\":[", "\"merges\":[true,", "a merge that is not text"},
        {"\"type\":\"BPE\"", "\"type\":\"BPE\",\"type\":\"BPE\"", "model.type: given twice"},
        {"\"!\":0", "\"\xc3\x28\":0", "invalid bytes in UTF8"},
        {"\"!\":0", "\"\\ud800\":0", "half of a surrogate pair"},
        {"\"!\":0", "\"\\ud800\\n\":0", "half of a surrogate pair"},
        {"\"!\":0", "\"\\ud800\\u0041\":0", "half of a surrogate pair"},
        {"\"!\":0", "\"\\udc00\":0", "half of a surrogate pair"},
        {"\"!\":0", "\"!\" 0", "near byte"},
        {"\"version\":\"1.0\"",
         "\"version\":" /* 33 deep */
         "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
         "nested deeper than 32"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_refused(cases[i].from, cases[i].to, CENOTE_E_CORRUPT, cases[i].message);
}

/* A text of `count` times the letter x between `before` and `after`. */
static char *long_text(const char *before, size_t count, const char *after)
{
    char *text = malloc(strlen(before) + count + strlen(after) + 1);
    assert_non_null(text);
    char *end = stpcpy(text, before);
    memset(end, 'x', count);
    strcpy(end + count, after);
    return text;
}

static void assert_long_refused(const char *from, const char *before, size_t count,
                                const char *after, const char *message)
{
    char *to = long_text(before, count, after);
    assert_refused(from, to, CENOTE_E_CORRUPT, message);
    free(to);
}

static void test_too_long(void **state)
{
    (void)state;
    assert_long_refused("\"!\":0", "\"", 4097, "\":0", "over 4096 bytes");
    assert_long_refused("\"merges\":[", "\"merges\":[\"", 4097, " !\",", "over 4096 bytes");
    assert_long_refused("\"<|im_end|>\"", "\"", 513, "\"", "over 512 bytes");
    assert_long_refused("\"1.0\"", "\"", 300000, "\"", "a string over 256 KiB");
    assert_long_refused("\"1.0\"", "", 65, "", "a number or word over 64 bytes");
}

static void test_truncated(void **state)
{
    (void)state;
    size_t count;
    char *text = token_file_read(TEST_DATA_DIR "/tokenizer/tokenizer.json", &count);
    assert_refused_bytes("", 0, CENOTE_E_CORRUPT, "premature EOF");
    for (size_t cut = 1; cut < count; cut += 97)
        assert_refused_bytes(text, cut, CENOTE_E_CORRUPT, "near byte");
    /* Something behind the end. */
    text[count] = '}';
    assert_refused_bytes(text, count + 1, CENOTE_E_CORRUPT, "near byte");
    free(text);
}

static void test_paths(void **state)
{
    (void)state;
    token_fixture fixture;
    cenote_error err;
    qwen_tokenizer *tokenizer;
    char fifo[256];
    token_fixture_init(&fixture, 0);
    assert_int_equal(qwen_tokenizer_open(fixture.pool, "/nonexistent/t.json", &tokenizer, &err),
                     CENOTE_E_NOTFOUND);
    assert_int_equal(qwen_tokenizer_open(fixture.pool, "/tmp", &tokenizer, &err), CENOTE_E_CORRUPT);
    assert_non_null(strstr(err.message, "not a regular file"));
    snprintf(fifo, sizeof(fifo), "%s/tokenizer_fifo.%d", TEST_SCRATCH_DIR, (int)getpid());
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(qwen_tokenizer_open(fixture.pool, fifo, &tokenizer, &err), CENOTE_E_CORRUPT);
    unlink(fifo);
    token_fixture_fini(&fixture);
}

static int ignore_end(void *context)
{
    (void)context;
    return 1;
}

/* The file gets shorter between two passes, and its disk fails. */
static void test_file_faults(void **state)
{
    (void)state;
    static const yajl_callbacks callbacks = {.yajl_end_map = ignore_end};
    static unsigned char buffer[CENOTE_GRANULE_BYTES];
    const cenote_status status = CENOTE_OK;
    const char *path = TEST_DATA_DIR "/tokenizer/tokenizer.json";
    qwen_json_file file;
    cenote_error err;
    assert_int_equal(qwen_json_open(path, 1000, buffer, &file, &err), CENOTE_E_CORRUPT);
    assert_non_null(strstr(err.message, "the limit is 1000"));
    assert_int_equal(qwen_json_open(path, 1u << 20, buffer, &file, &err), CENOTE_OK);
    assert_int_equal(qwen_json_pass(&file, &callbacks, NULL, &status, &err), CENOTE_OK);
    file.size_bytes++;
    assert_int_equal(qwen_json_pass(&file, &callbacks, NULL, &status, &err), CENOTE_E_CHANGED);
    qwen_json_close(&file);
    file.fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* reading it gives EISDIR */
    assert_true(file.fd >= 0);
    assert_int_equal(qwen_json_pass(&file, &callbacks, NULL, &status, &err), CENOTE_E_IO);
    qwen_json_close(&file);
}

#define NAME(text) (const unsigned char *)(text), strlen(text)

/* A file that has more, or less, when it is filled than when it was counted. */
static void test_changed_between_passes(void **state)
{
    (void)state;
    static const qwen_tokenizer_counts counts = {.id_limit = 4,
                                                 .token_count = 3,
                                                 .token_bytes = 4,
                                                 .added_count = 1,
                                                 .added_bytes = 5,
                                                 .merge_count = 1};
    token_fixture fixture;
    qwen_tokenizer_builder builder;
    qwen_tokenizer *tokenizer = NULL;
    cenote_error err;
    token_fixture_init(&fixture, 0);
    qwen_tokenizer_builder *b = &builder;
    /* ids past the limit, too many bytes, too many entries, too few of them */
    assert_int_equal(qwen_builder_init(b, fixture.pool, "f", &counts, &err), CENOTE_OK);
    assert_int_equal(qwen_builder_added(b, NAME("<a>"), 4, true, false, &err), CENOTE_E_CHANGED);
    qwen_builder_fini(b);
    assert_int_equal(qwen_builder_init(b, fixture.pool, "f", &counts, &err), CENOTE_OK);
    assert_int_equal(qwen_builder_added(b, NAME("<long>"), 3, true, false, &err), CENOTE_E_CHANGED);
    qwen_builder_fini(b);
    assert_int_equal(qwen_builder_init(b, fixture.pool, "f", &counts, &err), CENOTE_OK);
    assert_int_equal(qwen_builder_added(b, NAME("<a>"), 3, true, false, &err), CENOTE_OK);
    assert_int_equal(qwen_builder_added(b, NAME("x"), 2, true, false, &err), CENOTE_E_CHANGED);
    assert_int_equal(qwen_builder_token(b, NAME("a"), 0, &err), CENOTE_OK);
    assert_int_equal(qwen_builder_token(b, NAME("b"), 4, &err), CENOTE_E_CHANGED);
    assert_int_equal(qwen_builder_finish(b, &tokenizer, &err), CENOTE_E_CHANGED);
    qwen_builder_fini(b);
    assert_int_equal(qwen_builder_init(b, fixture.pool, "f", &counts, &err), CENOTE_OK);
    assert_int_equal(qwen_builder_token(b, NAME("abcde"), 0, &err), CENOTE_E_CHANGED);
    qwen_builder_fini(b);
    assert_int_equal(qwen_builder_init(b, fixture.pool, "f", &counts, &err), CENOTE_OK);
    assert_int_equal(qwen_builder_token(b, NAME("a"), 0, &err), CENOTE_OK);
    assert_int_equal(qwen_builder_token(b, NAME("b"), 1, &err), CENOTE_OK);
    assert_int_equal(qwen_builder_token(b, NAME("ab"), 2, &err), CENOTE_OK);
    assert_int_equal(qwen_builder_token(b, NAME("c"), 3, &err), CENOTE_E_CHANGED);
    assert_int_equal(qwen_builder_merge(b, NAME("a"), NAME("b"), &err), CENOTE_OK);
    assert_int_equal(qwen_builder_merge(b, NAME("b"), NAME("a"), &err), CENOTE_E_CHANGED);
    assert_non_null(strstr(err.message, "f: changed while it was read"));
    qwen_builder_fini(b);
    qwen_builder_fini(b);
    assert_null(tokenizer);
    token_fixture_fini(&fixture);
}

/* Every allocation fails once: more and more memory until it is enough. */
static void test_budget_sweep(void **state)
{
    (void)state;
    int refused = 0;
    for (uint64_t granules = 1;; granules++) {
        token_fixture fixture;
        cenote_error err;
        qwen_tokenizer *tokenizer = NULL;
        qwen_ids ids = {.count_max = IDS_MAX};
        token_fixture_init(&fixture, granules * CENOTE_GRANULE_BYTES);
        cenote_status status = qwen_tokenizer_open(
            fixture.pool, TEST_DATA_DIR "/tokenizer/tokenizer.json", &tokenizer, &err);
        if (status == CENOTE_OK) {
            /* Needs scratch for normalisation and a long word, more than a granule each. */
            char *text = long_text("e\xcc\x81", 60000, "e\xcc\x81");
            status = qwen_tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &err);
            free(text);
            assert_true((status == CENOTE_OK) == (ids.count > 0));
        } else {
            assert_null(tokenizer);
        }
        qwen_ids_fini(&ids);
        qwen_tokenizer_close(tokenizer);
        token_fixture_fini(&fixture);
        if (status == CENOTE_OK)
            break;
        assert_int_equal(status, CENOTE_E_BUDGET);
        refused++;
    }
    assert_true(refused > 4);
}

/* ---- prompts ---- */

static void test_hostile_prompts(void **state)
{
    (void)state;
    token_fixture fixture;
    cenote_error err;
    qwen_ids ids = {.count_max = 3};
    token_fixture_init(&fixture, 0);
    qwen_tokenizer *tokenizer = token_fixture_open(&fixture);
    assert_int_equal(qwen_tokenizer_encode(tokenizer, "ab\xff", 3, false, &ids, &err),
                     CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "at byte 2"));
    assert_int_equal(qwen_tokenizer_encode(tokenizer, "abc\xe2\x82", 5, true, &ids, &err),
                     CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "at byte 3"));
    assert_int_equal(qwen_tokenizer_encode(tokenizer,
                                           "1\0"
                                           "2",
                                           3, false, &ids, &err),
                     CENOTE_OK);
    assert_int_equal(ids.count, 3);
    /* The list is full: an error, and the list as it was. */
    assert_int_equal(qwen_tokenizer_encode(tokenizer, "1", 1, false, &ids, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "more than 3 tokens"));
    ids.count_max = 5;
    assert_int_equal(qwen_tokenizer_encode(tokenizer, "1234", 4, false, &ids, &err),
                     CENOTE_E_INVAL);
    assert_int_equal(ids.count, 3);
    assert_int_equal(qwen_tokenizer_encode(tokenizer, "", 0, true, &ids, &err), CENOTE_OK);
    assert_int_equal(ids.count, 3);
    qwen_ids_fini(&ids);
    qwen_tokenizer_close(tokenizer);
    token_fixture_fini(&fixture);
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* No text takes quadratic time: four times the bytes, not sixteen times the seconds. The
 * repetition is long enough that noise is small against it, and 8 leaves room for n log n. */
static void assert_linear(qwen_tokenizer *tokenizer, const char *unit, bool special)
{
    double seconds[2];
    for (int i = 0; i < 2; i++) {
        const size_t count = (i == 0 ? 1u : 4u) << 18;
        const size_t unit_bytes = strlen(unit);
        char *text = malloc(count + unit_bytes);
        assert_non_null(text);
        size_t filled = 0;
        for (; filled < count; filled += unit_bytes)
            memcpy(text + filled, unit, unit_bytes);
        const double begin = seconds_now();
        qwen_ids ids = encode(tokenizer, text, filled, special);
        seconds[i] = seconds_now() - begin;
        qwen_ids_fini(&ids);
        free(text);
    }
    if (seconds[1] > 0.5 && seconds[1] > 10 * seconds[0])
        fail_msg("\"%s\": %.3f s, four times as much %.3f s", unit, seconds[0], seconds[1]);
}

static void test_long_prompts(void **state)
{
    (void)state;
    static const char *const units[] = {"a",
                                        "ab",
                                        "the",
                                        " ",
                                        " \n",
                                        "!?",
                                        "<",
                                        "<|im_",
                                        "\xcc\x81",
                                        "\xcc\x81\xcc\xa3",
                                        "e\xcc\x81",
                                        "\xe1\x84\x80\xe1\x85\xa1",
                                        "It's 3 o'clock. "};
    token_fixture fixture;
    token_fixture_init(&fixture, 0);
    qwen_tokenizer *tokenizer = token_fixture_open(&fixture);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        assert_linear(tokenizer, units[i], false);
        assert_linear(tokenizer, units[i], true);
    }
    /* Scratch of a long text is given back. */
    cenote_pool_stats stats;
    cenote_pool_stats_get(fixture.pool, &stats);
    assert_true(stats.used_bytes <= 3 * CENOTE_GRANULE_BYTES);
    assert_true(stats.used_peak_bytes > 16u << 20);

    char *text = long_text("", 10u << 20, "");
    for (size_t i = 0; i < 10u << 20; i += 6)
        text[i] = ' ';
    qwen_ids ids = encode(tokenizer, text, 10u << 20, true);
    assert_true(ids.count > 1u << 20);
    qwen_ids_fini(&ids);
    free(text);
    qwen_tokenizer_close(tokenizer);
    token_fixture_fini(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),         cmocka_unit_test(test_lookups),
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_file_forms),
        cmocka_unit_test(test_tolerated),       cmocka_unit_test(test_added_forms),
        cmocka_unit_test(test_unsupported),     cmocka_unit_test(test_corrupt),
        cmocka_unit_test(test_too_long),        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_paths),           cmocka_unit_test(test_budget_sweep),
        cmocka_unit_test(test_hostile_prompts), cmocka_unit_test(test_long_prompts),
        cmocka_unit_test(test_file_faults),     cmocka_unit_test(test_changed_between_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
