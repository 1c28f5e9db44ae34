/* SPDX-License-Identifier: Apache-2.0 */
/* Two levels, both first fit by address or last in, first out, so that what is taken depends on the
 * requests alone:
 *
 *   granules   |  lent         |  lent         | a run of the owner's |  lent      |
 *   pages      [a a a][b][c c c c c c c c c][ ][. . . . . . . . . . . .][d d][ ][ ]..
 *   classes     7 7 7  3  60 i i i i i i i i 0  96 i* ...                 9 9  0  0
 *   free_pages  0 0 0  0  0 0 0 0 0 0 0 0 0  1  0                         0 0  1  1
 *
 *   slab d      block 0 1 2 3 4 5 6 7 8 ..      two pages, ten blocks, one bit each; a tail of at
 *   free_blocks       0 0 1 0 1 1 1 1 1 ..      most 1/32 is lost
 *
 * The classes from 8 KiB on that are whole pages are runs of pages of their own (c), so a block of
 * 72 KiB takes nine pages, not two granules nor a power of two: granules that are lent side by side
 * hold runs across their borders. Smaller ones share a slab (a, b, d). The shapes follow from the
 * class: the fewest pages of which 31/32 are used. A slab without blocks is pages again, a granule
 * without pages is its owner's again, at once; caches in front (pool/thread_cache.c) see to it that
 * this is rare.
 *
 * The same as the span heap of tcmalloc (goog-perftools.sourceforge.net/doc/tcmalloc.html), but for
 * the bits instead of lists: two free runs side by side are one, and the lowest is found, not the
 * last freed. (* classes of a run of granules: its first page only, the rest is not looked at.) */
#include <assert.h>
#include <string.h>

#include "alloc/slab.h"
#include "base/bits.h"
#include "base/compiler.h"

#define NO_PAGE    UINT32_MAX
#define WORD_BITS  64u
#define PAGE_UNITS (1u << (CN_SLAB_PAGE_SHIFT - CN_CLASS_UNIT_SHIFT))

static_assert(sizeof(struct cn_slab_page) == 16, "metadata for each page");
static_assert(CN_SLAB_RUN_PAGES_MAX < WORD_BITS, "a run lies in two words at most");

/* ---- shapes ---- */

static struct cn_slab_shape shape_of(uint32_t size_class)
{
    uint64_t block = cn_class_bytes(size_class);
    for (uint64_t pages = 1;; pages++) {
        uint64_t bytes = pages << CN_SLAB_PAGE_SHIFT;
        uint64_t blocks = bytes / block;
        if ((bytes - blocks * block) * 32 <= bytes)
            return (struct cn_slab_shape){(uint8_t)pages, (uint8_t)blocks};
    }
}

void cn_slabs_init(struct cn_slabs *slabs, uint8_t *classes, uint64_t *free_pages, uint8_t *reach,
                   struct cn_slab_page *pages)
{
    memset(slabs, 0, sizeof *slabs);
    slabs->classes = classes;
    slabs->free_pages = free_pages;
    slabs->reach = reach;
    slabs->pages = pages;
    for (uint32_t c = 1; c < CN_CLASS_RUN_FIRST; c++) {
        slabs->with_room[c] = NO_PAGE;
        slabs->shapes[c] = shape_of(c);
    }
}

uint64_t cn_slabs_granules_for(const struct cn_slabs *slabs, uint32_t size_class)
{
    uint64_t pages = slabs->shapes[size_class].page_count;
    return (pages + CN_SLAB_GRANULE_PAGES - 1) / CN_SLAB_GRANULE_PAGES;
}

/* Runs of pages are aligned to the power of two that divides their length, a granule at most, so
 * that blocks are aligned as their size is. */
static uint32_t alignment_of(uint32_t page_count)
{
    uint32_t lowest = page_count & (0u - page_count);
    return lowest < CN_SLAB_GRANULE_PAGES ? lowest : CN_SLAB_GRANULE_PAGES;
}

/* ---- runs of pages ---- */

/* A word of pages and the next one. */
__extension__ typedef unsigned __int128 two_words;

static two_words two_words_at(const struct cn_slabs *slabs, uint64_t word)
{
    uint64_t next = word + 1 < slabs->word_end ? slabs->free_pages[word + 1] : 0;
    return (two_words)next << WORD_BITS | slabs->free_pages[word];
}

