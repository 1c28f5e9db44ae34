/* SPDX-License-Identifier: Apache-2.0 */
/* Headers from strangers: each broken one is refused in words that name what is wrong, each odd but
 * valid one is read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/cenote.h>

#include "checkpoint.h"
#include "weights_fixture.h"

#define BUDGET_BYTES (1ull << 30)

static char folder[512];
static char path[600];

static int setup(void **state)
{
    test_folder_create(TEST_SCRATCH_DIR, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    *state = test_budget_create(BUDGET_BYTES, NULL);
    return 0;
}

static int teardown(void **state)
{
    cenote_budget_destroy(*state);
    test_folder_remove(folder);
    return 0;
}

/* Opens what is expected to be refused, and shows that nothing is left behind. */
static void refuse(cenote_budget *budget, const char *where, cenote_status status,
                   const char *words)
{
    uint64_t charged_before = test_budget_charged(budget);
    size_t fds_before = test_fd_count();
    cenote_weights *weights = NULL;
    cenote_error err = {0};
    cenote_status got = cenote_weights_open(budget, where, NULL, &weights, &err);
    if (got != status || strstr(err.message, words) == NULL)
        fail_msg("status %d, wanted %d with \"%s\", message: %s", got, status, words, err.message);
    assert_null(weights);
    assert_int_equal(err.status, status);
    assert_int_equal(test_budget_charged(budget), charged_before);
    assert_int_equal(test_fd_count(), fds_before);
    /* without a place for the detail as well */
    assert_int_equal(cenote_weights_open(budget, where, NULL, &weights, NULL), status);
    assert_int_equal(test_budget_charged(budget), charged_before);
}

static cenote_weights *accept(cenote_budget *budget, const char *where)
{
    return test_weights_open(budget, where, CENOTE_IO_AUTO);
}

/* ---- the hostile table ---- */

