/* SPDX-License-Identifier: Apache-2.0 */
/* Getting a tensor of a known shape and releasing it, on one core, beside torch.empty.
 *
 *     bench_tensor_cache [repetitions [pairs [own|shared|two]]]          default: 101, 10000, all
 *
 * *own*: what the thread keeps for itself, without a lock. *shared*: the cap is so small that the
 * shape is too large for that. *two*: the same by two threads at once, each of which is lent what
 * the other has released: ns of each. *uncached*: cenote_tensor_create() and
 * cenote_tensor_release(), pages warm. *memalign*: posix_memalign(64) and free, which is what
 * PyTorch's allocator for CPUs does. *torch*: torch.empty(shape) and its end, called from Python,
 * the interpreter's share (an empty call of a built-in) taken off; only where CENOTE_TEST_PYTHON
 * names a python that has torch. Nothing touches the memory. Peers take turns; what is printed is
 * the median (quarter .. three quarters). */
#include <pthread.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cenote/tensor_cache.h>

#include "dense_bench.h"

#define SHAPES 7u

enum { CACHED, UNCACHED, MEMALIGN, TORCH, PEERS };

static const char *const names[PEERS] = {"cached", "uncached", "memalign", "torch"};

typedef struct cache_bench {
    cenote_budget *budget;
    cenote_pool *pools[3];
    cenote_tensor_cache *cache;
    cenote_tensor_prewarm list[CENOTE_TENSOR_PREWARM_COMMON_COUNT];
    unsigned pairs;
    FILE *ask, *answer; /* the python with torch; NULL: there is none */
    pid_t python;
} cache_bench;

/* ---- torch ---- */

static const char torch_program[] =
    "import sys, time\n"
    "import torch\n"
    "def run(f, n):\n"
    "    t = time.perf_counter_ns()\n"
    "    for _ in range(n): f()\n"
    "    return (time.perf_counter_ns() - t) / n\n"
    "torch.set_num_threads(1)\n"
    "print('ready', flush=True)\n"
    "for line in sys.stdin:\n"
    "    n, *shape = map(int, line.split())\n"
    "    shape = tuple(shape)\n"
    "    print(run(lambda: torch.empty(shape), n) - run(lambda: len(shape), n), flush=True)\n";

static void torch_open(cache_bench *bench)
{
    const char *python = getenv("CENOTE_TEST_PYTHON");
    int to[2], from[2];
    char line[64];
    if (python == NULL || pipe(to) != 0 || pipe(from) != 0)
        return;
    bench->python = fork();
    if (bench->python == 0) {
        (void)dup2(to[0], 0);
        (void)dup2(from[1], 1);
        close(to[1]);
        close(from[0]);
        execlp(python, python, "-c", torch_program, (char *)NULL);
        _exit(1);
    }
    close(to[0]);
    close(from[1]);
    bench->ask = fdopen(to[1], "w");
    bench->answer = fdopen(from[0], "r");
    if (bench->python < 0 || fgets(line, sizeof line, bench->answer) == NULL) {
        printf("skipped: %s has no torch\n", python);
        bench->answer = NULL;
    }
}

static double torch_pair(cache_bench *bench, const cenote_tensor_spec *spec)
{
    char line[64];
    fprintf(bench->ask, "%u", bench->pairs / 50 + 1);
    for (uint32_t d = 0; d < spec->rank; d++)
        fprintf(bench->ask, " %llu", (unsigned long long)spec->shape[d]);
    fprintf(bench->ask, "\n");
    fflush(bench->ask);
    return fgets(line, sizeof line, bench->answer) != NULL ? strtod(line, NULL) : 0.0;
}

static void torch_close(cache_bench *bench)
{
    if (bench->ask == NULL)
        return;
    fclose(bench->ask);
    waitpid(bench->python, NULL, 0);
}

/* ---- nanoseconds of a pair ---- */

/* Apart, so that callgrind can be told to count in here alone. */
static __attribute__((noinline)) void cached_pairs(cenote_tensor_cache *cache, cenote_pool *pool,
                                                   const cenote_tensor_spec *spec, unsigned pairs)
{
    cenote_error err;
    for (unsigned i = 0; i < pairs; i++) {
        cenote_tensor tensor;
        bench_require(cenote_tensor_cache_get(cache, pool, spec, &tensor, &err), &err);
        bench_require(cenote_tensor_cache_release(cache, pool, tensor, &err), &err);
    }
}

static void uncached_pairs(cenote_pool *pool, const cenote_tensor_spec *spec, unsigned pairs)
{
    cenote_error err;
    cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
    options.dtype = spec->dtype;
    options.rank = spec->rank;
    memcpy(options.shape, spec->shape, sizeof options.shape);
    for (unsigned i = 0; i < pairs; i++) {
        cenote_tensor tensor;
        bench_require(cenote_tensor_create(pool, &options, &tensor, &err), &err);
        bench_require(cenote_tensor_release(pool, tensor, &err), &err);
    }
}

static void memalign_pairs(uint64_t size_bytes, unsigned pairs)
{
    for (unsigned i = 0; i < pairs; i++) {
        void *volatile data = NULL;
        void *got = NULL;
        if (posix_memalign(&got, 64, size_bytes) != 0)
            exit(1);
        data = got;
        free(data);
    }
}

