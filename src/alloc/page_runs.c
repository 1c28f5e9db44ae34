/* SPDX-License-Identifier: Apache-2.0 */
/* Three bitmaps, a bit for each granule:
 *
 *   granule      0 1 2 3 4 5 6 7 8 ...
 *   used         1 1 1 1 1 0 0 1 0      in a block
 *   first        1 0 0 1 0 0 0 1 0      a block begins here: [0,3) [3,5) [7,8)
 *   committed    1 1 1 1 1 1 0 1 0      5 is idle: free, but still paid for
 *
 * Address-ordered first fit: the lowest run that is long enough. It keeps what is live at the low
 * end, so that the high end can be given back, and is within a few per cent of the best of the
 * policies in practice (Wilson et al., "Dynamic Storage Allocation", 1995; Johnstone and Wilson,
 * "The Memory Fragmentation Problem: Solved?", 1998). Bitmaps instead of a free list or a tree,
 * because blocks here are megabytes: 1 GiB is 256 words, and a search that reads all of them costs
 * less than the fault of one page of the block it finds. Free neighbours need no merging: two runs
 * of zeros side by side are one run. */
#include <assert.h>

#include "alloc/page_runs.h"

#define WORD_BITS 64u

static_assert(WORD_BITS % CN_CHUNK_GRANULES == 0, "a chunk must not cross a word");

size_t cn_page_runs_metadata_bytes(uint64_t granule_count)
{
    return (size_t)((granule_count + WORD_BITS - 1) / WORD_BITS * 3 * sizeof(uint64_t));
}

void cn_page_runs_init(struct cn_page_runs *runs, uint64_t granule_count, void *metadata)
{
    uint64_t words = (granule_count + WORD_BITS - 1) / WORD_BITS;
    uint64_t *bits = metadata;
    *runs = (struct cn_page_runs){
        .granule_count = granule_count,
        .word_count = words,
        .used = bits,
        .first = bits + words,
        .committed = bits + 2 * words,
    };
}

/* ---- bits ---- */

static bool bit_get(const uint64_t *bits, uint64_t index)
{
    return bits[index / WORD_BITS] >> (index % WORD_BITS) & 1;
}

/* Bits [from % 64, ...) of a word, cut off where the run ends; *out_count is how many. */
static uint64_t word_mask(uint64_t from, uint64_t end, uint64_t *out_count)
{
    uint64_t shift = from % WORD_BITS;
    uint64_t count = WORD_BITS - shift;
    if (count > end - from)
        count = end - from;
    *out_count = count;
    return (count == WORD_BITS ? UINT64_MAX : (UINT64_C(1) << count) - 1) << shift;
}

static void bits_set(uint64_t *bits, struct cn_run run)
{
    uint64_t count, end = run.first + run.count;
    for (uint64_t i = run.first; i < end; i += count)
        bits[i / WORD_BITS] |= word_mask(i, end, &count);
}

static void bits_clear(uint64_t *bits, struct cn_run run)
{
    uint64_t count, end = run.first + run.count;
    for (uint64_t i = run.first; i < end; i += count)
        bits[i / WORD_BITS] &= ~word_mask(i, end, &count);
}

/* The lowest granule in [from, end) whose bit is @p value, or end. */
static uint64_t bits_find(const uint64_t *bits, bool value, uint64_t from, uint64_t end)
{
    uint64_t count, flip = value ? 0 : UINT64_MAX;
    for (uint64_t i = from; i < end; i += count) {
        uint64_t hits = (bits[i / WORD_BITS] ^ flip) & word_mask(i, end, &count);
        if (hits != 0)
            return i / WORD_BITS * WORD_BITS + (uint64_t)__builtin_ctzll(hits);
    }
    return end;
}

static uint64_t bits_count(const uint64_t *bits, struct cn_run run)
{
    uint64_t count, sum = 0, end = run.first + run.count;
    for (uint64_t i = run.first; i < end; i += count)
        sum += (uint64_t)__builtin_popcountll(bits[i / WORD_BITS] & word_mask(i, end, &count));
    return sum;
}

