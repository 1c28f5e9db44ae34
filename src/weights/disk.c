/* SPDX-License-Identifier: Apache-2.0 */
/* How fast the disk under a checkpoint is, by reading parts of it as a stream would: a few pairs of
 * chunk and depth, a fifth of a second each. No two trials read the same bytes while the files have
 * others, or a cache behind the device would be measured. */
#include <inttypes.h>

#include <cenote/weights.h>

#include "weights/reader.h"
#include "weights/weights_impl.h"

#define CHUNK_BYTES_MAX (2u << 20)
#define DEPTH_MAX       16u
#define TRIAL_NS        200000000u
/* Less than this much better is chance; then the pair with less memory in flight is taken. */
#define BETTER_BY 1.04

static const struct pair {
    uint32_t chunk_bytes, depth;
} pairs[] = {{512u << 10, 8}, {1u << 20, 8}, {512u << 10, 16}, {1u << 20, 16}, {2u << 20, 8}};

/* Where the next chunk is read: all files as one, round and round. */
struct course {
    struct cenote_weights *weights;
    struct cn_reader *reader;
    char *buffer;
    uint32_t file;
    uint64_t offset;
};

static bool next_chunk(struct course *course, uint32_t chunk_bytes,
                       struct cn_reader_request *request)
{
    const struct cenote_weights *w = course->weights;
    for (uint32_t tried = 0; tried <= w->file_count; tried++) {
        uint64_t size = w->files[course->file].opened.size_bytes;
        if (size >= chunk_bytes && course->offset <= size - chunk_bytes) {
            request->file_index = course->file;
            request->offset_bytes = course->offset;
            request->size_bytes = chunk_bytes;
            course->offset += chunk_bytes;
            return true;
        }
        course->file = (course->file + 1) % w->file_count;
        course->offset = 0;
    }
    return false;
}

static cenote_status read_failed(const struct course *course, const struct cn_reader_result *done,
                                 cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_IO, "%s: a read to measure the disk gave %" PRId64,
                            course->weights->files[course->file].path, done->result);
}

/* Keeps `depth` reads under way for a while. */
static cenote_status run_trial(struct course *course, const struct pair *pair, double *out_rate,
                               cenote_error *err)
{
    struct cn_os *os = course->weights->os;
    uint64_t start_ns = os->ops->clock_ns(os), end_ns = start_ns;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < pair->depth; i++) {
        struct cn_reader_request request = {.tag = i,
                                            .data = course->buffer + i * pair->chunk_bytes};
        if (!next_chunk(course, pair->chunk_bytes, &request))
            break;
        cn_reader_submit(course->reader, &request);
    }
    struct cn_reader_result done;
    while (end_ns - start_ns < TRIAL_NS && cn_reader_next(course->reader, true, &done)) {
        end_ns = os->ops->clock_ns(os);
        if (done.result <= 0)
            return read_failed(course, &done, err);
        bytes += (uint64_t)done.result;
        struct cn_reader_request request = {.tag = done.tag,
                                            .data = course->buffer + done.tag * pair->chunk_bytes};
        if (next_chunk(course, pair->chunk_bytes, &request))
            cn_reader_submit(course->reader, &request);
    }
    cn_reader_drain(course->reader);
    *out_rate = end_ns > start_ns ? (double)bytes * 1e9 / (double)(end_ns - start_ns) : 0;
    return CENOTE_OK;
}

static cenote_status run_trials(struct course *course, cenote_disk_speed *best, cenote_error *err)
{
    for (unsigned i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        double rate;
        cenote_status status = run_trial(course, &pairs[i], &rate, err);
        if (status != CENOTE_OK)
            return status;
        if (i == 0 || rate > best->bytes_per_s * BETTER_BY)
            *best = (cenote_disk_speed){rate, pairs[i].chunk_bytes, pairs[i].depth};
    }
    return CENOTE_OK;
}

cenote_status cenote_weights_measure_disk(cenote_weights *weights, cenote_pool *pool,
                                          cenote_disk_speed *out_speed, cenote_error *err)
{
    void *buffer;
    cenote_disk_speed speed = {0};
    cenote_status status =
        cenote_pool_alloc(pool, (uint64_t)CHUNK_BYTES_MAX * DEPTH_MAX, &buffer, err);
    if (status != CENOTE_OK)
        return status;
    struct course course = {.weights = weights, .buffer = buffer};
    struct cn_reader_options options = {.depth = DEPTH_MAX,
                                        .buffers = buffer,
                                        .buffers_bytes = (size_t)CHUNK_BYTES_MAX * DEPTH_MAX,
                                        .fds = weights->fds,
                                        .fd_count = weights->file_count};
    status = cn_reader_create(weights->os, &options, &course.reader, err);
    if (status == CENOTE_OK)
        status = run_trials(&course, &speed, err);
    cn_reader_destroy(course.reader);
    /* Buffered files leave pages behind; dropping none does no harm. */
    for (uint32_t i = 0; i < weights->file_count; i++)
        weights->os->ops->file_drop_cache(weights->os, weights->fds[i], 0,
                                          weights->files[i].opened.size_bytes);
    cenote_pool_free(pool, buffer);
    if (status == CENOTE_OK)
        *out_speed = speed;
    return status;
}
