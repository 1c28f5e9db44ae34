/* SPDX-License-Identifier: Apache-2.0 */
/* The model is a byte for each 64 bytes of the range, and a list of blocks. The owner of the
 * granules is part of it: it lends the lowest that are free, and takes some for itself. */
#include "slab_script.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/slab.h"

enum {
    GRANULES = 75, /* a word of pages at the end is not whole */
    PAGES = GRANULES * CN_SLAB_GRANULE_PAGES,
    UNITS = GRANULES * 1024,
    BLOCKS_MAX = 4096,
    BATCH_MAX = 16,
};

enum granule_state { OWNED, LENT, BUSY };

struct block {
    uint32_t id, size_class;
};

struct world {
    struct cn_slabs slabs;
    uint8_t classes[PAGES];
    uint64_t free_pages[(PAGES + 63) / 64];
    uint8_t reach[(PAGES + 63) / 64 + 7]; /* whole words are read */
    struct cn_slab_page pages[PAGES];
    uint8_t granules[GRANULES]; /* granule_state */
    uint8_t used[UNITS];
    struct block blocks[BLOCKS_MAX];
    size_t block_count;
};

struct step {
    unsigned operation; /* 0-5 take, 6-13 give, 14 the owner takes granules, 15 and frees some */
    unsigned a, b;
};

static struct step step_of(const uint8_t *bytes)
{
    return (struct step){bytes[0] % 16, bytes[1], bytes[2] | (unsigned)bytes[3] << 8};
}

/* ---- the model ---- */

static uint32_t units_of(uint32_t size_class)
{
    return (uint32_t)(cn_class_bytes(size_class) / 64);
}

/* The lowest run of granules in a state, aligned to nothing. */
static bool find_granules(const struct world *w, uint64_t count, uint64_t *out_first)
{
    uint64_t length = 0;
    for (uint64_t i = 0; i < GRANULES; i++) {
        length = w->granules[i] == OWNED ? length + 1 : 0;
        if (length == count) {
            *out_first = i + 1 - count;
            return true;
        }
    }
    return false;
}

static const char *enter(struct world *w, uint32_t id, uint32_t size_class)
{
    uint32_t units = units_of(size_class);
    uint64_t size_bytes = cn_class_bytes(size_class);
    uint64_t align = size_bytes & (0 - size_bytes);
    if (id + units > UNITS)
        return "a block ends behind the range";
    if ((uint64_t)id * 64 % (align < 65536 ? align : 65536) != 0)
        return "a block is not aligned as its size is";
    for (uint32_t i = id; i < id + units; i++) {
        if (w->granules[i / 1024] != LENT)
            return "a block lies in a granule that was not lent";
        if (w->used[i]++ != 0)
            return "a block lies in another one";
    }
    w->blocks[w->block_count++] = (struct block){id, size_class};
    return cn_slabs_holds(&w->slabs, id) ? NULL : "a block is not known";
}

/* Room without lending: pages that lie together, or a slab of the class. Naive: by trying, in a
 * copy of what the algorithm cannot know better than the model: which units are used. */
static bool pages_fit(const struct world *w, uint32_t count, uint32_t *out_page)
{
    uint32_t align = count & (0 - count), length = 0;
    align = align < 8 ? align : 8;
    for (uint32_t page = 0; page + count <= PAGES; page += align) {
        for (length = 0; length < count; length++) {
            uint32_t at = page + length;
            if (w->granules[at / 8] != LENT || w->slabs.classes[at] != 0)
                break;
        }
        if (length == count) {
            *out_page = page;
            return true;
        }
    }
    return false;
}

static bool slab_has_room(const struct world *w, uint32_t size_class)
{
    uint64_t held = 0, slabs = 0;
    struct cn_slab_shape shape = w->slabs.shapes[size_class];
    for (size_t i = 0; i < w->block_count; i++)
        held += w->blocks[i].size_class == size_class;
    for (uint32_t page = 0; page < PAGES; page++)
        slabs += w->slabs.classes[page] == size_class;
    return slabs / shape.page_count * shape.block_count > held && shape.block_count > 1;
}

/* ---- operations ---- */

/* The lowest place for a slab, in lent granules or others. */
static bool lowest_fit(struct world *w, uint32_t size_class, struct cn_run run, uint32_t *out_page)
{
    memset(w->granules + run.first, LENT, run.count);
    bool fits = pages_fit(w, w->slabs.shapes[size_class].page_count, out_page);
    memset(w->granules + run.first, OWNED, run.count);
    return fits;
}

/* Takes out of the lowest granules that can be lent, if there are any. */
static const char *lend(struct world *w, uint32_t size_class, uint32_t want, uint32_t *out_ids,
                        uint32_t *out_got, uint32_t *out_page)
{
    uint64_t count = cn_slabs_granules_for(&w->slabs, size_class), first;
    if (!find_granules(w, count, &first))
        return NULL;
    if (!lowest_fit(w, size_class, (struct cn_run){first, count}, out_page))
        return "too few granules were wanted";
    struct cn_run run =
        cn_slabs_lend(&w->slabs, size_class, (struct cn_run){first, count}, want, out_ids, out_got);
    uint64_t end = *out_page + w->slabs.shapes[size_class].page_count;
    if (run.first != first || run.first + run.count != (end + 7) / 8)
        return "too much was lent, or too little";
    memset(w->granules + run.first, LENT, run.count);
    return *out_got > 0 ? NULL : "no room in what was lent";
}

static const char *take_back(struct world *w, struct cn_run run)
{
    for (uint64_t i = run.first; i < run.first + run.count; i++) {
        if (w->granules[i] != LENT)
            return "a granule came back that was not lent";
        w->granules[i] = OWNED;
    }
    return NULL;
}

