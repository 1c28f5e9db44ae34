/* SPDX-License-Identifier: Apache-2.0 */
/* Three bitmaps, a bit for each granule:
 *
 *   granule      0 1 2 3 4 5 6 7 8 ...
 *   used         1 1 1 1 1 0 0 1 0      in a block
 *   first        1 0 0 1 0 0 0 1 0      a block begins here: [0,3) [3,5) [7,8)
 *   committed    1 1 1 1 1 1 0 1 0      5 is idle: free, but still paid for
 *
 * three summaries, a bit for each chunk of 32 granules:
 *
 *   busy         some of it is used
 *   touched      some of it is committed
 *   recent       some of it was in a block since decay's hand came by; true of those not busy
 *                (page_commit.c)
 *
 * and a tree over the holes in `used` (hole_tree.c), which finds the lowest run that is long enough
 * without looking at those that are not.
 *
 * Address-ordered first fit keeps what is live at the low end, so that the high end can be given
 * back, and is within a few per cent of the best of the policies in practice (Wilson et al.,
 * "Dynamic Storage Allocation", 1995; Johnstone and Wilson, "The Memory Fragmentation Problem:
 * Solved?", 1998). Free neighbours need no merging: two runs of zeros side by side are one run. */
#include <assert.h>

#include "alloc/page_runs.h"
#include "base/bits.h"

static_assert(CN_WORD_BITS % CN_CHUNK_GRANULES == 0, "a chunk must not cross a word");

size_t cn_page_runs_metadata_bytes(uint64_t granule_count)
{
    uint64_t words =
        3 * (cn_bits_words(granule_count) + cn_bits_words(cn_chunks_of(granule_count)));
    return (size_t)(words * sizeof(uint64_t)) + cn_hole_tree_bytes(granule_count);
}

void cn_page_runs_init(struct cn_page_runs *runs, uint64_t granule_count, void *metadata)
{
    uint64_t *bits = metadata;
    *runs = (struct cn_page_runs){.granule_count = granule_count};
    uint64_t **const by_granule[] = {&runs->used, &runs->first, &runs->committed};
    uint64_t **const by_chunk[] = {&runs->busy, &runs->touched, &runs->recent};
    for (unsigned i = 0; i < 3; i++, bits += cn_bits_words(granule_count))
        *by_granule[i] = bits;
    for (unsigned i = 0; i < 3; i++, bits += cn_bits_words(cn_chunks_of(granule_count)))
        *by_chunk[i] = bits;
    cn_hole_tree_init(&runs->holes, granule_count, runs->used, bits);
}

/* ---- blocks ---- */

void cn_page_runs_take(struct cn_page_runs *runs, struct cn_run run)
{
    uint64_t end = run.first + run.count;
    cn_hole_tree_take(&runs->holes, run.first, end);
    cn_bits_flip(runs->first, run.first);
    cn_bits_set(runs->busy, run.first / CN_CHUNK_GRANULES, cn_chunks_of(end));
    runs->used_count += run.count;
    runs->block_count++;
}

/* Where a block ends: the next granule that is free or begins another one. */
static uint64_t block_end(const struct cn_page_runs *runs, uint64_t first)
{
    uint64_t next;
    for (uint64_t i = first + 1; i < runs->granule_count; i = next) {
        uint64_t word = i / CN_WORD_BITS;
        uint64_t ends = ~runs->used[word] | runs->first[word];
        ends &= cn_bits_mask(i, runs->granule_count, &next);
        if (ends != 0)
            return word * CN_WORD_BITS + (uint64_t)__builtin_ctzll(ends);
    }
    return runs->granule_count;
}

bool cn_page_runs_block(const struct cn_page_runs *runs, uint64_t first, struct cn_run *out_run)
{
    if (first >= runs->granule_count || !cn_bits_get(runs->first, first))
        return false;
    *out_run = (struct cn_run){first, block_end(runs, first) - first};
    return true;
}