#define T(name, dtype, shape, offsets)                                                             \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *label;
    const char *header;
    size_t data_bytes;
    const char *words;
} hostile[] = {
    {"not json", "{nonsense}", 0, "does not parse"},
    {"empty object cut", "{", 0, "does not parse"},
    {"no object", "[1,2]", 0, "byte 0x5b, not '{'"},
    {"space before", " {}", 0, "byte 0x20, not '{'"},
    {"trailing garbage", "{}x", 0, "does not parse"},
    {"two values", "{}{}", 0, "does not parse"},
    {"string behind", "{}\"x\"", 0, "does not parse"},
    {"string without end behind", "{}\":[004]}}", 0, "ends inside a string"},
    {"string without end", "{\"a", 0, "ends inside a string"},
    {"half a word behind", "{}tru", 0, "does not parse"},
    {"number behind", "{}7", 0, "does not parse"},
    {"form feed behind", "{}\f", 0, "control character 0x0c"},
    {"comment", "{/* */}", 0, "does not parse"},
    {"trailing comma", "{" T("a", "U8", "[1]", "[0,1]") ",}", 1, "does not parse"},
    {"control byte in a name", "{" T("a\x01", "U8", "[1]", "[0,1]") "}", 1, "does not parse"},
    {"escaped control in a name", "{" T("a\\u001b[2J", "U8", "[1]", "[0,1]") "}", 1,
     "control character in the tensor name"},
    {"NUL in a name", "{" T("a\\u0000b", "U8", "[1]", "[0,1]") "}", 1,
     "control character in the tensor name"},
    {"DEL in a name", "{" T("a\x7f", "U8", "[1]", "[0,1]") "}", 1,
     "control character in the tensor name"},
    {"C1 in a name", "{" T("a\xc2\x9b", "U8", "[1]", "[0,1]") "}", 1,
     "control character in the tensor name"},
    {"broken UTF-8", "{" T("a\xff", "U8", "[1]", "[0,1]") "}", 1, "invalid bytes in UTF8"},
    {"overlong UTF-8", "{" T("a\xc0\xaf", "U8", "[1]", "[0,1]") "}", 1, "not valid UTF-8"},
    {"surrogate as UTF-8", "{" T("a\xed\xa0\x80", "U8", "[1]", "[0,1]") "}", 1, "not valid UTF-8"},
    {"lone surrogate escaped", "{" T("a\\udc00", "U8", "[1]", "[0,1]") "}", 1, "not valid UTF-8"},
    {"metadata with broken UTF-8", "{\"__metadata__\":{\"k\":\"\xed\xa0\x80\"}}", 0,
     "not valid UTF-8"},
    {"metadata no object", "{\"__metadata__\":[]}", 0, "`__metadata__` must be an object"},
    {"metadata number", "{\"__metadata__\":{\"k\":1}}", 0, "must be a string, not a number"},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate key"},
    {"tensor no object", "{\"a\":7}", 0, "tensor `a`: its description must be an object"},
    {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "`dtype` is missing"},
    {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "`shape` is missing"},
    {"no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "`data_offsets` is missing"},
    {"dtype twice", "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0, "duplicate key `dtype`"},
    {"shape twice", "{\"a\":{\"shape\":[1],\"shape\":[1]}}", 0, "duplicate key `shape`"},
    {"offsets twice", "{\"a\":{\"data_offsets\":[0,1],\"data_offsets\":[0,1]}}", 1,
     "duplicate key `data_offsets`"},
    {"unknown dtype", "{" T("a", "F33", "[1]", "[0,4]") "}", 4, "unknown dtype \"F33\""},
    {"lower case dtype", "{" T("a", "u8", "[1]", "[0,1]") "}", 1, "unknown dtype \"u8\""},
    {"dtype prefix", "{" T("a", "BF1", "[1]", "[0,2]") "}", 2, "unknown dtype \"BF1\""},
    {"dtype number", "{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     "`dtype` must be a string"},
    {"shape number", "{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1,
     "`shape` must be an array"},
    {"shape nested", "{" T("a", "U8", "[[1]]", "[0,1]") "}", 1, "must be a number, not an array"},
    {"shape string", "{" T("a", "U8", "[\"1\"]", "[0,1]") "}", 1, "must be a number, not a string"},
    {"shape null", "{" T("a", "U8", "[null]", "[0,1]") "}", 1, "must be a number, not null"},
    {"shape boolean", "{" T("a", "U8", "[true]", "[0,1]") "}", 1,
     "must be a number, not a boolean"},
    {"shape negative", "{" T("a", "U8", "[-1]", "[0,1]") "}", 1, "-1 is not a whole number"},
    {"shape fraction", "{" T("a", "U8", "[1.0]", "[0,1]") "}", 1, "1.0 is not a whole number"},
    {"shape exponent", "{" T("a", "U8", "[1e2]", "[0,100]") "}", 100, "1e2 is not a whole number"},
    {"minus zero", "{" T("a", "U8", "[-0]", "[0,0]") "}", 0, "-0 is not a whole number"},
    {"shape over 64 bits", "{" T("a", "U8", "[18446744073709551616]", "[0,1]") "}", 1,
     "18446744073709551616 is not a whole number"},
    {"rank 9", "{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1,
     "more dimensions than the limit of 8"},
    {"product overflows", "{" T("a", "U8", "[4294967296,4294967296]", "[0,1]") "}", 1,
     "product of the shape overflows at dimension 1"},
    {"product overflows before a zero", "{" T("a", "U8", "[4294967296,4294967296,0]", "[0,0]") "}",
     0, "product of the shape overflows"},
    {"bytes overflow", "{" T("a", "F64", "[4611686018427387904]", "[0,1]") "}", 1,
     "4611686018427387904 elements of F64 overflow"},
    {"wraps to the right size", "{" T("a", "F64", "[2305843009213693953]", "[0,8]") "}", 8,
     "overflow 64 bits"},
    {"offsets backwards", "{" T("a", "U8", "[1]", "[1,0]") "}", 1, "offsets [1, 0) run backwards"},
    {"offsets outside", "{" T("a", "U8", "[9]", "[0,9]") "}", 8,
     "offsets [0, 9) leave the file's 8 bytes of data"},
    {"offsets far outside",
     "{" T("a", "U8", "[1]", "[18446744073709551614,18446744073709551615]") "}", 8,
     "leave the file's 8 bytes"},
    {"one offset", "{" T("a", "U8", "[1]", "[0]") "}", 1, "has 1 numbers, not 2"},
    {"three offsets", "{" T("a", "U8", "[1]", "[0,1,2]") "}", 1, "more than 2 numbers"},
    {"offsets object", "{" T("a", "U8", "[1]", "{}") "}", 1, "must be an array, not an object"},
    {"too small for its shape", "{" T("a", "F32", "[2]", "[0,4]") "}", 4,
     "ask for 8 bytes, offsets [0, 4) hold 4"},
    {"too large for its shape", "{" T("a", "F32", "[2]", "[0,12]") "}", 12, "hold 12"},
    {"scalar with wrong size", "{" T("a", "F32", "[]", "[0,8]") "}", 8, "ask for 4 bytes"},
    {"empty with bytes", "{" T("a", "F32", "[0]", "[0,4]") "}", 4, "ask for 0 bytes"},
    {"overlap", "{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[2,6]") "}", 6,
     "tensor `b`: offsets [2, 6) overlap tensor `a`, which ends at 4"},
    {"same bytes", "{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[0,4]") "}", 4,
     "overlap tensor"},
    {"empty inside another", "{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[0]", "[2,2]") "}",
     4, "overlap tensor `a`"},
    {"hole", "{" T("a", "U8", "[2]", "[0,2]") "," T("b", "U8", "[2]", "[4,6]") "}", 6,
     "tensor `b`: a hole of 2 bytes before it"},
    {"hole at the start", "{" T("a", "U8", "[2]", "[1,3]") "}", 3, "a hole of 1 bytes before it"},
    {"hole at the end", "{" T("a", "U8", "[2]", "[0,2]") "}", 3,
     "a hole at the end: tensors cover 2 of 3 bytes"},
    {"data without tensors", "{}", 5, "tensors cover 0 of 5 bytes"},
    {"truncated data", "{" T("a", "U8", "[200]", "[0,200]") "}", 199, "leave the file's 199 bytes"},
    {"same name twice", "{" T("a", "U8", "[1]", "[0,1]") "," T("a", "U8", "[1]", "[1,2]") "}", 2,
     "tensor `a`: duplicate name"},
    {"same name by an escape",
     "{" T("a", "U8", "[1]", "[0,1]") "," T("\\u0061", "U8", "[1]", "[1,2]") "}", 2,
     "tensor `a`: duplicate name"},
    {"deep", "{\"a\":{\"x\":[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}}", 0,
     "deeper than the limit of 16"},
};

