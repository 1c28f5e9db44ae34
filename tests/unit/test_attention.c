/* SPDX-License-Identifier: Apache-2.0 */
/* Attention: near softmax in double precision, and the same bits from every instruction set, number
 * of threads, layout of the keys, and cut of the queries into calls. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dense_support.h"
#include "kernels_impl.h"

#define MARK         12345.0f
#define BLOCK        16u
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- a case ---- */

typedef struct shape {
    uint32_t queries, heads, kv_heads, head_dim;
    uint64_t first_position; /* of the queries; keys beyond what they see are there as well */
    uint64_t key_count;
    cenote_dtype dtype;
    bool causal;
    float size; /* of queries and keys: how peaked the weights are */
} shape;

#define F32  CENOTE_DTYPE_F32
#define BF16 CENOTE_DTYPE_BF16

static const shape shapes[] = {
    /* one key, one query */
    {1, 1, 1, 4, 0, 1, F32, false, 1},
    {1, 2, 1, 32, 0, 1, BF16, true, 1},
    /* vision: every key for every query */
    {17, 4, 4, 72, 0, 17, F32, false, 1},
    {70, 2, 2, 48, 0, 70, F32, false, 2},
    {99, 1, 1, 64, 0, 130, F32, false, 1},
    {50, 1, 1, 256, 0, 64, F32, false, 1},
    /* prefill, at once and later, up to the last key and not */
    {5, 4, 2, 32, 0, 5, F32, true, 1},
    {65, 4, 1, 32, 0, 65, F32, true, 3},
    {70, 4, 2, 128, 0, 90, BF16, true, 1},
    {40, 6, 2, 20, 61, 101, F32, true, 1},
    {33, 8, 1, 60, 31, 64, BF16, true, 2},
    {49, 2, 1, 200, 16, 65, F32, true, 1},
    {30, 5, 5, 12, 200, 231, BF16, true, 1},
    /* more rows than one tile has */
    {60, 8, 2, 64, 3, 63, F32, true, 1},
    {26, 4, 1, 132, 100, 126, BF16, true, 1},
    /* decoding */
    {1, 4, 2, 128, 127, 128, F32, true, 1},
    {1, 8, 2, 64, 128, 129, BF16, true, 4},
    {1, 3, 1, 256, 200, 201, F32, true, 1},
    {3, 2, 1, 64, 4000, 4003, F32, true, 1},
};

typedef struct problem {
    shape shape;
    size_t q_stride, out_stride;
    float *q, *k, *v; /* k and v: [key][kv head][head_dim], as the cache's dtype holds them */
    /* A paged cache, a block of its own memory each; or one matrix. */
    uint64_t block_count;
    void **keys, **values;
    float *matrix;
    size_t head_stride, row_stride;
} problem;

static uint64_t random_state = 1;

/* xorshift64*, as a float in [-1, 1) */
static float random_float(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    uint64_t bits = random_state * UINT64_C(2685821657736338717) >> 11;
    return (float)((double)bits * 0x1p-52 - 1.0);
}

static float *floats(size_t count, float size)
{
    float *x = malloc(count * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < count; i++)
        x[i] = random_float() * size;
    return x;
}

static float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To the nearest bf16 by the plain definition: of the two neighbours, the nearer or the even. */
static float bf16_nearest(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x) || isinf(x))
        return x;
    uint32_t low = bits & 0xffff0000u, high = low + 0x10000u;
    double below = (double)float_of_bits(low);
    double above =
        isinf(float_of_bits(high)) ? copysign(0x1p128, (double)x) : (double)float_of_bits(high);
    double down = fabs((double)x - below), up = fabs(above - (double)x);
    bool even = (low & 0x10000u) == 0;
    return float_of_bits(down < up || (down == up && even) ? low : high);
}

