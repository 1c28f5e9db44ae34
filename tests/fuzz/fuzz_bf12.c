/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a panel of bf16 in 12 bits. Byte 1 says how many rows, 2 and 3 how many columns; the
 * first byte what the rest is:
 *
 *   'P'  a packed panel: where check passes it, all decoders and kernels give the same, and stay
 * inside 'E'  bf16 to encode, over and over until there is enough: what comes back is what went in
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cenote/cenote.h>

#include "kernels.h"
#include "weights/bf12_codec.h"

enum { ROWS_MAX = 9, COLUMNS_MAX = 330, ISAS = 3, M_MAX = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int condition)
{
    if (!condition)
        abort();
}

typedef struct panel {
    uint64_t rows, columns;
    unsigned char *plain;  /* rows x columns bf16 */
    unsigned char *packed; /* ends where it ends, at any address */
    uint64_t packed_bytes;
} panel;

/* ---- kernels ---- */

static qwen_kernels *kernels[ISAS]; /* NULL where the CPU lacks the set; live for ever */

static void open_kernels(void)
{
    static cenote_budget *budget;
    static cenote_team *team;
    static cenote_pool *pool;
    if (budget != NULL)
        return;
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    budget_options.limit_bytes = UINT64_C(1) << 30;
    budget_options.process_bytes = 1;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    check(cenote_budget_create(&budget_options, &budget, NULL) == CENOTE_OK);
    check(cenote_pool_create(budget, &pool_options, &pool, NULL) == CENOTE_OK);
    check(cenote_team_create(1, &team, NULL) == CENOTE_OK);
    for (int i = 0; i < ISAS; i++) {
        cenote_status status = qwen_kernels_create((qwen_isa)(QWEN_ISA_PORTABLE + i), team, pool,
                                                   COLUMNS_MAX, &kernels[i], NULL);
        check(status == CENOTE_OK || status == CENOTE_E_UNSUPPORTED);
    }
}

static void check_same(const float *a, const float *b, size_t count)
{
    for (size_t i = 0; i < count; i++)
        check(memcmp(&a[i], &b[i], sizeof *a) == 0 || (isnan(a[i]) && isnan(b[i])));
}

static void gemv(qwen_kernels *own, const qwen_product *product)
{
    qwen_gemv(own, product, 1);
}

/* The packed panel and the plain one, by the same kernel. */
static void check_product(qwen_kernels *own, const panel *p, uint64_t m,
                          void (*multiply)(qwen_kernels *, const qwen_product *))
{
    static float a[M_MAX * COLUMNS_MAX], c[2][M_MAX * ROWS_MAX];
    for (size_t i = 0; a[0] == 0.0f && i < M_MAX * COLUMNS_MAX; i++)
        a[i] = (float)(i % 17) - 7.5f;
    qwen_product product = {.a = a,
                            .a_stride = COLUMNS_MAX,
                            .m = m,
                            .k = p->columns,
                            .w = p->plain,
                            .w_dtype = CENOTE_DTYPE_BF16,
                            .n = p->rows,
                            .c = c[0],
                            .c_stride = p->rows};
    multiply(own, &product);
    product.w = p->packed;
    product.w_encoding = CENOTE_ENCODING_BF12;
    product.c = c[1];
    multiply(own, &product);
    check_same(c[0], c[1], m * p->rows);
}

/* ---- panels ---- */

/* Decodes all of it both ways into p->plain. */
static void check_decoders(const panel *p)
{
    unsigned char *row = malloc(p->columns * 2);
    check(row != NULL);
    for (uint64_t i = 0; i < p->rows; i++) {
        unsigned char *out = p->plain + i * p->columns * 2;
        cenote_bf12_decode(p->packed, p->columns, i, 0, p->columns, out);
        cn_bf12_decode_by(&cn_bf12_portable, p->packed, i, 0, p->columns, row);
        check(memcmp(row, out, p->columns * 2) == 0);
        uint64_t first = p->columns / 3, count = p->columns - first - p->columns / 5;
        cenote_bf12_decode(p->packed, p->columns, i, first, count, row);
        check(memcmp(row, out + first * 2, count * 2) == 0);
    }
    free(row);
}

