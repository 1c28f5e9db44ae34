/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocator and pool passes the contract (support/alloc_contract.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cenote/buddy.h>
#include <cenote/tensor_cache.h>

#include "alloc/page_runs.h"
#include "alloc_contract.h"
#include "pool_fixture.h"

#define MIB        UINT64_C(1048576)
#define GRANULE    ((uint64_t)CENOTE_GRANULE_BYTES)
#define POOL_BYTES (16 * MIB)

/* ---- buddy ---- */

struct buddy {
    cenote_buddy *buddy;
    void *metadata;
};

static void *buddy_open(const struct contract_subject *subject)
{
    cenote_buddy_options options = CENOTE_BUDDY_OPTIONS_INIT;
    struct buddy *self = malloc(sizeof *self);
    options.start = UINT64_C(1) << 40;
    options.size_bytes = subject->range_bytes;
    options.leaf_bytes = (uint64_t)subject->detail;
    uint64_t bytes = cenote_buddy_metadata_bytes(&options);
    self->metadata = malloc(bytes);
    assert_int_equal(cenote_buddy_init(&options, self->metadata, bytes, &self->buddy, NULL),
                     CENOTE_OK);
    return self;
}

static void buddy_close(void *self)
{
    free(((struct buddy *)self)->metadata);
    free(self);
}

static bool buddy_alloc(void *self, uint64_t size_bytes, uint64_t *out_address)
{
    cenote_buddy *buddy = ((struct buddy *)self)->buddy;
    return cenote_buddy_alloc(buddy, size_bytes, 0, out_address, NULL) == CENOTE_OK;
}

static bool buddy_free(void *self, uint64_t address, uint64_t size_bytes)
{
    return cenote_buddy_free(((struct buddy *)self)->buddy, address, size_bytes,
                             CENOTE_BUDDY_GENERATION_ANY, NULL) == CENOTE_OK;
}

static uint64_t buddy_used(void *self)
{
    cenote_buddy_stats stats;
    cenote_buddy_stats_get(((struct buddy *)self)->buddy, &stats);
    return stats.used_bytes;
}

static const char *buddy_check(void *self)
{
    return cenote_buddy_check(((struct buddy *)self)->buddy);
}

#define BUDDY_FUNCTIONS                                                                            \
    .open = buddy_open, .close = buddy_close, .alloc = buddy_alloc, .free = buddy_free,            \
    .used_bytes = buddy_used, .check = buddy_check, .names_bad_frees = true

static void test_buddy(void **state)
{
    (void)state;
    static const struct contract_subject subjects[] = {
        {"buddy, leaves of 256 B", BUDDY_FUNCTIONS, .align_bytes = 256, .range_bytes = 4 * MIB,
         .block_bytes_max = 4 * MIB, .detail = 256},
        {"buddy, an odd range of 4 KiB leaves", BUDDY_FUNCTIONS, .align_bytes = 4096,
         .range_bytes = 16 * MIB + 5 * 4096, .block_bytes_max = 16 * MIB, .detail = 4096},
    };
    for (unsigned i = 0; i < sizeof subjects / sizeof subjects[0]; i++)
        contract_run(&subjects[i]);
}

/* ---- page runs ---- */

struct runs {
    struct cn_page_runs runs;
    void *metadata;
};

static void *runs_open(const struct contract_subject *subject)
{
    uint64_t granules = subject->range_bytes / GRANULE;
    struct runs *self = malloc(sizeof *self);
    self->metadata = calloc(1, cn_page_runs_metadata_bytes(granules));
    cn_page_runs_init(&self->runs, granules, self->metadata);
    return self;
}

static void runs_close(void *self)
{
    free(((struct runs *)self)->metadata);
    free(self);
}

static bool runs_alloc(void *self, uint64_t size_bytes, uint64_t *out_address)
{
    struct cn_page_runs *runs = &((struct runs *)self)->runs;
    struct cn_run run;
    uint64_t granules = size_bytes / GRANULE + (size_bytes % GRANULE != 0);
    if (granules == 0 || !cn_page_runs_find(runs, granules, &run))
        return false;
    cn_page_runs_take(runs, run);
    *out_address = run.first * GRANULE;
    return true;
}

static bool runs_free(void *self, uint64_t address, uint64_t size_bytes)
{
    struct cn_page_runs *runs = &((struct runs *)self)->runs;
    struct cn_run run;
    (void)size_bytes;
    if (address % GRANULE != 0 || !cn_page_runs_block(runs, address / GRANULE, &run))
        return false;
    cn_page_runs_free(runs, run);
    return true;
}

static uint64_t runs_used(void *self)
{
    return ((struct runs *)self)->runs.used_count * GRANULE;
}

static const char *runs_check(void *self)
{
    return cn_page_runs_check(&((struct runs *)self)->runs);
}

static void test_page_runs(void **state)
{
    (void)state;
    static const struct contract_subject subject = {"page runs",
                                                    runs_open,
                                                    runs_close,
                                                    runs_alloc,
                                                    runs_free,
                                                    runs_used,
                                                    runs_check,
                                                    .align_bytes = GRANULE,
                                                    .range_bytes = 1000 * GRANULE,
                                                    .block_bytes_max = 1000 * GRANULE,
                                                    .names_bad_frees = true};
    contract_run(&subject);
}

/* ---- pools, tensors, the tensor cache ---- */

struct pooled {
    struct rig rig;             /* with the pool */
    cenote_tensor_cache *cache; /* NULL: plain */
    uint64_t range_bytes;
    struct {
        cenote_tensor tensor;
        uint64_t address;
    } tensors[4096]; /* what addresses stand for */
    unsigned tensor_count;
};

static void *pool_open(const struct contract_subject *subject)
{
    struct pooled *self = calloc(1, sizeof *self);
    assert_non_null(self);
    self->rig = rig_open(NULL, 1024 * MIB);
    self->rig.pool =
        rig_debug_pool(&self->rig, (cenote_class)(subject->detail % CENOTE_CLASS_COUNT),
                       subject->range_bytes, (uint32_t)(subject->detail / CENOTE_CLASS_COUNT));
    return self;
}

static void pool_close(void *opened)
{
    struct pooled *self = opened;
    assert_int_equal(cenote_tensor_cache_destroy(self->cache), 0);
    assert_int_equal(cenote_pool_destroy(self->rig.pool), 0);
    self->rig.pool = NULL;
    rig_close(&self->rig);
    free(self);
}

static bool pool_alloc(void *opened, uint64_t size_bytes, uint64_t *out_address)
{
    struct pooled *self = opened;
    void *data;
    if (cenote_pool_alloc(self->rig.pool, size_bytes, &data, NULL) != CENOTE_OK)
        return false;
    *out_address = (uint64_t)(uintptr_t)data;
    return true;
}

static bool pool_free(void *opened, uint64_t address, uint64_t size_bytes)
{
    struct pooled *self = opened;
    (void)size_bytes;
    cenote_pool_free(self->rig.pool, (void *)(uintptr_t)address);
    return true;
}

/* Nothing but what is live is left when all that may go has gone. */
static uint64_t pool_used(void *opened)
{
    struct pooled *self = opened;
    cenote_pool_stats stats;
    if (self->cache != NULL)
        (void)cenote_tensor_cache_trim(self->cache, 0);
    (void)cenote_pool_trim(self->rig.pool);
    cenote_pool_stats_get(self->rig.pool, &stats);
    return stats.used_bytes;
}

static const char *pool_check(void *opened)
{
    struct pooled *self = opened;
    const char *broken = cenote_pool_check(self->rig.pool);
    return broken == NULL && self->cache != NULL ? cenote_tensor_cache_check(self->cache) : broken;
}

static struct contract_subject subject_of(const char *name, int detail)
{
    return (struct contract_subject){name,
                                     pool_open,
                                     pool_close,
                                     pool_alloc,
                                     pool_free,
                                     pool_used,
                                     pool_check,
                                     .align_bytes = 64,
                                     .range_bytes = POOL_BYTES,
                                     .block_bytes_max = POOL_BYTES,
                                     .detail = detail};
}

static void test_pools(void **state)
{
    (void)state;
    for (int class_id = 0; class_id < CENOTE_CLASS_COUNT; class_id++) {
        struct contract_subject subject =
            subject_of(cenote_class_text((cenote_class)class_id), class_id);
        contract_run(&subject);
    }
}

static void *cache_open(const struct contract_subject *subject)
{
    struct pooled *self = pool_open(subject);
    cenote_tensor_cache_options options = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
    options.pools = &self->rig.pool;
    options.pool_count = 1;
    options.limit_bytes = 8 * MIB;
    assert_int_equal(cenote_tensor_cache_create(&options, &self->cache, NULL), CENOTE_OK);
    return self;
}

/* An address is a tensor's while it is not compacted, which nobody asks for here. */
static bool tensor_alloc(void *opened, uint64_t size_bytes, uint64_t *out_address)
{
    struct pooled *self = opened;
    cenote_tensor tensor;
    void *data;
    cenote_status status;
    if (self->cache != NULL) {
        cenote_tensor_spec spec = {CENOTE_DTYPE_U8, 1, {size_bytes}};
        status = cenote_tensor_cache_get(self->cache, self->rig.pool, &spec, &tensor, NULL);
    } else {
        cenote_tensor_options options = CENOTE_TENSOR_OPTIONS_INIT;
        options.dtype = CENOTE_DTYPE_U8;
        options.rank = 1;
        options.shape[0] = size_bytes;
        status = cenote_tensor_create(self->rig.pool, &options, &tensor, NULL);
    }
    if (status != CENOTE_OK || cenote_tensor_pin(self->rig.pool, tensor, &data, NULL) != CENOTE_OK)
        return false;
    *out_address = (uint64_t)(uintptr_t)data;
    self->tensors[self->tensor_count].tensor = tensor;
    self->tensors[self->tensor_count++].address = *out_address;
    return true;
}

static bool tensor_free(void *opened, uint64_t address, uint64_t size_bytes)
{
    struct pooled *self = opened;
    unsigned i = 0;
    (void)size_bytes;
    while (i < self->tensor_count && self->tensors[i].address != address)
        i++;
    if (i == self->tensor_count)
        return false;
    cenote_tensor tensor = self->tensors[i].tensor;
    self->tensors[i] = self->tensors[--self->tensor_count];
    if (cenote_tensor_unpin(self->rig.pool, tensor, NULL) != CENOTE_OK)
        return false;
    return (self->cache != NULL
                ? cenote_tensor_cache_release(self->cache, self->rig.pool, tensor, NULL)
                : cenote_tensor_release(self->rig.pool, tensor, NULL)) == CENOTE_OK;
}

/* At debug level 1 no thread keeps blocks at hand: slabs alone. (Level 2 keeps freed blocks from
 * reuse, which the contract forbids.) */
static void test_slabs(void **state)
{
    (void)state;
    const struct contract_subject subject =
        subject_of("general, level 1", CENOTE_CLASS_GENERAL + CENOTE_CLASS_COUNT);
    contract_run(&subject);
}

static void test_tensors(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        void *(*open)(const struct contract_subject *subject);
        cenote_class class_id;
    } kinds[] = {
        {"tensors of activations", pool_open, CENOTE_CLASS_ACTIVATIONS},
        {"tensors of image_features", pool_open, CENOTE_CLASS_IMAGE_FEATURES},
        {"cached tensors of attention", cache_open, CENOTE_CLASS_ATTENTION},
        {"cached tensors of general", cache_open, CENOTE_CLASS_GENERAL},
    };
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct contract_subject subject = subject_of(kinds[i].name, (int)kinds[i].class_id);
        subject.open = kinds[i].open;
        subject.alloc = tensor_alloc;
        subject.free = tensor_free;
        contract_run(&subject);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buddy),   cmocka_unit_test(test_page_runs),
        cmocka_unit_test(test_pools),   cmocka_unit_test(test_slabs),
        cmocka_unit_test(test_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