static void problem_init(problem *p, const shape *s, uint64_t seed)
{
    random_state = seed * 2 + 1;
    *p = (problem){.shape = *s};
    p->q_stride = (size_t)s->heads * s->head_dim + 3;
    p->out_stride = (size_t)s->heads * s->head_dim + 5;
    size_t row = (size_t)s->kv_heads * s->head_dim;
    p->q = floats((s->queries - 1) * p->q_stride + (size_t)s->heads * s->head_dim, s->size * 3);
    p->k = floats(s->key_count * row, s->size);
    p->v = floats(s->key_count * row, 1);
    for (size_t i = 0; i < s->key_count * row && s->dtype == BF16; i++) {
        p->k[i] = bf16_nearest(p->k[i]);
        p->v[i] = bf16_nearest(p->v[i]);
    }
    p->block_count = (s->key_count + BLOCK - 1) / BLOCK;
    p->keys = calloc(p->block_count, sizeof *p->keys);
    p->values = calloc(p->block_count, sizeof *p->values);
    assert_true(p->keys != NULL && p->values != NULL);
}

static void layout_free(problem *p)
{
    for (uint64_t b = 0; b < p->block_count && p->matrix == NULL; b++) {
        free(p->keys[b]);
        free(p->values[b]);
    }
    free(p->matrix);
    p->matrix = NULL;
}

static void problem_fini(problem *p)
{
    layout_free(p);
    free(p->keys);
    free(p->values);
    free(p->q);
    free(p->k);
    free(p->v);
}

/* Blocks whose slots hold signaling patterns of NaN until a token is stored in them. */
static void layout_paged(problem *p)
{
    const shape *s = &p->shape;
    size_t row = (size_t)s->kv_heads * s->head_dim;
    size_t bytes = row * BLOCK * cenote_dtype_bytes(s->dtype);
    for (uint64_t b = 0; b < p->block_count; b++) {
        p->keys[b] = malloc(bytes);
        p->values[b] = malloc(bytes);
        assert_true(p->keys[b] != NULL && p->values[b] != NULL);
        memset(p->keys[b], 0xff, bytes);
        memset(p->values[b], 0xff, bytes);
    }
    for (uint64_t t = 0; t < s->key_count; t++) {
        uint32_t slot = (uint32_t)(t % BLOCK);
        qwen_kv_store(s->dtype, p->keys[t / BLOCK], slot, s->kv_heads, s->head_dim, p->k + t * row);
        qwen_kv_store(s->dtype, p->values[t / BLOCK], slot, s->kv_heads, s->head_dim,
                      p->v + t * row);
    }
    p->head_stride = (size_t)BLOCK * s->head_dim;
    p->row_stride = s->head_dim;
}

/* Rows of [key_count][keys | values | 1], floats; the memory ends where the last value does. */
static void layout_matrix(problem *p)
{
    const shape *s = &p->shape;
    size_t row = (size_t)s->kv_heads * s->head_dim;
    p->row_stride = 2 * row + 1;
    p->head_stride = s->head_dim;
    p->matrix = floats((s->key_count - 1) * p->row_stride + 2 * row, 1);
    for (uint64_t t = 0; t < s->key_count; t++) {
        memcpy(p->matrix + t * p->row_stride, p->k + t * row, row * sizeof(float));
        memcpy(p->matrix + t * p->row_stride + row, p->v + t * row, row * sizeof(float));
    }
    for (uint64_t b = 0; b < p->block_count; b++) {
        p->keys[b] = p->matrix + b * BLOCK * p->row_stride;
        p->values[b] = p->matrix + b * BLOCK * p->row_stride + row;
    }
}

static qwen_attention attention_of(const problem *p, float *out)
{
    const shape *s = &p->shape;
    return (qwen_attention){
        .q = p->q,
        .q_stride = p->q_stride,
        .out = out,
        .out_stride = p->out_stride,
        .query_count = s->queries,
        .head_count = s->heads,
        .kv_head_count = s->kv_heads,
        .head_dim = s->head_dim,
        .keys = (const void *const *)p->keys,
        .values = (const void *const *)p->values,
        .head_stride = p->head_stride,
        .row_stride = p->row_stride,
        .kv_dtype = p->matrix != NULL ? F32 : s->dtype,
        .key_count = s->key_count,
        .causal = s->causal,
        .first_position = s->first_position,
        .scale = 1.0f / sqrtf((float)s->head_dim),
    };
}

