/* SPDX-License-Identifier: Apache-2.0 */
#include "weights_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpoint.h"

static void must(cenote_status status, const cenote_error *err, const char *what)
{
    if (status == CENOTE_OK)
        return;
    fprintf(stderr, "%s: %s\n", what, err->message);
    abort();
}

cenote_budget *test_budget_create(uint64_t limit_bytes, struct cn_os *os)
{
    cenote_budget_options options = CENOTE_BUDGET_OPTIONS_INIT;
    options.limit_bytes = limit_bytes;
    options.process_bytes = 1;
    options.os = os;
    cenote_budget *budget;
    cenote_error err;
    must(cenote_budget_create(&options, &budget, &err), &err, "budget");
    return budget;
}

uint64_t test_budget_charged(const cenote_budget *budget)
{
    cenote_budget_stats stats;
    cenote_budget_stats_get(budget, &stats);
    return stats.charged_bytes;
}

cenote_weights *test_weights_open(cenote_budget *budget, const char *path, cenote_io_mode io_mode)
{
    cenote_weights_options options = CENOTE_WEIGHTS_OPTIONS_INIT;
    options.io_mode = io_mode;
    cenote_weights *weights;
    cenote_error err;
    must(cenote_weights_open(budget, path, &options, &weights, &err), &err, "open");
    return weights;
}

uint32_t test_weights_find(const cenote_weights *weights, const char *name)
{
    uint32_t index;
    cenote_error err;
    must(cenote_weights_find(weights, name, &index, &err), &err, "find");
    return index;
}

cenote_pool *test_pool_create(cenote_budget *budget)
{
    cenote_pool_options options = CENOTE_POOL_OPTIONS_INIT;
    options.class_id = CENOTE_CLASS_PARAMETERS;
    cenote_pool *pool;
    cenote_error err;
    must(cenote_pool_create(budget, &options, &pool, &err), &err, "pool");
    return pool;
}

bool test_direct_works(cenote_budget *budget, const char *folder)
{
    static const struct test_tensor tensor = {"probe", "U8", {10000}, 1, 1};
    char path[4096];
    snprintf(path, sizeof path, "%s/direct-probe.safetensors", folder);
    test_checkpoint_write(path, &tensor, 1, 0);
    cenote_weights *weights = test_weights_open(budget, path, CENOTE_IO_AUTO);
    cenote_weights_stats stats;
    cenote_weights_stats_get(weights, &stats);
    cenote_weights_close(weights);
    unlink(path);
    return stats.direct;
}