/* The chunk of a granule, cut off where the range ends. */
static struct cn_run chunk_of(const struct cn_page_runs *runs, uint64_t granule)
{
    uint64_t first = granule / CN_CHUNK_GRANULES * CN_CHUNK_GRANULES;
    uint64_t left = runs->granule_count - first;
    return (struct cn_run){first, left < CN_CHUNK_GRANULES ? left : CN_CHUNK_GRANULES};
}

/* How many chunks that @p run touches have no committed granule. */
static uint64_t bare_chunks(const struct cn_page_runs *runs, struct cn_run run)
{
    uint64_t bare = 0, end = run.first + run.count;
    struct cn_run chunk = chunk_of(runs, run.first);
    while (chunk.first < end) {
        bare += bits_count(runs->committed, chunk) == 0;
        if (chunk.first + chunk.count >= end)
            break;
        chunk = chunk_of(runs, chunk.first + chunk.count);
    }
    return bare;
}

/* ---- blocks ---- */

bool cn_page_runs_find(struct cn_page_runs *runs, uint64_t count, struct cn_run *out_run)
{
    uint64_t end = runs->granule_count;
    uint64_t from = bits_find(runs->used, false, runs->free_hint, end);
    runs->free_hint = from;
    while (end - from >= count) {
        uint64_t taken = bits_find(runs->used, true, from, from + count);
        if (taken == from + count) {
            *out_run = (struct cn_run){from, count};
            return true;
        }
        from = bits_find(runs->used, false, taken, end);
    }
    return false;
}

void cn_page_runs_take(struct cn_page_runs *runs, struct cn_run run)
{
    assert(run.count > 0 && bits_count(runs->used, run) == 0);
    bits_set(runs->used, run);
    bits_set(runs->first, (struct cn_run){run.first, 1});
    runs->used_count += run.count;
    runs->block_count++;
}

bool cn_page_runs_block(const struct cn_page_runs *runs, uint64_t first, struct cn_run *out_run)
{
    if (first >= runs->granule_count || !bit_get(runs->first, first))
        return false;
    uint64_t used_end = bits_find(runs->used, false, first, runs->granule_count);
    uint64_t end = bits_find(runs->first, true, first + 1, used_end);
    *out_run = (struct cn_run){first, end - first};
    return true;
}

void cn_page_runs_free(struct cn_page_runs *runs, struct cn_run block)
{
    assert(bits_count(runs->used, block) == block.count);
    bits_clear(runs->used, block);
    bits_clear(runs->first, (struct cn_run){block.first, 1});
    runs->used_count -= block.count;
    runs->block_count--;
    if (block.first < runs->free_hint)
        runs->free_hint = block.first;
}

uint64_t cn_page_runs_largest_hole(const struct cn_page_runs *runs)
{
    uint64_t largest = 0, end = runs->granule_count;
    uint64_t from = bits_find(runs->used, false, runs->free_hint, end);
    while (from < end) {
        uint64_t taken = bits_find(runs->used, true, from, end);
        if (taken - from > largest)
            largest = taken - from;
        from = bits_find(runs->used, false, taken, end);
    }
    return largest;
}

uint64_t cn_page_runs_top(const struct cn_page_runs *runs)
{
    for (uint64_t w = runs->word_count; w-- > 0;)
        if (runs->used[w] != 0)
            return (w + 1) * WORD_BITS - (uint64_t)__builtin_clzll(runs->used[w]);
    return 0;
}

/* ---- commitment ---- */

bool cn_page_runs_uncommitted(const struct cn_page_runs *runs, struct cn_run within,
                              struct cn_run *out_run)
{
    uint64_t end = within.first + within.count;
    uint64_t first = bits_find(runs->committed, false, within.first, end);
    if (first == end)
        return false;
    *out_run = (struct cn_run){first, bits_find(runs->committed, true, first, end) - first};
    return true;
}

