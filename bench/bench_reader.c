/* SPDX-License-Identifier: Apache-2.0 */
/* What reading costs: io_uring against a pool of threads at the same depth, O_DIRECT against the
 * page cache with drop-behind, in chunks of several sizes.
 *
 *     bench_reader [directory]       default: where this program lies
 *
 * A file of 512 MiB is written there, without a name. Each repetition of each variant reads
 * a run of 128 MiB of it; all variants take turns. MiB/s by the clock; processor time in ms for a
 * GiB, of all threads and of the owner's alone, which is time that kernels would not have.
 *
 * The last table has an owner who computes for a while with each chunk: its time against the longer
 * of the two alone. 1.00 is a perfect overlap. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "dense_bench.h"
#include "weights/reader.h"

#define MIB         (UINT64_C(1) << 20)
#define FILE_BYTES  (512 * MIB)
#define RUN_BYTES   (128 * MIB)
#define DEPTH       8u
#define CHUNK_COUNT 4u

static const uint64_t chunks[CHUNK_COUNT] = {MIB / 16, MIB / 4, MIB, 4 * MIB};

struct variant {
    const char *name;
    enum cn_reader_engine engine;
    int open_flags;
};
static const struct variant variants[] = {
    {"io_uring  O_DIRECT", CN_READER_URING, CN_OS_OPEN_DIRECT},
    {"pread     O_DIRECT", CN_READER_PREAD, CN_OS_OPEN_DIRECT},
    {"io_uring  buffered", CN_READER_URING, 0},
    {"pread     buffered", CN_READER_PREAD, 0},
};
#define VARIANT_COUNT 4u

struct figures {
    bench_series speed, cpu, owner_cpu;
};

static char path[PATH_MAX];
static unsigned char *buffers; /* DEPTH of the largest chunk */

/* ---- the file ---- */

static void fail(const char *what, int error)
{
    fprintf(stderr, "%s: %s: %s\n", path, what, strerror(error));
    exit(1);
}

/* Bytes that no disk compresses or shares. */
static void write_file(void)
{
    uint64_t state = 1;
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0)
        fail("open", errno);
    unlink(path); /* it goes when this process does, however that ends */
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    uint64_t *words = (void *)buffers;
    for (uint64_t at = 0; at < FILE_BYTES; at += MIB) {
        for (uint64_t i = 0; i < MIB / 8; i++) {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            words[i] = state * UINT64_C(2685821657736338717);
        }
        if (write(fd, buffers, MIB) != (ssize_t)MIB)
            fail("write", errno);
    }
    if (fsync(fd) != 0)
        fail("fsync", errno);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static void find_place(const char *directory)
{
    struct statvfs disk;
    char self[PATH_MAX] = "";
    if (directory == NULL) {
        ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
        char *slash = length > 0 ? strrchr(self, '/') : NULL;
        if (slash != NULL)
            *slash = '\0';
        directory = slash != NULL ? self : ".";
    }
    if (snprintf(path, sizeof path, "%s/bench_reader.data", directory) >= (int)sizeof path)
        fail("path", ENAMETOOLONG);
    if (statvfs(directory, &disk) != 0)
        fail("statvfs", errno);
    uint64_t free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (free_bytes < 2 * FILE_BYTES) {
        fprintf(stderr, "%s: %" PRIu64 " MiB are free, %" PRIu64 " MiB are wanted\n", directory,
                free_bytes / MIB, 2 * FILE_BYTES / MIB);
        exit(1);
    }
}

/* ---- a run ---- */

static double seconds_of(struct timeval tv)
{
    return (double)tv.tv_sec + (double)tv.tv_usec * 1e-6;
}

static double cpu_seconds(int who)
{
    struct rusage usage;
    getrusage(who, &usage);
    return seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
}

static void compute(double seconds)
{
    double end = bench_now() + seconds;
    while (seconds > 0 && bench_now() < end)
        ;
}

struct job {
    struct cn_os *os;
    struct cn_reader *reader;
    int fd;
    bool drop;
    uint64_t chunk_bytes, next, end;
    uint64_t offsets[DEPTH]; /* of the read in each slot */
};

static void submit(struct job *job, uint32_t slot)
{
    struct cn_reader_request request = {
        .tag = slot,
        .offset_bytes = job->next,
        .size_bytes = (uint32_t)job->chunk_bytes,
        .data = buffers + slot * job->chunk_bytes,
    };
    cn_reader_submit(job->reader, &request);
    job->offsets[slot] = job->next;
    job->next += job->chunk_bytes;
}

/* @return the seconds of the run. */
static double read_run(struct job *job, double compute_seconds)
{
    struct cn_reader_result got;
    double begin = bench_now();
    for (uint32_t slot = 0; slot < DEPTH && job->next < job->end; slot++)
        submit(job, slot);
    while (cn_reader_next(job->reader, true, &got)) {
        if (got.result != (int64_t)job->chunk_bytes)
            fail("a read came short", got.result < 0 ? (int)-got.result : 0);
        compute(compute_seconds);
        if (job->drop)
            job->os->ops->file_drop_cache(job->os, job->fd, job->offsets[got.tag],
                                          job->chunk_bytes);
        if (job->next < job->end)
            submit(job, got.tag);
    }
    return bench_now() - begin;
}

