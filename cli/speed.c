/* SPDX-License-Identifier: Apache-2.0 */
/* speed.json lies in $XDG_CACHE_HOME/cenote or ~/.cache/cenote:
 *
 *   {"schema": "cenote.speed/1", "host": "name",
 *    "disks": {"254:0 io_uring 1048576": [1.9e9, 8]},
 *    "kernels": {"2": [1.8e10, 2.1e10, 2e10]}}
 *
 * Disks by device, engine and bytes of a read (rate, and how many reads at a time), kernels by
 * threads (plain, packed, merely reading). A file of another host, of another form or with anything
 * wrong in it counts as none. It is replaced whole, by a rename. */
#include "speed.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "json.h"

#define SCHEMA "cenote.speed/1"
/* Measuring takes some 180 MiB; on a machine with little more it would push others out. */
#define SPARE_BYTES_MIN (512ull << 20)
#define RATE_MAX        1e15
#define DEPTH_MAX       256
/* Of speed.json: it is read inside a run's budget. */
#define STORE_BYTES_MAX (64 << 10)

struct keys {
    char host[256];
    char disk[96];
    char threads[16];
};

/* ---- the file ---- */

/* @p make: creates what is missing of the directory. */
static bool store_path(char path[PATH_MAX], bool make)
{
    const char *base = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    int length;
    if (base != NULL && base[0] == '/')
        length = snprintf(path, PATH_MAX, "%s", base);
    else if (home != NULL && home[0] == '/')
        length = snprintf(path, PATH_MAX, "%s/.cache", home);
    else
        return false;
    if (length < 0 || length > PATH_MAX - 64)
        return false;
    if (make)
        mkdir(path, 0700);
    strcat(path, "/cenote");
    if (make)
        mkdir(path, 0700);
    strcat(path, "/speed.json");
    return true;
}

static json_t *fresh_store(const struct keys *keys)
{
    return json_pack("{s:s, s:s, s:{}, s:{}}", "schema", SCHEMA, "host", keys->host, "disks",
                     "kernels");
}

static json_t *load_store(const struct keys *keys)
{
    char path[PATH_MAX];
    json_t *store = NULL;
    const char *schema, *host;
    struct stat st;
    if (store_path(path, false) && stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
        st.st_size <= STORE_BYTES_MAX)
        store = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    if (store != NULL &&
        json_unpack(store, "{s:s, s:s, s:o, s:o}", "schema", &schema, "host", &host, "disks",
                    &(json_t *){NULL}, "kernels", &(json_t *){NULL}) == 0 &&
        strcmp(schema, SCHEMA) == 0 && strcmp(host, keys->host) == 0 &&
        json_is_object(json_object_get(store, "disks")) &&
        json_is_object(json_object_get(store, "kernels")))
        return store;
    json_decref(store);
    return fresh_store(keys);
}

static void save_store(const json_t *store)
{
    char path[PATH_MAX], temporary[PATH_MAX + 32];
    if (!store_path(path, true))
        return;
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    if (json_dump_file(store, temporary, JSON_INDENT(2)) != 0 || rename(temporary, path) != 0)
        unlink(temporary);
}

/* ---- rates in it ---- */

static bool rate_of(const json_t *value, double *out_rate)
{
    double rate = json_number_value(value);
    if (!(rate > 0 && rate < RATE_MAX))
        return false;
    *out_rate = rate;
    return true;
}

static bool stored_disk(const json_t *store, const struct keys *keys, qwen_speed *speed)
{
    const json_t *disk = json_object_get(json_object_get(store, "disks"), keys->disk);
    json_int_t depth = json_integer_value(json_array_get(disk, 1));
    if (depth < 1 || depth > DEPTH_MAX ||
        !rate_of(json_array_get(disk, 0), &speed->disk_bytes_per_s))
        return false;
    speed->disk_depth = (uint32_t)depth;
    return true;
}

static bool stored_kernels(const json_t *store, const struct keys *keys, qwen_speed *speed)
{
    const json_t *rates = json_object_get(json_object_get(store, "kernels"), keys->threads);
    return rate_of(json_array_get(rates, 0), &speed->plain_bytes_per_s) &&
           rate_of(json_array_get(rates, 1), &speed->packed_bytes_per_s) &&
           rate_of(json_array_get(rates, 2), &speed->memory_bytes_per_s);
}