/* [queries][out_stride] with marked gaps. */
static float *out_new(const problem *p)
{
    float *out = floats(p->shape.queries * p->out_stride, 1);
    for (size_t i = 0; i < p->shape.queries * p->out_stride; i++)
        out[i] = MARK;
    return out;
}

/* Calls of at most @p rows queries each; a causal call is told of no key that it does not see. */
static float *attend(const problem *p, qwen_kernels *kernels, uint64_t rows)
{
    float *out = out_new(p);
    qwen_attention whole = attention_of(p, out);
    for (uint64_t i = 0; i < whole.query_count; i += rows) {
        qwen_attention part = whole;
        part.q += i * part.q_stride;
        part.out += i * part.out_stride;
        part.query_count = whole.query_count - i < rows ? whole.query_count - i : rows;
        part.first_position += i;
        if (rows < whole.query_count && part.causal)
            part.key_count = part.first_position + part.query_count;
        qwen_attend(kernels, &part);
    }
    return out;
}

static bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void assert_same(const problem *p, const float *got, const float *wanted, const char *what)
{
    for (size_t i = 0; i < p->shape.queries * p->out_stride; i++)
        if (!same_bits(got[i], wanted[i]))
            fail_msg("%s: queries %u, head_dim %u, keys %" PRIu64 ": [%zu][%zu] is %a, expected %a",
                     what, p->shape.queries, p->shape.head_dim, p->shape.key_count,
                     i / p->out_stride, i % p->out_stride, (double)got[i], (double)wanted[i]);
}

static void each_isa(void (*test)(qwen_kernels *kernels))
{
    for (qwen_isa isa = QWEN_ISA_PORTABLE; isa <= QWEN_ISA_AVX512; isa++) {
        dense_rig rig;
        if (!dense_rig_open(&rig, isa, 2, 16)) {
            print_message("skipped: this CPU lacks %s\n", qwen_isa_text(isa));
            continue;
        }
        test(rig.kernels);
        dense_rig_close(&rig);
    }
}

/* ---- near the definition ---- */

static void attention_exact(const problem *p, uint32_t query, uint32_t head, double *out)
{
    const shape *s = &p->shape;
    size_t row = (size_t)s->kv_heads * s->head_dim;
    size_t column = (size_t)(head / (s->heads / s->kv_heads)) * s->head_dim;
    uint64_t seen = s->causal && s->first_position + query + 1 < s->key_count
                        ? s->first_position + query + 1
                        : s->key_count;
    double *weights = calloc(seen, sizeof *weights);
    assert_non_null(weights);
    double largest = -INFINITY, sum = 0;
    for (uint64_t t = 0; t < seen; t++) {
        for (uint32_t i = 0; i < s->head_dim; i++)
            weights[t] += (double)p->q[query * p->q_stride + head * s->head_dim + i] *
                          (double)p->k[t * row + column + i];
        weights[t] /= sqrt((double)s->head_dim);
        largest = fmax(largest, weights[t]);
    }
    for (uint64_t t = 0; t < seen; t++)
        sum += weights[t] = exp(weights[t] - largest);
    for (uint32_t i = 0; i < s->head_dim; i++) {
        out[i] = 0;
        for (uint64_t t = 0; t < seen; t++)
            out[i] += weights[t] / sum * (double)p->v[t * row + column + i];
    }
    free(weights);
}

/* Relative RMS over the whole output. */
static double error_of(const problem *p, const float *out)
{
    const shape *s = &p->shape;
    double error = 0, size = 0, exact[256];
    for (uint32_t query = 0; query < s->queries; query++) {
        for (uint32_t head = 0; head < s->heads; head++) {
            attention_exact(p, query, head, exact);
            const float *got = out + query * p->out_stride + head * s->head_dim;
            for (uint32_t i = 0; i < s->head_dim; i++) {
                error += ((double)got[i] - exact[i]) * ((double)got[i] - exact[i]);
                size += exact[i] * exact[i];
            }
        }
        for (size_t i = (size_t)s->heads * s->head_dim; i < p->out_stride; i++)
            assert_true(out[query * p->out_stride + i] == MARK);
    }
    return sqrt(error / size);
}

