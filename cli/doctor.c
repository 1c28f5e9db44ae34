/* SPDX-License-Identifier: Apache-2.0 */
/* `cenote doctor`: what this machine is to Cenote. Reads and prints; changes and allocates nothing.
 */
#include <stdio.h>
#include <string.h>

#include "json.h"

struct diagnosis {
    cenote_hardware hardware;
    cenote_machine_memory memory;
    unsigned cpus_usable; /* of the mask, under the cgroup's quota */
};

static cenote_status diagnose(struct diagnosis *diagnosis, cenote_error *err)
{
    cenote_status status = cenote_hardware_get(&diagnosis->hardware, err);
    if (status == CENOTE_OK)
        status = cenote_machine_memory_get(&diagnosis->memory, err);
    diagnosis->cpus_usable = cenote_cpu_count();
    return status;
}

static const char *vectors_text(uint32_t vector_bytes)
{
    return vector_bytes == 64 ? "AVX-512" : vector_bytes == 32 ? "AVX2" : "none that kernels use";
}

/* ---- text ---- */

static void print_cache(const char *name, const cenote_cache *cache)
{
    char size[CLI_BYTES_TEXT];
    if (cache->size_bytes == 0) {
        printf("  %-12s unknown or none\n", name);
        return;
    }
    printf("  %-12s %s", name, cli_memory_text(cache->size_bytes, size));
    if (cache->ways > 0)
        printf(", %u ways", cache->ways);
    if (cache->line_bytes > 0)
        printf(", lines of %u bytes", cache->line_bytes);
    printf(", for %u CPU%s\n", cache->cpus, cache->cpus == 1 ? "" : "s");
}

static void print_device(const cenote_device_shape *device)
{
    char shared[CLI_BYTES_TEXT];
    if (device->compute_capability == 0)
        return;
    printf(
        "  %-12s compute capability %u.%u, blocks of up to %u threads with %s; attention tiles of "
        "%u, %u, %u rows for heads of 64, 128, 256\n",
        "GPU", device->compute_capability / 10, device->compute_capability % 10,
        device->block_threads_max, cli_memory_text(device->block_shared_bytes, shared),
        cenote_attention_tile_rows(device, 64), cenote_attention_tile_rows(device, 128),
        cenote_attention_tile_rows(device, 256));
}

static void print_memory(const cenote_machine_memory *memory)
{
    char total[CLI_BYTES_TEXT], available[CLI_BYTES_TEXT], spare[CLI_BYTES_TEXT];
    printf("  %-12s %s, %s available", "memory", cli_memory_text(memory->total_bytes, total),
           cli_memory_text(memory->available_bytes, available));
    if (memory->cgroup_limit_bytes != UINT64_MAX)
        printf(", cgroup limit %s", cli_memory_text(memory->cgroup_limit_bytes, total));
    printf("; a run without --memory takes up to %s\n",
           cli_memory_text(memory->spare_bytes, spare));
}

static void print_text(const struct diagnosis *diagnosis)
{
    const cenote_hardware *hardware = &diagnosis->hardware;
    char size[CLI_BYTES_TEXT], huge[CLI_BYTES_TEXT];
    char name[CENOTE_HARDWARE_NAME_BYTES];
    int name_bytes = (int)cli_text_clean(hardware->name, strlen(hardware->name), name);
    printf("%s%.*s\n", name_bytes > 0 ? "as the profile says: " : "this machine", name_bytes, name);
    printf("  %-12s %u core%s, %u CPU%s, of which a run takes %u; vectors: %s\n", "processor",
           hardware->cores, hardware->cores == 1 ? "" : "s", hardware->cpus,
           hardware->cpus == 1 ? "" : "s", diagnosis->cpus_usable,
           vectors_text(hardware->vector_bytes));
    print_cache("L1 data", &hardware->l1d);
    print_cache("L2", &hardware->l2);
    print_cache("L3", &hardware->l3);
    printf("  %-12s %s, huge ones %s\n", "pages", cli_memory_text(hardware->page_bytes, size),
           hardware->huge_page_bytes > 0 ? cli_memory_text(hardware->huge_page_bytes, huge)
                                         : "not to be had");
    print_device(&hardware->device);
    print_memory(&diagnosis->memory);
}

/* ---- JSON ---- */

static json_t *cache_json(const cenote_cache *cache)
{
    return json_pack("{s:o, s:i, s:i, s:i}", "size_bytes", cli_json_count(cache->size_bytes),
                     "line_bytes", cache->line_bytes, "ways", cache->ways, "cpus", cache->cpus);
}

static json_t *device_json(const cenote_device_shape *device)
{
    if (device->compute_capability == 0)
        return json_null();
    return json_pack("{s:i, s:i, s:i, s:o}", "compute_capability", device->compute_capability,
                     "warp_threads", device->warp_threads, "block_threads_max",
                     device->block_threads_max, "block_shared_bytes",
                     cli_json_count(device->block_shared_bytes));
}

static json_t *limit_json(uint64_t limit_bytes)
{
    return limit_bytes == UINT64_MAX ? json_null() : cli_json_count(limit_bytes);
}

static json_t *report_json(const struct diagnosis *diagnosis)
{
    const cenote_hardware *hardware = &diagnosis->hardware;
    const cenote_machine_memory *memory = &diagnosis->memory;
    json_t *object = json_pack(
        "{s:s, s:o, s:i, s:i, s:i, s:i, s:o, s:o, s:o, s:o, s:o, s:o}", "schema", "cenote.doctor/1",
        "profile", hardware->name[0] != '\0' ? cli_json_text(hardware->name) : json_null(), "cores",
        hardware->cores, "cpus", hardware->cpus, "cpus_usable", diagnosis->cpus_usable,
        "vector_bytes", hardware->vector_bytes, "l1d", cache_json(&hardware->l1d), "l2",
        cache_json(&hardware->l2), "l3", cache_json(&hardware->l3), "page_bytes",
        cli_json_count(hardware->page_bytes), "huge_page_bytes",
        cli_json_count(hardware->huge_page_bytes), "device", device_json(&hardware->device));
    json_t *sizes = json_pack(
        "{s:o, s:o, s:o, s:o, s:o}", "total_bytes", cli_json_count(memory->total_bytes),
        "available_bytes", cli_json_count(memory->available_bytes), "cgroup_limit_bytes",
        limit_json(memory->cgroup_limit_bytes), "reserve_bytes",
        cli_json_count(memory->reserve_bytes), "spare_bytes", cli_json_count(memory->spare_bytes));
    if (json_object_set_new(object, "memory", sizes) != 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

int cli_doctor(const struct cli_options *options)
{
    struct diagnosis diagnosis;
    cenote_error err;
    if (diagnose(&diagnosis, &err) != CENOTE_OK)
        return cli_fail(&err);
    if (options->json)
        return cli_json_print(report_json(&diagnosis)) ? CLI_EXIT_OK : CLI_EXIT_FAILURE;
    print_text(&diagnosis);
    return CLI_EXIT_OK;
}
