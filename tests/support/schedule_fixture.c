/* SPDX-License-Identifier: Apache-2.0 */
#include "schedule_fixture.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#include <cmocka.h>

#include <cenote/bf12.h>
#include <cenote/pack.h>

#include "random.h"
#include "reader_fixture.h"
#include "weights_fixture.h"

#define FOLDER "/proc/self" /* a real folder without files of that name */

/* ---- at the door: the fake's table with three functions of ours before it ---- */

/* One scene at a time: a fake's table has no room for more. */
static const struct cn_os_ops *real_ops;
static struct cn_os_ops watched_ops;
static const struct schedule_events *watching;

static int watched_enter(struct cn_os *os, struct cn_os_ring *ring,
                         const struct cn_os_ring_read *reads, uint32_t count, bool wait)
{
    if (wait && watching->waits != NULL)
        watching->waits(watching->context);
    int taken = real_ops->ring_enter(os, ring, reads, count, wait);
    for (int i = 0; i < taken && watching->taken != NULL; i++)
        watching->taken(watching->context, &reads[i]);
    return taken;
}

static uint32_t watched_reap(struct cn_os *os, struct cn_os_ring *ring, struct cn_os_ring_done *out,
                             uint32_t out_max)
{
    uint32_t count = real_ops->ring_reap(os, ring, out, out_max);
    for (uint32_t i = 0; i < count && watching->completed != NULL; i++)
        watching->completed(watching->context, out[i].tag, out[i].result);
    return count;
}

static int64_t watched_pread(struct cn_os *os, int fd, void *data, size_t size_bytes,
                             uint64_t offset)
{
    if (watching->pread != NULL)
        watching->pread(watching->context);
    return real_ops->file_pread(os, fd, data, size_bytes, offset);
}

static void watch(struct schedule *s)
{
    struct cn_os *os = cn_fake_os(s->fake);
    watching = &s->events;
    real_ops = os->ops;
    watched_ops = *real_ops;
    watched_ops.ring_enter = watched_enter;
    watched_ops.ring_reap = watched_reap;
    watched_ops.file_pread = watched_pread;
    os->ops = &watched_ops;
}

/* ---- a checkpoint ---- */

static uint64_t matrix_bytes(const struct schedule_matrix *m)
{
    return (uint64_t)m->rows * m->columns * 2;
}

/* Exponents close together, as trained weights have them. */
static void matrix_fill(struct schedule_matrix *m, uint64_t seed)
{
    uint64_t random = seed;
    uint64_t size = matrix_bytes(m);
    m->panels = (m->rows - 1) / m->rows_per_panel + 1;
    m->bytes = malloc(size);
    for (uint64_t i = 0; i < size; i += 2) {
        uint64_t r = random_below(&random, 1u << 16);
        uint16_t value = (uint16_t)((r & 0x807f) | (118 + (r >> 8 & 3)) << 7);
        memcpy(m->bytes + i, &value, sizeof value);
    }
}

static void write_shard(struct schedule *s, uint32_t shard, uint32_t first, uint32_t end)
{
    char header[2048], path[64];
    int length = 0;
    uint64_t offset = 0;
    for (uint32_t i = first; i < end; i++) {
        const struct schedule_matrix *m = &s->matrices[i];
        length += snprintf(
            header + length, sizeof header - (size_t)length,
            "%s\"m%u\":{\"dtype\":\"BF16\",\"shape\":[%u,%u],\"data_offsets\":[%" PRIu64 ",%" PRIu64
            "]}",
            i == first ? "{" : ",", i, m->rows, m->columns, offset, offset + matrix_bytes(m));
        offset += matrix_bytes(m);
    }
    header[length++] = '}';
    uint64_t header_bytes = (uint64_t)length;
    unsigned char *file = malloc(8 + header_bytes + offset);
    memcpy(file, &header_bytes, 8);
    memcpy(file + 8, header, header_bytes);
    uint64_t at = 8 + header_bytes;
    for (uint32_t i = first; i < end; at += matrix_bytes(&s->matrices[i++]))
        memcpy(file + at, s->matrices[i].bytes, matrix_bytes(&s->matrices[i]));
    snprintf(path, sizeof path, FOLDER "/shard-%u.safetensors", shard);
    assert_int_equal(cn_fake_file_add(s->fake, path, file, at), 0);
    free(file);
}