/* Bits at which runs of @p count set bits begin. */
static two_words run_starts(two_words bits, uint32_t count)
{
    for (uint32_t known = 1; known < count;) {
        uint32_t step = known < count - known ? known : count - known;
        bits &= bits >> step;
        known += step;
    }
    return bits;
}

/* The length of the longest run that begins in the word, up to WORD_BITS; the last one may go on in
 * the next word. */
static uint32_t longest_run(two_words bits)
{
    uint64_t low = (uint64_t)bits, next = (uint64_t)(bits >> WORD_BITS);
    uint32_t longest = cn_bits_longest(low), last = 0;
    if (low >> (WORD_BITS - 1) != 0 && low != UINT64_MAX)
        last = (uint32_t)__builtin_clzll(~low) +
               (next == UINT64_MAX ? WORD_BITS : (uint32_t)__builtin_ctzll(~next));
    longest = longest > last ? longest : last;
    return longest < WORD_BITS ? longest : WORD_BITS;
}

/* The first word from @p word on whose reach is @p count (at most 64) or more, or the end. Eight
 * bytes at a time: adding 128 - count carries into the top bit of those. */
static uint64_t word_reaching(const struct cn_slabs *slabs, uint64_t word, uint32_t count)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t wanted = 128 * ones << word % 8 * 8; /* not those before */
    for (word -= word % 8; word < slabs->word_end; word += 8) {
        uint64_t eight;
        memcpy(&eight, slabs->reach + word, sizeof eight);
        uint64_t hits = (CN_LITTLE_ENDIAN_64(eight) + (128 - count) * ones) & wanted;
        if (hits != 0)
            return word + (uint64_t)__builtin_ctzll(hits) / 8;
        wanted = 128 * ones;
    }
    return slabs->word_end;
}

/* The lowest run of free pages, aligned; false when there is none. */
static bool find_pages(struct cn_slabs *slabs, uint32_t count, uint32_t *out_page)
{
    static const uint64_t aligned_bits[CN_SLAB_GRANULE_PAGES + 1] = {
        [1] = UINT64_MAX,
        [2] = UINT64_C(0x5555555555555555),
        [4] = UINT64_C(0x1111111111111111),
        [8] = UINT64_C(0x0101010101010101),
    };
    uint64_t w = word_reaching(slabs, slabs->word_hint[count], count);
    for (; w < slabs->word_end; w = word_reaching(slabs, w + 1, count)) {
        uint64_t starts = (uint64_t)run_starts(two_words_at(slabs, w), count);
        starts &= aligned_bits[alignment_of(count)];
        if (starts == 0)
            continue;
        slabs->word_hint[count] = (uint32_t)w;
        *out_page = (uint32_t)(w * WORD_BITS + (uint64_t)__builtin_ctzll(starts));
        return true;
    }
    slabs->word_hint[count] = (uint32_t)w;
    return false;
}

/* Makes pages free, or not. What words reach is to be brought up to date. */
static void pages_turn(struct cn_slabs *slabs, uint64_t first, uint64_t count, bool to_free)
{
    uint64_t next, end = first + count;
    for (uint64_t page = first; page < end; page = next) {
        uint64_t *word = &slabs->free_pages[page / WORD_BITS];
        uint64_t mask = cn_bits_mask(page, end, &next);
        assert((*word & mask) == (to_free ? 0 : mask));
        *word ^= mask;
    }
    slabs->free_page_count += to_free ? count : 0 - count;
}

/* Where a run that goes through @p page may begin: in its word, or in the one before when that is
 * free to its end. */
static uint64_t first_word_of(const struct cn_slabs *slabs, uint64_t page)
{
    uint64_t word = page / WORD_BITS;
    return word - (word > 0 && slabs->free_pages[word - 1] >> (WORD_BITS - 1) != 0);
}

/* Pages of [first, end) were turned. @return the longest run that goes through any of their words.
 */
static uint32_t reach_update(struct cn_slabs *slabs, uint64_t first, uint64_t end)
{
    uint32_t longest = 0;
    for (uint64_t word = first_word_of(slabs, first); word <= (end - 1) / WORD_BITS; word++) {
        uint32_t reach = longest_run(two_words_at(slabs, word));
        slabs->reach[word] = (uint8_t)reach;
        longest = longest > reach ? longest : reach;
    }
    return longest;
}

