/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation from the inside: what of it stays in the cache, what a turn that fails leaves
 * behind, and that nothing of it depends on where a turn was cut. Answers are compared with
 * transformers' in tests/golden/test_conversation.c. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "os/fake/fake.h"
#include "plan.h"
#include "runner_fixture.h"
#include "session.h"

#define MIB     (UINT64_C(1) << 20)
#define PICTURE TEST_SOURCE_DIR "/examples/shapes.png"
#define OTHER   TEST_SOURCE_DIR "/examples/cat.png"
#define TOKENS  6u

struct rig {
    cenote_budget *budget;
    qwen_model *model;
    qwen_session *session;
};

static qwen_session_options some_options(void)
{
    return (qwen_session_options){
        .context_tokens = 400, .kv_dtype = CENOTE_DTYPE_F32, .thread_count = 2};
}

static void rig_open_with(struct rig *rig, const qwen_session_options *options, struct cn_os *os)
{
    cenote_error err;
    cenote_budget_options budget = CENOTE_BUDGET_OPTIONS_INIT;
    budget.limit_bytes = 1024 * MIB;
    budget.process_bytes = QWEN_PROCESS_BYTES;
    budget.os = os;
    assert_int_equal(cenote_budget_create(&budget, &rig->budget, NULL), CENOTE_OK);
    assert_int_equal(qwen_model_open(rig->budget, fixture_checkpoint(), &rig->model, NULL),
                     CENOTE_OK);
    qwen_plan plan;
    assert_int_equal(qwen_session_plan(rig->model, options, 1024 * MIB, &plan, NULL), CENOTE_OK);
    if (qwen_session_open(rig->model, options, &plan, &rig->session, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
}

static struct rig rig_open(void)
{
    struct rig rig;
    const qwen_session_options options = some_options();
    rig_open_with(&rig, &options, NULL);
    return rig;
}

static void rig_close(struct rig *rig)
{
    qwen_session_close(rig->session);
    qwen_model_close(rig->model);
    cenote_budget_stats stats;
    cenote_budget_stats_get(rig->budget, &stats);
    assert_int_equal(stats.charged_bytes, QWEN_PROCESS_BYTES);
    cenote_budget_destroy(rig->budget);
}

static uint64_t charged(const struct rig *rig)
{
    qwen_session_stats stats;
    qwen_session_stats_get(rig->session, &stats);
    return stats.held_bytes;
}

static uint64_t used_tokens(const struct rig *rig)
{
    qwen_session_stats stats;
    qwen_session_stats_get(rig->session, &stats);
    return stats.used_tokens;
}

/* ---- what came of a turn ---- */

struct turn {
    qwen_result result;
    uint32_t tokens[64];
    float *logits; /* of all steps */
    size_t logit_count;
    qwen_session *session;  /* to cancel */
    qwen_phase phase;       /* in which to cancel */
    uint32_t cancel_tokens; /* after so many steps; 0: none */
    bool cancel_phase;
    uint32_t steps;
};

static cenote_status on_logits(void *context, const float *logits, uint32_t vocab_size,
                               cenote_error *err)
{
    struct turn *turn = context;
    (void)err;
    turn->logits = realloc(turn->logits, (turn->logit_count + vocab_size) * sizeof(float));
    assert_non_null(turn->logits);
    memcpy(turn->logits + turn->logit_count, logits, vocab_size * sizeof(float));
    turn->logit_count += vocab_size;
    if (++turn->steps == turn->cancel_tokens)
        qwen_session_cancel(turn->session);
    return CENOTE_OK;
}

static void on_progress(void *context, qwen_phase phase, uint64_t done, uint64_t total)
{
    struct turn *turn = context;
    (void)done;
    (void)total;
    if (turn->cancel_phase && phase == turn->phase)
        qwen_session_cancel(turn->session);
}

static qwen_message words(const char *text)
{
    return (qwen_message){.text = text, .max_tokens = TOKENS};
}

static qwen_message picture(const char *text, const char *const *path)
{
    return (qwen_message){
        .text = text, .image_paths = path, .image_count = 1, .max_tokens = TOKENS};
}

/* What stays of a turn: its plan without its activations, its pictures and the books of both. */
static uint64_t stays_after(const struct rig *rig)
{
    const qwen_plan *plan = qwen_session_turn_plan(rig->session);
    cenote_resident_stats rows;
    cenote_resident_stats_get(rig->session->run.resident_rows, &rows);
    uint64_t books = plan->books_bytes -
                     cenote_pool_overhead_bytes(qwen_plan_activations_quota(plan)) -
                     (plan->image_bytes > 0 ? cenote_pool_overhead_bytes(plan->image_bytes) : 0);
    assert_true(rows.charged_bytes <= plan->resident_bytes);
    return plan->process_bytes + plan->tables_bytes + books + plan->weights_bytes +
           plan->staging_bytes + plan->kv_bytes + rows.charged_bytes;
}

static cenote_status ask_into(const struct rig *rig, const qwen_message *message, struct turn *turn,
                              cenote_error *err)
{
    const qwen_events events = {.context = turn, .logits = on_logits, .progress = on_progress};
    uint64_t before = charged(rig);
    turn->session = rig->session;
    cenote_status status = qwen_session_ask(rig->session, message, &events, &turn->result, err);
    assert_int_equal(charged(rig), turn->result.stop_reason != NULL ? stays_after(rig) : before);
    for (uint32_t i = 0; i < turn->result.token_count && i < 64; i++)
        turn->tokens[i] = turn->result.token_ids[i];
    return status;
}

static struct turn ask(const struct rig *rig, qwen_message message)
{
    struct turn turn = {0};
    cenote_error err;
    if (ask_into(rig, &message, &turn, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    return turn;
}

static void ask_and_forget(const struct rig *rig, qwen_message message)
{
    struct turn turn = ask(rig, message);
    free(turn.logits);
}

static void assert_refused(const struct rig *rig, const qwen_message *message, cenote_status wanted,
                           const char *said)
{
    struct turn turn = {0};
    cenote_error err = {0};
    assert_int_equal(ask_into(rig, message, &turn, &err), wanted);
    if (strstr(err.message, said) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, said);
    free(turn.logits);
}

/* The same tokens from the same logits. Frees both. */
static void assert_same(struct turn *a, struct turn *b)
{
    assert_int_equal(a->result.prompt_tokens, b->result.prompt_tokens);
    assert_int_equal(a->result.token_count, b->result.token_count);
    assert_memory_equal(a->tokens, b->tokens, a->result.token_count * sizeof(uint32_t));
    assert_int_equal(a->logit_count, b->logit_count);
    assert_memory_equal(a->logits, b->logits, a->logit_count * sizeof(float));
    free(a->logits);
    free(b->logits);
}

/* ---- refusals ---- */

static void test_refused_sessions(void **state)
{
    (void)state;
    struct rig rig = rig_open();
    cenote_error err;
    qwen_plan plan;
    qwen_session *session;
    qwen_session_options options = some_options();
    options.kv_dtype = CENOTE_DTYPE_F16;
    assert_int_equal(qwen_session_plan(rig.model, &options, MIB, &plan, &err), CENOTE_E_INVAL);
    options = some_options();
    options.context_tokens = UINT64_C(1) << 40;
    assert_int_equal(qwen_session_plan(rig.model, &options, MIB, &plan, &err), CENOTE_E_INVAL);
    assert_non_null(strstr(err.message, "the model admits"));
    options = some_options();
    assert_int_equal(qwen_session_plan(rig.model, &options, MIB, &plan, &err), CENOTE_OK);
    assert_false(plan.fits);
    assert_int_equal(qwen_session_open(rig.model, &options, &plan, &session, &err),
                     CENOTE_E_BUDGET);
    rig_close(&rig);
}

/* A message that cannot be asked leaves the conversation as it was. */
static void test_refused_messages(void **state)
{
    (void)state;
    static const char *const missing[] = {"no such picture.png"};
    static const char *const found[] = {PICTURE};
    static const char *many[QWEN_IMAGES_MAX];
    for (uint32_t i = 0; i < QWEN_IMAGES_MAX; i++)
        many[i] = PICTURE;
    struct rig rig = rig_open(), other = rig_open();
    ask_and_forget(&rig, picture("Look.", found));
    ask_and_forget(&other, picture("Look.", found));
    uint64_t used = used_tokens(&rig);
    qwen_message message = words("bad \xff");
    assert_refused(&rig, &message, CENOTE_E_INVAL, "not UTF-8 at byte 4");
    message = words(NULL);
    assert_refused(&rig, &message, CENOTE_E_INVAL, "no prompt");
    message = picture("this?", missing);
    assert_refused(&rig, &message, CENOTE_E_NOTFOUND, "no such picture.png");
    message = picture("these?", many);
    message.image_count = QWEN_IMAGES_MAX;
    assert_refused(&rig, &message, CENOTE_E_INVAL, "65 images in the conversation, at most 64");
    assert_int_equal(used_tokens(&rig), used);
    struct turn a = ask(&rig, words("And?")), b = ask(&other, words("And?"));
    assert_int_equal(a.result.past_tokens, b.result.past_tokens);
    assert_same(&a, &b);
    rig_close(&rig);
    rig_close(&other);
}

/* ---- the limit ---- */

/* The limit that a refused turn names is sharp, and its peak is that limit to the byte. */
static void test_limits_are_sharp(void **state)
{
    (void)state;
    static const char *const found[] = {PICTURE};
    struct rig rig = rig_open();
    cenote_error err;
    ask_and_forget(&rig, words("Hello."));
    uint64_t held = charged(&rig);
    assert_int_equal(qwen_session_limit_set(rig.session, 16 * MIB, &err), CENOTE_E_BUDGET);
    assert_non_null(strstr(err.message, "the conversation needs at least"));
    assert_int_equal(charged(&rig), held);
    uint64_t past = used_tokens(&rig);
    const qwen_shape least = {.prompt_tokens = past + 16,
                              .past_tokens = past,
                              .max_tokens = 1,
                              .kv_dtype = CENOTE_DTYPE_F32,
                              .thread_count = 2};
    qwen_plan plan;
    assert_int_equal(qwen_plan_turn(rig.model, &least, &rig.session->held, MIB, &plan, &err),
                     CENOTE_OK);
    assert_int_equal(qwen_session_limit_set(rig.session, plan.smallest_bytes - 1, &err),
                     CENOTE_E_BUDGET);
    assert_int_equal(qwen_session_limit_set(rig.session, plan.smallest_bytes, &err), CENOTE_OK);
    assert_true(charged(&rig) < plan.smallest_bytes); /* resident rows went */

    const qwen_message message = picture("Look.", found);
    assert_refused(&rig, &message, CENOTE_E_BUDGET, "the message does not fit: needs at least");
    assert_int_equal(
        qwen_plan_turn(rig.model, &rig.session->job->shape, &rig.session->held, MIB, &plan, &err),
        CENOTE_OK);
    assert_int_equal(qwen_session_limit_set(rig.session, plan.smallest_bytes - 1, &err), CENOTE_OK);
    assert_refused(&rig, &message, CENOTE_E_BUDGET, "needs at least");
    assert_int_equal(qwen_session_limit_set(rig.session, plan.smallest_bytes, &err), CENOTE_OK);
    ask_and_forget(&rig, message);
    assert_int_equal(qwen_session_turn_plan(rig.session)->smallest_bytes, plan.smallest_bytes);
    plan = *qwen_session_turn_plan(rig.session);
    assert_int_equal(qwen_session_limit_set(rig.session, 1024 * MIB, &err), CENOTE_OK);
    ask_and_forget(&rig, message); /* a second picture takes no room for the first */
    assert_int_equal(qwen_session_turn_plan(rig.session)->image_bytes, plan.image_bytes);
    assert_int_equal(qwen_session_turn_plan(rig.session)->vision_bytes, plan.vision_bytes);
    rig_close(&rig);
}

/* Opened in the smallest budget, text has room until the context is full: no turn before that is
 * refused for want of memory. */
static void test_smallest_budget_holds_the_context(void **state)
{
    (void)state;
    struct rig rig;
    const qwen_session_options options = some_options();
    rig_open_with(&rig, &options, NULL);
    qwen_session_close(rig.session);
    qwen_plan plan;
    assert_int_equal(qwen_session_plan(rig.model, &options, MIB, &plan, NULL), CENOTE_OK);
    assert_int_equal(qwen_session_plan(rig.model, &options, plan.smallest_bytes, &plan, NULL),
                     CENOTE_OK);
    assert_true(plan.fits);
    assert_int_equal(cenote_budget_limit_set(rig.budget, plan.smallest_bytes, NULL), CENOTE_OK);
    assert_int_equal(qwen_session_open(rig.model, &options, &plan, &rig.session, NULL), CENOTE_OK);
    unsigned turns = 0;
    cenote_status status = CENOTE_OK;
    while (status == CENOTE_OK) {
        struct turn turn = {0};
        cenote_error err;
        const qwen_message message = words("A text of more tokens than go into one chunk.");
        status = ask_into(&rig, &message, &turn, &err);
        free(turn.logits);
        turns += status == CENOTE_OK;
        if (status != CENOTE_OK)
            assert_non_null(strstr(err.message, "room for 400"));
    }
    assert_int_equal(status, CENOTE_E_INVAL);
    assert_true(turns >= 5);
    rig_close(&rig);
}

/* What more memory buys, in this order: nothing at all below the least, then context. */
static void test_context_grows_with_memory(void **state)
{
    (void)state;
    struct rig rig = rig_open();
    qwen_session_options options = some_options();
    options.context_tokens = 0;
    uint64_t context = 0;
    for (uint64_t limit = 18 * MIB; limit < 64 * MIB; limit += MIB / 4) {
        qwen_plan plan;
        assert_int_equal(qwen_session_plan(rig.model, &options, limit, &plan, NULL), CENOTE_OK);
        assert_int_equal(plan.fits, plan.smallest_bytes <= limit);
        if (!plan.fits)
            continue;
        assert_true(plan.context_tokens >= 512 && plan.context_tokens <= 4096);
        assert_true(plan.context_tokens >= context);
        context = plan.context_tokens;
    }
    assert_int_equal(context, 4096);
    rig_close(&rig);
}

/* ---- cutting turns short ---- */

static void test_cancelled_reply(void **state)
{
    (void)state;
    static const char *const found[] = {PICTURE};
    struct rig cut = rig_open(), short_one = rig_open();
    struct turn turn = {.cancel_tokens = 3};
    cenote_error err;
    qwen_message message = picture("Look.", found);
    assert_int_equal(ask_into(&cut, &message, &turn, &err), CENOTE_E_CANCELLED);
    assert_string_equal(turn.result.stop_reason, "cancelled");
    assert_int_equal(turn.result.token_count, 3);
    free(turn.logits);
    message.max_tokens = 3;
    ask_and_forget(&short_one, message);
    struct turn a = ask(&cut, words("Go on.")), b = ask(&short_one, words("Go on."));
    assert_int_equal(a.result.past_tokens, b.result.past_tokens);
    assert_same(&a, &b);
    rig_close(&cut);
    rig_close(&short_one);
}

/* Before the first token: as if it had not been asked. */
static void test_cancelled_reading(void **state)
{
    (void)state;
    static const char *const found[] = {PICTURE};
    const qwen_phase phases[] = {QWEN_PHASE_LOAD, QWEN_PHASE_VISION, QWEN_PHASE_PREFILL};
    struct rig calm = rig_open();
    ask_and_forget(&calm, words("Hello."));
    struct turn expected = ask(&calm, words("Go on."));
    for (size_t i = 0; i < 3; i++) {
        struct rig rig = rig_open();
        ask_and_forget(&rig, words("Hello."));
        struct turn turn = {.cancel_phase = true, .phase = phases[i]};
        cenote_error err;
        const qwen_message message = picture("Look.", found);
        assert_int_equal(ask_into(&rig, &message, &turn, &err), CENOTE_E_CANCELLED);
        assert_int_equal(turn.result.token_count, 0);
        struct turn after = ask(&rig, words("Go on."));
        assert_int_equal(after.result.prompt_tokens, expected.result.prompt_tokens);
        assert_memory_equal(after.logits, expected.logits, after.logit_count * sizeof(float));
        free(after.logits);
        rig_close(&rig);
    }
    free(expected.logits);
    rig_close(&calm);
}

static void test_full_context(void **state)
{
    (void)state;
    struct rig rig;
    qwen_session_options options = some_options();
    options.context_tokens = 24;
    rig_open_with(&rig, &options, NULL);
    qwen_message message = words("Hi");
    message.max_tokens = 0;
    struct turn first = ask(&rig, message);
    assert_string_equal(first.result.stop_reason, "context");
    assert_int_equal(first.result.prompt_tokens + first.result.token_count, 24);
    message = words("And");
    assert_refused(&rig, &message, CENOTE_E_INVAL, "and there is room for 24");
    qwen_session_reset(rig.session);
    assert_int_equal(used_tokens(&rig), 0);
    message = words("Hi");
    message.max_tokens = 0;
    struct turn again = ask(&rig, message);
    assert_int_equal(again.result.past_tokens, 0);
    assert_same(&first, &again);
    rig_close(&rig);
}

/* ---- the cache ---- */

/* Any part of the cache may be lost; what is read again must give what a new session reads. */
static void test_any_cut_of_the_cache(void **state)
{
    (void)state;
    static const char *const found[] = {PICTURE};
    qwen_message first = picture("Look.", found);
    first.max_tokens = 1; /* all of the cache was read and none decoded: bits can be compared */
    struct rig whole = rig_open();
    ask_and_forget(&whole, first);
    whole.session->kept.count = 0;
    struct turn expected = ask(&whole, words("And?"));
    assert_int_equal(expected.result.past_tokens, 0);
    uint64_t image_first = 5, image_end = 0;
    const qwen_job *job = whole.session->job;
    for (uint32_t s = 0; s < job->span_count; s++)
        if (job->spans[s].image_index == 0) {
            image_first = job->spans[s].first;
            image_end = image_first + job->spans[s].count;
        }
    assert_true(image_end > image_first + 2);
    const uint64_t cuts[] = {1,         image_first,   image_first + 1, image_end - 1,
                             image_end, image_end + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        struct rig rig = rig_open();
        ask_and_forget(&rig, first);
        uint64_t kept = rig.session->kept.count < cuts[i] ? rig.session->kept.count : cuts[i];
        rig.session->kept.count = kept;
        struct turn turn = ask(&rig, words("And?"));
        bool inside = kept > image_first && kept < image_end;
        assert_int_equal(turn.result.past_tokens, inside ? image_first : kept);
        assert_int_equal(rig.session->job->shape.image_first, kept < image_end ? 0 : 1);
        assert_int_equal(turn.result.prompt_tokens, expected.result.prompt_tokens);
        assert_memory_equal(turn.logits, expected.logits, turn.logit_count * sizeof(float));
        free(turn.logits);
        rig_close(&rig);
    }
    free(expected.logits);
    rig_close(&whole);
}

/* Equal ids are not equal pictures: one that is new is looked at, whatever the cache holds. */
static void test_new_picture_is_not_taken_for_an_old_one(void **state)
{
    (void)state;
    static const char *const old[] = {PICTURE}, *const fresh[] = {OTHER};
    qwen_message first = picture("Look.", old), second = picture("Look.", fresh);
    qwen_session_options options = some_options();
    options.max_image_tokens = 16; /* both pictures are square: the same ids */
    struct rig rig, clean;
    rig_open_with(&rig, &options, NULL);
    rig_open_with(&clean, &options, NULL);
    ask_and_forget(&rig, first);
    qwen_ids kept = rig.session->kept;
    rig.session->kept = (qwen_ids){.count_max = kept.count_max};
    qwen_session_reset(rig.session);
    qwen_ids_fini(&rig.session->kept);
    rig.session->kept = kept; /* a session that forgot the turns and not the cache */
    struct turn a = ask(&rig, second), b = ask(&clean, second);
    assert_true(a.result.past_tokens > 0);
    assert_memory_equal(rig.session->job->prompt.ids, kept.ids, 20 * sizeof(uint32_t));
    assert_same(&a, &b);
    rig_close(&rig);
    rig_close(&clean);
}

/* ---- faults ---- */

/* So little memory that most weights are read for every token. */
static void starve(const struct rig *rig)
{
    const qwen_shape shape = {
        .prompt_tokens = 80, .max_tokens = TOKENS, .kv_dtype = CENOTE_DTYPE_F32, .thread_count = 2};
    qwen_plan plan;
    assert_int_equal(qwen_plan_turn(rig->model, &shape, &rig->session->held, MIB, &plan, NULL),
                     CENOTE_OK);
    assert_int_equal(qwen_session_limit_set(rig->session, plan.smallest_bytes, NULL), CENOTE_OK);
}

/* A disk that fails in the middle of a reply, or while a message is read: an error that says so,
 * and the conversation goes on when the disk does. */
static void test_faults_of_the_disk(void **state)
{
    (void)state;
    struct rig calm = rig_open();
    ask_and_forget(&calm, words("Hello."));
    struct turn expected = ask(&calm, words("Go on."));
    const qwen_session_options options = some_options();
    for (int late = 0; late < 2; late++) {
        struct cn_fake *fake = cn_fake_create();
        assert_non_null(fake);
        struct rig rig;
        rig_open_with(&rig, &options, cn_fake_os(fake));
        starve(&rig);
        ask_and_forget(&rig, words("Hello."));
        uint64_t before = cn_fake_calls(fake, CN_FAKE_READ);
        ask_and_forget(&rig, words("Go on."));
        uint64_t reads = cn_fake_calls(fake, CN_FAKE_READ) - before;
        qwen_session_reset(rig.session);
        ask_and_forget(&rig, words("Hello."));
        cn_fake_fault_add(fake, (struct cn_fake_fault){CN_FAULT_ERROR, late ? reads * 3 / 4 : 5,
                                                       CN_FAKE_ALWAYS, EIO});
        struct turn turn = {0};
        cenote_error err;
        const qwen_message message = words("Go on.");
        assert_int_equal(ask_into(&rig, &message, &turn, &err), CENOTE_E_IO);
        assert_string_equal(turn.result.stop_reason, "error");
        assert_int_equal(turn.result.token_count > 0, late);
        assert_memory_equal(turn.logits, expected.logits, turn.logit_count * sizeof(float));
        free(turn.logits);
        cn_fake_faults_clear(fake);
        if (!late) {
            struct turn again = ask(&rig, message);
            assert_memory_equal(again.logits, expected.logits, again.logit_count * sizeof(float));
            free(again.logits);
        } else {
            ask_and_forget(&rig, words("What?"));
        }
        rig_close(&rig);
        assert_int_equal(cn_fake_books_get(fake).open_files, 0);
        assert_int_equal(cn_fake_books_get(fake).committed_bytes, 0);
        cn_fake_destroy(fake);
    }
    free(expected.logits);
    rig_close(&calm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_sessions),
        cmocka_unit_test(test_refused_messages),
        cmocka_unit_test(test_limits_are_sharp),
        cmocka_unit_test(test_smallest_budget_holds_the_context),
        cmocka_unit_test(test_context_grows_with_memory),
        cmocka_unit_test(test_cancelled_reply),
        cmocka_unit_test(test_cancelled_reading),
        cmocka_unit_test(test_full_context),
        cmocka_unit_test(test_any_cut_of_the_cache),
        cmocka_unit_test(test_new_picture_is_not_taken_for_an_old_one),
        cmocka_unit_test(test_faults_of_the_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