static void test_hostile_headers(void **state)
{
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        size_t length = strlen(hostile[i].header);
        test_header_write(path, hostile[i].header, length, length, hostile[i].data_bytes);
        print_message("%s\n", hostile[i].label);
        refuse(*state, path, CENOTE_E_CORRUPT, hostile[i].words);
    }
}

/* A message names the file as well. */
static void test_message_names_the_file(void **state)
{
    static const char header[] = "{" T("a", "U8", "[1]", "[1,0]") "}";
    test_header_write(path, header, strlen(header), strlen(header), 1);
    refuse(*state, path, CENOTE_E_CORRUPT, "model.safetensors: tensor `a`: offsets [1, 0)");
}

static void test_header_length(void **state)
{
    static const char header[] = "{}";
    test_header_write(path, header, 2, 0, 0);
    refuse(*state, path, CENOTE_E_CORRUPT, "length is 0");
    test_header_write(path, header, 2, 3, 0);
    refuse(*state, path, CENOTE_E_CORRUPT, "a header of 3 bytes does not fit the file's 10");
    test_header_write(path, header, 2, 100000001, 0);
    refuse(*state, path, CENOTE_E_CORRUPT, "100000001 bytes is over the limit of 100000000");
    test_header_write(path, header, 2, UINT64_MAX, 0);
    refuse(*state, path, CENOTE_E_CORRUPT, "over the limit");
    test_text_write(path, "", 0);
    refuse(*state, path, CENOTE_E_CORRUPT, "0 bytes are too few");
    test_text_write(path, "1234567", 7);
    refuse(*state, path, CENOTE_E_CORRUPT, "7 bytes are too few");
    test_text_write(path, "\1\0\0\0\0\0\0\0", 8);
    refuse(*state, path, CENOTE_E_CORRUPT, "does not fit the file's 8");
    test_header_write(path, "{}\0\0", 4, 4, 0);
    refuse(*state, path, CENOTE_E_CORRUPT, "control character 0x00");
}

