/* SPDX-License-Identifier: Apache-2.0 */
#include "layout_instances.h"

#include "random.h"

static void shuffle(cenote_layout_buffer *buffers, uint64_t count, uint64_t *state)
{
    for (uint64_t i = count; i > 1; i--) {
        uint64_t other = random_below(state, i);
        cenote_layout_buffer buffer = buffers[i - 1];
        buffers[i - 1] = buffers[other];
        buffers[other] = buffer;
    }
}

/* ---- perfect packings ---- */

/* While pieces are cut align_bytes holds their offset: only that they lie side by side matters. */
static bool cut(cenote_layout_buffer *piece, cenote_layout_buffer *other, uint64_t *state)
{
    uint64_t life = piece->upper - piece->lower;
    *other = *piece;
    if (life * (UINT64_C(1) << 20) / 10000 > piece->size_bytes ? life > 1
                                                               : piece->size_bytes == 1) {
        uint64_t at = piece->lower + 1 + random_below(state, life - 1);
        piece->upper = other->lower = at;
        return true;
    }
    if (piece->size_bytes < 2)
        return false;
    uint64_t size = 1 + random_below(state, piece->size_bytes - 1);
    other->size_bytes -= size;
    piece->size_bytes = size;
    return true;
}

void layout_make_perfect(cenote_layout_buffer *buffers, uint64_t count, uint64_t seed)
{
    uint64_t state = seed;
    buffers[0] = (cenote_layout_buffer){0, 10000, 1 << 20, 0};
    for (uint64_t made = 1; made < count;) {
        /* The larger of two, so that pieces do not differ by too much. */
        uint64_t a = random_below(&state, made), b = random_below(&state, made);
        uint64_t area_a = (buffers[a].upper - buffers[a].lower) * buffers[a].size_bytes;
        uint64_t area_b = (buffers[b].upper - buffers[b].lower) * buffers[b].size_bytes;
        if (cut(&buffers[area_a > area_b ? a : b], &buffers[made], &state))
            made++;
    }
    shuffle(buffers, count, &state);
}

/* ---- transformers ---- */

struct graph {
    cenote_layout_buffer *buffers;
    uint64_t count, made, moment, end;
    uint64_t state;
};

/* A buffer that the operation at this moment writes, and that is read until @p upper. */
static void live(struct graph *graph, uint64_t size, uint64_t upper)
{
    if (graph->made < graph->count)
        graph->buffers[graph->made++] =
            (cenote_layout_buffer){graph->moment, upper, (size + 63) / 64 * 64, 64};
}

/* Twelve buffers in ten moments. Saved ones of layer i are read at the mirror image in backward. */
static void layer(struct graph *graph, uint64_t tokens, uint64_t hidden, bool training)
{
    uint64_t row = tokens * hidden * 4, start = graph->moment;
    uint64_t mirror = graph->end - start;
    struct {
        uint64_t size, from, to;
        bool saved;
    } const tensors[] = {
        {row, 0, 10, false},
        {row, 0, 2, true},
        {row, 1, 4, true},
        {row / 4, 1, 4, true},
        {row / 4, 2, 5, true},
        {tokens * tokens * 4 * 4, 3, 5, true},
        {row, 4, 6, true},
        {row, 6, 8, true},
        {3 * row, 7, 9, true},
        {3 * row, 7, 9, true},
        {row / 16 + 64, 8, 9, false},
        {64 + random_below(&graph->state, row), 9, 10, false},
    };
    for (unsigned i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        graph->moment = start + tensors[i].from;
        uint64_t upper = start + tensors[i].to;
        if (training && tensors[i].saved)
            upper = mirror - tensors[i].from + 1;
        live(graph, tensors[i].size, upper);
        if (training && i % 2 == 0) { /* its gradient */
            graph->moment = mirror - tensors[i].to;
            live(graph, tensors[i].size, mirror - tensors[i].from + 1);
        }
    }
    graph->moment = start + 10;
}

void layout_make_transformer(cenote_layout_buffer *buffers, uint64_t count, bool training,
                             uint64_t seed)
{
    struct graph graph = {.buffers = buffers, .count = count, .state = seed};
    uint64_t layers = count / (training ? 18 : 12) + 1;
    uint64_t tokens = 0, hidden = 0;
    graph.end = 2 * layers * 10 + 20;
    for (uint64_t i = 0; i < layers; i++) {
        if (i % 24 == 0) { /* the next part: a tower, a merger, a decoder */
            tokens = 64 + random_below(&graph.state, 1000);
            hidden = 64 * (8 + random_below(&graph.state, 24));
        }
        layer(&graph, tokens, hidden, training);
    }
    shuffle(buffers, count, &graph.state);
}

