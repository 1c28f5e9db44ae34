/* SPDX-License-Identifier: Apache-2.0 */
/* What moving memory by page tables costs: tensors, and idle memory from pool to pool. (How much of
 * it a serving trace wants: make bench-replay.)
 *
 *     bench_compact [repetitions]                                   default: 31
 *
 * A tensor of 64 MiB, every page written, is moved by cenote_pool_compact(), plan and books
 * included, beside a memcpy of as much between pages that are there, in turns: to a free place with
 * the same offset in 2 MiB; to one whose idle memory has to go first; and to one with another
 * offset, where pages move one by one. And pin and unpin of one tensor. Then 64 MiB are allocated
 * from a pool that has nothing, and a byte is written into every page: once memory is idle in
 * another pool of a budget that has room for one of them, once nowhere. Medians (quarter .. three
 * quarters); ratios are those of repetitions. */
#include <cenote/tensor.h>

#include "dense_bench.h"

#define MIB          UINT64_C(1048576)
#define TENSOR_BYTES (64 * MIB)

/* ---- move ---- */

static cenote_tensor make(cenote_pool *pool, uint64_t size_bytes)
{
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    cenote_tensor tensor = CENOTE_TENSOR_NONE;
    cenote_error err;
    void *data = NULL;
    options.dtype = CENOTE_DTYPE_U8;
    options.rank = 1;
    options.shape[0] = size_bytes;
    bench_require(cenote_tensor_create(pool, &options, &tensor, &err), &err);
    bench_require(cenote_tensor_pin(pool, tensor, &data, &err), &err);
    memset(data, 1, size_bytes);
    bench_require(cenote_tensor_unpin(pool, tensor, &err), &err);
    return tensor;
}

static void drop(cenote_pool *pool, cenote_tensor tensor)
{
    cenote_error err;
    bench_require(cenote_tensor_release(pool, tensor, &err), &err);
}

/* Microseconds of moving one tensor down into a hole of its size. @p shifted: a granule lies
 * between. */
static double move_once(cenote_budget *budget, bool idle, bool shifted)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    cenote_pool *pool = NULL;
    cenote_compact_result result = {0};
    cenote_error err;
    void *raw = NULL;
    options.class_id = CENOTE_CLASS_KV_CACHE;
    bench_require(cenote_pool_create(budget, &options, &pool, &err), &err);
    cenote_tensor hole = make(pool, TENSOR_BYTES);
    if (shifted)
        bench_require(cenote_pool_alloc(pool, 1, &raw, &err), &err);
    cenote_tensor tensor = make(pool, TENSOR_BYTES);
    drop(pool, hole);
    if (!idle)
        cenote_pool_trim(pool);
    double begin = bench_now();
    bench_require(cenote_pool_compact(pool, NULL, &result, &err), &err);
    double end = bench_now();
    if (result.moves != 1) {
        fprintf(stderr, "bench_compact: %llu moves\n", (unsigned long long)result.moves);
        exit(1);
    }
    drop(pool, tensor);
    cenote_pool_free(pool, raw);
    cenote_pool_destroy(pool);
    return (end - begin) * 1e6;
}

static double copy_once(char *to, const char *from)
{
    double begin = bench_now();
    memcpy(to, from, TENSOR_BYTES);
    __asm__ volatile("" : : "r"(to) : "memory");
    return (bench_now() - begin) * 1e6;
}

static cenote_pool *pool_of(cenote_budget *budget, cenote_class class_id)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    cenote_pool *pool = NULL;
    cenote_error err;
    options.class_id = class_id;
    options.quota_bytes = TENSOR_BYTES;
    bench_require(cenote_pool_create(budget, &options, &pool, &err), &err);
    return pool;
}

static void *take(cenote_pool *pool)
{
    void *data = NULL;
    cenote_error err;
    bench_require(cenote_pool_alloc(pool, TENSOR_BYTES, &data, &err), &err);
    for (uint64_t i = 0; i < TENSOR_BYTES; i += 4096)
        ((volatile char *)data)[i] = 1;
    return data;
}