static const char *do_take(struct world *w, struct step s)
{
    uint32_t size_class = 1 + s.a % (CN_CLASS_RUN_FIRST - 1), ids[BATCH_MAX], page = 0;
    uint32_t want = 1 + s.b % BATCH_MAX;
    if (w->block_count + want > BLOCKS_MAX)
        return NULL;
    bool room = slab_has_room(w, size_class);
    bool fits = pages_fit(w, w->slabs.shapes[size_class].page_count, &page);
    uint32_t got = cn_slabs_take(&w->slabs, size_class, want, ids);
    if ((got > 0) != (room || fits))
        return "room was missed, or found where none is";
    if (got == 0) {
        const char *broken = lend(w, size_class, want, ids, &got, &page);
        if (broken != NULL || got == 0)
            return broken;
    }
    if (!room && ids[0] != page * 128)
        return "not the lowest run of pages";
    const char *broken = NULL;
    for (uint32_t i = 0; i < got && broken == NULL; i++)
        broken = enter(w, ids[i], size_class);
    return broken;
}

static const char *do_give(struct world *w, struct step s)
{
    if (w->block_count == 0)
        return NULL;
    size_t index = (s.b * 31u + s.a) % w->block_count;
    struct block block = w->blocks[index];
    uint32_t units = units_of(block.size_class);
    w->blocks[index] = w->blocks[--w->block_count];
    memset(w->used + block.id, 0, units);
    const char *broken = take_back(w, cn_slabs_give(&w->slabs, block.id));
    if (broken == NULL && cn_slabs_holds(&w->slabs, block.id))
        broken = "a block that was given back is still known";
    if (broken == NULL && units > 1 && cn_slabs_holds(&w->slabs, block.id + 1))
        broken = "a block begins inside of what was given back";
    return broken;
}

/* The owner's own runs: they are in the way, and those of a class are known by their first page. */
static void do_owner_takes(struct world *w, struct step s)
{
    uint64_t first, count = 8 + s.a % 4;
    uint32_t size_class = cn_size_class(count * 65536);
    if (!find_granules(w, count, &first))
        return;
    memset(w->granules + first, BUSY, count);
    cn_slabs_enter_run(&w->slabs, first, size_class);
}

static void do_owner_frees(struct world *w, struct step s)
{
    uint64_t first = s.b % GRANULES;
    uint32_t size_class = w->slabs.classes[first * 8];
    if (w->granules[first] != BUSY || size_class < CN_CLASS_RUN_FIRST)
        return;
    cn_slabs_remove_run(&w->slabs, first);
    memset(w->granules + first, OWNED, cn_class_bytes(size_class) / 65536);
}

static const char *check(const struct world *w)
{
    const char *broken = cn_slabs_check(&w->slabs);
    uint64_t lent = 0;
    for (uint64_t g = 0; g < GRANULES && broken == NULL; g++) {
        bool used = false;
        for (uint32_t i = 0; i < CN_SLAB_GRANULE_PAGES; i++)
            used |= w->slabs.classes[g * CN_SLAB_GRANULE_PAGES + i] != 0;
        lent += w->granules[g] == LENT;
        if (cn_slabs_lent(&w->slabs, g) != (w->granules[g] == LENT))
            broken = "the algorithm and its owner disagree about a granule";
        else if (w->granules[g] == LENT && !used)
            broken = "an empty granule was kept";
    }
    return broken == NULL && lent != w->slabs.lent_granules ? "lent granules miscounted" : broken;
}

static const char *do_step(struct world *w, struct step s)
{
    const char *broken = NULL;
    if (s.operation < 6)
        broken = do_take(w, s);
    else if (s.operation < 14)
        broken = do_give(w, s);
    else if (s.operation == 14)
        do_owner_takes(w, s);
    else
        do_owner_frees(w, s);
    return broken != NULL ? broken : check(w);
}

const char *slab_script_run(const uint8_t *bytes, size_t size, size_t *out_step)
{
    struct world *w = calloc(1, sizeof *w);
    const char *broken = NULL;
    if (w == NULL)
        return "no memory";
    cn_slabs_init(&w->slabs, w->classes, w->free_pages, w->reach, w->pages);
    w->slabs.covered_granules = GRANULES;
    size_t step = 0;
    for (; broken == NULL && (step + 1) * SLAB_SCRIPT_STEP_BYTES <= size; step++)
        broken = do_step(w, step_of(bytes + step * SLAB_SCRIPT_STEP_BYTES));
    while (broken == NULL && w->block_count > 0)
        broken = do_give(w, (struct step){0, 0, 0});
    if (broken == NULL && w->slabs.lent_granules + w->slabs.free_page_count != 0)
        broken = "something stayed lent";
    if (out_step != NULL)
        *out_step = step;
    free(w);
    return broken;
}

void slab_script_print(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i + SLAB_SCRIPT_STEP_BYTES <= size; i += SLAB_SCRIPT_STEP_BYTES) {
        struct step s = step_of(bytes + i);
        uint32_t size_class = 1 + s.a % (CN_CLASS_RUN_FIRST - 1);
        if (s.operation < 6)
            printf("  take %u of %llu bytes\n", 1 + s.b % BATCH_MAX,
                   (unsigned long long)cn_class_bytes(size_class));
        else if (s.operation < 14)
            printf("  give number %u + %u\n", s.b * 31u, s.a);
        else
            printf("  the owner %s %u\n", s.operation == 14 ? "takes" : "frees",
                   s.operation == 14 ? 8 + s.a % 4 : s.b % GRANULES);
    }
}