static char *repeat(const char *begin, char c, size_t count, const char *end, size_t *out_length)
{
    *out_length = strlen(begin) + count + strlen(end);
    char *text = malloc(*out_length + 1);
    memcpy(text, begin, strlen(begin));
    memset(text + strlen(begin), c, count);
    strcpy(text + strlen(begin) + count, end);
    return text;
}

static void test_limits(void **state)
{
    size_t length;
    static const char rest[] = "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    char *text = repeat("{\"", 'n', 1025, rest, &length);
    test_header_write(path, text, length, length, 1);
    refuse(*state, path, CENOTE_E_CORRUPT, "name of 1025 bytes is over the limit of 1024");
    free(text);

    text = repeat("{\"", 'n', 1024, rest, &length);
    test_header_write(path, text, length, length, 1);
    cenote_weights_close(accept(*state, path));
    free(text);

    /* a token of over a MiB, a long one that is fine, and endless brackets */
    text = repeat("{\"__metadata__\":{\"k\":\"", 'v', 1u << 20, "v\"}}", &length);
    test_header_write(path, text, length, length, 0);
    refuse(*state, path, CENOTE_E_CORRUPT, "longer than the limit of 1048576 bytes");
    free(text);
    text = repeat("{\"__metadata__\":{\"k\":\"", 'v', 900000, "\"}}", &length);
    test_header_write(path, text, length, length, 0);
    cenote_weights_close(accept(*state, path));
    free(text);
    text = repeat("{\"a\":{\"x\":", '[', 3000000, "", &length);
    test_header_write(path, text, length, length, 0);
    refuse(*state, path, CENOTE_E_CORRUPT, "nested deeper");
    free(text);
    text = repeat("{\"a\":{\"shape\":[", '9', 3000000, "]}}", &length);
    test_header_write(path, text, length, length, 0);
    refuse(*state, path, CENOTE_E_CORRUPT, "longer than the limit");
    free(text);
}

