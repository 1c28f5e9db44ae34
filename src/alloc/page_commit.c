/* SPDX-License-Identifier: Apache-2.0 */
/* What of page runs is committed, and what of that may go.
 *
 *   chunk        0         1         2         3         4
 *             [bbbbbbbb][bb......][........][........][--bb----]      b block, . idle, -
 * uncommitted busy         1         1         0         0         1 touched      1         1 1 1 1
 *
 * Idle memory goes by whole chunks, 2 and 3 here, from the high end: a huge page goes as one. What
 * is idle beside a block goes only when somebody is short of it, for it breaks a huge page.
 *
 * Decay is a clock with a second chance (Corbato, "A Paging Experiment with the Multics System",
 * 1968): a hand goes down over the touched chunks and around. One that holds no block loses its
 * mark `recent`; one that has none any more was not used for a whole round, and may go. The caller
 * moves the hand; no time is involved. */
#include <assert.h>

#include "alloc/page_runs.h"
#include "base/bits.h"

static uint64_t end_of(struct cn_run run)
{
    return run.first + run.count;
}

/* The chunks that a run (> 0) touches. */
static struct cn_run chunks_of(struct cn_run run)
{
    uint64_t first = run.first / CN_CHUNK_GRANULES;
    return (struct cn_run){first, (end_of(run) - 1) / CN_CHUNK_GRANULES + 1 - first};
}

/* The granules of chunks; the last chunk may be cut off where the range ends. */
static struct cn_run granules_of(const struct cn_page_runs *runs, struct cn_run chunks)
{
    uint64_t first = chunks.first * CN_CHUNK_GRANULES;
    uint64_t end = end_of(chunks) * CN_CHUNK_GRANULES;
    return (struct cn_run){first, (end < runs->granule_count ? end : runs->granule_count) - first};
}

struct cn_run cn_page_runs_whole_chunks(const struct cn_page_runs *runs, struct cn_run run)
{
    return granules_of(runs, chunks_of(run));
}

static bool any_in(const uint64_t *by_granule, uint64_t chunk)
{
    static_assert(2 * CN_CHUNK_GRANULES == CN_WORD_BITS, "a chunk is half a word");
    return (uint32_t)(by_granule[chunk / 2] >> chunk % 2 * CN_CHUNK_GRANULES) != 0;
}

struct cn_run cn_page_runs_emptied(const uint64_t *by_granule, struct cn_run run)
{
    struct cn_run chunks = chunks_of(run);
    uint64_t first = chunks.first, end = end_of(chunks);
    end -= any_in(by_granule, end - 1);
    first += any_in(by_granule, first);
    return (struct cn_run){first, first < end ? end - first : 0};
}

/* ---- committing ---- */

bool cn_page_runs_uncommitted(const struct cn_page_runs *runs, struct cn_run within,
                              struct cn_run *out_run)
{
    uint64_t end = end_of(within);
    uint64_t first = cn_bits_find(runs->committed, false, within.first, end);
    if (first == end)
        return false;
    *out_run = (struct cn_run){first, cn_bits_find(runs->committed, true, first, end) - first};
    return true;
}

void cn_page_runs_preview(const struct cn_page_runs *runs, struct cn_run run,
                          uint64_t *out_committed_count, uint64_t *out_chunk_count)
{
    struct cn_run chunks = chunks_of(run);
    *out_committed_count =
        runs->committed_count + run.count - cn_bits_count(runs->committed, run.first, end_of(run));
    *out_chunk_count = runs->chunk_count + chunks.count -
                       cn_bits_count(runs->touched, chunks.first, end_of(chunks));
}

void cn_page_runs_commit(struct cn_page_runs *runs, struct cn_run run)
{
    struct cn_run chunks = chunks_of(run);
    cn_page_runs_preview(runs, run, &runs->committed_count, &runs->chunk_count);
    cn_bits_set(runs->committed, run.first, end_of(run));
    cn_bits_set(runs->touched, chunks.first, end_of(chunks));
}

void cn_page_runs_decommit(struct cn_page_runs *runs, struct cn_run run)
{
    runs->committed_count -= cn_bits_count(runs->committed, run.first, end_of(run));
    cn_bits_clear(runs->committed, run.first, end_of(run));
    struct cn_run chunks = cn_page_runs_emptied(runs->committed, run);
    if (chunks.count > 0) {
        runs->chunk_count -= cn_bits_count(runs->touched, chunks.first, end_of(chunks));
        cn_bits_clear(runs->touched, chunks.first, end_of(chunks));
    }
}

