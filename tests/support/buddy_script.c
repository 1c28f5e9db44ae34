/* SPDX-License-Identifier: Apache-2.0 */
/* The model is a byte for each leaf and a list of blocks; "free", "fits" and "lowest" are loops
 * over all leaves. */
#include "buddy_script.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cenote/buddy.h>

enum { LEAVES_MAX = 2600, BLOCKS_MAX = LEAVES_MAX };

struct model_block {
    uint64_t address, requested_bytes;
    uint32_t generation;
    size_t leaf, count;
};

struct model {
    uint64_t leaf_bytes, first_absolute; /* number of the first leaf */
    size_t leaf_count;
    uint8_t leaves[LEAVES_MAX];   /* cenote_buddy_kind */
    uint16_t lengths[LEAVES_MAX]; /* of the block that begins there; 0: none */
    struct model_block blocks[BLOCKS_MAX];
    size_t block_count;
    uint64_t alloc_count, peak_leaves;
    uint32_t freed_counts[LEAVES_MAX]; /* of blocks that began there */
    struct model_block stale;          /* one that was freed; its generation is what it was then */
    uint32_t stale_count;              /* of freed_counts, before that */
};

struct step {
    unsigned operation; /* 0-4 alloc, 5-7 free, 8 reserve, 9 release, 10-11 a wild or a late free */
    uint64_t a, b;
};

enum { OPERATIONS = 12 };

