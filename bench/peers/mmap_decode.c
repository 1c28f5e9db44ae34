/* SPDX-License-Identifier: Apache-2.0 */
/* The runner's own products without the runner: the decoder's matrices, in their order of use.
 *
 *     mmap_decode CHECKPOINT_DIR mmap|memory [--threads N] [--tokens N]
 *
 * mmap    the files are mapped and the kernels read the mapping: what the page cache makes of it
 * memory  the matrices are copied to huge pages first: no streaming at all, the rate C
 *
 * A token is every matrix of the text half once, in panels as the runner cuts them, and the head.
 * Norms, attention and sampling are left out: the figure is of bytes. A JSON object per token on
 * stdout: seconds, bytes that the disk gave (page faults included), major faults. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../dense_bench.h"

#define CALL_BYTES   (UINT64_C(1) << 24) /* 16 panels, as decoding takes them */
#define MATRICES_MAX 1024u
#define FILES_MAX    64u

typedef struct matrix {
    cenote_tensor_info info;
    const unsigned char *data;
} matrix;

typedef struct decoder {
    cenote_weights *weights;
    unsigned char *files[FILES_MAX];
    uint64_t file_bytes[FILES_MAX];
    matrix matrices[MATRICES_MAX];
    unsigned count;
    uint64_t bytes; /* of all matrices */
    uint64_t k_max;
    uint64_t n_max;
} decoder;

static void die(const char *what, const char *detail)
{
    fprintf(stderr, "mmap_decode: %s: %s\n", what, detail);
    exit(1);
}

/* ---- which matrices ---- */

static bool matrix_add(decoder *d, const char *name)
{
    uint32_t index;
    cenote_error err;
    if (cenote_weights_find(d->weights, name, &index, &err) != CENOTE_OK)
        return false;
    const cenote_tensor_info *info = cenote_weights_tensor(d->weights, index);
    if (info->rank != 2 || info->dtype != CENOTE_DTYPE_BF16)
        die(name, "not a bf16 matrix");
    if (d->count == MATRICES_MAX)
        die(name, "too many matrices");
    d->matrices[d->count++].info = *info;
    d->bytes += info->size_bytes;
    d->k_max = info->shape[1] > d->k_max ? info->shape[1] : d->k_max;
    d->n_max = info->shape[0] > d->n_max ? info->shape[0] : d->n_max;
    return true;
}

static void matrices_find(decoder *d)
{
    static const char *const parts[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                        "mlp.down_proj"};
    char name[128];
    for (unsigned layer = 0, found = 1; found; layer++) {
        found = 0;
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
            snprintf(name, sizeof name, "model.language_model.layers.%u.%s.weight", layer,
                     parts[i]);
            found += matrix_add(d, name);
        }
    }
    if (!matrix_add(d, "lm_head.weight") &&
        !matrix_add(d, "model.language_model.embed_tokens.weight"))
        die("lm_head.weight", "neither it nor a tied embedding is there");
}

/* ---- where they lie ---- */

static void files_map(decoder *d)
{
    uint32_t count = cenote_weights_file_count(d->weights);
    if (count > FILES_MAX)
        die("checkpoint", "too many files");
    for (uint32_t i = 0; i < count; i++) {
        const char *path = cenote_weights_file_path(d->weights, i);
        struct stat about;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &about) != 0)
            die(path, strerror(errno));
        d->file_bytes[i] = (uint64_t)about.st_size;
        d->files[i] = mmap(NULL, d->file_bytes[i], PROT_READ, MAP_SHARED, fd, 0);
        if (d->files[i] == MAP_FAILED)
            die(path, strerror(errno));
        close(fd);
    }
    for (unsigned i = 0; i < d->count; i++) {
        const cenote_tensor_info *info = &d->matrices[i].info;
        d->matrices[i].data = d->files[info->file_index] + info->offset_bytes;
    }
}

