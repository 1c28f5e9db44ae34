/* SPDX-License-Identifier: Apache-2.0 */
/* The fake system's table, its clock, its orders to fail and its books. One lock guards all state;
 * real reads happen outside of it, so that threads meet as they would on a machine. */
#include <assert.h>
#include <sched.h>
#include <stdlib.h>

#include "os/fake/fake_internal.h"
#include "os/linux/linux.h"

static uint64_t fake_clock_ns(struct cn_os *os)
{
    return atomic_load(&((struct cn_fake *)os)->clock_ns);
}

void fake_clock_reach(struct cn_fake *fake, uint64_t time_ns)
{
    uint64_t now_ns = atomic_load(&fake->clock_ns);
    while (now_ns < time_ns && !atomic_compare_exchange_weak(&fake->clock_ns, &now_ns, time_ns))
        ;
}

void cn_fake_work(struct cn_fake *fake, uint64_t duration_ns)
{
    atomic_fetch_add(&fake->clock_ns, duration_ns);
}

static void fake_sleep_ns(struct cn_os *os, uint64_t duration_ns)
{
    cn_fake_work((struct cn_fake *)os, duration_ns);
    sched_yield(); /* whoever sleeps waits for somebody: let them run */
}

struct cn_fake *cn_fake_create(void)
{
    static const struct cn_os_ops ops = {
        .memory_reserve = fake_memory_reserve,
        .memory_release = fake_memory_release,
        .memory_commit = fake_memory_commit,
        .memory_decommit = fake_memory_decommit,
        .memory_remap = fake_memory_remap,
        .memory_populate = fake_memory_populate,
        .file_open = fake_file_open,
        .file_close = fake_file_close,
        .file_stat = fake_file_stat,
        .file_pread = fake_file_pread,
        .file_drop_cache = fake_file_drop_cache,
        .file_create = fake_file_create,
        .file_pwrite = fake_file_pwrite,
        .file_sync = fake_file_sync,
        .file_rename = fake_file_rename,
        .file_remove = fake_file_remove,
        .file_remove_abandoned = fake_file_remove_abandoned,
        .directory_sync = fake_directory_sync,
        .directory_free = fake_directory_free,
        .path_resolve = fake_path_resolve,
        .ring_open = fake_ring_open,
        .ring_register = fake_ring_register,
        .ring_enter = fake_ring_enter,
        .ring_reap = fake_ring_reap,
        .ring_cancel = fake_ring_cancel,
        .ring_close = fake_ring_close,
        .directory_each = fake_directory_each,
        .clock_ns = fake_clock_ns,
        .sleep_ns = fake_sleep_ns,
    };
    struct cn_fake *fake = calloc(1, sizeof *fake);
    if (fake == NULL)
        return NULL;
    fake->os.ops = &ops;
    atomic_init(&fake->clock_ns, 1000000000u); /* 0 would hide a forgotten initialisation */
    fake->free_bytes = UINT64_MAX;
    pthread_mutex_init(&fake->lock, NULL);
    return fake;
}

void cn_fake_destroy(struct cn_fake *fake)
{
    if (fake == NULL)
        return;
    for (unsigned i = 0; i < OPENS_MAX; i++)
        if (fake->opens[i].used && fake->opens[i].real_fd >= 0)
            cn_linux_file_close(NULL, fake->opens[i].real_fd);
    for (unsigned i = 0; i < RANGES_MAX; i++) {
        if (fake->ranges[i].base == NULL)
            continue;
        cn_linux_memory_release(NULL, fake->ranges[i].base, fake->ranges[i].size_bytes);
        free(fake->ranges[i].committed);
    }
    for (unsigned i = 0; i < fake->file_count; i++) {
        free(fake->files[i]->path);
        free(fake->files[i]->data);
        free(fake->files[i]);
    }
    pthread_mutex_destroy(&fake->lock);
    free(fake);
}

struct cn_os *cn_fake_os(struct cn_fake *fake)
{
    return &fake->os;
}

/* ---- orders ---- */

int fake_call(struct cn_fake *fake, enum cn_fake_call call)
{
    struct fake_order *order = &fake->orders[call];
    order->calls++;
    return order->calls == order->fail_at ? order->error : 0;
}

void cn_fake_fail(struct cn_fake *fake, enum cn_fake_call call, uint64_t nth, int error)
{
    pthread_mutex_lock(&fake->lock);
    struct fake_order *order = &fake->orders[call];
    order->fail_at = nth > 0 ? order->calls + nth : 0;
    order->error = error;
    pthread_mutex_unlock(&fake->lock);
}

uint64_t cn_fake_calls(struct cn_fake *fake, enum cn_fake_call call)
{
    pthread_mutex_lock(&fake->lock);
    uint64_t calls = fake->orders[call].calls;
    pthread_mutex_unlock(&fake->lock);
    return calls;
}

void cn_fake_fault_add(struct cn_fake *fake, struct cn_fake_fault fault)
{
    pthread_mutex_lock(&fake->lock);
    assert(fake->fault_count < FAULTS_MAX && fault.at_read > 0);
    fault.at_read += fake->orders[CN_FAKE_READ].calls;
    fake->faults[fake->fault_count++] = fault;
    pthread_mutex_unlock(&fake->lock);
}

void cn_fake_faults_clear(struct cn_fake *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->fault_count = 0;
    for (unsigned i = 0; i < CN_FAKE_CALL_COUNT; i++)
        fake->orders[i].fail_at = 0;
    for (unsigned i = 0; i < fake->file_count; i++) {
        fake->files[i]->cut_bytes = UINT64_MAX;
        fake->files[i]->mtime_later_ns = 0;
    }
    pthread_mutex_unlock(&fake->lock);
}

void cn_fake_direct_set(struct cn_fake *fake, enum cn_fake_direct direct)
{
    pthread_mutex_lock(&fake->lock);
    fake->direct = direct;
    pthread_mutex_unlock(&fake->lock);
}

struct cn_fake_books cn_fake_books_get(struct cn_fake *fake)
{
    pthread_mutex_lock(&fake->lock);
    struct cn_fake_books books = fake->books;
    pthread_mutex_unlock(&fake->lock);
    return books;
}
