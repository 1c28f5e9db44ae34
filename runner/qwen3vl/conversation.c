/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation: its history, and which part of it lies in the cache.
 *
 *     kept    | system | user 1 | reply 1 | user 2 | reply 2 (all but its last token)
 *     prompt  | system | user 1 | reply 1 | user 2 | reply 2 | user 3 | assistant
 *             |<------------ past: equal ids -------->|<-- read now -->
 *
 * Each message puts the whole conversation into chat form anew. Its ids mostly begin with those in
 * the cache. Where they do not (a reply that the tokenizer cuts into other pieces, thoughts that
 * the template leaves out) the cache is good up to the first difference, and what follows is read
 * again. Keys and values need not be erased: those behind the prompt's end are written before
 * anything attends to them. A picture is in the cache as a whole or is encoded again, for its
 * tokens all have one id: equal ids say nothing about it. */
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "session.h"

/* A message that any limit must have room for. */
#define SHORT_TOKENS 16u

/* ---- open ---- */

/* What the tokenizer takes for its first text it keeps; it has to be there before it is counted. */
static cenote_status warm_tokenizer(const qwen_model *model, cenote_error *err)
{
    static const char text[] = "e\xcc\x81";
    qwen_ids ids = {.count_max = sizeof text};
    cenote_status status =
        qwen_tokenizer_encode(model->tokenizer, text, sizeof text - 1, false, &ids, err);
    qwen_ids_fini(&ids);
    return status;
}

static qwen_shape shape_of(const qwen_session_options *options)
{
    return (qwen_shape){
        .context_tokens = options->context_tokens,
        .kv_dtype = options->kv_dtype,
        .thread_count = options->thread_count,
        .unpacked = options->unpacked,
        .io_engine = options->io_engine,
        .read_depth = options->read_depth,
        .pack = options->pack,
        .pack_required = options->pack_required,
        .draft = options->draft,
    };
}

cenote_status qwen_session_plan(const qwen_model *model, const qwen_session_options *options,
                                uint64_t limit_bytes, qwen_plan *out_plan, cenote_error *err)
{
    const qwen_shape shape = shape_of(options);
    if (options->kv_dtype != CENOTE_DTYPE_F32 && options->kv_dtype != CENOTE_DTYPE_BF16)
        return cenote_error_set(err, CENOTE_E_INVAL, "KV type must be f32 or bf16");
    cenote_status status = qwen_sampling_check(&options->sampling, err);
    if (status == CENOTE_OK)
        status = warm_tokenizer(model, err);
    return status != CENOTE_OK ? status
                               : qwen_plan_session(model, &shape, limit_bytes, out_plan, err);
}

cenote_status qwen_session_open(qwen_model *model, const qwen_session_options *options,
                                const qwen_plan *plan, qwen_session **out_session,
                                cenote_error *err)
{
    if (model->chat_status != CENOTE_OK) {
        if (err != NULL)
            *err = model->chat_error;
        return model->chat_status;
    }
    const qwen_shape shape = shape_of(options);
    qwen_session *session;
    cenote_status status = qwen_session_create(model, &shape, plan, &session, err);
    if (status != CENOTE_OK)
        return status;
    session->options = *options;
    session->options.pack = plan->pack;
    session->held = *plan;
    session->kept.count_max = plan->context_tokens;
    session->sampler = qwen_sampler_make(&options->sampling);
    if (options->system != NULL) {
        session->system = strdup(options->system);
        if (session->system == NULL) {
            qwen_session_close(session);
            return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for the system text");
        }
    }
    *out_session = session;
    return CENOTE_OK;
}

/* ---- history ---- */

static void drop_images(qwen_session *session, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        free(session->image_paths[i]);
        session->image_paths[i] = NULL;
    }
}

static void drop_job(qwen_session *session)
{
    qwen_job_destroy(session->job);
    session->job = NULL;
}

