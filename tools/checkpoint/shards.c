/* SPDX-License-Identifier: Apache-2.0 */
/* The safetensors files: who goes where, headers, and the writing.
 *
 *   file:   u64 header length | JSON header, padded with spaces | data, tensor after tensor
 *   chunk:  4 MiB of the file at a multiple of 4 MiB, whatever lies in it
 *
 * A file is a sequence of chunks that can be made in any order (values.c), so each writer takes
 * the next chunk number, fills its own buffer and writes it at its place, past the page cache
 * where the file system allows it: a checkpoint larger than memory leaves no dirty pages behind.
 * Inside a file tensors are sorted as the reference writer of safetensors does: widest dtype
 * first, then by name as bytes, so file order is not the order of use. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint.h"

enum { CHUNK_BYTES = 4 << 20, DISK_ALIGN = 4096, THREADS_MAX = 16 };

/* ---- layout ---- */

/* In list order, a new file when the next tensor would exceed the limit. */
static size_t shards_assign(const struct ckpt_layout *layout, struct ckpt_tensors *tensors)
{
    uint64_t limit = layout->shard_bytes_max;
    if (layout->shard_count > 0)
        limit = tensors->total_bytes / layout->shard_count + 1;
    uint64_t filled = 0, before = 0;
    uint32_t shard = 0;
    for (size_t i = 0; i < tensors->count; i++) {
        struct ckpt_tensor *tensor = &tensors->items[i];
        size_t left = tensors->count - i;
        bool next = filled > 0 && filled + tensor->size_bytes > limit;
        if (layout->shard_count > 0) {
            /* An exact number: cut at equal shares, and early enough that no file stays empty. */
            next = filled > 0 && shard + 1 < layout->shard_count &&
                   (before >= limit * (shard + 1) || left <= layout->shard_count - 1 - shard);
        }
        if (next) {
            shard++;
            filled = 0;
        }
        tensor->shard = shard;
        filled += tensor->size_bytes;
        before += tensor->size_bytes;
    }
    return shard + 1u;
}

static int by_place(const void *left, const void *right)
{
    const struct ckpt_tensor *a = left, *b = right;
    if (a->shard != b->shard)
        return a->shard < b->shard ? -1 : 1;
    size_t width_a = ckpt_dtype_bytes(a->dtype), width_b = ckpt_dtype_bytes(b->dtype);
    if (width_a != width_b)
        return width_a > width_b ? -1 : 1;
    if (a->dtype != b->dtype)
        return a->dtype < b->dtype ? -1 : 1;
    return strcmp(a->name, b->name);
}

static void header_tensor(FILE *out, const struct ckpt_tensor *tensor)
{
    fprintf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", tensor->name,
            ckpt_dtype_text(tensor->dtype));
    for (uint32_t i = 0; i < tensor->rank; i++)
        fprintf(out, "%s%" PRIu64, i ? "," : "", tensor->shape[i]);
    fprintf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", tensor->offset,
            tensor->offset + tensor->size_bytes);
}

static int header_make(struct ckpt_shard *shard, const struct ckpt_tensor *tensors,
                       bool odd_offsets)
{
    FILE *out = open_memstream(&shard->header, &shard->header_bytes);
    if (!out)
        return ckpt_fail("no memory for a header");
    fwrite("\0\0\0\0\0\0\0", 1, 8, out); /* the length, filled in below */
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", out);
    for (size_t i = 0; i < shard->tensor_count; i++)
        header_tensor(out, &tensors[shard->tensor_first + i]);
    fputc('}', out);
    long residue = odd_offsets ? 3 : 0;
    while (ftell(out) % 8 != residue)
        fputc(' ', out);
    if (fclose(out) != 0)
        return ckpt_fail("no memory for a header");
    for (int i = 0; i < 8; i++)
        shard->header[i] = (char)((uint64_t)(shard->header_bytes - 8) >> 8 * i);
    return 0;
}