/* In memory where the machine has a place for that: it is synced, and there are many. */
static void open_pack(struct schedule *s)
{
    char path[512];
    cenote_pack_info info;
    cenote_error err;
    snprintf(path, sizeof path, "%s/cenote-schedule-%d.pack",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : TEST_SCRATCH_DIR, (int)getpid());
    cenote_pack_options options = CENOTE_PACK_OPTIONS_INIT;
    cenote_status status =
        cenote_pack_write(s->weights, s->budget, s->items, s->count, path, &options, &info, &err);
    if (status == CENOTE_OK)
        status = cenote_pack_open(s->weights, s->budget, path, CENOTE_IO_BUFFERED, &s->pack, &err);
    unlink(path);
    s->packs = status != CENOTE_E_UNSUPPORTED; /* panels too small for it to pay */
    if (s->packs && status != CENOTE_OK)
        fail_msg("%s", err.message);
}

/* ---- open, close ---- */

void schedule_open_stream(struct schedule *s)
{
    cenote_error err;
    if (cenote_stream_create(s->weights, s->pool, &s->options, &s->stream, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    s->budget_bytes = test_budget_charged(s->budget) - schedule_resident(s).charged_bytes;
}

void schedule_open(struct schedule *s)
{
    cenote_error err;
    uint64_t largest = 0;
    s->fake = cn_fake_create();
    assert_non_null(s->fake);
    watch(s);
    for (uint32_t i = 0; i < s->count; i++)
        matrix_fill(&s->matrices[i], i + 1);
    uint32_t middle = s->two_shards ? (s->count + 1) / 2 : s->count;
    write_shard(s, 0, 0, middle);
    if (middle < s->count)
        write_shard(s, 1, middle, s->count);
    s->budget = test_budget_create(256u << 20, cn_fake_os(s->fake));
    s->weights = test_weights_open(s->budget, FOLDER, CENOTE_IO_BUFFERED);
    s->pool = test_pool_create(s->budget);
    for (uint32_t i = 0; i < s->count; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        s->items[i] = (cenote_stream_item){test_weights_find(s->weights, name),
                                           s->matrices[i].rows_per_panel};
        uint64_t panel = schedule_panel_bytes(s, i, 0);
        largest = panel > largest ? panel : largest;
    }
    if (s->packs)
        open_pack(s);
    if (cenote_resident_create(s->weights, s->budget, s->items, s->resident_count, s->encoding,
                               s->pack, &s->resident, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    s->options.version = CENOTE_STREAM_OPTIONS_VERSION;
    s->options.panel_bytes_max = largest;
    s->options.resident = s->resident;
    s->options.pack = s->pack;
    schedule_open_stream(s);
}

void schedule_close(struct schedule *s)
{
    cenote_stream_destroy(s->stream);
    assert_int_equal(cn_fake_books_get(s->fake).ring_reads, 0);
    assert_int_equal(cn_fake_books_get(s->fake).open_rings, 0);
    cenote_resident_destroy(s->resident);
    assert_int_equal(cenote_pool_destroy(s->pool), 0);
    cenote_pack_close(s->pack);
    cenote_weights_close(s->weights);
    assert_int_equal(test_budget_charged(s->budget), 1);
    cenote_budget_destroy(s->budget);
    struct cn_fake_books books = cn_fake_books_get(s->fake);
    assert_int_equal(books.open_files, 0);
    assert_int_equal(books.reservations, 0);
    assert_int_equal(books.committed_bytes, 0);
    assert_int_equal(books.misuse_count, 0);
    cn_fake_destroy(s->fake);
    for (uint32_t i = 0; i < s->count; i++)
        free(s->matrices[i].bytes);
}

/* ---- looking ---- */

cenote_resident_stats schedule_resident(const struct schedule *s)
{
    cenote_resident_stats stats;
    cenote_resident_stats_get(s->resident, &stats);
    return stats;
}

uint64_t schedule_now_ns(const struct schedule *s)
{
    struct cn_os *os = cn_fake_os(s->fake);
    return os->ops->clock_ns(os);
}

uint64_t schedule_panel_bytes(const struct schedule *s, uint32_t matrix, uint32_t panel)
{
    const struct schedule_matrix *m = &s->matrices[matrix];
    uint64_t left = m->rows - panel * m->rows_per_panel;
    return (left < m->rows_per_panel ? left : m->rows_per_panel) * m->columns * 2;
}

void schedule_check_books(const struct schedule *s)
{
    uint64_t charged = test_budget_charged(s->budget);
    assert_int_equal(charged, s->budget_bytes + schedule_resident(s).charged_bytes);
    assert_true(cn_fake_books_get(s->fake).committed_bytes <= charged);
}

void schedule_check_bytes(const struct schedule *s, const cenote_panel *panel)
{
    uint32_t index = 0;
    while (index < s->count && s->items[index].tensor_index != panel->tensor_index)
        index++;
    assert_true(index < s->count);
    const struct schedule_matrix *m = &s->matrices[index];
    const unsigned char *want = m->bytes + panel->row_first * panel->row_bytes;
    assert_int_equal(panel->row_bytes, m->columns * 2);
    if (panel->encoding == CENOTE_ENCODING_PLAIN) {
        assert_memory_equal(panel->data, want, panel->row_count * panel->row_bytes);
        return;
    }
    uint16_t row[4096];
    assert_true(s->encoding == CENOTE_ENCODING_BF12 && m->columns <= 4096);
    for (uint64_t i = 0; i < panel->row_count; i++) {
        cenote_bf12_decode(panel->data, m->columns, i, 0, m->columns, row);
        assert_memory_equal(row, want + i * panel->row_bytes, panel->row_bytes);
    }
}

static bool find_packed(const struct schedule *s, uint64_t offset_bytes, uint64_t size_bytes,
                        uint32_t *out_matrix, uint32_t *out_panel)
{
    for (uint32_t i = 0; i < s->count; i++)
        for (uint32_t p = 0; p < s->matrices[i].panels; p++) {
            cenote_pack_panel packed;
            uint64_t first = (uint64_t)p * s->matrices[i].rows_per_panel;
            uint64_t rows = schedule_panel_bytes(s, i, p) / 2 / s->matrices[i].columns;
            if (!cenote_pack_find(s->pack, s->items[i].tensor_index, first, rows, &packed) ||
                packed.encoding == CENOTE_ENCODING_PLAIN || packed.offset_bytes != offset_bytes)
                continue;
            *out_matrix = i;
            *out_panel = p;
            return size_bytes == packed.size_bytes;
        }
    return false;
}

bool schedule_find(const struct schedule *s, uint32_t file_index, uint64_t offset_bytes,
                   uint64_t size_bytes, uint32_t *out_matrix, uint32_t *out_panel)
{
    if (file_index == cenote_weights_file_count(s->weights))
        return find_packed(s, offset_bytes, size_bytes, out_matrix, out_panel);
    for (uint32_t i = 0; i < s->count; i++) {
        const cenote_tensor_info *tensor =
            cenote_weights_tensor(s->weights, s->items[i].tensor_index);
        uint64_t at = offset_bytes - tensor->offset_bytes;
        if (tensor->file_index != file_index || offset_bytes < tensor->offset_bytes ||
            at >= tensor->size_bytes)
            continue;
        uint64_t whole = schedule_panel_bytes(s, i, 0);
        *out_matrix = i;
        *out_panel = (uint32_t)(at / whole);
        return at % whole == 0 && size_bytes == schedule_panel_bytes(s, i, *out_panel);
    }
    return false;
}
