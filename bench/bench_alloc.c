/* SPDX-License-Identifier: Apache-2.0 */
/* Small and middle blocks of a pool beside malloc and what replaces it.
 *
 *     bench_alloc [repetitions [operations]]          default: 9, 200000
 *     bench_alloc --growth [operations]               default: 100000000
 *     bench_alloc --churn OPERATIONS                  ours alone, for a profiler
 *     bench_alloc --child ours|malloc OPERATIONS      one run of one allocator (see below)
 *
 * *pair*: a block of one size, allocated and freed over and over. *churn*: 512 slots; a random one
 * is freed, or filled with a size of 256 B to 4 MiB, each factor of two as likely; time of each
 * call, with the clock's own in it, and the mean without a clock. *two threads*: the same churn in
 * both, of one pool and of a pool each (malloc: the same again), and one that allocates what the
 * other frees. No block is ever touched, but by the allocators.
 *
 * Each run is a process of its own, so that malloc can be replaced by LD_PRELOAD; processes of all
 * allocators take turns. Printed is the median of the runs and, below, of their ratios to ours.
 * Ours is a pool of class general in a budget of 4 GiB: caches of threads hold 40 MiB at most. It
 * is measured twice: from the static and from the shared library. --growth runs ours alone,
 * producer and consumer, and prints what is committed as it goes on. */
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cenote/pool.h>

#include "bench.h"

#define SLOTS          512u
#define RING           256u
#define BUDGET_BYTES   (UINT64_C(4) << 30)
#define SIZES          13u /* 256 B to 1 MiB */
#define TICKS_MAX      65536u
#define PAIR_STRETCHES 25u

enum {
    CHURN_MEAN = SIZES,
    CHURN_P50,
    CHURN_P99,
    CHURN_P999,
    CHURN_TWO,
    CHURN_OWN,
    HANDED,
    FIGURES
};

static const char *const figure_names[FIGURES] = {
    "pair 256 B",   "pair 512 B",   "pair 1 KiB",  "pair 2 KiB",  "pair 4 KiB",
    "pair 8 KiB",   "pair 16 KiB",  "pair 32 KiB", "pair 64 KiB", "pair 128 KiB",
    "pair 256 KiB", "pair 512 KiB", "pair 1 MiB",  "churn, mean", "churn, p50",
    "churn, p99",   "churn, p99.9", "two threads", "a pool each", "handed over",
};

/* ---- the allocator of this process ---- */

static _Thread_local cenote_pool *pool; /* this thread's; NULL: malloc */

static cenote_budget *budget;

/* As a caller elsewhere in a program; each begins with a cache line, for where it lies costs or
 * saves a cycle or two. */
#define CALLER static __attribute__((noinline, aligned(64)))

CALLER void *take(uint64_t size_bytes)
{
    void *data = NULL;
    cenote_error err;
    if (pool == NULL)
        return malloc(size_bytes);
    bench_require(cenote_pool_alloc(pool, size_bytes, &data, &err), &err);
    return data;
}

CALLER void give(void *data)
{
    if (pool == NULL)
        free(data);
    else
        cenote_pool_free(pool, data);
}

static void open_pool(void)
{
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    cenote_error err;
    options.limit_bytes = BUDGET_BYTES;
    bench_require(cenote_budget_create(&options, &budget, &err), &err);
    bench_require(cenote_pool_create(budget, &pool_options, &pool, &err), &err);
}

/* Another pool of the same budget; NULL for malloc. */
static cenote_pool *second_pool(void)
{
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    cenote_pool *second = NULL;
    cenote_error err;
    if (pool != NULL)
        bench_require(cenote_pool_create(budget, &pool_options, &second, &err), &err);
    return second;
}

/* ---- workloads ---- */

static uint64_t ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

static uint64_t random_u64(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t random_size(uint64_t *state)
{
    uint64_t bits = random_u64(state), power = UINT64_C(256) << (bits >> 8) % 14;
    return power + (bits >> 16) % power;
}

/* The median of short stretches, for somebody else may have the core for one of them. */
static double pair(uint64_t size_bytes, unsigned operations)
{
    bench_series stretches = {0};
    unsigned count = operations / PAIR_STRETCHES;
    for (unsigned s = 0; s <= PAIR_STRETCHES; s++) {
        double begin = bench_now();
        for (unsigned i = 0; i < count; i++)
            give(take(size_bytes));
        if (s > 0) /* the first one warms up */
            bench_add(&stretches, (bench_now() - begin) * 1e9 / count);
    }
    return bench_quantile(&stretches, 0.5);
}

struct churn {
    cenote_pool *pool; /* of a thread of its own */
    uint64_t state;
    unsigned operations;
    void *slots[SLOTS];
    uint32_t *histogram; /* by ticks; NULL: the clock is not read */
    double ns;           /* of an operation, result */
};

static void turn(struct churn *c)
{
    void **slot = &c->slots[random_u64(&c->state) % SLOTS];
    uint64_t size_bytes = random_size(&c->state), begin = 0;
    if (c->histogram != NULL)
        begin = ticks();
    if (*slot != NULL) {
        give(*slot);
        *slot = NULL;
    } else {
        *slot = take(size_bytes);
    }
    if (c->histogram != NULL) {
        uint64_t took = ticks() - begin;
        c->histogram[took < TICKS_MAX ? took : TICKS_MAX - 1]++;
    }
}

static void churn_run(struct churn *c)
{
    double begin = bench_now();
    for (unsigned i = 0; i < c->operations; i++)
        turn(c);
    c->ns = (bench_now() - begin) * 1e9 / c->operations;
}

static void churn_end(struct churn *c)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (c->slots[i] != NULL)
            give(c->slots[i]);
        c->slots[i] = NULL;
    }
}