int ckpt_shards_plan(const struct ckpt_layout *layout, struct ckpt_tensors *tensors,
                     struct ckpt_shards *out_shards)
{
    if (layout->shard_count > tensors->count)
        return ckpt_fail("%" PRIu64 " shards for %zu tensors", layout->shard_count, tensors->count);
    struct ckpt_shards shards = {.count = shards_assign(layout, tensors)};
    shards.items = calloc(shards.count, sizeof(*shards.items));
    if (!shards.items)
        return ckpt_fail("no memory for %zu shards", shards.count);
    qsort(tensors->items, tensors->count, sizeof(*tensors->items), by_place);
    size_t next = 0;
    for (size_t s = 0; s < shards.count; s++) {
        struct ckpt_shard *shard = &shards.items[s];
        uint64_t data_bytes = 0;
        shard->tensor_first = next;
        for (; next < tensors->count && tensors->items[next].shard == s; next++) {
            tensors->items[next].offset = data_bytes;
            data_bytes += tensors->items[next].size_bytes;
        }
        shard->tensor_count = next - shard->tensor_first;
        if (shards.count == 1)
            snprintf(shard->name, sizeof(shard->name), "model.safetensors");
        else
            snprintf(shard->name, sizeof(shard->name), "model-%05zu-of-%05zu.safetensors", s + 1,
                     shards.count);
        if (header_make(shard, tensors->items, layout->odd_offsets) != 0) {
            ckpt_shards_fini(&shards);
            return -1;
        }
        shard->file_bytes = shard->header_bytes + data_bytes;
        shards.total_bytes += shard->file_bytes;
    }
    *out_shards = shards;
    return 0;
}

void ckpt_shards_fini(struct ckpt_shards *shards)
{
    for (size_t i = 0; i < shards->count; i++)
        free(shards->items[i].header);
    free(shards->items);
    *shards = (struct ckpt_shards){0};
}