static void matrices_load(decoder *d)
{
    unsigned char *memory = mmap(NULL, d->bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        die("memory", strerror(errno));
    (void)madvise(memory, d->bytes, MADV_HUGEPAGE);
    for (unsigned i = 0; i < d->count; i++) {
        const cenote_tensor_info *info = &d->matrices[i].info;
        uint32_t index;
        cenote_error err;
        bench_require(cenote_weights_find(d->weights, info->name, &index, &err), &err);
        bench_require(cenote_weights_read(d->weights, index, 0, info->size_bytes, memory, &err),
                      &err);
        d->matrices[i].data = memory;
        memory += info->size_bytes;
    }
}

/* ---- a token ---- */

static void multiply(qwen_kernels *kernels, const matrix *m, const float *x, float *y)
{
    uint64_t n = m->info.shape[0], k = m->info.shape[1], row_bytes = k * 2;
    uint64_t call_rows = CALL_BYTES / row_bytes / 16 * 16;
    for (uint64_t row = 0; row < n; row += call_rows) {
        qwen_product product = {.a = x,
                                .a_stride = k,
                                .m = 1,
                                .k = k,
                                .w = m->data + row * row_bytes,
                                .w_dtype = CENOTE_DTYPE_BF16,
                                .n = n - row < call_rows ? n - row : call_rows,
                                .c = y + row,
                                .c_stride = n};
        qwen_gemv(kernels, &product, 1);
    }
}

typedef struct counters {
    double now_s;
    uint64_t read_bytes;
    uint64_t major_faults;
} counters;

static counters counters_get(void)
{
    counters c = {.now_s = bench_now()};
    unsigned long long bytes = 0;
    char line[128];
    FILE *io = fopen("/proc/self/io", "r");
    while (io != NULL && fgets(line, sizeof line, io) != NULL)
        if (sscanf(line, "read_bytes: %llu", &bytes) == 1)
            c.read_bytes = bytes;
    if (io != NULL)
        fclose(io);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    c.major_faults = (uint64_t)usage.ru_majflt;
    return c;
}

static void decode(decoder *d, qwen_kernels *kernels, float *x, float *y)
{
    for (unsigned i = 0; i < d->count; i++)
        multiply(kernels, &d->matrices[i], x, y);
}

static void tokens_run(decoder *d, bench_rig *rig, unsigned token_count)
{
    qwen_kernels *kernels = NULL;
    for (unsigned i = 0; i < BENCH_ISA_COUNT; i++)
        kernels = rig->kernels[i] != NULL ? rig->kernels[i] : kernels;
    if (kernels == NULL)
        die("kernels", "no vector instructions");
    float *x = bench_alloc(rig, d->k_max * sizeof *x), *y = bench_alloc(rig, d->n_max * sizeof *y);
    uint64_t state = 1;
    for (uint64_t i = 0; i < d->k_max; i++)
        x[i] = bench_random(&state);
    for (unsigned token = 0; token < token_count; token++) {
        counters from = counters_get();
        decode(d, kernels, x, y);
        counters to = counters_get();
        printf("{\"what\": \"token\", \"s\": %.6f, \"read_bytes\": %llu, \"majflt\": %llu, "
               "\"weight_bytes\": %llu}\n",
               to.now_s - from.now_s, (unsigned long long)(to.read_bytes - from.read_bytes),
               (unsigned long long)(to.major_faults - from.major_faults),
               (unsigned long long)d->bytes);
        fflush(stdout);
    }
    cenote_pool_free(rig->pool, y);
    cenote_pool_free(rig->pool, x);
}

/* ---- the program ---- */

static unsigned number(const char *text, unsigned long max)
{
    unsigned long value = strtoul(text, NULL, 10);
    if (value == 0 || value > max)
        die(text, "not a number that makes sense here");
    return (unsigned)value;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"threads", required_argument, NULL, 't'},
                                            {"tokens", required_argument, NULL, 'n'},
                                            {NULL, 0, NULL, 0}};
    unsigned threads = 2, tokens = 5;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 't')
            threads = number(optarg, CENOTE_TEAM_SIZE_MAX);
        else if (option == 'n')
            tokens = number(optarg, 10000);
        else
            return 2;
    }
    bool mapped = optind + 2 == argc && strcmp(argv[optind + 1], "mmap") == 0;
    if (!mapped && (optind + 2 != argc || strcmp(argv[optind + 1], "memory") != 0)) {
        fprintf(stderr, "mmap_decode CHECKPOINT_DIR mmap|memory [--threads N] [--tokens N]\n");
        return 2;
    }
    static decoder d;
    bench_rig books, rig;
    cenote_error err;
    bench_rig_open(&books, 1, 64); /* whose budget the table of tensors is charged to */
    bench_require(cenote_weights_open(books.budget, argv[optind], NULL, &d.weights, &err), &err);
    matrices_find(&d);
    bench_rig_open(&rig, threads, d.k_max);
    if (mapped)
        files_map(&d);
    else
        matrices_load(&d);
    tokens_run(&d, &rig, tokens);
    bench_rig_close(&rig);
    cenote_weights_close(d.weights);
    bench_rig_close(&books);
    return 0;
}
