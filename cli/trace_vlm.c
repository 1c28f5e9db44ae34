/* SPDX-License-Identifier: Apache-2.0 */
/* What a server of a vision-language model allocates, drawn from a seed. Integers only, so that the
 * same seed gives the same trace everywhere.
 *
 *   sequence:  pixels, tower    features  embeddings  prefill   token, token, ...       end
 *              ~~~~~~~~~~~~~    ================================                        (half of
 *              a layer's        keys and values: ============================= grow ==|  the
 * features activations                             a layer's activations            are kept on)
 *
 * Shapes of a Qwen3-VL with 4 B parameters: a text model 2560 wide with 36 layers and 8 heads of
 * 128 for keys and values, a tower 1024 wide with 24 layers; bf16. Eight sequences live at once,
 * with 0 to 3 images each. Keys and values are in chunks of 16 tokens with all layers together, or
 * in one piece a sequence, which is moved to a larger one every 256 tokens. Weights are not in it:
 * they are taken once and never freed. */
#include "trace.h"

#include <inttypes.h>
#include <string.h>

#include "size.h"

#define SEQUENCES       8u
#define IMAGES_MAX      3u
#define FEATURES_KEPT   8u /* of sequences that have ended */
#define CHUNK_TOKENS    16u
#define GROWTH_TOKENS   256u
#define TOKENS_MAX      12288u
#define ELEMENT_BYTES   2u
#define TEXT_LAYERS     36u
#define TEXT_WIDTH      2560u
#define TEXT_QKV_WIDTH  6144u
#define TEXT_ATTN_WIDTH 4096u
#define TEXT_MLP_WIDTH  9728u
#define KV_TOKEN_BYTES  (TEXT_LAYERS * 2u * 8u * 128u * ELEMENT_BYTES)
#define VOCABULARY      151936u
#define TOWER_LAYERS    24u
#define TOWER_WIDTH     1024u
#define TOWER_MLP_WIDTH 4096u
#define PATCH_VALUES    1536u
#define DEEPSTACK       4u /* the features themselves, and those for three layers of text */

struct image {
    uint64_t patches;
    uint64_t features[DEEPSTACK]; /* ids */
};

struct sequence {
    uint64_t tokens, tokens_end; /* 0: nobody */
    uint64_t kv[TOKENS_MAX / CHUNK_TOKENS];
    uint64_t kv_count;
    uint64_t kv_tokens; /* there is room for */
    struct image images[IMAGES_MAX];
    uint32_t image_count;
};

struct server {
    struct cli_trace *trace;
    const struct cli_vlm *vlm;
    uint32_t kv_pool, features_pool, embeddings_pool, activations_pool;
    uint64_t random, next_id;
    struct sequence sequences[SEQUENCES];
    uint64_t kept[FEATURES_KEPT][DEEPSTACK];
    uint32_t kept_count, kept_next;
    cenote_status status; /* of the first operation that failed; nothing is done after it */
    cenote_error *err;
};

/* ---- draws ---- */

static uint64_t draw(struct server *server, uint64_t least, uint64_t most)
{
    server->random += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = server->random;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return least + (x ^ (x >> 31)) % (most - least + 1);
}

/* Each factor of two as likely. */
static uint64_t draw_skewed(struct server *server, uint64_t least, uint32_t doublings)
{
    uint64_t power = least << draw(server, 0, doublings - 1);
    return draw(server, power, 2 * power - 1);
}

/* ---- operations ---- */

static bool done(const struct server *server)
{
    return server->status != CENOTE_OK || server->trace->op_count >= server->vlm->op_count;
}

static uint64_t take(struct server *server, uint32_t pool, uint64_t size_bytes)
{
    uint64_t id = server->next_id++;
    if (!done(server))
        server->status = cli_trace_alloc(server->trace, pool, id, size_bytes, 0, 0, server->err);
    return id;
}

static void give(struct server *server, uint32_t pool, uint64_t id)
{
    if (!done(server))
        server->status = cli_trace_free(server->trace, pool, id, server->err);
}

static uint64_t activation(struct server *server, uint64_t rows, uint64_t width)
{
    return take(server, server->activations_pool, rows * width * ELEMENT_BYTES);
}

static void activation_end(struct server *server, uint64_t id)
{
    give(server, server->activations_pool, id);
}