bool cn_page_runs_idle(const struct cn_page_runs *runs, uint64_t below, struct cn_run *out_run)
{
    uint64_t end = 0;
    for (uint64_t w = (below + WORD_BITS - 1) / WORD_BITS; w-- > 0;) {
        uint64_t idle = runs->committed[w] & ~runs->used[w];
        if (below - w * WORD_BITS < WORD_BITS)
            idle &= (UINT64_C(1) << (below - w * WORD_BITS)) - 1;
        if (end == 0) {
            if (idle == 0)
                continue;
            end = w * WORD_BITS + WORD_BITS - (uint64_t)__builtin_clzll(idle);
            idle |= end == (w + 1) * WORD_BITS ? 0 : UINT64_MAX << (end % WORD_BITS);
        }
        /* The run goes down to just above the highest granule that is not idle. */
        if (idle != UINT64_MAX) {
            uint64_t first = w * WORD_BITS + WORD_BITS - (uint64_t)__builtin_clzll(~idle);
            *out_run = (struct cn_run){first, end - first};
            return true;
        }
    }
    *out_run = (struct cn_run){0, end};
    return end > 0;
}

void cn_page_runs_preview(const struct cn_page_runs *runs, struct cn_run run,
                          uint64_t *out_committed_count, uint64_t *out_chunk_count)
{
    *out_committed_count = runs->committed_count + run.count - bits_count(runs->committed, run);
    *out_chunk_count = runs->chunk_count + bare_chunks(runs, run);
}

void cn_page_runs_commit(struct cn_page_runs *runs, struct cn_run run)
{
    cn_page_runs_preview(runs, run, &runs->committed_count, &runs->chunk_count);
    bits_set(runs->committed, run);
}

void cn_page_runs_decommit(struct cn_page_runs *runs, struct cn_run run)
{
    runs->committed_count -= bits_count(runs->committed, run);
    uint64_t bare_before = bare_chunks(runs, run);
    bits_clear(runs->committed, run);
    runs->chunk_count -= bare_chunks(runs, run) - bare_before;
}

struct cn_run cn_page_runs_widen(const struct cn_page_runs *runs, struct cn_run run)
{
    uint64_t first = run.first, end = run.first + run.count;
    struct cn_run head = chunk_of(runs, first);
    struct cn_run tail = chunk_of(runs, end - 1);
    struct cn_run before = {head.first, first - head.first};
    struct cn_run after = {end, tail.first + tail.count - end};
    if (bits_count(runs->committed, before) == 0)
        first = head.first;
    if (bits_count(runs->committed, after) == 0)
        end = tail.first + tail.count;
    return (struct cn_run){first, end - first};
}

/* ---- check ---- */

const char *cn_page_runs_check(const struct cn_page_runs *runs)
{
    uint64_t used = 0, committed = 0, blocks = 0, chunks = 0;
    for (uint64_t i = 0; i < runs->granule_count; i++) {
        bool is_used = bit_get(runs->used, i), is_first = bit_get(runs->first, i);
        if (is_first && !is_used)
            return "a block begins at a granule that is not used";
        if (is_used && !is_first && (i == 0 || !bit_get(runs->used, i - 1)))
            return "a used granule belongs to no block";
        if (!is_used && i < runs->free_hint)
            return "a free granule lies below the hint";
        used += is_used;
        blocks += is_first;
        committed += bit_get(runs->committed, i);
        if (i % CN_CHUNK_GRANULES == 0)
            chunks += bits_count(runs->committed, chunk_of(runs, i)) > 0;
    }
    if (runs->granule_count % WORD_BITS != 0) {
        uint64_t last = runs->word_count - 1;
        uint64_t any = runs->used[last] | runs->first[last] | runs->committed[last];
        if (any >> (runs->granule_count % WORD_BITS) != 0)
            return "a bit is set above the last granule";
    }
    if (used != runs->used_count)
        return "used granules miscounted";
    if (committed != runs->committed_count)
        return "committed granules miscounted";
    if (blocks != runs->block_count)
        return "blocks miscounted";
    if (chunks != runs->chunk_count)
        return "chunks miscounted";
    return NULL;
}