char *ckpt_shards_index(const struct ckpt_shards *shards, const struct ckpt_tensors *tensors)
{
    json_t *map = json_object();
    for (size_t i = 0; i < tensors->count; i++)
        json_object_set_new(map, tensors->items[i].name,
                            json_string(shards->items[tensors->items[i].shard].name));
    json_t *index = json_pack("{s:{s:I}, s:o}", "metadata", "total_size",
                              (json_int_t)tensors->total_bytes, "weight_map", map);
    char *text = json_dumps(index, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(index);
    return text;
}

/* ---- writing ---- */

/* One file under way. next and done are the only fields that writers change, besides the first
 * error. */
struct job {
    const struct ckpt_shard *shard;
    const struct ckpt_tensor *tensors;
    uint64_t seed;
    int fd;
    bool direct;
    atomic_uint_fast64_t next; /* chunk */
    atomic_uint_fast64_t done_bytes;
    atomic_int error; /* errno of the first failed write */
    atomic_uint running;
};

static void chunk_fill(const struct job *job, uint64_t begin, uint64_t end, unsigned char *buffer)
{
    const struct ckpt_shard *shard = job->shard;
    uint64_t at = begin;
    if (at < shard->header_bytes) {
        uint64_t stop = end < shard->header_bytes ? end : shard->header_bytes;
        memcpy(buffer, shard->header + at, stop - at);
        at = stop;
    }
    const struct ckpt_tensor *tensor = job->tensors + shard->tensor_first;
    for (size_t i = 0; i < shard->tensor_count && at < end; i++, tensor++) {
        uint64_t first = shard->header_bytes + tensor->offset, last = first + tensor->size_bytes;
        if (at >= last)
            continue;
        uint64_t stop = end < last ? end : last;
        ckpt_tensor_bytes(tensor, job->seed, at - first, stop - at, buffer + (at - begin));
        at = stop;
    }
}

static int chunk_write(const struct job *job, uint64_t offset, uint64_t size,
                       const unsigned char *buffer)
{
    /* O_DIRECT wants whole blocks; the file is cut to its length in the end. */
    if (job->direct)
        size = (size + DISK_ALIGN - 1) / DISK_ALIGN * DISK_ALIGN;
    for (uint64_t done = 0; done < size;) {
        ssize_t count = pwrite(job->fd, buffer + done, size - done, (off_t)(offset + done));
        if (count < 0 && errno == EINTR && !ckpt_interrupted())
            continue;
        if (count <= 0)
            return count < 0 ? errno : EIO;
        done += (uint64_t)count;
    }
    if (!job->direct) {
        sync_file_range(job->fd, (off_t)offset, (off_t)size,
                        SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
        posix_fadvise(job->fd, (off_t)offset, (off_t)size, POSIX_FADV_DONTNEED);
    }
    return 0;
}

static void *writer(void *argument)
{
    struct job *job = argument;
    unsigned char *buffer = aligned_alloc(DISK_ALIGN, CHUNK_BYTES);
    int error = buffer ? 0 : ENOMEM;
    while (error == 0 && atomic_load(&job->error) == 0 && !ckpt_interrupted()) {
        uint64_t begin = atomic_fetch_add(&job->next, 1) * CHUNK_BYTES;
        if (begin >= job->shard->file_bytes)
            break;
        uint64_t size = job->shard->file_bytes - begin;
        size = size < CHUNK_BYTES ? size : CHUNK_BYTES;
        chunk_fill(job, begin, begin + size, buffer);
        if (size < CHUNK_BYTES) /* what the last block is padded with never was set */
            memset(buffer + size, 0, CHUNK_BYTES - size);
        error = chunk_write(job, begin, size, buffer);
        atomic_fetch_add(&job->done_bytes, size);
    }
    int none = 0;
    if (error != 0)
        atomic_compare_exchange_strong(&job->error, &none, error);
    free(buffer);
    atomic_fetch_sub(&job->running, 1);
    return NULL;
}

/* Runs the writers and shows how far they are. @return errno of the first fault, or 0. */
static int job_run(struct job *job, unsigned thread_count, struct ckpt_output *output)
{
    pthread_t threads[THREADS_MAX];
    unsigned started = 0;
    atomic_store(&job->running, thread_count);
    while (started < thread_count && pthread_create(&threads[started], NULL, writer, job) == 0)
        started++;
    if (started < thread_count) {
        atomic_fetch_sub(&job->running, thread_count - started);
        if (started == 0)
            return EAGAIN;
    }
    for (; output->terminal; usleep(50000)) { /* shown once at least */
        ckpt_output_progress(output, job->shard->name, atomic_load(&job->done_bytes));
        if (atomic_load(&job->running) == 0)
            break;
    }
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return atomic_load(&job->error);
}

static int shard_open(const char *path, uint64_t size_bytes, bool buffered, int *out_fd,
                      bool *out_direct)
{
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC;
    int fd = open(path, flags | O_EXCL | (buffered ? 0 : O_DIRECT), 0666);
    *out_direct = fd >= 0 && !buffered;
    if (fd < 0 && errno == EINVAL) /* a file system without O_DIRECT; the file may exist now */
        fd = open(path, flags, 0666);
    if (fd < 0)
        return errno;
    /* Blocks set aside in one go lie together, and writers do not wait for each other's growth. */
    if (fallocate(fd, 0, 0, (off_t)size_bytes) != 0 && errno != EOPNOTSUPP) {
        int error = errno;
        close(fd);
        return error;
    }
    *out_fd = fd;
    return 0;
}

static int shard_write(const struct ckpt_shard *shard, const struct ckpt_tensors *tensors,
                       uint64_t seed, unsigned thread_count, struct ckpt_output *output)
{
    char path[4352];
    ckpt_output_path(output, shard->name, path);
    struct job job = {.shard = shard, .tensors = tensors->items, .seed = seed};
    int error = shard_open(path, shard->file_bytes, output->buffered, &job.fd, &job.direct);
    if (error != 0)
        return ckpt_fail("%s: %s", path, strerror(error));
    error = job_run(&job, thread_count, output);
    if (error == 0 && ftruncate(job.fd, (off_t)shard->file_bytes) != 0)
        error = errno;
    if (close(job.fd) != 0 && error == 0)
        error = errno;
    if (ckpt_interrupted())
        return -1;
    if (error != 0)
        return ckpt_fail("%s: %s", path, strerror(error));
    output->done_bytes += shard->file_bytes;
    return 0;
}

int ckpt_shards_write(const struct ckpt_shards *shards, const struct ckpt_tensors *tensors,
                      uint64_t seed, unsigned thread_count, struct ckpt_output *output)
{
    if (thread_count > THREADS_MAX)
        thread_count = THREADS_MAX;
    for (size_t i = 0; i < shards->count; i++)
        if (shard_write(&shards->items[i], tensors, seed, thread_count, output) != 0)
            return -1;
    return 0;
}
