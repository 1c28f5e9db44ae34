/* SPDX-License-Identifier: Apache-2.0 */
/* What allocating costs beyond using: blocks that are allocated, touched and freed, over the same
 * blocks touched and kept. Pools beside malloc, what replaces it, posix_memalign and torch.empty.
 *
 *     bench_touch [repetitions [page|fill]]                      default: 3, page
 *     bench_touch --child ours|malloc|memalign SIZE LIVE rr|lifo page|fill
 *
 * *page* writes a byte into every page of 4 KiB, *fill* every byte. *rr*: round robin, the oldest
 * of the live blocks is freed and another one allocated; *lifo*: all are freed, last one first, and
 * all are allocated again. Live blocks are 1 or 100, fewer where that would be more than 1 GiB.
 *
 * Each run is a process of its own, so that malloc can be replaced by LD_PRELOAD; processes of all
 * peers take turns. In a process rounds of both kinds take turns, over the same blocks as they lie;
 * its figure is the median. Printed is the median of the processes' ratios (least .. most), and
 * the microseconds of a block that is touched and kept.
 *
 * torch.empty needs a python that has torch: CENOTE_TEST_PYTHON, or python3. */
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cenote/pool.h>

#include "dense_bench.h"

#define PAGE_BYTES  4096u
#define LIVE_MAX    100u
#define LIVE_BYTES  (UINT64_C(1) << 30)
#define BATCH_BYTES (UINT64_C(128) << 20) /* touched in one round, or once each live block */
#define ROUNDS      9u
#define ROUNDS_S    0.3 /* after so long three rounds do */

/* ---- one process ---- */

typedef struct touch_bench {
    cenote_pool *pool; /* NULL: malloc or posix_memalign */
    bool aligned, fill, last_first;
    uint64_t size_bytes;
    unsigned live, blocks; /* at a time; in a round */
    char *slots[LIVE_MAX];
} touch_bench;

static void *take(const touch_bench *bench)
{
    void *data = NULL;
    cenote_error err;
    if (bench->pool != NULL)
        bench_require(cenote_pool_alloc(bench->pool, bench->size_bytes, &data, &err), &err);
    else if (!bench->aligned)
        data = malloc(bench->size_bytes);
    else if (posix_memalign(&data, 64, bench->size_bytes) != 0)
        data = NULL;
    if (data == NULL) {
        fputs("bench_touch: no memory\n", stderr);
        exit(1);
    }
    return data;
}

static void give(const touch_bench *bench, void *data)
{
    if (bench->pool != NULL)
        cenote_pool_free(bench->pool, data);
    else
        free(data);
}

static __attribute__((noinline)) void touch(const touch_bench *bench, char *data)
{
    if (bench->fill)
        memset(data, 1, bench->size_bytes);
    else
        for (uint64_t i = 0; i < bench->size_bytes; i += PAGE_BYTES)
            *(volatile char *)(data + i) = 1;
}

/* Seconds of a round over blocks that stay. */
static double keep(const touch_bench *bench)
{
    double begin = bench_now();
    for (unsigned i = 0; i < bench->blocks; i++)
        touch(bench, bench->slots[i % bench->live]);
    return bench_now() - begin;
}

/* Seconds of a round in which each block is freed, allocated and touched. */
static double turn_over(touch_bench *bench)
{
    double begin = bench_now();
    for (unsigned i = 0; i < bench->blocks; i++) {
        if (bench->last_first && i % bench->live == 0)
            for (unsigned j = bench->live; j-- > 0;)
                give(bench, bench->slots[j]);
        char **slot = &bench->slots[i % bench->live];
        if (!bench->last_first)
            give(bench, *slot);
        *slot = take(bench);
        touch(bench, *slot);
    }
    return bench_now() - begin;
}

static void open_pool(touch_bench *bench)
{
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    cenote_budget *budget;
    cenote_error err;
    options.limit_bytes = 2 * LIVE_BYTES;
    bench_require(cenote_budget_create(&options, &budget, &err), &err);
    bench_require(cenote_pool_create(budget, &pool_options, &bench->pool, &err), &err);
}

static int child(char **arguments)
{
    static touch_bench bench;
    bench.size_bytes = strtoull(arguments[1], NULL, 10);
    bench.live = (unsigned)strtoul(arguments[2], NULL, 10);
    bench.last_first = strcmp(arguments[3], "lifo") == 0;
    bench.fill = strcmp(arguments[4], "fill") == 0;
    bench.aligned = strcmp(arguments[0], "memalign") == 0;
    if (bench.live == 0 || bench.live > LIVE_MAX)
        return 2;
    if (!bench_preloaded())
        return 77;
    if (strcmp(arguments[0], "ours") == 0)
        open_pool(&bench);
    uint64_t rounds = BATCH_BYTES / bench.size_bytes / bench.live;
    bench.blocks = bench.live * (rounds > 0 ? (unsigned)rounds : 1);
    for (unsigned i = 0; i < bench.live; i++)
        touch(&bench, bench.slots[i] = take(&bench));
    (void)turn_over(&bench);
    bench_series kept = {0}, turned = {0};
    double begin = bench_now();
    for (unsigned r = 0; r < ROUNDS && (r < 3 || bench_now() - begin < ROUNDS_S); r++) {
        bench_add(&kept, keep(&bench) / bench.blocks);
        bench_add(&turned, turn_over(&bench) / bench.blocks);
    }
    bench_series ratio = bench_ratio(&turned, &kept);
    printf("%.6f %.6f\n", bench_quantile(&ratio, 0.5), 1e6 * bench_quantile(&kept, 0.5));
    return 0;
}