static void keep(json_t *store, const struct keys *keys, const qwen_speed *speed)
{
    json_object_set_new(
        json_object_get(store, "disks"), keys->disk,
        json_pack("[f, I]", speed->disk_bytes_per_s, (json_int_t)speed->disk_depth));
    json_object_set_new(json_object_get(store, "kernels"), keys->threads,
                        json_pack("[f, f, f]", speed->plain_bytes_per_s, speed->packed_bytes_per_s,
                                  speed->memory_bytes_per_s));
    save_store(store);
}

/* ---- measuring ---- */

static void host_key(struct keys *keys)
{
    if (gethostname(keys->host, sizeof keys->host) != 0)
        strcpy(keys->host, "?");
    keys->host[sizeof keys->host - 1] = '\0';
}

static void disk_key(qwen_model *model, cenote_io_engine engine, struct keys *keys)
{
    struct stat st = {0};
    cenote_weights *weights = qwen_model_weights_mutable(model);
    bool ring = cenote_weights_engine(weights, engine) == CENOTE_ENGINE_URING;
    stat(cenote_weights_file_path(weights, 0), &st);
    snprintf(keys->disk, sizeof keys->disk, "%u:%u %s %llu", major(st.st_dev), minor(st.st_dev),
             ring ? "io_uring" : "pread", (unsigned long long)qwen_model_panel_bytes(model));
}

static void threads_key(uint32_t thread_count, struct keys *keys)
{
    snprintf(keys->threads, sizeof keys->threads, "%u", thread_count);
}

static cenote_status check_spare(cenote_error *err)
{
    cenote_machine_memory machine;
    cenote_status status = cenote_machine_memory_get(&machine, err);
    if (status == CENOTE_OK && machine.spare_bytes < SPARE_BYTES_MIN)
        return cenote_error_set(
            err, CENOTE_E_UNSUPPORTED, "%llu bytes are free, measuring wants %llu",
            (unsigned long long)machine.spare_bytes, (unsigned long long)SPARE_BYTES_MIN);
    return status;
}

/* Of the disk and of the kernels, what is not there yet. */
struct missing {
    bool disk, kernels;
    cenote_io_engine engine;
    uint32_t thread_count;
};

static cenote_status measure(qwen_model *model, cenote_budget *budget,
                             const struct missing *missing, qwen_speed *speed, cenote_error *err)
{
    cenote_status status = check_spare(err);
    if (status == CENOTE_OK && missing->disk)
        status = qwen_speed_measure_disk(model, missing->engine, speed, err);
    if (status == CENOTE_OK && speed->disk_bytes_per_s <= 0)
        return cenote_error_set(err, CENOTE_E_UNSUPPORTED,
                                "the files are too small to measure a disk with");
    if (status == CENOTE_OK && missing->kernels)
        status = qwen_speed_measure_kernels(budget, missing->thread_count, speed, err);
    return status;
}

cenote_status cli_speed_get(qwen_model *model, cenote_budget *budget, cenote_io_engine engine,
                            uint32_t thread_count, bool anew, qwen_speed *out_speed,
                            cenote_error *err)
{
    struct keys keys;
    qwen_speed speed = {0};
    host_key(&keys);
    disk_key(model, engine, &keys);
    threads_key(thread_count, &keys);
    json_t *store = load_store(&keys);
    if (store == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for the rates");
    const struct missing missing = {.disk = anew || !stored_disk(store, &keys, &speed),
                                    .kernels = anew || !stored_kernels(store, &keys, &speed),
                                    .engine = engine,
                                    .thread_count = thread_count};
    cenote_status status = CENOTE_OK;
    if (missing.disk || missing.kernels) {
        status = measure(model, budget, &missing, &speed, err);
        if (status == CENOTE_OK)
            keep(store, &keys, &speed);
    }
    json_decref(store);
    if (status == CENOTE_OK)
        *out_speed = speed;
    return status;
}

bool cli_speed_kernels(uint32_t thread_count, qwen_speed *out_speed)
{
    struct keys keys;
    host_key(&keys);
    threads_key(thread_count, &keys);
    json_t *store = load_store(&keys);
    bool stored = stored_kernels(store, &keys, out_speed);
    json_decref(store);
    return stored;
}

uint32_t cli_speed_depth(qwen_model *model, cenote_io_engine engine)
{
    struct keys keys;
    qwen_speed speed;
    host_key(&keys);
    disk_key(model, engine, &keys);
    json_t *store = load_store(&keys);
    bool stored = stored_disk(store, &keys, &speed);
    json_decref(store);
    return stored ? speed.disk_depth : 0;
}