void qwen_session_forget(qwen_session *session)
{
    drop_job(session);
    for (uint32_t i = 0; i < session->exchange_count; i++) {
        free(session->exchanges[i].text);
        qwen_ids_fini(&session->exchanges[i].reply);
    }
    free(session->exchanges);
    session->exchanges = NULL;
    session->exchange_count = 0;
    drop_images(session, 0, session->images.image_count);
    session->images = (qwen_shape){0};
    uint64_t count_max = session->kept.count_max;
    qwen_ids_fini(&session->kept);
    session->kept = (qwen_ids){.count_max = count_max};
}

void qwen_session_reset(qwen_session *session)
{
    qwen_session_forget(session);
}

/* The turns' view of the history; *out_turns is the caller's to free. */
static cenote_status list_turns(const qwen_session *session, qwen_chat_turn **out_turns,
                                cenote_error *err)
{
    qwen_chat_turn *turns = calloc(session->exchange_count + 1u, sizeof *turns);
    if (turns == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for %u turns",
                                session->exchange_count);
    for (uint32_t i = 0; i < session->exchange_count; i++) {
        const qwen_exchange *exchange = &session->exchanges[i];
        turns[i] = (qwen_chat_turn){
            .user = exchange->text,
            .image_count = exchange->image_count,
            .image_token_counts = session->image_tokens + exchange->image_first,
            .reply_ids = exchange->reply.ids,
            .reply_count = exchange->reply.count,
        };
    }
    *out_turns = turns;
    return CENOTE_OK;
}

/* ---- a turn ---- */

/* Copies the paths behind those of the history. */
static cenote_status take_images(qwen_session *session, const qwen_message *message,
                                 cenote_error *err)
{
    uint32_t had = session->images.image_count;
    if (message->image_count > QWEN_IMAGES_MAX - had)
        return cenote_error_set(err, CENOTE_E_INVAL, "%u images in the conversation, at most %u",
                                had + message->image_count, QWEN_IMAGES_MAX);
    for (uint32_t i = 0; i < message->image_count; i++) {
        session->image_paths[had + i] = strdup(message->image_paths[i]);
        if (session->image_paths[had + i] == NULL) {
            drop_images(session, had, had + i);
            return cenote_error_set(err, CENOTE_E_NOMEM, "no memory for a path");
        }
    }
    return CENOTE_OK;
}

/* How many tokens of the job's prompt lie in the cache; one is always left to be read. */
static uint64_t past_tokens(const qwen_session *session, const qwen_job *job)
{
    const qwen_ids *kept = &session->kept, *prompt = &job->prompt;
    uint64_t past = 0;
    while (past < kept->count && past + 1 < prompt->count && kept->ids[past] == prompt->ids[past])
        past++;
    for (uint32_t s = 0; s < job->span_count; s++) {
        const qwen_span *span = &job->spans[s];
        if (span->image_index == QWEN_SPAN_TEXT || span->first >= past)
            continue;
        if (span->image_index >= session->images.image_count || past - span->first < span->count)
            past = span->first;
    }
    return past;
}

static uint32_t images_before(const qwen_job *job, uint64_t token)
{
    uint32_t count = 0;
    for (uint32_t s = 0; s < job->span_count; s++)
        count += job->spans[s].image_index != QWEN_SPAN_TEXT && job->spans[s].first < token;
    return count;
}

/* Makes the job of a message whose images were taken, and finds what of it is new. */
static cenote_status create_job(qwen_session *session, const qwen_message *message,
                                cenote_error *err)
{
    const qwen_session_options *options = &session->options;
    qwen_chat_turn *turns;
    cenote_status status = list_turns(session, &turns, err);
    if (status != CENOTE_OK)
        return status;
    session->request = (qwen_request){
        .image_paths = (const char *const *)session->image_paths,
        .image_count = session->images.image_count + message->image_count,
        .prompt = message->text,
        .system = session->system,
        .parse_special = options->parse_special,
        .max_tokens = message->max_tokens,
        .max_image_tokens = options->max_image_tokens,
        .kv_dtype = options->kv_dtype,
        .sampling = options->sampling,
        .thread_count = session->held.thread_count,
        .unpacked = options->unpacked,
        .io_engine = options->io_engine,
        .read_depth = options->read_depth,
        .pack = options->pack,
        .draft = options->draft,
    };
    const qwen_job_past past = {
        .turns = turns,
        .turn_count = session->exchange_count,
        .images = &session->images,
    };
    qwen_job *job;
    status = qwen_job_create_after(session->run.model, &session->request, &past, &job, err);
    free(turns);
    if (status != CENOTE_OK)
        return status;
    session->job = job;
    job->shape.context_tokens = session->held.context_tokens;
    job->shape.past_tokens = past_tokens(session, job);
    job->shape.image_first = images_before(job, job->shape.past_tokens);
    return CENOTE_OK;
}