void cn_page_runs_free(struct cn_page_runs *runs, struct cn_run block)
{
    cn_hole_tree_give(&runs->holes, block.first, block.first + block.count);
    assert(cn_bits_get(runs->first, block.first));
    cn_bits_flip(runs->first, block.first);
    struct cn_run chunks = cn_page_runs_emptied(runs->used, block);
    if (chunks.count > 0) {
        cn_bits_clear(runs->busy, chunks.first, chunks.first + chunks.count);
        cn_bits_set(runs->recent, chunks.first, chunks.first + chunks.count);
    }
    runs->used_count -= block.count;
    runs->block_count--;
}

void cn_page_runs_take_each(struct cn_page_runs *runs, struct cn_run run)
{
    cn_page_runs_take(runs, run);
    cn_bits_set(runs->first, run.first, run.first + run.count);
    runs->block_count += run.count - 1;
}

void cn_page_runs_free_each(struct cn_page_runs *runs, struct cn_run run)
{
    uint64_t end = run.first + run.count;
    assert(cn_bits_all(runs->first, run.first, end));
    cn_bits_clear(runs->first, run.first, end);
    cn_bits_flip(runs->first, run.first); /* one block now */
    cn_page_runs_free(runs, run);
    runs->block_count -= run.count - 1;
}

uint64_t cn_page_runs_top(const struct cn_page_runs *runs)
{
    uint64_t chunk_end = cn_bits_above_last(runs->busy, cn_chunks_of(runs->granule_count));
    uint64_t end = chunk_end * CN_CHUNK_GRANULES;
    return cn_bits_above_last(runs->used, end < runs->granule_count ? end : runs->granule_count);
}

/* ---- check ---- */

/* Is the chunk marked as what its granules say? */
static bool summary_true(const uint64_t *by_chunk, const uint64_t *by_granule, uint64_t chunk)
{
    uint64_t from = chunk * CN_CHUNK_GRANULES, end = from + CN_CHUNK_GRANULES;
    return cn_bits_get(by_chunk, chunk) == (cn_bits_find(by_granule, true, from, end) != end);
}

static const char *check_chunks(const struct cn_page_runs *runs)
{
    uint64_t touched = 0, chunks = cn_chunks_of(runs->granule_count);
    for (uint64_t chunk = 0; chunk < chunks; chunk++) {
        if (!summary_true(runs->busy, runs->used, chunk))
            return "a chunk is not as busy as its granules";
        if (!summary_true(runs->touched, runs->committed, chunk))
            return "a chunk is not touched as its granules are";
        touched += cn_bits_get(runs->touched, chunk);
    }
    if (touched != runs->chunk_count)
        return "touched chunks miscounted";
    return runs->hand <= chunks ? NULL : "the hand is beyond the last chunk";
}

static const char *check_granules(const struct cn_page_runs *runs)
{
    uint64_t used = 0, committed = 0, blocks = 0;
    for (uint64_t i = 0; i < runs->granule_count; i++) {
        bool is_used = cn_bits_get(runs->used, i), is_first = cn_bits_get(runs->first, i);
        if (is_first && !is_used)
            return "a block begins at a granule that is not used";
        if (is_used && !is_first && (i == 0 || !cn_bits_get(runs->used, i - 1)))
            return "a used granule belongs to no block";
        used += is_used;
        blocks += is_first;
        committed += cn_bits_get(runs->committed, i);
    }
    if (used != runs->used_count)
        return "used granules miscounted";
    if (committed != runs->committed_count)
        return "committed granules miscounted";
    return blocks == runs->block_count ? NULL : "blocks miscounted";
}

const char *cn_page_runs_check(const struct cn_page_runs *runs)
{
    if (runs->granule_count % CN_WORD_BITS != 0) {
        uint64_t last = cn_bits_words(runs->granule_count) - 1;
        uint64_t any = runs->used[last] | runs->first[last] | runs->committed[last];
        if (any >> (runs->granule_count % CN_WORD_BITS) != 0)
            return "a bit is set above the last granule";
    }
    const char *broken = check_granules(runs);
    if (broken == NULL)
        broken = check_chunks(runs);
    if (broken == NULL && !cn_hole_tree_true(&runs->holes))
        broken = "the tree of holes is not what the bitmap says";
    return broken;
}