/* Some pages of [first, end) became free. */
static void pages_freed(struct cn_slabs *slabs, uint64_t first, uint64_t end)
{
    uint32_t word = (uint32_t)first_word_of(slabs, first);
    uint32_t longest = reach_update(slabs, first, end);
    longest = longest < CN_SLAB_RUN_PAGES_MAX ? longest : CN_SLAB_RUN_PAGES_MAX;
    for (uint32_t i = 1; i <= longest; i++)
        slabs->word_hint[i] = slabs->word_hint[i] < word ? slabs->word_hint[i] : word;
}

static bool granule_free(const struct cn_slabs *slabs, uint64_t granule)
{
    return (slabs->free_pages[granule / 8] >> (granule % 8 * 8) & 0xff) == 0xff;
}

/* Free pages side by side just before @p page, up to WORD_BITS. */
static uint32_t free_before(const struct cn_slabs *slabs, uint64_t page)
{
    uint64_t word = page / WORD_BITS, shift = page % WORD_BITS, before = 0;
    if (word > 0)
        before = slabs->free_pages[word - 1] >> shift;
    if (shift > 0)
        before |= slabs->free_pages[word] << (WORD_BITS - shift);
    return before == UINT64_MAX ? WORD_BITS : (uint32_t)__builtin_clzll(~before);
}

/* ---- slabs ---- */

static uint32_t all_blocks(struct cn_slab_shape shape)
{
    return UINT32_MAX >> (32 - shape.block_count);
}

static void list_push(struct cn_slabs *slabs, uint32_t size_class, uint32_t page)
{
    uint32_t next = slabs->with_room[size_class];
    slabs->pages[page].next = next;
    slabs->pages[page].prev = NO_PAGE;
    if (next != NO_PAGE)
        slabs->pages[next].prev = page;
    slabs->with_room[size_class] = page;
}

static void list_remove(struct cn_slabs *slabs, uint32_t size_class, uint32_t page)
{
    struct cn_slab_page *slab = &slabs->pages[page];
    if (slab->prev != NO_PAGE)
        slabs->pages[slab->prev].next = slab->next;
    else
        slabs->with_room[size_class] = slab->next;
    if (slab->next != NO_PAGE)
        slabs->pages[slab->next].prev = slab->prev;
}

/* Pages that are not free any more become a slab with all its blocks free. */
static void slab_begin(struct cn_slabs *slabs, uint32_t size_class, uint32_t page)
{
    struct cn_slab_shape shape = slabs->shapes[size_class];
    if (shape.block_count == 1) {
        memset(slabs->classes + page, CN_CLASS_INSIDE, shape.page_count);
        slabs->classes[page] = (uint8_t)size_class;
        return;
    }
    memset(slabs->classes + page, (int)size_class, shape.page_count);
    for (uint32_t i = 0; i < shape.page_count; i++)
        slabs->pages[page + i].head = page;
    slabs->pages[page].free_blocks = all_blocks(shape);
    list_push(slabs, size_class, page);
}

/* A new slab in the lowest free pages; false when there are none. */
static bool slab_open(struct cn_slabs *slabs, uint32_t size_class, uint32_t *out_page)
{
    uint32_t count = slabs->shapes[size_class].page_count;
    if (!find_pages(slabs, count, out_page))
        return false;
    pages_turn(slabs, *out_page, count, false);
    (void)reach_update(slabs, *out_page, *out_page + count);
    slab_begin(slabs, size_class, *out_page);
    return true;
}

/* The pages of a slab or block are free again. @return the granules in which nothing is taken any
 * more; only the outer ones have pages of others. */
static struct cn_run slab_close(struct cn_slabs *slabs, uint32_t page, uint32_t page_count)
{
    uint64_t first = page, end = first + page_count;
    memset(slabs->classes + page, 0, page_count);
    pages_turn(slabs, page, page_count, true);
    struct cn_run back = {first / CN_SLAB_GRANULE_PAGES, 0};
    uint64_t last = (end - 1) / CN_SLAB_GRANULE_PAGES;
    back.first += !granule_free(slabs, back.first);
    uint64_t back_end = last + granule_free(slabs, last);
    if (back_end > back.first) {
        back.count = back_end - back.first;
        uint64_t back_page = back.first * CN_SLAB_GRANULE_PAGES;
        uint64_t back_pages = back.count * CN_SLAB_GRANULE_PAGES;
        pages_turn(slabs, back_page, back_pages, false);
        slabs->lent_granules -= back.count;
        first = first < back_page ? first : back_page;
        end = end > back_page + back_pages ? end : back_page + back_pages;
    }
    pages_freed(slabs, first, end);
    return back;
}