static double percentile(const uint32_t *histogram, double share, double ns_per_tick)
{
    uint64_t sum = 0, all = 0;
    for (unsigned i = 0; i < TICKS_MAX; i++)
        all += histogram[i];
    unsigned at = 0;
    while (at < TICKS_MAX - 1 && (double)(sum += histogram[at]) < share * (double)all)
        at++;
    return at * ns_per_tick;
}

static void churn_alone(unsigned operations, double *figures)
{
    static struct churn c;
    static uint32_t histogram[TICKS_MAX];
    c.state = 88172645463325252u;
    c.operations = operations;
    churn_run(&c); /* warms up */
    churn_run(&c);
    figures[CHURN_MEAN] = c.ns;
    c.histogram = histogram;
    uint64_t begin_ticks = ticks();
    double begin = bench_now();
    churn_run(&c);
    double ns_per_tick = (bench_now() - begin) * 1e9 / (double)(ticks() - begin_ticks);
    figures[CHURN_P50] = percentile(histogram, 0.5, ns_per_tick);
    figures[CHURN_P99] = percentile(histogram, 0.99, ns_per_tick);
    figures[CHURN_P999] = percentile(histogram, 0.999, ns_per_tick);
    churn_end(&c);
}

static void *churn_thread(void *argument)
{
    struct churn *c = argument;
    pool = c->pool;
    churn_run(c);
    churn_run(c);
    churn_end(c);
    return NULL;
}

static double churn_two(unsigned operations, cenote_pool *second)
{
    static struct churn both[2];
    pthread_t thread;
    both[0].pool = pool;
    both[1].pool = second;
    for (unsigned i = 0; i < 2; i++) {
        both[i].state = 88172645463325252u + i;
        both[i].operations = operations;
    }
    if (pthread_create(&thread, NULL, churn_thread, &both[1]) != 0)
        return 0;
    (void)churn_thread(&both[0]);
    pthread_join(thread, NULL);
    return (both[0].ns + both[1].ns) / 2;
}

/* One thread allocates, the other frees. */
struct handing {
    cenote_pool *pool;
    _Atomic(void *) ring[RING];
    uint64_t operations;
};

static void *consume(void *argument)
{
    struct handing *h = argument;
    pool = h->pool;
    for (uint64_t i = 0; i < h->operations; i++) {
        void *data;
        while ((data = atomic_exchange_explicit(&h->ring[i % RING], NULL, memory_order_acquire)) ==
               NULL)
            sched_yield();
        give(data);
    }
    return NULL;
}

static double hand_over(uint64_t operations, void (*report)(uint64_t done))
{
    static struct handing h;
    pthread_t thread;
    uint64_t state = 88172645463325252u;
    h.operations = operations;
    h.pool = pool;
    double begin = bench_now();
    if (pthread_create(&thread, NULL, consume, &h) != 0)
        return 0;
    for (uint64_t i = 0; i < operations; i++) {
        void *data = take(random_size(&state));
        while (atomic_load_explicit(&h.ring[i % RING], memory_order_relaxed) != NULL)
            sched_yield();
        atomic_store_explicit(&h.ring[i % RING], data, memory_order_release);
        if (report != NULL && (i + 1) % (operations / 10) == 0)
            report(i + 1);
    }
    pthread_join(thread, NULL);
    return (bench_now() - begin) * 1e9 / (double)operations;
}

static int child(const char *which, unsigned operations)
{
    double figures[FIGURES] = {0};
    if (strcmp(which, "ours") == 0)
        open_pool();
    else if (!bench_preloaded())
        return 77;
    for (unsigned i = 0; i < SIZES; i++)
        figures[i] = pair(UINT64_C(256) << i, operations);
    churn_alone(operations, figures);
    figures[CHURN_TWO] = churn_two(operations, pool);
    figures[CHURN_OWN] = churn_two(operations, second_pool());
    figures[HANDED] = hand_over(operations, NULL);
    for (unsigned i = 0; i < FIGURES; i++)
        printf("%.3f\n", figures[i]);
    return 0;
}