static cenote_status plan_turn(qwen_session *session, cenote_error *err)
{
    cenote_budget_stats stats;
    cenote_budget_stats_get(session->run.model->budget, &stats);
    const qwen_shape *shape = &session->job->shape;
    qwen_plan plan;
    cenote_status status =
        qwen_plan_turn(session->run.model, shape, &session->held, stats.limit_bytes, &plan, err);
    if (status != CENOTE_OK)
        return status;
    if (!plan.fits) {
        char needs[CENOTE_ERROR_MESSAGE_BYTES];
        qwen_plan_explain(&plan, needs, sizeof needs);
        return cenote_error_set(err, CENOTE_E_BUDGET, "the message does not fit: %s", needs);
    }
    session->turn_plan = plan;
    return CENOTE_OK;
}

/* What lies in the cache now. An id that cannot be noted is one that is read again. */
static void note_kept(qwen_session *session)
{
    const qwen_job *job = session->job;
    qwen_ids *kept = &session->kept;
    kept->count = job->shape.past_tokens;
    if (job->produced.count == 0)
        return; /* the reading may have ended anywhere */
    cenote_status status = CENOTE_OK;
    for (uint64_t i = kept->count; status == CENOTE_OK && i < job->prompt.count; i++)
        status = qwen_ids_push(kept, job->prompt.ids[i], NULL);
    for (uint64_t i = 0; status == CENOTE_OK && i + 1 < job->produced.count; i++)
        status = qwen_ids_push(kept, job->produced.ids[i], NULL);
}

static cenote_status keep_exchange(qwen_session *session, const qwen_message *message,
                                   cenote_error *err)
{
    const qwen_job *job = session->job;
    qwen_exchange exchange = {
        .text = strdup(message->text),
        .image_first = session->images.image_count,
        .image_count = message->image_count,
        .reply = {.count_max = job->produced.count},
    };
    qwen_exchange *grown =
        realloc(session->exchanges, (session->exchange_count + 1u) * sizeof *grown);
    if (grown != NULL)
        session->exchanges = grown;
    cenote_status status = CENOTE_OK;
    if (exchange.text == NULL || grown == NULL)
        status = cenote_error_set(err, CENOTE_E_NOMEM, "no memory to keep the message");
    for (uint64_t i = 0; status == CENOTE_OK && i < job->produced.count; i++)
        status = qwen_ids_push(&exchange.reply, job->produced.ids[i], err);
    if (status != CENOTE_OK) {
        free(exchange.text);
        qwen_ids_fini(&exchange.reply);
        return status;
    }
    session->exchanges[session->exchange_count++] = exchange;
    for (uint32_t i = exchange.image_first; i < job->shape.image_count; i++) {
        session->images.grid_h[i] = job->shape.grid_h[i];
        session->images.grid_w[i] = job->shape.grid_w[i];
        session->images.decode_bytes[i] = job->shape.decode_bytes[i];
        session->image_tokens[i] = qwen_job_image_tokens(job, i);
    }
    session->images.image_count = job->shape.image_count;
    return CENOTE_OK;
}

