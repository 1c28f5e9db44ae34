/* SPDX-License-Identifier: Apache-2.0 */
/* One whole run of the runner on the tiny random checkpoint, for tests that vary what must not
 * matter: budget, threads, instruction set, faults. */
#ifndef RUNNER_FIXTURE_H
#define RUNNER_FIXTURE_H

#include "os/os.h"
#include "qwen3vl.h"

#define FIXTURE_TOKENS_MAX 64u

struct fixture_run {
    /* in; zero means: this machine, no limit, the request's defaults */
    struct cn_os *os;
    uint64_t limit_bytes; /* 0: 1 GiB */
    qwen_request request;
    const char *pack_path; /* a packed copy to read, made when it is not there; NULL: none */
    /* out */
    cenote_status status;
    cenote_error error;
    qwen_plan plan;
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    uint32_t token_count;
    uint32_t decode_passes, draft_accepted;
    uint64_t bytes_read_decode, pack_failures;
    float *logits; /* [steps][vocab]; free with fixture_run_fini() */
    uint64_t logit_count;
    uint64_t charged_after; /* what the budget still held at the end, the process' share left out */
};

/** A checkpoint of the tool's `tiny` shape under the build directory, written on first use. */
const char *fixture_checkpoint(void);
/** A picture and a question, 4 tokens, 2 threads. */
qwen_request fixture_request(void);
/** Opens, plans, runs and closes. Never fails the test itself. */
void fixture_run(struct fixture_run *run);
void fixture_run_fini(struct fixture_run *run);

#endif
