/* SPDX-License-Identifier: Apache-2.0 */
/* The ladder: what is given up before anybody is refused.
 *
 *   1 own idle memory         committed, in no block: the asker's       moved (lend.c) or uncharged
 *   2 idle memory of others   the same, of every other pool             the same
 *   3 cached tensors          free, kept for their shape, oldest first  idle then: 1 and 2 again
 *   4 rebuildable tensors     can be made anew: features, embeddings    idle then: 1 and 2 again
 *   5 compaction              moves blocks together                     a hole, or idle memory
 *     refused                 with who holds what
 *
 * Cheapest loss first: idle memory costs page tables or page faults, a cached tensor an allocation,
 * a rebuildable one a pass through an encoder. At each rung the pool with the lowest priority goes
 * first. Only the first two change the budget; the others turn live bytes into idle ones. So a rung
 * is climbed by asking one client and then sweeping idle memory, and no more is given up than is
 * wanted.
 *
 * Before the first rung the asking thread gives up its caches of small blocks (thread_cache.h) and
 * all depots, and tries again; the caches of other threads, half a per cent of the budget, cannot
 * be had at once.
 *
 * A request that all of it together would not satisfy disturbs nobody: what could come back has an
 * upper bound (what pools charge, less the live bytes that nobody may drop), and that is looked at
 * first.
 *
 * Whole idle chunks are also asked for before pools hold more in all than ever before (the mark),
 * though the budget has room: else each pool keeps what it needed lately while others grow. That
 * is looked for only when there is more of it than a share, and after a search in vain not again
 * before another share was committed. The mark falls when a pool ends: what a model needed that is
 * gone says nothing of the next one.
 *
 * One lock guards the list and is held while clients are asked, so two pools that ask each other
 * take turns: the second finds what the first left, or that it fits by now. budget.h has the ranks.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "pool/budget_impl.h"
#include "pool/thread_cache.h"

const char *cenote_reclaim_step_text(cenote_reclaim_step step)
{
    static const char *const texts[] = {
#define STEP_TEXT(name, text) text,
        CENOTE_RECLAIM_TABLE(STEP_TEXT)
#undef STEP_TEXT
    };
    return (unsigned)step < CENOTE_RECLAIM_COUNT ? texts[step] : "unknown step";
}

/* ---- the list ---- */

static bool goes_before(const struct cn_budget_client *a, const struct cn_budget_client *b)
{
    return a->step != b->step ? a->step < b->step : a->priority < b->priority;
}

void cn_budget_register(cenote_budget *budget, struct cn_budget_client *client)
{
    assert(client->step != CENOTE_RECLAIM_OWN_IDLE && client->pool != NULL);
    pthread_mutex_lock(&budget->clients_lock);
    struct cn_budget_client **link = &budget->clients;
    while (*link != NULL && !goes_before(client, *link))
        link = &(*link)->next;
    client->next = *link;
    *link = client;
    pthread_mutex_unlock(&budget->clients_lock);
}

void cn_budget_unregister(cenote_budget *budget, struct cn_budget_client *client)
{
    pthread_mutex_lock(&budget->clients_lock);
    struct cn_budget_client **link = &budget->clients;
    while (*link != NULL && *link != client)
        link = &(*link)->next;
    assert(*link == client);
    *link = client->next;
    pthread_mutex_unlock(&budget->clients_lock);
}

/* ---- who holds what ---- */

/* The row of the pool that @p pool_client is, with what caches and the like know of it: they come
 * after it in the list. List locked. */
static cenote_budget_holder holder_of(struct cn_budget_client *pool_client)
{
    cenote_budget_holder holder = {0};
    for (struct cn_budget_client *c = pool_client; c != NULL; c = c->next)
        if (c->pool == pool_client->pool && c->report != NULL)
            c->report(c, &holder);
    return holder;
}

/* Keeps the @p holder_max largest of the rows, in order. */
static void place(cenote_budget_holder *holders, size_t count, size_t holder_max,
                  const cenote_budget_holder *holder)
{
    size_t at = count < holder_max ? count : holder_max;
    for (; at > 0 && holders[at - 1].charged_bytes < holder->charged_bytes; at--)
        if (at < holder_max)
            holders[at] = holders[at - 1];
    if (at < holder_max)
        holders[at] = *holder;
}

