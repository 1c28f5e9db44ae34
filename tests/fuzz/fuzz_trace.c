/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a trace, text or recorded. A recorded one is given a good checksum for its first
 * chunk, or no mutation would get past it. What is read replays on first fit, best fit and the
 * buddy allocator, which hold after it; slots are what they should be. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cenote/cenote.h>

#include "allocator.h"
#include "base/hash.h"

enum { HEADER = 24, SUMMED = 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int condition)
{
    if (!condition)
        abort();
}

/* Of the first chunk, as far as there is one. */
static void sign(uint8_t *bytes, size_t size)
{
    if (size < 8 + HEADER)
        return;
    uint8_t *header = bytes + 8;
    uint64_t payload = header[0] | (uint64_t)header[1] << 8 | (uint64_t)header[2] << 16 |
                       (uint64_t)header[3] << 24;
    if (payload > size - 8 - HEADER)
        return;
    struct cn_hash hash;
    cn_hash_init(&hash);
    cn_hash_add(&hash, header, SUMMED);
    cn_hash_add(&hash, header + HEADER, payload);
    uint64_t sum = cn_hash_sum(&hash);
    for (uint32_t i = 0; i < 8; i++)
        header[SUMMED + i] = (uint8_t)(sum >> 8 * i);
}

static void replay(const struct cli_trace *trace, const char *name)
{
    cenote_error err;
    struct cli_allocator allocator;
    bool *given = calloc(trace->slot_count + 1, 1);
    check(given != NULL);
    cenote_status status =
        cli_allocator_open(&allocator, cli_allocator_find(name), trace, 1 << 20, &err);
    check(status == CENOTE_OK);
    for (uint64_t i = 0; i < trace->op_count; i++) {
        const struct cli_trace_op *op = &trace->ops[i];
        uint64_t offset;
        check(op->kind == CLI_TRACE_TRIM || op->slot < trace->slot_count);
        if (op->kind == CLI_TRACE_ALLOC) {
            check(!given[op->slot]);
            given[op->slot] = op->size_bytes > 0 && allocator.kind->alloc(&allocator, op, &offset);
            check(!given[op->slot] || offset % (UINT64_C(1) << op->align_log2) == 0);
        } else if (op->kind == CLI_TRACE_FREE && given[op->slot]) {
            allocator.kind->free(&allocator, op);
            given[op->slot] = false;
        }
    }
    check(allocator.buddy == NULL || cenote_buddy_check(allocator.buddy) == NULL);
    check(allocator.fit.nodes == NULL || cli_fit_check(&allocator.fit) == NULL);
    cli_allocator_close(&allocator);
    free(given);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct cli_trace trace;
    cenote_budget *budget;
    cenote_pool *memory;
    cenote_error err;
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.quota_bytes = UINT64_C(1) << 30;
    check(cli_budget_create(&budget, NULL) == CENOTE_OK);
    check(cenote_pool_create(budget, &options, &memory, NULL) == CENOTE_OK);
    uint8_t *bytes = malloc(size + 1);
    check(bytes != NULL);
    memcpy(bytes, data, size);
    cli_trace_init(&trace, memory);
    cenote_status status;
    if (cenote_trace_is(bytes, size)) {
        sign(bytes, size);
        status = cli_trace_read_binary(&trace, bytes, size, &err);
        check(status != CENOTE_OK || trace.torn_bytes < size);
    } else {
        status = cli_trace_read_text(&trace, (const char *)bytes, size, &err);
    }
    check(status == CENOTE_OK || status == CENOTE_E_CORRUPT);
    if (status == CENOTE_OK) {
        check(trace.live_count_peak == trace.slot_count);
        replay(&trace, "first-fit");
        replay(&trace, "best-fit");
        replay(&trace, "buddy");
    }
    free(bytes);
    (void)cenote_pool_destroy(memory);
    cenote_budget_destroy(budget);
    return 0;
}