/* ---- what a sequence does ---- */

/* Attention, then the two matrices of the MLP, each with its input held. */
static void layers(struct server *server, uint64_t rows, uint32_t count, const uint64_t widths[4])
{
    for (uint32_t layer = 0; layer < count && !done(server); layer++) {
        uint64_t normed = activation(server, rows, widths[0]);
        uint64_t qkv = activation(server, rows, widths[1]);
        activation_end(server, normed);
        uint64_t attention = activation(server, rows, widths[2]);
        activation_end(server, qkv);
        uint64_t out = activation(server, rows, widths[0]);
        activation_end(server, attention);
        uint64_t mlp = activation(server, rows, widths[3]);
        activation_end(server, out);
        uint64_t down = activation(server, rows, widths[0]);
        activation_end(server, mlp);
        activation_end(server, down);
    }
}

static void see(struct server *server, struct image *image)
{
    static const uint64_t widths[4] = {TOWER_WIDTH, 3 * TOWER_WIDTH, TOWER_WIDTH, TOWER_MLP_WIDTH};
    uint64_t height = 2 * draw_skewed(server, 8, 3), width = 2 * draw_skewed(server, 8, 3);
    image->patches = height * width;
    uint64_t pixels = activation(server, image->patches, 2 * PATCH_VALUES); /* f32 */
    uint64_t hidden = activation(server, image->patches, TOWER_WIDTH);
    activation_end(server, pixels);
    uint64_t bytes = image->patches / 4 * TEXT_WIDTH * ELEMENT_BYTES;
    for (uint32_t i = 0; i < DEEPSTACK; i++) {
        layers(server, image->patches, TOWER_LAYERS / DEEPSTACK, widths);
        image->features[i] = take(server, server->features_pool, bytes);
    }
    activation_end(server, hidden);
}

/* Room for keys and values of @p tokens. */
static void kv_reach(struct server *server, struct sequence *s, uint64_t tokens)
{
    if (server->vlm->chunked) {
        for (; s->kv_tokens < tokens; s->kv_tokens += CHUNK_TOKENS)
            s->kv[s->kv_count++] =
                take(server, server->kv_pool, (uint64_t)CHUNK_TOKENS * KV_TOKEN_BYTES);
    } else if (s->kv_tokens < tokens) {
        s->kv_tokens = (tokens + GROWTH_TOKENS - 1) / GROWTH_TOKENS * GROWTH_TOKENS;
        uint64_t larger = take(server, server->kv_pool, s->kv_tokens * KV_TOKEN_BYTES);
        if (s->kv_count > 0)
            give(server, server->kv_pool, s->kv[0]);
        s->kv[0] = larger;
        s->kv_count = 1;
    }
}

static void begin(struct server *server, struct sequence *s)
{
    static const uint64_t widths[4] = {TEXT_WIDTH, TEXT_QKV_WIDTH, TEXT_ATTN_WIDTH,
                                       2 * TEXT_MLP_WIDTH};
    memset(s, 0, sizeof *s);
    s->image_count = (uint32_t)draw(server, 0, IMAGES_MAX);
    s->tokens = draw_skewed(server, 16, 7);
    for (uint32_t i = 0; i < s->image_count; i++) {
        see(server, &s->images[i]);
        s->tokens += s->images[i].patches / 4;
    }
    s->tokens_end = s->tokens + draw_skewed(server, 16, 6);
    uint64_t ids = take(server, server->embeddings_pool, s->tokens * 4);
    uint64_t embeddings =
        take(server, server->embeddings_pool, s->tokens * TEXT_WIDTH * ELEMENT_BYTES);
    kv_reach(server, s, s->tokens);
    uint64_t hidden = activation(server, s->tokens, TEXT_WIDTH);
    layers(server, s->tokens, TEXT_LAYERS, widths);
    activation_end(server, hidden);
    give(server, server->embeddings_pool, embeddings);
    give(server, server->embeddings_pool, ids);
}

/* Features of an image that may be asked about again; the oldest ones make room. */
static void keep(struct server *server, const struct image *image)
{
    if (server->kept_count == FEATURES_KEPT)
        for (uint32_t i = 0; i < DEEPSTACK; i++)
            give(server, server->features_pool, server->kept[server->kept_next][i]);
    else
        server->kept_count++;
    memcpy(server->kept[server->kept_next], image->features, sizeof image->features);
    server->kept_next = (server->kept_next + 1) % FEATURES_KEPT;
}