size_t cenote_budget_explain(cenote_budget *budget, cenote_budget_holder *out_holders,
                             size_t holder_max)
{
    size_t count = 0;
    pthread_mutex_lock(&budget->clients_lock);
    for (struct cn_budget_client *c = budget->clients; c != NULL; c = c->next) {
        if (c->step != CENOTE_RECLAIM_IDLE)
            break;
        cenote_budget_holder holder = holder_of(c);
        place(out_holders, count++, holder_max, &holder);
    }
    pthread_mutex_unlock(&budget->clients_lock);
    return count;
}

#define NAMED_HOLDERS_MAX 3u

cenote_status cn_budget_refuse(cenote_budget *budget, uint64_t size_bytes, const char *what,
                               const char *detail, cenote_error *err)
{
    cenote_budget_holder holders[NAMED_HOLDERS_MAX];
    char held[NAMED_HOLDERS_MAX * 48] = "";
    size_t count = err != NULL ? cenote_budget_explain(budget, holders, NAMED_HOLDERS_MAX) : 0;
    int at = 0;
    for (size_t i = 0; i < count && i < NAMED_HOLDERS_MAX && holders[i].charged_bytes > 0; i++)
        at += snprintf(held + at, sizeof held - (size_t)at, "%s%s %" PRIu64,
                       i == 0 ? "; held by " : ", ", cenote_class_text(holders[i].class_id),
                       holders[i].charged_bytes);
    pthread_mutex_lock(&budget->lock);
    budget->refused_count++;
    uint64_t limit = budget->limit_bytes;
    uint64_t left = limit - budget->charged_bytes;
    pthread_mutex_unlock(&budget->lock);
    return cenote_error_set(err, CENOTE_E_BUDGET,
                            "%s needs %" PRIu64 " bytes more, %" PRIu64
                            " are left of the budget of %" PRIu64 "%s%s",
                            what, size_bytes, left, limit, detail != NULL ? detail : "", held);
}

/* ---- the ladder; the list is locked ---- */

static void count(cenote_budget *budget, cenote_reclaim_step step, uint64_t given_bytes)
{
    pthread_mutex_lock(&budget->lock);
    cenote_reclaim_stats *stats = &budget->reclaim[step];
    stats->asked_count++;
    stats->gave_count += given_bytes > 0;
    stats->given_bytes += given_bytes;
    pthread_mutex_unlock(&budget->lock);
}

static uint64_t ask(cenote_budget *budget, cenote_reclaim_step step,
                    struct cn_budget_client *client,
                    uint64_t (*give)(struct cn_budget_client *client, uint64_t want_bytes),
                    uint64_t want_bytes)
{
    uint64_t given = give(client, want_bytes);
    if (given > 0 && step > CENOTE_RECLAIM_IDLE) /* what it freed is at hand for this thread */
        (void)cn_thread_cache_give_up_all(budget);
    count(budget, step, given);
    return given;
}

/* Whole chunks of a pool: to where they are wanted, when that is a pool's run. */
static uint64_t ask_chunks(cenote_budget *budget, cenote_reclaim_step step,
                           struct cn_budget_client *client, cenote_pool *asker, uint64_t granules,
                           uint64_t want_bytes)
{
    if (client->lend == NULL || granules == 0)
        return ask(budget, step, client, client->give, want_bytes);
    uint64_t lent = client->lend(client, asker, granules, want_bytes);
    count(budget, step, lent);
    return lent;
}

/* The first two rungs with whole chunks, the asker's first. @return bytes that are uncharged, or
 * where they are wanted. */
static uint64_t take_chunks(cenote_budget *budget, cenote_pool *asker, uint64_t granules,
                            uint64_t want_bytes)
{
    uint64_t got = 0;
    for (unsigned own = 2; own-- > 0;) {
        cenote_reclaim_step step = own ? CENOTE_RECLAIM_OWN_IDLE : CENOTE_RECLAIM_IDLE;
        for (struct cn_budget_client *c = budget->clients; c != NULL && got < want_bytes;
             c = c->next)
            if (c->step == CENOTE_RECLAIM_IDLE && (c->pool == asker) == own)
                got += ask_chunks(budget, step, c, asker, granules, want_bytes - got);
    }
    return got;
}