/* ---- the runner's own ---- */

static uint64_t add(cenote_layout_buffer *buffers, uint64_t at, uint64_t lower, uint64_t upper,
                    uint64_t size)
{
    buffers[at] = (cenote_layout_buffer){lower, upper, (size + 63) / 64 * 64, 64};
    return at + 1;
}

/* 0 embedding, 1 rotation, 2-5 attention, 6-9 MLP, 10 last norm, 11-12 logits. */
uint64_t layout_make_runner_text(cenote_layout_buffer *buffers, uint64_t tokens)
{
    enum { D = 2048, Q = 2048, KV = 1024, FFN = 6144, HALF = 64, VOCABULARY = 151936 };
    uint64_t n = 0, floats = tokens * 4, pointers = (tokens + 512 + 15) / 16 * 8;
    n = add(buffers, n, 0, 12, floats * D); /* residual */
    n = add(buffers, n, 0, 1, D * 2);       /* a row as in the file */
    n = add(buffers, n, 1, 10, floats * HALF);
    n = add(buffers, n, 1, 10, floats * HALF);
    n = add(buffers, n, 2, 5, floats * D); /* normed */
    n = add(buffers, n, 3, 6, floats * Q);
    n = add(buffers, n, 3, 5, floats * KV);
    n = add(buffers, n, 3, 5, floats * KV);
    n = add(buffers, n, 4, 6, pointers);
    n = add(buffers, n, 4, 6, pointers);
    n = add(buffers, n, 6, 9, floats * D); /* normed */
    n = add(buffers, n, 7, 10, floats * FFN);
    n = add(buffers, n, 7, 9, floats * FFN);
    n = add(buffers, n, 10, 12, floats * D); /* normed */
    n = add(buffers, n, 11, 13, VOCABULARY * 4);
    return add(buffers, n, 0, 13, VOCABULARY / 8); /* tokens seen */
}

/* 0-1 patch rows, 2-3 positions, 4-9 attention, 10-13 MLP, 14-17 merger. */
uint64_t layout_make_runner_vision(cenote_layout_buffer *buffers, uint64_t patches)
{
    enum { D = 1024, FFN = 4096, COLUMNS = 1536, HALF = 32, SIDE = 48 };
    uint64_t n = 0, floats = patches * 4, pointers = (patches + 15) / 16 * 8;
    n = add(buffers, n, 0, 2, floats * COLUMNS);
    n = add(buffers, n, 1, 18, floats * D);      /* residual */
    n = add(buffers, n, 2, 4, 2 * SIDE * D * 4); /* lines of the position table */
    n = add(buffers, n, 2, 4, SIDE * D * 2);
    n = add(buffers, n, 2, 14, floats * HALF);
    n = add(buffers, n, 2, 14, floats * HALF);
    n = add(buffers, n, 4, 6, floats * D); /* normed */
    n = add(buffers, n, 5, 8, floats * 3 * D);
    n = add(buffers, n, 6, 8, pointers);
    n = add(buffers, n, 6, 8, pointers);
    n = add(buffers, n, 7, 9, floats * D); /* attention's output */
    n = add(buffers, n, 10, 12, floats * D);
    n = add(buffers, n, 11, 13, floats * FFN);
    n = add(buffers, n, 14, 16, floats * D);
    return add(buffers, n, 15, 17, floats * D);
}

/* ---- anything ---- */

void layout_make_random(cenote_layout_buffer *buffers, uint64_t count, uint64_t moments,
                        uint64_t size_max, unsigned align_log2_max, uint64_t seed)
{
    uint64_t state = seed;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t lower = random_below(&state, moments);
        uint64_t life = 1 + random_below(&state, moments - lower);
        if (random_below(&state, 2) == 0)
            life = 1 + life / 8;
        buffers[i] =
            (cenote_layout_buffer){lower, lower + life, random_below(&state, size_max + 1),
                                   UINT64_C(1) << random_below(&state, align_log2_max + 1)};
    }
}
