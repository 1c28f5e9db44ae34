/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of a tile of query rows, written once over vec. The file that includes this has chosen
 * the registers and defines ATTENTION_TILE, the name of the function.
 *
 *              64 keys, packed
 *          +----+----+----+----+
 *     rows | 16 | 16 | 16 | 16 |  scores -> exp(score - maximum) -> times 64 packed values
 *          +----+----+----+----+
 *
 * Online softmax (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022): a row keeps the
 * maximum of its scores, the sum of exp(score - maximum) in 16 lanes, and the weighted sum of
 * values. After each tile of keys it scales the last two by exp(old maximum - new maximum) and
 * adds the tile's. Tiles begin at key 0, whatever part of the queries is asked for.
 *
 * What a row becomes depends on the keys that it sees and on nothing else: a score is one chain
 * of fma over head_dim; a tile's weighted sum one chain of fma over the keys the row sees. A key
 * that it does not see takes no part, not even with weight zero (0 * Inf would be NaN). */
#include "attention_impl.h"
#include "vec_math.h"

typedef struct tile {
    const qwen_attention *attention;
    qwen_attention_scratch *scratch;
    uint32_t kv_head;
    uint32_t group; /* query heads per kv head */
    uint32_t head_dim;
    uint32_t columns; /* vectors of head_dim, rounded up */
    uint64_t row_first;
    unsigned row_count;
} tile;

/* ---- packing ---- */

typedef struct place {
    uint64_t query;
    size_t column; /* of the head's first element in q and out */
} place;

static place row_place(const tile *t, unsigned row)
{
    uint64_t index = t->row_first + row;
    size_t head = (size_t)t->kv_head * t->group + (size_t)(index % t->group);
    return (place){index / t->group, head * t->head_dim};
}

static void queries_pack(const tile *t)
{
    vec scale = vec_set(t->attention->scale);
    for (unsigned row = 0; row < t->row_count; row++) {
        place at = row_place(t, row);
        const float *from = t->attention->q + at.query * t->attention->q_stride + at.column;
        float *to = t->scratch->queries + (size_t)row * t->head_dim;
        for (uint32_t i = 0; i < t->head_dim; i += VEC_LANES)
            vec_store_first(to + i, vec_mul(vec_load_first(from + i, t->head_dim - i), scale),
                            t->head_dim - i);
    }
}

/* Elements of the cache: float or bf16, by a constant that each caller's copy folds away. */
VEC_INLINE const void *element_at(bool bf16, const void *base, size_t index)
{
    return (const unsigned char *)base + index * (bf16 ? 2 : 4);
}

VEC_INLINE vec sixteen_load(bool bf16, const void *from)
{
    return bf16 ? vec_load_bf16(from) : vec_load(from);
}

VEC_INLINE vec quads_load(bool bf16, const void *a, const void *b, const void *c, const void *d)
{
    return bf16 ? vec_quads_bf16(a, b, c, d) : vec_quads_f32(a, b, c, d);
}

/* Keys [0, count) of a head, transposed to [head_dim][16]. The columns of missing keys repeat the
 * last one: nobody reads their scores, and nobody reads a slot that was never written. */
VEC_INLINE void keys_pack_block(const tile *t, bool bf16, const void *head, const void *next,
                                unsigned count, float *to)
{
    const void *row[BLOCK_KEYS];
    for (unsigned key = 0; key < BLOCK_KEYS; key++)
        row[key] =
            element_at(bf16, head, (key < count ? key : count - 1) * t->attention->row_stride);
    const uint32_t head_dim = t->head_dim;
    for (uint32_t i = 0; i < head_dim; i += 4, to += 4 * BLOCK_KEYS) {
        if (i % VEC_LANES == 0)
            for (unsigned key = 0; key < BLOCK_KEYS; key++)
                __builtin_prefetch(element_at(bf16, next, key * t->attention->row_stride + i));
        /* The transpose keeps quads in their place: quad q is of keys 4 q to 4 q + 3. */
        vec quads[4];
#pragma GCC unroll 4
        for (unsigned j = 0; j < 4; j++)
            quads[j] =
                quads_load(bf16, element_at(bf16, row[j], i), element_at(bf16, row[4 + j], i),
                           element_at(bf16, row[8 + j], i), element_at(bf16, row[12 + j], i));
        vec_transpose_quads(quads);
#pragma GCC unroll 4
        for (unsigned j = 0; j < 4; j++)
            vec_store(to + j * BLOCK_KEYS, quads[j]);
    }
}