/* ---- the parent ---- */

typedef struct touch_peer {
    const char *name, *mode, *preload;
    bool missing;
} touch_peer;

static touch_peer peers[] = {
    {.name = "cenote", .mode = "ours"},
    {.name = "glibc", .mode = "malloc"},
    {.name = "posix_memalign", .mode = "memalign"},
    {.name = "jemalloc", .mode = "malloc", .preload = "libjemalloc.so.2"},
    {.name = "tcmalloc", .mode = "malloc", .preload = "libtcmalloc_minimal.so.4"},
    {.name = "mimalloc", .mode = "malloc", .preload = "libmimalloc.so.2"},
    {.name = "torch.empty", .mode = NULL},
};
enum { PEERS = sizeof peers / sizeof peers[0] };

typedef struct touch_case {
    uint64_t size_bytes;
    unsigned live;
    const char *order, *how;
} touch_case;

static void run(touch_peer *peer, const char *program, const touch_case *c, bench_series *ratio,
                bench_series *kept_us)
{
    const char *python = getenv("CENOTE_TEST_PYTHON");
    char command[2048], arguments[128];
    snprintf(arguments, sizeof arguments, "%llu %u %s %s", (unsigned long long)c->size_bytes,
             c->live, c->order, c->how);
    if (peer->mode == NULL)
        snprintf(command, sizeof command, "'%s' '%s/bench/peers/touch_torch.py' %s",
                 python != NULL ? python : "python3", BENCH_SOURCE_DIR, arguments);
    else
        snprintf(command, sizeof command, "LD_PRELOAD=%s '%s' --child %s %s",
                 peer->preload != NULL ? peer->preload : "", program, peer->mode, arguments);
    FILE *out = popen(command, "r");
    double values[2] = {0};
    bool read = out != NULL && fscanf(out, "%lf %lf", &values[0], &values[1]) == 2;
    int status = out != NULL ? pclose(out) : -1;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        printf("SKIPPED %s: there is no %s here\n", peer->name,
               peer->preload != NULL ? peer->preload : "python with torch");
        peer->missing = true;
    } else if (status != 0 || !read) {
        fprintf(stderr, "bench_touch: a run of %s failed\n", peer->name);
        exit(1);
    } else {
        bench_add(ratio, values[0]);
        bench_add(kept_us, values[1]);
    }
}

static void run_case(const char *program, const touch_case *c, unsigned repetitions)
{
    bench_series ratio[PEERS] = {0}, kept_us[PEERS] = {0};
    for (unsigned r = 0; r < repetitions; r++)
        for (unsigned p = 0; p < PEERS; p++)
            if (!peers[p].missing)
                run(&peers[p], program, c, &ratio[p], &kept_us[p]);
    printf("%6llu KiB x %3u %-4s", (unsigned long long)c->size_bytes / 1024, c->live, c->order);
    for (unsigned p = 0; p < PEERS; p++)
        if (!peers[p].missing)
            printf("  %s %.2f (%.2f .. %.2f) of %.2f", peers[p].name,
                   bench_quantile(&ratio[p], 0.5), bench_quantile(&ratio[p], 0.0),
                   bench_quantile(&ratio[p], 1.0), bench_quantile(&kept_us[p], 0.5));
    putchar('\n');
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const uint64_t sizes_kib[] = {64, 1024, 16 * 1024, 64 * 1024};
    if (argc == 7 && strcmp(argv[1], "--child") == 0)
        return child(argv + 2);
    unsigned repetitions = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : bench_repetitions(3);
    touch_case c = {.how = argc > 2 ? argv[2] : "page"};
    char self[512];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0)
        return 1;
    self[length] = '\0';
    printf(
        "allocated, touched (%s) and freed, over touched and kept: ratio (least .. most) of us\n",
        c.how);
    for (unsigned i = 0; i < 4; i++)
        for (unsigned way = 0; way < 3; way++) {
            uint64_t most = LIVE_BYTES / (sizes_kib[i] * 1024);
            c.size_bytes = sizes_kib[i] * 1024;
            c.live = way == 0 ? 1 : most < LIVE_MAX ? (unsigned)most : LIVE_MAX;
            c.order = way < 2 ? "rr" : "lifo";
            run_case(self, &c, repetitions);
        }
    return 0;
}