static void end(struct server *server, struct sequence *s)
{
    for (uint32_t i = 0; i < s->image_count; i++) {
        if (draw(server, 0, 1) == 0)
            keep(server, &s->images[i]);
        else
            for (uint32_t k = 0; k < DEEPSTACK; k++)
                give(server, server->features_pool, s->images[i].features[k]);
    }
    for (uint64_t i = 0; i < s->kv_count; i++)
        give(server, server->kv_pool, s->kv[i]);
    s->tokens_end = 0;
}

/* A token for every sequence that lives. */
static void step(struct server *server)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        struct sequence *s = &server->sequences[i];
        if (s->tokens_end == 0)
            continue;
        rows++;
        kv_reach(server, s, ++s->tokens);
    }
    if (rows > 0) {
        uint64_t hidden = activation(server, rows, TEXT_WIDTH);
        uint64_t mlp = activation(server, rows, 2 * TEXT_MLP_WIDTH);
        activation_end(server, mlp);
        uint64_t logits = activation(server, rows, 2 * VOCABULARY); /* f32 */
        activation_end(server, hidden);
        activation_end(server, logits);
    }
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        struct sequence *s = &server->sequences[i];
        if (s->tokens_end != 0 && s->tokens >= s->tokens_end)
            end(server, s);
    }
}

/* One sequence at most begins between two tokens: sooner when many places are empty. */
static void admit(struct server *server)
{
    uint32_t first = (uint32_t)draw(server, 0, 4 * SEQUENCES - 1);
    if (first < SEQUENCES && server->sequences[first].tokens_end == 0)
        begin(server, &server->sequences[first]);
}

cenote_status cli_trace_generate(struct cli_trace *trace, const struct cli_vlm *vlm,
                                 cenote_error *err)
{
    struct server server = {.trace = trace, .vlm = vlm, .random = vlm->seed, .err = err};
    cenote_status status = cli_trace_pool(trace, 0, CENOTE_CLASS_KV_CACHE, &server.kv_pool, err);
    if (status == CENOTE_OK)
        status = cli_trace_pool(trace, 1, CENOTE_CLASS_IMAGE_FEATURES, &server.features_pool, err);
    if (status == CENOTE_OK)
        status =
            cli_trace_pool(trace, 2, CENOTE_CLASS_TEXT_EMBEDDINGS, &server.embeddings_pool, err);
    if (status == CENOTE_OK)
        status = cli_trace_pool(trace, 3, CENOTE_CLASS_ACTIVATIONS, &server.activations_pool, err);
    if (status != CENOTE_OK)
        return status;
    while (!done(&server)) {
        admit(&server);
        step(&server);
    }
    return server.status;
}

/* ---- "vlm:SEED:OPS:chunked" ---- */

static bool cut_number(const char **text, uint64_t max, uint64_t *out_number)
{
    char digits[24];
    const char *colon = strchr(*text, ':');
    size_t size = colon != NULL ? (size_t)(colon - *text) : sizeof digits;
    if (size >= sizeof digits)
        return false;
    memcpy(digits, *text, size);
    digits[size] = '\0';
    *text = colon + 1;
    return cli_number_parse(digits, 0, max, out_number, NULL) == CENOTE_OK;
}

cenote_status cli_vlm_parse(const char *text, struct cli_vlm *out_vlm, cenote_error *err)
{
    static const char prefix[] = "vlm:";
    struct cli_vlm vlm = {0};
    const char *at = text + sizeof prefix - 1;
    bool good = strncmp(text, prefix, sizeof prefix - 1) == 0 &&
                cut_number(&at, UINT64_MAX, &vlm.seed) &&
                cut_number(&at, CLI_TRACE_OPS_MAX, &vlm.op_count) && vlm.op_count > 0;
    vlm.chunked = good && strcmp(at, "chunked") == 0;
    if (!good || !(vlm.chunked || strcmp(at, "contiguous") == 0))
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "'%s' is not vlm:SEED:OPS:chunked or vlm:SEED:OPS:contiguous with "
                                "1 to %" PRIu64 " operations",
                                text, CLI_TRACE_OPS_MAX);
    *out_vlm = vlm;
    return CENOTE_OK;
}