/* false: this machine does not have the variant. */
static bool measure(const struct variant *variant, uint64_t chunk_bytes, uint64_t begin,
                    double compute_seconds, double *out_seconds, struct figures *figures)
{
    struct cn_os *os = cn_os_linux();
    cenote_error err;
    struct job job = {.os = os,
                      .drop = variant->open_flags == 0,
                      .chunk_bytes = chunk_bytes,
                      .next = begin,
                      .end = begin + RUN_BYTES};
    if (os->ops->file_open(os, path, variant->open_flags, &job.fd) != 0)
        return false;
    struct cn_reader_options options = {.engine = variant->engine,
                                        .depth = DEPTH,
                                        .thread_count = DEPTH,
                                        .buffers = buffers,
                                        .buffers_bytes = DEPTH * chunk_bytes,
                                        .fds = &job.fd,
                                        .fd_count = 1};
    bool works = cn_reader_create(os, &options, &job.reader, &err) == CENOTE_OK;
    if (works) {
        double cpu = cpu_seconds(RUSAGE_SELF), owner = cpu_seconds(RUSAGE_THREAD);
        double seconds = read_run(&job, compute_seconds);
        double gib = (double)RUN_BYTES / (double)(UINT64_C(1) << 30);
        if (figures != NULL) {
            bench_add(&figures->speed, (double)(RUN_BYTES / MIB) / seconds);
            bench_add(&figures->cpu, (cpu_seconds(RUSAGE_SELF) - cpu) * 1e3 / gib);
            bench_add(&figures->owner_cpu, (cpu_seconds(RUSAGE_THREAD) - owner) * 1e3 / gib);
        }
        *out_seconds = seconds;
        cn_reader_destroy(job.reader);
    }
    os->ops->file_close(os, job.fd);
    return works;
}

/* ---- tables ---- */

static uint64_t run_begin(unsigned *turn)
{
    return (*turn)++ % (FILE_BYTES / RUN_BYTES) * RUN_BYTES;
}

static void table_of_costs(unsigned repetitions)
{
    static struct figures figures[CHUNK_COUNT][VARIANT_COUNT];
    unsigned turn = 0;
    double seconds;
    for (unsigned r = 0; r < repetitions; r++)
        for (unsigned c = 0; c < CHUNK_COUNT; c++)
            for (unsigned v = 0; v < VARIANT_COUNT; v++)
                (void)measure(&variants[v], chunks[c], run_begin(&turn), 0, &seconds,
                              &figures[c][v]);
    printf("depth %u, %u repetitions: median (quarter .. three quarters)\n", DEPTH, repetitions);
    for (unsigned c = 0; c < CHUNK_COUNT; c++) {
        printf("chunks of %" PRIu64 " KiB\n", chunks[c] / 1024);
        for (unsigned v = 0; v < VARIANT_COUNT; v++) {
            const struct figures *f = &figures[c][v];
            if (f->speed.count == 0) {
                printf("  %s  skipped: not here\n", variants[v].name);
                continue;
            }
            printf("  %s", variants[v].name);
            bench_print("  %6.0f MiB/s (%5.0f .. %5.0f)", &f->speed);
            bench_print("   ms of CPU per GiB: all %4.0f (%4.0f .. %4.0f)", &f->cpu);
            bench_print("   owner %4.0f (%4.0f .. %4.0f)\n", &f->owner_cpu);
        }
    }
}

static void table_of_overlap(unsigned repetitions)
{
    static const double compute_us[] = {100, 500, 1000};
    unsigned turn = 0;
    printf("the owner computes with each MiB: its time over the longer of reading and computing\n");
    for (unsigned i = 0; i < 3; i++) {
        bench_series ratios[2] = {0};
        double compute_seconds = compute_us[i] * 1e-6, alone, both;
        for (unsigned r = 0; r < repetitions; r++)
            for (unsigned v = 0; v < 2; v++) {
                if (!measure(&variants[v], MIB, run_begin(&turn), 0, &alone, NULL) ||
                    !measure(&variants[v], MIB, run_begin(&turn), compute_seconds, &both, NULL))
                    continue;
                double computing = compute_seconds * (double)(RUN_BYTES / MIB);
                bench_add(&ratios[v], both / (alone > computing ? alone : computing));
            }
        for (unsigned v = 0; v < 2; v++) {
            printf("  %s  %5.0f us", variants[v].name, compute_us[i]);
            bench_print("  %.3f (%.3f .. %.3f)\n", &ratios[v]);
        }
    }
}

int main(int argc, char **argv)
{
    unsigned repetitions = bench_repetitions(11);
    find_place(argc > 1 ? argv[1] : NULL);
    void *memory;
    if (posix_memalign(&memory, 1u << 21, DEPTH * chunks[CHUNK_COUNT - 1]) != 0)
        fail("memory", ENOMEM);
    buffers = memory;
    memset(buffers, 1, DEPTH * chunks[CHUNK_COUNT - 1]);
    write_file();
    table_of_costs(repetitions);
    table_of_overlap(repetitions);
    free(memory);
    return 0;
}
