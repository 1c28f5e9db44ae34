/* SPDX-License-Identifier: Apache-2.0 */
/* The disk's time and the rings over it. A read gets the time of its end when it is handed over,
 * from what the lanes and the bus already have to do; its bytes are copied when it is reaped after
 * that time, and until then its memory holds rubbish, so that a consumer who comes too early is
 * seen. One seed decides all that is random. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "os/fake/fake_internal.h"

#define RING_DEPTH_MAX 256u
#define NS_PER_S       1000000000u

struct ring_read {
    bool used;
    uint64_t end_ns;
    uint64_t number; /* of the hand-over: reads that end together complete in this order */
    struct cn_os_ring_read asked;
    struct fake_read plan;
};

struct cn_os_ring {
    uint32_t depth;
    uint32_t under_way;
    uint32_t fd_count;
    uint64_t number;
    struct ring_read reads[RING_DEPTH_MAX]; /* by tag */
    int fds[];
};

/* ---- time; locked ---- */

/* splitmix64 */
uint64_t fake_disk_random(struct cn_fake *fake, uint64_t limit)
{
    uint64_t x = fake->disk.random += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (x ^ x >> 31) % limit;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

uint64_t fake_disk_read_ns(struct cn_fake *fake, uint64_t size_bytes, uint64_t delay_ns)
{
    struct fake_disk *disk = &fake->disk;
    const struct cn_fake_disk *traits = &disk->traits;
    uint64_t *lane = NULL;
    uint64_t time_ns = atomic_load(&fake->clock_ns);
    for (uint32_t i = 0; i < traits->lanes; i++)
        if (lane == NULL || disk->lane_free_ns[i] < *lane)
            lane = &disk->lane_free_ns[i];
    if (lane != NULL)
        time_ns = later(time_ns, *lane);
    if (traits->bytes_per_s > 0 && size_bytes > 0) {
        double seconds = (double)size_bytes / (double)traits->bytes_per_s;
        time_ns = later(time_ns, disk->bus_free_ns) + (uint64_t)(seconds * NS_PER_S);
        disk->bus_free_ns = time_ns;
    }
    time_ns += traits->latency_ns + delay_ns;
    if (traits->latency_random_ns > 0)
        time_ns += fake_disk_random(fake, traits->latency_random_ns + 1);
    if (lane != NULL)
        *lane = time_ns;
    return time_ns;
}

void cn_fake_disk_set(struct cn_fake *fake, const struct cn_fake_disk *disk)
{
    pthread_mutex_lock(&fake->lock);
    fake->disk.traits = *disk;
    fake->disk.random = disk->seed;
    if (disk->lanes > CN_FAKE_LANES_MAX)
        fake->disk.traits.lanes = CN_FAKE_LANES_MAX;
    pthread_mutex_unlock(&fake->lock);
}

static bool one_of_mille(struct cn_fake *fake, uint32_t per_mille)
{
    return per_mille > 0 && fake_disk_random(fake, 1000) < per_mille;
}

/* ---- rings ---- */

int fake_ring_open(struct cn_os *os, const struct cn_os_ring_options *options,
                   struct cn_os_ring **out_ring)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    int error = fake_call(fake, CN_FAKE_RING_OPEN);
    if (error == 0 && (options->depth == 0 || options->depth > RING_DEPTH_MAX))
        error = EINVAL;
    struct cn_os_ring *ring = NULL;
    if (error == 0) {
        ring = calloc(1, sizeof *ring + options->fd_count * sizeof ring->fds[0]);
        error = ring == NULL ? ENOMEM : 0;
    }
    fake->books.open_rings += ring != NULL;
    pthread_mutex_unlock(&fake->lock);
    if (error != 0)
        return -error;
    ring->depth = options->depth;
    ring->fd_count = options->fd_count;
    memcpy(ring->fds, options->fds, options->fd_count * sizeof ring->fds[0]);
    *out_ring = ring;
    return 0;
}

int fake_ring_register(struct cn_os *os, struct cn_os_ring *ring, void *base, size_t size_bytes)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    (void)ring;
    (void)base;
    (void)size_bytes;
    pthread_mutex_lock(&fake->lock);
    int error = fake_call(fake, CN_FAKE_RING_REGISTER);
    pthread_mutex_unlock(&fake->lock);
    return -error;
}

void fake_ring_close(struct cn_os *os, struct cn_os_ring *ring)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    fake->books.open_rings--;
    fake->books.misuse_count += ring->under_way > 0;
    fake->books.ring_reads -= ring->under_way;
    pthread_mutex_unlock(&fake->lock);
    free(ring);
}

