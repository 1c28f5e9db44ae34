/* SPDX-License-Identifier: Apache-2.0 */
/* How fast the disk under a checkpoint is, by reading parts of it as a stream would: its panels, by
 * its engine. A fifth of a second for each depth, then the better one for longer; counted from when
 * as many reads as are under way at a time have come back. No two trials read the same bytes while
 * the files have others, or a cache behind the device would be measured; and what goes through the
 * page cache is dropped at once, for small files come round many times.
 *
 * The size of a read is no choice here: a panel is one, and a packed copy is cut so
 * (docs/streaming.md says what half and twice a MiB would give). */
#include <inttypes.h>
#include <stdio.h>

#include <cenote/weights.h>

#include "base/checked.h"
#include "weights/message.h"
#include "weights/reader.h"
#include "weights/weights_impl.h"

#define DEPTH_MAX 16u
#define TRIAL_NS  200000000u
#define FINAL_NS  600000000u
/* Less than this much better is chance; then less memory in flight is taken. */
#define BETTER_BY 1.04

static const uint32_t depths[] = {8, DEPTH_MAX};

/* Where the next chunk is read: all files as one, round and round. */
struct course {
    struct cenote_weights *weights;
    struct cn_reader *reader;
    char *buffer;
    uint64_t chunk_bytes;
    uint32_t file;
    uint64_t offset;
    struct cn_reader_request reads[DEPTH_MAX]; /* by tag */
};

/* false: no file has so many bytes. */
static bool submit_next(struct course *course, uint32_t tag)
{
    const struct cenote_weights *w = course->weights;
    for (uint32_t tried = 0; tried <= w->file_count; tried++) {
        uint64_t size = w->files[course->file].opened.size_bytes;
        if (size >= course->chunk_bytes && course->offset <= size - course->chunk_bytes) {
            course->reads[tag] = (struct cn_reader_request){
                .tag = tag,
                .file_index = course->file,
                .offset_bytes = course->offset,
                .size_bytes = (uint32_t)course->chunk_bytes,
                .data = course->buffer + (uint64_t)tag * course->chunk_bytes,
            };
            cn_reader_submit(course->reader, &course->reads[tag]);
            course->offset += course->chunk_bytes;
            return true;
        }
        course->file = (course->file + 1) % w->file_count;
        course->offset = 0;
    }
    return false;
}

static void drop_behind(const struct course *course, uint32_t tag)
{
    const struct cn_reader_request *read = &course->reads[tag];
    const struct cn_file *file = &course->weights->files[read->file_index];
    if (!file->direct)
        file->os->ops->file_drop_cache(file->os, file->fd, read->offset_bytes, read->size_bytes);
}

static cenote_status check_read(const struct course *course, const struct cn_reader_result *done,
                                cenote_error *err)
{
    const struct cn_reader_request *read = &course->reads[done->tag];
    const char *path = course->weights->files[read->file_index].path;
    char what[96];
    if (done->result > 0)
        return CENOTE_OK;
    snprintf(what, sizeof what, "to measure the disk, read of %" PRIu32 " bytes at %" PRIu64,
             read->size_bytes, read->offset_bytes);
    if (done->result < 0)
        return cn_weights_error_errno(err, path, NULL, what, (int)-done->result);
    return cn_weights_error(err, CENOTE_E_IO, path, NULL, "%s: the file ends early", what);
}

/* Keeps @p depth reads under way for a while. */
static cenote_status run_trial(struct course *course, uint32_t depth, uint64_t trial_ns,
                               double *out_rate, cenote_error *err)
{
    struct cn_os *os = course->weights->os;
    uint64_t start_ns = 0, now_ns = 0;
    uint64_t bytes = 0, count = 0;
    uint32_t begun = 0;
    cenote_status status = CENOTE_OK;
    struct cn_reader_result done;
    while (begun < depth && submit_next(course, begun))
        begun++;
    while (cn_reader_next(course->reader, true, &done)) {
        now_ns = os->ops->clock_ns(os);
        status = check_read(course, &done, err);
        if (status != CENOTE_OK)
            break;
        if (++count <= depth)
            start_ns = now_ns;
        else
            bytes += (uint64_t)done.result;
        if (now_ns - start_ns >= trial_ns)
            break;
        drop_behind(course, done.tag);
        submit_next(course, done.tag);
    }
    (void)cn_reader_drain(course->reader);
    for (uint32_t tag = 0; tag < begun; tag++)
        drop_behind(course, tag);
    *out_rate = bytes > 0 ? (double)bytes * 1e9 / (double)(now_ns - start_ns) : 0;
    return status;
}

/* The short trials choose; the better of two is also the luckier, and a disk that saved up while it
 * was idle is quick for a moment. So the figure comes from a longer one of the depth chosen. */
static cenote_status run_trials(struct course *course, cenote_disk_speed *best, cenote_error *err)
{
    for (unsigned i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        double rate;
        cenote_status status = run_trial(course, depths[i], TRIAL_NS, &rate, err);
        if (status != CENOTE_OK)
            return status;
        if (i == 0 || rate > best->bytes_per_s * BETTER_BY)
            *best = (cenote_disk_speed){rate, depths[i]};
    }
    if (best->bytes_per_s <= 0)
        return CENOTE_OK;
    return run_trial(course, best->depth, FINAL_NS, &best->bytes_per_s, err);
}

cenote_status cenote_weights_measure_disk(cenote_weights *weights, cenote_pool *pool,
                                          uint64_t panel_bytes, cenote_io_engine engine,
                                          cenote_disk_speed *out_speed, cenote_error *err)
{
    void *buffer;
    cenote_disk_speed speed = {0};
    if (panel_bytes == 0 || panel_bytes > INT32_MAX)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "a disk measured by reads of %" PRIu64 " bytes, not 1..%d",
                                panel_bytes, INT32_MAX);
    uint64_t chunk_bytes = cn_round_up(panel_bytes, CN_FILE_ALIGN_MAX);
    cenote_status status = cenote_pool_alloc(pool, chunk_bytes * DEPTH_MAX, &buffer, err);
    if (status != CENOTE_OK)
        return status;
    struct course course = {.weights = weights, .buffer = buffer, .chunk_bytes = chunk_bytes};
    struct cn_reader_options options = {.engine = cn_reader_engine_of(engine),
                                        .depth = DEPTH_MAX,
                                        .buffers = buffer,
                                        .buffers_bytes = (size_t)chunk_bytes * DEPTH_MAX,
                                        .fds = weights->fds,
                                        .fd_count = weights->file_count};
    status = cn_reader_create(weights->os, &options, &course.reader, err);
    if (status == CENOTE_OK)
        status = run_trials(&course, &speed, err);
    cn_reader_destroy(course.reader);
    cenote_pool_free(pool, buffer);
    if (status == CENOTE_OK)
        *out_speed = speed;
    return status;
}

cenote_io_engine cenote_weights_engine(cenote_weights *weights, cenote_io_engine engine)
{
    struct cn_reader *reader;
    struct cn_reader_options options = {.engine = CN_READER_URING,
                                        .depth = 1,
                                        .fds = weights->fds,
                                        .fd_count = weights->file_count};
    if (engine != CENOTE_ENGINE_AUTO)
        return engine;
    if (cn_reader_create(weights->os, &options, &reader, NULL) != CENOTE_OK)
        return CENOTE_ENGINE_PREAD;
    cn_reader_destroy(reader);
    return CENOTE_ENGINE_URING;
}
