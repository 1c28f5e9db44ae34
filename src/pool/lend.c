/* SPDX-License-Identifier: Apache-2.0 */
/* Idle memory goes where it is wanted by page tables: from another pool of the budget, or from
 * another place of the same one.
 *
 *   giver   |bbbb|.bb.|....|....|b...|     whole chunks that are in no block, the highest first
 *                      |    |
 *                      v    v
 *   asker   |bbbb|bbb-|----|----|--  |     into chunks of the run it wants that have nothing yet
 *
 * A chunk that moves is not cleared, and nobody faults it in again: some microseconds instead of
 * hundreds. Its bytes are whatever the giver's blocks left there, which is what a pool's own idle
 * memory has in it too. Only whole chunks move, so page tables move as such and the mappings that
 * this leaves behind are few. What is beyond them the giver gives back, and the asker commits.
 *
 * The two pools are locked together, the older one first. The list of clients is locked all the
 * while, so there is one such pair at a time. */
#include "base/poison.h"
#include "pool/pool_impl.h"

/* Whole chunks of @p giver, and the place for them in @p asker. */
struct loan {
    cenote_pool *giver, *asker;
    struct cn_run source, place;
};

static char *address_of(const cenote_pool *pool, uint64_t granule)
{
    return pool->base + granule * GRANULE_BYTES;
}

static void lock_both(cenote_pool *a, cenote_pool *b)
{
    pthread_mutex_lock(a->number < b->number ? &a->lock : &b->lock);
    if (a != b)
        pthread_mutex_lock(a->number < b->number ? &b->lock : &a->lock);
}

static void unlock_both(cenote_pool *a, cenote_pool *b)
{
    pthread_mutex_unlock(&a->lock);
    if (a != b)
        pthread_mutex_unlock(&b->lock);
}

/* While pages move there are page tables at both places. */
static bool charge_tables(const struct loan *loan)
{
    cenote_pool *asker = loan->asker;
    uint64_t committed, chunks;
    cn_page_runs_preview(&asker->runs, loan->place, &committed, &chunks);
    uint64_t charge = cn_pool_charge_of(committed, chunks) - loan->place.count * GRANULE_BYTES;
    if (charge <= asker->charged_bytes)
        return true;
    if (!cn_budget_try_charge(asker->budget, charge - asker->charged_bytes))
        return false;
    asker->charged_bytes = charge;
    return true;
}

/* Should the system refuse, or stop half way, the memory goes back to it. Charged. */
static void carry_out(const struct loan *loan)
{
    cenote_pool *giver = loan->giver, *asker = loan->asker;
    const struct cn_os_ops *ops = giver->os->ops;
    uint64_t bytes = loan->place.count * GRANULE_BYTES;
    char *from = address_of(giver, loan->source.first), *to = address_of(asker, loan->place.first);
    cn_poison_forget(from, bytes);
    bool moved = ops->memory_remap(giver->os, from, to, bytes) == (int64_t)bytes;
    cn_page_runs_decommit(&giver->runs, loan->source);
    if (moved) {
        cn_page_runs_commit(&asker->runs, loan->place);
        giver->charged_bytes -= bytes;
        asker->charged_bytes += bytes;
    } else {
        ops->memory_decommit(giver->os, from, bytes);
        ops->memory_decommit(asker->os, to, bytes);
    }
    (void)cn_pool_settle(giver);
    (void)cn_pool_settle(asker);
}

/* The next loan of at most @p want granules, rounded up, and within the asker's quota. */
static bool find_loan(struct loan *loan, struct cn_run wanted, struct cn_run keep, uint64_t want)
{
    const cenote_pool *asker = loan->asker;
    uint64_t count = cn_chunks_of(want) * CN_CHUNK_GRANULES;
    uint64_t room = (asker->quota_granules - asker->runs.committed_count) / CN_CHUNK_GRANULES;
    if (asker != loan->giver && room * CN_CHUNK_GRANULES < count)
        count = room * CN_CHUNK_GRANULES;
    if (!cn_page_runs_bare_chunks(&asker->runs, wanted, &loan->place) ||
        !cn_page_runs_spare_chunks(&loan->giver->runs, keep, &loan->source))
        return false;
    count = count < loan->source.count ? count : loan->source.count;
    count = count < loan->place.count ? count : loan->place.count;
    loan->source.first += loan->source.count - count;
    loan->source.count = loan->place.count = count;
    return count > 0;
}

/* Decommits whole chunks of @p pool outside of @p keep. @return granules */
static uint64_t give_back(cenote_pool *pool, struct cn_run keep, uint64_t want)
{
    uint64_t given = 0;
    struct cn_run spare;
    while (given < want && cn_page_runs_spare_chunks(&pool->runs, keep, &spare)) {
        uint64_t most = cn_chunks_of(want - given) * CN_CHUNK_GRANULES;
        uint64_t count = spare.count < most ? spare.count : most;
        cn_pool_decommit(pool, (struct cn_run){spare.first + spare.count - count, count});
        (void)cn_pool_settle(pool);
        given += count;
    }
    return given;
}

/* Serves @p run of the asker; both are locked. @return bytes that moved or went back */
static uint64_t serve(cenote_pool *giver, cenote_pool *asker, struct cn_run run,
                      uint64_t want_bytes)
{
    struct loan loan = {.giver = giver, .asker = asker};
    const struct cn_run whole = cn_page_runs_whole_chunks(&asker->runs, run);
    const struct cn_run wanted = asker->whole_chunks ? whole : run;
    /* What lies there already is where it is wanted. */
    const struct cn_run keep = asker == giver ? whole : (struct cn_run){0, 0};
    uint64_t want = want_bytes / GRANULE_BYTES + (want_bytes % GRANULE_BYTES != 0), got = 0;
    bool full = false;
    while (got < want && find_loan(&loan, wanted, keep, want - got)) {
        if (charge_tables(&loan)) {
            carry_out(&loan);
            got += loan.place.count;
        } else if (full) {
            break;
        } else { /* one chunk that goes back pays for the page tables of 512 */
            full = true;
            got += give_back(giver, keep, 1);
        }
    }
    if (got < want)
        got += give_back(giver, keep, want - got);
    return got * GRANULE_BYTES;
}

uint64_t cn_pool_lend(struct cn_budget_client *client, cenote_pool *asker, uint64_t granules,
                      uint64_t want_bytes)
{
    struct cn_run run;
    uint64_t got_bytes = 0;
    lock_both(client->pool, asker);
    if (cn_page_runs_find(&asker->runs, granules, &run))
        got_bytes = serve(client->pool, asker, run, want_bytes);
    unlock_both(client->pool, asker);
    return got_bytes;
}

uint64_t cn_pool_lend_self(cenote_pool *pool, struct cn_run run, uint64_t want_bytes)
{
    return serve(pool, pool, run, want_bytes);
}