/* Takes up to @p count (> 0) of a slab's free blocks. */
static uint32_t slab_take(struct cn_slabs *slabs, uint32_t size_class, uint32_t page,
                          uint32_t count, uint32_t *out_ids)
{
    uint64_t block_bytes = cn_class_bytes(size_class);
    uint32_t block_units = (uint32_t)(block_bytes >> CN_CLASS_UNIT_SHIFT), taken = 0;
    if (slabs->shapes[size_class].block_count == 1) {
        out_ids[taken++] = page * PAGE_UNITS;
    } else {
        uint32_t free_blocks = slabs->pages[page].free_blocks;
        for (; free_blocks != 0 && taken < count; free_blocks &= free_blocks - 1)
            out_ids[taken++] =
                page * PAGE_UNITS + (uint32_t)__builtin_ctz(free_blocks) * block_units;
        slabs->pages[page].free_blocks = free_blocks;
        if (free_blocks == 0)
            list_remove(slabs, size_class, page);
    }
    slabs->taken[size_class] += taken;
    slabs->taken_bytes += taken * block_bytes;
    return taken;
}

uint32_t cn_slabs_take(struct cn_slabs *slabs, uint32_t size_class, uint32_t count,
                       uint32_t *out_ids)
{
    assert(size_class > 0 && size_class < CN_CLASS_RUN_FIRST);
    uint32_t taken = 0;
    while (taken < count) {
        uint32_t page = slabs->with_room[size_class];
        if (page == NO_PAGE && !slab_open(slabs, size_class, &page))
            break;
        taken += slab_take(slabs, size_class, page, count - taken, out_ids + taken);
    }
    return taken;
}

struct cn_run cn_slabs_lend(struct cn_slabs *slabs, uint32_t size_class, struct cn_run run,
                            uint32_t count, uint32_t *out_ids, uint32_t *out_count)
{
    assert(run.first + run.count <= slabs->covered_granules);
    struct cn_slab_shape shape = slabs->shapes[size_class];
    uint64_t align = alignment_of(shape.page_count), first = run.first * CN_SLAB_GRANULE_PAGES;
    uint64_t slab = (first - free_before(slabs, first) + align - 1) / align * align;
    uint64_t slab_end = slab + shape.page_count;
    uint64_t granule_end = (slab_end + CN_SLAB_GRANULE_PAGES - 1) / CN_SLAB_GRANULE_PAGES;
    uint64_t word_end = (granule_end + CN_SLAB_WORD_GRANULES - 1) / CN_SLAB_WORD_GRANULES;
    uint64_t end = granule_end * CN_SLAB_GRANULE_PAGES;
    assert(granule_end > run.first && granule_end <= run.first + run.count);
    slabs->word_end = slabs->word_end < word_end ? word_end : slabs->word_end;
    slabs->lent_granules += granule_end - run.first;
    pages_turn(slabs, slab, first - slab, false);
    pages_turn(slabs, slab_end, end - slab_end, true);
    pages_freed(slabs, slab, end);
    slab_begin(slabs, size_class, (uint32_t)slab);
    *out_count = slab_take(slabs, size_class, (uint32_t)slab, count, out_ids);
    return (struct cn_run){run.first, granule_end - run.first};
}

/* The slab and the number in it of a block that may begin at @p id. */
static bool block_at(const struct cn_slabs *slabs, uint32_t id, uint32_t *out_page,
                     uint32_t *out_block)
{
    uint32_t page = id / PAGE_UNITS;
    if (page / CN_SLAB_GRANULE_PAGES >= slabs->covered_granules)
        return false;
    uint32_t size_class = slabs->classes[page];
    if (size_class == 0 || size_class >= CN_CLASS_RUN_FIRST)
        return false;
    struct cn_slab_shape shape = slabs->shapes[size_class];
    uint32_t head = shape.block_count == 1 ? page : slabs->pages[page].head;
    uint32_t inside = id - head * PAGE_UNITS;
    *out_page = head;
    *out_block = 0;
    if (shape.block_count == 1)
        return inside == 0;
    uint32_t block_units = (uint32_t)(cn_class_bytes(size_class) >> CN_CLASS_UNIT_SHIFT);
    *out_block = inside / block_units;
    return inside % block_units == 0 && *out_block < shape.block_count;
}