/* The same, and then what is idle beside blocks, which breaks huge pages. */
static uint64_t take_idle(cenote_budget *budget, cenote_pool *asker, uint64_t granules,
                          uint64_t want_bytes)
{
    uint64_t got = take_chunks(budget, asker, granules, want_bytes);
    for (unsigned own = 2; own-- > 0;) {
        cenote_reclaim_step step = own ? CENOTE_RECLAIM_OWN_IDLE : CENOTE_RECLAIM_IDLE;
        for (struct cn_budget_client *c = budget->clients; c != NULL && got < want_bytes;
             c = c->next)
            if (c->give_parts != NULL && (c->pool == asker) == own)
                got += ask(budget, step, c, c->give_parts, want_bytes - got);
    }
    return got;
}

/* Live bytes of a pool that may be dropped. */
static uint64_t soft_bytes(const cenote_budget_holder *holder)
{
    uint64_t soft = holder->cached_bytes + holder->rebuildable_bytes;
    return soft < holder->live_bytes ? soft : holder->live_bytes;
}

/* At most this much can come back: what pools charge beyond the live bytes that must stay. */
static uint64_t droppable_bytes(cenote_budget *budget)
{
    uint64_t sum = 0;
    for (struct cn_budget_client *c = budget->clients; c != NULL; c = c->next) {
        if (c->step != CENOTE_RECLAIM_IDLE)
            break;
        cenote_budget_holder holder = holder_of(c);
        sum += holder.charged_bytes - (holder.live_bytes - soft_bytes(&holder));
    }
    return sum;
}

/* How much too large @p size_bytes more would be. */
static uint64_t shortage_bytes(cenote_budget *budget, uint64_t size_bytes)
{
    pthread_mutex_lock(&budget->lock);
    uint64_t left = budget->limit_bytes - budget->charged_bytes;
    pthread_mutex_unlock(&budget->lock);
    return size_bytes > left ? size_bytes - left : 0;
}

/* Idle memory, then a rung after the other, sweeping after each that gave. */
static uint64_t climb(cenote_budget *budget, cenote_pool *asker, uint64_t granules,
                      uint64_t want_bytes)
{
    uint64_t got = take_idle(budget, asker, granules, want_bytes);
    for (struct cn_budget_client *c = budget->clients; c != NULL && got < want_bytes; c = c->next) {
        if (c->step == CENOTE_RECLAIM_IDLE)
            continue;
        while (got < want_bytes && ask(budget, c->step, c, c->give, want_bytes - got) > 0)
            got += take_idle(budget, asker, granules, want_bytes - got);
    }
    return got;
}

bool cn_budget_make_room(cenote_budget *budget, cenote_pool *asker, uint64_t granules,
                         uint64_t size_bytes)
{
    if (cn_thread_cache_give_up_all(budget) > 0)
        return true;
    pthread_mutex_lock(&budget->clients_lock);
    uint64_t want = shortage_bytes(budget, size_bytes);
    bool helped = want == 0; /* others made room meanwhile */
    if (!helped && want <= droppable_bytes(budget))
        helped = climb(budget, asker, granules, want) > 0;
    pthread_mutex_unlock(&budget->clients_lock);
    return helped;
}

/* Asks who keeps something in the pool, from one rung to another. List locked. */
static bool ask_keepers(cenote_budget *budget, const cenote_pool *pool,
                        cenote_reclaim_step first_step, cenote_reclaim_step last_step,
                        uint64_t want_bytes)
{
    bool gave = false;
    for (struct cn_budget_client *c = budget->clients; c != NULL && !gave; c = c->next)
        if (c->pool == pool && c->step >= first_step && c->step <= last_step)
            gave = ask(budget, c->step, c, c->give, want_bytes) > 0;
    return gave;
}