/* Long tokens and long tables are the budget's business before they are memory. */
static void test_budget_bounds_the_table(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    fputc('{', out);
    for (unsigned i = 0; i < 20000; i++)
        fprintf(out, "%s\"tensor.%u\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                i == 0 ? "" : ",", i);
    fputc('}', out);
    fclose(out);
    test_header_write(path, text, length, length, 0);
    free(text);
    cenote_budget *small = test_budget_create(1u << 20, NULL);
    refuse(small, path, CENOTE_E_BUDGET, "");
    cenote_budget_destroy(small);
    cenote_budget *enough = test_budget_create(4u << 20, NULL);
    cenote_weights *weights = accept(enough, path);
    assert_int_equal(cenote_weights_count(weights), 20000);
    cenote_weights_close(weights);
    assert_int_equal(test_budget_charged(enough), 1);
    cenote_budget_destroy(enough);

    text = repeat("{\"__metadata__\":{\"k\":\"", 'v', 1000000, "\"}}", &length);
    test_header_write(path, text, length, length, 0);
    free(text);
    small = test_budget_create(1u << 20, NULL);
    refuse(small, path, CENOTE_E_BUDGET, "");
    cenote_budget_destroy(small);
}

/* ---- odd and valid ---- */

static const struct {
    const char *label;
    const char *header;
    size_t data_bytes;
    uint32_t count;
} odd[] = {
    {"nothing", "{}", 0, 0},
    {"spaces behind", "{}                 ", 0, 0},
    {"only metadata", "{\"__metadata__\":{\"format\":\"pt\",\"x\":\"\\n\\u0000\"}}", 0, 0},
    {"scalar", "{" T("a", "F32", "[]", "[0,4]") "}", 4, 1},
    {"empty", "{" T("a", "F32", "[0]", "[0,0]") "}", 0, 1},
    {"empty, huge elsewhere", "{" T("a", "F32", "[0,18446744073709551615]", "[0,0]") "}", 0, 1},
    {"empties at every seam",
     "{" T("c", "U8", "[0]", "[4,4]") "," T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[0,7]",
                                                                             "[0,0]") "}",
     4, 3},
    {"rank 8", "{" T("a", "U8", "[1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, 1},
    {"not in file order", "{" T("a", "U8", "[3]", "[5,8]") "," T("b", "U8", "[5]", "[0,5]") "}", 8,
     2},
    {"unknown keys",
     "{\"a\":{\"x\":{\"y\":[1,{\"z\":null}]},\"dtype\":\"U8\",\"n\":1e9,\"shape\":"
     "[1],\"data_offsets\":[0,1],\"t\":true}}",
     1, 1},
    {"keys in another order", "{\"a\":{\"data_offsets\":[0,2],\"shape\":[1],\"dtype\":\"F16\"}}", 2,
     1},
    {"whitespace everywhere",
     "{ \n\"a\" :\t{ \"dtype\" : \"U8\" , \"shape\" : [ 1 ] ,\r\n"
     "\"data_offsets\" : [ 0 , 1 ] } }\n",
     1, 1},
    {"odd offset of a float",
     "{" T("a", "U8", "[3]", "[0,3]") "," T("b", "F32", "[1]", "[3,7]") "}", 7, 2},
    {"a name of any script", "{" T("\xe5\xb1\x82.\xf0\x9f\x8c\x8a \\\"/", "U8", "[1]", "[0,1]") "}",
     1, 1},
    {"an empty name", "{" T("", "U8", "[1]", "[0,1]") "}", 1, 1},
    {"escaped pair", "{" T("\\ud83c\\udf0a", "U8", "[1]", "[0,1]") "}", 1, 1},
};

static void test_odd_headers(void **state)
{
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        size_t length = strlen(odd[i].header);
        test_header_write(path, odd[i].header, length, length, odd[i].data_bytes);
        print_message("%s\n", odd[i].label);
        cenote_weights *weights = accept(*state, path);
        assert_int_equal(cenote_weights_count(weights), odd[i].count);
        cenote_weights_close(weights);
    }
    assert_int_equal(test_budget_charged(*state), 1);
}

static void test_table_contents(void **state)
{
    static const struct test_tensor tensors[] = {
        {"layers.10.w", "BF16", {3, 5}, 2, 1}, {"layers.2.w", "F32", {7}, 1, 2},
        {"scalar", "F64", {0}, 0, 3},          {"layers.2", "U8", {3}, 1, 4},
        {"Z", "F16", {2, 0, 4}, 3, 5},
    };
    static const char *const sorted[] = {"Z", "layers.10.w", "layers.2", "layers.2.w", "scalar"};
    for (size_t pad = 0; pad < 9; pad++) {
        test_checkpoint_write(path, tensors, 5, pad);
        cenote_weights *weights = accept(*state, path);
        assert_int_equal(cenote_weights_count(weights), 5);
        assert_int_equal(cenote_weights_file_count(weights), 1);
        assert_string_equal(cenote_weights_file_path(weights, 0), path);
        for (uint32_t i = 0; i < 5; i++)
            assert_string_equal(cenote_weights_tensor(weights, i)->name, sorted[i]);
        cenote_error err;
        for (size_t i = 0; i < 5; i++) {
            uint32_t index;
            assert_int_equal(cenote_weights_find(weights, tensors[i].name, &index, &err),
                             CENOTE_OK);
            const cenote_tensor_info *info = cenote_weights_tensor(weights, index);
            assert_string_equal(info->name, tensors[i].name);
            assert_string_equal(cenote_dtype_text(info->dtype), tensors[i].dtype);
            assert_int_equal(info->rank, tensors[i].rank);
            assert_memory_equal(info->shape, tensors[i].shape, info->rank * sizeof(uint64_t));
            assert_int_equal(info->size_bytes, test_tensor_bytes(&tensors[i]));
        }
        static const char *const absent[] = {"", "layers", "layers.2.", "layers.2.w2", "a", "zz"};
        for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
            uint32_t index = 77;
            assert_int_equal(cenote_weights_find(weights, absent[i], &index, &err),
                             CENOTE_E_NOTFOUND);
            assert_non_null(strstr(err.message, absent[i]));
            assert_int_equal(index, 77);
        }
        cenote_weights_close(weights);
    }
}