/* Microseconds of a block from a pool that has nothing, touched. */
static double take_once(bool idle)
{
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_budget *budget = NULL;
    cenote_error err;
    options.process_bytes = MIB;
    options.limit_bytes = 2 * MIB + 2 * cenote_pool_overhead_bytes(TENSOR_BYTES) +
                          cenote_pool_charge_bytes(TENSOR_BYTES);
    bench_require(cenote_budget_create(&options, &budget, &err), &err);
    cenote_pool *from = pool_of(budget, CENOTE_CLASS_GRADIENTS);
    cenote_pool *to = pool_of(budget, CENOTE_CLASS_ACTIVATIONS);
    cenote_pool_free(from, take(from));
    if (!idle)
        cenote_pool_trim(from);
    double begin = bench_now();
    void *data = take(to);
    double end = bench_now();
    cenote_pool_free(to, data);
    cenote_pool_destroy(to);
    cenote_pool_destroy(from);
    cenote_budget_destroy(budget);
    return (end - begin) * 1e6;
}

static void bench_takes(unsigned repetitions)
{
    bench_series lent = {0}, fresh = {0};
    for (unsigned r = 0; r < repetitions; r++) {
        bench_add(&fresh, take_once(false));
        bench_add(&lent, take_once(true));
    }
    bench_series ratio = bench_ratio(&fresh, &lent);
    bench_print("64 MiB anew, touched              %8.0f us (%.0f .. %.0f)\n", &fresh);
    bench_print("64 MiB idle elsewhere, touched    %8.0f us (%.0f .. %.0f)", &lent);
    bench_print("   anew / it %.0f (%.0f .. %.0f)\n", &ratio);
}

static double pin_once(cenote_pool *pool, cenote_tensor tensor)
{
    enum { PINS = 100000 };
    void *data;
    double begin = bench_now();
    for (unsigned i = 0; i < PINS; i++) {
        (void)!cenote_tensor_pin(pool, tensor, &data, NULL);
        (void)!cenote_tensor_unpin(pool, tensor, NULL);
    }
    return (bench_now() - begin) * 1e9 / PINS;
}

static void print_move(const char *what, const bench_series *moves, const bench_series *copies)
{
    bench_series ratio = bench_ratio(copies, moves);
    printf("%-34s", what);
    bench_print("%8.0f us (%.0f .. %.0f)", moves);
    bench_print("   memcpy / it %.0f (%.0f .. %.0f)\n", &ratio);
}

static void bench_moves(cenote_budget *budget, cenote_pool *pool, unsigned repetitions)
{
    cenote_error err;
    void *data[2];
    cenote_tensor tensors[2] = {make(pool, TENSOR_BYTES), make(pool, TENSOR_BYTES)};
    for (unsigned i = 0; i < 2; i++)
        bench_require(cenote_tensor_pin(pool, tensors[i], &data[i], &err), &err);
    bench_series copies = {0}, bare = {0}, idle = {0}, pages = {0}, pins = {0};
    for (unsigned r = 0; r < repetitions; r++) {
        bench_add(&copies, copy_once(data[0], data[1]));
        bench_add(&bare, move_once(budget, false, false));
        bench_add(&idle, move_once(budget, true, false));
        bench_add(&pages, move_once(budget, false, true));
        bench_add(&pins, pin_once(pool, tensors[0]));
    }
    bench_print("memcpy of 64 MiB                  %8.0f us (%.0f .. %.0f)\n", &copies);
    print_move("move", &bare, &copies);
    print_move("move to where memory is idle", &idle, &copies);
    print_move("move to another offset in 2 MiB", &pages, &copies);
    bench_print("pin and unpin                     %8.1f ns (%.1f .. %.1f)\n", &pins);
    for (unsigned i = 0; i < 2; i++) {
        bench_require(cenote_tensor_unpin(pool, tensors[i], &err), &err);
        drop(pool, tensors[i]);
    }
}

int main(int argc, char **argv)
{
    unsigned repetitions = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : bench_repetitions(31);
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    cenote_budget *budget = NULL;
    cenote_pool *pool = NULL;
    cenote_error err;
    budget_options.limit_bytes = 1024 * MIB;
    bench_require(cenote_budget_create(&budget_options, &budget, &err), &err);
    options.class_id = CENOTE_CLASS_KV_CACHE;
    bench_require(cenote_pool_create(budget, &options, &pool, &err), &err);
    bench_moves(budget, pool, repetitions);
    bench_takes(repetitions);
    cenote_pool_destroy(pool);
    cenote_budget_destroy(budget);
    return 0;
}