/* Values [0, count) of a head, widened, cut into columns of 16. Beyond head_dim the last column
 * repeats its last quad: nobody reads those sums. */
VEC_INLINE void values_pack_block(const tile *t, bool bf16, const void *head, const void *next,
                                  unsigned count, float *to)
{
    const size_t stride = t->attention->row_stride;
    const uint32_t head_dim = t->head_dim;
    uint32_t i = 0;
    for (; i + VEC_LANES <= head_dim; i += VEC_LANES, to += TILE_KEYS * VEC_LANES)
        for (unsigned key = 0; key < count; key++) {
            __builtin_prefetch(element_at(bf16, next, key * stride + i));
            vec_store(to + key * VEC_LANES,
                      sixteen_load(bf16, element_at(bf16, head, key * stride + i)));
        }
    if (i == head_dim)
        return;
    uint32_t last = head_dim - 4;
    for (unsigned key = 0; key < count; key++) {
        const void *row = element_at(bf16, head, key * stride);
        vec v = quads_load(
            bf16, element_at(bf16, row, i), element_at(bf16, row, i + 4 < last ? i + 4 : last),
            element_at(bf16, row, i + 8 < last ? i + 8 : last), element_at(bf16, row, last));
        vec_store(to + key * VEC_LANES, v);
    }
}

/* While a block is packed the same places of the next one are fetched: sixteen rows at a time are
 * more streams than the processor foresees. A fetch of a row that does not exist does no harm. */
VEC_INLINE void keys_values_pack_as(const tile *t, bool bf16, uint64_t key_first, unsigned count)
{
    const qwen_attention *attention = t->attention;
    size_t head = t->kv_head * attention->head_stride;
    for (unsigned key = 0; key < count; key += BLOCK_KEYS) {
        uint64_t block = (key_first + key) / BLOCK_KEYS;
        uint64_t next = (block + 1) * BLOCK_KEYS < attention->key_count ? block + 1 : block;
        unsigned used = count - key < BLOCK_KEYS ? count - key : BLOCK_KEYS;
        keys_pack_block(t, bf16, element_at(bf16, attention->keys[block], head),
                        element_at(bf16, attention->keys[next], head), used,
                        t->scratch->keys + (size_t)key * t->head_dim);
        values_pack_block(t, bf16, element_at(bf16, attention->values[block], head),
                          element_at(bf16, attention->values[next], head), used,
                          t->scratch->values + (size_t)key * VEC_LANES);
    }
}

static void keys_values_pack(const tile *t, uint64_t key_first, unsigned count)
{
    if (t->attention->kv_dtype == CENOTE_DTYPE_BF16)
        keys_values_pack_as(t, true, key_first, count);
    else
        keys_values_pack_as(t, false, key_first, count);
}

/* ---- products ---- */

/* sums[row][column][16] (+)= sum over k < depth of a[row][k] * b[column][k][16] */
typedef struct product {
    const float *a;
    size_t a_stride;
    const float *b;
    size_t b_stride; /* between columns */
    float *sums;
    size_t sums_stride;
    unsigned columns;
    unsigned depth;
    bool accumulate;
} product;

/* Columns that fit the registers beside as many rows: their sums, a row of b and one of a. */
#define COLUMNS_MAX(rows)                                                                          \
    ((rows)*4 + 5 <= VEC_REGISTERS ? 4 : (rows)*2 + 3 <= VEC_REGISTERS ? 2 : 1)