struct cn_run cn_page_runs_widen(const struct cn_page_runs *runs, struct cn_run run)
{
    struct cn_run whole = cn_page_runs_whole_chunks(runs, run);
    uint64_t first = run.first, end = end_of(run);
    if (cn_bits_find(runs->committed, true, whole.first, first) == first)
        first = whole.first;
    if (cn_bits_find(runs->committed, true, end, end_of(whole)) == end_of(whole))
        end = end_of(whole);
    return (struct cn_run){first, end - first};
}

/* ---- idle ---- */

/* The highest run below @p below of bits that are in @p with and not in @p without. */
static bool highest_run(const uint64_t *with, const uint64_t *without, uint64_t below,
                        struct cn_run *out_run)
{
    uint64_t end = 0;
    for (uint64_t w = cn_bits_words(below); w-- > 0;) {
        uint64_t hits = with[w] & ~without[w];
        if (below - w * CN_WORD_BITS < CN_WORD_BITS)
            hits &= (UINT64_C(1) << (below - w * CN_WORD_BITS)) - 1;
        if (end == 0) {
            if (hits == 0)
                continue;
            end = (w + 1) * CN_WORD_BITS - (uint64_t)__builtin_clzll(hits);
            hits |= end == (w + 1) * CN_WORD_BITS ? 0 : UINT64_MAX << (end % CN_WORD_BITS);
        }
        /* The run goes down to just above the highest bit that is no hit. */
        if (hits != UINT64_MAX) {
            uint64_t first = (w + 1) * CN_WORD_BITS - (uint64_t)__builtin_clzll(~hits);
            *out_run = (struct cn_run){first, end - first};
            return true;
        }
    }
    *out_run = (struct cn_run){0, end};
    return end > 0;
}

bool cn_page_runs_idle(const struct cn_page_runs *runs, uint64_t below, struct cn_run *out_run)
{
    return highest_run(runs->committed, runs->used, below, out_run);
}

bool cn_page_runs_idle_chunks(const struct cn_page_runs *runs, uint64_t below,
                              struct cn_run *out_run)
{
    struct cn_run chunks;
    if (!highest_run(runs->touched, runs->busy, cn_chunks_of(below), &chunks))
        return false;
    *out_run = granules_of(runs, chunks);
    return true;
}

/* The highest part of @p run that is whole chunks, all committed. */
static bool highest_whole(const struct cn_page_runs *runs, struct cn_run run,
                          struct cn_run *out_run)
{
    uint64_t end = end_of(run) / CN_CHUNK_GRANULES * CN_CHUNK_GRANULES;
    for (; end > run.first; end -= CN_CHUNK_GRANULES) {
        uint64_t first = end;
        while (first > run.first &&
               cn_bits_find(runs->committed, false, first - CN_CHUNK_GRANULES, first) == first)
            first -= CN_CHUNK_GRANULES;
        *out_run = (struct cn_run){first, end - first};
        if (first < end)
            return true;
    }
    return false;
}

bool cn_page_runs_spare_chunks(const struct cn_page_runs *runs, struct cn_run without,
                               struct cn_run *out_run)
{
    struct cn_run idle;
    for (uint64_t below = runs->granule_count; cn_page_runs_idle_chunks(runs, below, &idle);
         below = idle.first) {
        uint64_t end = end_of(idle);
        if (without.count > 0 && without.first < end && idle.first < end_of(without)) {
            if (end_of(without) < end) /* what is above it; the rest is looked at next */
                idle.first = end_of(without);
            else
                end = without.first > idle.first ? without.first : idle.first;
        }
        if (highest_whole(runs, (struct cn_run){idle.first, end - idle.first}, out_run))
            return true;
    }
    return false;
}

bool cn_page_runs_bare_chunks(const struct cn_page_runs *runs, struct cn_run within,
                              struct cn_run *out_run)
{
    uint64_t first = cn_chunks_of(within.first), end = end_of(within) / CN_CHUNK_GRANULES;
    if (first >= end)
        return false;
    first = cn_bits_find(runs->touched, false, first, end);
    end = cn_bits_find(runs->touched, true, first, end);
    *out_run = granules_of(runs, (struct cn_run){first, end - first});
    return first < end;
}

bool cn_page_runs_decay(struct cn_page_runs *runs, struct cn_run *out_chunk)
{
    if (runs->chunk_count == 0)
        return false;
    uint64_t above = cn_bits_above_last(runs->touched, runs->hand);
    if (above == 0)
        above = cn_bits_above_last(runs->touched, cn_chunks_of(runs->granule_count));
    uint64_t chunk = runs->hand = above - 1;
    if (cn_bits_get(runs->busy, chunk))
        return false;
    if (cn_bits_get(runs->recent, chunk)) {
        cn_bits_clear(runs->recent, chunk, chunk + 1);
        return false;
    }
    *out_chunk = granules_of(runs, (struct cn_run){chunk, 1});
    return true;
}