/* The read that ends first, NULL for none. */
static struct ring_read *first_to_end(struct cn_os_ring *ring)
{
    struct ring_read *first = NULL;
    for (uint32_t i = 0; i < ring->depth && ring->under_way > 0; i++) {
        struct ring_read *read = &ring->reads[i];
        if (!read->used)
            continue;
        if (first == NULL || read->end_ns < first->end_ns ||
            (read->end_ns == first->end_ns && read->number < first->number))
            first = read;
    }
    return first;
}

/* Locked. */
static bool take_read(struct cn_fake *fake, struct cn_os_ring *ring,
                      const struct cn_os_ring_read *asked)
{
    if (asked->tag >= ring->depth || ring->reads[asked->tag].used ||
        asked->file_index >= ring->fd_count) {
        fake->books.misuse_count++;
        return false;
    }
    struct ring_read *read = &ring->reads[asked->tag];
    *read = (struct ring_read){.used = true, .number = ring->number++, .asked = *asked};
    read->plan = fake_read_plan(fake, ring->fds[asked->file_index], asked->data, asked->size_bytes,
                                asked->offset_bytes);
    read->end_ns =
        fake_disk_read_ns(fake, read->plan.error == 0 ? asked->size_bytes : 0, read->plan.delay_ns);
    memset(asked->data, FAKE_SPOILT, asked->size_bytes);
    ring->under_way++;
    fake->books.ring_reads++;
    return true;
}

/* Locked. */
static int enter_locked(struct cn_fake *fake, struct cn_os_ring *ring,
                        const struct cn_os_ring_read *reads, uint32_t read_count, bool wait)
{
    int error = fake_call(fake, CN_FAKE_RING_ENTER);
    if (error != 0)
        return -error;
    uint32_t limit = read_count;
    if (read_count > 0 && one_of_mille(fake, fake->disk.traits.refuse_per_mille))
        limit = (uint32_t)fake_disk_random(fake, read_count);
    if (limit == 0 && read_count > 0)
        return -EAGAIN;
    uint32_t taken = 0;
    while (taken < limit && take_read(fake, ring, &reads[taken]))
        taken++;
    if (taken == 0 && read_count > 0)
        return -EINVAL;
    if (!wait || taken < read_count)
        return (int)taken;
    struct ring_read *first = first_to_end(ring);
    if (first == NULL) {
        fake->books.misuse_count++; /* the kernel would wait for ever */
        return taken > 0 ? (int)taken : -EDEADLK;
    }
    if (one_of_mille(fake, fake->disk.traits.interrupt_per_mille))
        return taken > 0 ? (int)taken : -EINTR;
    fake_clock_reach(fake, first->end_ns);
    return (int)taken;
}

int fake_ring_enter(struct cn_os *os, struct cn_os_ring *ring, const struct cn_os_ring_read *reads,
                    uint32_t read_count, bool wait)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    int rc = enter_locked(fake, ring, reads, read_count, wait);
    pthread_mutex_unlock(&fake->lock);
    return rc;
}

uint32_t fake_ring_reap(struct cn_os *os, struct cn_os_ring *ring, struct cn_os_ring_done *out,
                        uint32_t out_max)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    uint64_t now_ns = atomic_load(&fake->clock_ns);
    uint32_t count = 0;
    while (count < out_max) {
        struct ring_read *read = first_to_end(ring);
        if (read == NULL || read->end_ns > now_ns)
            break;
        read->used = false;
        ring->under_way--;
        out[count].tag = read->asked.tag;
        out[count].result =
            fake_read_do(fake, &read->plan, read->asked.data, read->asked.offset_bytes);
        count++;
    }
    pthread_mutex_lock(&fake->lock);
    fake->books.ring_reads -= count;
    pthread_mutex_unlock(&fake->lock);
    return count;
}

/* Half of them can be. */
void fake_ring_cancel(struct cn_os *os, struct cn_os_ring *ring, const uint32_t *tags,
                      uint32_t tag_count)
{
    struct cn_fake *fake = (struct cn_fake *)os;
    pthread_mutex_lock(&fake->lock);
    for (uint32_t i = 0; i < tag_count; i++) {
        struct ring_read *read = &ring->reads[tags[i]];
        if (!read->used) {
            fake->books.misuse_count++;
        } else if (one_of_mille(fake, 500)) {
            read->plan.error = -ECANCELED;
            read->end_ns = atomic_load(&fake->clock_ns);
        }
    }
    pthread_mutex_unlock(&fake->lock);
}
