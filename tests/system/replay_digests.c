/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the digests of generated traces on every allocator: what machines and compilers must agree
 * on. tests/data/replay_digests.txt is what it printed; replay.sh holds the command to it, and
 * compilers.sh this program as the other compiler builds it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "allocator.h"
#include "digest.h"

#define OPS 20000u

static void require(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

static uint64_t digest_of(const struct cli_allocator_kind *kind, const struct cli_trace *trace)
{
    cenote_error err;
    struct cli_allocator allocator;
    struct cli_digest *digest;
    require(cli_digest_create(&digest, &err) == CENOTE_OK, "digest");
    require(cli_allocator_open(&allocator, kind, trace, 0, &err) == CENOTE_OK, kind->name);
    for (uint64_t i = 0; i < trace->op_count; i++) {
        const struct cli_trace_op *op = &trace->ops[i];
        uint64_t offset;
        if (op->kind == CLI_TRACE_ALLOC) {
            require(kind->alloc(&allocator, op, &offset), "a refused block");
            cli_digest_add(digest, i, offset);
        } else {
            kind->free(&allocator, op);
        }
    }
    uint64_t sum = cli_digest_sum(digest);
    cli_allocator_close(&allocator);
    cli_digest_destroy(digest);
    return sum;
}

int main(void)
{
    static struct cli_trace trace;
    cenote_error err;
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    cenote_budget *budget;
    cenote_pool *memory;
    options.limit_bytes = INT64_MAX;
    options.process_bytes = 1;
    require(cenote_budget_create(&options, &budget, &err) == CENOTE_OK, "budget");
    puts("# cenote replay --generate vlm:1:20000:KIND --allocator ALLOCATOR: its digest, on every\n"
         "# machine and by every compiler. When placement is changed on purpose:\n"
         "# build/release/tests/system/replay_digests >tests/data/replay_digests.txt");
    for (unsigned chunked = 0; chunked < 2; chunked++) {
        struct cli_vlm vlm = {1, OPS, chunked != 0};
        require(cenote_pool_create(budget, &pool_options, &memory, &err) == CENOTE_OK, "pool");
        cli_trace_init(&trace, memory);
        require(cli_trace_generate(&trace, &vlm, &err) == CENOTE_OK, "trace");
        for (size_t i = 0; i < cli_allocator_kind_count; i++)
            printf("%s %s %016" PRIx64 "\n", cli_allocator_kinds[i].name,
                   chunked != 0 ? "chunked" : "contiguous",
                   digest_of(&cli_allocator_kinds[i], &trace));
        (void)cenote_pool_destroy(memory);
    }
    cenote_budget_destroy(budget);
    return 0;
}