static void exact_test(qwen_kernels *kernels)
{
    double worst = 0;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        problem p;
        problem_init(&p, &shapes[i], i);
        layout_paged(&p);
        float *out = attend(&p, kernels, UINT64_MAX / 2);
        double error = error_of(&p, out);
        worst = error > worst ? error : worst;
        /* a score's error grows with its size, and is the weight's relative error */
        if (!(error <= 8e-7 * (double)(shapes[i].size * shapes[i].size)))
            fail_msg("shape %zu: relative error %g", i, error);
        free(out);
        problem_fini(&p);
    }
    print_message("%s: relative RMS error at most %.2g\n", qwen_isa_text(qwen_kernels_isa(kernels)),
                  worst);
}

static void test_is_near_softmax(void **state)
{
    (void)state;
    each_isa(exact_test);
}

/* exp(0) / 1 is no rounding. */
static void one_key_test(qwen_kernels *kernels)
{
    static const shape s = {3, 4, 2, 24, 0, 1, F32, false, 5};
    problem p;
    problem_init(&p, &s, 9);
    layout_paged(&p);
    float *out = attend(&p, kernels, 3);
    for (uint32_t query = 0; query < s.queries; query++)
        for (uint32_t head = 0; head < s.heads; head++)
            assert_memory_equal(out + query * p.out_stride + head * s.head_dim,
                                p.v + head / 2 * s.head_dim, s.head_dim * sizeof(float));
    free(out);
    problem_fini(&p);
}

static void test_one_key_gives_its_value(void **state)
{
    (void)state;
    each_isa(one_key_test);
}

/* Scores of many thousands: the largest takes all, nothing overflows. */
static void large_scores_test(qwen_kernels *kernels)
{
    static const shape s = {20, 1, 1, 16, 0, 150, F32, false, 300};
    problem p;
    problem_init(&p, &s, 10);
    layout_paged(&p);
    float *out = attend(&p, kernels, 20);
    assert_true(error_of(&p, out) < 1e-2);
    free(out);
    problem_fini(&p);
}

static void test_large_scores_do_not_overflow(void **state)
{
    (void)state;
    each_isa(large_scores_test);
}

/* ---- the same bits ---- */

static const uint64_t cuts[] = {1, 7, 25};

static void cut_check(const problem *p, qwen_kernels *kernels, uint64_t rows, const float *wanted,
                      const char *what)
{
    float *out = attend(p, kernels, rows);
    assert_same(p, out, wanted, what);
    free(out);
}

/* The first kernels that come define the bits. */
static void bits_check(size_t index, qwen_kernels *kernels, bool alone, float **wanted)
{
    const char *isa = qwen_isa_text(qwen_kernels_isa(kernels));
    problem p;
    problem_init(&p, &shapes[index], index);
    layout_paged(&p);
    if (*wanted == NULL)
        *wanted = attend(&p, kernels, UINT64_MAX / 2);
    cut_check(&p, kernels, UINT64_MAX / 2, *wanted, isa);
    for (size_t i = 0; alone && i < COUNT(cuts) && cuts[i] < p.shape.queries; i++)
        cut_check(&p, kernels, cuts[i], *wanted, isa);
    layout_free(&p);
    layout_matrix(&p);
    cut_check(&p, kernels, 25, *wanted, "matrix");
    problem_fini(&p);
}

static void test_bits_do_not_depend_on_set_threads_cut_or_layout(void **state)
{
    (void)state;
    static const unsigned threads[] = {1, 2, 3, 5};
    float *wanted[COUNT(shapes)] = {NULL};
    for (qwen_isa isa = QWEN_ISA_PORTABLE; isa <= QWEN_ISA_AVX512; isa++)
        for (size_t i = 0; i < COUNT(threads); i++) {
            dense_rig rig;
            if (!dense_rig_open(&rig, isa, threads[i], 16)) {
                print_message("skipped: this CPU lacks %s\n", qwen_isa_text(isa));
                break;
            }
            for (size_t j = 0; j < COUNT(shapes); j++)
                bits_check(j, rig.kernels, threads[i] == 1, &wanted[j]);
            dense_rig_close(&rig);
        }
    for (size_t j = 0; j < COUNT(shapes); j++)
        free(wanted[j]);
}