/* For a profiler. */
static int churn_only(unsigned operations)
{
    static struct churn c;
    open_pool();
    c.state = 88172645463325252u;
    c.operations = operations;
    churn_run(&c);
    cenote_pool_stats stats;
    cenote_pool_stats_get(pool, &stats);
    printf("%.1f ns; %.1f MiB live, %.1f at hand, %.1f committed\n", c.ns,
           (double)stats.requested_bytes / 1048576, (double)stats.thread_cached_bytes / 1048576,
           (double)stats.committed_bytes / 1048576);
    churn_end(&c);
    return 0;
}

/* ---- growth ---- */

static void report_growth(uint64_t done)
{
    cenote_pool_stats stats;
    cenote_pool_stats_get(pool, &stats);
    printf(
        "  %11" PRIu64 " blocks: %7.1f MiB committed, %.1f MiB at their peak, %.1f MiB at hand\n",
        done, (double)stats.committed_bytes / 1048576, (double)stats.committed_peak_bytes / 1048576,
        (double)stats.thread_cached_bytes / 1048576);
}

static int growth(uint64_t operations)
{
    open_pool();
    printf("one thread allocates, one frees; what the pool has committed\n");
    double ns = hand_over(operations, report_growth);
    printf("  %.1f ns for each\n", ns);
    return 0;
}

/* ---- the parent ---- */

struct peer {
    const char *name, *mode, *preload;
    bool missing;
    bench_series series[FIGURES];
};

static struct peer peers[] = {
    {.name = "cenote", .mode = "ours"},
    {.name = "cenote.so", .mode = "ours"},
    {.name = "glibc", .mode = "malloc"},
    {.name = "jemalloc", .mode = "malloc", .preload = "libjemalloc.so.2"},
    {.name = "tcmalloc", .mode = "malloc", .preload = "libtcmalloc_minimal.so.4"},
    {.name = "mimalloc", .mode = "malloc", .preload = "libmimalloc.so.2"},
};
enum { PEERS = sizeof peers / sizeof peers[0] };

/* One run, in which the peer may turn out to be missing. */
static void run(struct peer *peer, const char *program, unsigned operations)
{
    char command[1024];
    const char *preload = peer->preload != NULL ? peer->preload : "";
    snprintf(command, sizeof command, "LD_PRELOAD=%s '%s' --child %s %u", preload, program,
             peer->mode, operations);
    FILE *out = popen(command, "r");
    double value;
    unsigned count = 0;
    while (out != NULL && count < FIGURES && fscanf(out, "%lf", &value) == 1)
        bench_add(&peer->series[count++], value);
    int status = out != NULL ? pclose(out) : -1;
    if (status == 0 && count == FIGURES)
        return;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        printf("SKIPPED %s: no %s here\n", peer->name, preload);
        peer->missing = true;
        return;
    }
    fprintf(stderr, "bench_alloc: a run of %s failed\n", peer->name);
    exit(1);
}

static void print(void)
{
    printf("%-14s", "ns");
    for (unsigned p = 0; p < PEERS; p++)
        if (!peers[p].missing)
            printf(" %10s", peers[p].name);
    printf("   best peer / cenote\n");
    for (unsigned f = 0; f < FIGURES; f++) {
        printf("%-14s", figure_names[f]);
        double best = 0;
        for (unsigned p = 0; p < PEERS; p++) {
            if (peers[p].missing)
                continue;
            double median = bench_quantile(&peers[p].series[f], 0.5);
            printf(" %10.1f", median);
            bench_series ratio = bench_ratio(&peers[p].series[f], &peers[0].series[f]);
            double times = bench_quantile(&ratio, 0.5);
            if (strcmp(peers[p].mode, "malloc") == 0 && (best == 0 || times < best))
                best = times;
        }
        printf("   %.2f\n", best);
    }
}

int main(int argc, char **argv)
{
    if (argc > 3 && strcmp(argv[1], "--child") == 0)
        return child(argv[2], (unsigned)strtoul(argv[3], NULL, 10));
    if (argc > 2 && strcmp(argv[1], "--churn") == 0)
        return churn_only((unsigned)strtoul(argv[2], NULL, 10));
    if (argc > 1 && strcmp(argv[1], "--growth") == 0)
        return growth(argc > 2 ? strtoull(argv[2], NULL, 10) : 100000000);
    unsigned repetitions = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : bench_repetitions(9);
    unsigned operations = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 200000;
    char self[512], shared[600];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0)
        return 1;
    self[length] = '\0';
    char *slash = strrchr(self, '/');
    snprintf(shared, sizeof shared, "%.*s/alloc_shared", (int)(slash - self), self);
    for (unsigned r = 0; r < repetitions; r++)
        for (unsigned p = 0; p < PEERS; p++)
            if (!peers[p].missing)
                run(&peers[p], p == 1 ? shared : self, operations);
    print();
    return 0;
}
