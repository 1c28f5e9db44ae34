/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as tokenizer.json. What opens must encode and decode, and everything must be given back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

/* One pool for all runs. */
static cenote_pool *the_pool(void)
{
    static cenote_budget *budget;
    static cenote_pool *pool;
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    budget_options.limit_bytes = 256u << 20;
    budget_options.process_bytes = 1u << 20;
    if (pool == NULL) {
        require(cenote_budget_create(&budget_options, &budget, NULL) == CENOTE_OK);
        require(cenote_pool_create(budget, &pool_options, &pool, NULL) == CENOTE_OK);
    }
    return pool;
}

static void count_bytes(void *context, const char *text, size_t text_bytes)
{
    (void)text;
    *(size_t *)context += text_bytes;
}

static void use(qwen_tokenizer *tokenizer)
{
    static const char text[] = "Hello  <|im_start|>w\xc3\xb6rld 12'S e\xcc\x81\n\n\xf0\x9f\x98\x80";
    for (int special = 0; special < 2; special++) {
        qwen_detokenizer detokenizer = QWEN_DETOKENIZER_INIT;
        qwen_ids ids = {.count_max = sizeof(text)};
        size_t decoded = 0;
        require(qwen_tokenizer_encode(tokenizer, text, sizeof(text) - 1, special, &ids, NULL) ==
                CENOTE_OK);
        for (uint64_t i = 0; i < ids.count; i++) {
            const unsigned char *bytes;
            bool is_special;
            require(ids.ids[i] < qwen_tokenizer_id_limit(tokenizer));
            const size_t count =
                qwen_tokenizer_token_bytes(tokenizer, ids.ids[i], &bytes, &is_special);
            require(count > 0);
            qwen_detokenizer_feed(&detokenizer, bytes, count, count_bytes, &decoded);
        }
        qwen_detokenizer_feed(&detokenizer, NULL, 0, count_bytes, &decoded);
        require(decoded > 0);
        qwen_ids_fini(&ids);
    }
    (void)qwen_tokenizer_special(tokenizer, "<|im_start|>");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    cenote_error err;
    qwen_tokenizer *tokenizer;
    cenote_pool_stats stats;
    cenote_pool *pool = the_pool();
    const int fd = memfd_create("tokenizer.json", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (qwen_tokenizer_open(pool, path, &tokenizer, &err) == CENOTE_OK) {
        use(tokenizer);
        qwen_tokenizer_close(tokenizer);
    } else {
        require(err.message[0] != '\0');
    }
    close(fd);
    cenote_pool_stats_get(pool, &stats);
    require(stats.block_count == 0);
    return 0;
}
