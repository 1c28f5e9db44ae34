/* SPDX-License-Identifier: Apache-2.0 */
/* bf16 in 12 bits on one core: how fast it is made and read back, against memcpy of the plain
 * panel.
 *
 *     bench_bf12 [repetitions]       default: 31
 *
 * Panels of 256 x 2048 (1 MiB of bf16), normally distributed with a deviation that differs from row
 * to row. Once the same panel over and over, which stays in the caches, and once panels spread over
 * 256 MiB, which do not. Rates are bytes of bf16 a second. */
#include <math.h>

#include "dense_bench.h"

#define ROWS        256u
#define COLUMNS     2048u
#define PANEL_BYTES (UINT64_C(2) * ROWS * COLUMNS)
#define PANELS      256u

typedef struct bf12_bench {
    unsigned char *plain, *packed, *out;
    uint64_t room_bytes, packed_bytes;
} bf12_bench;

static float normal(uint64_t *state)
{
    float radius = sqrtf(-2.0f * logf(1.0f - (bench_random(state) + 1.0f) / 2.0f));
    return radius * cosf(3.1415927f * bench_random(state));
}

/* One panel made, the others copies with rows in another order. */
static void fill(bf12_bench *bench)
{
    uint64_t state = 7;
    for (uint64_t row = 0; row < ROWS; row++) {
        float sigma = 0.02f * exp2f(bench_random(&state));
        for (uint64_t i = 0; i < COLUMNS; i++) {
            uint16_t value = bench_bf16(sigma * normal(&state));
            memcpy(bench->plain + (row * COLUMNS + i) * 2, &value, 2);
        }
    }
    for (uint64_t panel = 1; panel < PANELS; panel++)
        for (uint64_t row = 0; row < ROWS; row++)
            memcpy(bench->plain + panel * PANEL_BYTES + row * COLUMNS * 2,
                   bench->plain + (row + panel) % ROWS * COLUMNS * 2, COLUMNS * 2);
}

typedef enum bf12_work { ENCODE, DECODE, COPY, WORKS } bf12_work;
static const char *const work_text[WORKS] = {"encode", "decode", "memcpy"};

static void work(const bf12_bench *bench, bf12_work kind, unsigned panel)
{
    const unsigned char *plain = bench->plain + panel * PANEL_BYTES;
    unsigned char *packed = bench->packed + panel * bench->room_bytes;
    uint64_t bytes;
    if (kind == ENCODE) {
        cenote_error err = {CENOTE_OK, "a normal panel was refused"};
        bench_require(cenote_bf12_encode(plain, ROWS, COLUMNS, packed, &bytes), &err);
    } else if (kind == DECODE) {
        for (uint64_t row = 0; row < ROWS; row++)
            cenote_bf12_decode(packed, COLUMNS, row, 0, COLUMNS, bench->out + row * COLUMNS * 2);
    } else {
        memcpy(bench->out, plain, PANEL_BYTES);
    }
}

static double rate(const bf12_bench *bench, bf12_work kind, unsigned panels)
{
    double begin = bench_now();
    for (unsigned i = 0; i < PANELS; i++)
        work(bench, kind, i % panels);
    return PANELS * (double)PANEL_BYTES / (bench_now() - begin) * 1e-9;
}

static void run(const bf12_bench *bench, unsigned panels, unsigned repetitions)
{
    bench_series series[WORKS] = {0};
    for (unsigned r = 0; r < repetitions; r++)
        for (unsigned kind = 0; kind < WORKS; kind++)
            bench_add(&series[kind], rate(bench, (bf12_work)kind, panels));
    printf("%s\n", panels == 1 ? "in cache" : "from memory");
    for (unsigned kind = 0; kind < WORKS; kind++) {
        printf("  %s", work_text[kind]);
        bench_print(" %6.2f GB/s (%6.2f .. %6.2f)\n", &series[kind]);
    }
}

int main(int argc, char **argv)
{
    unsigned repetitions = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : bench_repetitions(31);
    bench_rig rig;
    bench_rig_open(&rig, 1, COLUMNS);
    bf12_bench bench = {.room_bytes = cenote_bf12_bytes_max(ROWS, COLUMNS)};
    bench.plain = bench_alloc(&rig, PANELS * PANEL_BYTES);
    bench.packed = bench_alloc(&rig, PANELS * bench.room_bytes);
    bench.out = bench_alloc(&rig, PANEL_BYTES);
    fill(&bench);
    for (unsigned i = 0; i < PANELS; i++)
        work(&bench, ENCODE, i);
    run(&bench, 1, repetitions);
    run(&bench, PANELS, repetitions);
    cenote_pool_free(rig.pool, bench.out);
    cenote_pool_free(rig.pool, bench.packed);
    cenote_pool_free(rig.pool, bench.plain);
    bench_rig_close(&rig);
    return 0;
}