bool cn_slabs_holds(const struct cn_slabs *slabs, uint32_t id)
{
    uint32_t page, block;
    if (!block_at(slabs, id, &page, &block))
        return false;
    return slabs->shapes[slabs->classes[page]].block_count == 1 ||
           (slabs->pages[page].free_blocks >> block & 1) == 0;
}

struct cn_run cn_slabs_give(struct cn_slabs *slabs, uint32_t id)
{
    uint32_t page = 0, block = 0;
    bool found = block_at(slabs, id, &page, &block);
    assert(found);
    (void)found;
    uint32_t size_class = slabs->classes[page];
    struct cn_slab_shape shape = slabs->shapes[size_class];
    slabs->taken[size_class]--;
    slabs->taken_bytes -= cn_class_bytes(size_class);
    if (shape.block_count == 1)
        return slab_close(slabs, page, shape.page_count);
    struct cn_slab_page *slab = &slabs->pages[page];
    assert((slab->free_blocks >> block & 1) == 0);
    if (slab->free_blocks == 0)
        list_push(slabs, size_class, page);
    slab->free_blocks |= UINT32_C(1) << block;
    if (slab->free_blocks != all_blocks(shape))
        return (struct cn_run){0, 0};
    list_remove(slabs, size_class, page);
    return slab_close(slabs, page, shape.page_count);
}

/* ---- runs of whole granules ---- */

void cn_slabs_enter_run(struct cn_slabs *slabs, uint64_t granule, uint32_t size_class)
{
    assert(granule < slabs->covered_granules && size_class >= CN_CLASS_RUN_FIRST);
    slabs->classes[granule * CN_SLAB_GRANULE_PAGES] = (uint8_t)size_class;
    slabs->taken[size_class]++;
    slabs->taken_bytes += cn_class_bytes(size_class);
}

void cn_slabs_remove_run(struct cn_slabs *slabs, uint64_t granule)
{
    uint8_t *size_class = &slabs->classes[granule * CN_SLAB_GRANULE_PAGES];
    assert(*size_class >= CN_CLASS_RUN_FIRST && *size_class <= CN_CLASS_LAST);
    slabs->taken[*size_class]--;
    slabs->taken_bytes -= cn_class_bytes(*size_class);
    *size_class = 0;
}

bool cn_slabs_lent(const struct cn_slabs *slabs, uint64_t granule)
{
    if (granule >= slabs->covered_granules)
        return false;
    uint8_t size_class = slabs->classes[granule * CN_SLAB_GRANULE_PAGES];
    return (size_class != 0 &&
            (size_class < CN_CLASS_RUN_FIRST || size_class == CN_CLASS_INSIDE)) ||
           (slabs->free_pages[granule / 8] >> (granule % 8 * 8) & 1) != 0;
}

/* ---- check ---- */

static bool page_free(const struct cn_slabs *slabs, uint64_t page)
{
    return slabs->free_pages[page / WORD_BITS] >> (page % WORD_BITS) & 1;
}

/* A slab or block that begins at @p page: all its pages say so. */
static const char *check_slab(const struct cn_slabs *slabs, uint64_t page, uint64_t *out_taken)
{
    uint32_t size_class = slabs->classes[page];
    struct cn_slab_shape shape = slabs->shapes[size_class];
    bool single = shape.block_count == 1;
    if ((page + shape.page_count - 1) / CN_SLAB_GRANULE_PAGES >= slabs->covered_granules)
        return "a slab runs out of the range";
    for (uint64_t i = page; i < page + shape.page_count; i++) {
        if (page_free(slabs, i))
            return "a page of a slab is free";
        if (slabs->classes[i] != (single && i > page ? CN_CLASS_INSIDE : size_class))
            return "a page of a slab has another class";
        if (!single && slabs->pages[i].head != page)
            return "a page does not know its slab";
    }
    if (page % alignment_of(shape.page_count) != 0)
        return "a block is not aligned";
    *out_taken = 1;
    if (single)
        return NULL;
    uint32_t free_blocks = slabs->pages[page].free_blocks;
    if (free_blocks >= all_blocks(shape))
        return "a slab holds nothing";
    *out_taken = shape.block_count - (uint64_t)__builtin_popcount(free_blocks);
    return NULL;
}