bool cn_budget_make_quota(cenote_budget *budget, const cenote_pool *asker, uint64_t want_bytes)
{
    bool helped = false;
    if (cn_thread_cache_give_up_all(budget) > 0)
        return true;
    pthread_mutex_lock(&budget->clients_lock);
    for (struct cn_budget_client *c = budget->clients; c != NULL; c = c->next) {
        if (c->pool != asker)
            continue;
        cenote_budget_holder holder = holder_of(c);
        helped = want_bytes <= soft_bytes(&holder) &&
                 ask_keepers(budget, asker, CENOTE_RECLAIM_CACHE, CENOTE_RECLAIM_REBUILDABLE,
                             want_bytes);
        break;
    }
    pthread_mutex_unlock(&budget->clients_lock);
    return helped;
}

/* Moving blocks costs microseconds and loses nothing: before anything is dropped. */
bool cn_budget_make_hole(cenote_budget *budget, const cenote_pool *asker, uint64_t hole_bytes)
{
    if (cn_thread_cache_give_up_all(budget) > 0)
        return true;
    pthread_mutex_lock(&budget->clients_lock);
    bool helped =
        ask_keepers(budget, asker, CENOTE_RECLAIM_COMPACTION, CENOTE_RECLAIM_COMPACTION,
                    hole_bytes) ||
        ask_keepers(budget, asker, CENOTE_RECLAIM_CACHE, CENOTE_RECLAIM_REBUILDABLE, hole_bytes);
    pthread_mutex_unlock(&budget->clients_lock);
    return helped;
}

/* ---- before there is a shortage ---- */

/* So much idle memory is no reason to look for it: this share of what is charged, or that. */
#define IDLE_SHARE 32u
#define IDLE_BYTES (UINT64_C(16) << 20)
/* What is granted beyond a charge that could not be avoided. */
#define GRANT_SHARE 256u
#define GRANT_BYTES (UINT64_C(4) << 20)

static uint64_t share_of(uint64_t bytes, uint64_t share, uint64_t least_bytes)
{
    return bytes / share > least_bytes ? bytes / share : least_bytes;
}

bool cn_budget_is_peak(cenote_budget *budget, uint64_t size_bytes)
{
    pthread_mutex_lock(&budget->lock);
    bool fits = size_bytes <= budget->limit_bytes - budget->charged_bytes;
    bool is_peak = fits && budget->charged_bytes + size_bytes > budget->mark_bytes;
    pthread_mutex_unlock(&budget->lock);
    return is_peak;
}

void cn_budget_lower_mark(cenote_budget *budget)
{
    pthread_mutex_lock(&budget->lock);
    if (budget->mark_bytes > budget->charged_bytes)
        budget->mark_bytes = budget->charged_bytes;
    pthread_mutex_unlock(&budget->lock);
}

bool cn_budget_avoid_peak(cenote_budget *budget, cenote_pool *asker, uint64_t granules,
                          uint64_t size_bytes)
{
    uint64_t idle = 0, got = 0;
    pthread_mutex_lock(&budget->clients_lock);
    for (struct cn_budget_client *c = budget->clients; c != NULL; c = c->next)
        idle += c->idle_bytes != NULL ? c->idle_bytes(c) : 0;
    pthread_mutex_lock(&budget->lock);
    uint64_t charged = budget->charged_bytes, reached = charged + size_bytes;
    uint64_t above = reached > budget->mark_bytes ? reached - budget->mark_bytes : 0;
    pthread_mutex_unlock(&budget->lock);
    uint64_t little = share_of(charged, IDLE_SHARE, IDLE_BYTES);
    if (above > 0 && idle > little)
        got = take_chunks(budget, asker, granules, idle - little < above ? idle - little : above);
    if (got < above) {
        reached += share_of(charged, GRANT_SHARE, GRANT_BYTES) - got;
        pthread_mutex_lock(&budget->lock);
        if (reached > budget->mark_bytes)
            budget->mark_bytes = reached;
        pthread_mutex_unlock(&budget->lock);
    }
    pthread_mutex_unlock(&budget->clients_lock);
    return got > 0;
}