/* A header longer than the pieces it is read in, tokens across their seams included. */
static void test_header_in_pieces(void **state)
{
    enum { COUNT = 3000 };
    static struct test_tensor tensors[COUNT];
    static char names[COUNT][80];
    for (uint32_t i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i], "model.language_model.layers.%u.self_attn.%0*u", i,
                 (int)(i % 23) + 1, i);
        tensors[i] = (struct test_tensor){names[i], "U8", {i % 7, 3}, 2, i};
    }
    for (size_t pad = 0; pad < 3; pad++) {
        test_checkpoint_write(path, tensors, COUNT, pad * 70001);
        cenote_weights *weights = accept(*state, path);
        assert_int_equal(cenote_weights_count(weights), COUNT);
        for (uint32_t i = 0; i < COUNT; i++) {
            uint32_t index;
            assert_int_equal(cenote_weights_find(weights, names[i], &index, NULL), CENOTE_OK);
            assert_int_equal(cenote_weights_tensor(weights, index)->size_bytes, i % 7 * 3);
        }
        cenote_weights_close(weights);
    }
}

/* ---- shards ---- */

static void write_in(const char *name, const struct test_tensor *tensors, size_t count)
{
    char where[700];
    snprintf(where, sizeof where, "%s/%s", folder, name);
    test_checkpoint_write(where, tensors, count, 3);
}

static void write_index(const char *text)
{
    char where[700];
    snprintf(where, sizeof where, "%s/model.safetensors.index.json", folder);
    test_text_write(where, text, strlen(text));
}

static const struct test_tensor shard_one[] = {{"a", "U8", {5}, 1, 1}, {"b", "BF16", {2}, 1, 2}};
static const struct test_tensor shard_two[] = {{"c", "F32", {5}, 1, 3}};
#define ONE "model-00001-of-00002.safetensors"
#define TWO "model-00002-of-00002.safetensors"

static const struct {
    const char *label;
    const char *index;
    cenote_status status;
    const char *words;
} hostile_indexes[] = {
    {"empty file", "", CENOTE_E_CORRUPT, "does not parse"},
    {"array", "[]", CENOTE_E_CORRUPT, "must be an object"},
    {"no map", "{\"metadata\":{\"total_size\":3}}", CENOTE_E_CORRUPT, "`weight_map` is missing"},
    {"map twice", "{\"weight_map\":{\"a\":\"" ONE "\"},\"weight_map\":{}}", CENOTE_E_CORRUPT,
     "duplicate key `weight_map`"},
    {"map empty", "{\"weight_map\":{}}", CENOTE_E_CORRUPT, "names no shard"},
    {"map array", "{\"weight_map\":[]}", CENOTE_E_CORRUPT, "`weight_map` must be an object"},
    {"not JSON", "{\"weight_map\":{\"a\" \"b\"}}", CENOTE_E_CORRUPT, "does not parse"},
    {"other keys", "{\"x\":{\"y\":[1,[2]]},\"z\":null,\"weight_map\":{}}", CENOTE_E_CORRUPT,
     "names no shard"},
    {"shard number", "{\"weight_map\":{\"a\":1}}", CENOTE_E_CORRUPT, "must be a string"},
    {"shard object", "{\"weight_map\":{\"a\":{}}}", CENOTE_E_CORRUPT, "must be a string"},
    {"parent folder", "{\"weight_map\":{\"a\":\"../x.safetensors\"}}", CENOTE_E_CORRUPT,
     "\"../x.safetensors\" is no plain file name"},
    {"root", "{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", CENOTE_E_CORRUPT,
     "no plain file name"},
    {"escaped slash", "{\"weight_map\":{\"a\":\"..\\/x.safetensors\"}}", CENOTE_E_CORRUPT,
     "no plain file name"},
    {"dots", "{\"weight_map\":{\"a\":\"...safetensors\"}}", CENOTE_E_CORRUPT, "no plain file name"},
    {"NUL", "{\"weight_map\":{\"a\":\"" ONE "\\u0000.safetensors\"}}", CENOTE_E_CORRUPT,
     "no plain file name"},
    {"suffix", "{\"weight_map\":{\"a\":\"model.bin\"}}", CENOTE_E_CORRUPT, "no plain file name"},
    {"only the suffix", "{\"weight_map\":{\"a\":\".safetensors\"}}", CENOTE_E_CORRUPT,
     "no plain file name"},
    {"missing shard", "{\"weight_map\":{\"a\":\"" ONE "\",\"z\":\"gone.safetensors\"}}",
     CENOTE_E_NOTFOUND, "gone.safetensors: no such file, but the index names it"},
    {"shard that lies", "{\"weight_map\":{\"a\":\"" ONE "\",\"c\":\"" ONE "\",\"b\":\"" TWO "\"}}",
     CENOTE_E_CORRUPT, "tensor `c`: the index puts it in shard " ONE ", it is in " TWO},
    {"shard without the tensor", "{\"weight_map\":{\"q\":\"" ONE "\"}}", CENOTE_E_CORRUPT,
     "tensor `q`: the index puts it in shard " ONE ", which does not have it"},
    {"control in a name", "{\"weight_map\":{\"\\u0007\":\"" ONE "\"}}", CENOTE_E_CORRUPT,
     "control character in the tensor name"},
    {"trailing garbage", "{\"weight_map\":{\"a\":\"" ONE "\"}} 5", CENOTE_E_CORRUPT,
     "does not parse"},
};

