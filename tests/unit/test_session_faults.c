/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation on a disk that fails, with a budget that holds a part of the weights in 12 bits
 * and streams the rest: every kind of fault at every read, by the ring and by threads that read. A
 * fault that passes changes nothing; one that lasts gives one line that names the file, the tensor
 * and the place. When it is gone the same session answers as if it had never been, and at the end
 * nothing is open, charged or committed. */
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
#include "runner_fixture.h"
#include "session.h"

/* Release builds try every position; sanitizers and coverage, where a run takes several times as
 * long, every STRIDE-th. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(CENOTE_COVERAGE)
#define STRIDE 23u
#else
#define STRIDE 1u
#endif

#define TOKENS       3u
#define LOGITS_MAX   (TOKENS * 4096u)
#define GRANULE_STEP (UINT64_C(64) << 10)

struct answer {
    cenote_status status;
    cenote_error error;
    uint32_t tokens[TOKENS];
    uint32_t token_count;
    float logits[LOGITS_MAX];
    size_t logit_count;
};

struct house {
    struct cn_fake *fake;
    cenote_budget *budget;
    qwen_model *model;
    qwen_session *session;
};

static const cenote_io_engine engines[] = {CENOTE_ENGINE_URING, CENOTE_ENGINE_PREAD};
static struct answer expected;
static uint64_t limit_bytes;
static uint64_t read_count; /* of an open and an answer */
static uint64_t open_reads; /* of them, the open's */

/* ---- a house ---- */

static cenote_status house_fill(struct house *h, cenote_io_engine engine, cenote_error *err)
{
    const qwen_session_options options = {
        .context_tokens = 64, .kv_dtype = CENOTE_DTYPE_F32, .thread_count = 1, .io_engine = engine};
    qwen_plan plan;
    cenote_status status = qwen_model_open(h->budget, fixture_checkpoint(), &h->model, err);
    if (status != CENOTE_OK)
        return status;
    status = qwen_session_plan(h->model, &options, limit_bytes, &plan, err);
    if (status == CENOTE_OK)
        status = cenote_budget_limit_set(h->budget, limit_bytes, err);
    return status != CENOTE_OK ? status
                               : qwen_session_open(h->model, &options, &plan, &h->session, err);
}

static struct house house_make(void)
{
    struct house h = {.fake = cn_fake_create()};
    assert_non_null(h.fake);
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = UINT64_C(1) << 30;
    options.process_bytes = QWEN_PROCESS_BYTES;
    options.os = cn_fake_os(h.fake);
    assert_int_equal(cenote_budget_create(&options, &h.budget, NULL), CENOTE_OK);
    return h;
}

static void house_empty(struct house *h)
{
    qwen_session_close(h->session);
    qwen_model_close(h->model);
    h->session = NULL;
    h->model = NULL;
    struct cn_fake_books books = cn_fake_books_get(h->fake);
    assert_int_equal(books.open_files, 0);
    assert_int_equal(books.open_rings, 0);
    assert_int_equal(books.ring_reads, 0);
    assert_int_equal(books.reservations, 0);
    assert_int_equal(books.committed_bytes, 0);
    assert_int_equal(books.misuse_count, 0);
    cenote_budget_stats stats;
    cenote_budget_stats_get(h->budget, &stats);
    assert_int_equal(stats.charged_bytes, QWEN_PROCESS_BYTES);
}

static void house_end(struct house *h)
{
    house_empty(h);
    cenote_budget_destroy(h->budget);
    cn_fake_destroy(h->fake);
}

/* ---- answers ---- */

static cenote_status keep_logits(void *context, const float *logits, uint32_t vocab_size,
                                 cenote_error *err)
{
    struct answer *answer = context;
    (void)err;
    assert_true(answer->logit_count + vocab_size <= LOGITS_MAX);
    memcpy(answer->logits + answer->logit_count, logits, vocab_size * sizeof *logits);
    answer->logit_count += vocab_size;
    return CENOTE_OK;
}

static void ask(struct house *h, struct answer *out_answer)
{
    const qwen_message message = {.text = "What is this?", .max_tokens = TOKENS};
    const qwen_events events = {.context = out_answer, .logits = keep_logits};
    qwen_result result = {0};
    out_answer->logit_count = 0;
    out_answer->status =
        qwen_session_ask(h->session, &message, &events, &result, &out_answer->error);
    out_answer->token_count = result.token_count;
    assert_true(result.token_count <= TOKENS);
    if (result.token_count > 0)
        memcpy(out_answer->tokens, result.token_ids, result.token_count * sizeof(uint32_t));
}