/* Each class's list holds slabs of it that have room. @return their number by *out_count. */
static const char *check_lists(const struct cn_slabs *slabs, uint64_t *out_count)
{
    for (uint32_t c = 1; c < CN_CLASS_RUN_FIRST; c++) {
        uint32_t prev = NO_PAGE;
        for (uint32_t page = slabs->with_room[c]; page != NO_PAGE; page = slabs->pages[page].next) {
            if (slabs->classes[page] != c || slabs->pages[page].head != page)
                return "a list holds what is no slab of its class";
            if (slabs->pages[page].free_blocks == 0)
                return "a list holds a slab without room";
            if (slabs->pages[page].prev != prev)
                return "a list's links disagree";
            prev = page;
            ++*out_count;
        }
    }
    return NULL;
}

static const char *check_hints(const struct cn_slabs *slabs)
{
    for (uint32_t count = 1; count <= CN_SLAB_RUN_PAGES_MAX; count++) {
        uint64_t length = 0, below = (uint64_t)slabs->word_hint[count] * WORD_BITS;
        uint64_t align = alignment_of(count);
        for (uint64_t page = 0; page < below + count; page++) {
            if (page / CN_SLAB_GRANULE_PAGES >= slabs->covered_granules)
                break;
            length = page_free(slabs, page) ? length + 1 : 0;
            if (length >= count && (page + 1 - count) < below && (page + 1 - count) % align == 0)
                return "a run of free pages lies below the hint";
        }
    }
    return NULL;
}

/* By counting. */
static const char *check_reach(const struct cn_slabs *slabs)
{
    uint64_t length = 0; /* of the run of free pages from the page on */
    for (uint64_t word = slabs->word_end; word-- > 0;) {
        uint64_t longest = 0;
        for (uint64_t page = (word + 1) * WORD_BITS; page-- > word * WORD_BITS;) {
            length = page_free(slabs, page) ? length + 1 : 0;
            longest = longest < length ? length : longest;
        }
        if (slabs->reach[word] != (longest < WORD_BITS ? longest : WORD_BITS))
            return "a word's longest run of free pages is another";
    }
    return NULL;
}

const char *cn_slabs_check(const struct cn_slabs *slabs)
{
    uint64_t taken[CN_CLASS_LAST + 1] = {0}, lent = 0, free_count = 0, with_room = 0, listed = 0;
    uint64_t end = slabs->covered_granules * CN_SLAB_GRANULE_PAGES;
    for (uint64_t page = 0, next = 0; page < end; page++) {
        uint32_t size_class = slabs->classes[page];
        free_count += page_free(slabs, page);
        if (page % CN_SLAB_GRANULE_PAGES == 0) {
            lent += cn_slabs_lent(slabs, page / CN_SLAB_GRANULE_PAGES);
            if (granule_free(slabs, page / CN_SLAB_GRANULE_PAGES))
                return "a granule is lent for nothing";
        }
        if (page < next)
            continue;
        if (size_class == CN_CLASS_INSIDE)
            return "a page is inside of no block";
        if (size_class >= CN_CLASS_RUN_FIRST)
            taken[size_class]++;
        if (size_class == 0 || size_class >= CN_CLASS_RUN_FIRST)
            continue;
        uint64_t blocks = 0;
        const char *broken = check_slab(slabs, page, &blocks);
        if (broken != NULL)
            return broken;
        taken[size_class] += blocks;
        with_room += blocks < slabs->shapes[size_class].block_count;
        next = page + slabs->shapes[size_class].page_count;
    }
    if (lent != slabs->lent_granules || free_count != slabs->free_page_count)
        return "lent granules or free pages miscounted";
    if (memcmp(taken, slabs->taken, sizeof taken) != 0)
        return "blocks of a class miscounted";
    uint64_t taken_bytes = 0;
    for (uint32_t c = 1; c <= CN_CLASS_LAST; c++)
        taken_bytes += taken[c] * cn_class_bytes(c);
    if (taken_bytes != slabs->taken_bytes)
        return "taken bytes miscounted";
    const char *broken = check_lists(slabs, &listed);
    if (broken == NULL && listed != with_room)
        broken = "a slab with room is in no list";
    if (broken == NULL)
        broken = check_reach(slabs);
    return broken != NULL ? broken : check_hints(slabs);
}