static void test_hostile_indexes(void **state)
{
    write_in(ONE, shard_one, 2);
    write_in(TWO, shard_two, 1);
    size_t length;
    char *text = repeat("{\"weight_map\":{\"", 'n', 1025, "\":\"" ONE "\"}}", &length);
    write_index(text);
    free(text);
    refuse(*state, folder, CENOTE_E_CORRUPT, "name of 1025 bytes is over the limit of 1024");
    for (size_t i = 0; i < sizeof hostile_indexes / sizeof hostile_indexes[0]; i++) {
        write_index(hostile_indexes[i].index);
        print_message("%s\n", hostile_indexes[i].label);
        refuse(*state, folder, hostile_indexes[i].status, hostile_indexes[i].words);
    }
}

static void test_too_many_shards(void **state)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    fprintf(out, "{\"weight_map\":{");
    for (unsigned i = 0; i < 961; i++)
        fprintf(out, "%s\"t%u\":\"%u.safetensors\"", i == 0 ? "" : ",", i, i);
    fprintf(out, "}}");
    fclose(out);
    write_index(text);
    free(text);
    refuse(*state, folder, CENOTE_E_CORRUPT, "more shards than the limit of 960");
}

#define GOOD_INDEX                                                                                 \
    "{\"metadata\":{\"total_size\":29,\"x\":[1]},\"weight_map\":{\"a\":\"" ONE "\",\"c\":\"" TWO   \
    "\"},\"other\":true}"

static void test_shards(void **state)
{
    write_in(ONE, shard_one, 2);
    write_in(TWO, shard_two, 1);
    write_in("other.safetensors", shard_two, 1); /* not in the index: not opened */
    write_index(GOOD_INDEX);
    cenote_weights *weights = accept(*state, folder);
    assert_int_equal(cenote_weights_count(weights), 3); /* `b` is extra and fine */
    assert_int_equal(cenote_weights_file_count(weights), 2);
    uint32_t index;
    assert_int_equal(cenote_weights_find(weights, "c", &index, NULL), CENOTE_OK);
    uint32_t file = cenote_weights_tensor(weights, index)->file_index;
    assert_non_null(strstr(cenote_weights_file_path(weights, file), "/" TWO));
    cenote_weights_close(weights);
}

/* As a Hugging Face cache lays it out: names that are links into another folder. */
static void test_shards_behind_links(void **state)
{
    char blobs[512], target[600], link[600];
    test_folder_create(TEST_SCRATCH_DIR, blobs, sizeof blobs);
    snprintf(target, sizeof target, "%s/0123abcd", blobs);
    test_checkpoint_write(target, shard_one, 2, 0);
    snprintf(link, sizeof link, "%s/" ONE, folder);
    assert_int_equal(symlink(target, link), 0);
    write_in(TWO, shard_two, 1);
    write_index(GOOD_INDEX);
    cenote_weights_close(accept(*state, folder));
    test_folder_remove(blobs);
    refuse(*state, folder, CENOTE_E_NOTFOUND, ONE); /* a dangling link */
}