static cenote_status run_turn(qwen_session *session, const qwen_message *message,
                              const qwen_events *events, qwen_result *out_result, cenote_error *err)
{
    qwen_result result;
    cenote_status status = qwen_turn_run(session, session->job, &session->turn_plan, events,
                                         &session->cancelled, &session->sampler, &result, err);
    if (status == CENOTE_OK && strcmp(result.stop_reason, "length") == 0 &&
        result.prompt_tokens + result.token_count >= session->held.context_tokens)
        result.stop_reason = "context";
    note_kept(session);
    if (result.token_count > 0) {
        cenote_status kept = keep_exchange(session, message, status == CENOTE_OK ? err : NULL);
        status = status == CENOTE_OK ? kept : status;
    }
    *out_result = result;
    return status;
}

cenote_status qwen_session_ask(qwen_session *session, const qwen_message *message,
                               const qwen_events *events, qwen_result *out_result,
                               cenote_error *err)
{
    uint32_t had = session->images.image_count;
    session->cancelled = 0;
    drop_job(session);
    cenote_status status = take_images(session, message, err);
    if (status != CENOTE_OK)
        return status;
    status = create_job(session, message, err);
    if (status == CENOTE_OK)
        status = plan_turn(session, err);
    if (status == CENOTE_OK)
        status = run_turn(session, message, events, out_result, err);
    if (session->images.image_count == had) /* they were not kept */
        drop_images(session, had, had + message->image_count);
    return status;
}

void qwen_session_cancel(qwen_session *session)
{
    session->cancelled = 1;
}

/* ---- the rest ---- */

/* Resident rows make room before the limit falls, and fill what a higher one gives in the turns to
 * come. What is kept of the conversation stays. */
cenote_status qwen_session_limit_set(qwen_session *session, uint64_t limit_bytes, cenote_error *err)
{
    uint64_t past = session->kept.count, context = session->held.context_tokens;
    if (past + SHORT_TOKENS >= context)
        past = context > SHORT_TOKENS + 1 ? context - SHORT_TOKENS - 1 : 0;
    qwen_shape least = shape_of(&session->options);
    least.prompt_tokens = past + (context > SHORT_TOKENS ? SHORT_TOKENS : 1);
    least.past_tokens = past;
    least.max_tokens = 1;
    least.thread_count = session->held.thread_count;
    qwen_run *run = &session->run;
    qwen_plan plan;
    cenote_status status =
        qwen_plan_turn(run->model, &least, &session->held, limit_bytes, &plan, err);
    if (status != CENOTE_OK)
        return status;
    if (!plan.fits) {
        char needs[CENOTE_ERROR_MESSAGE_BYTES];
        qwen_plan_explain(&plan, needs, sizeof needs);
        return cenote_error_set(err, CENOTE_E_BUDGET, "the conversation %s", needs);
    }
    cenote_resident_stats rows;
    cenote_resident_stats_get(run->resident_rows, &rows);
    cenote_kv_truncate(run->kv, session->kept.count);
    cenote_pool_trim(run->kv_pool);
    if (rows.charged_bytes > plan.resident_vision_bytes)
        status = cenote_resident_resize(run->resident_rows, plan.resident_vision_bytes, err);
    return status != CENOTE_OK ? status
                               : cenote_budget_limit_set(run->model->budget, limit_bytes, err);
}

void qwen_session_stats_get(const qwen_session *session, qwen_session_stats *out_stats)
{
    cenote_budget_stats budget;
    cenote_budget_stats_get(session->run.model->budget, &budget);
    *out_stats = (qwen_session_stats){
        .limit_bytes = budget.limit_bytes,
        .held_bytes = budget.charged_bytes,
        .context_tokens = session->held.context_tokens,
        .used_tokens = session->kept.count,
        .turn_count = session->exchange_count,
        .image_count = session->images.image_count,
    };
}

const uint32_t *qwen_session_prompt_ids(const qwen_session *session, uint64_t *out_count)
{
    if (session->job == NULL)
        return NULL;
    return qwen_job_prompt_ids(session->job, out_count);
}

const qwen_plan *qwen_session_turn_plan(const qwen_session *session)
{
    return &session->turn_plan;
}