/* Opens and asks; the first thing that fails is the answer. */
static void open_and_ask(struct house *h, cenote_io_engine engine, struct answer *out_answer)
{
    out_answer->status = house_fill(h, engine, &out_answer->error);
    out_answer->token_count = 0;
    out_answer->logit_count = 0;
    if (out_answer->status == CENOTE_OK)
        ask(h, out_answer);
}

/* What was said before an error is right as well. */
static void assert_right(const struct answer *answer)
{
    assert_true(answer->token_count <= expected.token_count);
    assert_true(answer->logit_count <= expected.logit_count);
    assert_memory_equal(answer->tokens, expected.tokens, answer->token_count * sizeof(uint32_t));
    assert_memory_equal(answer->logits, expected.logits, answer->logit_count * sizeof(float));
    if (answer->status == CENOTE_OK)
        assert_int_equal(answer->token_count, expected.token_count);
}

static cenote_resident_stats resident_stats(const struct house *h)
{
    cenote_resident_stats stats;
    cenote_resident_stats_get(h->session->run.resident_rows, &stats);
    return stats;
}

/* The smallest budget in which half of the weights are held, packed. */
static int set_up(void **state)
{
    (void)state;
    bool found = false;
    limit_bytes = QWEN_PROCESS_BYTES;
    while (!found && limit_bytes < QWEN_PROCESS_BYTES * 2) {
        limit_bytes += GRANULE_STEP;
        struct house h = house_make();
        open_and_ask(&h, CENOTE_ENGINE_URING, &expected);
        if (expected.status == CENOTE_OK) {
            cenote_resident_stats stats = resident_stats(&h);
            found = stats.encoding == CENOTE_ENCODING_BF12 &&
                    stats.held_weight_bytes >= stats.whole_weight_bytes / 2 &&
                    stats.held_weight_bytes < stats.whole_weight_bytes;
            read_count = cn_fake_calls(h.fake, CN_FAKE_READ);
        } else {
            assert_int_equal(expected.status, CENOTE_E_BUDGET);
        }
        house_end(&h);
    }
    assert_true(found);
    struct house h = house_make();
    assert_int_equal(house_fill(&h, CENOTE_ENGINE_URING, NULL), CENOTE_OK);
    open_reads = cn_fake_calls(h.fake, CN_FAKE_READ);
    house_end(&h);
    print_message("%llu bytes, %llu reads, %llu of them at open\n", (unsigned long long)limit_bytes,
                  (unsigned long long)read_count, (unsigned long long)open_reads);
    return 0;
}

/* ---- faults ---- */

struct expectation {
    bool harmless;
    cenote_status statuses[2]; /* else one of these */
    bool in_tensor;            /* once the model is open, the line names tensor and place */
};

static void check_error(const struct answer *answer, const struct expectation *wanted, bool open)
{
    const char *said = answer->error.message;
    bool known = answer->status == wanted->statuses[0] || answer->status == wanted->statuses[1];
    bool named = strstr(said, ".safetensors: ") != NULL && strchr(said, '\n') == NULL;
    bool placed = strstr(said, "bytes at ") != NULL || strstr(said, "at offset ") != NULL ||
                  strstr(said, "bytes [") != NULL;
    bool in_tensor = strstr(said, "tensor `") != NULL && placed;
    /* a start looks at all files before it reads any */
    bool at_start = answer->status == CENOTE_E_CHANGED && strstr(said, "changed while open");
    if (!known || !named || (open && wanted->in_tensor && !in_tensor && !at_start))
        fail_msg("status %d, \"%s\"", answer->status, said);
}

/* The session goes on, if there is one, else the model opens: the fault is gone. */
static void assert_goes_on(struct house *h, cenote_io_engine engine)
{
    struct answer again;
    if (h->session == NULL) {
        house_empty(h);
        open_and_ask(h, engine, &again);
    } else {
        qwen_session_reset(h->session);
        ask(h, &again);
    }
    if (again.status != CENOTE_OK)
        fail_msg("afterwards: %s", again.error.message);
    assert_right(&again);
}

static void run_with_fault(const struct cn_fake_fault *fault, cenote_io_engine engine,
                           const struct expectation *wanted)
{
    struct answer answer;
    struct house h = house_make();
    cn_fake_fault_add(h.fake, *fault);
    open_and_ask(&h, engine, &answer);
    assert_right(&answer);
    bool failed = answer.status != CENOTE_OK;
    if (failed == wanted->harmless)
        fail_msg("fault %d at read %llu: status %d, \"%s\"", fault->kind,
                 (unsigned long long)fault->at_read, answer.status,
                 failed ? answer.error.message : "");
    if (failed)
        check_error(&answer, wanted, h.session != NULL);
    cn_fake_faults_clear(h.fake);
    if (failed)
        assert_goes_on(&h, engine);
    house_end(&h);
}