static void in_place_test(qwen_kernels *kernels)
{
    for (size_t i = 0; i < COUNT(shapes); i++) {
        problem p;
        problem_init(&p, &shapes[i], i);
        layout_paged(&p);
        p.out_stride = p.q_stride;
        float *wanted = attend(&p, kernels, UINT64_MAX / 2);
        qwen_attention attention = attention_of(&p, p.q);
        qwen_attend(kernels, &attention);
        for (uint32_t query = 0; query < p.shape.queries; query++)
            assert_memory_equal(p.q + query * p.q_stride, wanted + query * p.q_stride,
                                (size_t)p.shape.heads * p.shape.head_dim * sizeof(float));
        free(wanted);
        problem_fini(&p);
    }
}

static void test_out_may_be_q(void **state)
{
    (void)state;
    each_isa(in_place_test);
}

/* Fills tokens [first, key_count) of keys and values with NaN. */
static void poison_from(problem *p, uint64_t first)
{
    size_t row = (size_t)p->shape.kv_heads * p->shape.head_dim;
    for (size_t i = first * row; i < p->shape.key_count * row; i++)
        p->k[i] = p->v[i] = i % 2 == 0 ? NAN : INFINITY;
}

/* What a query cannot see changes no bit, be it NaN; the queries after it see it. */
static void future_test(qwen_kernels *kernels)
{
    for (size_t i = 0; i < COUNT(shapes); i++) {
        const shape *s = &shapes[i];
        if (!s->causal || s->queries < 2)
            continue;
        uint32_t visible = s->queries / 2;
        problem p;
        problem_init(&p, s, i);
        layout_paged(&p);
        float *wanted = attend(&p, kernels, UINT64_MAX / 2);
        layout_free(&p);
        poison_from(&p, s->first_position + visible);
        layout_paged(&p);
        float *out = attend(&p, kernels, UINT64_MAX / 2);
        assert_memory_equal(out, wanted, visible * p.out_stride * sizeof(float));
        for (uint32_t j = 0; j < s->heads * s->head_dim; j++)
            assert_true(isnan(out[visible * p.out_stride + j]));
        free(wanted);
        free(out);
        problem_fini(&p);
    }
}

static void test_the_future_takes_no_part(void **state)
{
    (void)state;
    each_isa(future_test);
}

/* A bad query spoils its own row alone. */
static void nan_query_test(qwen_kernels *kernels)
{
    static const shape s = {9, 2, 1, 32, 0, 70, F32, false, 1};
    problem p;
    problem_init(&p, &s, 11);
    layout_paged(&p);
    float *wanted = attend(&p, kernels, 9);
    p.q[4 * p.q_stride + 40] = NAN; /* query 4, head 1 */
    float *out = attend(&p, kernels, 9);
    for (size_t i = 0; i < s.queries * p.out_stride; i++) {
        bool spoilt = i >= 4 * p.out_stride + 32 && i < 4 * p.out_stride + 64;
        assert_true(spoilt ? isnan(out[i]) : same_bits(out[i], wanted[i]));
    }
    free(wanted);
    free(out);
    problem_fini(&p);
}

static void test_nan_stays_in_its_row(void **state)
{
    (void)state;
    each_isa(nan_query_test);
}

static void no_queries_test(qwen_kernels *kernels)
{
    problem p;
    problem_init(&p, &shapes[2], 0);
    layout_paged(&p);
    float *out = out_new(&p);
    qwen_attention attention = attention_of(&p, out);
    attention.query_count = 0;
    qwen_attend(kernels, &attention);
    for (size_t i = 0; i < p.shape.queries * p.out_stride; i++)
        assert_true(out[i] == MARK);
    free(out);
    problem_fini(&p);
}

static void test_no_queries_write_nothing(void **state)
{
    (void)state;
    each_isa(no_queries_test);
}