static void test_same_name_in_two_shards(void **state)
{
    write_in(ONE, shard_one, 2);
    write_in(TWO, shard_one, 1);
    refuse(*state, folder, CENOTE_E_CORRUPT, "tensor `a`: duplicate name");
    write_index("{\"weight_map\":{\"a\":\"" ONE "\",\"b\":\"" TWO "\"}}");
    refuse(*state, folder, CENOTE_E_CORRUPT, "(of " ONE ")");
}

static void test_folder_without_index(void **state)
{
    refuse(*state, folder, CENOTE_E_NOTFOUND, "no *.safetensors file");
    write_in(TWO, shard_two, 1);
    write_in(ONE, shard_one, 2);
    write_in("._" ONE, shard_one, 2);
    write_in("notes.txt", shard_one, 2);
    cenote_weights *weights = accept(*state, folder);
    assert_int_equal(cenote_weights_count(weights), 3);
    assert_int_equal(cenote_weights_file_count(weights), 2);
    assert_non_null(strstr(cenote_weights_file_path(weights, 0), ONE));
    cenote_weights_close(weights);
}

static void test_paths(void **state)
{
    refuse(*state, "/nowhere/at/all", CENOTE_E_NOTFOUND, "/nowhere/at/all: open: no such file");
    refuse(*state, "", CENOTE_E_NOTFOUND, "no such file");
    char inner[600];
    snprintf(inner, sizeof inner, "%s/x.safetensors", folder);
    write_index("{\"weight_map\":{\"a\":\"x.safetensors\"}}");
    assert_int_equal(symlink(folder, inner), 0); /* a shard that is a folder */
    refuse(*state, folder, CENOTE_E_CORRUPT, "x.safetensors: not a regular file");
    cenote_weights_options options = CENOTE_WEIGHTS_OPTIONS_INIT;
    options.version = 9;
    cenote_weights *weights = NULL;
    assert_int_equal(cenote_weights_open(*state, folder, &options, &weights, NULL),
                     CENOTE_E_VERSION);
}

/* The numbers survive a path and a name of any length. */
static void test_long_names_in_messages(void **state)
{
    size_t length;
    char *text = repeat("{\"", 'n', 1000,
                        "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[7,3]}}", &length);
    char deep[900];
    snprintf(deep, sizeof deep, "%s/%0200d.safetensors", folder, 7);
    test_header_write(deep, text, length, length, 8);
    free(text);
    refuse(*state, deep, CENOTE_E_CORRUPT, "offsets [7, 3) run backwards");
    refuse(*state, deep, CENOTE_E_CORRUPT, "nnn...`");
    refuse(*state, deep, CENOTE_E_CORRUPT, "0007.safetensors: ");
}

/* What it costs to have a 32B model's table: printed, and held to a bound. */
static void test_cost_of_a_table(void **state)
{
    enum { COUNT = 1058 };
    static struct test_tensor tensors[COUNT];
    static char names[COUNT][96];
    for (uint32_t i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i],
                 "model.language_model.layers.%u.self_attn.q_proj.weight", i);
        tensors[i] = (struct test_tensor){names[i], "BF16", {1, 1}, 2, i};
    }
    test_checkpoint_write(path, tensors, COUNT, 0);
    uint64_t before = test_budget_charged(*state);
    cenote_weights *weights = accept(*state, path);
    uint64_t cost = test_budget_charged(*state) - before;
    print_message("1058 tensors: %llu bytes charged\n", (unsigned long long)cost);
    assert_in_range(cost, 1, 512 * 1024);
    cenote_weights_close(weights);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_hostile_headers),
        TEST(test_message_names_the_file),
        TEST(test_header_length),
        TEST(test_limits),
        TEST(test_budget_bounds_the_table),
        TEST(test_odd_headers),
        TEST(test_table_contents),
        TEST(test_header_in_pieces),
        TEST(test_hostile_indexes),
        TEST(test_too_many_shards),
        TEST(test_shards),
        TEST(test_shards_behind_links),
        TEST(test_same_name_in_two_shards),
        TEST(test_folder_without_index),
        TEST(test_paths),
        TEST(test_long_names_in_messages),
        TEST(test_cost_of_a_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