static void sweep(struct cn_fake_fault fault, const struct expectation *wanted)
{
    for (size_t e = 0; e < 2; e++)
        for (uint64_t at = 1 + (fault.kind + e) % STRIDE; at <= read_count; at += STRIDE) {
            fault.at_read = at;
            run_with_fault(&fault, engines[e], wanted);
        }
}

static void test_passing(void **state)
{
    (void)state;
    const struct expectation wanted = {.harmless = true};
    const struct cn_fake_fault kinds[] = {
        {CN_FAULT_SHORT, 0, 1, 1},        {CN_FAULT_SHORT, 0, 3, 512},
        {CN_FAULT_ERROR, 0, 1, EIO},      {CN_FAULT_ERROR, 0, 3, EINTR},
        {CN_FAULT_DELAY, 0, 1, 50000000},
    };
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        sweep(kinds[k], &wanted);
}

static void test_lasting_error(void **state)
{
    (void)state;
    const struct expectation wanted = {.statuses = {CENOTE_E_IO, CENOTE_E_IO}, .in_tensor = true};
    sweep((struct cn_fake_fault){CN_FAULT_ERROR, 0, CN_FAKE_ALWAYS, EIO}, &wanted);
}

static void test_truncated(void **state)
{
    (void)state;
    const struct expectation wanted = {.statuses = {CENOTE_E_CORRUPT, CENOTE_E_CHANGED},
                                       .in_tensor = true};
    sweep((struct cn_fake_fault){CN_FAULT_TRUNCATE, 0, 1, 4096}, &wanted);
}

static void test_changed(void **state)
{
    (void)state;
    const struct expectation wanted = {.statuses = {CENOTE_E_CHANGED, CENOTE_E_CHANGED},
                                       .in_tensor = true};
    sweep((struct cn_fake_fault){CN_FAULT_CHANGE, 0, 1, 1000000000}, &wanted);
}

/* A kernel that takes no reads for a while, or none at all from the start. */
static void test_ring_refuses(void **state)
{
    (void)state;
    static const int errors[] = {EAGAIN, EBUSY, EINTR, ENOMEM};
    static const enum cn_fake_call calls[] = {CN_FAKE_RING_ENTER, CN_FAKE_RING_REGISTER};
    struct answer answer;
    struct house h = house_make();
    open_and_ask(&h, CENOTE_ENGINE_URING, &answer);
    uint64_t entries = cn_fake_calls(h.fake, CN_FAKE_RING_ENTER);
    house_end(&h);
    for (uint64_t at = 1; at <= entries; at += STRIDE)
        for (size_t c = 0; c < (at == 1 ? 2 : 1); c++) {
            h = house_make();
            cn_fake_fail(h.fake, calls[c], at, errors[at % 4]);
            open_and_ask(&h, CENOTE_ENGINE_URING, &answer);
            assert_int_equal(answer.status, CENOTE_OK);
            assert_right(&answer);
            house_end(&h);
        }
    h = house_make();
    cn_fake_fail(h.fake, CN_FAKE_RING_OPEN, 1, EPERM);
    open_and_ask(&h, CENOTE_ENGINE_AUTO, &answer);
    assert_int_equal(answer.status, CENOTE_OK);
    assert_right(&answer);
    cenote_weights_stats stats;
    cenote_weights_stats_get(h.model->weights, &stats);
    assert_string_equal(stats.engine, "pread");
    house_end(&h);
}

/* Reads that overtake each other, on a disk that gets slower and slower. */
static void test_slow_disk(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 64; seed += STRIDE) {
        struct answer answer;
        struct house h = house_make();
        struct cn_fake_disk disk = {.seed = seed,
                                    .latency_random_ns = seed * 100000,
                                    .bytes_per_s = UINT64_C(1000000000) / seed,
                                    .lanes = seed % 5,
                                    .refuse_per_mille = seed % 3 * 100,
                                    .interrupt_per_mille = seed % 4 * 50};
        cn_fake_disk_set(h.fake, &disk);
        open_and_ask(&h, CENOTE_ENGINE_URING, &answer);
        assert_int_equal(answer.status, CENOTE_OK);
        assert_right(&answer);
        disk.latency_ns = 500000000;
        cn_fake_disk_set(h.fake, &disk);
        assert_goes_on(&h, CENOTE_ENGINE_URING);
        house_end(&h);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passing),      cmocka_unit_test(test_lasting_error),
        cmocka_unit_test(test_truncated),    cmocka_unit_test(test_changed),
        cmocka_unit_test(test_ring_refuses), cmocka_unit_test(test_slow_disk),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