VEC_INLINE void product_columns(const unsigned rows, const unsigned columns, const product *p,
                                unsigned column)
{
    const float *a = p->a;
    const float *b = p->b + column * p->b_stride;
    float *to = p->sums + column * VEC_LANES;
    vec sums[STRIP_ROWS][4];
#pragma GCC unroll 6
    for (unsigned i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (unsigned j = 0; j < columns; j++)
            sums[i][j] =
                p->accumulate ? vec_load(to + i * p->sums_stride + j * VEC_LANES) : vec_set(0.0f);
    for (unsigned k = 0; k < p->depth; k++, a++, b += VEC_LANES) {
        vec row[4];
#pragma GCC unroll 4
        for (unsigned j = 0; j < columns; j++)
            row[j] = vec_load(b + j * p->b_stride);
#pragma GCC unroll 6
        for (unsigned i = 0; i < rows; i++) {
            vec x = vec_set(a[i * p->a_stride]);
#pragma GCC unroll 4
            for (unsigned j = 0; j < columns; j++)
                sums[i][j] = vec_fma(x, row[j], sums[i][j]);
        }
    }
#pragma GCC unroll 6
    for (unsigned i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (unsigned j = 0; j < columns; j++)
            vec_store(to + i * p->sums_stride + j * VEC_LANES, sums[i][j]);
}

VEC_INLINE void product_rows(const unsigned rows, const product *p)
{
    unsigned column = 0;
    for (; column + COLUMNS_MAX(rows) <= p->columns; column += COLUMNS_MAX(rows))
        product_columns(rows, COLUMNS_MAX(rows), p, column);
    for (; column < p->columns; column++)
        product_columns(rows, 1, p, column);
}

/* Strips have 6, 4, 2 or 1 rows. */
static unsigned strip_rows(unsigned left)
{
    return left >= 6 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

static void product_run(unsigned rows, const product *p)
{
    if (rows == 6)
        product_rows(6, p);
    else if (rows == 4)
        product_rows(4, p);
    else if (rows == 2)
        product_rows(2, p);
    else
        product_rows(1, p);
}

/* ---- softmax ---- */

/* Keys of the tile at @p key_first that a row sees. */
static unsigned keys_seen(const tile *t, unsigned row, uint64_t key_first)
{
    const qwen_attention *attention = t->attention;
    uint64_t end = attention->key_count;
    if (attention->causal) {
        uint64_t query = row_place(t, row).query;
        if (query < end - 1 && attention->first_position < end - 1 - query)
            end = attention->first_position + query + 1;
    }
    if (end <= key_first)
        return 0;
    return end - key_first < TILE_KEYS ? (unsigned)(end - key_first) : TILE_KEYS;
}

/* Turns a row's scores into exp(score - maximum), with zeros from @p count on, and moves its
 * maximum and sum. @return exp(old maximum - new maximum) */
static float weights_make(float *weights, unsigned count, float *maximum, float *sums)
{
    const unsigned blocks = TILE_KEYS / VEC_LANES;
    vec scores[TILE_KEYS / VEC_LANES];
    for (unsigned j = 0; j < blocks; j++) {
        unsigned first = j * VEC_LANES;
        scores[j] = vec_set(-INFINITY);
        if (count >= first + VEC_LANES)
            scores[j] = vec_load(weights + first);
        else if (count > first)
            scores[j] = vec_keep_first(vec_load(weights + first), count - first, scores[j]);
    }
    float largest =
        vec_max_across(vec_max(vec_max(scores[0], scores[1]), vec_max(scores[2], scores[3])));
    float old = *maximum;
    *maximum = largest > old ? largest : old;
    vec shift = vec_set(*maximum);
    for (unsigned j = 0; j < blocks; j++) {
        scores[j] = vec_exp(vec_sub(scores[j], shift));
        vec_store(weights + j * VEC_LANES, scores[j]);
    }
    vec fade = vec_exp(vec_sub(vec_set(old), shift));
    vec sum = vec_add(vec_add(scores[0], scores[1]), vec_add(scores[2], scores[3]));
    vec_store(sums, vec_fma(vec_load(sums), fade, sum));
    float faded[VEC_LANES];
    vec_store(faded, fade);
    return faded[0];
}

/* The rows that go through the registers together, and what they see of a tile of keys. */
typedef struct strip {
    unsigned row;
    unsigned rows;
    unsigned seen[STRIP_ROWS];
    unsigned seen_least;
    unsigned seen_most;
} strip;

static strip strip_make(const tile *t, unsigned row, uint64_t key_first)
{
    strip s = {.row = row, .rows = strip_rows(t->row_count - row), .seen_least = TILE_KEYS};
    for (unsigned i = 0; i < s.rows; i++) {
        unsigned seen = keys_seen(t, row + i, key_first);
        s.seen[i] = seen;
        s.seen_least = seen < s.seen_least ? seen : s.seen_least;
        s.seen_most = seen > s.seen_most ? seen : s.seen_most;
    }
    return s;
}

static void strip_scores(const tile *t, const strip *s)
{
    const product scores = {
        .a = t->scratch->queries + (size_t)s->row * t->head_dim,
        .a_stride = t->head_dim,
        .b = t->scratch->keys,
        .b_stride = (size_t)t->head_dim * BLOCK_KEYS,
        .sums = t->scratch->weights,
        .sums_stride = TILE_KEYS,
        .columns = (s->seen_most + BLOCK_KEYS - 1) / BLOCK_KEYS,
        .depth = t->head_dim,
    };
    product_run(s->rows, &scores);
}

/* The weighted sums of values, to scratch->products: all rows together over the keys that all of
 * them see, then each row alone over the rest of its own. */
static void strip_mix(const tile *t, const strip *s)
{
    const size_t width = (size_t)t->columns * VEC_LANES;
    const product shared = {
        .a = t->scratch->weights,
        .a_stride = TILE_KEYS,
        .b = t->scratch->values,
        .b_stride = TILE_KEYS * VEC_LANES,
        .sums = t->scratch->products,
        .sums_stride = width,
        .columns = t->columns,
        .depth = s->seen_least,
    };
    product_run(s->rows, &shared);
    for (unsigned i = 0; i < s->rows; i++) {
        if (s->seen[i] == s->seen_least)
            continue;
        product rest = shared;
        rest.a += i * TILE_KEYS + s->seen_least;
        rest.b += (size_t)s->seen_least * VEC_LANES;
        rest.sums += i * width;
        rest.depth = s->seen[i] - s->seen_least;
        rest.accumulate = true;
        product_run(1, &rest);
    }
}

/* One tile of keys. A row that sees none of them keeps what it has. */
static void strip_attend(const tile *t, const strip *s)
{
    qwen_attention_scratch *scratch = t->scratch;
    const size_t width = (size_t)t->columns * VEC_LANES;
    float fade[STRIP_ROWS];
    if (s->seen_most == 0)
        return;
    strip_scores(t, s);
    for (unsigned i = 0; i < s->rows; i++)
        if (s->seen[i] > 0)
            fade[i] = weights_make(scratch->weights + i * TILE_KEYS, s->seen[i],
                                   &scratch->maxima[s->row + i],
                                   scratch->sums + (size_t)(s->row + i) * VEC_LANES);
    strip_mix(t, s);
    for (unsigned i = 0; i < s->rows; i++) {
        if (s->seen[i] == 0)
            continue;
        float *out = scratch->outputs + (s->row + i) * width;
        const float *sums = scratch->products + i * width;
        for (size_t j = 0; j < width; j += VEC_LANES)
            vec_store(out + j, vec_fma(vec_load(out + j), vec_set(fade[i]), vec_load(sums + j)));
    }
}

static void outputs_store(const tile *t)
{
    for (unsigned row = 0; row < t->row_count; row++) {
        place at = row_place(t, row);
        float *to = t->attention->out + at.query * t->attention->out_stride + at.column;
        const float *from = t->scratch->outputs + (size_t)row * t->columns * VEC_LANES;
        vec sum = vec_set(vec_sum(vec_load(t->scratch->sums + (size_t)row * VEC_LANES)));
        for (uint32_t i = 0; i < t->head_dim; i += VEC_LANES)
            vec_store_first(to + i, vec_div(vec_load(from + i), sum), t->head_dim - i);
    }
}

void ATTENTION_TILE(const qwen_attention *attention, uint32_t kv_head, uint64_t row_first,
                    unsigned row_count, qwen_attention_scratch *scratch)
{
    const tile t = {
        .attention = attention,
        .scratch = scratch,
        .kv_head = kv_head,
        .group = attention->head_count / attention->kv_head_count,
        .head_dim = attention->head_dim,
        .columns = (attention->head_dim + VEC_LANES - 1) / VEC_LANES,
        .row_first = row_first,
        .row_count = row_count,
    };
    queries_pack(&t);
    memset(scratch->outputs, 0, (size_t)row_count * t.columns * VEC_LANES * sizeof(float));
    memset(scratch->sums, 0, row_count * VEC_LANES * sizeof(float));
    for (unsigned row = 0; row < row_count; row++)
        scratch->maxima[row] = -INFINITY;

    /* The last row sees the most. */
    for (uint64_t key = 0;; key += TILE_KEYS) {
        unsigned count = keys_seen(&t, row_count - 1, key);
        if (count == 0)
            break;
        keys_values_pack(&t, key, count);
        for (unsigned row = 0; row < row_count;) {
            const strip s = strip_make(&t, row, key);
            strip_attend(&t, &s);
            row += s.rows;
        }
    }
    outputs_store(&t);
}