/* ---- storing keys and values ---- */

static uint16_t stored_bf16(uint32_t bits)
{
    float from[4] = {float_of_bits(bits), 0, 0, 0};
    uint16_t block[16 * 4];
    qwen_kv_store(BF16, block, 0, 1, 4, from);
    return block[0];
}

static void test_bf16_rounds_to_the_nearest_even(void **state)
{
    (void)state;
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 997) {
        float x = float_of_bits((uint32_t)bits);
        if (isnan(x))
            continue;
        float y = bf16_nearest(x);
        uint32_t wanted;
        memcpy(&wanted, &y, sizeof wanted);
        assert_int_equal(stored_bf16((uint32_t)bits), wanted >> 16);
    }
    assert_int_equal(stored_bf16(0x3f808000), 0x3f80); /* ties */
    assert_int_equal(stored_bf16(0x3f818000), 0x3f82);
    assert_int_equal(stored_bf16(0x3f808001), 0x3f81);
    assert_int_equal(stored_bf16(0x00008000), 0x0000);
    assert_int_equal(stored_bf16(0x80018000), 0x8002);
    assert_int_equal(stored_bf16(0x7f7fffff), 0x7f80); /* overflow */
    assert_int_equal(stored_bf16(0x7f800000), 0x7f80);
    assert_int_equal(stored_bf16(0xff800000), 0xff80);
    assert_int_equal(stored_bf16(0x7f800001), 0x7fc0); /* NaN stays NaN, quiet */
    assert_int_equal(stored_bf16(0xffffffff), 0xffff);
    assert_int_equal(stored_bf16(0x7fffffff), 0x7fff);
}

static void store_check(cenote_dtype dtype, uint32_t slot)
{
    enum { HEADS = 3, DIM = 20 };
    size_t element = cenote_dtype_bytes(dtype);
    unsigned char block[HEADS * BLOCK * DIM * 4], before[sizeof block];
    memset(block, 0xa5, sizeof block);
    memset(before, 0xa5, sizeof before);
    float from[HEADS * DIM];
    for (size_t i = 0; i < COUNT(from); i++)
        from[i] = (float)i; /* exact in bf16 */
    qwen_kv_store(dtype, block, slot, HEADS, DIM, from);
    for (size_t i = 0; i < COUNT(from); i++) {
        size_t at = (i / DIM * BLOCK + slot) * DIM + i % DIM;
        const unsigned char *bytes = (const unsigned char *)&from[i];
        assert_memory_equal(block + at * element, bytes + 4 - element, element);
        memcpy(before + at * element, bytes + 4 - element, element);
    }
    assert_memory_equal(block, before, sizeof block);
}

static void test_a_store_writes_its_slot_only(void **state)
{
    (void)state;
    for (uint32_t slot = 0; slot < BLOCK; slot++) {
        store_check(F32, slot);
        store_check(BF16, slot);
    }
}

static void test_scratch_is_counted(void **state)
{
    (void)state;
    size_t bytes = qwen_attention_scratch_bytes();
    assert_true(bytes > 0 && bytes % 64 == 0);
    assert_true(qwen_kernels_scratch_bytes(3, 0) >= 3 * bytes);
    dense_rig rig;
    assert_true(dense_rig_open(&rig, QWEN_ISA_PORTABLE, 2, 0));
    assert_true(rig.kernels->scratch_bytes >= bytes);
    dense_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_is_near_softmax),
        cmocka_unit_test(test_one_key_gives_its_value),
        cmocka_unit_test(test_large_scores_do_not_overflow),
        cmocka_unit_test(test_bits_do_not_depend_on_set_threads_cut_or_layout),
        cmocka_unit_test(test_out_may_be_q),
        cmocka_unit_test(test_the_future_takes_no_part),
        cmocka_unit_test(test_nan_stays_in_its_row),
        cmocka_unit_test(test_no_queries_write_nothing),
        cmocka_unit_test(test_bf16_rounds_to_the_nearest_even),
        cmocka_unit_test(test_a_store_writes_its_slot_only),
        cmocka_unit_test(test_scratch_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
