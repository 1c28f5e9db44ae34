/* SPDX-License-Identifier: Apache-2.0 */
#include "token_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define SMALL_PATH  TEST_DATA_DIR "/tokenizer/tokenizer.json"
#define GOLDEN_PATH TEST_DATA_DIR "/tokenizer/golden.json"

void token_fixture_init(token_fixture *fixture, uint64_t quota_bytes)
{
    cenote_budget_options budget = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_pool_options pool = CENOTE_POOL_OPTIONS_INIT;
    budget.limit_bytes = 2ull << 30;
    budget.process_bytes = 1 << 20;
    pool.quota_bytes = quota_bytes;
    pool.exact_runs = 1;
    assert_int_equal(cenote_budget_create(&budget, &fixture->budget, NULL), CENOTE_OK);
    assert_int_equal(cenote_pool_create(fixture->budget, &pool, &fixture->pool, NULL), CENOTE_OK);
}

void token_fixture_fini(token_fixture *fixture)
{
    assert_int_equal(cenote_pool_destroy(fixture->pool), 0);
    cenote_budget_destroy(fixture->budget);
}

qwen_tokenizer *token_fixture_open(token_fixture *fixture)
{
    cenote_error err;
    qwen_tokenizer *tokenizer;
    if (qwen_tokenizer_open(fixture->pool, SMALL_PATH, &tokenizer, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    return tokenizer;
}

char *token_file_read(const char *path, size_t *out_bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    const long size = ftell(file);
    assert_true(size >= 0);
    rewind(file);
    char *bytes = malloc((size_t)size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, (size_t)size, file), (size_t)size);
    bytes[size] = '\0';
    fclose(file);
    *out_bytes = (size_t)size;
    return bytes;
}

cenote_status token_fixture_open_bytes(token_fixture *fixture, const char *bytes, size_t count,
                                       qwen_tokenizer **out_tokenizer, cenote_error *err)
{
    char path[64];
    const int fd = memfd_create("tokenizer.json", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const cenote_status status = qwen_tokenizer_open(fixture->pool, path, out_tokenizer, err);
    close(fd);
    return status;
}

char *token_file_variant(const char *from, const char *to)
{
    size_t count;
    char *base = token_file_read(SMALL_PATH, &count);
    char *at = strstr(base, from);
    if (at == NULL)
        fail_msg("the small tokenizer has no %s", from);
    char *out = malloc(count + strlen(to) + 1);
    assert_non_null(out);
    const size_t before = (size_t)(at - base);
    memcpy(out, base, before);
    strcpy(out + before, to);
    strcat(out + before, at + strlen(from));
    free(base);
    return out;
}

json_t *token_golden_load(void)
{
    json_error_t detail;
    json_t *root = json_load_file(GOLDEN_PATH, JSON_ALLOW_NUL, &detail);
    if (root == NULL)
        fail_msg("%s:%d: %s", GOLDEN_PATH, detail.line, detail.text);
    return root;
}

uint64_t token_fnv(const void *bytes, size_t count, uint64_t hash)
{
    const unsigned char *b = bytes;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ b[i]) * 0x100000001b3u;
    return hash;
}

void token_put_char(char **out, uint32_t c)
{
    char *o = *out;
    if (c < 0x80) {
        *o++ = (char)c;
    } else {
        if (c < 0x800) {
            *o++ = (char)(0xc0 | c >> 6);
        } else {
            if (c < 0x10000) {
                *o++ = (char)(0xe0 | c >> 12);
            } else {
                *o++ = (char)(0xf0 | c >> 18);
                *o++ = (char)(0x80 | (c >> 12 & 0x3f));
            }
            *o++ = (char)(0x80 | (c >> 6 & 0x3f));
        }
        *o++ = (char)(0x80 | (c & 0x3f));
    }
    *out = o;
}