static uint64_t number(const uint8_t *bytes, size_t count)
{
    uint64_t value = 0;
    for (size_t i = 0; i < count; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static struct step step_of(const uint8_t *bytes)
{
    return (struct step){bytes[0] % OPERATIONS, number(bytes + 1, 3), number(bytes + 4, 2)};
}

/* ---- the range ---- */

static cenote_buddy_options options_of(const uint8_t *head, struct model *model)
{
    static const uint64_t bases[] = {0, 0, 63, 64, 512, 4095, 4096, (UINT64_C(1) << 47) - 7};
    cenote_buddy_options options = CENOTE_BUDDY_OPTIONS_INIT;
    uint64_t leaf_bytes = UINT64_C(16) << head[0] % 10;
    uint64_t skip = head[1] % 4 == 0 ? head[2] % leaf_bytes : 0;
    uint64_t tail = head[1] % 3 == 0 ? head[3] % leaf_bytes : 0;
    uint64_t base = bases[head[4] % 8] + (head[4] / 8) % 5;
    model->leaf_bytes = leaf_bytes;
    model->leaf_count = 1 + number(head + 5, 2) % (head[7] % 4 == 0 ? 80 : LEAVES_MAX);
    model->first_absolute = base + (skip > 0);
    options.leaf_bytes = leaf_bytes;
    options.start = base * leaf_bytes + skip;
    options.size_bytes =
        (model->first_absolute + model->leaf_count) * leaf_bytes + tail - options.start;
    return options;
}

static uint64_t model_address(const struct model *model, uint64_t leaf)
{
    return (model->first_absolute + leaf) * model->leaf_bytes;
}

/* ---- the model's operations ---- */

static uint64_t power_of_two(uint64_t least)
{
    uint64_t power = 1;
    while (power < least)
        power *= 2;
    return power;
}

static bool all_of(const struct model *model, size_t leaf, size_t count, uint8_t kind)
{
    for (size_t i = leaf; i < leaf + count; i++)
        if (i >= model->leaf_count || model->leaves[i] != kind)
            return false;
    return true;
}

static bool model_alloc(struct model *model, uint64_t size_bytes, uint64_t align_bytes,
                        uint64_t *out_address)
{
    size_t count = power_of_two((size_bytes + model->leaf_bytes - 1) / model->leaf_bytes);
    size_t room = count;
    if (align_bytes > count * model->leaf_bytes)
        room = align_bytes / model->leaf_bytes;
    for (size_t leaf = 0; leaf < model->leaf_count; leaf++)
        if ((model->first_absolute + leaf) % room == 0 &&
            all_of(model, leaf, room, CENOTE_BUDDY_FREE)) {
            *out_address = model_address(model, leaf);
            memset(model->leaves + leaf, CENOTE_BUDDY_USED, count);
            model->lengths[leaf] = (uint16_t)count;
            model->blocks[model->block_count++] =
                (struct model_block){*out_address, size_bytes, 0, leaf, count};
            model->alloc_count++;
            return true;
        }
    return false;
}

static void model_free(struct model *model, size_t index)
{
    const struct model_block *block = &model->blocks[index];
    memset(model->leaves + block->leaf, CENOTE_BUDDY_FREE, block->count);
    model->lengths[block->leaf] = 0;
    model->freed_counts[block->leaf]++;
    model->blocks[index] = model->blocks[--model->block_count];
}

/* The block that a free of this must find; block_count when there is none. */
static size_t model_find(const struct model *model, uint64_t address, uint64_t size_bytes)
{
    size_t i = 0;
    uint64_t leaves = size_bytes / model->leaf_bytes + (size_bytes % model->leaf_bytes != 0);
    while (i < model->block_count &&
           (model->blocks[i].address != address || leaves == 0 || leaves > model->blocks[i].count ||
            2 * leaves <= model->blocks[i].count))
        i++;
    return i;
}

static bool model_change(struct model *model, uint64_t address, uint64_t size_bytes, uint8_t from,
                         uint8_t to)
{
    uint64_t begin = model_address(model, 0);
    if (size_bytes == 0 || address < begin)
        return false;
    uint64_t first = (address - begin) / model->leaf_bytes;
    uint64_t end = (address - begin + size_bytes - 1) / model->leaf_bytes + 1;
    if (end > model->leaf_count || !all_of(model, first, end - first, from))
        return false;
    memset(model->leaves + first, to, end - first);
    return true;
}

/* ---- comparing ---- */

/* The free block that begins at @p leaf, when everything below is in blocks. */
static size_t free_count(const struct model *model, size_t leaf)
{
    size_t count = 1;
    while ((model->first_absolute + leaf) % (2 * count) == 0 &&
           all_of(model, leaf, 2 * count, CENOTE_BUDDY_FREE))
        count *= 2;
    return count;
}

/* Any address inside a block finds it. */
static bool inside_is_same(const cenote_buddy *buddy, const cenote_buddy_block *block)
{
    cenote_buddy_block other;
    uint64_t last = block->address + block->size_bytes - 1;
    uint64_t middle = block->address + block->size_bytes / 2;
    return cenote_buddy_next(buddy, last, &other) && other.address == block->address &&
           other.size_bytes == block->size_bytes && other.kind == block->kind &&
           cenote_buddy_next(buddy, middle, &other) && other.address == block->address;
}

static const char *compare_walk(const struct model *model, const cenote_buddy *buddy)
{
    cenote_buddy_block block;
    size_t leaf = 0;
    for (uint64_t at = 0; cenote_buddy_next(buddy, at, &block);
         at = block.address + block.size_bytes) {
        size_t count = block.size_bytes / model->leaf_bytes;
        if (leaf >= model->leaf_count || block.address != model_address(model, leaf) ||
            !all_of(model, leaf, count, (uint8_t)block.kind))
            return "the walk shows something else than there is";
        if (block.kind == CENOTE_BUDDY_FREE && count != free_count(model, leaf))
            return "a free block is not the largest that begins there";
        if (block.kind == CENOTE_BUDDY_USED && count != model->lengths[leaf])
            return "a used block has another length";
        if (!inside_is_same(buddy, &block))
            return "an address inside a block finds something else";
        leaf += count;
    }
    return leaf == model->leaf_count ? NULL : "the walk ends early";
}

static const char *compare_figures(struct model *model, const cenote_buddy *buddy)
{
    cenote_buddy_stats stats;
    uint64_t leaves[3] = {0}, requested = 0, largest = 0;
    cenote_buddy_stats_get(buddy, &stats);
    for (size_t i = 0; i < model->leaf_count; i++)
        leaves[model->leaves[i]]++;
    for (size_t i = 0, count; i < model->leaf_count; i += count) {
        bool is_free = model->leaves[i] == CENOTE_BUDDY_FREE;
        count = is_free ? free_count(model, i) : 1;
        if (is_free && count > largest)
            largest = count;
    }
    for (size_t i = 0; i < model->block_count; i++)
        requested += model->blocks[i].requested_bytes;
    if (leaves[CENOTE_BUDDY_USED] > model->peak_leaves)
        model->peak_leaves = leaves[CENOTE_BUDDY_USED];
    if (stats.usable_bytes != model->leaf_count * model->leaf_bytes ||
        stats.free_bytes != leaves[CENOTE_BUDDY_FREE] * model->leaf_bytes ||
        stats.used_bytes != leaves[CENOTE_BUDDY_USED] * model->leaf_bytes ||
        stats.reserved_bytes != leaves[CENOTE_BUDDY_RESERVED] * model->leaf_bytes)
        return "bytes differ";
    if (stats.largest_block_bytes != largest * model->leaf_bytes)
        return "the largest block differs";
    if (stats.requested_bytes != requested || stats.block_count != model->block_count ||
        stats.alloc_count != model->alloc_count ||
        stats.used_peak_bytes != model->peak_leaves * model->leaf_bytes)
        return "counts differ";
    return NULL;
}

/* ---- steps ---- */

/* 1 .. all of the range, small ones most often, and not multiples of a leaf. */
static uint64_t size_of(const struct model *model, uint64_t bits)
{
    uint64_t leaves = UINT64_C(1) << bits % 13, size = leaves * model->leaf_bytes;
    return bits & 0x8000 ? size : 1 + (bits >> 4) * 2654435761u % size;
}

static const char *step_alloc(struct model *model, cenote_buddy *buddy, struct step step)
{
    uint64_t size = size_of(model, step.a), address = 0, expected = 0;
    uint64_t align = step.b % 3 == 0 ? UINT64_C(1) << (step.b >> 3) % 20 : 0;
    bool fits = model_alloc(model, size, align, &expected);
    cenote_status status = cenote_buddy_alloc(buddy, size, align, &address, NULL);
    if (status != (fits ? CENOTE_OK : CENOTE_E_BUDGET))
        return fits ? "refused a block that fits" : "gave a block where none fits";
    if (fits)
        model->blocks[model->block_count - 1].generation = cenote_buddy_generation(buddy, address);
    return address == expected ? NULL : "the block lies at another address";
}

static const char *step_free(struct model *model, cenote_buddy *buddy, struct step step)
{
    if (model->block_count == 0)
        return NULL;
    size_t index = step.a % model->block_count;
    struct model_block block = model->blocks[index];
    uint32_t generation = step.b % 2 == 0 ? block.generation : CENOTE_BUDDY_GENERATION_ANY;
    if (cenote_buddy_free(buddy, block.address, block.requested_bytes, generation, NULL) !=
        CENOTE_OK)
        return "refused to free a live block";
    if (cenote_buddy_free(buddy, block.address, block.requested_bytes, generation, NULL) !=
        CENOTE_E_INVAL)
        return "freed a block twice";
    if (step.b % 4 < 2) {
        model->stale = block;
        model->stale_count = model->freed_counts[block.leaf];
    }
    model_free(model, index);
    return NULL;
}

/* A second free, whatever has come to begin there. */
static const char *step_late(const struct model *model, cenote_buddy *buddy)
{
    const struct model_block *stale = &model->stale;
    uint32_t generations = model->leaf_bytes < 4096 ? 4 : 65536;
    if (stale->requested_bytes == 0 ||
        (model->freed_counts[stale->leaf] - model->stale_count) % generations == 0)
        return NULL;
    return cenote_buddy_free(buddy, stale->address, stale->requested_bytes, stale->generation,
                             NULL) == CENOTE_E_INVAL
               ? NULL
               : "a block was freed once more, and another one went";
}

/* Near or far, whole leaves or not; a live block only with a size that is not its own. */
static const char *step_wild(const struct model *model, cenote_buddy *buddy, struct step step)
{
    uint64_t begin = model_address(model, 0);
    uint64_t address = begin + step.a % (model->leaf_count + 2) * model->leaf_bytes + step.b % 2;
    uint64_t size = size_of(model, step.b >> 1);
    if (step.operation == 11 && step.b % 5 == 0)
        address = begin - 1 - step.a;
    if (model_find(model, address, size) < model->block_count)
        return NULL;
    return cenote_buddy_free(buddy, address, size, CENOTE_BUDDY_GENERATION_ANY, NULL) ==
                   CENOTE_E_INVAL
               ? NULL
               : "freed what is no block";
}

static const char *step_part(struct model *model, cenote_buddy *buddy, struct step step)
{
    bool reserve = step.operation == 8;
    uint64_t begin = model_address(model, 0), length = model->leaf_count * model->leaf_bytes;
    uint64_t address = begin + step.a * 16 % length;
    uint64_t size = step.b % 7 == 0 ? length - (address - begin)
                                    : size_of(model, step.b) + step.b % model->leaf_bytes;
    bool fits = reserve
                    ? model_change(model, address, size, CENOTE_BUDDY_FREE, CENOTE_BUDDY_RESERVED)
                    : model_change(model, address, size, CENOTE_BUDDY_RESERVED, CENOTE_BUDDY_FREE);
    cenote_status status = reserve ? cenote_buddy_reserve(buddy, address, size, NULL)
                                   : cenote_buddy_release(buddy, address, size, NULL);
    if (status != (fits ? CENOTE_OK : CENOTE_E_INVAL))
        return fits ? "refused a part" : "changed a part that it must not";
    return NULL;
}

static const char *step_run(struct model *model, cenote_buddy *buddy, struct step step)
{
    const char *wrong;
    if (step.operation <= 4)
        wrong = step_alloc(model, buddy, step);
    else if (step.operation <= 7)
        wrong = step_free(model, buddy, step);
    else if (step.operation <= 9)
        wrong = step_part(model, buddy, step);
    else if (step.b % 4 != 3)
        wrong = step_wild(model, buddy, step);
    else
        wrong = step_late(model, buddy);
    if (wrong == NULL)
        wrong = cenote_buddy_check(buddy);
    if (wrong == NULL)
        wrong = compare_figures(model, buddy);
    return wrong != NULL ? wrong : compare_walk(model, buddy);
}

static const char *script_run(struct model *model, const uint8_t *bytes, size_t size,
                              size_t *out_step)
{
    cenote_buddy_options options = options_of(bytes, model);
    uint64_t metadata_bytes = cenote_buddy_metadata_bytes(&options);
    if (metadata_bytes == UINT64_MAX)
        return "options refused";
    void *metadata = malloc(metadata_bytes);
    cenote_buddy *buddy = NULL;
    const char *wrong = "init failed";
    if (metadata != NULL &&
        cenote_buddy_init(&options, metadata, metadata_bytes, &buddy, NULL) == CENOTE_OK)
        wrong = cenote_buddy_check(buddy);
    size_t at = BUDDY_SCRIPT_HEAD_BYTES;
    for (; wrong == NULL && at + BUDDY_SCRIPT_STEP_BYTES <= size; at += BUDDY_SCRIPT_STEP_BYTES)
        wrong = step_run(model, buddy, step_of(bytes + at));
    if (wrong != NULL && out_step != NULL)
        *out_step = (at - BUDDY_SCRIPT_HEAD_BYTES) / BUDDY_SCRIPT_STEP_BYTES;
    free(metadata);
    return wrong;
}

const char *buddy_script_run(const uint8_t *bytes, size_t size, size_t *out_step)
{
    if (size < BUDDY_SCRIPT_HEAD_BYTES)
        return NULL;
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL)
        return "no memory";
    const char *wrong = script_run(model, bytes, size, out_step);
    free(model);
    return wrong;
}

void buddy_script_print(const uint8_t *bytes, size_t size)
{
    static const char *const words[OPERATIONS] = {"alloc",   "alloc",   "alloc",     "alloc",
                                                  "alloc",   "free",    "free",      "free",
                                                  "reserve", "release", "wild free", "wild free"};
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL || size < BUDDY_SCRIPT_HEAD_BYTES)
        return;
    cenote_buddy_options options = options_of(bytes, model);
    printf("start %llu, %llu bytes, leaves of %llu\n", (unsigned long long)options.start,
           (unsigned long long)options.size_bytes, (unsigned long long)options.leaf_bytes);
    for (size_t at = BUDDY_SCRIPT_HEAD_BYTES; at + BUDDY_SCRIPT_STEP_BYTES <= size;
         at += BUDDY_SCRIPT_STEP_BYTES) {
        struct step step = step_of(bytes + at);
        printf("  %s %llu %llu\n", words[step.operation], (unsigned long long)step.a,
               (unsigned long long)step.b);
    }
    free(model);
}