static double pair(cache_bench *bench, unsigned peer, const cenote_tensor_prewarm *item,
                   pthread_barrier_t *barrier)
{
    cenote_pool *pool = bench->pools[item->class_id == CENOTE_CLASS_ATTENTION     ? 0
                                     : item->class_id == CENOTE_CLASS_ACTIVATIONS ? 1
                                                                                  : 2];
    uint64_t size_bytes = 4;
    for (uint32_t d = 0; d < item->spec.rank; d++)
        size_bytes *= item->spec.shape[d];
    if (peer == TORCH)
        return bench->answer != NULL ? torch_pair(bench, &item->spec) : 0.0;
    if (barrier != NULL)
        (void)pthread_barrier_wait(barrier);
    double begin = bench_now();
    unsigned pairs = peer == CACHED ? bench->pairs : bench->pairs / 20 + 1;
    if (barrier != NULL) /* waking a thread takes as long as hundreds of pairs */
        pairs *= peer == CACHED ? 32 : 4;
    if (peer == CACHED)
        cached_pairs(bench->cache, pool, &item->spec, pairs);
    else if (peer == UNCACHED)
        uncached_pairs(pool, &item->spec, pairs);
    else
        memalign_pairs(size_bytes, pairs);
    return (bench_now() - begin) * 1e9 / pairs;
}

struct companion {
    cache_bench *bench;
    unsigned peer;
    const cenote_tensor_prewarm *item;
    pthread_barrier_t barrier;
    double ns;
};

static void *accompany(void *argument)
{
    struct companion *c = argument;
    c->ns = pair(c->bench, c->peer, c->item, &c->barrier);
    return NULL;
}

/* The mean of two threads that begin together. */
static double pair_of_two(cache_bench *bench, unsigned peer, const cenote_tensor_prewarm *item)
{
    struct companion c = {.bench = bench, .peer = peer, .item = item};
    pthread_t thread;
    if (peer == TORCH)
        return 0.0;
    pthread_barrier_init(&c.barrier, NULL, 2);
    if (pthread_create(&thread, NULL, accompany, &c) != 0)
        exit(1);
    double ns = pair(bench, peer, item, &c.barrier);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&c.barrier);
    return (ns + c.ns) / 2;
}

/* ---- the table ---- */

enum way { OWN, SHARED, TWO, WAYS };

static const char *const way_names[WAYS] = {"own", "shared", "two"};

static void open_cache(cache_bench *bench, uint64_t limit_bytes)
{
    cenote_error err;
    cenote_tensor_cache_options options = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
    options.pools = bench->pools;
    options.pool_count = 3;
    options.limit_bytes = limit_bytes;
    bench_require(cenote_tensor_cache_create(&options, &bench->cache, &err), &err);
}

static void print(const char *where, const cenote_tensor_spec *spec,
                  const bench_series series[PEERS])
{
    char text[64] = "(";
    for (uint32_t d = 0; d < spec->rank; d++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%llu", d > 0 ? "," : "",
                 (unsigned long long)spec->shape[d]);
    printf("  %-6s %16s)", where, text);
    for (unsigned peer = 0; peer < PEERS; peer++) {
        printf("  %s", names[peer]);
        bench_print(" %.1f (%.1f .. %.1f)", &series[peer]);
    }
    printf("\n");
}

/* The cap leaves the largest of the shapes to a thread's own, or none. */
static void run(cache_bench *bench, enum way way, unsigned repetitions)
{
    bool shared = way != OWN;
    open_cache(bench, shared ? UINT64_C(512) << 20 : UINT64_C(8) << 30);
    for (unsigned s = 0; s < SHAPES; s++) {
        cenote_tensor_prewarm item = bench->list[s];
        if (shared && item.spec.shape[1] * item.spec.shape[2] < 3000000)
            continue; /* small enough for a thread all the same */
        bench_series series[PEERS] = {0};
        for (unsigned r = 0; r < repetitions; r++)
            for (unsigned peer = 0; peer < PEERS; peer++)
                bench_add(&series[peer], way == TWO ? pair_of_two(bench, peer, &item)
                                                    : pair(bench, peer, &item, NULL));
        print(way_names[way], &item.spec, series);
    }
    cenote_tensor_cache_stats stats;
    cenote_tensor_cache_stats_get(bench->cache, CENOTE_CLASS_COUNT, &stats);
    printf("  hit rate %.6f of %llu; book-keeping %llu bytes\n", stats.hit_rate,
           (unsigned long long)(stats.hit_count + stats.miss_count),
           (unsigned long long)stats.metadata_bytes);
    (void)cenote_tensor_cache_destroy(bench->cache);
}

int main(int argc, char **argv)
{
    static const cenote_class classes[3] = {CENOTE_CLASS_ATTENTION, CENOTE_CLASS_ACTIVATIONS,
                                            CENOTE_CLASS_IMAGE_FEATURES};
    unsigned repetitions = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : bench_repetitions(101);
    const char *only = argc > 3 ? argv[3] : NULL;
    cache_bench bench = {.pairs = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 10000};
    cenote_error err;
    cenote_budget_options budget = CENOTE_BUDGET_OPTIONS_INIT;
    budget.limit_bytes = UINT64_C(16) << 30;
    budget.process_bytes = 1;
    bench_require(cenote_budget_create(&budget, &bench.budget, &err), &err);
    for (unsigned p = 0; p < 3; p++) {
        cenote_pool_options pool = CENOTE_POOL_OPTIONS_INIT;
        pool.class_id = classes[p];
        pool.quota_bytes = UINT64_C(1) << 30;
        bench_require(cenote_pool_create(bench.budget, &pool, &bench.pools[p], &err), &err);
    }
    cenote_tensor_prewarm_common(CENOTE_DTYPE_F32, bench.list);
    torch_open(&bench);
    printf("ns of a get and its release\n");
    for (unsigned way = OWN; way < WAYS; way++)
        if (only == NULL || strcmp(only, way_names[way]) == 0)
            run(&bench, (enum way)way, repetitions);
    torch_close(&bench);
    for (unsigned p = 0; p < 3; p++)
        (void)cenote_pool_destroy(bench.pools[p]);
    cenote_budget_destroy(bench.budget);
    return 0;
}