static void check_kernels(const panel *p)
{
    for (int i = 0; i < ISAS; i++)
        if (kernels[i] != NULL) {
            check_product(kernels[i], p, 1, gemv);
            check_product(kernels[i], p, M_MAX, gemv);
            check_product(kernels[i], p, M_MAX, qwen_gemm);
        }
}

static void try_packed(panel *p, const uint8_t *data, size_t size)
{
    p->packed = malloc(size);
    check(p->packed != NULL || size == 0);
    memcpy(p->packed, data, size);
    cenote_error err = {0};
    cenote_status status = cenote_bf12_check(p->packed, size, p->rows, p->columns, &err);
    if (status == CENOTE_OK) {
        check_decoders(p);
        check_kernels(p);
    } else {
        check(status == CENOTE_E_CORRUPT && err.status == status && err.message[0] != '\0');
    }
    free(p->packed);
}

static uint64_t up_to_64(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static void try_fitted(panel *p, const uint8_t *data, size_t size)
{
    uint32_t escapes = 0;
    if (size >= 28)
        memcpy(&escapes, data + 24, sizeof escapes);
    uint64_t bytes = 64 + up_to_64((p->rows + 1) * 2) +
                     up_to_64(p->rows * cenote_bf12_row_bytes(p->columns)) +
                     up_to_64(escapes % 1000 * 4);
    unsigned char *fitted = calloc(1, bytes);
    check(fitted != NULL);
    memcpy(fitted, data, size < bytes ? size : bytes);
    try_packed(p, fitted, bytes);
    free(fitted);
}

static void try_plain(panel *p, const uint8_t *data, size_t size)
{
    uint64_t bytes = p->rows * p->columns * 2;
    uint64_t room = cenote_bf12_bytes_max(p->rows, p->columns), other_bytes;
    unsigned char *wanted = malloc(bytes), *other = aligned_alloc(64, room);
    p->packed = aligned_alloc(64, room);
    check(wanted != NULL && other != NULL && p->packed != NULL);
    for (uint64_t i = 0; i < bytes; i++)
        wanted[i] = size == 0 ? 0 : data[i % size];
    cenote_status status =
        cenote_bf12_encode(wanted, p->rows, p->columns, p->packed, &p->packed_bytes);
    check(status == cn_bf12_encode_by(&cn_bf12_portable, wanted, p->rows, p->columns, other,
                                      UINT64_MAX, &other_bytes));
    if (status == CENOTE_OK) {
        check(p->packed_bytes <= room && p->packed_bytes == other_bytes);
        check(memcmp(p->packed, other, other_bytes) == 0);
        check(cenote_bf12_check(p->packed, p->packed_bytes, p->rows, p->columns, NULL) ==
              CENOTE_OK);
        check_decoders(p);
        check(memcmp(p->plain, wanted, bytes) == 0);
        check_kernels(p);
    } else {
        check(status == CENOTE_E_UNSUPPORTED);
    }
    free(p->packed);
    free(other);
    free(wanted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4 || (data[0] != 'R' && data[0] != 'P' && data[0] != 'E'))
        return 0;
    open_kernels();
    panel p = {.rows = data[1] % ROWS_MAX + 1u,
               .columns = (data[2] | (unsigned)data[3] << 8) % COLUMNS_MAX + 1u};
    p.plain = malloc(p.rows * p.columns * 2);
    check(p.plain != NULL);
    if (data[0] == 'R')
        try_packed(&p, data + 4, size - 4);
    else if (data[0] == 'P')
        try_fitted(&p, data + 4, size - 4);
    else
        try_plain(&p, data + 4, size - 4);
    free(p.plain);
    return 0;
}
